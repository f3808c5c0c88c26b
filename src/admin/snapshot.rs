//! What is going on, as values: taken when somebody asks, never on a client's way.
//!
//! The console's lists, the metrics and the JSON interface are three views of these. Times are seconds here, as in
//! metrics; the console turns them into what PgBouncer shows.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::cache::{self, CacheView};
use super::insight::{self, InsightView};
use super::routing::{self, PositionView, SplittingView};
use crate::client::{Activity, Handle, Proxy};
use crate::config::{HostAddress, PoolMode};
use crate::server::{Pool, PoolStats, Role, Tenant};
use crate::sql::pin::Pin;
use crate::wire::startup::Replication;

/// Counters, of one pool or added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Totals {
    pub(super) loans: u64,
    pub(super) transactions: u64,
    pub(super) queries: u64,
    pub(super) received_bytes: u64,
    pub(super) sent_bytes: u64,
    pub(super) transaction_us: u64,
    pub(super) query_us: u64,
    pub(super) wait_us: u64,
    pub(super) connects: u64,
    pub(super) connect_errors: u64,
    pub(super) queue_timeouts: u64,
    pub(super) logins: u64,
}

impl Totals {
    fn of(stats: &PoolStats, loans: u64) -> Self {
        let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            loans,
            transactions: read(&stats.transactions),
            queries: read(&stats.queries),
            received_bytes: read(&stats.received),
            sent_bytes: read(&stats.sent),
            transaction_us: read(&stats.transaction_us),
            query_us: read(&stats.query_us),
            wait_us: read(&stats.wait_us),
            connects: read(&stats.opened),
            connect_errors: read(&stats.connect_errors),
            queue_timeouts: read(&stats.queue_timeouts),
            // Clients log in to a database, not to a pool.
            logins: 0,
        }
    }

    /// Each counter of `self` with that of `other`.
    pub(super) fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            loans: with(self.loans, other.loans),
            transactions: with(self.transactions, other.transactions),
            queries: with(self.queries, other.queries),
            received_bytes: with(self.received_bytes, other.received_bytes),
            sent_bytes: with(self.sent_bytes, other.sent_bytes),
            transaction_us: with(self.transaction_us, other.transaction_us),
            query_us: with(self.query_us, other.query_us),
            wait_us: with(self.wait_us, other.wait_us),
            connects: with(self.connects, other.connects),
            connect_errors: with(self.connect_errors, other.connect_errors),
            queue_timeouts: with(self.queue_timeouts, other.queue_timeouts),
            logins: with(self.logins, other.logins),
        }
    }
}

/// One pool: a database and user on one host.
#[derive(Clone, Debug, Serialize)]
pub(super) struct PoolView {
    pub(super) database: String,
    pub(super) user: String,
    pub(super) host: String,
    pub(super) mode: &'static str,
    pub(super) max: usize,
    pub(super) active: usize,
    pub(super) idle: usize,
    pub(super) connecting: usize,
    pub(super) waiting: usize,
    pub(super) max_wait_seconds: f64,
    pub(super) paused: bool,
    pub(super) totals: Totals,
}

/// A server connection: free (from its pool), or on loan (from the client that holds it).
#[derive(Clone, Debug)]
pub(super) struct ServerView {
    pub(super) database: String,
    pub(super) user: String,
    pub(super) host: String,
    pub(super) state: &'static str,
    pub(super) process: u32,
    pub(super) client: Option<u32>,
    pub(super) age: Duration,
    pub(super) since: Duration,
    pub(super) tls: bool,
    pub(super) prepared: Option<usize>,
    pub(super) outdated: bool,
    pub(super) application_name: String,
    pub(super) replication: &'static str,
}

/// One client.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ClientView {
    pub(super) id: u32,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) application_name: String,
    pub(super) peer: String,
    pub(super) state: &'static str,
    pub(super) state_seconds: f64,
    pub(super) connected_seconds: f64,
    pub(super) server: Option<u32>,
    pub(super) host: Option<String>,
    pub(super) pins: Vec<&'static str>,
    pub(super) tls: bool,
}

/// One host, with the sums over its pools.
#[derive(Clone, Debug, Serialize)]
pub(super) struct HostView {
    pub(super) name: String,
    pub(super) address: String,
    pub(super) role: &'static str,
    pub(super) error: Option<String>,
    pub(super) weight: u32,
    pub(super) pools: usize,
    pub(super) open: usize,
    pub(super) idle: usize,
    #[serde(flatten)]
    pub(super) position: PositionView,
}

