//! Messages from the server: which the client sees, and what each ends.

use std::sync::Arc;

use super::naming::SCRATCH_NAME;
use super::server_state::{Expected, Unnamed};
use super::statement::SERVER_NAME_PREFIX;
use super::writes::Committed;
use super::{Finished, ServerState, Session, Shared, Verdict};
use crate::pg::{ProcessId, SqlState, TransactionStatus};
use crate::sql::{Analysis, Command, Pin, Statement, command};
use crate::wire::frame::{Fields, Frame};
use crate::wire::{Malformed, backend, build};

/// What the shell is told about a backend message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// What becomes of the message.
    pub verdict: Verdict,
    /// At ReadyForQuery that the client sees: what ended.
    pub finished: Option<Finished>,
    /// The server ends the session after this message.
    pub fatal: bool,
    /// [`Session::run_again`] is due.
    pub again: bool,
    /// What of the writes was committed, or may have been: others must see it before the client is told.
    pub committed: Committed,
}

impl Backend {
    const FORWARD: Self = Self {
        verdict: Verdict::Forward,
        finished: None,
        fatal: false,
        again: false,
        committed: Committed::Nothing,
    };
    const SWALLOW: Self = Self {
        verdict: Verdict::Replace,
        finished: None,
        fatal: false,
        again: false,
        committed: Committed::Nothing,
    };
}

/// A server that answered out of order: the connection is unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Confused {
    /// Not a message.
    #[error("malformed message from the server: {0}")]
    Malformed(#[from] Malformed),
    /// A reply nobody waits for.
    #[error("unexpected message type {0:#04x} from the server")]
    Unexpected(u8),
}

impl Session {
    /// Whether a message of this type must be whole before [`Session::backend`] looks at it; all others are
    /// relayed as they come.
    #[inline]
    pub fn opens(&self, tag: u8, server: &ServerState) -> bool {
        match tag {
            backend::DATA_ROW => {
                translates_process_id(server)
                    || server.in_setup()
                    // An answer of ours is due in front of it.
                    || server.queue.front().is_some_and(is_ours)
            }
            backend::COPY_DATA => false,
            _ => true,
        }
    }

    /// Takes one message from the server. What it appends to `before` goes to the client in front of the message
    /// or in its place; what it appends to `after`, behind it.
    pub fn backend(
        &mut self,
        frame: Frame<'_>,
        server: &mut ServerState,
        shared: &Shared,
        before: &mut Vec<u8>,
        after: &mut Vec<u8>,
    ) -> Result<Backend, Confused> {
        answer_due(server, before);
        let result = if server.in_setup() {
            self.setup_reply(frame, server, after)?
        } else {
            self.reply(frame, server, shared, before)?
        };
        self.answer_local(server, after);
        Ok(result)
    }

    /// Writes the answers that Weir gives itself, if the server owes nothing any more or the client wants them now; else
    /// they go out with its next answer, in one write.
    pub fn answer_local(&mut self, server: &mut ServerState, out: &mut Vec<u8>) {
        let mut ours = server.queue.iter().take_while(|expected| is_ours(expected));
        let is_wanted = ours.any(|expected| matches!(expected, Expected::Flush));
        if is_wanted || server.queue.iter().all(is_ours) {
            answer_due(server, out);
        }
    }

