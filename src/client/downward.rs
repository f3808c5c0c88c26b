//! The relay's way down: what has come from the server, to the session machine and on to the client.

use std::task::Context;

use super::fault::Fault;
use super::relay::Relay;
use super::routing::Routing;
use super::watching::ends_something;
use crate::route;
use crate::server::CancelTarget;
use crate::session::{self, Backend, Committed, Session, Verdict};
use crate::wire::backend;
use crate::wire::frame::{self, Frame, MESSAGE_BYTES_MAX, Next};

impl Relay<'_> {
    /// Passes on what has come from the server.
    pub(super) fn take_from_server(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
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
