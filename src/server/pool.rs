//! The server connections of one database and user on one host, shared by their clients.
//!
//! `queue` says who waits and who is served, `opening` how connections come about, `lease` how they come back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Server;
use super::connect::{ConnectError, Connector, Credentials};
use super::lease::Lease;
use super::queue::Waiter;
use crate::config::{PoolMode, PoolSettings};
use crate::pg::ProcessId;

/// Which pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The host's name.
    pub host: String,
    /// The database, as the server knows it.
    pub database: String,
    /// The role that logs in.
    pub user: String,
}

/// Counters of a pool since its start; times in microseconds.
#[derive(Debug, Default)]
pub struct PoolStats {
    /// Transactions that ended.
    pub transactions: AtomicU64,
    /// Statements (simple queries and executions).
    pub queries: AtomicU64,
    /// Bytes from clients.
    pub received: AtomicU64,
    /// Bytes to clients.
    pub sent: AtomicU64,
    /// Time in transactions.
    pub transaction_us: AtomicU64,
    /// Time in statements.
    pub query_us: AtomicU64,
    /// Time that clients waited for a server connection.
    pub wait_us: AtomicU64,
    /// Server connections opened.
    pub opened: AtomicU64,
    /// Attempts to open one that failed.
    pub connect_errors: AtomicU64,
    /// Times a client gave up waiting.
    pub queue_timeouts: AtomicU64,
}

/// A moment's counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// On loan.
    pub active: usize,
    /// Free.
    pub idle: usize,
    /// Being opened.
    pub connecting: usize,
    /// Clients that wait.
    pub waiting: usize,
    /// How long the first of them has waited.
    pub waited: Duration,
    /// PAUSE is in force.
    pub paused: bool,
    /// Loans since the start.
    pub loans: u64,
}

/// A free server connection, as others see it.
#[derive(Clone, Copy, Debug)]
pub struct IdleServer {
    /// The server process.
    pub process: ProcessId,
    /// When it was opened.
    pub opened: Instant,
    /// When it was last given back.
    pub released: Instant,
    /// Whether it runs over TLS.
    pub tls: bool,
    /// Statements that are prepared on it.
    pub prepared: usize,
    /// It is closed instead of being lent again.
    pub outdated: bool,
}

/// A pool.
#[derive(Debug)]
pub struct Pool {
    /// Which.
    pub key: PoolKey,
    /// Its limits.
    pub settings: PoolSettings,
    /// Its counters; a reload hands them on to the pool that takes its place.
    pub stats: Arc<PoolStats>,
    pub(super) connector: Arc<Connector>,
    /// Server connections to this database over all users, and the limit on them.
    pub(super) database_open: Arc<AtomicUsize>,
    pub(super) database_max: Option<usize>,
    pub(super) credentials: Mutex<Credentials>,
    inner: Mutex<Inner>,
    /// Notified whenever a connection is given back or closed, for PAUSE and SHUTDOWN.
    pub(super) returned: Notify,
}

/// Idle connections, the one used last at the end. Boxed as they are lent, so that a loan moves a pointer.
pub(super) type Idle = Vec<Box<Server>>;

/// What the lock guards.
#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) idle: Idle,
    /// On loan or idle.
    pub(super) open: usize,
    /// Being opened for whoever comes first.
    pub(super) connecting: usize,
    /// Being opened for one client alone.
    pub(super) connecting_own: usize,
    pub(super) waiters: VecDeque<Waiter>,
    pub(super) next_waiter: u64,
    pub(super) paused: bool,
    pub(super) closing: bool,
    pub(super) generation: u64,
    /// Loans since the start; counted here, under the lock that a loan takes anyhow.
    pub(super) loans: u64,
    pub(super) last_error: Option<Arc<ConnectError>>,
}

impl Inner {
    /// Places that are taken.
    pub(super) fn taken(&self) -> usize {
        self.open + self.connecting + self.connecting_own
    }
}

impl Pool {
    /// An empty pool.
    pub fn new(
        key: PoolKey,
        settings: PoolSettings,
        connector: Arc<Connector>,
        credentials: Credentials,
        database_open: Arc<AtomicUsize>,
        database_max: Option<usize>,
    ) -> Self {
        Self {
            key,
            settings,
            stats: Arc::default(),
            connector,
            database_open,
            database_max,
            credentials: Mutex::new(credentials),
            inner: Mutex::default(),
            returned: Notify::new(),
        }
    }

