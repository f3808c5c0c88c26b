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

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use subtle::ConstantTimeEq;

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

/// The server's side, before the first message.
pub struct ScramServer {
    end_point: Option<Vec<u8>>,
}

impl ScramServer {
    /// `end_point` is the `tls-server-end-point` binding data of our certificate (RFC 5929): `None` without TLS.
    pub fn new(end_point: Option<Vec<u8>>) -> Self {
        Self { end_point }
    }

    /// What AuthenticationSASL offers, best first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        match self.end_point {
            Some(_) => &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256],
            None => &[SCRAM_SHA_256],
        }
    }

    /// Answers SASLInitialResponse: `message` is the client-first-message, the answer is the server-first-message for
    /// AuthenticationSASLContinue. (A client may send its first message only after an empty AuthenticationSASLContinue;
    /// keep its mechanism until then.) The user name in the message is ignored, as PostgreSQL does.
    pub fn client_first(
        self,
        mechanism: &str,
        message: &[u8],
        verifier: ScramVerifier,
        nonce: &Nonce,
    ) -> Result<(Vec<u8>, ScramServerChallenged), ScramError> {
        let plus = match mechanism {
            SCRAM_SHA_256 => false,
            SCRAM_SHA_256_PLUS if self.end_point.is_some() => true,
            _ => return Err(ScramError::Mechanism),
        };
        let mut reader = Reader::new(message)?;
        let binding = reader.binding_flag(plus, self.end_point.as_deref())?;
        if reader.peek() == Some(b'a') {
            return Err(ScramError::Unsupported("authorization identity"));
        }
        reader.comma()?;
        let client_first_bare = reader.rest;
        if reader.peek() == Some(b'm') {
            return Err(ScramError::Unsupported("mandatory extension"));
        }
        reader.attribute(b'n')?;
        let client_nonce = reader.attribute(b'r')?;
        if !is_nonce(client_nonce) {
            return Err(ScramError::Malformed("nonce is not printable"));
        }
        while !reader.rest.is_empty() {
            reader.any_attribute()?;
        }

        let nonce = format!("{client_nonce}{}", nonce.0);
        let server_first = format!("r={nonce},s={},i={}", BASE64.encode(&verifier.salt), verifier.iterations);
        let transcript = format!("{client_first_bare},{server_first},");
        Ok((server_first.into_bytes(), ScramServerChallenged { verifier, binding, nonce, transcript }))
    }
}

/// The server's side, waiting for the client's proof.
pub struct ScramServerChallenged {
    verifier: ScramVerifier,
    /// What `c=` must hold.
    binding: Vec<u8>,
    nonce: String,
    /// The AuthMessage as far as it is known.
    transcript: String,
}

impl ScramServerChallenged {
    /// Answers SASLResponse: `message` is the client-final-message, the answer is the server-final-message for
    /// AuthenticationSASLFinal. The keys are the client's, good for logging in to servers in its name.
    pub fn client_final(self, message: &[u8]) -> Result<(Vec<u8>, ScramKeys), ScramError> {
        let mut reader = Reader::new(message)?;
        let whole = reader.rest;
        let binding = reader.attribute(b'c')?;
        if binding != BASE64.encode(&self.binding) {
            return Err(if self.binding.starts_with(b"p=") {
                ScramError::ChannelBinding
            } else {
                ScramError::Malformed("unexpected channel binding")
            });
        }
        let nonce = reader.attribute(b'r')?;
        let (without_proof, proof) = loop {
            // The comma in front of the attribute is not part of what is signed.
            let without_proof = &whole[..(whole.len() - reader.rest.len()).saturating_sub(1)];
            if let (b'p', proof) = reader.any_attribute()? {
                break (without_proof, proof);
            }
        };
        let proof = decode_key(proof).ok_or(ScramError::Malformed("proof"))?;
        if !reader.rest.is_empty() {
            return Err(ScramError::Malformed("something follows the proof"));
        }
        if nonce != self.nonce {
            return Err(ScramError::Malformed("nonce does not match"));
        }

        let transcript = format!("{}{without_proof}", self.transcript);
        let signature = hmac(&self.verifier.stored_key, &[transcript.as_bytes()]);
        let keys = ScramKeys { client_key: xor(proof, signature), server_key: self.verifier.server_key };
        if !bool::from(keys.stored_key().ct_eq(&self.verifier.stored_key)) {
            return Err(ScramError::WrongProof);
        }
        let server_signature = hmac(&keys.server_key, &[transcript.as_bytes()]);
        Ok((format!("v={}", BASE64.encode(server_signature)).into_bytes(), keys))
    }
}

