//! The console: a pseudo database whose statements are commands to Weir, over the ordinary protocol.
//!
//! Simple queries are what psql and PgBouncer's exporters send. Extended ones are taken as far as drivers use them
//! for a text without parameters: the columns of a list are known by making it, and making it is cheap.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use ahash::HashMap;

use super::command::{self, Command};
use super::show;
use super::snapshot::{self, Averages, STATS_PERIOD};
use super::table::{Formats, Table};
use super::{Commands, cache, explain, transactions, why};
use crate::advice::entry::Decision;
use crate::client::{Console, ConsoleSession, Proxy, Signal};
use crate::control::Advisor;
use crate::net::Connection;
use crate::pg::{ProcessId, SqlState, TransactionStatus};
use crate::server::Tenant;
use crate::wire::build::{self, Report, Severity};
use crate::wire::frame::{self, Fields, Next};
use crate::wire::frontend::{self, Named};
use crate::wire::{Malformed, backend};

/// The longest message to the console, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Prepared statements and portals of one session.
const NAMES_MAX: usize = 1000;

/// How often a waiting PAUSE looks whether all connections are back.
const PAUSE_POLL: Duration = Duration::from_millis(20);

/// Serves the console's pseudo database.
#[derive(Debug)]
pub struct AdminConsole(Arc<Shared>);

/// What all its sessions share.
#[derive(Debug)]
struct Shared {
    proxy: Arc<Proxy>,
    commands: Commands,
    advisor: Option<Advisor>,
    averages: Mutex<Averages>,
}

impl AdminConsole {
    /// A console on a running proxy.
    pub fn new(proxy: Arc<Proxy>, commands: Commands, advisor: Option<Advisor>) -> Self {
        let averages = Mutex::new(Averages::new(Instant::now()));
        Self(Arc::new(Shared { proxy, commands, advisor, averages }))
    }

    /// Keeps the averages of SHOW STATS, for ever.
    pub fn keep_averages(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = Arc::clone(&self.0);
        async move {
            loop {
                tokio::time::sleep(STATS_PERIOD).await;
                let databases = snapshot::databases(&shared.proxy, &snapshot::pools(&shared.proxy));
                shared.averages().advance(Instant::now(), databases);
            }
        }
    }
}

impl Shared {
    fn averages(&self) -> std::sync::MutexGuard<'_, Averages> {
        self.averages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console for AdminConsole {
    fn serve(&self, session: ConsoleSession) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let ConsoleSession { connection, user } = session;
        let mut session = Session {
            connection,
            user,
            shared: Arc::clone(&self.0),
            statements: HashMap::default(),
            portals: HashMap::default(),
            skipping: false,
        };
        Box::pin(async move {
            if let Err(End::Malformed(malformed)) = session.run().await {
                let report =
                    Report::new(Severity::Fatal, SqlState::PROTOCOL_VIOLATION, malformed.to_string());
                build::report(session.connection.output(), &report);
            }
            let _ = tokio::time::timeout(Duration::from_secs(5), session.connection.close()).await;
        })
    }
}

/// Why a console session ends.
enum End {
    /// The user has left.
    Gone,
    /// The user broke the protocol.
    Malformed(Malformed),
}

impl From<Malformed> for End {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

/// What a command gives.
enum Answer {
    Rows(Table),
    Done(&'static str),
}

/// One console user.
struct Session {
    connection: Connection,
    user: String,
    shared: Arc<Shared>,
    /// Prepared statements: their commands, none for an empty text.
    statements: HashMap<Vec<u8>, Option<Command>>,
    portals: HashMap<Vec<u8>, (Option<Command>, Formats)>,
    /// After an error in an extended batch: all is passed over up to Sync.
    skipping: bool,
}

impl Session {
    async fn run(&mut self) -> Result<(), End> {
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                frontend::TERMINATE => return Err(End::Gone),
                frontend::SYNC => {
                    self.skipping = false;
                    self.ready();
                }
                _ if self.skipping => {}
                frontend::QUERY => self.simple(frontend::query(&body)?).await?,
                _ => {
                    if let Err(report) = self.extended(tag, &body).await? {
                        build::report(self.connection.output(), &report);
                        self.skipping = true;
                    }
                }
            }
        }
    }

    /// The next message; what was written before goes out first.
    async fn message(&mut self) -> Result<(u8, Vec<u8>), End> {
        loop {
            if let Next::Frame(message) = frame::next(self.connection.input(), MESSAGE_BYTES_MAX)? {
                let (tag, bytes, body) = (message.tag, message.bytes.len(), message.body().to_vec());
                self.connection.consume(bytes);
                return Ok((tag, body));
            }
            self.connection.flush().await?;
            self.connection.trim();
            if self.connection.fill().await? == 0 {
                return Err(End::Gone);
            }
        }
    }

