#![allow(clippy::disallowed_methods, reason = "an I/O module: it reads the clock")]
//! Weir's own questions to the hosts, over connections of its own (tokio-postgres): roles, users, catalogs, positions. The
//! primary's change streams, and results that several Weirs share (redis).

mod advisor;
mod catalog;
mod existing;
mod explain;
mod facts;
mod follow;
mod health;
mod inspect;
mod load;
mod locks;
mod memory;
mod positions;
mod replication;
mod retry;
mod scans;
mod session;
mod shared_cache;
mod shared_entry;
mod shared_keep;
mod shared_trust;
mod splitting;
mod stream;
mod stream_setup;
mod stream_state;
mod typical;
mod users;
mod visibility;
mod why;

pub use advisor::Advisor;
pub use catalog::{CatalogLoader, Load};
pub use existing::inventory;
pub use explain::{ExplainOptions, Explainer, Request};
pub use health::watch;
pub use inspect::{Extension, Findings, Inspection, Lag};
pub use locks::{LockWait, lock_waits};
pub use memory::{Memory, Telling};
pub use positions::PositionSession;
pub use scans::Scan;
pub use session::{ControlError, ControlSession};
pub use shared_cache::{
    Invalidated, Lookup, SharedCache, SharedCacheError, SharedCounts, SharedResult, SharedStamp,
};
pub use splitting::{Database, Splitting};
pub use stream_state::{StreamCounts, StreamPhase, StreamState, StreamView, Subscriber};
pub use users::UserQuery;
pub use why::{Known, Lines, NotAPath, Question};
