//! Messages from the client: what becomes of each, and what the server will owe for it.

use std::sync::Arc;

use super::effects::{UnknownSetting, bound_settings};
use super::naming::{NO_TYPES, SCRATCH_NAME, close_scratch, names_statement};
use super::server_state::{Expected, Running, UndoName, Unnamed, changes_names};
use super::{ServerState, Session, Settings, Shared, Statement, Verdict};
use crate::config::PoolMode;
use crate::pg::{SqlState, TransactionStatus};
use crate::route::Plan;
use crate::sql::{Analysis, Command, Lexing, Pin};
use crate::wire::build::{Report, Severity};
use crate::wire::frame::Fields;
use crate::wire::frontend::Bind;
use crate::wire::{Malformed, backend, build, frontend};

const FORGET_SEQUENCES: &[u8] = b"DISCARD SEQUENCES";

/// What DISCARD ALL does, but for prepared statements, plans and sequences.
const REMOVE_TRACES: &[u8] = b"CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP";

/// In Bind: no formats, no parameters, no result formats.
const NO_PARAMETERS: &[u8] = &[0, 0, 0, 0, 0, 0];

/// A frontend message, whole or only its head if it is too long to wait for.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The message type.
    pub tag: u8,
    /// As much of the body as is there.
    pub body: &'a [u8],
    /// The length of the whole body.
    pub body_bytes: usize,
}

impl Message<'_> {
    /// Whether all of the body is there.
    pub fn is_whole(&self) -> bool {
        self.body.len() == self.body_bytes
    }
}

