//! The store: results by key, bounded by bytes, the least recently used first to go.
//!
//! Sharded by hash, so that two cores seldom meet on one lock. Nothing is looked for when something is written: an entry
//! knows the epochs that its fill began with, and is found to be void when it is asked for. What nobody asks for again
//! goes at the end of the list, like all else.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ahash::HashMap;
use lru::LruCache;

use super::epochs::{Stamp, Watch};
use super::fill::Recorded;
use super::flight::Landing;
use super::key::{Key, KeyView};
use super::reason::{Counts, Outcome};
use super::shapes::Shape;

/// What an entry takes beside its key, frames and epochs: itself, what the allocator adds to each of its parts, its node
/// in the list and its place in the table.
const ENTRY_BYTES: usize = size_of::<Entry>() + 10 * 16 + 96;

/// A shard holds at least so many of the largest entries.
const LARGEST_PER_SHARD: usize = 4;

const SHARDS_MAX: usize = 64;

/// What a result was read under: it is true while this holds.
#[derive(Clone, Debug)]
pub struct Validity {
    /// The epochs of what it reads.
    pub watch: Arc<Watch>,
    /// Their numbers before its route was chosen.
    pub stamp: Stamp,
    /// How many changes of the catalog had been seen.
    pub changes: u64,
}

/// A result.
#[derive(Debug)]
pub struct Entry {
    key: Key,
    /// See there.
    pub recorded: Recorded,
    validity: Validity,
    /// When it was read from a server, by whichever Weir.
    born: Instant,
    expires: Instant,
    /// What reading it from a server took.
    pub took: Duration,
    /// Of which shape it is.
    pub shape: Arc<Shape>,
    cost_bytes: usize,
}

impl Entry {
    /// How old it is: who asks may want a younger one than who had it kept.
    #[inline]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born)
    }

    fn is_valid(&self, watch: &Watch, changes: u64, now: Instant) -> bool {
        now < self.expires
            && self.validity.changes == changes
            && self.validity.watch.is_same(watch)
            && watch.is_current(&self.validity.stamp)
    }
}

/// What there is for a key.
#[derive(Debug)]
pub enum Found {
    /// A result.
    Hit(Arc<Entry>),
    /// Nothing; there was something, if `stale`.
    Nothing {
        /// So it is hot.
        stale: bool,
    },
}

/// A result that another Weir has fetched.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// See there.
    pub recorded: Recorded,
    /// What reading it from a server took.
    pub took: Duration,
    /// How long ago that was.
    pub age: Duration,
}

/// Who fetches what is not there.
#[derive(Debug)]
pub enum Boarded {
    /// Who asked.
    Pilot(Flight),
    /// Somebody else, under the same epochs.
    Passenger(Landing),
    /// What it reads is in doubt.
    InDoubt,
}

#[derive(Debug)]
struct Shard {
    entries: LruCache<u64, Arc<Entry>, ahash::RandomState>,
    bytes: usize,
    flights: HashMap<u64, Airborne>,
}

#[derive(Debug)]
struct Airborne {
    key: Key,
    validity: Validity,
    landing: Landing,
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    shards: Box<[Mutex<Shard>]>,
    shard_bytes_max: usize,
    counts: Arc<Counts>,
}

impl Store {
    /// Of so many bytes, with entries of at most so many.
    pub fn new(bytes_max: usize, max_entry: usize, counts: Arc<Counts>) -> Self {
        let shards = (bytes_max / (LARGEST_PER_SHARD * max_entry.max(1))).clamp(1, SHARDS_MAX);
        // A power of two, downwards.
        let shards = 1 << shards.ilog2();
        let shard = || {
            let entries = LruCache::unbounded_with_hasher(ahash::RandomState::new());
            Mutex::new(Shard { entries, bytes: 0, flights: HashMap::default() })
        };
        Self { shards: (0..shards).map(|_| shard()).collect(), shard_bytes_max: bytes_max / shards, counts }
    }

    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        // By other bits than those that the tables in the shards take.
        let at = usize::try_from(hash >> 40).unwrap_or(0) & (self.shards.len() - 1);
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for a result that is true now. `described`: it must have a RowDescription.
    #[inline]
    pub fn find(
        &self,
        key: &KeyView<'_>,
        watch: &Watch,
        changes: u64,
        described: bool,
        now: Instant,
    ) -> Found {
        let mut shard = self.shard(key.hash());
        let Some(entry) = shard.entries.get(&key.hash()).filter(|entry| entry.key.is(key)) else {
            return Found::Nothing { stale: false };
        };
        if entry.is_valid(watch, changes, now) && (!described || entry.recorded.description.is_some()) {
            return Found::Hit(Arc::clone(entry));
        }
        Found::Nothing { stale: true }
    }

