//! Running a statement again that failed for reasons of ours.
//!
//! A statement that runs prepared under a name of ours, shared by many clients, can fail where the client's own would
//! not have: its tables were changed past the proxy ("cached plan must not change result type"), or the server forgot
//! it (a function ran `DEALLOCATE ALL`). Outside of a transaction block nothing has happened yet: it is prepared anew
//! and run again, and its client sees only that.
//!
//! This is done for the plain batch: one Bind, what is asked of its portal, Sync. Its messages are kept, as the client
//! sent them, until it is answered. A simple query that runs as a template (`session::simple`) is kept likewise: what the
//! server says of the template may speak of what the client did not write, so at any error in front of the first row it
//! is run again as it came.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::server_state::{Expected, Unnamed};
use super::{Message, Refusal, ServerState, Session, Shared, Statement, Verdict};
use crate::pg::{SqlState, TransactionStatus};
use crate::wire::backend::ErrorView;
use crate::wire::frame::{self, MESSAGE_BYTES_MAX, Next};
use crate::wire::{build, frontend};

/// A longer batch is not kept, in bytes.
const KEPT_BYTES_MAX: usize = 16 * 1024;

/// The function of PostgreSQL that finds out (`R` in ErrorResponse); the message itself may be translated.
const REVALIDATION: &[u8] = b"RevalidateCachedQuery";

/// The batch under way on a server connection, as far as it may be run again.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// From Bind on, or the simple query; empty if it may not.
    messages: Vec<u8>,
    /// How many those are.
    count: usize,
    /// What Bind names, or the template.
    statement: Option<Arc<Statement>>,
    /// The portal's description is asked for.
    describes: bool,
    /// Sync was the last of them.
    complete: bool,
    /// It is a simple query that runs as a template.
    is_template: bool,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    First,
    /// It failed; once the server is ready it is run again.
    Due,
    /// It is being run again: a second failure is the client's.
    Second,
}

impl Again {
    /// The batch may not be run again.
    pub(super) fn forget(&mut self) {
        self.messages.clear();
        self.count = 0;
        self.statement = None;
        self.describes = false;
        self.complete = false;
        self.is_template = false;
    }

    fn keep(&mut self, message: Message<'_>) {
        if message.is_whole() && self.messages.len() + message.body.len() <= KEPT_BYTES_MAX {
            build::frame(&mut self.messages, message.tag, |body| body.extend_from_slice(message.body));
            self.count += 1;
        } else {
            self.forget();
        }
    }
}

impl Session {
    /// The client binds a statement that the server has under a name of ours.
    pub(super) fn keep_bind(
        &mut self,
        message: Message<'_>,
        statement: &Arc<Statement>,
        server: &mut ServerState,
    ) {
        let is_preparation = |expected: &Expected| {
            matches!(expected, Expected::Parse { .. } | Expected::Close { .. } | Expected::Local { .. })
                || matches!(expected, Expected::Setup | Expected::Inspection(_))
        };
        let plain = self.status == TransactionStatus::Idle && server.queue.iter().all(is_preparation);
        server.again.forget();
        if plain && server.again.stage == Stage::First {
            server.again.keep(message);
            server.again.statement = Some(Arc::clone(statement));
        }
    }

    /// A simple query was sent as the template `statement`.
    pub(super) fn keep_template(message: Message<'_>, statement: Arc<Statement>, server: &mut ServerState) {
        server.again.forget();
        server.again.keep(message);
        server.again.statement = Some(statement);
        server.again.is_template = true;
    }

    /// Whether what is sent now is run for the second time.
    pub(super) fn is_second_time(server: &ServerState) -> bool {
        server.again.stage == Stage::Second
    }

