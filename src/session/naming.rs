//! Names of prepared statements: what a client's name means, and what the server connection calls it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::frontend::{Message, Refusal};
use super::server_state::{Expected, UndoName, Unnamed};
use super::{Interned, Named, ServerState, Session, Shared, Statement, Verdict};
use crate::pg::TransactionStatus;
use crate::sql::scan::{Scanner, Token, TokenKind};
use crate::sql::{Analysis, Command, Pin};
use crate::wire::frontend::Parse;
use crate::wire::{backend, build, frontend};

/// A statement that is parsed for the sake of its error.
pub(super) const SCRATCH_NAME: &[u8] = b"weir_scratch";

/// In Parse: no types of parameters.
pub(super) const NO_TYPES: &[u8] = &[0, 0];

impl Session {
    /// PREPARE, EXECUTE or DEALLOCATE, in SQL, of a name that the client gave by protocol: the server knows the
    /// statement by our name, or not at all.
    pub(super) fn by_server_name(
        &mut self,
        text: &[u8],
        name: &[u8],
        statement: &Arc<Statement>,
        analysis: Arc<Analysis>,
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) -> Verdict {
        if !server.prepared.touch(statement) {
            prepare(statement, server, out);
            // Parse opens a batch; a simple query must stand outside of it, unless the client's own stands inside.
            if !server.in_batch {
                build::empty(out, frontend::SYNC);
                server.queue.push_back(Expected::Setup);
            }
        }
        build::query(out, &renamed(text, self.lexing.standard_conforming_strings, &statement.server_name));
        // DEALLOCATE counts from the moment it succeeds: what comes behind it waits for that.
        let undo = UndoName { name: name.into(), before: Some(Arc::clone(statement)) };
        let renamed = Some(Box::new(undo));
        server.queue.push_back(Expected::Query { analysis, plan: None, ended: 0, renamed });
        Verdict::Replace
    }

    /// The statement given by protocol that a PREPARE, EXECUTE or DEALLOCATE in SQL names.
    pub(super) fn protocol_statement(&self, analysis: &Analysis) -> Option<Arc<Statement>> {
        match &analysis.single()?.command {
            Command::Deallocate(name) | Command::Prepare(name) | Command::Execute(name) => {
                self.named(name.as_bytes()).filter(|_| self.status != TransactionStatus::Failed)
            }
            _ => None,
        }
    }

    pub(super) fn parse(
        &mut self,
        message: Message<'_>,
        first: bool,
        server: &mut ServerState,
        shared: &Shared,
        out: &mut Vec<u8>,
    ) -> Result<Verdict, Refusal> {
        if !message.is_whole() {
            return Ok(self.parse_unknown(server));
        }
        let parse = frontend::parse(message.body)?;
        let interned = self.intern(parse, shared);
        let statement = interned.statement;
        self.check_mode(&statement.analysis)?;
        self.forget_sequences(&statement.analysis, first, server, out);
        if parse.name.is_empty() {
            server.parsed_unnamed = true;
            let before = self.unnamed.replace(statement.clone());
            let undo = Some(Box::new(UndoName { name: Box::default(), before }));
            if let Some(other) = self.protocol_statement(&statement.analysis) {
                // PREPARE, EXECUTE or DEALLOCATE of a name given by protocol: see `by_server_name`.
                if !server.prepared.touch(&other) {
                    prepare(&other, server, out);
                }
                let text = renamed(parse.text, self.lexing.standard_conforming_strings, &other.server_name);
                build::parse(out, b"", &text, parse.types);
                server.unnamed = Unnamed::Is(statement);
                server.queue.push_back(Expected::Parse { statement: None, shown: true, undo });
                return Ok(Verdict::Replace);
            }
            if shared.prepare_unnamed && interned.repeats && is_worth_preparing(&statement.analysis) {
                return Ok(self.parse_prepared(&statement, undo, server, out));
            }
            server.unnamed = Unnamed::Is(statement.clone());
            server.queue.push_back(Expected::Parse { statement: None, shown: true, undo });
            return Ok(Verdict::Forward);
        }
        if let Some(existing) = self.named(parse.name) {
            return Ok(parse_duplicate(parse, &existing, server, out));
        }
        let is_sql_name = self.sql_names.as_ref().is_some_and(|names| names.contains(parse.name));
        let are_too_many =
            || self.statements.as_ref().is_some_and(|map| map.len() >= shared.statements_per_client_max);
        if is_sql_name || are_too_many() {
            // The server refuses it, or keeps it under the client's own name.
            self.pins.insert(Pin::UnknownStatement);
            server.queue.push_back(Expected::Parse { statement: None, shown: true, undo: None });
            return Ok(Verdict::Forward);
        }
        let named = Named::new(parse.name, statement.clone());
        self.statements.get_or_insert_default().insert(parse.name.into(), named);
        let undo = Some(Box::new(UndoName { name: parse.name.into(), before: None }));
        Ok(self.parse_prepared(&statement, undo, server, out))
    }

