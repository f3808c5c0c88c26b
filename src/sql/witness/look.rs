//! What stands at a place, and around it.

use super::Reader;
use crate::sql::literal::Identifier;
use crate::sql::scan::TokenKind;

impl<'a> Reader<'a> {
    /// `'1 day'::interval` at the beginning of a frame's bound, where the parser takes a string for an INTERVAL.
    pub(super) fn begins_bound(&self, at: usize) -> bool {
        let before = at.checked_sub(1).map_or("", |before| self.word_at(before));
        matches!(before, "between" | "and" | "range" | "rows" | "groups")
            && self.is_kind(at + 1, TokenKind::TypeCast)
    }

    /// Where CYCLE ends.
    pub(super) fn cycle(&self, at: usize) -> Option<usize> {
        let mut end = self.columns(at + 1)?;
        if self.word_at(end) != "set" || !self.is_name(end + 1) {
            return None;
        }
        end += 2;
        if self.word_at(end) == "to" {
            if !self.is_constant(end + 1) || self.word_at(end + 2) != "default" || !self.is_constant(end + 3)
            {
                return None;
            }
            end += 4;
        }
        (self.word_at(end) == "using" && self.is_name(end + 1)).then_some(end + 2)
    }

    /// What follows the list of names that begins at `at`.
    pub(super) fn columns(&self, mut at: usize) -> Option<usize> {
        while self.is_name(at) {
            at += 1;
            if !self.is_kind(at, TokenKind::Comma) {
                return Some(at);
            }
            at += 1;
        }
        None
    }

    fn is_name(&self, at: usize) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind.is_identifier())
    }

    fn is_constant(&self, at: usize) -> bool {
        matches!(self.word_at(at), "true" | "false" | "null")
            || self.is_kind(at, TokenKind::String)
            || self.is_kind(at, TokenKind::Integer)
    }

    /// Whether `USING (a, b)` stands in front of `at`, where an alias for it begins.
    pub(super) fn closes_using(&self, at: usize) -> bool {
        let Some(close) = at.checked_sub(1).filter(|&close| self.is_kind(close, TokenKind::CloseParen))
        else {
            return false;
        };
        let Some(open) = (0..close).rev().find(|&open| self.is_kind(open, TokenKind::OpenParen)) else {
            return false;
        };
        open > 0
            && self.word_at(open - 1) == "using"
            && self.columns(open + 1) == Some(close)
            && self.is_name(at + 1)
            && !self.is_kind(at + 2, TokenKind::OpenParen)
    }

    /// Whether a SELECT has no columns: what it may be followed by is there.
    pub(super) fn selects_nothing(&self, at: usize) -> bool {
        let is_end = self.tokens.get(at).is_none_or(|token| token.kind == TokenKind::CloseParen);
        is_end
            || matches!(
                self.word_at(at),
                "from" | "where" | "having" | "order" | "limit" | "offset" | "union" | "except" | "intersect"
            )
    }

    /// The `*` that stands for columns, or for nothing in `count(*)`.
    pub(super) fn is_wildcard(&self, at: usize) -> bool {
        let Some(before) = at.checked_sub(1) else {
            return false;
        };
        match self.tokens[before].kind {
            TokenKind::Dot | TokenKind::OpenParen | TokenKind::Comma => true,
            TokenKind::Word => matches!(self.source(before), "select" | "returning" | "distinct" | "all"),
            _ => false,
        }
    }

    /// TABLE as a query is where a query begins.
    pub(super) fn begins_query(&self, at: usize, before: &str) -> bool {
        at == 0
            || self.is_kind(at - 1, TokenKind::OpenParen)
            || self.is_kind(at - 1, TokenKind::CloseParen)
            || matches!(before, "union" | "except" | "intersect" | "all" | "distinct")
    }

    /// The name that the identifier at `at` stands for.
    pub(super) fn name_at(&self, at: usize) -> Box<str> {
        let token = self.tokens[at];
        let source = token.span.of(self.shape.as_bytes());
        Identifier::read(token.kind, source)
            .map_or_else(|| String::from_utf8_lossy(source).into_owned(), |name| name.to_string())
            .into()
    }

    /// The dotted name that begins at `at`, and what follows it. Empty if there is none.
    pub(super) fn chain(&self, at: usize) -> (Vec<Box<str>>, usize) {
        let mut parts = Vec::new();
        let mut end = at;
        while self.tokens.get(end).is_some_and(|token| token.kind.is_identifier()) {
            parts.push(self.name_at(end));
            end += 1;
            if !self.is_kind(end, TokenKind::Dot) {
                break;
            }
            end += 1;
        }
        (parts, end)
    }

    /// Where the dotted name begins whose last part is at `last`.
    pub(super) fn chain_start(&self, last: usize) -> usize {
        let mut first = last;
        while first >= 2
            && self.is_kind(first - 1, TokenKind::Dot)
            && self.tokens[first - 2].kind.is_identifier()
        {
            first -= 2;
        }
        first
    }

    pub(super) fn source(&self, at: usize) -> &'a str {
        let span = self.tokens[at].span;
        self.shape.get(span.start..span.end).unwrap_or_default()
    }

    /// The word at `at`; empty if there is something else.
    pub(super) fn word_at(&self, at: usize) -> &'a str {
        if self.is_kind(at, TokenKind::Word) { self.source(at) } else { "" }
    }

    pub(super) fn is_operator(&self, at: usize, operator: &str) -> bool {
        self.is_kind(at, TokenKind::Operator) && self.source(at) == operator
    }

    pub(super) fn is_kind(&self, at: usize, kind: TokenKind) -> bool {
        self.tokens.get(at).is_some_and(|token| token.kind == kind)
    }
}
