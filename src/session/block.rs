//! Lazy transaction blocks: BEGIN is answered here, and no server knows of it until a statement needs it to.
//!
//! SQLAlchemy puts `BEGIN ... ROLLBACK` around every read. At READ COMMITTED each statement of a block has a snapshot of
//! its own (manual, 13.2.1 Read Committed Isolation Level), so reads may be sent one by one, to whichever server. What
//! is more than a read makes the block real: the client's own BEGIN goes out in front of it, in the same write.

use super::naming::first_word;
use super::{ServerState, Session, Shared};
use crate::pg::{SqlState, TransactionStatus};
use crate::route::Reason;
use crate::sql::command::{Isolation, TransactionModes};
use crate::sql::{self, Analysis, Command};
use crate::wire::build::{Report, Severity};
use crate::wire::frame::{self, Fields, MESSAGE_BYTES_MAX, Next};
use crate::wire::{Malformed, backend, build, frontend};

/// A transaction block that is open for its client only.
#[derive(Debug)]
pub struct LazyBlock {
    /// The client's own BEGIN.
    begin: Box<[u8]>,
    /// A read of it has been answered: its first snapshot was taken.
    queried: bool,
    /// A read of it has failed.
    failed: bool,
    /// All of it reads from one snapshot, and it writes nothing.
    is_snapshot: bool,
}

impl LazyBlock {
    /// Whether all of it reads from one snapshot.
    pub fn is_snapshot(&self) -> bool {
        self.is_snapshot
    }
}

/// Which blocks may be lazy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Laziness {
    /// None.
    Never,
    /// Those that take no snapshot which others than reads could see through. With the isolation that BEGIN gives where
    /// it names none, and the client has not changed it; `None`: not known.
    ByIsolation(Option<Isolation>),
}

/// What a client's unit does to its transaction block, where that can be told without a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockStep {
    /// BEGIN, outside of a block.
    Begin {
        /// Of a block whose reads all have one snapshot.
        is_snapshot: bool,
    },
    /// COMMIT or ROLLBACK of a lazy block.
    End,
    /// Likewise, AND CHAIN: a block with the same modes begins.
    Chain,
    /// Anything else in a lazy block that has failed.
    Refused,
}

impl BlockStep {
    /// Why it is taken here.
    pub fn reason(self) -> Reason {
        match self {
            Self::Begin { .. } => Reason::LazyBegin,
            Self::End | Self::Chain => Reason::LazyEnd,
            Self::Refused => Reason::FailedBlock,
        }
    }
}

impl Session {
    /// The transaction status that the client knows.
    pub fn client_status(&self) -> TransactionStatus {
        match self.lazy.as_deref() {
            None => self.status,
            Some(LazyBlock { failed: false, .. }) => TransactionStatus::InBlock,
            Some(LazyBlock { failed: true, .. }) => TransactionStatus::Failed,
        }
    }

    /// Whether a block is open that no server knows of.
    pub fn is_lazy(&self) -> bool {
        self.lazy.is_some()
    }

    /// Whether a lazy block is open whose reads all have one snapshot.
    pub fn is_lazy_snapshot(&self) -> bool {
        self.lazy.as_ref().is_some_and(|block| block.is_snapshot)
    }

    /// What a unit of one statement does to the block, if Weir answers it by itself.
    pub fn block_step(&self, analysis: &Analysis, laziness: Laziness) -> Option<BlockStep> {
        let command = &analysis.single()?.command;
        match (self.lazy.as_deref(), command) {
            (None, Command::Begin(modes)) if self.status == TransactionStatus::Idle => {
                self.lazy_kind(*modes, laziness).map(|is_snapshot| BlockStep::Begin { is_snapshot })
            }
            (Some(_), Command::Commit { chain } | Command::Rollback { chain }) => {
                Some(if *chain { BlockStep::Chain } else { BlockStep::End })
            }
            // A failed block looks at these.
            (
                Some(LazyBlock { failed: true, .. }),
                Command::Empty | Command::RollbackTo(_) | Command::PrepareTransaction,
            ) => None,
            (Some(LazyBlock { failed: true, .. }), _) => Some(BlockStep::Refused),
            _ => None,
        }
    }

