//! Executions of a statement to be explained, and values for one whose own are not known.

use super::condition::{Expr, Kind};
use super::plan::Node;
use super::schema::{ColumnFacts, Schema};

/// One parameter as it was bound.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Bound {
    /// The bytes; `None` for NULL.
    pub value: Option<Vec<u8>>,
    /// In the type's binary format.
    pub is_binary: bool,
    /// The type that Parse named; 0 for none.
    pub type_oid: u32,
}

/// One execution: the text as the client sent it, and what it bound.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Sample {
    /// The statement.
    pub text: String,
    /// Its parameters; empty though the text has some: they are not known.
    pub bound: Vec<Bound>,
}

/// How a plan is had for values that are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generic {
    /// By `GENERIC_PLAN` of EXPLAIN.
    Explain,
    /// By EXPLAIN EXECUTE of a statement that is prepared for it, with `force_generic_plan`.
    Prepare,
}

/// EXPLAIN knows `GENERIC_PLAN` since.
const GENERIC_PLAN_SINCE: i32 = 160_000;

/// The ways to a plan for values that are not known on a server of this version, to be gone in turn until one is not refused.
pub fn generic(server_version: i32) -> &'static [Generic] {
    if server_version >= GENERIC_PLAN_SINCE {
        &[Generic::Explain, Generic::Prepare]
    } else {
        &[Generic::Prepare]
    }
}

/// A value in the text format.
pub fn bound_text(value: impl Into<String>) -> Bound {
    Bound { value: Some(value.into().into_bytes()), is_binary: false, type_oid: 0 }
}

/// Typical values for the parameters of a statement, from the statistics of what they are compared with. `types` are the
/// parameters' types, `plan` is the generic plan, and `limits` are parameters of LIMIT.
///
/// They stand for what the planner assumes of a value that it does not know: one of average frequency, a tail of two
/// hundredths for a range with one end, less for one with two.
pub fn typical(types: &[String], plan: &Node, schema: &Schema, limits: &[u32]) -> Vec<Bound> {
    let mut values: Vec<Option<String>> = vec![None; types.len()];
    let mut uses = Vec::new();
    plan.walk(&mut |node| {
        for condition in node.filter.iter().chain(&node.index_conditions).chain(&node.join_conditions) {
            collect(condition, &mut uses);
        }
    });
    for (number, use_) in &uses {
        let column = plan_column(plan, schema, use_.column);
        let Some(slot) = number.checked_sub(1).and_then(|at| values.get_mut(at as usize)) else { continue };
        if slot.is_none() {
            let is_closed = uses.iter().any(|(other, known)| {
                other != number && known.column == use_.column && is_range(known.operator)
            });
            *slot = column.and_then(|column| value(column, use_, is_closed, schema.server.has_trgm));
        }
    }
    let pairs = types.iter().zip(values).enumerate();
    pairs
        .map(|(at, (of_type, value))| {
            let is_limit = u32::try_from(at + 1).is_ok_and(|number| limits.contains(&number));
            bound_text(if is_limit {
                LIMIT.to_owned()
            } else {
                value.unwrap_or_else(|| default(of_type).to_owned())
            })
        })
        .collect()
}

/// What is taken for a LIMIT that is not known.
const LIMIT: &str = "20";

struct Use<'a> {
    column: &'a Expr,
    operator: &'a str,
    is_list: bool,
}

fn collect<'a>(expr: &'a Expr, uses: &mut Vec<(u32, Use<'a>)>) {
    let mut note = |column: &'a Expr, operator: &'a str, value: &Expr, is_list| {
        if let (Some(number), Some(_)) = (value.parameter(), column.without_relabel().column()) {
            uses.push((number, Use { column: column.without_relabel(), operator, is_list }));
        }
    };
    match &expr.kind {
        Kind::Operator(operator, left, right) => {
            if let (Kind::Row(left), Kind::Row(right)) = (&left.kind, &right.kind) {
                left.iter().zip(right).for_each(|(left, right)| note(left, operator, right, false));
            }
            note(left, operator, right, false);
            note(right, operator, left, false);
        }
        Kind::Quantified { operator, left, right, .. } => {
            note(left, operator, right, true);
            if let Kind::Call(_, values) = &right.kind {
                for value in values {
                    note(left, operator, value, false);
                }
            }
        }
        Kind::And(parts) | Kind::Or(parts) => parts.iter().for_each(|part| collect(part, uses)),
        Kind::Not(inner) => collect(inner, uses),
        _ => {}
    }
}

