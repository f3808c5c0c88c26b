//! What a plan would cost with indexes that do not exist, estimated from statistics: the plan is costed again from its
//! leaves up, with other ways at scans, joins and sorts where an index opens one. Without a candidate it costs what the
//! planner said, so the two can be compared.

use super::candidates::Candidate;
use super::condition::Expr;
use super::paths::{Cost, Match, Paths, Shape};
use super::plan::{JoinType, Node, NodeKind};
use super::predicates::{Access, Predicate};
use super::schema::{IndexKey, Schema};

/// Costs one plan with sets of candidates.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The plan as it is.
    pub plan: &'a Node,
    /// Its relations.
    pub accesses: &'a [Access],
    /// Their tables.
    pub schema: &'a Schema,
}

impl Model<'_> {
    /// The plan's cost with these indexes.
    pub fn cost(&self, candidates: &[&Candidate]) -> f64 {
        let planned = self.plan.total_cost;
        let cost = Costing { model: self, candidates }.node(self.plan, 1.0).total;
        cost.clamp(0.01, planned.max(0.01))
    }
}

struct Costing<'a> {
    model: &'a Model<'a>,
    candidates: &'a [&'a Candidate],
}

/// More relations than this are not joined in another order.
const JOINED_MAX: usize = 8;

impl<'a> Costing<'a> {
    /// The cost of a node of which this part of the rows is taken.
    fn node(&self, node: &'a Node, fraction: f64) -> Cost {
        let planned = Cost { startup: node.startup_cost, total: node.total_cost };
        let mut cost = match node.kind {
            NodeKind::SeqScan | NodeKind::IndexScan | NodeKind::BitmapHeapScan => self.scan(node, fraction),
            NodeKind::Limit => self.limit(node, fraction),
            NodeKind::Sort | NodeKind::IncrementalSort => {
                let cost = self.blocking(node);
                match self.ordered(node) {
                    Some(ordered) => cost.cheaper(ordered, fraction),
                    None => cost,
                }
            }
            NodeKind::Aggregate => {
                let cost =
                    if node.group_key.is_empty() { self.blocking(node) } else { self.streaming(node, 1.0) };
                match self.first_of_order(node) {
                    Some(first) => cost.cheaper(first, fraction),
                    None => cost,
                }
            }
            NodeKind::Hash | NodeKind::Materialize => self.blocking(node),
            NodeKind::NestedLoop | NodeKind::HashJoin | NodeKind::MergeJoin => {
                let cost = self.join(node, fraction);
                [self.other_order(node), self.probe(node)]
                    .into_iter()
                    .flatten()
                    .fold(cost, |a, b| a.cheaper(b, fraction))
            }
            NodeKind::BitmapPart => planned,
            NodeKind::Memoize | NodeKind::Append | NodeKind::Modify | NodeKind::Other => {
                self.streaming(node, fraction)
            }
        };
        // Subqueries that are run for each row, or once.
        for child in node.children.iter().filter(|child| child.is_subplan()) {
            let saved = (child.total_cost - self.node(child, 1.0).total).max(0.0) * runs(node, child);
            if child.relationship == "InitPlan" {
                cost.startup -= saved;
            }
            cost.total -= saved;
        }
        Cost { startup: cost.startup.max(0.0), total: cost.total.max(cost.startup.max(0.0)).max(0.01) }
    }

    /// What it costs with what its inputs save.
    fn streaming(&self, node: &'a Node, fraction: f64) -> Cost {
        let (mut startup, mut total) = (node.startup_cost, node.total_cost);
        for input in node.inputs() {
            let cost = self.node(input, fraction);
            startup -= input.startup_cost - cost.startup;
            total -= input.total_cost - cost.total;
        }
        Cost { startup, total }
    }

    /// The same for one that takes all rows before it gives the first.
    fn blocking(&self, node: &'a Node) -> Cost {
        let saved: f64 = node.inputs().map(|input| input.total_cost - self.node(input, 1.0).total).sum();
        Cost { startup: node.startup_cost - saved, total: node.total_cost - saved }
    }

    fn limit(&self, node: &'a Node, fraction: f64) -> Cost {
        let Some(input) = node.inputs().next() else { return self.streaming(node, fraction) };
        // OFFSET is in it, too.
        let run = input.total_cost - input.startup_cost;
        let taken = if run > 0.0 { (node.total_cost - input.startup_cost) / run } else { 1.0 };
        let taken = taken.max(node.rows / input.rows.max(1.0)).clamp(0.0, 1.0);
        let cost = self.node(input, taken);
        Cost { startup: cost.startup, total: cost.part(taken) }
    }

