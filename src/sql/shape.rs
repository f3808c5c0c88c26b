//! The shape of a text: what is left when its constants are taken out, and the fingerprint of that.
//!
//! | in the text | in the shape |
//! |---|---|
//! | constants and parameters | `?`; a sign in front of a number goes with it |
//! | `NULL`, `TRUE`, `FALSE` where a constant stands: behind `(`, `[`, `,` or an operator | `?` |
//! | equal neighbors in `IN (...)`, `ARRAY[...]` and the rows of `VALUES` | once |
//! | unquoted identifiers and keywords | lower case (ASCII) |
//! | quoted identifiers | unchanged |
//! | whitespace, comments | gone; one space where two tokens need it or read better with it |
//! | the last `;` | gone |
//!
//! The spaces depend on the tokens alone, so that two ways to lay out one statement have one shape. Nothing else is
//! normalized: `pg_stat_statements` goes further (it knows the meaning), but only after a parse.

use super::scan::{Scanner, Span, TokenKind};

/// XXH64 (seed 0) of the shape: the same in every run, build and machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint(pub u64);

impl Fingerprint {
    /// Of a shape.
    pub fn of(shape: &[u8]) -> Self {
        Self(xxh64(shape))
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// The shape of one statement with constants that kept their kind: `0`, `'?'`, `$1`. Texts of one shape have the same
/// meaning to a parser that is given this; none of them has anything left that needs PostgreSQL's rules for quotes.
pub(super) fn typed(text: &[u8], span: Span, standard_conforming_strings: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(span.end.saturating_sub(span.start));
    let mut writer = ShapeWriter::new(&mut out);
    writer.typed = true;
    for token in Scanner::within(text, span, standard_conforming_strings) {
        writer.token(token.kind, token.span.of(text));
    }
    writer.finish();
    out
}

/// The same of a whole text.
pub(super) fn typed_text(text: &[u8], standard_conforming_strings: bool) -> Vec<u8> {
    typed(text, Span { start: 0, end: text.len() }, standard_conforming_strings)
}

/// How deep lists may stand in lists and still be collapsed.
const LISTS_MAX: usize = 8;

/// Writes a shape, token by token.
pub(super) struct ShapeWriter<'a> {
    out: &'a mut Vec<u8>,
    /// Constants keep their kind, for the parser.
    typed: bool,
    /// The token before; `None` at the start and behind a `;`.
    before: Option<TokenKind>,
    /// Where the token before begins in `out`.
    before_at: usize,
    depth: usize,
    /// Where the sign begins that a following number takes with it.
    sign_at: Option<usize>,
    lists: [List; LISTS_MAX],
    lists_open: usize,
}

/// A list whose equal neighbors are written once.
#[derive(Clone, Copy, Default)]
struct List {
    /// Depth of its commas.
    depth: usize,
    /// The rows of VALUES end where anything else follows a row.
    rows: bool,
    /// The element before: empty before the first.
    kept: (usize, usize),
    /// Where the current element begins.
    element: usize,
}

impl<'a> ShapeWriter<'a> {
    /// Empties `out` and begins.
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        out.clear();
        Self {
            out,
            typed: false,
            before: None,
            before_at: 0,
            depth: 0,
            sign_at: None,
            lists: [List::default(); LISTS_MAX],
            lists_open: 0,
        }
    }

    /// Adds a token that is not a comment.
    #[inline]
    pub(super) fn token(&mut self, kind: TokenKind, source: &[u8]) {
        match kind {
            TokenKind::Word => {
                if source.len() <= 5 && self.is_constant_word(source) {
                    self.constant(kind);
                    return;
                }
                self.end_rows();
                self.space_before_word();
                self.begin(kind);
                self.out.extend_from_slice(source);
                self.out[self.before_at..].make_ascii_lowercase();
            }
            TokenKind::QuotedIdentifier | TokenKind::UnicodeIdentifier | TokenKind::Invalid => {
                self.end_rows();
                self.space_before_word();
                self.begin(kind);
                self.out.extend_from_slice(source);
            }
            TokenKind::Integer | TokenKind::Numeric => {
                if let Some(sign_at) = self.sign_at.take() {
                    self.out.truncate(sign_at);
                    self.out.extend_from_slice(self.placeholder(kind));
                    self.before = Some(TokenKind::String);
                    self.before_at = sign_at;
                    return;
                }
                self.constant(kind);
            }
            TokenKind::String
            | TokenKind::EscapeString
            | TokenKind::NationalString
            | TokenKind::UnicodeString
            | TokenKind::BitString
            | TokenKind::DollarString
            | TokenKind::Parameter => self.constant(kind),
            TokenKind::Operator | TokenKind::ColonEquals | TokenKind::DotDot | TokenKind::Colon => {
                self.end_rows();
                let is_sign = matches!(source, b"-" | b"+") && self.at_start_of_operand();
                self.space_before_word();
                self.begin(kind);
                self.out.extend_from_slice(source);
                self.sign_at = is_sign.then_some(self.before_at);
            }
            TokenKind::Dot | TokenKind::TypeCast => {
                self.end_rows();
                self.begin(kind);
                self.out.extend_from_slice(source);
            }
            TokenKind::Comma => self.comma(),
            TokenKind::OpenParen | TokenKind::OpenBracket => self.open(kind),
            TokenKind::CloseParen | TokenKind::CloseBracket => self.close(kind),
            TokenKind::Semicolon if matches!(self.before, None | Some(TokenKind::Semicolon)) => {}
            TokenKind::Semicolon => {
                self.end_rows();
                self.lists_open = 0;
                self.begin(kind);
                self.out.push(b';');
            }
            TokenKind::Comment => {}
        }
    }

