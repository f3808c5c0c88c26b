//! Commits, counted; and which of them each replica has passed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::marks::Marks;
use super::wal::WalLayout;
use crate::pg::{HostId, Lsn};

/// The number of a commit, counted from the start of Weir. 0 is before all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Ticket(pub u64);

/// The timeline of a log (manual, 26.3.6 Timelines): positions of different ones mean nothing to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timeline(pub u32);

/// How a replica stands to what a read needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has it.
    Satisfies,
    /// It has not passed a floor yet.
    Floor,
    /// It is further behind than is allowed.
    Lag,
    /// Where it is, or how far behind, is not known.
    Unknown,
}

/// How fast positions are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between questions to a replica while a commit is just above it, and between those to the primary while there
    /// are commits without a position.
    pub fast: Duration,
    /// Otherwise.
    pub slow: Duration,
    /// A replica's answer older than this says nothing.
    pub stale: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            fast: Duration::from_millis(1),
            slow: Duration::from_millis(100),
            stale: Duration::from_millis(750),
        }
    }
}

/// A log, as long as it is the primary's: positions of another say nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Era(u64);

/// What a question to the primary is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    generation: u64,
    ticket: Ticket,
}

/// What the primary answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrimaryPosition {
    /// `pg_current_wal_insert_lsn()`: behind everything, also what is not flushed.
    pub insert: Lsn,
    /// `pg_current_wal_flush_lsn()`: behind each commit that was flushed in front of its answer. Only what is
    /// flushed is sent to replicas, so this one is reached sooner.
    pub flush: Lsn,
    /// `pg_walfile_name(pg_current_wal_insert_lsn())`, its first eight digits.
    pub timeline: Timeline,
}

/// What a replica answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaPosition {
    /// `pg_last_wal_replay_lsn()`
    pub replay: Lsn,
    /// The timeline that it follows, where it may be asked for it.
    pub timeline: Option<Timeline>,
    /// The log is being streamed to it (`pg_stat_wal_receiver`).
    pub is_streaming: bool,
}

/// What is wrong with a replica that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The primary is up, and no longer streams to it.
    CutOff,
    /// It does not follow the primary's timeline, as far as it shows.
    Timeline,
}

impl Fault {
    /// The word in logs and the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CutOff => "cut_off",
            Self::Timeline => "timeline",
        }
    }
}

/// What became of the primary's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// The commits up to the reading have their position.
    Taken,
    /// It was asked before everything began anew.
    Outdated,
    /// It is of another log than the answers before: everything begins anew.
    Anew,
}

/// What is to be asked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duty {
    /// When to ask the primary, with [`Positions::begin_reading`] in front: at once where there are commits without a
    /// position, if it was not asked just before.
    pub primary_in: Duration,
    /// A floor hangs: no replica gets there, for the log behind the last commit is not flushed, and so not sent, while
    /// the primary is idle. `SELECT txid_current()` by itself makes the WAL writer flush it.
    pub nudge_primary: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Positions {
    /// The last ticket given out.
    issued: AtomicU64,
    /// The last ticket whose position is known.
    resolved: AtomicU64,
    /// The last ticket of a commit that may not have been flushed when it was answered.
    unflushed: AtomicU64,
    /// A floor under all others: what was before Weir, or before this primary.
    base: AtomicU64,
    /// The floor of all system catalogs: some are shared by all databases.
    catalogs: AtomicU64,
    hosts: Box<[HostStanding]>,
    /// A commit has asked for a reading that has not begun.
    waiting: AtomicU64,
    pace: Pace,
    state: Mutex<State>,
}

/// What workers see of a host. Cache lines of their own: one task writes them all the time.
#[derive(Debug)]
#[repr(align(64))]
struct HostStanding {
    passed: AtomicU64,
    /// In microseconds; [`LAG_UNKNOWN`].
    lag: AtomicU64,
}

const LAG_UNKNOWN: u64 = u64::MAX;

/// Marks are made per reading, of which there are some thousand a second at most.
const MARKS_MAX: usize = 4096;
const SAMPLES_MAX: usize = 1024;
const SAMPLE_EVERY: Duration = Duration::from_millis(10);

