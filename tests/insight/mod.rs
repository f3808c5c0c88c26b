//! Statistics under a flood.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use weir::config::{InsightSettings, SlowLogSettings};
use weir::insight::queue::RECORDS_MAX;
use weir::insight::record::{Cached, Served};
use weir::insight::watch::Answer;
use weir::insight::{Client, Insight};
use weir::session::Settings;
use weir::sql::analyze;

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn a_million_shapes_leave_memory_flat() {
    #[expect(clippy::disallowed_methods, reason = "an Instant is had in no other way")]
    let now = Instant::now();
    let settings = InsightSettings::default();
    let insight = Insight::new(&settings, &SlowLogSettings::default(), Vec::new(), 1, now);
    let mut watch = insight.watch(Client { process: 1, ..Client::default() }, 0, now);
    let mut run = |text: &str| {
        let analysis = Arc::new(analyze(text.as_bytes(), true));
        watch.unit(true);
        watch.read(now);
        watch.query(text.as_bytes(), Arc::clone(&analysis), true.into());
        watch.filled(now + Duration::from_millis(3));
        watch.answered(Answer::Complete(b"SELECT 1"), 10, &Settings::default());
        watch.answered(Answer::Ready, 16, &Settings::default());
    };
    let drain = || insight.drain(now + Duration::from_millis(3), SystemTime::UNIX_EPOCH);
    for _ in 0..10 {
        run("SELECT heavy FROM t");
    }
    let mut after_a_tenth = 0;
    for number in 0..1_000_000 {
        run(&format!("SELECT c{number} FROM t WHERE id = {number}"));
        if number % 1000 == 0 {
            assert!(drain().is_empty(), "no log was asked for");
        }
        if number == 100_000 {
            after_a_tenth = resident();
        }
    }
    drain();
    let grown = resident().saturating_sub(after_a_tenth);
    assert!(grown < 8 << 20, "grown by {grown} bytes");
    let state = insight.state();
    assert_eq!(state.counts.statements, 1_000_010);
    assert!(state.statistics.len() <= settings.shapes_max);
    let others = state.statistics.other.as_ref().unwrap().calls;
    let known: u64 = state.statistics.iter().map(|(_, shape)| shape.calls).sum();
    assert_eq!(known + others, 1_000_010, "nothing is lost");
    let heavy = state.statistics.iter().find(|(_, shape)| &*shape.text == "select heavy from t");
    assert_eq!(heavy.map(|(_, shape)| shape.calls), Some(10), "what repeats stays");
}

#[test]
fn a_queue_without_room_drops_and_counts() {
    #[expect(clippy::disallowed_methods, reason = "an Instant is had in no other way")]
    let now = Instant::now();
    let insight = Insight::new(&InsightSettings::default(), &SlowLogSettings::default(), Vec::new(), 1, now);
    let mut watch = insight.watch(Client { process: 1, ..Client::default() }, 0, now);
    let analysis = Arc::new(analyze(b"SELECT 1", true));
    for _ in 0..RECORDS_MAX + 7 {
        watch.query(b"SELECT 1", Arc::clone(&analysis), true.into());
        watch.answered(Answer::Ready, 6, &Settings::default());
    }
    insight.drain(now, SystemTime::UNIX_EPOCH);
    let counts = insight.state().counts;
    assert_eq!((counts.statements, counts.records_dropped), (RECORDS_MAX as u64, 7));
}

/// When many wait for a connection all are late, and none is worth an EXPLAIN for that.
#[test]
fn who_waits_for_a_connection_brings_no_text() {
    #[expect(clippy::disallowed_methods, reason = "an Instant is had in no other way")]
    let now = Instant::now();
    let after = |ms: u64| now + Duration::from_millis(ms);
    for (asked, begun, answered, executions) in [(0, 50, 51, 0), (0, 1, 4, 1), (0, 0, 2, 1), (0, 250, 251, 0)]
    {
        let insight =
            Insight::new(&InsightSettings::default(), &SlowLogSettings::default(), Vec::new(), 1, now);
        let mut watch = insight.watch(Client { process: 1, ..Client::default() }, 0, now);
        let analysis = Arc::new(analyze(b"SELECT 1", true));
        // The first time it tells of its shape in any case.
        for _ in 0..2 {
            watch.unit(true);
            watch.read(after(asked));
            watch.query(b"SELECT 1", Arc::clone(&analysis), true.into());
            watch.begins(Served::Primary(None), Cached::Bypass, after(asked), after(begun));
            watch.query(b"SELECT 1", Arc::clone(&analysis), true.into());
            watch.filled(after(answered));
            watch.answered(Answer::Ready, 6, &Settings::default());
            insight.drain(after(answered), SystemTime::UNIX_EPOCH);
        }
        let state = insight.state();
        let (key, shape) = state.statistics.iter().next().unwrap();
        assert_eq!(shape.total.max(), Duration::from_millis(answered - asked), "{begun}");
        assert_eq!(state.samples.of(key, after(answered)).len().min(1), executions, "{begun} to {answered}");
    }
}
