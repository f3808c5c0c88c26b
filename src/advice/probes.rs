//! Questions about how many rows pass a condition: the planner is asked with a query of one table, so that its
//! statistics of every type, of expressions and of several columns count, and none of them has to be read here.

use super::identifier::quoted;
use super::predicates::{Access, Predicate, Test};
use super::schema::Schema;

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which access.
    pub access: usize,
    /// The conditions that are asked together.
    pub sources: Vec<String>,
    /// What to EXPLAIN; the rows of its topmost node are the answer.
    pub sql: String,
}

/// More than this are not asked about one statement.
const PROBES_MAX: usize = 24;

/// All that must be asked. Before that shares are what statistics of the column give.
pub fn probes(accesses: &mut [Access], schema: &Schema) -> Vec<Probe> {
    let mut found = Vec::new();
    for (at, access) in accesses.iter_mut().enumerate() {
        let Some(table) = schema.table(&access.table) else { continue };
        if table.is_small() {
            continue;
        }
        let (namespace, name) = &access.table;
        let relation = format!("{}.{} {}", quoted(namespace), quoted(name), quoted(&access.alias));
        let guess = |p: &Predicate| {
            let column = p.target.column.as_deref().and_then(|name| table.column(name));
            let one = column.map_or(0.005, |column| column.share_of_one(table.tuples));
            match p.test {
                Test::Equal => one,
                #[expect(clippy::cast_precision_loss, reason = "a list of values")]
                Test::In(values) => (one * values as f64).min(1.0),
                Test::IsNull => column.map_or(0.005, |column| column.null_share),
                Test::NotNull => column.map_or(0.995, |column| 1.0 - column.null_share),
                Test::True | Test::False => 0.5,
                Test::Range => 0.33,
                _ => 0.005,
            }
        };
        for predicate in access.local.iter_mut().chain(access.either.iter_mut().flatten()) {
            predicate.share = guess(predicate);
        }
        let mut asked: Vec<Vec<String>> = Vec::new();
        for predicate in &access.local {
            // Both ends of a range are one question.
            let group = access.local.iter().filter(|other| {
                let is_range = other.test == Test::Range && predicate.test == Test::Range;
                other.source == predicate.source || (is_range && other.target == predicate.target)
            });
            let group: Vec<String> = group.map(|p| p.source.clone()).collect();
            if !asked.contains(&group) {
                asked.push(group);
            }
        }
        asked.extend(access.either.iter().flatten().map(|arm| vec![arm.source.clone()]));
        found.extend(
            asked.into_iter().filter(|sources| !sources.iter().any(|source| source.contains('$'))).map(
                |sources| {
                    let sql = format!("SELECT FROM ONLY {relation} WHERE {}", sources.join(" AND "));
                    Probe { access: at, sources, sql }
                },
            ),
        );
    }
    found.truncate(PROBES_MAX);
    found
}

/// Takes in an answer.
pub fn answer(accesses: &mut [Access], schema: &Schema, probe: &Probe, rows: f64) {
    let Some(access) = accesses.get_mut(probe.access) else { return };
    let Some(table) = schema.table(&access.table) else { return };
    let share = (rows / table.tuples.max(1.0)).clamp(0.0, 1.0);
    let mut is_first = true;
    for predicate in access.local.iter_mut().chain(access.either.iter_mut().flatten()) {
        if probe.sources.contains(&predicate.source) {
            // The share of all of them together is counted once.
            predicate.share = if is_first || probe.sources.len() == 1 { share } else { 1.0 };
            is_first = false;
        }
    }
}