    /// Nothing was found: who fetches it. To be called before the route of the fetching is chosen.
    pub fn board(
        self: &Arc<Self>,
        key: &KeyView<'_>,
        watch: &Arc<Watch>,
        changes: u64,
        shape: &Arc<Shape>,
        now: Instant,
    ) -> Boarded {
        let Some(stamp) = watch.stamp() else { return Boarded::InDoubt };
        let validity = Validity { watch: Arc::clone(watch), stamp, changes };
        let mut shard = self.shard(key.hash());
        if let Some(airborne) = shard.flights.get(&key.hash())
            && airborne.key.is(key)
            && airborne.validity.changes == changes
            && airborne.validity.stamp == validity.stamp
            && airborne.validity.watch.is_same(watch)
        {
            return Boarded::Passenger(airborne.landing.clone());
        }
        // Of older flights nothing will come; those who wait for them look again when they are over.
        let landing = Landing::default();
        let airborne = Airborne { key: Key::from(key), validity, landing: landing.clone() };
        let flight = Flight {
            store: Arc::clone(self),
            hash: key.hash(),
            key: airborne.key.clone(),
            validity: airborne.validity.clone(),
            shape: Arc::clone(shape),
            landing,
            began: now,
        };
        shard.flights.insert(key.hash(), airborne);
        Boarded::Pilot(flight)
    }

    /// Drops what is kept of a key.
    pub fn remove(&self, entry: &Arc<Entry>, hash: u64) {
        let mut shard = self.shard(hash);
        let is_it = shard.entries.peek(&hash).is_some_and(|known| Arc::ptr_eq(known, entry));
        if is_it && let Some(removed) = shard.entries.pop(&hash) {
            shard.bytes -= removed.cost_bytes;
        }
    }

    /// Drops everything.
    pub fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.entries.clear();
            shard.bytes = 0;
        }
    }

    fn insert(&self, hash: u64, entry: Arc<Entry>) -> Outcome {
        if entry.cost_bytes > self.shard_bytes_max {
            return Outcome::TooLarge;
        }
        let mut shard = self.shard(hash);
        shard.bytes += entry.cost_bytes;
        if let Some((_, replaced)) = shard.entries.push(hash, entry) {
            shard.bytes -= replaced.cost_bytes;
        }
        while shard.bytes > self.shard_bytes_max {
            let Some((_, evicted)) = shard.entries.pop_lru() else { break };
            shard.bytes -= evicted.cost_bytes;
            self.counts.evicted.fetch_add(1, Ordering::Relaxed);
        }
        Outcome::Kept
    }

    /// Entries, and the bytes that they take; void ones that nobody has asked for yet among them.
    pub fn size(&self) -> (usize, usize) {
        let shards = self.shards.iter().map(|shard| {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            (shard.entries.len(), shard.bytes)
        });
        shards.fold((0, 0), |(entries, bytes), shard| (entries + shard.0, bytes + shard.1))
    }

    /// Results that are being fetched to be kept.
    pub fn flights(&self) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).flights.len())
            .sum()
    }

    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }
}

/// The fetching of a result. When it is dropped it is over, and whoever waits for it looks again.
#[derive(Debug)]
pub struct Flight {
    store: Arc<Store>,
    hash: u64,
    key: Key,
    validity: Validity,
    shape: Arc<Shape>,
    landing: Landing,
    began: Instant,
}

impl Flight {
    /// Keeps the result, if nothing that it reads was written since the flight began, or is being written.
    pub fn land(self, recorded: Recorded, ttl: Duration, now: Instant) -> Outcome {
        let (took, age) = (self.took(now), Duration::ZERO);
        self.take_over(Fetched { recorded, took, age }, ttl, now)
    }

