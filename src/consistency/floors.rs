//! Floors: the last commit that wrote each table of one database.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use ahash::HashMap;

use super::positions::{Era, Positions, Ticket};
use crate::catalog::{RelationId, Touched};
use crate::config::Consistency;
use crate::pg::Lsn;

/// The last commit that wrote a table.
#[derive(Debug, Default)]
struct Floor(AtomicU64);

impl Floor {
    fn raise(&self, ticket: Ticket) {
        self.0.fetch_max(ticket.0, Ordering::SeqCst);
    }

    fn ticket(&self) -> Ticket {
        Ticket(self.0.load(Ordering::SeqCst))
    }
}

/// The floors that a read looks at, found once per effect.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    tables: Box<[Arc<Floor>]>,
    catalogs: bool,
    everything: bool,
}

impl Watched {
    /// Those of all tables and catalogs.
    pub fn everything() -> Self {
        Self { tables: Box::default(), catalogs: true, everything: true }
    }
}

/// What came of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its number: the session's own last one.
    pub ticket: Ticket,
    /// The task that reads positions sleeps: wake it.
    pub wake: bool,
}

/// What became of a commit that the change stream shows, where it raised a floor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Its position is known: replicas are to be asked for theirs.
    Known,
    /// As with a commit that passed here.
    Waiting(Commit),
}

/// A floor above some replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingFloor {
    /// The table; `None`: all tables.
    pub relation: Option<RelationId>,
    /// The commit.
    pub ticket: Ticket,
    /// Its position, once it has been read.
    pub position: Option<Lsn>,
}

/// See the module.
#[derive(Debug)]
pub struct Floors {
    positions: Arc<Positions>,
    /// Taken when an effect is found out and when a commit is answered; a read that is decided looks at floors that it
    /// holds already. Bounded by the relations of the catalog.
    tables: RwLock<HashMap<RelationId, Arc<Floor>>>,
    /// Of unknown writes.
    everything: Floor,
}

impl Floors {
    /// The floors of a database. Floors of the same may have been forgotten: these begin above all commits until now.
    pub fn new(positions: Arc<Positions>) -> Self {
        let everything = Floor::default();
        everything.raise(positions.newest());
        Self { positions, tables: RwLock::default(), everything }
    }

    /// Where commits are counted.
    pub fn positions(&self) -> &Arc<Positions> {
        &self.positions
    }

    fn table(&self, relation: RelationId) -> Arc<Floor> {
        let known = self.tables.read().unwrap_or_else(PoisonError::into_inner).get(&relation).cloned();
        known.unwrap_or_else(|| {
            let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(tables.entry(relation).or_default())
        })
    }

    /// The floors of what an effect reads.
    pub fn watch(&self, reads: &Touched) -> Watched {
        Watched {
            tables: reads.relations.iter().map(|relation| self.table(*relation)).collect(),
            catalogs: reads.catalogs,
            everything: reads.everything,
        }
    }

    /// What a replica must have passed to serve a read. `own` is the session's own last commit.
    #[inline]
    pub fn need(&self, reads: &Watched, consistency: Consistency, own: Ticket) -> Ticket {
        match consistency {
            Consistency::Strong => self.strong_need(reads),
            // Of floors above our last commit we need no more than that; those below are as in strong.
            Consistency::Session => self.strong_need(reads).min(own),
            Consistency::Bounded => Ticket(0),
        }
    }

    fn strong_need(&self, reads: &Watched) -> Ticket {
        if reads.everything {
            return self.positions.newest();
        }
        let floors = reads.tables.iter().map(|floor| floor.ticket());
        let need = floors.fold(self.everything.ticket().max(self.positions.base()), Ticket::max);
        if reads.catalogs { need.max(self.positions.catalogs()) } else { need }
    }

    /// A transaction has committed, or its outcome is unknown: to be told before the client is.
    /// `is_flushed`: `synchronous_commit` was on, so that the commit was flushed before it was answered.
    pub fn commit(&self, writes: &Touched, is_flushed: bool) -> Commit {
        let (ticket, wake) = self.positions.issue(is_flushed);
        for relation in &writes.relations {
            self.table(*relation).raise(ticket);
        }
        if writes.catalogs {
            self.positions.raise_catalogs(ticket);
        }
        if writes.everything {
            self.everything.raise(ticket);
        }
        Commit { ticket, wake }
    }

    /// The change stream shows a commit that ends at `end`, in the log of `era`. Most of them passed here, and have
    /// raised the floors already: where these cover it, they stay as they are. Gives what has become of the position
    /// of those that had to be raised, if any.
    pub fn commit_at(&self, writes: &Touched, end: Lsn, era: Era, now: Instant) -> Option<Shown> {
        let Some(uncovered) = self.positions.uncovered(end, era) else {
            // It is of another log: no position of it means anything.
            return Some(Shown::Waiting(self.commit(writes, false)));
        };
        let beneath = self.everything.ticket().max(self.positions.base());
        let is_low = |ticket: Ticket| ticket.max(beneath) <= uncovered;
        let lower: Vec<_> = writes.relations.iter().map(|relation| self.table(*relation)).collect();
        let lower: Vec<_> = lower.into_iter().filter(|floor| is_low(floor.ticket())).collect();
        let raises_catalogs = writes.catalogs && is_low(self.positions.catalogs());
        let raises_everything = writes.everything && is_low(Ticket::default());
        if lower.is_empty() && !raises_catalogs && !raises_everything {
            return None;
        }
        let (ticket, wake) = self.positions.issue(true);
        for floor in lower {
            floor.raise(ticket);
        }
        if raises_catalogs {
            self.positions.raise_catalogs(ticket);
        }
        if raises_everything {
            self.everything.raise(ticket);
        }
        let is_known = self.positions.resolve_at(ticket, end, era, now);
        Some(if is_known { Shown::Known } else { Shown::Waiting(Commit { ticket, wake }) })
    }

    /// Forgets tables that are gone: `has` says which are there. Floors that somebody watches stay.
    pub fn forget(&self, has: impl Fn(RelationId) -> bool) {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        tables.retain(|relation, floor| has(*relation) || Arc::strong_count(floor) > 1);
    }

    /// The floors that some replica in use has not passed: for the console.
    pub fn pending(&self) -> Vec<PendingFloor> {
        let passed = self.positions.passed_by_all();
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let floors = tables.iter().map(|(relation, floor)| (Some(*relation), floor.ticket()));
        let mut pending: Vec<_> =
            floors.chain([(None, self.everything.ticket())]).filter(|(_, ticket)| *ticket > passed).collect();
        drop(tables);
        pending.sort_unstable();
        let with_position = |(relation, ticket)| PendingFloor {
            relation,
            ticket,
            position: self.positions.position_of(ticket),
        };
        pending.into_iter().map(with_position).collect()
    }
}
