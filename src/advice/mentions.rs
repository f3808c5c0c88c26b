//! What a plan mentions: functions and operators, and the columns that it needs of a relation.

use super::condition::{Expr, Kind};
use super::plan::{Node, NodeKind};
use super::predicates::split_key;

/// The functions and operators that a plan's conditions name.
pub fn names(plan: &Node) -> Vec<String> {
    fn collect(expr: &Expr, names: &mut Vec<String>) {
        match &expr.kind {
            Kind::And(parts) | Kind::Or(parts) | Kind::Row(parts) => {
                for part in parts {
                    collect(part, names);
                }
            }
            Kind::Call(name, parts) => {
                names.push(name.clone());
                for part in parts {
                    collect(part, names);
                }
            }
            Kind::Operator(name, left, right) => {
                names.push(name.clone());
                collect(left, names);
                collect(right, names);
            }
            Kind::Quantified { operator, left, right, .. } => {
                names.push(operator.clone());
                collect(left, names);
                collect(right, names);
            }
            Kind::Not(inner) | Kind::IsNull(inner, _) | Kind::Cast(inner, _) => collect(inner, names),
            Kind::Column(_) | Kind::Constant(_) | Kind::Parameter(_) | Kind::Other => {}
        }
    }
    let mut names = Vec::new();
    plan.walk(&mut |node| {
        let conditions = node.filter.iter().chain(&node.index_conditions).chain(&node.join_conditions);
        conditions.for_each(|condition| collect(condition, &mut names));
        for key in node.sort_key.iter().chain(&node.output) {
            collect(&Expr::parse(split_key(key).0), &mut names);
        }
    });
    names.sort();
    names.dedup();
    names
}

/// The columns of a relation that a plan compares, sorts by, groups by or gives. What scans give is not asked: they give
/// whole rows where that costs nothing.
pub(super) fn needed(plan: &Node, alias: &str) -> Vec<String> {
    let mut columns = Vec::new();
    let mut take = |expr: &Expr| {
        columns.extend(
            expr.columns.iter().filter(|(_, column)| column.alias == alias).map(|(_, c)| c.name.clone()),
        );
    };
    plan.output.iter().for_each(|output| take(&Expr::parse(output)));
    plan.walk(&mut |node| {
        node.filter.iter().chain(&node.index_conditions).chain(&node.join_conditions).for_each(&mut take);
        node.sort_key.iter().for_each(|key| take(&Expr::parse(split_key(key).0)));
        let computes = node.kind == NodeKind::Aggregate || node.label == "WindowAgg" || node.is_subplan();
        for output in node.output.iter().filter(|_| computes).chain(&node.group_key) {
            take(&Expr::parse(output));
        }
    });
    columns.sort();
    columns.dedup();
    columns
}
