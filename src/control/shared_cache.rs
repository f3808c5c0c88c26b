//! The second level of the cache: results that several Weirs share, in Redis or Valkey.
//!
//! What is kept there is opaque. With it stand the *tokens* of what it was read from: random values, one per relation,
//! and one each for a database's catalogs, for all of a database, and for everything. Who writes a relation sets its token
//! anew before the write is answered; a result is good while its tokens are the present ones. Tokens and not counters: a
//! counter that the store has evicted would count the same numbers again, and void results would be good again. Keys bear
//! the `run_id` of the server: one that was restarted from an old dump, or is the promoted copy of another, has none of ours.
//!
//! How it is used, by the store of the cache:
//!
//! - a lookup that found nothing here, *before the route is chosen*: [`SharedCache::find`]. It tells of relations whose
//!   token is another than was last seen, which is how a write through another Weir is learnt: floors and epochs must be
//!   raised for them in the callback, so that what is read then has that write. [`Lookup::Miss`] has the tokens for
//!   [`SharedCache::put`], of what was read after them;
//! - a write, between the floors and the answer: [`SharedCache::invalidate`]. What the change stream shows, too. Until that
//!   has ended, nothing that is found there may be taken for true: [`Memory`] sees to that.
//!
//! It is *trusted* while all our invalidations have reached it: one that did not in time, and nothing is looked up any more
//! until all that is there has been made void. And what it has of a *database* is trusted while we know of all that is
//! written there (`shared_trust`). So a dead, slow or emptied store costs misses, and that is all.
//!
//! [`Memory`]: super::Memory

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ahash::HashMap;
use bytes::Bytes;
use redis::{Client, RedisError, Value};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::timeout;

use super::shared_entry::{Link, Of, Token, all_known, closed, new_token, opened};
use super::shared_trust::{Followed, Standing};
use crate::catalog::Touched;
use crate::config::SharedCacheSettings;

/// How long a connection, and what is said on it in the background, may take.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Tokens of relations that nobody has asked for for so long are forgotten there.
pub(super) const TOKEN_SECONDS: u64 = 7 * 24 * 3600;

/// After a lookup that took too long there is none for a while: a slow store must not slow down every miss.
const REST: Duration = Duration::from_millis(250);

/// Results on their way to the store at most; more are not kept.
const PUTS_MAX: usize = 256;

/// Tokens that are remembered at most; past it, all are learnt anew.
const KNOWN_MAX: usize = 100_000;

/// The tokens that a read begins with.
#[derive(Clone, Debug)]
pub struct SharedStamp {
    link: Arc<Link>,
    tokens: Vec<(Of, Token)>,
}

/// A result from there.
#[derive(Clone, Debug)]
pub struct SharedResult {
    /// As it was put.
    pub bytes: Bytes,
    /// For how long it may be kept.
    pub left: Duration,
    /// Should it not do: as for a miss.
    pub stamp: SharedStamp,
}

/// What a lookup found.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// A result that is good now.
    Hit(SharedResult),
    /// None; what is read from now on may be put there.
    Miss(SharedStamp),
    /// Nothing is known: the store is not there, too slow or not trusted.
    Silent,
}

/// What became of an invalidation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalidated {
    /// Nobody gets the older results any more.
    Done,
    /// The store is not trusted; what is there is made void before it is again.
    Owed,
}

/// What was counted since the start.
#[derive(Debug, Default)]
pub struct SharedCounts {
    /// Lookups that found a result.
    pub hits: AtomicU64,
    /// Lookups that found none, or an old one.
    pub misses: AtomicU64,
    /// Lookups that were not made, or not answered in time.
    pub silent: AtomicU64,
    /// Results that were put there.
    pub puts: AtomicU64,
    /// Results that were not, as too many were on their way.
    pub puts_refused: AtomicU64,
    /// Invalidations.
    pub invalidations: AtomicU64,
    /// Of these, those that did not reach the store.
    pub owed: AtomicU64,
    /// How often all that is there, or all of a database, was made void, to be trusted from then on.
    pub voided: AtomicU64,
    /// How often a database was trusted with what was there.
    pub joined: AtomicU64,
}