/// The client's side, before the server's first message.
pub struct ScramClient {
    plus: bool,
    /// What `c=` will hold: the GS2 header and the binding data.
    binding: Vec<u8>,
    client_first: String,
    nonce: String,
}

impl ScramClient {
    /// Chooses among the mechanisms of AuthenticationSASL. `end_point` is the `tls-server-end-point` binding data of
    /// the server's certificate: `None` without TLS, or where the certificate's signature has no defined hash.
    pub fn new<'a>(
        offered: impl IntoIterator<Item = &'a str>,
        end_point: Option<Vec<u8>>,
        nonce: Nonce,
    ) -> Result<Self, ScramError> {
        let (mut plain, mut plus) = (false, false);
        for mechanism in offered {
            plain |= mechanism == SCRAM_SHA_256;
            plus |= mechanism == SCRAM_SHA_256_PLUS;
        }
        let (plus, header, data) = match end_point {
            Some(data) if plus => (true, BINDING_HEADER, data),
            _ if !plain => return Err(ScramError::Mechanism),
            // "I could, but it seems you cannot": lets the server notice that its offer was tampered with.
            Some(_) => (false, "y,,", Vec::new()),
            None => (false, "n,,", Vec::new()),
        };
        let client_first = format!("{header}n=,r={}", nonce.0);
        Ok(Self { plus, binding: [header.as_bytes(), &data].concat(), client_first, nonce: nonce.0 })
    }

    /// The mechanism for SASLInitialResponse.
    pub fn mechanism(&self) -> &'static str {
        if self.plus { SCRAM_SHA_256_PLUS } else { SCRAM_SHA_256 }
    }

    /// The client-first-message for SASLInitialResponse.
    pub fn client_first(&self) -> &[u8] {
        self.client_first.as_bytes()
    }

    /// Reads the server-first-message out of AuthenticationSASLContinue.
    pub fn server_first(self, message: &[u8]) -> Result<ScramChallenge, ScramError> {
        let mut reader = Reader::new(message)?;
        let server_first = reader.rest;
        let nonce = reader.attribute(b'r')?;
        let is_continued =
            nonce.len() > self.nonce.len() && nonce.starts_with(&self.nonce) && is_nonce(nonce);
        if !is_continued {
            return Err(ScramError::Malformed("nonce does not match"));
        }
        let salt = BASE64.decode(reader.attribute(b's')?).map_err(|_| ScramError::Malformed("salt"))?;
        let iterations = parse_iterations(reader.attribute(b'i')?)
            .filter(|iterations| *iterations <= ITERATIONS_MAX)
            .ok_or(ScramError::Malformed("iteration count"))?;
        if !reader.rest.is_empty() {
            return Err(ScramError::Malformed("something follows the iteration count"));
        }

        let without_proof = format!("c={},r={nonce}", BASE64.encode(&self.binding));
        let header_len = if self.plus { BINDING_HEADER.len() } else { "n,,".len() };
        let transcript = format!("{},{server_first},{without_proof}", &self.client_first[header_len..]);
        Ok(ScramChallenge { salt, iterations, without_proof, transcript })
    }
}

/// The client's side, with what it takes to answer.
///
/// Deriving keys from a password is the dear part of a login: who keeps the [`ScramKeys`] for a salt and iteration
/// count pays it once.
pub struct ScramChallenge {
    /// The salt of the user's verifier.
    pub salt: Vec<u8>,
    /// The rounds of the user's verifier.
    pub iterations: u32,
    without_proof: String,
    transcript: String,
}