    fn ready(&mut self) {
        build::ready_for_query(self.connection.output(), TransactionStatus::Idle);
    }

    async fn simple(&mut self, text: &[u8]) -> Result<(), End> {
        let commands = command::parse(text);
        if commands.is_empty() {
            build::empty(self.connection.output(), backend::EMPTY_QUERY);
        }
        for command in commands {
            let answer = match command {
                Ok(command) => self.execute(&command).await?,
                Err(report) => Err(report),
            };
            match answer {
                Ok(answer) => {
                    if let Answer::Rows(table) = &answer {
                        table.describe(&Formats::default(), self.connection.output());
                    }
                    self.complete(&answer, &Formats::default());
                }
                Err(report) => {
                    build::report(self.connection.output(), &report);
                    break;
                }
            }
        }
        self.ready();
        Ok(())
    }

    fn complete(&mut self, answer: &Answer, formats: &Formats) {
        let out = self.connection.output();
        match answer {
            Answer::Rows(table) => {
                table.write_rows(formats, out);
                build::command_complete(out, b"SHOW");
            }
            Answer::Done(tag) => build::command_complete(out, tag.as_bytes()),
        }
    }

    /// One message of the extended protocol; the inner error leaves the session usable.
    async fn extended(&mut self, tag: u8, body: &[u8]) -> Result<Result<(), Report>, End> {
        match tag {
            frontend::PARSE => {
                let parse = frontend::parse(body)?;
                let mut commands = command::parse(parse.text);
                if commands.len() > 1 {
                    return Ok(Err(Report::new(
                        Severity::Error,
                        SqlState::SYNTAX_ERROR,
                        "cannot insert multiple commands into a prepared statement",
                    )));
                }
                if self.statements.len() >= NAMES_MAX && !self.statements.contains_key(parse.name) {
                    return Ok(Err(too_many()));
                }
                let command = match commands.pop().transpose() {
                    Ok(command) => command,
                    Err(report) => return Ok(Err(report)),
                };
                self.statements.insert(parse.name.to_vec(), command);
                build::empty(self.connection.output(), backend::PARSE_COMPLETE);
            }
            frontend::BIND => {
                let bind = frontend::bind(body)?;
                let (parameter_count, formats) = formats(bind.rest)?;
                let Some(command) = self.statements.get(bind.statement).cloned() else {
                    return Ok(Err(unknown_name("prepared statement")));
                };
                if parameter_count > 0 {
                    return Ok(Err(Report::new(
                        Severity::Error,
                        SqlState::FEATURE_NOT_SUPPORTED,
                        "the console's commands have no parameters",
                    )));
                }
                if self.portals.len() >= NAMES_MAX && !self.portals.contains_key(bind.portal) {
                    return Ok(Err(too_many()));
                }
                self.portals.insert(bind.portal.to_vec(), (command, formats));
                build::empty(self.connection.output(), backend::BIND_COMPLETE);
            }
            frontend::DESCRIBE => return Ok(self.describe(frontend::named(body)?)),
            frontend::EXECUTE => {
                let (portal, _) = frontend::execute(body)?;
                let Some((command, formats)) = self.portals.get(portal).cloned() else {
                    return Ok(Err(unknown_name("portal")));
                };
                let Some(command) = command else {
                    build::empty(self.connection.output(), backend::EMPTY_QUERY);
                    return Ok(Ok(()));
                };
                match self.execute(&command).await? {
                    Ok(answer) => self.complete(&answer, &formats),
                    Err(report) => return Ok(Err(report)),
                }
            }
            frontend::CLOSE => {
                match frontend::named(body)? {
                    Named::Statement(name) => _ = self.statements.remove(name),
                    Named::Portal(name) => _ = self.portals.remove(name),
                }
                build::empty(self.connection.output(), backend::CLOSE_COMPLETE);
            }
            frontend::FLUSH => self.connection.flush().await?,
            frontend::FUNCTION_CALL => {
                let what = "function calls are not supported by the console";
                build::report(
                    self.connection.output(),
                    &Report::new(Severity::Error, SqlState::FEATURE_NOT_SUPPORTED, what),
                );
                self.ready();
            }
            other => return Err(Malformed::Unexpected(other).into()),
        }
        Ok(Ok(()))
    }

