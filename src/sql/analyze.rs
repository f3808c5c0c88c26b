//! Analysis: one pass over the text for all that is asked of it: where the statements are, what each does to its
//! session, the shape with its fingerprint, and the comments around.
//!
//! PostgreSQL parses the whole string before it runs any of it, so a flaw anywhere means that nothing runs; the text
//! is then one `Unknown` statement. It is still scanned to its end.

use std::sync::Arc;

use super::command::Command;
use super::comment::{Comments, Hints};
use super::functions::{SessionCall, is_builtin, session_call};
use super::literal::{DATE_BYTES_MAX, names_time};
use super::pin::{Pin, PinSet};
use super::recognize::{Recognized, is_backend_pid, recognize, selects_into_temporary};
use super::scan::{Flaw, Lexing, Scanner, Span, Token, TokenKind};
use super::settings::set_config;
use super::shape::{Fingerprint, ShapeWriter};
use super::template::Form;

/// What a text says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Analysis {
    /// Of the whole text.
    pub fingerprint: Fingerprint,
    /// In order; never empty: a text without statements is one `Empty`.
    pub statements: Box<[Statement]>,
    /// What the client asks of the proxy.
    pub hints: Hints,
    /// The comments around, for their tags.
    pub comments: Comments,
    /// A constant may stand for the current time, as `'now'` and `'today'` do where a date or time is wanted.
    pub names_time: bool,
    /// Why the server will refuse the text.
    pub flaw: Option<Flaw>,
    /// How its constants become parameters; only where [`super::Memo`] knows the text by its outline.
    pub form: Option<Arc<Form>>,
}

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent findings; any of them may stand together")]
pub struct Statement {
    /// From its first to its last token: without the comments around it and without its `;`.
    pub span: Span,
    /// What it does to the session.
    pub command: Command,
    /// Why the client must keep its server connection once this has succeeded.
    pub pins: PinSet,
    /// Which earlier pins have ended once this has succeeded.
    pub ends: PinSet,
    /// What it does with sequences.
    pub sequence: SequenceUse,
    /// It calls a function that is not PostgreSQL's own: who knows what it leaves in the session.
    pub calls_unknown: bool,
    /// It gives one session-level advisory lock back, perhaps not the last.
    pub unlocks_advisory: bool,
    /// It calls `pg_notify`.
    pub notifies: bool,
    /// It is exactly `SELECT pg_backend_pid()`, with or without a label.
    pub backend_pid: bool,
}

/// What a statement does with sequences by name. Defaults of columns do not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SequenceUse {
    /// `nextval`, `setval`
    pub advances: bool,
    /// `currval`, `lastval`: need the connection of an earlier `nextval`. ORMs draw with `nextval` all the time and
    /// never ask again, so drawing alone is no pin; a client that is seen to ask keeps its connection from then on.
    pub reads: bool,
}

impl Analysis {
    /// For a text that must not be scanned ([`super::scan::lexes_bytewise`]): one `Unknown` statement.
    pub fn unscanned(text: &[u8]) -> Self {
        Self {
            fingerprint: Fingerprint::of(b""),
            statements: [unknown(Span { start: 0, end: text.len() }, PinSet::EMPTY)].into(),
            hints: Hints::default(),
            comments: Comments::default(),
            names_time: true,
            flaw: None,
            form: None,
        }
    }

    /// That of a text of `bytes` bytes that differs in plain constants alone ([`super::outline`]); `of` is the length of
    /// this one's.
    pub(super) fn moved(&self, of: usize, bytes: usize) -> Self {
        let mut moved = self.clone();
        // The only statement ends behind its last constant.
        for statement in &mut moved.statements {
            statement.span.end = statement.span.end + bytes - of;
        }
        moved
    }

    /// The single statement of the text, if it has just one.
    pub fn single(&self) -> Option<&Statement> {
        match &*self.statements {
            [statement] => Some(statement),
            _ => None,
        }
    }
}

