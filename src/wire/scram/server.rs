//! The server's side: Weir towards its clients.

use base64::Engine;
use subtle::ConstantTimeEq;

use super::message::Reader;
use super::{
    BASE64, Nonce, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramError, ScramKeys, ScramVerifier, decode_key, hmac,
    is_nonce, xor,
};

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
