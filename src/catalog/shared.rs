//! The catalog of one database as all workers see it: one snapshot in force, and a count of changes that it may lack.
//!
//! A snapshot is in force while its count of changes is the current one. DDL that passes here raises the count in front
//! of its commit's answer, and from then until the next load nothing is known: reads go to the primary, writes count as
//! writes of everything. What changes elsewhere is found by asking now and then ([`Freshness`]).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::behavior::OnPrimary;
use super::snapshot::Catalog;

/// See the module.
#[derive(Debug, Default)]
pub struct SharedCatalog {
    current: RwLock<Option<Arc<Catalog>>>,
    /// Raised with each snapshot that is published.
    published: AtomicU64,
    /// Raised with each change that was seen.
    changes: AtomicU64,
    /// Statements under way that may change it.
    changing: AtomicU64,
    wants_load: AtomicBool,
    wants_look: AtomicBool,
    /// Raised whenever code has been run that may have changed the catalog, and what of these has been looked into.
    doubts: AtomicU64,
    resolved: AtomicU64,
}

impl SharedCatalog {
    /// How many changes of the catalog have been seen.
    #[inline]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// The catalog has changed, or may have: to be told before the client has the answer to its commit. Gives whether
    /// the loader must be woken.
    pub fn changed(&self) -> bool {
        self.changes.fetch_add(1, Ordering::SeqCst);
        !self.wants_load.swap(true, Ordering::AcqRel)
    }

    /// A statement is sent that may change the catalog: from now on until what is given back is dropped, nobody who
    /// writes can tell what triggers there are. To be dropped behind [`SharedCatalog::changed`].
    pub fn change(self: &Arc<Self>) -> Change {
        self.changing.fetch_add(1, Ordering::SeqCst);
        Change(Arc::clone(self))
    }

    /// Whether a statement is under way that may change the catalog.
    #[inline]
    pub fn is_changing(&self) -> bool {
        self.changing.load(Ordering::SeqCst) > 0
    }

    /// Code was run that cannot be looked into: until somebody has looked, a trigger may have been added under any write.
    /// To be told before the client has the answer. Gives whether the loader must be woken.
    pub fn doubt(&self) -> bool {
        let was_in_doubt = self.is_in_doubt();
        self.doubts.fetch_add(1, Ordering::SeqCst);
        !was_in_doubt
    }

    /// How many doubts there have been: for [`SharedCatalog::resolve`].
    pub fn doubts(&self) -> u64 {
        self.doubts.load(Ordering::SeqCst)
    }

    /// The catalog has been looked at since there were so many doubts.
    pub fn resolve(&self, doubts: u64) {
        self.resolved.fetch_max(doubts, Ordering::SeqCst);
    }

    /// Whether the catalog may be another than is known.
    #[inline]
    pub fn is_in_doubt(&self) -> bool {
        self.resolved.load(Ordering::SeqCst) != self.doubts()
    }

    /// A name was met that the snapshot does not know ([`OnPrimary::is_unknown_name`]): worth a look, soon. Gives whether
    /// the loader must be woken.
    pub fn suspect(&self) -> bool {
        !self.wants_look.swap(true, Ordering::AcqRel)
    }

    /// Puts a snapshot in force.
    pub fn publish(&self, catalog: Catalog) {
        let changes = catalog.changes();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(catalog));
        self.published.fetch_add(1, Ordering::SeqCst);
        // First no more wishes, then whether there is one after all: a change in between is not lost.
        self.wants_load.store(false, Ordering::SeqCst);
        if self.changes() != changes {
            self.wants_load.store(true, Ordering::SeqCst);
        }
    }

    /// The latest snapshot, in force or not.
    pub fn latest(&self) -> Option<Arc<Catalog>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What has been asked for since the last time.
    pub fn take_wishes(&self) -> Wishes {
        Wishes {
            load: self.wants_load.load(Ordering::Acquire),
            look: self.wants_look.swap(false, Ordering::AcqRel),
            doubt: self.is_in_doubt(),
        }
    }
}

/// A change of the catalog that is under way.
#[derive(Debug)]
pub struct Change(Arc<SharedCatalog>);

impl Drop for Change {
    fn drop(&mut self) {
        self.0.changing.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the workers ask of the loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Wishes {
    /// The snapshot is known to be old.
    pub load: bool,
    /// It may be.
    pub look: bool,
    /// Likewise, but only writes are held up by that.
    pub doubt: bool,
}

/// A worker's view of a shared catalog: looks at two counters, and takes a lock only when there is a new snapshot.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<SharedCatalog>,
    seen: u64,
    catalog: Option<Arc<Catalog>>,
}

impl Reader {
    /// A view of `shared`.
    pub fn new(shared: Arc<SharedCatalog>) -> Self {
        // Nothing has been seen yet, even if something is there.
        Self { seen: u64::MAX, catalog: None, shared }
    }

    /// What it is a view of.
    pub fn shared(&self) -> &Arc<SharedCatalog> {
        &self.shared
    }

    /// The snapshot in force, or why there is none.
    #[inline]
    pub fn current(&mut self) -> Result<&Arc<Catalog>, OnPrimary> {
        let published = self.shared.published.load(Ordering::SeqCst);
        if published != self.seen {
            self.catalog = self.shared.latest();
            self.seen = published;
        }
        match &self.catalog {
            None => Err(OnPrimary::NoCatalog),
            Some(catalog) if catalog.changes() != self.shared.changes() => Err(OnPrimary::CatalogChanging),
            Some(catalog) => Ok(catalog),
        }
    }
}

/// When the loader acts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Load now.
    Load,
    /// Ask whether anything has changed, and load if so.
    Look,
    /// Nothing before then, unless woken.
    At(Instant),
}

