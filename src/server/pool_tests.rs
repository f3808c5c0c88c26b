//! The pool's promises, with nobody but the test at the other end of its connections.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tokio::net::UnixStream;

use super::connect::{Connector, Credentials};
use super::lease::Lease;
use super::opening::Connecting;
use super::pool::{Pool, PoolKey};
use super::queue::{Acquire, AcquireError};
use super::{CancelTarget, Server};
use crate::config::{self, HostAddress, PoolSettings};
use crate::net::{Connection, Stream};
use crate::pg::{GucName, ProcessId};
use crate::session::{Placeholders, Reported, ServerState, Settings};

/// Custom settings that clients and connections of these tests may have had.
const CUSTOM: [&str; 2] = ["my.first", "my.second"];

/// What is done to a pool; numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    /// A client with these custom settings asks.
    Ask([bool; 2]),
    /// It takes one only if it need not wait.
    Try([bool; 2]),
    /// A client gives up.
    Leave(usize),
    GiveBack(usize),
    Lose(usize),
    /// A connection is open that was being opened.
    Opened,
    /// It could not be opened.
    Failed,
    Tend,
    Pause,
    Resume,
    Reconnect,
    Warm([bool; 2]),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<[bool; 2]>().prop_map(Step::Ask),
        2 => any::<[bool; 2]>().prop_map(Step::Try),
        1 => any::<usize>().prop_map(Step::Leave),
        6 => any::<usize>().prop_map(Step::GiveBack),
        1 => any::<usize>().prop_map(Step::Lose),
        4 => Just(Step::Opened),
        1 => Just(Step::Failed),
        1 => Just(Step::Tend),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => Just(Step::Reconnect),
        1 => any::<[bool; 2]>().prop_map(Step::Warm),
    ]
}

type Waiting = Pin<Box<dyn Future<Output = Result<Lease, AcquireError>>>>;

fn placeholders(custom: [bool; 2]) -> Placeholders {
    let mut placeholders = Placeholders::default();
    let names = CUSTOM.into_iter().zip(custom).filter(|(_, has)| *has);
    names.for_each(|(name, _)| placeholders.note(&GucName::new(name)));
    placeholders
}

fn want<'a>(settings: &'a Settings, placeholders: &'a Placeholders) -> Acquire<'a> {
    Acquire { worker: 0, settings, placeholders, process: ProcessId(1), last_server: 0 }
}

/// A pool whose connections lead to the test, and its clients. Nothing in the background ever has its turn.
struct World {
    pool: Arc<Pool>,
    connector: Arc<Connector>,
    /// In the order in which they came, with what they want.
    waiting: Vec<(Placeholders, Waiting)>,
    held: Vec<(Placeholders, Lease)>,
    /// The other ends of sockets.
    ends: Vec<UnixStream>,
}

impl World {
    fn new(max: usize) -> Self {
        let settings = config::Settings::from_url("postgres://app@localhost/app").unwrap();
        let address = HostAddress::Unix("/nowhere".into());
        let connector = Connector::new("primary".to_owned(), address, &settings.servers, 10).unwrap();
        let connector = Arc::new(connector);
        let key = PoolKey { host: "primary".to_owned(), database: "app".to_owned(), user: "app".to_owned() };
        let limits = PoolSettings { max, min: 0, reserve: 0, ..settings.databases["*"].pool };
        let open = Arc::default();
        let pool = Pool::new(key, limits, Arc::clone(&connector), Credentials::None, open, None);
        let pool = Arc::new(pool);
        Self { pool, connector, waiting: Vec::new(), held: Vec::new(), ends: Vec::new() }
    }

    /// A connection that has had no custom setting.
    fn fresh(&mut self) -> Server {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.ends.push(theirs);
        let process = ProcessId(u32::try_from(self.ends.len()).unwrap());
        let target = CancelTarget::new(Arc::clone(&self.connector), process, Box::default(), false);
        let state = ServerState::new(process, Box::default(), Reported::default(), 10);
        Server::new(Connection::new(Stream::Unix(ours)), state, target, 0)
    }

    fn opened(&mut self) {
        let mut server = self.fresh();
        Connecting { pool: &self.pool, own: false, done: false }.became(&mut server);
        self.pool.lease(Box::new(server)).give_back();
        self.pool.open_more(0);
    }

    fn ask(&mut self, custom: [bool; 2]) {
        let (pool, wanted) = (Arc::clone(&self.pool), placeholders(custom));
        let mine = wanted.clone();
        let waiting = Box::pin(async move {
            let settings = Settings::default();
            pool.acquire(want(&settings, &mine), Instant::now()).await
        });
        self.waiting.push((wanted, waiting));
        self.serve();
    }

    /// Looks who has got a connection; gives them by their place in the queue.
    fn serve(&mut self) -> Vec<usize> {
        let mut context = Context::from_waker(Waker::noop());
        let mut served = Vec::new();
        for (place, (wanted, mut waiting)) in std::mem::take(&mut self.waiting).into_iter().enumerate() {
            match waiting.as_mut().poll(&mut context) {
                Poll::Pending => self.waiting.push((wanted, waiting)),
                Poll::Ready(outcome) => {
                    let lease = outcome.expect("the queue has no end here");
                    assert!(wanted.cover(&lease.state.placeholders), "it does not fit");
                    self.hold(wanted, lease);
                    served.push(place);
                }
            }
        }
        served
    }

