//! Results on their way into memory: from a server, as the relay passes them on, or from another Weir.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::sharing::Sharing;
use crate::cache::{Cache, Entry, Fetched, Flight, Outcome, Recorded, Recorder, Terms};
use crate::control::{Lookup, SharedResult};

/// What could not be kept is not tried again for so long.
pub(super) const NOT_KEPT_FOR: Duration = Duration::from_secs(60);

/// A result that is to be kept, on its way.
#[derive(Debug)]
pub(super) struct Filling {
    pub(super) cache: Arc<Cache>,
    /// Gone as soon as it is known that it brings nothing: nobody shall wait for it.
    pub(super) flight: Option<Flight>,
    pub(super) hash: u64,
    pub(super) recorder: Recorder,
    /// Since Weir was started, when it began.
    pub(super) began: Duration,
    pub(super) terms: Terms,
    /// What memory has for the same: the two are compared.
    pub(super) known: Option<Arc<Entry>>,
    /// It was seen before; else it is only asked of other Weirs.
    pub(super) is_hot: bool,
    /// What it takes to share it.
    pub(super) sharing: Option<Sharing>,
    /// Another Weir had it, with news of writes that crossed the flight: once more, and it may be taken over.
    pub(super) once_more: Once,
}

/// What is done twice at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Once {
    /// It was not called for.
    Not,
    /// It was.
    More,
    /// It has been done.
    Done,
}

impl Filling {
    /// Whether what is fetched now may be kept.
    pub(super) fn is_current(&self) -> bool {
        self.flight.as_ref().is_some_and(Flight::is_current)
    }

    /// Asks other Weirs for it.
    pub(super) async fn ask(&self) -> Lookup {
        match (&self.sharing, &self.flight) {
            (Some(sharing), Some(flight)) => sharing.ask(flight.key()).await,
            _ => Lookup::Silent,
        }
    }

    /// Takes over what another Weir has fetched.
    pub(super) fn hear(&mut self, lookup: Lookup) {
        let stamp = match lookup {
            Lookup::Silent => None,
            Lookup::Miss(stamp) => Some(stamp),
            Lookup::Hit(SharedResult { bytes, left, stamp }) => {
                let Terms { ttl, max_entry, .. } = self.terms;
                let fetched = Recorded::unpacked(&bytes).map(|(recorded, took, put_for)| Fetched {
                    recorded,
                    took,
                    age: put_for.saturating_sub(left),
                });
                let fetched = fetched.filter(|it| it.recorded.bytes() <= max_entry && it.age < ttl);
                if let (Some(fetched), Some(flight)) = (fetched, self.flight.take()) {
                    let taken = flight.take_over(fetched, ttl, Instant::now());
                    if taken == Outcome::Crossed && self.once_more == Once::Not {
                        self.once_more = Once::More;
                    }
                }
                Some(stamp)
            }
        };
        if let Some(sharing) = &mut self.sharing {
            sharing.stamp = stamp;
        }
    }

    /// A whole message that the client gets.
    #[inline]
    pub(super) fn message(&mut self, tag: u8, bytes: &[u8]) {
        self.recorder.message(tag, bytes);
        self.give_up_if_spoiled();
    }

    /// A piece of a row.
    #[inline]
    pub(super) fn row(&mut self, bytes: &[u8]) {
        self.recorder.row(bytes);
        self.give_up_if_spoiled();
    }

    #[inline]
    fn give_up_if_spoiled(&mut self) {
        if self.recorder.is_spoiled() && self.flight.take().is_some() {
            self.cache.not_kept.is_hot(self.hash, self.began, NOT_KEPT_FOR);
        }
    }

    /// It is to be asked of the primary, whose answer is compared with what memory has.
    pub(super) fn is_comparison(&self) -> bool {
        self.known.is_some()
    }

    /// The server has answered.
    pub(super) fn land(self) {
        let Self { cache, flight, recorder, terms, known, sharing, .. } = self;
        let outcome = match (recorder.finish(), flight) {
            (Ok(recorded), Some(flight)) => {
                let differs = |known: &Entry| !recorded.has_rows_of(&known.recorded.rows);
                match known.filter(|_| flight.is_current()) {
                    Some(known) if differs(&known) => {
                        report_mismatch(&cache, &known, flight.hash());
                        if let Some(sharing) = sharing {
                            sharing.void();
                        }
                        Outcome::Crossed
                    }
                    known => {
                        cache.counts.compared.fetch_add(u64::from(known.is_some()), Ordering::Relaxed);
                        let now = Instant::now();
                        if let Some(sharing) = sharing.filter(|_| flight.is_current()) {
                            sharing.put(flight.key(), &recorded, flight.took(now), terms.ttl);
                        }
                        flight.land(recorded, terms.ttl, now)
                    }
                }
            }
            (Ok(_), None) => Outcome::Unfinished,
            (Err(outcome), _) => outcome,
        };
        cache.counts.ended(outcome);
    }
}

/// Memory had other rows than the primary, and nothing has written them that we know of.
fn report_mismatch(cache: &Cache, known: &Arc<Entry>, hash: u64) {
    cache.counts.compared.fetch_add(1, Ordering::Relaxed);
    cache.counts.mismatches.fetch_add(1, Ordering::Relaxed);
    known.shape.turn_off();
    cache.store.remove(known, hash);
    let (fingerprint, shape) = (known.shape.fingerprint, &*known.shape.text);
    tracing::error!(%fingerprint, shape, "a cached result differs: this shape is cached no more");
}
