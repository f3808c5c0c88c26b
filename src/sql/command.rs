//! Commands: what a statement does to the session that runs it.
//!
//! This is the session machine's vocabulary. Whether a statement reads or writes tables is another question
//! (`classify`); here every variant is named, so that a `match` over them is a decision about each.

use super::literal::Identifier;
use crate::pg::GucName;

/// One statement, as the session sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// No token at all.
    Empty,
    /// SELECT, also in parentheses.
    Select,
    /// VALUES
    Values,
    /// TABLE t
    Table,
    /// WITH: may end in any of the plain statements.
    With,
    /// INSERT
    Insert,
    /// UPDATE
    Update,
    /// DELETE
    Delete,
    /// MERGE
    Merge,
    /// TRUNCATE
    Truncate,

    /// BEGIN, START TRANSACTION
    Begin(TransactionModes),
    /// COMMIT, END
    Commit {
        /// AND CHAIN
        chain: bool,
    },
    /// ROLLBACK, ABORT
    Rollback {
        /// AND CHAIN
        chain: bool,
    },
    /// SAVEPOINT
    Savepoint(Identifier),
    /// ROLLBACK TO
    RollbackTo(Identifier),
    /// RELEASE
    Release(Identifier),
    /// PREPARE TRANSACTION
    PrepareTransaction,
    /// COMMIT PREPARED
    CommitPrepared,
    /// ROLLBACK PREPARED
    RollbackPrepared,
    /// SET TRANSACTION, and SET of the settings that belong to one transaction (`transaction_isolation`, ...).
    SetTransaction(TransactionModes),
    /// SET TRANSACTION SNAPSHOT
    SetTransactionSnapshot,
    /// SET CONSTRAINTS
    SetConstraints,

    /// SET, in all its spellings; SET SESSION CHARACTERISTICS may set several.
    Set {
        /// SESSION or LOCAL.
        scope: Scope,
        /// What is set, in order.
        settings: Box<[Setting]>,
    },
    /// A SELECT of nothing but `set_config` calls whose arguments are constants or parameters.
    SetConfig(Box<[SetConfig]>),
    /// RESET name
    Reset(GucName),
    /// RESET ALL
    ResetAll,
    /// SHOW name
    Show(GucName),
    /// SHOW ALL
    ShowAll,
    /// DISCARD
    Discard(Discard),

    /// PREPARE name AS ...
    Prepare(Identifier),
    /// EXECUTE name
    Execute(Identifier),
    /// DEALLOCATE name
    Deallocate(Identifier),
    /// DEALLOCATE ALL
    DeallocateAll,
    /// LISTEN
    Listen(Identifier),
    /// UNLISTEN channel
    Unlisten(Identifier),
    /// UNLISTEN *
    UnlistenAll,
    /// NOTIFY
    Notify(Identifier),
    /// DECLARE ... CURSOR
    DeclareCursor {
        /// The cursor's name.
        name: Identifier,
        /// WITH HOLD
        hold: bool,
    },
    /// CLOSE name
    CloseCursor(Identifier),
    /// CLOSE ALL
    CloseAllCursors,
    /// FETCH
    Fetch,
    /// MOVE
    Move,

    /// COPY
    Copy(Copy),
    /// LOCK
    Lock,
    /// LOAD
    Load,
    /// DO
    Do,
    /// CALL
    Call,
    /// EXPLAIN
    Explain {
        /// The statement runs.
        analyze: bool,
    },

    /// A temporary table, view or sequence; CREATE of anything in `pg_temp`; SELECT INTO TEMP.
    CreateTemporary {
        /// ON COMMIT DROP: it ends with the transaction, and pins nothing.
        on_commit_drop: bool,
    },
    /// CREATE, ALTER, DROP, COMMENT, GRANT, REVOKE, SECURITY LABEL, REASSIGN, IMPORT and their like.
    Ddl,
    /// CREATE DATABASE: its template must have no other sessions.
    CreateDatabase {
        /// The new database.
        name: Identifier,
        /// TEMPLATE, if given (`template1` otherwise).
        template: Option<Identifier>,
    },
    /// DROP DATABASE: must have no sessions.
    DropDatabase(Identifier),
    /// ALTER DATABASE ... RENAME TO: must have no sessions.
    AlterDatabaseRename(Identifier),
    /// ALTER DATABASE ... SET TABLESPACE: must have no sessions.
    AlterDatabaseTablespace(Identifier),
    /// VACUUM
    Vacuum,
    /// ANALYZE
    Analyze,
    /// CLUSTER
    Cluster,
    /// REINDEX
    Reindex,
    /// CHECKPOINT
    Checkpoint,
    /// REFRESH MATERIALIZED VIEW
    RefreshMaterializedView,

    /// Not understood: begins with no word known here, or goes on in a way the grammar does not allow.
    Unknown,
}

impl Command {
    /// The database that must have no other sessions.
    pub fn wants_alone(&self) -> Option<&Identifier> {
        match self {
            Self::DropDatabase(name)
            | Self::AlterDatabaseRename(name)
            | Self::AlterDatabaseTablespace(name)
            | Self::CreateDatabase { template: Some(name), .. } => Some(name),
            _ => None,
        }
    }

