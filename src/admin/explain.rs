//! EXPLAIN: the plan of a shape that somebody asks for, on demand; and what somebody says to a piece of advice.

use super::table::{ColumnType, Table, row};
use crate::advice::entry::Decision;
use crate::client::Proxy;
use crate::control::Advisor;
use crate::pg::SqlState;
use crate::wire::build::{Report, Severity};

/// Its columns.
pub(super) fn columns() -> Table {
    Table::new(&[("name", ColumnType::Text), ("value", ColumnType::Text)])
}

/// Explains the shape of a fingerprint, with the values of an execution where one is kept.
pub(super) async fn explain(
    proxy: &Proxy,
    advisor: Option<&Advisor>,
    fingerprint: &str,
) -> Result<Table, Report> {
    let wrong = |message: String| Report::new(Severity::Error, SqlState::INVALID_PARAMETER_VALUE, message);
    let key = proxy.insight.as_ref().and_then(|insight| insight.state().find(fingerprint));
    let unknown = || wrong("there is no shape of this fingerprint".to_owned()).with_hint("SHOW SLOW");
    let (Some(key), Some(advisor)) = (key, advisor) else { return Err(unknown()) };
    let verdict = advisor.ask(key).await.map_err(wrong)?;
    let mut table = columns();
    table.rows.extend(verdict.findings.iter().map(|finding| row!["finding", finding.as_str()]));
    for advice in &verdict.advice {
        table.rows.push(row!["advice", format!("{} ({})", advice.ddl, advice.confidence.as_str())]);
    }
    if let Some((reason, detail)) = &verdict.no_index {
        table.rows.push(row!["no_index", format!("{}: {detail}", reason.as_str())]);
    }
    table.rows.push(row!["plan", verdict.plan]);
    Ok(table)
}

/// DISMISS, SNOOZE, REOPEN
pub(super) fn decide(proxy: &Proxy, id: &str, decision: Decision) -> Result<(), Report> {
    let is_known = proxy.insight.as_ref().is_some_and(|insight| insight.state().plans.decide(id, decision));
    if is_known {
        return Ok(());
    }
    let message = format!("there is no advice {id}");
    Err(Report::new(Severity::Error, SqlState::INVALID_PARAMETER_VALUE, message).with_hint("SHOW ADVICE"))
}
