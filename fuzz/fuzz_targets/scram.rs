//! Any bytes in the place of one of the four messages of a login: it fails, unless they are the right ones.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::wire::scram::{Nonce, ScramClient, ScramError, ScramServer, ScramVerifier};

fuzz_target!(|data: &[u8]| {
    let Some((&[how], garbage)) = data.split_first_chunk::<1>() else { return };
    let (step, tls) = (usize::from(how & 3), how & 4 != 0);
    let mut right = Vec::new();
    let outcome = login(tls, |now, message| {
        if now == step {
            right = std::mem::replace(message, garbage.to_vec());
        }
    });
    assert!(outcome.is_err() || garbage == right, "message {step} was believed");
    if let Some(verifier) = std::str::from_utf8(garbage).ok().and_then(ScramVerifier::parse) {
        assert_eq!(ScramVerifier::parse(&verifier.to_stored()), Some(verifier));
    }
});

fn login(tls: bool, mut tamper: impl FnMut(usize, &mut Vec<u8>)) -> Result<(), ScramError> {
    let mut on_its_way = |step, message: &[u8]| {
        let mut message = message.to_vec();
        tamper(step, &mut message);
        message
    };
    let end_point = || tls.then(|| vec![7; 32]);
    let server = ScramServer::new(end_point());
    let nonce = |byte| Nonce::from_random([byte; Nonce::RANDOM_LEN]);
    let client = ScramClient::new(server.mechanisms().iter().copied(), end_point(), nonce(1))?;
    let verifier = ScramVerifier::from_password(b"secret", b"salt", 1);
    let first = on_its_way(0, client.client_first());
    let (challenge, server) = server.client_first(client.mechanism(), &first, verifier, &nonce(2))?;
    let challenge = client.server_first(&on_its_way(1, &challenge))?;
    // A hostile server could ask for a million rounds, which would only make this slow.
    if challenge.iterations > 10 {
        return Err(ScramError::Refused);
    }
    let keys = challenge.keys(b"secret");
    let (proof, client) = challenge.answer(&keys);
    let (signature, _) = server.client_final(&on_its_way(2, &proof))?;
    client.server_final(&on_its_way(3, &signature))
}
