//! N+1, duplicates and batchable writes in labelled scopes: precision and recall of each.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use weir::config::{InsightSettings, SlowLogSettings};
use weir::insight::record::{Cached, Served};
use weir::insight::watch::Answer;
use weir::insight::{Client, Insight, Watch};
use weir::session::Settings;
use weir::sql::analyze;

/// What a statement takes, and what the application takes until the next.
const TAKES: Duration = Duration::from_micros(500);
const THINKS: Duration = Duration::from_micros(20);

struct Application {
    insight: Insight,
    clients: Vec<(u32, Watch)>,
    client: u32,
    trace: u32,
    in_block: bool,
    cached: bool,
    now: Instant,
}

impl Application {
    fn new(now: Instant) -> Self {
        let insight =
            Insight::new(&InsightSettings::default(), &SlowLogSettings::default(), Vec::new(), 1, now);
        Self { insight, clients: Vec::new(), client: 1, trace: 0, in_block: false, cached: false, now }
    }

    fn run(&mut self, lines: &[&str], turns: &[usize]) {
        let mut at = 0;
        while let Some(line) = lines.get(at) {
            let line = filled(line, turns);
            let (word, rest) = line.split_once(' ').unwrap_or((&line, ""));
            at += 1;
            match word {
                "begin" => self.statement(0, "BEGIN"),
                "commit" => self.statement(0, "COMMIT"),
                "cached" => self.cached = true,
                "pipeline" => {
                    let body = body(&lines[at..]);
                    self.pipeline(&lines[at..at + body], turns);
                    at += body + 1;
                }
                "wait" => self.now += Duration::from_millis(rest.parse().unwrap()),
                "client" => self.client = rest.parse().unwrap(),
                "trace" => self.trace = rest.parse().unwrap(),
                "loop" => {
                    let body = body(&lines[at..]);
                    for turn in 1..=rest.parse().unwrap() {
                        self.run(&lines[at..at + body], &[turns, &[turn]].concat());
                    }
                    at += body + 1;
                }
                rows => self.statement(rows.parse().unwrap(), rest),
            }
        }
    }

    /// All of it is sent at once.
    fn pipeline(&mut self, lines: &[&str], turns: &[usize]) {
        self.now += THINKS;
        let (now, settings) = (self.now, Settings::default());
        let count: usize = lines[0].strip_prefix("loop ").unwrap().parse().unwrap();
        let watch = self.watch();
        watch.unit(false);
        watch.read(now);
        for turn in 1..=count {
            let line = filled(lines[1], &[turns, &[turn]].concat());
            let (_, text) = line.split_once(' ').unwrap();
            watch.query(text.as_bytes(), Arc::new(analyze(text.as_bytes(), true)), true.into());
        }
        for turn in 1..=count {
            watch.filled(now + TAKES * u32::try_from(turn).unwrap());
            watch.answered(Answer::Complete(b"INSERT 0 1"), 100, &settings);
            watch.answered(Answer::Ready, 106, &settings);
        }
        self.now += TAKES * u32::try_from(count).unwrap();
        self.insight.drain(self.now, SystemTime::UNIX_EPOCH);
    }

    /// As the relay tells it, in the simple protocol.
    fn statement(&mut self, rows: u64, text: &str) {
        self.now += THINKS;
        let mut text = text.to_owned();
        if self.trace > 0 {
            write!(text, "/*traceparent='00-{:032x}-00000000000000aa-01'*/", self.trace).unwrap();
        }
        let analysis = Arc::new(analyze(text.as_bytes(), true));
        let tag = format!("{} {rows}", text.split(' ').next().unwrap());
        let settings = Settings::default();
        let (is_idle, now) = (!self.in_block, self.now);
        let cached = if self.cached { Cached::Hit } else { Cached::Bypass };
        let watch = self.watch();
        watch.read(now);
        watch.unit(is_idle);
        watch.begins(Served::Primary(None), cached, now, now);
        watch.query(text.as_bytes(), Arc::clone(&analysis), true.into());
        watch.filled(now + TAKES);
        watch.answered(Answer::Complete(tag.as_bytes()), 100, &settings);
        watch.answered(Answer::Ready, 106, &settings);
        self.now += TAKES;
        self.in_block = (self.in_block || text == "BEGIN") && text != "COMMIT";
        self.insight.drain(self.now, SystemTime::UNIX_EPOCH);
    }

