//! Which slow shapes are to be explained next, and what their analyses came to.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ahash::HashMap;

use super::keep::Kept;
use super::samples::{Samples, sample};
use super::statistics::{Shape, Statistics};
use crate::advice::book::Book;
use crate::advice::entry::{Decision, Entry};
use crate::advice::load::Load;
use crate::advice::merge::Served;
use crate::advice::samples::Sample;
use crate::advice::schema::{Index, TableName};
use crate::advice::verdict::Verdict;
use crate::session::{Settings, Value};
use crate::sql::Fingerprint;

/// When a shape is worth an analysis.
const CALLS_MIN: u64 = 3;
const MEAN_MIN: Duration = Duration::from_millis(20);
const P95_MIN: Duration = Duration::from_millis(50);
const ONCE_MIN: Duration = Duration::from_millis(200);
const SHARE_MEAN_MIN: Duration = Duration::from_millis(2);

/// An analysis is done again after so long, or when the mean has moved by this factor.
const AGAIN_AFTER: Duration = Duration::from_secs(24 * 3600);
const MOVED: f64 = 2.0;

/// One that failed is tried again after so long.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// It is looked again so often whether somebody has built what was advised, and at once after DDL that was seen.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Analyses that are remembered, and shapes with advice in one database.
const ANALYSES_MAX: usize = 1000;
const ADVISED_MAX: usize = 500;

/// An analysis that is due.
#[derive(Clone, Debug)]
pub struct Task {
    /// The shape's key.
    pub key: u64,
    /// Its fingerprint, as text.
    pub fingerprint: String,
    /// The database as the servers name it.
    pub dbname: Arc<str>,
    /// Who runs it.
    pub user: Box<str>,
    /// Executions: the typical one first. Without any, the shape with `$1` for its constants.
    pub samples: Vec<Sample>,
    /// How the server cuts the texts.
    pub standard_conforming_strings: bool,
    /// The client's `search_path`, if it has set one.
    pub search_path: Option<String>,
    /// Rows that it gives on average.
    pub rows_given: f64,
    /// How often it runs, and how long that takes.
    pub served: Served,
}

/// What an analysis came to.
#[derive(Clone, Debug)]
pub struct Analyzed {
    /// When.
    pub at: Instant,
    /// The mean at that time.
    mean: Duration,
    /// Indexes or statistics were changed since.
    is_stale: bool,
    /// The verdict, or why there is none.
    pub outcome: Result<Verdict, String>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Plans {
    analyzed: HashMap<u64, Analyzed>,
    books: HashMap<Arc<str>, Advised>,
    /// When it was last looked which indexes there are; `None`: something has changed since.
    looked: Option<Instant>,
}

/// The advice of one database.
#[derive(Debug)]
struct Advised {
    book: Book,
    /// The number that it adds to a shape's.
    database_key: u64,
}

impl Plans {
    /// The analysis that is due first: of the shape that took most time.
    pub fn due(&self, statistics: &Statistics, samples: &Samples, now: Instant) -> Option<Task> {
        let all: Duration = statistics.iter().map(|(_, shape)| shape.total.sum()).sum();
        let (key, _) = statistics
            .iter()
            .filter(|(key, shape)| self.is_due(*key, shape, now))
            // What was analyzed is looked at again also if it is slow no more: its advice must not stand for ever.
            .filter(|(key, shape)| is_slow(shape, all) || self.analyzed.contains_key(key))
            .max_by_key(|(_, shape)| shape.total.sum())?;
        self.task(key, statistics, samples, now)
    }

    /// The analysis of one shape.
    pub fn task(&self, key: u64, statistics: &Statistics, samples: &Samples, now: Instant) -> Option<Task> {
        let shape = statistics.get(key)?;
        let executions = samples.of(key, now);
        let first = executions.first();
        let mut bound: Vec<Sample> =
            executions.iter().filter_map(|execution| sample(&execution.details)).collect();
        // One text alone does not tell a constant of the application from a value of the moment, which must not end up
        // in advice: a text without any constant stands beside it.
        if bound.iter().all(|one| one.text == bound[0].text && one.bound.is_empty()) {
            bound.push(Sample { text: with_parameters(&shape.text), bound: Vec::new() });
        }
        let lexes = |execution: &super::samples::Execution| execution.details.standard_conforming_strings;
        Some(Task {
            key,
            fingerprint: shape.fingerprint.to_string(),
            dbname: Arc::clone(&shape.client.dbname),
            user: shape.client.user.clone(),
            samples: bound,
            standard_conforming_strings: first.is_none_or(lexes),
            search_path: first.and_then(|execution| search_path(&execution.details.settings)),
            rows_given: mean_rows(shape),
            served: served(shape, now),
        })
    }

