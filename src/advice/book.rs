//! The advice that stands, for the console, the API and the dashboard: merged across shapes, bounded, with what people
//! and measurements made of it. And the budget of analyses, so that looking for advice never becomes the load.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::candidates::covers_keys;
use super::merge::{Merged, Served, merge};
use super::schema::Index;
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
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    /// Nobody has acted on it.
    Open,
    /// Somebody does not want to see it.
    Dismissed,
    /// The index is there; by how much its statements became faster is not known yet.
    Built {
        /// Their mean before.
        mean_ms_before: f64,
    },
    /// The index is there, and they became faster so many times.
    Verified {
        /// Below 1.2: it brought nothing, and may be dropped.
        times: f64,
    },
}

impl State {
    /// The word in the console and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Dismissed => "dismissed",
            Self::Built { .. } => "built",
            Self::Verified { times } if times < 1.2 => "no_gain",
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
            if let State::Verified { times } = self.state {
                object.insert("measured_speedup".to_owned(), json!((times * 10.0).round() / 10.0));
            }
        }
        value
    }

    /// For SHOW ADVICE, in the order of [`COLUMNS`].
    pub fn row(&self) -> [String; COLUMNS.len()] {
        let advice = &self.merged.advice;
        [
            advice.id(),
            advice.kind.as_str().to_owned(),
            format!("{}.{}", advice.table.0, advice.table.1),
            advice.confidence.as_str().to_owned(),
            advice.speedup().map(|times| format!("{times:.1}")).unwrap_or_default(),
            format!("{:.0}", self.merged.saves_ms_per_hour),
            format!("{:.0}", advice.bytes),
            format!("{:.1}", advice.writes_per_minute),
            self.merged.serves.join(","),
            self.state.as_str().to_owned(),
            advice.ddl.clone(),
            advice.reason.clone(),
        ]
    }
}

/// The columns of SHOW ADVICE.
pub const COLUMNS: [&str; 12] = [
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
            let known = self.entries.remove(&id);
            let (first_seen, state) =
                known.map_or((now, State::Open), |known| (known.first_seen, known.state));
            entries.insert(id, Entry { merged, first_seen, last_seen: now, state });
        }
        // What is dismissed or built stays known though no analysis comes to it any more.
        let kept =
            std::mem::take(&mut self.entries).into_iter().filter(|(_, entry)| entry.state != State::Open);
        entries.extend(kept.take(self.shapes_max));
        self.entries = entries;
    }

    /// Somebody does not want to see it. `false`: there is no such advice.
    pub fn dismiss(&mut self, id: &str) -> bool {
        let entry = self.entries.get_mut(id);
        entry.map(|entry| entry.state = State::Dismissed).is_some()
    }

    /// An index of a table is there now: what advised it counts as built. `mean_ms` is what a statement takes so far.
    pub fn built(&mut self, table: &super::schema::TableName, index: &Index, mean_ms: impl Fn(&str) -> f64) {
        for entry in self.entries.values_mut().filter(|entry| entry.state == State::Open) {
            let Some(candidate) = &entry.merged.advice.index else { continue };
            if candidate.table == *table && covers_keys(index, candidate) {
                let before = entry.merged.serves.first().map_or(0.0, |name| mean_ms(name));
                entry.state = State::Built { mean_ms_before: before };
            }
        }
    }

    /// What the statements that an index was built for take since.
    pub fn measured(&mut self, mean_ms: impl Fn(&str) -> Option<f64>) {
        for entry in self.entries.values_mut() {
            let State::Built { mean_ms_before } = entry.state else { continue };
            if let Some(after) = entry.merged.serves.first().and_then(|name| mean_ms(name)) {
                entry.state = State::Verified { times: mean_ms_before / after.max(0.001) };
            }
        }
    }

    /// What saves most comes first; dismissed advice last.
    pub fn entries(&self) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.entries.values().collect();
        entries.sort_by(|a, b| {
            let dismissed = |entry: &Entry| entry.state == State::Dismissed;
            let by_time = b.merged.saves_ms_per_hour.total_cmp(&a.merged.saves_ms_per_hour);
            dismissed(a).cmp(&dismissed(b)).then(by_time)
        });
        entries
    }
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

    #[test]
    fn an_index_that_was_built_is_measured() {
        let mut book = Book::new(10);
        book.record(served("one"), vec![advice(&["a"])], UNIX_EPOCH);
        let key = IndexKey { expression: "a".to_owned(), ..IndexKey::default() };
        let index = Index { method: "btree".to_owned(), keys: vec![key], is_valid: true, ..Index::default() };
        book.built(&("public".to_owned(), "t".to_owned()), &index, |_| 10.0);
        book.measured(|_| Some(0.5));
        assert_eq!(book.entries()[0].state, State::Verified { times: 20.0 });
        assert_eq!(book.entries()[0].row()[9], "verified");
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
