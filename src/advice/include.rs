//! The form of an index that holds all that a statement needs of a table, so that the table itself is not read (manual, 11.9
//! Index-Only Scans and Covering Indexes).
//!
//! Never more than a variant beside the advice, and never for what is selected alone: the index has its keys for a condition.
//! It makes writes dearer (no HOT update of what is included), and it is worth nothing where VACUUM does not keep up.

use super::candidates::{Candidate, Method};
use super::identifier::quoted;
use super::paths::{Paths, Shape};
use super::plan::{Node, NodeKind};
use super::predicates::Access;
use super::schema::{ColumnFacts, Schema, Table};
use super::verdict;
use crate::sql::scan::{Scanner, TokenKind};

/// More columns than this are not included.
const COLUMNS_MAX: usize = 2;

/// Nor are wider ones, in bytes.
const WIDTH_MAX: f64 = 16.0;

/// Only where the table's pages are all-visible, but for a tenth.
const VISIBLE_MIN: f64 = 0.9;

/// Fewer rows than this are fetched from the table at no cost to speak of, unless a join does so again and again.
const ROWS_MIN: f64 = 100.0;

/// The statement, and what speaks for it.
pub fn variant(
    plan: &Node,
    accesses: &[Access],
    schema: &Schema,
    candidate: &Candidate,
) -> Option<(String, String)> {
    let mut mine = accesses.iter().filter(|access| access.table == candidate.table);
    let (Some(access), None) = (mine.next(), mine.next()) else { return None };
    let table = schema.table(&access.table)?;
    if candidate.method != Method::Btree || candidate.predicate.is_some() || table.all_visible < VISIBLE_MIN {
        return None;
    }
    let joins: Vec<_> = access.joins.iter().collect();
    let found = Paths::new(access, schema)?.matching(Shape::from(candidate), &joins)?;
    if !found.is_bounded || !found.is_joined && found.share * table.tuples < ROWS_MIN {
        return None;
    }
    let is_column = |expression: &str| table.columns.iter().any(|column| quoted(&column.name) == expression);
    if !candidate.keys.iter().all(|key| is_column(&key.expression)) {
        return None;
    }
    let needed = needed(plan, accesses.len() == 1, access, table)?;
    let is_key =
        |column: &&ColumnFacts| candidate.keys.iter().any(|key| key.expression == quoted(&column.name));
    let further: Vec<&ColumnFacts> = needed.into_iter().filter(|column| !is_key(column)).collect();
    if further.is_empty() || further.len() > COLUMNS_MAX || !further.iter().all(|column| is_narrow(column)) {
        return None;
    }
    let columns: Vec<String> = further.iter().map(|column| quoted(&column.name)).collect();
    let columns = columns.join(", ");
    let ddl = verdict::ddl(candidate, table.is_partitioned).replacen("_idx ON", "_incl_idx ON", 1);
    let reason = format!("holds {columns}, too: the table need not be read as long as it is vacuumed");
    Some((format!("{ddl} INCLUDE ({columns})"), reason))
}

/// Of a fixed, small width.
fn is_narrow(column: &ColumnFacts) -> bool {
    const FIXED: [&str; 13] = [
        "smallint",
        "integer",
        "bigint",
        "real",
        "double precision",
        "boolean",
        "date",
        "time without time zone",
        "timestamp without time zone",
        "timestamp with time zone",
        "uuid",
        "oid",
        "\"char\"",
    ];
    column.has_statistics && column.width <= WIDTH_MAX && FIXED.contains(&column.type_name.as_str())
}

