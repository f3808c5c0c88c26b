//! The advice that stands, for the console, the API and the dashboard: merged across shapes, bounded, and told from what
//! people and measurements made of it.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use super::candidates::{Candidate, bare, covers_keys};
use super::entry::{Decision, Entry, GAIN_MIN, State};
use super::load::{Load, Loads};
use super::merge::{Served, merge};
use super::schema::{Index, TableName};
use super::verdict::Advice;

/// Executions with an index that say what it brings, those that say that it brings nothing, and those after which that
/// stands: the first ones find cold pages, and a busy machine makes a few of them slow, so nobody is told in haste to drop it.
const CALLS_MIN: u64 = 5;
const CALLS_NO_GAIN_MIN: u64 = 50;
const CALLS_MAX: u64 = 1000;

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

    /// What somebody says to a piece of advice. `false`: there is no such.
    pub fn decide(&mut self, id: &str, decision: Decision) -> bool {
        let Some(entry) = self.entries.get_mut(id) else { return false };
        match decision {
            Decision::Dismiss => entry.state = State::Dismissed,
            Decision::Snooze(until) => entry.state = State::Snoozed(until),
            Decision::Reopen if entry.state.is_hidden() => entry.state = State::Open,
            Decision::Reopen => {}
        }
        true
    }

    /// What was put off until now is open again.
    pub fn wake(&mut self, now: SystemTime) {
        for entry in self.entries.values_mut() {
            if matches!(entry.state, State::Snoozed(until) if until <= now) {
                entry.state = State::Open;
            }
        }
    }

    /// What is to be known after the next start: all that somebody has decided, built or measured.
    pub fn kept(&self, load: impl Fn(&str) -> Option<Load>) -> Vec<Entry> {
        let kept = self.entries.values().filter(|entry| entry.state != State::Open);
        kept.map(|entry| Entry { loads: entry.loads.carried(&load), ..entry.clone() }).collect()
    }

    /// Takes in what [`Self::kept`] gave before.
    pub fn restore(&mut self, kept: Vec<Entry>) {
        let kept = kept.into_iter().take(self.shapes_max);
        self.entries.extend(kept.map(|entry| (entry.merged.advice.id(), entry)));
    }

    /// Tables of which it is to be known which indexes they have. `is_doubted`: something has changed; else those are left
    /// out that have nothing but what was measured.
    pub fn watched(&self, is_doubted: bool) -> Vec<TableName> {
        let is_watched = |entry: &&Entry| match entry.state {
            State::Open | State::Built { .. } => true,
            State::Verified { .. } => is_doubted,
            State::Dismissed | State::Snoozed(_) => false,
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
                (State::Dismissed | State::Snoozed(_), _)
                | (State::Built { .. } | State::Verified { .. }, Some(_)) => {}
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
            let calls_min = if times < GAIN_MIN { CALLS_NO_GAIN_MIN } else { CALLS_MIN };
            if calls < calls_min || calls > CALLS_MAX && before != "built" {
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
            let by_time = b.merged.saves_ms_per_hour.total_cmp(&a.merged.saves_ms_per_hour);
            a.state.is_hidden().cmp(&b.state.is_hidden()).then(by_time)
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
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::advice::candidates::{Candidate, Method};
    use crate::advice::schema::IndexKey;
    use crate::advice::verdict::{Confidence, Kind, Proof, Tool, ddl};

    fn advice(columns: &[&str]) -> Advice {
        let key = |column: &&str| IndexKey { expression: (*column).to_owned(), ..IndexKey::default() };
        let table = ("public".to_owned(), "t".to_owned());
        let keys = columns.iter().map(key).collect();
        let index = Candidate { table: table.clone(), method: Method::Btree, keys, predicate: None };
        let proof = Proof {
            tool: Tool::HypoPg,
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
        assert!(book.decide(&id, Decision::Dismiss) && !book.decide("no such", Decision::Dismiss));
        book.record(served("one"), vec![advice(&["a"])], UNIX_EPOCH + Duration::from_secs(60));
        assert_eq!(book.entries()[0].state, State::Dismissed);
        assert_eq!(book.entries()[0].first_seen, UNIX_EPOCH);
        assert!(book.decide(&id, Decision::Reopen));
        assert_eq!(book.entries()[0].state, State::Open);
    }

    #[test]
    fn what_was_put_off_comes_back() {
        let later = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let mut book = Book::new(10);
        book.record(served("one"), vec![advice(&["a"])], UNIX_EPOCH);
        let id = book.entries()[0].merged.advice.id();
        assert!(book.decide(&id, Decision::Snooze(later(60))));
        book.wake(later(59));
        book.record(served("one"), vec![advice(&["a"])], later(59));
        assert_eq!(book.entries()[0].state.as_str(), "snoozed");
        book.wake(later(60));
        assert_eq!(book.entries()[0].state.as_str(), "open");
    }

    #[test]
    fn a_restart_forgets_no_decision_and_no_measurement() {
        let load = |calls: u64, ms: f64| move |_: &str| Some(Load { calls, ms });
        let mut book = Book::new(10);
        for name in ["a", "b", "c"] {
            book.record(served(name), vec![advice(&[name])], UNIX_EPOCH);
        }
        let id = |book: &Book, column: &str| {
            let is_of = |entry: &&&Entry| entry.merged.serves == [column];
            book.entries().iter().find(is_of).map(|entry| entry.merged.advice.id()).unwrap()
        };
        let dismissed = id(&book, "b");
        book.decide(&dismissed, Decision::Dismiss);
        book.seen(&indexes(&["a"]), load(100, 1000.0));
        book.measure(load(110, 1005.0));

        let kept = book.kept(load(110, 1005.0));
        let text = serde_json::to_string(&kept).unwrap();
        let mut book = Book::new(10);
        book.restore(serde_json::from_str(&text).unwrap());
        let rows: Vec<_> =
            book.entries().iter().map(|entry| (entry.row()[9].clone(), entry.measured())).collect();
        let expected = [("verified", "x20 measured"), ("dismissed", "")];
        assert_eq!(rows, expected.map(|(state, measured)| (state.to_owned(), measured.to_owned())));
        // Another five executions do not outweigh the ten before.
        book.seen(&indexes(&["a"]), load(0, 0.0));
        book.measure(load(5, 10.0));
        assert_eq!(book.entries()[0].measured(), "x10 measured");
        book.record(served("b"), vec![advice(&["b"])], UNIX_EPOCH);
        assert_eq!(book.get(&dismissed).unwrap().state, State::Dismissed);
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
        for (after_ms, calls_min, state, measured, ddl) in [
            (0.5, 5, "verified", "x20 measured", "CREATE INDEX CONCURRENTLY t_a_idx ON public.t (a)"),
            (4.0, 5, "verified", "x2.5 measured", "CREATE INDEX CONCURRENTLY t_a_idx ON public.t (a)"),
            (9.0, 50, "no_gain", "no gain: drop it?", "DROP INDEX CONCURRENTLY public.t_a_idx"),
        ] {
            let load = |calls: u64, ms: f64| move |_: &str| Some(Load { calls, ms });
            let after = |calls: u32| load(150 + u64::from(calls), 1020.0 + f64::from(calls) * after_ms);
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
            assert!(book.measure(after(calls_min - 1)).is_empty(), "one more is needed");
            assert_eq!(book.measure(after(calls_min)).len(), 1);
            assert!(book.measure(after(calls_min + 10)).is_empty(), "that is no news");
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
}