/// Analyzes a text.
pub fn analyze(text: &[u8], lexing: impl Into<Lexing>) -> Analysis {
    let mut shape = Vec::new();
    analyze_into(text, lexing, &mut shape)
}

/// Analyzes a text and leaves its shape in `shape`, which is emptied first and may be used again and again.
pub fn analyze_into(text: &[u8], lexing: impl Into<Lexing>, shape: &mut Vec<u8>) -> Analysis {
    let lexing = lexing.into();
    if !lexing.can_scan(text) {
        shape.clear();
        return Analysis::unscanned(text);
    }
    let standard_conforming_strings = lexing.standard_conforming_strings;
    let mut scanner = Scanner::new(text, standard_conforming_strings);
    let mut walk = Walk::new(text, standard_conforming_strings);
    shape.reserve(text.len() + 64);
    let mut writer = ShapeWriter::new(shape);
    for token in scanner.by_ref() {
        if token.kind == TokenKind::Comment {
            walk.comments.note(token.span, walk.last_end);
            continue;
        }
        writer.token(token.kind, token.span.of(text));
        walk.token(token);
    }
    writer.finish();
    walk.end(scanner.flaw(), Fingerprint::of(shape))
}

/// The pass over the tokens.
struct Walk<'a> {
    text: &'a [u8],
    standard_conforming_strings: bool,
    statements: Vec<Statement>,
    comments: Comments,
    /// Behind the last token but `;`.
    last_end: Option<usize>,
    depth: usize,
    unbalanced: bool,
    names_time: bool,
    current: Current,
}

/// The statement that is being walked over.
#[derive(Clone, Copy, Default)]
struct Current {
    lead: Lead,
    span: Span,
    /// The token before. Not an `Option<Token>`: copying its padding stalls on the bytes just written, for 3 ns of
    /// the 8 that a token takes.
    before: Option<TokenKind>,
    before_span: Span,
    tokens: usize,
    routine: Routine,
    target: Target,
    /// The token before stands behind `)`, as FILTER and OVER do, and aliases with columns: nothing is called so.
    behind_paren: bool,
    /// In the dots and names behind a value: `(x).a.b`.
    in_value: bool,
    calls: Calls,
}

/// How a statement begins: tells those that are plain by their first word from those that must be recognized.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Lead {
    #[default]
    None,
    Select,
    Values,
    Table,
    With,
    Insert,
    Update,
    Delete,
    Merge,
    Create,
    Other,
}

/// Where in CREATE FUNCTION or PROCEDURE: the `;` of a body in BEGIN ATOMIC ... END are its own.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Routine {
    #[default]
    No,
    Head,
    Body,
}

/// The name of the relation behind INTO: what stands in parentheses behind it are its columns.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Target {
    #[default]
    No,
    /// The next word is its name, or a part of it.
    Due,
    /// The word just seen was.
    Named,
}

/// What was found in a statement on the way.
#[derive(Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent findings; any of them may stand together")]
struct Calls {
    pins: PinSet,
    ends: PinSet,
    sequence: SequenceUse,
    unlocks_advisory: bool,
    notifies: bool,
    unknown: bool,
    backend_pid: bool,
    set_config: bool,
    into: bool,
    pg_settings: bool,
}

/// Whether a statement that begins so runs the functions it names; DDL only stores them.
fn runs_functions(lead: Lead) -> bool {
    match lead {
        Lead::Select
        | Lead::Values
        | Lead::Table
        | Lead::With
        | Lead::Insert
        | Lead::Update
        | Lead::Delete
        | Lead::Merge
        | Lead::Other => true,
        Lead::None | Lead::Create => false,
    }
}

impl<'a> Walk<'a> {
    fn new(text: &'a [u8], standard_conforming_strings: bool) -> Self {
        Self {
            text,
            standard_conforming_strings,
            statements: Vec::with_capacity(1),
            comments: Comments::default(),
            last_end: None,
            depth: 0,
            unbalanced: false,
            names_time: false,
            current: Current::default(),
        }
    }

