//! What running a function may do, which operators, casts, views and policies inherit from the functions in them.

use super::builtins::{Builtin, builtin};

/// How much the result of a statement depends on when it runs (manual, 38.7 Function Volatility Categories).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Volatility {
    /// On nothing but its arguments and the rows it reads.
    #[default]
    Immutable,
    /// Also on settings.
    Stable,
    /// Also on when its transaction began.
    TransactionTime,
    /// On anything; it may write.
    Volatile,
}

impl Volatility {
    /// The word in tests, the console and `weir why`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Immutable => "immutable",
            Self::Stable => "stable",
            Self::TransactionTime => "transaction_time",
            Self::Volatile => "volatile",
        }
    }
}

/// Why a statement belongs on the primary, whatever the replicas' positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OnPrimary {
    /// INSERT, UPDATE, DELETE, MERGE, COPY FROM, TRUNCATE, REFRESH.
    Write,
    /// It changes the catalog.
    Ddl,
    /// FOR UPDATE and its like, perhaps in a view.
    LockingClause,
    /// LOCK.
    LockTable,
    /// COPY TO.
    CopyOut,
    /// EXPLAIN.
    Explain,
    /// DECLARE, FETCH, MOVE.
    Cursor,
    /// VACUUM, ANALYZE and their like.
    Maintenance,
    /// SET, SHOW, LISTEN and their like: the session's own server answers.
    SessionCommand,
    /// BEGIN, COMMIT and their like that the session does not answer by itself.
    TransactionCommand,
    /// Not positively known to be a read.
    Opaque,
    /// The catalog of this database is not loaded.
    NoCatalog,
    /// The catalog is being loaded again after DDL.
    CatalogChanging,
    /// A relation that the catalog does not know.
    UnknownRelation,
    /// A function that the catalog does not know.
    UnknownFunction,
    /// A type that the catalog does not know.
    UnknownType,
    /// What `search_path` is in force is not known.
    UnknownSearchPath,
    /// Something in `pg_temp`, or that may be hidden by it.
    TemporaryObject,
    /// A volatile function, also inside a view, policy or operator.
    VolatileFunction,
    /// A function or view whose answer tells one server from another.
    ServerFunction,
    /// An unlogged table: replicas do not have its rows.
    UnloggedTable,
    /// A foreign table: its rows have no position in our log.
    ForeignTable,
    /// A sequence read like a table: `nextval` raises no floor.
    Sequence,
}

impl OnPrimary {
    /// The word in logs, metrics, the console and the tests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Ddl => "ddl",
            Self::LockingClause => "locking_clause",
            Self::LockTable => "lock_table",
            Self::CopyOut => "copy_out",
            Self::Explain => "explain",
            Self::Cursor => "cursor",
            Self::Maintenance => "maintenance",
            Self::SessionCommand => "session_command",
            Self::TransactionCommand => "transaction_command",
            Self::Opaque => "opaque",
            Self::NoCatalog => "no_catalog",
            Self::CatalogChanging => "catalog_changing",
            Self::UnknownRelation => "unknown_relation",
            Self::UnknownFunction => "unknown_function",
            Self::UnknownType => "unknown_type",
            Self::UnknownSearchPath => "unknown_search_path",
            Self::TemporaryObject => "temporary_object",
            Self::VolatileFunction => "volatile_function",
            Self::ServerFunction => "server_function",
            Self::UnloggedTable => "unlogged_table",
            Self::ForeignTable => "foreign_table",
            Self::Sequence => "sequence",
        }
    }

    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::Write,
        Self::Ddl,
        Self::LockingClause,
        Self::LockTable,
        Self::CopyOut,
        Self::Explain,
        Self::Cursor,
        Self::Maintenance,
        Self::SessionCommand,
        Self::TransactionCommand,
        Self::Opaque,
        Self::NoCatalog,
        Self::CatalogChanging,
        Self::UnknownRelation,
        Self::UnknownFunction,
        Self::UnknownType,
        Self::UnknownSearchPath,
        Self::TemporaryObject,
        Self::VolatileFunction,
        Self::ServerFunction,
        Self::UnloggedTable,
        Self::ForeignTable,
        Self::Sequence,
    ];

    /// Whether a name was met that a newer catalog may know.
    pub fn is_unknown_name(self) -> bool {
        matches!(self, Self::UnknownRelation | Self::UnknownFunction | Self::UnknownType)
    }
}

