//! How many rows a plan reads, by the planner's estimates: beside the rows that come of them that is what an index spares.

use super::plan::{Node, NodeKind};
use super::schema::Schema;

/// Rows of tables that one execution reads.
pub fn rows_read(plan: &Node, schema: &Schema) -> f64 {
    read(plan, schema, 1.0)
}

/// `share`: how much of the node's rows is asked for, times how often it is run.
fn read(node: &Node, schema: &Schema, share: f64) -> f64 {
    let table = node.relation.as_ref().and_then(|name| schema.table(name));
    let own = match (node.kind, table) {
        (NodeKind::SeqScan, Some(table)) => table.tuples.max(node.rows),
        (NodeKind::SeqScan | NodeKind::IndexScan | NodeKind::BitmapHeapScan, _) => node.rows,
        _ => 0.0,
    };
    let outer = node.inputs().next().map_or(1.0, |outer| outer.rows.max(1.0));
    let children = node.children.iter().enumerate().map(|(at, child)| {
        let times = match node.kind {
            // What must be complete before its first row, a sort, reads all of its own input anyhow.
            NodeKind::Limit if !is_blocking(child.kind) => (node.rows / child.rows.max(1.0)).min(1.0),
            NodeKind::NestedLoop if at == 1 => outer,
            _ => 1.0,
        };
        let share = if is_blocking(node.kind) { share.max(1.0) } else { share };
        read(child, schema, share * times)
    });
    own * share + children.sum::<f64>()
}

fn is_blocking(kind: NodeKind) -> bool {
    matches!(kind, NodeKind::Sort | NodeKind::Aggregate | NodeKind::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_loops_count() {
        let scan = |rows: f64| {
            format!(
                r#"{{"Node Type": "Seq Scan", "Schema": "public", "Relation Name": "t", "Alias": "t", "Plan Rows": {rows},
                    "Total Cost": 1, "Startup Cost": 0, "Plan Width": 1}}"#
            )
        };
        let node = |kind: &str, rows: f64, children: &[String]| {
            format!(
                r#"{{"Node Type": "{kind}", "Plan Rows": {rows}, "Total Cost": 1, "Startup Cost": 0, "Plan Width": 1,
                    "Plans": [{}]}}"#,
                children.join(",")
            )
        };
        let of = |plan: String| {
            let plan = Node::parse(&format!(r#"[{{"Plan": {plan}}}]"#)).unwrap();
            rows_read(&plan, &Schema::default())
        };
        assert!((of(scan(500.0)) - 500.0).abs() < 1e-9);
        assert!((of(node("Limit", 10.0, &[scan(500.0)])) - 10.0).abs() < 1e-9);
        let sorted = node("Sort", 500.0, &[scan(500.0)]);
        assert!((of(node("Limit", 10.0, &[sorted])) - 500.0).abs() < 1e-9);
        assert!((of(node("Nested Loop", 20.0, &[scan(20.0), scan(3.0)])) - 80.0).abs() < 1e-9);
    }
}
