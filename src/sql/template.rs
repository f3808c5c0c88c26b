//! Templates: a simple query's text with constants taken out as parameters, so that it can run prepared.
//!
//! psycopg2 and others write the values into the text. PostgreSQL then parses and plans each text anew, which for a read
//! by key costs it more than running it. A template repeats where the texts do not. It must mean to PostgreSQL exactly
//! what the text means, so only those constants are taken out of which that is certain: operands of a comparison with a
//! column, as in `WHERE t.id = 5`. A parameter there gets the type that the constant would get, by the same rules
//! (manual, 10.2 Operators): an integer is declared as `int4` or `int8` by its size, a number with a point as `numeric`,
//! and a string is left `unknown` as it is in the text.
//!
//! Of texts with one outline ([`super::outline`]) the same constants are taken out: their [`Form`] says which, and spares the
//! scan.
//!
//! Everything else stays: what `ORDER BY 1`, `LIMIT 10`, `numeric(10,2)`, `LIKE 'a%'` or `interval '1 day'` say is more
//! than a value, and a text that varies there never repeats and is never prepared.

use std::borrow::Cow;

use super::literal::string_value;
use super::outline::{Gap, plain_end};
use super::scan::{Lexing, Scanner, Span, Token, TokenKind};

/// A statement with more stays as it is.
const PARAMETERS_MAX: u16 = 64;

/// A longer text stays as it is, in bytes.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// PostgreSQL tells of each longer name, each time that it parses it (manual, 4.1.1 Identifiers and Key Words).
const NAME_BYTES_MAX: usize = 63;

const INT4: u32 = 23;
const INT8: u32 = 20;
const NUMERIC: u32 = 1700;
const UNKNOWN: u32 = 0;

/// See the module. Kept for its buffers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    /// The text, with `$1` and so on.
    pub text: Vec<u8>,
    /// Count and Oids of the parameters' types, as in Parse.
    pub types: Vec<u8>,
    /// Formats, values and result formats, as in Bind behind the names.
    pub values: Vec<u8>,
    count: u16,
    /// Where the constants stood that were taken out.
    taken: Vec<Span>,
}

/// How texts of one outline become a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// The template's text.
    text: Box<[u8]>,
    constants: Box<[Constant]>,
}

/// A constant of the outline.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Constant {
    /// Bytes between the one before and this one.
    behind: usize,
    kind: TokenKind,
    /// It stays in the text, and so must be this one; `None`: it is taken out.
    stays: Option<Box<[u8]>>,
}

impl Form {
    /// Of a text whose outline has `gaps`, if it has a template.
    pub(super) fn of(text: &[u8], gaps: &[Gap], lexing: Lexing) -> Option<Self> {
        let mut template = Template::default();
        if !template.take(text, lexing) {
            return None;
        }
        let mut end = 0;
        let constants = gaps.iter().map(|gap| {
            let behind = gap.span.start - std::mem::replace(&mut end, gap.span.end);
            let stays = (!template.taken.contains(&gap.span)).then(|| gap.span.of(text).into());
            Constant { behind, kind: gap.kind, stays }
        });
        let constants: Box<[Constant]> = constants.collect();
        let taken = constants.iter().filter(|constant| constant.stays.is_none()).count();
        (taken == template.taken.len()).then(|| Self { text: template.text.into(), constants })
    }
}

impl Template {
    /// Takes the constants out of a text of one statement. False: it must be sent as it is.
    pub fn take(&mut self, text: &[u8], lexing: impl Into<Lexing>) -> bool {
        let lexing = lexing.into();
        self.begin();
        // Where backslashes mean something a constant's value is not what it looks like.
        if text.len() > TEXT_BYTES_MAX || !lexing.standard_conforming_strings || !lexing.bytewise {
            return false;
        }
        let taken = self.take_constants(text).is_some();
        self.finish();
        taken
    }

    /// The same for a text of the outline that the form is of, without a scan. False: that is not known.
    pub fn fill(&mut self, form: &Form, text: &[u8]) -> bool {
        self.begin();
        self.text.extend_from_slice(&form.text);
        let filled = self.fill_in(form, text).is_some();
        self.finish();
        filled
    }

    fn begin(&mut self) {
        self.text.clear();
        self.types.clear();
        self.values.clear();
        self.taken.clear();
        self.count = 0;
        self.types.extend_from_slice(&[0, 0]);
        // All formats are text: none is named.
        self.values.extend_from_slice(&[0, 0, 0, 0]);
    }

    fn finish(&mut self) {
        self.types[..2].copy_from_slice(&self.count.to_be_bytes());
        self.values[2..4].copy_from_slice(&self.count.to_be_bytes());
        self.values.extend_from_slice(&[0, 0]);
    }