fn plan_column<'a>(plan: &Node, schema: &'a Schema, column: &Expr) -> Option<&'a ColumnFacts> {
    let column = column.column()?;
    let mut relation = None;
    plan.walk(&mut |node| {
        if node.alias == column.alias && node.relation.is_some() {
            relation.clone_from(&node.relation);
        }
    });
    schema.table(&relation?)?.column(&column.name)
}

fn is_range(operator: &str) -> bool {
    matches!(operator, "<" | "<=" | ">" | ">=")
}

fn value(column: &ColumnFacts, use_: &Use<'_>, is_closed: bool, has_trgm: bool) -> Option<String> {
    let bounds = &column.histogram;
    let at = |share: (usize, usize)| bounds.get(bounds.len().saturating_sub(1) * share.0 / share.1).cloned();
    match use_.operator {
        "=" if use_.is_list => {
            let values: Vec<String> = [(1, 4), (1, 2), (3, 4)].into_iter().filter_map(at).collect();
            let quoted = values
                .iter()
                .map(|value| format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\"")));
            (!values.is_empty()).then(|| format!("{{{}}}", quoted.collect::<Vec<_>>().join(",")))
        }
        "=" => at((1, 2)).or_else(|| average(column)),
        // A range with two ends is a narrow one; one with one end is a tail.
        ">" | ">=" if is_closed => at((1, 2)),
        "<" | "<=" if is_closed => Some(narrow(&at((1, 2))?, bounds.get(middle(bounds) + 1)?)),
        ">" | ">=" => at((98, 100)),
        "<" | "<=" => at((2, 100)),
        "~~" | "~~*" if has_trgm => Some("%weirqz%".to_owned()),
        "~~" | "~~*" => Some("weirqz%".to_owned()),
        _ => None,
    }
}

fn middle(bounds: &[String]) -> usize {
    bounds.len().saturating_sub(1) / 2
}

/// A value a little above the lower one, and not above the upper.
fn narrow(lower: &str, upper: &str) -> String {
    if let (Ok(from), Ok(to)) = (lower.parse::<f64>(), upper.parse::<f64>()) {
        let step = (to - from) / 10.0;
        let is_whole = !lower.contains('.') && !upper.contains('.');
        return if is_whole {
            format!("{:.0}", from + step.max(1.0).round())
        } else {
            (from + step).to_string()
        };
    }
    // The end of the day: 2024-05-05 10:00:00+00
    let (day, time) = lower.split_at_checked(10).unwrap_or((lower, ""));
    if time.starts_with(' ') && day.as_bytes().get(4) == Some(&b'-') {
        let zone = time.rfind(['+', '-']).map_or("", |at| &time[at..]);
        return format!("{day} 23:59:59.999{zone}");
    }
    upper.to_owned()
}

/// The common value whose share is nearest to the average one.
fn average(column: &ColumnFacts) -> Option<String> {
    #[expect(clippy::cast_precision_loss, reason = "a hundred")]
    let share = (1.0 - column.null_share) / column.common.len().max(1) as f64;
    let distance = |common: &&(String, f64)| (common.1 / share).ln().abs();
    column.common.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).map(|(value, _)| value.clone())
}

/// Something that the type takes.
fn default(of_type: &str) -> &'static str {
    match of_type {
        "int2" | "int4" | "int8" | "numeric" | "float4" | "float8" | "oid" => "1",
        "bool" => "true",
        "date" | "timestamp" | "timestamptz" => "2024-01-01",
        "time" | "timetz" => "12:00",
        "interval" => "1 day",
        "uuid" => "00000000-0000-0000-0000-000000000001",
        "json" | "jsonb" => "{\"weir\": 1}",
        "inet" | "cidr" => "10.0.0.1",
        "bytea" => "\\x00",
        "_int2" | "_int4" | "_int8" => "{1}",
        "tsquery" => "weir",
        name if name.ends_with("range") => "empty",
        name if name.starts_with('_') => "{weir}",
        _ => "weir",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_does_not_know_it_is_not_asked() {
        for (version, expected) in [
            (150_010, &[Generic::Prepare][..]),
            (159_999, &[Generic::Prepare]),
            (160_000, &[Generic::Explain, Generic::Prepare]),
            (180_001, &[Generic::Explain, Generic::Prepare]),
        ] {
            assert_eq!(generic(version), expected, "{version}");
        }
    }
}