/// Between two looks the server is left alone for so many times as long as one takes it.
const IDLE_SHARE: u32 = 9;

/// A look for the sake of a doubt waits for so many pauses: code is run all the time, and DDL by code is rare.
const DOUBT_PAUSES: u32 = 10;

/// Decides when a catalog is loaded again. One belongs to the loader of each database.
#[derive(Clone, Debug)]
pub struct Freshness {
    /// Looks without a cause, so far apart.
    interval: Duration,
    /// Loads and looks with a cause, at least so far apart: DDL comes in bursts, unknown names from loops.
    pause: Duration,
    loaded: Option<Instant>,
    looked: Option<Instant>,
    wishes: Wishes,
}

impl Freshness {
    /// Looks every `interval`; loads and looks at most every `pause`.
    pub fn new(interval: Duration, pause: Duration) -> Self {
        Self { interval, pause, loaded: None, looked: None, wishes: Wishes::default() }
    }

    /// What to do, given what was asked for since the last time.
    pub fn due(&mut self, wishes: Wishes, now: Instant) -> Due {
        self.wishes.load = wishes.load;
        self.wishes.look |= wishes.look;
        self.wishes.doubt = wishes.doubt;
        let Some(loaded) = self.loaded else { return Due::Load };
        let looked = self.looked.map_or(loaded, |looked| looked.max(loaded));
        if self.wishes.load {
            return if now >= loaded + self.pause { Due::Load } else { Due::At(loaded + self.pause) };
        }
        let apart = match self.wishes {
            Wishes { look: true, .. } => self.pause,
            Wishes { doubt: true, .. } => self.interval.min(self.pause * DOUBT_PAUSES),
            _ => self.interval,
        };
        let next = looked + apart;
        if now >= next { Due::Look } else { Due::At(next) }
    }

    /// A load has ended, well or not, having taken `took`: a large catalog is not loaded back to back.
    pub fn loaded(&mut self, now: Instant, took: Duration) {
        self.loaded = Some(now + took);
        self.wishes = Wishes::default();
    }

    /// A look has ended, having taken `took`: names that nobody knows, asked for in a loop, must not keep the server busy.
    pub fn looked(&mut self, now: Instant, took: Duration) {
        self.looked = Some(now + took * IDLE_SHARE);
        self.wishes.look = false;
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "an instant to count from")]
mod tests {
    use super::*;
    use crate::catalog::source::Source;

    fn snapshot(version: u64, changes: u64) -> Catalog {
        Catalog::build(Source::default(), version, changes)
    }

    #[test]
    fn a_change_puts_the_snapshot_out_of_force_until_the_next() {
        let shared = Arc::new(SharedCatalog::default());
        let mut reader = Reader::new(Arc::clone(&shared));
        assert_eq!(reader.current().err(), Some(OnPrimary::NoCatalog));
        shared.publish(snapshot(1, 0));
        assert_eq!(reader.current().map(|catalog| catalog.version()), Ok(1));
        assert!(shared.changed() && !shared.changed());
        assert_eq!(reader.current().err(), Some(OnPrimary::CatalogChanging));
        // Begun before the second change: still not in force, and another one is wanted.
        shared.publish(snapshot(2, 1));
        assert_eq!(reader.current().err(), Some(OnPrimary::CatalogChanging));
        assert!(shared.take_wishes().load);
        shared.publish(snapshot(3, 2));
        assert_eq!(reader.current().map(|catalog| catalog.version()), Ok(3));
        assert!(!shared.take_wishes().load);
    }

    #[test]
    fn loads_are_kept_apart() {
        let (none, load) = (Wishes::default(), Wishes { load: true, ..Wishes::default() });
        let look = Wishes { look: true, ..Wishes::default() };
        let doubt = Wishes { doubt: true, ..Wishes::default() };
        let begin = Instant::now();
        let after = |millis| begin + Duration::from_millis(millis);
        let mut freshness = Freshness::new(Duration::from_secs(10), Duration::from_millis(100));
        assert_eq!(freshness.due(none, begin), Due::Load);
        freshness.loaded(after(20), Duration::from_millis(20));
        assert_eq!(freshness.due(none, after(50)), Due::At(after(10_040)));
        assert_eq!(freshness.due(load, after(50)), Due::At(after(140)));
        assert_eq!(freshness.due(load, after(140)), Due::Load);
        freshness.loaded(after(200), Duration::ZERO);
        assert_eq!(freshness.due(look, after(210)), Due::At(after(300)));
        // The wish is remembered.
        assert_eq!(freshness.due(none, after(300)), Due::Look);
        freshness.looked(after(301), Duration::ZERO);
        assert_eq!(freshness.due(none, after(400)), Due::At(after(10_301)));
        assert_eq!(freshness.due(none, after(10_301)), Due::Look);
        freshness.looked(after(10_400), Duration::from_millis(100));
        assert_eq!(freshness.due(look, after(10_500)), Due::At(after(11_400)));
        freshness.looked(after(11_400), Duration::ZERO);
        assert_eq!(freshness.due(doubt, after(11_500)), Due::At(after(12_400)));
        assert_eq!(freshness.due(none, after(11_500)), Due::At(after(21_400)), "somebody has looked");
    }

    #[test]
    fn a_doubt_lasts_until_somebody_has_looked_since() {
        let shared = SharedCatalog::default();
        assert!(!shared.is_in_doubt() && shared.doubt() && !shared.doubt());
        let seen = shared.doubts();
        shared.doubt();
        shared.resolve(seen);
        assert!(shared.is_in_doubt() && shared.take_wishes().doubt);
        shared.resolve(shared.doubts());
        assert!(!shared.is_in_doubt());
    }
}
