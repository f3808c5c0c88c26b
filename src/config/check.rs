//! From what was written to [`Settings`]: every key with its bounds and its default, once.
//!
//! `config/weir.toml` documents the same keys; a test compares the two.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::cache::{CacheSettings, cache};
use super::file::{Document, Found, Origin, Section, TOML, Written};
use super::hosts::Hosts;
use super::insight::{SlowLogSettings, insight, slow_log};
use super::logins::auth_query;
use super::mistake::{Mistake, Mistakes};
use super::settings::{
    ClientSettings, ClientTlsSettings, ConsoleSettings, DatabaseSettings, HostSettings, ListenAddress,
    LogFormat, LogSettings, PoolMode, PoolSettings, PreparedSettings, Secret, ServerSettings, Settings,
    UserSettings,
};
use super::shared_cache::shared_cache;
use super::splitting::{CONSISTENCIES, Consistency, splitting};
use super::stream::stream;
use super::value::{
    self, Wrong, boolean, bytes, duration, duration_or_never, limit, number, one_of, optional_text,
    secret_text, text,
};

pub(super) const POOL_MODES: [(&str, PoolMode); 3] = [
    ("session", PoolMode::Session),
    ("transaction", PoolMode::Transaction),
    ("statement", PoolMode::Statement),
];

/// What is expected of the file as a whole.
const READABLE: &str = "a file that can be read";

/// What the command line says, as written; what it does not say is `None` or empty. Not for printing: URLs hold passwords.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--primary`.
    pub primary: Option<String>,
    /// `--replica`, as often as given.
    pub replicas: Vec<String>,
    /// `--listen`, as often as given.
    pub listen: Vec<String>,
    /// `--http`.
    pub http: Option<String>,
    /// `--workers`.
    pub workers: Option<String>,
    /// `--cache`.
    pub cache: Option<String>,
    /// `--slow-log`.
    pub slow_log: Option<String>,
    /// `--log`.
    pub log: Option<String>,
}

/// What the configuration needs to know of the machine.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// Environment variables.
    pub environment: &'a BTreeMap<String, String>,
    /// Cores that may be used, for `workers = 0`.
    pub cores: usize,
    /// Reads a file: the configuration itself, certificates and keys.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
}

/// Reads and checks the whole configuration. The file is the flag's, or that of `WEIR_CONFIG`, or none.
pub fn load(flags: &Flags, machine: &Machine<'_>) -> Result<Settings, Mistakes> {
    let found = Found::default();
    let path = flags.config.clone().or_else(|| Some(PathBuf::from(variable("WEIR_CONFIG", machine)?)));
    let (name, content) = match path {
        Some(path) => {
            let name = path.display().to_string();
            let content = (machine.read)(&path).and_then(|bytes| {
                String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            });
            let content = content.unwrap_or_else(|error| {
                let origin = Origin::without_line(&name, "");
                found.note(&origin, Wrong::with_got(READABLE, error.to_string()));
                String::new()
            });
            (name, content)
        }
        None => ("command line".to_owned(), String::new()),
    };
    let document = Document::parse(&name, &content, &found);
    let settings = Check { flags, machine, found: &found, file: &name }.settings(&document);
    drop(document);
    let mistakes = without_consequences(found.into_sorted());
    match settings {
        Some(settings) if mistakes.is_empty() => Ok(settings),
        _ => Err(Mistakes(mistakes)),
    }
}

impl Settings {
    /// The settings of a proxy that was told nothing but the primary's URL.
    pub fn from_url(url: &str) -> Result<Self, Mistakes> {
        let flags = Flags { primary: Some(url.to_owned()), ..Flags::default() };
        let environment = BTreeMap::new();
        let read = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
        load(&flags, &Machine { environment: &environment, cores: 1, read: &read })
    }
}