    /// Likewise of what another has fetched. No entry gets older than `ttl`.
    pub fn take_over(self, fetched: Fetched, ttl: Duration, now: Instant) -> Outcome {
        let Fetched { recorded, took, age } = fetched;
        let Validity { watch, stamp, .. } = &self.validity;
        if !watch.is_current(stamp) {
            return Outcome::Crossed;
        }
        let epochs = watch.len() * (size_of::<usize>() + size_of::<u64>());
        let cost_bytes = ENTRY_BYTES + self.key.cost_bytes() + recorded.bytes() + epochs;
        let entry = Entry {
            key: self.key.clone(),
            recorded,
            validity: self.validity.clone(),
            born: now.checked_sub(age).unwrap_or(now),
            expires: now + jittered(ttl, self.hash).saturating_sub(age),
            took,
            shape: Arc::clone(&self.shape),
            cost_bytes,
        };
        // Should a write come in between, the entry is void before anybody can see it.
        self.store.insert(self.hash, Arc::new(entry))
    }

    /// How long it has taken until now.
    pub fn took(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// What it is to be kept under.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Whether nothing that it reads has been written since it began.
    pub fn is_current(&self) -> bool {
        self.validity.watch.is_current(&self.validity.stamp)
    }

    /// By which its entry is found.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let mut shard = self.store.shard(self.hash);
        if shard.flights.get(&self.hash).is_some_and(|airborne| airborne.landing.is(&self.landing)) {
            shard.flights.remove(&self.hash);
        }
        drop(shard);
        self.landing.land();
    }
}

