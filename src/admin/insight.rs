//! What was seen of statements, as values: for the console's lists, the JSON interface and the dashboard.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use crate::admin::table::{ColumnType, Table, row};
use crate::advice::entry::{COLUMNS, State as Advised};
use crate::client::Proxy;
use crate::insight::entry::{without_strings, without_values};
use crate::insight::histogram::Histogram;
use crate::insight::patterns::Pattern;
use crate::insight::plans::Analyzed;
use crate::insight::routes::Route;
use crate::insight::state::{Counts, Marker, State};
use crate::insight::statistics::{MINUTES, Shape};
use ColumnType::{Int8, Text};

/// Rows of a list in the console.
const ROWS_MAX: usize = 50;

/// One shape.
#[derive(Clone, Debug, Serialize)]
pub(super) struct QueryView {
    pub(super) fingerprint: String,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) summary: String,
    pub(super) text: String,
    pub(super) route: Option<String>,
    pub(super) calls: u64,
    pub(super) errors: u64,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) total_seconds: f64,
    pub(super) mean_seconds: f64,
    pub(super) p50_seconds: f64,
    pub(super) p95_seconds: f64,
    pub(super) p99_seconds: f64,
    pub(super) max_seconds: f64,
    pub(super) server_mean_seconds: f64,
    pub(super) waits: u64,
    pub(super) wait_seconds: f64,
    pub(super) wait_max_seconds: f64,
    pub(super) replica_share: f64,
    pub(super) cache_share: f64,
    pub(super) reason: &'static str,
    pub(super) first_seen_seconds_ago: f64,
    pub(super) last_seen_seconds_ago: f64,
    /// Microseconds per minute, the current one last.
    pub(super) minutes: Vec<u64>,
    /// Lower ends in microseconds, and counts.
    pub(super) histogram: Vec<(u64, u64)>,
    pub(super) explained: Option<ExplainedView>,
}

/// What an analysis came to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ExplainedView {
    pub(super) findings: Vec<String>,
    pub(super) advice: Vec<String>,
    pub(super) no_index: Option<String>,
    pub(super) error: Option<String>,
    /// The plan as text, without values, and the one with the indexes that are advised, if the planner was asked.
    pub(super) plan: Option<String>,
    pub(super) plan_advised: Option<String>,
}

#[expect(clippy::cast_precision_loss, reason = "a share to look at")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn query(shape: &Shape, analyzed: Option<&Analyzed>, minute: u32, now: Instant) -> QueryView {
    let seconds = |time: Duration| time.as_secs_f64();
    let ago = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
    let queue = shape.queue.as_ref();
    let of_minute = |back: usize| {
        let number = minute.saturating_sub(u32::try_from(back).unwrap_or(u32::MAX));
        let slot = &shape.minutes[number as usize % MINUTES];
        if slot.number == number && number > 0 { slot.total_us } else { 0 }
    };
    let explained = analyzed.map(|analyzed| match &analyzed.outcome {
        Ok(verdict) => ExplainedView {
            findings: verdict.findings.iter().map(|finding| without_values(finding)).collect(),
            advice: verdict.advice.iter().map(crate::advice::verdict::Advice::id).collect(),
            no_index: verdict
                .no_index
                .as_ref()
                .map(|(reason, detail)| format!("{}: {}", reason.as_str(), without_strings(detail))),
            error: None,
            plan: verdict.plan_text.clone(),
            plan_advised: verdict.advice.iter().find_map(|advice| advice.proof.as_ref()?.plan_after.clone()),
        },
        Err(error) => ExplainedView {
            findings: Vec::new(),
            advice: Vec::new(),
            no_index: None,
            error: Some(error.clone()),
            plan: None,
            plan_advised: None,
        },
    });
    QueryView {
        fingerprint: shape.fingerprint.to_string(),
        database: shape.client.database.to_string(),
        user: shape.client.user.to_string(),
        summary: shape.summary(),
        text: shape.text.to_string(),
        route: shape.tags.as_ref().and_then(|tags| tags.route()),
        calls: shape.calls,
        errors: shape.errors,
        rows: shape.rows,
        bytes: shape.bytes,
        total_seconds: seconds(shape.total.sum()),
        mean_seconds: seconds(shape.total.mean()),
        p50_seconds: seconds(shape.total.quantile(500)),
        p95_seconds: seconds(shape.total.quantile(950)),
        p99_seconds: seconds(shape.total.quantile(990)),
        max_seconds: seconds(shape.total.max()),
        server_mean_seconds: seconds(shape.server.mean()),
        waits: queue.map_or(0, Histogram::count),
        wait_seconds: queue.map_or(0.0, |queue| seconds(queue.sum())),
        wait_max_seconds: queue.map_or(0.0, |queue| seconds(queue.max())),
        replica_share: share(shape.on_replicas, shape.calls),
        cache_share: share(shape.from_cache, shape.calls),
        reason: shape.reason,
        first_seen_seconds_ago: ago(shape.first_seen),
        last_seen_seconds_ago: ago(shape.last_seen),
        minutes: (0..MINUTES).rev().map(of_minute).collect(),
        histogram: shape.total.octaves(),
        explained,
    }
}