    fn fill_in(&mut self, form: &Form, text: &[u8]) -> Option<()> {
        let mut at = 0;
        for constant in &form.constants {
            let start = at + constant.behind;
            at = plain_end(text, start, constant.kind)?;
            let span = Span { start, end: at };
            let source = span.of(text);
            match &constant.stays {
                Some(same) if **same == *source => {}
                Some(_) => return None,
                None => self.put(&Value::of(Token { kind: constant.kind, span }, source)?)?,
            }
        }
        Some(())
    }

    fn take_constants(&mut self, text: &[u8]) -> Option<()> {
        let mut scanner = Scanner::new(text, true);
        let mut tokens = Lookahead { scanner: &mut scanner, next: None, text };
        // What stands in front of the token: a column, and behind it a comparison.
        let (mut column, mut compares) = (false, false);
        let mut copied = 0;
        while let Some(token) = tokens.next() {
            let source = token.span.of(text);
            match token.kind {
                // Hints of pg_hint_plan mean something to the server. Others differ from call to call.
                TokenKind::Comment if source.starts_with(b"/*+") => {}
                TokenKind::Comment => {
                    self.text.extend_from_slice(&text[copied..token.span.start]);
                    self.text.push(b' ');
                    copied = token.span.end;
                    continue;
                }
                TokenKind::Parameter | TokenKind::Invalid => return None,
                kind if kind.is_identifier() && source.len() > NAME_BYTES_MAX => return None,
                kind if compares && kind.is_literal() => {
                    if let Some(value) = Value::of(token, source)
                        && tokens.peek().is_none_or(|next| may_follow(next, text))
                    {
                        self.text.extend_from_slice(&text[copied..token.span.start]);
                        copied = token.span.end;
                        self.put(&value)?;
                        self.taken.push(token.span);
                        self.name();
                    }
                }
                _ => {}
            }
            compares = column && token.kind == TokenKind::Operator && is_comparison(source);
            column = token.kind.is_identifier() || token.kind == TokenKind::CloseParen;
        }
        self.text.extend_from_slice(&text[copied..]);
        scanner.flaw().is_none().then_some(())
    }

    fn put(&mut self, value: &Value<'_>) -> Option<()> {
        self.count += 1;
        if self.count > PARAMETERS_MAX {
            return None;
        }
        self.types.extend_from_slice(&value.oid.to_be_bytes());
        self.values.extend_from_slice(&u32::try_from(value.text.len()).ok()?.to_be_bytes());
        self.values.extend_from_slice(&value.text);
        Some(())
    }

    /// Names the parameter that was put last.
    fn name(&mut self) {
        self.text.push(b'$');
        // Two digits are enough for `PARAMETERS_MAX`.
        let [tens, ones] = [self.count / 10, self.count % 10].map(|digit| digit.to_le_bytes()[0]);
        if tens > 0 {
            self.text.push(b'0' + tens);
        }
        self.text.push(b'0' + ones);
    }
}

/// A constant that can be taken out.
struct Value<'a> {
    oid: u32,
    text: Cow<'a, [u8]>,
}

impl<'a> Value<'a> {
    fn of(token: Token, source: &'a [u8]) -> Option<Self> {
        let oid = match token.kind {
            TokenKind::String => {
                let text = string_value(token.kind, source)?.into();
                return Some(Self { oid: UNKNOWN, text });
            }
            // In base 10 only.
            TokenKind::Integer if source.iter().all(u8::is_ascii_digit) => {
                let number: i64 = std::str::from_utf8(source).ok()?.parse().ok()?;
                if i32::try_from(number).is_ok() { INT4 } else { INT8 }
            }
            TokenKind::Numeric if source.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') => NUMERIC,
            _ => return None,
        };
        Some(Self { oid, text: source.into() })
    }
}

fn is_comparison(operator: &[u8]) -> bool {
    matches!(operator, b"=" | b"<>" | b"!=" | b"<" | b">" | b"<=" | b">=")
}

/// Whether a constant in front of this token is all of the comparison's operand.
fn may_follow(next: Token, text: &[u8]) -> bool {
    match next.kind {
        TokenKind::CloseParen | TokenKind::Semicolon => true,
        TokenKind::Word => {
            let word = next.span.of(text);
            [&b"and"[..], b"or", b"order", b"group", b"limit", b"offset"]
                .iter()
                .any(|keyword| word.eq_ignore_ascii_case(keyword))
        }
        _ => false,
    }
}

/// Tokens, with a look at the one that follows, comments aside.
struct Lookahead<'s, 'a> {
    scanner: &'s mut Scanner<'a>,
    next: Option<Token>,
    text: &'a [u8],
}

impl Lookahead<'_, '_> {
    fn next(&mut self) -> Option<Token> {
        self.next.take().or_else(|| self.scanner.next())
    }

    /// A comment in between is rare enough to count as what may not follow.
    fn peek(&mut self) -> Option<Token> {
        if self.next.is_none() {
            self.next = self.scanner.next();
        }
        debug_assert!(self.next.is_none_or(|token| token.span.end <= self.text.len()));
        self.next
    }
}
