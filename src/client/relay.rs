//! The relay: messages from the client to its server connection and back, until the connection may be given back.
//!
//! Both directions go on at the same time, so a client that keeps sending while the server keeps answering cannot
//! deadlock them. Bytes that need no look go straight from one socket's buffer to the other socket; a message longer
//! than the buffer is passed on as it comes. Each side is read only while the other keeps up.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::Proxy;
use super::fault::Fault;
use super::filling::Filling;
use super::registry::{Activity, Handle, Signal};
use super::routing::Routing;
use crate::insight::Watch;
use crate::net::Connection;
use crate::pg::{SqlState, TransactionStatus};
use crate::route;
use crate::server::Lease;
use crate::session::{Session, UNIT_BYTES_MAX};
use crate::wire::build::{Report, Severity};

/// Bytes after which a relay lets others have their turn on the event loop.
const TURN_BYTES_MAX: usize = 256 * 1024;

/// A client that closed its side without a good-bye may have gone, or may still read, as `nc` does. PostgreSQL runs
/// the statement to its end in both cases; here others wait for the server connection.
const HALF_CLOSED_WAIT: Duration = Duration::from_secs(1);

/// How a relay ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relayed {
    /// The server connection may be given back.
    Released,
    /// The client is in a block on a replica, and what it sends next may have to go elsewhere.
    Held,
    /// The client said good-bye.
    Left,
}

/// Counts of one relay.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) queries: u64,
    pub(super) transactions: u64,
}

/// A client and the server connection that it holds.
#[expect(clippy::struct_excessive_bools, reason = "independent facts; any of them may stand together")]
pub(super) struct Relay<'a> {
    pub(super) client: &'a mut Connection,
    pub(super) session: &'a mut Session,
    pub(super) lease: &'a mut Lease,
    pub(super) proxy: &'a Proxy,
    pub(super) handle: &'a Handle,
    pub(super) worker: usize,
    pub(super) message_bytes_max: usize,
    pub(super) traffic: Traffic,
    /// Bytes still to come of a message whose head was passed on, from the client and from the server.
    pub(super) passing_up: usize,
    pub(super) passing_down: usize,
    pub(super) leaving: bool,
    /// The next message waits for answers to those before it.
    pub(super) waiting: bool,
    /// So many answers are owed that no more is asked.
    pub(super) full: bool,
    /// The client has closed its side; what it asked for is still sent, but not for long.
    pub(super) closing: Option<Pin<Box<Sleep>>>,
    /// What the session machine writes beside the message it looks at.
    pub(super) before: Vec<u8>,
    pub(super) after: Vec<u8>,
    /// The client has been noted as running nothing.
    pub(super) quiet: bool,
    /// A statement may have notified.
    pub(super) notifies: bool,
    /// Bytes of the client's input that are for this connection; what is behind them is decided anew.
    pub(super) allowance: Option<usize>,
    /// The server is a replica: it is given one unit at a time.
    pub(super) on_replica: bool,
    /// Some of what the client sent has been taken.
    pub(super) taken: bool,
    /// If the server fails before the client has seen anything, the read is run again elsewhere.
    pub(super) may_rerun: bool,
    /// Whom to tell of commits.
    pub(super) routing: Option<&'a mut Routing>,
    /// What is told of its statements.
    pub(super) watch: Option<&'a mut Watch>,
    /// Bytes of the server that were looked at.
    pub(super) down: u64,
    /// When the server was last heard, or the client behind a rest.
    pub(super) filled: Instant,
    /// Takes a copy of the result.
    pub(super) filling: Option<&'a mut Filling>,
}

