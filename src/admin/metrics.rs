//! Metrics in OpenMetrics text.
//!
//! The registry is made anew for each scrape out of a snapshot: the clients' way has only the counters that it has
//! anyhow, and a pool that is gone leaves no series behind. Labels are bounded by what the operator or the server
//! has named: databases, users, hosts, and the words of our own enums.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::cache_metrics;
use super::insight::InsightView;
use super::routing::{SplittingView, StreamRow};
use super::snapshot::{self, HostView, PoolView, StatsView};
use crate::client::Proxy;
use crate::control::StreamPhase;

/// All roles that a host can have: each is a series, one of them 1, so that a change of role ends no series.
const ROLES: [&str; 5] = ["primary", "replica", "unknown", "down", "silent"];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PoolLabels {
    database: String,
    user: String,
    host: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct DatabaseLabel {
    database: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RoleLabels {
    host: String,
    role: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct HostLabel {
    host: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    reason: &'static str,
    target: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VersionLabel {
    version: &'static str,
}

type Gauges<L> = Family<L, Gauge<i64, AtomicI64>>;
type Seconds<L> = Family<L, Gauge<f64, AtomicU64>>;
pub(super) type Counters<L> = Family<L, Counter<u64, AtomicU64>>;
type SecondCounters<L> = Family<L, Counter<f64, AtomicU64>>;

/// Name, help, and where the value is.
type Column<T> = (&'static str, &'static str, fn(&PoolView) -> T);

/// The answer to a scrape.
pub(super) fn text(proxy: &Proxy) -> String {
    let pools = snapshot::pools(proxy);
    let hosts = snapshot::hosts(proxy, &pools);
    let stats = snapshot::stats(proxy, &pools);
    write(&pools, &hosts, &stats, snapshot::unready(proxy).is_none())
}

fn write(pools: &[PoolView], hosts: &[HostView], stats: &StatsView, ready: bool) -> String {
    let mut registry = Registry::with_prefix("weir");
    of_pools(&mut registry, pools);
    of_hosts(&mut registry, hosts);
    of_splitting(&mut registry, hosts, &stats.splitting);
    of_streams(&mut registry, &stats.splitting.streams);
    if let Some(cache) = &stats.cache {
        cache_metrics::of_cache(&mut registry, cache);
    }
    if let Some(insight) = &stats.insight {
        of_insight(&mut registry, insight);
    }
    of_clients(&mut registry, stats);
    of_weir(&mut registry, stats, ready);
    let mut out = String::new();
    encode(&mut out, &registry).expect("writing into a string cannot fail");
    out
}

fn of_pools(registry: &mut Registry, pools: &[PoolView]) {
    let labels = |pool: &PoolView| PoolLabels {
        database: escaped(&pool.database),
        user: escaped(&pool.user),
        host: escaped(&pool.host),
    };
    let gauges: [Column<usize>; 6] = [
        ("pool_active_connections", "Server connections on loan to clients", |pool| pool.active),
        ("pool_idle_connections", "Server connections that are free", |pool| pool.idle),
        ("pool_connecting_connections", "Server connections being opened", |pool| pool.connecting),
        ("pool_max_connections", "Server connections at most", |pool| pool.max),
        ("pool_waiting_clients", "Clients that wait for a server connection", |pool| pool.waiting),
        ("pool_paused", "1 while PAUSE is in force", |pool| usize::from(pool.paused)),
    ];
    for (name, help, value) in gauges {
        let family = Gauges::default();
        for pool in pools {
            family.get_or_create(&labels(pool)).set(gauge(value(pool)));
        }
        registry.register(name, help, family);
    }
    let family = Seconds::default();
    for pool in pools {
        family.get_or_create(&labels(pool)).set(pool.max_wait_seconds);
    }
    let help = "How long the first waiting client has waited";
    registry.register_with_unit("pool_max_wait", help, Unit::Seconds, family);

    let counters: [Column<u64>; 7] = [
        ("pool_loans", "Times a client was given a server connection", |pool| pool.totals.loans),
        ("pool_transactions", "Transactions that ended", |pool| pool.totals.transactions),
        ("pool_queries", "Simple queries and executions", |pool| pool.totals.queries),
        ("pool_connects", "Server connections opened", |pool| pool.totals.connects),
        ("pool_connect_errors", "Attempts to open one that failed", |pool| pool.totals.connect_errors),
        ("pool_queue_timeouts", "Clients that gave up waiting", |pool| pool.totals.queue_timeouts),
        ("pool_received_bytes", "Bytes from clients", |pool| pool.totals.received_bytes),
    ];
    for (name, help, value) in counters {
        let family = Counters::default();
        for pool in pools {
            family.get_or_create(&labels(pool)).inc_by(value(pool));
        }
        register_counter(registry, name, help, family);
    }
    let family = Counters::default();
    for pool in pools {
        family.get_or_create(&labels(pool)).inc_by(pool.totals.sent_bytes);
    }
    register_counter(registry, "pool_sent_bytes", "Bytes to clients", family);

    let times: [Column<u64>; 3] = [
        ("pool_transaction", "Time that server connections were on loan", |pool| pool.totals.transaction_us),
        ("pool_query", "Time in statements", |pool| pool.totals.query_us),
        ("pool_wait", "Time that clients waited for a server connection", |pool| pool.totals.wait_us),
    ];
    for (name, help, value) in times {
        let family = SecondCounters::default();
        for pool in pools {
            family.get_or_create(&labels(pool)).inc_by(seconds(value(pool)));
        }
        registry.register_with_unit(name, help, Unit::Seconds, family);
    }
}

/// Counters in bytes have their unit in the name by OpenMetrics' rules too.
fn register_counter<L>(registry: &mut Registry, name: &str, help: &str, family: Counters<L>)
where
    L: EncodeLabelSet + std::hash::Hash + Eq + Clone + std::fmt::Debug + Send + Sync + 'static,
{
    match name.strip_suffix("_bytes") {
        Some(name) => registry.register_with_unit(name, help, Unit::Bytes, family),
        None => registry.register(name, help, family),
    }
}

fn of_hosts(registry: &mut Registry, hosts: &[HostView]) {
    let (role, up) = (Gauges::default(), Gauges::default());
    for host in hosts {
        for word in ROLES {
            let labels = RoleLabels { host: escaped(&host.name), role: word };
            role.get_or_create(&labels).set(i64::from(host.role == word));
        }
        let is_up = host.role == "primary" || host.role == "replica";
        up.get_or_create(&HostLabel { host: escaped(&host.name) }).set(i64::from(is_up));
    }
    registry.register("host_role", "1 for the role that the host has", role);
    registry.register("host_up", "1 if the host answered its last probe", up);
}

fn of_splitting(registry: &mut Registry, hosts: &[HostView], splitting: &SplittingView) {
    let routes = Counters::default();
    for route in &splitting.routes {
        let labels = RouteLabels { reason: route.reason, target: route.target };
        routes.get_or_create(&labels).inc_by(route.count);
    }
    registry.register("route", "Statements and batches by where they went, and why", routes);

    let (reads, replayed, lag) = (Gauges::default(), Gauges::default(), Seconds::default());
    let pending = Gauges::default();
    for host in hosts {
        let (label, position) = (HostLabel { host: escaped(&host.name) }, &host.position);
        if let Some(word) = position.reads {
            reads.get_or_create(&label).set(i64::from(word == "ok"));
        }
        if let Some(bytes) = position.replayed_bytes {
            replayed.get_or_create(&label).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
        if let Some(seconds) = position.lag_seconds {
            lag.get_or_create(&label).set(seconds);
        }
        if let Some(count) = position.pending_floors {
            pending.get_or_create(&label).set(gauge(count));
        }
    }
    registry.register("replica_reads", "1 if reads go to the replica, floors aside", reads);
    let help = "Where in the write-ahead log the replica is";
    registry.register_with_unit("replica_replayed", help, Unit::Bytes, replayed);
    registry.register_with_unit("replica_lag", "How far the replica is behind", Unit::Seconds, lag);
    registry.register(
        "replica_pending_floors",
        "Tables whose last write the replica has not passed",
        pending,
    );

    let floors = Gauges::default();
    for (database, count) in &splitting.pending_floors {
        floors.get_or_create(&DatabaseLabel { database: escaped(database) }).set(gauge(*count));
    }
    let help = "Tables whose last write some replica has not passed";
    registry.register("pending_floors", help, floors);
    single(registry, "catalogs", "Databases whose catalog is kept", gauge(splitting.catalogs));
    let help = "Databases for whose catalog there is no room: their statements go to the primary";
    single(registry, "catalogs_refused", help, gauge(splitting.catalogs_refused));
    let help = "Databases in which code was run that may have changed the catalog: their writes count as writes of everything";
    single(registry, "catalogs_in_doubt", help, gauge(splitting.catalogs_in_doubt));
}

/// A column of the change streams.
type StreamColumn<T> = (&'static str, &'static str, fn(&StreamRow) -> T);

fn of_streams(registry: &mut Registry, streams: &[StreamRow]) {
    let label = |stream: &StreamRow| DatabaseLabel { database: escaped(&stream.database) };
    let gauges: [StreamColumn<bool>; 2] = [
        ("stream_up", "1 while the primary's changes are streamed", |stream| {
            stream.state == StreamPhase::Up.as_str()
        }),
        ("stream_vouches", "1 while the stream is neither silent nor behind", |stream| stream.vouches),
    ];
    for (name, help, value) in gauges {
        let family = Gauges::default();
        for stream in streams {
            family.get_or_create(&label(stream)).set(i64::from(value(stream)));
        }
        registry.register(name, help, family);
    }
    let behind = Seconds::default();
    for stream in streams {
        if let Some(seconds) = stream.behind_seconds {
            behind.get_or_create(&label(stream)).set(seconds);
        }
    }
    let help = "For how long the stream has been behind the primary";
    registry.register_with_unit("stream_behind", help, Unit::Seconds, behind);
    let counters: [StreamColumn<u64>; 6] = [
        ("stream_commits", "Transactions that the stream has shown", |stream| stream.counts.commits),
        ("stream_raised", "Of these, those that had raised no floor yet", |stream| stream.counts.raised),
        ("stream_schema_changes", "Of all, those that changed the catalog", |stream| {
            stream.counts.schema_changes
        }),
        ("stream_received_bytes", "Bytes of the stream", |stream| stream.counts.bytes),
        ("stream_begun", "How often the stream began", |stream| stream.counts.begun),
        ("stream_lost", "How often the stream was lost", |stream| stream.counts.lost),
    ];
    for (name, help, value) in counters {
        let family = Counters::default();
        for stream in streams {
            family.get_or_create(&label(stream)).inc_by(value(stream));
        }
        registry.register(name, help, family);
    }
}

fn of_insight(registry: &mut Registry, insight: &InsightView) {
    let counters = [
        ("insight_statements", "Statements that were counted by shape", insight.statements),
        ("insight_slow", "Of these, those that were slow", insight.slow),
        ("insight_repeats", "Transactions and requests with an N+1", insight.repeats),
        (
            "insight_duplicates",
            "Transactions and requests with a SELECT that runs again and again with the same values",
            insight.duplicates,
        ),
        (
            "insight_batchable_writes",
            "Transactions with rows that are inserted or updated one by one",
            insight.batchable_writes,
        ),
        (
            "insight_records_dropped",
            "Statements that were not counted for want of room",
            insight.records_dropped,
        ),
        ("slow_log_suppressed", "Lines left out by rate limits and sampling", insight.suppressed),
        ("slow_log_dropped", "Lines left out because the disk did not keep up", insight.lines_dropped),
        ("insight_evicted", "Shapes that went into one for all others", insight.evicted),
    ];
    for (name, help, value) in counters {
        let counter = <Counter>::default();
        counter.inc_by(value);
        registry.register(name, help, counter);
    }
    single(registry, "insight_shapes", "Shapes with statistics of their own", gauge(insight.shapes));
    single(registry, "insight_advice", "Pieces of advice that nobody has acted on", gauge(insight.advice));
}

fn of_clients(registry: &mut Registry, stats: &StatsView) {
    let clients = Gauges::default();
    for (state, count) in [
        ("idle", stats.clients.idle),
        ("waiting", stats.clients.waiting),
        ("active", stats.clients.active),
        ("idle_in_transaction", stats.clients.idle_in_transaction),
        ("logging_in", stats.clients.logging_in),
    ] {
        clients.get_or_create(&StateLabel { state }).set(gauge(count));
    }
    registry.register("clients", "Connected clients by what they do", clients);
    single(registry, "clients_max", "Clients at most", gauge(stats.clients_max));

    let pinned = Gauges::default();
    for (reason, count) in &stats.pinned {
        pinned.get_or_create(&ReasonLabel { reason }).set(gauge(*count));
    }
    registry.register("pinned_clients", "Clients that keep their server connection, by reason", pinned);

    let logins = Counters::default();
    for (database, totals) in &stats.databases {
        logins.get_or_create(&DatabaseLabel { database: escaped(database) }).inc_by(totals.logins);
    }
    registry.register("client_logins", "Clients that logged in", logins);

    let malformed = <Counter>::default();
    malformed.inc_by(stats.malformed);
    let help = "Client connections closed for what they sent";
    registry.register("malformed_clients", help, malformed);
    let wrong_cancels = <Counter>::default();
    wrong_cancels.inc_by(stats.wrong_cancels);
    registry.register("wrong_cancels", "CancelRequests that named nobody", wrong_cancels);
}

fn of_weir(registry: &mut Registry, stats: &StatsView, ready: bool) {
    let prepared = gauge(stats.prepared_statements);
    single(registry, "prepared_statements", "Distinct prepared statements in the shared table", prepared);
    single(registry, "ready", "1 if /readyz says so", i64::from(ready));
    single(registry, "draining", "1 while clients are being sent away", i64::from(stats.draining));
    let uptime = Gauge::<f64, AtomicU64>::default();
    uptime.set(stats.uptime_seconds);
    registry.register_with_unit("uptime", "Time since the start", Unit::Seconds, uptime);
    let build = Gauges::default();
    build.get_or_create(&VersionLabel { version: stats.version }).set(1);
    registry.register("build_info", "1, with the version", build);
}

fn single(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let metric = <Gauge>::default();
    metric.set(value);
    registry.register(name, help, metric);
}

/// prometheus-client 0.24 writes label values as they are: a client could write metrics by its database's name.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn seconds(micros: u64) -> f64 {
    std::time::Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::cache::{CacheView, ReasonView, SharedView};
    use crate::admin::routing::{PositionView, RouteView, StreamNumbers};
    use crate::admin::snapshot::{ClientCounts, Totals};
    use std::collections::BTreeMap;

    #[test]
    fn names_have_prefix_unit_and_total() {
        let totals = Totals { sent_bytes: 7, wait_us: 1_500_000, transactions: 3, ..Totals::default() };
        let pool = PoolView {
            database: "app".to_owned(),
            user: "a\"b".to_owned(),
            host: "primary".to_owned(),
            mode: "transaction",
            max: 20,
            active: 2,
            idle: 1,
            connecting: 0,
            waiting: 0,
            max_wait_seconds: 0.25,
            paused: false,
            totals,
        };
        let host = HostView {
            name: "primary".to_owned(),
            address: String::new(),
            role: "primary",
            error: None,
            weight: 1,
            pools: 1,
            open: 3,
            idle: 1,
            position: PositionView::default(),
        };
        let replica = HostView {
            name: "replica1".to_owned(),
            role: "replica",
            position: PositionView {
                reads: Some("ok"),
                lag_seconds: Some(0.5),
                replayed: None,
                replayed_bytes: Some(4096),
                pending_floors: Some(2),
            },
            ..host.clone()
        };
        let splitting = SplittingView {
            routes: vec![RouteView { reason: "floor", target: "primary", count: 9 }],
            streams: vec![StreamRow {
                database: "app".to_owned(),
                state: "up",
                vouches: true,
                behind_seconds: Some(0.25),
                counts: StreamNumbers { commits: 7, raised: 2, ..StreamNumbers::default() },
                ..StreamRow::default()
            }],
            pending_floors: BTreeMap::from([("app".to_owned(), 3)]),
            catalogs: 1,
            catalogs_refused: 0,
            catalogs_in_doubt: 0,
        };
        let cache = CacheView {
            entries: 7,
            bytes: 4096,
            reasons: vec![ReasonView { reason: "cold", kind: "miss", count: 3 }],
            fills: vec![("kept", 2)],
            shared: Some(SharedView { connected: true, trusted: 1, followed: 2, counts: vec![("hit", 5)] }),
            ..CacheView::default()
        };
        let stats = StatsView {
            cache: Some(cache),
            insight: Some(InsightView { slow: 3, shapes: 11, ..InsightView::default() }),
            version: "1.2.3",
            uptime_seconds: 1.0,
            draining: false,
            clients: ClientCounts { idle: 4, ..ClientCounts::default() },
            clients_max: 100,
            pinned: BTreeMap::from([("listen", 2)]),
            malformed: 5,
            wrong_cancels: 6,
            prepared_statements: 8,
            totals,
            databases: BTreeMap::from([("app".to_owned(), totals)]),
            splitting,
        };
        let text = write(&[pool], &[host, replica], &stats, true);
        let labels = "{database=\"app\",user=\"a\\\"b\",host=\"primary\"}";
        for line in [
            format!("weir_pool_active_connections{labels} 2"),
            format!("weir_pool_max_wait_seconds{labels} 0.25"),
            format!("weir_pool_sent_bytes_total{labels} 7"),
            format!("weir_pool_wait_seconds_total{labels} 1.5"),
            format!("weir_pool_transactions_total{labels} 3"),
            "weir_host_role{host=\"primary\",role=\"primary\"} 1".to_owned(),
            "weir_host_role{host=\"primary\",role=\"down\"} 0".to_owned(),
            "weir_clients{state=\"idle\"} 4".to_owned(),
            "weir_pinned_clients{reason=\"listen\"} 2".to_owned(),
            "weir_malformed_clients_total 5".to_owned(),
            "weir_wrong_cancels_total 6".to_owned(),
            "weir_prepared_statements 8".to_owned(),
            "weir_route_total{reason=\"floor\",target=\"primary\"} 9".to_owned(),
            "weir_replica_reads{host=\"replica1\"} 1".to_owned(),
            "weir_replica_lag_seconds{host=\"replica1\"} 0.5".to_owned(),
            "weir_replica_replayed_bytes{host=\"replica1\"} 4096".to_owned(),
            "weir_replica_pending_floors{host=\"replica1\"} 2".to_owned(),
            "weir_pending_floors{database=\"app\"} 3".to_owned(),
            "weir_catalogs 1".to_owned(),
            "weir_stream_up{database=\"app\"} 1".to_owned(),
            "weir_stream_behind_seconds{database=\"app\"} 0.25".to_owned(),
            "weir_stream_commits_total{database=\"app\"} 7".to_owned(),
            "weir_stream_raised_total{database=\"app\"} 2".to_owned(),
            "weir_cache_total{kind=\"miss\",reason=\"cold\"} 3".to_owned(),
            "weir_cache_fills_total{outcome=\"kept\"} 2".to_owned(),
            "weir_cache_entries 7".to_owned(),
            "weir_insight_slow_total 3".to_owned(),
            "weir_insight_shapes 11".to_owned(),
            "weir_cache_size_bytes 4096".to_owned(),
            "weir_shared_cache_connected 1".to_owned(),
            "weir_shared_cache_trusted_databases 1".to_owned(),
            "weir_shared_cache_total{outcome=\"hit\"} 5".to_owned(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
