//! `weir advise`: reads statements, explains them on a replica if there is one, and prints which indexes they lack.

use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Builder;

use crate::advice::choice::Limits;
use crate::advice::existing::Finding;
use crate::advice::merge::{Merged, Served, merge};
use crate::advice::samples::{Bound, Sample, bound_text};
use crate::advice::schema::TableName;
use crate::advice::verdict::{Advice, Verdict};
use crate::config::Settings;
use crate::control::{ControlError, ExplainOptions, Explainer, Inspection, Request, inventory};
use crate::net::tls;
use crate::server::Hosts;
use crate::sql::analyze;
use crate::sql::classify::classify_anywhere;
use crate::sql::limits::PARSE_STACK_BYTES;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Statements of the command line.
    pub texts: Vec<String>,
    /// A file of statements; `-` is standard input.
    pub file: Option<PathBuf>,
    /// The client's `search_path`.
    pub search_path: Option<String>,
    /// Print JSON.
    pub json: bool,
    /// As if HypoPG were not installed.
    pub without_hypopg: bool,
    /// As if the values of parameters were not known.
    pub without_values: bool,
}

/// Why there is no advice.
#[derive(Debug, thiserror::Error)]
pub enum AdviseError {
    /// There is nobody to ask.
    #[error("no host lets Weir in{0}")]
    NoHost(String),
    /// Nothing was asked.
    #[error("no statement is given: name some, or a file of them with --statements")]
    NoStatement,
    /// A line of the file.
    #[error("line {0}: not an object with \"text\" and, if it has parameters, \"values\"")]
    Line(usize),
    /// The host, while it was asked.
    #[error("{0}")]
    Control(#[from] ControlError),
    /// A certificate or key.
    #[error("{0}")]
    Tls(#[from] tls::SetupError),
    /// No event loop, no thread, no file, or nowhere to print.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// A statement with executions of it.
#[derive(Clone, Debug, Default, PartialEq)]
struct Asked {
    name: String,
    samples: Vec<Sample>,
    calls: f64,
    mean_ms: f64,
}

/// Asks, and prints the advice on standard output.
pub fn run(settings: &Settings, options: &Options) -> Result<(), AdviseError> {
    let asked = read(options)?;
    if asked.is_empty() {
        return Err(AdviseError::NoStatement);
    }
    // The parser wants a deep stack; so it gets a thread, and the event loop with it.
    let (settings, options) = (settings.clone(), options.clone());
    let advising = std::thread::Builder::new().stack_size(PARSE_STACK_BYTES).spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (verdicts, existing) = runtime.block_on(Box::pin(advise(&settings, &options, &asked)))?;
        let mut out = std::io::stdout().lock();
        if options.json {
            print_json(&mut out, &asked, &verdicts, &existing)
        } else {
            print_text(&mut out, &asked, &verdicts, &existing)
        }
    })?;
    advising.join().unwrap_or_else(|_| Err(std::io::Error::other("the analysis ended unexpectedly").into()))
}

fn read(options: &Options) -> Result<Vec<Asked>, AdviseError> {
    let mut asked: Vec<Asked> = options.texts.iter().flat_map(|text| statements(text)).collect();
    if let Some(file) = &options.file {
        let mut text = String::new();
        if file.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut text)?;
        } else {
            text = std::fs::read_to_string(file)?;
        }
        if text.trim_start().starts_with('{') {
            let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
            for (at, line) in lines {
                asked.push(object(line).ok_or(AdviseError::Line(at + 1))?);
            }
        } else {
            asked.extend(statements(&text));
        }
    }
    for (at, one) in asked.iter_mut().enumerate() {
        if one.name.is_empty() {
            one.name = (at + 1).to_string();
        }
        if options.without_values {
            one.samples.iter_mut().for_each(|sample| sample.bound.clear());
        }
    }
    Ok(asked)
}

/// The statements of SQL text.
fn statements(text: &str) -> Vec<Asked> {
    let analysis = analyze(text.as_bytes(), true);
    let texts =
        analysis.statements.iter().filter_map(|statement| text.get(statement.span.start..statement.span.end));
    let texts = texts.map(str::trim).filter(|text| !text.is_empty());
    let sample = |text: &str| Sample { text: text.to_owned(), bound: Vec::new() };
    texts.map(|text| Asked { samples: vec![sample(text)], ..Asked::default() }).collect()
}

