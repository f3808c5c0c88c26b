//! From the first byte to the first ReadyForQuery: encryption, startup, authentication (manual, 55.2.1).

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Proxy;
use super::conversation::Conversation;
use super::fault::LoginError;
use super::replication::{self, Replication};
use crate::config::Settings;
use crate::net::{Connection, Peer, Stream};
use crate::pg::{ProcessId, SqlState, TransactionStatus};
use crate::server::Credentials;
use crate::wire::Malformed;
use crate::wire::build::{self, Authentication};
use crate::wire::startup::{self, Startup, StartupMessage};

/// The longest message of a client that has not proved who it is, in bytes.
pub(super) const LOGIN_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The bytes of a cancel key: four as ever for protocol 3.0; for 3.2 it may be longer.
pub(super) const SECRET_BYTES: usize = 4;
pub(super) const LONG_SECRET_BYTES: usize = 32;

/// The console, as the login needs it; `admin` is below this module.
pub trait Console: Send + Sync {
    /// Serves a logged-in user of the console until it leaves.
    fn serve(&self, session: ConsoleSession) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// A user of the console who has logged in.
#[derive(Debug)]
pub struct ConsoleSession {
    /// The connection, with the login's last messages in its output.
    pub connection: Connection,
    /// Who it is.
    pub user: String,
}

/// Serves one connection from its first byte to its end.
pub async fn serve(stream: Stream, peer: Peer, proxy: Arc<Proxy>, console: Arc<dyn Console>, worker: usize) {
    let settings = proxy.settings();
    proxy.clients.logging_in.fetch_add(1, Ordering::Relaxed);
    let outcome = {
        let mut login = Box::new(Login {
            connection: Some(Connection::new(stream)),
            peer,
            proxy: Arc::clone(&proxy),
            settings: Arc::clone(&settings),
            worker,
            encrypted: false,
            end_point: None,
            common_name: None,
        });
        // What comes after the proof waits for servers, within limits of its own.
        let identified =
            tokio::time::timeout(settings.clients.login_timeout, Box::pin(login.identify())).await;
        let result = match identified {
            Ok(Ok(Some(client))) => Box::pin(login.enter(client)).await,
            Ok(Ok(None)) => Ok(Outcome::Done),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(LoginError::Timeout),
        };
        match result {
            Ok(outcome) => outcome,
            Err(error) => {
                login.fail(&error).await;
                Outcome::Done
            }
        }
    };
    proxy.clients.logging_in.fetch_sub(1, Ordering::Relaxed);
    // What the login needed is gone before the session begins: thousands of idle clients hold on to this future.
    drop((proxy, settings));
    match outcome {
        Outcome::Done => {}
        Outcome::Session(conversation) => conversation.run().await,
        Outcome::Replication(replication) => replication.run().await,
        Outcome::Console(session) => console.serve(session).await,
    }
}

/// What a connection turned out to be.
enum Outcome {
    /// A CancelRequest, or nothing at all.
    Done,
    /// A client.
    Session(Box<Conversation>),
    /// A client that replicates.
    Replication(Box<Replication>),
    /// A user of the console.
    Console(ConsoleSession),
}

/// A client that has proved who it is.
struct Identified {
    message: StartupMessage,
    user: String,
    database: String,
    replication: Option<startup::Replication>,
    credentials: Credentials,
}

/// A connection on its way through the login.
pub(super) struct Login {
    /// Absent only during a TLS handshake.
    pub(super) connection: Option<Connection>,
    pub(super) peer: Peer,
    pub(super) proxy: Arc<Proxy>,
    pub(super) settings: Arc<Settings>,
    pub(super) worker: usize,
    /// The connection is encrypted.
    pub(super) encrypted: bool,
    /// Our certificate's `tls-server-end-point`, once it is.
    pub(super) end_point: Option<Vec<u8>>,
    /// The common name in the client's certificate.
    pub(super) common_name: Option<String>,
}

impl Login {
    pub(super) fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("present but for the moment of a handshake, which fails the login")
    }

