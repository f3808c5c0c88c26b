//! The checked settings that every other module is built from.
//!
//! These types hold only what is true: addresses that parsed, files that were read, bounds that agree. Where each
//! comes from, its default and its unit stand once, in `config/weir.toml`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::cache::CacheSettings;
use super::insight::{InsightSettings, SlowLogSettings};
use super::shared_cache::SharedCacheSettings;
use super::splitting::{Consistency, SplittingSettings};
use super::stream::StreamSettings;

/// Everything that Weir is told at start or reload.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where clients connect.
    pub listen: Vec<ListenAddress>,
    /// Where metrics, health and the dashboard are served; `None` switches HTTP off.
    pub http: Option<SocketAddr>,
    /// Event loops; each is one thread. Always at least 1 here (0 in the file means: decide by the machine's cores).
    pub workers: usize,
    /// The name of the console's pseudo database, `weir` by default.
    pub console_database: String,
    /// Users that may use the console: all of it, or only SHOW.
    pub console: ConsoleSettings,
    /// Limits on, and treatment of, clients.
    pub clients: ClientSettings,
    /// The PostgreSQL hosts, in the order given; the first is the presumed primary until roles are known.
    pub hosts: Vec<HostSettings>,
    /// How to connect and log in to hosts.
    pub servers: ServerSettings,
    /// Pool limits where neither database nor user says otherwise.
    pub pool: PoolSettings,
    /// Databases by the name clients use. The entry `*`, if any, serves all other names.
    pub databases: BTreeMap<String, DatabaseSettings>,
    /// Users named in the configuration (the URL's user among them).
    pub users: BTreeMap<String, UserSettings>,
    /// How to look up users that are not named; `None` refuses them.
    pub auth_query: Option<AuthQuerySettings>,
    /// Who may connect from where and how, first match wins, as in `pg_hba.conf`. Never empty.
    pub access: Vec<AccessRule>,
    /// Prepared statements.
    pub prepared: PreparedSettings,
    /// Reads on replicas.
    pub splitting: SplittingSettings,
    /// The primary's changes.
    pub stream: StreamSettings,
    /// Results that several Weirs share.
    pub shared_cache: SharedCacheSettings,
    /// Results from memory.
    pub cache: CacheSettings,
    /// What is watched of statements.
    pub insight: InsightSettings,
    /// The slow-query log.
    pub slow_log: SlowLogSettings,
    /// Logging.
    pub log: LogSettings,
    /// How long transactions may still run after SIGTERM.
    pub drain_timeout: Duration,
}

/// One address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and port.
    Tcp(SocketAddr),
    /// A directory for the socket `.s.PGSQL.PORT`, as `unix_socket_directories` of PostgreSQL.
    Unix {
        /// The directory, which must exist.
        directory: PathBuf,
        /// The port in the socket's file name.
        port: u16,
    },
}

/// Who may use the console.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsoleSettings {
    /// Users who may run every command. The URL's user is one.
    pub admin_users: Vec<String>,
    /// Users who may run SHOW only.
    pub stats_users: Vec<String>,
}

/// Limits on clients. A limit of `None` means none.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientSettings {
    /// Connected clients in all; more get 53300.
    pub max: usize,
    /// Connected clients of one user, in all databases.
    pub max_per_user: Option<usize>,
    /// Connected clients of one database.
    pub max_per_database: Option<usize>,
    /// From the first byte to the end of authentication.
    pub login_timeout: Duration,
    /// A client that sent nothing for so long outside a transaction is closed with 57P05.
    pub idle_timeout: Option<Duration>,
    /// A client that sent nothing for so long inside a transaction is closed with 25P03.
    pub idle_in_transaction_timeout: Option<Duration>,
    /// The longest single message that a client may send, in bytes; larger ones get 08P01.
    pub message_bytes_max: usize,
    /// TLS towards clients; `None` answers `N` to SSLRequest.
    pub tls: Option<ClientTlsSettings>,
}

/// Certificates that Weir shows to clients, PEM, already read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTlsSettings {
    /// The certificate chain, leaf first.
    pub certificate_pem: Vec<u8>,
    /// The private key.
    pub key_pem: Vec<u8>,
    /// Certificate authorities that client certificates are checked against.
    pub client_ca_pem: Option<Vec<u8>>,
}

/// One PostgreSQL host, as given by a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSettings {
    /// The name in logs, metrics and the console: `primary`, `replica1`, ... or as named in the file.
    pub name: String,
    /// Where it listens.
    pub address: HostAddress,
    /// Its share of reads relative to other replicas; 1 by default, 0 takes no reads.
    pub weight: u32,
}

/// Where a host listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostAddress {
    /// Name or IP address, and port.
    Tcp {
        /// Host name or IP address.
        host: String,
        /// Port.
        port: u16,
    },
    /// The full path of a Unix socket (`DIRECTORY/.s.PGSQL.PORT`).
    Unix(PathBuf),
}

/// How Weir connects to hosts.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// TCP connect, TLS and login together.
    pub connect_timeout: Duration,
    /// How long a statement waits for a primary before it gets 57P03.
    pub failover_wait: Duration,
    /// libpq's `sslmode`.
    pub ssl_mode: SslMode,
    /// Authorities for `verify-ca` and `verify-full`, PEM, already read.
    pub ca_pem: Option<Vec<u8>>,
    /// Client certificate and key shown to servers, PEM, already read.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
    /// The login for Weir's own control connections: the URL's user, password and database.
    pub control: Login,
    /// How often a host is asked for its role when all is well.
    pub health_interval: Duration,
    /// A probe without an answer for so long has failed.
    pub health_timeout: Duration,
}

