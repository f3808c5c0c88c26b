//! Whether an expression may stand in an index: PostgreSQL demands that it is immutable (manual, 38.7 Function Volatility
//! Categories). Found by inferring types from the columns up, since `date_trunc` is immutable for one type of
//! timestamp and not for the other.

use super::condition::{Expr, Kind};
use super::schema::{Function, Schema, Table};

/// A type that is not known; a constant's, before it is cast.
const UNKNOWN: &str = "unknown";

/// Types that are converted to and from text without regard to settings. Dates and times depend on `DateStyle` and
/// `TimeZone`.
const PLAIN: &[&str] = &[
    "text",
    "character varying",
    "character",
    "bpchar",
    "name",
    "smallint",
    "integer",
    "bigint",
    "numeric",
    "real",
    "double precision",
    "boolean",
    "uuid",
    "jsonb",
    "json",
    "inet",
    "cidr",
    UNKNOWN,
];

/// The expression's type if it is immutable.
pub fn immutable_type(expr: &Expr, table: &Table, schema: &Schema) -> Option<String> {
    let type_of = |expr: &Expr| immutable_type(expr, table, schema);
    match &expr.kind {
        Kind::Column(column) => table.column(&column.name).map(|column| column.type_name.clone()),
        Kind::Constant(_) => {
            let is_string = expr.source.contains('\'');
            let is_integer = expr.source.chars().all(|c| c.is_ascii_digit() || "()-".contains(c));
            Some(
                if is_string {
                    UNKNOWN
                } else if is_integer {
                    "integer"
                } else {
                    UNKNOWN
                }
                .to_owned(),
            )
        }
        Kind::Cast(inner, to) => {
            if inner.constant().is_some() {
                return Some(to.clone());
            }
            let from = type_of(inner)?;
            let by_function = schema.casts.get(&(from.clone(), to.clone())).copied();
            let is_relabel = || PLAIN.contains(&from.as_str()) && PLAIN.contains(&to.as_str());
            (from == *to || by_function.unwrap_or_else(is_relabel)).then(|| to.clone())
        }
        Kind::Operator(operator, left, right) => {
            overload(schema.functions.get(operator)?, &[type_of(left)?, type_of(right)?])
        }
        Kind::Call(name, arguments) => {
            let types = arguments.iter().map(type_of).collect::<Option<Vec<_>>>()?;
            match name.as_str() {
                "COALESCE" | "GREATEST" | "LEAST" | "NULLIF" => types.into_iter().find(|of| of != UNKNOWN),
                _ => overload(schema.functions.get(name)?, &types),
            }
        }
        Kind::IsNull(inner, _) | Kind::Not(inner) => type_of(inner).map(|_| "boolean".to_owned()),
        Kind::And(parts) | Kind::Or(parts) => {
            parts.iter().all(|part| type_of(part).is_some()).then(|| "boolean".to_owned())
        }
        // EXTRACT(year FROM a): immutable unless the time zone decides.
        Kind::Other if expr.source.trim_start_matches('(').starts_with("EXTRACT(") => {
            let column = &expr.columns.first()?.1;
            let of = &table.column(&column.name)?.type_name;
            let is_plain =
                matches!(of.as_str(), "date" | "timestamp without time zone") && expr.columns.len() == 1;
            is_plain.then(|| "numeric".to_owned())
        }
        Kind::Parameter(_) | Kind::Quantified { .. } | Kind::Row(_) | Kind::Other => None,
    }
}

/// What the overload for these types gives. Where more than one fits all must be immutable.
fn overload(overloads: &[Function], types: &[String]) -> Option<String> {
    let same_length = overloads.iter().filter(|function| function.arguments.len() == types.len());
    let exact: Vec<_> = same_length
        .clone()
        .filter(|function| {
            function.arguments.iter().zip(types).all(|(wanted, given)| is_exact(wanted, given))
        })
        .collect();
    let fitting: Vec<_> = if exact.is_empty() {
        same_length
            .filter(|function| {
                function.arguments.iter().zip(types).all(|(wanted, given)| may_be(wanted, given))
            })
            .collect()
    } else {
        exact
    };
    let first = fitting.first()?;
    fitting.iter().all(|function| function.immutable).then(|| first.returns.clone())
}

fn is_exact(wanted: &str, given: &str) -> bool {
    given == UNKNOWN || base(wanted) == base(given)
}

fn may_be(wanted: &str, given: &str) -> bool {
    is_exact(wanted, given)
        || wanted.starts_with("any")
        // Numbers are widened.
        || matches!(
            (given, wanted),
            ("smallint" | "integer" | "bigint" | "numeric" | "real", "numeric" | "double precision" | "bigint")
        )
}

/// What a binary-coercible type is taken for.
fn base(of: &str) -> &str {
    match of {
        "character varying" => "text",
        "character" => "bpchar",
        other => other,
    }
}
