//! What the open transaction may have written, and when others are to see it.
//!
//! The shell foresees what a message does, tables and all, as long as it is certain what their names mean. Whatever is
//! neither foreseen nor known to be a read counts as a write of everything: a floor that is too high costs a replica a
//! millisecond, one that is too low a stale read.

use std::sync::Arc;

use super::server_state::Expected;
use super::{Message, ServerState, Session, Text};
use crate::catalog::WriteSet;
use crate::pg::{SqlState, TransactionStatus};
use crate::route::Plan;
use crate::sql::{Analysis, Command, Pin, PinSet, Statement};
use crate::wire::{Malformed, frontend};

/// Whether a text may do DDL, by its commands.
pub fn may_change_catalog(analysis: &Analysis) -> bool {
    analysis.statements.iter().any(|statement| matches!(writes(statement), Wrote::Code | Wrote::Schema))
}

/// What a reply says of the writes of its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// Nothing.
    Nothing,
    /// What was written so far may be committed, and more may follow.
    SoFar,
    /// All of it is.
    All,
}

/// Pins under which names mean what they meant without.
const KEEP_NAMES: PinSet =
    PinSet::of(&[Pin::Listen, Pin::AdvisoryLock, Pin::HoldCursor, Pin::SqlPrepare, Pin::SequenceState]);

/// What a statement may write, by its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrote {
    /// Nothing.
    Nothing,
    /// Rows of any table.
    Rows,
    /// Whatever code does that is not in the text.
    Code,
    /// The catalog.
    Schema,
}

/// What a statement may write that is not known to be a read.
fn writes(statement: &Statement) -> Wrote {
    match &statement.command {
        Command::Empty
        | Command::Begin(_)
        | Command::Commit { .. }
        | Command::Rollback { .. }
        | Command::Savepoint(_)
        | Command::RollbackTo(_)
        | Command::Release(_)
        | Command::PrepareTransaction
        | Command::RollbackPrepared
        | Command::SetTransaction(_)
        | Command::SetTransactionSnapshot
        | Command::Set { .. }
        | Command::Reset(_)
        | Command::ResetAll
        | Command::Show(_)
        | Command::ShowAll
        | Command::Discard(_)
        | Command::Prepare(_)
        | Command::Deallocate(_)
        | Command::DeallocateAll
        | Command::Listen(_)
        | Command::Unlisten(_)
        | Command::UnlistenAll
        | Command::Notify(_)
        | Command::CloseCursor(_)
        | Command::CloseAllCursors
        | Command::Lock
        | Command::Load
        | Command::Checkpoint => Wrote::Nothing,
        Command::Ddl
        | Command::CreateDatabase { .. }
        | Command::DropDatabase(_)
        | Command::AlterDatabaseRename(_)
        | Command::AlterDatabaseTablespace(_)
        | Command::Unknown => Wrote::Schema,
        Command::CommitPrepared | Command::Do | Command::Call | Command::Execute(_) => Wrote::Code,
        _ if statement.calls_unknown => Wrote::Code,
        Command::Select
        | Command::Values
        | Command::Table
        | Command::With
        | Command::Insert
        | Command::Update
        | Command::Delete
        | Command::Merge
        | Command::Truncate
        | Command::SetConstraints
        | Command::SetConfig(_)
        | Command::DeclareCursor { .. }
        | Command::Fetch
        | Command::Move
        | Command::Copy(_)
        | Command::Explain { .. }
        | Command::CreateTemporary { .. }
        | Command::Vacuum
        | Command::Analyze
        | Command::Cluster
        | Command::Reindex
        | Command::RefreshMaterializedView => Wrote::Rows,
    }
}

impl Session {
    /// What is sent from now on was decided to be a read, or not.
    pub fn set_reading(&mut self, reading: bool) {
        self.reading = reading;
    }

    /// Whether what is sent now is known to be a read.
    pub fn is_reading(&self) -> bool {
        self.reading
    }

