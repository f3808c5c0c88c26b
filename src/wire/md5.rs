//! The `md5` authentication method (manual, 20.5 Password Authentication; 55.2.1 Start-up).
//!
//! Weak by today's standards and deprecated by PostgreSQL, but stored in many a `pg_authid`. Pure: the salt is given.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

/// The stored form of a password: `md5` and 32 hexadecimal digits. Who has it can log in, so it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Md5Hash {
    hex: [u8; 32],
}

impl Md5Hash {
    /// What `CREATE ROLE user PASSWORD 'password'` stored with `password_encryption = md5`.
    pub fn from_password(user: &str, password: &[u8]) -> Self {
        Self { hex: hex_digest(password, user.as_bytes()) }
    }

    /// Reads `md5...` as it stands in `pg_authid.rolpassword`.
    pub fn parse(text: &str) -> Option<Self> {
        let hex: [u8; 32] = text.strip_prefix("md5")?.as_bytes().try_into().ok()?;
        hex.iter().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f')).then_some(Self { hex })
    }

    /// A hash that nobody knows a password for, so that an unknown user costs the same work as a known one.
    pub fn mock(user: &str, secret: &[u8]) -> Self {
        Self { hex: hex_digest(secret, user.as_bytes()) }
    }

    /// The form that is stored.
    pub fn to_stored(&self) -> String {
        prefixed(&self.hex)
    }

    /// What a client sends in PasswordMessage for the `salt` of AuthenticationMD5Password.
    pub fn response(&self, salt: [u8; 4]) -> String {
        prefixed(&hex_digest(&self.hex, &salt))
    }

    /// Whether `response` is the right answer to `salt`; in constant time but for the length.
    pub fn verify(&self, salt: [u8; 4], response: &[u8]) -> bool {
        self.response(salt).as_bytes().ct_eq(response).into()
    }

    /// Whether `password` is the one this was made from.
    pub fn verify_password(&self, user: &str, password: &[u8]) -> bool {
        self.hex.ct_eq(&hex_digest(password, user.as_bytes())).into()
    }
}

impl std::fmt::Debug for Md5Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Md5Hash(..)")
    }
}

fn hex_digest(first: &[u8], second: &[u8]) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = Md5::new().chain_update(first).chain_update(second).finalize();
    let mut hex = [0; 32];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(digest) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}

fn prefixed(hex: &[u8; 32]) -> String {
    let mut text = String::with_capacity(35);
    text.push_str("md5");
    text.extend(hex.iter().map(|c| char::from(*c)));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stored_form_is_that_of_postgres() {
        // SELECT 'md5' || md5('secret' || 'app')
        let hash = Md5Hash::from_password("app", b"secret");
        assert_eq!(hash.to_stored(), "md56a422f785c9e20873908ce25d1736ae2");
        assert_eq!(Md5Hash::parse(&hash.to_stored()), Some(hash));
    }

    #[test]
    fn only_the_right_response_is_accepted() {
        let hash = Md5Hash::from_password("app", b"secret");
        let response = hash.response([1, 2, 3, 4]);
        assert!(hash.verify([1, 2, 3, 4], response.as_bytes()));
        assert!(!hash.verify([1, 2, 3, 5], response.as_bytes()));
        assert!(!hash.verify([1, 2, 3, 4], b""));
        assert!(!Md5Hash::from_password("app", b"Secret").verify([1, 2, 3, 4], response.as_bytes()));
        assert!(!Md5Hash::mock("app", b"server secret").verify([1, 2, 3, 4], response.as_bytes()));
        assert!(hash.verify_password("app", b"secret"));
        assert!(!hash.verify_password("other", b"secret"));
    }

    #[test]
    fn what_postgres_would_not_take_for_md5_is_refused() {
        for text in
            ["", "md5", "md5zz", "MD5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "md5AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
        {
            assert_eq!(Md5Hash::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_input_panics(text in ".*", salt: [u8; 4], response: Vec<u8>) {
            let hash = Md5Hash::parse(&text).unwrap_or_else(|| Md5Hash::from_password(&text, &response));
            prop_assert!(!hash.verify(salt, &response));
        }
    }
}
