//! Statistics by shape, bounded.
//!
//! When there are as many shapes as there may be, a quarter of them goes into one for all others: first those that were
//! seen once or twice only, so that a flood of texts that never repeat pushes out itself and not what is worth a look, then
//! those that were not seen for longest. A shape costs about 2 KiB and its text.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::HashMap;

use super::histogram::Histogram;
use super::lookup::Lookup;
use super::record::{Cached, Client, Record, Served};
use super::tags::Tags;
use crate::pg::SqlState;
use crate::sql::Fingerprint;

/// A longer shape is cut.
const TEXT_BYTES_MAX: usize = 4096;

const MINUTE: Duration = Duration::from_secs(60);

/// Minutes that are remembered one by one.
pub const MINUTES: usize = 30;

/// One shape of one database.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Its number.
    pub fingerprint: Fingerprint,
    /// The text without constants; empty as long as nobody has told.
    pub text: Arc<str>,
    /// What it looks up.
    pub lookup: Arc<Lookup>,
    /// Who ran it last.
    pub client: Arc<Client>,
    /// How often it ran.
    pub calls: u64,
    /// How often it failed.
    pub errors: u64,
    /// How it failed last.
    pub sqlstate: Option<SqlState>,
    /// Rows given or changed.
    pub rows: u64,
    /// Bytes of its answers.
    pub bytes: u64,
    /// Times from its arrival to the end of its answer.
    pub total: Histogram,
    /// Times on the server.
    pub server: Histogram,
    /// Times of waiting for a server connection, if it ever waited.
    pub queue: Option<Histogram>,
    /// Answers of replicas.
    pub on_replicas: u64,
    /// Answers from memory.
    pub from_cache: u64,
    /// Answers that memory took a copy of.
    pub fills: u64,
    /// Why it last went where it went.
    pub reason: &'static str,
    /// What its comments last said.
    pub tags: Option<Arc<Tags>>,
    /// When it was first and last seen.
    pub first_seen: Instant,
    /// When it was last seen.
    pub last_seen: Instant,
    /// Calls and their time by minute.
    pub minutes: [Minute; MINUTES],
}

/// What ran within a minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Minute {
    /// Which, counted from the start.
    pub number: u32,
    /// How often.
    pub calls: u32,
    /// How long, in microseconds.
    pub total_us: u64,
}

impl Shape {
    fn new(record: &Record) -> Self {
        Self {
            fingerprint: record.fingerprint,
            text: Arc::from(""),
            lookup: Arc::default(),
            client: Arc::clone(&record.client),
            calls: 0,
            errors: 0,
            sqlstate: None,
            rows: 0,
            bytes: 0,
            total: Histogram::default(),
            server: Histogram::default(),
            queue: None,
            on_replicas: 0,
            from_cache: 0,
            fills: 0,
            reason: "",
            tags: None,
            first_seen: record.ended,
            last_seen: record.ended,
            minutes: [Minute::default(); MINUTES],
        }
    }

    fn add(&mut self, record: &Record, minute: u32) {
        self.calls += 1;
        self.errors += u64::from(record.sqlstate.is_some());
        self.sqlstate = record.sqlstate.or(self.sqlstate);
        self.rows += record.rows;
        self.bytes += record.bytes;
        self.total.add(record.total);
        match record.served {
            Served::Cache => self.from_cache += 1,
            Served::Replica(_) => {
                self.on_replicas += 1;
                self.server.add(record.server);
            }
            Served::Primary(_) => self.server.add(record.server),
        }
        // What finds a connection free waits for some microseconds; that is no wait to speak of.
        if record.queue >= Duration::from_millis(1) {
            self.queue.get_or_insert_default().add(record.queue);
        }
        self.fills += u64::from(record.cached == Cached::Fill);
        self.reason = record.reason.as_str();
        if record.tags.is_some() {
            self.tags.clone_from(&record.tags);
        }
        self.last_seen = self.last_seen.max(record.ended);
        let slot = &mut self.minutes[minute as usize % MINUTES];
        if slot.number != minute {
            *slot = Minute { number: minute, ..Minute::default() };
        }
        slot.calls += 1;
        slot.total_us += u64::try_from(record.total.as_micros()).unwrap_or(u64::MAX);
    }

