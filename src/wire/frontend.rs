//! Frontend messages: their tags, views on the fields that Weir looks at, and rewrites of statement names.

use super::Malformed;
use super::frame::Fields;

/// Bind: binds parameters to a prepared statement.
pub const BIND: u8 = b'B';
/// Close a statement or portal.
pub const CLOSE: u8 = b'C';
/// A piece of COPY data (both directions).
pub const COPY_DATA: u8 = b'd';
/// The end of COPY data (both directions).
pub const COPY_DONE: u8 = b'c';
/// COPY cannot go on.
pub const COPY_FAIL: u8 = b'f';
/// Describe a statement or portal.
pub const DESCRIBE: u8 = b'D';
/// Run a portal.
pub const EXECUTE: u8 = b'E';
/// Send what is buffered.
pub const FLUSH: u8 = b'H';
/// Call a function by its Oid.
pub const FUNCTION_CALL: u8 = b'F';
/// Prepare a statement.
pub const PARSE: u8 = b'P';
/// PasswordMessage, SASLInitialResponse, SASLResponse.
pub const PASSWORD: u8 = b'p';
/// A simple query.
pub const QUERY: u8 = b'Q';
/// The end of an extended batch.
pub const SYNC: u8 = b'S';
/// The client leaves.
pub const TERMINATE: u8 = b'X';

/// Whether a logged-in client may send such a message. Looked at before its length is believed.
pub fn is_known(tag: u8) -> bool {
    matches!(
        tag,
        BIND | CLOSE
            | COPY_DATA
            | COPY_DONE
            | COPY_FAIL
            | DESCRIBE
            | EXECUTE
            | FLUSH
            | FUNCTION_CALL
            | PARSE
            | QUERY
            | SYNC
            | TERMINATE
    )
}

/// What Describe and Close speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// A prepared statement; the empty name is the unnamed one.
    Statement(&'a [u8]),
    /// A portal; likewise.
    Portal(&'a [u8]),
}

/// A view on Parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The name to be given; empty for the unnamed statement.
    pub name: &'a [u8],
    /// The text of the statement.
    pub text: &'a [u8],
    /// Count and Oids of the declared parameter types, as they stand in the message.
    pub types: &'a [u8],
}

/// A view on Bind, up to what Weir rewrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal to be made.
    pub portal: &'a [u8],
    /// The statement it is made of.
    pub statement: &'a [u8],
    /// Formats, parameters and result formats, as they stand in the message.
    pub rest: &'a [u8],
}

/// Reads a Query's text.
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut fields = Fields::new(body);
    let text = fields.cstr()?;
    if fields.rest().is_empty() { Ok(text) } else { Err(Malformed::Truncated) }
}

/// The text of a Query that [`query`] has read before: it need not be looked through again.
pub fn same_query(body: &[u8]) -> &[u8] {
    body.strip_suffix(b"\0").unwrap_or(body)
}

/// Reads a Parse.
pub fn parse(body: &[u8]) -> Result<Parse<'_>, Malformed> {
    let mut fields = Fields::new(body);
    let name = fields.cstr()?;
    let text = fields.cstr()?;
    let types = fields.rest();
    let count = usize::from(fields.u16()?);
    fields.bytes(count * 4)?;
    if fields.rest().is_empty() { Ok(Parse { name, text, types }) } else { Err(Malformed::Truncated) }
}

/// Reads the names in a Bind.
pub fn bind(body: &[u8]) -> Result<Bind<'_>, Malformed> {
    let mut fields = Fields::new(body);
    let portal = fields.cstr()?;
    let statement = fields.cstr()?;
    Ok(Bind { portal, statement, rest: fields.rest() })
}

impl<'a> Bind<'a> {
    /// The text or binary value of parameter `number` (from 1), with its format code; `None` for NULL.
    pub fn parameter(&self, number: usize) -> Result<Option<(u16, &'a [u8])>, Malformed> {
        let mut fields = Fields::new(self.rest);
        let format_count = usize::from(fields.u16()?);
        let formats = fields.bytes(format_count * 2)?;
        let format_of = |index: usize| {
            let at = if format_count == 1 { 0 } else { index * 2 };
            formats.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]))
        };
        let count = usize::from(fields.u16()?);
        for index in 0..count {
            let length = fields.u32()?;
            let value = if length == u32::MAX {
                None
            } else {
                Some(fields.bytes(usize::try_from(length).map_err(|_| Malformed::Truncated)?)?)
            };
            if index + 1 == number {
                return Ok(value.map(|bytes| (format_of(index), bytes)));
            }
        }
        Err(Malformed::Truncated)
    }
}

/// Reads the name in a Describe or Close.
pub fn named(body: &[u8]) -> Result<Named<'_>, Malformed> {
    let mut fields = Fields::new(body);
    let kind = fields.u8()?;
    let name = fields.cstr()?;
    match kind {
        _ if !fields.rest().is_empty() => Err(Malformed::Truncated),
        b'S' => Ok(Named::Statement(name)),
        b'P' => Ok(Named::Portal(name)),
        _ => Err(Malformed::Truncated),
    }
}

/// Reads the portal's name in an Execute, and its row limit (0: none).
pub fn execute(body: &[u8]) -> Result<(&[u8], u32), Malformed> {
    let mut fields = Fields::new(body);
    let portal = fields.cstr()?;
    let limit = fields.u32()?;
    if fields.rest().is_empty() { Ok((portal, limit)) } else { Err(Malformed::Truncated) }
}