    fn watch(&mut self) -> &mut Watch {
        let process = self.client;
        let at = self.clients.iter().position(|(known, _)| *known == process).unwrap_or_else(|| {
            let watch = self.insight.watch(Client { process, ..Client::default() }, 0, self.now);
            self.clients.push((process, watch));
            self.clients.len() - 1
        });
        &mut self.clients[at].1
    }

    /// What was found by the time that all rest.
    fn found(&mut self) -> BTreeSet<String> {
        self.insight.drain(self.now + Duration::from_secs(60), SystemTime::UNIX_EPOCH);
        let state = self.insight.state();
        let name = |pattern: &&weir::insight::patterns::Pattern| {
            format!("{}: {}", pattern.child.1.summary(), pattern.remedy.as_str())
        };
        state.patterns.list().iter().map(name).collect()
    }
}

fn filled(line: &str, turns: &[usize]) -> String {
    let turn = |at: usize| turns.get(at).map_or_else(|| "0".to_owned(), ToString::to_string);
    line.replace("{i}", &turn(0)).replace("{j}", &turn(1))
}

/// Lines up to the `end` of the loop that they are in.
fn body(lines: &[&str]) -> usize {
    let mut depth = 1;
    let end = lines.iter().position(|line| {
        depth += usize::from(line.starts_with("loop "));
        depth -= usize::from(*line == "end");
        depth == 0
    });
    end.expect("each loop has an end")
}

/// What a line of the expectation is about.
fn kind(expected: &str) -> &'static str {
    match expected.rsplit(' ').next().unwrap() {
        "cache" => "duplicate",
        "insert_many" | "update_many" => "batchable-write",
        _ => "n+1",
    }
}

#[test]
fn repetitions_are_told_from_what_looks_like_them() {
    #[expect(clippy::disallowed_methods, reason = "an Instant is had in no other way")]
    let now = Instant::now();
    let (mut right, mut wrong, mut missed) = (Vec::new(), Vec::new(), Vec::new());
    let scopes = include_str!("repeats.txt").split("\n=== ").skip(1);
    for scope in scopes {
        let (title, rest) = scope.split_once('\n').unwrap();
        let (script, expected) = rest.split_once("---\n").unwrap();
        let expected: BTreeSet<String> =
            expected.lines().filter(|line| !line.is_empty() && *line != "none").map(str::to_owned).collect();
        let mut application = Application::new(now);
        application.run(&script.lines().collect::<Vec<_>>(), &[]);
        let found = application.found();
        let told = |one: &String| (kind(one), format!("{title}: {one}"));
        right.extend(found.intersection(&expected).map(told));
        wrong.extend(found.difference(&expected).map(told));
        missed.extend(expected.difference(&found).map(told));
    }
    eprintln!("wrong: {wrong:#?}\nmissed: {missed:#?}");
    for (of, labelled_min) in [("n+1", 20), ("duplicate", 7), ("batchable-write", 10)] {
        let count = |of_kind: &[(&str, String)]| of_kind.iter().filter(|(kind, _)| *kind == of).count();
        let (right, wrong, missed) = (count(&right), count(&wrong), count(&missed));
        let share = |others: usize| {
            f64::from(u32::try_from(right).unwrap()) / f64::from(u32::try_from(right + others).unwrap())
        };
        let (precision, recall) = (share(wrong), share(missed));
        eprintln!("{of}: precision {precision:.2}, recall {recall:.2} of {}", right + missed);
        assert!(right >= labelled_min && precision >= 0.95 && recall >= 0.9, "{of}: see above");
    }
}
