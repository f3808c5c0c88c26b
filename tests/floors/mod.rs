//! Floors against a model of a primary's log and of replicas that replay it: whatever happens in whatever order, a
//! replica that is said to satisfy a read shows every commit that any client was told of, or that a change stream has shown;
//! and in the end, all do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use weir::catalog::{RelationId, Touched};
use weir::config::Consistency;
use weir::consistency::{
    Era, Fault, Floors, Pace, Positions, PrimaryPosition, Reading, ReplicaPosition, Resolved, Shown,
    Standing, Ticket, Timeline, WalLayout,
};
use weir::pg::{HostId, Lsn, Oid};

const TABLES: u32 = 4;
const REPLICAS: usize = 3;
const MAX_LAG: Duration = Duration::from_secs(3600);

fn table(number: u32) -> RelationId {
    RelationId(Oid(20_000 + number))
}

fn touched(tables: &[u32], everything: bool, catalogs: bool) -> Touched {
    let mut relations: Vec<_> = tables.iter().map(|number| table(*number)).collect();
    relations.sort_unstable();
    relations.dedup();
    Touched { relations: relations.into(), catalogs, everything }
}

/// A commit in the log.
#[derive(Clone, Debug)]
struct Committed {
    end: u64,
    writes: Touched,
}

/// A host: its log as far as it has it, and what it has replayed.
#[derive(Clone, Debug)]
struct Replica {
    replayed: u64,
    is_streaming: bool,
    /// Answers on their way to us.
    answers: VecDeque<ReplicaPosition>,
}

struct World {
    positions: Arc<Positions>,
    floors: Floors,
    timeline: u32,
    /// Where the last record ends.
    end: u64,
    flushed: u64,
    acknowledged: Vec<Committed>,
    /// What the change stream is yet to show, in order, each with the log that it is of.
    streamed: VecDeque<(Committed, Era)>,
    /// Questions to the primary on their way, with the answer once it is given.
    readings: VecDeque<(Reading, Option<PrimaryPosition>)>,
    replicas: Vec<Replica>,
    now: Instant,
}

#[derive(Clone, Debug)]
enum Step {
    Commit {
        tables: Vec<u32>,
        everything: bool,
        catalogs: bool,
        flushed: bool,
        bytes: u64,
    },
    /// Somebody commits who does not pass here.
    Elsewhere {
        tables: Vec<u32>,
        everything: bool,
        catalogs: bool,
        bytes: u64,
    },
    /// The change stream shows its next commit, once that is flushed.
    Show,
    /// A record of a transaction that has not committed.
    Write(u64),
    Flush,
    Ask,
    /// The primary answers the question at this place.
    Answer(usize),
    /// The answer arrives.
    Receive,
    Replay(usize, u64),
    Sample(usize),
    Deliver(usize),
    /// It starts again from an earlier position.
    Restart(usize, u64),
    /// It becomes the primary; what it lacks is lost.
    Promote(usize),
    Duty,
    Pass(u64),
}

impl World {
    fn new() -> Self {
        let positions = Arc::new(Positions::new(REPLICAS, Pace::default()));
        let layout = WalLayout { segment_bytes: 1 << 20, ..WalLayout::default() };
        positions.set_layout(layout);
        #[expect(clippy::disallowed_methods, reason = "an instant to count from")]
        let now = Instant::now();
        // What was written before is acknowledged as well.
        let before = Committed { end: 20_000, writes: touched(&[0, 1, 2, 3], true, true) };
        Self {
            floors: Floors::new(Arc::clone(&positions)),
            positions,
            timeline: 1,
            end: 20_000,
            flushed: 20_000,
            acknowledged: vec![before],
            streamed: VecDeque::new(),
            readings: VecDeque::new(),
            replicas: vec![
                Replica { replayed: 10_000, is_streaming: true, answers: VecDeque::new() };
                REPLICAS
            ],
            now,
        }
    }

    /// Writes a record: pages begin with headers that records do not count.
    fn write(&mut self, bytes: u64) {
        let mut left = bytes.max(8) & !7;
        let mut at = self.insert();
        loop {
            let room = 8192 - at % 8192;
            if left <= room {
                self.end = at + left;
                return;
            }
            left -= room;
            at += room;
            at += header(at);
        }
    }

