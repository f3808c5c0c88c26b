//! A plan as people read it: EXPLAIN's own text (manual, 14.1 Using EXPLAIN), with `?` for the constants in its conditions, so
//! that it may be shown to whoever may see the shape of the statement.

use std::fmt::Write as _;

use super::condition::Expr;
use super::plan::{Node, NodeKind};
use crate::sql::scan::Scanner;

/// Lines, the root first.
pub fn plan_text(plan: &Node) -> String {
    let mut out = String::new();
    write(plan, 0, &mut out);
    out.truncate(out.trim_end().len());
    out
}

fn write(node: &Node, depth: usize, out: &mut String) {
    // As EXPLAIN does: six columns for each level, four of them behind the arrow's.
    let indent = " ".repeat(depth * 6);
    if let Some(name) = &node.subplan_name {
        let _ = writeln!(out, "{}{name}", " ".repeat((depth * 6).saturating_sub(4)));
    }
    let arrow = if depth == 0 { "" } else { "->  " };
    let at = indent.len().saturating_sub(arrow.len());
    let (startup, total, rows) = (node.startup_cost, node.total_cost, node.rows);
    let _ = writeln!(
        out,
        "{}{arrow}{}  (cost={startup:.2}..{total:.2} rows={rows:.0} width={:.0})",
        " ".repeat(at),
        title(node),
        node.width,
    );
    let mut detail = |name: &str, text: &str| {
        if !text.is_empty() {
            let _ = writeln!(out, "{indent}  {name}: {}", without_constants(text));
        }
    };
    detail("Sort Key", &node.sort_key.join(", "));
    detail("Group Key", &node.group_key.join(", "));
    detail(
        if node.kind == NodeKind::BitmapHeapScan { "Recheck Cond" } else { "Index Cond" },
        &all_of(&node.index_conditions),
    );
    detail("Join Cond", &all_of(&node.join_conditions));
    detail("Filter", &all_of(&node.filter));
    for child in &node.children {
        write(child, depth + 1, out);
    }
}

/// `Index Scan using author_pkey on public.author a`
fn title(node: &Node) -> String {
    let mut title = match &node.operation {
        Some(operation) if node.kind == NodeKind::Modify => operation.clone(),
        _ => node.label.clone(),
    };
    if let Some(index) = &node.index {
        // HypoPG puts the number of the index that it pretends in front of its name.
        let (number, name) = index.split_once('>').unwrap_or(("", index));
        let is_pretended = number.strip_prefix('<').is_some_and(|number| number.parse::<u32>().is_ok());
        title.push_str(" using ");
        title.push_str(if is_pretended { name } else { index });
        title.push_str(if is_pretended { " (hypothetical)" } else { "" });
    }
    if let Some((schema, name)) = &node.relation {
        let _ = write!(title, " on {schema}.{name}");
        if node.alias != *name && !node.alias.is_empty() {
            let _ = write!(title, " {}", node.alias);
        }
    }
    title
}

fn all_of(conditions: &[Expr]) -> String {
    conditions.iter().map(|condition| condition.source.as_str()).collect::<Vec<_>>().join(" AND ")
}

/// A condition with `?` for its strings and numbers.
fn without_constants(condition: &str) -> String {
    let (mut out, mut end) = (String::with_capacity(condition.len()), 0);
    for token in Scanner::new(condition.as_bytes(), true).filter(|token| token.kind.is_literal()) {
        out.push_str(condition.get(end..token.span.start).unwrap_or_default());
        out.push('?');
        end = token.span.end;
    }
    out.push_str(condition.get(end..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_text_without_values() {
        let json = r#"[{"Plan": {"Node Type": "Limit", "Startup Cost": 1.5, "Total Cost": 20.25, "Plan Rows": 5,
            "Plan Width": 8, "Plans": [{"Node Type": "Nested Loop", "Startup Cost": 0, "Total Cost": 19, "Plan Rows": 7,
            "Plan Width": 8, "Join Filter": "(a.id = o.author_id)", "Plans": [
            {"Node Type": "Index Scan", "Index Name": "<13543>btree_orders_total", "Relation Name": "orders",
            "Schema": "shop", "Alias": "o", "Startup Cost": 0, "Total Cost": 9, "Plan Rows": 3, "Plan Width": 4,
            "Index Cond": "(o.total > 99.5)", "Filter": "((o.state = 'it''s secret'::text) AND (o.total <> 7))"},
            {"Node Type": "Seq Scan", "Relation Name": "author", "Schema": "shop", "Alias": "author", "Startup Cost": 0,
            "Total Cost": 9, "Plan Rows": 3, "Plan Width": 4, "Subplan Name": "SubPlan 1"}]}]}}]"#;
        let expected = "\
Limit  (cost=1.50..20.25 rows=5 width=8)
  ->  Nested Loop  (cost=0.00..19.00 rows=7 width=8)
        Join Cond: (a.id = o.author_id)
        ->  Index Scan using btree_orders_total (hypothetical) on shop.orders o  (cost=0.00..9.00 rows=3 width=4)
              Index Cond: (o.total > ?)
              Filter: (o.state = ?::text) AND (o.total <> ?)
        SubPlan 1
        ->  Seq Scan on shop.author  (cost=0.00..9.00 rows=3 width=4)";
        assert_eq!(plan_text(&Node::parse(json).unwrap()), expected);
    }
}
