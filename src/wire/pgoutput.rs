//! Messages of the output plugin `pgoutput`, version 1 of its protocol (manual, 55.9 Logical Replication Message Formats).
//!
//! Who asks for version 1 gets each transaction whole, behind its commit; the messages of later versions, for
//! transactions sent while they run and for prepared ones, are an error here. Of rows nothing is kept but that there
//! was one.

use super::Malformed;
use super::frame::Fields;
use crate::pg::{Lsn, Oid};

/// What is asked for with START_REPLICATION.
pub const PROTOCOL_VERSION: u32 = 1;

/// A message, as far as Weir reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction that has committed begins.
    Begin {
        /// The transaction's number.
        xid: u32,
    },
    /// It ends.
    Commit {
        /// Where its commit record ends.
        end: Lsn,
    },
    /// The transaction came by another replication.
    Origin,
    /// What a relation is; sent in front of its first change, and again when that may be another.
    Relation {
        /// The relation.
        relation: Oid,
        /// Its schema; empty: `pg_catalog`.
        schema: &'a [u8],
        /// Its name.
        name: &'a [u8],
    },
    /// What a type is.
    Type,
    /// A row came.
    Insert(Oid),
    /// A row became another.
    Update(Oid),
    /// A row went.
    Delete(Oid),
    /// All rows went; of these, those reached by CASCADE and all partitions among them.
    Truncate(Oids<'a>),
    /// `pg_logical_emit_message()`.
    Logical,
}

/// A list of oids, as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oids<'a>(&'a [u8]);

impl<'a> Oids<'a> {
    /// Each of them.
    pub fn each(self) -> impl Iterator<Item = Oid> + use<'a> {
        self.0.as_chunks::<4>().0.iter().map(|oid| Oid(u32::from_be_bytes(*oid)))
    }
}

/// Opens a message.
pub fn message(bytes: &[u8]) -> Result<Message<'_>, Malformed> {
    let mut fields = Fields::new(bytes);
    let tag = fields.u8()?;
    Ok(match tag {
        b'B' => {
            // Final LSN and time of the commit.
            fields.u64()?;
            fields.u64()?;
            Message::Begin { xid: fields.u32()? }
        }
        b'C' => {
            // Flags, and where the commit record begins.
            fields.u8()?;
            fields.u64()?;
            Message::Commit { end: Lsn(fields.u64()?) }
        }
        b'O' => Message::Origin,
        b'R' => {
            let relation = Oid(fields.u32()?);
            Message::Relation { relation, schema: fields.cstr()?, name: fields.cstr()? }
        }
        b'Y' => Message::Type,
        b'I' => Message::Insert(changed(&mut fields, b"N")?),
        b'U' => Message::Update(changed(&mut fields, b"KON")?),
        b'D' => Message::Delete(changed(&mut fields, b"KO")?),
        b'T' => {
            let count = usize::try_from(fields.u32()?).map_err(|_| Malformed::Length)?;
            // Whether CASCADE and RESTART IDENTITY were given.
            fields.u8()?;
            let bytes = count.checked_mul(4).ok_or(Malformed::Length)?;
            let oids = fields.bytes(bytes)?;
            if !fields.rest().is_empty() {
                return Err(Malformed::Length);
            }
            Message::Truncate(Oids(oids))
        }
        b'M' => Message::Logical,
        other => return Err(Malformed::Unexpected(other)),
    })
}

/// The relation of a changed row. What stands behind it must be a row: else it may be of a transaction that is still
/// running, where the transaction's number comes first.
fn changed(fields: &mut Fields<'_>, rows: &[u8]) -> Result<Oid, Malformed> {
    let relation = Oid(fields.u32()?);
    let row = fields.u8()?;
    if rows.contains(&row) { Ok(relation) } else { Err(Malformed::Unexpected(row)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_opened() {
        let begin = [&b"B"[..], &[0; 16], &[0, 0, 2, 0xB2]].concat();
        assert_eq!(message(&begin), Ok(Message::Begin { xid: 690 }));
        let commit = [&b"C"[..], &[0; 9], &[0, 0, 0, 1, 0, 0, 0, 2], &[0; 8]].concat();
        assert_eq!(message(&commit), Ok(Message::Commit { end: Lsn(0x1_0000_0002) }));
        let relation = b"R\0\0\x40\0public\0versions\0d\0\x01";
        let expected = Message::Relation { relation: Oid(16384), schema: b"public", name: b"versions" };
        assert_eq!(message(relation), Ok(expected));
        assert_eq!(message(b"I\0\0\x40\0N\0\x01n"), Ok(Message::Insert(Oid(16384))));
        assert_eq!(message(b"U\0\0\x40\0K\0\x01n"), Ok(Message::Update(Oid(16384))));
        assert_eq!(message(b"D\0\0\x40\0O\0\x01n"), Ok(Message::Delete(Oid(16384))));
        let Ok(Message::Truncate(oids)) = message(b"T\0\0\0\x02\x01\0\0\x40\0\0\0\x40\x05") else {
            panic!("it is one")
        };
        assert_eq!(oids.each().collect::<Vec<_>>(), [Oid(16384), Oid(16389)]);
    }

    #[test]
    fn what_version_1_does_not_have_is_refused() {
        for other in
            [&b"S\0\0\0\x01\x01"[..], b"E", b"P", b"", b"?", b"T\xff\xff\xff\xff\0", b"T\0\0\0\0\0more"]
        {
            assert!(message(other).is_err(), "{other:?}");
        }
        // Of a streamed transaction: its number stands in front of the relation.
        assert!(message(b"I\0\0\x02\xB2\0\0\x40\0N\0\x01n").is_err());
    }
}