impl SharedCounts {
    /// All of them, with the words of metrics and console.
    pub fn list(&self) -> [(&'static str, u64); 9] {
        [
            ("hit", &self.hits),
            ("miss", &self.misses),
            ("silent", &self.silent),
            ("put", &self.puts),
            ("put_refused", &self.puts_refused),
            ("invalidation", &self.invalidations),
            ("owed", &self.owed),
            ("voided", &self.voided),
            ("joined", &self.joined),
        ]
        .map(|(word, count)| (word, count.load(Ordering::Relaxed)))
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) link: Option<Arc<Link>>,
    /// Invalidations that have not reached the store, and those of them that have been made good.
    pub(super) owed: u64,
    pub(super) paid: u64,
    /// How often one was begun to be followed.
    followed: u64,
    /// The databases that we follow.
    pub(super) databases: HashMap<Box<str>, Followed>,
}

/// See the module.
#[derive(Debug)]
pub struct SharedCache {
    pub(super) settings: SharedCacheSettings,
    pub(super) client: Client,
    /// Tells us from other Weirs.
    pub(super) instance: String,
    /// Who follows a database learns of a write within this time.
    pub(super) told_within: Duration,
    pub(super) state: Mutex<State>,
    pub(super) lost: Notify,
    /// The tokens last seen, by database.
    known: Mutex<HashMap<(Box<str>, Of), Token>>,
    origin: Instant,
    /// No lookups until then, in microseconds after `origin`.
    rests_until: AtomicU64,
    puts: Arc<Semaphore>,
    runtime: Handle,
    /// How it has done.
    pub counts: Arc<SharedCounts>,
    task: Mutex<Option<AbortHandle>>,
}

impl SharedCache {
    /// Begins to connect, on this event loop; `None` if it is not wanted. Who follows a database must learn of writes
    /// there within `told_within`.
    pub fn start(
        settings: &SharedCacheSettings,
        told_within: Duration,
    ) -> Result<Option<Arc<Self>>, SharedCacheError> {
        let Some(url) = &settings.url else { return Ok(None) };
        let client = Client::open(url.as_str()).map_err(|_| SharedCacheError::Url)?;
        let shared = Arc::new(Self {
            settings: settings.clone(),
            client,
            instance: format!("{:032x}", rand::random::<u128>()),
            told_within,
            state: Mutex::default(),
            lost: Notify::new(),
            known: Mutex::default(),
            origin: Instant::now(),
            rests_until: AtomicU64::new(0),
            puts: Arc::new(Semaphore::new(PUTS_MAX)),
            runtime: Handle::current(),
            counts: Arc::default(),
            task: Mutex::default(),
        });
        let task = tokio::spawn(Arc::clone(&shared).keep()).abort_handle();
        *locked(&shared.task) = Some(task);
        Ok(Some(shared))
    }

    /// Ends its task.
    pub fn stop(&self) {
        locked(&self.state).link = None;
        if let Some(task) = locked(&self.task).take() {
            task.abort();
        }
    }

    /// Whether there is a store that all our invalidations have reached.
    pub fn is_connected(&self) -> bool {
        self.link().is_some()
    }

    /// How many databases' results are trusted, of how many that are followed.
    pub fn trusted(&self) -> (usize, usize) {
        let state = locked(&self.state);
        let trusted = state.databases.values().filter(|followed| followed.standing == Standing::Trusted);
        (trusted.count(), state.databases.len())
    }

    /// Whether results of a database may come from there.
    pub fn is_trusted(&self, database: &str) -> bool {
        self.link_to(database).is_some()
    }

    /// From now on we follow a database, and know of all that is written there as long as `covers` says so. Gives a number
    /// for [`SharedCache::leave`].
    pub fn follow(&self, database: &str, covers: impl Fn(Instant) -> bool + Send + Sync + 'static) -> u64 {
        let mut state = locked(&self.state);
        state.followed += 1;
        let number = state.followed;
        state.databases.insert(database.into(), Followed::new(number, covers));
        number
    }

    /// Until now something may have been written there that we do not know of; from now on nothing.
    pub fn begun(&self, database: &str) {
        if let Some(followed) = locked(&self.state).databases.get_mut(database) {
            followed.begin_anew();
        }
    }

    /// Who followed it by this number does so no more.
    pub fn leave(&self, database: &str, number: u64) {
        locked(&self.state)
            .databases
            .retain(|name, followed| **name != *database || followed.number != number);
    }

    /// No lookups in a database until then.
    pub fn hold(&self, database: &str, until: Instant) {
        if let Some(followed) = locked(&self.state).databases.get_mut(database) {
            followed.rests_until = Some(until);
        }
    }

    /// The store, if what it has of the database may be looked at now.
    fn link_to(&self, database: &str) -> Option<Arc<Link>> {
        let state = locked(&self.state);
        let followed = state.databases.get(database)?;
        let is_silent = followed.standing != Standing::Trusted
            || followed.rests_until.is_some_and(|until| Instant::now() < until);
        state.link.clone().filter(|_| !is_silent)
    }

