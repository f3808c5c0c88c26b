//! The console's lists: snapshots in PgBouncer's columns (of release 1.25), so that its exporters read them.
//!
//! Where PgBouncer has one pool, Weir may have one per host: SHOW POOLS adds them up, since an exporter would take
//! two rows of one database and user for one series. SHOW HOSTS and the HTTP interface tell them apart. Columns for
//! what Weir does not have (peers, DNS, parses and binds) are there and 0.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::command::Show;
use super::snapshot::{self, Averages, ServerView, Totals};
use super::table::{Cell, ColumnType, Table, row};
use super::{cache, insight, routing};
use crate::client::{Handle, Proxy};
use crate::config::{HostAddress, ListenAddress, Settings};
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
        Show::Stats => stats(proxy, averages, &STATS_TOTAL, &STATS_AVERAGE),
        Show::StatsTotals => stats(proxy, averages, &STATS_TOTALS, &[]),
        Show::StatsAverages => stats(proxy, averages, &[], &STATS_AVERAGES),
        Show::Totals => totals(proxy, averages),
        Show::Lists => lists(proxy),
        Show::Config => config(&proxy.settings()),
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

const STATS_TOTAL: [&str; 12] = [
    "total_server_assignment_count",
    "total_xact_count",
    "total_query_count",
    "total_received",
    "total_sent",
    "total_xact_time",
    "total_query_time",
    "total_wait_time",
    "total_client_parse_count",
    "total_server_parse_count",
    "total_bind_count",
    "total_client_login_count",
];
const STATS_AVERAGE: [&str; 12] = [
    "avg_server_assignment_count",
    "avg_xact_count",
    "avg_query_count",
    "avg_recv",
    "avg_sent",
    "avg_xact_time",
    "avg_query_time",
    "avg_wait_time",
    "avg_client_parse_count",
    "avg_server_parse_count",
    "avg_bind_count",
    "avg_client_login_count",
];
const STATS_TOTALS: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "bytes_received",
    "bytes_sent",
    "xact_time",
    "query_time",
    "wait_time",
    "client_parse_count",
    "server_parse_count",
    "bind_count",
    "client_login_count",
];
const STATS_AVERAGES: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "bytes_received",
    "bytes_sent",
    "xact_time",
    "query_time",
    "wait_time",
    "avg_client_parse_count",
    "avg_server_parse_count",
    "avg_bind_count",
    "avg_client_login_count",
];
const TOTALS: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

/// The counters in PgBouncer's order.
fn numbers(totals: Totals) -> [u64; 12] {
    [
        totals.loans,
        totals.transactions,
        totals.queries,
        totals.received_bytes,
        totals.sent_bytes,
        totals.transaction_us,
        totals.query_us,
        totals.wait_us,
        0,
        0,
        0,
        totals.logins,
    ]
}

