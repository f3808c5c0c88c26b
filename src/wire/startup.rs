//! Startup packets: the first, untyped messages of a connection (manual, 55.2.1 and 55.7).
//!
//! ```text
//!   +-------------+-----------+----------------------------+
//!   | length: i32 | code: i32 | parameters, or key, or none |
//!   +-------------+-----------+----------------------------+
//! ```

use subtle::ConstantTimeEq;

use super::Malformed;
use super::frame::Fields;
use crate::pg::ProcessId;

/// Protocol 3.0.
pub const VERSION_3_0: u32 = 0x0003_0000;
/// Protocol 3.2: cancel keys may have up to 256 bytes.
pub const VERSION_3_2: u32 = 0x0003_0002;
/// CancelRequest's code.
pub const CANCEL_REQUEST: u32 = 80_877_102;
/// SSLRequest's code.
pub const SSL_REQUEST: u32 = 80_877_103;
/// GSSENCRequest's code.
pub const GSSENC_REQUEST: u32 = 80_877_104;

/// PostgreSQL's `MAX_STARTUP_PACKET_LENGTH`: what a client may send before it has proved anything.
pub const PACKET_BYTES_MAX: usize = 10_000;

/// A startup packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Startup {
    /// The client asks for TLS.
    SslRequest,
    /// The client asks for GSSAPI encryption.
    GssEncRequest,
    /// The client asks to cancel what another connection runs.
    Cancel {
        /// As given in BackendKeyData.
        process: ProcessId,
        /// Likewise.
        secret: Vec<u8>,
    },
    /// The client wants a session.
    Session(StartupMessage),
}

/// A name and a value.
pub type Assignment = (Vec<u8>, Vec<u8>);

/// The client's wish for a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartupMessage {
    /// The minor version asked for; the major version is 3.
    pub minor_version: u16,
    /// Names and values in their order.
    pub parameters: Vec<Assignment>,
}

impl StartupMessage {
    /// The value of a parameter, if it was sent; the last one wins, as in PostgreSQL.
    pub fn parameter(&self, name: &str) -> Option<&[u8]> {
        self.parameters
            .iter()
            .rev()
            .find(|(candidate, _)| candidate == name.as_bytes())
            .map(|(_, value)| value.as_slice())
    }

    /// The replication that is asked for, if any is. `Err` holds a value that PostgreSQL does not understand either.
    pub fn replication(&self) -> Result<Option<Replication>, &[u8]> {
        match self.parameter("replication") {
            None => Ok(None),
            Some(b"database") => Ok(Some(Replication::Logical)),
            Some(value) => match boolean(value) {
                Some(true) => Ok(Some(Replication::Physical)),
                Some(false) => Ok(None),
                None => Err(value),
            },
        }
    }

    /// Protocol options that a server of version 3.0 does not know (`_pq_.` names).
    pub fn protocol_options(&self) -> Vec<&[u8]> {
        self.parameters
            .iter()
            .map(|(name, _)| name.as_slice())
            .filter(|name| name.starts_with(b"_pq_."))
            .collect()
    }
}

/// What a replication connection is for (manual, 55.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// The log of the whole server, base backups: it belongs to no database.
    Physical,
    /// The changes of one database.
    Logical,
}

impl Replication {
    /// The word in the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

/// PostgreSQL's `parse_bool`: words may be cut short where that leaves no doubt.
fn boolean(text: &[u8]) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    let words: [(&[u8], usize, bool); 8] = [
        (b"true", 1, true),
        (b"false", 1, false),
        (b"yes", 1, true),
        (b"no", 1, false),
        (b"on", 2, true),
        (b"off", 2, false),
        (b"1", 1, true),
        (b"0", 1, false),
    ];
    let means =
        |&&(word, shortest, _): &&(&[u8], usize, bool)| text.len() >= shortest && word.starts_with(&text);
    words.iter().find(means).map(|(.., value)| *value)
}

/// The length of the packet at the front of `buffer`, once four bytes are there.
pub fn packet_bytes(buffer: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some(length) = buffer.first_chunk::<4>() else {
        return Ok(None);
    };
    let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| Malformed::Length)?;
    match length {
        0..8 => Err(Malformed::Length),
        8..=PACKET_BYTES_MAX => Ok(Some(length)),
        _ => Err(Malformed::TooLong),
    }
}

/// Reads one whole packet, length field included.
pub fn parse(packet: &[u8]) -> Result<Startup, Malformed> {
    let mut fields = Fields::new(packet);
    fields.u32()?;
    match fields.u32()? {
        SSL_REQUEST if fields.rest().is_empty() => Ok(Startup::SslRequest),
        GSSENC_REQUEST if fields.rest().is_empty() => Ok(Startup::GssEncRequest),
        SSL_REQUEST | GSSENC_REQUEST => Err(Malformed::Length),
        CANCEL_REQUEST => {
            let process = ProcessId(fields.u32()?);
            let secret = fields.rest();
            if secret.is_empty() || secret.len() > 256 {
                return Err(Malformed::Length);
            }
            Ok(Startup::Cancel { process, secret: secret.to_vec() })
        }
        version => session(version, fields),
    }
}