    /// Where the next record begins.
    fn insert(&self) -> u64 {
        if self.end.is_multiple_of(8192) { self.end + header(self.end) } else { self.end }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Commit { tables, everything, catalogs, flushed, bytes } => {
                self.write(bytes);
                let writes = touched(&tables, everything, catalogs);
                if flushed {
                    self.flushed = self.end;
                }
                self.floors.commit(&writes, flushed);
                let commit = Committed { end: self.end, writes };
                self.streamed.push_back((commit.clone(), self.positions.era()));
                self.acknowledged.push(commit);
            }
            Step::Elsewhere { tables, everything, catalogs, bytes } => {
                self.write(bytes);
                let commit = Committed { end: self.end, writes: touched(&tables, everything, catalogs) };
                self.streamed.push_back((commit, self.positions.era()));
            }
            Step::Show => {
                let era = self.positions.era();
                let may_be_shown = |(commit, of): &(Committed, Era)| *of != era || commit.end <= self.flushed;
                if self.streamed.front().is_some_and(may_be_shown)
                    && let Some((commit, of)) = self.streamed.pop_front()
                {
                    self.floors.commit_at(&commit.writes, Lsn(commit.end), of, self.now);
                    if of == era {
                        self.acknowledged.push(commit);
                    }
                }
            }
            Step::Write(bytes) => self.write(bytes),
            Step::Flush => self.flushed = self.end,
            Step::Ask => self.readings.push_back((self.positions.begin_reading(), None)),
            Step::Answer(place) => {
                let answer = PrimaryPosition {
                    insert: Lsn(self.insert()),
                    flush: Lsn(self.flushed),
                    timeline: Timeline(self.timeline),
                };
                if let Some((_, given)) = self.readings.get_mut(place) {
                    given.get_or_insert(answer);
                }
            }
            Step::Receive => {
                if self.readings.front().is_some_and(|(_, answer)| answer.is_some())
                    && let Some((reading, Some(answer))) = self.readings.pop_front()
                {
                    let _ = self.positions.resolve(reading, answer, self.now);
                }
            }
            Step::Replay(replica, part) => {
                let (replica, flushed) = (&mut self.replicas[replica], self.flushed);
                replica.replayed += flushed.saturating_sub(replica.replayed) * part / 10;
            }
            Step::Sample(replica) => {
                let timeline = Some(Timeline(self.timeline));
                let replica = &mut self.replicas[replica];
                let (replay, is_streaming) = (Lsn(replica.replayed), replica.is_streaming);
                replica.answers.push_back(ReplicaPosition { replay, timeline, is_streaming });
            }
            Step::Deliver(number) => {
                if let Some(answer) = self.replicas[number].answers.pop_front() {
                    self.positions.report(HostId(number), answer, self.now);
                }
            }
            Step::Restart(number, part) => {
                let replica = &mut self.replicas[number];
                replica.replayed -= replica.replayed * part / 20;
                // The connection that answers would have come on is gone.
                replica.answers.clear();
                self.positions.lost(HostId(number));
            }
            Step::Promote(number) => {
                let end = self.replicas[number].replayed;
                self.acknowledged.retain(|commit| commit.end <= end);
                (self.end, self.flushed) = (end, end);
                self.timeline += 1;
                for replica in &mut self.replicas {
                    replica.replayed = replica.replayed.min(end);
                }
                self.positions.begin_anew();
            }
            Step::Duty => {
                self.positions.duty(self.now);
            }
            Step::Pass(millis) => self.now += Duration::from_millis(millis),
        }
    }

    /// What a replica shows must be all that was acknowledged.
    fn check(&self, reads: &Touched) -> Result<(), TestCaseError> {
        let watched = self.floors.watch(reads);
        let need = self.floors.need(&watched, Consistency::Strong, Ticket(0));
        for (number, replica) in self.replicas.iter().enumerate() {
            if self.positions.standing(HostId(number), need, MAX_LAG) != Standing::Satisfies {
                continue;
            }
            let hidden = self.acknowledged.iter().find(|commit| {
                let wrote = commit.writes != Touched::default();
                // What has written nothing cannot be missed, not even by who reads nobody knows what.
                let concerns = commit.writes.everything
                    || reads.everything && wrote
                    || reads.catalogs && commit.writes.catalogs
                    || commit.writes.relations.iter().any(|relation| reads.relations.contains(relation));
                concerns && commit.end > replica.replayed
            });
            prop_assert!(hidden.is_none(), "replica {number} {replica:?} does not show {hidden:?}");
        }
        Ok(())
    }

    /// Left alone, every replica comes to satisfy everything.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        self.flushed = self.end;
        self.readings.clear();
        for _ in 0..2 {
            self.step(Step::Ask);
            self.step(Step::Answer(0));
            self.step(Step::Receive);
            for number in 0..REPLICAS {
                self.replicas[number].answers.clear();
                self.step(Step::Replay(number, 10));
                self.step(Step::Sample(number));
                self.step(Step::Deliver(number));
            }
        }
        let watched = self.floors.watch(&touched(&[0, 1, 2, 3], true, true));
        let need = self.floors.need(&watched, Consistency::Strong, Ticket(0));
        for number in 0..REPLICAS {
            prop_assert_eq!(self.positions.standing(HostId(number), need, MAX_LAG), Standing::Satisfies);
        }
        prop_assert!(self.floors.pending().is_empty());
        Ok(())
    }
}