    /// The pool goes on counting where `other` is.
    #[must_use]
    pub fn counting_on(mut self, (stats, loans): (Arc<PoolStats>, u64)) -> Self {
        self.stats = stats;
        self.lock().loans = loans;
        self
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what logins prove their identity with: a client has just proved it anew.
    pub fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.lock().unwrap_or_else(PoisonError::into_inner) = credentials;
    }

    /// So many connections are open no longer.
    pub(super) fn forget(&self, inner: &mut Inner, count: usize) {
        inner.open -= count;
        self.database_open.fetch_sub(count, Ordering::Relaxed);
    }

    pub(super) fn lease(self: &Arc<Self>, server: Box<Server>) -> Lease {
        Lease { server: Some(server), pool: Arc::clone(self) }
    }

    /// A connection is gone.
    pub(super) fn closed(self: &Arc<Self>) {
        self.forget(&mut self.lock(), 1);
        self.returned.notify_waiters();
        if tokio::runtime::Handle::try_current().is_ok() {
            self.open_more(0);
        }
    }

    /// A moment's counts.
    pub fn counts(&self) -> PoolCounts {
        let inner = self.lock();
        PoolCounts {
            active: inner.open - inner.idle.len(),
            idle: inner.idle.len(),
            connecting: inner.connecting + inner.connecting_own,
            waiting: inner.waiters.len(),
            waited: inner.waiters.front().map_or(Duration::ZERO, |first| first.since.elapsed()),
            paused: inner.paused,
            loans: inner.loans,
        }
    }

    /// Connections on loan.
    pub fn outstanding(&self) -> usize {
        let inner = self.lock();
        inner.open - inner.idle.len()
    }

    /// The free connections.
    pub fn idle_servers(&self) -> Vec<IdleServer> {
        let inner = self.lock();
        let now = Instant::now();
        let view = |server: &Server| IdleServer {
            process: server.cancel.process(),
            opened: server.opened,
            released: server.released,
            tls: server.connection.stream().is_tls(),
            prepared: server.state.prepared.len(),
            outdated: self.is_outdated(server, &inner, now),
        };
        inner.idle.iter().map(|server| view(server)).collect()
    }

    /// Closes idle connections that died, are too old or too long idle, and opens what `min` asks for. Called about
    /// once a second.
    pub fn tend(self: &Arc<Self>, worker: usize) {
        let mut dead = Vec::new();
        let waiting = {
            let mut inner = self.lock();
            let now = Instant::now();
            let mut spare = inner.open.saturating_sub(self.settings.min);
            let idle = std::mem::take(&mut inner.idle);
            for mut server in idle {
                let expired = spare > 0 && exceeds(server.released, now, self.settings.idle_timeout);
                if server.is_alive() && !expired && !self.is_outdated(&server, &inner, now) {
                    inner.idle.push(server);
                } else {
                    spare = spare.saturating_sub(1);
                    dead.push(server);
                }
            }
            self.forget(&mut inner, dead.len());
            !inner.waiters.is_empty() && !inner.paused
        };
        for server in dead {
            server.terminate();
        }
        if waiting {
            self.hand_out_idle();
        }
        self.open_more(worker);
    }

    /// Whether a connection is not to be lent any more.
    pub(super) fn is_outdated(&self, server: &Server, inner: &Inner, now: Instant) -> bool {
        server.generation != inner.generation || exceeds(server.opened, now, self.settings.lifetime)
    }

    /// Closes all idle connections; those on loan are closed when they come back (RECONNECT, DROP DATABASE).
    pub fn reconnect(self: &Arc<Self>) {
        let idle = {
            let mut inner = self.lock();
            inner.generation += 1;
            let idle = std::mem::take(&mut inner.idle);
            self.forget(&mut inner, idle.len());
            idle
        };
        for server in idle {
            server.terminate();
        }
        self.returned.notify_waiters();
    }

    /// No more loans.
    pub fn hold(&self) {
        self.lock().paused = true;
    }

    /// Loans again.
    pub fn resume(self: &Arc<Self>, worker: usize) {
        self.lock().paused = false;
        self.hand_out_idle();
        self.returned.notify_waiters();
        self.open_more(worker);
    }

    /// No more loans for ever; whoever waits is told so.
    pub fn close(self: &Arc<Self>) {
        let waiters = {
            let mut inner = self.lock();
            inner.closing = true;
            std::mem::take(&mut inner.waiters)
        };
        drop(waiters);
        self.reconnect();
    }

    /// Whether connections change hands when a transaction ends.
    pub fn mode(&self) -> PoolMode {
        self.settings.mode
    }
}

fn exceeds(since: Instant, now: Instant, limit: Option<Duration>) -> bool {
    limit.is_some_and(|limit| now.saturating_duration_since(since) >= limit)
}
