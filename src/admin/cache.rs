//! What the cache has and does, as values: SHOW CACHE, FLUSH CACHE, the metrics.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::table::{ColumnType, Table, row};
use crate::cache::{Cache, Outcome, Reason, ShapeSnapshot};
use crate::catalog::Touched;
use crate::client::Proxy;
use crate::control::{SharedCache, Telling};
use crate::pg::SqlState;
use crate::wire::build::{Report, Severity};
use ColumnType::{Int8, Text};

/// Shapes that SHOW CACHE tells of.
const TOP_SHAPES: usize = 20;

/// How often a reason has decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ReasonView {
    pub(super) reason: &'static str,
    pub(super) kind: &'static str,
    pub(super) count: u64,
}

/// The store that several Weirs share, as numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct SharedView {
    /// All our invalidations have reached it.
    pub(super) connected: bool,
    /// Databases whose results there are believed, of those that are followed.
    pub(super) trusted: usize,
    pub(super) followed: usize,
    pub(super) counts: Vec<(&'static str, u64)>,
}

/// The cache, as numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(super) struct CacheView {
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) bytes_max: usize,
    pub(super) flights: usize,
    pub(super) evicted: u64,
    pub(super) compared: u64,
    pub(super) mismatches: u64,
    pub(super) saved_seconds: f64,
    pub(super) hit_bytes: u64,
    pub(super) reasons: Vec<ReasonView>,
    /// What became of fills.
    pub(super) fills: Vec<(&'static str, u64)>,
    pub(super) shared: Option<SharedView>,
}

impl CacheView {
    fn of_kind(&self, kind: &str) -> u64 {
        self.reasons.iter().filter(|reason| reason.kind == kind).map(|reason| reason.count).sum()
    }

    /// Hits among what could have been one.
    fn hit_rate(&self) -> f64 {
        let (hits, misses) = (self.of_kind("hit"), self.of_kind("miss"));
        #[expect(clippy::cast_precision_loss, reason = "a share to look at")]
        let share = hits as f64 / (hits + misses).max(1) as f64;
        share
    }
}

/// Everything that is a number; `None`: nothing is kept.
pub(super) fn view(proxy: &Proxy) -> Option<CacheView> {
    let cache: &Cache = proxy.cache.as_deref()?;
    let counts = &cache.counts;
    let (entries, bytes) = cache.store.size();
    let reason = |reason: Reason| ReasonView {
        reason: reason.as_str(),
        kind: reason.kind(),
        count: counts.of(reason),
    };
    #[expect(clippy::cast_precision_loss, reason = "microseconds of years fit")]
    let saved_seconds = counts.saved_us.load(Ordering::Relaxed) as f64 / 1e6;
    Some(CacheView {
        entries,
        bytes,
        bytes_max: proxy.settings().cache.bytes,
        flights: cache.store.flights(),
        evicted: counts.evicted.load(Ordering::Relaxed),
        compared: counts.compared.load(Ordering::Relaxed),
        mismatches: counts.mismatches.load(Ordering::Relaxed),
        saved_seconds,
        hit_bytes: counts.hit_bytes.load(Ordering::Relaxed),
        reasons: Reason::all().map(reason).collect(),
        fills: Outcome::ALL.into_iter().map(|outcome| (outcome.as_str(), counts.outcomes(outcome))).collect(),
        shared: proxy.splitting.as_ref().and_then(|splitting| splitting.shared.as_deref()).map(|shared| {
            let (trusted, followed) = shared.trusted();
            let counts = shared.counts.list().to_vec();
            SharedView { connected: shared.is_connected(), trusted, followed, counts }
        }),
    })
}