    fn describe(&mut self, named: Named<'_>) -> Result<(), Report> {
        let (command, formats) = match named {
            Named::Statement(name) => {
                let command = self.statements.get(name).ok_or_else(|| unknown_name("prepared statement"))?;
                (command.clone(), Formats::default())
            }
            Named::Portal(name) => self.portals.get(name).cloned().ok_or_else(|| unknown_name("portal"))?,
        };
        let table = match command.as_ref() {
            Some(Command::Why(..)) => Some(why::columns()),
            Some(Command::Transactions) => Some(transactions::columns()),
            Some(Command::Explain(_)) => Some(explain::columns()),
            Some(command) => self.rows(command),
            None => None,
        };
        let out = self.connection.output();
        if matches!(named, Named::Statement(_)) {
            build::frame(out, backend::PARAMETER_DESCRIPTION, |out| out.extend_from_slice(&[0, 0]));
        }
        match table {
            Some(table) => table.describe(&formats, out),
            None => build::empty(out, backend::NO_DATA),
        }
        Ok(())
    }

    /// The rows of a command that has some.
    fn rows(&self, command: &Command) -> Option<Table> {
        match command {
            Command::Show(show) => Some(show::table(*show, &self.shared.proxy, &self.shared.averages())),
            Command::Variable(name, value) => Some(show::one(name, value)),
            _ => None,
        }
    }

    async fn execute(&mut self, command: &Command) -> Result<Result<Answer, Report>, End> {
        if !command.is_harmless() {
            let is_admin = self.shared.proxy.settings().console.admin_users.contains(&self.user);
            if !is_admin {
                return Ok(Err(Report::new(
                    Severity::Error,
                    SqlState::INSUFFICIENT_PRIVILEGE,
                    format!("user \"{}\" may use SHOW only", self.user),
                )));
            }
            tracing::info!(user = self.user, ?command, "console command");
        }
        if let Some(table) = self.rows(command) {
            return Ok(Ok(Answer::Rows(table)));
        }
        self.act(command).await
    }

    async fn act(&mut self, command: &Command) -> Result<Result<Answer, Report>, End> {
        let proxy = Arc::clone(&self.shared.proxy);
        if let Command::Why(text, database) = command {
            let answer = why::why(&proxy, &self.user, text, database.as_deref()).await;
            return Ok(answer.map(Answer::Rows));
        }
        if *command == Command::Transactions {
            return Ok(Ok(Answer::Rows(transactions::table(&proxy).await)));
        }
        if let Command::Explain(fingerprint) = command {
            let advisor = self.shared.advisor.as_ref();
            return Ok(explain::explain(&proxy, advisor, fingerprint).await.map(Answer::Rows));
        }
        let tenants = match command {
            Command::Pause(database) | Command::Resume(database) | Command::Reconnect(database) => {
                named_tenants(&proxy, database.as_deref())
            }
            Command::KillDatabase(database) => named_tenants(&proxy, Some(database)),
            _ => Ok(Vec::new()),
        };
        let tenants = match tenants {
            Ok(tenants) => tenants,
            Err(report) => return Ok(Err(report)),
        };
        let tag = match command {
            Command::Show(_)
            | Command::Why(..)
            | Command::Transactions
            | Command::Explain(_)
            | Command::Variable(..) => "SHOW",
            Command::Dismiss(id) => match explain::decide(&proxy, id, Decision::Dismiss) {
                Ok(()) => "DISMISS",
                Err(report) => return Ok(Err(report)),
            },
            Command::Snooze(id, days) => {
                let until = SystemTime::now() + Duration::from_secs(u64::from(*days) * 86_400);
                match explain::decide(&proxy, id, Decision::Snooze(until)) {
                    Ok(()) => "SNOOZE",
                    Err(report) => return Ok(Err(report)),
                }
            }
            Command::Reopen(id) => match explain::decide(&proxy, id, Decision::Reopen) {
                Ok(()) => "REOPEN",
                Err(report) => return Ok(Err(report)),
            },
            Command::ResetStatistics => {
                if let Some(insight) = &proxy.insight {
                    insight.state().reset(Instant::now());
                }
                "RESET"
            }
            Command::Nothing(tag) => tag,
            Command::Reload => {
                if let Err(mistakes) = self.shared.commands.reload().await {
                    let mut report = Report::new(
                        Severity::Error,
                        SqlState::INVALID_PARAMETER_VALUE,
                        "the configuration has mistakes; the settings in force stay",
                    );
                    report.detail = Some(mistakes);
                    return Ok(Err(report));
                }
                "RELOAD"
            }
            Command::Pause(database) => {
                proxy.tenants.pause(database.as_deref());
                let returned = until(|| all_returned(&tenants));
                if let Err(end) = wait(&mut self.connection, returned).await {
                    // Nobody is left who would know that it is paused.
                    proxy.tenants.resume(database.as_deref());
                    return Err(end);
                }
                // As PgBouncer: what is paused holds no server connections, so the server can be restarted.
                reconnect(&tenants);
                "PAUSE"
            }
            Command::Resume(database) => {
                let is_paused = proxy.tenants.is_paused(database.as_deref())
                    || tenants.iter().any(|tenant| tenant.is_paused());
                if !is_paused {
                    return Ok(Err(wrong_state(match database {
                        Some(database) => format!("database \"{database}\" is not paused"),
                        None => "Weir is not paused".to_owned(),
                    })));
                }
                if database.is_some() && proxy.tenants.is_paused(None) {
                    return Ok(Err(wrong_state("all databases are paused".to_owned())
                        .with_hint("RESUME without a database")));
                }
                proxy.tenants.resume(database.as_deref());
                "RESUME"
            }
            Command::Reconnect(_) => {
                reconnect(&tenants);
                "RECONNECT"
            }
            Command::KillClient(process) => {
                let Some(handle) = proxy.clients.find(*process) else {
                    return Ok(Err(unknown_client(*process)));
                };
                handle.signal(Signal::Kill);
                "KILL"
            }
            Command::KillDatabase(database) => {
                proxy.tenants.pause(Some(database));
                for handle in proxy.clients.list() {
                    if handle.tenant.database == *database {
                        handle.signal(Signal::Kill);
                    }
                }
                reconnect(&tenants);
                "KILL"
            }
            Command::FlushCache(relation) => {
                match cache::flush(&proxy, relation.as_deref()) {
                    Ok(tellings) => {
                        for telling in tellings {
                            // One that was aborted has told nobody, and Weir is going down.
                            let _ = telling.await;
                        }
                    }
                    Err(report) => return Ok(Err(report)),
                }
                "FLUSH"
            }
            Command::Shutdown => {
                self.shared.commands.request_shutdown();
                "SHUTDOWN"
            }
        };
        Ok(Ok(Answer::Done(tag)))
    }
}

