//! A block that is open on a replica: its client keeps the server connection between the units of the block, and each
//! unit is decided anew.

use super::conversation::Conversation;
use crate::pg::HostId;
use crate::route::Block;
use crate::server::Lease;
use crate::session::LazyBlock;

/// See the module.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) lease: Lease,
    pub(super) host: HostId,
    /// What the block is anew if the replica is given up.
    pub(super) block: Box<LazyBlock>,
}

impl Held {
    /// As the decision takes it.
    pub(super) fn as_block(&self) -> Block {
        if self.block.is_snapshot() {
            Block::SnapshotOnReplica(self.host)
        } else {
            Block::OnReplica(self.host)
        }
    }
}

impl Conversation {
    /// Whether the client is in a block that is known here.
    pub(super) fn is_in_block(&self) -> bool {
        self.session.is_lazy() || self.held.is_some()
    }

    /// The replica is given up for the primary: the block has only read there, and begins anew.
    pub(super) async fn leave_replica(&mut self, held: Held) {
        self.entry.handle.set_target(None);
        if !held.lease.cancel.is_settled() {
            held.lease.cancel.settled().await;
        }
        self.session.reopen(held.block);
        held.lease.give_back_in_block();
    }

    /// The client is gone in the middle of its block.
    pub(super) async fn abandon_replica(&mut self) {
        if let Some(held) = self.held.take() {
            self.entry.handle.set_target(None);
            if !held.lease.cancel.is_settled() {
                held.lease.cancel.settled().await;
            }
            let status = self.session.status();
            held.lease.give_back_dirty(status);
        }
    }
}
