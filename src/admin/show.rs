//! The console's lists: snapshots in PgBouncer's columns (of release 1.25), so that its exporters read them.
//!
//! Where PgBouncer has one pool, Weir may have one per host: SHOW POOLS adds them up, since an exporter would take
//! two rows of one database and user for one series. SHOW HOSTS and the HTTP interface tell them apart. Columns for
//! what Weir does not have (peers, DNS, parses and binds) are there and 0.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use super::command::Show;
use super::snapshot::{self, Averages, ServerView};
use super::table::{Cell, ColumnType, Table, row};
use super::{cache, indexes, insight, routing, show_config, show_stats};
use crate::client::{Handle, Proxy};
use crate::config::HostAddress;
use crate::net::Peer;
use crate::sql::pin::Pin;
use ColumnType::{Int4, Int8, Text};

/// What the console's user may ask, and what for.
const HELP: &str = "\
SHOW HELP|POOLS|CLIENTS|SERVERS|DATABASES|STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
SHOW LISTS|CONFIG|VERSION|USERS|STATE|HOSTS|PINS|FLOORS|STREAM|CACHE|CACHE_SHAPES
SHOW SLOW                   shapes of statements, those that took most time first
SHOW REPEATS                N+1, duplicates, and rows that are written one by one
SHOW ADVICE                 indexes that slow statements lack
SHOW INDEXES                indexes that are invalid, superfluous or unused
SHOW TRANSACTIONS           who is in a transaction, pinned, or waits for a lock
EXPLAIN fingerprint         the plan of a shape, and what its analysis comes to
DISMISS id                  show a piece of advice last
SNOOZE id [FOR n DAYS]      the same, for a week or so many days
REOPEN id                   neither, after all
RESET STATISTICS            begin the statistics of statements anew
SHOW WHY 'SQL' [database]   what a statement does, where it would go now, and why
RELOAD                      read the configuration anew
PAUSE [database]            lend no more server connections, wait until they are back
RESUME [database]           lend them again
RECONNECT [database]        replace server connections as they come back
FLUSH CACHE [relation]      make void what is kept of its rows, or all
KILL client_id              end a client (the column id of SHOW CLIENTS)
KILL database               end all clients of a database and pause it
SHUTDOWN                    let transactions finish, then end";

/// Makes a list.
pub(super) fn table(show: Show, proxy: &Proxy, averages: &Averages) -> Table {
    match show {
        Show::Help => {
            Table { columns: vec![("help", Text)], rows: HELP.lines().map(|line| row![line]).collect() }
        }
        Show::Pools => pools(proxy),
        Show::Clients => clients(proxy),
        Show::Servers => servers(proxy),
        Show::Databases => databases(proxy),
        Show::Stats => {
            show_stats::stats(proxy, averages, &show_stats::STATS_TOTAL, &show_stats::STATS_AVERAGE)
        }
        Show::StatsTotals => show_stats::stats(proxy, averages, &show_stats::STATS_TOTALS, &[]),
        Show::StatsAverages => show_stats::stats(proxy, averages, &[], &show_stats::STATS_AVERAGES),
        Show::Totals => show_stats::totals(proxy, averages),
        Show::Lists => lists(proxy),
        Show::Config => show_config::table(&proxy.settings()),
        Show::Version => one("version", concat!("Weir ", env!("CARGO_PKG_VERSION"))),
        Show::Users => users(proxy),
        Show::State => state(proxy),
        Show::Hosts => hosts(proxy),
        Show::Pins => pins(proxy),
        Show::Floors => floors(proxy),
        Show::Stream => streams(proxy),
        Show::Cache => cache::table(proxy),
        Show::CacheShapes => cache::shapes(proxy),
        Show::Slow => insight::slow_table(proxy),
        Show::Repeats => insight::repeats_table(proxy),
        Show::Advice => insight::advice_table(proxy),
        Show::Indexes => indexes::table(proxy),
    }
}

/// One value.
pub(super) fn one(column: &'static str, value: &str) -> Table {
    Table { columns: vec![(column, Text)], rows: vec![row![value]] }
}