/// The tenants of a database, or all. A database that is configured may have none yet.
fn named_tenants(proxy: &Proxy, database: Option<&str>) -> Result<Vec<Arc<Tenant>>, Report> {
    let mut tenants = proxy.tenants.list();
    let Some(name) = database else {
        return Ok(tenants);
    };
    tenants.retain(|tenant| tenant.database == name);
    let is_known = !tenants.is_empty()
        || proxy.tenants.is_paused(Some(name))
        || name != "*" && proxy.settings().databases.contains_key(name);
    if is_known {
        return Ok(tenants);
    }
    Err(Report::new(
        Severity::Error,
        SqlState::INVALID_CATALOG_NAME,
        format!("database \"{name}\" does not exist"),
    )
    .with_hint("SHOW DATABASES lists those that are configured or in use."))
}

fn all_returned(tenants: &[Arc<Tenant>]) -> bool {
    tenants.iter().flat_map(|tenant| tenant.pools()).all(|pool| pool.counts().active == 0)
}

fn reconnect(tenants: &[Arc<Tenant>]) {
    for pool in tenants.iter().flat_map(|tenant| tenant.pools()) {
        pool.reconnect();
    }
}

/// Looks again and again until `is_so`.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(PAUSE_POLL).await;
    }
}

/// Waits for `event`, or for the user to leave.
async fn wait(connection: &mut Connection, event: impl Future<Output = ()>) -> Result<(), End> {
    let left = async {
        loop {
            match connection.fill().await {
                Ok(count) if count > 0 && connection.input().len() <= MESSAGE_BYTES_MAX => {}
                _ => return,
            }
        }
    };
    tokio::select! {
        biased;
        () = event => Ok(()),
        () = left => Err(End::Gone),
    }
}

/// The number of parameters in what follows a Bind's names, and the result formats.
fn formats(rest: &[u8]) -> Result<(u16, Formats), Malformed> {
    let mut fields = Fields::new(rest);
    let parameter_formats = usize::from(fields.u16()?);
    fields.bytes(parameter_formats * 2)?;
    let parameters = fields.u16()?;
    if parameters > 0 {
        return Ok((parameters, Formats::default()));
    }
    let count = usize::from(fields.u16()?);
    let codes = fields.bytes(count * 2)?;
    Ok((0, Formats(codes.chunks_exact(2).map(|code| i16::from_be_bytes([code[0], code[1]])).collect())))
}

fn unknown_name(what: &str) -> Report {
    Report::new(
        Severity::Error,
        SqlState::INVALID_SQL_STATEMENT_NAME,
        format!("no such {what} in the console"),
    )
}

fn too_many() -> Report {
    Report::new(
        Severity::Error,
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("the console keeps {NAMES_MAX} prepared statements and portals"),
    )
}

fn unknown_client(process: ProcessId) -> Report {
    Report::new(
        Severity::Error,
        SqlState::INVALID_PARAMETER_VALUE,
        format!("there is no client {}", process.0),
    )
    .with_hint("SHOW CLIENTS lists the clients' process ids in the column id.")
}

fn wrong_state(message: String) -> Report {
    Report::new(Severity::Error, SqlState::INVALID_PARAMETER_VALUE, message)
}
