//! All that is known of statements, in one place: filled by the thread that drains the queues, read by whoever shows it.
//!
//! The lock is held for a few hundred records at a time, so that a console or a scrape waits for less than a millisecond,
//! and no client ever waits: clients know their queue only.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use ahash::HashMap;
use serde_json::Value;

use super::entry::{self, HostName, Slow, ms};
use super::indexes::Indexes;
use super::keep::{Kept, KeptDatabase};
use super::limit::Limiter;
use super::patterns::Patterns;
use super::plans::{Plans, Task, changes_plans};
use super::queue::Queue;
use super::record::{Client, Record};
use super::repeats::{Found, Kind, Scopes};
use super::routes::Routes;
use super::samples::{Execution, Samples};
use super::statistics::{self, Shape, Statistics};
use super::watch::{EXPLAINED_AFTER, Terms, Watch};
use crate::advice::schema::{Index, TableName};
use crate::advice::verdict::Verdict;
use crate::config::{InsightSettings, LogParameters, SlowLogSettings};
use crate::sql::Fingerprint;
use crate::sql::analyze::analyze_into;

/// Records that are taken in under one lock.
const CHUNK: usize = 256;

/// Lines of the slow-query log that wait for their writer.
const LINES_MAX: usize = 1024;

/// Slow statements that the console and the dashboard show.
const RECENT_MAX: usize = 100;

/// Statements that changed plans and are remembered, and how much of each.
const MARKERS_MAX: usize = 50;
const MARKER_CHARS_MAX: usize = 200;

/// Texts of shapes are handed over anew after so long: they may have been pushed out.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub struct Insight {
    queues: Box<[Arc<Queue>]>,
    terms: Arc<Terms>,
    state: Mutex<State>,
    clients: Mutex<HashMap<u32, Weak<Client>>>,
    settings: InsightSettings,
}

/// What is known.
#[derive(Debug)]
pub struct State {
    /// Statistics by shape.
    pub statistics: Statistics,
    /// N+1 and other repetitions that were found.
    pub patterns: Patterns,
    /// What routes of the application cost.
    pub routes: Routes,
    /// What was explained.
    pub plans: Plans,
    /// The indexes of tables that explained statements use.
    pub indexes: Indexes,
    /// Executions that may be explained.
    pub samples: Samples,
    /// The last slow statements, the newest last.
    pub recent: VecDeque<Value>,
    /// What may have changed plans, the newest last.
    pub markers: VecDeque<Marker>,
    /// Counters.
    pub counts: Counts,
    scopes: Scopes,
    found: Vec<Found>,
    limiter: Limiter,
    settings: SlowLogSettings,
    looks_for_repeats: bool,
    keeps_samples: bool,
    hosts: Vec<HostName>,
    lines: VecDeque<String>,
    shape: Vec<u8>,
    turn: u32,
    announced: Option<Instant>,
}

/// Something after which statements may take another time: DDL, ANALYZE, an index that was built or dropped.
#[derive(Clone, Debug, PartialEq)]
pub struct Marker {
    /// When it ended.
    pub at: Instant,
    /// Its shape.
    pub what: Box<str>,
    /// The database as clients name it.
    pub database: Box<str>,
}

/// Counted since the start, and never reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Statements counted.
    pub statements: u64,
    /// Those that were slow.
    pub slow: u64,
    /// Lines that were left out, by rate limits and sampling.
    pub suppressed: u64,
    /// Lines that had no room.
    pub lines_dropped: u64,
    /// N+1 found, by scope.
    pub repeats: u64,
    /// Duplicates found, by scope.
    pub duplicates: u64,
    /// Writes that could be one, by scope.
    pub batchable_writes: u64,
    /// Records that had no room.
    pub records_dropped: u64,
}