fn header(page: u64) -> u64 {
    if page.is_multiple_of(1 << 20) { 40 } else { 24 }
}

fn step() -> impl Strategy<Value = Step> {
    let tables = proptest::collection::vec(0..TABLES, 0..3);
    let elsewhere = proptest::collection::vec(0..TABLES, 0..3);
    let bytes = || prop_oneof![8..400_u64, 8000..9000_u64];
    let replica = || 0..REPLICAS;
    let often = |chance| prop::bool::weighted(chance);
    prop_oneof![
        6 => (tables, often(0.1), often(0.1), often(0.7), bytes()).prop_map(|(tables, everything, catalogs, flushed, bytes)|
            Step::Commit { tables, everything, catalogs, flushed, bytes }),
        2 => bytes().prop_map(Step::Write),
        2 => Just(Step::Flush),
        4 => Just(Step::Ask),
        4 => (0..3_usize).prop_map(Step::Answer),
        4 => Just(Step::Receive),
        3 => (elsewhere, often(0.1), often(0.1), bytes()).prop_map(|(tables, everything, catalogs, bytes)|
            Step::Elsewhere { tables, everything, catalogs, bytes }),
        8 => Just(Step::Show),
        6 => (replica(), 1..=10_u64).prop_map(|(replica, part)| Step::Replay(replica, part)),
        6 => replica().prop_map(Step::Sample),
        6 => replica().prop_map(Step::Deliver),
        1 => (replica(), 0..=20_u64).prop_map(|(replica, part)| Step::Restart(replica, part)),
        1 => replica().prop_map(Step::Promote),
        2 => Just(Step::Duty),
        2 => (0..400_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_replica_satisfies_that_lacks_an_acknowledged_commit(steps in proptest::collection::vec(step(), 1..150)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            for reads in [touched(&[0], false, false), touched(&[1, 2], false, false), touched(&[3], false, true), touched(&[], true, true)] {
                world.check(&reads)?;
            }
        }
        world.settle()?;
    }
}

fn caught_up() -> World {
    let mut world = World::new();
    world.settle().unwrap();
    world
}

fn standing(world: &World, replica: usize, need: Ticket) -> Standing {
    world.positions.standing(HostId(replica), need, Duration::from_secs(10))
}

#[test]
fn a_write_closes_its_tables_and_no_others() {
    let mut world = caught_up();
    world.step(Step::Commit {
        tables: vec![1],
        everything: false,
        catalogs: false,
        flushed: true,
        bytes: 100,
    });
    let need = |world: &World, tables: &[u32]| {
        let watched = world.floors.watch(&touched(tables, false, false));
        world.floors.need(&watched, Consistency::Strong, Ticket(0))
    };
    assert_eq!(standing(&world, 0, need(&world, &[0])), Standing::Satisfies);
    assert_eq!(standing(&world, 0, need(&world, &[1])), Standing::Floor);
    let pending = world.floors.pending();
    assert_eq!((pending.len(), pending[0].relation, pending[0].position), (1, Some(table(1)), None));
    world.step(Step::Ask);
    world.step(Step::Answer(0));
    world.step(Step::Receive);
    assert_eq!(world.floors.pending()[0].position, Some(Lsn(world.end)));
    // One has it, the others do not.
    for step in [Step::Replay(2, 10), Step::Sample(2), Step::Deliver(2)] {
        world.step(step);
    }
    assert_eq!(standing(&world, 2, need(&world, &[0, 1])), Standing::Satisfies);
    assert_eq!(standing(&world, 1, need(&world, &[0, 1])), Standing::Floor);
}

#[test]
fn modes_ask_for_less() {
    let mut world = caught_up();
    let commit = |world: &World, number| world.floors.commit(&touched(&[number], false, false), true).ticket;
    let own = commit(&world, 0);
    commit(&world, 1);
    world.end += 100;
    let need = |mode, number| {
        let watched = world.floors.watch(&touched(&[number], false, false));
        standing(&world, 0, world.floors.need(&watched, mode, own))
    };
    assert_eq!(need(Consistency::Strong, 0), Standing::Floor);
    assert_eq!(need(Consistency::Strong, 1), Standing::Floor);
    assert_eq!(need(Consistency::Strong, 2), Standing::Satisfies);
    assert_eq!(need(Consistency::Session, 0), Standing::Floor);
    assert_eq!(need(Consistency::Session, 2), Standing::Satisfies);
    assert_eq!(need(Consistency::Bounded, 1), Standing::Satisfies);
    // Who has committed nothing needs nothing of others.
    let watched = world.floors.watch(&touched(&[1], false, false));
    let stranger = world.floors.need(&watched, Consistency::Session, Ticket(0));
    assert_eq!(standing(&world, 0, stranger), Standing::Satisfies);
    world.step(Step::Pass(1));
}

#[test]
fn silence_and_lag_are_noticed() {
    let mut world = caught_up();
    assert_eq!(standing(&world, 0, Ticket(0)), Standing::Satisfies);
    world.step(Step::Pass(900));
    world.step(Step::Duty);
    assert_eq!(standing(&world, 0, Ticket(0)), Standing::Unknown);
    // It is back, and replays nothing while the primary goes on.
    let answer_all = |world: &mut World| {
        for step in [Step::Ask, Step::Answer(0), Step::Receive, Step::Sample(0), Step::Deliver(0)] {
            world.step(step);
        }
    };
    answer_all(&mut world);
    assert_eq!(world.positions.lag(HostId(0)), Some(Duration::ZERO));
    for _ in 0..30 {
        world.step(Step::Commit {
            tables: vec![],
            everything: false,
            catalogs: false,
            flushed: true,
            bytes: 100,
        });
        answer_all(&mut world);
        world.step(Step::Pass(500));
    }
    answer_all(&mut world);
    let lag = world.positions.lag(HostId(0)).unwrap();
    assert!((Duration::from_secs(14)..=Duration::from_secs(15)).contains(&lag), "{lag:?}");
    assert_eq!(standing(&world, 0, Ticket(0)), Standing::Lag);
    world.step(Step::Replay(0, 10));
    answer_all(&mut world);
    assert_eq!(standing(&world, 0, Ticket(0)), Standing::Satisfies);
    // However long nothing is written, who has it all is not behind.
    for _ in 0..100 {
        world.step(Step::Pass(500));
        answer_all(&mut world);
    }
    assert_eq!(world.positions.lag(HostId(0)), Some(Duration::ZERO));
}

#[test]
fn questions_are_asked_when_they_are_needed() {
    let mut world = caught_up();
    let pace = Pace::default();
    let duty = |world: &World| world.positions.duty(world.now);
    let replica_in = |world: &World| world.positions.replica_in(HostId(0), world.now);
    assert_eq!((duty(&world).primary_in, replica_in(&world)), (pace.slow, pace.slow));
    let writes = touched(&[0], false, false);
    assert!(world.floors.commit(&writes, true).wake);
    assert!(!world.floors.commit(&writes, true).wake, "it has been woken");
    assert_eq!(duty(&world).primary_in, pace.fast, "it was asked just now");
    world.step(Step::Pass(1));
    assert_eq!(duty(&world).primary_in, Duration::ZERO);
    world.write(100);
    world.step(Step::Flush);
    for step in [Step::Ask, Step::Answer(0)] {
        world.step(step);
    }
    assert!(world.floors.commit(&writes, true).wake, "behind the question");
    world.step(Step::Receive);
    assert_eq!((duty(&world).primary_in, replica_in(&world)), (pace.fast, pace.fast));
    // The longer it takes, the less often.
    world.step(Step::Pass(80));
    assert_eq!((duty(&world).primary_in, replica_in(&world)), (Duration::ZERO, 10 * pace.fast));
    world.step(Step::Pass(8000));
    assert_eq!(replica_in(&world), pace.slow);
    world.settle().unwrap();
    assert_eq!((duty(&world).primary_in, replica_in(&world)), (pace.slow, pace.slow));
}

#[test]
fn a_replica_that_is_cut_off_serves_nothing() {
    let mut world = caught_up();
    let answer = |world: &mut World| {
        for step in [Step::Sample(0), Step::Deliver(0)] {
            world.step(step);
        }
        (standing(world, 0, Ticket(0)), world.positions.fault(HostId(0)) == Some(Fault::CutOff))
    };
    world.replicas[0].is_streaming = false;
    assert_eq!(answer(&mut world), (Standing::Unknown, true));
    assert_eq!(standing(&world, 1, Ticket(0)), Standing::Satisfies);
    // While the primary is down there is nothing to be missed.
    world.step(Step::Pass(1000));
    assert_eq!(answer(&mut world), (Standing::Satisfies, false));
    for step in [Step::Ask, Step::Answer(0), Step::Receive] {
        world.step(step);
    }
    assert_eq!(answer(&mut world), (Standing::Unknown, true));
    world.positions.primary_lost();
    assert_eq!(answer(&mut world), (Standing::Satisfies, false));
    world.replicas[0].is_streaming = true;
    assert_eq!(answer(&mut world), (Standing::Satisfies, false));

    // One that reads an archive has no receiver, and is no worse for it.
    let mut world = World::new();
    world.replicas[0].is_streaming = false;
    world.settle().unwrap();
    assert_eq!(answer(&mut world), (Standing::Satisfies, false));
}

#[test]
fn a_log_that_went_back_is_another_log() {
    let mut world = caught_up();
    let end = world.end;
    world.write(3000);
    for step in [Step::Ask, Step::Answer(0), Step::Receive] {
        world.step(step);
    }
    // A crash lost what was not flushed, and what comes instead looks as if it were there already.
    world.end = end;
    let writes = touched(&[0], false, false);
    world.floors.commit(&writes, true);
    for step in [Step::Ask, Step::Answer(0)] {
        world.step(step);
    }
    let (reading, position) = world.readings.pop_front().unwrap();
    assert_eq!(world.positions.resolve(reading, position.unwrap(), world.now), Resolved::Anew);
    assert_eq!(standing(&world, 0, Ticket(0)), Standing::Unknown);
    world.settle().unwrap();
}

#[test]
fn old_marks_are_thinned_and_promise_less() {
    let mut world = caught_up();
    for number in 0..20_000_u32 {
        world.step(Step::Commit {
            tables: vec![number % TABLES],
            everything: false,
            catalogs: false,
            flushed: true,
            bytes: 8,
        });
        for step in [Step::Ask, Step::Answer(0), Step::Receive] {
            world.step(step);
        }
    }
    assert!(world.positions.marks() <= 4096);
    for part in [1, 1, 5, 5, 9] {
        for step in [Step::Replay(1, part), Step::Sample(1), Step::Deliver(1)] {
            world.step(step);
        }
        for number in 0..TABLES {
            world.check(&touched(&[number], false, false)).unwrap();
        }
    }
    world.settle().unwrap();
}

/// One that passed here is not raised again when the stream shows it, whether its position was known or not; another is.
#[test]
fn what_passed_here_is_not_raised_again_by_the_stream() {
    let mut world = caught_up();
    let writes = touched(&[1], false, false);
    let era = world.positions.era();
    let commit =
        Step::Commit { tables: vec![1], everything: false, catalogs: false, flushed: true, bytes: 100 };
    world.step(commit.clone());
    assert_eq!(
        world.floors.commit_at(&writes, Lsn(world.end), era, world.now),
        None,
        "it waits for its position"
    );
    world.settle().unwrap();
    world.step(commit);
    world.settle().unwrap();
    assert_eq!(world.floors.commit_at(&writes, Lsn(world.end), era, world.now), None, "it has its position");

    world.write(100);
    world.flushed = world.end;
    let raised = world.floors.commit_at(&writes, Lsn(world.end), era, world.now);
    assert_eq!(raised, Some(Shown::Known));
    let watched = world.floors.watch(&writes);
    let need = world.floors.need(&watched, Consistency::Strong, Ticket(0));
    assert_eq!(standing(&world, 0, need), Standing::Floor);
    world.step(Step::Replay(0, 10));
    world.step(Step::Sample(0));
    world.step(Step::Deliver(0));
    assert_eq!(standing(&world, 0, need), Standing::Satisfies, "nobody had to ask the primary");
    assert_eq!(standing(&world, 1, need), Standing::Floor);

    // In front of it, some commit waits for its position: it is asked for both.
    world.step(Step::Commit {
        tables: vec![2],
        everything: false,
        catalogs: false,
        flushed: true,
        bytes: 100,
    });
    world.write(100);
    world.flushed = world.end;
    let raised = world.floors.commit_at(&writes, Lsn(world.end), era, world.now);
    assert!(matches!(raised, Some(Shown::Waiting(_))), "{raised:?}");
    world.settle().unwrap();
}