    #[inline]
    fn token(&mut self, token: Token) {
        match token.kind {
            TokenKind::Semicolon if self.depth == 0 && self.current.routine != Routine::Body => {
                self.end_statement();
                return;
            }
            // Inside parentheses it may only stand in the actions of CREATE RULE.
            TokenKind::Semicolon if self.current.lead != Lead::Create => self.unbalanced = true,
            TokenKind::Word => {
                if self.current.tokens == 0 {
                    self.current.lead = lead(token.span.of(self.text));
                } else {
                    self.word(token.span.of(self.text));
                }
            }
            TokenKind::OpenParen => {
                self.depth += 1;
                self.call();
            }
            TokenKind::CloseParen => match self.depth.checked_sub(1) {
                Some(depth) => self.depth = depth,
                None => self.unbalanced = true,
            },
            kind if kind.is_string() => {
                let source = token.span.of(self.text);
                // With escapes it may spell anything.
                let is_escaped = kind == TokenKind::UnicodeString
                    || (kind == TokenKind::EscapeString && source.contains(&b'\\'));
                self.names_time |= source.len() <= DATE_BYTES_MAX && (is_escaped || names_time(source));
            }
            TokenKind::QuotedIdentifier if self.current.before == Some(TokenKind::Dot) => {
                let source = token.span.of(self.text);
                self.current.calls.pg_settings |= source == b"\"pg_settings\"";
                self.attribute(false, source);
            }
            TokenKind::UnicodeIdentifier => {
                // It may spell the name of any function or setting.
                self.current.calls.pins.insert(Pin::UnknownStatement);
            }
            TokenKind::QuotedIdentifier if token.span.of(self.text) == b"\"pg_settings\"" => {
                self.current.calls.pg_settings = true;
            }
            _ => {}
        }
        let is_into =
            self.current.target == Target::Due && token.span.of(self.text).eq_ignore_ascii_case(b"into");
        let current = &mut self.current;
        if current.tokens == 0 {
            current.span.start = token.span.start;
            if current.lead == Lead::None {
                current.lead = if token.kind == TokenKind::OpenParen { Lead::Select } else { Lead::Other };
            }
        }
        current.target = match (current.target, token.kind) {
            (Target::Due, _) if is_into => Target::Due,
            (Target::Due, TokenKind::Word | TokenKind::QuotedIdentifier) => Target::Named,
            (Target::Named, TokenKind::Dot) => Target::Due,
            (Target::No | Target::Due | Target::Named, _) => Target::No,
        };
        current.in_value = match token.kind {
            TokenKind::Dot => match current.before {
                Some(TokenKind::CloseParen | TokenKind::CloseBracket | TokenKind::Parameter) => true,
                Some(TokenKind::Word | TokenKind::QuotedIdentifier) => current.in_value,
                _ => false,
            },
            TokenKind::Word | TokenKind::QuotedIdentifier => {
                current.in_value && current.before == Some(TokenKind::Dot)
            }
            _ => false,
        };
        current.behind_paren = current.before == Some(TokenKind::CloseParen);
        current.tokens += 1;
        current.span.end = token.span.end;
        current.before = Some(token.kind);
        current.before_span = token.span;
        self.last_end = Some(token.span.end);
    }

    /// A word that is not the first.
    #[inline]
    fn word(&mut self, word: &[u8]) {
        if self.current.before == Some(TokenKind::Dot) {
            self.attribute(true, word);
        }
        match word.len() {
            4 if word.eq_ignore_ascii_case(b"into") => {
                self.current.calls.into = true;
                self.current.target = Target::Due;
            }
            11 if word.eq_ignore_ascii_case(b"pg_settings") => self.current.calls.pg_settings = true,
            _ => {}
        }
        if self.current.lead == Lead::Create {
            self.routine_word(word);
        }
    }

