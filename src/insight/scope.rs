//! One scope of the application, a transaction, a trace or a burst ([`super::repeats`] says which), and what repeats in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lookup::Lookup;
use super::record::{Cached, Record};
use super::repeats::{Found, Kind, Parent};
use crate::sql::Fingerprint;

/// Executions that make a repetition, and rows of the parent of an N+1.
const REPEATS_MIN: u32 = 5;
const ROWS_MIN: u64 = 5;

/// Of so many values at most it is looked at whether they differ, and this share must.
const VALUES_MAX: usize = 32;
const DISTINCT_PERCENT: usize = 70;

/// The child of an N+1 gives few rows at a time.
const CHILD_ROWS_MAX: u64 = 200;

/// Who asks the same twice in a row with such a rest in between waits for something to happen.
const POLL_REST: Duration = Duration::from_millis(20);

/// What comes so long behind the one before is no loop, or it is one that waits.
const LOOP_REST: Duration = Duration::from_secs(1);

/// Bounds.
const SHAPES_MAX: usize = 256;
const WRITTEN_MAX: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) began: Instant,
    pub(super) last: Instant,
    /// Whose, and which of their transactions.
    pub(super) transaction: (u32, u32),
    pub(super) is_block: bool,
    is_traced: bool,
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
    equals: Equals,
    writes: Option<Box<Writes>>,
}

/// Executions that an N+1 may consist of.
#[derive(Debug, Default)]
struct Child {
    /// Place in `shapes`, and where that last gave rows.
    parent: Option<(usize, u32)>,
    run: u32,
    run_max: u32,
    count: u32,
    values: Values,
    rows_max: u64,
    total: Duration,
    is_spoiled: bool,
    last: Option<Box<Record>>,
}

/// Whether values differ, by the first of them.
#[derive(Debug, Default)]
struct Values {
    distinct: Vec<u64>,
    sampled: usize,
}

/// Executions by their values: those of the first, without an allocation, since most shapes run once in a scope.
#[derive(Debug, Default)]
struct Equals {
    first: Equal,
    others: Vec<Equal>,
    most: Option<Run>,
}

/// Executions with equal values that nothing has made differ.
#[derive(Debug, Default)]
struct Equal {
    values: u64,
    count: u32,
    total: Duration,
    place: u32,
    ended: Option<Instant>,
}

/// Writes of single rows that nothing came between.
#[derive(Debug, Default)]
struct Writes {
    run: u32,
    /// Those that were sent without waiting for the answer to the one before.
    pipelined: u32,
    values: Values,
    total: Duration,
    most: Option<Run>,
}

/// The longest run of a shape.
#[derive(Debug)]
struct Run {
    count: u32,
    total: Duration,
    last: Box<Record>,
}

impl Scope {
    pub(super) fn new(record: &Record, began: Instant) -> Self {
        Self {
            began,
            last: began,
            transaction: transaction(record),
            is_block: record.transaction.is_block,
            is_traced: record.trace.is_some(),
            statements: 0,
            shapes: Vec::new(),
            written: Vec::new(),
        }
    }

    /// Takes a statement in, that began then.
    pub(super) fn add(&mut self, record: &Record, lookup: &Arc<Lookup>, began: Instant) {
        self.statements += 1;
        if self.transaction != transaction(record) {
            self.transaction = transaction(record);
            self.break_runs(|_| true);
        }
        self.is_block = record.transaction.is_block;
        match lookup.command.as_str() {
            "SELECT" if record.sqlstate.is_none() => self.read(record, lookup, began),
            "INSERT" | "UPDATE" | "DELETE" | "MERGE" => self.write(record, lookup, began),
            // A text that nobody has told yet is one of those that were told long ago, or of another command.
            "" | "SELECT" | "BEGIN" | "START" | "COMMIT" | "END" | "ABORT" | "SHOW" | "EXPLAIN" => {}
            // Each row may fail by itself: that is no batch.
            "SAVEPOINT" | "RELEASE" | "ROLLBACK" => self.break_runs(|_| true),
            _ => self.unsettle(),
        }
        self.last = self.last.max(record.ended);
    }

    fn read(&mut self, record: &Record, lookup: &Arc<Lookup>, began: Instant) {
        if lookup.unsettles {
            self.unsettle();
        }
        self.break_runs(|seen| seen.lookup.table.as_deref().is_some_and(|written| lookup.may_read(written)));
        let Some(at) = self.seen(record, lookup) else { return };
        // A row from memory was given too; how many, nobody has counted.
        let rows = record.rows;
        if lookup.is_child() && rows <= CHILD_ROWS_MAX {
            self.repeat(at, record, lookup);
        }
        // Without a block or a trace it cannot be told whether those who ask the same are one request.
        let is_one = self.is_block || self.is_traced;
        if is_one && lookup.is_read_of_table() && record.cached != Cached::Hit && record.values != 0 {
            let place = self.statements;
            self.shapes[at].equals.add(record, place, began);
        }
        if rows >= ROWS_MIN && record.gives_rows {
            (self.shapes[at].gave_at, self.shapes[at].gave) = (self.statements, rows);
        }
    }

    fn write(&mut self, record: &Record, lookup: &Arc<Lookup>, began: Instant) {
        if let Some(table) = &lookup.table {
            self.wrote(table);
        }
        let is_one_row = lookup.is_row_write && record.rows <= 1 && record.values != 0;
        if !is_one_row || !self.is_block || record.sqlstate.is_some() {
            return;
        }
        let gap = began.saturating_duration_since(self.last);
        let Some(at) = self.seen(record, lookup) else { return };
        self.shapes[at].writes.get_or_insert_default().add(record, gap);
    }