/// libpq's `sslmode` (manual, 34.19.1), less `allow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS if the server offers it.
    Prefer,
    /// TLS or nothing; the certificate is not checked.
    Require,
    /// The certificate must be signed by a known authority.
    VerifyCa,
    /// ... and bear the host's name.
    VerifyFull,
}

/// A user with a password and the database to log in to.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The role.
    pub user: String,
    /// Its plain password, if it has one.
    pub password: Option<String>,
    /// The database.
    pub database: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

/// How long a client keeps a server connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// Until the client leaves.
    Session,
    /// Until its transaction ends.
    Transaction,
    /// Until its statement ends; transaction blocks are refused.
    Statement,
}

/// The limits of one pool, which is one database and user on one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// When server connections change hands.
    pub mode: PoolMode,
    /// Server connections at most.
    pub max: usize,
    /// Server connections kept open even when idle (opened once a client has logged in).
    pub min: usize,
    /// Additional connections when clients have waited for `reserve_timeout`.
    pub reserve: usize,
    /// How long a client waits before the reserve is opened to it.
    pub reserve_timeout: Duration,
    /// How long a client waits for a server connection before it gets 53300.
    pub queue_timeout: Duration,
    /// An idle server connection above `min` is closed after so long; `None` never.
    pub idle_timeout: Option<Duration>,
    /// A server connection is closed at its next release when it is older than this; `None` never.
    pub lifetime: Option<Duration>,
}

/// A database as clients name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// Its name on the servers; `None`: the same name.
    pub dbname: Option<String>,
    /// Pool limits, already merged with `[pool]`.
    pub pool: PoolSettings,
    /// Server connections to this database at most, all users together; `None`: no such limit.
    pub connections_max: Option<usize>,
    /// What a read must have seen, already merged with `[splitting]`.
    pub consistency: Consistency,
}

/// A user named in the configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct UserSettings {
    /// How the user proves who it is; `None`: looked up with `auth_query`.
    pub secret: Option<Secret>,
    /// Pool mode for this user, over that of the database.
    pub pool_mode: Option<PoolMode>,
    /// Server connections for this user at most, per database; over that of the database.
    pub pool_max: Option<usize>,
}

impl std::fmt::Debug for UserSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserSettings")
            .field("pool_mode", &self.pool_mode)
            .field("pool_max", &self.pool_max)
            .finish_non_exhaustive()
    }
}

/// What is stored of a password.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The password itself: also good for logging in to servers.
    Plain(String),
    /// `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey` or `md5...`, as in `pg_authid.rolpassword`.
    Verifier(String),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(..)",
            Self::Verifier(_) => "Verifier(..)",
        })
    }
}

/// A query that finds a user's verifier (as PgBouncer's `auth_query`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthQuerySettings {
    /// Gives user name and verifier for the name in `$1`.
    pub query: String,
    /// How long an answer is kept; a failed login asks again at once.
    pub ttl: Duration,
}

/// One line of the access rules; the fields and words are those of `pg_hba.conf` (manual, 21.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// What kind of connection it speaks of.
    pub connection: ConnectionKind,
    /// Databases; `None` means all.
    pub databases: Option<Vec<String>>,
    /// Physical replication too, which belongs to no database: `all` does not speak of it.
    pub replication: bool,
    /// Users; empty means all.
    pub users: Vec<String>,
    /// Client networks; empty means all. Not looked at for Unix sockets.
    pub addresses: Vec<IpNet>,
    /// What the client must do.
    pub method: AuthMethod,
}

/// The first column of `pg_hba.conf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// Unix socket.
    Local,
    /// TCP, with or without TLS.
    Host,
    /// TCP with TLS.
    HostSsl,
    /// TCP without TLS.
    HostNoSsl,
}

/// The last column of `pg_hba.conf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthMethod {
    /// No proof at all.
    Trust,
    /// Refused.
    Reject,
    /// SCRAM-SHA-256, and -PLUS over TLS.
    ScramSha256,
    /// md5, or SCRAM where the stored secret is a SCRAM verifier.
    Md5,
    /// The password in clear; accepted over TLS and Unix sockets only.
    Password,
    /// A client certificate whose common name is the user's name.
    Cert,
}

/// Bounds on prepared statements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreparedSettings {
    /// Statements kept prepared on one server connection; the least recently used is closed.
    pub per_server_max: usize,
    /// Named statements that one client may have; past it the client is pinned and the server keeps them.
    pub per_client_max: usize,
    /// Run unnamed statements that repeat prepared on the server.
    pub unnamed: bool,
    /// Likewise reads by simple query that repeat, but for their constants.
    pub simple: bool,
}

/// Where and how to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// A `tracing` filter such as `info` or `weir::client=debug`.
    pub level: String,
    /// Human on a terminal, JSON otherwise, unless said here.
    pub format: LogFormat,
    /// Log each client's login and leaving.
    pub connections: bool,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Human if standard error is a terminal, else JSON.
    Auto,
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// Settings as the running parts share them: replaced whole at reload, never changed in place.
pub type SharedSettings = Arc<Settings>;