/// What running something may do. The default is what an immutable function does: nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent traits; any of them may stand together")]
pub(super) struct Behavior {
    pub(super) volatility: Volatility,
    pub(super) on_primary: Option<OnPrimary>,
    /// It reads system catalogs.
    pub(super) reads_catalogs: bool,
    /// It reads relations that cannot be told.
    pub(super) reads_everything: bool,
    /// It writes relations that cannot be told.
    pub(super) writes_everything: bool,
    /// It may change what names mean: `set_config('search_path', ...)`.
    pub(super) changes_names: bool,
}

impl Behavior {
    pub(super) const HARMLESS: Self = Self {
        volatility: Volatility::Immutable,
        on_primary: None,
        reads_catalogs: false,
        reads_everything: false,
        writes_everything: false,
        changes_names: false,
    };

    /// Nothing is known of it.
    pub(super) fn unknown(why: OnPrimary) -> Self {
        Self {
            volatility: Volatility::Volatile,
            on_primary: Some(why),
            reads_catalogs: true,
            reads_everything: true,
            writes_everything: true,
            changes_names: true,
        }
    }

    /// Both are run.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            volatility: self.volatility.max(other.volatility),
            // The first in the order of the words, so that it does not depend on that of the functions.
            on_primary: match (self.on_primary, other.on_primary) {
                (Some(one), Some(two)) => Some(one.min(two)),
                (one, two) => one.or(two),
            },
            reads_catalogs: self.reads_catalogs || other.reads_catalogs,
            reads_everything: self.reads_everything || other.reads_everything,
            writes_everything: self.writes_everything || other.writes_everything,
            changes_names: self.changes_names || other.changes_names,
        }
    }

    /// A function of somebody's own. Immutable is taken at its word: PostgreSQL folds such calls when it plans. A
    /// stable one may read any table, and `now()`.
    pub(super) fn of_own_function(name: &str, declared: Declared, in_c: bool) -> Self {
        match declared {
            Declared::Volatile if in_c && builtin(name) == Some(Builtin::NoWrite) => {
                Self::of_builtin(name, declared)
            }
            declared => Self::of_own_code(declared),
        }
    }

    fn of_own_code(declared: Declared) -> Self {
        match declared {
            Declared::Immutable => Self::HARMLESS,
            Declared::Stable => Self {
                volatility: Volatility::TransactionTime,
                reads_catalogs: true,
                reads_everything: true,
                ..Self::HARMLESS
            },
            Declared::Volatile => Self::unknown(OnPrimary::VolatileFunction),
        }
    }

    /// The function behind an operator or cast. In C it computes: those of extensions that are stable depend on a
    /// setting (`pg_trgm`'s `%`), and are no place to run queries from.
    pub(super) fn of_own_operator(declared: Declared, in_c: bool) -> Self {
        match declared {
            Declared::Stable if in_c => Self { volatility: Volatility::Stable, ..Self::HARMLESS },
            declared => Self::of_own_code(declared),
        }
    }

    /// A function of PostgreSQL's own.
    pub(super) fn of_builtin(name: &str, declared: Declared) -> Self {
        let stable = Self { volatility: Volatility::Stable, ..Self::HARMLESS };
        let volatile = Self {
            volatility: Volatility::Volatile,
            on_primary: Some(OnPrimary::VolatileFunction),
            ..Self::HARMLESS
        };
        match (declared, builtin(name)) {
            (Declared::Immutable, _) => Self::HARMLESS,
            (Declared::Stable, Some(Builtin::Plain)) => stable,
            (Declared::Stable, Some(Builtin::Catalog)) => Self { reads_catalogs: true, ..stable },
            (Declared::Stable, Some(Builtin::Time)) => {
                Self { volatility: Volatility::TransactionTime, ..stable }
            }
            (Declared::Stable, Some(Builtin::Tables)) => {
                Self { reads_catalogs: true, reads_everything: true, ..stable }
            }
            // Not known to say the same everywhere.
            (Declared::Stable, Some(Builtin::NoWrite | Builtin::Server) | None) => {
                Self { on_primary: Some(OnPrimary::ServerFunction), ..stable }
            }
            (Declared::Volatile, Some(Builtin::NoWrite)) => {
                Self { changes_names: name == "set_config", ..volatile }
            }
            (Declared::Volatile, Some(Builtin::Server)) => {
                Self { on_primary: Some(OnPrimary::ServerFunction), ..volatile }
            }
            (Declared::Volatile, _) => Self { writes_everything: true, ..volatile },
        }
    }
}

/// What `pg_proc.provolatile` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Declared {
    /// `i`
    Immutable,
    /// `s`
    Stable,
    /// `v`
    Volatile,
}

impl Declared {
    /// From the letter; anything new counts as volatile.
    pub fn from_letter(letter: u8) -> Self {
        match letter {
            b'i' => Self::Immutable,
            b's' => Self::Stable,
            _ => Self::Volatile,
        }
    }
}
