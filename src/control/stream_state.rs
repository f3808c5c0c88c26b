//! What is known of a database's change stream, for whoever relies on it or wants to see it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::catalog::Touched;
use crate::pg::Lsn;

/// Who is told of what others have written: the cache.
///
/// Told when those who begin to read now see it: what was read before, and took its epochs before, is old.
pub trait Subscriber: fmt::Debug + Send + Sync {
    /// These were written.
    fn written(&self, touched: &Touched);

    /// From now on all that is written is told; what was written before, nobody may have told.
    fn begun(&self);
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StreamPhase {
    /// It is not wanted.
    #[default]
    Off,
    /// It cannot be had: something must be set up first.
    Refused,
    /// It is being opened.
    Connecting,
    /// The server makes the slot, for which it waits for the transactions that are open.
    Waiting,
    /// It shows what is committed.
    Up,
    /// It was lost.
    Down,
}

impl StreamPhase {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Off, Self::Refused, Self::Connecting, Self::Waiting, Self::Up, Self::Down];

    /// The word in the console and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Refused => "refused",
            Self::Connecting => "connecting",
            Self::Waiting => "waiting",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// A stream as the console shows it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StreamView {
    /// Where it stands.
    pub phase: StreamPhase,
    /// Since when.
    pub since: Option<Instant>,
    /// Why it is not up.
    pub reason: Option<String>,
    /// It vouches for what it has shown.
    pub vouches: bool,
    /// What the server decodes with.
    pub plugin: Option<&'static str>,
    /// Our slot.
    pub slot: Option<String>,
    /// All commits up to there have been shown.
    pub position: Option<Lsn>,
    /// For how long it has been behind the primary.
    pub behind: Option<Duration>,
    /// Since Weir started.
    pub counts: StreamCounts,
}

/// What was counted since Weir started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamCounts {
    /// Transactions that were shown.
    pub commits: u64,
    /// Of these, those that had raised no floor before: they did not pass here.
    pub raised: u64,
    /// Of all, those that changed the catalog.
    pub schema_changes: u64,
    /// Bytes that were received.
    pub bytes: u64,
    /// How often it began.
    pub begun: u64,
    /// How often it was lost.
    pub lost: u64,
}

/// See the module.
#[derive(Debug)]
pub struct StreamState {
    origin: Instant,
    /// Until when it vouches, in microseconds after `origin`.
    vouches_until: AtomicU64,
    view: Mutex<StreamView>,
    subscribers: RwLock<Vec<Arc<dyn Subscriber>>>,
    /// There is a connection.
    pub(super) connected: watch::Sender<bool>,
    /// Somebody wants the database for himself until then.
    pub(super) held_until: watch::Sender<Option<Instant>>,
}

impl Default for StreamState {
    fn default() -> Self {
        Self {
            origin: Instant::now(),
            vouches_until: AtomicU64::new(0),
            view: Mutex::default(),
            subscribers: RwLock::default(),
            connected: watch::Sender::new(false),
            held_until: watch::Sender::new(None),
        }
    }
}

impl StreamState {
    /// Whether everything that was committed more than `stream.max_delay` ago, by whomever, has been told to the
    /// subscribers. While it is not, an answer from memory may be old.
    #[inline]
    pub fn vouches(&self, now: Instant) -> bool {
        self.micros(now) < self.vouches_until.load(Ordering::SeqCst)
    }

    /// From now on `subscriber` is told what is written.
    pub fn subscribe(&self, subscriber: Arc<dyn Subscriber>) {
        self.subscribers.write().unwrap_or_else(PoisonError::into_inner).push(subscriber);
    }

    /// As the console shows it.
    pub fn view(&self, now: Instant) -> StreamView {
        StreamView { vouches: self.vouches(now), ..self.locked().clone() }
    }

    /// Whether anybody is told of anything.
    pub(super) fn has_subscribers(&self) -> bool {
        !self.subscribers.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Tells the subscribers.
    pub(super) fn tell(&self, touched: &Touched) {
        for subscriber in self.subscribers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            subscriber.written(touched);
        }
    }

    /// Tells them that whatever was written before is not known.
    pub(super) fn tell_begun(&self) {
        for subscriber in self.subscribers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            subscriber.begun();
        }
    }

    /// It vouches from now on, for so long as nothing else is said.
    pub(super) fn vouch(&self, until: Instant) {
        self.vouches_until.store(self.micros(until), Ordering::SeqCst);
    }

    /// It vouches for nothing until further notice.
    pub(super) fn fall_silent(&self) {
        self.vouches_until.store(0, Ordering::SeqCst);
    }

    /// It stands elsewhere now.
    pub(super) fn enter(&self, phase: StreamPhase, reason: Option<String>) {
        if phase != StreamPhase::Up {
            self.fall_silent();
        }
        let mut view = self.locked();
        if (view.phase, &view.reason) != (phase, &reason) {
            view.since = Some(Instant::now());
        }
        if view.phase == StreamPhase::Up && phase != StreamPhase::Up {
            view.counts.lost += 1;
            (view.slot, view.position, view.behind) = (None, None, None);
        }
        (view.phase, view.reason) = (phase, reason);
    }

    /// Changes what is shown.
    pub(super) fn note(&self, change: impl FnOnce(&mut StreamView)) {
        change(&mut self.locked());
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX)
    }

    fn locked(&self) -> MutexGuard<'_, StreamView> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_vouches_until_it_is_lost_or_silent() {
        let state = StreamState::default();
        let now = Instant::now();
        let after = |millis| now + Duration::from_millis(millis);
        assert!(!state.vouches(now));
        state.enter(StreamPhase::Up, None);
        state.vouch(after(100));
        assert!(state.vouches(now) && state.vouches(after(99)) && !state.vouches(after(101)));
        state.enter(StreamPhase::Down, Some("gone".to_owned()));
        assert!(!state.vouches(now));
        let view = state.view(now);
        assert_eq!((view.phase, view.counts.lost), (StreamPhase::Down, 1));
    }
}
