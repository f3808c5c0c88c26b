//! Statements that the application repeats, and need not: N+1, duplicates, and writes that could be one.
//!
//! Statements are looked at by *scope*: what belongs together in the application. With a trace (`traceparent`) that is the
//! trace, on whatever connections; else a transaction block; else, in autocommit, what follows each other on a connection
//! within 20 ms. Two requests that share a pooled connection are two blocks, so they do not meet.
//!
//! A repetition is an **N+1** where, in one scope,
//!
//! - the child, a plain SELECT for one key ([`super::lookup`]), runs five times or more *for one execution of its parent*,
//!   an earlier statement of another shape that gave five rows or more: where the parent runs again in between, counting
//!   begins anew, so that pages, polls and requests in a row are none;
//! - most of its values differ: the same value again and again is a duplicate;
//! - nothing writes the child's table meanwhile: loops that look before they insert cannot be loaded at once.
//!
//! It is a **duplicate** where a SELECT from a table runs five times or more with the same values in one block or trace,
//! nothing that it may read is written meanwhile, no setting is changed, and no rest in between tells of a poll. Bursts are not
//! looked at: the requests of several users on one pooled connection ask the same, too. What memory answered is none either.
//!
//! It is a **batchable write** where an INSERT of one row, or an UPDATE by one key, runs five times or more in one block with
//! values that differ, and nothing reads that table in between, which the next row might depend on. A commit or a savepoint for
//! each row is a decision, not a loop to be batched; what was pipelined is batched already.
//!
//! So much is possible without a look into rows, and is called *possible* to users. Everything is bounded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::HashMap;

use super::lookup::Lookup;
use super::record::Record;
use super::scope::Scope;
use crate::sql::Fingerprint;

/// How long a scope may rest: in autocommit, in a block, in a trace; and how old it may be.
const REST: Duration = Duration::from_millis(20);
const BLOCK_REST: Duration = Duration::from_secs(5);
const TRACE_REST: Duration = Duration::from_secs(1);
const AGE_MAX: Duration = Duration::from_secs(30);

/// Scopes that are open at most.
const SCOPES_MAX: usize = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ScopeKey {
    Client(u32),
    Trace(u128),
}

/// What kind of repetition it is; see the module.
#[derive(Clone, Debug)]
pub enum Kind {
    /// For the rows of another statement.
    NPlusOne(Parent),
    /// With the same values.
    Duplicate,
    /// Row by row.
    BatchableWrite,
}

/// What gave the rows that an N+1 is for.
#[derive(Clone, Debug)]
pub struct Parent {
    /// Its shape.
    pub fingerprint: Fingerprint,
    /// What it looks up.
    pub lookup: Arc<Lookup>,
    /// Rows that it gave.
    pub rows: u64,
}

impl Kind {
    /// The words, in the order in which they are worth a look.
    pub const WORDS: [&'static str; 3] = ["n+1", "duplicate", "batchable-write"];

    /// The word in the console, the API and `weir watch --fail-on`.
    pub fn as_str(&self) -> &'static str {
        Self::WORDS[match self {
            Self::NPlusOne(_) => 0,
            Self::Duplicate => 1,
            Self::BatchableWrite => 2,
        }]
    }

    /// What an N+1 is for.
    pub fn parent(&self) -> Option<&Parent> {
        match self {
            Self::NPlusOne(parent) => Some(parent),
            Self::Duplicate | Self::BatchableWrite => None,
        }
    }
}

/// A repetition that was found in one scope.
#[derive(Clone, Debug)]
pub struct Found {
    /// What kind it is.
    pub kind: Kind,
    /// What was repeated.
    pub child: (Fingerprint, Arc<Lookup>),
    /// How often.
    pub count: u32,
    /// Rows that it gave at most.
    pub rows_max: u64,
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
        self.open.entry(key).or_insert_with(|| Scope::new(record, began)).add(record, lookup, began);
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
        let is_same = self.transaction.1 == record.transaction.number;
        let is_alone = !self.is_block && !record.transaction.is_block;
        rests && is_young && (is_traced || is_same || is_alone)
    }
}