    /// Another message of the client has been taken.
    #[inline]
    pub(super) fn keep_for_again(message: Message<'_>, server: &mut ServerState) {
        if server.again.messages.is_empty() {
            return;
        }
        match message.tag {
            frontend::BIND => {}
            frontend::DESCRIBE | frontend::EXECUTE if !server.again.complete => {
                server.again.keep(message);
                server.again.describes |= message.tag == frontend::DESCRIBE;
            }
            frontend::SYNC if !server.again.complete => {
                server.again.keep(message);
                server.again.complete = true;
            }
            _ => server.again.forget(),
        }
    }

    /// An error came. If it is ours to mend, the client does not see it, nor the ReadyForQuery behind it.
    pub(super) fn mends(error: ErrorView<'_>, server: &mut ServerState) -> bool {
        if server.again.is_template {
            return Self::mends_template(error, server);
        }
        let again = &server.again;
        let ours = match error.code {
            // Who asks for no description would take the new rows for the old: it must be told.
            Some(SqlState::FEATURE_NOT_SUPPORTED) => error.routine == REVALIDATION && again.describes,
            Some(SqlState::INVALID_SQL_STATEMENT_NAME) => true,
            _ => false,
        };
        let fails = matches!(server.queue.front(), Some(Expected::Bind { shown: true, .. }));
        if !ours || !fails || !again.complete || server.queue.len() != again.count {
            return false;
        }
        server.again.stage = Stage::Due;
        server.queue.clear();
        server.queue.push_back(Expected::Setup);
        true
    }

    /// What the server says of a template in front of its first row is not said of what the client wrote.
    fn mends_template(error: ErrorView<'_>, server: &mut ServerState) -> bool {
        // Of these classes nothing is due to the moment, such as a cancel request: what it is due to stands in the text,
        // the catalog or the values (manual, Appendix A).
        let class = error.code.map(|code| code.as_str().get(..2).unwrap_or_default().to_owned());
        let is_refused = matches!(class.as_deref(), Some("0A" | "22" | "26" | "42"));
        let is_in_front = matches!(
            server.queue.front(),
            Some(Expected::Parse { shown: false, .. } | Expected::Bind { shown: false, .. })
        );
        if !is_refused || !is_in_front || server.again.messages.is_empty() {
            return false;
        }
        if class.as_deref() == Some("42")
            && let Some(statement) = &server.again.statement
        {
            // So it would be the next time.
            statement.is_unfit.store(true, Ordering::Relaxed);
        }
        server.again.stage = Stage::Due;
        server.queue.clear();
        server.queue.push_back(Expected::Setup);
        true
    }

    /// Whether a batch is to be run again once the server is ready; what the client sends now comes behind it.
    #[inline]
    pub(super) fn is_due_again(server: &ServerState) -> bool {
        server.again.stage == Stage::Due
    }

    /// A batch has been answered.
    #[inline]
    pub(super) fn answered(server: &mut ServerState) {
        server.again.stage = Stage::First;
    }

    /// Takes the kept messages again, with the statement prepared anew; what is written to `out` goes to the server.
    pub fn run_again(
        &mut self,
        server: &mut ServerState,
        shared: &Shared,
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        server.again.stage = Stage::Second;
        let messages = std::mem::take(&mut server.again.messages);
        if let Some(statement) = server.again.statement.take() {
            server.prepared.remove(&statement);
            build::close_statement(out, &statement.server_name);
            server.queue.push_back(Expected::Close { evicted: None, shown: false });
        }
        server.again.forget();
        // It may be as old.
        server.unnamed = Unnamed::InDoubt;
        let mut rest = &messages[..];
        while let Next::Frame(kept) = frame::next(rest, MESSAGE_BYTES_MAX).map_err(Refusal::Malformed)? {
            rest = &rest[kept.bytes.len()..];
            let message = Message { tag: kept.tag, body: kept.body(), body_bytes: kept.body().len() };
            if self.frontend(message, server, shared, out)? == Verdict::Forward {
                out.extend_from_slice(kept.bytes);
            }
        }
        debug_assert!(rest.is_empty(), "whole messages were kept");
        Ok(())
    }
}
