//! The client's side: Weir towards its servers.

use base64::Engine;
use subtle::ConstantTimeEq;

use super::message::Reader;
use super::{
    BASE64, BINDING_HEADER, ITERATIONS_MAX, Key, Nonce, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError,
    ScramKeys, decode_key, hmac, is_nonce, parse_iterations, xor,
};

/// The client's side, before the server's first message.
pub struct ScramClient {
    plus: bool,
    /// What `c=` will hold: the GS2 header and the binding data.
    binding: Vec<u8>,
    pub(super) client_first: String,
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