    /// From the first byte to the proof. `None`: it was a CancelRequest, or nothing at all.
    async fn identify(&mut self) -> Result<Option<Identified>, LoginError> {
        let Some(message) = self.startup().await? else {
            return Ok(None);
        };
        let user = text(message.parameter("user")).filter(|user| !user.is_empty()).ok_or_else(|| {
            LoginError::refused(
                SqlState::INVALID_AUTHORIZATION,
                "no PostgreSQL user name specified in startup packet",
            )
        })?;
        let database = text(message.parameter("database"))
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| user.clone());
        self.negotiate(&message);
        let replication = message.replication().map_err(replication::unknown)?;
        let credentials = self.authenticate(&user, &database, replication).await.inspect_err(|error| {
            if error.is_wrong_password() {
                self.proxy.doubt_secret(&user);
            }
        })?;
        Ok(Some(Identified { message, user, database, replication, credentials }))
    }

    /// From the proof to the first ReadyForQuery.
    async fn enter(&mut self, client: Identified) -> Result<Outcome, LoginError> {
        let Identified { message, user, database, replication, credentials } = client;
        if database == self.settings.console_database && replication.is_none() {
            return self.console(user);
        }
        let tenant = self.tenant(&database, &user, &credentials)?;
        if let Some(what) = replication {
            return Ok(Outcome::Replication(Box::new(self.replicate(&message, &tenant, what).await?)));
        }
        let mut client = Box::new(self.admit(&message, &tenant, &user).await?);
        // Its buffers, while nothing else lies between them: later they would leave holes in the heap.
        client.connection.flush().await?;
        client.connection.trim();
        Ok(Outcome::Session(client))
    }

    /// Tells the client why it is not let in, and what it did is logged.
    async fn fail(mut self: Box<Self>, error: &LoginError) {
        match error {
            LoginError::Gone(_) => tracing::debug!(peer = %self.peer, %error, "login failed"),
            LoginError::Malformed(_) | LoginError::DataBehindRequest => {
                self.proxy.clients.malformed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(peer = %self.peer, %error, "login failed");
            }
            // SCRAM has rules of its own.
            LoginError::Refused(report) if report.sqlstate == SqlState::PROTOCOL_VIOLATION => {
                self.proxy.clients.malformed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(peer = %self.peer, %error, "login failed");
            }
            LoginError::Refused(_)
            | LoginError::SettingRefused(_)
            | LoginError::Server(_)
            | LoginError::Timeout => {
                tracing::warn!(peer = %self.peer, %error, "login failed");
            }
        }
        if let Some(mut connection) = self.connection.take() {
            error.respond(connection.output());
            let _ = tokio::time::timeout(std::time::Duration::from_secs(5), connection.close()).await;
        }
    }

    /// Reads startup packets until one asks for a session. `None`: there is nothing more to do.
    async fn startup(&mut self) -> Result<Option<StartupMessage>, LoginError> {
        let mut may_ask_tls = true;
        let mut may_ask_gss = true;
        loop {
            let Some(packet) = self.packet().await? else {
                return Ok(None);
            };
            match startup::parse(&packet)? {
                Startup::SslRequest if may_ask_tls && !self.encrypted => {
                    may_ask_tls = false;
                    self.refuse_data_behind()?;
                    let offered = !self.connection().stream().is_unix();
                    match self.proxy.tls().filter(|_| offered) {
                        Some(_) => {
                            self.answer(b'S').await?;
                            self.handshake(false).await?;
                            may_ask_gss = false;
                        }
                        None => self.answer(b'N').await?,
                    }
                }
                Startup::GssEncRequest if may_ask_gss => {
                    may_ask_gss = false;
                    self.refuse_data_behind()?;
                    self.answer(b'N').await?;
                }
                Startup::SslRequest | Startup::GssEncRequest => return Err(Malformed::Length.into()),
                Startup::Cancel { process, secret } => {
                    self.cancel(process, &secret).await;
                    if let Some(connection) = self.connection.take() {
                        // By TLS, libpq takes a bare end of the socket for a failure.
                        connection.close().await;
                    }
                    return Ok(None);
                }
                Startup::Session(message) => return Ok(Some(message)),
            }
        }
    }

    /// One startup packet; `None` if the client closed without a word (a port check).
    async fn packet(&mut self) -> Result<Option<Vec<u8>>, LoginError> {
        loop {
            let input = self.connection().input();
            // A TLS record instead of a packet: direct TLS (manual, 55.2.11).
            if input.first() == Some(&0x16)
                && self.proxy.tls().is_some()
                && !self.connection().stream().is_tls()
            {
                return self.direct_tls().await;
            }
            let input = self.connection().input();
            if let Some(bytes) = startup::packet_bytes(input)?
                && input.len() >= bytes
            {
                let packet = input[..bytes].to_vec();
                self.connection().consume(bytes);
                return Ok(Some(packet));
            }
            if self.connection().fill().await? == 0 {
                return if self.connection().input().is_empty() {
                    Ok(None)
                } else {
                    Err(Malformed::Truncated.into())
                };
            }
        }
    }

    /// Bytes behind an encryption request were sent in the clear; taken for encrypted ones they would be an attack.
    fn refuse_data_behind(&mut self) -> Result<(), LoginError> {
        if self.connection().input().is_empty() { Ok(()) } else { Err(LoginError::DataBehindRequest) }
    }

    async fn answer(&mut self, byte: u8) -> Result<(), LoginError> {
        self.connection().output().push(byte);
        Ok(self.connection().flush().await?)
    }

    async fn direct_tls(&mut self) -> Result<Option<Vec<u8>>, LoginError> {
        // The first record has been read off the socket already; rustls needs to see it.
        self.handshake(true).await?;
        Box::pin(self.packet()).await
    }

    async fn handshake(&mut self, direct: bool) -> Result<(), LoginError> {
        let acceptor = self.proxy.tls().ok_or(Malformed::Length)?;
        let connection = self.connection.take().ok_or(Malformed::Length)?;
        let (stream, read) = connection.into_parts();
        let Stream::Tcp(tcp) = stream else {
            return Err(Malformed::Length.into());
        };
        if !direct && !read.is_empty() {
            return Err(LoginError::DataBehindRequest);
        }
        let accepted = acceptor.accept(tcp, read).await?;
        if direct && !accepted.alpn {
            return Err(Malformed::Unexpected(0x16).into());
        }
        self.common_name = accepted.common_name;
        self.encrypted = true;
        self.end_point.clone_from(&acceptor.end_point);
        self.connection = Some(Connection::new(Stream::Tls(Box::new(accepted.stream))));
        Ok(())
    }

    /// Passes a CancelRequest on; the client is answered by closing, whatever became of it.
    async fn cancel(&mut self, process: ProcessId, secret: &[u8]) {
        if let Some(guard) = self.proxy.clients.cancel(process, secret)
            && let Err(error) = guard.send().await
        {
            tracing::warn!(%error, "cannot pass a cancel request on");
        }
    }

    /// The client asks for a newer minor version than ours, or for options that we do not know: it is told so and
    /// goes on (manual, 55.2.1).
    fn negotiate(&mut self, message: &StartupMessage) {
        let options = message.protocol_options();
        let known = matches!(message.minor_version, 0 | 2);
        if !known || !options.is_empty() {
            let newest = if message.minor_version >= 2 { startup::VERSION_3_2 } else { startup::VERSION_3_0 };
            build::negotiate_protocol_version(self.connection().output(), newest, &options);
        }
    }

    /// The end of a console user's login.
    fn console(&mut self, user: String) -> Result<Outcome, LoginError> {
        let console = &self.settings.console;
        if !console.admin_users.contains(&user) && !console.stats_users.contains(&user) {
            return Err(LoginError::refused(
                SqlState::INSUFFICIENT_PRIVILEGE,
                format!("user \"{user}\" may not use the console"),
            ));
        }
        let connection = self.connection.as_mut().ok_or(Malformed::Length)?;
        let out = connection.output();
        build::authentication(out, Authentication::Ok);
        let version = concat!("15.0 (Weir ", env!("CARGO_PKG_VERSION"), ")");
        for (name, value) in [
            ("server_version", version),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
        ] {
            build::parameter_status(out, name.as_bytes(), value.as_bytes());
        }
        build::backend_key_data(out, ProcessId(0), &[0; SECRET_BYTES]);
        build::ready_for_query(out, TransactionStatus::Idle);
        let connection = self.connection.take().ok_or(Malformed::Length)?;
        Ok(Outcome::Console(ConsoleSession { connection, user }))
    }
}

pub(super) fn text(bytes: Option<&[u8]>) -> Option<String> {
    bytes.and_then(|bytes| String::from_utf8(bytes.to_vec()).ok())
}