impl Insight {
    /// For so many workers.
    pub fn new(
        settings: &InsightSettings,
        log: &SlowLogSettings,
        hosts: Vec<HostName>,
        workers: usize,
        now: Instant,
    ) -> Self {
        let parameters = settings.samples || log.parameters != LogParameters::Off;
        let state = State {
            statistics: Statistics::new(settings.shapes_max, now),
            patterns: Patterns::default(),
            routes: Routes::default(),
            plans: Plans::default(),
            indexes: Indexes::default(),
            samples: Samples::new(settings.samples_ttl),
            recent: VecDeque::new(),
            markers: VecDeque::new(),
            counts: Counts::default(),
            scopes: Scopes::default(),
            found: Vec::new(),
            limiter: Limiter::default(),
            settings: log.clone(),
            looks_for_repeats: settings.repeats,
            keeps_samples: settings.samples,
            hosts,
            lines: VecDeque::new(),
            shape: Vec::new(),
            turn: 0,
            announced: None,
        };
        Self {
            queues: (0..workers.max(1)).map(|_| Arc::default()).collect(),
            terms: Arc::new(Terms::new(log.threshold_min(), parameters, now)),
            state: Mutex::new(state),
            clients: Mutex::default(),
            settings: settings.clone(),
        }
    }

    /// What it was made with.
    pub fn settings(&self) -> &InsightSettings {
        &self.settings
    }

    /// A client of a worker is to be watched.
    pub fn watch(&self, client: Client, worker: usize, now: Instant) -> Watch {
        let queue = Arc::clone(&self.queues[worker % self.queues.len()]);
        let client = Arc::new(client);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if clients.len().is_power_of_two() {
            clients.retain(|_, client| client.strong_count() > 0);
        }
        clients.insert(client.process, Arc::downgrade(&client));
        drop(clients);
        Watch::new(client, queue, Arc::clone(&self.terms), now)
    }

    /// A client that is connected.
    pub fn client(&self, process: u32) -> Option<Arc<Client>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner).get(&process)?.upgrade()
    }

    /// All that is known.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Other settings of the slow-query log are in force.
    pub fn reload(&self, log: &SlowLogSettings) {
        self.terms.set_slow(log.threshold_min());
        self.state().settings = log.clone();
    }

    /// Takes in what the queues hold. Gives the lines that are to be written, without their newlines.
    pub fn drain(&self, now: Instant, wall: SystemTime) -> Vec<String> {
        let mut state = self.state();
        let forgets =
            state.announced.is_none_or(|announced| now.saturating_duration_since(announced) > ANNOUNCE_EVERY);
        if forgets {
            state.announced = Some(now);
        }
        drop(state);
        for queue in &self.queues {
            let mut records = queue.take(forgets);
            let taken = records.len();
            let mut rest = records.drain(..);
            while rest.len() > 0 {
                let mut state = self.state();
                for noted in rest.by_ref().take(CHUNK) {
                    state.take(&mut noted.into_record(self.terms.epoch()), now, wall);
                }
            }
            drop(rest);
            queue.give_back(records, taken);
        }
        let mut state = self.state();
        state.counts.records_dropped = self.queues.iter().map(|queue| queue.dropped()).sum();
        state.sweep(now, wall);
        state.lines.drain(..).collect()
    }

    /// The analysis that is due, if one is.
    pub fn due(&self, now: Instant) -> Option<Task> {
        let state = self.state();
        state.plans.due(&state.statistics, &state.samples, now)
    }

    /// Takes in what an analysis came to; advice that is new goes into the slow-query log.
    pub fn analyzed(&self, task: &Task, outcome: Result<Verdict, String>, now: Instant, wall: SystemTime) {
        let mut state = self.state();
        let mean = state.statistics.get(task.key).map(Shape::recent_mean).unwrap_or_default();
        let known: Vec<String> =
            state.plans.advice().iter().map(|(_, entry)| entry.merged.advice.id()).collect();
        if let Ok(verdict) = &outcome {
            state.indexes.uses(&task.dbname, &verdict.tables);
        }
        state.plans.record(task, outcome, mean, now, wall);
        let State { plans, statistics, .. } = &*state;
        let Some(shape) = statistics.get(task.key) else { return };
        let news = plans.advice().into_iter().filter(|(_, entry)| {
            entry.merged.serves.contains(&task.fingerprint) && !known.contains(&entry.merged.advice.id())
        });
        let lines: Vec<Value> = news.map(|(_, entry)| entry::advised(entry, shape, wall)).collect();
        for line in lines {
            state.write(&line);
        }
    }
}