fn stats(
    proxy: &Proxy,
    averages: &Averages,
    total_columns: &[&'static str],
    average_columns: &[&'static str],
) -> Table {
    let mut table = Table::new(&[("database", Text)]);
    table.columns.extend(total_columns.iter().chain(average_columns).map(|name| (*name, Int8)));
    let now = Instant::now();
    for (database, totals) in snapshot::databases(proxy, &snapshot::pools(proxy)) {
        let average = averages.of(now, &database, totals);
        let mut row = row![database];
        row.extend(total_columns.iter().zip(numbers(totals)).map(|(_, number)| Cell::from(number)));
        row.extend(average_columns.iter().zip(numbers(average)).map(|(_, number)| Cell::from(number)));
        table.rows.push(row);
    }
    table
}

fn totals(proxy: &Proxy, averages: &Averages) -> Table {
    let mut table = Table::new(&[("name", Text), ("value", Int8)]);
    let (mut total, mut average) = (Totals::default(), Totals::default());
    let now = Instant::now();
    for (database, totals) in snapshot::databases(proxy, &snapshot::pools(proxy)) {
        total = total.zip(totals, u64::saturating_add);
        average = average.zip(averages.of(now, &database, totals), u64::saturating_add);
    }
    for (prefix, totals) in [("total", total), ("avg", average)] {
        for (name, number) in TOTALS.iter().zip(numbers(totals)) {
            table.rows.push(row![format!("{prefix}_{name}"), number]);
        }
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

/// Keys as in `weir.toml`, and behind them those of PgBouncer that exporters look for. Never a password.
fn config(settings: &Settings) -> Table {
    let mut table = Table::new(&[("key", Text), ("value", Text), ("default", Text), ("changeable", Text)]);
    let defaults = Settings::from_url("postgres://weir@localhost").map(|defaults| values(&defaults));
    for (index, (key, value, changeable)) in values(settings).into_iter().enumerate() {
        let default =
            defaults.as_ref().ok().and_then(|defaults| defaults.get(index)).map(|row| row.1.clone());
        // Hosts and the login have no defaults worth the name.
        let default = default.filter(|_| !["primary", "replicas"].contains(&key));
        table.rows.push(row![key, value, default, if changeable { "yes" } else { "no" }]);
    }
    table
}

fn values(settings: &Settings) -> Vec<(&'static str, String, bool)> {
    // Taken apart by name, so that a new setting cannot be forgotten here.
    let Settings {
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
        cache: of_cache,
        insight,
        slow_log,
        log,
        drain_timeout,
    } = settings;
    let listen: Vec<_> = listen
        .iter()
        .map(|address| match address {
            ListenAddress::Tcp(address) => address.to_string(),
            ListenAddress::Unix { directory, port } => format!("{}:{port}", directory.display()),
        })
        .collect();
    let host_names: Vec<_> = hosts.iter().map(|host| snapshot::address(&host.address)).collect();
    let names = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>().join(",");
    let time =
        |time: Option<std::time::Duration>| time.map_or_else(|| "off".to_owned(), |time| format!("{time:?}"));
    let limit = |limit: Option<usize>| limit.unwrap_or(0).to_string();
    let word = |flag: bool| flag.to_string();
    vec![
        ("primary", host_names.first().cloned().unwrap_or_default(), false),
        ("replicas", host_names.get(1..).unwrap_or_default().join(","), false),
        ("listen", listen.join(","), false),
        ("http", http.map_or_else(|| "off".to_owned(), |address| address.to_string()), false),
        ("workers", workers.to_string(), false),
        ("drain_timeout", time(Some(*drain_timeout)), true),
        ("access", format!("{} rules", access.len()), true),
        ("console.database", console_database.clone(), true),
        ("console.admin_users", console.admin_users.join(","), true),
        ("console.stats_users", console.stats_users.join(","), true),
        ("log.level", log.level.clone(), true),
        ("log.format", format!("{:?}", log.format).to_ascii_lowercase(), false),
        ("log.connections", word(log.connections), true),
        ("clients.max", clients.max.to_string(), true),
        ("clients.max_per_user", limit(clients.max_per_user), true),
        ("clients.max_per_database", limit(clients.max_per_database), true),
        ("clients.login_timeout", time(Some(clients.login_timeout)), true),
        ("clients.idle_timeout", time(clients.idle_timeout), true),
        ("clients.idle_in_transaction_timeout", time(clients.idle_in_transaction_timeout), true),
        ("clients.message_bytes_max", clients.message_bytes_max.to_string(), true),
        ("clients.tls", if clients.tls.is_some() { "on" } else { "off" }.to_owned(), true),
        ("servers.connect_timeout", time(Some(servers.connect_timeout)), false),
        ("servers.failover_wait", time(Some(servers.failover_wait)), false),
        ("servers.sslmode", format!("{:?}", servers.ssl_mode).to_ascii_lowercase(), false),
        ("servers.health_interval", time(Some(servers.health_interval)), false),
        ("servers.health_timeout", time(Some(servers.health_timeout)), false),
        ("pool.mode", snapshot::mode(pool.mode).to_owned(), true),
        ("pool.max", pool.max.to_string(), true),
        ("pool.min", pool.min.to_string(), true),
        ("pool.reserve", pool.reserve.to_string(), true),
        ("pool.reserve_timeout", time(Some(pool.reserve_timeout)), true),
        ("pool.queue_timeout", time(Some(pool.queue_timeout)), true),
        ("pool.idle_timeout", time(pool.idle_timeout), true),
        ("pool.lifetime", time(pool.lifetime), true),
        ("databases", names(databases.keys().collect()), true),
        ("users", names(users.keys().collect()), true),
        (
            "auth_query",
            auth_query.as_ref().map_or_else(|| "off".to_owned(), |query| query.query.clone()),
            false,
        ),
        ("prepared.per_server_max", prepared.per_server_max.to_string(), false),
        ("prepared.per_client_max", prepared.per_client_max.to_string(), false),
        ("prepared.unnamed", word(prepared.unnamed), false),
        ("splitting.enabled", splitting.enabled.as_str().to_owned(), false),
        ("splitting.consistency", splitting.consistency.as_str().to_owned(), true),
        ("splitting.max_lag", time(Some(splitting.max_lag)), true),
        ("splitting.primary_reads", splitting.primary_reads.as_str().to_owned(), true),
        ("splitting.lazy_transactions", word(splitting.lazy_transactions), true),
        ("splitting.catalog_interval", time(Some(splitting.catalog_interval)), false),
        ("stream.enabled", stream.enabled.as_str().to_owned(), false),
        ("stream.plugin", stream.plugin.as_str().to_owned(), false),
        ("stream.publication", stream.publication.clone(), false),
        ("stream.slot_prefix", stream.slot_prefix.clone(), false),
        ("stream.max_delay", time(Some(stream.max_delay)), false),
        ("shared_cache.url", if shared_cache.url.is_some() { "set" } else { "" }.to_owned(), false),
        ("shared_cache.namespace", shared_cache.namespace.clone(), false),
        ("shared_cache.lookup_timeout", time(Some(shared_cache.lookup_timeout)), false),
        ("shared_cache.invalidate_timeout", time(Some(shared_cache.invalidate_timeout)), false),
        ("cache.enabled", word(of_cache.enabled), false),
        ("cache.bytes", of_cache.bytes.to_string(), false),
        ("cache.max_entry", of_cache.max_entry.to_string(), true),
        ("cache.ttl", time(Some(of_cache.ttl)), true),
        ("cache.admission_window", time(Some(of_cache.admission_window)), true),
        ("cache.freshness", of_cache.freshness.as_str().to_owned(), true),
        ("cache.flight_wait", time(Some(of_cache.flight_wait)), true),
        ("cache.verify", of_cache.verify.map_or_else(|| "0".to_owned(), |of| format!("1/{of}")), true),
        ("cache.rules", of_cache.rules.iter().map(|rule| &*rule.name).collect::<Vec<_>>().join(", "), true),
        ("insight.enabled", word(insight.enabled), false),
        ("insight.shapes_max", insight.shapes_max.to_string(), false),
        ("insight.repeats", word(insight.repeats), false),
        ("insight.samples", word(insight.samples), false),
        ("insight.samples_ttl", time(Some(insight.samples_ttl)), false),
        ("insight.explain", insight.explain.as_str().to_owned(), false),
        ("insight.explain_per_minute", insight.explain_per_minute.to_string(), false),
        ("insight.explain_writes", word(insight.explain_writes), false),
        (
            "insight.advice_file",
            insight.advice_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            false,
        ),
        ("slow_log.file", slow_log.shown_output(), true),
        ("slow_log.threshold", time(Some(slow_log.threshold)), true),
        ("slow_log.databases", names(slow_log.databases.keys().collect()), true),
        ("slow_log.users", names(slow_log.users.keys().collect()), true),
        ("slow_log.sample", slow_log.shown_sample(), true),
        ("slow_log.per_shape", time(slow_log.per_shape), true),
        ("slow_log.per_second_max", slow_log.per_second_max.to_string(), true),
        ("slow_log.log_parameters", slow_log.parameters.as_str().to_owned(), true),
        ("slow_log.rotate_bytes", slow_log.rotate_bytes.to_string(), true),
        ("slow_log.rotate_age", time(slow_log.rotate_age), true),
        ("slow_log.keep", slow_log.keep.to_string(), true),
        ("max_client_conn", clients.max.to_string(), true),
        ("max_user_connections", "0".to_owned(), true),
        ("max_db_connections", "0".to_owned(), true),
        ("default_pool_size", pool.max.to_string(), true),
        ("pool_mode", snapshot::mode(pool.mode).to_owned(), true),
    ]
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

    #[test]
    fn the_configuration_is_shown_without_secrets() {
        let settings = Settings::from_url("postgres://app:hush@db1:5433/app").unwrap();
        let table = config(&settings);
        assert!(!format!("{table:?}").contains("hush"));
        assert_eq!(table.rows[0], row!["primary", "db1:5433", None::<String>, "no"]);
        assert!(table.rows.contains(&row!["workers", "1", "1", "no"]), "{table:?}");
    }
}