    fn reply(
        &mut self,
        frame: Frame<'_>,
        server: &mut ServerState,
        shared: &Shared,
        before: &mut Vec<u8>,
    ) -> Result<Backend, Confused> {
        let unexpected = Err(Confused::Unexpected(frame.tag));
        match frame.tag {
            backend::DATA_ROW => Ok(self.row(frame, server, before)),
            backend::COMMAND_COMPLETE if matches!(server.queue.front(), Some(Expected::ForgetSequences)) => {
                server.queue.pop_front();
                Ok(Backend::SWALLOW)
            }
            backend::COMMAND_COMPLETE => {
                let tag = backend::command_tag(frame.body())?;
                self.command_complete(tag, server, shared);
                Ok(Backend { committed: self.committed_by_tag(tag), ..Backend::FORWARD })
            }
            // A portal that was stopped by its row limit has run all the same.
            backend::PORTAL_SUSPENDED => {
                self.command_complete(b"", server, shared);
                Ok(Backend::FORWARD)
            }
            backend::EMPTY_QUERY => {
                if let Some(Expected::Execute(_)) = server.queue.front() {
                    server.queue.pop_front();
                }
                Ok(Backend::FORWARD)
            }
            backend::READY_FOR_QUERY => {
                self.ready_for_query(backend::ready_for_query(frame.body())?, server, shared, before)
            }
            backend::PARSE_COMPLETE => match server.queue.pop_front() {
                Some(Expected::Parse { shown: true, .. }) => Ok(Backend::FORWARD),
                Some(Expected::Parse { shown: false, .. }) => Ok(Backend::SWALLOW),
                _ => unexpected,
            },
            backend::BIND_COMPLETE => match server.queue.pop_front() {
                Some(Expected::Bind { shown: true, is_unknown, .. }) => {
                    if is_unknown {
                        self.pins.insert(Pin::UnknownStatement);
                    }
                    Ok(Backend::FORWARD)
                }
                Some(Expected::Bind { shown: false, .. }) => Ok(Backend::SWALLOW),
                _ => unexpected,
            },
            backend::CLOSE_COMPLETE => match server.queue.pop_front() {
                Some(Expected::Close { shown: true, .. } | Expected::CloseSql(_)) => Ok(Backend::FORWARD),
                Some(Expected::Close { shown: false, .. }) => Ok(Backend::SWALLOW),
                _ => unexpected,
            },
            backend::ROW_DESCRIPTION | backend::NO_DATA => {
                if let Some(Expected::Describe) = server.queue.front() {
                    server.queue.pop_front();
                }
                Ok(Backend::FORWARD)
            }
            backend::COPY_IN => {
                copy_in_begins(server);
                Ok(Backend::FORWARD)
            }
            backend::ERROR => self.error(frame, server, before),
            backend::PARAMETER_STATUS => {
                let (name, value) = backend::parameter_status(frame.body())?;
                server.reported.report(name, value);
                Ok(if self.told(name, value) { Backend::FORWARD } else { Backend::SWALLOW })
            }
            backend::NOTICE
            | backend::NOTIFICATION
            | backend::PARAMETER_DESCRIPTION
            | backend::COPY_OUT
            | backend::COPY_BOTH
            | backend::COPY_DATA
            | backend::COPY_DONE
            | backend::FUNCTION_CALL => Ok(Backend::FORWARD),
            _ => unexpected,
        }
    }

    /// Replies to a query of ours: the client sees none of them, but learns of settings that now differ from what
    /// it was told.
    fn setup_reply(
        &mut self,
        frame: Frame<'_>,
        server: &mut ServerState,
        after: &mut Vec<u8>,
    ) -> Result<Backend, Confused> {
        match frame.tag {
            backend::DATA_ROW => {
                if let Some(Expected::Inspection(findings)) = server.queue.front_mut() {
                    findings.row(frame.body())?;
                }
            }
            backend::ERROR if matches!(server.queue.front(), Some(Expected::Inspection(_))) => {
                if let Some(Expected::Inspection(findings)) = server.queue.front_mut() {
                    findings.fail();
                }
            }
            backend::ERROR if matches!(server.queue.front(), Some(Expected::Failure)) => {}
            backend::READY_FOR_QUERY => {
                if let Some(Expected::Inspection(findings)) = server.queue.pop_front() {
                    self.inspected(*findings, server);
                }
                if !server.in_setup() {
                    self.tell_settings(server, after);
                }
                return Ok(Backend { again: Self::is_due_again(server), ..Backend::SWALLOW });
            }
            backend::PARAMETER_STATUS => {
                let (name, value) = backend::parameter_status(frame.body())?;
                server.reported.report(name, value);
            }
            backend::ERROR => {
                server.broken = true;
                // Not its message, which may quote the setting's value.
                let code = backend::error(frame.body())?.code.unwrap_or(SqlState::INTERNAL_ERROR);
                tracing::warn!(sqlstate = %code, "a server refused settings that its client had");
                return Ok(Backend { fatal: true, ..Backend::FORWARD });
            }
            // An asynchronous message may come at any time, and it is the client's.
            backend::NOTIFICATION => return Ok(Backend::FORWARD),
            _ => {}
        }
        Ok(Backend::SWALLOW)
    }

    /// Tells the client of reported settings whose values here differ from what it was last told.
    pub fn tell_settings(&mut self, server: &mut ServerState, out: &mut Vec<u8>) {
        if self.view.is_same(&server.reported) {
            return;
        }
        if !self.view.is_equal(&server.reported) {
            let reported = server.reported.clone();
            for (name, value) in reported.iter() {
                if self.told(name, value) {
                    build::parameter_status(out, name, value);
                }
            }
        }
        server.reported = self.view.clone();
    }