    fn is_due(&self, key: u64, shape: &Shape, now: Instant) -> bool {
        if shape.text.is_empty() || shape.lookup.command.is_empty() {
            return false;
        }
        let Some(before) = self.analyzed.get(&key) else { return true };
        let age = now.saturating_duration_since(before.at);
        if before.outcome.is_err() {
            return age > RETRY_AFTER;
        }
        // Of late: an index that somebody has created elsewhere shows at once, and in the mean of all runs perhaps never.
        let (was, is) = (before.mean.as_secs_f64(), shape.recent_mean().as_secs_f64());
        let has_moved = is > 0.0 && (is > was * MOVED || is * MOVED < was);
        before.is_stale || age > AGAIN_AFTER || age > RETRY_AFTER && has_moved
    }

    /// Takes in what an analysis came to.
    pub fn record(
        &mut self,
        task: &Task,
        outcome: Result<Verdict, String>,
        mean: Duration,
        now: Instant,
        wall: SystemTime,
    ) {
        if self.analyzed.len() >= ANALYSES_MAX && !self.analyzed.contains_key(&task.key) {
            let oldest = self.analyzed.iter().min_by_key(|(_, analyzed)| analyzed.at);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.analyzed.remove(&oldest);
            }
        }
        if let Ok(verdict) = &outcome {
            self.advised(&task.dbname).book.record(task.served.clone(), verdict.advice.clone(), wall);
        }
        self.analyzed.insert(task.key, Analyzed { at: now, mean, is_stale: false, outcome });
    }

    /// What the last analysis of a shape came to.
    pub fn of(&self, key: u64) -> Option<&Analyzed> {
        self.analyzed.get(&key)
    }

    /// How many analyses there were, of those that are remembered: that came to something, and that failed.
    pub fn counts(&self) -> (usize, usize) {
        let failed = self.analyzed.values().filter(|analyzed| analyzed.outcome.is_err()).count();
        (self.analyzed.len() - failed, failed)
    }

    /// All advice that stands, by database; what saves most comes first.
    pub fn advice(&self) -> Vec<(Arc<str>, &Entry)> {
        let mut all: Vec<(Arc<str>, &Entry)> = Vec::new();
        for (dbname, Advised { book, .. }) in &self.books {
            all.extend(book.entries().into_iter().map(|entry| (Arc::clone(dbname), entry)));
        }
        all.sort_by(|a, b| b.1.merged.saves_ms_per_hour.total_cmp(&a.1.merged.saves_ms_per_hour));
        all
    }

    /// What somebody says to a piece of advice. `false`: there is none of this name.
    pub fn decide(&mut self, id: &str, decision: Decision) -> bool {
        self.books.values_mut().any(|advised| advised.book.decide(id, decision))
    }

    /// What is to be known after the next start.
    pub fn kept(&self, statistics: &Statistics, kept: &mut Kept) {
        for (dbname, Advised { book, database_key }) in &self.books {
            let advice = book.kept(|name| load(statistics, name, *database_key));
            if !advice.is_empty() {
                kept.0.entry(dbname.to_string()).or_default().advice = advice;
            }
        }
    }

    /// Takes in what was kept before this start.
    pub fn restore(&mut self, dbname: &Arc<str>, advice: Vec<Entry>) {
        self.advised(dbname).book.restore(advice);
    }

    fn advised(&mut self, dbname: &Arc<str>) -> &mut Advised {
        let database_key = Fingerprint::of(dbname.as_bytes()).0;
        let advised = self.books.entry(Arc::clone(dbname));
        advised.or_insert_with(|| Advised { book: Book::new(ADVISED_MAX), database_key })
    }

    /// Indexes or statistics may have been changed: all is to be looked at anew.
    pub fn doubt(&mut self) {
        self.analyzed.values_mut().for_each(|analyzed| analyzed.is_stale = true);
        self.looked = None;
    }

    /// Tables of which it is to be looked now which indexes they have, by database.
    pub fn watched(&mut self, now: Instant) -> Vec<(Arc<str>, Vec<TableName>)> {
        let since = self.looked.map(|looked| now.saturating_duration_since(looked));
        if since.is_some_and(|since| since < LOOK_EVERY) {
            return Vec::new();
        }
        self.looked = Some(now);
        let tables = |(dbname, advised): (&Arc<str>, &Advised)| {
            (Arc::clone(dbname), advised.book.watched(since.is_none()))
        };
        self.books.iter().map(tables).filter(|(_, tables)| !tables.is_empty()).collect()
    }

