//! Classes: whether a statement reads or writes tables, which, and what else decides where it may run.
//!
//! This is what the text alone says. Whether a function is volatile, a name a view, or a relation there at all, the
//! catalog says later: so relations, functions, operators and types are listed as they are written.

use std::fmt;

/// What a statement does to tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Reads, and nothing else if its functions allow it: the only class for a replica or the cache.
    Read,
    /// Changes no row that another could see, but belongs on the primary: locks, cursors, COPY TO, EXPLAIN, VACUUM.
    PrimaryRead,
    /// Writes the relations that it lists with [`Access::Write`].
    Write,
    /// Changes the catalog: a write that every reader must see.
    Ddl,
    /// Touches its session or transaction only; the command says how.
    Session,
    /// Anything: not known, or not positively known to be one of the above. A write of unknown relations.
    Opaque,
}

impl Class {
    /// The word for logs and tests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::PrimaryRead => "primary_read",
            Self::Write => "write",
            Self::Ddl => "ddl",
            Self::Session => "session",
            Self::Opaque => "opaque",
        }
    }
}

/// Why a statement has its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// `Read`: both witnesses say so.
    PlainRead,
    /// `PrimaryRead`: FOR UPDATE, FOR SHARE and their like.
    LockingClause,
    /// `PrimaryRead`: LOCK.
    LockTable,
    /// `PrimaryRead`: COPY TO STDOUT.
    CopyOut,
    /// `PrimaryRead`: EXPLAIN of anything, EXPLAIN ANALYZE of a read.
    Explain,
    /// `PrimaryRead`: DECLARE of a read, FETCH, MOVE. What its query does counts at its DECLARE.
    Cursor,
    /// `PrimaryRead`: VACUUM, ANALYZE, CLUSTER, REINDEX, CHECKPOINT.
    Maintenance,
    /// `Write`: INSERT, UPDATE, DELETE, MERGE, also inside WITH.
    DataModification,
    /// `Write`: COPY FROM.
    CopyIn,
    /// `Write`: TRUNCATE.
    Truncate,
    /// `Write`: REFRESH MATERIALIZED VIEW.
    Refresh,
    /// `Ddl`: CREATE, ALTER, DROP and their like.
    CatalogChange,
    /// `Ddl`: SELECT INTO.
    SelectInto,
    /// `Ddl`: of this session only.
    TemporaryObject,
    /// `Session`: SET, SHOW, PREPARE, LISTEN and their like.
    SessionCommand,
    /// `Session`: BEGIN, COMMIT, SAVEPOINT and their like.
    TransactionCommand,
    /// `Opaque`: a command that is not known.
    UnknownStatement,
    /// `Opaque`: the server will refuse the text.
    Flaw,
    /// `Opaque`: the parser does not know it.
    Unparsed,
    /// `Opaque`: parsed, but a part of it is not on the list of what is known to be harmless.
    UnlistedSyntax,
    /// `Opaque`: the scanner sees a word of a write where the parser sees a read.
    SecondWitness,
    /// `Opaque`: scanner and parser do not see the same relations.
    RelationMismatch,
    /// `Opaque`: the text is not UTF-8.
    NotUtf8,
    /// `Opaque`: a `U&"..."` identifier, which may spell any name.
    UnicodeIdentifier,
    /// `Opaque`: too long to parse.
    TooLong,
    /// `Opaque`: nested too deep to parse.
    TooDeep,
    /// `Opaque`: too many operators to parse.
    TooManyOperators,
    /// `Opaque`: too many joins to parse.
    TooManyJoins,
    /// `Opaque`: it is being parsed off the event loop.
    ParsePending,
    /// `Opaque`: DO, CALL, LOAD: code that cannot be looked into.
    ProcedureCode,
    /// `Opaque`: EXECUTE of a statement prepared in SQL.
    Execute,
    /// `Opaque`: PREPARE TRANSACTION, COMMIT PREPARED.
    TwoPhase,
    /// `Opaque`: EXPLAIN ANALYZE, COPY or DECLARE of something that is no read.
    HiddenStatement,
    /// `Opaque`: TRUNCATE CASCADE reaches further than it says.
    Cascade,
}

impl Reason {
    /// The word in logs, metrics, the console and the tests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PlainRead => "plain_read",
            Self::LockingClause => "locking_clause",
            Self::LockTable => "lock_table",
            Self::CopyOut => "copy_out",
            Self::Explain => "explain",
            Self::Cursor => "cursor",
            Self::Maintenance => "maintenance",
            Self::DataModification => "data_modification",
            Self::CopyIn => "copy_in",
            Self::Truncate => "truncate",
            Self::Refresh => "refresh",
            Self::CatalogChange => "catalog_change",
            Self::SelectInto => "select_into",
            Self::TemporaryObject => "temporary_object",
            Self::SessionCommand => "session_command",
            Self::TransactionCommand => "transaction_command",
            Self::UnknownStatement => "unknown_statement",
            Self::Flaw => "flaw",
            Self::Unparsed => "unparsed",
            Self::UnlistedSyntax => "unlisted_syntax",
            Self::SecondWitness => "second_witness",
            Self::RelationMismatch => "relation_mismatch",
            Self::NotUtf8 => "not_utf8",
            Self::UnicodeIdentifier => "unicode_identifier",
            Self::TooLong => "too_long",
            Self::TooDeep => "too_deep",
            Self::TooManyOperators => "too_many_operators",
            Self::TooManyJoins => "too_many_joins",
            Self::ParsePending => "parse_pending",
            Self::ProcedureCode => "procedure_code",
            Self::Execute => "execute",
            Self::TwoPhase => "two_phase",
            Self::HiddenStatement => "hidden_statement",
            Self::Cascade => "cascade",
        }
    }
}

