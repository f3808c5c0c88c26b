//! Opening connections of a pool, within its limits.
//!
//! Connections are opened by a task of the pool, not of a client, so that a client that leaves meanwhile wastes nothing.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::Server;
use super::connect::ConnectError;
use super::lease::Lease;
use super::pool::{Inner, Pool};
use super::queue::{Acquire, AcquireError, Grant};

/// The first pause after a failed connect, doubled up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(2);

impl Pool {
    /// Opens a connection in the background for this client, if limits allow it and none that fits is free or coming.
    pub fn warm(self: &Arc<Self>, want: Acquire<'_>) {
        let inner = self.lock();
        if inner.connecting == 0 && !inner.idle.iter().any(|server| want.accepts(server)) {
            self.open_another(inner, true, want.worker);
        }
    }

    /// Opens connections in the background while clients wait for more than are being opened, and limits allow it.
    pub fn open_more(self: &Arc<Self>, worker: usize) {
        loop {
            let inner = self.lock();
            let is_short = inner.waiters.len() > inner.connecting;
            let is_wanted = is_short || inner.taken() < self.settings.min;
            if !is_wanted || !self.open_another(inner, is_short, worker) {
                return;
            }
        }
    }

    /// Whether limits allow another connection.
    pub(super) fn has_room(&self, inner: &Inner, max: usize) -> bool {
        let database_open = || self.database_open.load(Ordering::Relaxed);
        inner.taken() < max && self.database_max.is_none_or(|max| database_open() < max)
    }

    /// The most connections that there may be: the reserve too, once somebody has waited for long.
    pub(super) fn max_now(&self, inner: &Inner) -> usize {
        let first = inner.waiters.front();
        let is_late = first.is_some_and(|first| first.since.elapsed() >= self.settings.reserve_timeout);
        self.settings.max + if is_late { self.settings.reserve } else { 0 }
    }

    /// Opens a connection if limits allow it. `may_replace`: an idle one, which fits nobody who asks, gives its place up if
    /// there is no other.
    fn open_another(
        self: &Arc<Self>,
        mut inner: MutexGuard<'_, Inner>,
        may_replace: bool,
        worker: usize,
    ) -> bool {
        if inner.paused || inner.closing {
            return false;
        }
        let replaced = if self.has_room(&inner, self.max_now(&inner)) {
            None
        } else if may_replace && !inner.idle.is_empty() {
            // The one that was used least recently.
            let server = inner.idle.remove(0);
            self.forget(&mut inner, 1);
            Some(server)
        } else {
            return false;
        };
        inner.connecting += 1;
        self.database_open.fetch_add(1, Ordering::Relaxed);
        drop(inner);
        if let Some(server) = replaced {
            server.terminate();
        }
        tokio::spawn(Arc::clone(self).open(worker));
        true
    }

    /// Opens one connection, trying again while clients wait and it may help.
    async fn open(self: Arc<Self>, worker: usize) {
        let mut place = Connecting { pool: &self, own: false, done: false };
        let mut pause = RETRY_FIRST;
        loop {
            let credentials = self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let connecting =
                self.connector.connect(&self.key.database, &self.key.user, &credentials, &[], worker);
            match Box::pin(connecting).await {
                Ok(mut server) => {
                    self.stats.opened.fetch_add(1, Ordering::Relaxed);
                    place.became(&mut server);
                    self.lease(Box::new(server)).give_back();
                    self.open_more(worker);
                    return;
                }
                Err(error) => {
                    self.stats.connect_errors.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(host = self.key.host, database = self.key.database, user = self.key.user, %error,
                        "cannot open a server connection");
                    let error = Arc::new(error);
                    let transient = error.is_transient();
                    let mut inner = self.lock();
                    inner.last_error = Some(Arc::clone(&error));
                    if !transient {
                        for waiter in inner.waiters.drain(..) {
                            let _ = waiter.grant.send(Grant::Refused(Arc::clone(&error)));
                        }
                    }
                    if inner.waiters.is_empty() || inner.closing {
                        // Under the same lock: whoever enters the queue next must not count on this one.
                        place.give_up(&mut inner);
                        return;
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
    }

    /// Opens a connection for one client alone, with startup parameters of its own (replication). It takes one of the
    /// pool's places, for which it waits, and must be closed and never given back.
    pub async fn open_own(
        self: &Arc<Self>,
        parameters: &[(&[u8], &[u8])],
        worker: usize,
    ) -> Result<Lease, AcquireError> {
        let waiting = async {
            loop {
                let returned = self.returned.notified();
                if let Some(place) = self.take_place()? {
                    return Ok(place);
                }
                returned.await;
            }
        };
        let waited = tokio::time::timeout(self.settings.queue_timeout, waiting).await;
        let place = waited.map_err(|_| AcquireError::QueueTimeout)??;
        let credentials = self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (database, user) = (&self.key.database, &self.key.user);
        let connecting = self.connector.connect(database, user, &credentials, parameters, worker);
        let mut server = Box::pin(connecting).await.map_err(|error| match error {
            ConnectError::Unreachable(_) | ConnectError::Timeout => {
                AcquireError::Unavailable(Arc::new(error))
            }
            // What the server says, such as that it has no place for another, is for the client.
            _ => AcquireError::Refused(Arc::new(error)),
        })?;
        self.stats.opened.fetch_add(1, Ordering::Relaxed);
        place.became(&mut server);
        Ok(self.lease(Box::new(server)))
    }

    /// A place for a connection that is about to be opened, if limits allow it; an idle one makes room.
    fn take_place(self: &Arc<Self>) -> Result<Option<Connecting<'_>>, AcquireError> {
        let mut inner = self.lock();
        if inner.closing {
            return Err(AcquireError::Closing);
        }
        if inner.paused {
            return Ok(None);
        }
        let replaced = if self.has_room(&inner, self.settings.max) {
            None
        } else if let Some(server) = inner.idle.pop() {
            self.forget(&mut inner, 1);
            Some(server)
        } else {
            return Ok(None);
        };
        inner.connecting_own += 1;
        self.database_open.fetch_add(1, Ordering::Relaxed);
        drop(inner);
        if let Some(server) = replaced {
            server.terminate();
        }
        Ok(Some(Connecting { pool: self, own: true, done: false }))
    }
}

/// The place of a connection that is being opened: freed if that fails in any way.
pub(super) struct Connecting<'a> {
    pub(super) pool: &'a Arc<Pool>,
    /// It is for one client alone.
    pub(super) own: bool,
    pub(super) done: bool,
}

impl Connecting<'_> {
    pub(super) fn became(mut self, server: &mut Server) {
        let mut inner = self.pool.lock();
        self.leave(&mut inner);
        inner.open += 1;
        inner.last_error = None;
        server.generation = inner.generation;
    }

    fn give_up(&mut self, inner: &mut Inner) {
        self.leave(inner);
        self.pool.database_open.fetch_sub(1, Ordering::Relaxed);
    }

    fn leave(&mut self, inner: &mut Inner) {
        self.done = true;
        *(if self.own { &mut inner.connecting_own } else { &mut inner.connecting }) -= 1;
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        if !self.done {
            let pool = self.pool;
            self.give_up(&mut pool.lock());
        }
    }
}