fn session(version: u32, mut fields: Fields<'_>) -> Result<Startup, Malformed> {
    let (major, minor) = ((version >> 16) as u16, (version & 0xffff) as u16);
    if major != 3 {
        return Err(Malformed::Version(major, minor));
    }
    let mut parameters = Vec::new();
    loop {
        let name = fields.cstr()?;
        if name.is_empty() {
            break;
        }
        parameters.push((name.to_vec(), fields.cstr()?.to_vec()));
    }
    if !fields.rest().is_empty() {
        return Err(Malformed::Truncated);
    }
    Ok(Startup::Session(StartupMessage { minor_version: minor, parameters }))
}

/// Whether a CancelRequest's secret is the one that was given out; takes as long whichever byte differs.
pub fn is_same_secret(given_out: &[u8], received: &[u8]) -> bool {
    given_out.ct_eq(received).into()
}

/// Settings in the `options` parameter: `-c name=value`, `--name=value`; a backslash escapes the next character
/// (manual, 34.1.2 Parameter Key Words). `Err` holds the argument that is not understood.
pub fn options(text: &[u8]) -> Result<Vec<Assignment>, Vec<u8>> {
    let mut settings = Vec::new();
    let mut arguments = split_options(text).into_iter();
    while let Some(argument) = arguments.next() {
        let assignment = match argument.as_slice() {
            b"-c" => arguments.next().ok_or_else(|| argument.clone())?,
            [b'-', b'c' | b'-', rest @ ..] => rest.to_vec(),
            _ => return Err(argument),
        };
        let Some(at) = assignment.iter().position(|&byte| byte == b'=') else {
            return Err(assignment);
        };
        let name = assignment[..at].iter().map(|&byte| if byte == b'-' { b'_' } else { byte }).collect();
        settings.push((name, assignment[at + 1..].to_vec()));
    }
    Ok(settings)
}

fn split_options(text: &[u8]) -> Vec<Vec<u8>> {
    let mut arguments = Vec::new();
    let mut current: Option<Vec<u8>> = None;
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => arguments.extend(current.take()),
            b'\\' => current.get_or_insert_default().extend(bytes.next()),
            _ => current.get_or_insert_default().push(byte),
        }
    }
    arguments.extend(current);
    arguments
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn options_are_split_as_postgres_splits_them() {
        let pairs = |text: &str| {
            options(text.as_bytes()).map(|pairs| {
                pairs
                    .into_iter()
                    .map(|(n, v)| (String::from_utf8(n).expect("utf8"), String::from_utf8(v).expect("utf8")))
                    .collect::<Vec<_>>()
            })
        };
        let pair = |n: &str, v: &str| (n.to_owned(), v.to_owned());
        assert_eq!(
            pairs("-c search_path=a,b -cgeqo=off"),
            Ok(vec![pair("search_path", "a,b"), pair("geqo", "off")])
        );
        assert_eq!(pairs("--work-mem=1MB"), Ok(vec![pair("work_mem", "1MB")]));
        assert_eq!(pairs(r"-c search_path=a,\ b"), Ok(vec![pair("search_path", "a, b")]));
        assert_eq!(pairs("-e"), Err(b"-e".to_vec()));
        assert_eq!(pairs("-c"), Err(b"-c".to_vec()));
    }

    #[test]
    fn replication_is_asked_for_in_many_words() {
        let asked = |value: &str| {
            let parameters = vec![(b"replication".to_vec(), value.as_bytes().to_vec())];
            StartupMessage { minor_version: 0, parameters }.replication().map_err(<[u8]>::to_vec)
        };
        for value in ["true", "on", "1", "yes", "t", "TRUE", "Y"] {
            assert_eq!(asked(value), Ok(Some(Replication::Physical)), "{value}");
        }
        for value in ["false", "off", "0", "no", "of", "F"] {
            assert_eq!(asked(value), Ok(None), "{value}");
        }
        assert_eq!(asked("database"), Ok(Some(Replication::Logical)));
        for value in ["", "o", "2", "data", "trues", "Database"] {
            assert_eq!(asked(value), Err(value.as_bytes().to_vec()), "{value}");
        }
        assert_eq!(StartupMessage::default().replication(), Ok(None));
    }

    #[test]
    fn refuses_what_is_no_startup_packet() {
        assert_eq!(packet_bytes(&[0xff; 4]), Err(Malformed::Length));
        assert_eq!(packet_bytes(b"GET "), Err(Malformed::TooLong));
        assert_eq!(parse(&[0, 0, 0, 8, 0, 2, 0, 0]), Err(Malformed::Version(2, 0)));
        assert_eq!(parse(&[0, 0, 0, 12, 0, 3, 0, 0, b'u', 0, b'x', 0]), Err(Malformed::Truncated));
    }

    proptest! {
        #[test]
        fn arbitrary_packets_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = packet_bytes(&bytes);
            let _ = parse(&bytes);
            let _ = options(&bytes);
        }
    }
}
