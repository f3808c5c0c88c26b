//! Who waits for a connection of a pool, and who gets the next.
//!
//! Clients are served in the order in which they came. A connection that is given back goes to the first who waits,
//! by hand; only when nobody waits for whom it fits does it become idle.
//!
//! A connection that has seen a custom setting does not fit everybody ([`Placeholders`]); a fresh one does. A client whom
//! none of a full pool fits gets the place of the next that comes back, so that it waits no longer than its turn. Two
//! sentences hold whenever the lock is free and there is no PAUSE:
//!
//! - nobody waits whom an idle connection fits;
//! - if more clients wait than connections are being opened, there is no room for another, and none is idle.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::oneshot;

use super::Server;
use super::connect::ConnectError;
use super::lease::Lease;
use super::pool::{Idle, Inner, Pool};
use crate::pg::ProcessId;
use crate::session::{Placeholders, Settings};

/// Idle connections that are looked at for one that needs no settings changed.
const AFFINITY_SEARCH_MAX: usize = 8;

/// What a client wants of the pool.
#[derive(Clone, Copy, Debug)]
pub struct Acquire<'a> {
    /// The event loop the client lives on.
    pub worker: usize,
    /// The client's settings: a connection that has them already is preferred.
    pub settings: &'a Settings,
    /// Custom settings that the client has had: a connection that has had others is not for it.
    pub placeholders: &'a Placeholders,
    /// The client.
    pub process: ProcessId,
    /// The connection that it had last is preferred while nobody else has had it.
    pub last_server: u64,
}

impl Acquire<'_> {
    /// Whether a connection fits the client.
    pub fn accepts(&self, server: &Server) -> bool {
        self.placeholders.cover(&server.state.placeholders)
    }

    fn had(&self, server: &Server) -> bool {
        server.id == self.last_server && server.cancel.client() == self.process
    }
}

/// Why a client got no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AcquireError {
    /// `queue_timeout` passed.
    #[error("no server connection became free in time")]
    QueueTimeout,
    /// The server cannot be reached, and `queue_timeout` passed or will pass in vain.
    #[error("the server is not available: {0}")]
    Unavailable(Arc<ConnectError>),
    /// The server refused the login.
    #[error("{0}")]
    Refused(Arc<ConnectError>),
    /// The client asked to be canceled while it waited.
    #[error("canceled while waiting for a server connection")]
    Canceled,
    /// The pool is being shut down.
    #[error("the pool is closing")]
    Closing,
}

/// A client that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    number: u64,
    pub(super) since: Instant,
    /// As in [`Acquire`].
    placeholders: Placeholders,
    pub(super) grant: oneshot::Sender<Grant>,
}

/// What it gets.
#[derive(Debug)]
pub(super) enum Grant {
    Lease(Lease),
    Refused(Arc<ConnectError>),
}

/// What comes of asking for a connection.
enum Entry {
    Served(Lease),
    Queued(Ticket),
}

/// A place in the queue: leaves it when dropped.
#[derive(Debug)]
struct Ticket {
    number: u64,
    entered: Instant,
    pool: Arc<Pool>,
    grant: oneshot::Receiver<Grant>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let waited = u64::try_from(self.entered.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.pool.stats.wait_us.fetch_add(waited, Ordering::Relaxed);
        self.grant.close();
        self.pool.lock().waiters.retain(|waiter| waiter.number != self.number);
        // A lease that was granted in the same moment goes back, not to the ground.
        if let Ok(Grant::Lease(lease)) = self.grant.try_recv() {
            lease.give_back();
        }
    }
}

impl Pool {
    /// A free connection that fits, if there is one: whoever waits is not overtaken, since it fits nobody of them.
    #[inline]
    pub fn try_acquire(self: &Arc<Self>, want: Acquire<'_>) -> Option<Lease> {
        let server = self.take_free(&mut self.lock(), want)?;
        Some(self.lease(server))
    }

    fn take_free(&self, inner: &mut Inner, want: Acquire<'_>) -> Option<Box<Server>> {
        if inner.paused {
            return None;
        }
        loop {
            let mut server = take_idle(&mut inner.idle, want)?;
            if server.is_alive() {
                inner.loans += 1;
                return Some(server);
            }
            self.forget(inner, 1);
        }
    }

