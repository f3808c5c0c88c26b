//! Lines of the slow-query log: one JSON object each.
//!
//! Names are those of OpenTelemetry's semantic conventions for databases where there is one, else they begin with `weir.`.
//! `weir.schema` counts changes that a reader must know of; new keys alone are none. `tests/insight/slow_log.schema.json`
//! says which keys there are, of which type. Times under `weir.` are milliseconds, the metric's is in seconds.
//!
//! A line has no value of the client's unless `log_parameters` says so: its text is the shape.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::patterns::Pattern;
use super::plans::Analyzed;
use super::record::{Details, Record};
use super::repeats::{Found, Kind};
use super::samples::bound;
use super::statistics::Shape;
use super::time::rfc3339;
use crate::advice::entry::Entry;
use crate::config::LogParameters;
use crate::sql::analyze::analyze_into;
use crate::sql::scan::Scanner;

/// The version of the schema.
pub const SCHEMA: u32 = 1;

/// A host, as the log names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostName {
    /// `primary`, `replica1`.
    pub name: String,
    /// Name, address or path.
    pub address: String,
    /// Its port, unless it is a Unix socket.
    pub port: Option<u16>,
}

/// What is known when a slow statement is written.
#[derive(Clone, Copy, Debug)]
pub struct Slow<'a> {
    /// The statement.
    pub record: &'a Record,
    /// Its shape, with all that is known of it.
    pub shape: &'a Shape,
    /// When it began.
    pub began: SystemTime,
    /// What was slow enough, in milliseconds.
    pub threshold_ms: f64,
    /// Lines of the shape that were left out before this one.
    pub suppressed: u64,
    /// What of constants and parameters may be shown.
    pub parameters: LogParameters,
    /// The host that answered.
    pub host: Option<&'a HostName>,
    /// What the last analysis of the shape came to.
    pub analyzed: Option<&'a Analyzed>,
}

fn head(event: &str, severity: &str, at: SystemTime) -> Map<String, Value> {
    let mut line = Map::new();
    let mut put = |key: &str, value: Value| _ = line.insert(key.to_owned(), value);
    put("timestamp", rfc3339(at).into());
    put("event.name", event.into());
    put("weir.schema", SCHEMA.into());
    put("severity", severity.into());
    put("db.system.name", "postgresql".into());
    line
}

