//! Outlines: what texts have in common that differ in plain constants alone.
//!
//! A driver that writes values into the text sends `WHERE id = 7` and then `WHERE id = 8`. Of two texts with one outline
//! the scanner cuts the second where it cut the first, so what was found in the first is true of the second, and a copy
//! in one pass stands for the analysis:
//!
//! | in the text | in the outline |
//! |---|---|
//! | digits that stand alone | `0` |
//! | digits with a point and digits behind them | `0.0` |
//! | a string in plain quotes, with no quote or backslash inside | `''` |
//! | everything else | unchanged |
//!
//! The argument: up to a gap both texts are the same, so the scanner comes to it in the same state and begins a token;
//! the token ends with the gap in the one text, and does so in the other, as a gap is closed by what is behind it, which
//! is the same again. That a gap is a token in the first place is not known from here: [`Outline::is_of_constants`] asks
//! the scanner once. Texts whose comments differ from call to call, or that have escapes or quotes in quotes, have none.

use super::literal::{DATE_BYTES_MAX, names_time};
use super::scan::{Class, Scanner, Span, TokenKind, class, digits_end, in_word, word_end};

/// A text's outline. Kept for its buffers.
#[derive(Debug, Default)]
pub(super) struct Outline {
    /// The outline.
    pub(super) bytes: Vec<u8>,
    /// Where the text has the constants that were taken out.
    pub(super) gaps: Vec<Gap>,
}

/// A constant that was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub(super) kind: TokenKind,
    pub(super) span: Span,
}

impl Outline {
    /// Takes a text's outline. False: it has none, or a constant of it says more than a value.
    pub(super) fn take(&mut self, text: &[u8]) -> bool {
        self.bytes.clear();
        self.gaps.clear();
        let (mut at, mut copied) = (0, 0);
        while let Some(&byte) = text.get(at) {
            let (kind, end) = match class(byte) {
                Class::Letter | Class::Prefix => {
                    at = word_end(text, at + 1);
                    // `E'...'`, and names that a quote follows.
                    if text.get(at) == Some(&b'\'') {
                        return false;
                    }
                    continue;
                }
                Class::Digit => match number(text, at) {
                    Some(number) => number,
                    None => return false,
                },
                Class::Quote => match string(text, at) {
                    Some(end) => (TokenKind::String, end),
                    None => return false,
                },
                Class::DoubleQuote => {
                    let Some(length) = text[at + 1..].iter().position(|&byte| byte == b'"') else {
                        return false;
                    };
                    at += length + 2;
                    continue;
                }
                Class::Dollar if text.get(at + 1).is_some_and(u8::is_ascii_digit) => {
                    at = word_end(text, at + 1);
                    continue;
                }
                Class::Dot if text.get(at + 1).is_some_and(u8::is_ascii_digit) => return false,
                Class::Minus if text.get(at + 1) == Some(&b'-') => return false,
                Class::Slash if text.get(at + 1) == Some(&b'*') => return false,
                // `U&'...'`
                Class::Operator if byte == b'&' && text.get(at + 1) == Some(&b'\'') => return false,
                Class::Dollar | Class::Stray => return false,
                _ => {
                    at += 1;
                    continue;
                }
            };
            self.bytes.extend_from_slice(&text[copied..at]);
            self.bytes.extend_from_slice(placeholder(kind));
            self.gaps.push(Gap { kind, span: Span { start: at, end } });
            (at, copied) = (end, end);
        }
        self.bytes.extend_from_slice(&text[copied..]);
        true
    }

    /// Whether the gaps are the constants of the text that the outline was taken of, and nothing else is.
    pub(super) fn is_of_constants(&self, text: &[u8], standard_conforming_strings: bool) -> bool {
        let mut scanner = Scanner::new(text, standard_conforming_strings);
        let constants = scanner.by_ref().filter(|token| token.kind.is_literal()).map(|token| {
            // Without a backslash they are the same.
            let kind = if token.kind == TokenKind::EscapeString { TokenKind::String } else { token.kind };
            Gap { kind, span: token.span }
        });
        constants.eq(self.gaps.iter().copied()) && scanner.flaw().is_none()
    }
}

fn placeholder(kind: TokenKind) -> &'static [u8] {
    match kind {
        TokenKind::Integer => b"0",
        TokenKind::Numeric => b"0.0",
        _ => b"''",
    }
}

/// A number in its plainest form, and its end.
fn number(text: &[u8], at: usize) -> Option<(TokenKind, usize)> {
    let mut end = digits_end(text, at);
    let mut kind = TokenKind::Integer;
    if text.get(end) == Some(&b'.') && text.get(end + 1).is_some_and(u8::is_ascii_digit) {
        kind = TokenKind::Numeric;
        end = digits_end(text, end + 1);
    }
    // What may go on in it: an exponent, a base, groups, letters that are refused.
    let goes_on = text.get(end).is_some_and(|&byte| in_word(byte) || byte == b'.');
    (!goes_on).then_some((kind, end))
}

/// Behind a string in its plainest form that does not stand for the current time.
fn string(text: &[u8], at: usize) -> Option<usize> {
    let length = text[at + 1..].iter().position(|&byte| matches!(byte, b'\'' | b'\\'))?;
    let end = at + length + 2;
    let source = &text[at..end];
    let is_plain = source.ends_with(b"'") && text.get(end) != Some(&b'\'');
    (is_plain && !(source.len() <= DATE_BYTES_MAX && names_time(source))).then_some(end)
}

/// Where the constant ends that begins at `at`, in a text that is known to have one of this kind there.
pub(super) fn plain_end(text: &[u8], at: usize, kind: TokenKind) -> Option<usize> {
    let rest = text.get(at..)?;
    let is_inside = |byte: &u8| byte.is_ascii_digit() || kind == TokenKind::Numeric && *byte == b'.';
    let length = match kind {
        TokenKind::String => rest.get(1..)?.iter().position(|&byte| byte == b'\'')? + 2,
        _ => rest.iter().position(|byte| !is_inside(byte)).unwrap_or(rest.len()),
    };
    Some(at + length)
}
