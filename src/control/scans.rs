//! Which tables a statement has to read whole, whatever their size.
//!
//! In a test's database tables are small, and the planner reads a small table whole even where an index would do. With
//! `enable_seqscan = off` it does so only where there is no other way.

use super::ControlError;
use super::explain::{Explainer, Request};
use crate::advice::condition::Expr;
use crate::advice::plan::{Node, NodeKind};
use crate::sql::analyze::analyze_into;

/// A table that is read whole for some of its rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Its schema and name.
    pub table: String,
    /// What rows are wanted, without values.
    pub condition: String,
}

impl Explainer {
    /// The tables that a statement reads whole because no index serves its condition. Of what is not explained: none.
    pub async fn scans(&mut self, request: &Request) -> Result<Vec<Scan>, ControlError> {
        if self.refused(request).await?.is_some() {
            return Ok(Vec::new());
        }
        self.begin(request).await?;
        let explained = match (request.samples.first(), self.without_seq_scans().await) {
            (Some(sample), Ok(())) => Box::pin(self.explain_json(&sample.text, &sample.bound)).await,
            (None, Ok(())) => Ok(String::new()),
            (_, Err(error)) => Err(error),
        };
        self.end().await?;
        Ok(Node::parse(&explained?).map(|plan| scans(&plan)).unwrap_or_default())
    }
}

fn scans(plan: &Node) -> Vec<Scan> {
    let mut scans = Vec::new();
    plan.walk(&mut |node| {
        let Some((schema, name)) = &node.relation else { return };
        if node.kind != NodeKind::SeqScan || node.filter.is_empty() || schema == "pg_catalog" {
            return;
        }
        let filter: Vec<String> = node.filter.iter().map(Expr::unqualified).collect();
        let mut condition = Vec::new();
        let _ = analyze_into(filter.join(" AND ").as_bytes(), true, &mut condition);
        scans.push(Scan {
            table: format!("{schema}.{name}"),
            condition: String::from_utf8_lossy(&condition).into_owned(),
        });
    });
    scans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_without_an_index_is_a_scan() {
        let plan = |kind: &str| {
            format!(
                r#"[{{"Plan": {{"Node Type": "{kind}", "Schema": "public", "Relation Name": "t", "Alias": "t",
                    "Plan Rows": 1, "Total Cost": 1, "Startup Cost": 0, "Plan Width": 1, "Filter": "(t.a = 7)"}}}}]"#
            )
        };
        let of = |kind: &str| scans(&Node::parse(&plan(kind)).unwrap());
        assert_eq!(of("Seq Scan"), [Scan { table: "public.t".to_owned(), condition: "(a = ?)".to_owned() }]);
        assert_eq!(of("Index Scan"), []);
    }
}