fn pools(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        ("database", Text),
        ("user", Text),
        ("cl_active", Int4),
        ("cl_waiting", Int4),
        ("cl_active_cancel_req", Int4),
        ("cl_waiting_cancel_req", Int4),
        ("sv_active", Int4),
        ("sv_active_cancel", Int4),
        ("sv_being_canceled", Int4),
        ("sv_idle", Int4),
        ("sv_used", Int4),
        ("sv_tested", Int4),
        ("sv_login", Int4),
        ("maxwait", Int4),
        ("maxwait_us", Int4),
        ("pool_mode", Text),
        ("load_balance_hosts", Text),
    ]);
    for same in snapshot::tenants(proxy).chunk_by(|a, b| (&a.database, &a.user) == (&b.database, &b.user)) {
        let tenant = &same[0];
        let counts: Vec<_> =
            same.iter().flat_map(|tenant| tenant.pools()).map(|pool| pool.counts()).collect();
        let clients: usize = same.iter().map(|tenant| tenant.clients.load(Ordering::Relaxed)).sum();
        let sum = |what: fn(&crate::server::PoolCounts) -> usize| counts.iter().map(what).sum::<usize>();
        let waiting = sum(|counts| counts.waiting);
        let waited = counts.iter().map(|counts| counts.waited).max().unwrap_or_default();
        table.rows.push(row![
            tenant.database.as_str(),
            tenant.user.as_str(),
            clients.saturating_sub(waiting),
            waiting,
            0_u32,
            0_u32,
            sum(|counts| counts.active),
            0_u32,
            0_u32,
            sum(|counts| counts.idle),
            0_u32,
            0_u32,
            sum(|counts| counts.connecting),
            waited.as_secs(),
            waited.subsec_micros(),
            snapshot::mode(tenant.pool_settings.mode),
            None::<String>,
        ]);
    }
    table
}

/// The columns that clients and servers share.
const SOCKETS: [(&str, ColumnType); 21] = [
    ("type", Text),
    ("user", Text),
    ("database", Text),
    ("replication", Text),
    ("state", Text),
    ("addr", Text),
    ("port", Int4),
    ("local_addr", Text),
    ("local_port", Int4),
    ("connect_time", Text),
    ("request_time", Text),
    ("wait", Int4),
    ("wait_us", Int4),
    ("close_needed", Int4),
    ("ptr", Text),
    ("link", Text),
    ("remote_pid", Int4),
    ("tls", Text),
    ("application_name", Text),
    ("prepared_statements", Int4),
    ("id", Int4),
];

fn clients(proxy: &Proxy) -> Table {
    let mut table = Table::new(&SOCKETS);
    let mut handles = proxy.clients.list();
    handles.sort_by_key(|handle| handle.process.0);
    table.rows = handles.iter().map(|handle| client(handle)).collect();
    table
}

fn client(handle: &Handle) -> Vec<Cell> {
    let (activity, since) = handle.activity();
    let waited = if activity == crate::client::Activity::Waiting { since } else { std::time::Duration::ZERO };
    let (address, port) = match handle.peer {
        Peer::Tcp(address) => (address.ip().to_canonical().to_string(), address.port()),
        Peer::Unix => ("unix".to_owned(), 0),
    };
    row![
        "C",
        handle.tenant.user.as_str(),
        handle.tenant.database.as_str(),
        snapshot::replication(handle),
        activity.as_str(),
        address,
        u32::from(port),
        None::<String>,
        None::<u32>,
        clock(handle.connected.elapsed()),
        clock(since),
        waited.as_secs(),
        waited.subsec_micros(),
        0_u32,
        client_pointer(handle.process.0),
        handle.target().map(|target| server_pointer(target.host(), target.process().0)),
        0_u32,
        if handle.tls { "yes" } else { "" },
        &*handle.application_name,
        None::<u32>,
        handle.process.0,
    ]
}

fn servers(proxy: &Proxy) -> Table {
    let mut table = Table::new(&SOCKETS);
    let view = |server: &ServerView| {
        let host = proxy.hosts.list().iter().find(|host| host.name() == server.host);
        let (address, port) = match host.map(|host| host.address()) {
            Some(HostAddress::Tcp { host, port }) => (host.clone(), *port),
            Some(HostAddress::Unix(_)) | None => ("unix".to_owned(), 0),
        };
        row![
            "S",
            server.user.as_str(),
            server.database.as_str(),
            server.replication,
            server.state,
            address,
            u32::from(port),
            None::<String>,
            None::<u32>,
            clock(server.age),
            clock(server.since),
            0_u32,
            0_u32,
            server.outdated,
            server_pointer(&server.host, server.process),
            server.client.map(client_pointer),
            server.process,
            if server.tls { "yes" } else { "" },
            server.application_name.as_str(),
            server.prepared,
            server.process,
        ]
    };
    table.rows = snapshot::servers(proxy).iter().map(view).collect();
    table
}

