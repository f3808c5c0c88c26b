//! What statements cost, as seen from here: statistics, the slow-query log's entries, repetitions.
//!
//! A client's task notes what it runs in its [`watch`] and pushes one [`record`] per statement into the [`queue`] of its
//! worker, which never waits: what has no room is counted. All else happens off the path, where one thread drains the
//! queues into the [`state`]: [`statistics`] by shape, [`repeats`] (N+1 and their like), slow statements as [`entry`], and [`samples`] of
//! them to be explained; [`indexes`] of the tables that they use.

pub mod entry;
pub mod histogram;
pub mod html;
pub mod indexes;
pub mod keep;
pub mod limit;
pub mod lookup;
mod noted;
pub mod patterns;
pub mod plans;
pub mod queue;
pub mod record;
pub mod remedy;
pub mod repeats;
pub mod report;
pub mod routes;
pub mod samples;
mod scope;
pub mod state;
pub mod statistics;
pub mod tags;
pub mod time;
pub mod watch;

pub use queue::Queue;
pub use record::{Client, Record};
pub use state::{Insight, State};
pub use watch::Watch;
