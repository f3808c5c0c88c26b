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
    let challenge = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
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
    assert_ne!(mock.salt, ScramVerifier::mock("somebody", b"secret of the process", DEFAULT_ITERATIONS).salt);
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
    let refused =
        server.client_first(client.mechanism(), client.client_first(), verifier("secret"), &nonce(2)).err();
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