impl Insight {
    /// Tables of which it is to be looked now which indexes they have, by database.
    pub fn watched_tables(&self, now: Instant) -> Vec<(Arc<str>, Vec<TableName>)> {
        self.state().plans.watched(now)
    }

    /// The indexes that tables of a database have now.
    pub fn saw_indexes(&self, dbname: &str, tables: &std::collections::HashMap<TableName, Vec<Index>>) {
        let state = &mut *self.state();
        state.plans.seen(dbname, tables, &state.statistics);
    }

    /// What is to be known after the next start.
    pub fn kept(&self) -> Kept {
        let state = self.state();
        let mut kept = Kept::default();
        state.plans.kept(&state.statistics, &mut kept);
        state.indexes.kept(&mut kept);
        kept
    }

    /// Takes in what was kept before this start.
    pub fn restore(&self, kept: Kept) {
        let mut state = self.state();
        for (dbname, KeptDatabase { advice, indexes }) in kept.0 {
            let dbname = Arc::from(dbname);
            state.plans.restore(&dbname, advice);
            state.indexes.restore(&dbname, indexes);
        }
    }

    /// Compares statements with what they took before the index that was advised was built; news go into the slow-query log.
    pub fn measure(&self, wall: SystemTime) {
        let state = &mut *self.state();
        let State { plans, statistics, .. } = state;
        let news = plans.measure(statistics, wall).into_iter();
        let line = |(key, entry)| Some(entry::advised(entry, statistics.get(key)?, wall));
        let lines: Vec<Value> = news.filter_map(line).collect();
        for line in lines {
            state.write(&line);
        }
    }
}

impl State {
    /// Forgets all statistics, repetitions and executions; what was advised stands.
    pub fn reset(&mut self, now: Instant) {
        self.statistics.reset(now);
        self.patterns.clear();
        self.routes.clear();
        self.samples.clear();
        self.recent.clear();
    }

    /// What is slow where neither database nor user says otherwise.
    pub fn threshold(&self) -> Duration {
        self.settings.threshold
    }

    /// The shape of this fingerprint, in whatever database.
    pub fn find(&self, fingerprint: &str) -> Option<u64> {
        let wanted = u64::from_str_radix(fingerprint, 16).ok().map(Fingerprint)?;
        self.statistics.iter().find(|(_, shape)| shape.fingerprint == wanted).map(|(key, _)| key)
    }

    /// The text of a shape in the database of `key_of`, or nothing.
    pub fn text(&self, fingerprint: Fingerprint, database_key: u64) -> &str {
        self.statistics.get(fingerprint.0 ^ database_key).map_or("", |shape| &shape.text)
    }

