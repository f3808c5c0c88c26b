//! The change stream of one database: a task per database in use.
//!
//! It follows the primary's log through a temporary slot, which ends with the connection and so holds no log back after
//! it. What was committed, by whomever, raises floors at once, with the position that it has already. Subscribers are
//! told when the primary shows it: a commit is streamed as soon as it is flushed, which is before other sessions see it,
//! and with synchronous replication long before; who was told at once would read the old row again and keep it.
//!
//! A stream that is lost, silent or behind vouches for nothing ([`StreamState::vouches`]). When it begins again, all
//! counts as written, since nobody knows what was missed.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::replication::{ReplicationError, ReplicationSession};
use super::retry::Retry;
use super::stream_setup::{self, CreateError, LookError, Obstacle, Setup};
use super::stream_state::{StreamPhase, StreamState};
use super::visibility::Visibility;
use super::{ControlError, ControlSession};
use crate::catalog::{Catalog, Touched};
use crate::config::{Login, ServerSettings, StreamSettings, Switch};
use crate::consistency::{Changes, Committed, Era, Plugin, Positions, Shown};
use crate::control::splitting::Database;
use crate::pg::{HostId, Lsn, Snapshot, SqlState};
use crate::server::{Host, Hosts};
use crate::wire::replication::Streamed;

/// Attempts to open a stream again are at most so far apart.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Where somebody must set something up first, it is tried again after so long.
const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// How often the server is told how far we are, and asked for a sign of life.
const TICK: Duration = Duration::from_millis(250);

/// One commit in four is shown before its reply has come. Those that passed here raise their floors then, which are not to
/// be raised twice: that would keep replicas closed for longer.
const COLLECT: Duration = Duration::from_millis(1);

/// What is shown but not yet visible is asked for again after so long, and then ever later.
const SETTLE_AGAIN: Duration = Duration::from_millis(1);
const SETTLE_AGAIN_MAX: Duration = Duration::from_millis(50);

/// A stream that has vouched for nothing for so many times `max_delay` is opened anew.
const GIVE_UP_AFTER: u32 = 15;

/// Flushing what stands behind the last commit is asked for so often at most (`Positions::duty`).
const NUDGE_EVERY: Duration = Duration::from_secs(1);

/// Transactions that wait to become visible, at most; with more, the stream begins anew.
const UNSETTLED_MAX: usize = 100_000;

