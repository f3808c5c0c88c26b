//! Commits in doubt: sent, and not answered yet. Somewhere between the two they become visible.

use super::server_state::Expected;
use super::{ServerState, Session};
use crate::catalog::WriteSet;
use crate::pg::TransactionStatus;
use crate::sql::{Analysis, Command};

impl Session {
    /// What may be committed before what was sent is answered.
    #[inline]
    pub fn committing(&self, server: &ServerState) -> WriteSet {
        if self.is_reading() || server.queue.is_empty() {
            return WriteSet::default();
        }
        // In a block only its end commits; what is pipelined behind that may commit by itself.
        let in_block = self.status != TransactionStatus::Idle;
        if in_block && !server.queue.iter().any(may_end_block) {
            return WriteSet::default();
        }
        let mut wrote = self.written().clone();
        Self::add_pending(&mut wrote, server);
        wrote
    }
}

/// Whether the answer may be that of a statement that ends a transaction block.
fn may_end_block(expected: &Expected) -> bool {
    let ends = |analysis: &Analysis| {
        analysis.statements.iter().any(|statement| {
            matches!(
                statement.command,
                Command::Commit { .. }
                    | Command::Rollback { .. }
                    | Command::PrepareTransaction
                    | Command::Unknown
            )
        })
    };
    match expected {
        Expected::Query { analysis, .. } => ends(analysis),
        Expected::Execute(Some(running)) => ends(&running.statement.analysis),
        Expected::Execute(None) => true,
        _ => false,
    }
}
