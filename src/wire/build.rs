//! Messages that Weir writes itself.
//!
//! Those of the hot path are written by hand into the connection's own buffer, without an allocation; errors and
//! notices, which are rare and have many fields, are built by pgwire.

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::response::{ErrorResponse, NoticeResponse};

use super::{backend, frontend};
use crate::pg::{ProcessId, SqlState, TransactionStatus};

/// Room made in an empty buffer, in bytes: growing it piece by piece would cost more than a usual message does.
const ROOM_BYTES: usize = 192;

/// Writes one frame: the tag, then what `body` appends, then the length into its place.
pub fn frame(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    if out.capacity() == 0 {
        out.reserve(ROOM_BYTES);
    }
    out.push(tag);
    sized(out, body);
}

/// Writes the length and what `body` appends: a frame without tag, as startup packets are.
fn sized(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start).expect("messages built here are far below 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn cstr(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

/// What an error or notice of ours says; PostgreSQL's style: no capital, no period in the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// `ERROR` leaves the session usable, `FATAL` ends it, `WARNING` is a notice.
    pub severity: Severity,
    /// The code.
    pub sqlstate: SqlState,
    /// The primary message.
    pub message: String,
    /// More facts.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

/// Severities that Weir uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed.
    Error,
    /// The session ends.
    Fatal,
    /// Only a notice.
    Warning,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Warning => "WARNING",
        }
    }
}

impl Report {
    /// A report with only a message.
    pub fn new(severity: Severity, sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self { severity, sqlstate, message: message.into(), detail: None, hint: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// ErrorResponse, or NoticeResponse for a warning.
pub fn report(out: &mut Vec<u8>, report: &Report) {
    let mut fields = vec![
        (b'S', report.severity.as_str().to_owned()),
        (b'V', report.severity.as_str().to_owned()),
        (b'C', report.sqlstate.as_str().to_owned()),
        (b'M', report.message.clone()),
    ];
    fields.extend(report.detail.clone().map(|detail| (b'D', detail)));
    fields.extend(report.hint.clone().map(|hint| (b'H', hint)));
    let mut buffer = BytesMut::new();
    let encoded = match report.severity {
        Severity::Error | Severity::Fatal => ErrorResponse::new(fields).encode(&mut buffer),
        Severity::Warning => NoticeResponse::new(fields).encode(&mut buffer),
    };
    encoded.expect("pgwire's encoding of errors writes into memory and cannot fail");
    out.extend_from_slice(&buffer);
}

/// An ErrorResponse again, with other text in its `M` field.
pub fn error_with_message(out: &mut Vec<u8>, body: &[u8], message: &[u8]) {
    frame(out, backend::ERROR, |out| {
        for (code, text) in backend::error_fields(body) {
            out.push(code);
            cstr(out, if code == b'M' { message } else { text });
        }
        out.push(0);
    });
}

/// ReadyForQuery.
pub fn ready_for_query(out: &mut Vec<u8>, status: TransactionStatus) {
    frame(out, backend::READY_FOR_QUERY, |out| out.push(status.as_byte()));
}

/// CommandComplete.
pub fn command_complete(out: &mut Vec<u8>, tag: &[u8]) {
    frame(out, backend::COMMAND_COMPLETE, |out| cstr(out, tag));
}

/// A message without a body, such as ParseComplete or CloseComplete.
pub fn empty(out: &mut Vec<u8>, tag: u8) {
    frame(out, tag, |_| {});
}

/// ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    frame(out, backend::PARAMETER_STATUS, |out| {
        cstr(out, name);
        cstr(out, value);
    });
}

