//! All integration tests in one binary: one link instead of a dozen.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

mod cache;
mod cases;
mod catalog;
mod command_line;
mod demo;
mod floors;
mod insight;
mod layers;
mod properties;
mod shared_cache;
mod watch;
