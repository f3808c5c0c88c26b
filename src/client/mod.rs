#![allow(clippy::disallowed_methods, reason = "an I/O module: it reads the clock")]
//! Clients: accepting them, logging them in, and the loop that serves each.
//!
//! `conversation` is the product in one sitting: receive, analyze, decide, acquire, relay, settle, record.

mod admission;
mod authenticate;
mod caching;
mod commits;
mod conversation;
mod downward;
mod fault;
mod filling;
mod held;
mod login;
mod memos;
mod parser;
mod registry;
mod relay;
mod replication;
mod routing;
mod secrets;
mod sharing;
mod upward;
mod waiting;
mod watching;

pub use fault::{Fault, LoginError};
pub use login::{Console, ConsoleSession, serve};
pub use registry::{Activity, Handle, Registry, Signal};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::cache::Cache;
use crate::config::SharedSettings;
use crate::control::{Splitting, UserQuery};
use crate::insight::Insight;
use crate::net::tls::Acceptor;
use crate::route::{Counts, Reason};
use crate::server::{Hosts, Tenants};
use crate::session::Shared;
use crate::sql::{Analysis, Lexing};
use memos::Memos;
use parser::Parser;
use secrets::Secrets;

/// What all clients share: the running proxy.
#[derive(Debug)]
pub struct Proxy {
    settings: RwLock<SharedSettings>,
    /// What sessions share.
    pub sessions: Shared,
    /// The PostgreSQL hosts.
    pub hosts: Arc<Hosts>,
    /// Databases and users, with their pools.
    pub tenants: Tenants,
    /// What is known for reads on replicas, if there are any.
    pub splitting: Option<Arc<Splitting>>,
    /// Results from memory, if they are to be kept.
    pub cache: Option<Arc<Cache>>,
    /// What is seen of statements, if anything is.
    pub insight: Option<Arc<Insight>>,
    memos: Arc<[Mutex<Memos>]>,
    /// For long texts, if any are to be routed.
    parser: Option<Parser>,
    /// How often each reason has decided on a route.
    pub routes: Counts,
    /// Who is connected.
    pub clients: Registry,
    /// When it was made.
    pub started: Instant,
    tls: RwLock<Option<Acceptor>>,
    secrets: Secrets,
    users: Option<UserQuery>,
    draining: AtomicBool,
    /// The last turn of the first event loop, in milliseconds after the start.
    heartbeat_ms: AtomicU64,
}

impl Proxy {
    /// A proxy without clients. Fails if there is no thread to be had.
    pub fn new(
        settings: SharedSettings,
        hosts: Arc<Hosts>,
        tls: Option<Acceptor>,
        users: Option<UserQuery>,
        splitting: Option<Arc<Splitting>>,
        insight: Option<Arc<Insight>>,
    ) -> std::io::Result<Self> {
        let sessions = Shared {
            statements: crate::session::Statements::default(),
            ddl_epoch: AtomicU64::new(0),
            prepare_unnamed: settings.prepared.unnamed,
            prepare_simple: settings.prepared.simple,
            statements_per_client_max: settings.prepared.per_client_max,
        };
        let memos = memos::memos(settings.workers);
        let parser = splitting.as_ref().map(|_| Parser::start(Arc::clone(&memos))).transpose()?;
        let secrets = Secrets::new(rand::random());
        secrets.expect(&settings);
        // Without what is known of statements nothing could be kept.
        let cache = splitting.as_ref().and_then(|_| Cache::new(&settings.cache));
        Ok(Self {
            settings: RwLock::new(settings),
            sessions,
            hosts,
            tenants: Tenants::default(),
            splitting,
            cache,
            insight,
            memos,
            parser,
            routes: Counts::default(),
            clients: Registry::default(),
            tls: RwLock::new(tls),
            started: Instant::now(),
            secrets,
            users,
            draining: AtomicBool::new(false),
            heartbeat_ms: AtomicU64::new(0),
        })
    }

    /// What a text says, from the worker's memo or found now.
    fn analysis(&self, worker: usize, text: &[u8], lexing: Lexing) -> Arc<Analysis> {
        self.memos(worker).analyze(text, lexing)
    }

    fn memos(&self, worker: usize) -> MutexGuard<'_, Memos> {
        memos::lock(&self.memos, worker)
    }

    /// A statement, or a batch, went where it went for this reason.
    #[inline]
    pub fn count(&self, reason: Reason) {
        self.routes.count(reason);
    }

    /// Clients are being sent away from now on.
    pub fn begin_drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether clients are being sent away.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The event loop turns.
    pub fn beat(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heartbeat_ms.store(now, Ordering::Relaxed);
    }

    /// How long ago the event loop last turned.
    pub fn since_heartbeat(&self) -> Duration {
        let last = Duration::from_millis(self.heartbeat_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }

    /// The settings in force.
    pub fn settings(&self) -> SharedSettings {
        Arc::clone(&self.settings.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts new settings in force; logins from now on find them.
    pub fn reload(&self, settings: SharedSettings, tls: Option<Acceptor>) {
        self.secrets.forget();
        self.secrets.expect(&settings);
        if let Some(insight) = &self.insight {
            insight.reload(&settings.slow_log);
        }
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = tls;
        if let Some(users) = &self.users {
            users.forget_all();
        }
    }

    /// The stored secret of a user whom the configuration does not name.
    async fn lookup_secret(&self, user: &str) -> Option<crate::config::Secret> {
        self.users.as_ref()?.secret(user).await
    }

    /// The user's password was wrong: whatever was looked up may be out of date.
    fn doubt_secret(&self, user: &str) {
        if let Some(users) = &self.users {
            users.forget(user);
        }
    }

    /// TLS towards clients, if it is on.
    pub fn tls(&self) -> Option<Acceptor> {
        self.tls.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