/// PgBouncer shows addresses in memory; what they are for is telling connections apart and linking them.
fn client_pointer(process: u32) -> String {
    format!("client/{process}")
}

fn server_pointer(host: &str, process: u32) -> String {
    format!("{host}/{process}")
}

/// When something was, in PgBouncer's spelling.
fn clock(ago: std::time::Duration) -> String {
    let now = std::time::SystemTime::now();
    let then = now.checked_sub(ago).unwrap_or(now);
    let seconds = then.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    utc(seconds)
}

/// `YYYY-MM-DD HH:MM:SS UTC` (the days by Howard Hinnant's civil_from_days).
fn utc(seconds: u64) -> String {
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

fn databases(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        ("name", Text),
        ("host", Text),
        ("port", Int4),
        ("database", Text),
        ("force_user", Text),
        ("pool_size", Int4),
        ("min_pool_size", Int4),
        ("reserve_pool_size", Int4),
        ("server_lifetime", Int4),
        ("pool_mode", Text),
        ("load_balance_hosts", Text),
        ("max_connections", Int4),
        ("current_connections", Int4),
        ("max_client_connections", Int4),
        ("current_client_connections", Int4),
        ("paused", Int4),
        ("disabled", Int4),
    ]);
    let settings = proxy.settings();
    let tenants = snapshot::tenants(proxy);
    let (host, port) = match proxy.hosts.primary().map(|primary| proxy.hosts.host(primary).address()) {
        Some(HostAddress::Tcp { host, port }) => (Some(host.clone()), u32::from(*port)),
        Some(HostAddress::Unix(path)) => (Some(path.display().to_string()), 0),
        None => (None, 0),
    };
    let mut names: Vec<&str> = tenants
        .iter()
        .map(|tenant| tenant.database.as_str())
        .chain(settings.databases.keys().map(String::as_str).filter(|name| *name != "*"))
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let of_name: Vec<_> = tenants.iter().filter(|tenant| tenant.database == name).collect();
        let Some(entry) = settings.databases.get(name).or_else(|| settings.databases.get("*")) else {
            continue;
        };
        table.rows.push(row![
            name,
            host.clone(),
            port,
            entry.dbname.clone().unwrap_or_else(|| name.to_owned()),
            None::<String>,
            entry.pool.max,
            entry.pool.min,
            entry.pool.reserve,
            entry.pool.lifetime.map_or(0, |lifetime| lifetime.as_secs()),
            snapshot::mode(entry.pool.mode),
            None::<String>,
            entry.connections_max.unwrap_or(0),
            of_name.first().map_or(0, |tenant| tenant.database_open()),
            settings.clients.max_per_database.unwrap_or(0),
            of_name.iter().map(|tenant| tenant.clients.load(Ordering::Relaxed)).sum::<usize>(),
            proxy.tenants.is_paused(Some(name)),
            0_u32,
        ]);
    }
    table
}

fn lists(proxy: &Proxy) -> Table {
    let pools = snapshot::pools(proxy);
    let settings = proxy.settings();
    let clients = proxy.clients.len();
    let idle: usize = pools.iter().map(|pool| pool.idle).sum();
    let active: usize = pools.iter().map(|pool| pool.active).sum();
    let items = [
        ("databases", databases(proxy).rows.len()),
        ("users", users(proxy).rows.len()),
        ("peers", 0),
        ("pools", self::pools(proxy).rows.len()),
        ("peer_pools", 0),
        ("free_clients", settings.clients.max.saturating_sub(clients)),
        ("used_clients", clients),
        ("login_clients", proxy.clients.logging_in.load(Ordering::Relaxed)),
        ("free_servers", idle),
        ("used_servers", active),
        ("dns_names", 0),
        ("dns_zones", 0),
        ("dns_queries", 0),
        ("dns_pending", 0),
    ];
    let mut table = Table::new(&[("list", Text), ("items", Int4)]);
    table.rows = items.into_iter().map(|(list, count)| row![list, count]).collect();
    table
}

