#![allow(clippy::disallowed_methods, reason = "an I/O module: it reads the clock")]
//! Connections to PostgreSQL: logging in, pooling, cleaning, cancelling.

mod cancel;
mod connect;
mod hosts;
mod lease;
mod opening;
mod pool;
#[cfg(test)]
mod pool_tests;
mod queue;
mod recycle;
mod tenants;

pub use crate::pg::HostId;
pub use cancel::{CancelGuard, CancelTarget};
pub use connect::{ConnectError, Connector, Credentials, PasswordKeys};
pub use hosts::{Host, Hosts, Role};
pub use lease::Lease;
pub use pool::{IdleServer, Pool, PoolCounts, PoolKey, PoolStats};
pub use queue::{Acquire, AcquireError};
pub use tenants::{Tenant, TenantError, Tenants};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use crate::net::Connection;
use crate::session::ServerState;
use crate::wire::frame::{self, MESSAGE_BYTES_MAX, Next};
use crate::wire::{backend, build};

/// A connection to a PostgreSQL server, logged in.
#[derive(Debug)]
pub struct Server {
    /// Unique among all server connections.
    pub id: u64,
    /// The socket.
    pub connection: Connection,
    /// What it has and owes.
    pub state: Box<ServerState>,
    /// When it was opened.
    pub opened: Instant,
    /// When it was last given back.
    pub released: Instant,
    /// The event loop whose reactor watches the socket.
    pub worker: usize,
    /// The pool's generation in which it was opened; RECONNECT and DROP DATABASE begin another.
    pub generation: u64,
    /// Where a CancelRequest for it goes.
    pub cancel: Arc<CancelTarget>,
}

impl Server {
    /// A connection that has just logged in.
    pub fn new(connection: Connection, state: ServerState, cancel: CancelTarget, worker: usize) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(1);
        let now = Instant::now();
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            connection,
            state: Box::new(state),
            opened: now,
            released: now,
            worker,
            generation: 0,
            cancel: Arc::new(cancel),
        }
    }
}

impl Server {
    /// Whether an idle connection still stands: looks at what the event loop has noticed, without a system call
    /// when it noticed nothing. Settings that the server reports meanwhile are taken in.
    pub fn is_alive(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        loop {
            match self.connection.poll_fill(&mut context) {
                Poll::Pending => break,
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => return false,
            }
        }
        while let Ok(Next::Frame(message)) = frame::next(self.connection.input(), MESSAGE_BYTES_MAX) {
            let bytes = message.bytes.len();
            match message.tag {
                backend::PARAMETER_STATUS => self.state.take_report(message.body()),
                backend::NOTICE | backend::NOTIFICATION => {}
                // The message with which the server ends the session, or something we do not understand.
                _ => return false,
            }
            self.connection.consume(bytes);
        }
        self.connection.input().is_empty()
    }

    /// Says good-bye, as far as that goes without waiting, and closes.
    pub fn terminate(mut self) {
        let mut context = Context::from_waker(Waker::noop());
        build::terminate(self.connection.output());
        let _ = self.connection.poll_flush(&mut context);
    }
}
