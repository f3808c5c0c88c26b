//! The advice that stands, for the console, the API and the dashboard: merged across shapes, bounded, with what people
//! and measurements made of it. And the budget of analyses, so that looking for advice never becomes the load.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::candidates::{Candidate, bare, covers_keys};
use super::identifier::quoted;
use super::load::{Load, Loads};
use super::merge::{Merged, Served, merge};
use super::schema::{Index, TableName};
use super::verdict::Advice;

/// Analyses that may be begun in a minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    per_minute: u32,
    /// When the next one may begin, if the last ones came at an even pace.
    next: Option<Instant>,
}

impl Budget {
    /// As many in a minute, evenly.
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, next: None }
    }

    /// Whether one may begin now; if so it counts. A quarter of a minute's may come at once.
    pub fn take(&mut self, now: Instant) -> bool {
        if self.per_minute == 0 {
            return false;
        }
        let pace = Duration::from_secs(60) / self.per_minute;
        let next = self.next.map_or(now, |next| next.max(now));
        if next.duration_since(now) > pace * (self.per_minute / 4) {
            return false;
        }
        self.next = Some(next + pace);
        true
    }
}

/// What became of a piece of advice.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// Nobody has acted on it.
    Open,
    /// Somebody does not want to see it.
    Dismissed,
    /// The index is there; by how much its statements became faster is not known yet.
    Built {
        /// Its name.
        index: String,
    },
    /// The index is there, and they became faster so many times.
    Verified {
        /// Its name.
        index: String,
        /// Below [`GAIN_MIN`]: it brought nothing, and may be dropped.
        times: f64,
    },
}

/// An index is worth having if its statements are so many times faster with it.
const GAIN_MIN: f64 = 1.2;

/// Executions with an index that say what it brings, and those after which that stands.
const CALLS_MIN: u64 = 5;
const CALLS_MAX: u64 = 1000;

impl State {
    /// The word in the console and the API.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Dismissed => "dismissed",
            Self::Built { .. } => "built",
            Self::Verified { times, .. } if *times < GAIN_MIN => "no_gain",
            Self::Verified { .. } => "verified",
        }
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The advice, with the statements it serves.
    pub merged: Merged,
    /// When it was first given.
    pub first_seen: SystemTime,
    /// When an analysis last came to it.
    pub last_seen: SystemTime,
    /// What became of it.
    pub state: State,
    /// The last analyses still come to it.
    is_advised: bool,
    /// What its statements take, with and without it.
    loads: Loads,
}

impl Entry {
    /// For the API: the advice of [`Advice::to_json`] with its history.
    pub fn to_json(&self) -> Value {
        let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut value = self.merged.to_json();
        if let Some(object) = value.as_object_mut() {
            object.insert("first_seen".to_owned(), json!(seconds(self.first_seen)));
            object.insert("last_seen".to_owned(), json!(seconds(self.last_seen)));
            object.insert("state".to_owned(), json!(self.state.as_str()));
            object.insert("confidence".to_owned(), json!(self.confidence()));
            if let State::Verified { times, .. } = self.state {
                object.insert("measured_speedup".to_owned(), json!((times * 10.0).round() / 10.0));
                object.insert("measured".to_owned(), json!(self.measured()));
                object.insert("drop_ddl".to_owned(), json!(self.drop_ddl()));
            }
        }
        value
    }

    /// Why it is believed: best of all, because it was measured.
    fn confidence(&self) -> &'static str {
        if self.state.as_str() == "verified" { "verified" } else { self.merged.advice.confidence.as_str() }
    }

    /// What was measured, in words; empty: nothing yet.
    pub fn measured(&self) -> String {
        match &self.state {
            State::Verified { times, .. } if *times < GAIN_MIN => "no gain: drop it?".to_owned(),
            State::Verified { times, .. } if *times < 10.0 => format!("x{times:.1} measured"),
            State::Verified { times, .. } => format!("x{times:.0} measured"),
            State::Open | State::Dismissed | State::Built { .. } => String::new(),
        }
    }

    /// The statement that takes an index away again which has brought nothing.
    pub fn drop_ddl(&self) -> Option<String> {
        let State::Verified { index, times } = &self.state else { return None };
        let schema = quoted(&self.merged.advice.table.0);
        (*times < GAIN_MIN).then(|| format!("DROP INDEX CONCURRENTLY {schema}.{}", quoted(index)))
    }

    /// For SHOW ADVICE, in the order of [`COLUMNS`].
    pub fn row(&self) -> [String; COLUMNS.len()] {
        let advice = &self.merged.advice;
        [
            advice.id(),
            advice.kind.as_str().to_owned(),
            format!("{}.{}", advice.table.0, advice.table.1),
            self.confidence().to_owned(),
            advice.speedup().map(|times| format!("{times:.1}")).unwrap_or_default(),
            format!("{:.0}", self.merged.saves_ms_per_hour),
            format!("{:.0}", advice.bytes),
            format!("{:.1}", advice.writes_per_minute),
            self.merged.serves.join(","),
            self.state.as_str().to_owned(),
            self.measured(),
            self.drop_ddl().unwrap_or_else(|| advice.ddl.clone()),
            advice.reason.clone(),
        ]
    }
}