/// Why the machine will not go on with a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The client broke the protocol.
    Malformed(Malformed),
    /// The client asked for what this pool mode cannot give.
    Refused(Box<Report>),
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl Session {
    /// Whether a message must wait until the server has answered more: what its statement's name means, or whether the
    /// server has the statement, depends on a batch that may yet fail.
    pub fn must_wait(&self, message: Message<'_>, server: &ServerState) -> Result<bool, Malformed> {
        if Self::is_due_again(server) {
            return Ok(true);
        }
        if !server.parsed_unnamed
            && !server.queue.is_empty()
            && names_unnamed(message)?
            && server.is_unnamed_in_doubt()
        {
            return Ok(true);
        }
        // Where nothing is owed, nothing is in doubt; and during COPY nothing is answered before the data end.
        if server.queue.is_empty() || server.copying_in {
            return Ok(false);
        }
        if names_another(message)? && server.owes_client() {
            return Ok(true);
        }
        if server.doubts == 0 {
            return Ok(false);
        }
        let name = match message.tag {
            frontend::PARSE if message.is_whole() => {
                let parse = frontend::parse(message.body)?;
                return Ok(server.is_in_doubt(parse.name, |statement| *statement.text == *parse.text));
            }
            frontend::PARSE => Fields::new(message.body).cstr()?,
            frontend::BIND => frontend::bind(message.body)?.statement,
            frontend::DESCRIBE | frontend::CLOSE => match frontend::named(message.body)? {
                frontend::Named::Statement(name) => name,
                frontend::Named::Portal(_) => return Ok(false),
            },
            // Its text may name any statement.
            frontend::QUERY => return Ok(server.doubtful().next().is_some()),
            _ => return Ok(false),
        };
        let means = if name.is_empty() { self.unnamed.clone() } else { self.named(name) };
        Ok(server.is_in_doubt(name, |statement| means.as_ref().is_some_and(|means| means.id == statement.id)))
    }

    /// Takes one message from the client. What it appends to `out` goes to the server before the message, or in
    /// its place.
    pub fn frontend(
        &mut self,
        message: Message<'_>,
        server: &mut ServerState,
        shared: &Shared,
        out: &mut Vec<u8>,
    ) -> Result<Verdict, Refusal> {
        if server.skipping && message.tag != frontend::SYNC {
            // So does the server (manual, 55.2.4): there will be no answer.
            return Ok(if message.is_whole() { Verdict::Replace } else { Verdict::Forward });
        }
        let opens_batch = matches!(
            message.tag,
            frontend::PARSE | frontend::BIND | frontend::DESCRIBE | frontend::EXECUTE | frontend::CLOSE
        );
        if !server.in_batch
            && (opens_batch || matches!(message.tag, frontend::QUERY | frontend::FUNCTION_CALL))
        {
            self.set_up(server, out);
        }
        let first = !server.in_batch;
        server.in_batch |= opens_batch;
        Self::keep_for_again(message, server);
        let analyzed = self.analyzed.take();
        match message.tag {
            frontend::QUERY => self.query(message, analyzed, server, shared, out),
            frontend::PARSE => self.parse(message, first, server, shared, out),
            frontend::BIND => self.bind(message, first, server, out),
            frontend::DESCRIBE => self.describe(message, server, out),
            frontend::EXECUTE => self.execute(message, server, out),
            frontend::CLOSE => self.close(message, server),
            frontend::SYNC | frontend::FLUSH if message.body_bytes > 0 => Err(Malformed::Length.into()),
            frontend::SYNC => {
                // During COPY FROM STDIN the server ignores Sync (manual, 55.2.6).
                server.skipping = false;
                if !server.copying_in {
                    server.queue.push_back(Expected::Sync);
                    server.count_doubts();
                    server.in_batch = false;
                    server.parsed_unnamed = false;
                }
                Ok(Verdict::Forward)
            }
            frontend::FLUSH => {
                if server.queue.iter().any(|expected| matches!(expected, Expected::Local { .. })) {
                    server.queue.push_back(Expected::Flush);
                }
                Ok(Verdict::Forward)
            }
            frontend::COPY_DATA => Ok(Verdict::Forward),
            frontend::COPY_DONE | frontend::COPY_FAIL => {
                server.copying_in = false;
                server.queue.push_back(Expected::CopyEnd);
                Ok(Verdict::Forward)
            }
            frontend::FUNCTION_CALL => {
                self.names_moved = true;
                server.queue.push_back(Expected::FunctionCall);
                Ok(Verdict::Forward)
            }
            other => Err(Malformed::Unexpected(other).into()),
        }
    }

    /// Gives the server connection what it lacks of this client's settings.
    pub(super) fn set_up(&mut self, server: &mut ServerState, out: &mut Vec<u8>) {
        if std::mem::take(&mut server.has_anothers_traces) {
            build::query(out, REMOVE_TRACES);
            server.expect_setup();
            server.settings = Settings::default();
        }
        let is_same = self.settings.is_same(&server.settings) && server.made.cover(&self.placeholders);
        // In a failed block nothing would be taken on, and nothing runs.
        if is_same || self.may_have_failed(server) {
            return;
        }
        let in_block = self.status != TransactionStatus::Idle;
        let lacking = self.placeholders.beyond(&server.made);
        for _ in 0..self.settings.write_difference(&server.settings, &lacking, in_block, out) {
            server.expect_setup();
        }
        for name in lacking {
            server.note_custom(name);
        }
        server.settings = self.settings.clone();
        self.settings.custom_names().for_each(|name| server.note_custom(name));
    }

    /// `currval` and `lastval` ask what this session drew. If the connection was with others meanwhile, it must have
    /// forgotten what they drew: better an error than their numbers.
    pub(super) fn forget_sequences(
        &mut self,
        analysis: &Analysis,
        first: bool,
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) {
        let asks = !self.same_server && !self.may_have_failed(server);
        if !asks || !analysis.statements.iter().any(|statement| statement.sequence.reads) {
            return;
        }
        self.same_server = true;
        if first {
            build::query(out, FORGET_SEQUENCES);
            server.expect_setup();
            return;
        }
        // In the middle of a batch a simple query would end it.
        close_scratch(server, out);
        build::parse(out, SCRATCH_NAME, FORGET_SEQUENCES, NO_TYPES);
        server.queue.push_back(Expected::Parse { statement: None, shown: false, undo: None });
        build::bind(out, SCRATCH_NAME, SCRATCH_NAME, NO_PARAMETERS);
        server.queue.push_back(Expected::Bind { shown: false, name: None, is_unknown: false });
        build::execute(out, SCRATCH_NAME);
        server.queue.push_back(Expected::ForgetSequences);
        close_scratch(server, out);
    }

    fn query(
        &mut self,
        message: Message<'_>,
        analyzed: Option<(Lexing, Arc<Analysis>)>,
        server: &mut ServerState,
        shared: &Shared,
        out: &mut Vec<u8>,
    ) -> Result<Verdict, Refusal> {
        // A simple query destroys the unnamed statement and portal (manual, 55.2.3).
        self.forget_unnamed(server);
        let unnamed = std::mem::replace(&mut server.unnamed, Unnamed::Absent);
        server.parsed_unnamed = false;
        server.portals.unnamed = None;
        if !message.is_whole() {
            self.pins.insert(Pin::UnknownStatement);
            let analysis = Arc::new(Analysis::unscanned(message.body));
            server.queue.push_back(Expected::Query { analysis, plan: None, ended: 0, renamed: None });
            return Ok(Verdict::Forward);
        }
        let text = frontend::query(message.body)?;
        let analysis = match analyzed {
            Some((lexing, analysis)) if lexing == self.lexing => analysis,
            _ => Arc::new(crate::sql::analyze(text, self.lexing)),
        };
        self.queried = Some(Arc::clone(&analysis));
        self.check_mode(&analysis)?;
        self.forget_sequences(&analysis, true, server, out);
        for statement in &analysis.statements {
            self.before(statement, server);
        }
        server.doubts += usize::from(changes_names(&analysis));
        let plan = self.take_foreseen();
        server.has_traces |= leaves_traces(plan.as_deref());
        if let Some(Command::Deallocate(name) | Command::Prepare(name) | Command::Execute(name)) =
            analysis.single().map(|only| &only.command)
            && let Some(named) = self.named(name.as_bytes())
            // A failed block refuses it in its own words.
            && self.status != TransactionStatus::Failed
        {
            let name = name.clone();
            return Ok(self.by_server_name(text, name.as_bytes(), &named, analysis, server, out));
        }
        if self.run_template(message, &analysis, plan.as_ref(), server, shared, out) {
            // To the server it was none: it still has its unnamed statement.
            server.unnamed = unnamed;
            return Ok(Verdict::Replace);
        }
        server.queue.push_back(Expected::Query { analysis, plan, ended: 0, renamed: None });
        Ok(Verdict::Forward)
    }

    /// Whether the transaction block has failed, or may by what is not answered yet.
    pub(super) fn may_have_failed(&self, server: &ServerState) -> bool {
        match self.status {
            TransactionStatus::Idle => false,
            TransactionStatus::InBlock => server.owes_client(),
            TransactionStatus::Failed => true,
        }
    }

    pub(super) fn check_mode(&self, analysis: &Analysis) -> Result<(), Refusal> {
        let opens_block = || analysis.statements.iter().any(|s| matches!(s.command, Command::Begin(_)));
        if self.mode == PoolMode::Statement && opens_block() {
            let message = "transaction blocks not allowed in statement pooling mode";
            let report = Report::new(Severity::Fatal, SqlState::PROTOCOL_VIOLATION, message)
                .with_hint("Use pool mode \"transaction\" for this database or user.");
            return Err(Refusal::Refused(Box::new(report)));
        }
        Ok(())
    }

    fn bind(
        &mut self,
        message: Message<'_>,
        first: bool,
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) -> Result<Verdict, Refusal> {
        let bind = frontend::bind(message.body)?;
        let named = self.statements.as_ref().and_then(|map| map.get(bind.statement));
        let name = named.map(|named| named.name.clone());
        let bound_to = match named {
            Some(named) => Some(named.statement.clone()),
            None if bind.statement.is_empty() => self.unnamed.clone(),
            None => None,
        };
        if let Some(statement) = &bound_to {
            self.forget_sequences(&statement.analysis, first, server, out);
        }
        let running = bound_to.map(|statement| self.running(statement, &bind));
        let statement = self.server_name(bind.statement, server, out);
        server.portals.bind(bind.portal, running);
        let Some(statement) = statement else {
            server.again.forget();
            let is_unknown = !bind.statement.is_empty();
            server.queue.push_back(Expected::Bind { shown: true, name, is_unknown });
            return Ok(Verdict::Forward);
        };
        self.keep_bind(message, &statement, server);
        server.queue.push_back(Expected::Bind { shown: true, name, is_unknown: false });
        // The head of a long Bind may be all there is: the rest is relayed as it comes, so the length is written
        // for the whole.
        let missing = message.body_bytes - message.body.len();
        let start = out.len();
        build::bind(out, bind.portal, &statement.server_name, bind.rest);
        if missing > 0 {
            let whole = u32::try_from(out.len() - start - 1 + missing).map_err(|_| Malformed::TooLong)?;
            out[start + 1..start + 5].copy_from_slice(&whole.to_be_bytes());
        }
        Ok(Verdict::Replace)
    }

    /// What a portal made by this Bind will run; `set_config($1, $2, false)` tells only here what it sets.
    fn running(&mut self, statement: Arc<Statement>, bind: &Bind<'_>) -> Running {
        let bound = statement.analysis.single().map(|only| bound_settings(only, bind));
        let bound = match bound {
            Some(Ok(settings)) if !settings.is_empty() => Some(settings.into()),
            Some(Err(UnknownSetting)) => {
                self.pins.insert(Pin::UnknownSetting);
                None
            }
            Some(Ok(_)) | None => None,
        };
        Running { statement, bound, plan: None }
    }

    fn describe(
        &mut self,
        message: Message<'_>,
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) -> Result<Verdict, Refusal> {
        let verdict = match frontend::named(message.body)? {
            frontend::Named::Portal(_) => Verdict::Forward,
            frontend::Named::Statement(name) => match self.server_name(name, server, out) {
                Some(statement) => {
                    build::describe_statement(out, &statement.server_name);
                    Verdict::Replace
                }
                None => Verdict::Forward,
            },
        };
        server.queue.push_back(Expected::Describe);
        Ok(verdict)
    }

    fn execute(
        &mut self,
        message: Message<'_>,
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) -> Result<Verdict, Refusal> {
        let (portal, _limit) = frontend::execute(message.body)?;
        let plan = self.take_foreseen();
        server.has_traces |= leaves_traces(plan.as_deref());
        let running = server.portals.running(portal).map(|running| Running { plan, ..running });
        if let Some(running) = &running {
            for setting in running.bound.iter().flat_map(|bound| bound.iter()) {
                server.placeholders.note(&setting.name);
            }
            for statement in &running.statement.analysis.statements {
                self.before(statement, server);
            }
            if changes_names(&running.statement.analysis) {
                // What comes behind it waits for the answer, which must not wait for Sync.
                build::frame(out, frontend::EXECUTE, |body| body.extend_from_slice(message.body));
                build::empty(out, frontend::FLUSH);
                server.doubts += 1;
                server.queue.push_back(Expected::Execute(Some(running.clone())));
                return Ok(Verdict::Replace);
            }
        }
        server.queue.push_back(Expected::Execute(running));
        Ok(Verdict::Forward)
    }

    fn close(&mut self, message: Message<'_>, server: &mut ServerState) -> Result<Verdict, Refusal> {
        if let frontend::Named::Statement(name) = frontend::named(message.body)? {
            if name.is_empty() {
                server.unnamed = Unnamed::Absent;
                self.forget_unnamed(server);
            } else if let Some(statement) = self.forget(name) {
                let undo = Some(Box::new(UndoName { name: name.into(), before: Some(statement) }));
                server.queue.push_back(Expected::Local { tag: backend::CLOSE_COMPLETE, undo });
                return Ok(Verdict::Replace);
            } else if self.sql_names.as_mut().is_some_and(|names| names.remove(name)) {
                // It may have been the last, which holds the connection.
                self.inspection_due = true;
                server.queue.push_back(Expected::CloseSql(name.into()));
                return Ok(Verdict::Forward);
            }
        }
        server.queue.push_back(Expected::Close { evicted: None, shown: true });
        Ok(Verdict::Forward)
    }

    /// The message just taken drops the unnamed statement, unless the server skips it after an error.
    fn forget_unnamed(&mut self, server: &mut ServerState) {
        let statement = self.unnamed.take();
        if server.in_batch {
            server.queue.push_back(Expected::Forgot(statement));
        }
    }
}

/// Whether it is PREPARE, EXECUTE or DEALLOCATE, which may name any statement; and whether the server has that, and takes it
/// where the block may have failed, what is owed will tell. Parsed by a name they are not looked at.
fn names_another(message: Message<'_>) -> Result<bool, Malformed> {
    Ok(match message.tag {
        frontend::QUERY if message.is_whole() => names_statement(frontend::query(message.body)?),
        frontend::PARSE if message.is_whole() => {
            let parse = frontend::parse(message.body)?;
            parse.name.is_empty() && names_statement(parse.text)
        }
        _ => false,
    })
}

/// Whether it runs code that is not in its text: a trigger, a rule, a function in a view.
fn leaves_traces(plan: Option<&Plan>) -> bool {
    plan.is_some_and(|plan| plan.effect.writes.everything)
}

/// Whether it binds or describes the unnamed statement.
fn names_unnamed(message: Message<'_>) -> Result<bool, Malformed> {
    match message.tag {
        frontend::BIND => Ok(frontend::bind(message.body)?.statement.is_empty()),
        frontend::DESCRIBE => Ok(frontend::named(message.body)? == frontend::Named::Statement(b"")),
        _ => Ok(false),
    }
}
