//! From a statement's tokens to its [`Command`], for the statements that are more than their first word.
//!
//! These are rare or repeat word for word (BEGIN, COMMIT, SET), so this works on a list of tokens and reads like the
//! grammar (`src/backend/parser/gram.y`); the hot path never comes here. A statement that does not follow the
//! grammar to its last token is `Unknown`: the server will refuse it, or knows something that we do not.

use super::command::{Command, Copy, Discard};
use super::literal::Identifier;
use super::pin::{Pin, PinSet};
use super::scan::{Token, TokenKind};
use super::tokens::Tokens;

/// A command with what it pins and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recognized {
    pub(super) command: Command,
    pub(super) pins: PinSet,
    pub(super) ends: PinSet,
}

impl Recognized {
    pub(super) fn plain(command: Command) -> Self {
        Self { command, pins: PinSet::EMPTY, ends: PinSet::EMPTY }
    }

    pub(super) fn pins(command: Command, pin: Pin) -> Self {
        Self { command, pins: pin.into(), ends: PinSet::EMPTY }
    }

    pub(super) fn ends(command: Command, ends: PinSet) -> Self {
        Self { command, pins: PinSet::EMPTY, ends }
    }

    /// What is not understood.
    pub(super) fn unknown() -> Self {
        Self::pins(Command::Unknown, Pin::UnknownStatement)
    }

    /// A setting changes in a way that cannot be sent again.
    fn unknown_setting() -> Self {
        Self::pins(Command::Unknown, Pin::UnknownSetting)
    }
}

/// Recognizes one statement: its tokens without comments and without its `;`.
pub(super) fn recognize(text: &[u8], tokens: &[Token]) -> Recognized {
    let mut parser = Tokens::new(text, tokens);
    if tokens.is_empty() {
        return Recognized::plain(Command::Empty);
    }
    match parser.statement() {
        Some(recognized) => recognized,
        // A SET that we cannot read may still be one that the server can.
        None if parser.is_word(0, "set") => Recognized::unknown_setting(),
        None => Recognized::unknown(),
    }
}

/// `SELECT pg_backend_pid() [[AS] label]`, and nothing else.
pub(super) fn is_backend_pid(text: &[u8], tokens: &[Token]) -> bool {
    let mut parser = Tokens::new(text, tokens);
    let mut matches = || {
        parser.word("select")?;
        parser.function("pg_backend_pid")?;
        parser.kind(TokenKind::OpenParen)?;
        parser.kind(TokenKind::CloseParen)?;
        parser.label();
        parser.end()
    };
    matches().is_some()
}

/// INTO [LOCAL | GLOBAL] TEMP | TEMPORARY, or INTO `pg_temp.t`: `SELECT INTO` makes a temporary table.
pub(super) fn selects_into_temporary(text: &[u8], tokens: &[Token]) -> bool {
    let mut parser = Tokens::new(text, tokens);
    while !parser.at_end() {
        let behind_insert = parser.at > 0 && {
            parser.at -= 1;
            let word = parser.word("insert").or_else(|| parser.word("merge"));
            parser.at += usize::from(word.is_none());
            word.is_some()
        };
        if parser.word("into").is_none() {
            parser.at += 1;
            continue;
        }
        parser.word("table");
        let _ = parser.word("local").or_else(|| parser.word("global"));
        let temporary = parser.word("temp").or_else(|| parser.word("temporary")).is_some();
        if !behind_insert && (temporary || parser.in_temporary_schema()) {
            return true;
        }
    }
    false
}