/// `db.query.slow`
pub fn slow(slow: &Slow<'_>) -> Value {
    let Slow { record, shape, .. } = slow;
    let mut line =
        head("db.query.slow", if record.sqlstate.is_some() { "ERROR" } else { "WARN" }, slow.began);
    let mut put = |key: &str, value: Value| _ = line.insert(key.to_owned(), value);
    if let Some(trace) = record.trace {
        put("trace_id", format!("{:032x}", trace.trace).into());
        put("span_id", format!("{:016x}", trace.span).into());
    }
    put("db.namespace", (*record.client.database).into());
    put("db.query.text", text(slow).into());
    put("db.query.summary", shape.summary().into());
    put("db.operation.name", shape.lookup.command.as_str().into());
    if let Some(table) = &shape.lookup.table {
        put("db.collection.name", table.as_str().into());
    }
    if let Some(sqlstate) = record.sqlstate {
        put("db.response.status_code", sqlstate.as_str().into());
        put("error.type", sqlstate.as_str().into());
    }
    if record.gives_rows {
        put("db.response.returned_rows", record.rows.into());
    }
    if let Some(host) = slow.host {
        put("server.address", host.address.as_str().into());
        put("server.port", json!(host.port));
    }
    if let Some(address) = record.client.address {
        put("client.address", address.ip().to_string().into());
        put("client.port", address.port().into());
    }
    put("db.client.operation.duration", json!(record.total.as_secs_f64()));
    let transfer = record.server.saturating_sub(record.first);
    let durations = json!({
        "total": ms(record.total),
        "queue": ms(record.queue),
        "backend": ms(record.server),
        "first_row": ms(record.first),
        "transfer": ms(transfer),
    });
    put("weir.duration_ms", durations);
    let route = match slow.host {
        Some(host) => format!("{}:{}", record.served.as_str(), host.name),
        None => record.served.as_str().to_owned(),
    };
    put("weir.route", route.into());
    put("weir.route_reason", record.reason.as_str().into());
    put("weir.cache", record.cached.as_str().into());
    put("weir.fingerprint", record.fingerprint.to_string().into());
    put("weir.rows", record.rows.into());
    put("weir.bytes_out", record.bytes.into());
    let transaction = record.transaction;
    let place = json!({
        "id": format!("{}-{}", record.client.process, transaction.number),
        "block": transaction.is_block,
        "statement_no": transaction.statement,
    });
    put("weir.tx", place);
    put("weir.user", (*record.client.user).into());
    put("weir.application_name", (*record.client.application).into());
    put("weir.tags", tags(record));
    put("weir.threshold_ms", json!(slow.threshold_ms));
    put("weir.suppressed", slow.suppressed.into());
    if let Some(Ok(verdict)) = slow.analyzed.map(|analyzed| &analyzed.outcome) {
        put(
            "weir.explain",
            json!({
                "findings": verdict.findings.iter().map(|finding| without_values(finding)).collect::<Vec<_>>(),
                "cost": verdict.cost,
                "rows_read": verdict.rows_read,
            }),
        );
        let ids: Vec<String> = verdict.advice.iter().map(crate::advice::verdict::Advice::id).collect();
        put("weir.advice_ids", ids.into());
    } else {
        put("weir.explain", Value::Null);
        put("weir.advice_ids", json!([]));
    }
    if let Some(parameters) =
        record.details.as_deref().and_then(|details| parameters(details, slow.parameters))
    {
        put("weir.params", parameters);
    }
    Value::Object(line)
}

/// `db.n_plus_one`, `db.duplicate_query` or `db.batchable_write`. `texts`: the parent's and the child's.
pub fn repeated(
    found: &Found,
    pattern: &Pattern,
    texts: (&str, &str),
    began: SystemTime,
    suppressed: u64,
) -> Value {
    let event = match found.kind {
        Kind::NPlusOne(_) => "db.n_plus_one",
        Kind::Duplicate => "db.duplicate_query",
        Kind::BatchableWrite => "db.batchable_write",
    };
    let mut line = head(event, "WARN", began);
    let mut put = |key: &str, value: Value| _ = line.insert(key.to_owned(), value);
    let record = &*found.last;
    if let Some(trace) = record.trace {
        put("trace_id", format!("{:032x}", trace.trace).into());
    }
    put("db.namespace", (*record.client.database).into());
    put("db.query.text", texts.1.into());
    put("db.query.summary", found.child.1.summary().into());
    put("db.operation.name", found.child.1.command.as_str().into());
    if let Some(table) = &found.child.1.table {
        put("db.collection.name", table.as_str().into());
    }
    put("weir.fingerprint", found.child.0.to_string().into());
    if let Some(parent) = found.kind.parent() {
        let parent = json!({
            "fingerprint": parent.fingerprint.to_string(),
            "text": texts.0,
            "rows": parent.rows,
        });
        put("weir.parent", parent);
    }
    let repeats = json!({
        "count": found.count,
        "total_ms": ms(found.total),
        "lost_ms": ms(found.lost()),
        "seen": pattern.scopes,
        "certainty": "possible",
    });
    put("weir.repeats", repeats);
    put("weir.suggestion", json!({ "form": pattern.remedy.as_str(), "text": pattern.suggestion() }));
    put("weir.user", (*record.client.user).into());
    put("weir.application_name", (*record.client.application).into());
    put("weir.tags", tags(record));
    put("weir.suppressed", suppressed.into());
    Value::Object(line)
}