/// Where the file is broken, what is said of the same line or of keys that seem to be missing is noise.
fn without_consequences(mut mistakes: Vec<Mistake>) -> Vec<Mistake> {
    let is_cause = |mistake: &Mistake| mistake.expected == TOML || mistake.expected == READABLE;
    let causes: Vec<Mistake> = mistakes.iter().filter(|mistake| is_cause(mistake)).cloned().collect();
    mistakes.retain(|mistake| {
        let is_consequence = |cause: &Mistake| {
            cause.file == mistake.file && (mistake.line.is_none() || mistake.line == cause.line)
        };
        is_cause(mistake) || !causes.iter().any(is_consequence)
    });
    mistakes
}

/// Each method reads one section. A mistake is noted and the default taken, so that reading goes on.
pub(super) struct Check<'a> {
    pub(super) flags: &'a Flags,
    pub(super) machine: &'a Machine<'a>,
    pub(super) found: &'a Found,
    /// The file's name, for mistakes without a line.
    pub(super) file: &'a str,
}

impl Check<'_> {
    fn settings(&self, document: &Document<'_>) -> Option<Settings> {
        let mut root = document.root();
        let listen = self.listen(&mut root);
        let http = self.http(&mut root, &listen);
        let workers = self.workers(&mut root);
        let drain_timeout =
            root.read("drain_timeout", duration("0s"..="1d")).unwrap_or(Duration::from_secs(30));
        let hosts = self.hosts(&mut root);
        let clients = self.clients(root.section("clients"));
        let pool = self.pool(root.section("pool"), DEFAULT_POOL);
        let access = self.access(&mut root, clients.tls.as_ref());
        let prepared = prepared(root.section("prepared"));
        let splitting = splitting(root.section("splitting"));
        let stream = stream(root.section("stream"));
        let shared_cache = shared_cache(root.section("shared_cache"));
        let cache = self.cache(root.section("cache"));
        let insight = insight(root.section("insight"));
        let slow_log = self.slow_log(root.section("slow_log"));
        let auth_query = auth_query(root.section("auth_query"));
        let log = self.log(root.section("log"));
        let mut users = self.users(&mut root);
        let (console_database, mut console) = console(root.section("console"));
        let databases = self.databases(&mut root, pool, splitting.consistency, &console_database);
        let servers = servers(root.section("servers"), hosts);
        root.finish();

        let (hosts, servers) = servers?;
        let login = &servers.control;
        if !console.admin_users.contains(&login.user) {
            console.admin_users.push(login.user.clone());
        }
        let user = users.entry(login.user.clone()).or_insert(UserSettings {
            secret: None,
            pool_mode: None,
            pool_max: None,
        });
        if user.secret.is_none() {
            user.secret = login.password.clone().map(Secret::Plain);
        }
        Some(Settings {
            listen,
            http,
            workers,
            console_database,
            console,
            clients,
            hosts,
            servers,
            pool,
            databases,
            users,
            auth_query,
            access,
            prepared,
            splitting,
            stream,
            shared_cache,
            cache,
            insight,
            slow_log,
            log,
            drain_timeout,
        })
    }

    fn listen(&self, root: &mut Section<'_>) -> Vec<ListenAddress> {
        let default = || vec![ListenAddress::Tcp(([127, 0, 0, 1], 6432).into())];
        let texts = self.texts(root, "listen", "WEIR_LISTEN", ("--listen", &self.flags.listen));
        let Some(texts) = texts else { return default() };
        if texts.is_empty() {
            self.note(&Origin::without_line(self.file, "listen"), "at least one address", "none");
        }
        let mut addresses = Vec::new();
        for Written { value, origin } in texts {
            match value::listen_address(&value) {
                Ok(address) if addresses.contains(&address) => {
                    self.note(&origin, "each address once", value::shown(&value));
                }
                Ok(address) => addresses.push(address),
                Err(wrong) => self.found.note(&origin, wrong),
            }
        }
        addresses
    }

    fn http(&self, root: &mut Section<'_>, listen: &[ListenAddress]) -> Option<std::net::SocketAddr> {
        let text = self.text(root, "http", "WEIR_HTTP", ("--http", self.flags.http.as_ref()))?;
        match value::http_address(&text.value) {
            Ok(Some(address)) if listen.contains(&ListenAddress::Tcp(address)) => {
                self.note(&text.origin, "another address than that of listen", value::shown(&text.value));
                None
            }
            Ok(address) => address,
            Err(wrong) => {
                self.found.note(&text.origin, wrong);
                None
            }
        }
    }

    /// Half of the cores by default: PostgreSQL or the application often has the others.
    fn workers(&self, root: &mut Section<'_>) -> usize {
        const MAX: usize = 256;
        let in_file = root.read("workers", number(0..=MAX));
        let workers = match &self.flags.workers {
            Some(text) => {
                let workers = text.parse().ok().filter(|workers| *workers <= MAX);
                if workers.is_none() {
                    let origin = Origin::command_line("--workers");
                    self.note(&origin, format!("a number from 0 to {MAX}"), value::shown(text));
                }
                workers
            }
            None => in_file,
        };
        match workers.unwrap_or(0) {
            0 => (self.machine.cores / 2).clamp(1, 16),
            workers => workers,
        }
    }

    fn cache(&self, section: Section<'_>) -> CacheSettings {
        let flag = self.flags.cache.as_deref().map(|word| (word, Origin::command_line("--cache")));
        let in_environment =
            || variable("WEIR_CACHE", self.machine).map(|word| (word, Origin::environment("WEIR_CACHE")));
        cache(section, flag.or_else(in_environment), self.found)
    }

    /// A path of the file is relative to the file, one of the command line to where it was given.
    fn slow_log(&self, section: Section<'_>) -> SlowLogSettings {
        let written = |value: &str, origin| Written { value: value.to_owned(), origin };
        let flag =
            self.flags.slow_log.as_deref().map(|text| written(text, Origin::command_line("--slow-log")));
        let in_environment = || {
            variable("WEIR_SLOW_LOG", self.machine)
                .map(|text| written(text, Origin::environment("WEIR_SLOW_LOG")))
        };
        slow_log(section, flag.or_else(in_environment))
    }

    fn clients(&self, mut section: Section<'_>) -> ClientSettings {
        let clients = ClientSettings {
            max: section.read("max", number(1..=1_000_000)).unwrap_or(10_000),
            max_per_user: section.read("max_per_user", limit(1_000_000)).flatten(),
            max_per_database: section.read("max_per_database", limit(1_000_000)).flatten(),
            login_timeout: section
                .read("login_timeout", duration("100ms"..="10min"))
                .unwrap_or(Duration::from_secs(15)),
            idle_timeout: section.read("idle_timeout", duration_or_never("1s"..="365d")).flatten(),
            idle_in_transaction_timeout: section
                .read("idle_in_transaction_timeout", duration_or_never("1s"..="365d"))
                .flatten(),
            message_bytes_max: section.read("message_bytes_max", bytes("16kB"..="1GB")).unwrap_or(1 << 30),
            tls: self.client_tls(section.section("tls")),
        };
        section.finish();
        clients
    }

    fn client_tls(&self, mut section: Section<'_>) -> Option<ClientTlsSettings> {
        let mut file = |key: &'static str, label: &str| {
            let written = section.written(key, optional_text)?;
            let path = written.value?;
            Some((self.pem(&path, &written.origin, label), written.origin))
        };
        let certificate = file("certificate", "CERTIFICATE");
        let key = file("key", "PRIVATE KEY");
        let client_ca = file("client_ca", "CERTIFICATE");
        section.finish();
        match (certificate, key) {
            (Some((certificate_pem, _)), Some((key_pem, _))) => Some(ClientTlsSettings {
                certificate_pem: certificate_pem?,
                key_pem: key_pem?,
                client_ca_pem: client_ca.and_then(|(pem, _)| pem),
            }),
            (None, None) => {
                if let Some((_, origin)) = client_ca {
                    self.note(&origin, "clients.tls.certificate and key with it", "neither");
                }
                None
            }
            (Some((_, origin)), None) => {
                self.note(&origin, "clients.tls.key with it", "none");
                None
            }
            (None, Some((_, origin))) => {
                self.note(&origin, "clients.tls.certificate with it", "none");
                None
            }
        }
    }

    /// Reads pool limits over those of `base`.
    fn pool(&self, mut section: Section<'_>, base: PoolSettings) -> PoolSettings {
        let max = section.read("max", number(1..=100_000)).unwrap_or(base.max);
        let min = section.written("min", number(0..=100_000));
        if let Some(Written { value, origin }) = &min
            && *value > max
        {
            self.note(origin, format!("not more than max, which is {max}"), value.to_string());
        }
        let pool = PoolSettings {
            mode: section.read("mode", one_of(&POOL_MODES)).unwrap_or(base.mode),
            max,
            // A database with a lower max than the general min takes that as its min.
            min: min.map_or(base.min, |written| written.value).min(max),
            reserve: section.read("reserve", number(0..=100_000)).unwrap_or(base.reserve),
            reserve_timeout: section
                .read("reserve_timeout", duration("1ms"..="1h"))
                .unwrap_or(base.reserve_timeout),
            queue_timeout: section
                .read("queue_timeout", duration("1ms"..="1h"))
                .unwrap_or(base.queue_timeout),
            idle_timeout: section
                .read("idle_timeout", duration_or_never("1s"..="365d"))
                .unwrap_or(base.idle_timeout),
            lifetime: section.read("lifetime", duration_or_never("1s"..="365d")).unwrap_or(base.lifetime),
        };
        section.finish();
        pool
    }

    /// Without any database in the file, every name is passed on.
    fn databases(
        &self,
        root: &mut Section<'_>,
        pool: PoolSettings,
        consistency: Consistency,
        console_database: &str,
    ) -> BTreeMap<String, DatabaseSettings> {
        let mut databases = BTreeMap::new();
        for (name, mut section) in root.named_sections("databases") {
            let Written { value: name, origin } = name;
            if name == console_database {
                self.note(&origin, "another name than that of the console", value::shown(&name));
            }
            let database = DatabaseSettings {
                dbname: section.read("dbname", text),
                pool: self.pool(section.section("pool"), pool),
                connections_max: section.read("connections_max", limit(100_000)).flatten(),
                consistency: section.read("consistency", one_of(&CONSISTENCIES)).unwrap_or(consistency),
            };
            section.finish();
            databases.insert(name, database);
        }
        if databases.is_empty() {
            let every = DatabaseSettings { dbname: None, pool, connections_max: None, consistency };
            databases.insert("*".to_owned(), every);
        }
        databases
    }

    fn log(&self, mut section: Section<'_>) -> LogSettings {
        const FORMATS: [(&str, LogFormat); 3] =
            [("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)];
        let in_file = section.read("level", |level| {
            value::log_filter(&text(level)?).map_err(|wrong| Wrong::new(wrong.expected))
        });
        let level = match &self.flags.log {
            Some(text) => value::log_filter(text)
                .map_err(|wrong| self.found.note(&Origin::command_line("--log"), wrong))
                .ok(),
            None => in_file,
        };
        let log = LogSettings {
            level: level.unwrap_or_else(|| "info".to_owned()),
            format: section.read("format", one_of(&FORMATS)).unwrap_or(LogFormat::Auto),
            connections: section.read("connections", boolean).unwrap_or(false),
        };
        section.finish();
        log
    }

    /// One text from the flag, the environment or the file.
    pub(super) fn text(
        &self,
        root: &mut Section<'_>,
        key: &'static str,
        name: &str,
        (flag, value): (&str, Option<&String>),
    ) -> Option<Written<String>> {
        let in_file = root.written(key, secret_text);
        if let Some(value) = value {
            return Some(Written { value: value.clone(), origin: Origin::command_line(flag) });
        }
        let value = variable(name, self.machine).map(str::to_owned);
        value.map(|value| Written { value, origin: Origin::environment(name) }).or(in_file)
    }

    /// As `text`, for several: repeated flags, a variable with commas, a list in the file.
    pub(super) fn texts(
        &self,
        root: &mut Section<'_>,
        key: &'static str,
        name: &str,
        (flag, values): (&str, &[String]),
    ) -> Option<Vec<Written<String>>> {
        let in_file = root.list(key, secret_text);
        if !values.is_empty() {
            let written =
                |value: &String| Written { value: value.clone(), origin: Origin::command_line(flag) };
            return Some(values.iter().map(written).collect());
        }
        let split = |value: &str| {
            let written =
                |value: &str| Written { value: value.trim().to_owned(), origin: Origin::environment(name) };
            value.split(',').map(written).collect()
        };
        variable(name, self.machine).map(split).or(in_file)
    }

    pub(super) fn pem(&self, path: &str, origin: &Origin, label: &str) -> Option<Vec<u8>> {
        let path = origin.directory.join(path);
        let content = (self.machine.read)(&path);
        // A key's label may be longer: `RSA PRIVATE KEY`, `EC PRIVATE KEY`.
        let is_pem = |content: &[u8]| {
            let text = String::from_utf8_lossy(content);
            text.lines()
                .any(|line| line.starts_with("-----BEGIN ") && line.contains(&format!("{label}-----")))
        };
        let got = match content {
            Ok(content) if is_pem(&content) => return Some(content),
            Ok(_) => format!("{} without one", path.display()),
            Err(error) => format!("{}: {error}", path.display()),
        };
        self.note(origin, format!("a PEM file with a {}", label.to_lowercase()), got);
        None
    }

    pub(super) fn note(&self, origin: &Origin, expected: impl Into<String>, got: impl Into<String>) {
        self.found.note(origin, Wrong::with_got(expected, got));
    }
}

const DEFAULT_POOL: PoolSettings = PoolSettings {
    mode: PoolMode::Transaction,
    max: 20,
    min: 0,
    reserve: 0,
    reserve_timeout: Duration::from_secs(5),
    queue_timeout: Duration::from_secs(30),
    idle_timeout: Some(Duration::from_secs(600)),
    lifetime: Some(Duration::from_secs(3600)),
};

fn servers(mut section: Section<'_>, hosts: Option<Hosts>) -> Option<(Vec<HostSettings>, ServerSettings)> {
    let connect_timeout = section.read("connect_timeout", duration("10ms"..="10min"));
    let failover_wait = section.read("failover_wait", duration("0s"..="10min"));
    let health_interval = section.read("health_interval", duration("10ms"..="1h"));
    let health_timeout = section.read("health_timeout", duration("10ms"..="10min"));
    section.finish();
    let Hosts { list, login, ssl_mode, ca_pem, certificate } = hosts?;
    let servers = ServerSettings {
        connect_timeout: connect_timeout.unwrap_or(Duration::from_secs(5)),
        failover_wait: failover_wait.unwrap_or(Duration::from_secs(10)),
        ssl_mode,
        ca_pem,
        certificate,
        control: login,
        health_interval: health_interval.unwrap_or(Duration::from_secs(1)),
        health_timeout: health_timeout.unwrap_or(Duration::from_secs(2)),
    };
    Some((list, servers))
}

fn console(mut section: Section<'_>) -> (String, ConsoleSettings) {
    let database = section.read("database", text).unwrap_or_else(|| "weir".to_owned());
    let mut names = |key| {
        let names = section.list(key, text).unwrap_or_default();
        names.into_iter().map(|name| name.value).collect()
    };
    let console = ConsoleSettings { admin_users: names("admin_users"), stats_users: names("stats_users") };
    section.finish();
    (database, console)
}

fn prepared(mut section: Section<'_>) -> PreparedSettings {
    let prepared = PreparedSettings {
        per_server_max: section.read("per_server_max", number(1..=100_000)).unwrap_or(200),
        per_client_max: section.read("per_client_max", number(1..=1_000_000)).unwrap_or(10_000),
        unnamed: section.read("unnamed", boolean).unwrap_or(true),
        simple: section.read("simple", boolean).unwrap_or(true),
    };
    section.finish();
    prepared
}

/// An empty variable is as good as none, since that is how container files unset one.
fn variable<'m>(name: &str, machine: &Machine<'m>) -> Option<&'m str> {
    machine.environment.get(name).map(String::as_str).filter(|value| !value.is_empty())
}
