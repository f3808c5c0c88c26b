//! What others must know of a client's commits, before, while and after they are answered.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::routing::Routing;
use crate::catalog::{Touched, WriteSet};

impl Routing {
    /// Others must see what was committed: to be told before the client is.
    pub(super) fn committed(&mut self, wrote: &WriteSet) {
        if wrote.is_empty() {
            return;
        }
        if wrote.is_ddl() {
            if self.database.catalog.changed() {
                self.splitting.catalog_changed(&self.database);
            }
            // Roles are those of all databases: what one was allowed to read it may be no more.
            let everything = Touched { everything: true, ..Touched::default() };
            let others = self.splitting.list().into_iter().filter(|one| !Arc::ptr_eq(one, &self.database));
            self.telling.extend(others.filter_map(|other| other.memory.written(&everything)));
        } else if wrote.ran_code() && self.database.catalog.doubt() {
            self.splitting.catalog_changed(&self.database);
        }
        self.raise(&wrote.touched(&self.database.catalog));
    }

    /// The client learns of commits that were not its own: others, or somebody who does not pass here, may have written
    /// anything.
    pub(super) fn others_committed(&mut self) {
        self.raise_floors(&Touched { everything: true, catalogs: true, ..Touched::default() });
        self.database.memory.seen();
    }

    /// Something was run here that nobody has looked at.
    pub(super) fn ran_unseen(&mut self) {
        let mut wrote = WriteSet::default();
        wrote.add_code();
        self.committed(&wrote);
    }

    fn raise(&mut self, touched: &Touched) {
        self.raise_floors(touched);
        // Behind the floors: a result that is read from now on has what was committed.
        if let Some(telling) = self.database.memory.written(touched) {
            self.telling.push(telling);
        }
    }

    fn raise_floors(&mut self, touched: &Touched) {
        // Whether this commit was flushed, a `SET synchronous_commit` somewhere may have decided.
        let commit = self.database.floors.commit(touched, false);
        self.own = commit.ticket;
        if commit.wake {
            self.splitting.committed();
        }
    }

    /// Whether the answer to a commit waits until other Weirs know of it.
    #[inline]
    pub(super) fn is_telling(&self) -> bool {
        !self.telling.is_empty()
    }

    /// Until they do, or nothing is shared any more.
    pub(super) fn poll_told(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.telling.retain_mut(|telling| Pin::new(telling).poll(context).is_pending());
        if self.telling.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// What was sent may be committed, and is not answered yet; nothing else of this client's is.
    pub(super) fn doubt(&mut self, wrote: &WriteSet) {
        if self.caching.is_none() || wrote.is_empty() {
            return;
        }
        let doubt = self.database.memory.epochs.doubt(&wrote.touched(&self.database.catalog));
        if let Some(before) = self.in_doubt.replace(doubt) {
            before.end();
        }
    }

    /// All that the client has sent is answered, and its commits were told.
    pub(super) fn no_doubt(&mut self) {
        if let Some(doubt) = self.in_doubt.take() {
            doubt.end();
        }
    }

    /// What the client has sent is answered, and its commits are known.
    pub(super) fn settled(&mut self) {
        self.changing = None;
    }
}
