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
use super::caching::Filling;
use super::fault::Fault;
use super::registry::{Activity, Handle, Signal};
use super::routing::Routing;
use super::watching::{ends_something, note_sent, note_unit};
use crate::insight::Watch;
use crate::net::Connection;
use crate::pg::{SqlState, TransactionStatus};
use crate::route;
use crate::server::{CancelTarget, Lease};
use crate::session::{self, Backend, Committed, Message, Session, UNIT_BYTES_MAX, Verdict};
use crate::wire::build::{Report, Severity};
use crate::wire::frame::{self, Frame, HEADER_BYTES, MESSAGE_BYTES_MAX, Next};
use crate::wire::{Malformed, backend, build, frontend};

/// A message longer than this is passed on without being held, in bytes.
const HELD_BYTES_MAX: usize = 1024 * 1024;

/// Messages without an answer yet, above which the client is not read.
const OWED_MAX: usize = 4096;

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

    /// Passes on what has come from the client.
    fn take_from_client(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
        loop {
            let settled = self.take_some_from_client(context)?;
            // What the next message waited for may be an answer that Weir has given at once.
            if !self.waiting || !settled || self.client.is_clogged() {
                return Ok(());
            }
        }
    }

    /// Gives whether Weir has answered some of it.
    fn take_some_from_client(&mut self, context: &mut Context<'_>) -> Result<bool, Fault> {
        let (mut at, mut run, mut settled) = (0, 0, false);
        let was_full = std::mem::take(&mut self.full);
        let looked = self.look_at_client(&mut at, &mut run);
        if at > 0 {
            self.doubt();
        }
        // What was taken is owed an answer, and so is sent, even if what follows it is malformed.
        let server = &mut **self.lease;
        if at > run {
            let bytes = &self.client.input()[run..at];
            server.connection.send(context, bytes).map_err(Fault::ServerGone)?;
        }
        server.connection.output().append(&mut self.before);
        if self.full && !was_full && server.state.is_in_batch() {
            // Its answers would otherwise wait for a Sync that has no room.
            build::empty(server.connection.output(), frontend::FLUSH);
        }
        if at > 0 {
            self.client.consume(at);
            self.taken = true;
            self.allowance = self.allowance.map(|allowance| allowance.saturating_sub(at));
            // What Weir answers by itself may be due at once, with nothing owed before it.
            let owed = server.state.owed();
            let answers = self.client.output();
            let said = answers.len();
            self.session.answer_local(&mut server.state, answers);
            // What was answered to units in front of this one may still wait there.
            self.may_rerun &= answers.len() == said;
            settled = server.state.owed() < owed;
        }
        looked.map(|()| settled)
    }

    /// Takes messages of the client: `at` is where they end, and `run` where those begin that go on as they are and are
    /// not in the server's output yet.
    fn look_at_client(&mut self, at: &mut usize, run: &mut usize) -> Result<(), Fault> {
        let server = &mut **self.lease;
        self.waiting = false;
        let end = self.allowance.unwrap_or(usize::MAX).min(self.client.input().len());
        loop {
            let input = &self.client.input()[*at..end];
            if self.passing_up > 0 {
                let count = self.passing_up.min(input.len());
                self.passing_up -= count;
                *at += count;
                if self.passing_up > 0 {
                    break;
                }
                continue;
            }
            if self.leaving {
                break;
            }
            if server.state.owed() >= OWED_MAX {
                self.full = true;
                self.waiting = true;
                break;
            }
            let has_taken = self.taken || *at > 0;
            if self.on_replica && self.allowance.is_none() && has_taken && !server.state.is_in_batch() {
                break;
            }
            if let Some(&tag) = input.first()
                && !frontend::is_known(tag)
            {
                return Err(Malformed::Unexpected(tag).into());
            }
            let (message, bytes) = match frame::next(input, self.message_bytes_max)? {
                Next::NeedHeader => break,
                Next::NeedBody { tag, frame_bytes } => {
                    let held = !matches!(tag, frontend::COPY_DATA) && input.len() < HELD_BYTES_MAX;
                    if held {
                        break;
                    }
                    self.passing_up = frame_bytes - input.len();
                    let body = &input[HEADER_BYTES..];
                    (Message { tag, body, body_bytes: frame_bytes - HEADER_BYTES }, input.len())
                }
                Next::Frame(frame) => {
                    let body = frame.body();
                    (Message { tag: frame.tag, body, body_bytes: body.len() }, frame.bytes.len())
                }
            };
            if self.session.must_wait(message, &server.state)? {
                self.passing_up = 0;
                self.waiting = true;
                break;
            }
            match message.tag {
                frontend::TERMINATE => {
                    self.leaving = true;
                    break;
                }
                frontend::QUERY | frontend::EXECUTE | frontend::FUNCTION_CALL => self.traffic.queries += 1,
                _ => {}
            }
            if let Some(routing) = &mut self.routing {
                let why = routing.foresee(self.session, message, &server.state, self.proxy)?;
                let in_block = self.session.status() == TransactionStatus::InBlock;
                if self.on_replica && in_block && why.is_some_and(route::would_show_replica) {
                    return Err(refused_in_snapshot());
                }
            }
            // Where nobody else has analyzed it.
            if self.routing.is_none()
                && message.tag == frontend::QUERY
                && message.is_whole()
                && let Ok(text) = frontend::query(message.body)
            {
                let analysis = self.proxy.analysis(self.worker, text, self.session.lexing());
                self.session.analyzed(Some(analysis));
            }
            let owed = server.state.owed();
            if let Some(watch) = &mut self.watch {
                note_unit(watch, message.tag, &server.state, self.session);
            }
            let verdict =
                self.session.frontend(message, &mut server.state, &self.proxy.sessions, &mut self.before)?;
            if let Some(watch) = &mut self.watch {
                note_sent(watch, message, &server.state, owed, self.session);
            }
            if let Some(notifies) = self.session.take_notifies() {
                server.cancel.note_sender(notifies);
                self.notifies = true;
            }
            if let Some(database) = self.session.take_wanted_alone() {
                self.proxy.tenants.release_database(&database);
                if let Some(splitting) = &self.proxy.splitting {
                    splitting.hold(&database);
                }
            }
            if !self.before.is_empty() || verdict == Verdict::Replace {
                server.connection.output().extend_from_slice(&self.client.input()[*run..*at]);
                server.connection.output().append(&mut self.before);
                *run = if verdict == Verdict::Replace { *at + bytes } else { *at };
            }
            *at += bytes;
        }
        Ok(())
    }

    /// Passes on what has come from the server.
    fn take_from_server(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
        let (mut at, mut run) = (0, 0);
        let looked = self.look_at_server(&mut at, &mut run);
        let input = self.lease.connection.input();
        // Of a read that is run again elsewhere the client sees nothing.
        let sent = if at > run && !matches!(looked, Err(Fault::Replica)) {
            self.may_rerun = false;
            self.traffic.sent += (at - run) as u64;
            if self.routing.as_ref().is_some_and(|routing| routing.is_telling()) {
                self.client.output().extend_from_slice(&input[run..at]);
                Ok(())
            } else {
                self.client.send(context, &input[run..at]).map_err(|_| Fault::ClientGone)
            }
        } else {
            Ok(())
        };
        // What the session machine was told of is gone, whatever became of it: it is nobody else's.
        self.lease.connection.consume(at);
        self.down += at as u64;
        if self.lease.state.is_drained()
            && let Some(routing) = &mut self.routing
        {
            routing.no_doubt();
        }
        looked.and(sent)
    }

    /// Takes messages of the server: `at` is where they end, and `run` where those begin that go on as they are and are
    /// not in the client's output yet.
    fn look_at_server(&mut self, at: &mut usize, run: &mut usize) -> Result<(), Fault> {
        loop {
            let is_unheard = self.may_rerun || self.is_done_on_replica();
            let server = &mut **self.lease;
            let input = &server.connection.input()[*at..];
            if self.passing_down > 0 {
                let count = self.passing_down.min(input.len());
                if let Some(filling) = &mut self.filling {
                    filling.row(&input[..count]);
                }
                self.passing_down -= count;
                *at += count;
                if self.passing_down > 0 {
                    return Ok(());
                }
                continue;
            }
            let whole = match frame::next(input, MESSAGE_BYTES_MAX).map_err(session::Confused::Malformed)? {
                Next::NeedHeader => return Ok(()),
                Next::NeedBody { tag, frame_bytes } => {
                    if is_relayed(tag) && !self.session.opens(tag, &server.state) {
                        self.passing_down = frame_bytes;
                        continue;
                    }
                    return Ok(());
                }
                Next::Frame(whole) => whole,
            };
            let bytes = whole.bytes.len();
            if is_relayed(whole.tag) && !self.session.opens(whole.tag, &server.state) {
                if let Some(filling) = &mut self.filling {
                    filling.message(whole.tag, whole.bytes);
                }
                *at += bytes;
                continue;
            }
            if is_unheard && is_replicas_fault(whole)? {
                return Err(Fault::Replica);
            }
            let answering = server.state.answering();
            let ends = ends_something(whole);
            let tag = whole.tag;
            let result = self.session.backend(
                whole,
                &mut server.state,
                &self.proxy.sessions,
                &mut self.before,
                &mut self.after,
            )?;
            let mut verdict = result.verdict;
            // Somebody has committed: that may be seen here before that commit is answered there.
            if let Some(routing) = &mut self.routing
                && tells_of_others(whole)
                && !self.on_replica
            {
                routing.others_committed();
            }
            if whole.tag == backend::NOTIFICATION {
                verdict = notification(whole, &server.cancel, &mut self.before)?;
            }
            // In a lazy block the client gets a ReadyForQuery of ours.
            if let Some(filling) = &mut self.filling
                && (verdict == Verdict::Forward || result.finished.is_some())
            {
                filling.message(whole.tag, whole.bytes);
            }
            if ends {
                let became = (verdict, result.finished.is_some());
                self.note_answered(tag, answering, became, (*at, *at + bytes));
            }
            self.pass_down(verdict, at, run, bytes);
            self.note_reply(result)?;
            if result.fatal {
                return Err(Fault::ServerEnded);
            }
            // What a server says behind its last answer is not for a client that is done with it.
            if result.finished.is_some() && self.session.may_release(&self.lease.state) {
                return Ok(());
            }
        }
    }

    /// A message of `bytes` at `at` goes to the client as it is, or not, with what is written in front of and behind it.
    fn pass_down(&mut self, verdict: Verdict, at: &mut usize, run: &mut usize, bytes: usize) {
        let end = *at + bytes;
        if !self.before.is_empty() || !self.after.is_empty() || verdict == Verdict::Replace {
            let kept = if verdict == Verdict::Forward { end } else { *at };
            let input = self.lease.connection.input();
            let output = self.client.output();
            let said = output.len();
            output.extend_from_slice(&input[*run..*at]);
            output.append(&mut self.before);
            output.extend_from_slice(&input[*at..kept]);
            output.append(&mut self.after);
            // Of answers to what Weir asked in front it hears nothing.
            self.may_rerun &= output.len() == said;
            self.traffic.sent += (kept - *run) as u64;
            *run = end;
        }
        *at = end;
    }

    /// What a reply means to others than the client.
    #[inline]
    fn note_reply(&mut self, reply: Backend) -> Result<(), Fault> {
        if reply.committed != Committed::Nothing {
            announce(reply.committed, self.session, self.routing.as_deref_mut());
        }
        let server = &mut **self.lease;
        if let Some(finished) = reply.finished {
            self.traffic.transactions += u64::from(finished.transaction);
            if let Some(routing) = &mut self.routing
                && finished.transaction
                && server.state.is_drained()
            {
                routing.settled();
            }
        }
        if reply.again {
            let output = server.connection.output();
            self.session.run_again(&mut server.state, &self.proxy.sessions, output)?;
        }
        Ok(())
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

fn refused_in_snapshot() -> Fault {
    let message = "this statement belongs on the primary, and the snapshot of its block is a replica's";
    let report = Report::new(Severity::Fatal, SqlState::FEATURE_NOT_SUPPORTED, message)
        .with_hint("Write /* weir: primary */ in front of the first statement of the block.");
    Fault::Refused(Box::new(report))
}

impl Relay<'_> {
    /// What the client sent may be committed from the moment it is passed on: until the answer nobody is served what it
    /// may make old.
    fn doubt(&mut self) {
        if let Some(routing) = &mut self.routing {
            routing.doubt(&self.session.committing(&self.lease.state));
        }
    }
}

