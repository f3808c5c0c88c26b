//! Answers from memory: between the decision on a client's unit and a server connection for it.
//!
//! A plain read whose results may be kept is looked for. If it is there, it is the answer, in one write, and no server
//! hears of it. If it is not, and worth keeping, its *flight* begins here, with the epochs of now, before a route is
//! chosen; the relay takes a copy as it passes, and what is complete at the end is kept. A unit that finds another
//! client's flight under way waits for that, but not for long.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Proxy;
use super::conversation::Conversation;
use super::fault::Fault;
use super::filling::{Filling, NOT_KEPT_FOR, Once};
use super::registry::{Activity, Signal};
use super::sharing::Sharing;
use crate::cache::{
    Boarded, Cache, Entry, Evidence, Found, KeyView, Landing, Reason, Recorder, Request, Scope, Terms,
    Verdict, Verdicts, terms,
};
use crate::catalog::Catalog;
use crate::config::{CacheFreshness, SharedSettings};
use crate::control::Database;
use crate::pg::SqlState;
use crate::route::{Block, Plan};
use crate::server::AcquireError;
use crate::session::{Plain, Session, Settings};
use crate::sql::Analysis;
use crate::sql::memo::Classified;
use crate::sql::scan::Lexing;
use crate::wire::Malformed;

/// One client's part of the cache.
#[derive(Debug)]
pub(super) struct Caching {
    cache: Arc<Cache>,
    settings: SharedSettings,
    user: Box<str>,
    scope: Option<(Settings, Lexing, Arc<Scope>)>,
    /// A flight was waited for: this time the client asks by itself.
    has_waited: bool,
    /// The unit that is looked for again: the store that Weirs share was asked for it.
    asked: Option<Box<Filling>>,
    hits: u64,
}

/// What there is for a unit.
#[derive(Debug)]
pub(super) enum Looked {
    /// This is its answer.
    Hit(Arc<Entry>),
    /// Another client is fetching it.
    Wait(Landing),
    /// Another Weir may have it.
    Share(Box<Filling>),
    /// A server has to be asked, and the result is to be kept, perhaps.
    Ask(Option<Box<Filling>>),
}

/// A unit that is looked for, with what is known of it.
pub(super) struct Sought<'a> {
    pub(super) unit: &'a [u8],
    pub(super) plan: &'a Arc<Plan>,
    pub(super) classified: &'a Classified,
    /// A parameter's value stands for the current time.
    pub(super) names_time: bool,
    pub(super) block: Block,
    pub(super) now: Instant,
}

/// One key that is looked for.
struct Search<'a> {
    key: &'a KeyView<'a>,
    verdict: &'a Verdict,
    plan: &'a Arc<Plan>,
    describes: bool,
    terms: &'a Terms,
    database: &'a Arc<Database>,
    /// It was asked of other Weirs before.
    asked: Option<Box<Filling>>,
    now: Instant,
}

/// What the worker and the database know.
pub(super) struct Around<'a> {
    pub(super) verdicts: &'a mut Verdicts,
    pub(super) catalog: Option<&'a Catalog>,
    pub(super) database: &'a Arc<Database>,
}

impl Caching {
    /// For a client; `None` if the cache is off.
    pub(super) fn new(proxy: &Proxy, user: &str) -> Option<Box<Self>> {
        let cache = Arc::clone(proxy.cache.as_ref()?);
        Some(Box::new(Self {
            cache,
            settings: proxy.settings(),
            user: user.into(),
            scope: None,
            has_waited: false,
            asked: None,
            hits: u64::from(rand::random::<u32>()),
        }))
    }

    /// Whether what is known of a plan from before is enough: its results may not be kept, or nothing of its shape is ever
    /// found and nobody asks for it by hint or rule. Most units that are not answered from memory go no further.
    #[inline]
    pub(super) fn need_not_look(&self, plan: &Arc<Plan>, analysis: &Analysis, verdicts: &Verdicts) -> bool {
        let looks_again = self.asked.is_some() || self.has_waited;
        let Some(verdict) = verdicts.known(plan, &self.settings).filter(|_| !looks_again) else {
            return false;
        };
        let reason = match verdict.may_keep {
            Err(reason) => reason,
            Ok(()) if !verdict.rules.is_empty() || analysis.hints.cache.is_some() => return false,
            Ok(()) if !verdict.shape.is_worth_a_look() => Reason::Cold,
            Ok(()) => return false,
        };
        self.count(reason, verdict);
        true
    }

