//! The scanner: statement text to tokens, exactly as PostgreSQL's own lexer (`src/backend/parser/scan.l`) cuts it.
//!
//! Everything else in this module trusts these cuts: a quote or a comment read differently from the server is a
//! write mistaken for a read, or a `;` that ends a statement for one side only. So this is the whole lexer and not
//! a set of regular expressions, and it never fails: text that PostgreSQL would refuse gives tokens to the end and
//! a [`Flaw`]. It allocates nothing and looks at each byte a bounded number of times.
//!
//! Bytes are bytes. Every encoding that PostgreSQL allows on the server side keeps ASCII bytes for ASCII
//! characters; some that it allows on the client side only do not ([`lexes_bytewise`]).

/// A range of bytes of the statement text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
}

impl Span {
    /// The bytes of `text` in this span; empty if the span is of a longer text.
    pub fn of(self, text: &[u8]) -> &[u8] {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

/// What a token is. Names follow the manual, chapter 4.1 Lexical Structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// An unquoted identifier or a keyword.
    Word,
    /// `"..."`
    QuotedIdentifier,
    /// `U&"..."`
    UnicodeIdentifier,
    /// `'...'`; with its continuations on following lines, as the other string kinds.
    String,
    /// `E'...'`, and `'...'` where `standard_conforming_strings` is off.
    EscapeString,
    /// `N'...'`
    NationalString,
    /// `U&'...'`
    UnicodeString,
    /// `B'...'` and `X'...'`
    BitString,
    /// `$tag$...$tag$`
    DollarString,
    /// Digits, also in base 16, 8 or 2.
    Integer,
    /// A number with a point or an exponent.
    Numeric,
    /// `$1`
    Parameter,
    /// One operator, of any length.
    Operator,
    /// `,`
    Comma,
    /// `(`
    OpenParen,
    /// `)`
    CloseParen,
    /// `[`
    OpenBracket,
    /// `]`
    CloseBracket,
    /// `.`
    Dot,
    /// `..`
    DotDot,
    /// `;`
    Semicolon,
    /// `:`
    Colon,
    /// `::`
    TypeCast,
    /// `:=`
    ColonEquals,
    /// `/* ... */`, nested ones included, or `-- ...` without its newline.
    Comment,
    /// What PostgreSQL's lexer or grammar refuses: a stray byte, or a number with letters behind it.
    Invalid,
}

impl TokenKind {
    /// A constant: its value is not part of a statement's shape.
    pub fn is_literal(self) -> bool {
        self.is_string() || matches!(self, Self::Integer | Self::Numeric | Self::BitString)
    }

    /// A string constant that the grammar takes where it wants an `Sconst`.
    pub fn is_string(self) -> bool {
        matches!(
            self,
            Self::String
                | Self::EscapeString
                | Self::NationalString
                | Self::UnicodeString
                | Self::DollarString
        )
    }

    /// An identifier, quoted or not.
    pub fn is_identifier(self) -> bool {
        matches!(self, Self::Word | Self::QuotedIdentifier | Self::UnicodeIdentifier)
    }
}

/// One token and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Where it is.
    pub span: Span,
}

/// Why PostgreSQL will refuse the text as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It ends inside a string constant.
    UnterminatedString,
    /// It ends inside a quoted identifier.
    UnterminatedIdentifier,
    /// It ends inside a comment.
    UnterminatedComment,
    /// A byte that begins no token, such as NUL or a backslash.
    StrayByte,
    /// `12abc`, `$1abc`, `0x`, `1e+`
    MalformedNumber,
    /// `U&'...'` where `standard_conforming_strings` is off.
    UnsafeUnicodeString,
    /// Parentheses do not match.
    UnbalancedParentheses,
}

impl Flaw {
    /// The word for logs and tests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnterminatedString => "unterminated_string",
            Self::UnterminatedIdentifier => "unterminated_identifier",
            Self::UnterminatedComment => "unterminated_comment",
            Self::StrayByte => "stray_byte",
            Self::MalformedNumber => "malformed_number",
            Self::UnsafeUnicodeString => "unsafe_unicode_string",
            Self::UnbalancedParentheses => "unbalanced_parentheses",
        }
    }
}