/// A floor that no replica passes for so long may hang; and again, should that have come to nothing.
const NUDGE_AFTER: Duration = Duration::from_millis(50);
const NUDGE_AGAIN: Duration = Duration::from_secs(5);

/// Who has waited for long waits for this part of it before he asks again.
const WAIT_PART: u32 = 8;

/// What the one task knows.
#[derive(Debug)]
struct State {
    generation: u64,
    layout: WalLayout,
    timeline: Option<Timeline>,
    /// Who has this position has passed that ticket.
    marks: Marks<Ticket>,
    /// The primary was there then.
    samples: Marks<Instant>,
    reports: Vec<Option<Report>>,
    /// The log was ever streamed to them: where that ends, something is wrong. Others read archives.
    streamed: Vec<bool>,
    /// Where the primary was last, and when it answered.
    answer: Option<(Lsn, Instant)>,
    /// What it had flushed then.
    flushed: Lsn,
    /// The end of the last commit that the change stream has shown.
    shown: Lsn,
    /// It has broken the connection since.
    is_primary_lost: bool,
    /// When the last mark was made, and when the primary was last nudged.
    marked: Option<Instant>,
    nudged: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Report {
    replay: Lsn,
    at: Instant,
    fault: Option<Fault>,
}

impl Positions {
    /// For as many hosts as the settings have. Until a primary has answered, no replica satisfies anything.
    pub fn new(hosts: usize, pace: Pace) -> Self {
        let standing = || HostStanding { passed: AtomicU64::new(0), lag: AtomicU64::new(LAG_UNKNOWN) };
        Self {
            issued: AtomicU64::new(1),
            resolved: AtomicU64::new(0),
            unflushed: AtomicU64::new(1),
            base: AtomicU64::new(1),
            catalogs: AtomicU64::new(0),
            hosts: (0..hosts).map(|_| standing()).collect(),
            waiting: AtomicU64::new(0),
            pace,
            state: Mutex::new(State {
                generation: 0,
                layout: WalLayout::default(),
                timeline: None,
                marks: Marks::new(MARKS_MAX),
                samples: Marks::new(SAMPLES_MAX),
                reports: vec![None; hosts],
                streamed: vec![false; hosts],
                answer: None,
                flushed: Lsn::default(),
                shown: Lsn::default(),
                is_primary_lost: false,
                marked: None,
                nudged: None,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new ticket, and whether it is the first since the last reading began.
    pub(super) fn issue(&self, is_flushed: bool) -> (Ticket, bool) {
        let ticket = self.issued.fetch_add(1, Ordering::SeqCst) + 1;
        if !is_flushed {
            self.unflushed.fetch_max(ticket, Ordering::SeqCst);
        }
        (Ticket(ticket), self.waiting.swap(1, Ordering::SeqCst) == 0)
    }

    pub(super) fn raise_catalogs(&self, ticket: Ticket) {
        self.catalogs.fetch_max(ticket.0, Ordering::SeqCst);
    }

    pub(super) fn catalogs(&self) -> Ticket {
        Ticket(self.catalogs.load(Ordering::SeqCst))
    }

    pub(super) fn base(&self) -> Ticket {
        Ticket(self.base.load(Ordering::SeqCst))
    }

    /// The last commit.
    #[inline]
    pub fn newest(&self) -> Ticket {
        Ticket(self.issued.load(Ordering::SeqCst))
    }

    /// How a replica stands to a need.
    #[inline]
    pub fn standing(&self, host: HostId, need: Ticket, max_lag: Duration) -> Standing {
        let Some(standing) = self.hosts.get(host.0) else { return Standing::Unknown };
        let lag = standing.lag.load(Ordering::Acquire);
        if lag == LAG_UNKNOWN {
            return Standing::Unknown;
        }
        if u128::from(lag) > max_lag.as_micros() {
            return Standing::Lag;
        }
        if standing.passed.load(Ordering::SeqCst) < need.0 { Standing::Floor } else { Standing::Satisfies }
    }

    /// How far a host is behind; `None`: not known.
    pub fn lag(&self, host: HostId) -> Option<Duration> {
        let lag = self.hosts.get(host.0)?.lag.load(Ordering::Acquire);
        (lag != LAG_UNKNOWN).then(|| Duration::from_micros(lag))
    }

    /// What a host has replayed, as far as it has said.
    pub fn replayed(&self, host: HostId) -> Option<Lsn> {
        self.state().reports.get(host.0)?.map(|report| report.replay)
    }

    /// The commits that a host has passed.
    pub fn passed(&self, host: HostId) -> Ticket {
        Ticket(self.hosts.get(host.0).map_or(0, |standing| standing.passed.load(Ordering::SeqCst)))
    }

    /// The least that any replica has passed that is in use: floors up to there are past.
    pub fn passed_by_all(&self) -> Ticket {
        let in_use = self.hosts.iter().filter(|host| host.lag.load(Ordering::Acquire) != LAG_UNKNOWN);
        Ticket(in_use.map(|host| host.passed.load(Ordering::SeqCst)).min().unwrap_or(0))
    }

    /// The position by which a ticket is passed, if it is known yet.
    pub fn position_of(&self, ticket: Ticket) -> Option<Lsn> {
        self.state().marks.iter().find(|(_, mark)| *mark >= ticket).map(|(lsn, _)| *lsn)
    }

    /// What the pages of the log are like, once the primary has been asked.
    pub fn set_layout(&self, layout: WalLayout) {
        self.state().layout = layout;
    }

    /// To be called in front of the question to the primary.
    pub fn begin_reading(&self) -> Reading {
        let generation = self.state().generation;
        // In this order: a commit that comes in between asks for another reading.
        self.waiting.store(0, Ordering::SeqCst);
        Reading { generation, ticket: self.newest() }
    }

    /// Takes the answer: all commits up to the reading's beginning are in the log before this position.
    pub fn resolve(&self, reading: Reading, position: PrimaryPosition, now: Instant) -> Resolved {
        let mut state = self.state();
        if reading.generation != state.generation {
            return Resolved::Outdated;
        }
        // Promoted, and not noticed until now; or it crashed, and lost what was not flushed.
        let is_promoted = state.timeline.is_some_and(|timeline| timeline != position.timeline);
        let went_back = state.answer.is_some_and(|(insert, _)| position.insert < insert);
        if is_promoted || went_back {
            // What was asked before it may be of the old log.
            self.forget(&mut state);
            return Resolved::Anew;
        }
        state.timeline = Some(position.timeline);
        state.answer = Some((position.insert, now));
        state.flushed = position.flush;
        state.is_primary_lost = false;
        let resolved = self.resolved.load(Ordering::SeqCst);
        let insert = state.layout.record_end(position.insert);
        let is_flushed = self.unflushed.load(Ordering::SeqCst) <= resolved;
        let lsn = if is_flushed { position.flush.min(insert) } else { insert };
        if reading.ticket.0 > resolved {
            // Commits that the stream has shown since the question was asked may rely on it (`uncovered`).
            let lsn = lsn.max(state.shown);
            state.marks.push(lsn, reading.ticket);
            state.marked = Some(now);
            self.resolved.store(reading.ticket.0, Ordering::SeqCst);
        }
        let sample = position.flush.min(insert);
        let is_due = state.samples.last().is_none_or(|(_, at)| now >= at + SAMPLE_EVERY);
        // An idle primary adds none: who has its position is not behind, however long that lasts.
        if is_due && state.samples.last().is_none_or(|(last, _)| sample > last) {
            state.samples.push(sample, now);
        }
        Resolved::Taken
    }

    /// The log that positions are of now.
    pub fn era(&self) -> Era {
        Era(self.state().generation)
    }

    /// What the primary had flushed when it answered last, and when that was.
    pub fn flushed(&self) -> Option<(Lsn, Instant)> {
        let state = self.state();
        state.answer.map(|(_, at)| (state.flushed, at))
    }

    /// The stream shows a commit that ends at `end`. Gives the last ticket whose floor may be passed by a replica that
    /// lacks it: larger ones cover it. Only what is flushed is streamed, so that answers from now on are behind it.
    pub(super) fn uncovered(&self, end: Lsn, era: Era) -> Option<Ticket> {
        let mut state = self.state();
        if era != Era(state.generation) {
            return None;
        }
        // Tickets without a position will have one that is not below this.
        state.shown = state.shown.max(end);
        let by_marks = state.marks.below(end).unwrap_or_default();
        // Marks may have been forgotten since a replica passed them.
        let lacking = state
            .reports
            .iter()
            .zip(&self.hosts)
            .filter(|(report, _)| report.is_some_and(|report| report.replay < end));
        let passed = lacking.map(|(_, host)| Ticket(host.passed.load(Ordering::SeqCst)));
        Some(passed.fold(by_marks, Ticket::max))
    }

    /// `ticket` is of a commit that ends at `end`, and its floors have been raised. Gives whether its position is
    /// known by that; else it is to be asked for, as there are other commits without one.
    pub(super) fn resolve_at(&self, ticket: Ticket, end: Lsn, era: Era, now: Instant) -> bool {
        let mut state = self.state();
        if era != Era(state.generation) || self.resolved.load(Ordering::SeqCst) + 1 != ticket.0 {
            return false;
        }
        // What another database's stream has shown meanwhile may rely on this ticket.
        let lsn = end.max(state.shown);
        state.marks.push(lsn, ticket);
        state.marked = Some(now);
        self.resolved.store(ticket.0, Ordering::SeqCst);
        // Most replicas have it already.
        for (report, standing) in state.reports.iter().zip(&self.hosts) {
            if let Some(report) = report.filter(|report| report.fault.is_none()) {
                let passed = state.marks.at_or_below(report.replay).unwrap_or_default();
                standing.passed.store(passed.0, Ordering::SeqCst);
            }
        }
        true
    }

    /// Takes what a replica says of itself.
    pub fn report(&self, host: HostId, position: ReplicaPosition, now: Instant) {
        let mut state = self.state();
        let Some(standing) = self.hosts.get(host.0) else { return };
        let is_recent = |(_, at)| now.saturating_duration_since(at) <= self.pace.stale;
        let is_up = !state.is_primary_lost && state.answer.is_some_and(is_recent);
        // While the primary is down, nothing is missing.
        let is_cut_off = !position.is_streaming && state.streamed[host.0] && is_up;
        state.streamed[host.0] |= position.is_streaming;
        let is_foreign =
            matches!((position.timeline, state.timeline), (Some(its), Some(ours)) if its != ours);
        let fault = match (is_foreign, is_cut_off) {
            (true, _) => Some(Fault::Timeline),
            (false, true) => Some(Fault::CutOff),
            (false, false) => None,
        };
        state.reports[host.0] = Some(Report { replay: position.replay, at: now, fault });
        if fault.is_some() {
            standing.lag.store(LAG_UNKNOWN, Ordering::Release);
            standing.passed.store(0, Ordering::SeqCst);
            return;
        }
        let passed = state.marks.at_or_below(position.replay).unwrap_or_default();
        // Not the larger of both: a replica that was restarted begins further back.
        standing.passed.store(passed.0, Ordering::SeqCst);
        let lag = match state.samples.at_or_below(position.replay) {
            // Behind all that is known: how far, is not.
            None => LAG_UNKNOWN,
            Some(_) => state.samples.first_above(position.replay).map_or(0, |since| micros(now - since)),
        };
        standing.lag.store(lag, Ordering::Release);
        let sound = state.reports.iter().flatten().filter(|report| report.fault.is_none());
        let replays = sound.map(|report| report.replay);
        if let Some(oldest) = replays.min() {
            state.marks.forget_below(oldest);
            state.samples.forget_below(oldest);
        }
    }

    /// A replica broke a connection, or a probe failed: it satisfies nothing until it has answered again. One that
    /// was restarted may be further back than it was.
    pub fn lost(&self, host: HostId) {
        self.drop_host(&mut self.state(), host);
    }

    /// The primary broke the connection, or did not answer in time.
    pub fn primary_lost(&self) {
        self.state().is_primary_lost = true;
    }

    fn drop_host(&self, state: &mut State, host: HostId) {
        if let (Some(report), Some(standing)) = (state.reports.get_mut(host.0), self.hosts.get(host.0)) {
            *report = None;
            standing.lag.store(LAG_UNKNOWN, Ordering::Release);
            standing.passed.store(0, Ordering::SeqCst);
        }
    }

    /// There is a new primary: what was known of positions is of another log. No replica satisfies anything until it
    /// has what the new primary has.
    pub fn begin_anew(&self) {
        self.forget(&mut self.state());
    }

    fn forget(&self, state: &mut State) {
        let (ticket, _) = self.issue(false);
        self.base.fetch_max(ticket.0, Ordering::SeqCst);
        for host in 0..self.hosts.len() {
            self.drop_host(state, HostId(host));
        }
        state.generation += 1;
        state.timeline = None;
        state.answer = None;
        state.shown = Lsn::default();
        state.marks.clear();
        state.samples.clear();
        state.marked = None;
    }

    /// What is to be asked, and when. Also notices replicas that have fallen silent: call it at least as often as
    /// `Pace::slow`.
    pub fn duty(&self, now: Instant) -> Duty {
        let mut state = self.state();
        for host in 0..self.hosts.len() {
            let is_stale = |report: Report| now.saturating_duration_since(report.at) > self.pace.stale;
            if state.reports[host].is_some_and(is_stale) {
                self.drop_host(&mut state, HostId(host));
            }
        }
        let resolved = self.resolved.load(Ordering::SeqCst);
        let is_waiting = |host: &HostStanding| host.passed.load(Ordering::SeqCst) < resolved;
        let listening = || {
            let reported = self.hosts.iter().zip(&state.reports);
            let is_sound = |report: Option<Report>| report.is_some_and(|report| report.fault.is_none());
            reported.filter(move |(_, report)| is_sound(**report)).map(|(host, _)| host)
        };
        let all_wait = listening().next().is_some() && listening().all(is_waiting);
        let is_late = state.marked.is_some_and(|marked| now.saturating_duration_since(marked) >= NUDGE_AFTER);
        let is_done = state.nudged.is_some_and(|nudged| {
            Some(nudged) >= state.marked && now.saturating_duration_since(nudged) < NUDGE_AGAIN
        });
        let nudge_primary = all_wait && is_late && !is_done;
        if nudge_primary {
            state.nudged = Some(now);
        }
        let asked = state.answer.map(|(_, at)| now.saturating_duration_since(at));
        let primary_in = if resolved < self.newest().0 {
            asked.map_or(Duration::ZERO, |asked| self.pace.fast.saturating_sub(asked))
        } else {
            self.pace.slow
        };
        Duty { primary_in, nudge_primary }
    }

    /// When to ask a replica again: often, while it is about to pass a commit.
    pub fn replica_in(&self, host: HostId, now: Instant) -> Duration {
        let state = self.state();
        let Some(standing) = self.hosts.get(host.0) else { return self.pace.slow };
        let is_waiting = standing.passed.load(Ordering::SeqCst) < self.resolved.load(Ordering::SeqCst);
        match (self.lag(host), state.marked) {
            (Some(lag), Some(marked)) if is_waiting => {
                let waited = lag.max(now.saturating_duration_since(marked));
                (waited / WAIT_PART).clamp(self.pace.fast, self.pace.slow)
            }
            _ => self.pace.slow,
        }
    }

    /// What is wrong with a replica that answers, if anything is.
    pub fn fault(&self, host: HostId) -> Option<Fault> {
        self.state().reports.get(host.0)?.as_ref()?.fault
    }

    /// How many marks are kept: for the metric of their bound.
    pub fn marks(&self) -> usize {
        self.state().marks.len()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(LAG_UNKNOWN - 1)
}