/// Clients by what they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct ClientCounts {
    pub(super) idle: usize,
    pub(super) waiting: usize,
    pub(super) active: usize,
    pub(super) idle_in_transaction: usize,
    pub(super) logging_in: usize,
}

/// Everything that is one number, and the sums per database.
#[derive(Clone, Debug, Serialize)]
pub(super) struct StatsView {
    pub(super) version: &'static str,
    pub(super) uptime_seconds: f64,
    pub(super) draining: bool,
    pub(super) clients: ClientCounts,
    pub(super) clients_max: usize,
    pub(super) pinned: BTreeMap<&'static str, usize>,
    pub(super) malformed: u64,
    pub(super) wrong_cancels: u64,
    pub(super) prepared_statements: usize,
    pub(super) totals: Totals,
    pub(super) databases: BTreeMap<String, Totals>,
    #[serde(flatten)]
    pub(super) splitting: SplittingView,
    pub(super) cache: Option<CacheView>,
    /// What was seen of statements, if anything is.
    pub(super) insight: Option<InsightView>,
}

/// The word in `replication` columns.
pub(super) fn replication(handle: &Handle) -> &'static str {
    handle.replication.map_or("none", Replication::as_str)
}

/// The word in `pool_mode` columns.
pub(super) fn mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

/// Where a host listens, in one word.
pub(super) fn address(address: &HostAddress) -> String {
    match address {
        HostAddress::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        HostAddress::Tcp { host, port } => format!("{host}:{port}"),
        HostAddress::Unix(path) => path.display().to_string(),
    }
}

/// All tenants, by database and user; the one in force before those that a reload has retired.
pub(super) fn tenants(proxy: &Proxy) -> Vec<Arc<Tenant>> {
    let mut tenants = proxy.tenants.list();
    tenants.sort_by(|a, b| (&a.database, &a.user).cmp(&(&b.database, &b.user)));
    tenants
}

/// All pools that exist, by database, user and host. After a reload there may be two of a name, one for the clients
/// that were there before; they are shown as one, since they are one series to whoever looks.
pub(super) fn pools(proxy: &Proxy) -> Vec<PoolView> {
    let mut pools: BTreeMap<_, PoolView> = BTreeMap::new();
    for tenant in tenants(proxy) {
        for pool in tenant.pools() {
            let view = pool_view(&tenant, pool);
            let key = (view.database.clone(), view.user.clone(), view.host.clone());
            match pools.entry(key) {
                Entry::Vacant(place) => _ = place.insert(view),
                Entry::Occupied(mut place) => place.get_mut().merge(&view),
            }
        }
    }
    pools.into_values().collect()
}

fn pool_view(tenant: &Tenant, pool: &Arc<Pool>) -> PoolView {
    let counts = pool.counts();
    PoolView {
        database: tenant.database.clone(),
        user: tenant.user.clone(),
        host: pool.key.host.clone(),
        mode: mode(pool.mode()),
        max: pool.settings.max,
        active: counts.active,
        idle: counts.idle,
        connecting: counts.connecting,
        waiting: counts.waiting,
        max_wait_seconds: counts.waited.as_secs_f64(),
        paused: counts.paused,
        totals: Totals::of(&pool.stats, counts.loans),
    }
}

impl PoolView {
    /// Adds a retired pool: its limits are no longer in force, and its counters are shared with `self`.
    fn merge(&mut self, retired: &Self) {
        self.active += retired.active;
        self.idle += retired.idle;
        self.connecting += retired.connecting;
        self.waiting += retired.waiting;
        self.max_wait_seconds = self.max_wait_seconds.max(retired.max_wait_seconds);
        self.totals = self.totals.zip(retired.totals, u64::max);
    }
}

/// Counters per database.
pub(super) fn databases(proxy: &Proxy, pools: &[PoolView]) -> BTreeMap<String, Totals> {
    let mut databases: BTreeMap<String, Totals> = BTreeMap::new();
    let mut add = |database: &str, totals: Totals| {
        let sum = databases.entry(database.to_owned()).or_default();
        *sum = sum.zip(totals, u64::saturating_add);
    };
    for pool in pools {
        add(&pool.database, pool.totals);
    }
    for tenant in proxy.tenants.list() {
        let logins = tenant.logins.load(Ordering::Relaxed);
        add(&tenant.database, Totals { logins, ..Totals::default() });
    }
    databases
}