    /// The place of a shape, which may be new.
    fn seen(&mut self, record: &Record, lookup: &Arc<Lookup>) -> Option<usize> {
        let known = self.shapes.iter().position(|seen| seen.fingerprint == record.fingerprint);
        known.or_else(|| {
            let has_room = self.shapes.len() < SHAPES_MAX;
            has_room.then(|| {
                self.shapes.push(Seen {
                    fingerprint: record.fingerprint,
                    lookup: Arc::clone(lookup),
                    gave_at: 0,
                    gave: 0,
                    child: None,
                    equals: Equals::default(),
                    writes: None,
                });
                self.shapes.len() - 1
            })
        })
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
            if seen.lookup.may_read(table) {
                seen.equals.begin_anew();
            }
        }
    }

    /// What was seen may not be given again, and says nothing of what comes.
    fn unsettle(&mut self) {
        self.shapes.iter_mut().for_each(|seen| seen.equals.begin_anew());
        self.break_runs(|_| true);
    }

    fn break_runs(&mut self, of: impl Fn(&Seen) -> bool) {
        for seen in self.shapes.iter_mut().filter(|seen| seen.writes.is_some()) {
            if of(seen)
                && let Some(writes) = &mut seen.writes
            {
                writes.begin_anew();
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
        child.values.add(record.values);
        child.rows_max = child.rows_max.max(record.rows);
        child.total += record.total;
        if child.run >= REPEATS_MIN {
            // Rarely more than once per scope: the last is as good as any.
            child.last = Some(without_details(record));
        }
        self.shapes[at].child = Some(child);
    }

    /// It has ended: pushes what was repeated in it.
    pub(super) fn close(mut self, found: &mut Vec<Found>) {
        for at in 0..self.shapes.len() {
            let repeated = self.n_plus_one(at);
            let seen = &mut self.shapes[at];
            let run = |kind: Kind, run: Option<Run>| {
                let Run { count, total, last } = run?;
                Some(Found {
                    kind,
                    child: (seen.fingerprint, Arc::clone(&seen.lookup)),
                    count,
                    rows_max: last.rows,
                    total,
                    last,
                })
            };
            let equals = || run(Kind::Duplicate, seen.equals.most.take());
            let writes = seen.writes.take().and_then(|writes| writes.most);
            found.extend(repeated.or_else(equals));
            found.extend(run(Kind::BatchableWrite, writes));
        }
    }

    fn n_plus_one(&self, at: usize) -> Option<Found> {
        let seen = &self.shapes[at];
        let child = seen.child.as_ref()?;
        let (parent, last) = (&self.shapes[child.parent?.0], child.last.as_ref()?);
        if child.run_max < REPEATS_MIN || !child.values.differ() || child.is_spoiled {
            return None;
        }
        let parent =
            Parent { fingerprint: parent.fingerprint, lookup: Arc::clone(&parent.lookup), rows: parent.gave };
        Some(Found {
            kind: Kind::NPlusOne(parent),
            child: (seen.fingerprint, Arc::clone(&seen.lookup)),
            count: child.count,
            rows_max: child.rows_max,
            total: child.total,
            last: last.clone(),
        })
    }
}

impl Values {
    fn add(&mut self, values: u64) {
        if self.distinct.len() < VALUES_MAX {
            self.sampled += 1;
            if !self.distinct.contains(&values) {
                self.distinct.push(values);
            }
        }
    }

    fn differ(&self) -> bool {
        self.distinct.len() * 100 >= self.sampled * DISTINCT_PERCENT
    }
}

impl Equals {
    fn add(&mut self, record: &Record, place: u32, began: Instant) {
        let is_new = self.first.count == 0;
        let equal = if is_new || self.first.values == record.values {
            &mut self.first
        } else if let Some(at) = self.others.iter().position(|other| other.values == record.values) {
            &mut self.others[at]
        } else if self.others.len() < VALUES_MAX {
            self.others.push(Equal::default());
            let last = self.others.len() - 1;
            &mut self.others[last]
        } else {
            return;
        };
        let rest = equal.ended.map_or(Duration::ZERO, |ended| began.saturating_duration_since(ended));
        let is_poll = equal.place + 1 == place && rest > POLL_REST || rest > LOOP_REST;
        if equal.count == 0 || is_poll {
            *equal = Equal { values: record.values, ..Equal::default() };
        }
        equal.count += 1;
        equal.total += record.total;
        (equal.place, equal.ended) = (place, Some(record.ended));
        let (count, total) = (equal.count, equal.total);
        keep(&mut self.most, count, total, record);
    }

    fn begin_anew(&mut self) {
        self.first = Equal::default();
        self.others.clear();
    }
}

impl Writes {
    fn add(&mut self, record: &Record, gap: Duration) {
        if gap > LOOP_REST {
            self.begin_anew();
        }
        // What begins the very moment that the one before ends was there already: executemany of a driver that pipelines.
        self.pipelined += u32::from(gap.is_zero());
        self.run += 1;
        self.total += record.total;
        self.values.add(record.values);
        if self.values.differ() && self.pipelined * 2 < self.run {
            keep(&mut self.most, self.run, self.total, record);
        }
    }

    fn begin_anew(&mut self) {
        *self = Self { most: self.most.take(), ..Self::default() };
    }
}

/// Keeps a run if it is the longest.
fn keep(most: &mut Option<Run>, count: u32, total: Duration, record: &Record) {
    if count >= REPEATS_MIN && most.as_ref().is_none_or(|most| count > most.count) {
        *most = Some(Run { count, total, last: without_details(record) });
    }
}

fn without_details(record: &Record) -> Box<Record> {
    Box::new(Record { details: None, ..record.clone() })
}

fn transaction(record: &Record) -> (u32, u32) {
    (record.client.process, record.transaction.number)
}