/// Whether text in this `client_encoding` can be scanned before the server has converted it.
///
/// In Big5, GBK, GB18030, Johab, Shift JIS and UHC the second byte of a character can be an ASCII byte, `\` and `|`
/// among them. The text of such a client means to us something else than to the server: do not analyze it
/// (`Analysis::unscanned`).
pub fn lexes_bytewise(client_encoding: &str) -> bool {
    // PostgreSQL ignores everything but letters and digits in the name (`clean_encoding_name`).
    let name: String = client_encoding
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|letter| letter.to_ascii_lowercase())
        .collect();
    !matches!(
        name.as_str(),
        "big5"
            | "win950"
            | "windows950"
            | "gbk"
            | "win936"
            | "windows936"
            | "gb18030"
            | "johab"
            | "sjis"
            | "shiftjis"
            | "mskanji"
            | "win932"
            | "windows932"
            | "shiftjis2004"
            | "uhc"
            | "win949"
            | "windows949"
    )
}

/// How the server cuts a client's texts: by two settings of the session, at the time when the text is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lexing {
    /// Backslashes in plain strings are just backslashes.
    pub standard_conforming_strings: bool,
    /// See [`lexes_bytewise`].
    pub bytewise: bool,
}

impl Lexing {
    /// Whether a text can be scanned here. One of ASCII only always can: only the second byte of a character can be
    /// mistaken for another.
    pub fn can_scan(self, text: &[u8]) -> bool {
        self.bytewise || text.is_ascii()
    }
}

/// In an encoding that lexes bytewise.
impl From<bool> for Lexing {
    fn from(standard_conforming_strings: bool) -> Self {
        Self { standard_conforming_strings, bytewise: true }
    }
}

/// Iterates over the tokens of a text.
#[derive(Clone, Debug)]
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    standard_conforming_strings: bool,
    flaw: Option<Flaw>,
}

impl<'a> Scanner<'a> {
    /// Begins at the first byte of `text`.
    pub fn new(text: &'a [u8], standard_conforming_strings: bool) -> Self {
        Self { text, at: 0, standard_conforming_strings, flaw: None }
    }

    /// Scans only `span`, with offsets of the whole text. The span must begin and end between tokens.
    pub fn within(text: &'a [u8], span: Span, standard_conforming_strings: bool) -> Self {
        let text = text.get(..span.end).unwrap_or(text);
        Self { text, at: span.start, standard_conforming_strings, flaw: None }
    }

    /// The first flaw met so far.
    pub fn flaw(&self) -> Option<Flaw> {
        self.flaw
    }

    #[cold]
    fn note(&mut self, flaw: Flaw) {
        self.flaw.get_or_insert(flaw);
    }
}

/// What a byte can begin.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Space,
    Letter,
    /// A letter that may introduce a string: b, e, n, u, x.
    Prefix,
    Digit,
    Quote,
    DoubleQuote,
    Dollar,
    Dot,
    Colon,
    Minus,
    Slash,
    Operator,
    Comma,
    OpenParen,
    CloseParen,
    OpenBracket,
    CloseBracket,
    Semicolon,
    Stray,
}

static CLASS: [Class; 256] = {
    let mut table = [Class::Stray; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match byte.to_le_bytes()[0] {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Class::Space,
            b'b' | b'B' | b'e' | b'E' | b'n' | b'N' | b'u' | b'U' | b'x' | b'X' => Class::Prefix,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Class::Letter,
            b'0'..=b'9' => Class::Digit,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'$' => Class::Dollar,
            b'.' => Class::Dot,
            b':' => Class::Colon,
            b'-' => Class::Minus,
            b'/' => Class::Slash,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'*' | b'%' | b'<'
            | b'>' | b'=' => Class::Operator,
            b',' => Class::Comma,
            b'(' => Class::OpenParen,
            b')' => Class::CloseParen,
            b'[' => Class::OpenBracket,
            b']' => Class::CloseBracket,
            b';' => Class::Semicolon,
            _ => Class::Stray,
        };
        byte += 1;
    }
    table
};

static IN_WORD: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(CLASS[byte], Class::Letter | Class::Prefix | Class::Digit | Class::Dollar);
        byte += 1;
    }
    table
};

pub(super) fn class(byte: u8) -> Class {
    CLASS[usize::from(byte)]
}

/// May stand inside an unquoted identifier.
pub(super) fn in_word(byte: u8) -> bool {
    IN_WORD[usize::from(byte)]
}

fn begins_word(byte: Option<&u8>) -> bool {
    byte.is_some_and(|&byte| matches!(class(byte), Class::Letter | Class::Prefix))
}