    /// Looks a result up, and tells `foreign` first of what somebody else has written since we looked last.
    pub async fn find(
        &self,
        database: &str,
        reads: &Touched,
        key: &[u8],
        foreign: impl Fn(&Touched) + Send,
    ) -> Lookup {
        let link = self.link_to(database).filter(|_| !self.rests());
        let (Some(link), false) = (link, reads.everything) else {
            self.counts.silent.fetch_add(1, Ordering::Relaxed);
            return Lookup::Silent;
        };
        let looking = self.look(&link, database, reads, key);
        let found = match timeout(self.settings.lookup_timeout, Box::pin(looking)).await {
            Ok(Ok(found)) => Some(found),
            Ok(Err(error)) => {
                self.distrust(&error.to_string());
                None
            }
            Err(_) => {
                self.rest();
                None
            }
        };
        let Some((entry, tokens)) = found else {
            self.counts.silent.fetch_add(1, Ordering::Relaxed);
            return Lookup::Silent;
        };
        self.learn(database, &tokens, foreign);
        // A write of ours may have found the store not there meanwhile, or the stream may have begun anew.
        if !self.link_to(database).is_some_and(|now| Arc::ptr_eq(&now, &link)) {
            self.counts.silent.fetch_add(1, Ordering::Relaxed);
            return Lookup::Silent;
        }
        let good = entry.and_then(|(entry, left)| Some((opened(&entry, &tokens)?, left)));
        let counter = if good.is_some() { &self.counts.hits } else { &self.counts.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        let stamp = SharedStamp { link, tokens };
        match good {
            Some((bytes, left)) => Lookup::Hit(SharedResult { bytes, left, stamp }),
            None => Lookup::Miss(stamp),
        }
    }

    /// The entry, and then the tokens: what is equal now was good when it was read.
    async fn look(
        &self,
        link: &Link,
        database: &str,
        reads: &Touched,
        key: &[u8],
    ) -> Result<(Option<(Bytes, Duration)>, Vec<(Of, Token)>), RedisError> {
        let relations = reads.relations.iter().map(|relation| Of::Relation(*relation));
        let of: Vec<Of> = [Of::All, Of::Database, Of::Catalogs].into_iter().chain(relations).collect();
        let keys: Vec<_> = of.iter().map(|of| link.token_key(database, *of)).collect();
        let mut pipeline = redis::pipe();
        let entry_key = link.entry_key(database, key);
        pipeline.cmd("GET").arg(&entry_key).cmd("PTTL").arg(&entry_key).cmd("MGET").arg(&keys);
        let (entry, left, tokens): (Option<Bytes>, i64, Vec<Option<Vec<u8>>>) = link.query(&pipeline).await?;
        if let Some(tokens) = all_known(&of, &tokens) {
            // Negative: it went between the two.
            let left = u64::try_from(left).ok().map(Duration::from_millis);
            return Ok((entry.zip(left), tokens));
        }
        let mut pipeline = redis::pipe();
        for (key, _) in keys.iter().zip(&tokens).filter(|(_, token)| token.is_none()) {
            let options = ("NX", "EX", TOKEN_SECONDS);
            pipeline.cmd("SET").arg(key).arg(&new_token()[..]).arg(options).ignore();
        }
        pipeline.cmd("MGET").arg(&keys);
        let (tokens,): (Vec<Option<Vec<u8>>>,) = link.query(&pipeline).await?;
        let tokens = all_known(&of, &tokens);
        // Evicted at once: a store without room.
        tokens
            .map(|tokens| (None, tokens))
            .ok_or_else(|| (redis::ErrorKind::Client, "no room for tokens").into())
    }

    /// Tells of tokens that are not those of the last time, and only then takes them for known.
    fn learn(&self, database: &str, tokens: &[(Of, Token)], foreign: impl Fn(&Touched)) {
        let new: Vec<_> = {
            let known = locked(&self.known);
            let is_new = |(of, token): &&(Of, Token)| known.get(&(database.into(), *of)) != Some(token);
            tokens.iter().filter(is_new).copied().collect()
        };
        if new.is_empty() {
            return;
        }
        let mut touched = Touched::default();
        let mut relations = Vec::new();
        for (of, _) in &new {
            match of {
                Of::All | Of::Database => touched.everything = true,
                Of::Catalogs => touched.catalogs = true,
                Of::Relation(relation) => relations.push(*relation),
            }
        }
        relations.sort_unstable();
        touched.relations = relations.into();
        foreign(&touched);
        self.remember(database, &new);
    }

    fn remember(&self, database: &str, tokens: &[(Of, Token)]) {
        let mut known = locked(&self.known);
        if known.len() + tokens.len() > KNOWN_MAX {
            known.clear();
        }
        known.extend(tokens.iter().map(|(of, token)| ((database.into(), *of), *token)));
    }

    /// Keeps a result that was read after its lookup missed. Returns at once.
    pub fn put(&self, stamp: &SharedStamp, database: &str, key: &[u8], result: &[u8], ttl: Duration) {
        let Ok(permit) = Arc::clone(&self.puts).try_acquire_owned() else {
            self.counts.puts_refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let link = Arc::clone(&stamp.link);
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, TOKEN_SECONDS * 1000);
        let mut pipeline = redis::pipe();
        let value = closed(&stamp.tokens, result);
        pipeline.cmd("SET").arg(link.entry_key(database, key)).arg(value).arg(("PX", millis)).ignore();
        let counts = Arc::clone(&self.counts);
        self.runtime.spawn(async move {
            // One that is lost is a miss, later.
            let putting = Box::pin(link.query::<Value>(&pipeline));
            if let Ok(Ok(_)) = timeout(CONNECT_TIMEOUT, putting).await {
                counts.puts.fetch_add(1, Ordering::Relaxed);
            }
            drop(permit);
        });
    }

    /// These were written: to be awaited in front of the answer. Takes no longer than `invalidate_timeout`.
    pub async fn invalidate(&self, database: &str, written: &Touched) -> Invalidated {
        if written.is_nothing() {
            return Invalidated::Done;
        }
        self.counts.invalidations.fetch_add(1, Ordering::Relaxed);
        let Some(link) = self.link_or_owe() else { return Invalidated::Owed };
        let token = new_token();
        let relations = written.relations.iter().map(|relation| Of::Relation(*relation));
        let everything = written.everything.then_some(Of::Database);
        let catalogs = written.catalogs.then_some(Of::Catalogs);
        let tokens: Vec<_> = relations.chain(everything).chain(catalogs).map(|of| (of, token)).collect();
        let mut pipeline = redis::pipe();
        for (of, token) in &tokens {
            let key = link.token_key(database, *of);
            pipeline.cmd("SET").arg(key).arg(&token[..]).arg(("EX", TOKEN_SECONDS)).ignore();
        }
        let saying = Box::pin(link.query::<Value>(&pipeline));
        match timeout(self.settings.invalidate_timeout, saying).await {
            Ok(Ok(_)) => {
                // The write is our own: nobody need be told of it.
                self.remember(database, &tokens);
                Invalidated::Done
            }
            Ok(Err(error)) => self.owe(&error.to_string()),
            Err(_) => self.owe("an invalidation took too long"),
        }
    }

    /// All that is there is void, of whatever database.
    pub fn void_all(self: &Arc<Self>) -> JoinHandle<()> {
        let shared = Arc::clone(self);
        self.spawn(async move {
            let _ = shared.invalidate_all().await;
        })
    }

    async fn invalidate_all(&self) -> Invalidated {
        let Some(link) = self.link_or_owe() else { return Invalidated::Owed };
        match timeout(self.settings.invalidate_timeout, Box::pin(link.void(None))).await {
            Ok(Ok(())) => Invalidated::Done,
            Ok(Err(error)) => self.owe(&error.to_string()),
            Err(_) => self.owe("an invalidation took too long"),
        }
    }

    /// Runs `work` on the event loop of the store's connection, whatever becomes of who asked for it.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        self.runtime.spawn(work)
    }

