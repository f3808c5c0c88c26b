//! Weir: a PostgreSQL proxy that splits reads from writes, caches hot SELECTs and says why.
//!
//! The order of the `mod` lines is the architecture: a module uses only modules above it (`tests/layers.rs`
//! checks that). The upper half is pure: no sockets, no clock, no tokio. The lower half does the I/O and decides
//! nothing. ARCHITECTURE.md is the map.

// Pure: bytes, statements, positions and `now` go in, a decision comes out.
pub mod pg;
pub mod config;
pub mod wire;
pub mod sql;
pub mod catalog;
pub mod advice;
pub mod consistency;
pub mod route;
pub mod cache;
pub mod session;
pub mod insight;

// Shell: sockets, clocks, tasks.
pub mod net;
pub mod server;
pub mod control;
pub mod client;
pub mod admin;
pub mod demo;
pub mod app;
