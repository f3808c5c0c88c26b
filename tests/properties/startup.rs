//! Startup packets: what anybody may send before they have proved anything.

use proptest::collection::vec;
use proptest::prelude::*;
use weir::pg::ProcessId;
use weir::wire::startup::{self, PACKET_BYTES_MAX, Startup};
use weir::wire::{Malformed, build};

/// Text without the byte that ends it.
fn text(min: usize) -> impl Strategy<Value = Vec<u8>> {
    vec(1u8..=255, min..20)
}

proptest! {
    #![proptest_config(super::config(400))]

    #[test]
    fn no_packet_panics(bytes in vec(any::<u8>(), 0..200)) {
        any_packet(&bytes);
    }

    /// As above, behind a head that lets more of it be read.
    #[test]
    fn no_packet_with_a_known_code_panics(
        code in prop_oneof![
            Just(startup::VERSION_3_0), Just(startup::VERSION_3_2), Just(startup::CANCEL_REQUEST),
            Just(startup::SSL_REQUEST), Just(startup::GSSENC_REQUEST), 0x0003_0000u32..0x0003_ffff,
        ],
        body in vec(any::<u8>(), 0..300),
    ) {
        let length = u32::try_from(body.len() + 8).unwrap();
        any_packet(&[&length.to_be_bytes()[..], &code.to_be_bytes(), &body].concat());
    }

    #[test]
    fn what_is_built_is_read_back(parameters in vec((text(1), text(0)), 0..8)) {
        let mut packet = Vec::new();
        let pairs: Vec<(&[u8], &[u8])> =
            parameters.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect();
        build::startup(&mut packet, &pairs);
        prop_assert_eq!(startup::packet_bytes(&packet), Ok(Some(packet.len())));
        let Ok(Startup::Session(message)) = startup::parse(&packet) else {
            return Err(TestCaseError::fail("not read as a StartupMessage"));
        };
        prop_assert_eq!(message.minor_version, 0);
        for (name, _) in &parameters {
            let last = parameters.iter().rev().find(|(other, _)| other == name);
            let name = std::str::from_utf8(name);
            if let Ok(name) = name {
                prop_assert_eq!(message.parameter(name), last.map(|(_, value)| value.as_slice()));
            }
        }
        prop_assert_eq!(message.parameters, parameters);
        // Nothing is read past its end, and nothing less than all of it will do.
        for cut in 0..packet.len() {
            prop_assert!(startup::parse(&packet[..cut]).is_err());
        }
        packet.push(0);
        prop_assert!(startup::parse(&packet).is_err());
    }

    #[test]
    fn a_cancel_request_is_read_back(process: u32, secret in vec(any::<u8>(), 0..300)) {
        let mut packet = Vec::new();
        build::cancel_request(&mut packet, ProcessId(process), &secret);
        let read = startup::parse(&packet);
        if (1..=256).contains(&secret.len()) {
            prop_assert_eq!(read, Ok(Startup::Cancel { process: ProcessId(process), secret }));
        } else {
            prop_assert_eq!(read, Err(Malformed::Length));
        }
    }

    #[test]
    fn lengths_are_held_to_their_limits(declared: u32, near in 0u32..12_000) {
        for declared in [declared, near] {
            let found = startup::packet_bytes(&declared.to_be_bytes());
            match usize::try_from(declared).unwrap() {
                0..8 | 0x8000_0000.. => prop_assert_eq!(found, Err(Malformed::Length)),
                length @ 8..=PACKET_BYTES_MAX => prop_assert_eq!(found, Ok(Some(length))),
                _ => prop_assert_eq!(found, Err(Malformed::TooLong)),
            }
        }
    }

    /// Written as the manual says (34.1.2): a backslash in front of blanks and backslashes.
    #[test]
    fn options_mean_what_was_escaped(
        settings in vec(("[a-z_][a-z_.]{0,8}", text(0)), 0..6),
        spellings in vec(0u8..3, 6),
        blanks in vec("[ \t\n]{1,3}", 6),
    ) {
        let mut options = Vec::new();
        for (((name, value), spelling), blank) in settings.iter().zip(spellings).zip(blanks) {
            options.extend_from_slice(match spelling {
                0 => b"-c ",
                1 => b"-c",
                _ => b"--",
            });
            options.extend_from_slice(name.as_bytes());
            options.push(b'=');
            for &byte in value {
                if byte.is_ascii_whitespace() || matches!(byte, b'\\' | 0x0b) {
                    options.push(b'\\');
                }
                options.push(byte);
            }
            options.extend_from_slice(blank.as_bytes());
        }
        let wanted: Vec<_> =
            settings.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect();
        prop_assert_eq!(startup::options(&options), Ok(wanted));
    }

    #[test]
    fn no_options_panic(text in vec(prop_oneof![Just(b' '), Just(b'-'), Just(b'c'), Just(b'='), Just(b'\\'), any::<u8>()], 0..60)) {
        let _ = startup::options(&text);
    }

    #[test]
    fn a_secret_is_the_same_only_if_it_is(one in vec(any::<u8>(), 0..40), other in vec(any::<u8>(), 0..40), at: prop::sample::Index) {
        prop_assert_eq!(startup::is_same_secret(&one, &other), one == other);
        prop_assert!(startup::is_same_secret(&one, &one.clone()));
        if !one.is_empty() {
            let mut changed = one.clone();
            changed[at.index(one.len())] ^= 1;
            prop_assert!(!startup::is_same_secret(&one, &changed));
        }
    }
}

/// Reads any bytes as a packet, and what it holds.
pub(super) fn any_packet(bytes: &[u8]) {
    if let Ok(Some(length)) = startup::packet_bytes(bytes) {
        assert!((8..=PACKET_BYTES_MAX).contains(&length), "{length}");
    }
    if let Ok(Startup::Session(message)) = startup::parse(bytes) {
        let _ = message.replication();
        let _ = message.protocol_options();
        let _ = startup::options(message.parameter("options").unwrap_or_default());
    }
}