    /// Looks for a unit's result.
    pub(super) fn look(
        &mut self,
        sought: &Sought<'_>,
        session: &Session,
        around: &mut Around<'_>,
        proxy: &Proxy,
    ) -> Result<Looked, Malformed> {
        // Whatever becomes of the unit, it is asked for once.
        let asked = self.asked.take();
        let Some(plain) = session.plain(sought.unit, &proxy.sessions)? else {
            self.not_plain();
            return Ok(Looked::Ask(None));
        };
        let lexing = plain.text.lexing(session.lexing());
        let database = around.database;
        let evidence = Evidence {
            text: plain.text.as_bytes(),
            lexing,
            analysis: &sought.classified.analysis,
            classes: &sought.classified.classes,
            catalog: around.catalog,
            database: &database.name,
        };
        let verdict =
            around.verdicts.of(sought.plan, &evidence, &database.memory.epochs, &self.cache, &self.settings);
        let found = self.may_serve(sought, &plain, database, proxy, &verdict).and_then(|terms| {
            let scope = self.scope(session, lexing, database);
            let statement = sought.classified.analysis.single().ok_or(Reason::SeveralStatements)?;
            let request = Request {
                text: statement.span.of(evidence.text),
                types: plain.types(),
                parameters: plain.parameters,
                formats: plain.formats,
            };
            let key = KeyView::new(&self.cache.hasher, &scope, request).ok_or(Reason::KeyTooLong)?;
            let search = Search {
                key: &key,
                verdict: &verdict,
                plan: sought.plan,
                describes: plain.describes,
                terms: &terms,
                database,
                asked,
                now: sought.now,
            };
            self.find(search, proxy.started)
        });
        Ok(found.unwrap_or_else(|reason| {
            self.count(reason, &verdict);
            Looked::Ask(None)
        }))
    }

    /// Looks for a key; an error says why nothing is there and nothing will be.
    fn find(&mut self, search: Search<'_>, started: Instant) -> Result<Looked, Reason> {
        let Search { key, verdict, plan, describes, terms, database, asked, now } = search;
        let changes = plan.effect.changes;
        let has_waited = std::mem::take(&mut self.has_waited);
        let since = now.saturating_duration_since(started);
        let asked = asked.filter(|asked| asked.hash == key.hash());
        let mut is_hot = terms.at_once;
        let mut known = None;
        match self.cache.store.find(key, &verdict.watch, changes, describes, now) {
            // Somebody else was content with older ones.
            Found::Hit(entry) if entry.age(now) >= terms.ttl => is_hot = true,
            Found::Hit(entry) if !self.is_to_be_compared() => {
                self.count_hit(&entry);
                verdict.shape.was_looked_for(true);
                return Ok(Looked::Hit(entry));
            }
            Found::Hit(entry) => known = Some(entry),
            Found::Nothing { stale } => is_hot |= stale,
        }
        let window = self.settings.cache.admission_window;
        is_hot |= match &asked {
            Some(asked) => asked.is_hot,
            None => self.cache.doorkeeper.is_hot(key.hash(), since, window),
        };
        verdict.shape.was_looked_for(is_hot || known.is_some());
        // What was hot before Weir was started it does not know yet.
        let once_more = asked.as_ref().map(|asked| asked.once_more);
        let may_share =
            matches!(once_more, None | Some(Once::More)) && known.is_none() && (is_hot || since < window);
        let may_tell = may_share || known.is_some();
        let mut sharing = if may_tell { Sharing::new(database, plan) } else { None };
        if !is_hot && known.is_none() && sharing.is_none() {
            return Err(Reason::Cold);
        }
        if self.cache.not_kept.has_seen(key.hash(), since, NOT_KEPT_FOR) {
            return Err(Reason::NotKept);
        }
        let asks = may_share && sharing.is_some();
        if let Some(mut asked) = asked.filter(|_| !asks) {
            if asked.is_current() {
                self.count(Reason::Fill, verdict);
                return Ok(Looked::Ask(Some(asked)));
            }
            sharing = asked.sharing.take();
        }
        match self.cache.store.board(key, &verdict.watch, changes, &verdict.shape, now) {
            Boarded::InDoubt => Err(Reason::InDoubt),
            Boarded::Passenger(_) if has_waited || known.is_some() => Err(Reason::Waited),
            Boarded::Passenger(landing) => {
                self.has_waited = true;
                Ok(Looked::Wait(landing))
            }
            Boarded::Pilot(flight) => {
                let (recorder, hash) = (Recorder::new(terms.max_entry), flight.hash());
                let (cache, reason) =
                    (Arc::clone(&self.cache), if known.is_some() { Reason::Verified } else { Reason::Fill });
                let filling = Filling {
                    cache,
                    flight: Some(flight),
                    hash,
                    recorder,
                    began: since,
                    terms: *terms,
                    known,
                    is_hot,
                    sharing,
                    once_more: if once_more.is_some() { Once::Done } else { Once::Not },
                };
                let filling = Box::new(filling);
                if asks {
                    return Ok(Looked::Share(filling));
                }
                self.count(reason, verdict);
                Ok(Looked::Ask(Some(filling)))
            }
        }
    }

