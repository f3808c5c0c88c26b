//! A plan, from EXPLAIN (FORMAT JSON, VERBOSE), as a typed tree.

use serde_json::Value;

use super::condition::Expr;

/// What the nodes that matter here do (manual, 14.1 Using EXPLAIN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// Sequential Scan
    SeqScan,
    /// Index Scan, Index Only Scan
    IndexScan,
    /// Bitmap Heap Scan
    BitmapHeapScan,
    /// Bitmap Index Scan, BitmapAnd, BitmapOr
    BitmapPart,
    /// Nested Loop
    NestedLoop,
    /// Hash Join
    HashJoin,
    /// Merge Join
    MergeJoin,
    /// Hash
    Hash,
    /// Sort
    Sort,
    /// Incremental Sort
    IncrementalSort,
    /// Limit
    Limit,
    /// Aggregate, in any strategy
    Aggregate,
    /// Materialize
    Materialize,
    /// Memoize
    Memoize,
    /// Append, Merge Append
    Append,
    /// ModifyTable
    Modify,
    /// Anything else.
    Other,
}

/// How a join treats rows without a partner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum JoinType {
    /// Both sides have one.
    #[default]
    Inner,
    /// All rows of the outer side.
    Left,
    /// All rows of the inner side.
    Right,
    /// All rows.
    Full,
    /// Rows of the outer side that have a partner.
    Semi,
    /// Rows of the outer side that have none.
    Anti,
}

/// One node.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it does.
    pub kind: NodeKind,
    /// As the plan calls it.
    pub label: String,
    /// Its relation's schema and name.
    pub relation: Option<(String, String)>,
    /// What its relation is called in conditions.
    pub alias: String,
    /// The index it uses.
    pub index: Option<String>,
    /// Before the first row.
    pub startup_cost: f64,
    /// With the last row.
    pub total_cost: f64,
    /// Rows that it gives, by the planner's estimate, per run.
    pub rows: f64,
    /// Bytes of a row.
    pub width: f64,
    /// Rows that pass this go on.
    pub filter: Vec<Expr>,
    /// What the index is asked for; of a Bitmap Heap Scan, what is checked again.
    pub index_conditions: Vec<Expr>,
    /// Hash Cond, Merge Cond and Join Filter.
    pub join_conditions: Vec<Expr>,
    /// How a join treats rows without a partner.
    pub join_type: JoinType,
    /// Sort Key, with DESC and NULLS as written.
    pub sort_key: Vec<String>,
    /// Group Key
    pub group_key: Vec<String>,
    /// What it gives.
    pub output: Vec<String>,
    /// Insert, Update, Delete, Merge.
    pub operation: Option<String>,
    /// InitPlan or SubPlan: how it hangs on its parent.
    pub relationship: String,
    /// What it is called in the parent's conditions.
    pub subplan_name: Option<String>,
    /// Those it takes rows from, and subplans.
    pub children: Vec<Node>,
}

impl Node {
    /// Reads what EXPLAIN gave; `None` if it is no plan.
    pub fn parse(json: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(json).ok()?;
        Some(Self::of(value.get(0)?.get("Plan")?))
    }

    fn of(value: &Value) -> Self {
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let number = |key: &str| value.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        let list = |key: &str| -> Vec<String> {
            let items = value.get(key).and_then(Value::as_array);
            items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let conditions = |keys: &[&str]| -> Vec<Expr> {
            let texts = keys.iter().filter_map(|key| text(key));
            texts.flat_map(|text| Expr::parse(&text).conjuncts()).collect()
        };
        let label = text("Node Type").unwrap_or_default();
        let children = value.get("Plans").and_then(Value::as_array);
        Self {
            kind: kind(&label),
            relation: text("Relation Name").map(|name| (text("Schema").unwrap_or_default(), name)),
            alias: text("Alias").unwrap_or_default(),
            index: text("Index Name"),
            startup_cost: number("Startup Cost"),
            total_cost: number("Total Cost"),
            rows: number("Plan Rows"),
            width: number("Plan Width"),
            filter: conditions(&["Filter"]),
            index_conditions: conditions(&["Index Cond", "Recheck Cond"]),
            join_conditions: conditions(&["Hash Cond", "Merge Cond", "Join Filter"]),
            join_type: match text("Join Type").as_deref() {
                Some("Left") => JoinType::Left,
                Some("Right") => JoinType::Right,
                Some("Full") => JoinType::Full,
                Some("Semi") => JoinType::Semi,
                Some("Anti") => JoinType::Anti,
                _ => JoinType::Inner,
            },
            sort_key: list("Sort Key"),
            group_key: list("Group Key"),
            output: list("Output"),
            operation: text("Operation"),
            relationship: text("Parent Relationship").unwrap_or_default(),
            subplan_name: text("Subplan Name"),
            children: children.into_iter().flatten().map(Self::of).collect(),
            label,
        }
    }

    /// In the place of a plan that is none: as dear as can be.
    pub fn unknown() -> Self {
        let mut node = Self::of(&Value::Null);
        node.total_cost = f64::INFINITY;
        node
    }

    /// This node and all below it.
    pub fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Self)) {
        visit(self);
        for child in &self.children {
            child.walk(visit);
        }
    }

    /// Whether it hangs on its parent by an expression rather than by rows.
    pub fn is_subplan(&self) -> bool {
        matches!(self.relationship.as_str(), "InitPlan" | "SubPlan")
    }

    /// Those it takes rows from.
    pub fn inputs(&self) -> impl Iterator<Item = &Self> {
        self.children.iter().filter(|child| !child.is_subplan())
    }

    /// All indexes that the plan uses.
    pub fn indexes(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.walk(&mut |node| names.extend(node.index.as_deref()));
        names
    }
}

fn kind(label: &str) -> NodeKind {
    match label {
        "Seq Scan" => NodeKind::SeqScan,
        "Index Scan" | "Index Only Scan" => NodeKind::IndexScan,
        "Bitmap Heap Scan" => NodeKind::BitmapHeapScan,
        "Bitmap Index Scan" | "BitmapAnd" | "BitmapOr" => NodeKind::BitmapPart,
        "Nested Loop" => NodeKind::NestedLoop,
        "Hash Join" => NodeKind::HashJoin,
        "Merge Join" => NodeKind::MergeJoin,
        "Hash" => NodeKind::Hash,
        "Sort" => NodeKind::Sort,
        "Incremental Sort" => NodeKind::IncrementalSort,
        "Limit" => NodeKind::Limit,
        "Aggregate" => NodeKind::Aggregate,
        "Materialize" => NodeKind::Materialize,
        "Memoize" => NodeKind::Memoize,
        "Append" | "Merge Append" => NodeKind::Append,
        "ModifyTable" => NodeKind::Modify,
        _ => NodeKind::Other,
    }
}
