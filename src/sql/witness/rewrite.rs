//! What is left out of the text for the parser, or said in other words.

use super::{From, Reader};
use crate::sql::scan::TokenKind;

impl Reader<'_> {
    /// FOR UPDATE | NO KEY UPDATE | SHARE | KEY SHARE
    pub(super) fn is_lock(&mut self, at: usize) -> bool {
        // `substring(a for key)`
        !self.level().call_with_from && matches!(self.word_at(at + 1), "update" | "no" | "share" | "key")
    }

    /// Leaves a locking clause out.
    pub(super) fn lock(&mut self, at: usize) -> usize {
        self.witness.locks_rows = true;
        self.level().from = From::Outside;
        let mut end = at + 1;
        while matches!(self.word_at(end), "no" | "key" | "update" | "share") {
            end += 1;
        }
        if self.word_at(end) == "of" {
            loop {
                end = self.chain(end + 1).1;
                if !self.is_kind(end, TokenKind::Comma) {
                    break;
                }
            }
        }
        if self.word_at(end) == "nowait" {
            end += 1;
        } else if self.word_at(end) == "skip" && self.word_at(end + 1) == "locked" {
            end += 2;
        }
        self.replace(at, end, "");
        end
    }

    /// EXCLUDE CURRENT ROW | GROUP | TIES | NO OTHERS, at the end of a window's frame.
    pub(super) fn frame_exclusion(&mut self, at: usize) -> usize {
        let end = match (self.word_at(at + 1), self.word_at(at + 2)) {
            ("current", "row") | ("no", "others") => at + 3,
            ("group" | "ties", _) => at + 2,
            _ => return self.identifier(at),
        };
        self.replace(at, end, "");
        end
    }

    /// SEARCH DEPTH | BREADTH FIRST BY a, b SET c; CYCLE a, b SET c [TO constant DEFAULT constant] USING d: behind a WITH
    /// query. Names of columns only.
    pub(super) fn search_and_cycle(&mut self, at: usize) -> usize {
        let mut end = at;
        if self.word_at(at) == "search" {
            let is_search = matches!(self.word_at(at + 1), "depth" | "breadth")
                && self.word_at(at + 2) == "first"
                && self.word_at(at + 3) == "by";
            match self.columns(at + 4) {
                Some(columns) if is_search && self.word_at(columns) == "set" => end = columns + 2,
                _ => return self.identifier(at),
            }
        }
        if self.word_at(end) == "cycle" {
            match self.cycle(end) {
                Some(behind) => end = behind,
                None => return self.identifier(at),
            }
        }
        self.replace(at, end, "");
        end
    }

    /// The target of ON CONFLICT, in front of DO: columns, or the expressions and the condition of an index, which are
    /// immutable.
    pub(super) fn conflict_target(&mut self, at: usize) -> usize {
        let mut end = at + 1;
        let mut depth = 0_usize;
        while let Some(token) = self.tokens.get(end) {
            match token.kind {
                TokenKind::OpenParen => depth += 1,
                TokenKind::CloseParen => depth = depth.saturating_sub(1),
                TokenKind::Word if depth == 0 && self.source(end) == "do" => break,
                _ => {}
            }
            end += 1;
        }
        self.replace(at + 1, end, "");
        end
    }

    /// The operator at `at`, which stands in the tokens from `first` to before `end`.
    pub(super) fn operator(&mut self, at: usize, first: usize, end: usize) -> usize {
        self.witness.size.operators += 1;
        let operator = self.source(at);
        if operator == "*" && self.is_wildcard(at) {
            return end;
        }
        if self.witness.operators.last().is_none_or(|last| **last != *operator) {
            self.witness.operators.push(operator.into());
        }
        let is_common = matches!(
            operator,
            "=" | "<>" | "!=" | "<" | ">" | "<=" | ">=" | "+" | "-" | "*" | "/" | "%" | "||" | "=>"
        );
        if !is_common || first != at {
            let before_list = matches!(self.word_at(end), "any" | "all" | "some");
            self.replace(first, end, if before_list { "= " } else { "+ " });
        }
        end
    }

    pub(super) fn copy_up_to(&mut self, end: usize) {
        self.witness.rewritten.push_str(self.shape.get(self.copied..end).unwrap_or_default());
        self.copied = self.copied.max(end);
    }

    /// Writes `with` for the tokens from `first` to before `end`.
    pub(super) fn replace(&mut self, first: usize, end: usize, with: &str) {
        self.copy_up_to(self.tokens[first].span.start);
        self.witness.rewritten.push_str(with);
        self.copied = self.tokens.get(end).map_or(self.shape.len(), |token| token.span.start);
    }
}