    /// Notes that the client is told of a setting; gives whether it is news to it.
    fn told(&mut self, name: &[u8], value: &[u8]) -> bool {
        let news = self.view.report(name, value);
        if news && matches!(name, b"standard_conforming_strings" | b"client_encoding") {
            self.lexing = self.view.lexing();
        }
        news
    }

    fn command_complete(&mut self, tag: &[u8], server: &mut ServerState, shared: &Shared) {
        match server.queue.front_mut() {
            Some(Expected::Execute(_)) => {
                let Some(Expected::Execute(running)) = server.queue.pop_front() else { return };
                let statement =
                    running.as_ref().and_then(|running| running.statement.analysis.statements.first());
                self.note_written(running.as_ref().and_then(|running| running.plan.as_deref()), statement);
                if let (Some(running), Some(statement)) = (&running, statement) {
                    self.completed(statement, running.bound.as_deref(), tag, server, shared);
                }
            }
            Some(Expected::Query { analysis, plan, ended, .. }) => {
                let (analysis, index): (Arc<Analysis>, usize) = (analysis.clone(), *ended);
                *ended += 1;
                let statement = analysis.statements.get(index);
                self.note_written(plan.as_deref(), statement);
                if let Some(statement) = statement {
                    if statement.command == Command::Copy(command::Copy::FromStdin) {
                        copy_in_ended(server);
                    }
                    self.completed(statement, None, tag, server, shared);
                }
            }
            _ => {}
        }
    }

    fn ready_for_query(
        &mut self,
        status: TransactionStatus,
        server: &mut ServerState,
        shared: &Shared,
        before: &mut Vec<u8>,
    ) -> Result<Backend, Confused> {
        let ended = server.queue.pop_front();
        if !matches!(ended, Some(Expected::Sync | Expected::Query { .. } | Expected::FunctionCall)) {
            return Err(Confused::Unexpected(backend::READY_FOR_QUERY));
        }
        if matches!(ended, Some(Expected::FunctionCall)) {
            self.note_written(None, None);
        }
        let failed = std::mem::take(&mut server.failed);
        server.copying_in = false;
        // A simple query ends the batch in front of it, too: it was not skipped, and nothing came behind it.
        server.in_batch &= !server.queue.is_empty();
        if server.doubts > 0 {
            server.count_doubts();
        }
        Self::answered(server);
        let finished = Some(self.ready(status, failed, server, shared));
        let committed = self.committed_by_itself(status);
        if let Some(shown) = self.lazy_read_ended(failed) {
            build::ready_for_query(before, shown);
            return Ok(Backend { finished, committed, ..Backend::SWALLOW });
        }
        Ok(Backend { finished, committed, ..Backend::FORWARD })
    }

    /// An error: the server skips the rest of the batch, and so nothing of it will be answered.
    fn error(
        &mut self,
        frame: Frame<'_>,
        server: &mut ServerState,
        before: &mut Vec<u8>,
    ) -> Result<Backend, Confused> {
        let view = backend::error(frame.body())?;
        if view.is_fatal() {
            server.broken = true;
            return Ok(Backend { fatal: true, ..Backend::FORWARD });
        }
        if Self::mends(view, server) {
            return Ok(Backend::SWALLOW);
        }
        server.failed = true;
        server.copying_in = false;
        let committed = self.note_failed(view.code, server);
        let mut verdict = Verdict::Forward;
        if matches!(
            view.code,
            Some(
                SqlState::DUPLICATE_PREPARED_STATEMENT
                    | SqlState::INVALID_SQL_STATEMENT_NAME
                    // Bind and EXECUTE with more or fewer parameters than there are.
                    | SqlState::PROTOCOL_VIOLATION
                    | SqlState::SYNTAX_ERROR
            )
        ) && let Some((server_name, client_name)) = names_in_error(view.message, server)
            && let Some(message) = replaced(view.message, &server_name, &client_name)
        {
            build::error_with_message(before, frame.body(), &message);
            verdict = Verdict::Replace;
        }
        self.skip_batch(server);
        Ok(Backend { verdict, committed, ..Backend::FORWARD })
    }