fn is_digit(byte: Option<&u8>) -> bool {
    byte.is_some_and(u8::is_ascii_digit)
}

fn is_operator(byte: u8) -> bool {
    matches!(class(byte), Class::Operator | Class::Minus | Class::Slash)
}

impl Iterator for Scanner<'_> {
    type Item = Token;

    #[expect(clippy::inline_always, reason = "a token handed over in registers: a third less per analysis")]
    #[inline(always)]
    fn next(&mut self) -> Option<Token> {
        let text = self.text;
        let mut start = self.at;
        let class = loop {
            let Some(&byte) = text.get(start) else {
                self.at = start;
                return None;
            };
            match class(byte) {
                Class::Space => start += 1,
                class => break class,
            }
        };
        let (kind, end) = match class {
            Class::Letter => (TokenKind::Word, word_end(text, start + 1)),
            Class::Prefix => self.prefixed(start),
            Class::Digit => self.number(start),
            Class::Comma => (TokenKind::Comma, start + 1),
            Class::OpenParen => (TokenKind::OpenParen, start + 1),
            Class::CloseParen => (TokenKind::CloseParen, start + 1),
            Class::Operator => (TokenKind::Operator, operator_end(text, start)),
            Class::Quote => self.plain_string(start, TokenKind::String),
            Class::DoubleQuote => self.quoted_identifier(start + 1, TokenKind::QuotedIdentifier),
            Class::Dot => match text.get(start + 1) {
                Some(b'.') => (TokenKind::DotDot, start + 2),
                next if is_digit(next) => self.number(start),
                _ => (TokenKind::Dot, start + 1),
            },
            Class::Colon => match text.get(start + 1) {
                Some(b':') => (TokenKind::TypeCast, start + 2),
                Some(b'=') => (TokenKind::ColonEquals, start + 2),
                _ => (TokenKind::Colon, start + 1),
            },
            Class::Minus => match text.get(start + 1) {
                Some(b'-') => (TokenKind::Comment, line_end(text, start + 2)),
                _ => (TokenKind::Operator, operator_end(text, start)),
            },
            Class::Slash => match text.get(start + 1) {
                Some(b'*') => self.block_comment(start),
                _ => (TokenKind::Operator, operator_end(text, start)),
            },
            Class::Dollar => self.dollar(start),
            Class::OpenBracket => (TokenKind::OpenBracket, start + 1),
            Class::CloseBracket => (TokenKind::CloseBracket, start + 1),
            Class::Semicolon => (TokenKind::Semicolon, start + 1),
            Class::Stray | Class::Space => {
                self.note(Flaw::StrayByte);
                (TokenKind::Invalid, start + 1)
            }
        };
        self.at = end;
        Some(Token { kind, span: Span { start, end } })
    }
}