/// BackendKeyData.
pub fn backend_key_data(out: &mut Vec<u8>, process: ProcessId, secret: &[u8]) {
    frame(out, backend::BACKEND_KEY_DATA, |out| {
        out.extend_from_slice(&process.0.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// Authentication requests (manual, 55.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authentication<'a> {
    /// Done.
    Ok,
    /// Send the password in clear.
    CleartextPassword,
    /// Send the md5 of password, user and this salt.
    Md5Password([u8; 4]),
    /// Choose one of these mechanisms.
    Sasl(&'a [&'a str]),
    /// The mechanism goes on.
    SaslContinue(&'a [u8]),
    /// The mechanism ends.
    SaslFinal(&'a [u8]),
}

/// An authentication request.
pub fn authentication(out: &mut Vec<u8>, request: Authentication<'_>) {
    frame(out, backend::AUTHENTICATION, |out| {
        let mut code = |number: u32| out.extend_from_slice(&number.to_be_bytes());
        match request {
            Authentication::Ok => code(0),
            Authentication::CleartextPassword => code(3),
            Authentication::Md5Password(salt) => {
                code(5);
                out.extend_from_slice(&salt);
            }
            Authentication::Sasl(mechanisms) => {
                code(10);
                for mechanism in mechanisms {
                    cstr(out, mechanism.as_bytes());
                }
                out.push(0);
            }
            Authentication::SaslContinue(data) => {
                code(11);
                out.extend_from_slice(data);
            }
            Authentication::SaslFinal(data) => {
                code(12);
                out.extend_from_slice(data);
            }
        }
    });
}

/// NegotiateProtocolVersion: the newest minor version we speak, and the `_pq_.` options we do not know.
pub fn negotiate_protocol_version(out: &mut Vec<u8>, newest: u32, unknown_options: &[&[u8]]) {
    frame(out, backend::NEGOTIATE, |out| {
        out.extend_from_slice(&newest.to_be_bytes());
        let count = u32::try_from(unknown_options.len()).expect("options fit a startup packet");
        out.extend_from_slice(&count.to_be_bytes());
        for option in unknown_options {
            cstr(out, option);
        }
    });
}

/// NotificationResponse with another process id.
pub fn notification(out: &mut Vec<u8>, process: ProcessId, rest: &[u8]) {
    frame(out, backend::NOTIFICATION, |out| {
        out.extend_from_slice(&process.0.to_be_bytes());
        out.extend_from_slice(rest);
    });
}

/// A DataRow of one column.
pub fn single_value_row(out: &mut Vec<u8>, value: &[u8]) {
    frame(out, backend::DATA_ROW, |out| {
        out.extend_from_slice(&1u16.to_be_bytes());
        out.extend_from_slice(&u32::try_from(value.len()).expect("a short value").to_be_bytes());
        out.extend_from_slice(value);
    });
}

/// A simple query.
pub fn query(out: &mut Vec<u8>, text: &[u8]) {
    frame(out, frontend::QUERY, |out| cstr(out, text));
}

/// Parse; `types` is the count and the Oids as they stand in a message.
pub fn parse(out: &mut Vec<u8>, name: &[u8], text: &[u8], types: &[u8]) {
    frame(out, frontend::PARSE, |out| {
        cstr(out, name);
        cstr(out, text);
        out.extend_from_slice(types);
    });
}

/// Bind with another statement name.
pub fn bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], rest: &[u8]) {
    frame(out, frontend::BIND, |out| {
        cstr(out, portal);
        cstr(out, statement);
        out.extend_from_slice(rest);
    });
}

/// Execute of a portal, without a limit of rows.
pub fn execute(out: &mut Vec<u8>, portal: &[u8]) {
    frame(out, frontend::EXECUTE, |body| {
        body.extend_from_slice(portal);
        body.extend_from_slice(&[0; 5]);
    });
}

/// CopyFail.
pub fn copy_fail(out: &mut Vec<u8>, reason: &[u8]) {
    frame(out, frontend::COPY_FAIL, |out| cstr(out, reason));
}

/// Describe of a statement.
pub fn describe_statement(out: &mut Vec<u8>, name: &[u8]) {
    frame(out, frontend::DESCRIBE, |out| {
        out.push(b'S');
        cstr(out, name);
    });
}

/// Close of a statement.
pub fn close_statement(out: &mut Vec<u8>, name: &[u8]) {
    frame(out, frontend::CLOSE, |out| {
        out.push(b'S');
        cstr(out, name);
    });
}

/// PasswordMessage, SASLResponse: all carry just bytes.
pub fn password(out: &mut Vec<u8>, body: &[u8]) {
    frame(out, frontend::PASSWORD, |out| out.extend_from_slice(body));
}

/// SASLInitialResponse.
pub fn sasl_initial(out: &mut Vec<u8>, mechanism: &str, data: &[u8]) {
    frame(out, frontend::PASSWORD, |out| {
        cstr(out, mechanism.as_bytes());
        out.extend_from_slice(&u32::try_from(data.len()).expect("short").to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// Terminate.
pub fn terminate(out: &mut Vec<u8>) {
    empty(out, frontend::TERMINATE);
}

/// A StartupMessage with `parameters`, protocol 3.0.
pub fn startup(out: &mut Vec<u8>, parameters: &[(&[u8], &[u8])]) {
    sized(out, |out| {
        out.extend_from_slice(&super::startup::VERSION_3_0.to_be_bytes());
        for (name, value) in parameters {
            cstr(out, name);
            cstr(out, value);
        }
        out.push(0);
    });
}

/// SSLRequest.
pub fn ssl_request(out: &mut Vec<u8>) {
    sized(out, |out| out.extend_from_slice(&super::startup::SSL_REQUEST.to_be_bytes()));
}

/// CancelRequest.
pub fn cancel_request(out: &mut Vec<u8>, process: ProcessId, secret: &[u8]) {
    sized(out, |out| {
        out.extend_from_slice(&super::startup::CANCEL_REQUEST.to_be_bytes());
        out.extend_from_slice(&process.0.to_be_bytes());
        out.extend_from_slice(secret);
    });
}