    /// From now on the connection has the custom settings of its client.
    fn hold(&mut self, wanted: Placeholders, mut lease: Lease) {
        let has = |name: &&&str| {
            let mut one = Placeholders::default();
            one.note(&GucName::new(name));
            wanted.cover(&one)
        };
        CUSTOM.iter().filter(has).for_each(|name| lease.state.note_custom(&GucName::new(name)));
        self.held.push((wanted, lease));
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Ask(custom) => self.ask(custom),
            Step::Try(custom) => {
                let (settings, wanted) = (Settings::default(), placeholders(custom));
                if let Some(lease) = self.pool.try_acquire(want(&settings, &wanted)) {
                    self.hold(wanted, lease);
                }
            }
            Step::Leave(number) if !self.waiting.is_empty() => {
                drop(self.waiting.remove(number % self.waiting.len()));
            }
            Step::GiveBack(number) if !self.held.is_empty() => {
                let (_, lease) = self.held.swap_remove(number % self.held.len());
                let fits: Vec<_> =
                    self.waiting.iter().map(|(wanted, _)| wanted.cover(&lease.state.placeholders)).collect();
                let coming = self.pool.lock().connecting;
                lease.give_back();
                for place in self.serve() {
                    let before = fits[..place].iter().filter(|fits| !**fits).count();
                    assert!(fits[..place].iter().all(|fits| !fits), "somebody was overtaken");
                    assert!(before <= coming, "somebody was overtaken for whom nothing is opened");
                }
            }
            Step::Lose(number) if !self.held.is_empty() => {
                drop(self.held.swap_remove(number % self.held.len()));
            }
            Step::Opened if self.pool.lock().connecting > 0 => self.opened(),
            Step::Failed if self.pool.lock().connecting > 0 => {
                drop(Connecting { pool: &self.pool, own: false, done: false });
                self.pool.open_more(0);
            }
            Step::Tend => self.pool.tend(0),
            Step::Pause => self.pool.hold(),
            Step::Resume => self.pool.resume(0),
            Step::Reconnect => self.pool.reconnect(),
            Step::Warm(custom) => self.pool.warm(want(&Settings::default(), &placeholders(custom))),
            Step::Leave(_) | Step::GiveBack(_) | Step::Lose(_) | Step::Opened | Step::Failed => {}
        }
        self.serve();
    }

    /// What always holds.
    fn check(&self) {
        let inner = self.pool.lock();
        assert_eq!(inner.waiters.len(), self.waiting.len());
        assert_eq!(inner.open, inner.idle.len() + self.held.len());
        assert_eq!(inner.taken(), self.pool.database_open.load(Ordering::Relaxed));
        assert!(inner.taken() <= self.pool.settings.max, "more than the limit");
        if inner.paused {
            return;
        }
        for (place, (wanted, _)) in self.waiting.iter().enumerate() {
            let fits = inner.idle.iter().any(|server| wanted.cover(&server.state.placeholders));
            assert!(!fits, "number {place} waits beside an idle connection that fits");
        }
        if inner.waiters.len() > inner.connecting {
            assert_eq!(inner.taken(), self.pool.settings.max, "there is room, and nothing is opened");
            assert!(inner.idle.is_empty(), "an idle connection that fits nobody keeps a place");
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nobody_waits_in_vain_or_is_overtaken(
        max in 1usize..4,
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let runtime = runtime();
        let _entered = runtime.enter();
        let mut world = World::new(max);
        for step in &steps {
            world.step(step);
            world.check();
        }
        // However it came to this, all are served in the end.
        world.step(&Step::Resume);
        for _ in 0..200 {
            world.step(&Step::GiveBack(0));
            world.step(&Step::Opened);
            world.check();
        }
        assert!(world.waiting.is_empty(), "{} wait for ever", world.waiting.len());
    }
}

#[test]
fn what_became_idle_between_the_look_and_the_entry_is_taken() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let mut world = World::new(1);
    world.ask([false; 2]);
    world.opened();
    world.serve();
    // The other worker's client gives it back behind our look, and before we enter the queue.
    let (_, lease) = world.held.remove(0);
    let settings = Settings::default();
    assert!(world.pool.try_acquire(want(&settings, &Placeholders::default())).is_none());
    lease.give_back();
    world.ask([false; 2]);
    assert_eq!(world.held.len(), 1);
}

#[test]
fn with_room_for_both_two_kinds_of_clients_keep_their_connections() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let mut world = World::new(2);
    for turn in 0..10 {
        for custom in [[true, false], [false, false]] {
            world.ask(custom);
            if turn == 0 {
                world.opened();
                world.serve();
            }
            world.step(&Step::GiveBack(0));
        }
    }
    assert_eq!(world.ends.len(), 2, "a connection was opened anew");
    assert_eq!(world.pool.counts().idle, 2);
}

/// A `statement_timeout` may have just missed a statement that took as long, and would strike the next one.
#[test]
fn a_timeout_that_may_have_just_missed_a_statement_is_taken_off() {
    let runtime = runtime();
    let _entered = runtime.enter();
    let timeout = Settings::from_literals([("statement_timeout", &b"150ms"[..])]);
    let is_free_after = |millis: u64| {
        let mut world = World::new(1);
        world.ask([false; 2]);
        world.opened();
        world.serve();
        let (_, mut lease) = world.held.remove(0);
        lease.state.settings = timeout.clone();
        lease.give_back_after(Duration::from_millis(millis), Instant::now());
        world.pool.counts().idle == 1
    };
    assert!(is_free_after(0) && is_free_after(149));
    assert!(!is_free_after(151));
}