/// The columns that the plan needs of a table; `None`: the rows themselves, or it cannot be told.
fn needed<'a>(
    plan: &Node,
    is_alone: bool,
    access: &Access,
    table: &'a Table,
) -> Option<Vec<&'a ColumnFacts>> {
    let mut takes_rows = false;
    let mut texts: Vec<&str> = Vec::new();
    plan.walk(&mut |node| {
        takes_rows |= node.kind == NodeKind::Modify || node.label == "LockRows";
        let conditions = node.filter.iter().chain(&node.index_conditions).chain(&node.join_conditions);
        texts.extend(conditions.map(|condition| condition.source.as_str()));
        texts.extend(node.sort_key.iter().chain(&node.group_key).map(String::as_str));
        // A scan gives whole rows where that costs nothing, unless it is all there is.
        if node.relation.is_none() || std::ptr::eq(node, plan) {
            texts.extend(node.output.iter().map(String::as_str));
        }
    });
    if takes_rows || texts.iter().any(|text| text.contains(".*")) {
        return None;
    }
    let mut names: Vec<String> = Vec::new();
    if is_alone {
        // What a plan of one relation gives is not qualified. Too many words are no harm.
        for text in texts {
            let words = Scanner::new(text.as_bytes(), true)
                .filter(|token| matches!(token.kind, TokenKind::Word | TokenKind::QuotedIdentifier));
            names.extend(
                words.filter_map(|token| text.get(token.span.start..token.span.end)).map(str::to_owned),
            );
        }
    } else {
        names.extend(access.needed.as_ref()?.iter().map(|name| quoted(name)));
    }
    let is_system =
        |name: &String| matches!(name.as_str(), "ctid" | "xmin" | "xmax" | "cmin" | "cmax" | "tableoid");
    if names.iter().any(is_system) {
        return None;
    }
    Some(table.columns.iter().filter(|column| names.contains(&quoted(&column.name))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::predicates::accesses;
    use crate::advice::schema::{IndexKey, Server};

    fn column(name: &str, of_type: &str, n_distinct: f64) -> ColumnFacts {
        ColumnFacts {
            name: name.to_owned(),
            type_name: of_type.to_owned(),
            has_statistics: true,
            n_distinct,
            width: if of_type == "text" { 40.0 } else { 8.0 },
            ..ColumnFacts::default()
        }
    }

    /// What is offered for an index on these columns of a million orders, one in `n_distinct` for each user.
    fn offered(plan: &str, keys: &[&str], n_distinct: f64, all_visible: f64) -> Option<String> {
        let columns = vec![
            column("id", "bigint", -1.0),
            column("user_id", "bigint", n_distinct),
            column("at", "timestamp with time zone", -1.0),
            column("total", "numeric", -0.5),
            column("paid", "boolean", 2.0),
            column("note", "text", -1.0),
        ];
        let name = ("public".to_owned(), "orders".to_owned());
        let table = Table {
            name: name.clone(),
            pages: 10_000.0,
            tuples: 1e6,
            all_visible,
            columns,
            ..Table::default()
        };
        let schema =
            Schema { tables: [(name.clone(), table)].into(), server: Server::default(), ..Schema::default() };
        let plan = Node::parse(&format!("[{{\"Plan\": {plan}}}]")).unwrap();
        let mut accesses = accesses(&plan, &schema);
        accesses[0].local.iter_mut().for_each(|predicate| predicate.share = 1.0 / n_distinct);
        let key = |key: &&str| IndexKey { expression: (*key).to_owned(), ..IndexKey::default() };
        let candidate = Candidate {
            table: name,
            method: Method::Btree,
            keys: keys.iter().map(key).collect(),
            predicate: None,
        };
        variant(&plan, &accesses, &schema, &candidate).map(|(ddl, _)| ddl)
    }

    fn scan(output: &str) -> String {
        format!(
            r#"{{"Node Type": "Seq Scan", "Relation Name": "orders", "Schema": "public", "Alias": "o", "Startup Cost": 0,
                 "Total Cost": 22500, "Plan Rows": 1000, "Filter": "(o.user_id = '5'::bigint)", "Output": [{output}]}}"#
        )
    }

    #[test]
    fn few_narrow_columns_may_be_included() {
        let with = |columns: &str| {
            Some(format!(
                "CREATE INDEX CONCURRENTLY orders_user_id_incl_idx ON public.orders (user_id) INCLUDE ({columns})"
            ))
        };
        let sum = |of: &str| {
            format!(
                r#"{{"Node Type": "Aggregate", "Startup Cost": 0, "Total Cost": 22600, "Plan Rows": 1, "Output": ["{of}"], "Plans": [{}]}}"#,
                scan(r#""id", "user_id", "at", "total", "paid", "note""#)
            )
        };
        let locked = format!(
            r#"{{"Node Type": "LockRows", "Startup Cost": 0, "Total Cost": 22600, "Plan Rows": 1, "Output": ["at", "ctid"], "Plans": [{}]}}"#,
            scan(r#""at", "ctid""#)
        );
        for (what, plan, keys, n_distinct, all_visible, expected) in [
            ("one", scan(r#""at""#), &["user_id"][..], 1e3, 0.95, with("at")),
            ("two, in the table's order", scan(r#""paid", "at""#), &["user_id"], 1e3, 1.0, with("at, paid")),
            ("three", scan(r#""paid", "at", "id""#), &["user_id"], 1e3, 1.0, None),
            ("a wide one", scan(r#""note""#), &["user_id"], 1e3, 1.0, None),
            ("one of no fixed width", scan(r#""total""#), &["user_id"], 1e3, 1.0, None),
            ("none that is not there already", scan(r#""at""#), &["user_id", "at"], 1e3, 1.0, None),
            ("changed pages", scan(r#""at""#), &["user_id"], 1e3, 0.89, None),
            ("a handful of rows", scan(r#""at""#), &["user_id"], 1e5, 1.0, None),
            ("no condition on it", scan(r#""at""#), &["id"], 1e3, 1.0, None),
            ("whole rows", scan(r#""o.*""#), &["user_id"], 1e3, 1.0, None),
            ("rows to be locked", locked, &["user_id"], 1e3, 1.0, None),
            (
                "an aggregate needs less than the scan gives",
                sum("max(at)"),
                &["user_id"],
                1e3,
                1.0,
                with("at"),
            ),
            ("and may need too much", sum("max(note)"), &["user_id"], 1e3, 1.0, None),
        ] {
            assert_eq!(offered(&plan, keys, n_distinct, all_visible), expected, "{what}");
        }
    }
}
