//! What identifiers and string constants say, once their quotes and escapes are taken off.

use std::fmt;

use super::scan::TokenKind;

/// An identifier as PostgreSQL compares it: folded to lower case unless it was quoted. Bytes, because the client's
/// encoding need not be UTF-8. Not cut to 63 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identifier(Box<[u8]>);

impl Identifier {
    /// An identifier that is already folded or unquoted.
    pub fn new(name: impl Into<Box<[u8]>>) -> Self {
        Self(name.into())
    }

    /// Reads a `Word` or `QuotedIdentifier`. `None` for `U&"..."`, whose escapes may be set by a later UESCAPE.
    pub fn read(kind: TokenKind, source: &[u8]) -> Option<Self> {
        match kind {
            TokenKind::Word => Some(Self(source.to_ascii_lowercase().into_boxed_slice())),
            TokenKind::QuotedIdentifier => {
                let inside = source.get(1..source.len().checked_sub(1)?)?;
                Some(Self(without_doubled(inside, b'"').into_boxed_slice()))
            }
            _ => None,
        }
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// The value of a string constant that needs no knowledge of escapes: plain and dollar-quoted strings in one piece,
/// and escape strings without a backslash. `None` for everything else: the caller then treats it as unknown.
pub fn string_value(kind: TokenKind, source: &[u8]) -> Option<Vec<u8>> {
    match kind {
        TokenKind::String => plain_value(source),
        TokenKind::NationalString => plain_value(source.get(1..)?),
        TokenKind::EscapeString if !source.contains(&b'\\') => {
            plain_value(source.strip_prefix(b"E").or(source.strip_prefix(b"e")).unwrap_or(source))
        }
        TokenKind::DollarString => {
            let tag = source[1..].iter().position(|&byte| byte == b'$')? + 2;
            source.get(tag..source.len().checked_sub(tag)?).map(<[u8]>::to_vec)
        }
        _ => None,
    }
}

/// PostgreSQL refuses a longer date (MAXDATELEN); with room for a prefix, a tag and quotes.
pub(super) const DATE_BYTES_MAX: usize = 160;

/// Whether the text of a constant or parameter holds one of the words that stand for the current time where a date or
/// time is wanted (manual, 8.5.1.4 Special Values). Escapes are not undone.
pub fn names_time(source: &[u8]) -> bool {
    let words = source.split(|byte| !byte.is_ascii_alphabetic());
    let is_time = |word: &[u8]| {
        // Spelled out lengths: most words have none of them.
        match word.len() {
            3 => word.eq_ignore_ascii_case(b"now"),
            5 => word.eq_ignore_ascii_case(b"today"),
            8 => word.eq_ignore_ascii_case(b"tomorrow"),
            9 => word.eq_ignore_ascii_case(b"yesterday"),
            _ => false,
        }
    };
    words.into_iter().any(is_time)
}

fn plain_value(source: &[u8]) -> Option<Vec<u8>> {
    let inside = source.strip_prefix(b"'")?.strip_suffix(b"'")?;
    // A quote without its double is that of a continuation on the next line.
    let mut runs = inside.chunk_by(|before, byte| before == byte);
    let all_doubled = runs.all(|run| run[0] != b'\'' || run.len() % 2 == 0);
    all_doubled.then(|| without_doubled(inside, b'\''))
}

/// `inside` with each pair of `quote` made one.
fn without_doubled(inside: &[u8], quote: u8) -> Vec<u8> {
    let mut value = Vec::with_capacity(inside.len());
    let mut bytes = inside.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        value.push(byte);
        if byte == quote {
            bytes.next_if_eq(&quote);
        }
    }
    value
}
