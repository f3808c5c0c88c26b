//! Backend messages: their tags and views on the few that Weir opens.

use super::Malformed;
use super::frame::Fields;
use crate::pg::{ProcessId, SqlState, TransactionStatus};

/// Authentication request.
pub const AUTHENTICATION: u8 = b'R';
/// Process id and secret for CancelRequest.
pub const BACKEND_KEY_DATA: u8 = b'K';
/// Bind succeeded.
pub const BIND_COMPLETE: u8 = b'2';
/// Close succeeded.
pub const CLOSE_COMPLETE: u8 = b'3';
/// A statement ended; carries its tag.
pub const COMMAND_COMPLETE: u8 = b'C';
/// COPY FROM STDIN begins.
pub const COPY_IN: u8 = b'G';
/// COPY TO STDOUT begins.
pub const COPY_OUT: u8 = b'H';
/// A piece of COPY data.
pub const COPY_DATA: u8 = b'd';
/// The end of COPY data.
pub const COPY_DONE: u8 = b'c';
/// COPY in both directions begins (replication).
pub const COPY_BOTH: u8 = b'W';
/// One row.
pub const DATA_ROW: u8 = b'D';
/// The text was empty.
pub const EMPTY_QUERY: u8 = b'I';
/// An error; fatal ones end the session.
pub const ERROR: u8 = b'E';
/// The result of a function call.
pub const FUNCTION_CALL: u8 = b'V';
/// The statement returns no rows.
pub const NO_DATA: u8 = b'n';
/// A warning or hint.
pub const NOTICE: u8 = b'N';
/// NOTIFY from some session.
pub const NOTIFICATION: u8 = b'A';
/// The server speaks an older minor version or does not know an option.
pub const NEGOTIATE: u8 = b'v';
/// The parameters of a described statement.
pub const PARAMETER_DESCRIPTION: u8 = b't';
/// The value of a reported setting.
pub const PARAMETER_STATUS: u8 = b'S';
/// Parse succeeded.
pub const PARSE_COMPLETE: u8 = b'1';
/// The row limit of Execute was reached.
pub const PORTAL_SUSPENDED: u8 = b's';
/// The server waits for the next statement.
pub const READY_FOR_QUERY: u8 = b'Z';
/// The columns of a result.
pub const ROW_DESCRIPTION: u8 = b'T';

/// The status in a ReadyForQuery.
pub fn ready_for_query(body: &[u8]) -> Result<TransactionStatus, Malformed> {
    match body {
        [byte] => TransactionStatus::from_byte(*byte).ok_or(Malformed::Truncated),
        _ => Err(Malformed::Length),
    }
}

/// Name and value in a ParameterStatus.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut fields = Fields::new(body);
    Ok((fields.cstr()?, fields.cstr()?))
}

/// Process id and secret in a BackendKeyData.
pub fn backend_key_data(body: &[u8]) -> Result<(ProcessId, &[u8]), Malformed> {
    let mut fields = Fields::new(body);
    Ok((ProcessId(fields.u32()?), fields.rest()))
}

/// The tag in a CommandComplete, such as `SELECT 1`.
pub fn command_tag(body: &[u8]) -> Result<&[u8], Malformed> {
    Fields::new(body).cstr()
}

/// What Weir reads of an ErrorResponse or NoticeResponse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorView<'a> {
    /// The severity that is not translated (`V`), else the translated one.
    pub severity: &'a [u8],
    /// The SQLSTATE.
    pub code: Option<SqlState>,
    /// The primary message.
    pub message: &'a [u8],
    /// The function of the server that reports it (`R`).
    pub routine: &'a [u8],
}

impl ErrorView<'_> {
    /// The session ends after this message.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity, b"FATAL" | b"PANIC")
    }
}

/// Opens an ErrorResponse or NoticeResponse.
pub fn error(body: &[u8]) -> Result<ErrorView<'_>, Malformed> {
    let mut view = ErrorView { severity: b"", code: None, message: b"", routine: b"" };
    let mut fields = Fields::new(body);
    loop {
        match fields.u8()? {
            0 => return Ok(view),
            b'V' => view.severity = fields.cstr()?,
            b'S' if view.severity.is_empty() => view.severity = fields.cstr()?,
            b'C' => view.code = SqlState::from_bytes(fields.cstr()?),
            b'M' => view.message = fields.cstr()?,
            b'R' => view.routine = fields.cstr()?,
            _ => {
                fields.cstr()?;
            }
        }
    }
}

/// The fields of an ErrorResponse in their order, each with its code.
pub fn error_fields(body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut fields = Fields::new(body);
    std::iter::from_fn(move || match fields.u8() {
        Ok(code) if code != 0 => fields.cstr().ok().map(|text| (code, text)),
        _ => None,
    })
}

/// The single value of a one-column DataRow.
pub fn single_value(body: &[u8]) -> Option<&[u8]> {
    let mut fields = Fields::new(body);
    if fields.u16().ok()? != 1 {
        return None;
    }
    let length = usize::try_from(fields.u32().ok()?).ok()?;
    let value = fields.bytes(length).ok()?;
    fields.rest().is_empty().then_some(value)
}