/// Up to a fifth less, by the key: what was filled together does not end together.
fn jittered(ttl: Duration, hash: u64) -> Duration {
    let thousandths = 800 + u32::try_from(hash % 201).unwrap_or(0);
    ttl / 1000 * thousandths
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an instant to count from")]
mod tests {
    use super::*;
    use crate::cache::epochs::Epochs;
    use crate::cache::key::{Request, Scope};
    use crate::cache::shapes::Shapes;
    use crate::catalog::{RelationId, Touched};
    use crate::pg::Oid;
    use crate::sql::Fingerprint;
    use std::task::Waker;

    use ahash::RandomState;

    struct Bed {
        store: Arc<Store>,
        epochs: Epochs,
        scope: Arc<Scope>,
        hasher: RandomState,
        shape: Arc<Shape>,
        begin: Instant,
    }

    impl Bed {
        fn new(bytes: usize, max_entry: usize) -> Self {
            let hasher = RandomState::with_seeds(1, 2, 3, 4);
            Self {
                store: Arc::new(Store::new(bytes, max_entry, Arc::default())),
                epochs: Epochs::default(),
                scope: Arc::new(Scope::new(&hasher, "app", "app", true, [])),
                shape: Shapes::default().shape(Fingerprint(1), || "select".to_owned()),
                hasher,
                begin: Instant::now(),
            }
        }

        fn key<'a>(&'a self, text: &'a str) -> KeyView<'a> {
            let request = Request { text: text.as_bytes(), types: b"", parameters: b"", formats: b"" };
            KeyView::new(&self.hasher, &self.scope, request).unwrap()
        }

        fn watch(&self) -> Arc<Watch> {
            let relations = [RelationId(Oid(1))].into();
            Arc::new(self.epochs.watch(&Touched { relations, ..Touched::default() }))
        }

        fn fill(&self, text: &str, bytes: usize) -> Outcome {
            match self.store.board(&self.key(text), &self.watch(), 0, &self.shape, self.begin) {
                Boarded::Pilot(flight) => {
                    let recorded = Recorded { description: None, rows: vec![b'x'; bytes].into() };
                    flight.land(recorded, Duration::from_secs(100), self.begin)
                }
                other => panic!("{other:?}"),
            }
        }

        fn has(&self, text: &str, after: u64) -> bool {
            let now = self.begin + Duration::from_secs(after);
            matches!(self.store.find(&self.key(text), &self.watch(), 0, false, now), Found::Hit(_))
        }
    }

    #[test]
    fn an_entry_ends_by_time_by_a_write_and_by_another_catalog() {
        let bed = Bed::new(1 << 20, 1 << 10);
        assert_eq!(bed.fill("a", 10), Outcome::Kept);
        assert!(bed.has("a", 79) && !bed.has("b", 0) && !bed.has("a", 100));
        let (key, watch) = (bed.key("a"), bed.watch());
        let found = |changes, described| bed.store.find(&key, &watch, changes, described, bed.begin);
        assert!(matches!(found(0, false), Found::Hit(_)));
        assert!(matches!(found(1, false), Found::Nothing { stale: true }));
        assert!(matches!(found(0, true), Found::Nothing { stale: true }), "it has no description");
        bed.epochs.invalidate_all();
        assert!(!bed.has("a", 0));
        assert_eq!(bed.fill("a", 10), Outcome::Kept);
        assert!(bed.has("a", 0));
    }

    #[test]
    fn what_another_has_fetched_is_as_old_as_it_is() {
        let bed = Bed::new(1 << 20, 1 << 10);
        let Boarded::Pilot(flight) = bed.store.board(&bed.key("a"), &bed.watch(), 0, &bed.shape, bed.begin)
        else {
            panic!("nobody else is there")
        };
        let recorded = Recorded { description: None, rows: Box::default() };
        let fetched = Fetched { recorded, took: Duration::ZERO, age: Duration::from_secs(60) };
        assert_eq!(flight.take_over(fetched, Duration::from_secs(100), bed.begin), Outcome::Kept);
        assert!(bed.has("a", 19) && !bed.has("a", 40));
        let Found::Hit(entry) = bed.store.find(&bed.key("a"), &bed.watch(), 0, false, bed.begin) else {
            panic!("it is there")
        };
        assert_eq!(entry.age(bed.begin).as_secs(), 60);
    }

    #[test]
    fn a_crossed_fill_is_not_kept() {
        let bed = Bed::new(1 << 20, 1 << 10);
        let Boarded::Pilot(flight) = bed.store.board(&bed.key("a"), &bed.watch(), 0, &bed.shape, bed.begin)
        else {
            panic!("nobody else is there")
        };
        bed.epochs.invalidate_all();
        let recorded = Recorded { description: None, rows: Box::default() };
        assert_eq!(flight.land(recorded, Duration::from_secs(100), bed.begin), Outcome::Crossed);
        assert_eq!((bed.store.size().0, bed.store.flights()), (0, 0));
    }

    #[test]
    fn passengers_wait_under_the_same_epochs_only() {
        let bed = Bed::new(1 << 20, 1 << 10);
        let board = || bed.store.board(&bed.key("a"), &bed.watch(), 0, &bed.shape, bed.begin);
        let Boarded::Pilot(first) = board() else { panic!("nobody else is there") };
        let Boarded::Passenger(landing) = board() else { panic!("somebody is") };
        bed.epochs.invalidate_all();
        let Boarded::Pilot(second) = board() else { panic!("what the first brings is old") };
        let waker = Waker::noop();
        let context = std::task::Context::from_waker(waker);
        assert!(landing.poll(&context).is_pending());
        drop(first);
        assert!(landing.poll(&context).is_ready());
        assert!(matches!(board(), Boarded::Passenger(_)), "the second is still on its way");
        drop(second);
        assert_eq!(bed.store.flights(), 0);
    }

    #[test]
    fn the_bound_is_kept_and_the_oldest_go() {
        let bed = Bed::new(64 << 10, 1 << 10);
        for number in 0..1000 {
            assert_eq!(bed.fill(&format!("select {number}"), 500), Outcome::Kept);
            assert!(bed.store.size().1 <= 64 << 10);
        }
        assert!(bed.has("select 999", 0) && !bed.has("select 0", 0));
        let (entries, bytes) = bed.store.size();
        assert!(entries > 30 && bytes > 32 << 10, "{entries} {bytes}");
        bed.store.clear();
        assert_eq!(bed.store.size(), (0, 0));
        // One replaces another of its key.
        bed.fill("a", 10);
        let (_, bytes) = bed.store.size();
        bed.fill("a", 10);
        assert_eq!(bed.store.size(), (1, bytes));
    }

    #[test]
    fn ends_are_spread() {
        let ttl = Duration::from_secs(1000);
        let ends: Vec<Duration> = (0..201).map(|hash| jittered(ttl, hash)).collect();
        assert_eq!((ends[0], ends[200]), (Duration::from_secs(800), Duration::from_secs(1000)));
    }
}
