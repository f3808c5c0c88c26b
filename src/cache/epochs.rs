//! Epochs: whether what was read of a relation is still so.
//!
//! Each relation has a number that rises with each commit that wrote it, and a count of commits that are *in doubt*: sent
//! to the server, and not answered yet. Somewhere between the two the commit becomes visible, and nobody can tell when. So
//! this is a seqlock: what was read while nothing was in doubt, and while the number has stayed the same since, is what a
//! read would give now. A commit in doubt silences its relations; its answer makes older entries void for ever. That
//! costs hits of the written tables for the time of a commit, and gives more than "own writes are seen": no client ever
//! goes back, from a row that it read on a server to an older one from memory.
//!
//! ```text
//!   63                       24 23          0
//!   +--------------------------+------------+
//!   | number                   | in doubt   |     one atomic word per relation
//!   +--------------------------+------------+
//! ```
//!
//! To invalidate is one increment, whatever the number of entries. Whoever tells of a write calls [`Epochs::invalidate`]:
//! the proxy for its own commits, in front of their answer and behind their floors; the change stream for all others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use ahash::HashMap;

use crate::catalog::{RelationId, Touched};

/// One more commit.
const COMMIT: u64 = 1 << 24;

/// What of a word counts the commits in doubt.
const IN_DOUBT: u64 = COMMIT - 1;

/// The word of one relation.
#[derive(Debug, Default)]
struct Epoch(AtomicU64);

impl Epoch {
    #[inline]
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn invalidate(&self) {
        self.0.fetch_add(COMMIT, Ordering::SeqCst);
    }
}

/// The epochs of one database. The cache is asked and told through these; nothing in it is ever set back.
#[derive(Debug, Default)]
pub struct Epochs {
    /// Any relation may have been written.
    everything: Arc<Epoch>,
    /// The system catalogs: what any statement means.
    catalogs: Arc<Epoch>,
    /// Bounded by the relations of the catalog ([`Epochs::forget`]).
    tables: RwLock<HashMap<RelationId, Arc<Epoch>>>,
}

impl Epochs {
    /// What an effect reads was written, or may have been: nothing older is served from now on.
    pub fn invalidate(&self, written: &Touched) {
        if written.everything {
            self.everything.invalidate();
        }
        if written.catalogs {
            self.catalogs.invalidate();
        }
        // Of a relation that is not here nobody has an entry.
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        written
            .relations
            .iter()
            .filter_map(|relation| tables.get(relation))
            .for_each(|epoch| epoch.invalidate());
    }

    /// Whatever is known is void.
    pub fn invalidate_all(&self) {
        self.everything.invalidate();
    }

    /// A commit is about to be sent: until the doubt is over, nothing that it may write is served or kept.
    pub fn doubt(&self, written: &Touched) -> Doubt {
        let mut epochs: Vec<_> = written.relations.iter().map(|relation| self.table(*relation)).collect();
        epochs.extend(written.everything.then(|| Arc::clone(&self.everything)));
        epochs.extend(written.catalogs.then(|| Arc::clone(&self.catalogs)));
        for epoch in &epochs {
            epoch.0.fetch_add(1, Ordering::SeqCst);
        }
        Doubt { epochs: epochs.into() }
    }

    /// The epochs that a read depends on, found once per effect.
    pub fn watch(&self, reads: &Touched) -> Watch {
        let tables = reads.relations.iter().map(|relation| self.table(*relation));
        let always = [Arc::clone(&self.everything), Arc::clone(&self.catalogs)];
        Watch(always.into_iter().chain(tables).collect())
    }

    fn table(&self, relation: RelationId) -> Arc<Epoch> {
        let known = self.tables.read().unwrap_or_else(PoisonError::into_inner).get(&relation).cloned();
        known.unwrap_or_else(|| {
            let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(tables.entry(relation).or_default())
        })
    }

