//! Whose error it was, and the ErrorResponse that it becomes. The only place that makes one of an error.

use std::io;

use crate::pg::SqlState;
use crate::server::{AcquireError, ConnectError};
use crate::session::{Confused, Refusal};
use crate::wire::Malformed;
use crate::wire::build::{self, Report, Severity};

/// Why a conversation ends, or a statement fails without a server's word.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The client's socket failed or closed.
    #[error("the client has gone")]
    ClientGone,
    /// The client broke the protocol.
    #[error("the client broke the protocol: {0}")]
    Malformed(#[from] Malformed),
    /// The client asked for what cannot be given.
    #[error("{}", .0.message)]
    Refused(Box<Report>),
    /// The server's socket failed or closed.
    #[error("the server connection is lost: {0}")]
    ServerGone(io::Error),
    /// The server ended the session, and its own words have been relayed.
    #[error("the server ended the session")]
    ServerEnded,
    /// The server answered out of order.
    #[error("{0}")]
    Confused(#[from] Confused),
    /// No server connection was to be had.
    #[error("{0}")]
    Acquire(#[from] AcquireError),
    /// A replica failed, and its client knows nothing of it yet.
    #[error("a replica could not run the read")]
    Replica,
    /// No host is the primary.
    #[error("there is no primary")]
    NoPrimary,
    /// The operator, a timeout or the end of Weir.
    #[error("told to end")]
    Ended(SqlState, &'static str),
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Malformed(malformed) => Self::Malformed(malformed),
            Refusal::Refused(report) => Self::Refused(report),
        }
    }
}

impl Fault {
    /// Whether it is the server's, and another may do better.
    pub(super) fn is_servers(&self) -> bool {
        matches!(self, Self::ServerGone(_) | Self::ServerEnded | Self::Replica)
    }

    /// Writes what the client is told, if it is told anything. `severity` is the caller's: whether the session
    /// ends.
    pub fn respond(&self, severity: Severity, out: &mut Vec<u8>) {
        let text = |sqlstate, message: &str| Some(Report::new(severity, sqlstate, message));
        let report = match self {
            Self::ClientGone | Self::ServerEnded => None,
            Self::Malformed(malformed) => text(SqlState::PROTOCOL_VIOLATION, &malformed.to_string()),
            Self::Refused(report) => Some((**report).clone()),
            Self::ServerGone(_) => {
                text(SqlState::CONNECTION_FAILURE, "server closed the connection unexpectedly")
            }
            Self::Confused(_) => text(SqlState::INTERNAL_ERROR, "the server answered out of order"),
            Self::Acquire(error) => return acquire(error, severity, out),
            Self::Replica => text(SqlState::CONNECTION_FAILURE, "a replica could not run the read"),
            Self::NoPrimary => text(SqlState::CANNOT_CONNECT_NOW, "no primary is available").map(|report| {
                report.with_hint(
                    "Weir asks its hosts for their roles and goes on by itself when a primary is back.",
                )
            }),
            Self::Ended(sqlstate, message) => text(*sqlstate, message),
        };
        if let Some(report) = report {
            build::report(out, &report);
        }
    }
}

fn acquire(error: &AcquireError, severity: Severity, out: &mut Vec<u8>) {
    let report = match error {
        AcquireError::Refused(cause) => {
            if let ConnectError::Refused { response, .. } = &**cause {
                out.extend_from_slice(response);
                return;
            }
            tracing::warn!(error = %cause, "cannot log in to the server");
            Report::new(severity, SqlState::CONNECTION_FAILURE, "the proxy cannot log in to the server")
                .with_hint("See Weir's log for the reason.")
        }
        AcquireError::QueueTimeout => Report::new(
            severity,
            SqlState::TOO_MANY_CONNECTIONS,
            "no server connection became free in time",
        )
        .with_hint(
            "All server connections of this pool are in use; look for long transactions, or raise pool.max.",
        ),
        AcquireError::Unavailable(_) => {
            Report::new(severity, SqlState::CANNOT_CONNECT_NOW, "the server is not available")
        }
        AcquireError::Canceled => {
            Report::new(severity, SqlState::QUERY_CANCELED, "canceling statement due to user request")
        }
        AcquireError::Closing => Report::new(
            severity,
            SqlState::ADMIN_SHUTDOWN,
            "terminating connection due to administrator command",
        ),
    };
    build::report(out, &report);
}

/// Why a login failed. What the client reads does not tell a wrong password from an unknown user.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The client's socket failed or closed.
    #[error("the client has gone: {0}")]
    Gone(#[from] io::Error),
    /// The client broke the protocol.
    #[error("the client broke the protocol: {0}")]
    Malformed(#[from] Malformed),
    /// Bytes waited behind SSLRequest or GSSENCRequest.
    #[error("received unencrypted data after an encryption request")]
    DataBehindRequest,
    /// The login is refused.
    #[error("{}", .0.message)]
    Refused(Box<Report>),
    /// The server refused a setting of the startup packet. Its message goes to the client only: it may quote the value.
    #[error("the server refused a setting of the startup packet: {}", .0.sqlstate)]
    SettingRefused(Box<Report>),
    /// No server connection to learn the first settings from.
    #[error("{0}")]
    Server(Fault),
    /// It took too long.
    #[error("login timeout")]
    Timeout,
}

impl LoginError {
    /// A refusal.
    pub fn refused(sqlstate: SqlState, message: impl Into<String>) -> Self {
        Self::Refused(Box::new(Report::new(Severity::Fatal, sqlstate, message)))
    }

    /// Whether the user, or the password, is not the right one.
    pub fn is_wrong_password(&self) -> bool {
        matches!(self, Self::Refused(report) if report.sqlstate == SqlState::INVALID_PASSWORD)
    }

    /// Writes what the client is told.
    pub fn respond(&self, out: &mut Vec<u8>) {
        let report = match self {
            Self::Gone(_) | Self::DataBehindRequest | Self::Timeout => return,
            Self::Malformed(malformed @ Malformed::Version(..)) => {
                Report::new(Severity::Fatal, SqlState::FEATURE_NOT_SUPPORTED, malformed.to_string())
            }
            Self::Malformed(malformed) => {
                Report::new(Severity::Fatal, SqlState::PROTOCOL_VIOLATION, malformed.to_string())
            }
            Self::Refused(report) | Self::SettingRefused(report) => (**report).clone(),
            Self::Server(fault) => return fault.respond(Severity::Fatal, out),
        };
        build::report(out, &report);
    }
}