/// Shapes, those that took most time first; the one for all others last.
fn top(state: &State, limit: usize, now: Instant) -> Vec<QueryView> {
    let mut shapes: Vec<(u64, &Shape)> = state.statistics.iter().collect();
    shapes.sort_unstable_by_key(|(_, shape)| std::cmp::Reverse(shape.total.sum()));
    let minute = state.statistics.minute(now);
    let mut views: Vec<QueryView> = shapes
        .into_iter()
        .take(limit)
        .map(|(key, shape)| query(shape, state.plans.of(key), minute, now))
        .collect();
    views.extend(state.statistics.other.as_deref().map(|other| query(other, None, minute, now)));
    views
}

fn marker_json(marker: &Marker, now: Instant) -> Value {
    json!({
        "what": &*marker.what,
        "database": &*marker.database,
        "seconds_ago": now.saturating_duration_since(marker.at).as_secs_f64(),
    })
}

/// `/api/v1/queries`
pub(super) fn queries(proxy: &Proxy, limit: usize) -> Value {
    let Some(insight) = &proxy.insight else { return json!({ "enabled": false }) };
    let now = Instant::now();
    let state = insight.state();
    json!({
        "enabled": true,
        "since_seconds": now.saturating_duration_since(state.statistics.since).as_secs_f64(),
        "shapes": state.statistics.len(),
        "evicted": state.statistics.evicted,
        "markers": state.markers.iter().map(|marker| marker_json(marker, now)).collect::<Vec<_>>(),
        "queries": top(&state, limit, now),
    })
}

fn repeat(state: &State, pattern: &Pattern, now: Instant) -> Value {
    let text = |fingerprint| state.text(fingerprint, pattern.database_key);
    let parent = pattern.kind.parent().map(|parent| {
        json!({
            "fingerprint": parent.fingerprint.to_string(),
            "summary": parent.lookup.summary(),
            "text": text(parent.fingerprint),
        })
    });
    json!({
        "kind": pattern.kind.as_str(),
        "route": pattern.route,
        "database": &*pattern.client.database,
        "user": &*pattern.client.user,
        "application_name": &*pattern.client.application,
        "parent": parent,
        "child": { "fingerprint": pattern.child.0.to_string(), "summary": pattern.child.1.summary(), "text": text(pattern.child.0) },
        "scopes": pattern.scopes,
        "count_median": pattern.count_median(),
        "count_max": pattern.count_max,
        "count": pattern.count,
        "lost_seconds": pattern.lost.as_secs_f64(),
        "form": pattern.remedy.as_str(),
        "suggestion": pattern.suggestion(),
        "last_seen_seconds_ago": now.saturating_duration_since(pattern.last_seen).as_secs_f64(),
    })
}

/// `/api/v1/repeats`
pub(super) fn repeats(proxy: &Proxy) -> Value {
    let Some(insight) = &proxy.insight else { return json!({ "enabled": false }) };
    let now = Instant::now();
    let state = insight.state();
    let repeats: Vec<Value> =
        state.patterns.list().into_iter().map(|pattern| repeat(&state, pattern, now)).collect();
    json!({ "enabled": true, "repeats": repeats })
}

/// `/api/v1/routes`
pub(super) fn routes(proxy: &Proxy) -> Value {
    let Some(insight) = &proxy.insight else { return json!({ "enabled": false }) };
    let now = Instant::now();
    let state = insight.state();
    let patterns = state.patterns.list();
    let route = |route: &Route| {
        let repeats = patterns.iter().filter(|pattern| pattern.route.as_deref() == Some(&*route.name));
        json!({
            "route": &*route.name,
            "requests": route.requests,
            "statements": route.statements,
            "statements_per_request": share(route.statements, route.requests),
            "total_seconds": route.total.as_secs_f64(),
            "seconds_per_request": route.total.as_secs_f64() / share(route.requests, 1).max(1.0),
            "cache_share": share(route.from_cache, route.statements),
            "errors": route.errors,
            "repeats": repeats.map(|pattern| pattern.kind.as_str()).collect::<Vec<_>>(),
            "last_seen_seconds_ago": now.saturating_duration_since(route.last_seen).as_secs_f64(),
        })
    };
    json!({ "enabled": true, "routes": state.routes.list().into_iter().map(route).collect::<Vec<_>>() })
}

