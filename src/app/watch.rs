//! `weir watch`: runs a command, a test suite most often, with a Weir in front of its database, and says what it saw: N+1,
//! other repetitions, tables read whole, slow statements, errors. For CI: what `--fail-on` names makes it fail.
//!
//! Statements are explained while the command runs, since tests take their tables away again. What was never committed nobody
//! else can explain; that is said, not hidden.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::process::Command;
use tokio::runtime::Builder;

use super::{Running, StartError, logging, start};
use crate::config::{AccessRule, AuthMethod, ConnectionKind, ExplainOn, ListenAddress, Settings};
use crate::control::{Advisor, Scan};
use crate::insight::Insight;
use crate::insight::html::time;
use crate::insight::repeats::Kind as Repetition;

/// What may be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A statement that is repeated for the rows of another.
    Repeat,
    /// A SELECT that runs again and again with the same values.
    Duplicate,
    /// Rows that are inserted or updated one by one.
    BatchableWrite,
    /// A table that is read whole, because no index serves the condition.
    SeqScan,
    /// A statement that took `slow_log.threshold` or longer.
    Slow,
    /// A statement that failed.
    Error,
}

impl Kind {
    /// All of them, with their words.
    pub const ALL: [(&'static str, Self); 6] = [
        (Repetition::WORDS[0], Self::Repeat),
        (Repetition::WORDS[1], Self::Duplicate),
        (Repetition::WORDS[2], Self::BatchableWrite),
        ("seq-scan", Self::SeqScan),
        ("slow", Self::Slow),
        ("error", Self::Error),
    ];

    fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Options {
    /// The command and its arguments.
    pub command: Vec<String>,
    /// What it fails on.
    pub fail_on: Vec<Kind>,
}

/// Why nothing was watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Weir.
    #[error("{0}")]
    Start(#[from] StartError),
    /// The command.
    #[error("cannot run {0}: {1}")]
    Command(String, io::Error),
    /// Threads, or a port.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Variables that name a database by a URL, as frameworks read them.
pub const URL_VARIABLES: [&str; 4] =
    ["DATABASE_URL", "SQLALCHEMY_DATABASE_URI", "SQLALCHEMY_DATABASE_URL", "TEST_DATABASE_URL"];

/// What ended with this many findings fails.
const EXIT_FOUND: u8 = 1;

/// How often it is looked whether there are shapes to be explained.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Scopes that are open when the command ends are closed as if so much time had passed.
const LONG_AFTER: Duration = Duration::from_secs(3600);

/// Runs the command. `environment`: what it would find without Weir. Gives what it ended with, or a failure if something
/// was found that it is to fail on.
pub fn run(
    mut settings: Settings,
    options: &Options,
    environment: &BTreeMap<String, String>,
) -> Result<ExitCode, WatchError> {
    let port = free_port()?;
    settings.listen = vec![ListenAddress::Tcp((Ipv4Addr::LOCALHOST, port).into())];
    settings.http = None;
    settings.workers = 1;
    settings.insight.enabled = true;
    settings.insight.explain = ExplainOn::Any;
    settings.insight.explain_writes = true;
    // The background's own analyses would only compete with ours.
    settings.insight.explain_per_minute = 0;
    let login = &settings.servers.control;
    if login.password.is_none() {
        // The server trusts, and so may we: on the loopback only, and as long as the command runs.
        settings.access = vec![AccessRule {
            connection: ConnectionKind::Host,
            databases: None,
            replication: false,
            users: vec![login.user.clone()],
            addresses: Vec::new(),
            method: AuthMethod::Trust,
        }];
    }
    "warn".clone_into(&mut settings.log.level);
    logging::start(&settings.log).map_err(StartError::Logging)?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let (status, insight, scans) =
        runtime.block_on(Box::pin(watch(Arc::new(settings), options, environment, port)))?;
    let findings = findings(&insight, &scans);
    let failing = findings.iter().filter(|finding| options.fail_on.contains(&finding.kind)).count();
    report(&findings, &scans, options, &mut io::stderr().lock())?;
    Ok(match status {
        0 if failing > 0 => ExitCode::from(EXIT_FOUND),
        status => ExitCode::from(status),
    })
}

async fn watch(
    settings: Arc<Settings>,
    options: &Options,
    environment: &BTreeMap<String, String>,
    port: u16,
) -> Result<(u8, Arc<Insight>, Scans), WatchError> {
    let running = Box::pin(start(&settings)).await?;
    let Running { insight: Some(insight), advisor: Some(advisor), .. } = &running else {
        return Err(io::Error::other("insight is off").into());
    };
    let (insight, advisor) = (Arc::clone(insight), advisor.clone());
    let [program, arguments @ ..] = options.command.as_slice() else {
        return Err(WatchError::Command(String::new(), io::ErrorKind::NotFound.into()));
    };
    let mut child = Command::new(program)
        .args(arguments)
        .envs(rewritten(environment, port))
        .spawn()
        .map_err(|error| WatchError::Command(program.clone(), error))?;
    let mut scans = Scans::default();
    let status = loop {
        tokio::select! {
            status = child.wait() => break status?,
            () = tokio::time::sleep(LOOK_EVERY) => Box::pin(scans.look(&insight, &advisor)).await,
        }
    };
    insight.drain(Instant::now(), SystemTime::now());
    Box::pin(scans.look(&insight, &advisor)).await;
    running.stop(Duration::from_secs(1)).await;
    insight.drain(Instant::now() + LONG_AFTER, SystemTime::now());
    // As a shell does for a command that a signal has ended.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(128);
    Ok((code, insight, scans))
}

/// A port of the loopback that is free now.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Variables that lead to Weir in place of the database.
fn rewritten(environment: &BTreeMap<String, String>, port: u16) -> BTreeMap<String, String> {
    let urls = URL_VARIABLES.iter().filter_map(|name| {
        let url = through(environment.get(*name)?, port)?;
        Some(((*name).to_owned(), url))
    });
    let mut variables: BTreeMap<String, String> = urls.collect();
    // For what asks libpq's own variables. A URL with a host of its own is not touched by them.
    variables.insert("PGHOST".to_owned(), Ipv4Addr::LOCALHOST.to_string());
    variables.insert("PGPORT".to_owned(), port.to_string());
    variables.insert("PGSSLMODE".to_owned(), "disable".to_owned());
    variables
}

/// A URL with the same login and database on a port of the loopback; `None`: it is not one of PostgreSQL.
fn through(url: &str, port: u16) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.starts_with("postgres") {
        return None;
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let login = authority.rsplit_once('@').map_or_else(String::new, |(login, _)| format!("{login}@"));
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let is_kept = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        !pair.is_empty() && !matches!(name, "host" | "port" | "hostaddr") && !name.starts_with("ssl")
    };
    let kept: Vec<&str> = query.split('&').filter(is_kept).collect();
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    Some(format!("{scheme}://{login}127.0.0.1:{port}{path}{query}"))
}

/// What was explained while the command ran.
#[derive(Debug, Default)]
struct Scans {
    seen: BTreeSet<u64>,
    found: BTreeMap<u64, Vec<Scan>>,
    not_explained: usize,
}

impl Scans {
    /// Explains the shapes that are new.
    async fn look(&mut self, insight: &Insight, advisor: &Advisor) {
        let new: Vec<u64> = {
            let state = insight.state();
            let may_scan = |command: &str| matches!(command, "SELECT" | "UPDATE" | "DELETE" | "WITH");
            let shapes = state.statistics.iter().filter(|(key, shape)| {
                !self.seen.contains(key)
                    && !shape.text.is_empty()
                    && may_scan(&shape.lookup.command)
                    && shape.errors < shape.calls
            });
            shapes.map(|(key, _)| key).collect()
        };
        for key in new {
            self.seen.insert(key);
            match advisor.scans(key).await {
                Ok(scans) if scans.is_empty() => {}
                Ok(scans) => _ = self.found.insert(key, scans),
                Err(error) => {
                    tracing::debug!(error, "a statement was not explained");
                    self.not_explained += 1;
                }
            }
        }
    }
}

struct Finding {
    kind: Kind,
    head: String,
    lines: Vec<String>,
}

fn findings(insight: &Insight, scans: &Scans) -> Vec<Finding> {
    let state = insight.state();
    let mut findings = Vec::new();
    for pattern in state.patterns.list() {
        let place = pattern.route.clone().map(|route| format!(" in {route}")).unwrap_or_default();
        let (summary, count) = (pattern.child.1.summary(), pattern.count_max);
        let (kind, what_for) = match &pattern.kind {
            Repetition::NPlusOne(parent) => {
                (Kind::Repeat, format!("for the rows of {}", parent.lookup.summary()))
            }
            Repetition::Duplicate => (Kind::Duplicate, "with the same values".to_owned()),
            Repetition::BatchableWrite => (Kind::BatchableWrite, "for a row each".to_owned()),
        };
        findings.push(Finding {
            kind,
            head: format!("{summary} runs {count} times {what_for}{place}"),
            lines: vec![state.text(pattern.child.0, pattern.database_key).to_owned(), pattern.suggestion()],
        });
    }
    for (key, of_shape) in &scans.found {
        let Some(shape) = state.statistics.get(*key) else { continue };
        let place = shape.tags.as_ref().and_then(|tags| tags.route());
        let place = place.map(|route| format!(" in {route}")).unwrap_or_default();
        for scan in of_shape {
            findings.push(Finding {
                kind: Kind::SeqScan,
                head: format!("no index of {} serves {}{place}", scan.table, scan.condition),
                lines: vec![shape.text.to_string()],
            });
        }
    }
    let threshold = state.threshold();
    for (_, shape) in state.statistics.iter() {
        if shape.total.max() >= threshold {
            let head = format!("{} took {}", shape.summary(), time(shape.total.max()));
            findings.push(Finding { kind: Kind::Slow, head, lines: vec![shape.text.to_string()] });
        }
        if let Some(sqlstate) = shape.sqlstate {
            let head = format!("{} failed with {sqlstate}, {} times", shape.summary(), shape.errors);
            findings.push(Finding { kind: Kind::Error, head, lines: vec![shape.text.to_string()] });
        }
    }
    findings.sort_by(|a, b| a.kind.cmp(&b.kind).then_with(|| a.head.cmp(&b.head)));
    findings
}

fn report(findings: &[Finding], scans: &Scans, options: &Options, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "\nweir watch: {} findings", findings.len())?;
    for Finding { kind, head, lines } in findings {
        let fails = if options.fail_on.contains(kind) { "FAIL" } else { "note" };
        writeln!(out, "  {fails} {}: {head}", kind.as_str())?;
        for line in lines {
            writeln!(out, "      {line}")?;
        }
    }
    if scans.not_explained > 0 {
        let count = scans.not_explained;
        writeln!(
            out,
            "  {count} statements could not be explained: their tables were gone, or never committed"
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lead_through_weir() {
        for (url, expected) in [
            ("postgresql://app:s%40cret@db1:5432/app", Some("postgresql://app:s%40cret@127.0.0.1:7/app")),
            (
                "postgresql+psycopg://app@db1/app?sslmode=require&application_name=x",
                Some("postgresql+psycopg://app@127.0.0.1:7/app?application_name=x"),
            ),
            ("postgres:///app?host=/run/postgresql", Some("postgres://127.0.0.1:7/app")),
            ("sqlite:///test.db", None),
            ("nonsense", None),
        ] {
            assert_eq!(through(url, 7).as_deref(), expected, "{url}");
        }
        let environment = BTreeMap::from([("DATABASE_URL".to_owned(), "postgres://a@b/c".to_owned())]);
        let variables = rewritten(&environment, 7);
        assert_eq!(variables["DATABASE_URL"], "postgres://a@127.0.0.1:7/c");
        assert_eq!(variables["PGPORT"], "7");
    }
}