/// Why a stream does not go on.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    #[error("{0}")]
    Control(#[from] ControlError),
    #[error("{0}")]
    Replication(#[from] ReplicationError),
    #[error("{0}")]
    Obstacle(#[from] Obstacle),
    #[error("the primary's log is another")]
    OtherLog,
    #[error("it was silent or behind for too long")]
    Late,
    #[error("too many transactions wait to become visible")]
    Unsettled,
    #[error("somebody wants the database for himself")]
    Released,
}

/// One database's stream.
#[derive(Debug)]
pub(super) struct Streaming {
    pub(super) database: Database,
    pub(super) hosts: Arc<Hosts>,
    pub(super) servers: ServerSettings,
    pub(super) settings: StreamSettings,
    pub(super) positions: Arc<Positions>,
    pub(super) visibility: Arc<Visibility>,
    /// Commits have got their position: replicas are to be asked.
    pub(super) resolved: Arc<Notify>,
}

impl StreamError {
    /// Whether trying again soon is of no use.
    fn is_lasting(&self) -> bool {
        match self {
            Self::Replication(ReplicationError::Connect(error)) => !error.is_transient(),
            // Of the limits on slots and their like: somebody must raise them, or leave.
            Self::Replication(ReplicationError::Refused { sqlstate, .. }) => {
                *sqlstate == Some(SqlState::CONFIGURATION_LIMIT_EXCEEDED)
            }
            Self::Obstacle(_) => true,
            _ => false,
        }
    }
}

impl From<LookError> for StreamError {
    fn from(error: LookError) -> Self {
        match error {
            LookError::Control(error) => Self::Control(error),
            LookError::Obstacle(obstacle) => Self::Obstacle(obstacle),
        }
    }
}

impl From<CreateError> for StreamError {
    fn from(error: CreateError) -> Self {
        match error {
            CreateError::Replication(error) => Self::Replication(error),
            CreateError::Obstacle(obstacle) => Self::Obstacle(obstacle),
        }
    }
}

impl Streaming {
    /// Follows the primary, whoever that is, for ever.
    pub(super) async fn run(self) {
        let state = &*self.database.stream;
        let mut changes = self.hosts.primary_changes();
        let mut held = state.held_until.subscribe();
        let mut retry = Retry::new(RETRY_MAX);
        loop {
            self.wait_while_held(&mut held).await;
            let primary = *changes.borrow_and_update();
            let Some(primary) = primary else {
                state.enter(StreamPhase::Down, Some("there is no primary".to_owned()));
                // The sender lives as long as the hosts do.
                let _ = changes.changed().await;
                continue;
            };
            let outcome = tokio::select! {
                biased;
                _ = changes.changed() => Err(StreamError::OtherLog),
                outcome = Box::pin(self.converse(primary, &mut retry)) => outcome,
            };
            // A connection that was dropped is closed.
            state.connected.send_replace(false);
            let Err(error) = outcome;
            let pause = self.failed(&error, &mut retry);
            // A new primary is tried at once.
            let _ = timeout(pause, changes.changed()).await;
        }
    }

    async fn wait_while_held(&self, held: &mut tokio::sync::watch::Receiver<Option<Instant>>) {
        loop {
            let until = *held.borrow_and_update();
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None | Some(Duration::ZERO) => return,
                Some(pause) => _ = timeout(pause, held.changed()).await,
            }
        }
    }

    /// Says what has become of it; gives how long to wait.
    fn failed(&self, error: &StreamError, retry: &mut Retry) -> Duration {
        let (state, database) = (&self.database.stream, &*self.database.name);
        let (mut pause, is_news) = retry.failed(&error.to_string());
        let phase = match error {
            StreamError::Obstacle(_) => StreamPhase::Refused,
            _ => StreamPhase::Down,
        };
        state.enter(phase, Some(error.to_string()));
        match error {
            StreamError::Released => pause = Duration::ZERO,
            StreamError::Obstacle(obstacle) => {
                pause = REFUSED_PAUSE;
                let remedy = obstacle.remedy();
                if is_news && self.settings.enabled == Switch::On {
                    tracing::warn!(database, %error, remedy, "no change stream");
                } else if is_news {
                    tracing::info!(database, %error, remedy, "no change stream");
                }
            }
            _ => {
                if is_news {
                    tracing::warn!(database, %error, "the change stream is lost");
                }
                if error.is_lasting() {
                    pause = REFUSED_PAUSE;
                }
            }
        }
        pause
    }

    async fn converse(&self, primary: HostId, retry: &mut Retry) -> Result<Infallible, StreamError> {
        let (state, host) = (&self.database.stream, self.hosts.host(primary));
        state.enter(StreamPhase::Connecting, None);
        let login = Login { database: self.database.name.to_string(), ..self.servers.control.clone() };
        let setup = self.look_around(host, &login).await?;
        state.connected.send_replace(true);
        let mut session = ReplicationSession::open(&host.connector, &login).await?;
        let outcome = tokio::select! {
            biased;
            () = self.released() => Err(StreamError::Released),
            outcome = Box::pin(self.stream(host, &setup, &mut session, retry)) => outcome,
        };
        if let Err(StreamError::Released) = outcome {
            state.enter(StreamPhase::Down, Some(StreamError::Released.to_string()));
            session.part().await;
        }
        outcome
    }

    async fn stream(
        &self,
        host: &Host,
        setup: &Setup,
        session: &mut ReplicationSession,
        retry: &mut Retry,
    ) -> Result<Infallible, StreamError> {
        let (state, database) = (&self.database.stream, &*self.database.name);
        state.enter(StreamPhase::Waiting, Some("for transactions that are open".to_owned()));
        let slot = format!("{}_{:08x}", self.settings.slot_prefix, rand::random::<u32>());
        let plugin = setup.create_slot(session, &slot).await?;
        session.begin_streaming(&setup.start(plugin, &slot)).await?;
        let era = self.positions.era();
        self.begun(plugin, &slot, setup);
        retry.worked();
        tracing::info!(database, plugin = plugin.as_str(), slot, "the change stream is up");
        let mut following = Following::new(self, host, plugin, era, setup.is_utf8);
        Box::pin(following.run(session)).await
    }

    async fn look_around(&self, host: &Host, login: &Login) -> Result<Setup, StreamError> {
        let opening = ControlSession::open(&host.connector, login, self.servers.connect_timeout);
        let session = Box::pin(opening).await?;
        Ok(stream_setup::look_around(&session, &self.settings).await?)
    }

    /// It shows all that is committed from now on. What was committed before, nobody has seen.
    fn begun(&self, plugin: Plugin, slot: &str, setup: &Setup) {
        let (database, state) = (&self.database, &self.database.stream);
        let everything = Touched { catalogs: true, everything: true, ..Touched::default() };
        if database.floors.commit(&everything, false).wake {
            database.committed.notify_one();
        }
        self.suspect();
        state.tell_begun();
        state.enter(StreamPhase::Up, setup.weakness(plugin).map(str::to_owned));
        state.note(|view| {
            view.counts.begun += 1;
            (view.plugin, view.slot) = (Some(plugin.as_str()), Some(slot.to_owned()));
        });
    }

    /// The catalog may be another than is known.
    fn suspect(&self) {
        if self.database.catalog.suspect() {
            self.database.wake.notify_one();
        }
    }

    /// Waits until somebody wants the database for himself.
    async fn released(&self) {
        let mut held = self.database.stream.held_until.subscribe();
        let is_held = |until: &Option<Instant>| until.is_some_and(|until| until > Instant::now());
        // The sender lives as long as the database does.
        let _ = held.wait_for(is_held).await;
    }
}

/// A stream that runs.
struct Following<'a> {
    of: &'a Streaming,
    host: &'a Host,
    changes: Changes,
    era: Era,
    is_utf8: bool,
    /// All commits up to there have been shown.
    position: Lsn,
    /// Server's clock plus this is ours, if a message takes no time: the least that was ever seen.
    clock: Option<i128>,
    /// When the last message was sent, by our clock.
    heard: Instant,
    began: Instant,
    /// The primary was there, then, and we were not: we are behind.
    behind: Option<(Lsn, Instant)>,
    nudged: Instant,
    /// When the primary last said how far it is.
    measured: Instant,
    /// When it was asked what is visible, and has not answered yet.
    asked: Option<Instant>,
    /// Not yet visible on the primary: transactions with what subscribers are to be told.
    unsettled: VecDeque<(u32, Touched)>,
}