    #[cold]
    fn routine_word(&mut self, word: &[u8]) {
        let is_before = |before: &[u8]| {
            self.current.before == Some(TokenKind::Word)
                && self.current.before_span.of(self.text).eq_ignore_ascii_case(before)
        };
        let routine = match self.current.routine {
            // CREATE [OR REPLACE] FUNCTION
            Routine::No
                if self.current.tokens <= 3
                    && (word.eq_ignore_ascii_case(b"function")
                        || word.eq_ignore_ascii_case(b"procedure")) =>
            {
                Routine::Head
            }
            Routine::Head
                if self.depth == 0 && word.eq_ignore_ascii_case(b"atomic") && is_before(b"begin") =>
            {
                Routine::Body
            }
            // Each statement of the body has its `;`, so an END that begins one is the body's, and that of a CASE or
            // a column called "end" is not.
            Routine::Body if self.depth == 0 && word.eq_ignore_ascii_case(b"end") => {
                let begins = is_before(b"atomic") || self.current.before == Some(TokenKind::Semicolon);
                if begins { Routine::Head } else { Routine::Body }
            }
            unchanged => unchanged,
        };
        self.current.routine = routine;
    }

    /// An opening parenthesis: the identifier in front of it is called.
    #[inline]
    fn call(&mut self) {
        let Some(kind @ (TokenKind::Word | TokenKind::QuotedIdentifier)) = self.current.before else {
            return;
        };
        let name = self.current.before_span.of(self.text);
        match session_call(kind == TokenKind::Word, name) {
            Some(call) => self.called(call),
            // `INSERT INTO t (a, b)` calls nothing.
            None if self.current.target == Target::Named || self.current.behind_paren => {}
            None => self.current.calls.unknown |= !is_builtin(kind == TokenKind::Word, name),
        }
    }

    /// A name behind a dot: of a value it may be a function of one's own (`(x).f`), of a relation a column, but for
    /// names that nobody gives to columns.
    #[inline]
    fn attribute(&mut self, word: bool, name: &[u8]) {
        match session_call(word, name) {
            Some(call) => self.called(call),
            None => self.current.calls.unknown |= self.current.in_value && !is_builtin(word, name),
        }
    }

    #[cold]
    fn called(&mut self, call: SessionCall) {
        let calls = &mut self.current.calls;
        match call {
            SessionCall::Pins(pin) => calls.pins.insert(pin),
            SessionCall::Ends(pin) => calls.ends.insert(pin),
            SessionCall::AdvancesSequence => calls.sequence.advances = true,
            SessionCall::ReadsSequence => calls.sequence.reads = true,
            SessionCall::UnlocksAdvisory => calls.unlocks_advisory = true,
            SessionCall::Notifies => calls.notifies = true,
            SessionCall::SetConfig => calls.set_config = true,
            SessionCall::BackendPid => calls.backend_pid = true,
        }
    }

    fn end_statement(&mut self) {
        let current = std::mem::take(&mut self.current);
        if current.tokens == 0 {
            return;
        }
        let calls = current.calls;
        let looks_plain = !calls.into && !calls.set_config && !calls.pg_settings && !calls.backend_pid;
        let plain = match current.lead {
            Lead::Select => Some(Command::Select),
            Lead::Values => Some(Command::Values),
            Lead::Table => Some(Command::Table),
            Lead::With => Some(Command::With),
            Lead::Insert => Some(Command::Insert),
            Lead::Update => Some(Command::Update),
            Lead::Delete => Some(Command::Delete),
            Lead::Merge => Some(Command::Merge),
            Lead::None | Lead::Create | Lead::Other => None,
        };
        // INSERT and MERGE have their INTO anyway.
        let looks_plain = looks_plain
            || (matches!(current.lead, Lead::Insert | Lead::Merge)
                && !calls.set_config
                && !calls.pg_settings);
        let mut backend_pid = false;
        let recognized = match plain {
            Some(command) if looks_plain => Recognized { command, pins: PinSet::EMPTY, ends: PinSet::EMPTY },
            _ => {
                let tokens = self.tokens(current.span);
                backend_pid = calls.backend_pid && is_backend_pid(self.text, &tokens);
                self.recognize(current, &tokens)
            }
        };
        let pins = recognized.pins.union(calls.pins);
        self.statements.push(Statement {
            span: current.span,
            command: recognized.command,
            pins,
            // A function that ends pins beside one that pins: in which order they run is not known.
            ends: recognized.ends.union(calls.ends).without(pins),
            sequence: calls.sequence,
            calls_unknown: calls.unknown && runs_functions(current.lead),
            unlocks_advisory: calls.unlocks_advisory,
            notifies: calls.notifies,
            backend_pid,
        });
    }

