//! N+1: one statement again and again, for the rows that another gave.
//!
//! Statements are looked at by *scope*: what belongs together in the application. With a trace (`traceparent`) that is the
//! trace, on whatever connections; else a transaction block; else, in autocommit, what follows each other on a connection
//! within 20 ms. Two requests that share a pooled connection are two blocks, so they do not meet.
//!
//! A repetition is an N+1 where, in one scope,
//!
//! - the child, a plain SELECT for one key ([`super::lookup`]), runs five times or more *for one execution of its parent*,
//!   an earlier statement of another shape that gave five rows or more: where the parent runs again in between, counting
//!   begins anew, so that pages, polls and requests in a row are none;
//! - most of its values differ: the same value again and again is something for a cache;
//! - nothing writes the child's table meanwhile: loops that look before they insert cannot be loaded at once.
//!
//! So much is possible without a look into rows, and is called *possible* to users. Everything is bounded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::HashMap;

use super::lookup::Lookup;
use super::record::Record;
use crate::sql::Fingerprint;

/// Executions of the child that make an N+1, and rows of its parent.
const REPEATS_MIN: u32 = 5;
const ROWS_MIN: u64 = 5;

/// Of so many values at most it is looked at whether they differ, and this share must.
const VALUES_MAX: usize = 32;
const DISTINCT_PERCENT: usize = 70;

/// A child gives few rows at a time.
const CHILD_ROWS_MAX: u64 = 200;

/// How long a scope may rest: in autocommit, in a block, in a trace; and how old it may be.
const REST: Duration = Duration::from_millis(20);
const BLOCK_REST: Duration = Duration::from_secs(5);
const TRACE_REST: Duration = Duration::from_secs(1);
const AGE_MAX: Duration = Duration::from_secs(30);

/// Bounds.
const SCOPES_MAX: usize = 8192;
const SHAPES_MAX: usize = 256;
const WRITTEN_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ScopeKey {
    Client(u32),
    Trace(u128),
}

#[derive(Debug)]
struct Scope {
    began: Instant,
    last: Instant,
    transaction: u32,
    is_block: bool,
    statements: u32,
    shapes: Vec<Seen>,
    written: Vec<String>,
}

/// A shape in a scope.
#[derive(Debug)]
struct Seen {
    fingerprint: Fingerprint,
    lookup: Arc<Lookup>,
    /// The statement's place in the scope when it last gave many rows, and how many; 0: never.
    gave_at: u32,
    gave: u64,
    child: Option<Child>,
}

#[derive(Debug, Default)]
struct Child {
    /// Place in `shapes`, and where that last gave rows.
    parent: Option<(usize, u32)>,
    run: u32,
    run_max: u32,
    count: u32,
    values: Vec<u64>,
    sampled: usize,
    rows_max: u64,
    total: Duration,
    is_spoiled: bool,
    last: Option<Box<Record>>,
}

/// An N+1 that was found in one scope.
#[derive(Clone, Debug)]
pub struct Found {
    /// What gave the rows.
    pub parent: (Fingerprint, Arc<Lookup>),
    /// What was repeated for them.
    pub child: (Fingerprint, Arc<Lookup>),
    /// How often.
    pub count: u32,
    /// Rows that it gave at most.
    pub rows_max: u64,
    /// Rows of the parent.
    pub parent_rows: u64,
    /// How long all of it took.
    pub total: Duration,
    /// The last of it.
    pub last: Box<Record>,
}

impl Found {
    /// What all executions but one took.
    pub fn lost(&self) -> Duration {
        self.total.saturating_sub(self.total / self.count.max(1))
    }
}

/// All open scopes.
#[derive(Debug, Default)]
pub struct Scopes {
    open: HashMap<ScopeKey, Scope>,
    /// Statements that were not looked at, because there were too many scopes.
    pub overflows: u64,
}

impl Scopes {
    /// Takes a statement in; what turns out is pushed to `found`.
    pub fn add(&mut self, record: &Record, lookup: &Arc<Lookup>, found: &mut Vec<Found>) {
        let key = match record.trace {
            Some(trace) => ScopeKey::Trace(trace.trace),
            None => ScopeKey::Client(record.client.process),
        };
        let began = record.ended.checked_sub(record.total).unwrap_or(record.ended);
        let is_traced = record.trace.is_some();
        if let Some(scope) = self.open.get(&key)
            && !scope.has_room_for(record, began, is_traced)
            && let Some(scope) = self.open.remove(&key)
        {
            scope.close(found);
        }
        if self.open.len() >= SCOPES_MAX && !self.open.contains_key(&key) {
            self.overflows += 1;
            return;
        }
        let scope = self.open.entry(key).or_insert_with(|| Scope {
            began,
            last: began,
            transaction: record.transaction.number,
            is_block: record.transaction.is_block,
            statements: 0,
            shapes: Vec::new(),
            written: Vec::new(),
        });
        scope.last = scope.last.max(record.ended);
        scope.transaction = record.transaction.number;
        scope.is_block = record.transaction.is_block;
        scope.add(record, lookup);
    }

