//! The wire format of the frontend/backend protocol, version 3 (manual, chapter 55).
//!
//! `frame` alone splits a stream and checks lengths; all else is handed one whole, validated frame. Messages that
//! are rare are built by pgwire; those of the hot path and the startup phase are views and writers over plain
//! bytes, because pgwire decodes text as UTF-8 and a LATIN1 client's bytes would change.

pub mod backend;
pub mod build;
pub mod frame;
pub mod frontend;
pub mod md5;
pub mod pgoutput;
pub mod replication;
pub mod scram;
pub mod startup;
pub mod test_decoding;

/// Bytes that no PostgreSQL client or server sends: the connection ends with 08P01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The length field is below what the message needs.
    #[error("invalid message length")]
    Length,
    /// The length field is above the bound for this phase.
    #[error("message is too long")]
    TooLong,
    /// A field runs past the end of its message, or a string has no terminator.
    #[error("invalid message format")]
    Truncated,
    /// A message type that does not belong here.
    #[error("unexpected message type {0:#04x}")]
    Unexpected(u8),
    /// A startup packet of an unknown kind or version.
    #[error("unsupported frontend protocol {0}.{1}: server supports 3.0 to 3.2")]
    Version(u16, u16),
}