/// `{"text": "... $1", "values": ["a"], "name": "...", "calls": 10, "mean_ms": 20}`; `samples` holds several lists of values.
fn object(line: &str) -> Option<Asked> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = value.get("text")?.as_str()?;
    let list = |values: &Value| values.as_array().map(|values| values.iter().map(bound).collect::<Vec<_>>());
    let bounds = match (value.get("samples"), value.get("values")) {
        (Some(samples), _) => samples.as_array()?.iter().map(list).collect::<Option<Vec<_>>>()?,
        (None, Some(values)) => vec![list(values)?],
        (None, None) => vec![Vec::new()],
    };
    let number = |key: &str| value.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    Some(Asked {
        name: value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(),
        samples: bounds.into_iter().map(|bound| Sample { text: text.to_owned(), bound }).collect(),
        calls: number("calls"),
        mean_ms: number("mean_ms"),
    })
}

fn bound(value: &Value) -> Bound {
    match value {
        Value::Null => Bound::default(),
        Value::String(text) => bound_text(text.as_str()),
        other => bound_text(other.to_string()),
    }
}

async fn advise(
    settings: &Settings,
    options: &Options,
    asked: &[Asked],
) -> Result<(Vec<Verdict>, Vec<Finding>), AdviseError> {
    let explain = ExplainOptions {
        hypopg: !options.without_hypopg,
        limits: Limits::default(),
        ..ExplainOptions::default()
    };
    let hosts = Hosts::new(settings)?;
    let mut explainer = Box::pin(connect(&hosts, settings, explain)).await?;
    let mut verdicts = Vec::new();
    for one in asked {
        let text = one.samples.first().map(|sample| sample.text.as_bytes()).unwrap_or_default();
        let analysis = analyze(text, true);
        let request = Request {
            samples: one.samples.clone(),
            classes: Some(classify_anywhere(text, true, &analysis)),
            search_path: options.search_path.clone(),
            ..Request::default()
        };
        verdicts.push(Box::pin(explainer.advise(&request)).await?);
    }
    let existing = Box::pin(existing(&hosts, settings, &verdicts)).await;
    Ok((verdicts, existing))
}

/// What is wrong with the indexes that their tables have. Whether one is unused nobody knows who looks once; and where no
/// primary is among the hosts nothing is said.
async fn existing(hosts: &Hosts, settings: &Settings, verdicts: &[Verdict]) -> Vec<Finding> {
    let mut tables: Vec<TableName> =
        verdicts.iter().flat_map(|verdict| verdict.tables.iter().cloned()).collect();
    tables.sort();
    tables.dedup();
    if tables.is_empty() {
        return Vec::new();
    }
    let asking = inventory(hosts, &settings.servers, &settings.servers.control.database, &tables);
    match asking.await {
        Ok(Some(inventory)) => inventory.findings(|_| Duration::ZERO),
        Ok(None) | Err(_) => Vec::new(),
    }
}

/// To a replica, if there is one.
async fn connect(
    hosts: &Hosts,
    settings: &Settings,
    options: ExplainOptions,
) -> Result<Explainer, AdviseError> {
    let (mut primaries, mut replicas, mut errors) = (Vec::new(), Vec::new(), String::new());
    for host in hosts.list() {
        match Box::pin(Inspection::begin(&host.connector, &settings.servers)).await {
            Ok(inspection) if inspection.findings.in_recovery => replicas.push(host),
            Ok(_) => primaries.push(host),
            Err(error) => errors = format!("{errors}; {}: {error}", host.name()),
        }
    }
    for host in replicas.into_iter().chain(primaries) {
        let (login, timeout) = (&settings.servers.control, settings.servers.connect_timeout);
        match Box::pin(Explainer::open(&host.connector, login, timeout, options.clone())).await {
            Ok(explainer) => return Ok(explainer),
            Err(error) => errors = format!("{errors}; {}: {error}", host.name()),
        }
    }
    Err(AdviseError::NoHost(errors))
}

/// What the statements' advice comes to together.
fn merged(asked: &[Asked], verdicts: &[Verdict]) -> Vec<Merged> {
    let served =
        |one: &Asked| Served { name: one.name.clone(), calls_per_hour: one.calls, mean_ms: one.mean_ms };
    let pairs: Vec<_> =
        asked.iter().zip(verdicts).map(|(one, verdict)| (served(one), verdict.advice.clone())).collect();
    merge(&pairs)
}