impl ScramChallenge {
    /// Derives the keys for this challenge from the password.
    pub fn keys(&self, password: &[u8]) -> ScramKeys {
        ScramKeys::from_password(password, &self.salt, self.iterations)
    }

    /// The client-final-message for SASLResponse.
    pub fn answer(self, keys: &ScramKeys) -> (Vec<u8>, ScramClientAnswered) {
        let signature = hmac(&keys.stored_key(), &[self.transcript.as_bytes()]);
        let proof = BASE64.encode(xor(keys.client_key, signature));
        let server_signature = hmac(&keys.server_key, &[self.transcript.as_bytes()]);
        (format!("{},p={proof}", self.without_proof).into_bytes(), ScramClientAnswered { server_signature })
    }
}

/// The client's side, waiting for the server to prove itself.
pub struct ScramClientAnswered {
    server_signature: Key,
}

impl ScramClientAnswered {
    /// Checks the server-final-message out of AuthenticationSASLFinal. Without it an AuthenticationOk must not be
    /// believed.
    pub fn server_final(self, message: &[u8]) -> Result<(), ScramError> {
        let mut reader = Reader::new(message)?;
        if reader.peek() == Some(b'e') {
            reader.attribute(b'e')?;
            return Err(ScramError::Refused);
        }
        let signature =
            decode_key(reader.attribute(b'v')?).ok_or(ScramError::Malformed("server signature"))?;
        if !reader.rest.is_empty() {
            return Err(ScramError::Malformed("something follows the server signature"));
        }
        if bool::from(signature.ct_eq(&self.server_signature)) {
            Ok(())
        } else {
            Err(ScramError::WrongServerSignature)
        }
    }
}