    fn take(&mut self, record: &mut Record, now: Instant, wall: SystemTime) {
        self.counts.statements += 1;
        let key = statistics::key(record);
        let shape = self.statistics.add(record);
        if shape.text.is_empty()
            && let Some(details) = &record.details
        {
            if details.is_shape {
                shape.learn(&details.text);
            } else {
                let _ = analyze_into(&details.text, details.standard_conforming_strings, &mut self.shape);
                shape.learn(&self.shape);
            }
        }
        let lookup = Arc::clone(&shape.lookup);
        if record.sqlstate.is_none() && changes_plans(&shape.text) {
            self.plans.doubt();
            if self.markers.len() >= MARKERS_MAX {
                self.markers.pop_front();
            }
            self.markers.push_back(Marker {
                at: record.ended,
                what: shape.text.chars().take(MARKER_CHARS_MAX).collect(),
                database: record.client.database.clone(),
            });
            self.indexes.doubt();
        }
        if let Some(tags) = &record.tags {
            self.routes.add(tags, record);
        }
        if self.looks_for_repeats {
            self.scopes.add(record, &lookup, &mut self.found);
            if !self.found.is_empty() {
                self.note_found(now, wall);
            }
        }
        self.slow(key, record, now, wall);
        if self.keeps_samples
            && record.server >= EXPLAINED_AFTER
            && record.sqlstate.is_none()
            && let Some(details) = record.details.take()
        {
            let execution = Execution {
                details: Arc::from(details),
                client: Arc::clone(&record.client),
                total: record.total,
                ended: record.ended,
            };
            self.samples.add(key, &execution);
        }
    }

    fn slow(&mut self, key: u64, record: &Record, now: Instant, wall: SystemTime) {
        let client = &record.client;
        let threshold =
            record.slow.unwrap_or_else(|| self.settings.threshold_of(&client.database, &client.user));
        if record.total < threshold {
            return;
        }
        self.counts.slow += 1;
        self.turn = self.turn.wrapping_add(1);
        let is_sampled = self.turn.is_multiple_of(self.settings.sample);
        let (per_shape, per_second) = (self.settings.per_shape, self.settings.per_second_max);
        let admitted = is_sampled.then(|| self.limiter.admit(key, per_shape, per_second, record.ended));
        let Some(suppressed) = admitted.flatten() else {
            self.counts.suppressed += 1;
            return;
        };
        let Some(shape) = self.statistics.get(key) else { return };
        let age = now.saturating_duration_since(record.ended) + record.total;
        let line = entry::slow(&Slow {
            record,
            shape,
            began: wall.checked_sub(age).unwrap_or(wall),
            threshold_ms: ms(threshold),
            suppressed,
            parameters: self.settings.parameters,
            host: record.served.host().and_then(|host| self.hosts.get(host.0)),
            analyzed: self.plans.of(key),
        });
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.write(&line);
        self.recent.push_back(line);
    }

    fn note_found(&mut self, now: Instant, wall: SystemTime) {
        for found in std::mem::take(&mut self.found) {
            *match found.kind {
                Kind::NPlusOne(_) => &mut self.counts.repeats,
                Kind::Duplicate => &mut self.counts.duplicates,
                Kind::BatchableWrite => &mut self.counts.batchable_writes,
            } += 1;
            let pattern = self.patterns.add(&found);
            let record = &found.last;
            let parent = found.kind.parent().map_or(Fingerprint(1), |parent| parent.fingerprint);
            let key = found.child.0.0 ^ parent.0.rotate_left(1);
            let (per_shape, per_second) = (self.settings.per_shape, self.settings.per_second_max);
            let Some(suppressed) = self.limiter.admit(key, per_shape, per_second, record.ended) else {
                continue;
            };
            let text = |fingerprint: Fingerprint| {
                let shape = self.statistics.get(fingerprint.0 ^ record.client.database_key);
                shape.map_or("", |shape| &*shape.text)
            };
            let age = now.saturating_duration_since(record.ended) + record.total;
            let began = wall.checked_sub(age).unwrap_or(wall);
            let texts = (text(parent), text(found.child.0));
            let line = entry::repeated(&found, pattern, texts, began, suppressed);
            self.write(&line);
        }
    }

    fn sweep(&mut self, now: Instant, wall: SystemTime) {
        self.scopes.sweep(now, &mut self.found);
        self.note_found(now, wall);
    }

    fn write(&mut self, line: &Value) {
        if self.settings.output.is_none() {
            return;
        }
        if self.lines.len() >= LINES_MAX {
            self.counts.lines_dropped += 1;
            return;
        }
        self.lines.push_back(line.to_string());
    }
}
