//! The relay's way up: what has come from the client, to the session machine and on to the server.

use std::task::Context;

use super::fault::Fault;
use super::relay::Relay;
use super::watching::{note_sent, note_unit};
use crate::pg::{SqlState, TransactionStatus};
use crate::route;
use crate::session::{Message, Verdict};
use crate::wire::build::{Report, Severity};
use crate::wire::frame::{self, HEADER_BYTES, Next};
use crate::wire::{Malformed, build, frontend};

/// A message longer than this is passed on without being held, in bytes.
const HELD_BYTES_MAX: usize = 1024 * 1024;

/// Messages without an answer yet, above which the client is not read.
const OWED_MAX: usize = 4096;

impl Relay<'_> {
    /// Passes on what has come from the client.
    pub(super) fn take_from_client(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
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

    /// What the client sent may be committed from the moment it is passed on: until the answer nobody is served what it
    /// may make old.
    pub(super) fn doubt(&mut self) {
        if let Some(routing) = &mut self.routing {
            routing.doubt(&self.session.committing(&self.lease.state));
        }
    }
}

fn refused_in_snapshot() -> Fault {
    let message = "this statement belongs on the primary, and the snapshot of its block is a replica's";
    let report = Report::new(Severity::Fatal, SqlState::FEATURE_NOT_SUPPORTED, message)
        .with_hint("Write /* weir: primary */ in front of the first statement of the block.");
    Fault::Refused(Box::new(report))
}