    fn access(&self, node: &Node) -> Option<&'a Access> {
        self.model.accesses.iter().find(|access| access.alias == node.alias)
    }

    fn paths(&self, access: &'a Access) -> Option<Paths<'a>> {
        Paths::new(access, self.model.schema)
    }

    /// The candidates for a relation, and with `existing` its indexes as well.
    fn indexes(&self, access: &'a Access, existing: bool) -> Vec<Shape<'a>> {
        let table = self.model.schema.table(&access.table);
        let mine = self.candidates.iter().copied().filter(|candidate| candidate.table == access.table);
        let there =
            table.into_iter().flat_map(|table| &table.indexes).filter(|index| index.is_valid && existing);
        mine.map(Shape::from).chain(there.map(Shape::from)).collect()
    }

    fn scan(&self, node: &'a Node, fraction: f64) -> Cost {
        let planned = Cost { startup: node.startup_cost, total: node.total_cost };
        let Some(access) = self.access(node) else { return planned };
        let Some(paths) = self.paths(access) else { return planned };
        // Inside of a nested loop the values of the outer side are there.
        let outer: Vec<&Predicate> = access.joins.iter().filter(|join| is_given(node, join)).collect();
        let mut best = planned;
        // Somebody wants the first rows in the order of the index that there is.
        let is_in_order = node.kind == NodeKind::IndexScan && fraction < 1.0;
        let order = access.orders.first().filter(|_| is_in_order);
        for index in self.indexes(access, false) {
            if let Some(found) = paths.matching(index, &outer)
                && (found.is_bounded || found.held < 1.0)
            {
                let cost = match order {
                    Some(order) if paths.is_ordered(index, found.fixed, &order.keys) => {
                        paths.index_scan(index, &found, 1.0)
                    }
                    Some(order) => paths.sorted(paths.scan(index, &found, 1.0), node.rows, &order.keys),
                    None => paths.scan(index, &found, 1.0),
                };
                best = best.cheaper(cost, fraction);
            }
        }
        for arms in &access.either {
            if let Some(cost) = self.either(access, paths, arms) {
                best = best.cheaper(cost, fraction);
            }
        }
        best
    }

    /// An index for each arm of an OR, at least one of them new.
    fn either(&self, access: &'a Access, paths: Paths<'a>, arms: &[Predicate]) -> Option<Cost> {
        let mut chosen: Vec<(Shape<'a>, Match)> = Vec::new();
        for arm in arms {
            let only =
                Access { local: vec![arm.clone()], either: Vec::new(), joins: Vec::new(), ..access.clone() };
            let single = Paths { access: &only, ..paths };
            let found = self.indexes(access, true).into_iter().filter_map(|index| {
                single.matching(index, &[]).filter(|found| found.is_bounded).map(|found| (index, found))
            });
            chosen.push(found.min_by(|a, b| a.1.share.total_cmp(&b.1.share))?);
        }
        let is_new = chosen.iter().any(|(index, _)| index.is_candidate);
        is_new.then(|| paths.bitmap_scan(&chosen, 1.0))
    }

    /// As planned, with what its inputs save.
    fn join(&self, node: &'a Node, fraction: f64) -> Cost {
        if node.kind != NodeKind::NestedLoop {
            let mut cost = self.streaming(node, 1.0);
            // The hashed side is read first.
            cost.startup = cost.startup.max(0.0).min(cost.total);
            return cost;
        }
        let mut inputs = node.inputs();
        let (Some(outer), Some(inner)) = (inputs.next(), inputs.next()) else {
            return self.streaming(node, fraction);
        };
        let (outer_cost, inner_cost) = (self.node(outer, fraction), self.node(inner, 1.0));
        let is_kept = matches!(inner.kind, NodeKind::Materialize);
        let runs = if is_kept { 1.0 } else { outer.rows.max(1.0) };
        let saved = (outer.total_cost - outer_cost.total) + (inner.total_cost - inner_cost.total) * runs;
        let startup = node.startup_cost
            - (outer.startup_cost - outer_cost.startup)
            - (inner.startup_cost - inner_cost.startup);
        Cost { startup, total: node.total_cost - saved }
    }

    /// A nested loop that looks up one side of a join by the other, where the join's kind allows it.
    fn probe(&self, node: &'a Node) -> Option<Cost> {
        let mut inputs = node.inputs();
        let (outer, inner) = (inputs.next()?, inputs.next()?);
        let forward =
            matches!(node.join_type, JoinType::Inner | JoinType::Left | JoinType::Semi | JoinType::Anti);
        let backward = matches!(node.join_type, JoinType::Inner | JoinType::Right | JoinType::Semi);
        let sides = [(forward, outer, inner), (backward, inner, outer)];
        let costs =
            sides.into_iter().filter(|(is_allowed, ..)| *is_allowed).filter_map(|(_, driving, probed)| {
                let leaf = base(probed)?;
                let driver = wrapped(driving);
                // What is looked up by the other side cannot be read first.
                if is_dependent(driver) {
                    return None;
                }
                let cost = self.node(driver, 1.0);
                let mut rows = driver.rows.max(1.0);
                let mut total = cost.total;
                if node.join_type == JoinType::Semi && std::ptr::eq(driving, inner) {
                    // Made unique first.
                    total += rows * self.model.schema.server.cpu_operator_cost * 2.0;
                    rows = rows.max(1.0);
                }
                let (each, is_new) = self.lookup(leaf, &aliases(driver), rows)?;
                let is_worth = is_new || cost.total < driver.total_cost;
                let total = total + rows * each.total + node.rows * self.model.schema.server.cpu_tuple_cost;
                is_worth.then_some(Cost { startup: cost.startup + each.startup, total })
            });
        costs.min_by(|a, b| a.total.total_cmp(&b.total))
    }

    /// The cheapest index of a leaf that rows of these relations find its rows by; whether it is new.
    fn lookup(&self, leaf: &'a Node, driving: &[&str], loops: f64) -> Option<(Cost, bool)> {
        let access = self.access(leaf)?;
        let paths = self.paths(access)?;
        let joins: Vec<&Predicate> = access.joins.iter().filter(|join| comes_from(join, driving)).collect();
        let costs = self.indexes(access, true).into_iter().filter_map(|index| {
            let found = paths.matching(index, &joins).filter(|found| found.is_joined)?;
            Some((paths.scan(index, &found, loops), index.is_candidate))
        });
        costs.min_by(|a, b| a.0.total.total_cmp(&b.0.total))
    }

    /// Inner joins in another order: from each relation, by lookups where there are indexes.
    fn other_order(&self, node: &'a Node) -> Option<Cost> {
        let mut leaves = Vec::new();
        flatten(node, &mut leaves, None)?;
        if leaves.len() < 2 || leaves.len() > JOINED_MAX {
            return None;
        }
        let orders = (0..leaves.len()).filter_map(|first| {
            let cost = self.leaf_cost(leaves[first])?;
            self.joined_from(&leaves, first, cost, node.rows, false)
        });
        orders.min_by(|a, b| a.total.total_cmp(&b.total))
    }

    /// What a leaf costs to read by itself, and the rows it gives.
    fn leaf_cost(&self, leaf: &'a Node) -> Option<(Cost, f64)> {
        let access = self.access(leaf)?;
        let paths = self.paths(access)?;
        let is_looked_up = access.joins.iter().any(|join| is_given(leaf, join));
        let rows = if is_looked_up {
            (paths.table.tuples * paths.local_share()).max(1.0)
        } else {
            leaf.rows.max(1.0)
        };
        let server = paths.server;
        let all = paths.table.pages * server.seq_page_cost
            + paths.table.tuples * (server.cpu_tuple_cost + server.cpu_operator_cost);
        let mut best = if is_looked_up {
            Cost { startup: 0.0, total: all }
        } else {
            Cost { startup: leaf.startup_cost, total: leaf.total_cost }
        };
        for index in self.indexes(access, true) {
            if let Some(found) = paths.matching(index, &[])
                && (found.is_bounded || found.held < 1.0)
            {
                best = best.cheaper(paths.scan(index, &found, 1.0), 1.0);
            }
        }
        for arms in &access.either {
            if let Some(cost) = self.either(access, paths, arms) {
                best = best.cheaper(cost, 1.0);
            }
        }
        Some((best, rows))
    }

    /// Joins all leaves, beginning with one; `by_lookup`: only by indexes, which keeps the first one's order.
    fn joined_from(
        &self,
        leaves: &[&'a Node],
        first: usize,
        begin: (Cost, f64),
        rows_last: f64,
        by_lookup: bool,
    ) -> Option<Cost> {
        let server = &self.model.schema.server;
        let (mut cost, mut rows) = begin;
        let mut joined = vec![leaves[first].alias.as_str()];
        let mut is_new =
            self.candidates.iter().any(|c| self.access(leaves[first]).is_some_and(|a| a.table == c.table));
        while joined.len() < leaves.len() {
            let rest = leaves.iter().filter(|leaf| !joined.contains(&leaf.alias.as_str()));
            let mut best: Option<(f64, f64, &str, bool)> = None;
            for leaf in rest {
                let access = self.access(leaf)?;
                let joins: Vec<&Predicate> =
                    access.joins.iter().filter(|join| comes_from(join, &joined)).collect();
                if joins.is_empty() {
                    continue;
                }
                let paths = self.paths(access)?;
                let (alone, leaf_rows) = self.leaf_cost(leaf)?;
                let matching: f64 = joins.iter().map(|join| paths.share_of_one(&join.target)).product();
                let next = (rows * leaf_rows * matching).max(1.0);
                let by_index = self.lookup(leaf, &joined, rows).map(|(each, new)| (rows * each.total, new));
                let by_hash = (alone.total + (rows + 2.0 * leaf_rows) * server.cpu_operator_cost, false);
                let (more, new) = match by_index {
                    Some(lookup) if by_lookup || lookup.0 < by_hash.0 => lookup,
                    None if by_lookup => continue,
                    _ => by_hash,
                };
                let more = more + next * server.cpu_tuple_cost;
                if best.is_none_or(|(known, ..)| more < known) {
                    best = Some((more, next, leaf.alias.as_str(), new));
                }
            }
            let (more, next, alias, new) = best?;
            cost.total += more;
            rows = next;
            joined.push(alias);
            is_new |= new;
        }
        cost.total += (rows_last - rows).max(0.0) * server.cpu_tuple_cost;
        is_new.then_some(cost)
    }

    /// Without the sort: an index gives the order.
    fn ordered(&self, sort: &'a Node) -> Option<Cost> {
        let input = sort.inputs().next()?;
        let mut leaves = Vec::new();
        let mut optional = Vec::new();
        flatten(input, &mut leaves, Some(&mut optional))?;
        let mut best: Option<Cost> = None;
        for (at, leaf) in
            leaves.iter().enumerate().filter(|(_, leaf)| !optional.contains(&leaf.alias.as_str()))
        {
            let Some(access) = self.access(leaf) else { continue };
            let Some(paths) = self.paths(access) else { continue };
            let orders = access
                .orders
                .iter()
                .filter(|order| order.keys.len() == sort.sort_key.len() && is_order_of(sort, &access.alias));
            for order in orders {
                let Some((begin, rows)) = self.in_order(paths, leaf, &order.keys) else { continue };
                let cost = if leaves.len() == 1 {
                    Some(begin)
                } else {
                    self.joined_from(&leaves, at, (begin, rows), input.rows, true)
                };
                if let Some(cost) = cost {
                    best = Some(best.map_or(cost, |known| known.cheaper(cost, 0.0)));
                }
            }
        }
        best
    }

    /// The cheapest candidate that gives a relation's rows in an order.
    fn in_order(&self, paths: Paths<'a>, leaf: &Node, keys: &[IndexKey]) -> Option<(Cost, f64)> {
        let access = paths.access;
        let outer: Vec<&Predicate> = access.joins.iter().filter(|join| is_given(leaf, join)).collect();
        let costs = self.indexes(access, false).into_iter().filter_map(|index| {
            let found = paths.matching(index, &outer)?;
            paths.is_ordered(index, found.fixed, keys).then(|| paths.index_scan(index, &found, 1.0))
        });
        let cost = costs.min_by(|a, b| a.total.total_cmp(&b.total))?;
        Some((cost, leaf.rows.max(1.0)))
    }

    /// min and max: the first row of an order.
    fn first_of_order(&self, node: &'a Node) -> Option<Cost> {
        let leaf = base(node.inputs().next()?)?;
        let access = self.access(leaf)?;
        let order = access.orders.iter().find(|order| {
            order.keys.len() == 1 && node.output.len() == 1 && order.targets[0].column.is_some()
        })?;
        let (cost, rows) = self.in_order(self.paths(access)?, leaf, &order.keys)?;
        let total = cost.part(1.0 / rows.max(1.0));
        Some(Cost { startup: total, total })
    }
}

/// How often a subquery is run.
fn runs(node: &Node, child: &Node) -> f64 {
    if child.relationship == "InitPlan" {
        return 1.0;
    }
    let name = child.subplan_name.as_deref().unwrap_or_default();
    let is_hashed = |text: &str| text.contains("hashed") && text.contains(name);
    if node.filter.iter().any(|part| is_hashed(&part.source))
        || node.output.iter().any(|text| is_hashed(text))
    {
        return 1.0;
    }
    node.rows.max(1.0)
}

/// Whether the scan is run with the value of this join's other side: it stands in the scan's own conditions.
fn is_given(node: &Node, join: &Predicate) -> bool {
    node.filter.iter().chain(&node.index_conditions).any(|condition| condition.source == join.source)
}

fn comes_from(join: &Predicate, aliases: &[&str]) -> bool {
    let partner = Expr::parse(join.partner.as_deref().unwrap_or_default());
    !partner.columns.is_empty()
        && partner.columns.iter().all(|(_, column)| aliases.contains(&column.alias.as_str()))
}

/// Whether a part of a plan needs values from outside of it.
fn is_dependent(node: &Node) -> bool {
    let own = aliases(node);
    let mut is_dependent = false;
    node.walk(&mut |node| {
        let conditions = node.filter.iter().chain(&node.index_conditions).chain(&node.join_conditions);
        let mut columns = conditions.flat_map(|condition| &condition.columns);
        is_dependent |= columns.any(|(_, column)| !own.contains(&column.alias.as_str()));
    });
    is_dependent
}

/// Past what only keeps or hashes rows, or makes them unique.
fn wrapped(node: &Node) -> &Node {
    match node.kind {
        NodeKind::Aggregate if !node.group_key.is_empty() && node.output.len() == node.group_key.len() => {
            node.inputs().next().map_or(node, wrapped)
        }
        NodeKind::Other if node.label == "Unique" => node.inputs().next().map_or(node, wrapped),
        NodeKind::Hash | NodeKind::Sort | NodeKind::Materialize | NodeKind::Memoize => {
            node.inputs().next().map_or(node, wrapped)
        }
        _ => node,
    }
}

/// The single relation that a side of a join is.
fn base(node: &Node) -> Option<&Node> {
    let node = wrapped(node);
    matches!(node.kind, NodeKind::SeqScan | NodeKind::IndexScan | NodeKind::BitmapHeapScan).then_some(node)
}

fn aliases(node: &Node) -> Vec<&str> {
    let mut found = Vec::new();
    node.walk(&mut |node| {
        if !node.alias.is_empty() {
            found.push(node.alias.as_str());
        }
    });
    found
}

/// The relations of a tree of inner joins; `None` if something else is in it. With `optional`, also the sides of outer
/// joins that need not have a row, kept there: they can be looked up, and not be read first.
fn flatten<'a>(
    node: &'a Node,
    leaves: &mut Vec<&'a Node>,
    mut optional: Option<&mut Vec<&'a str>>,
) -> Option<()> {
    let node = wrapped(node);
    if let Some(leaf) = base(node) {
        leaves.push(leaf);
        return Some(());
    }
    let is_join = matches!(node.kind, NodeKind::NestedLoop | NodeKind::HashJoin | NodeKind::MergeJoin);
    if !is_join || node.children.iter().any(Node::is_subplan) {
        return None;
    }
    let may_lack = match node.join_type {
        JoinType::Inner => None,
        JoinType::Left if optional.is_some() => Some(1),
        JoinType::Right if optional.is_some() => Some(0),
        _ => return None,
    };
    for (side, input) in node.inputs().enumerate() {
        let before = leaves.len();
        flatten(input, leaves, optional.as_deref_mut())?;
        if let Some(optional) = optional.as_deref_mut().filter(|_| may_lack == Some(side)) {
            optional.extend(leaves[before..].iter().map(|leaf| leaf.alias.as_str()));
        }
    }
    Some(())
}

fn is_order_of(sort: &Node, alias: &str) -> bool {
    sort.sort_key.iter().all(|key| {
        let text =
            key.trim_end_matches(" NULLS FIRST").trim_end_matches(" NULLS LAST").trim_end_matches(" DESC");
        Expr::parse(text).is_of(alias)
    })
}
