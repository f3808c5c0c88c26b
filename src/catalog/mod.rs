//! The catalog: what names mean in one database, and so what a statement truly does. Pure; `control::catalog` loads it.
//!
//! How the loop of seven verbs uses it:
//!
//! - There is one [`SharedCatalog`] per database (not per user), and in each worker a [`Reader`] of it.
//! - **analyze**: `route::Memo::plan(reader, analysis, classes, path)` gives the [`Effect`], kept per classes, path and
//!   snapshot. Where [`Reader::current`] has no snapshot in force, that is [`Effect::unknown`].
//!   The session keeps its [`SearchPath`] and makes it anew only when `search_path` or the role changes:
//!   [`Catalog::default_search_path`] to begin with, then [`SearchPath::from_source`] or [`SearchPath::from_value`]
//!   for what was set; [`SearchPath::with_temporary`] while it is pinned by a temporary object.
//! - **decide**: a batch, or what runs in one implicit transaction, is one effect: [`Effect::and`]. If
//!   [`OnPrimary::is_unknown_name`], call [`SharedCatalog::suspect`].
//! - **settle**: each effect sent to the primary goes into the transaction's [`WriteSet`]. In front of the answer that
//!   tells the client of its commit: `floors.commit(&write_set.touched(&shared))`, and [`SharedCatalog::changed`]
//!   if [`WriteSet::is_ddl`]. A rollback clears it. Whoever raised `changed` or `suspect` wakes the loader.

mod behavior;
mod build;
mod builtins;
pub mod defaults;
mod effect;
pub mod node_tree;
mod resolve;
mod search_path;
mod shared;
mod snapshot;
pub mod source;

pub use behavior::{Declared, OnPrimary, Volatility};
pub use effect::{Effect, Touched, WriteSet};
pub use resolve::{constants_name_settings, effect_without_catalog};
pub use search_path::SearchPath;
pub use shared::{Change, Due, Freshness, Reader, SharedCatalog, Wishes};
pub use snapshot::{Catalog, RelationId};
