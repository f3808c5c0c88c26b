//! `weir check`: tries the configuration out against the servers, and says which features are on and how to get
//! the others.
//!
//! Finding out and judging are apart: what is printed is a function of the settings and of what the hosts said.

use std::fmt::Write as _;
use std::io::Write as _;

use tokio::runtime::Builder;

use crate::config::{CacheFreshness, HostAddress, Settings, SslMode, StreamPlugin, Switch};
use crate::control::{Extension, Findings, Inspection, SharedCache};
use crate::net::tls;
use crate::server::Hosts;

/// Why Weir cannot serve with these settings.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The report says why.
    #[error("cannot serve: {0}")]
    CannotServe(&'static str),
    /// A certificate or key.
    #[error("{0}")]
    Tls(#[from] tls::SetupError),
    /// No event loop, or nowhere to print.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Tries, and prints the report on standard output.
pub fn run(settings: &Settings) -> Result<(), CheckError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let facts = runtime.block_on(gather(settings))?;
    let (report, verdict) = report(settings, &facts);
    std::io::stdout().lock().write_all(report.as_bytes())?;
    verdict.map_err(CheckError::CannotServe)
}

/// What was found out.
struct Facts {
    /// For each host what it said, or why it said nothing.
    hosts: Vec<Result<Findings, String>>,
    /// Whether `auth_query` gave a secret, if it is configured and there is a primary to ask.
    user_query: Option<Result<bool, String>>,
    /// What the store that Weirs share says of itself, if there is to be one.
    shared_cache: Option<Result<String, String>>,
}

/// Asks all hosts, then the primary what is asked of it alone, then the replicas how far they are behind it.
async fn gather(settings: &Settings) -> Result<Facts, CheckError> {
    // The certificates that clients would be shown.
    settings.clients.tls.as_ref().map(tls::Acceptor::new).transpose()?;
    let hosts = Hosts::new(settings)?;
    let mut inspections = Vec::new();
    for host in hosts.list() {
        let asking = Inspection::begin(&host.connector, &settings.servers);
        let mut inspection = Box::pin(asking).await.map_err(|error| error.to_string());
        if let Ok(inspection) = &mut inspection {
            inspection.try_decoding().await;
        }
        inspections.push(inspection);
    }
    let primary = inspections.iter().flatten().find(|inspection| !inspection.findings.in_recovery);
    let position = primary.and_then(|primary| primary.findings.position.clone());
    let user_query = match (primary, &settings.auth_query) {
        (Some(primary), Some(query)) => {
            let tried = primary.try_user_query(&query.query, &settings.servers.control).await;
            Some(tried.map_err(|error| error.to_string()))
        }
        _ => None,
    };
    let shared_cache = match &settings.shared_cache.url {
        Some(_) => {
            Some(SharedCache::try_out(&settings.shared_cache).await.map_err(|error| error.to_string()))
        }
        None => None,
    };
    let mut facts = Facts { hosts: Vec::new(), user_query, shared_cache };
    for inspection in inspections {
        let found = match inspection {
            Ok(mut replica) if replica.findings.in_recovery => {
                let asked = replica.ask_lag(position.as_deref()).await;
                asked.map(|()| replica.findings).map_err(|error| error.to_string())
            }
            other => other.map(|inspection| inspection.findings),
        };
        facts.hosts.push(found);
    }
    Ok(facts)
}

/// A feature is on, or off for a reason and with what turns it on.
enum Feature {
    On(String),
    Off { why: String, run: String },
}

fn off(why: impl Into<String>, run: impl Into<String>) -> Feature {
    Feature::Off { why: why.into(), run: run.into() }
}

/// The text, and whether Weir can serve.
fn report(settings: &Settings, facts: &Facts) -> (String, Result<(), &'static str>) {
    let mut out = String::new();
    let primary = facts.hosts.iter().flatten().find(|host| !host.in_recovery);
    for (host, found) in settings.hosts.iter().zip(&facts.hosts) {
        let address = match &host.address {
            HostAddress::Tcp { host, port } => format!("{host} port {port}"),
            HostAddress::Unix(path) => path.display().to_string(),
        };
        let _ = writeln!(out, "{} ({address})", host.name);
        for (mark, line) in of_host(settings, found, primary) {
            let _ = writeln!(out, "  {mark:<5} {line}");
        }
    }
    out.push_str("features\n");
    for (name, feature) in features(settings, facts, primary) {
        let _ = match feature {
            Feature::On(how) => writeln!(out, "  {name:<22} on{how}"),
            Feature::Off { why, run } if run.is_empty() => writeln!(out, "  {name:<22} off: {why}"),
            Feature::Off { why, run } => writeln!(out, "  {name:<22} off: {why}; run: {run}"),
        };
    }
    let verdict = match facts.hosts.iter().flatten().filter(|host| !host.in_recovery).count() {
        0 => Err("no host is a primary that lets Weir in"),
        1 => Ok(()),
        _ => Err("several hosts say that they are the primary"),
    };
    if verdict.is_ok() {
        out.push_str("Weir can serve.\n");
    }
    (out, verdict)
}

fn of_host(
    settings: &Settings,
    found: &Result<Findings, String>,
    primary: Option<&Findings>,
) -> Vec<(&'static str, String)> {
    let found = match found {
        Ok(found) => found,
        Err(error) => return vec![("FAIL", error.clone())],
    };
    let Findings { tls, in_recovery, version, system, connections_max, lag, .. } = found;
    let sslmode = match settings.servers.ssl_mode {
        SslMode::Disable => "disable",
        SslMode::Prefer => "prefer",
        SslMode::Require => "require",
        SslMode::VerifyCa => "verify-ca",
        SslMode::VerifyFull => "verify-full",
    };
    let encryption = if *tls { "with TLS" } else { "without TLS" };
    let user = &settings.servers.control.user;
    let role = if *in_recovery { "replica" } else { "primary" };
    let mut lines = vec![
        ("ok", format!("logged in as {user}, {encryption} (sslmode={sslmode})")),
        ("ok", format!("{role}, PostgreSQL {version}")),
    ];
    if let (Some(system), Some(Some(primary))) = (system, primary.map(|primary| &primary.system))
        && system != primary
    {
        lines.push(("FAIL", "it belongs to another cluster than the primary".to_owned()));
    }
    if let Some(lag) = lag {
        let bytes = lag
            .bytes
            .map_or_else(|| "unknown distance".to_owned(), |bytes| format!("{} bytes", bytes.max(0)));
        let seconds =
            lag.seconds.map_or_else(String::new, |seconds| format!(", last replayed {seconds:.1} s ago"));
        lines.push(("ok", format!("behind the primary by {bytes}{seconds}")));
    }
    lines.push(connections(settings, *connections_max));
    lines
}

/// Whether the server has the connections that the pools may ask for.
fn connections(settings: &Settings, connections_max: usize) -> (&'static str, String) {
    let of_users = settings.users.values().filter_map(|user| user.pool_max);
    let of_databases = settings.databases.values().map(|database| database.pool.max);
    let pool_max = of_users.chain(of_databases).chain([settings.pool.max]).max().unwrap_or(0);
    let full = pool_max + settings.pool.reserve;
    if full > connections_max {
        let text = format!(
            "a full pool has {full} connections, the server only {connections_max}: lower pool.max, or raise \
             max_connections"
        );
        ("warn", text)
    } else {
        let pools = connections_max / full.max(1);
        (
            "ok",
            format!(
                "{connections_max} connections: room for {pools} full pools (user and database) of {full}"
            ),
        )
    }
}

fn features(settings: &Settings, facts: &Facts, primary: Option<&Findings>) -> Vec<(&'static str, Feature)> {
    let user = quoted(&settings.servers.control.user);
    let replicas = facts.hosts.iter().flatten().filter(|host| host.in_recovery).count();
    let splitting = match (settings.hosts.len(), replicas) {
        (1, _) => off("there is no replica", "weir serve --replica URL"),
        (_, 0) => off("no replica answers", ""),
        (_, count) => Feature::On(format!(": {count} of {} hosts are replicas", settings.hosts.len())),
    };
    let no_primary = || off("there is no primary to ask", "");
    let any_user = match (&settings.auth_query, &facts.user_query) {
        (None, _) => off("auth_query is switched off", ""),
        (Some(_), None) => no_primary(),
        (Some(_), Some(Ok(true))) => Feature::On(": every role may log in with its own password".to_owned()),
        (Some(_), Some(Ok(false))) => off(
            "auth_query finds no stored password for this user",
            format!("ALTER ROLE {user} PASSWORD '...'"),
        ),
        (Some(_), Some(Err(error))) => off(
            format!("auth_query fails ({error}): only users in the configuration can log in"),
            format!("GRANT SELECT ON pg_authid TO {user}"),
        ),
    };
    let clients_tls = match settings.clients.tls {
        Some(_) => Feature::On(String::new()),
        None => off("clients.tls has no certificate", ""),
    };
    let stream = primary.map_or_else(no_primary, |primary| change_stream(settings, primary, &user));
    vec![
        ("reads from replicas", splitting),
        ("logins by auth_query", any_user),
        ("TLS towards clients", clients_tls),
        ("results from memory", cache(settings, matches!(stream, Feature::On(_)))),
        ("results of other Weirs", shared_cache(settings, facts)),
        ("change stream", stream),
        ("index proof (HypoPG)", primary.map_or_else(no_primary, |primary| hypopg(settings, primary))),
    ]
}

fn cache(settings: &Settings, has_stream: bool) -> Feature {
    if !settings.cache.enabled {
        return off("cache.enabled is false", "weir serve --cache on");
    }
    match settings.cache.freshness {
        CacheFreshness::Stream if has_stream => Feature::On(": the change stream vouches".to_owned()),
        CacheFreshness::Stream => off("cache.freshness is \"stream\", and there is no change stream", ""),
        CacheFreshness::Proxy => {
            Feature::On(": nobody may write but through this Weir (cache.freshness is \"proxy\")".to_owned())
        }
        CacheFreshness::Ttl => {
            Feature::On(": what others write shows late (cache.freshness is \"ttl\")".to_owned())
        }
    }
}

fn shared_cache(settings: &Settings, facts: &Facts) -> Feature {
    match &facts.shared_cache {
        None => off("shared_cache.url is not set", ""),
        Some(_) if !settings.cache.enabled => off("the cache is off", "weir serve --cache on"),
        Some(Ok(server)) => Feature::On(format!(": {server} answers")),
        Some(Err(error)) => off(format!("the store does not answer: {error}"), ""),
    }
}

fn change_stream(settings: &Settings, primary: &Findings, user: &str) -> Feature {
    let stream = &settings.stream;
    if stream.enabled == Switch::Off {
        return off("stream.enabled is false", "");
    }
    if primary.wal_level != "logical" {
        let run = "ALTER SYSTEM SET wal_level = 'logical', and restart the server";
        return off(format!("wal_level is {}", primary.wal_level), run);
    }
    if !primary.may_replicate {
        return off("the user may not replicate", format!("ALTER ROLE {user} REPLICATION"));
    }
    if primary.slots_free < if stream.enabled == Switch::On { 1 } else { 2 } {
        let run = "ALTER SYSTEM SET max_replication_slots = ..., and restart the server";
        return off("no replication slot is free, or only the last one", run);
    }
    let publish = format!("CREATE PUBLICATION {} FOR ALL TABLES", quoted(&stream.publication));
    match (stream.plugin, primary.test_decoding) {
        (StreamPlugin::Auto | StreamPlugin::TestDecoding, Some(true)) => {
            Feature::On(": wal_level, rights, a slot and test_decoding are there".to_owned())
        }
        (StreamPlugin::Auto | StreamPlugin::TestDecoding, None) => {
            off("a slot could not be tried out: perhaps for transactions that are open", "weir check again")
        }
        (StreamPlugin::TestDecoding, Some(false)) => {
            off("the server does not have test_decoding", "install its contrib package")
        }
        (StreamPlugin::Auto | StreamPlugin::PgOutput, _) if primary.publishes_all => {
            Feature::On(": wal_level, rights, a slot and a publication are there".to_owned())
        }
        (StreamPlugin::PgOutput, _) if primary.is_superuser => {
            Feature::On(format!(": it will run {publish} if all tables have a replica identity"))
        }
        (StreamPlugin::PgOutput, _) => {
            off("there is no publication of all tables, which a superuser must create", publish)
        }
        (StreamPlugin::Auto, Some(false)) => off(
            "the server does not have test_decoding, and there is no publication of all tables",
            format!("install its contrib package; or, if all tables have a primary key, {publish}"),
        ),
    }
}

fn hypopg(settings: &Settings, primary: &Findings) -> Feature {
    let database = &settings.servers.control.database;
    match primary.hypopg {
        Extension::Installed => Feature::On(format!(" in database {database}")),
        Extension::Available => off(format!("not created in database {database}"), "CREATE EXTENSION hypopg"),
        Extension::Missing => {
            let major = primary.version.split(['.', ' ', 'b', 'r']).next().unwrap_or_default();
            off(
                "not on the server",
                format!("apt install postgresql-{major}-hypopg, then CREATE EXTENSION hypopg"),
            )
        }
    }
}

/// A name as SQL wants it.
fn quoted(name: &str) -> String {
    let is_plain = !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_');
    if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Lag;

    fn primary() -> Findings {
        Findings {
            tls: false,
            in_recovery: false,
            version: "15.18 (Debian 15.18-0+deb12u1)".to_owned(),
            system: Some("1".to_owned()),
            connections_max: 97,
            wal_level: "logical".to_owned(),
            may_replicate: true,
            is_superuser: true,
            slots_free: 10,
            publishes_all: false,
            test_decoding: Some(true),
            hypopg: Extension::Installed,
            position: Some("0/1".to_owned()),
            lag: None,
        }
    }

    fn replica() -> Findings {
        let lag = Some(Lag { bytes: Some(1024), seconds: Some(0.25) });
        Findings { in_recovery: true, position: None, lag, ..primary() }
    }

    fn settings() -> Settings {
        let mut settings = Settings::from_url("postgres://app:secret@db1,db2/app").unwrap();
        settings.hosts.truncate(2);
        settings
    }

    #[test]
    fn all_is_well() {
        let facts = Facts {
            hosts: vec![Ok(primary()), Ok(replica())],
            user_query: Some(Ok(true)),
            shared_cache: None,
        };
        let (report, verdict) = report(&settings(), &facts);
        assert_eq!(verdict, Ok(()));
        let expected = "\
primary (db1 port 5432)
  ok    logged in as app, without TLS (sslmode=prefer)
  ok    primary, PostgreSQL 15.18 (Debian 15.18-0+deb12u1)
  ok    97 connections: room for 4 full pools (user and database) of 20
replica1 (db2 port 5432)
  ok    logged in as app, without TLS (sslmode=prefer)
  ok    replica, PostgreSQL 15.18 (Debian 15.18-0+deb12u1)
  ok    behind the primary by 1024 bytes, last replayed 0.2 s ago
  ok    97 connections: room for 4 full pools (user and database) of 20
features
  reads from replicas    on: 1 of 2 hosts are replicas
  logins by auth_query   on: every role may log in with its own password
  TLS towards clients    off: clients.tls has no certificate
  results from memory    off: cache.enabled is false; run: weir serve --cache on
  results of other Weirs off: shared_cache.url is not set
  change stream          on: wal_level, rights, a slot and test_decoding are there
  index proof (HypoPG)   on in database app
Weir can serve.
";
        assert_eq!(report, expected);
    }

    #[test]
    fn what_is_missing_is_named_with_its_remedy() {
        let poor = Findings {
            wal_level: "replica".to_owned(),
            hypopg: Extension::Missing,
            connections_max: 10,
            ..primary()
        };
        let other = Findings { system: Some("2".to_owned()), ..replica() };
        let refused = Some(Err("permission denied for table pg_authid".to_owned()));
        let facts = Facts { hosts: vec![Ok(poor), Ok(other)], user_query: refused, shared_cache: None };
        let (text, verdict) = report(&settings(), &facts);
        assert_eq!(verdict, Ok(()));
        for part in [
            "warn  a full pool has 20 connections, the server only 10",
            "FAIL  it belongs to another cluster than the primary",
            "can log in; run: GRANT SELECT ON pg_authid TO app\n",
            "off: wal_level is replica; run: ALTER SYSTEM SET wal_level = 'logical', and restart the server\n",
            "run: apt install postgresql-15-hypopg, then CREATE EXTENSION hypopg\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let mut cached = settings();
        cached.cache.enabled = true;
        let (text, _) = report(&cached, &facts);
        assert!(
            text.contains("results from memory    off: cache.freshness is \"stream\", and there is no"),
            "{text}"
        );
        let shared_cache = Some(Err("no answer in time".to_owned()));
        let facts = Facts { hosts: vec![Ok(primary())], user_query: None, shared_cache };
        let (text, _) = report(&cached, &facts);
        assert!(text.contains("results from memory    on: the change stream vouches\n"), "{text}");
        assert!(text.contains("Weirs off: the store does not answer: no answer in time\n"), "{text}");
        let without_contrib = Findings { test_decoding: Some(false), is_superuser: false, ..primary() };
        let facts = Facts { hosts: vec![Ok(without_contrib)], user_query: None, shared_cache: None };
        let (text, _) = report(&settings(), &facts);
        assert!(
            text.contains("if all tables have a primary key, CREATE PUBLICATION weir FOR ALL TABLES"),
            "{text}"
        );
        let unreachable =
            Facts { hosts: vec![Err("no".to_owned()), Ok(replica())], user_query: None, shared_cache: None };
        assert!(report(&settings(), &unreachable).1.is_err());
        let twins = Facts { hosts: vec![Ok(primary()), Ok(primary())], user_query: None, shared_cache: None };
        assert!(report(&settings(), &twins).1.is_err());
    }

    #[test]
    fn names_are_quoted_where_sql_needs_it() {
        assert_eq!(quoted("app_1"), "app_1");
        assert_eq!(quoted("1app"), "\"1app\"");
        assert_eq!(quoted("My \"app\""), "\"My \"\"app\"\"\"");
    }
}