/// All clients, by database, user and process id; `max` of them.
pub(super) fn clients(proxy: &Proxy, max: usize) -> Vec<ClientView> {
    let mut handles = proxy.clients.list();
    handles.sort_by(|a, b| {
        (&a.tenant.database, &a.tenant.user, a.process.0).cmp(&(
            &b.tenant.database,
            &b.tenant.user,
            b.process.0,
        ))
    });
    handles.iter().take(max).map(|handle| client(handle)).collect()
}

fn client(handle: &Handle) -> ClientView {
    let (activity, since) = handle.activity();
    let target = handle.target();
    ClientView {
        id: handle.process.0,
        database: handle.tenant.database.clone(),
        user: handle.tenant.user.clone(),
        application_name: handle.application_name.to_string(),
        peer: handle.peer.to_string(),
        state: activity.as_str(),
        state_seconds: since.as_secs_f64(),
        connected_seconds: handle.connected.elapsed().as_secs_f64(),
        server: target.as_ref().map(|target| target.process().0),
        host: target.map(|target| target.host().to_owned()),
        pins: handle.pins().iter().map(Pin::as_str).collect(),
        tls: handle.tls,
    }
}

/// All server connections that are known: those being cleaned or between two clients are in nobody's list.
pub(super) fn servers(proxy: &Proxy) -> Vec<ServerView> {
    let mut servers = Vec::new();
    for tenant in tenants(proxy) {
        for pool in tenant.pools() {
            servers.extend(pool.idle_servers().into_iter().map(|server| ServerView {
                database: tenant.database.clone(),
                user: tenant.user.clone(),
                host: pool.key.host.clone(),
                state: "idle",
                process: server.process.0,
                client: None,
                age: server.opened.elapsed(),
                since: server.released.elapsed(),
                tls: server.tls,
                prepared: Some(server.prepared),
                outdated: server.outdated,
                application_name: String::new(),
                replication: "none",
            }));
        }
    }
    for handle in proxy.clients.list() {
        let Some(target) = handle.target() else { continue };
        servers.push(ServerView {
            database: handle.tenant.database.clone(),
            user: handle.tenant.user.clone(),
            host: target.host().to_owned(),
            state: "active",
            process: target.process().0,
            client: Some(handle.process.0),
            age: target.opened.elapsed(),
            since: handle.activity().1,
            tls: target.tls,
            prepared: None,
            outdated: false,
            application_name: handle.application_name.to_string(),
            replication: replication(&handle),
        });
    }
    servers.sort_by(|a, b| {
        (&a.database, &a.user, &a.host, a.process).cmp(&(&b.database, &b.user, &b.host, b.process))
    });
    servers
}

/// All hosts, in the order of the settings.
pub(super) fn hosts(proxy: &Proxy, pools: &[PoolView]) -> Vec<HostView> {
    let pending = routing::pending(proxy);
    let view = |host: &Arc<crate::server::Host>| {
        let of_host = || pools.iter().filter(|pool| pool.host == host.name());
        HostView {
            name: host.name().to_owned(),
            address: address(host.address()),
            role: host.role().as_str(),
            error: host.error(),
            weight: host.weight,
            pools: of_host().count(),
            open: of_host().map(|pool| pool.active + pool.idle).sum(),
            idle: of_host().map(|pool| pool.idle).sum(),
            position: routing::position(proxy, host.id, &pending),
        }
    };
    proxy.hosts.list().iter().map(view).collect()
}

/// Clients by what they do, and the pinned ones by reason.
pub(super) fn client_counts(proxy: &Proxy) -> (ClientCounts, BTreeMap<&'static str, usize>) {
    let mut counts = ClientCounts {
        logging_in: proxy.clients.logging_in.load(Ordering::Relaxed),
        ..ClientCounts::default()
    };
    let mut pinned: BTreeMap<_, _> = Pin::ALL.into_iter().map(|pin| (pin.as_str(), 0)).collect();
    for handle in proxy.clients.list() {
        match handle.activity().0 {
            Activity::Idle => counts.idle += 1,
            Activity::Waiting => counts.waiting += 1,
            Activity::Active => counts.active += 1,
            Activity::IdleInTransaction => counts.idle_in_transaction += 1,
        }
        for pin in handle.pins().iter() {
            *pinned.entry(pin.as_str()).or_default() += 1;
        }
    }
    (counts, pinned)
}