/// `/api/v1/advice`
pub(super) fn advice(proxy: &Proxy) -> Value {
    let Some(insight) = &proxy.insight else { return json!({ "enabled": false }) };
    let state = insight.state();
    let entry = |(database, entry): (std::sync::Arc<str>, &crate::advice::entry::Entry)| {
        let mut value = entry.to_json();
        value["database"] = json!(&*database);
        value
    };
    let advice: Vec<Value> = state.plans.advice().into_iter().map(entry).collect();
    let (explained, failed) = state.plans.counts();
    json!({ "enabled": true, "explained": explained, "failed": failed, "advice": advice })
}

/// `/api/v1/slow`
pub(super) fn slow(proxy: &Proxy) -> Value {
    let Some(insight) = &proxy.insight else { return json!({ "enabled": false }) };
    let state = insight.state();
    json!({ "enabled": true, "slow": state.recent.iter().rev().collect::<Vec<_>>() })
}

/// Everything that is one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct InsightView {
    pub(super) statements: u64,
    pub(super) slow: u64,
    pub(super) suppressed: u64,
    pub(super) lines_dropped: u64,
    pub(super) records_dropped: u64,
    pub(super) repeats: u64,
    pub(super) duplicates: u64,
    pub(super) batchable_writes: u64,
    pub(super) shapes: usize,
    pub(super) evicted: u64,
    pub(super) advice: usize,
}

/// `None`: nothing is watched.
pub(super) fn view(proxy: &Proxy) -> Option<InsightView> {
    let state = proxy.insight.as_ref()?.state();
    let counts: Counts = state.counts;
    Some(InsightView {
        statements: counts.statements,
        slow: counts.slow,
        suppressed: counts.suppressed,
        lines_dropped: counts.lines_dropped,
        records_dropped: counts.records_dropped,
        repeats: counts.repeats,
        duplicates: counts.duplicates,
        batchable_writes: counts.batchable_writes,
        shapes: state.statistics.len(),
        evicted: state.statistics.evicted,
        advice: state.plans.advice().iter().filter(|(_, entry)| entry.state == Advised::Open).count(),
    })
}

fn ms(seconds: f64) -> String {
    format!("{:.3}", seconds * 1000.0)
}

/// SHOW SLOW
pub(super) fn slow_table(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        ("fingerprint", Text),
        ("database", Text),
        ("calls", Int8),
        ("errors", Int8),
        ("total_ms", Text),
        ("mean_ms", Text),
        ("p95_ms", Text),
        ("p99_ms", Text),
        ("max_ms", Text),
        ("wait_ms", Text),
        ("rows", Int8),
        ("bytes", Int8),
        ("replica", Text),
        ("cache", Text),
        ("reason", Text),
        ("route", Text),
        ("query", Text),
    ]);
    let Some(insight) = &proxy.insight else { return table };
    let percent = |share: f64| format!("{:.0} %", share * 100.0);
    for view in top(&insight.state(), ROWS_MAX, Instant::now()) {
        table.rows.push(row![
            view.fingerprint,
            view.database,
            view.calls,
            view.errors,
            ms(view.total_seconds),
            ms(view.mean_seconds),
            ms(view.p95_seconds),
            ms(view.p99_seconds),
            ms(view.max_seconds),
            ms(view.wait_seconds),
            view.rows,
            view.bytes,
            percent(view.replica_share),
            percent(view.cache_share),
            view.reason,
            view.route,
            view.text,
        ]);
    }
    table
}

/// SHOW REPEATS
pub(super) fn repeats_table(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        ("kind", Text),
        ("route", Text),
        ("database", Text),
        ("parent", Text),
        ("child", Text),
        ("median", Int8),
        ("max", Int8),
        ("times", Int8),
        ("lost_ms", Text),
        ("remedy", Text),
        ("child_query", Text),
        ("suggestion", Text),
    ]);
    let Some(insight) = &proxy.insight else { return table };
    let state = insight.state();
    for pattern in state.patterns.list() {
        table.rows.push(row![
            pattern.kind.as_str(),
            pattern.route.clone(),
            pattern.client.database.to_string(),
            pattern.kind.parent().map(|parent| parent.lookup.summary()),
            pattern.child.1.summary(),
            pattern.count_median(),
            pattern.count_max,
            pattern.scopes,
            ms(pattern.lost.as_secs_f64()),
            pattern.remedy.as_str(),
            state.text(pattern.child.0, pattern.database_key),
            pattern.suggestion(),
        ]);
    }
    table
}

/// SHOW ADVICE
pub(super) fn advice_table(proxy: &Proxy) -> Table {
    let mut columns = vec![("database", Text)];
    columns.extend(COLUMNS.iter().map(|name| (*name, Text)));
    let mut table = Table { columns, rows: Vec::new() };
    let Some(insight) = &proxy.insight else { return table };
    for (database, entry) in insight.state().plans.advice() {
        let mut cells = row![database.to_string()];
        cells.extend(entry.row().map(super::table::Cell::from));
        table.rows.push(cells);
    }
    table
}