fn users(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        ("name", Text),
        ("pool_size", Text),
        ("reserve_pool_size", Text),
        ("pool_mode", Text),
        ("max_user_connections", Int4),
        ("current_connections", Int4),
        ("max_user_client_connections", Int4),
        ("current_client_connections", Int4),
    ]);
    let settings = proxy.settings();
    // Server connections and clients of each.
    let mut users: BTreeMap<String, (usize, usize)> =
        settings.users.keys().map(|user| (user.clone(), (0, 0))).collect();
    for tenant in proxy.tenants.list() {
        let (servers, clients) = users.entry(tenant.user.clone()).or_default();
        *clients += tenant.clients.load(Ordering::Relaxed);
        *servers +=
            tenant.pools().map(|pool| pool.counts()).map(|pool| pool.active + pool.idle).sum::<usize>();
    }
    for (user, (servers, clients)) in users {
        let configured = settings.users.get(&user);
        table.rows.push(row![
            user,
            configured.and_then(|user| user.pool_max).map_or_else(String::new, |max| max.to_string()),
            "",
            configured.and_then(|user| user.pool_mode).map(snapshot::mode),
            0_u32,
            servers,
            settings.clients.max_per_user.unwrap_or(0),
            clients,
        ]);
    }
    table
}

fn state(proxy: &Proxy) -> Table {
    let word = |flag: bool| if flag { "yes" } else { "no" };
    let paused = proxy.tenants.is_paused(None);
    let mut table = Table::new(&[("key", Text), ("value", Text)]);
    table.rows = vec![
        row!["active", word(!paused && !proxy.is_draining())],
        row!["paused", word(paused)],
        row!["suspended", "no"],
        row!["draining", word(proxy.is_draining())],
    ];
    table
}

fn hosts(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        ("name", Text),
        ("address", Text),
        ("role", Text),
        ("error", Text),
        ("weight", Int4),
        ("pools", Int4),
        ("connections_open", Int4),
        ("connections_idle", Int4),
        ("reads", Text),
        ("lag_ms", Int8),
        ("replayed", Text),
        ("pending_floors", Int4),
    ]);
    for host in snapshot::hosts(proxy, &snapshot::pools(proxy)) {
        let position = host.position;
        let lag = position.lag_seconds.map(|seconds| std::time::Duration::from_secs_f64(seconds).as_millis());
        table.rows.push(row![
            host.name,
            host.address,
            host.role,
            host.error,
            host.weight,
            host.pools,
            host.open,
            host.idle,
            position.reads,
            lag.map(|millis| u64::try_from(millis).unwrap_or(u64::MAX)),
            position.replayed,
            position.pending_floors,
        ]);
    }
    table
}

fn floors(proxy: &Proxy) -> Table {
    let mut table =
        Table::new(&[("database", Text), ("relation", Text), ("ticket", Int8), ("position", Text)]);
    let row = |floor: routing::FloorView| row![floor.database, floor.relation, floor.ticket, floor.position];
    table.rows = routing::floors(proxy).into_iter().map(row).collect();
    table
}

fn streams(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        ("database", Text),
        ("state", Text),
        ("state_seconds", Int8),
        ("reason", Text),
        ("vouches", Text),
        ("plugin", Text),
        ("slot", Text),
        ("position", Text),
        ("behind_ms", Int8),
        ("commits", Int8),
        ("commits_of_others", Int8),
        ("schema_changes", Int8),
        ("bytes", Int8),
        ("begun", Int8),
        ("lost", Int8),
    ]);
    for stream in routing::streams(proxy) {
        table.rows.push(row![
            stream.database,
            stream.state,
            stream.state_seconds,
            stream.reason,
            if stream.vouches { "yes" } else { "no" },
            stream.plugin,
            stream.slot,
            stream.position,
            stream.behind_seconds.map(|seconds| {
                u64::try_from(std::time::Duration::from_secs_f64(seconds).as_millis()).unwrap_or(u64::MAX)
            }),
            stream.counts.commits,
            stream.counts.raised,
            stream.counts.schema_changes,
            stream.counts.bytes,
            stream.counts.begun,
            stream.counts.lost,
        ]);
    }
    table
}

fn pins(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        ("pid", Int4),
        ("database", Text),
        ("user", Text),
        ("pins", Text),
        ("since", Text),
        ("server_pid", Int4),
    ]);
    let mut handles = proxy.clients.list();
    handles.retain(|handle| !handle.pins().is_empty());
    handles.sort_by_key(|handle| handle.process.0);
    for handle in handles {
        let reasons: Vec<_> = handle.pins().iter().map(Pin::as_str).collect();
        table.rows.push(row![
            handle.process.0,
            handle.tenant.database.as_str(),
            handle.tenant.user.as_str(),
            reasons.join(","),
            clock(handle.activity().1),
            handle.server_process().map(|process| process.0),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spelled_as_postgresql_does() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_785_369_599), "2026-07-29 23:59:59 UTC");
    }
}