    /// Closes what rests. `now`: of the last record that was taken in, or later.
    pub fn sweep(&mut self, now: Instant, found: &mut Vec<Found>) {
        let resting: Vec<ScopeKey> = self
            .open
            .iter()
            .filter(|(key, scope)| {
                let rest = now.saturating_duration_since(scope.last);
                rest > scope.rest(matches!(key, ScopeKey::Trace(_)))
            })
            .map(|(key, _)| *key)
            .collect();
        for key in resting {
            if let Some(scope) = self.open.remove(&key) {
                scope.close(found);
            }
        }
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

impl Scope {
    fn rest(&self, is_traced: bool) -> Duration {
        if is_traced {
            TRACE_REST
        } else if self.is_block {
            BLOCK_REST
        } else {
            REST
        }
    }

    fn has_room_for(&self, record: &Record, began: Instant, is_traced: bool) -> bool {
        let rests = began.saturating_duration_since(self.last) <= self.rest(is_traced);
        let is_young = record.ended.saturating_duration_since(self.began) <= AGE_MAX;
        let is_same = self.transaction == record.transaction.number;
        let is_alone = !self.is_block && !record.transaction.is_block;
        rests && is_young && (is_traced || is_same || is_alone)
    }

    fn add(&mut self, record: &Record, lookup: &Arc<Lookup>) {
        self.statements += 1;
        if lookup.writes() {
            if let Some(table) = &lookup.table {
                self.wrote(table);
            }
            return;
        }
        if record.sqlstate.is_some() || lookup.command != "SELECT" {
            return;
        }
        let known = self.shapes.iter().position(|seen| seen.fingerprint == record.fingerprint);
        let Some(at) = known.or_else(|| {
            let has_room = self.shapes.len() < SHAPES_MAX;
            has_room.then(|| {
                let (fingerprint, lookup) = (record.fingerprint, Arc::clone(lookup));
                self.shapes.push(Seen { fingerprint, lookup, gave_at: 0, gave: 0, child: None });
                self.shapes.len() - 1
            })
        }) else {
            return;
        };
        // A row from memory was given too; how many, nobody has counted.
        let rows = record.rows;
        if lookup.is_child() && rows <= CHILD_ROWS_MAX {
            self.repeat(at, record, lookup);
        }
        if rows >= ROWS_MIN && record.gives_rows {
            (self.shapes[at].gave_at, self.shapes[at].gave) = (self.statements, rows);
        }
    }

    fn wrote(&mut self, table: &str) {
        if self.written.len() < WRITTEN_MAX && !self.written.iter().any(|known| known == table) {
            self.written.push(table.to_owned());
        }
        for seen in &mut self.shapes {
            if let Some(child) = &mut seen.child
                && seen.lookup.table.as_deref() == Some(table)
            {
                child.is_spoiled = true;
            }
        }
    }

    fn repeat(&mut self, at: usize, record: &Record, lookup: &Lookup) {
        let mut child = self.shapes[at].child.take().unwrap_or_default();
        if child.count == 0 {
            let table = lookup.table.as_deref().unwrap_or_default();
            child.is_spoiled = self.written.iter().any(|written| written == table);
        }
        if child.parent.is_none() {
            let gave = |(index, seen): (usize, &Seen)| {
                (index != at && seen.gave_at > 0).then_some((index, seen.gave_at))
            };
            child.parent =
                self.shapes.iter().enumerate().filter_map(gave).max_by_key(|(_, gave_at)| *gave_at);
        }
        if let Some((parent, gave_at)) = &mut child.parent
            && self.shapes[*parent].gave_at != *gave_at
        {
            *gave_at = self.shapes[*parent].gave_at;
            child.run = 0;
        }
        child.run += u32::from(child.parent.is_some());
        child.run_max = child.run_max.max(child.run);
        child.count += 1;
        if child.values.len() < VALUES_MAX {
            child.sampled += 1;
            if !child.values.contains(&record.values) {
                child.values.push(record.values);
            }
        }
        child.rows_max = child.rows_max.max(record.rows);
        child.total += record.total;
        if child.run >= REPEATS_MIN {
            // Rarely more than once per scope: the last is as good as any.
            child.last = Some(Box::new(Record { details: None, ..record.clone() }));
        }
        self.shapes[at].child = Some(child);
    }

    fn close(self, found: &mut Vec<Found>) {
        for seen in &self.shapes {
            let Some(child) = &seen.child else { continue };
            let (Some((parent, _)), Some(last)) = (child.parent, &child.last) else { continue };
            let differ = child.values.len() * 100 >= child.sampled * DISTINCT_PERCENT;
            if child.run_max < REPEATS_MIN || !differ || child.is_spoiled {
                continue;
            }
            let parent = &self.shapes[parent];
            found.push(Found {
                parent: (parent.fingerprint, Arc::clone(&parent.lookup)),
                child: (seen.fingerprint, Arc::clone(&seen.lookup)),
                count: child.count,
                rows_max: child.rows_max,
                parent_rows: parent.gave,
                total: child.total,
                last: last.clone(),
            });
        }
    }
}
