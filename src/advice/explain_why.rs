//! Words for a person: what a plan does that an index could spare, and why none is advised where none is.

use super::candidates::{Candidate, Method};
use super::condition::Expr;
use super::identifier::quoted;
use super::paths::Paths;
use super::plan::{Node, NodeKind};
use super::predicates::{Access, Unusable, Why};
use super::schema::{IndexKey, Schema, Table};
use super::verdict::{self, Advice, Confidence, Kind, NoIndex};

/// What the plan shows.
pub fn findings(plan: &Node, accesses: &[Access], schema: &Schema, rows_given: Option<f64>) -> Vec<String> {
    let mut found = Vec::new();
    plan.walk(&mut |node| {
        let table =
            node.relation.as_ref().and_then(|name| schema.table(name)).filter(|table| !table.is_small());
        if let Some(table) = table {
            let is_read_whole = node.kind == NodeKind::SeqScan && (!node.filter.is_empty());
            if is_read_whole && node.rows <= 0.05 * table.tuples {
                found.push(format!(
                    "reads all {:.0} rows of {} to find {:.0}",
                    table.tuples, table.name.1, node.rows
                ));
            }
            if node.kind != NodeKind::SeqScan && !node.filter.is_empty() {
                let filter: Vec<String> = node.filter.iter().map(Expr::unqualified).collect();
                found.push(format!(
                    "index {} of {} leaves {} to be filtered",
                    node.index.as_deref().unwrap_or("scan"),
                    table.name.1,
                    filter.join(" AND ")
                ));
            }
        }
        if node.kind == NodeKind::Limit
            && let Some(sort) = node.inputs().next().filter(|input| input.kind == NodeKind::Sort)
            && let Some(input) = sort.inputs().next()
            && input.rows >= 20.0 * node.rows.max(1.0)
        {
            found.push(format!("sorts {:.0} rows to give {:.0}", input.rows, node.rows));
        }
        if node.kind == NodeKind::NestedLoop
            && let Some(inner) = node.inputs().nth(1).filter(|inner| inner.kind == NodeKind::SeqScan)
            && let Some(outer) = node.inputs().next()
            && outer.rows > 1.0
        {
            found.push(format!("reads all of {} for each of {:.0} rows", inner.alias, outer.rows));
        }
    });
    if let Some(given) = rows_given
        && (plan.rows.max(1.0) / given.max(1.0) > 20.0 || given.max(1.0) / plan.rows.max(1.0) > 20.0)
    {
        found.push(format!(
            "gives {given:.0} rows where the planner expects {:.0}: ANALYZE, or extended statistics",
            plan.rows
        ));
    }
    for access in accesses {
        if let Some(table) = schema.table(&access.table)
            && table.is_stale()
        {
            found.push(format!("statistics of {} are out of date", table.name.1));
        }
    }
    found.dedup();
    found
}

/// Why no index is advised; `best` is what the best of those tried would leave of the cost.
pub fn no_index(plan: &Node, accesses: &[Access], schema: &Schema, best: Option<f64>) -> (NoIndex, String) {
    if plan.operation.as_deref() == Some("Insert") && accesses.is_empty() {
        return (NoIndex::Insert, "an INSERT of values reads nothing".to_owned());
    }
    let large: Vec<(&Access, &Table)> = accesses
        .iter()
        .filter_map(|access| schema.table(&access.table).map(|table| (access, table)))
        .filter(|(_, table)| !table.is_small())
        .collect();
    if large.is_empty() {
        let pages = accesses
            .iter()
            .filter_map(|access| schema.table(&access.table))
            .map(|table| table.pages)
            .fold(0.0, f64::max);
        return (NoIndex::SmallTable, format!("{pages:.0} pages are read as fast as an index is"));
    }
    if let Some(unusable) =
        large.iter().flat_map(|(access, _)| &access.unusable).min_by_key(|unusable| unusable.why as u8)
    {
        let reason = match unusable.why {
            Why::NotImmutable | Why::ElementOfArray => NoIndex::Rewrite,
            Why::ShortPattern => NoIndex::ShortPattern,
            Why::Negation => NoIndex::Negation,
        };
        return (reason, unusable.condition.clone());
    }
    let mut scanned = Vec::new();
    plan.walk(&mut |node| {
        if node.kind == NodeKind::SeqScan {
            scanned.push(node);
        }
    });
    scanned.retain(|node| large.iter().any(|(access, _)| access.alias == node.alias));
    if scanned.is_empty() {
        return (NoIndex::AlreadyIndexed, format!("the plan uses {}", plan.indexes().join(", ")));
    }
    if scanned.iter().all(|node| node.filter.is_empty())
        && large.iter().all(|(access, _)| !access.is_filtered)
    {
        return (NoIndex::ReadsAll, "there is no condition on it".to_owned());
    }
    let shares = large
        .iter()
        .filter(|(access, _)| access.is_filtered && scanned.iter().any(|node| node.alias == access.alias));
    let share = shares
        .filter_map(|(access, _)| Paths::new(access, schema))
        .map(|paths| paths.local_share())
        .fold(0.0, f64::max);
    if share > 0.1 {
        return (NoIndex::MostRowsMatch, format!("{:.0} % of the rows match", share * 100.0));
    }
    let detail = best.map_or("nothing was there to try".to_owned(), |best| {
        format!("the best index leaves {:.0} % of the plan's cost", 100.0 * best / plan.total_cost.max(0.01))
    });
    (NoIndex::NoGain, detail)
}

