//! SCRAM: the two sides agree with each other and with nobody else.

use proptest::collection::vec;
use proptest::prelude::*;
use weir::wire::scram::{Nonce, ScramClient, ScramError, ScramKeys, ScramServer, ScramVerifier};

/// What both sides of one login begin with.
#[derive(Clone, Debug)]
struct Login {
    password: Vec<u8>,
    salt: Vec<u8>,
    iterations: u32,
    nonces: [[u8; Nonce::RANDOM_LEN]; 2],
    /// The server's certificate as each side sees it.
    end_point: Option<Vec<u8>>,
}

impl Login {
    fn verifier(&self) -> ScramVerifier {
        ScramVerifier::from_password(&self.password, &self.salt, self.iterations)
    }
}

fn login() -> impl Strategy<Value = Login> {
    let password = prop_oneof![vec(any::<u8>(), 1..30), "\\PC{1,20}".prop_map(String::into_bytes)];
    (
        password,
        vec(any::<u8>(), 1..24),
        1u32..6,
        any::<[[u8; Nonce::RANDOM_LEN]; 2]>(),
        any::<Option<[u8; 32]>>(),
    )
        .prop_map(|(password, salt, iterations, nonces, end_point)| Login {
            password,
            salt,
            iterations,
            nonces,
            end_point: end_point.map(|hash| hash.to_vec()),
        })
}

