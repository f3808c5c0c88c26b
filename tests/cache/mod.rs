//! Fills, writes and joins in every order: a deterministic scheduler over the pure parts of the cache.
//!
//! A world of one row, whose value is the number of commits, a primary, a replica, writers and readers. Each actor is a
//! list of steps; every interleaving of them is run. What is read from memory must be what the primary would give at that
//! very moment; what is read anywhere must have every commit that was acknowledged before the reader asked. Then the
//! order of the steps is spoilt, one by one, and each time some interleaving must show it. The same with a store behind memory
//! that other Weirs share: one result, and the token that it was read with.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "an instant to count from; how much was tried"
)]

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use ahash::RandomState;
use weir::cache::{
    Boarded, Doubt, Epochs, Fetched, Flight, Found, KeyView, Landing, Outcome, Recorded, Request, Scope,
    Shape, Shapes, Store, Watch,
};
use weir::catalog::{RelationId, Touched};
use weir::pg::Oid;
use weir::sql::Fingerprint;

/// What is done wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoilt {
    Nothing,
    /// No doubt while a commit is under way.
    NoDoubt,
    /// A commit does not invalidate.
    NoInvalidation,
    /// A commit is acknowledged, then invalidates.
    LateInvalidation,
    /// A commit raises the floor behind all else.
    LateFloor,
    /// A fill takes its epochs when it has read.
    LateStamp,
    /// No doubt while the shared store is told.
    NoDoubtOfTelling,
    /// What is found in the shared store is kept, whatever was written meanwhile.
    CrossedTakeOver,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    // Of a writer.
    Doubt,
    Commit,
    Floor,
    Invalidate,
    Acknowledge,
    End,
    /// Both in one.
    AcknowledgeAndEnd,
    // Of a reader.
    Ask,
    /// Both in one.
    AskAndRoute,
    // Where results are shared: a writer tells the store, a reader asks it and hears its answer.
    Tell,
    Told,
    LookUp,
    Hear,
    Route,
    Read,
    Land,
    // Of the replica.
    Replay,
}

use Step::{Acknowledge, Ask, Commit, End, Floor, Invalidate, Land, Read, Replay, Route};

/// One who takes steps.
#[derive(Default)]
struct Actor {
    steps: Vec<Step>,
    next: usize,
    doubt: Option<Doubt>,
    telling: Option<Doubt>,
    /// What the shared store had: a result, if it was good, and the token.
    found: Option<(Option<u64>, u64)>,
    flight: Option<Flight>,
    /// Another's flight is waited for.
    landing: Option<Landing>,
    has_waited: bool,
    from_replica: bool,
    acknowledged_before: u64,
    value: u64,
}

struct World {
    spoilt: Spoilt,
    store: Arc<Store>,
    epochs: Epochs,
    scope: Arc<Scope>,
    hasher: RandomState,
    shape: Arc<Shape>,
    now: Instant,
    primary: u64,
    replica: u64,
    floor: u64,
    acknowledged: u64,
    /// The shared store: the present token; a result with its own.
    token: u64,
    shared: Option<(u64, u64)>,
    taken_over: u64,
    hits: u64,
    kept: u64,
    joined: u64,
    wrong: Option<String>,
}

impl World {
    fn new(spoilt: Spoilt) -> Self {
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        Self {
            spoilt,
            store: Arc::new(Store::new(1 << 16, 1 << 12, Arc::default())),
            epochs: Epochs::default(),
            scope: Arc::new(Scope::new(&hasher, "app", "app", true, [])),
            hasher,
            shape: Shapes::default().shape(Fingerprint(1), String::new),
            now: Instant::now(),
            primary: 0,
            replica: 0,
            floor: 0,
            acknowledged: 0,
            token: 0,
            // Another Weir has put it there.
            shared: Some((0, 0)),
            taken_over: 0,
            hits: 0,
            kept: 0,
            joined: 0,
            wrong: None,
        }
    }

    fn touched() -> Touched {
        Touched { relations: [RelationId(Oid(1))].into(), ..Touched::default() }
    }