    /// Whether a block that may be lazy is a snapshot. At READ COMMITTED each statement has a snapshot of its own; at
    /// REPEATABLE READ the first statement takes the one for all, which is any server's to give if nothing is written.
    fn lazy_kind(&self, modes: TransactionModes, laziness: Laziness) -> Option<bool> {
        let Laziness::ByIsolation(default) = laziness else { return None };
        let default = default.filter(|_| !self.settings.changes_isolation());
        match modes.isolation.or(default)? {
            _ if modes.deferrable.is_some() => None,
            Isolation::ReadCommitted | Isolation::ReadUncommitted => Some(false),
            Isolation::RepeatableRead if modes.read_only == Some(true) => Some(true),
            Isolation::RepeatableRead | Isolation::Serializable => None,
        }
    }

    /// Takes the step and writes the answers to the messages of `unit`; `begin` is the text of BEGIN. False: this unit
    /// is not of the plain form that is answered here, and nothing has been written.
    pub fn take_step(
        &mut self,
        step: BlockStep,
        text: &[u8],
        unit: &[u8],
        shared: &Shared,
        out: &mut Vec<u8>,
    ) -> Result<bool, Malformed> {
        let Some(shape) = Plain::of(unit) else { return Ok(false) };
        let tag: &[u8] = match step {
            BlockStep::Begin { is_snapshot } => {
                let begin = text.into();
                self.lazy = Some(Box::new(LazyBlock { begin, queried: false, failed: false, is_snapshot }));
                // START TRANSACTION has a tag of its own.
                if first_word(text).eq_ignore_ascii_case(b"start") { b"START TRANSACTION" } else { b"BEGIN" }
            }
            BlockStep::End | BlockStep::Chain => {
                let ended = self.lazy.take();
                let failed = ended.as_ref().is_some_and(|block| block.failed);
                if step == BlockStep::Chain {
                    self.lazy =
                        ended.map(|block| Box::new(LazyBlock { queried: false, failed: false, ..*block }));
                }
                let word = first_word(text);
                let commits = ![&b"rollback"[..], b"abort"].iter().any(|end| word.eq_ignore_ascii_case(end));
                if commits && !failed { b"COMMIT" } else { b"ROLLBACK" }
            }
            BlockStep::Refused => {
                if shape != Plain::Query {
                    return Ok(false);
                }
                self.unnamed = None;
                refuse_in_failed_block(out);
                build::ready_for_query(out, TransactionStatus::Failed);
                return Ok(true);
            }
        };
        if shape == Plain::Query {
            self.unnamed = None;
            build::command_complete(out, tag);
            build::ready_for_query(out, self.client_status());
            return Ok(true);
        }
        let mut rest = unit;
        while let Ok(Next::Frame(message)) = frame::next(rest, MESSAGE_BYTES_MAX) {
            rest = &rest[message.bytes.len()..];
            match message.tag {
                frontend::PARSE => {
                    let parse = frontend::parse(message.body())?;
                    self.unnamed = Some(self.intern(parse, shared).statement);
                    build::empty(out, backend::PARSE_COMPLETE);
                }
                frontend::BIND => build::empty(out, backend::BIND_COMPLETE),
                frontend::DESCRIBE => build::empty(out, backend::NO_DATA),
                frontend::EXECUTE => build::command_complete(out, tag),
                _ => build::ready_for_query(out, self.client_status()),
            }
        }
        Ok(true)
    }

    /// The block becomes real: the client's BEGIN goes in front of what comes next. Where it has failed already, so
    /// does the real one. Gives what it was: [`Session::reopen`]. `input`: what comes next.
    ///
    /// Behind the first snapshot a block's modes can no longer be changed, by SET TRANSACTION or another BEGIN (manual,
    /// SET TRANSACTION). So where a read was answered, the real block takes a snapshot too, unless what comes next does.
    pub fn open_block(
        &mut self,
        input: &[u8],
        server: &mut ServerState,
        out: &mut Vec<u8>,
    ) -> Option<Box<LazyBlock>> {
        let lazy = self.lazy.take()?;
        let snapshot = lazy.queried && !lazy.failed && !self.begins_with_snapshot(input);
        self.set_up(server, out);
        build::query(out, &lazy.begin);
        server.expect_setup();
        self.status = TransactionStatus::InBlock;
        if snapshot {
            build::query(out, b"SELECT");
            server.expect_setup();
        }
        if lazy.failed {
            // Any error will do; this one needs no table.
            build::query(out, b"ROLLBACK TO SAVEPOINT weir_failed_block");
            server.expect_failure();
            self.status = TransactionStatus::Failed;
        }
        Some(lazy)
    }

