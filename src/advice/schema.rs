//! What is known of the tables that a plan reads: sizes, statistics, indexes, foreign keys; and of the server.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// Schema and name.
pub type TableName = (String, String);

/// What the analysis may look up.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// The tables of the statement, and those that refer to them.
    pub tables: HashMap<TableName, Table>,
    /// What is known of functions and operators by their names.
    pub functions: HashMap<String, Vec<Function>>,
    /// Casts that run a function: source and target type, and whether it is immutable.
    pub casts: HashMap<(String, String), bool>,
    /// The server.
    pub server: Server,
}

/// The planner's constants and what else the server can do (manual, 20.7.2 Planner Cost Constants).
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// `server_version_num`
    pub version: i32,
    /// `seq_page_cost`
    pub seq_page_cost: f64,
    /// `random_page_cost`
    pub random_page_cost: f64,
    /// `cpu_tuple_cost`
    pub cpu_tuple_cost: f64,
    /// `cpu_index_tuple_cost`
    pub cpu_index_tuple_cost: f64,
    /// `cpu_operator_cost`
    pub cpu_operator_cost: f64,
    /// `effective_cache_size`, in pages
    pub cache_pages: f64,
    /// HypoPG is installed in this database.
    pub has_hypopg: bool,
    /// pg_trgm is installed in this database.
    pub has_trgm: bool,
    /// The schema where its operator class is, as a prefix; empty where `search_path` finds it.
    pub trgm_schema: String,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            version: 150_000,
            seq_page_cost: 1.0,
            random_page_cost: 4.0,
            cpu_tuple_cost: 0.01,
            cpu_index_tuple_cost: 0.005,
            cpu_operator_cost: 0.0025,
            cache_pages: 524_288.0,
            has_hypopg: false,
            has_trgm: false,
            trgm_schema: String::new(),
        }
    }
}

/// One overload of a function, or of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Types of its arguments; empty for the left side of a prefix operator.
    pub arguments: Vec<String>,
    /// The type it gives.
    pub returns: String,
    /// The same arguments give the same, always.
    pub immutable: bool,
}

/// One table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Schema and name.
    pub name: TableName,
    /// Pages, now.
    pub pages: f64,
    /// Rows, by the planner's estimate for these pages.
    pub tuples: f64,
    /// Pages when its statistics were made; 0: never.
    pub analyzed_pages: f64,
    /// How many of its pages an index-only scan need not look at, from 0 to 1.
    pub all_visible: f64,
    /// It is partitioned, or a partition: CREATE INDEX CONCURRENTLY is another matter there.
    pub is_partitioned: bool,
    /// The partitioned table that it is a part of.
    pub root: Option<TableName>,
    /// Rows inserted, updated and deleted a minute since the counters began.
    pub writes_per_minute: f64,
    /// Rows changed since its statistics were made, as a share of all.
    pub changed_since_analyze: f64,
    /// Its columns.
    pub columns: Vec<ColumnFacts>,
    /// Its indexes.
    pub indexes: Vec<Index>,
    /// Foreign keys of other tables that refer to it.
    pub referenced_by: Vec<ForeignKey>,
}

/// One column, with `pg_stats` (manual, 54.27).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ColumnFacts {
    /// Its name.
    pub name: String,
    /// Its type, as `format_type` without a modifier.
    pub type_name: String,
    /// `LIKE 'abc%'` can use its ordinary b-tree: the collation sorts as C does.
    pub collates_as_c: bool,
    /// NOT NULL
    pub not_null: bool,
    /// There are statistics.
    pub has_statistics: bool,
    /// Share of NULLs.
    pub null_share: f64,
    /// Distinct values; as `pg_stats` counts: a negative number is a share of the rows.
    pub n_distinct: f64,
    /// Bytes.
    pub width: f64,
    /// From -1 to 1: whether the order of rows is that of values.
    pub correlation: f64,
    /// The commonest values with their shares.
    pub common: Vec<(String, f64)>,
    /// Bounds of equal shares of the rest.
    pub histogram: Vec<String>,
}

/// A foreign key of another table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// The table that refers.
    pub child: TableName,
    /// Its columns.
    pub columns: Vec<String>,
    /// The columns they refer to.
    pub parent_columns: Vec<String>,
}

/// An index that exists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Index {
    /// Its name.
    pub name: String,
    /// btree, hash, gin, ...
    pub method: String,
    /// Its keys in order, as `pg_get_indexdef` writes them.
    pub keys: Vec<IndexKey>,
    /// What it holds besides.
    pub include: Vec<String>,
    /// Its predicate.
    pub predicate: Option<String>,
    /// UNIQUE
    pub is_unique: bool,
    /// It serves a constraint.
    pub is_constraint: bool,
    /// It can be used: false after a failed CREATE INDEX CONCURRENTLY.
    pub is_valid: bool,
    /// Bytes.
    pub bytes: f64,
    /// How often it was used since the counters began.
    pub scans: u64,
}

/// One key of an index.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IndexKey {
    /// A column as SQL writes it, or an expression.
    pub expression: String,
    /// The operator class, if it is not the type's default.
    pub opclass: Option<String>,
    /// DESC
    pub descending: bool,
    /// NULLS FIRST
    pub nulls_first: bool,
}

impl Schema {
    /// A table of the plan.
    pub fn table(&self, name: &TableName) -> Option<&Table> {
        self.tables.get(name)
    }
}

impl Table {
    /// A column's facts.
    pub fn column(&self, name: &str) -> Option<&ColumnFacts> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Whether an index like this may be advised at all: of smaller tables everything is read at once.
    pub fn is_small(&self) -> bool {
        self.pages < SMALL_PAGES
    }

    /// Its statistics are of another table than it is now: never made, or it has outgrown them.
    pub fn is_stale(&self) -> bool {
        let never = self.analyzed_pages == 0.0 && self.columns.iter().all(|column| !column.has_statistics);
        !self.is_small()
            && (never || self.pages > 2.0 * self.analyzed_pages.max(1.0) || self.changed_since_analyze > 1.0)
    }
}

/// Tables smaller than this are never worth an index.
pub const SMALL_PAGES: f64 = 50.0;

impl ColumnFacts {
    /// How many distinct values there are.
    pub fn distinct(&self, tuples: f64) -> f64 {
        if !self.has_statistics || self.n_distinct == 0.0 {
            // The planner's own default.
            return 200.0_f64.min(tuples.max(1.0));
        }
        if self.n_distinct > 0.0 { self.n_distinct } else { (-self.n_distinct * tuples).max(1.0) }
    }

    /// The share of rows that one value has, on average.
    pub fn share_of_one(&self, tuples: f64) -> f64 {
        (1.0 - self.null_share) / self.distinct(tuples)
    }
}
