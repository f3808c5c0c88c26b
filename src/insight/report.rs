//! The slow-query log, read back: which shapes cost most, where, and what to do about them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::histogram::Histogram;
use super::time::parse;

/// Shapes that are told apart; those behind are counted only.
const SHAPES_MAX: usize = 10_000;

/// What shapes are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Top {
    /// Their time in all.
    Total,
    /// The time that one in a hundred exceeds.
    P99,
    /// The mean.
    Mean,
    /// How often they were slow.
    Calls,
    /// Rows read for each row returned, where a plan is known.
    Rows,
}

/// One shape.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Its number.
    pub fingerprint: String,
    /// The text.
    pub text: String,
    /// `SELECT articles`
    pub summary: String,
    /// The database.
    pub database: String,
    /// Where in the application, by its tags.
    pub route: String,
    /// Lines of it.
    pub lines: u64,
    /// Lines that were left out.
    pub suppressed: u64,
    /// Errors among the lines.
    pub errors: u64,
    /// Times.
    pub times: Histogram,
    /// Time of waiting for a server connection.
    pub queue: Duration,
    /// Rows that came back.
    pub returned: u64,
    /// Rows that one execution reads, by its plan.
    pub rows_read: Option<f64>,
    /// How often each route was taken: `replica:replica1`.
    pub routes: BTreeMap<String, u64>,
    /// What its plan shows.
    pub findings: Vec<String>,
    /// Pieces of advice for it.
    pub advice: Vec<String>,
    /// When it was first and last slow.
    pub first: Option<SystemTime>,
    /// When it was last slow.
    pub last: Option<SystemTime>,
    /// Time by slot of the report's range; see [`Report::slots`].
    points: Vec<(SystemTime, Duration)>,
}

/// A repetition: an N+1, a duplicate, or writes that could be one.
#[derive(Clone, Debug, Default)]
pub struct Repeated {
    /// What is said of how often it runs: `up to 21 times for one list`.
    pub how_often: String,
    /// What is repeated.
    pub summary: String,
    /// Which, as the log names the event.
    event: String,
    /// The child's text.
    pub text: String,
    /// Where in the application.
    pub route: String,
    /// Lines of it, and those left out.
    pub seen: u64,
    /// Most executions in one scope.
    pub count_max: u64,
    /// Milliseconds lost, by the lines.
    pub lost_ms: f64,
    /// What to do.
    pub suggestion: String,
}

/// Advice.
#[derive(Clone, Debug, Default)]
pub struct Advised {
    /// The statement to copy; DROP INDEX for an index that has brought nothing.
    pub ddl: String,
    /// What it brings: `proven, plan cost / 12`, or what was measured.
    pub gain: String,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// From and until when lines count.
    range: (Option<SystemTime>, Option<SystemTime>),
    shapes: BTreeMap<String, Line>,
    repeats: BTreeMap<String, Repeated>,
    /// By id.
    pub advice: BTreeMap<String, Advised>,
    /// Lines that count.
    pub lines: u64,
    /// Lines that are none of the log's.
    pub unread: u64,
    /// Lines of shapes that had no room.
    pub others: u64,
    /// When the first and the last line was written.
    pub span: Option<(SystemTime, SystemTime)>,
}

/// Events that tell of repetitions, in the order in which they are shown: what they are called, and how often is meant.
const REPETITIONS: [(&str, &str, &str); 3] = [
    ("db.n_plus_one", "Possible N+1", "for one list"),
    ("db.duplicate_query", "The same again and again", "with the same values"),
    ("db.batchable_write", "Rows written one by one", "in one transaction"),
];

/// What an event is called that tells of a repetition, and how often it is meant.
pub fn repetition(event: &str) -> Option<(&'static str, &'static str)> {
    let found = REPETITIONS.into_iter().find(|(name, _, _)| *name == event);
    found.map(|(_, headline, of_what)| (headline, of_what))
}

