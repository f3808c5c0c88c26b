//! Opening a connection to a server: TCP or Unix socket, TLS, login (manual, 55.2.1).

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use ahash::HashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::Server;
use super::cancel::CancelTarget;
use crate::config::{HostAddress, ServerSettings, SslMode};
use crate::net::{Connection, Stream, tls};
use crate::pg::{ProcessId, SqlState};
use crate::session::{Reported, ServerState};
use crate::wire::frame::{self, Fields, Next};
use crate::wire::md5::Md5Hash;
use crate::wire::scram::{Nonce, ScramClient, ScramError, ScramKeys};
use crate::wire::{Malformed, backend, build};

/// The longest message that a server may send before it is ready, in bytes.
const LOGIN_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Opens connections to one host.
#[derive(Debug)]
pub struct Connector {
    /// The host's name in logs and the console.
    pub name: String,
    address: HostAddress,
    tls: Option<tls::Connector>,
    ssl_mode: SslMode,
    timeout: Duration,
    prepared_max: usize,
    /// Our connections to the host by their server process, for the sender of a notification.
    processes: Mutex<HashMap<ProcessId, Weak<CancelTarget>>>,
}

/// What a login proves its identity with.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// Nothing: for servers that trust us, or ask for a certificate.
    None,
    /// The password; keys derived from it are kept, since deriving costs milliseconds.
    Password(Arc<PasswordKeys>),
    /// SCRAM keys, taken from a client's proof.
    Scram(ScramKeys),
    /// The stored md5 hash.
    Md5(Md5Hash),
}

/// A password, and the SCRAM keys last derived from it.
#[derive(Debug)]
pub struct PasswordKeys {
    password: String,
    derived: Mutex<Option<(Vec<u8>, u32, ScramKeys)>>,
}

impl PasswordKeys {
    /// Keeps a password.
    pub fn new(password: String) -> Self {
        Self { password, derived: Mutex::new(None) }
    }

    fn keys(&self, salt: &[u8], iterations: u32) -> ScramKeys {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        match &*derived {
            Some((known, rounds, keys)) if known == salt && *rounds == iterations => keys.clone(),
            _ => {
                let keys = ScramKeys::from_password(self.password.as_bytes(), salt, iterations);
                *derived = Some((salt.to_vec(), iterations, keys.clone()));
                keys
            }
        }
    }
}