    /// The server that a block was opened on is given up, and the block is lazy again. It has only read.
    pub fn reopen(&mut self, mut block: Box<LazyBlock>) {
        block.queried = true;
        block.failed |= self.status == TransactionStatus::Failed;
        self.lazy = Some(block);
        self.status = TransactionStatus::Idle;
    }

    /// Whether the first statement of what a client sends takes a snapshot before anything else.
    fn begins_with_snapshot(&self, input: &[u8]) -> bool {
        let Ok(Some(contents)) = self.contents(input) else { return false };
        let Some(text) = contents.texts.first() else { return false };
        let lexing = text.lexing(self.lexing());
        let analysis = sql::analyze(text.as_bytes(), lexing);
        analysis.statements.first().is_some_and(|first| {
            matches!(
                first.command,
                Command::Select
                    | Command::Values
                    | Command::Table
                    | Command::With
                    | Command::Insert
                    | Command::Update
                    | Command::Delete
                    | Command::Merge
            )
        })
    }

    /// What the client sent was refused here: the status to tell it.
    pub fn refused(&mut self) -> TransactionStatus {
        self.lazy_read_ended(true).unwrap_or(TransactionStatus::Idle)
    }

    /// A read of a lazy block has ended on its server.
    pub(super) fn lazy_read_ended(&mut self, failed: bool) -> Option<TransactionStatus> {
        let lazy = self.lazy.as_mut()?;
        lazy.queried = true;
        lazy.failed |= failed;
        Some(self.client_status())
    }
}

/// The forms of a unit that are answered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plain {
    /// A simple query.
    Query,
    /// Parse and Bind without names, or Bind of a statement that was prepared before; perhaps Describe of the portal;
    /// Execute, Sync.
    Extended,
}

impl Plain {
    fn of(unit: &[u8]) -> Option<Self> {
        let mut tags = [0; 5];
        let mut count = 0;
        let mut is_named = false;
        let mut rest = unit;
        while let Ok(Next::Frame(message)) = frame::next(rest, MESSAGE_BYTES_MAX) {
            rest = &rest[message.bytes.len()..];
            *tags.get_mut(count)? = message.tag;
            count += 1;
            let is_plain = match message.tag {
                frontend::PARSE => message.body().first() == Some(&0),
                frontend::BIND => {
                    let (name, values) = bound(message.body())?;
                    is_named = !name.is_empty();
                    values.starts_with(&[0; 4])
                }
                frontend::DESCRIBE => message.body() == b"P\0",
                frontend::EXECUTE => message.body() == [0; 5],
                _ => true,
            };
            if !is_plain {
                return None;
            }
        }
        match &tags[..count] {
            [frontend::QUERY] => Some(Self::Query),
            [frontend::PARSE, frontend::BIND, frontend::EXECUTE, frontend::SYNC]
            | [frontend::PARSE, frontend::BIND, frontend::DESCRIBE, frontend::EXECUTE, frontend::SYNC]
                if !is_named =>
            {
                Some(Self::Extended)
            }
            [frontend::BIND, frontend::EXECUTE, frontend::SYNC]
            | [frontend::BIND, frontend::DESCRIBE, frontend::EXECUTE, frontend::SYNC] => Some(Self::Extended),
            _ => None,
        }
    }
}

/// The statement that a Bind without a portal's name is of, and its formats and values: none begin with four zero bytes.
fn bound(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Fields::new(body);
    if !fields.cstr().ok()?.is_empty() {
        return None;
    }
    let name = fields.cstr().ok()?;
    Some((name, fields.rest()))
}

/// In PostgreSQL's words.
fn refuse_in_failed_block(out: &mut Vec<u8>) {
    let message = "current transaction is aborted, commands ignored until end of transaction block";
    build::report(out, &Report::new(Severity::Error, SqlState::IN_FAILED_SQL_TRANSACTION, message));
}
