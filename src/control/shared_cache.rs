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
//!   - [`SharedCache::put`], of what was read after them;
//! - a write, between the floors and the answer: [`SharedCache::invalidate`]. What the change stream shows, too.
//! - once a second: [`SharedCache::set_covered`], whether all that is written is known: change streams vouch, or the operator.
//!
//! It is *trusted* while all our invalidations have reached it. One that did not in time, a broken connection, and nothing
//! is looked up any more until all that is there has been made void, or, at the start, until another Weir has vouched for
//! it all the while. So a dead, slow or emptied store costs misses, and that is all.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ahash::HashMap;
use bytes::Bytes;
use redis::{AsyncConnectionConfig, Client, RedisError, Value};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::retry::Retry;
use super::shared_entry::{Link, Of, Token, all_known, closed, new_token, opened};
use crate::catalog::Touched;
use crate::config::SharedCacheSettings;

/// Attempts to reach the store are at most so far apart.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// How long a connection, and what is said on it in the background, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Tokens of relations that nobody has asked for for so long are forgotten there.
const TOKEN_SECONDS: u64 = 7 * 24 * 3600;

/// After a lookup that took too long there is none for a while: a slow store must not slow down every miss.
const REST: Duration = Duration::from_millis(250);

/// Results on their way to the store at most; more are not kept.
const PUTS_MAX: usize = 256;

/// Tokens that are remembered at most; past it, all are learnt anew.
const KNOWN_MAX: usize = 100_000;

/// Who vouches says so every second, and it counts for so long.
const TEND: Duration = Duration::from_secs(1);
const LEASE: Duration = Duration::from_secs(3);

/// Who joins others waits for so long, in which they must have vouched again for what was written before.
const JOIN_AFTER: Duration = Duration::from_secs(8);

/// And for his own streams no longer than this.
const COVER_WITHIN: Duration = Duration::from_secs(30);

/// The tokens that a read begins with.
#[derive(Clone, Debug)]
pub struct SharedStamp {
    link: Arc<Link>,
    tokens: Vec<(Of, Token)>,
}

/// What a lookup found.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// A result that is good now.
    Hit(Bytes),
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
    /// How often the store was trusted anew with all of it made void.
    pub voided: AtomicU64,
    /// How often it was trusted with what was there.
    pub joined: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    link: Option<Arc<Link>>,
    /// Invalidations that have not reached the store.
    owed: u64,
}

