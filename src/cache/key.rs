//! Keys: what tells results apart. All of it is compared, never a hash alone.
//!
//! | part | of |
//! |---|---|
//! | database, user | the login: with it all that the server itself begins a session with |
//! | settings | all that the client has changed, as it wrote them (`search_path`, `role`, time zone, custom ones), but for a few that are known to change no result |
//! | text | from the statement's first token to its last: comments around it count for nothing, those inside count as bytes |
//! | types, parameters | as they stand in Parse and Bind; none of either is the same as the simple protocol |
//! | result formats | all text is the same as none given |
//!
//! What a client has in common for all its statements is a [`Scope`], made anew only when its settings change.

use std::sync::Arc;

use ahash::RandomState;

use crate::sql::scan::Lexing;

/// Settings that change no result, only how long it may take and what the session is called. What is not on this list
/// counts.
const NEUTRAL: [&str; 8] = [
    "application_name",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "lock_timeout",
    "statement_timeout",
    "synchronous_commit",
    "tcp_user_timeout",
    "transaction_timeout",
];

/// A longer key is not worth its memory, in bytes.
pub const KEY_BYTES_MAX: usize = 32 << 10;

/// What all statements of a client have in common.
#[derive(Debug)]
pub struct Scope {
    bytes: Box<[u8]>,
    hash: u64,
}

impl Scope {
    /// `settings`: name, how the value was written, and the value, in an order that does not depend on the client.
    pub fn new<'a>(
        hasher: &RandomState,
        database: &str,
        user: &str,
        lexing: impl Into<Lexing>,
        settings: impl IntoIterator<Item = (&'a str, u8, &'a [u8])>,
    ) -> Self {
        let Lexing { standard_conforming_strings, bytewise } = lexing.into();
        let mut bytes = vec![u8::from(standard_conforming_strings), u8::from(bytewise)];
        let mut part = |part: &[u8]| {
            bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
            bytes.extend_from_slice(part);
        };
        part(database.as_bytes());
        part(user.as_bytes());
        for (name, written, value) in settings {
            if !NEUTRAL.contains(&name) {
                part(name.as_bytes());
                part(&[written]);
                part(value);
            }
        }
        let hash = hasher.hash_one(&*bytes);
        Self { bytes: bytes.into(), hash }
    }
}

impl PartialEq for Scope {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.bytes == other.bytes
    }
}

/// One request, as far as its result depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The statement, without the comments around it.
    pub text: &'a [u8],
    /// Count and Oids of the declared parameter types, as in Parse; empty for none.
    pub types: &'a [u8],
    /// Formats, count and values of the parameters, as in Bind; empty for none.
    pub parameters: &'a [u8],
    /// Count and codes of the result formats, as in Bind; empty for text.
    pub formats: &'a [u8],
}

/// The key of a request, for looking it up.
#[derive(Clone, Copy, Debug)]
pub struct KeyView<'a> {
    scope: &'a Arc<Scope>,
    request: Request<'a>,
    hash: u64,
}

impl<'a> KeyView<'a> {
    /// `None`: it is too long.
    pub fn new(hasher: &RandomState, scope: &'a Arc<Scope>, request: Request<'a>) -> Option<Self> {
        let bytes =
            request.text.len() + request.types.len() + request.parameters.len() + request.formats.len();
        if bytes > KEY_BYTES_MAX {
            return None;
        }
        let Request { text, types, parameters, formats } = request;
        let hash = hasher.hash_one((scope.hash, text, types, parameters, formats));
        Some(Self { scope, request, hash })
    }

    /// By which it is found, among others.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// A key that is kept.
#[derive(Clone, Debug)]
pub struct Key {
    scope: Arc<Scope>,
    /// Text, types, parameters and formats, one behind the other.
    bytes: Box<[u8]>,
    /// Where the second to the last begin.
    begins: [u32; 3],
}

impl From<&KeyView<'_>> for Key {
    fn from(view: &KeyView<'_>) -> Self {
        let Request { text, types, parameters, formats } = view.request;
        let bytes = [text, types, parameters, formats].concat().into();
        // Keys are short.
        let end = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let begins = [
            end(text.len()),
            end(text.len() + types.len()),
            end(text.len() + types.len() + parameters.len()),
        ];
        Self { scope: Arc::clone(view.scope), bytes, begins }
    }
}

impl Key {
    /// Whether it is the same in all its parts.
    pub fn is(&self, view: &KeyView<'_>) -> bool {
        let Request { text, types, parameters, formats } = view.request;
        let [second, third, fourth] = self.begins.map(|begin| begin as usize);
        self.bytes.len() == text.len() + types.len() + parameters.len() + formats.len()
            && self.bytes[..second] == *text
            && self.bytes[second..third] == *types
            && self.bytes[third..fourth] == *parameters
            && self.bytes[fourth..] == *formats
            && self.scope == *view.scope
    }

    /// What it takes, the scope counted as if nobody shared it.
    pub fn cost_bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.len() + size_of::<Scope>() + self.scope.bytes.len()
    }

    /// All of it, for a store that several Weirs share: the same there whoever asks.
    pub fn packed(&self) -> Vec<u8> {
        let length = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes();
        let mut packed = Vec::with_capacity(20 + self.scope.bytes.len() + self.bytes.len());
        packed.extend_from_slice(&length(self.scope.bytes.len()));
        packed.extend_from_slice(&self.scope.bytes);
        self.begins.iter().for_each(|begin| packed.extend_from_slice(&begin.to_be_bytes()));
        packed.extend_from_slice(&self.bytes);
        packed
    }

    /// The statement's text.
    pub fn text(&self) -> &[u8] {
        &self.bytes[..self.begins[0] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher() -> RandomState {
        RandomState::with_seeds(1, 2, 3, 4)
    }

    fn request<'a>(text: &'a [u8], types: &'a [u8], parameters: &'a [u8], formats: &'a [u8]) -> Request<'a> {
        Request { text, types, parameters, formats }
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        let scope = Arc::new(Scope::new(&hasher(), "app", "app", true, []));
        let views = [
            request(b"ab", b"", b"", b""),
            request(b"a", b"b", b"", b""),
            request(b"a", b"", b"b", b""),
            request(b"a", b"", b"", b"b"),
            request(b"", b"ab", b"", b""),
        ]
        .map(|request| KeyView::new(&hasher(), &scope, request).unwrap());
        for (at, view) in views.iter().enumerate() {
            for (other_at, other) in views.iter().enumerate() {
                assert_eq!(Key::from(view).is(other), at == other_at);
                assert_eq!(view.hash() == other.hash(), at == other_at);
                assert_eq!(Key::from(view).packed() == Key::from(other).packed(), at == other_at);
            }
        }
    }

    #[test]
    fn names_and_values_do_not_run_into_each_other() {
        let scope = |settings: &[(&'static str, u8, &'static [u8])]| {
            Scope::new(&hasher(), "app", "app", true, settings.iter().copied())
        };
        assert!(scope(&[("a.b", 0, b"cd")]) != scope(&[("a.bc", 0, b"d")]));
        assert!(scope(&[("a.b", 0, b"c")]) != scope(&[("a.b", 1, b"c")]));
        assert!(scope(&[("statement_timeout", 0, b"1s")]) == scope(&[]));
        assert!(scope(&[("nobody_knows_it", 0, b"1s")]) != scope(&[]));
        assert!(
            Scope::new(&hasher(), "ap", "papp", true, []) != Scope::new(&hasher(), "app", "app", true, [])
        );
        assert!(Scope::new(&hasher(), "app", "app", false, []) != scope(&[]));
    }
}
