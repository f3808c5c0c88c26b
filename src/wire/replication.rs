//! What passes inside of CopyData once a replication connection streams (manual, 55.4 Streaming Replication Protocol).
//!
//! ```text
//!   XLogData            'w' | start: u64 | end: u64 | sent: i64 | what the output plugin wrote
//!   keepalive           'k' | end: u64 | sent: i64 | answer at once: u8
//!   status update  ->   'r' | written: u64 | flushed: u64 | applied: u64 | sent: i64 | answer at once: u8
//! ```
//!
//! Clocks are in microseconds since 2000.

use super::Malformed;
use super::build;
use super::frame::Fields;
use crate::pg::Lsn;

/// The tag of CopyData: its direction tells the two ends apart.
const COPY_DATA: u8 = b'd';

/// A message of the server's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Streamed<'a> {
    /// A message of the output plugin.
    Data {
        /// Where the change stands in the log; of a commit, where it ends.
        position: Lsn,
        /// The server's clock when it was sent.
        sent_micros: u64,
        /// What the plugin wrote.
        message: &'a [u8],
    },
    /// A sign of life.
    Keepalive {
        /// All commits that end at or before it have been sent.
        end: Lsn,
        /// The server's clock when it was sent.
        sent_micros: u64,
        /// The server gives up on us if we do not answer.
        wants_answer: bool,
    },
}

impl Streamed<'_> {
    /// The server's clock when it was sent.
    pub fn sent_micros(&self) -> u64 {
        match self {
            Self::Data { sent_micros, .. } | Self::Keepalive { sent_micros, .. } => *sent_micros,
        }
    }
}

/// Opens the body of a CopyData.
pub fn streamed(body: &[u8]) -> Result<Streamed<'_>, Malformed> {
    let mut fields = Fields::new(body);
    match fields.u8()? {
        b'w' => {
            let position = Lsn(fields.u64()?);
            fields.u64()?;
            Ok(Streamed::Data { position, sent_micros: fields.u64()?, message: fields.rest() })
        }
        b'k' => Ok(Streamed::Keepalive {
            end: Lsn(fields.u64()?),
            sent_micros: fields.u64()?,
            wants_answer: fields.u8()? != 0,
        }),
        other => Err(Malformed::Unexpected(other)),
    }
}

/// A standby status update: all up to `position` will never be asked for again, so the server need not keep it.
pub fn status_update(out: &mut Vec<u8>, position: Lsn, wants_answer: bool) {
    build::frame(out, COPY_DATA, |out| {
        out.push(b'r');
        for place in [position; 3] {
            out.extend_from_slice(&place.0.to_be_bytes());
        }
        // Our clock: PostgreSQL only shows it, in `pg_stat_replication.reply_time`.
        out.extend_from_slice(&[0; 8]);
        out.push(u8::from(wants_answer));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_opened() {
        let mut data = vec![b'w'];
        for field in [0x16B_3748_u64, 0x16B_3749, 700] {
            data.extend_from_slice(&field.to_be_bytes());
        }
        data.extend_from_slice(b"BEGIN 1");
        let expected = Streamed::Data { position: Lsn(0x16B_3748), sent_micros: 700, message: b"BEGIN 1" };
        assert_eq!(streamed(&data), Ok(expected));

        let mut keepalive = vec![b'k'];
        keepalive.extend_from_slice(&5_u64.to_be_bytes());
        keepalive.extend_from_slice(&6_u64.to_be_bytes());
        assert_eq!(streamed(&keepalive), Err(Malformed::Truncated));
        keepalive.push(1);
        let expected = Streamed::Keepalive { end: Lsn(5), sent_micros: 6, wants_answer: true };
        assert_eq!(streamed(&keepalive), Ok(expected));
        assert_eq!(streamed(b"x"), Err(Malformed::Unexpected(b'x')));
    }

    #[test]
    fn a_status_update_has_the_length_that_it_declares() {
        let mut out = Vec::new();
        status_update(&mut out, Lsn(0x0102), true);
        assert_eq!(out.len(), 1 + 4 + 34);
        assert_eq!(out[..6], [b'd', 0, 0, 0, 38, b'r']);
        assert_eq!(out[12..14], [1, 2]);
        assert_eq!(out.last(), Some(&1));
    }
}