    /// Ends the text: the last `;` goes.
    pub(super) fn finish(mut self) {
        self.end_rows();
        while self.out.last() == Some(&b';') {
            self.out.pop();
        }
    }

    #[inline]
    fn begin(&mut self, kind: TokenKind) {
        self.before = Some(kind);
        self.before_at = self.out.len();
        self.sign_at = None;
    }

    #[inline]
    fn space_before_word(&mut self) {
        let glued = matches!(
            self.before,
            None | Some(TokenKind::OpenParen | TokenKind::OpenBracket | TokenKind::Dot | TokenKind::TypeCast)
        );
        if !glued {
            self.out.push(b' ');
        }
    }

    fn constant(&mut self, kind: TokenKind) {
        self.end_rows();
        self.space_before_word();
        // As a string: whatever stood here was one constant.
        self.begin(TokenKind::String);
        self.out.extend_from_slice(self.placeholder(kind));
    }

    fn placeholder(&self, kind: TokenKind) -> &'static [u8] {
        if !self.typed {
            return b"?";
        }
        match kind {
            TokenKind::Integer | TokenKind::Numeric => b"0",
            TokenKind::Parameter => b"$1",
            _ => b"'?'",
        }
    }

    fn is_constant_word(&self, source: &[u8]) -> bool {
        let behind = !self.typed
            && matches!(
                self.before,
                Some(TokenKind::OpenParen | TokenKind::OpenBracket | TokenKind::Comma | TokenKind::Operator)
            );
        behind
            && (source.eq_ignore_ascii_case(b"null")
                || source.eq_ignore_ascii_case(b"true")
                || source.eq_ignore_ascii_case(b"false"))
    }

    /// Whether what follows begins an operand, so that `-` there is a sign and not a subtraction.
    fn at_start_of_operand(&self) -> bool {
        match self.before {
            Some(
                TokenKind::Operator
                | TokenKind::Comma
                | TokenKind::OpenParen
                | TokenKind::OpenBracket
                | TokenKind::Colon,
            ) => true,
            Some(TokenKind::Word) => matches!(
                self.word_before(),
                b"select"
                    | b"and"
                    | b"or"
                    | b"between"
                    | b"limit"
                    | b"offset"
                    | b"then"
                    | b"else"
                    | b"when"
                    | b"to"
                    | b"like"
                    | b"where"
                    | b"returning"
                    | b"distinct"
            ),
            _ => false,
        }
    }

    /// The last word written. Only if `before` is a word.
    fn word_before(&self) -> &[u8] {
        &self.out[self.before_at..]
    }

    fn open(&mut self, kind: TokenKind) {
        let word = if self.before == Some(TokenKind::Word) { self.word_before() } else { b"" };
        // `s.in(1, 1)` calls a function of two arguments.
        let is_qualified = self.before_at > 0 && self.out[self.before_at - 1] == b'.';
        let opens_list = !is_qualified
            && matches!((kind, word), (TokenKind::OpenParen, b"in") | (TokenKind::OpenBracket, b"array"));
        let opens_rows = !is_qualified && kind == TokenKind::OpenParen && word == b"values";
        let space = match self.before {
            Some(TokenKind::Word) => kind == TokenKind::OpenParen && takes_space_before_paren(word),
            Some(TokenKind::String | TokenKind::CloseParen) => kind == TokenKind::OpenParen,
            Some(
                TokenKind::Comma
                | TokenKind::Operator
                | TokenKind::Semicolon
                | TokenKind::ColonEquals
                | TokenKind::DotDot
                | TokenKind::Colon,
            ) => true,
            _ => false,
        };
        if !opens_rows && self.before != Some(TokenKind::Comma) {
            self.end_rows();
        }
        if space {
            self.out.push(b' ');
        }
        if opens_rows {
            self.open_list(List { depth: self.depth, rows: true, kept: (0, 0), element: self.out.len() });
        }
        self.begin(kind);
        self.out.push(if kind == TokenKind::OpenParen { b'(' } else { b'[' });
        self.depth += 1;
        if opens_list {
            self.open_list(List { depth: self.depth, rows: false, kept: (0, 0), element: self.out.len() });
        }
    }

    fn open_list(&mut self, list: List) {
        if self.lists_open < LISTS_MAX {
            self.lists[self.lists_open] = list;
            self.lists_open += 1;
        }
    }

    fn close(&mut self, kind: TokenKind) {
        // Lists inside these parentheses end here; their last element may equal the one before.
        while self.lists_open > 0 && self.lists[self.lists_open - 1].depth >= self.depth {
            self.end_element();
            self.lists_open -= 1;
        }
        self.depth = self.depth.saturating_sub(1);
        self.begin(kind);
        self.out.push(if kind == TokenKind::CloseParen { b')' } else { b']' });
    }

    fn comma(&mut self) {
        let in_list = self.lists_open > 0 && self.lists[self.lists_open - 1].depth == self.depth;
        if in_list {
            self.end_element();
        }
        self.begin(TokenKind::Comma);
        self.out.push(b',');
        if in_list {
            // The element begins behind the space that its first token writes.
            self.lists[self.lists_open - 1].element = self.out.len() + 1;
        }
    }

    /// The element of the innermost list is complete: drop it if it equals the one before.
    fn end_element(&mut self) {
        let list = &mut self.lists[self.lists_open - 1];
        let (start, end) = list.kept;
        let element = self.out.get(list.element..).unwrap_or_default();
        if start < end && self.out[start..end] == *element {
            self.out.truncate(end);
        } else {
            list.kept = (list.element, self.out.len());
        }
    }

    /// Rows of VALUES are followed by a comma and the next row, or they have ended.
    #[inline]
    fn end_rows(&mut self) {
        if self.lists_open > 0 {
            self.end_open_rows();
        }
    }

    fn end_open_rows(&mut self) {
        while self.lists_open > 0 {
            let list = self.lists[self.lists_open - 1];
            if !list.rows || list.depth != self.depth {
                return;
            }
            self.end_element();
            self.lists_open -= 1;
        }
    }
}