    /// The store that Weirs share was asked; the unit is to be looked for again.
    pub(super) fn has_asked(&mut self, filling: Box<Filling>) {
        self.asked = Some(filling);
    }

    fn count(&self, reason: Reason, verdict: &Verdict) {
        self.cache.counts.count(reason);
        verdict.shape.count(reason, 0);
    }

    fn count_hit(&self, entry: &Entry) {
        let saved_us = u64::try_from(entry.took.as_micros()).unwrap_or(u64::MAX);
        let counts = &self.cache.counts;
        counts.count(Reason::Hit);
        counts.saved_us.fetch_add(saved_us, Ordering::Relaxed);
        counts.hit_bytes.fetch_add(entry.recorded.rows.len() as u64, Ordering::Relaxed);
        entry.shape.count(Reason::Hit, saved_us);
    }

    /// A unit that is more than one plain statement.
    pub(super) fn not_plain(&self) {
        self.cache.counts.count(Reason::Messages);
    }

    /// Whether the client may be answered from memory now, and on what terms: by its session, the database and the
    /// configuration.
    fn may_serve(
        &self,
        sought: &Sought<'_>,
        plain: &Plain<'_>,
        database: &Database,
        proxy: &Proxy,
        verdict: &Verdict,
    ) -> Result<Terms, Reason> {
        verdict.may_keep?;
        match sought.block {
            Block::None | Block::Lazy => {}
            Block::Snapshot
            | Block::Eager { .. }
            | Block::OnPrimary
            | Block::OnReplica(_)
            | Block::SnapshotOnReplica(_) => return Err(Reason::Block),
        }
        if sought.names_time {
            return Err(Reason::Time);
        }
        match self.settings.cache.freshness {
            CacheFreshness::Stream if !database.stream.vouches(sought.now) => {
                return Err(Reason::NoStream);
            }
            CacheFreshness::Stream | CacheFreshness::Proxy | CacheFreshness::Ttl => {}
        }
        if !Session::is_told_of(plain, &proxy.sessions) {
            return Err(Reason::Outdated);
        }
        let terms = terms(&sought.classified.analysis, &self.settings.cache, &verdict.rules, &self.user)?;
        if verdict.shape.is_off() {
            return Err(Reason::Mismatch);
        }
        let catalog = &database.catalog;
        if catalog.is_changing() || sought.plan.effect.changes != catalog.changes() {
            return Err(Reason::InDoubt);
        }
        Ok(terms)
    }

    /// Whether a hit is one of those that are asked of the primary, too.
    fn is_to_be_compared(&mut self) -> bool {
        let Some(of) = self.settings.cache.verify else { return false };
        self.hits = self.hits.wrapping_add(1);
        self.hits.is_multiple_of(u64::from(of))
    }

