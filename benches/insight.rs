//! What a statement's record costs: on its client's path (noted, answered, pushed), and off it (taken in). Plain loops, best
//! of many rounds: run it on a quiet machine.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock and prints"
)]

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use weir::config::{InsightSettings, SlowLogSettings};
use weir::insight::watch::Answer;
use weir::insight::{Client, Insight};
use weir::session::Settings;
use weir::sql::analyze;

/// Statements of one round; fewer than a queue takes.
const STATEMENTS: u32 = 10_000;

fn main() {
    let now = Instant::now();
    let insight = Insight::new(&InsightSettings::default(), &SlowLogSettings::default(), Vec::new(), 1, now);
    let mut watch = insight.watch(Client { process: 1, ..Client::default() }, 0, now);
    let texts: Vec<String> =
        (0..100).map(|id| format!("SELECT abalance FROM pgbench_accounts WHERE aid = {id};")).collect();
    let analyses: Vec<_> = texts.iter().map(|text| Arc::new(analyze(text.as_bytes(), true))).collect();
    let settings = Settings::default();
    let (mut path, mut drained) = (Duration::MAX, Duration::MAX);
    for _ in 0..300 {
        let began = Instant::now();
        for at in 0..STATEMENTS as usize {
            let at = at % texts.len();
            watch.unit(true);
            watch.read(now);
            watch.query(texts[at].as_bytes(), Arc::clone(&analyses[at]), true.into());
            // The clock that the relay reads.
            watch.filled(Instant::now());
            watch.answered(Answer::Complete(b"SELECT 1"), 60, &settings);
            watch.answered(Answer::Ready, 66, &settings);
        }
        path = path.min(began.elapsed() / STATEMENTS);
        let began = Instant::now();
        insight.drain(now, SystemTime::UNIX_EPOCH);
        drained = drained.min(began.elapsed() / STATEMENTS);
    }
    println!("on the path  {:>6.3} us", path.as_secs_f64() * 1e6);
    println!("off the path {:>6.3} us", drained.as_secs_f64() * 1e6);
}