/// Reads `x=value` attributes with commas between.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn new(message: &'a [u8]) -> Result<Self, ScramError> {
        let rest = std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))?;
        if rest.is_empty() {
            return Err(ScramError::Malformed("empty"));
        }
        if rest.contains('\0') {
            return Err(ScramError::Malformed("zero byte"));
        }
        Ok(Self { rest })
    }

    fn peek(&self) -> Option<u8> {
        self.rest.bytes().next()
    }

    fn comma(&mut self) -> Result<(), ScramError> {
        self.rest = self.rest.strip_prefix(',').ok_or(ScramError::Malformed("comma expected"))?;
        Ok(())
    }

    /// The value of the next attribute, which must be `name`.
    fn attribute(&mut self, name: u8) -> Result<&'a str, ScramError> {
        match self.any_attribute()? {
            (found, value) if found == name => Ok(value),
            _ => Err(ScramError::Malformed("unexpected attribute")),
        }
    }

    fn any_attribute(&mut self) -> Result<(u8, &'a str), ScramError> {
        let name = self.peek().ok_or(ScramError::Malformed("attribute expected"))?;
        if !name.is_ascii_alphabetic() {
            return Err(ScramError::Malformed("attribute expected"));
        }
        let text = self.rest[1..].strip_prefix('=').ok_or(ScramError::Malformed("= expected"))?;
        let (value, rest) = text.split_once(',').unwrap_or((text, ""));
        self.rest = rest;
        Ok((name, value))
    }

    /// The first part of the GS2 header. Gives what `c=` of the last message must hold.
    fn binding_flag(&mut self, plus: bool, end_point: Option<&[u8]>) -> Result<Vec<u8>, ScramError> {
        let flag = self.peek().ok_or(ScramError::Malformed("empty"))?;
        match flag {
            b'n' | b'y' if plus => Err(ScramError::Malformed("channel binding data expected")),
            b'y' if end_point.is_some() => Err(ScramError::ChannelBinding),
            b'n' | b'y' => {
                self.rest = &self.rest[1..];
                self.comma()?;
                Ok(vec![flag, b',', b','])
            }
            b'p' if plus => match self.attribute(b'p')? {
                "tls-server-end-point" => {
                    Ok([BINDING_HEADER.as_bytes(), end_point.unwrap_or_default()].concat())
                }
                _ => Err(ScramError::Malformed("unsupported channel-binding type")),
            },
            b'p' => Err(ScramError::Malformed("channel binding was not selected")),
            _ => Err(ScramError::Malformed("unexpected channel-binding flag")),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SALT: &[u8] = b"0123456789abcdef";
    /// `CREATE ROLE` stored this on PostgreSQL 15 for the password `secret`.
    const STORED: &str = "SCRAM-SHA-256$4096:DzbZrZt9fG0Z9wITusCU4A==$GVfzIN7mTaa9PiOUDCMLxttRkoM1dYJb3QSkKdzDTg4=:MN1xT2lYNmvZoI51P3AOO4SAd32dVvuyrHk8cqvUY8s=";

    fn verifier(password: &str) -> ScramVerifier {
        ScramVerifier::from_password(password.as_bytes(), SALT, 4096)
    }

    fn nonce(byte: u8) -> Nonce {
        Nonce::from_random([byte; Nonce::RANDOM_LEN])
    }

    /// The whole exchange, with a chance to change each message on its way.
    fn exchange(
        server: Option<&[u8]>,
        client: Option<&[u8]>,
        verifier: ScramVerifier,
        password: &str,
        tamper: impl Fn(usize, &mut String),
    ) -> Result<ScramKeys, ScramError> {
        let tampered = |step: usize, message: &[u8]| {
            let mut text = String::from_utf8(message.to_vec()).unwrap();
            tamper(step, &mut text);
            text.into_bytes()
        };
        let server = ScramServer::new(server.map(<[u8]>::to_vec));
        let offered = server.mechanisms().iter().copied();
        let client = ScramClient::new(offered, client.map(<[u8]>::to_vec), nonce(1))?;
        let first = tampered(0, client.client_first());
        let (challenge, server) = server.client_first(client.mechanism(), &first, verifier, &nonce(2))?;
        let challenge = client.server_first(&tampered(1, &challenge))?;
        let keys = challenge.keys(password.as_bytes());
        let (proof, client) = challenge.answer(&keys);
        let (signature, recovered) = server.client_final(&tampered(2, &proof))?;
        client.server_final(&tampered(3, &signature))?;
        assert_eq!(recovered, keys);
        Ok(recovered)
    }

    fn untouched(_: usize, _: &mut String) {}

    #[test]
    fn rfc_7677_example_holds_on_both_sides() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let first = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
        let server_nonce = Nonce::parse("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0").unwrap();
        let challenge =
            "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
        let proof = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let signature = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

        let verifier = ScramVerifier::from_password(b"pencil", &salt, 4096);
        let (sent, server) =
            ScramServer::new(None).client_first(SCRAM_SHA_256, first, verifier, &server_nonce).unwrap();
        assert_eq!(sent, challenge.as_bytes());
        let (sent, _) = server.client_final(proof.as_bytes()).unwrap();
        assert_eq!(sent, signature.as_bytes());

        // Our client never sends a user name, so the example's is put in by hand.
        let mut client =
            ScramClient::new([SCRAM_SHA_256], None, Nonce::parse("rOprNGfwEbeRWgbNEkqO").unwrap()).unwrap();
        client.client_first = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO".to_owned();
        let challenge = client.server_first(challenge.as_bytes()).unwrap();
        let keys = challenge.keys(b"pencil");
        let (sent, client) = challenge.answer(&keys);
        assert_eq!(sent, proof.as_bytes());
        assert_eq!(client.server_final(signature.as_bytes()), Ok(()));
    }

    #[test]
    fn stored_form_is_that_of_postgres() {
        let verifier = ScramVerifier::parse(STORED).unwrap();
        assert_eq!(verifier.to_stored(), STORED);
        assert!(verifier.verify_password(b"secret").is_some());
        assert!(verifier.verify_password(b"Secret").is_none());
    }

    #[test]
    fn malformed_verifiers_are_refused() {
        let [_, salt, keys] = STORED.split('$').collect::<Vec<_>>()[..] else { panic!() };
        for text in [
            String::new(),
            format!("SCRAM-SHA-1${salt}${keys}"),
            format!("SCRAM-SHA-256${salt}"),
            format!("SCRAM-SHA-256$0:AAAA${keys}"),
            format!("SCRAM-SHA-256$+1:AAAA${keys}"),
            format!("SCRAM-SHA-256$4096:*${keys}"),
            format!("SCRAM-SHA-256${salt}$AAAA:AAAA"),
        ] {
            assert_eq!(ScramVerifier::parse(&text), None, "{text}");
        }
    }

    #[test]
    fn both_sides_agree_with_and_without_binding() {
        for (server, client) in
            [(None, None), (Some(b"cert".as_slice()), Some(b"cert".as_slice())), (Some(b"cert"), None)]
        {
            let keys = exchange(server, client, verifier("secret"), "secret", untouched).unwrap();
            assert_eq!(keys, ScramKeys::from_password(b"secret", SALT, 4096));
        }
    }

    #[test]
    fn keys_log_in_without_the_password() {
        let keys = exchange(None, None, verifier("secret"), "secret", untouched).unwrap();
        let client = ScramClient::new([SCRAM_SHA_256], None, nonce(3)).unwrap();
        let (challenge, server) = ScramServer::new(None)
            .client_first(SCRAM_SHA_256, client.client_first(), verifier("secret"), &nonce(4))
            .unwrap();
        let (proof, client) = client.server_first(&challenge).unwrap().answer(&keys);
        let (signature, _) = server.client_final(&proof).unwrap();
        assert_eq!(client.server_final(&signature), Ok(()));
    }

    #[test]
    fn passwords_are_prepared_as_postgres_does() {
        let same = |left: &[u8], right: &[u8]| {
            ScramKeys::from_password(left, SALT, 1) == ScramKeys::from_password(right, SALT, 1)
        };
        // Non-ASCII spaces become spaces, soft hyphens vanish, compatibility forms are unfolded.
        assert!(same("a\u{a0}b".as_bytes(), b"a b"));
        assert!(same("I\u{ad}X".as_bytes(), b"IX"));
        assert!(same("\u{2168}".as_bytes(), b"IX"));
        // What SASLprep forbids is taken as it is.
        assert!(!same(b"a\x07", b"a"));
        assert!(!same(b"\xff\xfe", b"\xff"));
        assert!(!same("\u{ad}".as_bytes(), b""));
    }

    #[test]
    fn wrong_password_is_28p01() {
        let error = exchange(None, None, verifier("secret"), "guess", untouched).unwrap_err();
        assert_eq!((error, error.sqlstate()), (ScramError::WrongProof, SqlState::INVALID_PASSWORD));
    }

    #[test]
    fn unknown_user_looks_like_a_wrong_password() {
        let mock = ScramVerifier::mock("nobody", b"secret of the process", DEFAULT_ITERATIONS);
        assert_eq!(mock, ScramVerifier::mock("nobody", b"secret of the process", DEFAULT_ITERATIONS));
        assert_ne!(
            mock.salt,
            ScramVerifier::mock("somebody", b"secret of the process", DEFAULT_ITERATIONS).salt
        );
        assert_eq!((mock.salt.len(), mock.iterations), (ScramVerifier::SALT_LEN, DEFAULT_ITERATIONS));
        assert_eq!(exchange(None, None, mock, "guess", untouched), Err(ScramError::WrongProof));
    }

    #[test]
    fn different_certificates_are_noticed() {
        let error =
            exchange(Some(b"ours"), Some(b"theirs"), verifier("secret"), "secret", untouched).unwrap_err();
        assert_eq!((error, error.sqlstate()), (ScramError::ChannelBinding, SqlState::INVALID_AUTHORIZATION));
    }

    #[test]
    fn an_offer_stripped_of_plus_is_noticed() {
        let client = ScramClient::new([SCRAM_SHA_256], Some(b"cert".to_vec()), nonce(1)).unwrap();
        assert!(client.client_first().starts_with(b"y,,"));
        let server = ScramServer::new(Some(b"cert".to_vec()));
        let refused = server
            .client_first(client.mechanism(), client.client_first(), verifier("secret"), &nonce(2))
            .err();
        assert_eq!(refused, Some(ScramError::ChannelBinding));
    }

    #[test]
    fn binding_data_is_hashed_as_the_signature_says() {
        let length = |oid| server_end_point(oid, b"certificate").map(|data| data.len());
        assert_eq!(length("1.2.840.113549.1.1.5"), Some(32), "SHA-1 is replaced");
        assert_eq!(length("1.2.840.10045.4.3.2"), Some(32));
        assert_eq!(length("1.2.840.113549.1.1.13"), Some(64));
        assert_eq!(length("1.3.101.112"), None, "Ed25519");
    }

    #[test]
    fn first_messages_are_judged_as_postgres_does() {
        use ScramError::{ChannelBinding, Malformed, Mechanism, Unsupported};
        let judge = |tls: bool, mechanism: &str, message: &[u8]| {
            let server = ScramServer::new(tls.then(|| b"cert".to_vec()));
            server.client_first(mechanism, message, verifier("secret"), &nonce(2)).err()
        };
        let expected = "unexpected attribute";
        for (tls, mechanism, message, error) in [
            (false, SCRAM_SHA_256, "n,,n=,r=abc", None),
            (false, SCRAM_SHA_256, "n,,n=*,r=abc,x=ignored", None),
            (false, SCRAM_SHA_256, "y,,n=,r=abc", None),
            (true, SCRAM_SHA_256, "n,,n=,r=abc", None),
            (true, SCRAM_SHA_256_PLUS, "p=tls-server-end-point,,n=,r=abc", None),
            (true, SCRAM_SHA_256, "y,,n=,r=abc", Some(ChannelBinding)),
            (false, SCRAM_SHA_256_PLUS, "p=tls-server-end-point,,n=,r=abc", Some(Mechanism)),
            (false, "SCRAM-SHA-1", "n,,n=,r=abc", Some(Mechanism)),
            (true, SCRAM_SHA_256_PLUS, "n,,n=,r=abc", Some(Malformed("channel binding data expected"))),
            (true, SCRAM_SHA_256_PLUS, "y,,n=,r=abc", Some(Malformed("channel binding data expected"))),
            (
                true,
                SCRAM_SHA_256_PLUS,
                "p=tls-unique,,n=,r=abc",
                Some(Malformed("unsupported channel-binding type")),
            ),
            (
                false,
                SCRAM_SHA_256,
                "p=tls-server-end-point,,n=,r=abc",
                Some(Malformed("channel binding was not selected")),
            ),
            (false, SCRAM_SHA_256, "n,a=admin,n=,r=abc", Some(Unsupported("authorization identity"))),
            (false, SCRAM_SHA_256, "n,,m=x,n=,r=abc", Some(Unsupported("mandatory extension"))),
            (false, SCRAM_SHA_256, "", Some(Malformed("empty"))),
            (false, SCRAM_SHA_256, "n,,n=,r=a\0", Some(Malformed("zero byte"))),
            (false, SCRAM_SHA_256, "n,,n=,r=", Some(Malformed("nonce is not printable"))),
            (false, SCRAM_SHA_256, "n,,n=,r=a\u{e9}", Some(Malformed("nonce is not printable"))),
            (false, SCRAM_SHA_256, "n,,r=abc", Some(Malformed(expected))),
            (false, SCRAM_SHA_256, "nn=,r=abc", Some(Malformed("comma expected"))),
            (false, SCRAM_SHA_256, "q,,n=,r=abc", Some(Malformed("unexpected channel-binding flag"))),
        ] {
            assert_eq!(judge(tls, mechanism, message.as_bytes()), error, "{mechanism} {message:?}");
        }
        assert_eq!(judge(false, SCRAM_SHA_256, b"n,,n=,r=\xff"), Some(Malformed("not UTF-8")));
    }

    #[test]
    fn no_character_of_any_message_can_be_changed() {
        let lengths = std::cell::RefCell::new([0; 4]);
        let note = |step: usize, message: &mut String| lengths.borrow_mut()[step] = message.len();
        // One iteration keeps the test fast; the messages are as long as ever, but for the count.
        let verifier = ScramVerifier::from_password(b"secret", SALT, 1);
        for tls in [None, Some(b"cert".as_slice())] {
            exchange(tls, tls, verifier.clone(), "secret", note).unwrap();
            for (step, len) in lengths.clone().into_inner().into_iter().enumerate() {
                for at in 0..len {
                    let change = |now: usize, message: &mut String| {
                        if now == step {
                            let other = if message.as_bytes()[at] == b'A' { "B" } else { "A" };
                            message.replace_range(at..=at, other);
                        }
                    };
                    let result = exchange(tls, tls, verifier.clone(), "secret", change);
                    assert!(result.is_err(), "message {step}, byte {at}");
                }
            }
        }
    }

    #[test]
    fn a_server_that_refuses_or_asks_too_much_is_given_up() {
        let client = || ScramClient::new([SCRAM_SHA_256], None, Nonce::parse("abc").unwrap()).unwrap();
        let error = |message: &str| client().server_first(message.as_bytes()).err();
        assert_eq!(error("r=abcdef,s=AAAA,i=4096"), None);
        assert_eq!(error("r=abc,s=AAAA,i=4096"), Some(ScramError::Malformed("nonce does not match")));
        assert_eq!(error("r=xyz,s=AAAA,i=4096"), Some(ScramError::Malformed("nonce does not match")));
        assert_eq!(error("r=abcdef,s=AAAA,i=0"), Some(ScramError::Malformed("iteration count")));
        assert_eq!(error("r=abcdef,s=AAAA,i=1000001"), Some(ScramError::Malformed("iteration count")));
        assert_eq!(error("r=abcdef,s=?,i=1"), Some(ScramError::Malformed("salt")));

        let keys = ScramKeys::from_password(b"secret", SALT, 1);
        let (_, answered) = client().server_first(b"r=abcdef,s=AAAA,i=1").unwrap().answer(&keys);
        assert_eq!(answered.server_final(b"e=other-error"), Err(ScramError::Refused));
        assert!(ScramClient::new(["GSSAPI"], None, nonce(1)).is_err());
    }

    #[test]
    fn secrets_are_not_printed() {
        let text = format!("{:?} {:?}", verifier("secret"), ScramKeys::from_password(b"secret", SALT, 1));
        assert_eq!(text, "ScramVerifier { iterations: 4096, .. } ScramKeys(..)");
    }

    /// Bytes that look enough like SCRAM to get past the first check.
    fn nearly_scram() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            any::<Vec<u8>>(),
            "[nyp][=,a]{0,3}(tls-server-end-point)?,{0,2}([a-z]=[ -~\u{e9}]{0,8},?){0,5}"
                .prop_map(String::into_bytes),
            "[crpvesi]=[ -~]{0,40},?([crpvesi]=[ -~]{0,40},?){0,3}".prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn no_input_panics(text in ".*", message in nearly_scram(), tls: bool, plus: bool) {
            let _ = ScramVerifier::parse(&text);
            let _ = ScramVerifier::parse(&format!("SCRAM-SHA-256${text}"));
            let end_point = tls.then(|| b"cert".to_vec());
            let mechanism = if plus { SCRAM_SHA_256_PLUS } else { SCRAM_SHA_256 };
            let mock = ScramVerifier::mock("user", b"secret", 1);
            let _ = ScramServer::new(end_point.clone()).client_first(mechanism, &message, mock.clone(), &nonce(1));
            let (_, server) =
                ScramServer::new(None).client_first(SCRAM_SHA_256, b"n,,n=,r=abc", mock, &nonce(1)).unwrap();
            prop_assert!(server.client_final(&message).is_err());
            let client = || ScramClient::new([SCRAM_SHA_256], end_point.clone(), Nonce::parse("abc").unwrap()).unwrap();
            let _ = client().server_first(&message);
            let keys = ScramKeys::from_password(&message, b"salt", 1);
            let (_, answered) = client().server_first(b"r=abcdef,s=AAAA,i=1").unwrap().answer(&keys);
            prop_assert!(answered.server_final(&message).is_err());
        }
    }
}