    /// Forgets relations that are gone: `has` says which are there. Those that somebody watches stay.
    pub fn forget(&self, has: impl Fn(RelationId) -> bool) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.retain(|relation, epoch| has(*relation) || Arc::strong_count(epoch) > 1);
    }

    /// How many relations have an epoch.
    pub fn len(&self) -> usize {
        self.tables.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A commit in doubt. One that is dropped without a word may have been committed: what it wrote is void.
#[derive(Debug)]
#[must_use]
pub struct Doubt {
    epochs: Box<[Arc<Epoch>]>,
}

impl Doubt {
    /// It is known what became of it, and what was written was told.
    pub fn end(mut self) {
        for epoch in std::mem::take(&mut self.epochs) {
            epoch.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Doubt {
    fn drop(&mut self) {
        for epoch in &self.epochs {
            // One commit more, and one in doubt less, in one step.
            epoch.0.fetch_add(COMMIT - 1, Ordering::SeqCst);
        }
    }
}

/// The epochs that a read depends on: of everything, of the catalogs, of each relation.
#[derive(Clone, Debug)]
pub struct Watch(Box<[Arc<Epoch>]>);

impl Watch {
    /// The numbers now; `None` while something is in doubt.
    pub fn stamp(&self) -> Option<Stamp> {
        let numbers: Box<[u64]> = self.0.iter().map(|epoch| epoch.now()).collect();
        let is_quiet = numbers.iter().all(|number| number & IN_DOUBT == 0);
        is_quiet.then_some(Stamp(numbers))
    }

    /// Whether something is in doubt.
    #[inline]
    pub fn is_in_doubt(&self) -> bool {
        self.0.iter().any(|epoch| epoch.now() & IN_DOUBT != 0)
    }

    /// Whether nothing has been written since, and nothing is in doubt.
    #[inline]
    pub fn is_current(&self, stamp: &Stamp) -> bool {
        self.0.len() == stamp.0.len()
            && self.0.iter().zip(&stamp.0).all(|(epoch, number)| epoch.now() == *number)
    }

    /// Whether both are of the same relations. By identity: epochs of a database that was forgotten and made anew begin
    /// anew, and must not be taken for the old ones.
    #[inline]
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(one, two)| Arc::ptr_eq(one, two))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There are always two at least.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The numbers that a read was begun with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp(Box<[u64]>);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::Oid;

    fn tables(oids: &[u32]) -> Touched {
        Touched { relations: oids.iter().map(|oid| RelationId(Oid(*oid))).collect(), ..Touched::default() }
    }

    #[test]
    fn only_what_was_written_is_void() {
        let epochs = Epochs::default();
        let (a, b) = (epochs.watch(&tables(&[1])), epochs.watch(&tables(&[2])));
        let (of_a, of_b) = (a.stamp().unwrap(), b.stamp().unwrap());
        epochs.invalidate(&tables(&[1, 3]));
        assert!(!a.is_current(&of_a) && b.is_current(&of_b));
        let of_a = a.stamp().unwrap();
        epochs.invalidate(&Touched { catalogs: true, ..Touched::default() });
        assert!(!a.is_current(&of_a) && !b.is_current(&of_b));
        let of_b = b.stamp().unwrap();
        epochs.invalidate(&Touched { everything: true, ..Touched::default() });
        assert!(!b.is_current(&of_b));
    }

    #[test]
    fn doubt_silences_and_its_end_alone_does_not_invalidate() {
        let epochs = Epochs::default();
        let (a, b) = (epochs.watch(&tables(&[1])), epochs.watch(&tables(&[2])));
        let (of_a, of_b) = (a.stamp().unwrap(), b.stamp().unwrap());
        let first = epochs.doubt(&tables(&[1]));
        let second = epochs.doubt(&tables(&[1]));
        assert!(!a.is_current(&of_a) && a.stamp().is_none() && b.is_current(&of_b));
        first.end();
        assert!(!a.is_current(&of_a));
        second.end();
        assert!(a.is_current(&of_a), "nothing was written after all");
        drop(epochs.doubt(&tables(&[1])));
        assert!(!a.is_current(&of_a) && a.stamp().is_some(), "nobody said what became of it");
    }

    #[test]
    fn a_relation_first_read_while_it_is_written_is_in_doubt() {
        let epochs = Epochs::default();
        let doubt = epochs.doubt(&tables(&[7]));
        let watch = epochs.watch(&tables(&[7]));
        assert!(watch.is_in_doubt());
        doubt.end();
        assert!(!watch.is_in_doubt());
    }

    #[test]
    fn epochs_made_anew_are_others() {
        let (old, new) = (Epochs::default(), Epochs::default());
        let before = old.watch(&tables(&[1]));
        assert!(before.is_same(&old.watch(&tables(&[1]))));
        assert!(!before.is_same(&new.watch(&tables(&[1]))));
        old.forget(|_| false);
        assert_eq!(old.len(), 1, "somebody watches it");
        drop(before);
        old.forget(|_| false);
        assert!(old.is_empty());
    }
}
