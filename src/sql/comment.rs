//! What comments in front of and behind a text say: hints for Weir, and tags for the record.
//!
//! Hints: `/* weir: primary */`, `replica`, `consistency=session`, `nocache`, `cache`, `cache ttl=60s`, `slow=50ms`; several
//! words in one comment; words that are not known are ignored, so that a newer application can talk to an older proxy.
//! Where two hints disagree the careful one wins: `primary` over `replica`, the stricter consistency, `nocache` over `cache`.
//!
//! Tags: as sqlcommenter writes them, `/*route='%2Fusers',traceparent='00-...'*/`, and as Rails' query logs write
//! them, `/*controller:users,action:index*/`. They are read when they are asked for: most statements are not recorded
//! with their tags.

use std::borrow::Cow;
use std::time::Duration;

use super::scan::Span;
use crate::config::Consistency;

/// What the client asks of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Hints {
    /// Where to send the text.
    pub target: Option<TargetHint>,
    /// What a read must have seen, in the place of the setting.
    pub consistency: Option<Consistency>,
    /// Whether to cache it.
    pub cache: Option<CacheHint>,
    /// When it counts as slow.
    pub slow: Option<Duration>,
}

/// A hint on routing, the most careful first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TargetHint {
    /// `primary`
    Primary,
    /// `replica`: still refused for a write.
    Replica,
}

/// A hint on caching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheHint {
    /// `nocache`
    Never,
    /// `cache`, with its `ttl=` if there is one.
    Cache {
        /// How long an entry may live; the rule's or the setting's own if absent.
        ttl: Option<Duration>,
    },
}

/// How many comments are remembered at either end.
const COMMENTS_MAX: usize = 4;

/// The comments in front of the first and behind the last token of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Comments {
    spans: [Span; COMMENTS_MAX],
    count: u8,
    leading: u8,
}

impl Comments {
    /// Where they stand, in order; at most four.
    pub fn spans(&self) -> &[Span] {
        &self.spans[..usize::from(self.count)]
    }

    /// The hints in them.
    pub fn hints(&self, text: &[u8]) -> Hints {
        let mut hints = Hints::default();
        for span in self.spans() {
            if let Some(words) = hint_words(inside(span.of(text))) {
                hints.add(words);
            }
        }
        hints
    }

    /// The tags in them.
    pub fn tags<'a>(&self, text: &'a [u8]) -> impl Iterator<Item = Tag<'a>> {
        let comments: Vec<&'a [u8]> = self.spans().iter().map(|span| inside(span.of(text))).collect();
        comments.into_iter().filter(|comment| hint_words(comment).is_none()).flat_map(|rest| Tags { rest })
    }

    /// Notes a comment; `end` is where the last token before it ended, if there was one.
    pub(super) fn note(&mut self, span: Span, end: Option<usize>) {
        match end {
            None => {}
            // Comments between tokens are neither leading nor trailing.
            Some(end) => self.keep_trailing(end),
        }
        if usize::from(self.count) < COMMENTS_MAX {
            self.spans[usize::from(self.count)] = span;
            self.count += 1;
            self.leading += u8::from(end.is_none());
        }
    }

    /// Forgets those that turned out to stand between tokens: the last token ended at `end`.
    pub(super) fn keep_trailing(&mut self, end: usize) {
        if self.count > self.leading && self.spans[usize::from(self.leading)].start < end {
            self.count = self.leading;
        }
    }
}

impl Hints {
    fn add(&mut self, words: &[u8]) {
        for word in words.split(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',')) {
            match word {
                b"primary" => self.target = Some(TargetHint::Primary),
                b"replica" => self.target = self.target.or(Some(TargetHint::Replica)),
                b"nocache" => self.cache = Some(CacheHint::Never),
                b"cache" => self.cache = self.cache.or(Some(CacheHint::Cache { ttl: None })),
                _ if word.starts_with(b"consistency=") => {
                    let wanted = &word[b"consistency=".len()..];
                    let named =
                        Consistency::ALL.into_iter().find(|named| named.as_str().as_bytes() == wanted);
                    self.consistency = stricter(self.consistency, named);
                }
                _ if word.starts_with(b"slow=") => {
                    self.slow = word.strip_prefix(b"slow=").and_then(duration).or(self.slow);
                }
                _ => {
                    let ttl = word.strip_prefix(b"ttl=").and_then(duration);
                    if ttl.is_some() && self.cache != Some(CacheHint::Never) {
                        self.cache = Some(CacheHint::Cache { ttl });
                    }
                }
            }
        }
    }
}

