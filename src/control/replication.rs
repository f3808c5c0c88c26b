//! A replication connection of our own (manual, 55.4 Streaming Replication Protocol), which tokio-postgres does not have:
//! the login is that of `server`, and what is said on it is little.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::config::Login;
use crate::pg::{Lsn, SqlState};
use crate::server::{ConnectError, Connector, Credentials, PasswordKeys, Server};
use crate::wire::frame::{self, MESSAGE_BYTES_MAX, Next};
use crate::wire::replication::{Streamed, status_update, streamed};
use crate::wire::{Malformed, backend, build};

/// Of a longer message only so much is looked at: the row of a table may be a gigabyte, its name stands in front.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How long a good-bye may take.
const PART_WITHIN: Duration = Duration::from_secs(2);

/// Why it does not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplicationError {
    /// No connection.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The server's error.
    #[error("{message}")]
    Refused {
        /// Its code.
        sqlstate: Option<SqlState>,
        /// Its message.
        message: String,
    },
    /// What came is not what the protocol says.
    #[error("malformed replication message: {0}")]
    Malformed(#[from] Malformed),
    /// The server has ended the stream.
    #[error("the server ended the stream")]
    Ended,
}

/// A replication connection.
#[derive(Debug)]
pub(super) struct ReplicationSession {
    server: Server,
    /// Bytes still to come of a message whose head has been looked at.
    left: usize,
}

impl ReplicationSession {
    /// Logs in to a database.
    pub(super) async fn open(connector: &Arc<Connector>, login: &Login) -> Result<Self, ReplicationError> {
        let credentials = match &login.password {
            Some(password) => Credentials::Password(Arc::new(PasswordKeys::new(password.clone()))),
            None => Credentials::None,
        };
        let startup: [(&[u8], &[u8]); 2] = [(b"replication", b"database"), (b"application_name", b"weir")];
        let opening = connector.connect(&login.database, &login.user, &credentials, &startup, 0);
        Ok(Self { server: Box::pin(opening).await?, left: 0 })
    }

    /// Runs a command up to its ReadyForQuery; its answer is not read.
    pub(super) async fn run(&mut self, command: &str) -> Result<(), ReplicationError> {
        self.say(command).await?;
        let mut refused = None;
        loop {
            match self.answer().await? {
                Answer::Ready => return refused.map_or(Ok(()), Err),
                Answer::Refused(error) => refused = Some(error),
                Answer::Streaming => return Err(Malformed::Unexpected(backend::COPY_BOTH).into()),
                Answer::Other => {}
            }
        }
    }

    /// Runs START_REPLICATION.
    pub(super) async fn begin_streaming(&mut self, command: &str) -> Result<(), ReplicationError> {
        self.say(command).await?;
        loop {
            match self.answer().await? {
                Answer::Streaming => return Ok(()),
                Answer::Refused(error) => return Err(error),
                Answer::Ready => return Err(ReplicationError::Ended),
                Answer::Other => {}
            }
        }
    }

    async fn say(&mut self, command: &str) -> Result<(), ReplicationError> {
        build::query(self.server.connection.output(), command.as_bytes());
        Ok(self.server.connection.flush().await?)
    }

    async fn answer(&mut self) -> Result<Answer, ReplicationError> {
        loop {
            let connection = &mut self.server.connection;
            if let Next::Frame(message) = frame::next(connection.input(), MESSAGE_BYTES_MAX)? {
                let answer = match message.tag {
                    backend::READY_FOR_QUERY => Answer::Ready,
                    backend::COPY_BOTH => Answer::Streaming,
                    backend::ERROR => Answer::Refused(refused(message.body())?),
                    _ => Answer::Other,
                };
                let bytes = message.bytes.len();
                connection.consume(bytes);
                return Ok(answer);
            }
            self.fill().await?;
        }
    }

    /// Waits for bytes. Nothing is lost where it is given up half-way.
    pub(super) async fn fill(&mut self) -> Result<(), ReplicationError> {
        match self.server.connection.fill().await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }

    /// Hands over all messages that have arrived, each cut to its head; gives how many bytes there were.
    pub(super) fn take(
        &mut self,
        mut each: impl FnMut(Streamed<'_>) -> Result<(), Malformed>,
    ) -> Result<usize, ReplicationError> {
        let connection = &mut self.server.connection;
        let mut taken = 0;
        loop {
            let input = connection.input();
            if self.left > 0 {
                let here = self.left.min(input.len());
                connection.consume(here);
                (self.left, taken) = (self.left - here, taken + here);
                if self.left > 0 {
                    return Ok(taken);
                }
                continue;
            }
            let (tag, bytes, head) = match frame::next(input, MESSAGE_BYTES_MAX)? {
                Next::NeedHeader => return Ok(taken),
                Next::NeedBody { .. } if input.len() < HEAD_BYTES_MAX => return Ok(taken),
                Next::NeedBody { tag, frame_bytes } => (tag, frame_bytes, &input[frame::HEADER_BYTES..]),
                Next::Frame(message) => (message.tag, message.bytes.len(), message.body()),
            };
            match tag {
                backend::COPY_DATA => each(streamed(head)?)?,
                backend::ERROR => return Err(refused(head)?),
                backend::NOTICE | backend::PARAMETER_STATUS => {}
                backend::COPY_DONE | backend::COMMAND_COMPLETE | backend::READY_FOR_QUERY => {
                    return Err(ReplicationError::Ended);
                }
                other => return Err(Malformed::Unexpected(other).into()),
            }
            self.left = bytes;
        }
    }

    /// Tells the server how far we are, and that we live.
    pub(super) async fn tell(&mut self, position: Lsn, wants_answer: bool) -> Result<(), ReplicationError> {
        status_update(self.server.connection.output(), position, wants_answer);
        Ok(self.server.connection.flush().await?)
    }

    /// Leaves, and waits until the server has closed, as far as it does in time: its slot is gone then.
    pub(super) async fn part(mut self) {
        build::terminate(self.server.connection.output());
        let parting = async {
            self.server.connection.flush().await?;
            while self.server.connection.fill().await? > 0 {
                let waiting = self.server.connection.input().len();
                self.server.connection.consume(waiting);
            }
            Ok::<(), io::Error>(())
        };
        let _ = timeout(PART_WITHIN, parting).await;
    }
}

/// What comes in answer to a command.
enum Answer {
    Ready,
    Streaming,
    Refused(ReplicationError),
    Other,
}

fn refused(body: &[u8]) -> Result<ReplicationError, Malformed> {
    let view = backend::error(body)?;
    let message = String::from_utf8_lossy(view.message).into_owned();
    Ok(ReplicationError::Refused { sqlstate: view.code, message })
}
