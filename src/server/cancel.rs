//! Canceling a statement on a server, without ever hitting the next client.
//!
//! A CancelRequest names a server process, not a statement. So while one is under way, its server connection is not
//! given to anybody else: whoever holds it waits in [`CancelTarget::settled`] first. The postmaster closes the
//! cancel connection after it has sent the signal, and a backend that is idle ignores the signal (manual, 55.2.8);
//! so once the connection has closed, the next statement is safe. A request that was written, and whose end was not
//! seen, may be acted on at any later time: no other client gets that server connection any more.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::connect::Connector;
use crate::pg::ProcessId;
use crate::session::{Notifies, Senders};
use crate::wire::build;

/// Where a CancelRequest for one server connection goes.
#[derive(Debug)]
pub struct CancelTarget {
    connector: Arc<Connector>,
    process: ProcessId,
    secret: Box<[u8]>,
    /// The client whose statements last ran there.
    client: AtomicU32,
    /// Whose statements there may have notified.
    senders: Mutex<Senders>,
    /// When the server connection was opened.
    pub opened: Instant,
    /// Whether it runs over TLS.
    pub tls: bool,
    under_way: AtomicUsize,
    ended: Notify,
    /// A cancel may still strike.
    in_doubt: AtomicBool,
    /// A query of ours is in front of the client's: cancels are held back.
    held: AtomicBool,
    released: Notify,
}

/// Announces a cancel for as long as it lives.
#[derive(Debug)]
pub struct CancelGuard(Arc<CancelTarget>);

impl Drop for CancelGuard {
    fn drop(&mut self) {
        if self.0.under_way.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.ended.notify_waiters();
        }
    }
}

impl CancelTarget {
    /// The target for a server process.
    pub fn new(connector: Arc<Connector>, process: ProcessId, secret: Box<[u8]>, tls: bool) -> Self {
        Self {
            connector,
            process,
            secret,
            client: AtomicU32::new(0),
            senders: Mutex::default(),
            opened: Instant::now(),
            tls,
            under_way: AtomicUsize::new(0),
            ended: Notify::new(),
            in_doubt: AtomicBool::new(false),
            held: AtomicBool::new(false),
            released: Notify::new(),
        }
    }

    /// Notes whose statements run there from now on.
    #[inline]
    pub fn set_client(&self, client: ProcessId) {
        self.client.store(client.0, Ordering::Relaxed);
    }

    /// Whose statements last ran there.
    pub fn client(&self) -> ProcessId {
        ProcessId(self.client.load(Ordering::Relaxed))
    }

    /// The client's statement may notify.
    pub fn note_sender(&self, notifies: Notifies) {
        self.senders().note(self.client(), notifies, Instant::now());
    }

    /// The client's transactions are over.
    pub fn renew_sender(&self) {
        self.senders().renew(self.client(), Instant::now());
    }

    /// The client that sent a notification from a process of the same host; `None` if the process is none of ours.
    pub fn sender(&self, process: ProcessId, channel: &[u8]) -> Option<ProcessId> {
        let target = self.connector.target_of(process)?;
        let sender = target.senders().sender(channel, Instant::now());
        Some(sender.unwrap_or_else(|| target.client()))
    }

    fn senders(&self) -> MutexGuard<'_, Senders> {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host's name.
    pub fn host(&self) -> &str {
        &self.connector.name
    }

    /// The server process.
    pub fn process(&self) -> ProcessId {
        self.process
    }

    /// Announces a cancel. Call it while whoever holds the server connection is kept from giving it back.
    pub fn announce(self: &Arc<Self>) -> CancelGuard {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        CancelGuard(Arc::clone(self))
    }

    /// Whether no cancel is under way.
    #[inline]
    pub fn is_settled(&self) -> bool {
        self.under_way.load(Ordering::Acquire) == 0
    }

    /// Whether a cancel may strike at any time from now on: the server connection is not for another client.
    #[inline]
    pub fn is_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::Acquire)
    }

    /// Holds cancels back: what would be struck is a query of ours that goes in front of the client's.
    pub fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    /// What runs from now on is the client's.
    #[inline]
    pub fn release(&self) {
        if self.held.load(Ordering::Acquire) {
            self.held.store(false, Ordering::Release);
            self.released.notify_waiters();
        }
    }

    async fn released(&self) {
        loop {
            let released = self.released.notified();
            if !self.held.load(Ordering::Acquire) {
                return;
            }
            released.await;
        }
    }

    /// Waits until no cancel is under way.
    pub async fn settled(&self) {
        self.release();
        loop {
            let ended = self.ended.notified();
            if self.is_settled() {
                return;
            }
            ended.await;
        }
    }
}

impl CancelGuard {
    /// Sends the CancelRequest and waits until the server has acted on it, for as long as a connection may take to open.
    /// It goes on if nobody waits for it any longer.
    pub async fn send(self) -> io::Result<()> {
        let sending = tokio::spawn(async move {
            let limit = self.0.connector.timeout();
            // A query of ours that takes so long holds up the cancel no longer.
            let _ = tokio::time::timeout(limit, self.0.released()).await;
            let sent = tokio::time::timeout(limit, Box::pin(self.exchange())).await;
            sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        });
        sending.await.map_err(io::Error::other)?
    }

    async fn exchange(&self) -> io::Result<()> {
        let target = &self.0;
        let (mut stream, _) = target.connector.open().await.map_err(io::Error::other)?;
        let mut packet = Vec::new();
        build::cancel_request(&mut packet, target.process, &target.secret);
        let request = Request { target, has_ended: false };
        stream.write_all(&packet).await?;
        stream.flush().await?;
        // Closed by the server once the signal is sent.
        let mut rest = [0; 64];
        while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
        request.ended();
        Ok(())
    }
}

/// A CancelRequest that is being written, or was: dropped before its end is seen, it leaves its target in doubt.
struct Request<'a> {
    target: &'a CancelTarget,
    has_ended: bool,
}

impl Request<'_> {
    fn ended(mut self) {
        self.has_ended = true;
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.target.in_doubt.store(true, Ordering::Release);
        }
    }
}