impl Scanner<'_> {
    /// A word that begins with one of the letters that may also introduce a string.
    fn prefixed(&mut self, start: usize) -> (TokenKind, usize) {
        let text = self.text;
        let letter = text[start].to_ascii_lowercase();
        match (letter, text.get(start + 1)) {
            (b'e', Some(b'\'')) => self.string(start + 2, Escapes::Backslash, TokenKind::EscapeString),
            (b'b' | b'x', Some(b'\'')) => self.string(start + 2, Escapes::None, TokenKind::BitString),
            (b'n', Some(b'\'')) => self.plain_string(start + 1, TokenKind::NationalString),
            (b'u', Some(b'&')) => match text.get(start + 2) {
                Some(b'\'') => {
                    if !self.standard_conforming_strings {
                        self.note(Flaw::UnsafeUnicodeString);
                    }
                    self.string(start + 3, Escapes::Doubling, TokenKind::UnicodeString)
                }
                Some(b'"') => self.quoted_identifier(start + 3, TokenKind::UnicodeIdentifier),
                _ => (TokenKind::Word, start + 1),
            },
            _ => (TokenKind::Word, word_end(text, start + 1)),
        }
    }

    /// A string without an escape prefix: `standard_conforming_strings` decides about its backslashes.
    fn plain_string(&mut self, quote: usize, kind: TokenKind) -> (TokenKind, usize) {
        if self.standard_conforming_strings {
            self.string(quote + 1, Escapes::Doubling, kind)
        } else {
            self.string(quote + 1, Escapes::Backslash, TokenKind::EscapeString)
        }
    }

    fn string(&mut self, inside: usize, escapes: Escapes, kind: TokenKind) -> (TokenKind, usize) {
        let mut at = inside;
        loop {
            let Some(end) = string_end(self.text, at, escapes) else {
                self.note(Flaw::UnterminatedString);
                return (kind, self.text.len());
            };
            match continuation(self.text, end) {
                Some(inside) => at = inside,
                None => return (kind, end),
            }
        }
    }

    /// PostgreSQL refuses the empty `""`; that is not worth a flaw: nothing can hide in it.
    fn quoted_identifier(&mut self, inside: usize, kind: TokenKind) -> (TokenKind, usize) {
        let mut at = inside;
        while let Some(length) = self.text[at..].iter().position(|&byte| byte == b'"') {
            at += length + 1;
            if self.text.get(at) != Some(&b'"') {
                return (kind, at);
            }
            at += 1;
        }
        self.note(Flaw::UnterminatedIdentifier);
        (kind, self.text.len())
    }

    fn block_comment(&mut self, start: usize) -> (TokenKind, usize) {
        let text = self.text;
        let mut depth = 1_usize;
        let mut at = start + 2;
        while let Some(&byte) = text.get(at) {
            match (byte, text.get(at + 1)) {
                (b'*', Some(b'/')) => {
                    at += 2;
                    depth -= 1;
                    if depth == 0 {
                        return (TokenKind::Comment, at);
                    }
                }
                (b'/', Some(b'*')) => {
                    at += 2;
                    depth += 1;
                }
                _ => at += 1,
            }
        }
        self.note(Flaw::UnterminatedComment);
        (TokenKind::Comment, text.len())
    }

    /// `$1`, `$tag$...$tag$`, or a stray dollar sign.
    fn dollar(&mut self, start: usize) -> (TokenKind, usize) {
        let text = self.text;
        if is_digit(text.get(start + 1)) {
            let end = digits_end(text, start + 1);
            return self.unless_junk(TokenKind::Parameter, start, end);
        }
        let Some(inside) = dollar_tag_end(text, start) else {
            self.note(Flaw::StrayByte);
            return (TokenKind::Invalid, start + 1);
        };
        let tag = &text[start..inside];
        let mut at = inside;
        // A tag has no dollar sign inside, so the comparisons never overlap: linear.
        while let Some(length) = text[at..].iter().position(|&byte| byte == b'$') {
            at += length;
            if text[at..].starts_with(tag) {
                return (TokenKind::DollarString, at + tag.len());
            }
            at += 1;
        }
        self.note(Flaw::UnterminatedString);
        (TokenKind::DollarString, text.len())
    }

    fn number(&mut self, start: usize) -> (TokenKind, usize) {
        let text = self.text;
        if text[start] == b'0' {
            let is_in_base: Option<fn(&u8) -> bool> = match text.get(start + 1) {
                Some(b'x' | b'X') => Some(u8::is_ascii_hexdigit),
                Some(b'o' | b'O') => Some(|byte| matches!(byte, b'0'..=b'7')),
                Some(b'b' | b'B') => Some(|byte| matches!(byte, b'0' | b'1')),
                _ => None,
            };
            if let Some(is_in_base) = is_in_base {
                let end = grouped_end(text, start + 2, is_in_base);
                if end > start + 2 {
                    return self.unless_junk(TokenKind::Integer, start, end);
                }
            }
        }
        let mut kind = TokenKind::Integer;
        let mut at = if text[start] == b'.' { start } else { decimal_end(text, start) };
        // `1..2` is a range of integers, not `1.` and `.2`.
        if text.get(at) == Some(&b'.') && text.get(at + 1) != Some(&b'.') {
            kind = TokenKind::Numeric;
            at += 1;
            if is_digit(text.get(at)) {
                at = decimal_end(text, at);
            }
        }
        if matches!(text.get(at), Some(b'e' | b'E')) {
            let signed = matches!(text.get(at + 1), Some(b'+' | b'-'));
            let exponent = at + 1 + usize::from(signed);
            if is_digit(text.get(exponent)) {
                kind = TokenKind::Numeric;
                at = decimal_end(text, exponent);
            } else if signed {
                self.note(Flaw::MalformedNumber);
                return (TokenKind::Invalid, exponent);
            }
        }
        self.unless_junk(kind, start, at)
    }

    /// Letters right behind a number are an error since PostgreSQL 15.
    fn unless_junk(&mut self, kind: TokenKind, start: usize, end: usize) -> (TokenKind, usize) {
        let text = self.text;
        // In `0b12` and `1e5$` the longer match is the number before the letter with a word behind it.
        let holds_word = || {
            let run = text[start + 1..end].iter().rev().take_while(|&&byte| in_word(byte));
            run.into_iter().any(|byte| begins_word(Some(byte)))
        };
        if begins_word(text.get(end)) || (text.get(end).is_some_and(|&byte| in_word(byte)) && holds_word()) {
            self.note(Flaw::MalformedNumber);
            return (TokenKind::Invalid, word_end(self.text, end));
        }
        (kind, end)
    }
}