/// SHOW CACHE: totals, each reason that ever decided, and the shapes that saved most.
pub(super) fn table(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[("kind", Text), ("name", Text), ("value", Int8), ("text", Text)]);
    let (Some(view), Some(cache)) = (view(proxy), &proxy.cache) else {
        table.rows.push(row!["total", "enabled", 0_u32, "off: --cache on"]);
        return table;
    };
    let settings = proxy.settings();
    let freshness = settings.cache.freshness.as_str();
    table.rows.push(row!["total", "enabled", 1_u32, format!("freshness: {freshness}")]);
    let totals = [
        ("entries", view.entries as u64, String::new()),
        ("bytes", view.bytes as u64, format!("of {}", view.bytes_max)),
        ("hits", view.of_kind("hit"), format!("{:.1} % of what may be kept", 100.0 * view.hit_rate())),
        ("misses", view.of_kind("miss"), String::new()),
        ("refusals", view.of_kind("refusal"), String::new()),
        ("evicted", view.evicted, String::new()),
        ("saved_ms", cache.counts.saved_us.load(Ordering::Relaxed) / 1000, String::new()),
        ("compared", view.compared, String::new()),
        ("mismatches", view.mismatches, String::new()),
    ];
    table.rows.extend(totals.into_iter().map(|(name, value, text)| row!["total", name, value, text]));
    let reasons = view.reasons.iter().filter(|reason| reason.count > 0);
    table.rows.extend(reasons.map(|reason| row![reason.kind, reason.reason, reason.count, ""]));
    table.rows.extend(
        view.fills
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| row!["fill", *name, *count, ""]),
    );
    if let Some(shared) = &view.shared {
        let state = if shared.connected { "connected" } else { "not trusted" };
        table.rows.push(row!["shared", "connected", u32::from(shared.connected), state]);
        let databases = format!("of {} in use", shared.followed);
        table.rows.push(row!["shared", "trusted_databases", shared.trusted as u64, databases]);
        table.rows.extend(shared.counts.iter().map(|(name, count)| row!["shared", *name, *count, ""]));
    }
    let shapes = cache.shapes.list();
    table.rows.extend(shapes.iter().take(TOP_SHAPES).map(|shape| {
        row!["shape", shape.fingerprint.to_string(), shape.saved_us / 1000, shape.text.to_string()]
    }));
    table
}

/// SHOW CACHE_SHAPES: what was done for each shape, and why it was not answered from memory the last time it was not.
pub(super) fn shapes(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        ("fingerprint", Text),
        ("hits", Int8),
        ("misses", Int8),
        ("refusals", Int8),
        ("saved_ms", Int8),
        ("why_not", Text),
        ("off", Int8),
        ("shape", Text),
    ]);
    for shape in proxy.cache.iter().flat_map(|cache| cache.shapes.list()) {
        let ShapeSnapshot { fingerprint, text, hits, misses, refusals, saved_us, last, is_off } = shape;
        table.rows.push(row![
            fingerprint.to_string(),
            hits,
            misses,
            refusals,
            saved_us / 1000,
            last.map(Reason::as_str),
            is_off,
            text.to_string(),
        ]);
    }
    table
}

/// FLUSH CACHE: of a relation, by its name with or without a schema, in all databases; or everything. What is to be waited
/// for until other Weirs know.
pub(super) fn flush(proxy: &Proxy, relation: Option<&str>) -> Result<Vec<Telling>, Report> {
    let databases = proxy.splitting.iter().flat_map(|splitting| splitting.list());
    let Some(wanted) = relation else {
        let everything = Touched { everything: true, ..Touched::default() };
        let mut tellings: Vec<_> =
            databases.filter_map(|database| database.memory.written(&everything)).collect();
        // There may be results of databases that are not in use here.
        let shared = proxy.splitting.as_ref().and_then(|splitting| splitting.shared.as_ref());
        tellings.extend(shared.map(SharedCache::void_all));
        if let Some(cache) = &proxy.cache {
            cache.store.clear();
        }
        return Ok(tellings);
    };
    let (schema, name) =
        wanted.rsplit_once('.').map_or((None, wanted), |(schema, name)| (Some(schema), name));
    let (mut is_known, mut tellings) = (false, Vec::new());
    for database in databases {
        let Some(catalog) = database.catalog.latest() else { continue };
        let named = catalog.units_named(schema, name);
        is_known |= named.is_some();
        if let Some(relations) = named {
            tellings.extend(database.memory.written(&Touched { relations, ..Touched::default() }));
        }
    }
    if is_known {
        return Ok(tellings);
    }
    let message = format!("relation \"{wanted}\" does not exist in a database that is in use");
    Err(Report::new(Severity::Error, SqlState::UNDEFINED_TABLE, message)
        .with_hint("FLUSH CACHE without a name makes everything void."))
}