    fn with_key<T>(&self, act: impl FnOnce(&KeyView<'_>, &Arc<Watch>) -> T) -> T {
        let request = Request { text: b"select v", types: b"", parameters: b"", formats: b"" };
        let key = KeyView::new(&self.hasher, &self.scope, request).unwrap();
        act(&key, &Arc::new(self.epochs.watch(&Self::touched())))
    }

    fn board(&self) -> Boarded {
        self.with_key(|key, watch| self.store.board(key, watch, 0, &self.shape, self.now))
    }

    fn check(&mut self, is_right: bool, what: impl FnOnce() -> String) {
        if !is_right && self.wrong.is_none() {
            self.wrong = Some(what());
        }
    }

    /// Takes the actor's next step; false if it has to wait.
    fn take(&mut self, actor: &mut Actor) -> bool {
        if let Some(landing) = &actor.landing {
            if landing.poll(&Context::from_waker(Waker::noop())).is_pending() {
                return false;
            }
            actor.landing = None;
        }
        let step = actor.steps[actor.next];
        actor.next += 1;
        match step {
            Step::Doubt => actor.doubt = Some(self.epochs.doubt(&Self::touched())),
            Commit => self.primary += 1,
            Floor => self.floor = self.primary,
            Invalidate => self.epochs.invalidate(&Self::touched()),
            Acknowledge => self.acknowledged = self.primary,
            End => Self::end(actor),
            Step::AcknowledgeAndEnd => {
                self.acknowledged = self.primary;
                Self::end(actor);
            }
            Step::AskAndRoute => {
                let at = actor.next;
                self.ask(actor);
                if actor.next == at {
                    actor.from_replica = self.replica >= self.floor;
                }
            }
            Step::Tell => {
                if self.spoilt != Spoilt::NoDoubtOfTelling {
                    actor.telling = Some(self.epochs.doubt(&Self::touched()));
                }
                self.epochs.invalidate(&Self::touched());
            }
            Step::Told => {
                self.token += 1;
                if let Some(telling) = actor.telling.take() {
                    telling.end();
                }
            }
            Step::LookUp => {
                let good = self.shared.filter(|(token, _)| *token == self.token);
                actor.found = Some((good.map(|(_, value)| value), self.token));
            }
            Step::Hear => self.hear(actor),
            Replay => self.replica = self.primary,
            Ask => self.ask(actor),
            Route => actor.from_replica = self.replica >= self.floor,
            Read => {
                actor.value = if actor.from_replica { self.replica } else { self.primary };
                let (value, before) = (actor.value, actor.acknowledged_before);
                self.check(value >= before, || format!("read {value}, acknowledged {before}"));
                if self.spoilt == Spoilt::LateStamp
                    && let Boarded::Pilot(flight) = self.board()
                {
                    actor.flight = Some(flight);
                }
            }
            Land => {
                if let Some(flight) = actor.flight.take() {
                    let recorded = Recorded { description: None, rows: actor.value.to_be_bytes().into() };
                    let outcome = flight.land(recorded, Duration::from_secs(60), self.now);
                    self.kept += u64::from(outcome == Outcome::Kept);
                    if let (Outcome::Kept, Some((_, token))) = (outcome, actor.found.take()) {
                        self.shared = Some((token, actor.value));
                    }
                }
            }
        }
        true
    }

    fn end(actor: &mut Actor) {
        if let Some(doubt) = actor.doubt.take() {
            doubt.end();
        }
    }

    /// The shared store has answered: what it had is taken over, and memory is asked again.
    fn hear(&mut self, actor: &mut Actor) {
        if let Some((Some(value), _)) = actor.found {
            let flight = match (self.spoilt, self.board()) {
                (Spoilt::CrossedTakeOver, Boarded::Pilot(flight)) => Some(flight),
                _ => actor.flight.take(),
            };
            if let Some(flight) = flight {
                let recorded = Recorded { description: None, rows: value.to_be_bytes().into() };
                let fetched = Fetched { recorded, took: Duration::ZERO, age: Duration::ZERO };
                let outcome = flight.take_over(fetched, Duration::from_secs(60), self.now);
                self.taken_over += u64::from(outcome == Outcome::Kept);
            }
        }
        if !actor.flight.as_ref().is_some_and(Flight::is_current) {
            actor.flight = None;
            // One who waits for others is tried elsewhere.
            actor.has_waited = true;
            self.ask(actor);
        }
    }

    /// A reader asks: memory first, then whether it is to fetch, then it goes on to a server.
    fn ask(&mut self, actor: &mut Actor) {
        actor.acknowledged_before = self.acknowledged;
        let found = self.with_key(|key, watch| self.store.find(key, watch, 0, false, self.now));
        if let Found::Hit(entry) = found {
            let value = u64::from_be_bytes((*entry.recorded.rows).try_into().unwrap());
            let (primary, acknowledged) = (self.primary, self.acknowledged);
            self.hits += 1;
            self.check(value == primary && value >= acknowledged, || {
                format!("a hit of {value} while the primary has {primary}, acknowledged {acknowledged}")
            });
            // On to the next request.
            while actor.steps[actor.next - 1] != Land {
                actor.next += 1;
            }
            return;
        }
        if self.spoilt == Spoilt::LateStamp {
            return;
        }
        match self.board() {
            Boarded::Pilot(flight) => actor.flight = Some(flight),
            Boarded::Passenger(landing) if !actor.has_waited => {
                self.joined += 1;
                actor.has_waited = true;
                actor.landing = Some(landing);
                actor.next -= 1;
            }
            Boarded::Passenger(_) | Boarded::InDoubt => {}
        }
    }
}

/// The steps of a writer whose commit comes off, or not.
fn writer(spoilt: Spoilt, commits: bool) -> Vec<Step> {
    let steps = match spoilt {
        Spoilt::Nothing | Spoilt::LateStamp | Spoilt::NoDoubtOfTelling | Spoilt::CrossedTakeOver => {
            vec![Step::Doubt, Commit, Floor, Invalidate, Acknowledge, End]
        }
        Spoilt::NoDoubt => vec![Commit, Floor, Invalidate, Acknowledge],
        Spoilt::NoInvalidation => vec![Step::Doubt, Commit, Floor, Acknowledge, End],
        Spoilt::LateInvalidation => vec![Step::Doubt, Commit, Floor, End, Acknowledge, Invalidate],
        Spoilt::LateFloor => vec![Step::Doubt, Commit, Invalidate, End, Floor, Acknowledge],
    };
    if commits { steps } else { vec![Step::Doubt, End] }
}

fn reader(times: usize) -> Vec<Step> {
    [Ask, Route, Read, Land].repeat(times)
}

/// With fewer steps, so that more of them can be had.
fn short_reader(times: usize) -> Vec<Step> {
    [Step::AskAndRoute, Read, Land].repeat(times)
}

fn short_writer() -> Vec<Step> {
    vec![Step::Doubt, Commit, Floor, Invalidate, Step::AcknowledgeAndEnd]
}

/// Through the shared store. One who has a flight aboard keeps it.
fn sharing_reader(times: usize) -> Vec<Step> {
    [Ask, Step::LookUp, Step::Hear, Route, Read, Land].repeat(times)
}

fn sharing_writer() -> Vec<Step> {
    vec![Step::Doubt, Commit, Floor, Step::Tell, End, Step::Told, Acknowledge]
}

/// What came of all interleavings.
#[derive(Default)]
struct Tally {
    runs: u64,
    hits: u64,
    kept: u64,
    joined: u64,
    taken_over: u64,
    wrong: Option<(Vec<usize>, String)>,
}

/// Runs every interleaving: the first choices are given, and behind them always the first actor that can go; then the last
/// choice that has an alternative is changed.
fn explore(spoilt: Spoilt, lists: &[Vec<Step>]) -> Tally {
    let mut tally = Tally::default();
    let mut given: Vec<usize> = Vec::new();
    loop {
        let mut world = World::new(spoilt);
        let mut actors: Vec<Actor> =
            lists.iter().map(|steps| Actor { steps: steps.clone(), ..Actor::default() }).collect();
        // Who was chosen, at each point.
        let mut chosen: Vec<usize> = Vec::new();
        while actors.iter().any(|actor| actor.next < actor.steps.len()) {
            let mut candidate = given.get(chosen.len()).copied().unwrap_or(0);
            while candidate < actors.len() {
                let can_go = actors[candidate].next < actors[candidate].steps.len();
                if can_go && world.take(&mut actors[candidate]) {
                    break;
                }
                candidate += 1;
            }
            if candidate == actors.len() {
                // No such alternative, or everybody who is left waits for one who has no steps left: none must.
                break;
            }
            chosen.push(candidate);
        }
        let is_complete = actors.iter().all(|actor| actor.next >= actor.steps.len());
        if is_complete {
            tally.runs += 1;
            tally.hits += world.hits;
            tally.kept += world.kept;
            tally.joined += world.joined;
            tally.taken_over += world.taken_over;
            if let Some(wrong) = world.wrong.take() {
                tally.wrong.get_or_insert((chosen.clone(), wrong));
                if spoilt != Spoilt::Nothing {
                    return tally;
                }
            }
            given = chosen;
        } else if chosen.len() >= given.len() {
            panic!("everybody waits: {chosen:?}");
        } else {
            given.truncate(chosen.len() + 1);
        }
        // The next in the order: the last choice that can be raised is.
        loop {
            match given.pop() {
                None => return tally,
                Some(last) if last + 1 < lists.len() => {
                    given.push(last + 1);
                    break;
                }
                Some(_) => {}
            }
        }
    }
}

#[test]
fn no_interleaving_shows_an_old_row() {
    let right = |lists: &[Vec<Step>]| {
        let tally = explore(Spoilt::Nothing, lists);
        println!(
            "{} interleavings, {} hits, {} kept, {} joined",
            tally.runs, tally.hits, tally.kept, tally.joined
        );
        assert_eq!(tally.wrong, None);
        assert!(tally.runs > 100 && tally.kept > 100);
        tally
    };
    // Readers that meet, a commit, and a replica that follows at some time.
    let tally = right(&[short_writer(), short_reader(1), short_reader(1), vec![Replay]]);
    assert!(tally.hits > 100 && tally.joined > 1000);
    // Commits that overlap.
    right(&[short_writer(), short_writer(), short_reader(1)]);
    // One who asks again and again, each step by itself.
    let tally = right(&[writer(Spoilt::Nothing, true), reader(2), vec![Replay]]);
    assert!(tally.hits > 20);
    // A commit that fails leaves memory as it was.
    let tally = right(&[writer(Spoilt::Nothing, false), short_reader(1), short_reader(2)]);
    assert!(tally.hits > 100);
}

#[test]
fn whatever_is_done_wrong_is_found() {
    for spoilt in [
        Spoilt::NoDoubt,
        Spoilt::NoInvalidation,
        Spoilt::LateInvalidation,
        Spoilt::LateFloor,
        Spoilt::LateStamp,
    ] {
        let lists = [writer(spoilt, true), reader(2), vec![Replay]];
        let tally = explore(spoilt, &lists);
        assert!(tally.wrong.is_some(), "{spoilt:?}: {} interleavings show nothing", tally.runs);
    }
}

/// What is taken over from the shared store is asked for again, and must not be old then.
#[test]
fn no_interleaving_shows_an_old_row_of_the_shared_store() {
    let reader = || sharing_reader(2);
    let tally = explore(Spoilt::Nothing, &[sharing_writer(), reader()]);
    println!("{} interleavings, {} taken over, {} hits", tally.runs, tally.taken_over, tally.hits);
    assert_eq!(tally.wrong, None);
    assert!(tally.runs > 10_000 && tally.taken_over > 100);
    for spoilt in [Spoilt::NoDoubtOfTelling, Spoilt::CrossedTakeOver] {
        let tally = explore(spoilt, &[sharing_writer(), reader()]);
        assert!(tally.wrong.is_some(), "{spoilt:?}: {} interleavings show nothing", tally.runs);
    }
}