    #[cold]
    fn recognize(&self, current: Current, tokens: &[Token]) -> Recognized {
        let calls = current.calls;
        if calls.set_config
            && let Some(recognized) = set_config(self.text, tokens)
        {
            return recognized;
        }
        let mut recognized = recognize(self.text, tokens);
        if calls.set_config {
            recognized.pins.insert(Pin::UnknownSetting);
        }
        // An UPDATE of the view pg_settings sets the setting.
        if calls.pg_settings && self.has_word(tokens, b"update") {
            recognized.pins.insert(Pin::UnknownSetting);
        }
        if calls.into && selects_into_temporary(self.text, tokens) {
            let command = &mut recognized.command;
            if matches!(command, Command::Select | Command::With | Command::Values | Command::Table) {
                *command = Command::CreateTemporary { on_commit_drop: false };
            }
            recognized.pins.insert(Pin::TemporaryObject);
        }
        recognized
    }

    fn has_word(&self, tokens: &[Token], word: &[u8]) -> bool {
        let is_word = |token: &Token| {
            token.kind == TokenKind::Word && token.span.of(self.text).eq_ignore_ascii_case(word)
        };
        tokens.iter().any(is_word)
    }

    #[cold]
    fn tokens(&self, span: Span) -> Vec<Token> {
        Scanner::within(self.text, span, self.standard_conforming_strings)
            .filter(|token| token.kind != TokenKind::Comment)
            .collect()
    }

    fn end(mut self, flaw: Option<Flaw>, fingerprint: Fingerprint) -> Analysis {
        self.end_statement();
        let unbalanced = self.unbalanced || self.depth > 0;
        let flaw = flaw.or(unbalanced.then_some(Flaw::UnbalancedParentheses));
        if let Some(end) = self.last_end {
            self.comments.keep_trailing(end);
        }
        let whole = Span { start: 0, end: self.text.len() };
        if flaw.is_some() {
            let pins =
                self.statements.iter().fold(PinSet::EMPTY, |pins, statement| pins.union(statement.pins));
            self.statements = vec![unknown(whole, pins)];
        } else if self.statements.is_empty() {
            let command = Command::Empty;
            self.statements.push(Statement { command, pins: PinSet::EMPTY, ..unknown(whole, PinSet::EMPTY) });
        }
        Analysis {
            fingerprint,
            statements: self.statements.into_boxed_slice(),
            hints: self.comments.hints(self.text),
            comments: self.comments,
            names_time: self.names_time,
            flaw,
            form: None,
        }
    }
}

fn unknown(span: Span, pins: PinSet) -> Statement {
    Statement {
        span,
        command: Command::Unknown,
        pins: pins.union(Pin::UnknownStatement.into()),
        ends: PinSet::EMPTY,
        sequence: SequenceUse::default(),
        calls_unknown: false,
        unlocks_advisory: false,
        notifies: false,
        backend_pid: false,
    }
}

fn lead(word: &[u8]) -> Lead {
    let is = |keyword: &[u8]| word.eq_ignore_ascii_case(keyword);
    match word.len() {
        6 if is(b"select") => Lead::Select,
        6 if is(b"insert") => Lead::Insert,
        6 if is(b"update") => Lead::Update,
        6 if is(b"delete") => Lead::Delete,
        6 if is(b"values") => Lead::Values,
        6 if is(b"create") => Lead::Create,
        4 if is(b"with") => Lead::With,
        5 if is(b"merge") => Lead::Merge,
        5 if is(b"table") => Lead::Table,
        _ => Lead::Other,
    }
}
