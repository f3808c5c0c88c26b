//! SCRAM-SHA-256 and SCRAM-SHA-256-PLUS, both sides (RFC 5802, RFC 7677; manual, 55.3 SASL Authentication).
//!
//! Pure machines: bytes in, bytes out, randomness given. Each state is a type that the next message consumes, so
//! a message out of order does not compile. Written here rather than taken from a crate because of *keys passed
//! through*: a client's proof reveals its ClientKey, and with that and the stored ServerKey Weir logs in to a
//! server as that client without ever knowing the password. What is refused, and with which SQLSTATE, follows
//! PostgreSQL's `auth-scram.c`; the client side follows libpq's `fe-auth-scram.c`.
//!
//! ```text
//!   ScramServer --client_first--> ScramServerChallenged --client_final--> ScramKeys
//!   ScramClient --server_first--> ScramChallenge --answer--> ScramClientAnswered --server_final--> ()
//! ```

mod client;
mod message;
mod server;
#[cfg(test)]
mod tests;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;

pub use self::client::{ScramChallenge, ScramClient, ScramClientAnswered};
pub use self::server::{ScramServer, ScramServerChallenged};
use crate::pg::SqlState;

/// SCRAM over any connection.
pub const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
/// SCRAM bound to the TLS connection it runs in.
pub const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";
/// PostgreSQL's default of `scram_iterations`.
pub const DEFAULT_ITERATIONS: u32 = 4096;
/// A server that asks for more is refused: it must not be able to keep our event loop busy for seconds.
pub const ITERATIONS_MAX: u32 = 1_000_000;

const BINDING_HEADER: &str = "p=tls-server-end-point,,";

type Key = [u8; 32];

/// What went wrong in an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// Not a SCRAM message, or not the one that is due.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// A mechanism that was not offered; to us as a client: none that we know was offered.
    #[error("no common SASL authentication mechanism")]
    Mechanism,
    /// An authorization identity or a mandatory extension, which PostgreSQL does not know either.
    #[error("unsupported SCRAM feature: {0}")]
    Unsupported(&'static str),
    /// Channel binding was stripped from the offer by somebody, or the two ends see different certificates.
    #[error("SCRAM channel binding check failed")]
    ChannelBinding,
    /// The client does not know the password.
    #[error("wrong SCRAM proof")]
    WrongProof,
    /// The server does not know the password: it is not the server it claims to be.
    #[error("wrong SCRAM server signature")]
    WrongServerSignature,
    /// The server ended the exchange with an `e=` attribute.
    #[error("server refused the SCRAM exchange")]
    Refused,
}

impl ScramError {
    /// What PostgreSQL answers in this case.
    pub fn sqlstate(self) -> SqlState {
        match self {
            Self::Malformed(_) | Self::Mechanism => SqlState::PROTOCOL_VIOLATION,
            Self::Unsupported(_) => SqlState::FEATURE_NOT_SUPPORTED,
            Self::ChannelBinding | Self::WrongServerSignature => SqlState::INVALID_AUTHORIZATION,
            Self::WrongProof | Self::Refused => SqlState::INVALID_PASSWORD,
        }
    }
}

/// The `tls-server-end-point` binding data of a certificate (RFC 5929, 4.1): its DER form, hashed as its signature
/// hashes it, but never weaker than SHA-256. `None` where the signature's object identifier does not say one hash, as
/// with Ed25519: then there is no channel binding.
pub fn server_end_point(signature_oid: &str, certificate_der: &[u8]) -> Option<Vec<u8>> {
    let hashed = match signature_oid {
        // MD5, SHA-1 and SHA-256, with RSA and with ECDSA.
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Sha256::digest(certificate_der).to_vec(),
        "1.2.840.113549.1.1.14" | "1.2.840.10045.4.3.1" => Sha224::digest(certificate_der).to_vec(),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Sha384::digest(certificate_der).to_vec(),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Sha512::digest(certificate_der).to_vec(),
        _ => return None,
    };
    Some(hashed)
}

/// One side's share of the nonce: printable ASCII without a comma.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nonce(String);

impl Nonce {
    /// Bytes of randomness that PostgreSQL and libpq use.
    pub const RANDOM_LEN: usize = 18;

    /// A nonce from fresh random bytes.
    pub fn from_random(random: [u8; Self::RANDOM_LEN]) -> Self {
        Self(BASE64.encode(random))
    }

    /// A nonce as it stands in a message.
    pub fn parse(text: &str) -> Option<Self> {
        is_nonce(text).then(|| Self(text.to_owned()))
    }
}

