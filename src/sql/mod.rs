//! SQL: what a text is, from its bytes alone. Never fails, never panics, takes time in proportion to the text.
//!
//! `scan` cuts tokens as PostgreSQL does; `analyze` walks over them once and gives the statements (`command`: what
//! each does to its session; `pin`: what it leaves there), the shape and its fingerprint (`shape`), hints and tags
//! (`comment`). `classify` says what a statement does to tables: two witnesses, the parser's tree (`structure`) and the
//! tokens alone (`witness`), must agree, within `limits`. `memo` keeps analyses by exact text and by
//! `outline`, classes by shape.

pub mod analyze;
pub mod class;
pub mod classify;
pub mod command;
pub mod comment;
mod functions;
mod keywords;
pub mod limits;
pub mod literal;
pub mod memo;
mod outline;
pub mod pin;
mod recognize;
pub mod scan;
mod settings;
pub mod shape;
mod structure;
pub mod template;
mod tokens;
mod witness;

pub use analyze::{Analysis, SequenceUse, Statement, analyze, analyze_into};
pub use class::{Class, Classification, Reason};
pub use classify::{Classes, classify};
pub use command::Command;
pub use literal::Identifier;
pub use memo::Memo;
pub use pin::{Pin, PinSet};
pub use scan::{Lexing, Span};
pub use shape::Fingerprint;
pub use template::Template;
