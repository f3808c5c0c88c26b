//! The decision about a text, told to a person.

use super::decide::{Route, Target};
use crate::catalog::{Catalog, Effect, Touched};
use crate::pg::HostId;
use crate::sql::Analysis;
use crate::sql::class::{Call, Classification};
use crate::sql::classify::Classes;

/// Names and values, in order: each statement's class with the names in it, then what all of them do, then the route.
pub fn why(
    text: &[u8],
    analysis: &Analysis,
    classes: &Classes,
    catalog: Option<&Catalog>,
    effect: &Effect,
    route: &Route,
    host_name: impl Fn(HostId) -> String,
) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    for (statement, class) in analysis.statements.iter().zip(&classes.statements) {
        let source = String::from_utf8_lossy(statement.span.of(text));
        lines.push(("statement", source.split_whitespace().collect::<Vec<_>>().join(" ")));
        lines.push(("class", format!("{} ({})", class.class.as_str(), class.reason.as_str())));
        names_in(class, &mut lines);
    }
    let relations = |touched: &Touched| {
        let name = |id| catalog.and_then(|catalog| catalog.relation_name(id)).unwrap_or_default();
        let mut names: Vec<String> = touched.relations.iter().map(|id| name(*id)).collect();
        names.extend(touched.catalogs.then(|| "system catalogs".to_owned()));
        names.extend(touched.everything.then(|| "anything".to_owned()));
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    };
    lines.push(("reads", relations(&effect.reads)));
    lines.push(("writes", relations(&effect.writes)));
    lines.push(("volatility", effect.volatility.as_str().to_owned()));
    if effect.row_security {
        lines.push(("row security", "yes".to_owned()));
    }
    lines.push((
        "route",
        match route.target {
            Target::Primary => "primary".to_owned(),
            Target::Replica(host) => host_name(host),
        },
    ));
    lines.push(("reason", route.reason.as_str().to_owned()));
    if route.opens_block {
        lines.push(("transaction", "begins there".to_owned()));
    }
    lines
}

fn names_in(class: &Classification, lines: &mut Vec<(&'static str, String)>) {
    let mut add = |what, names: Vec<String>| {
        if !names.is_empty() {
            lines.push((what, names.join(", ")));
        }
    };
    let called = |call: &Call| match call.arguments {
        Some(count) => format!("{}/{count}", call.name),
        None => call.name.to_string(),
    };
    add("relations", class.relations.iter().map(|mention| mention.name.to_string()).collect());
    add("functions", class.functions.iter().map(called).collect());
    add("operators", class.operators.iter().map(ToString::to_string).collect());
    add("types", class.types.iter().map(ToString::to_string).collect());
}
