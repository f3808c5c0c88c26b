//! What an application says of a statement in its comments: route, function, trace.
//!
//! Tags are those of sqlcommenter, as SQLAlchemy's, Django's and OpenTelemetry's instrumentations write them, and of Rails'
//! query logs. The trace differs with each request, all else repeats: so tags are read once and then shared, found again by
//! the hash of the comment without its trace.

use std::sync::Arc;

use ahash::HashMap;

use crate::sql::Analysis;
use crate::sql::shape::Fingerprint;

/// Tags of one comment, at most.
const TAGS_MAX: usize = 16;

/// Characters of a tag's value, at most.
const VALUE_CHARS_MAX: usize = 200;

/// Different comments that a worker knows.
const KNOWN_MAX: usize = 1024;

/// The tags of a statement, but for its trace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(Vec<(String, String)>);

/// The request that a statement belongs to (W3C Trace Context).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Trace {
    /// The trace.
    pub trace: u128,
    /// The span in it.
    pub span: u64,
}

impl Tags {
    /// From names and values.
    pub fn new(tags: impl IntoIterator<Item = (String, String)>) -> Self {
        let short = |(name, value): (String, String)| {
            (name.chars().take(VALUE_CHARS_MAX).collect(), value.chars().take(VALUE_CHARS_MAX).collect())
        };
        let is_of_trace = |name: &str| name == "traceparent" || name == "tracestate";
        Self(tags.into_iter().filter(|(name, _)| !is_of_trace(name)).take(TAGS_MAX).map(short).collect())
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where in the application the statement comes from: its route, else its controller and action, else its function.
    pub fn route(&self) -> Option<String> {
        if let Some(route) = self.get("route") {
            return Some(route.to_owned());
        }
        match (self.get("controller"), self.get("action")) {
            (Some(controller), Some(action)) => Some(format!("{controller}#{action}")),
            (Some(controller), None) => Some(controller.to_owned()),
            (None, _) => self.get("function").map(str::to_owned),
        }
    }
}

impl Trace {
    /// Reads `00-<trace>-<span>-<flags>`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (_version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
        if trace.len() != 32 || span.len() != 16 {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
        Some(Self { trace, span: u64::from_str_radix(span, 16).ok()? })
    }
}

/// Tags that were read before.
#[derive(Debug, Default)]
pub struct Known(HashMap<u64, Arc<Tags>>);

impl Known {
    /// Tags and trace of a text; tags without any are none.
    pub fn read(&mut self, text: &[u8], analysis: &Analysis) -> (Option<Arc<Tags>>, Option<Trace>) {
        let mut hash = 0;
        let mut trace = None;
        for span in analysis.comments.spans() {
            let comment = span.of(text);
            let (before, traced, behind) = around_trace(comment);
            trace = trace.or_else(|| Trace::parse(std::str::from_utf8(traced).ok()?));
            hash = mixed(mixed(hash, before), behind);
        }
        if let Some(known) = self.0.get(&hash) {
            return (Some(Arc::clone(known)).filter(|tags| !tags.is_empty()), trace);
        }
        let tags = analysis.comments.tags(text);
        let tags = Arc::new(Tags::new(tags.map(|tag| (tag.key.into_owned(), tag.value.into_owned()))));
        if self.0.len() >= KNOWN_MAX {
            // Somebody puts numbers into comments: what is still in use comes back by itself.
            self.0.clear();
        }
        self.0.insert(hash, Arc::clone(&tags));
        (Some(tags).filter(|tags| !tags.is_empty()), trace)
    }
}

fn mixed(hash: u64, bytes: &[u8]) -> u64 {
    hash.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ Fingerprint::of(bytes).0
}

/// A comment in front of its trace, the trace, and what is behind it; `tracestate`, next to it, is left out too.
fn around_trace(comment: &[u8]) -> (&[u8], &[u8], &[u8]) {
    const NAME: &[u8] = b"traceparent='";
    const STATE: &[u8] = b"tracestate='";
    let find = |name: &[u8], bytes: &[u8]| bytes.windows(name.len()).position(|window| window == name);
    let Some(at) = find(NAME, comment) else { return (comment, b"", b"") };
    let (before, rest) = comment.split_at(at);
    let rest = &rest[NAME.len()..];
    let end = rest.iter().position(|byte| *byte == b'\'').unwrap_or(rest.len());
    let (trace, behind) = rest.split_at(end);
    let behind = find(STATE, behind).map_or(behind, |at| &behind[..at]);
    (before, trace, behind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::analyze;

    #[test]
    fn a_trace_is_told_from_what_repeats() {
        let mut known = Known::default();
        let mut read = |text: &str| known.read(text.as_bytes(), &analyze(text.as_bytes(), true));
        let text = |trace: u32| {
            format!(
                "SELECT 1 /*controller='index',framework='flask%3A3.0',route='%2Fa',\
                 traceparent='00-0000000000000000000000000000{trace:04x}-00000000000000ff-01'*/"
            )
        };
        let (first, trace) = read(&text(1));
        let (second, other) = read(&text(2));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(first.route().as_deref(), Some("/a"));
        assert_eq!(first.get("framework"), Some("flask:3.0"));
        assert_eq!(first.get("traceparent"), None);
        assert_eq!((trace.unwrap().trace, trace.unwrap().span, other.unwrap().trace), (1, 255, 2));
        assert_eq!(read("SELECT 1 /* prose */"), (None, None));
    }

    #[test]
    fn routes_are_called_differently_by_each_framework() {
        let tags = |pairs: &[(&str, &str)]| {
            Tags::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
        };
        assert_eq!(tags(&[("controller", "users"), ("action", "show")]).route().unwrap(), "users#show");
        assert_eq!(tags(&[("function", "index")]).route().unwrap(), "index");
        assert_eq!(tags(&[("db_driver", "psycopg2")]).route(), None);
    }
}
