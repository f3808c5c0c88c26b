//! The configuration: the file, the environment and the flags as written, checked into [`Settings`].
//!
//! Flags win over the environment, which wins over the file. All mistakes are reported at once, each with its file,
//! line and key; a `Settings` value cannot be wrong. Pure: the environment, the number of cores and a function that
//! reads files are given.

mod access;
mod cache;
mod check;
mod file;
mod hosts;
mod insight;
mod logins;
mod mistake;
pub mod reload;
mod settings;
mod shared_cache;
mod splitting;
mod stream;
mod url;
mod value;

pub use cache::{CacheAction, CacheFreshness, CacheRule, CacheSettings};
pub use check::{Flags, Machine, load};
pub use insight::{ExplainOn, InsightSettings, LogParameters, SlowLogOutput, SlowLogSettings};
pub use mistake::{Mistake, Mistakes};
pub use settings::*;
pub use shared_cache::SharedCacheSettings;
pub use splitting::{Consistency, PrimaryReads, SplittingSettings, Switch};
pub use stream::{StreamPlugin, StreamSettings};