    fn link(&self) -> Option<Arc<Link>> {
        locked(&self.state).link.clone()
    }

    /// The connection; without one, the invalidation is owed.
    fn link_or_owe(&self) -> Option<Arc<Link>> {
        let mut state = locked(&self.state);
        if state.link.is_none() {
            state.owed += 1;
            self.counts.owed.fetch_add(1, Ordering::Relaxed);
        }
        state.link.clone()
    }

    fn owe(&self, why: &str) -> Invalidated {
        self.counts.owed.fetch_add(1, Ordering::Relaxed);
        locked(&self.state).owed += 1;
        self.distrust(why);
        Invalidated::Owed
    }

    /// Looks nothing up any more, until it has been connected to and made void again.
    pub(super) fn distrust(&self, why: &str) {
        let link = locked(&self.state).link.take();
        if link.is_some() {
            tracing::warn!(error = why, "the shared cache is not trusted any more");
            self.lost.notify_one();
        }
    }

    fn rests(&self) -> bool {
        self.micros(Instant::now()) < self.rests_until.load(Ordering::Relaxed)
    }

    fn rest(&self) {
        self.rests_until.store(self.micros(Instant::now() + REST), Ordering::Relaxed);
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_micros()).unwrap_or(u64::MAX)
    }
}

/// Why there is no shared cache.
#[derive(Debug, thiserror::Error)]
pub enum SharedCacheError {
    /// The URL is none that the library reads.
    #[error("shared_cache.url is not understood")]
    Url,
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// It does not say which run of which server it is.
    #[error("the server does not tell its run_id")]
    NoRunId,
    /// An invalidation has not reached it.
    #[error("an invalidation has not reached it")]
    Distrusted,
    /// The server's error, or a broken connection.
    #[error("{0}")]
    Redis(#[from] RedisError),
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