/// A name, perhaps with a schema in front. Folded to lower case where it was not quoted.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The schema, if one is written.
    pub schema: Option<Box<str>>,
    /// The name itself.
    pub name: Box<str>,
}

impl Name {
    /// From its parts; `None` with more than a schema and a name.
    pub(super) fn from_parts(mut parts: Vec<Box<str>>) -> Option<Self> {
        let name = parts.pop()?;
        let schema = parts.pop();
        parts.is_empty().then_some(Self { schema, name })
    }

    /// Could this be a builtin of that name?
    pub fn is_builtin(&self, name: &str) -> bool {
        *self.name == *name && self.schema.as_deref().is_none_or(|schema| schema == "pg_catalog")
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{schema}.")?;
        }
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What is done to a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Access {
    /// It stands in FROM, JOIN or USING.
    Read,
    /// It is the target of a write.
    Write,
}

/// A relation that a statement names. Names of WITH queries are not among them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mention {
    /// As written.
    pub name: Name,
    /// What is done to it.
    pub access: Access,
}

/// A function that a statement calls, with or without parentheses (`current_date`). More rather than fewer: what
/// cannot be told from a call is listed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Call {
    /// As written.
    pub name: Name,
    /// How many arguments; `None`: any overload.
    pub arguments: Option<u8>,
}

/// A name that calls a function if there is one that can be called so, and else is something harmless.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Perhaps {
    /// The call that it may be.
    pub call: Call,
    /// What it is where there is no such function.
    pub otherwise: Otherwise,
}

/// What a name is that calls no function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Otherwise {
    /// `json_value(x, '$.a')`: part of the grammar since PostgreSQL 16 or 17, a name like any other before.
    Grammar,
    /// `(x).f`: a field of a composite value. A function of any type may be called so (manual, 8.16.5 Using Composite
    /// Types in Queries), and a type be cast to.
    Field,
    /// `t.f`: a column. Of functions, only one that takes a row may be called so.
    Column,
}

impl Otherwise {
    /// The word for tests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grammar => "grammar",
            Self::Field => "field",
            Self::Column => "column",
        }
    }
}

/// What else there is to know of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts; any of them may stand together")]
pub struct Facts {
    /// It gives rows: a query, or a write with RETURNING.
    pub returns_rows: bool,
    /// FOR UPDATE, FOR SHARE and their like, anywhere in it.
    pub locks_rows: bool,
    /// It has an ORDER BY of its own.
    pub ordered: bool,
    /// It has a LIMIT or FETCH FIRST of its own.
    pub limited: bool,
    /// It asks for the transaction's or the current time (`now()`, `current_date`, ...).
    pub names_time: bool,
    /// TABLESAMPLE.
    pub samples: bool,
}

/// The class of one statement, with all that it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classification {
    /// What it does.
    pub class: Class,
    /// Why.
    pub reason: Reason,
    /// Each relation once per access; empty where the class is `Opaque`.
    pub relations: Box<[Mention]>,
    /// Each function once per number of arguments.
    pub functions: Box<[Call]>,
    /// Names that may call a function, each once.
    pub perhaps: Box<[Perhaps]>,
    /// Each operator once.
    pub operators: Box<[Box<str>]>,
    /// The types it casts to, by `::`, CAST and `type 'constant'`, each once.
    pub types: Box<[Name]>,
    /// What else.
    pub facts: Facts,
}

impl Classification {
    /// A class that comes without names.
    pub(super) fn bare(class: Class, reason: Reason) -> Self {
        Self {
            class,
            reason,
            relations: Box::default(),
            functions: Box::default(),
            perhaps: Box::default(),
            operators: Box::default(),
            types: Box::default(),
            facts: Facts::default(),
        }
    }

    /// Anything.
    pub(super) fn opaque(reason: Reason) -> Self {
        Self::bare(Class::Opaque, reason)
    }

    /// The relations written.
    pub fn written(&self) -> impl Iterator<Item = &Name> {
        self.with_access(Access::Write)
    }

    /// The relations read.
    pub fn read(&self) -> impl Iterator<Item = &Name> {
        self.with_access(Access::Read)
    }

    fn with_access(&self, access: Access) -> impl Iterator<Item = &Name> {
        let relations = self.relations.iter();
        relations.filter(move |mention| mention.access == access).map(|mention| &mention.name)
    }
}
