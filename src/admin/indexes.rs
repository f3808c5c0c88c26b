//! Indexes that exist and should not be as they are, of the tables that slow statements use.

use std::time::Instant;

use serde_json::{Value, json};

use super::table::{ColumnType, Table, row};
use crate::advice::existing::Finding;
use crate::client::Proxy;
use crate::insight::State;
use ColumnType::{Int8, Text};

/// All findings by database, but for what SHOW ADVICE says already.
fn findings(state: &State) -> Vec<(&str, &Finding)> {
    let advice = state.plans.advice();
    let is_advised = |dbname: &str, finding: &Finding| {
        advice.iter().any(|(of, entry)| {
            &**of == dbname
                && (entry.merged.advice.ddl == finding.ddl
                    || entry.drop_ddl().is_some_and(|drop| drop == finding.ddl))
        })
    };
    let mut found = Vec::new();
    for (dbname, looked) in state.indexes.list() {
        let new = looked.findings.iter().filter(|finding| !is_advised(dbname, finding));
        found.extend(new.map(|finding| (&**dbname, finding)));
    }
    found
}

/// `/api/v1/indexes`
pub(super) fn json(proxy: &Proxy) -> Value {
    let Some(insight) = &proxy.insight else { return json!({ "enabled": false }) };
    let now = Instant::now();
    let state = insight.state();
    let index = |(database, finding): (&str, &Finding)| {
        let mut value = finding.to_json();
        value["database"] = json!(database);
        value
    };
    let databases = state.indexes.list().into_iter().map(|(database, looked)| {
        json!({
            "database": &**database,
            "tables": looked.tables(),
            "looked_seconds_ago": looked.at.map(|at| now.saturating_duration_since(at).as_secs_f64()),
            "unused_unknown": looked.unknown.as_ref().map(ToString::to_string),
        })
    });
    let databases: Vec<Value> = databases.collect();
    let indexes: Vec<Value> = findings(&state).into_iter().map(index).collect();
    json!({ "enabled": true, "databases": databases, "indexes": indexes })
}

/// SHOW INDEXES
pub(super) fn table(proxy: &Proxy) -> Table {
    let mut table = Table::new(&[
        ("database", Text),
        ("kind", Text),
        ("table", Text),
        ("index", Text),
        ("bytes", Int8),
        ("ddl", Text),
        ("alternative", Text),
        ("reason", Text),
    ]);
    let Some(insight) = &proxy.insight else { return table };
    for (database, finding) in findings(&insight.state()) {
        table.rows.push(row![
            database,
            finding.kind.as_str(),
            format!("{}.{}", finding.table.0, finding.table.1),
            finding.index.clone(),
            finding.bytes,
            finding.ddl.clone(),
            finding.alternative.clone(),
            finding.reason.clone(),
        ]);
    }
    table
}