impl Relay<'_> {
    /// Runs until the connection may be given back or the client leaves.
    pub(super) async fn run(&mut self) -> Result<Relayed, Fault> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Relayed, Fault>> {
        let mut moved = 0;
        loop {
            if self.waits_for_others(context) {
                return Poll::Pending;
            }
            self.take_from_client(context)?;
            self.flush(context)?;
            if self.is_released() {
                return Poll::Ready(Ok(Relayed::Released));
            }
            if self.has_taken_its_unit() && self.stays() {
                if self.is_held() {
                    return Poll::Ready(Ok(Relayed::Held));
                }
                self.go_on()?;
                continue;
            }
            self.flush(context)?;
            // What an open batch still owes will never come: the client goes without its Sync. Nor does what COPY owes,
            // if the client says good-bye instead of sending data.
            let owes_nothing = !self.lease.state.owes_ready() || self.lease.state.is_copying_in();
            if self.leaving && owes_nothing {
                return Poll::Ready(Ok(Relayed::Left));
            }
            if moved > TURN_BYTES_MAX {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut progress = false;
            if !self.client.is_clogged() {
                match self.lease.connection.poll_fill(context) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.server_gone())),
                    Poll::Ready(Ok(count)) => {
                        self.filled = Instant::now();
                        if let Some(watch) = &mut self.watch
                            && watch.is_waiting()
                        {
                            watch.filled(self.filled);
                        }
                        self.take_from_server(context)?;
                        if !self.lease.state.in_setup() {
                            self.lease.cancel.release();
                        }
                        moved += count;
                        progress = true;
                        // Most answers come whole, and end it: nothing else need be looked at.
                        if !self.client.has_output() && self.is_released() {
                            return Poll::Ready(Ok(Relayed::Released));
                        }
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::ServerGone(error))),
                    Poll::Pending => {}
                }
            }
            if self.may_read_client() {
                match self.client.poll_fill(context) {
                    Poll::Ready(Ok(count)) if count > 0 => {
                        self.traffic.received += count as u64;
                        moved += count;
                        self.note_busy();
                        progress = true;
                    }
                    Poll::Ready(Ok(_)) => {
                        self.leaving = true;
                        self.closing = Some(Box::pin(tokio::time::sleep(HALF_CLOSED_WAIT)));
                        progress = true;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::ClientGone)),
                    Poll::Pending => {}
                }
            }
            if let Some(closing) = &mut self.closing
                && closing.as_mut().poll(context).is_ready()
            {
                return Poll::Ready(Err(Fault::ClientGone));
            }
            if !progress {
                if let Poll::Ready(signal) = self.handle.poll_signal(context) {
                    self.told(signal)?;
                    continue;
                }
                self.note_quiet();
                return Poll::Pending;
            }
        }
    }

    /// Whether what the client gets next tells it of a commit that other Weirs have not been told of yet.
    #[inline]
    fn waits_for_others(&mut self, context: &mut Context<'_>) -> bool {
        self.routing
            .as_mut()
            .is_some_and(|routing| routing.is_telling() && routing.poll_told(context).is_pending())
    }

    /// The server has answered everything: what the client does now is its own time.
    #[inline]
    fn note_quiet(&mut self) {
        if !self.quiet && self.lease.state.is_drained() {
            self.quiet = true;
            self.handle.set_pins(self.session.pins());
            let in_block = self.session.status() != TransactionStatus::Idle;
            let activity = if in_block { Activity::IdleInTransaction } else { Activity::Idle };
            self.handle.set_activity(activity, self.filled);
        }
    }

    #[inline]
    fn note_busy(&mut self) {
        if self.quiet {
            self.quiet = false;
            let now = Instant::now();
            // What it asks may be answered here: its next rest begins now, not with the server's last words.
            self.filled = now;
            self.handle.set_activity(Activity::Active, now);
            if let Some(watch) = &mut self.watch {
                watch.read(now);
                watch.stays(staying(self.on_replica, self.session));
            }
        }
    }

    fn may_read_client(&self) -> bool {
        !self.leaving
            && !self.waiting
            && !self.has_taken_its_unit()
            && !self.lease.connection.is_clogged()
            // What Weir answers by itself waits for the client as the server's answers do.
            && !self.client.is_clogged()
    }

    /// All was answered, nothing pins, and no message is half-way to the server.
    #[inline]
    fn is_released(&mut self) -> bool {
        // A long message on its way belongs to this connection, and nothing may be written into it.
        if self.passing_up > 0 {
            return false;
        }
        let server = &mut **self.lease;
        if self.session.inspect(&mut server.state, server.connection.output()) {
            return false;
        }
        self.session.may_release(&self.lease.state)
            && !self.waiting
            // The head of a message longer than a unit has come: here it can be passed on.
            && (self.allowance.is_some() || self.on_replica || self.client.input().len() <= UNIT_BYTES_MAX)
            && !self.lease.connection.has_output()
            && !self.leaving
    }

    /// What was decided on has been sent; what comes behind it is another decision.
    #[inline]
    fn has_taken_its_unit(&self) -> bool {
        match self.allowance {
            Some(allowance) => allowance == 0,
            None => self.on_replica && self.taken && !self.lease.state.is_in_batch(),
        }
    }

    /// The client is in a block on a replica. What a read has left in its session there has no place anywhere else.
    fn is_held(&self) -> bool {
        let may_leave = self.allowance.is_none() || self.session.pins().is_empty();
        self.on_replica && self.session.status() != TransactionStatus::Idle && may_leave
    }

    /// What was decided on has been answered, and has left something that keeps the client on this connection.
    fn stays(&mut self) -> bool {
        self.lease.state.is_drained() && !self.session.may_release(&self.lease.state)
    }

    /// The client has its answer from a replica, which is only asked yet what a function has left there. If it fails
    /// now, that is gone with it, and the client need not hear of it.
    pub(super) fn is_done_on_replica(&self) -> bool {
        self.on_replica
            && self.taken
            && self.lease.state.owes_findings_only()
            && self.session.status() == TransactionStatus::Idle
            && self.session.pins().is_empty()
    }

    /// The client goes on here with whatever it sends.
    fn go_on(&mut self) -> Result<(), Fault> {
        if self.on_replica {
            let message = "a read left something in its session on a replica, where the session cannot go on";
            let report = Report::new(Severity::Fatal, SqlState::FEATURE_NOT_SUPPORTED, message)
                .with_hint("Write /* weir: primary */ in front of the statement.");
            return Err(Fault::Refused(Box::new(report)));
        }
        self.allowance = None;
        self.session.set_reading(false);
        Ok(())
    }

    fn flush(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
        if self.lease.connection.has_output()
            && let Poll::Ready(Err(error)) = self.lease.connection.poll_flush(context)
        {
            return Err(Fault::ServerGone(error));
        }
        if self.client.has_output()
            && let Poll::Ready(Err(_)) = self.client.poll_flush(context)
        {
            return Err(Fault::ClientGone);
        }
        Ok(())
    }

    fn told(&mut self, signal: Signal) -> Result<(), Fault> {
        match signal {
            Signal::Kill => Err(Fault::Ended(
                SqlState::ADMIN_SHUTDOWN,
                "terminating connection due to administrator command",
            )),
            Signal::IdleInTransactionTimeout if self.quiet => Err(Fault::Ended(
                SqlState::IDLE_IN_TRANSACTION_TIMEOUT,
                "terminating connection due to idle-in-transaction timeout",
            )),
            // A pinned client that runs nothing has no transaction to finish.
            Signal::Shutdown
                if self.lease.state.is_drained() && self.session.status() == TransactionStatus::Idle =>
            {
                Err(Fault::Ended(
                    SqlState::ADMIN_SHUTDOWN,
                    "terminating connection due to administrator command",
                ))
            }
            // The client has gone on meanwhile.
            Signal::IdleInTransactionTimeout
            | Signal::Shutdown
            | Signal::Trim
            | Signal::Cancel
            | Signal::IdleTimeout => Ok(()),
        }
    }

    /// The server closed its side. Its last words, if any, have been relayed.
    fn server_gone(&self) -> Fault {
        if self.lease.state.is_broken() {
            Fault::ServerEnded
        } else {
            Fault::ServerGone(std::io::ErrorKind::UnexpectedEof.into())
        }
    }
}

/// Why what follows on the same connection goes there.
fn staying(on_replica: bool, session: &Session) -> route::Reason {
    if on_replica {
        route::Reason::BlockOnReplica
    } else if session.status() == TransactionStatus::Idle {
        route::Reason::Pinned
    } else {
        route::Reason::BlockOnPrimary
    }
}