fn takes_space_before_paren(word: &[u8]) -> bool {
    matches!(
        word,
        b"in"
            | b"values"
            | b"and"
            | b"or"
            | b"not"
            | b"from"
            | b"join"
            | b"on"
            | b"using"
            | b"as"
            | b"where"
            | b"select"
            | b"exists"
            | b"by"
            | b"when"
            | b"then"
            | b"else"
            | b"having"
            | b"union"
            | b"except"
            | b"intersect"
            | b"all"
            | b"returning"
            | b"over"
            | b"filter"
            | b"lateral"
            | b"conflict"
            | b"distinct"
    )
}

const PRIME_1: u64 = 0x9E37_79B1_85EB_CA87;
const PRIME_2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const PRIME_3: u64 = 0x1656_67B1_9E37_79F9;
const PRIME_4: u64 = 0x85EB_CA77_C2B2_AE63;
const PRIME_5: u64 = 0x27D4_EB2F_1656_67C5;

/// XXH64 with seed 0 (<https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>).
fn xxh64(bytes: &[u8]) -> u64 {
    let mut stripes = bytes.chunks_exact(32);
    let mut hash = if bytes.len() >= 32 {
        let mut lanes = [PRIME_1.wrapping_add(PRIME_2), PRIME_2, 0, PRIME_1.wrapping_neg()];
        for stripe in stripes.by_ref() {
            for (lane, word) in lanes.iter_mut().zip(stripe.chunks_exact(8)) {
                *lane = round(*lane, little_endian(word));
            }
        }
        let [first, second, third, fourth] = lanes;
        let mut hash = first
            .rotate_left(1)
            .wrapping_add(second.rotate_left(7))
            .wrapping_add(third.rotate_left(12))
            .wrapping_add(fourth.rotate_left(18));
        for lane in lanes {
            hash = (hash ^ round(0, lane)).wrapping_mul(PRIME_1).wrapping_add(PRIME_4);
        }
        hash
    } else {
        PRIME_5
    };
    hash = hash.wrapping_add(bytes.len() as u64);

    let mut words = stripes.remainder().chunks_exact(8);
    for word in words.by_ref() {
        hash ^= round(0, little_endian(word));
        hash = hash.rotate_left(27).wrapping_mul(PRIME_1).wrapping_add(PRIME_4);
    }
    let mut rest = words.remainder();
    if let Some((word, behind)) = rest.split_at_checked(4) {
        hash ^= little_endian(word).wrapping_mul(PRIME_1);
        hash = hash.rotate_left(23).wrapping_mul(PRIME_2).wrapping_add(PRIME_3);
        rest = behind;
    }
    for &byte in rest {
        hash ^= u64::from(byte).wrapping_mul(PRIME_5);
        hash = hash.rotate_left(11).wrapping_mul(PRIME_1);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(PRIME_2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(PRIME_3);
    hash ^ (hash >> 32)
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(PRIME_2)).rotate_left(31).wrapping_mul(PRIME_1)
}

fn little_endian(word: &[u8]) -> u64 {
    match word.try_into() {
        Ok(word) => u64::from_le_bytes(word),
        Err(_) => word.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xxh64_gives_the_published_values() {
        assert_eq!(xxh64(b""), 0xEF46_DB37_51D8_E999);
        assert_eq!(xxh64(b"abc"), 0x44BC_2CF5_AD77_0999);
        assert_eq!(xxh64(b"Nobody inspects the spammish repetition"), 0xFBCE_A83C_8A37_8BF1);
    }
}