/// See the module.
#[derive(Debug)]
pub struct SharedCache {
    settings: SharedCacheSettings,
    client: Client,
    /// Tells us from other Weirs.
    instance: String,
    state: Mutex<State>,
    lost: Notify,
    /// The tokens last seen, by database.
    known: Mutex<HashMap<(Box<str>, Of), Token>>,
    covered: AtomicBool,
    cover_changed: Notify,
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
    /// Begins to connect, on this event loop; `None` if it is not wanted.
    pub fn start(settings: &SharedCacheSettings) -> Result<Option<Arc<Self>>, SharedCacheError> {
        let Some(url) = &settings.url else { return Ok(None) };
        let client = Client::open(url.as_str()).map_err(|_| SharedCacheError::Url)?;
        let shared = Arc::new(Self {
            settings: settings.clone(),
            client,
            instance: format!("{:032x}", rand::random::<u128>()),
            state: Mutex::default(),
            lost: Notify::new(),
            known: Mutex::default(),
            covered: AtomicBool::new(false),
            cover_changed: Notify::new(),
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

    /// Whether results may come from there.
    pub fn is_trusted(&self) -> bool {
        locked(&self.state).link.as_ref().is_some_and(|link| link.trusted.load(Ordering::SeqCst))
    }

    /// Whether we know of all that is written from now on: then others may rely on us when they join.
    pub fn set_covered(&self, covered: bool) {
        if self.covered.swap(covered, Ordering::SeqCst) != covered {
            self.cover_changed.notify_one();
        }
    }

    /// Looks a result up, and tells `foreign` first of what somebody else has written since we looked last.
    pub async fn find(
        &self,
        database: &str,
        reads: &Touched,
        key: &[u8],
        foreign: impl Fn(&Touched) + Send,
    ) -> Lookup {
        let link = self.link().filter(|link| link.trusted.load(Ordering::SeqCst) && !self.rests());
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
        // A write of ours may have found the store not there meanwhile.
        if !link.trusted.load(Ordering::SeqCst) {
            return Lookup::Silent;
        }
        let good = entry.and_then(|entry| opened(&entry, &tokens));
        let counter = if good.is_some() { &self.counts.hits } else { &self.counts.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        good.map_or_else(|| Lookup::Miss(SharedStamp { link, tokens }), Lookup::Hit)
    }

    /// The entry, and then the tokens: what is equal now was good when it was read.
    async fn look(
        &self,
        link: &Link,
        database: &str,
        reads: &Touched,
        key: &[u8],
    ) -> Result<(Option<Bytes>, Vec<(Of, Token)>), RedisError> {
        let relations = reads.relations.iter().map(|relation| Of::Relation(*relation));
        let of: Vec<Of> = [Of::All, Of::Database, Of::Catalogs].into_iter().chain(relations).collect();
        let keys: Vec<_> = of.iter().map(|of| link.token_key(database, *of)).collect();
        let mut pipeline = redis::pipe();
        pipeline.cmd("GET").arg(link.entry_key(database, key)).cmd("MGET").arg(&keys);
        let (entry, tokens): (Option<Bytes>, Vec<Option<Vec<u8>>>) = link.query(&pipeline).await?;
        if let Some(tokens) = all_known(&of, &tokens) {
            return Ok((entry, tokens));
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
    fn distrust(&self, why: &str) {
        let link = locked(&self.state).link.take();
        if let Some(link) = link {
            link.trusted.store(false, Ordering::SeqCst);
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

    /// Keeps a connection, for ever.
    async fn keep(self: Arc<Self>) {
        let mut retry = Retry::new(RETRY_MAX);
        let mut is_first = true;
        loop {
            let error = match self.connect(is_first).await {
                Ok(link) => {
                    retry.worked();
                    tracing::info!("the shared cache is trusted");
                    is_first = false;
                    self.tend(&link).await
                }
                Err(error) => error,
            };
            self.distrust(&error.to_string());
            let (pause, is_news) = retry.failed(&error.to_string());
            if is_news {
                tracing::warn!(%error, "no shared cache");
            }
            sleep(pause).await;
        }
    }

    /// Connects, and makes all void that is there, or joins others who have vouched for it.
    async fn connect(&self, is_first: bool) -> Result<Arc<Link>, SharedCacheError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(CONNECT_TIMEOUT));
        let opening = Box::pin(self.client.get_multiplexed_async_connection_with_config(&config));
        let connection =
            timeout(CONNECT_TIMEOUT * 2, opening).await.map_err(|_| SharedCacheError::Timeout)??;
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection.clone()).await?;
        let run =
            info.lines().find_map(|line| line.strip_prefix("run_id:")).ok_or(SharedCacheError::NoRunId)?;
        let prefix = format!("{}:{}:", self.settings.namespace, run.trim());
        let link = Arc::new(Link { connection, prefix, trusted: AtomicBool::new(false) });
        if is_first && self.join(&link).await? {
            self.counts.joined.fetch_add(1, Ordering::Relaxed);
            return Ok(link);
        }
        loop {
            let owed = locked(&self.state).owed;
            let mut pipeline = redis::pipe();
            let key = link.token_key("", Of::All);
            pipeline.cmd("SET").arg(key).arg(&new_token()[..]).arg(("EX", TOKEN_SECONDS)).ignore();
            link.query::<Value>(&pipeline).await?;
            let mut state = locked(&self.state);
            // Otherwise something was written meanwhile, perhaps after others had read it.
            if state.owed == owed {
                link.trusted.store(true, Ordering::SeqCst);
                state.link = Some(Arc::clone(&link));
                self.counts.voided.fetch_add(1, Ordering::Relaxed);
                return Ok(link);
            }
        }
    }

    /// Whether others have vouched for all that is there, also for what was written before our own streams began.
    async fn join(&self, link: &Arc<Link>) -> Result<bool, SharedCacheError> {
        if !self.is_vouched_for(link).await? {
            return Ok(false);
        }
        // Ours are said from now on, though we look nothing up yet.
        locked(&self.state).link = Some(Arc::clone(link));
        if timeout(COVER_WITHIN, self.until_covered()).await.is_err() {
            locked(&self.state).link = None;
            return Ok(false);
        }
        sleep(JOIN_AFTER).await;
        let is_vouched_for = self.is_vouched_for(link).await? && self.covered.load(Ordering::SeqCst);
        let mut state = locked(&self.state);
        let is_joined = is_vouched_for && state.owed == 0 && state.link.is_some();
        if is_joined {
            link.trusted.store(true, Ordering::SeqCst);
        } else {
            state.link = None;
        }
        Ok(is_joined)
    }

    async fn until_covered(&self) {
        while !self.covered.load(Ordering::SeqCst) {
            self.cover_changed.notified().await;
        }
    }

    async fn is_vouched_for(&self, link: &Link) -> Result<bool, SharedCacheError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("GET").arg(link.lease_key());
        let (holder,): (Option<String>,) = link.query(&pipeline).await?;
        Ok(holder.is_some_and(|holder| holder != self.instance))
    }

    /// Vouches every second, and sees that the connection stands.
    async fn tend(&self, link: &Link) -> SharedCacheError {
        loop {
            let mut pipeline = redis::pipe();
            if self.covered.load(Ordering::SeqCst) {
                let millis = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
                pipeline.cmd("SET").arg(link.lease_key()).arg(&self.instance).arg(("PX", millis)).ignore();
            } else {
                pipeline.cmd("PING").ignore();
            }
            if let Err(error) = link.query::<Value>(&pipeline).await {
                return error.into();
            }
            tokio::select! {
                () = sleep(TEND) => {}
                () = self.lost.notified() => {}
            }
            if !link.trusted.load(Ordering::SeqCst) {
                return SharedCacheError::Distrusted;
            }
        }
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

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
