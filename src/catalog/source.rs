//! The rows that a snapshot is built from, as the server gives them: one type per question.
//!
//! Names of PostgreSQL's columns where there is one; letters of its catalogs are read where the rows are made.

use super::behavior::Declared;
use super::node_tree::Tree;
use crate::pg::Oid;

/// Everything that is asked for.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// All schemas but temporary ones and those of TOAST.
    pub schemas: Vec<Schema>,
    /// All relations that can stand in FROM, but temporary ones.
    pub relations: Vec<Relation>,
    /// `pg_inherits`: partitions and children with their parents.
    pub parents: Vec<(Oid, Oid)>,
    /// `pg_rewrite`.
    pub rules: Vec<Rule>,
    /// `pg_policy`: relations with what their policies refer to.
    pub policies: Vec<(Oid, Tree)>,
    /// Relations with triggers.
    pub triggers: Vec<Oid>,
    /// Relations whose defaults and checks call a volatile function, with the function.
    pub write_calls: Vec<(Oid, Oid)>,
    /// Foreign keys that act: the referenced relation, and the one that is written with it.
    pub cascades: Vec<(Oid, Oid)>,
    /// `pg_proc`, without procedures.
    pub functions: Vec<Function>,
    /// Operators of one's own.
    pub operators: Vec<Operator>,
    /// `pg_type`, without arrays and rows of relations.
    pub types: Vec<Type>,
    /// Casts by functions of one's own.
    pub casts: Vec<Cast>,
    /// Domains with what their checks refer to.
    pub domain_checks: Vec<(Oid, Tree)>,
    /// Types of one's own that other types are made of: base types of domains, elements of arrays, columns of rows,
    /// bounds of ranges. The whole comes first.
    pub type_parts: Vec<(Oid, Oid)>,
    /// `search_path` where sessions begin with another than the server's.
    pub search_paths: SearchPaths,
}

/// `pg_namespace`
#[derive(Clone, Debug)]
pub struct Schema {
    /// `oid`
    pub oid: Oid,
    /// `nspname`
    pub name: Box<str>,
}

/// What a relation is (`pg_class.relkind`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `r`
    Table,
    /// `p`
    Partitioned,
    /// `v`
    View,
    /// `m`
    MaterializedView,
    /// `f`
    Foreign,
    /// `S`
    Sequence,
}

impl Kind {
    /// From the letter; `None` for what cannot stand in FROM.
    pub fn from_letter(letter: u8) -> Option<Self> {
        Some(match letter {
            b'r' => Self::Table,
            b'p' => Self::Partitioned,
            b'v' => Self::View,
            b'm' => Self::MaterializedView,
            b'f' => Self::Foreign,
            b'S' => Self::Sequence,
            _ => return None,
        })
    }

    /// The manual's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Table => "table",
            Self::Partitioned => "partitioned table",
            Self::View => "view",
            Self::MaterializedView => "materialized view",
            Self::Foreign => "foreign table",
            Self::Sequence => "sequence",
        }
    }
}

/// `pg_class`
#[derive(Clone, Debug)]
pub struct Relation {
    /// `oid`
    pub oid: Oid,
    /// `relnamespace`
    pub schema: Oid,
    /// `relname`
    pub name: Box<str>,
    /// `relkind`
    pub kind: Kind,
    /// `relpersistence`
    pub is_unlogged: bool,
    /// `relispartition`
    pub is_partition: bool,
    /// `relrowsecurity`
    pub has_row_security: bool,
    /// `reltype`
    pub row_type: Oid,
}

/// `pg_rewrite`
#[derive(Clone, Debug)]
pub struct Rule {
    /// `oid`
    pub oid: Oid,
    /// Of the row: while it is the same, so is the rule.
    pub xmin: u32,
    /// `ev_class`
    pub relation: Oid,
    /// ON SELECT makes a view; on anything else a write does something else, too.
    pub on_select: bool,
    /// What it refers to; shared with the snapshot before.
    pub tree: std::sync::Arc<Tree>,
}

/// `pg_proc`
#[derive(Clone, Debug)]
pub struct Function {
    /// `oid`
    pub oid: Oid,
    /// `pronamespace`
    pub schema: Oid,
    /// `proname`
    pub name: Box<str>,
    /// `provolatile`; of an aggregate the worst of the functions that it is made of.
    pub declared: Declared,
    /// It is written in C.
    pub in_c: bool,
    /// Fewest arguments that a call may have.
    pub arguments_min: u8,
    /// Most arguments that a call may have; 255: any number.
    pub arguments_max: u8,
    /// Its first argument may be a row: it is of a composite or a polymorphic type. `t.f` then calls it.
    pub takes_row: bool,
}

/// `pg_operator`
#[derive(Clone, Debug)]
pub struct Operator {
    /// `oid`
    pub oid: Oid,
    /// `oprname`
    pub name: Box<str>,
    /// Of its function.
    pub declared: Declared,
    /// Its function is written in C.
    pub in_c: bool,
}

/// `pg_type`
#[derive(Clone, Debug)]
pub struct Type {
    /// `oid`
    pub oid: Oid,
    /// `typnamespace`
    pub schema: Oid,
    /// `typname`
    pub name: Box<str>,
    /// Of its input function.
    pub input: Declared,
}

/// `pg_cast`
#[derive(Clone, Debug)]
pub struct Cast {
    /// `casttarget`
    pub target: Oid,
    /// Of its function.
    pub declared: Declared,
    /// Its function is written in C.
    pub in_c: bool,
    /// `castcontext`: it happens without being written.
    pub is_implicit: bool,
}

/// `pg_db_role_setting`, for `search_path`.
#[derive(Clone, Debug, Default)]
pub struct SearchPaths {
    /// Where neither database nor role has one; `None`: not known.
    pub of_server: Option<Box<str>>,
    /// ALTER DATABASE SET.
    pub of_database: Option<Box<str>>,
    /// ALTER ROLE SET.
    pub of_roles: Vec<(Box<str>, Box<str>)>,
    /// ALTER ROLE IN DATABASE SET.
    pub of_roles_here: Vec<(Box<str>, Box<str>)>,
    /// Differs when any of these, or any other setting of a role or the database, was set anew.
    pub role_settings: Box<str>,
}