/// Everything that is one number.
pub(super) fn stats(proxy: &Proxy, pools: &[PoolView]) -> StatsView {
    let (clients, pinned) = client_counts(proxy);
    let databases = databases(proxy, pools);
    let totals =
        databases.values().fold(Totals::default(), |sum, totals| sum.zip(*totals, u64::saturating_add));
    StatsView {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: proxy.started.elapsed().as_secs_f64(),
        draining: proxy.is_draining(),
        clients,
        clients_max: proxy.settings().clients.max,
        pinned,
        malformed: proxy.clients.malformed.load(Ordering::Relaxed),
        wrong_cancels: proxy.clients.wrong_cancels.load(Ordering::Relaxed),
        prepared_statements: proxy.sessions.statements.len(),
        totals,
        databases,
        splitting: routing::splitting(proxy),
        cache: cache::view(proxy),
        insight: insight::view(proxy),
    }
}

/// Why Weir should get no new clients, if it should not.
pub(super) fn unready(proxy: &Proxy) -> Option<&'static str> {
    if proxy.is_draining() {
        return Some("draining");
    }
    let Some(primary) = proxy.hosts.primary() else {
        return Some("no primary is available");
    };
    // Until it has answered once, the first host is only presumed to be the primary.
    match proxy.hosts.host(primary).role() {
        Role::Primary => None,
        Role::Unknown => Some("no host has told its role yet"),
        Role::Replica | Role::Down => Some("no primary is available"),
        Role::Silent => Some("the primary does not answer"),
    }
}

/// Averages over the last one to two periods, as PgBouncer's `stats_period` does.
#[derive(Debug)]
pub(super) struct Averages {
    older: (Instant, BTreeMap<String, Totals>),
    newer: (Instant, BTreeMap<String, Totals>),
}

/// How often the averages begin anew.
pub(super) const STATS_PERIOD: Duration = Duration::from_secs(60);

impl Averages {
    /// Since `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { older: (now, BTreeMap::new()), newer: (now, BTreeMap::new()) }
    }

    /// A period has ended.
    pub(super) fn advance(&mut self, now: Instant, databases: BTreeMap<String, Totals>) {
        self.older = std::mem::replace(&mut self.newer, (now, databases));
    }

    /// Counts per second, and times per thing counted.
    pub(super) fn of(&self, now: Instant, database: &str, totals: Totals) -> Totals {
        let (since, before) = &self.older;
        let before = before.get(database).copied().unwrap_or_default();
        average(totals.zip(before, u64::saturating_sub), now.saturating_duration_since(*since))
    }
}

fn average(grown: Totals, elapsed: Duration) -> Totals {
    let micros = elapsed.as_micros().max(1);
    let per_second =
        |count: u64, _| u64::try_from(u128::from(count) * 1_000_000 / micros).unwrap_or(u64::MAX);
    Totals {
        transaction_us: grown.transaction_us.checked_div(grown.transactions).unwrap_or(0),
        query_us: grown.query_us.checked_div(grown.queries).unwrap_or(0),
        wait_us: grown.wait_us.checked_div(grown.loans).unwrap_or(0),
        ..grown.zip(Totals::default(), per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_are_per_second_and_per_transaction() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut averages = Averages::new(start);
        let totals = |transactions, transaction_us| Totals {
            transactions,
            transaction_us,
            received_bytes: transactions * 100,
            ..Totals::default()
        };
        let first = averages.of(at(10), "app", totals(50, 5000));
        assert_eq!((first.transactions, first.transaction_us, first.received_bytes), (5, 100, 500));
        averages.advance(at(60), BTreeMap::from([("app".to_owned(), totals(100, 10_000))]));
        averages.advance(at(120), BTreeMap::from([("app".to_owned(), totals(400, 10_000))]));
        // Since the older of the two.
        let later = averages.of(at(130), "app", totals(800, 24_000));
        assert_eq!((later.transactions, later.transaction_us), (10, 20));
        assert_eq!(averages.of(at(130), "new", Totals::default()), Totals::default());
    }
}