fn print_json(
    out: &mut impl std::io::Write,
    asked: &[Asked],
    verdicts: &[Verdict],
    existing: &[Finding],
) -> Result<(), AdviseError> {
    let statement = |(one, verdict): (&Asked, &Verdict)| {
        let no_index = verdict.no_index.as_ref();
        json!({
            "name": one.name,
            "text": one.samples.first().map(|sample| sample.text.as_str()),
            "cost": verdict.cost,
            "findings": verdict.findings,
            "advice": verdict.advice.iter().map(Advice::to_json).collect::<Vec<_>>(),
            "no_index": no_index.map(|(reason, detail)| json!({"reason": reason.as_str(), "detail": detail})),
        })
    };
    let statements: Vec<Value> = asked.iter().zip(verdicts).map(statement).collect();
    let together: Vec<Value> = merged(asked, verdicts).iter().map(Merged::to_json).collect();
    let existing: Vec<Value> = existing.iter().map(Finding::to_json).collect();
    writeln!(out, "{:#}", json!({"statements": statements, "advice": together, "indexes": existing}))?;
    Ok(())
}

fn print_text(
    out: &mut impl std::io::Write,
    asked: &[Asked],
    verdicts: &[Verdict],
    existing: &[Finding],
) -> Result<(), AdviseError> {
    for (one, verdict) in asked.iter().zip(verdicts) {
        let text =
            one.samples.first().map(|sample| sample.text.split_whitespace().collect::<Vec<_>>().join(" "));
        let text: String = text.unwrap_or_default().chars().take(100).collect();
        writeln!(out, "{}  {text}", one.name)?;
        for finding in &verdict.findings {
            writeln!(out, "    {finding}")?;
        }
        for advice in &verdict.advice {
            let gain = advice.speedup().map(|times| format!(", plan cost / {times:.0}")).unwrap_or_default();
            writeln!(
                out,
                "  {} ({}{gain}): {}",
                advice.kind.as_str(),
                advice.confidence.as_str(),
                advice.reason
            )?;
            writeln!(out, "      {};", advice.ddl)?;
            for caveat in advice.related.iter().chain(&advice.caveats) {
                writeln!(out, "      -- {caveat}")?;
            }
            for (ddl, reason) in &advice.variants {
                writeln!(out, "      -- or: {ddl}; -- {reason}")?;
            }
        }
        if let Some((reason, detail)) = &verdict.no_index {
            writeln!(out, "  no index helps: {} ({detail})", reason.as_str())?;
        }
        writeln!(out)?;
    }
    let together = merged(asked, verdicts);
    if asked.len() > 1 && !together.is_empty() {
        writeln!(out, "All in all:")?;
        for merged in together {
            writeln!(out, "  {};  -- for {}", merged.advice.ddl, merged.serves.join(", "))?;
        }
    }
    let is_said = |finding: &&Finding| {
        verdicts.iter().flat_map(|verdict| &verdict.advice).any(|advice| advice.ddl == finding.ddl)
    };
    let existing: Vec<&Finding> = existing.iter().filter(|finding| !is_said(finding)).collect();
    if !existing.is_empty() {
        writeln!(out, "Indexes of these tables:")?;
    }
    for finding in existing {
        writeln!(out, "  {} {}: {}", finding.kind.as_str(), finding.index, finding.reason)?;
        writeln!(out, "      {};", finding.ddl)?;
        if let Some(alternative) = &finding.alternative {
            writeln!(out, "      -- or: {alternative};")?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_come_as_sql_or_as_lines_of_json() {
        let texts: Vec<_> = statements("SELECT 1; -- x\nSELECT ';' ;")
            .into_iter()
            .map(|one| one.samples[0].text.clone())
            .collect();
        assert_eq!(texts, ["SELECT 1", "SELECT ';'"]);
        let one = object(r#"{"name": "a", "text": "SELECT $1, $2", "values": [5, null]}"#).unwrap();
        assert_eq!(one.samples[0].bound, [bound_text("5"), Bound::default()]);
        assert_eq!(object(r#"{"text": "SELECT $1", "samples": [["1"], ["2"]]}"#).unwrap().samples.len(), 2);
        assert_eq!(object("{}"), None);
    }
}