/// Why no connection could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The host cannot be reached, or closed the connection.
    #[error("cannot reach the server: {0}")]
    Unreachable(#[from] io::Error),
    /// The server's certificate is not right, or the two have no way of encryption in common.
    #[error("TLS with the server failed: {0}")]
    Tls(io::Error),
    /// It took longer than `connect_timeout`.
    #[error("the server did not answer in time")]
    Timeout,
    /// The server does not offer the TLS that `sslmode` asks for.
    #[error("the server does not support TLS, which sslmode requires")]
    NoTls,
    /// The server answered with an error; its ErrorResponse, as it came.
    #[error("the server refused the login: {message}")]
    Refused {
        /// The whole frame.
        response: Vec<u8>,
        /// Its code.
        sqlstate: Option<SqlState>,
        /// Its message.
        message: String,
    },
    /// The server asks for a proof that we do not have.
    #[error("the server asks for {0}, for which there is no password or key")]
    NoCredentials(&'static str),
    /// The server failed to prove itself, or asked for a mechanism that we do not know.
    #[error("SCRAM login failed: {0}")]
    Scram(#[from] ScramError),
    /// What the server sent is no login.
    #[error("malformed login message from the server: {0}")]
    Malformed(#[from] Malformed),
}

impl ConnectError {
    /// Whether trying again later may help: the server is not there, or says that it is starting, stopping or full.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout => true,
            Self::Refused { sqlstate, .. } => matches!(
                *sqlstate,
                Some(
                    SqlState::CANNOT_CONNECT_NOW | SqlState::TOO_MANY_CONNECTIONS | SqlState::ADMIN_SHUTDOWN
                )
            ),
            Self::Tls(_) | Self::NoTls | Self::NoCredentials(_) | Self::Scram(_) | Self::Malformed(_) => {
                false
            }
        }
    }
}

impl Connector {
    /// Connections to `address` by `settings`.
    pub fn new(
        name: String,
        address: HostAddress,
        settings: &ServerSettings,
        prepared_max: usize,
    ) -> Result<Self, tls::SetupError> {
        Ok(Self {
            name,
            address,
            tls: tls::Connector::new(settings)?,
            ssl_mode: settings.ssl_mode,
            timeout: settings.connect_timeout,
            prepared_max,
            processes: Mutex::default(),
        })
    }

    /// Our connection to a process of this host.
    pub(super) fn target_of(&self, process: ProcessId) -> Option<Arc<CancelTarget>> {
        let processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.get(&process)?.upgrade()
    }

    fn remember(&self, process: ProcessId, target: &Arc<CancelTarget>) {
        let mut processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
        processes.retain(|_, target| target.strong_count() > 0);
        processes.insert(process, Arc::downgrade(target));
    }

    /// How long a connection may take to open.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Where it connects to.
    pub fn address(&self) -> &HostAddress {
        &self.address
    }

    /// A connected stream, with TLS if so configured; also the server's `tls-server-end-point`.
    pub async fn open(&self) -> Result<(Stream, Option<Vec<u8>>), ConnectError> {
        let (host, port) = match &self.address {
            HostAddress::Unix(path) => return Ok((Stream::Unix(UnixStream::connect(path).await?), None)),
            HostAddress::Tcp { host, port } => (host, *port),
        };
        let mut tcp = TcpStream::connect((host.as_str(), port)).await?;
        let Some(tls) = &self.tls else {
            return Ok((Stream::Tcp(tcp), None));
        };
        let mut request = Vec::new();
        build::ssl_request(&mut request);
        tcp.write_all(&request).await?;
        // One byte exactly: whatever came behind it without encryption must not be taken for TLS.
        let mut answer = [0; 1];
        tcp.read_exact(&mut answer).await?;
        match (answer, self.ssl_mode) {
            ([b'S'], _) => {
                let (stream, end_point) =
                    tls.connect(host, tcp).await.map_err(|error| match error.kind() {
                        // rustls' own errors: what is wrong now will be wrong again.
                        io::ErrorKind::InvalidData => ConnectError::Tls(error),
                        _ => ConnectError::Unreachable(error),
                    })?;
                Ok((Stream::Tls(Box::new(stream)), end_point))
            }
            ([b'N'], SslMode::Disable | SslMode::Prefer) => Ok((Stream::Tcp(tcp), None)),
            ([b'N'], SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => Err(ConnectError::NoTls),
            ([other], _) => Err(Malformed::Unexpected(other).into()),
        }
    }

    /// Logs in. `worker` is the event loop that this runs on.
    pub async fn connect(
        self: &Arc<Self>,
        database: &str,
        user: &str,
        credentials: &Credentials,
        extra: &[(&[u8], &[u8])],
        worker: usize,
    ) -> Result<Server, ConnectError> {
        let login = async {
            let (stream, end_point) = self.open().await?;
            let mut login = Login { connection: Connection::new(stream), end_point };
            let mut parameters =
                vec![(b"user".as_slice(), user.as_bytes()), (b"database", database.as_bytes())];
            parameters.extend_from_slice(extra);
            build::startup(login.connection.output(), &parameters);
            login.authenticate(user, credentials).await?;
            login.finish(self, worker).await
        };
        tokio::time::timeout(self.timeout, Box::pin(login)).await.map_err(|_| ConnectError::Timeout)?
    }
}

/// A connection on its way through the login.
struct Login {
    connection: Connection,
    end_point: Option<Vec<u8>>,
}

impl Login {
    /// The next message: its tag and body. An ErrorResponse is turned into an error, notices are passed over.
    async fn message(&mut self) -> Result<(u8, Vec<u8>), ConnectError> {
        self.connection.flush().await?;
        loop {
            if let Next::Frame(message) = frame::next(self.connection.input(), LOGIN_MESSAGE_BYTES_MAX)? {
                let (tag, bytes, body) = (message.tag, message.bytes.to_vec(), message.body().to_vec());
                self.connection.consume(bytes.len());
                match tag {
                    backend::ERROR => {
                        let view = backend::error(&body)?;
                        let message = String::from_utf8_lossy(view.message).into_owned();
                        return Err(ConnectError::Refused { response: bytes, sqlstate: view.code, message });
                    }
                    backend::NOTICE | backend::NEGOTIATE => continue,
                    _ => return Ok((tag, body)),
                }
            }
            if self.connection.fill().await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    /// An authentication request: its code and data.
    async fn request(&mut self) -> Result<(u32, Vec<u8>), ConnectError> {
        let (tag, body) = self.message().await?;
        if tag != backend::AUTHENTICATION {
            return Err(Malformed::Unexpected(tag).into());
        }
        let mut fields = Fields::new(&body);
        Ok((fields.u32()?, fields.rest().to_vec()))
    }

    async fn authenticate(&mut self, user: &str, credentials: &Credentials) -> Result<(), ConnectError> {
        let (code, data) = self.request().await?;
        match code {
            0 => return Ok(()),
            3 => {
                let Credentials::Password(password) = credentials else {
                    return Err(ConnectError::NoCredentials("a password"));
                };
                self.password(password.password.as_bytes());
            }
            5 => {
                let salt = <[u8; 4]>::try_from(data.as_slice()).map_err(|_| Malformed::Length)?;
                let hash = match credentials {
                    Credentials::Password(password) => {
                        Md5Hash::from_password(user, password.password.as_bytes())
                    }
                    Credentials::Md5(hash) => hash.clone(),
                    Credentials::None | Credentials::Scram(_) => {
                        return Err(ConnectError::NoCredentials("an md5 password"));
                    }
                };
                self.password(hash.response(salt).as_bytes());
            }
            10 => self.scram(&data, credentials).await?,
            _ => {
                return Err(ConnectError::NoCredentials("an unsupported authentication method"));
            }
        }
        match self.request().await? {
            (0, _) => Ok(()),
            _ => Err(Malformed::Unexpected(backend::AUTHENTICATION).into()),
        }
    }

    fn password(&mut self, password: &[u8]) {
        let terminated = [password, b"\0"].concat();
        build::password(self.connection.output(), &terminated);
    }

    async fn scram(&mut self, offer: &[u8], credentials: &Credentials) -> Result<(), ConnectError> {
        let offered = offer.split(|&byte| byte == 0).filter_map(|name| std::str::from_utf8(name).ok());
        let client = ScramClient::new(offered, self.end_point.take(), Nonce::from_random(rand::random()))?;
        build::sasl_initial(self.connection.output(), client.mechanism(), client.client_first());
        let (11, data) = self.request().await? else {
            return Err(ScramError::Malformed("expected AuthenticationSASLContinue").into());
        };
        let challenge = client.server_first(&data)?;
        let keys = match credentials {
            Credentials::Password(password) => password.keys(&challenge.salt, challenge.iterations),
            Credentials::Scram(keys) => keys.clone(),
            Credentials::None | Credentials::Md5(_) => return Err(ConnectError::NoCredentials("SCRAM")),
        };
        let (answer, answered) = challenge.answer(&keys);
        build::password(self.connection.output(), &answer);
        let (12, data) = self.request().await? else {
            return Err(ScramError::Malformed("expected AuthenticationSASLFinal").into());
        };
        Ok(answered.server_final(&data)?)
    }

    /// From AuthenticationOk to the first ReadyForQuery.
    async fn finish(mut self, connector: &Arc<Connector>, worker: usize) -> Result<Server, ConnectError> {
        let mut reported = Reported::default();
        let mut process = ProcessId(0);
        let mut secret: Box<[u8]> = Box::default();
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                backend::PARAMETER_STATUS => {
                    let (name, value) = backend::parameter_status(&body)?;
                    reported.report(name, value);
                }
                backend::BACKEND_KEY_DATA => {
                    let (id, key) = backend::backend_key_data(&body)?;
                    process = id;
                    secret = key.into();
                }
                backend::READY_FOR_QUERY => break,
                other => return Err(Malformed::Unexpected(other).into()),
            }
        }
        let tls = self.connection.stream().is_tls();
        let cancel = CancelTarget::new(Arc::clone(connector), process, secret.clone(), tls);
        let state = ServerState::new(process, secret, reported, connector.prepared_max);
        let server = Server::new(self.connection, state, cancel, worker);
        connector.remember(process, &server.cancel);
        Ok(server)
    }
}