    /// Takes back what was expected of messages that the server now skips: all up to the next Sync, or the one
    /// simple query or function call that failed.
    fn skip_batch(&mut self, server: &mut ServerState) {
        if let Some(Expected::Query { renamed, .. }) = server.queue.front_mut() {
            if let Some(undo) = renamed.take() {
                self.undo_name(*undo, server);
            }
            return;
        }
        if let Some(Expected::Parse { undo: Some(undo), .. }) = server.queue.front_mut()
            && undo.name.is_empty()
        {
            // The Parse that failed, unlike one that is skipped, has already dropped the unnamed statement.
            undo.before = None;
        }
        // The latest change is taken back first.
        for skipped in skipped_up_to_ready(server).into_iter().rev() {
            if matches!(skipped, Expected::Query { .. }) {
                // It did not destroy the unnamed statement.
                server.unnamed = Unnamed::InDoubt;
            }
            match skipped {
                Expected::Parse { statement, undo, .. } => {
                    match statement {
                        Some(statement) => server.not_prepared(&statement),
                        None => server.unnamed = Unnamed::InDoubt,
                    }
                    if let Some(undo) = undo {
                        self.undo_name(*undo, server);
                    }
                }
                Expected::Close { evicted: Some(statement), .. } => {
                    server.prepared.insert(statement);
                }
                Expected::Close { evicted: None, .. } => server.unnamed = Unnamed::InDoubt,
                Expected::CloseSql(name) => self.note_sql_name(name),
                Expected::ForgetSequences => self.same_server = false,
                Expected::Local { undo: Some(undo), .. } | Expected::Query { renamed: Some(undo), .. } => {
                    self.undo_name(*undo, server);
                }
                Expected::Forgot(statement) => self.undo_unnamed(statement, server),
                _ => {}
            }
        }
    }

    /// The server is given up, and what was asked of it is asked again: names mean again what they meant.
    pub fn rewind(&mut self, server: &mut ServerState) {
        let owed = std::mem::take(&mut server.queue);
        for owed in owed.into_iter().rev() {
            match owed {
                Expected::Parse { undo: Some(undo), .. }
                | Expected::Local { undo: Some(undo), .. }
                | Expected::Query { renamed: Some(undo), .. } => self.undo_name(*undo, server),
                Expected::CloseSql(name) => self.note_sql_name(name),
                Expected::Forgot(statement) => self.unnamed = statement,
                _ => {}
            }
        }
        server.broken = true;
    }

    /// A DataRow: relayed, but for the one that answers `SELECT pg_backend_pid()`.
    fn row(&self, frame: Frame<'_>, server: &ServerState, before: &mut Vec<u8>) -> Backend {
        if !translates_process_id(server) {
            return Backend::FORWARD;
        }
        let ProcessId(theirs) = server.process;
        let ProcessId(ours) = self.process;
        match backend::single_value(frame.body()) {
            Some(value) if value == theirs.to_be_bytes() => {
                build::single_value_row(before, &ours.to_be_bytes());
            }
            Some(value) if value == theirs.to_string().as_bytes() => {
                build::single_value_row(before, ours.to_string().as_bytes());
            }
            _ => return Backend::FORWARD,
        }
        Backend::SWALLOW
    }
}

impl ServerState {
    /// Whether the replies that come now answer a query of ours.
    #[inline]
    pub fn in_setup(&self) -> bool {
        matches!(self.queue.front(), Some(Expected::Setup | Expected::Failure | Expected::Inspection(_)))
    }
}

/// What the server now skips: all up to Sync, simple queries too (manual, 55.2.3). If Sync has yet to come, it skips what
/// comes before it.
fn skipped_up_to_ready(server: &mut ServerState) -> Vec<Expected> {
    if let Some(Expected::FunctionCall) = server.queue.front() {
        return Vec::new();
    }
    let ends = |expected: &Expected| {
        matches!(expected, Expected::Sync | Expected::Setup | Expected::Failure | Expected::Inspection(_))
    };
    let end = server.queue.iter().position(ends);
    server.skipping = end.is_none();
    server.queue.drain(..end.unwrap_or(server.queue.len())).collect()
}

