#![allow(clippy::disallowed_methods, reason = "an I/O module: it reads the clock")]
//! Sockets: listening, TLS, and connections with buffers. tokio and rustls begin here.

mod connection;
mod listen;
mod stream;
pub mod tls;
mod verify;

pub use connection::{Connection, READ_BYTES};
pub use listen::{Listener, Peer, bind, bind_all};
pub use stream::Stream;