/// `db.index_advice`
pub fn advised(entry: &Entry, shape: &Shape, at: SystemTime) -> Value {
    let mut line = head("db.index_advice", "INFO", at);
    let mut put = |key: &str, value: Value| _ = line.insert(key.to_owned(), value);
    put("db.namespace", (*shape.client.database).into());
    put("db.query.text", (*shape.text).into());
    put("db.query.summary", shape.summary().into());
    put("weir.fingerprint", shape.fingerprint.to_string().into());
    put("weir.advice_ids", json!([entry.merged.advice.id()]));
    put("weir.advice", entry.to_json());
    Value::Object(line)
}

fn text(slow: &Slow<'_>) -> String {
    let shape = slow.shape.text.to_string();
    let Some(details) = slow.record.details.as_deref() else { return shape };
    // CREATE ROLE ... PASSWORD, whatever is configured.
    let names_secret = shape.contains("password") || shape.contains("secret");
    match slow.parameters {
        LogParameters::Full if !names_secret => String::from_utf8_lossy(&details.text).into_owned(),
        LogParameters::Off | LogParameters::Redacted | LogParameters::Full => shape,
    }
}

/// A finding without the values in it: what PostgreSQL writes of a condition has the constants of one execution.
pub fn without_values(finding: &str) -> String {
    let Some((before, rest)) = finding.split_once(" leaves ") else { return finding.to_owned() };
    let Some((condition, behind)) = rest.rsplit_once(" to be filtered") else { return finding.to_owned() };
    let mut shape = Vec::new();
    let _ = analyze_into(condition.as_bytes(), true, &mut shape);
    format!("{before} leaves {} to be filtered{behind}", String::from_utf8_lossy(&shape))
}

/// A text in which string constants stand as `?`.
pub fn without_strings(text: &str) -> String {
    let (mut out, mut end) = (String::with_capacity(text.len()), 0);
    for token in Scanner::new(text.as_bytes(), true).filter(|token| token.kind.is_string()) {
        out.push_str(text.get(end..token.span.start).unwrap_or_default());
        out.push('?');
        end = token.span.end;
    }
    out.push_str(text.get(end..).unwrap_or_default());
    out
}

fn tags(record: &Record) -> Value {
    let pairs = record.tags.iter().flat_map(|tags| tags.iter());
    pairs.map(|(name, value)| (name.to_owned(), Value::from(value))).collect::<Map<_, _>>().into()
}

/// What was bound, as far as it may be shown; `None`: nothing.
fn parameters(details: &Details, allowed: LogParameters) -> Option<Value> {
    let bound = bound(&details.parameters, &details.types);
    if bound.is_empty() {
        return None;
    }
    let value = |value: &[u8], is_binary: bool| match std::str::from_utf8(value) {
        Ok(text) if !is_binary => text.to_owned(),
        _ => {
            let digits: Vec<String> = value.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("\\x{}", digits.concat())
        }
    };
    let shown = bound.iter().map(|one| {
        let mut shown = json!({
            "type_oid": one.type_oid,
            "format": if one.is_binary { "binary" } else { "text" },
            "bytes": one.value.as_ref().map(Vec::len),
        });
        if allowed == LogParameters::Full {
            shown["value"] = json!(one.value.as_ref().map(|bytes| value(bytes, one.is_binary)));
        }
        shown
    });
    match allowed {
        LogParameters::Off => None,
        LogParameters::Redacted | LogParameters::Full => Some(Value::Array(shown.collect())),
    }
}

/// Milliseconds, to the microsecond.
pub fn ms(time: std::time::Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "microseconds of years fit")]
    let us = time.as_micros() as f64;
    us / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_have_no_values() {
        for (finding, shown) in [
            ("reads all 300000 rows of big to find 60", "reads all 300000 rows of big to find 60"),
            (
                "index i of t leaves ((email = 'ada@example.org'::text) AND (n > 3)) to be filtered",
                "index i of t leaves ((email = ?::text) and (n > ?)) to be filtered",
            ),
        ] {
            assert_eq!(without_values(finding), shown);
        }
        assert_eq!(without_strings("a LIKE 'x''y%': two letters"), "a LIKE ?: two letters");
    }
}