/// Others must see what was committed before the client is told.
fn announce(committed: Committed, session: &mut Session, routing: Option<&mut Routing>) {
    let all = if committed == Committed::All { Some(session.take_written()) } else { None };
    if let Some(routing) = routing {
        routing.committed(all.as_ref().unwrap_or_else(|| session.written()));
    }
}

/// Whether another server would not have said this: an error, or the warning of one that ends because another of its
/// processes has crashed.
fn is_replicas_fault(error: Frame<'_>) -> Result<bool, Fault> {
    if !matches!(error.tag, backend::ERROR | backend::NOTICE) {
        return Ok(false);
    }
    let view = backend::error(error.body()).map_err(session::Confused::Malformed)?;
    let message = String::from_utf8_lossy(view.message);
    Ok(view.code.is_some_and(|code| route::retry(code, &message)))
}

/// Whether a message tells its client what others have committed: a notification, or an error that is due to a row of
/// theirs (manual, Appendix A: classes 23 and 40).
fn tells_of_others(message: Frame<'_>) -> bool {
    match message.tag {
        backend::NOTIFICATION => true,
        backend::ERROR => backend::error(message.body())
            .ok()
            .and_then(|view| view.code)
            .is_some_and(|code| matches!(code.as_str().get(..2), Some("23" | "40"))),
        _ => false,
    }
}

/// Messages that are relayed without a look, unless the session machine asks for one.
fn is_relayed(tag: u8) -> bool {
    matches!(tag, backend::DATA_ROW | backend::COPY_DATA)
}

fn notification(whole: Frame<'_>, target: &CancelTarget, out: &mut Vec<u8>) -> Result<Verdict, Fault> {
    let client_of = |process, channel: &[u8]| target.sender(process, channel);
    Ok(session::translate_notification(whole, client_of, out).map_err(session::Confused::Malformed)?)
}