fn text(value: &Value, key: &str) -> String {
    value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn route(value: &Value) -> String {
    let tags = value.get("weir.tags").cloned().unwrap_or_default();
    let pairs = tags.as_object().into_iter().flatten();
    let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    super::tags::Tags::new(pairs.filter_map(text)).route().unwrap_or_default()
}

impl Report {
    /// Of the lines from and until then.
    pub fn between(from: Option<SystemTime>, until: Option<SystemTime>) -> Self {
        Self { range: (from, until), ..Self::default() }
    }

    /// Takes a line in. Gives it, read, if it is one of the log's and counts.
    pub fn add(&mut self, line: &str) -> Option<Value> {
        if line.trim().is_empty() {
            return None;
        }
        let value: Option<Value> = serde_json::from_str(line).ok();
        let read = value.and_then(|value| {
            let at = parse(value.get("timestamp")?.as_str()?)?;
            let event = value.get("event.name")?.as_str()?.to_owned();
            Some((value, at, event))
        });
        let Some((value, at, event)) = read else {
            self.unread += 1;
            return None;
        };
        if self.range.0.is_some_and(|from| at < from) || self.range.1.is_some_and(|until| at > until) {
            return None;
        }
        match event.as_str() {
            "db.query.slow" => self.slow(&value, at),
            event if repetition(event).is_some() => self.repeated(&value, event),
            "db.index_advice" => self.advised(&value),
            // Of a later version.
            _ => return None,
        }
        self.lines += 1;
        let (first, last) = self.span.unwrap_or((at, at));
        self.span = Some((first.min(at), last.max(at)));
        Some(value)
    }

    fn slow(&mut self, value: &Value, at: SystemTime) {
        let fingerprint = text(value, "weir.fingerprint");
        let database = text(value, "db.namespace");
        let key = format!("{fingerprint} {database}");
        if self.shapes.len() >= SHAPES_MAX && !self.shapes.contains_key(&key) {
            self.others += 1;
            return;
        }
        let number = |path: &str| value.pointer(path).and_then(Value::as_f64);
        let line = self.shapes.entry(key).or_default();
        let seconds = number("/db.client.operation.duration").unwrap_or_default().max(0.0);
        let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        line.fingerprint = fingerprint;
        line.database = database;
        line.text = text(value, "db.query.text");
        line.summary = text(value, "db.query.summary");
        let tagged = route(value);
        if !tagged.is_empty() {
            line.route = tagged;
        }
        line.lines += 1;
        line.suppressed += value.get("weir.suppressed").and_then(Value::as_u64).unwrap_or_default();
        line.errors += u64::from(value.get("error.type").is_some());
        line.times.add(time);
        let queue = number("/weir.duration_ms/queue").unwrap_or_default().max(0.0);
        line.queue += Duration::try_from_secs_f64(queue / 1000.0).unwrap_or_default();
        line.returned += value.get("db.response.returned_rows").and_then(Value::as_u64).unwrap_or_default();
        line.rows_read = number("/weir.explain/rows_read").or(line.rows_read);
        *line.routes.entry(text(value, "weir.route")).or_default() += 1;
        let texts = |path: &str| -> Vec<String> {
            let list = value.pointer(path).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let findings = texts("/weir.explain/findings");
        if !findings.is_empty() {
            line.findings = findings;
        }
        let advice = texts("/weir.advice_ids");
        if !advice.is_empty() {
            line.advice = advice;
        }
        line.first = Some(line.first.map_or(at, |first| first.min(at)));
        line.last = Some(line.last.map_or(at, |last| last.max(at)));
        line.points.push((at, time));
    }

    fn repeated(&mut self, value: &Value, event: &str) {
        let fingerprint = text(value, "weir.fingerprint");
        let parent = value.pointer("/weir.parent/fingerprint").and_then(Value::as_str).unwrap_or_default();
        let route = route(value);
        let repeated = self.repeats.entry(format!("{event} {parent} {fingerprint} {route}")).or_default();
        repeated.summary = text(value, "db.query.summary");
        repeated.text = text(value, "db.query.text");
        repeated.route = route;
        repeated.seen += 1 + value.get("weir.suppressed").and_then(Value::as_u64).unwrap_or_default();
        let count = value.pointer("/weir.repeats/count").and_then(Value::as_u64).unwrap_or_default();
        repeated.count_max = repeated.count_max.max(count);
        let of_what = repetition(event).map_or("", |(_, of_what)| of_what);
        event.clone_into(&mut repeated.event);
        repeated.how_often = format!("up to {} times {of_what}", repeated.count_max);
        repeated.lost_ms +=
            value.pointer("/weir.repeats/lost_ms").and_then(Value::as_f64).unwrap_or_default();
        let suggestion = value.pointer("/weir.suggestion/text").and_then(Value::as_str);
        suggestion.unwrap_or_default().clone_into(&mut repeated.suggestion);
    }

    fn advised(&mut self, value: &Value) {
        let Some(advice) = value.get("weir.advice") else { return };
        // Of several lines the last counts: what was measured since.
        let drop = advice.get("drop_ddl").and_then(Value::as_str);
        let measured = advice.get("measured").and_then(Value::as_str);
        let speedup = advice.get("est_speedup").and_then(Value::as_f64);
        let by_plan = speedup.map(|times| format!(", plan cost / {times:.0}")).unwrap_or_default();
        let advised = Advised {
            ddl: drop.map_or_else(|| text(advice, "ddl"), str::to_owned),
            gain: measured.map_or_else(|| text(advice, "confidence") + &by_plan, str::to_owned),
        };
        self.advice.insert(text(advice, "id"), advised);
    }

    /// Shapes, those first that are most.
    pub fn top(&self, by: Top) -> Vec<&Line> {
        let mut lines: Vec<&Line> = self.shapes.values().collect();
        let weight = |line: &Line| match by {
            Top::Total => line.total().as_secs_f64(),
            Top::P99 => line.times.quantile(990).as_secs_f64(),
            Top::Mean => line.times.mean().as_secs_f64(),
            #[expect(clippy::cast_precision_loss, reason = "an order")]
            Top::Calls => line.calls() as f64,
            Top::Rows => line.read_per_returned().unwrap_or(-1.0),
        };
        lines.sort_by(|a, b| weight(b).total_cmp(&weight(a)));
        lines
    }

    /// Repetitions by what they are, with a headline; those first that lost most.
    pub fn repeats(&self) -> Vec<(&'static str, Vec<&Repeated>)> {
        let of_kind = |(event, headline, _): (&str, &'static str, &str)| {
            let of_event = self.repeats.values().filter(|repeated| repeated.event == event);
            let mut repeats: Vec<&Repeated> = of_event.collect();
            repeats.sort_by(|a, b| b.lost_ms.total_cmp(&a.lost_ms));
            (headline, repeats)
        };
        REPETITIONS.into_iter().map(of_kind).filter(|(_, repeats)| !repeats.is_empty()).collect()
    }

    /// The time of all shapes, or of one, in equal slots of the report's span.
    pub fn slots(&self, of: Option<&Line>, count: usize) -> Vec<Duration> {
        let mut slots = vec![Duration::ZERO; count];
        let Some((first, last)) = self.span else { return slots };
        let width = last.duration_since(first).unwrap_or_default().as_secs_f64().max(1.0);
        let lines: Vec<&Line> = of.map_or_else(|| self.shapes.values().collect(), |line| vec![line]);
        for (at, time) in lines.iter().flat_map(|line| &line.points) {
            let share = at.duration_since(first).unwrap_or_default().as_secs_f64() / width;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a place in a picture"
            )]
            let slot = (share * count as f64) as usize;
            slots[slot.min(count - 1)] += *time;
        }
        slots
    }
}