type Asking<'a> = Pin<Box<dyn Future<Output = Result<Snapshot, ControlError>> + Send + 'a>>;

impl<'a> Following<'a> {
    fn new(of: &'a Streaming, host: &'a Host, plugin: Plugin, era: Era, is_utf8: bool) -> Self {
        let now = Instant::now();
        Self {
            of,
            host,
            changes: Changes::new(plugin),
            era,
            is_utf8,
            position: Lsn::default(),
            clock: None,
            heard: now,
            began: now,
            behind: None,
            nudged: now,
            measured: now,
            asked: None,
            unsettled: VecDeque::new(),
        }
    }

    async fn run(&mut self, session: &mut ReplicationSession) -> Result<Infallible, StreamError> {
        let of = self.of;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asking: Option<Asking<'a>> = None;
        let mut pause = Duration::ZERO;
        loop {
            if asking.is_none() && !self.unsettled.is_empty() {
                self.asked = Some(Instant::now() + pause);
                asking = Some(Box::pin(of.visibility.snapshot(self.host, pause)));
            }
            let answer = async {
                match &mut asking {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = ticks.tick() => self.tick(session).await?,
                snapshot = answer => {
                    (asking, self.asked) = (None, None);
                    let progress = self.settle(&snapshot?);
                    pause = if progress {
                        Duration::ZERO
                    } else {
                        (pause * 2).clamp(SETTLE_AGAIN, SETTLE_AGAIN_MAX)
                    };
                }
                filled = session.fill() => {
                    filled?;
                    sleep(COLLECT).await;
                    self.take(session).await?;
                }
            }
        }
    }

    /// Takes all that has arrived.
    async fn take(&mut self, session: &mut ReplicationSession) -> Result<(), StreamError> {
        let (mut commits, mut wants_answer, mut sent) = (Vec::new(), false, None);
        let bytes = session.take(|message| {
            sent = Some(message.sent_micros());
            match message {
                Streamed::Data { position, message, .. } => {
                    if let Some(commit) = self.changes.take(position, message)? {
                        self.position = self.position.max(commit.end);
                        commits.push(commit);
                    }
                }
                Streamed::Keepalive { end, wants_answer: wants, .. } => {
                    self.position = self.position.max(end);
                    wants_answer |= wants;
                }
            }
            Ok(())
        })?;
        if let Some(sent) = sent {
            self.hear(sent);
        }
        self.of.database.stream.note(|view| view.counts.bytes += bytes as u64);
        if !commits.is_empty() {
            self.committed(&commits)?;
        }
        self.vouch();
        if wants_answer {
            session.tell(self.position, false).await?;
        }
        Ok(())
    }

    /// When the server sent the last message, by our clock: bytes may have waited for us.
    fn hear(&mut self, sent_micros: u64) {
        let now = Instant::now();
        let ours = i128::try_from(now.saturating_duration_since(self.began).as_micros()).unwrap_or(0);
        let difference = ours - i128::from(sent_micros);
        let least = self.clock.map_or(difference, |least| least.min(difference));
        self.clock = Some(least);
        let age = u64::try_from(difference - least).unwrap_or(u64::MAX);
        self.heard = now.checked_sub(Duration::from_micros(age)).unwrap_or(self.began);
    }

    /// Raises floors; keeps for the subscribers what is not visible yet.
    fn committed(&mut self, commits: &[Committed]) -> Result<(), StreamError> {
        let (of, database) = (self.of, &self.of.database);
        let latest = database.catalog.latest();
        let catalog = latest.as_deref().filter(|catalog| catalog.changes() == database.catalog.changes());
        let tells = database.stream.has_subscribers();
        let (mut raised, mut schema_changes, mut is_known) = (0, 0, false);
        for commit in commits {
            let touched = self.touched(commit, catalog);
            match database.floors.commit_at(&touched, commit.end, self.era, Instant::now()) {
                None => {}
                Some(Shown::Known) => (raised, is_known) = (raised + 1, true),
                Some(Shown::Waiting(waiting)) => {
                    raised += 1;
                    if waiting.wake {
                        database.committed.notify_one();
                    }
                }
            }
            let is_ddl = commit.written.is_ddl();
            schema_changes += u64::from(is_ddl);
            if is_ddl || touched.everything && catalog.is_some() {
                of.suspect();
            }
            if tells {
                // Rows may have become others without a word of them: a column, a view, a refreshed view.
                let everything = touched.everything || is_ddl;
                self.unsettled.push_back((commit.xid, Touched { everything, ..touched }));
            }
        }
        if is_known {
            of.resolved.notify_waiters();
        }
        database.stream.note(|view| {
            view.counts.commits += commits.len() as u64;
            view.counts.raised += raised;
            view.counts.schema_changes += schema_changes;
        });
        if of.positions.era() != self.era {
            return Err(StreamError::OtherLog);
        }
        if self.unsettled.len() > UNSETTLED_MAX { Err(StreamError::Unsettled) } else { Ok(()) }
    }

    fn touched(&self, commit: &Committed, catalog: Option<&Catalog>) -> Touched {
        commit.written.touched(catalog, self.is_utf8)
    }

    /// Tells the subscribers what has become visible; gives whether anything has.
    fn settle(&mut self, snapshot: &Snapshot) -> bool {
        let state = &self.of.database.stream;
        let before = self.unsettled.len();
        self.unsettled.retain(|(xid, touched)| {
            let is_visible = snapshot.has_ended(*xid);
            if is_visible {
                state.tell(touched);
            }
            !is_visible
        });
        self.unsettled.len() < before
    }

    /// Says how far we are, asks for a sign of life, and sees whether we are behind.
    async fn tick(&mut self, session: &mut ReplicationSession) -> Result<(), StreamError> {
        session.tell(self.position, true).await?;
        if self.of.positions.era() != self.era {
            return Err(StreamError::OtherLog);
        }
        let now = Instant::now();
        self.forget_behind();
        if let Some((lsn, at)) = self.of.positions.flushed() {
            self.measured = at;
            if self.behind.is_none() && lsn > self.position {
                self.behind = Some((lsn, at));
            }
        }
        let is_stuck = self.behind.is_some_and(|(_, since)| now.saturating_duration_since(since) > TICK * 2);
        if is_stuck && now.saturating_duration_since(self.nudged) > NUDGE_EVERY {
            self.nudged = now;
            self.of.visibility.nudge(self.host).await?;
        }
        self.vouch();
        let behind = self.behind.map(|(_, since)| now.saturating_duration_since(since));
        self.of.database.stream.note(|view| {
            view.position = Some(self.position);
            view.behind = Some(behind.unwrap_or_default());
        });
        let late = now.saturating_duration_since(self.certain());
        let is_lost = late > self.of.settings.max_delay * GIVE_UP_AFTER;
        if is_lost { Err(StreamError::Late) } else { Ok(()) }
    }

    fn forget_behind(&mut self) {
        if self.behind.is_some_and(|(lsn, _)| self.position >= lsn) {
            self.behind = None;
        }
    }

    /// What was committed until then has been told for certain, as soon as it is visible.
    fn certain(&self) -> Instant {
        let known = self.heard.min(self.measured);
        let behind = self.behind.map_or(known, |(_, since)| since.min(known));
        self.asked.map_or(behind, |asked| asked.min(behind))
    }

    /// It vouches until `max_delay` after what is certain.
    fn vouch(&mut self) {
        self.forget_behind();
        self.of.database.stream.vouch(self.certain() + self.of.settings.max_delay);
    }
}

/// Waits until the stream has left a database that is held, as far as it does in time.
pub(super) async fn parted(state: &StreamState, within: Duration) {
    let mut connected = state.connected.subscribe();
    let gone = async { connected.wait_for(|connected| !connected).await.is_ok() };
    let _ = timeout(within, gone).await;
}