    /// The indexes that tables of a database have now.
    pub fn seen(
        &mut self,
        dbname: &str,
        tables: &std::collections::HashMap<TableName, Vec<Index>>,
        statistics: &Statistics,
    ) {
        if let Some(Advised { book, database_key }) = self.books.get_mut(dbname) {
            let changed = book.seen(tables, |name| load(statistics, name, *database_key));
            let keys = changed.iter().filter_map(|name| u64::from_str_radix(name, 16).ok());
            for key in keys.map(|fingerprint| fingerprint ^ *database_key) {
                if let Some(analyzed) = self.analyzed.get_mut(&key) {
                    analyzed.is_stale = true;
                }
            }
        }
    }

    /// Compares what statements take with what they took, and opens what was put off until now. Gives the advice of which that is news, each with the key of its
    /// shape.
    pub fn measure(&mut self, statistics: &Statistics, wall: SystemTime) -> Vec<(u64, &Entry)> {
        let mut news = Vec::new();
        for Advised { book, database_key } in self.books.values_mut() {
            book.wake(wall);
            let ids = book.measure(|name| load(statistics, name, *database_key));
            let (book, key) = (&*book, *database_key);
            news.extend(ids.into_iter().filter_map(|id| {
                let entry = book.get(&id)?;
                let fingerprint = u64::from_str_radix(entry.merged.serves.first()?, 16).ok()?;
                Some((fingerprint ^ key, entry))
            }));
        }
        news
    }
}

/// Whether a statement changes what the planner has to choose from, by its shape.
pub fn changes_plans(shape: &str) -> bool {
    const BEGINNINGS: [&str; 10] = [
        "create index",
        "create unique index",
        "create extension",
        "drop index",
        "drop table",
        "drop schema",
        "alter table",
        "analyze",
        "reindex",
        "vacuum",
    ];
    BEGINNINGS.iter().any(|beginning| shape.starts_with(beginning))
}

/// What a shape took so far where servers answered.
fn load(statistics: &Statistics, fingerprint: &str, database_key: u64) -> Option<Load> {
    let fingerprint = u64::from_str_radix(fingerprint, 16).ok()?;
    let shape = statistics.get(fingerprint ^ database_key)?;
    Some(Load { calls: shape.server.count(), ms: shape.server.sum().as_secs_f64() * 1000.0 })
}

fn is_slow(shape: &Shape, all: Duration) -> bool {
    let mean = shape.total.mean();
    let often = shape.calls >= CALLS_MIN && (mean >= MEAN_MIN || shape.total.quantile(950) >= P95_MIN);
    let in_sum = shape.total.sum() >= all / 100 && mean >= SHARE_MEAN_MIN;
    let once = shape.server.max() >= ONCE_MIN;
    let can_be = matches!(shape.lookup.command.as_str(), "SELECT" | "UPDATE" | "DELETE" | "WITH");
    can_be && (often || in_sum || once)
}

fn served(shape: &Shape, now: Instant) -> Served {
    let hours = now.saturating_duration_since(shape.first_seen).as_secs_f64() / 3600.0;
    #[expect(clippy::cast_precision_loss, reason = "a rate to look at")]
    let calls = shape.calls as f64;
    // What was seen for a moment only is not made an hour of.
    let calls_per_hour = calls / hours.max(1.0 / 60.0);
    let mean_ms = shape.server.mean().as_secs_f64() * 1000.0;
    Served { name: shape.fingerprint.to_string(), calls_per_hour, mean_ms }
}

fn mean_rows(shape: &Shape) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a mean to look at")]
    let mean = shape.rows as f64 / (shape.calls - shape.from_cache).max(1) as f64;
    mean
}

/// The shape as a text that can be prepared: `$1` for its first constant, and so on.
fn with_parameters(shape: &str) -> String {
    use crate::sql::scan::{Scanner, TokenKind};
    let (mut text, mut end, mut number) = (String::with_capacity(shape.len() + 16), 0, 0_u32);
    for token in Scanner::new(shape.as_bytes(), true) {
        let source = shape.get(token.span.start..token.span.end).unwrap_or_default();
        if token.kind == TokenKind::Operator && source == "?" {
            number += 1;
            text.push_str(shape.get(end..token.span.start).unwrap_or_default());
            text.push('$');
            text.push_str(&number.to_string());
            end = token.span.end;
        }
    }
    text.push_str(shape.get(end..).unwrap_or_default());
    text
}

fn search_path(settings: &Settings) -> Option<String> {
    match settings.search_path()? {
        Value::Source(text) | Value::Literal(text) => String::from_utf8(text.to_vec()).ok(),
        Value::Quoted(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_can_be_prepared() {
        assert_eq!(
            with_parameters("select a from t where b = ? and c in (?)"),
            "select a from t where b = $1 and c in ($2)"
        );
        assert_eq!(with_parameters("select 1"), "select 1");
    }
}
