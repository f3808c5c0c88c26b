#![allow(clippy::disallowed_methods, reason = "an I/O module: it reads the clock")]
//! For operators: the console over the wire protocol, and HTTP with metrics and health.

mod cache;
mod cache_metrics;
mod command;
mod commands;
mod console;
mod explain;
mod http;
mod indexes;
mod insight;
mod metrics;
mod routing;
mod show;
mod show_config;
mod show_stats;
mod snapshot;
mod table;
mod transactions;
mod why;

pub use commands::Commands;
pub use console::AdminConsole;
pub use http::serve_http;