impl Line {
    /// How often it was slow, what was left out included.
    pub fn calls(&self) -> u64 {
        self.lines + self.suppressed
    }

    /// Its time, what was left out estimated by what was not.
    pub fn total(&self) -> Duration {
        let suppressed = u32::try_from(self.suppressed).unwrap_or(u32::MAX);
        self.times.sum().saturating_add(self.times.mean().saturating_mul(suppressed))
    }

    /// Rows that come back each time.
    pub fn rows(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a mean to look at")]
        let mean = self.returned as f64 / self.lines.max(1) as f64;
        mean
    }

    /// Rows read for each row that comes back.
    pub fn read_per_returned(&self) -> Option<f64> {
        self.rows_read.map(|read| read / self.rows().max(1.0))
    }

    /// Where it ran most.
    pub fn main_route(&self) -> &str {
        self.routes.iter().max_by_key(|(_, count)| **count).map_or("", |(route, _)| route)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: &str, fingerprint: &str, seconds: f64, rest: &str) -> String {
        format!(
            r#"{{"timestamp": "2026-11-30T{at}Z", "event.name": "db.query.slow", "db.namespace": "app",
                "db.query.text": "select {fingerprint}", "weir.fingerprint": "{fingerprint}",
                "db.client.operation.duration": {seconds} {rest}}}"#
        )
        .replace('\n', " ")
    }

    #[test]
    fn shapes_are_ordered() {
        let mut report = Report::default();
        for at in 0..10 {
            report.add(&line(&format!("10:00:0{at}"), "often", 0.3, r#", "weir.suppressed": 9"#));
        }
        report.add(&line(
            "10:00:30",
            "slow",
            5.0,
            r#", "db.response.returned_rows": 2, "weir.explain": {"rows_read": 3000}"#,
        ));
        assert!(report.add("nonsense").is_none() && report.add("{}").is_none());
        assert_eq!((report.lines, report.unread), (11, 2));
        let first = |by| report.top(by)[0].fingerprint.clone();
        assert_eq!([first(Top::Total), first(Top::Calls)], ["often", "often"]);
        assert_eq!([first(Top::P99), first(Top::Mean), first(Top::Rows)], ["slow", "slow", "slow"]);
        assert_eq!(report.top(Top::Calls)[0].calls(), 100);
        assert_eq!(report.top(Top::Rows)[0].read_per_returned(), Some(1500.0));
        let slots = report.slots(None, 3);
        assert_eq!(slots, [Duration::from_secs(3), Duration::ZERO, Duration::from_secs(5)]);
    }

    #[test]
    fn repetitions_are_told_apart() {
        let mut report = Report::default();
        for (event, count) in [("db.batchable_write", 7), ("db.n_plus_one", 20), ("db.batchable_write", 9)] {
            report.add(&format!(
                r#"{{"timestamp": "2026-11-30T10:00:00Z", "event.name": "{event}", "weir.fingerprint": "1",
                    "weir.repeats": {{"count": {count}, "lost_ms": 2.5}}}}"#
            ));
        }
        let shown: Vec<String> = report
            .repeats()
            .into_iter()
            .flat_map(|(headline, repeats)| {
                repeats.into_iter().map(move |one| {
                    format!("{headline}: {}, seen {} times, {}", one.how_often, one.seen, one.lost_ms)
                })
            })
            .collect();
        let expected = [
            "Possible N+1: up to 20 times for one list, seen 1 times, 2.5",
            "Rows written one by one: up to 9 times in one transaction, seen 2 times, 5",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_range_leaves_the_rest_out() {
        let from = parse("2026-11-30T10:00:00Z");
        let mut report = Report::between(from, from);
        report.add(&line("09:59:59", "early", 1.0, ""));
        report.add(&line("10:00:00", "right", 1.0, ""));
        report.add(&line("10:00:01", "late", 1.0, ""));
        assert_eq!(report.top(Top::Total).len(), 1);
        assert_eq!(report.top(Top::Total)[0].fingerprint, "right");
    }
}