/// What a server stores of a password: enough to check a proof, not enough to make one.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier {
    /// Rounds of the key derivation.
    pub iterations: u32,
    /// The salt, decoded.
    pub salt: Vec<u8>,
    /// SHA-256 of the ClientKey.
    pub stored_key: [u8; 32],
    /// Proves to the client that the server knows the verifier.
    pub server_key: [u8; 32],
}

impl ScramVerifier {
    /// Length of the salts that PostgreSQL makes.
    pub const SALT_LEN: usize = 16;

    /// Derives a verifier. Costs `iterations` rounds: about 1 ms for 4096, so keep it.
    pub fn from_password(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let keys = ScramKeys::from_password(password, salt, iterations);
        Self { iterations, salt: salt.to_vec(), stored_key: keys.stored_key(), server_key: keys.server_key }
    }

    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, the form of `pg_authid.rolpassword`.
    pub fn parse(text: &str) -> Option<Self> {
        let (header, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = header.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        Some(Self {
            iterations: parse_iterations(iterations)?,
            salt: BASE64.decode(salt).ok()?,
            stored_key: decode_key(stored_key)?,
            server_key: decode_key(server_key)?,
        })
    }

    /// The form that `parse` reads.
    pub fn to_stored(&self) -> String {
        format!(
            "{SCRAM_SHA_256}${}:{}${}:{}",
            self.iterations,
            BASE64.encode(&self.salt),
            BASE64.encode(self.stored_key),
            BASE64.encode(self.server_key)
        )
    }

    /// A verifier for a user that does not exist: the same for the same user each time, as a real one would be, and
    /// with a password that nobody knows. `secret` is random and drawn once per process; `iterations` are those that
    /// real users have. PostgreSQL does the same with its `mock_authentication_nonce`.
    pub fn mock(user: &str, secret: &[u8], iterations: u32) -> Self {
        let derive = |label: &str| hmac(secret, &[label.as_bytes(), user.as_bytes()]);
        Self {
            iterations,
            salt: derive("salt:")[..Self::SALT_LEN].to_vec(),
            stored_key: derive("stored:"),
            server_key: derive("server:"),
        }
    }

    /// Checks a password that came in clear; gives the keys to log in to servers with.
    pub fn verify_password(&self, password: &[u8]) -> Option<ScramKeys> {
        let keys = ScramKeys::from_password(password, &self.salt, self.iterations);
        bool::from(keys.stored_key().ct_eq(&self.stored_key)).then_some(keys)
    }
}

impl std::fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ScramVerifier").field("iterations", &self.iterations).finish_non_exhaustive()
    }
}

/// What a client needs in order to log in: as good as the password on every server that has the same verifier.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    /// Proves to a server that the client knows the password.
    pub client_key: [u8; 32],
    /// Checks that the server knows the verifier.
    pub server_key: [u8; 32],
}

impl ScramKeys {
    /// Derives the keys from a password. SASLprep comes first; as in PostgreSQL, a password that it does not
    /// allow, or that is not UTF-8, is taken as it is.
    pub fn from_password(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let prepared = std::str::from_utf8(password)
            .ok()
            .and_then(|text| stringprep::saslprep(text).ok())
            .filter(|text| !text.is_empty());
        let password = prepared.as_deref().map_or(password, str::as_bytes);
        let salted = salted_password(password, salt, iterations);
        Self { client_key: hmac(&salted, &[b"Client Key"]), server_key: hmac(&salted, &[b"Server Key"]) }
    }

    /// SHA-256 of the client key, which is what a server stores.
    pub fn stored_key(&self) -> [u8; 32] {
        Sha256::digest(self.client_key).into()
    }
}

impl std::fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ScramKeys(..)")
    }
}

fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, 0x21..=0x7e) && byte != b',')
}

fn parse_iterations(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|iterations| is_number && *iterations > 0)
}

fn decode_key(text: &str) -> Option<Key> {
    BASE64.decode(text).ok()?.try_into().ok()
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut mac = keyed(key);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// `Hi(password, salt, iterations)` of RFC 5802, which is PBKDF2 with one block.
fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    // The key's two blocks are hashed once, not once per round.
    let mac = keyed(password);
    let mut round: Key =
        mac.clone().chain_update(salt).chain_update([0, 0, 0, 1]).finalize().into_bytes().into();
    let mut result = round;
    for _ in 1..iterations {
        round = mac.clone().chain_update(round).finalize().into_bytes().into();
        result = xor(result, round);
    }
    result
}

fn xor(mut left: Key, right: Key) -> Key {
    for (left, right) in left.iter_mut().zip(right) {
        *left ^= right;
    }
    left
}
