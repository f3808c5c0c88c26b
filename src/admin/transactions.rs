//! Who holds what up: clients in transactions, idle or long, pinned ones, and those that wait for a lock.

use std::time::Duration;

use serde::Serialize;

use super::table::{ColumnType, Table, row};
use crate::client::{Activity, Proxy};
use crate::control::{LockWait, lock_waits};
use crate::sql::analyze::analyze_into;
use ColumnType::{Int8, Text};

/// What runs for so long is shown.
const LONG: Duration = Duration::from_secs(1);

/// Locks are asked for when something runs for so long.
const MAY_WAIT: Duration = Duration::from_millis(300);

/// One client.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TransactionView {
    pub(super) id: u32,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) application_name: String,
    pub(super) peer: String,
    pub(super) state: &'static str,
    pub(super) state_seconds: f64,
    pub(super) transaction_seconds: Option<f64>,
    pub(super) pins: Vec<&'static str>,
    pub(super) server: Option<u32>,
    /// The lock that it waits for.
    pub(super) waits_for: Option<String>,
    pub(super) wait_seconds: Option<f64>,
    /// Whom it waits for: clients of ours, else server processes.
    pub(super) blocked_by: Vec<String>,
    pub(super) fingerprint: Option<String>,
    pub(super) last_statement: String,
    pub(super) route: Option<String>,
}

/// All that are worth a look, those that have been at it for longest first.
pub(super) async fn transactions(proxy: &Proxy) -> Vec<TransactionView> {
    let waits = locks(proxy).await;
    let handles = proxy.clients.list();
    let mut views = Vec::new();
    for handle in &handles {
        let (activity, since) = handle.activity();
        let pins: Vec<&'static str> = handle.pins().iter().map(crate::sql::Pin::as_str).collect();
        let target = handle.target();
        let process = target.as_ref().map(|target| target.process().0);
        let wait = waits.iter().find(|wait| Some(wait.process) == process);
        let is_long = activity != Activity::Idle && since >= LONG;
        if activity != Activity::IdleInTransaction && pins.is_empty() && !is_long && wait.is_none() {
            continue;
        }
        let known = proxy.insight.as_ref().and_then(|insight| {
            let client = insight.client(handle.process.0)?;
            let (last, began) = client.noted();
            let state = insight.state();
            let shape = state.statistics.get(last.0 ^ client.database_key);
            let route = shape.and_then(|shape| shape.tags.as_ref()?.route());
            Some((last, began, shape.map_or_else(String::new, |shape| shape.text.to_string()), route))
        });
        let age = known
            .as_ref()
            .and_then(|(_, began, ..)| *began)
            .map(|began| handle.connected.elapsed().saturating_sub(began));
        let in_transaction = activity == Activity::IdleInTransaction || activity == Activity::Active;
        let of_process = |process: u32| {
            let holder =
                handles.iter().find(|other| other.server_process().is_some_and(|of| of.0 == process));
            holder.map_or_else(
                || format!("server process {process}"),
                |holder| format!("client {}", holder.process.0),
            )
        };
        views.push(TransactionView {
            id: handle.process.0,
            database: handle.tenant.database.clone(),
            user: handle.tenant.user.clone(),
            application_name: handle.application_name.to_string(),
            peer: handle.peer.to_string(),
            state: activity.as_str(),
            state_seconds: since.as_secs_f64(),
            transaction_seconds: in_transaction.then(|| age.unwrap_or(since).max(since).as_secs_f64()),
            pins,
            server: process,
            waits_for: wait.map(|wait| wait.lock.clone()),
            wait_seconds: wait.and_then(|wait| wait.waited).map(|waited| waited.as_secs_f64()),
            blocked_by: wait.iter().flat_map(|wait| &wait.blockers).map(|of| of_process(*of)).collect(),
            fingerprint: known.as_ref().filter(|known| known.0.0 != 0).map(|known| known.0.to_string()),
            last_statement: known
                .as_ref()
                .map(|known| known.2.clone())
                .filter(|text| !text.is_empty())
                // A shape that was never answered has no text here yet; the server has.
                .or_else(|| wait.map(|wait| shape(&wait.text)))
                .unwrap_or_default(),
            route: known.and_then(|known| known.3),
        });
    }
    let longest = |view: &TransactionView| view.transaction_seconds.unwrap_or(view.state_seconds);
    views.sort_by(|a, b| longest(b).total_cmp(&longest(a)));
    views
}

/// Who waits for a lock, if somebody may; nobody, where the primary does not tell.
async fn locks(proxy: &Proxy) -> Vec<LockWait> {
    let may_wait = |activity: (Activity, Duration)| activity.0 == Activity::Active && activity.1 >= MAY_WAIT;
    if !proxy.clients.list().iter().any(|handle| may_wait(handle.activity())) {
        return Vec::new();
    }
    let Some(primary) = proxy.hosts.primary() else { return Vec::new() };
    let settings = proxy.settings();
    let asked = Box::pin(lock_waits(proxy.hosts.host(primary), &settings.servers)).await;
    asked.unwrap_or_else(|error| {
        tracing::debug!(%error, "the primary does not tell who waits for locks");
        Vec::new()
    })
}

/// A text without its constants.
fn shape(text: &str) -> String {
    let mut shape = Vec::new();
    let _ = analyze_into(text.as_bytes(), true, &mut shape);
    String::from_utf8_lossy(&shape).into_owned()
}

/// The columns of SHOW TRANSACTIONS.
pub(super) fn columns() -> Table {
    Table::new(&[
        ("id", Int8),
        ("database", Text),
        ("user", Text),
        ("application_name", Text),
        ("addr", Text),
        ("state", Text),
        ("state_s", Text),
        ("transaction_s", Text),
        ("pins", Text),
        ("server_pid", Int8),
        ("waits_for", Text),
        ("blocked_by", Text),
        ("route", Text),
        ("fingerprint", Text),
        ("last_statement", Text),
    ])
}

/// SHOW TRANSACTIONS
pub(super) async fn table(proxy: &Proxy) -> Table {
    let mut table = columns();
    for view in transactions(proxy).await {
        table.rows.push(row![
            view.id,
            view.database,
            view.user,
            view.application_name,
            view.peer,
            view.state,
            format!("{:.3}", view.state_seconds),
            view.transaction_seconds.map(|seconds| format!("{seconds:.3}")),
            view.pins.join(","),
            view.server,
            view.waits_for,
            view.blocked_by.join(", "),
            view.route,
            view.fingerprint,
            view.last_statement,
        ]);
    }
    table
}