/// How a quote can stand inside a string.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escapes {
    /// Not at all (bit strings).
    None,
    /// `''`
    Doubling,
    /// `''` and `\'`
    Backslash,
}

pub(super) fn word_end(text: &[u8], mut at: usize) -> usize {
    while text.get(at).is_some_and(|&byte| in_word(byte)) {
        at += 1;
    }
    at
}

fn line_end(text: &[u8], at: usize) -> usize {
    let length = text[at..].iter().position(|&byte| matches!(byte, b'\n' | b'\r'));
    length.map_or(text.len(), |length| at + length)
}

/// Behind the closing quote of a string whose inside begins at `at`, or `None` if it has none.
fn string_end(text: &[u8], mut at: usize, escapes: Escapes) -> Option<usize> {
    while let Some(&byte) = text.get(at) {
        at += 1;
        if byte == b'\'' {
            if escapes == Escapes::None || text.get(at) != Some(&b'\'') {
                return Some(at);
            }
            at += 1;
        } else if byte == b'\\' && escapes == Escapes::Backslash {
            at += 1;
        }
    }
    None
}

/// Two strings separated by whitespace with at least one newline, line comments included, are one
/// (manual, 4.1.2.1). Gives the inside of the second.
fn continuation(text: &[u8], mut at: usize) -> Option<usize> {
    let mut newline = false;
    loop {
        match text.get(at)? {
            b'\n' | b'\r' => {
                newline = true;
                at += 1;
            }
            b' ' | b'\t' | 0x0b | 0x0c => at += 1,
            b'-' if text.get(at + 1) == Some(&b'-') => at = line_end(text, at + 2),
            b'\'' if newline => return Some(at + 1),
            _ => return None,
        }
    }
}

/// Behind `$tag$` that begins at `start`.
fn dollar_tag_end(text: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    if begins_word(text.get(at)) {
        while begins_word(text.get(at)) || is_digit(text.get(at)) {
            at += 1;
        }
    }
    (text.get(at) == Some(&b'$')).then_some(at + 1)
}

pub(super) fn digits_end(text: &[u8], mut at: usize) -> usize {
    while is_digit(text.get(at)) {
        at += 1;
    }
    at
}

/// Digits with single underscores between them.
fn decimal_end(text: &[u8], at: usize) -> usize {
    grouped_end(text, digits_end(text, at), u8::is_ascii_digit)
}

/// Digits of a base, each with at most one underscore in front.
fn grouped_end(text: &[u8], mut at: usize, is_in_base: impl Fn(&u8) -> bool) -> usize {
    loop {
        let digit = at + usize::from(text.get(at) == Some(&b'_'));
        if !text.get(digit).is_some_and(&is_in_base) {
            return at;
        }
        at = digit + 1;
    }
}

/// The longest run of operator characters that holds no comment and, unless one of ``~!@#^&|`?%`` is in it, does
/// not end in `+` or `-` (manual, 4.1.3), so that `a=-1` is `a = -1`.
fn operator_end(text: &[u8], start: usize) -> usize {
    let mut end = start + 1;
    while let Some(&byte) = text.get(end) {
        let begins_comment = matches!((byte, text.get(end + 1)), (b'-', Some(b'-')) | (b'/', Some(b'*')));
        if !is_operator(byte) || begins_comment {
            break;
        }
        end += 1;
    }
    let may_end_in_sign =
        |byte: &u8| matches!(byte, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%');
    if end - start > 1
        && matches!(text[end - 1], b'+' | b'-')
        && !text[start..end - 1].iter().any(may_end_in_sign)
    {
        while end - start > 1 && matches!(text[end - 1], b'+' | b'-') {
            end -= 1;
        }
    }
    end
}