    /// Adds another shape's numbers.
    fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.errors += other.errors;
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.total.merge(&other.total);
        self.server.merge(&other.server);
        if let Some(queue) = &other.queue {
            self.queue.get_or_insert_default().merge(queue);
        }
        self.on_replicas += other.on_replicas;
        self.from_cache += other.from_cache;
        self.fills += other.fills;
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
    }

    /// The mean of the last two minutes in which it ran; zero: it did not.
    pub fn recent_mean(&self) -> Duration {
        let last = self.minutes.iter().map(|minute| minute.number).max().unwrap_or_default();
        let recent = self.minutes.iter().filter(|minute| minute.calls > 0 && minute.number + 1 >= last);
        let (calls, total) = recent
            .fold((0, 0), |(calls, us), minute| (calls + u64::from(minute.calls), us + minute.total_us));
        Duration::from_micros(total.checked_div(calls).unwrap_or_default())
    }

    /// What the statement is called: `SELECT articles`.
    pub fn summary(&self) -> String {
        self.lookup.summary()
    }
}

/// All of them.
#[derive(Debug)]
pub struct Statistics {
    shapes: HashMap<u64, Box<Shape>>,
    shapes_max: usize,
    /// Those that were pushed out, in one.
    pub other: Option<Box<Shape>>,
    /// How many were pushed out, ever.
    pub evicted: u64,
    /// Since when all this counts.
    pub since: Instant,
    /// What minutes are counted from.
    started: Instant,
    /// The minute of the record before, and when that begins.
    minute: (u32, Instant),
}

/// What tells a shape of one database from those of others.
pub fn key(record: &Record) -> u64 {
    record.fingerprint.0 ^ record.client.database_key
}

impl Statistics {
    /// Holds so many shapes.
    pub fn new(shapes_max: usize, now: Instant) -> Self {
        let shapes = HashMap::default();
        Self {
            shapes,
            shapes_max: shapes_max.max(4),
            other: None,
            evicted: 0,
            since: now,
            started: now,
            minute: (1, now),
        }
    }

    /// Counts a record. Gives its shape.
    pub fn add(&mut self, record: &Record) -> &mut Shape {
        let key = key(record);
        if self.shapes.len() >= self.shapes_max && !self.shapes.contains_key(&key) {
            self.make_room();
        }
        if record.ended < self.minute.1 || record.ended >= self.minute.1 + MINUTE {
            let minute = minute(self.started, record.ended);
            self.minute = (minute, self.started + MINUTE * (minute - 1));
        }
        let minute = self.minute.0;
        let shape = self.shapes.entry(key).or_insert_with(|| Box::new(Shape::new(record)));
        shape.add(record, minute);
        shape
    }

    fn make_room(&mut self) {
        let mut ranks: Vec<(bool, Instant, u64)> =
            self.shapes.iter().map(|(key, shape)| (shape.calls > 2, shape.last_seen, *key)).collect();
        let going = (ranks.len() / 4).max(1).min(ranks.len());
        ranks.select_nth_unstable(going - 1);
        for (_, _, key) in &ranks[..going] {
            let Some(shape) = self.shapes.remove(key) else { continue };
            self.evicted += 1;
            if let Some(other) = &mut self.other {
                other.merge(&shape);
                continue;
            }
            let fingerprint = Fingerprint(0);
            let lookup = Arc::new(Lookup { command: "other".to_owned(), ..Lookup::default() });
            let text = Arc::from("(other statements)");
            self.other = Some(Box::new(Shape { fingerprint, text, lookup, tags: None, ..*shape }));
        }
    }

    /// One of them.
    pub fn get(&self, key: u64) -> Option<&Shape> {
        self.shapes.get(&key).map(|shape| &**shape)
    }

    /// All of them, with their keys; without the one for all others.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Shape)> {
        self.shapes.iter().map(|(key, shape)| (*key, &**shape))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.shapes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.shapes.is_empty()
    }

    /// Begins anew.
    pub fn reset(&mut self, now: Instant) {
        self.shapes.clear();
        self.other = None;
        self.evicted = 0;
        self.since = now;
    }

    /// The minute that it is, as [`Minute::number`] counts.
    pub fn minute(&self, now: Instant) -> u32 {
        minute(self.started, now)
    }
}

/// From 1, so that a slot that was never used is of no minute.
fn minute(started: Instant, at: Instant) -> u32 {
    u32::try_from(at.saturating_duration_since(started).as_secs() / 60 + 1).unwrap_or(u32::MAX)
}

impl Shape {
    /// Learns its text: the shape of a text, or the shape itself.
    pub fn learn(&mut self, shape: &[u8]) {
        let mut text = String::from_utf8_lossy(shape).into_owned();
        self.lookup = Arc::new(Lookup::of(&text));
        if text.len() > TEXT_BYTES_MAX {
            let end = (0..=TEXT_BYTES_MAX).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            text.truncate(end);
            text.push_str(" ...");
        }
        self.text = text.into();
    }
}
