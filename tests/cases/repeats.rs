//! N+1 in labelled scopes: precision and recall.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use weir::config::{InsightSettings, SlowLogSettings};
use weir::insight::watch::Answer;
use weir::insight::{Client, Insight, Watch};
use weir::session::Settings;
use weir::sql::analyze;

/// What a statement takes.
const TAKES: Duration = Duration::from_micros(500);

struct Application {
    insight: Insight,
    clients: Vec<(u32, Watch)>,
    client: u32,
    trace: u32,
    in_block: bool,
    now: Instant,
}

impl Application {
    fn new(now: Instant) -> Self {
        let insight =
            Insight::new(&InsightSettings::default(), &SlowLogSettings::default(), Vec::new(), 1, now);
        Self { insight, clients: Vec::new(), client: 1, trace: 0, in_block: false, now }
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

    /// As the relay tells it, in the simple protocol.
    fn statement(&mut self, rows: u64, text: &str) {
        let mut text = text.to_owned();
        if self.trace > 0 {
            write!(text, "/*traceparent='00-{:032x}-00000000000000aa-01'*/", self.trace).unwrap();
        }
        let analysis = Arc::new(analyze(text.as_bytes(), true));
        let tag = format!("{} {rows}", text.split(' ').next().unwrap());
        let settings = Settings::default();
        let (is_idle, now) = (!self.in_block, self.now);
        let watch = self.watch();
        watch.unit(is_idle);
        watch.read(now);
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

#[test]
fn n_plus_one_is_told_from_what_looks_like_it() {
    #[expect(clippy::disallowed_methods, reason = "an Instant is had in no other way")]
    let now = Instant::now();
    let (mut right, mut wrong, mut missed) = (0_u32, Vec::new(), Vec::new());
    let scopes = include_str!("repeats.txt").split("\n=== ").skip(1);
    for scope in scopes {
        let (title, rest) = scope.split_once('\n').unwrap();
        let (script, expected) = rest.split_once("---\n").unwrap();
        let expected: BTreeSet<String> =
            expected.lines().filter(|line| !line.is_empty() && *line != "none").map(str::to_owned).collect();
        let mut application = Application::new(now);
        application.run(&script.lines().collect::<Vec<_>>(), &[]);
        let found = application.found();
        right += u32::try_from(found.intersection(&expected).count()).unwrap();
        wrong.extend(found.difference(&expected).map(|one| format!("{title}: {one}")));
        missed.extend(expected.difference(&found).map(|one| format!("{title}: {one}")));
    }
    let share = |others: usize| f64::from(right) / f64::from(right + u32::try_from(others).unwrap());
    let (precision, recall) = (share(wrong.len()), share(missed.len()));
    eprintln!(
        "N+1: precision {precision:.2}, recall {recall:.2} of {right}\nwrong: {wrong:#?}\nmissed: {missed:#?}"
    );
    assert!(right >= 20 && precision >= 0.95 && recall >= 0.9, "{precision} {recall} {wrong:#?} {missed:#?}");
}