    /// The statement that a Parse stands for.
    pub(super) fn intern(&self, parse: Parse<'_>, shared: &Shared) -> Interned {
        let epoch = shared.ddl_epoch.load(Ordering::Acquire);
        shared.statements.intern(parse.text, parse.types, &self.settings, self.lexing, epoch)
    }

    /// A Parse too long to look at: the server keeps it under the client's own name, and the client is pinned.
    fn parse_unknown(&mut self, server: &mut ServerState) -> Verdict {
        self.pins.insert(Pin::UnknownStatement);
        self.unnamed = None;
        server.unnamed = Unnamed::Absent;
        server.queue.push_back(Expected::Parse { statement: None, shown: true, undo: None });
        Verdict::Forward
    }

    /// A client's Parse of a statement that goes by our name: answered here if the server has it.
    pub(super) fn parse_prepared(
        &mut self,
        statement: &Arc<Statement>,
        undo: Option<Box<UndoName>>,
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) -> Verdict {
        // A failed block refuses to parse anything but its end; the server shall say so in its own words.
        // (BEGIN itself may be among what is not answered yet.)
        let in_doubt = self.may_have_failed(server) || server.owes_client();
        let fails = in_doubt && !ends_transaction(&statement.analysis);
        if server.prepared.touch(statement) {
            if !fails {
                server.queue.push_back(Expected::Local { tag: backend::PARSE_COMPLETE, undo });
                return Verdict::Replace;
            }
            // By a name of its own: what goes by the statement's own name may be used by another of the client's names.
            close_scratch(server, out);
            build::parse(out, SCRATCH_NAME, &statement.text, &statement.types);
            server.queue.push_back(Expected::Parse { statement: None, shown: true, undo });
            close_scratch(server, out);
            return Verdict::Replace;
        }
        put(statement, server, out);
        build::parse(out, &statement.server_name, &statement.text, &statement.types);
        server.queue.push_back(Expected::Parse { statement: Some(statement.clone()), shown: true, undo });
        Verdict::Replace
    }

    /// The name by which the server knows what the client calls `name`, prepared at need. `None`: the client's
    /// name goes on as it is, since nobody here knows it.
    pub(super) fn server_name(
        &mut self,
        name: &[u8],
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) -> Option<Arc<Statement>> {
        let statement = if name.is_empty() { self.unnamed.clone() } else { self.named(name) };
        match &statement {
            Some(statement) if server.prepared.touch(statement) => {}
            Some(statement) if name.is_empty() => {
                let is_there =
                    matches!(&server.unnamed, Unnamed::Is(unnamed) if Arc::ptr_eq(unnamed, statement));
                if !is_there {
                    build::parse(out, b"", &statement.text, &statement.types);
                    server.queue.push_back(Expected::Parse { statement: None, shown: false, undo: None });
                    server.unnamed = Unnamed::Is(statement.clone());
                }
                return None;
            }
            Some(statement) => prepare(statement, server, out),
            None if name.is_empty() && !matches!(server.unnamed, Unnamed::Absent) => {
                // Another client's unnamed statement is none of this client's business.
                build::close_statement(out, b"");
                server.queue.push_back(Expected::Close { evicted: None, shown: false });
                server.unnamed = Unnamed::Absent;
            }
            None => {}
        }
        statement
    }

    /// SQL's PREPARE has given this name.
    pub(super) fn note_sql_name(&mut self, name: Box<[u8]>) {
        self.sql_names.get_or_insert_default().insert(name);
    }

    pub(super) fn named(&self, name: &[u8]) -> Option<Arc<Statement>> {
        self.statements.as_ref()?.get(name).map(|named| named.statement.clone())
    }

    /// Forgets what a client's name means; the unnamed statement's is empty.
    pub(super) fn forget(&mut self, name: &[u8]) -> Option<Arc<Statement>> {
        if name.is_empty() {
            return self.unnamed.take();
        }
        let map = self.statements.as_mut()?;
        let forgotten = map.remove(name).map(|named| named.statement);
        if map.is_empty() {
            self.statements = None;
        }
        forgotten
    }
}

