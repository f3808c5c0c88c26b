//! Routes: where a statement goes, and why. Pure.
//!
//! How the loop of seven verbs uses it:
//!
//! - Each worker has a [`Memo`] per database. **analyze**: `memo.plan(&mut reader, &floors, &analysis, &classes, &path)`
//!   gives the [`Plan`] of a text: its effect, and the floors that it looks at. Plans of one batch: [`Plan::and`].
//! - **decide**: [`decide`] with the plan's effect, the [`Block`] that the session is in, the [`Facts`] about the session,
//!   and an iterator of [`Candidate`]s, which is only asked if a replica comes into question: for each replica its
//!   [`Standing`](crate::consistency::Standing) for `floors.need(&plan.watched, ...)`, its weight and its outstanding
//!   statements. The session passes [`Snapshot`](Block::Snapshot) for the first statement behind BEGIN REPEATABLE READ
//!   READ ONLY; that one needs `positions.newest()`, since any table may be read next.
//! - [`Route::target`] is the host; [`Route::opens_block`] says that the client's own BEGIN goes out in front, in the same
//!   write: the transaction becomes `Real` there. [`Route::reason`] is the word for the log, metrics and the console; the
//!   counters per reason are an array by [`Reason::index`].
//! - [`why`] tells a person the same, for `weir why` and the console.
//! - If the replica fails before the first row has gone out ([`retry`] says whether by SQLSTATE), decide again without it.

mod balance;
mod counts;
mod decide;
mod memo;
mod reason;
mod why;

pub use balance::Candidate;
pub use counts::Counts;
pub use decide::{Block, Facts, Pinned, Route, Target, decide, retry, would_show_replica};
pub use memo::{Memo, Plan};
pub use reason::Reason;
pub use why::why;
