//! What was sent to a server and is not answered yet, for those who watch.

use std::sync::Arc;

use super::server_state::Expected;
use super::{ServerState, Session, Statement};
use crate::sql::Analysis;

/// What the server's next message answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// A question of ours: the client knows nothing of it.
    Ours,
    /// A simple query.
    Query,
    /// Messages of a batch.
    Batch,
}

impl Session {
    /// What the simple query says that was taken last, if that is known; told once.
    pub fn take_queried(&mut self) -> Option<Arc<Analysis>> {
        self.queried.take()
    }
}

impl ServerState {
    /// The prepared statement whose execution was asked for last, if it is known.
    pub fn last_executed(&self) -> Option<&Arc<Statement>> {
        match self.queue.back()? {
            Expected::Execute(running) => running.as_ref().map(|running| &running.statement),
            _ => None,
        }
    }

    /// Whether the client has all its answers: what is still owed are findings for us.
    pub fn owes_findings_only(&self) -> bool {
        self.queue.iter().all(|expected| matches!(expected, Expected::Setup | Expected::Inspection(_)))
    }

    /// What the server's next message answers.
    #[inline]
    pub fn answering(&self) -> Answering {
        match self.queue.front() {
            Some(
                Expected::Setup | Expected::Failure | Expected::Inspection(_) | Expected::ForgetSequences,
            ) => Answering::Ours,
            Some(Expected::Query { .. } | Expected::FunctionCall) => Answering::Query,
            _ => Answering::Batch,
        }
    }
}