/// Of two hints, of which there may be none, the more careful.
pub fn stricter<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
    one.into_iter().chain(other).min()
}

/// One tag, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag<'a> {
    /// `route`, `controller`, `traceparent`, ...
    pub key: Cow<'a, str>,
    /// Its value.
    pub value: Cow<'a, str>,
}

struct Tags<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        loop {
            self.rest = self.rest.trim_ascii_start();
            if let Some(rest) = self.rest.strip_prefix(b",") {
                self.rest = rest;
                continue;
            }
            let separator = self.rest.iter().position(|byte| !is_key(*byte))?;
            let (key, rest) = self.rest.split_at(separator);
            if key.is_empty() {
                self.rest = b"";
                return None;
            }
            let (value, rest) = match rest {
                [b'=', b'\'', value @ ..] => quoted(value)?,
                [b'=' | b':', value @ ..] => {
                    value.split_at(value.iter().position(|&byte| byte == b',').unwrap_or(value.len()))
                }
                // Prose: this is not a comment of tags.
                _ => return None,
            };
            self.rest = rest;
            return Some(Tag { key: decoded(key), value: decoded(value.trim_ascii()) });
        }
    }
}

fn is_key(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'%')
}

/// A value up to its quote, and what follows.
fn quoted(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    loop {
        match value.get(at)? {
            b'\'' => return Some((&value[..at], &value[at + 1..])),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Undoes percent-encoding and `\'`.
fn decoded(source: &[u8]) -> Cow<'_, str> {
    if !source.iter().any(|byte| matches!(byte, b'%' | b'\\')) {
        return String::from_utf8_lossy(source);
    }
    let hex = |byte: Option<&u8>| byte.and_then(|&byte| char::from(byte).to_digit(16));
    let mut bytes = Vec::with_capacity(source.len());
    let mut at = 0;
    while let Some(&byte) = source.get(at) {
        at += 1;
        match byte {
            b'%' => {
                let value = hex(source.get(at)).zip(hex(source.get(at + 1)));
                match value.and_then(|(high, low)| u8::try_from(high * 16 + low).ok()) {
                    Some(value) => {
                        bytes.push(value);
                        at += 2;
                    }
                    None => bytes.push(byte),
                }
            }
            b'\\' if source.get(at) == Some(&b'\'') => {}
            byte => bytes.push(byte),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

/// The comment without its marks.
fn inside(comment: &[u8]) -> &[u8] {
    let inside = match comment {
        [b'/', b'*', inside @ ..] => inside.strip_suffix(b"*/").unwrap_or(inside),
        [b'-', b'-', inside @ ..] => inside,
        other => other,
    };
    inside.trim_ascii()
}

fn hint_words(inside: &[u8]) -> Option<&[u8]> {
    inside.strip_prefix(b"weir:")
}

/// `500ms`, `60s`, `5min`, `1h`, or seconds without a unit.
fn duration(source: &[u8]) -> Option<Duration> {
    let digits = source.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(source.len());
    let (number, unit) = source.split_at(digits);
    let number: u64 = std::str::from_utf8(number).ok()?.parse().ok()?;
    let milliseconds = match unit {
        b"ms" => 1,
        b"s" | b"" => 1000,
        b"min" | b"m" => 60_000,
        b"h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(comment: &str) -> Vec<(String, String)> {
        let mut comments = Comments::default();
        comments.note(Span { start: 0, end: comment.len() }, None);
        let tags = comments.tags(comment.as_bytes());
        tags.map(|tag| (tag.key.into_owned(), tag.value.into_owned())).collect()
    }

    #[test]
    fn tags_are_decoded() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        assert_eq!(
            tags("/*route='%2Fusers%2F%3Aid',traceparent='00-ab-cd-01'*/"),
            pairs(&[("route", "/users/:id"), ("traceparent", "00-ab-cd-01")])
        );
        assert_eq!(tags("/* name='O\\'Neil' , x=1 */"), pairs(&[("name", "O'Neil"), ("x", "1")]));
        assert_eq!(
            tags("-- controller:users,action:index"),
            pairs(&[("controller", "users"), ("action", "index")])
        );
        assert_eq!(tags("/* a comment, in prose */"), pairs(&[]));
        assert_eq!(tags("/*a='unterminated*/"), pairs(&[]));
        assert_eq!(tags("/*a='%zz%4'*/"), pairs(&[("a", "%zz%4")]));
        assert_eq!(tags("/* weir: primary */"), pairs(&[]));
    }
}
