//! A list of tokens and the words and signs to expect of it: what the recognizers of commands are written in.

use super::class::Name;
use super::literal::{Identifier, string_value};
use super::scan::{Span, Token, TokenKind};

/// Reads from left to right. A method that reads gives `None`, and stays where it is, if something else is there.
pub(super) struct Tokens<'a> {
    pub(super) text: &'a [u8],
    pub(super) list: &'a [Token],
    pub(super) at: usize,
}

/// `Some(())` where something was there and has been read.
pub(super) type Read = Option<()>;

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a [u8], tokens: &'a [Token]) -> Self {
        Self { text, list: tokens, at: 0 }
    }

    pub(super) fn peek(&self) -> Option<Token> {
        self.list.get(self.at).copied()
    }

    pub(super) fn source(&self, token: Token) -> &'a [u8] {
        token.span.of(self.text)
    }

    pub(super) fn at_end(&self) -> bool {
        self.at >= self.list.len()
    }

    pub(super) fn end(&self) -> Read {
        self.at_end().then_some(())
    }

    pub(super) fn is_word(&self, at: usize, word: &str) -> bool {
        self.list.get(at).is_some_and(|&token| {
            token.kind == TokenKind::Word && self.source(token).eq_ignore_ascii_case(word.as_bytes())
        })
    }

    pub(super) fn are_words(&self, at: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(index, word)| self.is_word(at + index, word))
    }

    pub(super) fn is_dot(&self, at: usize) -> bool {
        self.list.get(at).is_some_and(|token| token.kind == TokenKind::Dot)
    }

    pub(super) fn word(&mut self, word: &str) -> Read {
        let is_word = self.is_word(self.at, word);
        self.at += usize::from(is_word);
        is_word.then_some(())
    }

    pub(super) fn words(&mut self, words: &[&str]) -> Read {
        let all = words.iter().enumerate().all(|(index, word)| self.is_word(self.at + index, word));
        self.at += if all { words.len() } else { 0 };
        all.then_some(())
    }

    pub(super) fn kind(&mut self, kind: TokenKind) -> Option<Token> {
        let token = self.peek().filter(|token| token.kind == kind)?;
        self.at += 1;
        Some(token)
    }

    pub(super) fn operator(&mut self, operator: &[u8]) -> Read {
        let token = self.peek()?;
        let is_operator = token.kind == TokenKind::Operator && self.source(token) == operator;
        self.at += usize::from(is_operator);
        is_operator.then_some(())
    }

    pub(super) fn string(&mut self) -> Option<Token> {
        let token = self.peek().filter(|token| token.kind.is_string())?;
        self.at += 1;
        if token.kind == TokenKind::UnicodeString && self.word("uescape").is_some() {
            self.peek().filter(|token| token.kind.is_string())?;
            self.at += 1;
        }
        Some(token)
    }

    pub(super) fn name(&mut self) -> Option<Identifier> {
        let token = self.peek()?;
        let name = Identifier::read(token.kind, self.source(token))?;
        self.at += 1;
        Some(name)
    }

    /// `[schema.]name`, as UTF-8.
    pub(super) fn qualified_name(&mut self) -> Option<Name> {
        let mut parts = Vec::new();
        loop {
            let name = self.name()?;
            parts.push(std::str::from_utf8(name.as_bytes()).ok()?.into());
            if self.kind(TokenKind::Dot).is_none() {
                return Name::from_parts(parts);
            }
        }
    }

    /// `TruncateStmt`: the relations, and whether CASCADE.
    pub(super) fn truncate(&mut self) -> Option<(Vec<Name>, bool)> {
        self.word("truncate")?;
        self.word("table");
        let mut names = Vec::new();
        loop {
            self.word("only");
            names.push(self.qualified_name()?);
            self.operator(b"*");
            if self.kind(TokenKind::Comma).is_none() {
                break;
            }
        }
        let _ = self.words(&["restart", "identity"]).or_else(|| self.words(&["continue", "identity"]));
        let cascade = self.word("cascade").is_some();
        self.word("restrict");
        self.end()?;
        Some((names, cascade))
    }

    /// A name that ends the statement.
    pub(super) fn last_name(&mut self) -> Option<Identifier> {
        let name = self.name()?;
        self.end()?;
        Some(name)
    }

    pub(super) fn name_or_string(&mut self) -> Option<Identifier> {
        match self.string() {
            Some(token) => string_value(token.kind, self.source(token)).map(Identifier::new),
            None => self.name(),
        }
    }

    /// From token `first` up to the current one, as written.
    pub(super) fn source_since(&self, first: usize) -> Option<Box<[u8]>> {
        let start = self.list.get(first)?.span.start;
        let end = self.list.get(self.at.checked_sub(1)?)?.span.end;
        Some(Span { start, end }.of(self.text).into())
    }

    /// `[[AS] label]`
    pub(super) fn label(&mut self) {
        let labelled =
            self.word("as").is_some() || self.peek().is_some_and(|token| token.kind.is_identifier());
        if labelled && self.peek().is_some_and(|token| token.kind.is_identifier()) {
            self.at += 1;
        }
    }

    /// `[pg_catalog.]name`
    pub(super) fn function(&mut self, name: &str) -> Read {
        if self.is_dot(self.at + 1) {
            self.word("pg_catalog")?;
            self.at += 1;
        }
        self.word(name)
    }
}
