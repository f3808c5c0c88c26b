//! A server connection on loan, and how it comes back.
//!
//! A [`Lease`] that is dropped without being given back (a client task that ended anyhow) closes the connection and frees
//! its place. That is what keeps one lost in a corner from being lost for ever.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Server;
use super::pool::Pool;
use super::recycle::STALL_MAX;
use crate::pg::TransactionStatus;
use crate::session::SHORT_TIMEOUT;

/// A server connection on loan.
#[derive(Debug)]
pub struct Lease {
    /// Present until it is given back.
    pub(super) server: Option<Box<Server>>,
    pub(super) pool: Arc<Pool>,
}

impl Deref for Lease {
    type Target = Server;

    fn deref(&self) -> &Server {
        self.server.as_ref().expect("a lease holds its server until it is consumed")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Server {
        self.server.as_mut().expect("a lease holds its server until it is consumed")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.server.take().is_some() {
            self.pool.closed();
        }
    }
}

impl Lease {
    /// Takes off timeouts of the last client's that might strike while the connection takes on the next one's settings;
    /// `None` if that failed, and the connection is closed. A round trip, but only between clients who differ.
    pub async fn calmed(mut self) -> Option<Self> {
        let Some(calm) = self.state.settings.without_timeouts(STALL_MAX) else {
            return Some(self);
        };
        if self.take_on(&calm).await.is_ok() {
            return Some(self);
        }
        self.close();
        None
    }

    /// The pool that it belongs to.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Gives the connection back: it is idle, clean and in order.
    pub fn give_back(self) {
        self.give_back_after(Duration::ZERO, Instant::now());
    }

    /// Likewise, `now`, by a client that has had it for so long. No statement has run longer; so a `statement_timeout` of
    /// the client's that is no longer than that may have just missed one, and would strike what comes next.
    #[inline]
    pub fn give_back_after(mut self, used: Duration, now: Instant) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        server.cancel.release();
        if let Some(calm) = server.state.settings.without_timeouts(used.max(SHORT_TIMEOUT)) {
            Self::return_later(Arc::clone(&self.pool), async move { server.calmed(&calm).await });
            return;
        }
        server.released = now;
        Self { server: Some(server), pool: Arc::clone(&self.pool) }.hand_over();
    }

    /// Whether another client may have the connection: it is what we think it is, nothing of the last client's is left on
    /// its way, and no cancel of that client's can strike any more.
    pub(super) fn is_in_order(&mut self) -> bool {
        let is_quiet =
            !self.connection.has_output() && (self.connection.input().is_empty() || self.is_alive());
        is_quiet && !self.state.is_broken() && !self.cancel.is_in_doubt()
    }

    /// Gives back a connection that must be cleaned first; that happens in the background.
    pub fn give_back_dirty(mut self, status: TransactionStatus) {
        let Some(server) = self.server.take() else { return };
        Self::return_later(Arc::clone(&self.pool), async move { server.cleaned(status).await });
    }

    /// Gives back a connection in a transaction that has only read, which is ended in the background.
    pub fn give_back_in_block(mut self) {
        let Some(server) = self.server.take() else { return };
        Self::return_later(Arc::clone(&self.pool), async move { server.rolled_back().await });
    }

    /// Gives the connection back once it is made ready; its place stays taken meanwhile.
    fn return_later(pool: Arc<Pool>, ready: impl Future<Output = Option<Server>> + Send + 'static) {
        tokio::spawn(async move {
            match Box::pin(ready).await {
                Some(server) => Self { server: Some(Box::new(server)), pool }.give_back(),
                None => pool.closed(),
            }
        });
    }

    /// Closes the connection.
    pub fn close(mut self) {
        if let Some(server) = self.server.take() {
            server.terminate();
            self.pool.closed();
        }
    }
}