/// The columns of SHOW ADVICE.
pub const COLUMNS: [&str; 13] = [
    "id",
    "kind",
    "table",
    "confidence",
    "speedup",
    "saves_ms_per_hour",
    "bytes",
    "writes_per_minute",
    "queries",
    "state",
    "measured",
    "ddl",
    "reason",
];

/// All advice of one database.
#[derive(Clone, Debug)]
pub struct Book {
    /// By fingerprint: what the last analysis came to.
    shapes: BTreeMap<String, (Served, Vec<Advice>)>,
    entries: BTreeMap<String, Entry>,
    shapes_max: usize,
}

impl Book {
    /// Holds the advice of as many shapes.
    pub fn new(shapes_max: usize) -> Self {
        Self { shapes: BTreeMap::new(), entries: BTreeMap::new(), shapes_max }
    }

    /// Takes in what an analysis came to, in place of what the last one of the shape did.
    pub fn record(&mut self, served: Served, advice: Vec<Advice>, now: SystemTime) {
        self.shapes.insert(served.name.clone(), (served, advice));
        if self.shapes.len() > self.shapes_max {
            // The one that costs least.
            let load = |(served, _): &(Served, Vec<Advice>)| served.calls_per_hour * served.mean_ms;
            let least = self.shapes.iter().min_by(|a, b| load(a.1).total_cmp(&load(b.1)));
            if let Some(name) = least.map(|(name, _)| name.clone()) {
                self.shapes.remove(&name);
            }
        }
        let shapes: Vec<_> = self.shapes.values().cloned().collect();
        let mut entries = BTreeMap::new();
        for merged in merge(&shapes) {
            let id = merged.advice.id();
            let entry = match self.entries.remove(&id) {
                // It was measured, and is advised again: then it is not there any more.
                Some(known) if matches!(known.state, State::Verified { .. }) => {
                    Entry { merged, state: State::Open, last_seen: now, is_advised: true, ..known }
                }
                Some(known) => Entry { merged, last_seen: now, is_advised: true, ..known },
                None => Entry {
                    merged,
                    first_seen: now,
                    last_seen: now,
                    state: State::Open,
                    is_advised: true,
                    loads: Loads::default(),
                },
            };
            entries.insert(id, entry);
        }
        for entry in entries.values_mut().filter(|entry| entry.state == State::Open) {
            let means = entry.merged.serves.iter().filter_map(|name| Some((name, self.shapes.get(name)?)));
            entry.loads.learn(means.map(|(name, (served, _))| (name.as_str(), served.mean_ms)));
        }
        // What no analysis comes to any more may have been built: the next look at the indexes says so. What is dismissed or
        // built stays known.
        let is_kept = |entry: &Entry| entry.state != State::Open || entry.merged.advice.index.is_some();
        let left = std::mem::take(&mut self.entries).into_iter().filter(|(_, entry)| is_kept(entry));
        let left = left.map(|(id, entry)| (id, Entry { is_advised: false, ..entry }));
        entries.extend(left.take(self.shapes_max));
        self.entries = entries;
    }

    /// Somebody does not want to see it. `false`: there is no such advice.
    pub fn dismiss(&mut self, id: &str) -> bool {
        let entry = self.entries.get_mut(id);
        entry.map(|entry| entry.state = State::Dismissed).is_some()
    }

    /// Tables of which it is to be known which indexes they have. `is_doubted`: something has changed; else those are left
    /// out that have nothing but what was measured.
    pub fn watched(&self, is_doubted: bool) -> Vec<TableName> {
        let is_watched = |entry: &&Entry| match entry.state {
            State::Open | State::Built { .. } => true,
            State::Verified { .. } => is_doubted,
            State::Dismissed => false,
        };
        let watched = self.entries.values().filter(is_watched);
        let mut tables: Vec<TableName> =
            watched.filter_map(|entry| Some(entry.merged.advice.index.as_ref()?.table.clone())).collect();
        tables.sort();
        tables.dedup();
        tables
    }