    /// The word for tests and the console.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Select => "select",
            Self::Values => "values",
            Self::Table => "table",
            Self::With => "with",
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Merge => "merge",
            Self::Truncate => "truncate",
            Self::Begin(_) => "begin",
            Self::Commit { .. } => "commit",
            Self::Rollback { .. } => "rollback",
            Self::Savepoint(_) => "savepoint",
            Self::RollbackTo(_) => "rollback_to",
            Self::Release(_) => "release",
            Self::PrepareTransaction => "prepare_transaction",
            Self::CommitPrepared => "commit_prepared",
            Self::RollbackPrepared => "rollback_prepared",
            Self::SetTransaction(_) => "set_transaction",
            Self::SetTransactionSnapshot => "set_transaction_snapshot",
            Self::SetConstraints => "set_constraints",
            Self::Set { .. } => "set",
            Self::SetConfig(_) => "set_config",
            Self::Reset(_) => "reset",
            Self::ResetAll => "reset_all",
            Self::Show(_) => "show",
            Self::ShowAll => "show_all",
            Self::Discard(_) => "discard",
            Self::Prepare(_) => "prepare",
            Self::Execute(_) => "execute",
            Self::Deallocate(_) => "deallocate",
            Self::DeallocateAll => "deallocate_all",
            Self::Listen(_) => "listen",
            Self::Unlisten(_) => "unlisten",
            Self::UnlistenAll => "unlisten_all",
            Self::Notify(_) => "notify",
            Self::DeclareCursor { .. } => "declare_cursor",
            Self::CloseCursor(_) => "close_cursor",
            Self::CloseAllCursors => "close_all_cursors",
            Self::Fetch => "fetch",
            Self::Move => "move",
            Self::Copy(_) => "copy",
            Self::Lock => "lock",
            Self::Load => "load",
            Self::Do => "do",
            Self::Call => "call",
            Self::Explain { .. } => "explain",
            Self::CreateTemporary { .. } => "create_temporary",
            Self::Ddl => "ddl",
            Self::CreateDatabase { .. } => "create_database",
            Self::DropDatabase(_) => "drop_database",
            Self::AlterDatabaseRename(_) => "alter_database_rename",
            Self::AlterDatabaseTablespace(_) => "alter_database_tablespace",
            Self::Vacuum => "vacuum",
            Self::Analyze => "analyze",
            Self::Cluster => "cluster",
            Self::Reindex => "reindex",
            Self::Checkpoint => "checkpoint",
            Self::RefreshMaterializedView => "refresh_materialized_view",
            Self::Unknown => "unknown",
        }
    }
}

/// The modes named by BEGIN, SET TRANSACTION or SET SESSION CHARACTERISTICS; `None` where one is not named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct TransactionModes {
    /// ISOLATION LEVEL
    pub isolation: Option<Isolation>,
    /// READ ONLY, READ WRITE
    pub read_only: Option<bool>,
    /// DEFERRABLE, NOT DEFERRABLE
    pub deferrable: Option<bool>,
}

/// An isolation level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// READ UNCOMMITTED: PostgreSQL treats it as READ COMMITTED.
    ReadUncommitted,
    /// READ COMMITTED
    ReadCommitted,
    /// REPEATABLE READ
    RepeatableRead,
    /// SERIALIZABLE
    Serializable,
}

impl Isolation {
    /// As PostgreSQL spells it in `transaction_isolation`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadUncommitted => "read uncommitted",
            Self::ReadCommitted => "read committed",
            Self::RepeatableRead => "repeatable read",
            Self::Serializable => "serializable",
        }
    }

    /// From PostgreSQL's spelling, in any case.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Self::ReadUncommitted, Self::ReadCommitted, Self::RepeatableRead, Self::Serializable]
            .into_iter()
            .find(|level| name.eq_ignore_ascii_case(level.as_str().as_bytes()))
    }
}

/// How long a SET holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Until changed; undone by ROLLBACK.
    Session,
    /// To the end of the transaction.
    Local,
}

/// One setting and its new value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The setting: SET TIME ZONE sets `timezone`, SET NAMES `client_encoding`, and so on.
    pub name: GucName,
    /// Its value.
    pub value: SetValue,
}

/// The right side of a SET.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetValue {
    /// Source text, as written; several values with their commas. `SET name TO <text>` says the same, but for
    /// `timezone`, where it is `SET TIME ZONE <text>` (which alone takes an interval).
    Source(Box<[u8]>),
    /// DEFAULT, and SET TIME ZONE LOCAL.
    Default,
}

/// One call of `set_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetConfig {
    /// Which setting.
    pub name: ConfigName,
    /// Its value.
    pub value: ConfigValue,
    /// Whether it ends with the transaction.
    pub local: ConfigLocal,
}

/// First argument of `set_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigName {
    /// A string constant.
    Literal(GucName),
    /// `$1` is 1.
    Parameter(u16),
}

/// Second argument of `set_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigValue {
    /// A string constant, as written with its quotes.
    Source(Box<[u8]>),
    /// `$1` is 1.
    Parameter(u16),
    /// NULL sets the setting back to its default.
    Null,
}

/// Third argument of `set_config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigLocal {
    /// `true`: for this transaction.
    Transaction,
    /// `false`: for the session.
    Session,
    /// `$1` is 1.
    Parameter(u16),
}

/// What DISCARD drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discard {
    /// ALL
    All,
    /// PLANS
    Plans,
    /// TEMP
    Temporary,
    /// SEQUENCES
    Sequences,
}

/// Between what COPY copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// FROM STDIN: the client sends the rows.
    FromStdin,
    /// TO STDOUT: the client gets the rows.
    ToStdout,
    /// FROM a file or PROGRAM of the server.
    FromServer,
    /// TO a file or PROGRAM of the server.
    ToServer,
}