/// How to write a condition that no index can serve.
pub fn rewrites(accesses: &[Access], schema: &Schema) -> Vec<Advice> {
    let mut found = Vec::new();
    for access in accesses {
        let Some(table) = schema.table(&access.table).filter(|table| !table.is_small()) else { continue };
        for unusable in &access.unusable {
            let Some((condition, columns, method)) = rewritten(unusable, table) else { continue };
            let keys = columns
                .into_iter()
                .map(|expression| IndexKey { expression, ..IndexKey::default() })
                .collect::<Vec<_>>();
            let index = Candidate { table: table.name.clone(), method, keys, predicate: None };
            let has_index =
                table.indexes.iter().any(|existing| super::candidates::covers(existing, &index, access));
            let variants = if has_index || index.keys.is_empty() {
                Vec::new()
            } else {
                vec![(verdict::ddl(&index, table.is_partitioned), "with the condition rewritten".to_owned())]
            };
            found.push(Advice {
                kind: Kind::Rewrite,
                index: None,
                table: table.name.clone(),
                ddl: condition,
                reason: format!("no index can serve {}", unusable.condition),
                confidence: Confidence::Catalog,
                proof: None,
                bytes: 0.0,
                writes_per_minute: table.writes_per_minute,
                related: Vec::new(),
                caveats: Vec::new(),
                variants,
            });
        }
    }
    found
}

/// The condition, and what an index for it would have for keys.
fn rewritten(unusable: &Unusable, table: &Table) -> Option<(String, Vec<String>, Method)> {
    let text = &unusable.condition;
    let columns: Vec<String> =
        table.columns.iter().map(|column| quoted(&column.name)).filter(|name| mentions(text, name)).collect();
    let column = columns.first()?.clone();
    match unusable.why {
        Why::ElementOfArray => Some((format!("{column} @> ARRAY[value]"), vec![column], Method::Gin)),
        Why::NotImmutable => {
            let condition = if text.contains("date_trunc")
                || text.contains("::date")
                || text.contains("EXTRACT")
                || text.contains("date_part")
            {
                format!("{column} >= start AND {column} < start + interval")
            } else if text.contains("to_tsvector") {
                return Some((
                    format!("to_tsvector('english', {column}) @@ query"),
                    vec![format!("to_tsvector('english', {column})")],
                    Method::Gin,
                ));
            } else {
                format!("compare {column} by itself; compute on the other side")
            };
            Some((condition, vec![column], Method::Btree))
        }
        Why::ShortPattern | Why::Negation => None,
    }
}

fn mentions(text: &str, name: &str) -> bool {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '"')).any(|word| word == name)
}

/// DELETE of rows that another table refers to: without an index on the referring columns each one reads that table
/// whole, and no plan shows it.
pub fn foreign_keys(plan: &Node, schema: &Schema) -> Vec<Advice> {
    let mut found = Vec::new();
    plan.walk(&mut |node| {
        let Some(table) = node
            .relation
            .as_ref()
            .filter(|_| node.operation.as_deref() == Some("Delete"))
            .and_then(|name| schema.table(name))
        else {
            return;
        };
        for key in &table.referenced_by {
            let Some(child) = schema.table(&key.child).filter(|child| !child.is_small()) else { continue };
            let columns: Vec<String> = key.columns.iter().map(|column| quoted(column)).collect();
            let leads = |index: &super::schema::Index| {
                let mut leading = index.keys.iter().take(columns.len());
                index.is_valid
                    && index.predicate.is_none()
                    && index.keys.len() >= columns.len()
                    && matches!(index.method.as_str(), "btree" | "hash")
                    && leading.all(|key| columns.contains(&key.expression))
            };
            if child.indexes.iter().any(leads) {
                continue;
            }
            let keys = columns
                .iter()
                .map(|column| IndexKey { expression: column.clone(), ..IndexKey::default() })
                .collect();
            let index = Candidate { table: key.child.clone(), method: Method::Btree, keys, predicate: None };
            found.push(Advice {
                kind: Kind::ForeignKeyIndex,
                ddl: verdict::ddl(&index, child.is_partitioned),
                table: key.child.clone(),
                reason: format!(
                    "each deleted row of {} is looked for in {} ({}): no index leads with it",
                    table.name.1,
                    child.name.1,
                    columns.join(", ")
                ),
                confidence: Confidence::Catalog,
                proof: None,
                bytes: child.tuples * 24.0,
                writes_per_minute: child.writes_per_minute,
                related: Vec::new(),
                caveats: Vec::new(),
                variants: Vec::new(),
                index: Some(index),
            });
        }
    });
    found
}

/// Tables whose statistics are of another table than they are now.
pub fn stale(accesses: &[Access], schema: &Schema) -> Vec<Advice> {
    let mut found: Vec<Advice> = Vec::new();
    for access in accesses {
        let Some(table) = schema.table(&access.table).filter(|table| table.is_stale()) else { continue };
        if found.iter().any(|known| known.table == table.name) {
            continue;
        }
        let reason = if table.analyzed_pages == 0.0 {
            "it was never analyzed: the planner guesses".to_owned()
        } else {
            format!(
                "it had {:.0} pages when it was analyzed, and has {:.0}",
                table.analyzed_pages, table.pages
            )
        };
        found.push(Advice {
            kind: Kind::Analyze,
            index: None,
            table: table.name.clone(),
            ddl: format!("ANALYZE {}.{}", quoted(&table.name.0), quoted(&table.name.1)),
            reason,
            confidence: Confidence::Catalog,
            proof: None,
            bytes: 0.0,
            writes_per_minute: table.writes_per_minute,
            related: Vec::new(),
            caveats: vec!["index advice for this table is worth more afterwards".to_owned()],
            variants: Vec::new(),
        });
    }
    found
}