    /// The indexes that tables have now: advice of which one does the work counts as built. `load`: what a statement took so
    /// far. Gives the statements that have another choice of indexes now.
    pub fn seen(
        &mut self,
        tables: &HashMap<TableName, Vec<Index>>,
        load: impl Fn(&str) -> Option<Load>,
    ) -> Vec<String> {
        let mut changed = Vec::new();
        for entry in self.entries.values_mut() {
            let Some(candidate) = &entry.merged.advice.index else { continue };
            let Some(indexes) = tables.get(&candidate.table) else { continue };
            let generated = super::verdict::name(candidate);
            // PostgreSQL may write expressions otherwise than we did: what bears our name is ours.
            let is_ours = |index: &Index| {
                index.name == generated
                    && index.method == candidate.method.as_str()
                    && index.keys.len() == candidate.keys.len()
            };
            let does = |index: &&Index| index.is_valid && (is_ours(index) || covers(index, candidate));
            let built = indexes.iter().find(does);
            match (&entry.state, built) {
                (State::Open, None) => entry.loads.without(&entry.merged.serves, &load),
                (State::Open, Some(index)) => {
                    entry.loads.begin(&entry.merged.serves, &load);
                    entry.state = State::Built { index: index.name.clone() };
                    changed.extend(entry.merged.serves.iter().cloned());
                }
                (State::Built { .. } | State::Verified { .. }, None) => {
                    entry.loads = Loads::default();
                    entry.state = State::Open;
                    changed.extend(entry.merged.serves.iter().cloned());
                }
                (State::Dismissed, _) | (State::Built { .. } | State::Verified { .. }, Some(_)) => {}
            }
        }
        self.entries.retain(|_, entry| entry.is_advised || entry.state != State::Open);
        changed
    }

    /// What the statements that indexes were built for take since. Gives the advice of which that is news.
    pub fn measure(&mut self, load: impl Fn(&str) -> Option<Load>) -> Vec<String> {
        let mut news = Vec::new();
        for (id, entry) in &mut self.entries {
            let before = entry.state.as_str();
            let (State::Built { index } | State::Verified { index, .. }) = &entry.state else { continue };
            let Some((calls, times)) = entry.loads.times(&load) else { continue };
            if calls < CALLS_MIN || calls > CALLS_MAX && before != "built" {
                continue;
            }
            entry.state = State::Verified { index: index.clone(), times };
            if entry.state.as_str() != before {
                news.push(id.clone());
            }
        }
        news
    }

    /// One entry.
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// What saves most comes first; dismissed advice last.
    pub fn entries(&self) -> Vec<&Entry> {
        let is_shown = |entry: &&Entry| entry.is_advised || entry.state != State::Open;
        let mut entries: Vec<&Entry> = self.entries.values().filter(is_shown).collect();
        entries.sort_by(|a, b| {
            let dismissed = |entry: &Entry| entry.state == State::Dismissed;
            let by_time = b.merged.saves_ms_per_hour.total_cmp(&a.merged.saves_ms_per_hour);
            dismissed(a).cmp(&dismissed(b)).then(by_time)
        });
        entries
    }
}