/// COPY FROM STDIN begins: a Sync that the client sent before CopyDone is ignored by the server and will not be
/// answered (libpq sends Sync right behind Execute).
fn copy_in_begins(server: &mut ServerState) {
    let is_extended = matches!(server.queue.front(), Some(Expected::Execute(_)));
    let end = server.queue.iter().position(|expected| matches!(expected, Expected::CopyEnd));
    let mut behind = server.queue.split_off(end.unwrap_or(server.queue.len()));
    let is_ignored = |expected: &Expected| matches!(expected, Expected::Sync);
    server.queue.retain(|expected| !is_ignored(expected));
    // The batch is open until a Sync that counts.
    server.in_batch |= is_extended && !behind.iter().any(is_ignored);
    server.copying_in = behind.is_empty();
    server.queue.append(&mut behind);
    if server.doubts > 0 {
        server.count_doubts();
    }
}

/// COPY FROM STDIN in a simple query has taken its data; another may follow in the same string.
fn copy_in_ended(server: &mut ServerState) {
    if let Some(Expected::CopyEnd) = server.queue.get(1) {
        server.queue.remove(1);
    }
}

/// `text` with the first `from` replaced by `to`.
fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
    let at = text.windows(from.len()).position(|window| window == from)?;
    Some([&text[..at], to, &text[at + from.len()..]].concat())
}

/// The NotificationResponse with the process id that its sender's client knows; `client_of` finds it by server process
/// and channel.
pub fn translate_notification(
    frame: Frame<'_>,
    client_of: impl Fn(ProcessId, &[u8]) -> Option<ProcessId>,
    out: &mut Vec<u8>,
) -> Result<Verdict, Malformed> {
    let mut fields = Fields::new(frame.body());
    let process = ProcessId(fields.u32()?);
    let rest = fields.rest();
    match client_of(process, Fields::new(rest).cstr()?) {
        Some(client) => {
            build::notification(out, client, rest);
            Ok(Verdict::Replace)
        }
        None => Ok(Verdict::Forward),
    }
}

/// A statement's name on the server, and the client's name for it.
type OurNameAndTheirs = (Box<[u8]>, Box<[u8]>);

/// Our name and the client's of the statement that the failed message spoke of.
fn names_in_error(message: &[u8], server: &ServerState) -> Option<OurNameAndTheirs> {
    match server.queue.front() {
        Some(Expected::Bind { shown: true, name, .. }) => {
            let name = name.as_deref().unwrap_or_default();
            Some((server_name_in(message)?.into(), name.into()))
        }
        Some(Expected::Parse { statement: None, undo: Some(undo), .. }) => {
            Some((SCRATCH_NAME.into(), undo.name.clone()))
        }
        Some(Expected::Execute(Some(running))) => match &running.statement.analysis.single()?.command {
            Command::Deallocate(name) | Command::Prepare(name) | Command::Execute(name) => {
                Some((server_name_in(message)?.into(), name.as_bytes().into()))
            }
            _ => None,
        },
        Some(Expected::Query { renamed: Some(undo), .. }) => {
            let existing = undo.before.as_ref()?;
            Some((existing.server_name.clone(), undo.name.clone()))
        }
        _ => None,
    }
}

/// The name of ours that a message holds.
fn server_name_in(message: &[u8]) -> Option<&[u8]> {
    let at = message.windows(SERVER_NAME_PREFIX.len()).position(|window| window == SERVER_NAME_PREFIX)?;
    let digits = message[at + SERVER_NAME_PREFIX.len()..].iter().take_while(|byte| byte.is_ascii_hexdigit());
    Some(&message[at..at + SERVER_NAME_PREFIX.len() + digits.count()])
}

/// Whether the rows that come now answer `SELECT pg_backend_pid()`, whose value must be the one that the
/// client was given at login.
#[inline]
fn translates_process_id(server: &ServerState) -> bool {
    let asks = |statement: Option<&Statement>| statement.is_some_and(|statement| statement.backend_pid);
    match server.queue.front() {
        Some(Expected::Execute(Some(running))) => asks(running.statement.analysis.statements.first()),
        Some(Expected::Query { analysis, ended, .. }) => asks(analysis.statements.get(*ended)),
        _ => false,
    }
}

/// Replies that are not the server's to give.
fn is_ours(expected: &Expected) -> bool {
    matches!(expected, Expected::Local { .. } | Expected::CopyEnd | Expected::Forgot(_) | Expected::Flush)
}

/// Writes the answers of ours whose turn has come.
fn answer_due(server: &mut ServerState, out: &mut Vec<u8>) {
    while server.queue.front().is_some_and(is_ours) {
        if let Some(Expected::Local { tag, .. }) = server.queue.pop_front() {
            build::empty(out, tag);
        }
    }
}