impl Tokens<'_> {
    fn statement(&mut self) -> Option<Recognized> {
        let first = self.peek()?;
        if first.kind == TokenKind::OpenParen {
            return Some(Recognized::plain(Command::Select));
        }
        if first.kind != TokenKind::Word {
            return None;
        }
        self.at += 1;
        let word = self.source(first).to_ascii_lowercase();
        let plain = |command| Some(Recognized::plain(command));
        match word.as_slice() {
            b"select" => plain(Command::Select),
            b"values" => plain(Command::Values),
            b"table" => plain(Command::Table),
            b"with" => plain(Command::With),
            b"insert" => plain(Command::Insert),
            b"update" => plain(Command::Update),
            b"delete" => plain(Command::Delete),
            b"merge" => plain(Command::Merge),
            b"truncate" => plain(Command::Truncate),
            b"begin" | b"start" | b"commit" | b"end" | b"rollback" | b"abort" | b"savepoint" | b"release" => {
                self.transaction(&word).map(Recognized::plain)
            }
            b"set" => self.set(),
            b"reset" => self.reset(),
            b"show" => self.show(),
            b"discard" => self.discard(),
            b"prepare" => self.prepare(),
            b"execute" => self.name().map(|name| Recognized::plain(Command::Execute(name))),
            b"deallocate" => self.deallocate(),
            b"listen" => {
                self.last_name().map(|channel| Recognized::pins(Command::Listen(channel), Pin::Listen))
            }
            b"unlisten" => self.unlisten(),
            b"notify" => self.name().map(|channel| Recognized::plain(Command::Notify(channel))),
            b"declare" => self.declare(),
            b"close" => self.close(),
            b"fetch" => plain(Command::Fetch),
            b"move" => plain(Command::Move),
            b"copy" => self.copy(),
            b"lock" => plain(Command::Lock),
            b"load" => Some(Recognized::pins(Command::Load, Pin::Load)),
            b"do" => Some(self.do_block()),
            b"call" => Some(Recognized::pins(Command::Call, Pin::ProcedureCode)),
            b"explain" => self.explain(),
            b"create" => self.create(),
            b"drop" => self.drop(),
            b"alter" => self.alter(),
            b"comment" | b"grant" | b"revoke" | b"security" | b"reassign" | b"import" => plain(Command::Ddl),
            b"vacuum" => plain(Command::Vacuum),
            b"analyze" | b"analyse" => plain(Command::Analyze),
            b"cluster" => plain(Command::Cluster),
            b"reindex" => plain(Command::Reindex),
            b"checkpoint" => plain(Command::Checkpoint),
            b"refresh" => plain(Command::RefreshMaterializedView),
            _ => None,
        }
    }

    /// `TransactionStmt`
    fn transaction(&mut self, word: &[u8]) -> Option<Command> {
        let command = match word {
            b"start" => {
                self.word("transaction")?;
                Command::Begin(self.modes()?)
            }
            b"begin" => {
                let _ = self.word("work").or_else(|| self.word("transaction"));
                Command::Begin(self.modes()?)
            }
            b"savepoint" => Command::Savepoint(self.name()?),
            b"release" => {
                // A savepoint may itself be called "savepoint".
                if self.list.len() > 2 {
                    self.word("savepoint")?;
                }
                Command::Release(self.name()?)
            }
            b"commit" if self.word("prepared").is_some() => {
                self.string()?;
                Command::CommitPrepared
            }
            b"rollback" if self.word("prepared").is_some() => {
                self.string()?;
                Command::RollbackPrepared
            }
            _ => {
                let _ = self.word("work").or_else(|| self.word("transaction"));
                if word == b"rollback" && self.word("to").is_some() {
                    if self.list.len() - self.at > 1 {
                        self.word("savepoint")?;
                    }
                    let name = self.last_name()?;
                    return Some(Command::RollbackTo(name));
                }
                let mut chain = false;
                if self.word("and").is_some() {
                    chain = self.word("no").is_none();
                    self.word("chain")?;
                }
                if matches!(word, b"commit" | b"end") {
                    Command::Commit { chain }
                } else {
                    Command::Rollback { chain }
                }
            }
        };
        self.end()?;
        Some(command)
    }

    fn discard(&mut self) -> Option<Recognized> {
        let (what, ends) = if self.word("all").is_some() {
            (Discard::All, PinSet::UNDONE_BY_DISCARD_ALL)
        } else if self.word("plans").is_some() {
            (Discard::Plans, PinSet::EMPTY)
        } else if self.word("sequences").is_some() {
            (Discard::Sequences, Pin::SequenceState.into())
        } else {
            self.word("temp").or_else(|| self.word("temporary"))?;
            (Discard::Temporary, Pin::TemporaryObject.into())
        };
        self.end()?;
        Some(Recognized::ends(Command::Discard(what), ends))
    }

    fn prepare(&mut self) -> Option<Recognized> {
        if self.is_word(self.at, "transaction")
            && self.list.get(self.at + 1).is_some_and(|t| t.kind.is_string())
        {
            self.at += 1;
            self.string()?;
            self.end()?;
            return Some(Recognized::plain(Command::PrepareTransaction));
        }
        Some(Recognized::pins(Command::Prepare(self.name()?), Pin::SqlPrepare))
    }

    fn deallocate(&mut self) -> Option<Recognized> {
        if self.list.len() - self.at > 1 {
            self.word("prepare")?;
        }
        if self.word("all").is_some() {
            self.end()?;
            return Some(Recognized::ends(Command::DeallocateAll, Pin::SqlPrepare.into()));
        }
        Some(Recognized::plain(Command::Deallocate(self.last_name()?)))
    }

    fn unlisten(&mut self) -> Option<Recognized> {
        if self.operator(b"*").is_some() {
            self.end()?;
            return Some(Recognized::ends(Command::UnlistenAll, Pin::Listen.into()));
        }
        Some(Recognized::plain(Command::Unlisten(self.last_name()?)))
    }

    fn declare(&mut self) -> Option<Recognized> {
        let name = self.name()?;
        while self.word("cursor").is_none() {
            ["binary", "insensitive", "asensitive", "no", "scroll"]
                .iter()
                .find_map(|word| self.word(word))?;
        }
        let hold = self.words(&["with", "hold"]).is_some();
        if !hold {
            self.words(&["without", "hold"]);
        }
        self.word("for")?;
        let command = Command::DeclareCursor { name, hold };
        Some(if hold { Recognized::pins(command, Pin::HoldCursor) } else { Recognized::plain(command) })
    }

    fn close(&mut self) -> Option<Recognized> {
        if self.word("all").is_some() {
            self.end()?;
            return Some(Recognized::ends(Command::CloseAllCursors, Pin::HoldCursor.into()));
        }
        Some(Recognized::plain(Command::CloseCursor(self.last_name()?)))
    }

    /// The first FROM or TO outside parentheses says which way, the token behind it where.
    fn copy(&mut self) -> Option<Recognized> {
        let mut depth = 0_usize;
        loop {
            match self.peek()?.kind {
                TokenKind::OpenParen => depth += 1,
                TokenKind::CloseParen => depth = depth.saturating_sub(1),
                TokenKind::Word if depth == 0 && self.at > 1 => {
                    let from = self.word("from").is_some();
                    if from || self.word("to").is_some() {
                        let client = self.word("stdin").or_else(|| self.word("stdout")).is_some();
                        if !client {
                            self.word("program");
                            self.string()?;
                        }
                        return Some(Recognized::plain(Command::Copy(match (from, client) {
                            (true, true) => Copy::FromStdin,
                            (true, false) => Copy::FromServer,
                            (false, true) => Copy::ToStdout,
                            (false, false) => Copy::ToServer,
                        })));
                    }
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    /// DO: its code can be looked through for custom settings, which no view of the server shows.
    fn do_block(&self) -> Recognized {
        let mut recognized = Recognized::pins(Command::Do, Pin::ProcedureCode);
        let sets = |token: &Token| {
            let code = self.source(*token);
            token.kind.is_string() && code.windows(3).any(|window| window.eq_ignore_ascii_case(b"set"))
        };
        if self.list.iter().any(sets) {
            recognized.pins.insert(Pin::UnknownSetting);
        }
        recognized
    }

    fn explain(&mut self) -> Option<Recognized> {
        let analyze = self.explain_options();
        // The grammar does not nest EXPLAIN; a text of nothing else must not nest us.
        if self.is_word(self.at, "explain") {
            return None;
        }
        let rest = self.list.get(self.at..)?;
        let inner = recognize(self.text, rest);
        if matches!(inner.command, Command::Empty | Command::Unknown) {
            return None;
        }
        // CREATE TEMPORARY TABLE AS makes the table under ANALYZE.
        let pins = if analyze { inner.pins } else { PinSet::EMPTY };
        Some(Recognized { command: Command::Explain { analyze }, pins, ends: PinSet::EMPTY })
    }

    /// The options of EXPLAIN: whether the statement behind them runs.
    pub(super) fn explain_options(&mut self) -> bool {
        let in_parentheses = self.peek().is_some_and(|token| token.kind == TokenKind::OpenParen)
            && !self.opens_query(self.at + 1);
        if !in_parentheses {
            let analyze = self.word("analyze").or_else(|| self.word("analyse")).is_some();
            self.word("verbose");
            return analyze;
        }
        self.at += 1;
        let (mut analyze, mut unknown) = (false, false);
        // An option is a name, perhaps quoted, and perhaps a value, without parentheses; the last of a name holds.
        while let Some(token) = self.peek() {
            self.at += 1;
            match token.kind {
                TokenKind::CloseParen => break,
                TokenKind::Comma => continue,
                _ => {}
            }
            match explain_option(token.kind, self.source(token)) {
                ExplainOption::Analyze => {
                    // Whatever is not plainly off counts as on.
                    let value = self.peek().map_or(&b""[..], |value| self.source(value));
                    let off = [b"false".as_slice(), b"off", b"0"];
                    analyze = !off.iter().any(|off| value.eq_ignore_ascii_case(off));
                }
                ExplainOption::Unknown => unknown = true,
                ExplainOption::Other => {}
            }
            let ends = |token: Token| matches!(token.kind, TokenKind::Comma | TokenKind::CloseParen);
            while self.peek().is_some_and(|token| !ends(token)) {
                self.at += 1;
            }
        }
        analyze || unknown
    }

    /// Whether a query begins at `at`, possibly in more parentheses.
    fn opens_query(&self, mut at: usize) -> bool {
        while self.list.get(at).is_some_and(|token| token.kind == TokenKind::OpenParen) {
            at += 1;
        }
        ["select", "values", "with", "table"].iter().any(|word| self.is_word(at, word))
    }

    fn create(&mut self) -> Option<Recognized> {
        if self.word("database").is_some() {
            let name = self.name()?;
            let mut template = None;
            while !self.at_end() {
                if self.word("template").is_some() {
                    self.operator(b"=");
                    template =
                        if self.word("default").is_some() { None } else { Some(self.name_or_string()?) };
                } else {
                    self.at += 1;
                }
            }
            return Some(Recognized::plain(Command::CreateDatabase { name, template }));
        }
        self.words(&["or", "replace"]);
        let _ = self.word("local").or_else(|| self.word("global"));
        let temporary = self.word("temp").or_else(|| self.word("temporary")).is_some();
        if !temporary && !self.mentions_temporary_schema() {
            return Some(Recognized::plain(Command::Ddl));
        }
        let on_commit_drop =
            temporary && (self.at..self.list.len()).any(|at| self.are_words(at, &["on", "commit", "drop"]));
        let pins = if on_commit_drop { PinSet::EMPTY } else { Pin::TemporaryObject.into() };
        Some(Recognized { command: Command::CreateTemporary { on_commit_drop }, pins, ends: PinSet::EMPTY })
    }

    fn mentions_temporary_schema(&mut self) -> bool {
        let begin = self.at;
        let mut mentioned = false;
        while !mentioned && !self.at_end() {
            mentioned = self.in_temporary_schema();
            self.at += 1;
        }
        self.at = begin;
        mentioned
    }

    /// Whether `pg_temp.`, or `pg_temp_3.`, stands here.
    fn in_temporary_schema(&self) -> bool {
        self.is_dot(self.at + 1)
            && self.peek().is_some_and(|token| {
                // U&"..." may spell anything.
                Identifier::read(token.kind, self.source(token))
                    .map_or(token.kind == TokenKind::UnicodeIdentifier, |name| {
                        name.as_bytes().starts_with(b"pg_temp")
                    })
            })
    }

    fn drop(&mut self) -> Option<Recognized> {
        if self.word("database").is_some() {
            self.words(&["if", "exists"]);
            return Some(Recognized::plain(Command::DropDatabase(self.name()?)));
        }
        Some(Recognized::plain(Command::Ddl))
    }

    fn alter(&mut self) -> Option<Recognized> {
        if self.word("database").is_some() {
            let name = self.name()?;
            if self.words(&["rename", "to"]).is_some() {
                return Some(Recognized::plain(Command::AlterDatabaseRename(name)));
            }
            if self.words(&["set", "tablespace"]).is_some() {
                return Some(Recognized::plain(Command::AlterDatabaseTablespace(name)));
            }
        }
        // ALTER TABLE ... SET SCHEMA pg_temp is refused by the server.
        Some(Recognized::plain(Command::Ddl))
    }
}

/// An option of EXPLAIN.
enum ExplainOption {
    /// The statement runs.
    Analyze,
    /// One that does not make it run.
    Other,
    /// Perhaps ANALYZE in a spelling that is not read here, or one of a newer PostgreSQL.
    Unknown,
}

/// Reads the name of an option (manual, EXPLAIN): a word or a quoted identifier, for which case matters.
fn explain_option(kind: TokenKind, source: &[u8]) -> ExplainOption {
    let Some(name) = Identifier::read(kind, source) else { return ExplainOption::Unknown };
    match name.as_bytes() {
        b"analyze" | b"analyse" => ExplainOption::Analyze,
        b"verbose" | b"costs" | b"settings" | b"generic_plan" | b"buffers" | b"serialize" | b"wal"
        | b"timing" | b"summary" | b"memory" | b"format" => ExplainOption::Other,
        _ => ExplainOption::Unknown,
    }
}