/// How the client knows its password.
enum Secret<'a> {
    Password(&'a [u8]),
    Keys(&'a ScramKeys),
}

/// The whole exchange; each of the four messages may be changed on its way. Gives the keys that the server learnt.
fn exchange(
    login: &Login,
    verifier: ScramVerifier,
    secret: &Secret<'_>,
    mut tamper: impl FnMut(usize, &mut Vec<u8>),
) -> Result<ScramKeys, ScramError> {
    let mut on_its_way = |step: usize, message: &[u8]| {
        let mut message = message.to_vec();
        tamper(step, &mut message);
        message
    };
    let [client_nonce, server_nonce] = login.nonces.map(Nonce::from_random);
    let server = ScramServer::new(login.end_point.clone());
    let client =
        ScramClient::new(server.mechanisms().iter().copied(), login.end_point.clone(), client_nonce)?;
    let first = on_its_way(0, client.client_first());
    let (challenge, server) = server.client_first(client.mechanism(), &first, verifier, &server_nonce)?;
    let challenge = client.server_first(&on_its_way(1, &challenge))?;
    let keys = match secret {
        Secret::Password(password) => challenge.keys(password),
        Secret::Keys(keys) => (*keys).clone(),
    };
    let (proof, client) = challenge.answer(&keys);
    let (signature, learnt) = server.client_final(&on_its_way(2, &proof))?;
    client.server_final(&on_its_way(3, &signature))?;
    Ok(learnt)
}

proptest! {
    #![proptest_config(super::config(200))]

    #[test]
    fn both_sides_agree(login in login()) {
        let verifier = login.verifier();
        let learnt = exchange(&login, verifier.clone(), &Secret::Password(&login.password), |_, _| {});
        let derived = ScramKeys::from_password(&login.password, &login.salt, login.iterations);
        prop_assert_eq!(learnt, Ok(derived));
        prop_assert!(verifier.verify_password(&login.password).is_some());
    }

    /// What a server learns of a client opens every server with the same verifier, and no other.
    #[test]
    fn keys_that_were_passed_through_log_in(login in login(), other_salt in vec(any::<u8>(), 25)) {
        let learnt = exchange(&login, login.verifier(), &Secret::Password(&login.password), |_, _| {})
            .expect("the right password");
        let again = exchange(&login, login.verifier(), &Secret::Keys(&learnt), |_, _| {});
        prop_assert_eq!(again.as_ref(), Ok(&learnt));
        let elsewhere = Login { salt: other_salt, ..login };
        let refused = exchange(&elsewhere, elsewhere.verifier(), &Secret::Keys(&learnt), |_, _| {});
        prop_assert_eq!(refused, Err(ScramError::WrongProof));
    }

    #[test]
    fn another_password_fails(login in login(), other in "[a-z]{1,12}") {
        prop_assume!(ScramKeys::from_password(other.as_bytes(), b"salt", 1) != ScramKeys::from_password(&login.password, b"salt", 1));
        let refused = exchange(&login, login.verifier(), &Secret::Password(other.as_bytes()), |_, _| {});
        prop_assert_eq!(refused, Err(ScramError::WrongProof));
        prop_assert!(login.verifier().verify_password(other.as_bytes()).is_none());
    }

    /// No byte of any message can be changed, taken out or added without the login failing.
    #[test]
    fn every_byte_counts(
        login in login(),
        step in 0usize..4,
        at: prop::sample::Index,
        flip in 1u8..=255,
        how in 0u8..3,
    ) {
        let outcome = exchange(&login, login.verifier(), &Secret::Password(&login.password), |now, message| {
            if now != step {
                return;
            }
            let at = at.index(message.len());
            match how {
                0 => message[at] ^= flip,
                1 => drop(message.remove(at)),
                _ => message.insert(at, flip),
            }
        });
        prop_assert!(outcome.is_err(), "message {step} was changed unnoticed");
    }

    #[test]
    fn a_verifier_is_read_as_it_is_written(login in login()) {
        let verifier = login.verifier();
        let stored = verifier.to_stored();
        prop_assert_eq!(ScramVerifier::parse(&stored), Some(verifier));
    }

    #[test]
    fn a_changed_verifier_is_another_or_none(login in login(), at: prop::sample::Index, byte in 0x20u8..0x7f) {
        let verifier = login.verifier();
        let stored = verifier.to_stored();
        let mut changed = stored.clone().into_bytes();
        changed[at.index(stored.len())] = byte;
        let changed = String::from_utf8(changed).expect("ASCII");
        prop_assume!(changed != stored);
        prop_assert_ne!(ScramVerifier::parse(&changed), Some(verifier));
    }

    #[test]
    fn an_unknown_user_is_mocked_alike_each_time(user in ".*", other in ".*", secret: [u8; 32], login in login()) {
        let mock = ScramVerifier::mock(&user, &secret, login.iterations);
        prop_assert_eq!(&mock, &ScramVerifier::mock(&user, &secret, login.iterations));
        prop_assert_eq!(mock == ScramVerifier::mock(&other, &secret, login.iterations), user == other);
        let refused = exchange(&login, mock, &Secret::Password(&login.password), |_, _| {});
        prop_assert_eq!(refused, Err(ScramError::WrongProof));
    }

    #[test]
    fn no_message_panics(
        step in 0usize..4,
        garbage in prop_oneof![vec(any::<u8>(), 0..80), "([a-z]=[a-zA-Z0-9+/=]{0,8},?){0,6}".prop_map(String::into_bytes)],
        login in login(),
    ) {
        any_message(&garbage, step, login.end_point.is_some());
        let mut longer = garbage.clone();
        let _ = exchange(&login, login.verifier(), &Secret::Password(&login.password), |now, message| {
            if now == step {
                message.append(&mut longer);
            }
        });
        let _ = ScramVerifier::parse(&String::from_utf8_lossy(&garbage));
    }
}

/// Any bytes in the place of any of the four messages.
pub(super) fn any_message(garbage: &[u8], step: usize, tls: bool) {
    let login = Login {
        password: b"secret".to_vec(),
        salt: b"salt".to_vec(),
        iterations: 1,
        nonces: [[1; Nonce::RANDOM_LEN], [2; Nonce::RANDOM_LEN]],
        end_point: tls.then(|| vec![7; 32]),
    };
    let outcome = exchange(&login, login.verifier(), &Secret::Password(&login.password), |now, message| {
        if now == step {
            *message = garbage.to_vec();
        }
    });
    // With these nonces one message is right; all else is refused.
    if outcome.is_ok() {
        let mut right = Vec::new();
        let _ = exchange(&login, login.verifier(), &Secret::Password(&login.password), |now, message| {
            if now == step {
                right.clone_from(message);
            }
        });
        assert_eq!(garbage, right, "garbage was believed");
    }
}
