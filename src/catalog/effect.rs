//! Effects: what a statement truly reads and writes, and why it must be on the primary if it must.

use super::SharedCatalog;
use super::behavior::{OnPrimary, Volatility};
use super::snapshot::RelationId;

/// Relations, or more than can be told.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Touched {
    /// Each once, sorted; a tree of partitions is its root.
    pub relations: Box<[RelationId]>,
    /// System catalogs.
    pub catalogs: bool,
    /// Any relation of the database, besides.
    pub everything: bool,
}

impl Touched {
    /// Nothing at all.
    pub fn is_nothing(&self) -> bool {
        self.relations.is_empty() && !self.catalogs && !self.everything
    }

    fn and(&mut self, other: &Self) {
        if !other.relations.is_empty() {
            let mut all = [&*self.relations, &*other.relations].concat();
            all.sort_unstable();
            all.dedup();
            self.relations = all.into();
        }
        self.catalogs |= other.catalogs;
        self.everything |= other.everything;
    }
}

/// What a statement, or all statements of a text or batch, do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Why it belongs on the primary, whatever the replicas' positions; `None`: any replica that has what it reads.
    pub on_primary: Option<OnPrimary>,
    /// What it reads; views are what they read, and what only the primary may run need not be complete.
    pub reads: Touched,
    /// What it writes, with all that is written because of it.
    pub writes: Touched,
    /// It changes the catalog, for every session.
    pub is_ddl: bool,
    /// How much its result depends on when it runs.
    pub volatility: Volatility,
    /// A table that it reads shows other rows to other roles.
    pub row_security: bool,
    /// What runs behind it may find other relations behind the same names.
    pub changes_names: bool,
    /// [`super::SharedCatalog::changes`] when this was found out.
    pub changes: u64,
}

impl Effect {
    /// A read of nothing; the neutral element of [`Effect::and`].
    pub fn nothing(changes: u64) -> Self {
        Self {
            on_primary: None,
            reads: Touched::default(),
            writes: Touched::default(),
            is_ddl: false,
            volatility: Volatility::Immutable,
            row_security: false,
            changes_names: false,
            changes,
        }
    }

    /// Anything may happen.
    pub fn unknown(why: OnPrimary, changes: u64) -> Self {
        let anything = Touched { relations: Box::default(), catalogs: true, everything: true };
        Self {
            on_primary: Some(why),
            reads: anything.clone(),
            writes: anything,
            volatility: Volatility::Volatile,
            changes_names: true,
            ..Self::nothing(changes)
        }
    }

    /// Both run, `next` last: as the statements of one text or batch do.
    pub fn and(&mut self, next: &Self) {
        let is_misread = self.changes_names && !next.writes.is_nothing();
        self.on_primary = self.on_primary.or(next.on_primary);
        self.reads.and(&next.reads);
        self.writes.and(&next.writes);
        self.writes.everything |= is_misread;
        self.is_ddl |= next.is_ddl;
        self.volatility = self.volatility.max(next.volatility);
        self.row_security |= next.row_security;
        self.changes_names |= next.changes_names;
        self.changes = self.changes.min(next.changes);
    }
}

/// More relations than this in one transaction count as all.
const RELATIONS_MAX: usize = 256;

/// What a transaction has written so far: what its commit raises the floors of.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts; any of them may stand together")]
pub struct WriteSet {
    relations: Vec<RelationId>,
    catalogs: bool,
    everything: bool,
    is_ddl: bool,
    ran_code: bool,
    /// The oldest view of the catalog that any part is seen by.
    changes: Option<u64>,
}

impl WriteSet {
    /// Notes a statement that was sent to the primary in this transaction.
    pub fn add(&mut self, effect: &Effect) {
        if effect.writes.is_nothing() && !effect.is_ddl {
            return;
        }
        for relation in &effect.writes.relations {
            if let Err(at) = self.relations.binary_search(relation) {
                self.relations.insert(at, *relation);
            }
        }
        self.catalogs |= effect.writes.catalogs;
        // After its own DDL a transaction sees another catalog than the one that we know.
        self.everything |=
            effect.writes.everything || effect.is_ddl || self.is_ddl || self.relations.len() > RELATIONS_MAX;
        self.is_ddl |= effect.is_ddl;
        // Of a trigger, a rule, a volatile function.
        self.ran_code |= effect.writes.everything;
        self.changes = Some(self.changes.map_or(effect.changes, |changes| changes.min(effect.changes)));
    }

    /// Notes that rows of any relation were written.
    pub fn add_rows(&mut self) {
        self.everything = true;
    }

    /// Notes that code was run that cannot be looked into.
    pub fn add_code(&mut self) {
        self.everything = true;
        self.catalogs = true;
        self.ran_code = true;
    }

    /// Notes that anything may have been done: DDL, a COMMIT PREPARED, a message that was not read.
    pub fn add_unknown(&mut self) {
        self.everything = true;
        self.catalogs = true;
        self.is_ddl = true;
    }

    /// What the commit makes visible. If the catalog has changed since the statements were looked at, or is being changed,
    /// a trigger may have been added under them.
    pub fn touched(&self, catalog: &SharedCatalog) -> Touched {
        let is_outdated = |seen| seen != catalog.changes() || catalog.is_changing() || catalog.is_in_doubt();
        let is_outdated = self.changes.is_some_and(is_outdated);
        Touched {
            relations: self.relations.as_slice().into(),
            catalogs: self.catalogs || self.is_ddl,
            everything: self.everything || is_outdated,
        }
    }

    /// Whether the commit changes the catalog: [`super::SharedCatalog::changed`] must be told in front of its answer.
    pub fn is_ddl(&self) -> bool {
        self.is_ddl
    }

    /// Whether code was run that may have changed the catalog: [`super::SharedCatalog::doubt`] must be told.
    pub fn ran_code(&self) -> bool {
        self.ran_code
    }

    /// Whether system catalogs were written.
    pub fn has_catalogs(&self) -> bool {
        self.catalogs || self.is_ddl
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.relations.is_empty() && !self.catalogs && !self.everything && !self.is_ddl
    }

    /// Forgets it all: the transaction has ended.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
