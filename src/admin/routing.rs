//! What is known for reads on replicas, as values: routes, positions, floors.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use crate::catalog::RelationId;
use crate::client::Proxy;
use crate::consistency::{Fault, PendingFloor, Standing, Ticket};
use crate::control::{Database, StreamCounts};
use crate::pg::HostId;
use crate::route::Reason;

/// How often a reason has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct RouteView {
    pub(super) reason: &'static str,
    pub(super) target: &'static str,
    pub(super) count: u64,
}

/// A replica's position.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct PositionView {
    /// Whether reads go there, floors aside: `ok`, or why not.
    pub(super) reads: Option<&'static str>,
    pub(super) lag_seconds: Option<f64>,
    pub(super) replayed: Option<String>,
    pub(super) replayed_bytes: Option<u64>,
    /// Floors that it has not passed.
    pub(super) pending_floors: Option<usize>,
}

/// A database's change stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct StreamRow {
    pub(super) database: String,
    pub(super) state: &'static str,
    pub(super) state_seconds: Option<u64>,
    pub(super) reason: Option<String>,
    /// What it has shown can be relied on now.
    pub(super) vouches: bool,
    pub(super) plugin: Option<&'static str>,
    pub(super) slot: Option<String>,
    pub(super) position: Option<String>,
    pub(super) behind_seconds: Option<f64>,
    #[serde(flatten)]
    pub(super) counts: StreamNumbers,
}

/// What was counted of it since Weir started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct StreamNumbers {
    pub(super) commits: u64,
    pub(super) raised: u64,
    pub(super) schema_changes: u64,
    pub(super) bytes: u64,
    pub(super) begun: u64,
    pub(super) lost: u64,
}

/// The change streams of all databases.
pub(super) fn streams(proxy: &Proxy) -> Vec<StreamRow> {
    let now = Instant::now();
    let row = |database: std::sync::Arc<Database>| {
        let view = database.stream.view(now);
        let StreamCounts { commits, raised, schema_changes, bytes, begun, lost } = view.counts;
        StreamRow {
            database: database.name.to_string(),
            state: view.phase.as_str(),
            state_seconds: view.since.map(|since| now.saturating_duration_since(since).as_secs()),
            reason: view.reason,
            vouches: view.vouches,
            plugin: view.plugin,
            slot: view.slot,
            position: view.position.map(|lsn| lsn.to_string()),
            behind_seconds: view.behind.map(|behind| behind.as_secs_f64()),
            counts: StreamNumbers { commits, raised, schema_changes, bytes, begun, lost },
        }
    };
    databases(proxy).map(row).collect()
}

/// A floor that some replica has not passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FloorView {
    pub(super) database: String,
    pub(super) relation: String,
    pub(super) ticket: u64,
    pub(super) position: Option<String>,
}

/// Routes, catalogs and floors, as numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct SplittingView {
    pub(super) routes: Vec<RouteView>,
    pub(super) streams: Vec<StreamRow>,
    /// By database.
    pub(super) pending_floors: BTreeMap<String, usize>,
    pub(super) catalogs: usize,
    /// Databases for whose catalog there is no room.
    pub(super) catalogs_refused: usize,
    /// Databases in which code was run that may have changed the catalog, and nobody has looked since.
    pub(super) catalogs_in_doubt: usize,
}

fn databases(proxy: &Proxy) -> impl Iterator<Item = std::sync::Arc<Database>> + '_ {
    proxy.splitting.iter().flat_map(|splitting| splitting.list())
}

/// The pending floors of all databases.
pub(super) fn pending(proxy: &Proxy) -> Vec<PendingFloor> {
    databases(proxy).flat_map(|database| database.floors.pending()).collect()
}

/// A host's position, as far as it is known as a replica's.
pub(super) fn position(proxy: &Proxy, host: HostId, pending: &[PendingFloor]) -> PositionView {
    let Some(splitting) = &proxy.splitting else { return PositionView::default() };
    if proxy.hosts.primary() == Some(host) {
        return PositionView::default();
    }
    let positions = &splitting.positions;
    let reads = match positions.standing(host, Ticket::default(), proxy.settings().splitting.max_lag) {
        Standing::Satisfies | Standing::Floor => "ok",
        Standing::Lag => "lag",
        Standing::Unknown => positions.fault(host).map_or("unknown", Fault::as_str),
    };
    let replayed = positions.replayed(host);
    let lag = positions.lag(host);
    let passed = positions.passed(host);
    let above = || pending.iter().filter(|floor| floor.ticket > passed).count();
    PositionView {
        reads: Some(reads),
        lag_seconds: lag.map(|lag| lag.as_secs_f64()),
        replayed: replayed.map(|lsn| lsn.to_string()),
        replayed_bytes: replayed.map(|lsn| lsn.0),
        pending_floors: lag.map(|_| above()),
    }
}

/// All pending floors, by database; that of all tables has `*` for a name.
pub(super) fn floors(proxy: &Proxy) -> Vec<FloorView> {
    let mut floors = Vec::new();
    for database in databases(proxy) {
        let catalog = database.catalog.latest();
        let name = |relation: RelationId| {
            let known = catalog.as_ref().and_then(|catalog| catalog.relation_name(relation));
            known.unwrap_or_else(|| relation.0.0.to_string())
        };
        floors.extend(database.floors.pending().into_iter().map(|floor| FloorView {
            database: database.name.to_string(),
            relation: floor.relation.map_or_else(|| "*".to_owned(), name),
            ticket: floor.ticket.0,
            position: floor.position.map(|lsn| lsn.to_string()),
        }));
    }
    floors
}

/// Everything that is a number.
pub(super) fn splitting(proxy: &Proxy) -> SplittingView {
    let (catalogs, catalogs_refused) =
        proxy.splitting.as_ref().map(|splitting| splitting.catalogs()).unwrap_or_default();
    let route = |reason: Reason| RouteView {
        reason: reason.as_str(),
        target: reason.target(),
        count: proxy.routes.of(reason),
    };
    let pending =
        |database: std::sync::Arc<Database>| (database.name.to_string(), database.floors.pending().len());
    SplittingView {
        routes: Reason::all().map(route).collect(),
        streams: streams(proxy),
        pending_floors: databases(proxy).map(pending).collect(),
        catalogs,
        catalogs_refused,
        catalogs_in_doubt: databases(proxy).filter(|database| database.catalog.is_in_doubt()).count(),
    }
}