    /// What all of the client's keys have in common, made anew when its settings change.
    fn scope(&mut self, session: &Session, lexing: Lexing, database: &Database) -> Arc<Scope> {
        let settings = session.settings();
        if let Some((of, by, scope)) = &self.scope
            && *by == lexing
            && of.is_same(settings)
        {
            return Arc::clone(scope);
        }
        let entries = settings.entries();
        let scope = Arc::new(Scope::new(&self.cache.hasher, &database.name, &self.user, lexing, entries));
        self.scope = Some((settings.clone(), lexing, Arc::clone(&scope)));
        scope
    }

    /// How long to wait for another client's flight.
    fn flight_wait(&self) -> Duration {
        self.settings.cache.flight_wait
    }
}

impl Conversation {
    /// Answers a unit from memory.
    pub(super) async fn serve_from_memory(
        &mut self,
        entry: &Entry,
        unit_bytes: usize,
        mut now: Instant,
    ) -> Result<(), Fault> {
        if self.connection.is_clogged() {
            // The client has asked for more than it has read yet.
            Box::pin(self.unclogged()).await?;
            now = Instant::now();
        }
        let mut output = std::mem::take(self.connection.output());
        let unit = &self.connection.input()[..unit_bytes];
        let description = entry.recorded.description.as_deref().unwrap_or_default();
        let rows = &entry.recorded.rows;
        let answered = self.session.answer_plain(unit, description, rows, &self.proxy.sessions, &mut output);
        *self.connection.output() = output;
        answered?;
        self.connection.consume(unit_bytes);
        self.note_rest_since(now);
        Ok(())
    }

    /// Waits until the client has read most of what it was sent.
    async fn unclogged(&mut self) -> Result<(), Fault> {
        std::future::poll_fn(|context| {
            match self.connection.poll_flush(context) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Fault::ClientGone)),
                Poll::Pending => {}
            }
            loop {
                match self.entry.handle.poll_signal(context) {
                    Poll::Ready(Signal::Kill) => {
                        let text = "terminating connection due to administrator command";
                        return Poll::Ready(Err(Fault::Ended(SqlState::ADMIN_SHUTDOWN, text)));
                    }
                    Poll::Ready(_) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// Waits for another client's flight, or until that takes too long; then the unit is looked for again.
    pub(super) async fn wait_for_flight(&mut self, landing: Landing) -> Result<(), Fault> {
        let wait = self.routing.as_ref().and_then(|routing| routing.caching()).map(Caching::flight_wait);
        let mut timeout = Box::pin(tokio::time::sleep(wait.unwrap_or_default()));
        self.wait(|context| match landing.poll(context) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => timeout.as_mut().poll(context),
        })
        .await
    }

    /// Asks other Weirs for a unit's result; then it is looked for again.
    pub(super) async fn ask_others(&mut self, mut filling: Box<Filling>) -> Result<(), Fault> {
        let found = {
            let mut asking = Box::pin(filling.ask());
            self.wait(|context| asking.as_mut().poll(context)).await?
        };
        filling.hear(found);
        if let Some(caching) = self.routing.as_mut().and_then(|routing| routing.caching_mut()) {
            caching.has_asked(filling);
        }
        Ok(())
    }

    /// Waits for something that will come soon, while the client may cancel or be told to end.
    async fn wait<T>(&mut self, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Result<T, Fault> {
        let handle = Arc::clone(&self.entry.handle);
        handle.clear_cancel();
        handle.set_activity(Activity::Waiting, Instant::now());
        let waited = std::future::poll_fn(|context| {
            if let Poll::Ready(Err(_)) = self.connection.poll_flush(context) {
                return Poll::Ready(Err(Fault::ClientGone));
            }
            if let Poll::Ready(come) = poll(context) {
                return Poll::Ready(Ok(come));
            }
            loop {
                match self.entry.handle.poll_signal(context) {
                    Poll::Ready(Signal::Cancel) => {
                        return Poll::Ready(Err(Fault::Acquire(AcquireError::Canceled)));
                    }
                    Poll::Ready(Signal::Kill) => {
                        let text = "terminating connection due to administrator command";
                        return Poll::Ready(Err(Fault::Ended(SqlState::ADMIN_SHUTDOWN, text)));
                    }
                    Poll::Ready(_) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await;
        self.note_rest();
        waited
    }
}