/// Notes a statement that is about to be prepared, and closes what must make room for it.
fn put(statement: &Arc<Statement>, server: &mut ServerState, out: &mut Vec<u8>) {
    while let Some(evicted) = server.prepared.make_room() {
        build::close_statement(out, &evicted.server_name);
        server.queue.push_back(Expected::Close { evicted: Some(evicted), shown: false });
    }
    server.prepared.insert(statement.clone());
}

/// Whether PostgreSQL plans such statements, so that preparing them saves work; transaction control and DDL have no
/// plans.
pub(super) fn is_worth_preparing(analysis: &Analysis) -> bool {
    let planned = |command: &Command| {
        matches!(
            command,
            Command::Select
                | Command::Values
                | Command::Table
                | Command::With
                | Command::Insert
                | Command::Update
                | Command::Delete
                | Command::Merge
        )
    };
    analysis.single().is_some_and(|statement| planned(&statement.command))
}

/// Whether a failed transaction block would run it.
fn ends_transaction(analysis: &Analysis) -> bool {
    let ends = |command: &Command| {
        matches!(
            command,
            Command::Commit { .. }
                | Command::Rollback { .. }
                | Command::RollbackTo(_)
                | Command::PrepareTransaction
        )
    };
    analysis.single().is_some_and(|statement| ends(&statement.command))
}

/// Prepares a statement on the server without the client's knowing.
pub(super) fn prepare(statement: &Arc<Statement>, server: &mut ServerState, out: &mut Vec<u8>) {
    put(statement, server, out);
    build::parse(out, &statement.server_name, &statement.text, &statement.types);
    let statement = Some(statement.clone());
    server.queue.push_back(Expected::Parse { statement, shown: false, undo: None });
}

/// A name that is taken: the server's own error is provoked with a name of ours, and told with the client's. (A text
/// without a statement may be parsed in a failed block too.)
fn parse_duplicate(
    parse: Parse<'_>,
    existing: &Arc<Statement>,
    server: &mut ServerState,
    out: &mut Vec<u8>,
) -> Verdict {
    close_scratch(server, out);
    build::parse(out, SCRATCH_NAME, b"", NO_TYPES);
    server.queue.push_back(Expected::Parse { statement: None, shown: false, undo: None });
    build::parse(out, SCRATCH_NAME, parse.text, parse.types);
    let undo = UndoName { name: parse.name.into(), before: Some(existing.clone()) };
    server.queue.push_back(Expected::Parse { statement: None, shown: true, undo: Some(Box::new(undo)) });
    Verdict::Replace
}

/// An error may have left it open.
pub(super) fn close_scratch(server: &mut ServerState, out: &mut Vec<u8>) {
    build::close_statement(out, SCRATCH_NAME);
    server.queue.push_back(Expected::Close { evicted: None, shown: false });
}

/// Whether a text is PREPARE, EXECUTE or DEALLOCATE.
pub(super) fn names_statement(text: &[u8]) -> bool {
    let word = first_word(text);
    [&b"prepare"[..], b"execute", b"deallocate"].iter().any(|known| word.eq_ignore_ascii_case(known))
}

/// The first token behind comments and empty statements.
pub(super) fn first_word(text: &[u8]) -> &[u8] {
    let mut tokens = Scanner::new(text, true);
    let first = tokens.find(|token| !matches!(token.kind, TokenKind::Comment | TokenKind::Semicolon));
    first.map_or(b"", |first| first.span.of(text))
}

/// The text of a PREPARE, EXECUTE or DEALLOCATE with another name for the statement.
pub(super) fn renamed(text: &[u8], standard_conforming_strings: bool, server_name: &[u8]) -> Vec<u8> {
    let mut words = Scanner::new(text, standard_conforming_strings)
        .filter(|token| token.kind != TokenKind::Comment)
        .skip_while(|token| token.kind == TokenKind::Semicolon);
    let first = words.next();
    let mut name = words.next();
    let is = |token: Option<Token>, keyword: &[u8]| {
        token.is_some_and(|token| token.span.of(text).eq_ignore_ascii_case(keyword))
    };
    if is(first, b"deallocate") && is(name, b"prepare") {
        // DEALLOCATE PREPARE name; but the statement may itself be called "prepare".
        name = words.next().filter(|token| token.kind != TokenKind::Semicolon).or(name);
    }
    match name {
        Some(token) => [&text[..token.span.start], server_name, &text[token.span.end..]].concat(),
        None => text.to_vec(),
    }
}