/// Whether an index does what was advised.
fn covers(index: &Index, candidate: &Candidate) -> bool {
    let is_same_part = index.predicate.as_deref().map(bare) == candidate.predicate.as_deref().map(bare);
    (index.predicate.is_none() || is_same_part) && covers_keys(index, candidate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::candidates::{Candidate, Method};
    use crate::advice::schema::IndexKey;
    use crate::advice::verdict::{Confidence, Kind, Proof, ddl};

    fn advice(columns: &[&str]) -> Advice {
        let key = |column: &&str| IndexKey { expression: (*column).to_owned(), ..IndexKey::default() };
        let table = ("public".to_owned(), "t".to_owned());
        let keys = columns.iter().map(key).collect();
        let index = Candidate { table: table.clone(), method: Method::Btree, keys, predicate: None };
        let proof = Proof {
            tool: "hypopg",
            cost_before: 100.0,
            cost_after: 10.0,
            samples: 1,
            plan_before: String::new(),
            plan_after: None,
        };
        Advice {
            kind: Kind::CreateIndex,
            ddl: ddl(&index, false),
            index: Some(index),
            table,
            reason: String::new(),
            confidence: Confidence::Proven,
            proof: Some(proof),
            bytes: 1.0,
            writes_per_minute: 0.0,
            related: Vec::new(),
            caveats: Vec::new(),
            variants: Vec::new(),
        }
    }

    fn served(name: &str) -> Served {
        Served { name: name.to_owned(), calls_per_hour: 100.0, mean_ms: 10.0 }
    }

    #[test]
    fn a_left_part_is_served_by_the_longer_index() {
        let mut book = Book::new(10);
        book.record(served("one"), vec![advice(&["a"])], UNIX_EPOCH);
        book.record(served("two"), vec![advice(&["a", "b"])], UNIX_EPOCH);
        let entries = book.entries();
        let [entry] = entries.as_slice() else { panic!("one index: {entries:?}") };
        assert_eq!(entry.merged.advice.ddl, "CREATE INDEX CONCURRENTLY t_a_b_idx ON public.t (a, b)");
        assert_eq!(entry.merged.serves, ["two", "one"]);
        assert!((entry.merged.saves_ms_per_hour - 1800.0).abs() < 1e-6);
    }

    #[test]
    fn what_was_dismissed_stays_so() {
        let mut book = Book::new(10);
        book.record(served("one"), vec![advice(&["a"])], UNIX_EPOCH);
        let id = book.entries()[0].merged.advice.id();
        assert!(book.dismiss(&id) && !book.dismiss("no such"));
        book.record(served("one"), vec![advice(&["a"])], UNIX_EPOCH + Duration::from_secs(60));
        assert_eq!(book.entries()[0].state, State::Dismissed);
        assert_eq!(book.entries()[0].first_seen, UNIX_EPOCH);
    }

    /// The table has indexes on these columns.
    fn indexes(columns: &[&str]) -> HashMap<TableName, Vec<Index>> {
        let index = |column: &&str| Index {
            name: format!("t_{column}_idx"),
            method: "btree".to_owned(),
            keys: vec![IndexKey { expression: (*column).to_owned(), ..IndexKey::default() }],
            is_valid: true,
            ..Index::default()
        };
        HashMap::from([(("public".to_owned(), "t".to_owned()), columns.iter().map(index).collect())])
    }

    #[test]
    fn an_index_that_was_built_is_measured() {
        for (after_ms, state, measured, ddl) in [
            (0.5, "verified", "x20 measured", "CREATE INDEX CONCURRENTLY t_a_idx ON public.t (a)"),
            (4.0, "verified", "x2.5 measured", "CREATE INDEX CONCURRENTLY t_a_idx ON public.t (a)"),
            (9.0, "no_gain", "no gain: drop it?", "DROP INDEX CONCURRENTLY public.t_a_idx"),
        ] {
            let load = |calls: u64, ms: f64| move |_: &str| Some(Load { calls, ms });
            let mut book = Book::new(10);
            book.record(served("one"), vec![advice(&["a"])], UNIX_EPOCH);
            book.seen(&indexes(&["b"]), load(100, 1000.0));
            assert_eq!(book.entries()[0].state, State::Open);
            // Analyzed again before anybody has looked at the indexes, it is shown no more, and not forgotten.
            book.record(served("one"), Vec::new(), UNIX_EPOCH);
            assert!(book.entries().is_empty() && book.watched(false).len() == 1);
            // What ran between the two looks counts neither way.
            book.seen(&indexes(&["a"]), load(150, 1020.0));
            assert_eq!(book.entries()[0].state.as_str(), "built");
            assert!(book.measure(load(154, 1020.0 + 4.0 * after_ms)).is_empty(), "four are too few");
            assert_eq!(book.measure(load(160, 1020.0 + 10.0 * after_ms)).len(), 1);
            assert!(book.measure(load(170, 1020.0 + 20.0 * after_ms)).is_empty(), "that is no news");
            let row = book.entries()[0].row();
            assert_eq!((&*row[9], &*row[10], &*row[11]), (state, measured, ddl));
            assert!(book.watched(false).is_empty() && book.watched(true).len() == 1);
            // It is dropped, and nobody advises it any more.
            book.seen(&indexes(&[]), load(170, 1030.0));
            assert!(book.entries().is_empty() && book.watched(true).is_empty());
        }
    }

    #[test]
    fn an_index_that_was_dropped_is_advised_again() {
        let load = |_: &str| Some(Load { calls: 10, ms: 10.0 });
        let mut book = Book::new(10);
        book.record(served("one"), vec![advice(&["a"])], UNIX_EPOCH);
        book.seen(&indexes(&["a"]), load);
        assert_eq!(book.entries()[0].state.as_str(), "built");
        book.record(served("one"), vec![advice(&["a"])], UNIX_EPOCH);
        book.seen(&indexes(&[]), load);
        assert_eq!(book.entries()[0].state, State::Open);
    }

    #[test]
    fn shapes_are_bounded() {
        let mut book = Book::new(2);
        for at in 0..10 {
            book.record(served(&at.to_string()), vec![advice(&[&format!("c{at}")])], UNIX_EPOCH);
        }
        assert_eq!(book.entries().len(), 2);
    }

    #[test]
    fn the_budget_is_kept() {
        #[expect(clippy::disallowed_methods, reason = "an Instant is had in no other way")]
        let now = Instant::now();
        let mut budget = Budget::new(60);
        let begun = (0..600).filter(|second| budget.take(now + Duration::from_millis(second * 100))).count();
        assert!((60..=76).contains(&begun), "{begun} in a minute");
        assert!(!Budget::new(0).take(now));
    }
}
