//! `search_path`: in which schemas names are looked up (manual, 5.9.3 The Schema Search Path).

use std::hash::{Hash, Hasher};

use crate::sql::Span;
use crate::sql::literal::{Identifier, string_value};
use crate::sql::scan::{Scanner, TokenKind};

/// A session's search path: schemas in order, without `pg_temp`, with `pg_catalog` where it is implied.
#[derive(Clone, Debug, Eq)]
pub struct SearchPath {
    schemas: Box<[Box<str>]>,
    has_temporary: bool,
    /// A hash, so that two are compared at a glance.
    hash: u64,
}

impl PartialEq for SearchPath {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.has_temporary == other.has_temporary && self.schemas == other.schemas
    }
}

impl Hash for SearchPath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl SearchPath {
    /// The path of schemas in order. `user` is the current user, who stands in for `"$user"`.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>, user: &str) -> Self {
        let mut schemas: Vec<Box<str>> = Vec::new();
        for name in names {
            let name = if name == "$user" { user } else { name };
            // What is in pg_temp cannot be seen from outside; a session that has such objects says so.
            if name != "pg_temp" && !schemas.iter().any(|known| **known == *name) {
                schemas.push(name.into());
            }
        }
        if !schemas.iter().any(|name| **name == *"pg_catalog") {
            schemas.insert(0, "pg_catalog".into());
        }
        Self::of(schemas.into(), false)
    }

    fn of(schemas: Box<[Box<str>]>, has_temporary: bool) -> Self {
        // A fixed seed: the same path has the same hash in every worker. Equality is compared in full.
        let hash = ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one((&schemas, has_temporary));
        Self { schemas, has_temporary, hash }
    }

    /// The same for a session that has made temporary objects: they may hide any relation or type.
    #[must_use]
    pub fn with_temporary(&self) -> Self {
        Self::of(self.schemas.clone(), true)
    }

    /// From the value as one string: names with commas, quoted where they need it (`"$user", public`).
    /// `None`: not a list of names.
    pub fn from_value(value: &str, user: &str) -> Option<Self> {
        let mut names: Vec<String> = Vec::new();
        let mut rest = value.trim_matches(WHITESPACE);
        if rest.is_empty() {
            return Some(Self::new([], user));
        }
        loop {
            let (name, behind) = if let Some(quoted) = rest.strip_prefix('"') {
                quoted_name(quoted)?
            } else {
                let ends = |character| character == ',' || WHITESPACE.contains(&character);
                let (name, behind) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
                (name.to_ascii_lowercase(), behind)
            };
            if name.is_empty() {
                return None;
            }
            names.push(truncated(&name).to_owned());
            rest = behind.trim_start_matches(WHITESPACE);
            if rest.is_empty() {
                return Some(Self::new(names.iter().map(String::as_str), user));
            }
            rest = rest.strip_prefix(',')?.trim_start_matches(WHITESPACE);
        }
    }

    /// From what stands behind `SET search_path TO`: identifiers and string constants with commas. `None` for DEFAULT
    /// and for what is not understood.
    pub fn from_source(source: &[u8], standard_conforming_strings: bool, user: &str) -> Option<Self> {
        let whole = Span { start: 0, end: source.len() };
        let tokens = Scanner::within(source, whole, standard_conforming_strings);
        let mut names = Vec::new();
        let mut wants_name = true;
        for token in tokens.filter(|token| token.kind != TokenKind::Comment) {
            let text = token.span.of(source);
            match token.kind {
                TokenKind::Comma if !wants_name => {}
                TokenKind::Word if text.eq_ignore_ascii_case(b"default") => return None,
                TokenKind::Word | TokenKind::QuotedIdentifier if wants_name => {
                    names.push(Identifier::read(token.kind, text)?.to_string());
                }
                kind if kind.is_string() && wants_name => {
                    names.push(String::from_utf8(string_value(kind, text)?).ok()?);
                }
                _ => return None,
            }
            wants_name = !wants_name;
        }
        // A single '' is the empty path.
        if names == [""] {
            names.clear();
        } else if wants_name {
            return None;
        }
        Some(Self::new(names.iter().map(|name| truncated(name)), user))
    }

    /// The schemas in order, `pg_catalog` among them.
    pub fn schemas(&self) -> impl Iterator<Item = &str> {
        self.schemas.iter().map(AsRef::as_ref)
    }

    /// Whether temporary objects may hide others.
    pub fn has_temporary(&self) -> bool {
        self.has_temporary
    }

    pub(crate) fn quick_hash(&self) -> u64 {
        self.hash
    }
}

const WHITESPACE: &[char] = &[' ', '\t', '\n', '\r', '\u{b}', '\u{c}'];

/// A name behind its opening quote, and the rest.
fn quoted_name(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"')?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None => return Some((name, rest)),
        }
    }
}

/// As PostgreSQL cuts names: to 63 bytes, between characters (manual, 4.1.1 Identifiers and Key Words).
pub(super) fn truncated(name: &str) -> &str {
    let mut end = name.len().min(63);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: Option<SearchPath>) -> Option<Vec<String>> {
        path.map(|path| path.schemas().map(str::to_owned).collect())
    }

    #[test]
    fn values_are_split_as_postgresql_does() {
        let path = |value| names(SearchPath::from_value(value, "app"));
        let all = |list: &[&str]| Some(list.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(path("\"$user\", public"), all(&["pg_catalog", "app", "public"]));
        assert_eq!(path(" A ,\"B \"\"c\" , pg_temp"), all(&["pg_catalog", "a", "B \"c"]));
        assert_eq!(path("public, pg_catalog, public"), all(&["public", "pg_catalog"]));
        assert_eq!(path(""), all(&["pg_catalog"]));
        for wrong in ["a,", ",a", "a b", "\"a", "\"\"", "a,,b"] {
            assert_eq!(path(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sources_are_read_as_set_takes_them() {
        let path = |source: &str| names(SearchPath::from_source(source.as_bytes(), true, "app"));
        let all = |list: &[&str]| Some(list.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(path("A, \"B\", 'C d'"), all(&["pg_catalog", "a", "B", "C d"]));
        // A constant is one name, whatever is in it.
        assert_eq!(path("'a, b'"), all(&["pg_catalog", "a, b"]));
        assert_eq!(path("''"), all(&["pg_catalog"]));
        assert_eq!(path("\"$user\""), all(&["pg_catalog", "app"]));
        for unknown in ["DEFAULT", "a b", "a,", "", "1", "E'\\x61'"] {
            assert_eq!(path(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn paths_compare_by_what_they_are() {
        let path = SearchPath::new(["a", "b"], "app");
        assert_eq!(path, SearchPath::new(["pg_catalog", "a", "b", "a"], "other"));
        assert_ne!(path, SearchPath::new(["b", "a"], "app"));
        assert_ne!(path, path.with_temporary());
    }
}