    /// The text that a message runs which is about to be taken; `None`: it runs none, or it is not known here.
    pub fn runs<'a>(
        &self,
        message: Message<'a>,
        server: &ServerState,
    ) -> Result<Option<Text<'a>>, Malformed> {
        if !message.is_whole() {
            return Ok(None);
        }
        Ok(match message.tag {
            frontend::QUERY => Some(Text::Sent(frontend::query(message.body)?)),
            frontend::EXECUTE => {
                let (portal, _limit) = frontend::execute(message.body)?;
                server.portals.running(portal).map(|running| Text::Prepared(running.statement))
            }
            _ => None,
        })
    }

    /// Whether the names in what is sent next mean what [`Session::settings`] says.
    pub fn may_foresee(&self) -> bool {
        let keeps_names = self.pins.without(KEEP_NAMES).is_empty();
        !self.reading && !self.names_moved && !self.settings_in_doubt && keeps_names
    }

    /// What the message does that is taken next.
    pub fn foresee(&mut self, plan: Option<Arc<Plan>>) {
        self.foreseen = plan;
    }

    /// What the message does that is being taken.
    pub(super) fn take_foreseen(&mut self) -> Option<Arc<Plan>> {
        let plan = self.foreseen.take();
        // Code that may write anything may set anything, too.
        let keeps_names = |plan: &Plan| !plan.effect.changes_names && !plan.effect.writes.everything;
        self.names_moved |= !self.reading && !plan.as_deref().is_some_and(keeps_names);
        plan
    }

    /// A statement has ended well. `None`: it is not known which, or it was a function call.
    ///
    /// Noted when it ends, not when it is sent: of what is pipelined, some may be committed while the rest is under way.
    #[inline]
    pub(super) fn note_written(&mut self, plan: Option<&Plan>, statement: Option<&Statement>) {
        if !self.reading {
            note(&mut self.wrote, plan, statement);
        }
    }

    /// The statement under way has failed: what may be committed all the same, or has been seen to be by others.
    ///
    /// A procedure may have committed part of its work by then, and so may what cannot run in a block; other code may
    /// have written by another session (dblink).
    pub(super) fn note_failed(&mut self, code: Option<SqlState>, server: &ServerState) -> Committed {
        let failed = match server.queue.front() {
            Some(Expected::Execute(Some(running))) => running.statement.analysis.statements.first(),
            Some(Expected::Query { analysis, ended, .. }) => analysis.statements.get(*ended),
            _ => return Committed::Nothing,
        };
        if self.reading || code == Some(SqlState::SYNTAX_ERROR) {
            return Committed::Nothing;
        }
        match failed.map_or(Wrote::Code, writes) {
            Wrote::Nothing | Wrote::Rows => return Committed::Nothing,
            Wrote::Code | Wrote::Schema => self.wrote.add_code(),
        }
        Committed::SoFar
    }

    /// A statement ended with `tag`: what that commits.
    pub(super) fn committed_by_tag(&mut self, tag: &[u8]) -> Committed {
        match tag {
            b"COMMIT" => Committed::All,
            // An implicit transaction is committed in front of the tag of its last statement: always in a simple query,
            // in a batch if the statement may not run in a block. Code may commit by another session.
            _ if self.status == TransactionStatus::Idle && !self.wrote.is_empty() => Committed::SoFar,
            _ if self.wrote.ran_code() => Committed::SoFar,
            _ => Committed::Nothing,
        }
    }

    /// The server is ready: what was committed without a COMMIT.
    pub(super) fn committed_by_itself(&self, status: TransactionStatus) -> Committed {
        if status == TransactionStatus::Idle && !self.wrote.is_empty() {
            Committed::All
        } else {
            Committed::Nothing
        }
    }

    /// What the transaction has written: [`Committed::SoFar`].
    pub fn written(&self) -> &WriteSet {
        &self.wrote
    }

    /// As [`Session::written`], of a transaction that has ended: [`Committed::All`].
    pub fn take_written(&mut self) -> WriteSet {
        std::mem::take(&mut self.wrote)
    }

    /// A transaction was rolled back.
    pub(super) fn forget_written(&mut self) {
        self.wrote.clear();
    }

    /// The client and the server connection part: what may have been committed, or may yet be.
    pub fn committed_perhaps(&mut self, server: &ServerState) -> WriteSet {
        let mut wrote = self.take_written();
        if !self.reading {
            Self::add_pending(&mut wrote, server);
        }
        wrote
    }

    /// Adds what the replies that are owed may yet turn out to have written.
    pub(super) fn add_pending(wrote: &mut WriteSet, server: &ServerState) {
        for expected in &server.queue {
            match expected {
                Expected::Execute(Some(running)) => {
                    let statement = running.statement.analysis.statements.first();
                    note(wrote, running.plan.as_deref(), statement);
                }
                Expected::Query { analysis, plan, .. } => {
                    analysis.statements.iter().for_each(|one| note(wrote, plan.as_deref(), Some(one)));
                }
                Expected::Execute(None) | Expected::FunctionCall => note(wrote, None, None),
                _ => {}
            }
        }
    }
}

fn note(set: &mut WriteSet, plan: Option<&Plan>, statement: Option<&Statement>) {
    match (statement.map_or(Wrote::Schema, writes), plan) {
        (Wrote::Nothing, _) => {}
        (Wrote::Schema, _) => set.add_unknown(),
        (Wrote::Code, Some(plan)) if !plan.effect.writes.everything => set.add(&plan.effect),
        (Wrote::Code, _) => set.add_code(),
        (Wrote::Rows, Some(plan)) => set.add(&plan.effect),
        (Wrote::Rows, None) => set.add_rows(),
    }
}