    /// Waits for a connection until `queue_timeout` after `since`, when the client began to wait. To stop waiting, drop
    /// the future.
    pub async fn acquire(self: &Arc<Self>, want: Acquire<'_>, since: Instant) -> Result<Lease, AcquireError> {
        let mut ticket = match self.enqueue(want, since)? {
            Entry::Served(lease) => return Ok(lease),
            Entry::Queued(ticket) => ticket,
        };
        self.open_more(want.worker);
        let left = self.settings.queue_timeout.saturating_sub(since.elapsed());
        match tokio::time::timeout(left, &mut ticket.grant).await {
            Ok(Ok(Grant::Lease(lease))) => Ok(lease),
            Ok(Ok(Grant::Refused(error))) => Err(AcquireError::Refused(error)),
            Ok(Err(_)) => Err(AcquireError::Closing),
            Err(_) => {
                self.stats.queue_timeouts.fetch_add(1, Ordering::Relaxed);
                let inner = self.lock();
                match &inner.last_error {
                    Some(error) if inner.open == 0 => Err(AcquireError::Unavailable(Arc::clone(error))),
                    _ => Err(AcquireError::QueueTimeout),
                }
            }
        }
    }

    /// Enters the queue, or takes what came free since the client last looked: under one lock, so that no connection
    /// becomes idle between the look and the entry.
    fn enqueue(self: &Arc<Self>, want: Acquire<'_>, since: Instant) -> Result<Entry, AcquireError> {
        let mut inner = self.lock();
        if inner.closing {
            return Err(AcquireError::Closing);
        }
        if let Some(server) = self.take_free(&mut inner, want) {
            return Ok(Entry::Served(self.lease(server)));
        }
        let (grant, receiver) = oneshot::channel();
        inner.next_waiter += 1;
        let number = inner.next_waiter;
        inner.waiters.push_back(Waiter { number, since, placeholders: want.placeholders.clone(), grant });
        let pool = Arc::clone(self);
        Ok(Entry::Queued(Ticket { number, entered: Instant::now(), pool, grant: receiver }))
    }

    /// Gives idle connections to those who wait.
    pub(super) fn hand_out_idle(self: &Arc<Self>) {
        let idle = std::mem::take(&mut self.lock().idle);
        for server in idle {
            self.lease(server).hand_over();
        }
    }
}

impl Lease {
    /// Hands the connection to the first who waits and whom it fits; it is idle if there is nobody. If it fits somebody
    /// less patient only, its place goes to who is first instead.
    pub(super) fn hand_over(mut self) {
        let pool = Arc::clone(&self.pool);
        let mut inner = pool.lock();
        let is_usable =
            !pool.is_outdated(&self, &inner, self.released) && self.is_in_order() && !inner.closing;
        let mut passed_over = 0;
        while is_usable && !inner.paused && passed_over < inner.waiters.len() {
            if !inner.waiters[passed_over].placeholders.cover(&self.state.placeholders) {
                passed_over += 1;
                // Those that are being opened fit everybody, and go to the first.
                if passed_over > inner.connecting && !pool.has_room(&inner, pool.max_now(&inner)) {
                    drop(inner);
                    self.close();
                    return;
                }
                continue;
            }
            let Some(waiter) = inner.waiters.remove(passed_over) else { break };
            match waiter.grant.send(Grant::Lease(self)) {
                Ok(()) => {
                    inner.loans += 1;
                    return;
                }
                Err(Grant::Lease(back)) => self = back,
                Err(Grant::Refused(_)) => unreachable!("what was sent comes back"),
            }
        }
        if !is_usable {
            drop(inner);
            self.close();
            return;
        }
        if let Some(server) = self.server.take() {
            inner.idle.push(server);
        }
        let is_short = inner.waiters.len() > inner.connecting;
        drop(inner);
        pool.returned.notify_waiters();
        if is_short {
            pool.open_more(0);
        }
    }
}

/// Takes an idle connection that fits, the last one used first: of the client's own event loop and with its settings if
/// one is near.
fn take_idle(idle: &mut Idle, want: Acquire<'_>) -> Option<Box<Server>> {
    let all = || idle.iter().enumerate().rev().filter(|(_, server)| want.accepts(server));
    // Those that have seen none of its custom settings stay fit for everybody.
    let knowing = || all().filter(|(_, server)| server.state.placeholders.cover(want.placeholders));
    let near = || knowing().take(AFFINITY_SEARCH_MAX);
    let has_settings = |server: &Server| server.state.settings == *want.settings;
    let (best, _) = near()
        .find(|(_, server)| want.had(server))
        .or_else(|| near().find(|(_, server)| server.worker == want.worker && has_settings(server)))
        .or_else(|| near().find(|(_, server)| has_settings(server)))
        .or_else(|| knowing().next())
        .or_else(|| all().next())?;
    Some(idle.remove(best))
}
