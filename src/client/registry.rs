//! Who is connected: for CancelRequest, for the console, for limits, and to tell a client's task something.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use ahash::HashMap;

use crate::config::ClientSettings;
use crate::net::Peer;
use crate::pg::ProcessId;
use crate::server::{CancelGuard, CancelTarget, Tenant, Tenants};
use crate::sql::PinSet;
use crate::wire::startup::{self, Replication};

/// What a client's task is told by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Give unused buffers back.
    Trim,
    /// The wait for a server connection was canceled.
    Cancel,
    /// It has been idle for too long.
    IdleTimeout,
    /// Its transaction has been idle for too long.
    IdleInTransactionTimeout,
    /// The operator ends it.
    Kill,
    /// Weir stops.
    Shutdown,
}

impl Signal {
    const ALL: [Self; 6] = [
        Self::Kill,
        Self::Shutdown,
        Self::IdleInTransactionTimeout,
        Self::IdleTimeout,
        Self::Cancel,
        Self::Trim,
    ];

    fn bit(self) -> u8 {
        match self {
            Self::Trim => 1,
            Self::Cancel => 2,
            Self::IdleTimeout => 4,
            Self::IdleInTransactionTimeout => 8,
            Self::Kill => 16,
            Self::Shutdown => 32,
        }
    }
}

/// What a client is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// Nothing; it holds no server connection.
    Idle,
    /// It waits for a server connection.
    Waiting,
    /// It holds a server connection.
    Active,
    /// It holds a server connection in a transaction, and runs nothing.
    IdleInTransaction,
}

impl Activity {
    /// The word in the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Active => "active",
            Self::IdleInTransaction => "idle_in_transaction",
        }
    }
}

/// One connected client, as others see it.
#[derive(Debug)]
pub struct Handle {
    /// The process id that it was given.
    pub process: ProcessId,
    secret: Box<[u8]>,
    /// Its database and user.
    pub tenant: Arc<Tenant>,
    /// Where it comes from.
    pub peer: Peer,
    /// Whether it came by TLS.
    pub tls: bool,
    /// What it called itself at login.
    pub application_name: Box<str>,
    /// What it replicates, if it does: then its server connection is its own.
    pub replication: Option<Replication>,
    /// When it logged in.
    pub connected: Instant,
    /// What it is doing, and since when (milliseconds after `connected`).
    activity: AtomicU8,
    since_ms: AtomicU64,
    /// Why it keeps its server connection.
    pins: AtomicU32,
    trimmed: AtomicU8,
    signals: AtomicU8,
    waker: Mutex<Option<Waker>>,
    /// The server connection that it holds.
    target: Mutex<Option<Arc<CancelTarget>>>,
}

impl Handle {
    /// Notes what the client does from now on.
    #[inline]
    pub fn set_activity(&self, activity: Activity, now: Instant) {
        self.activity.store(activity as u8, Ordering::Relaxed);
        let since = now.saturating_duration_since(self.connected).as_millis();
        self.since_ms.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// What the client does, and for how long it has.
    pub fn activity(&self) -> (Activity, Duration) {
        let activity = match self.activity.load(Ordering::Relaxed) {
            0 => Activity::Idle,
            1 => Activity::Waiting,
            2 => Activity::Active,
            _ => Activity::IdleInTransaction,
        };
        let since = Duration::from_millis(self.since_ms.load(Ordering::Relaxed));
        (activity, self.connected.elapsed().saturating_sub(since))
    }

    /// Notes why the client keeps its server connection.
    pub fn set_pins(&self, pins: PinSet) {
        self.pins.store(u32::from(pins.bits()), Ordering::Relaxed);
    }

    /// Why the client keeps its server connection.
    pub fn pins(&self) -> PinSet {
        PinSet::from_bits(u16::try_from(self.pins.load(Ordering::Relaxed)).unwrap_or(0))
    }

    /// The server connection that the client holds from now on, or none.
    #[inline]
    pub fn set_target(&self, target: Option<Arc<CancelTarget>>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// The server connection that the client holds.
    pub fn target(&self) -> Option<Arc<CancelTarget>> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The server process that the client's statements run in, if it holds one.
    pub fn server_process(&self) -> Option<ProcessId> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|target| target.process())
    }

    /// Tells the client's task something.
    pub fn signal(&self, signal: Signal) {
        self.signals.fetch_or(signal.bit(), Ordering::AcqRel);
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    /// For the client's task: the next thing it was told, or to be woken when there is one.
    #[inline]
    pub fn poll_signal(&self, context: &mut Context<'_>) -> Poll<Signal> {
        if let Some(signal) = self.take_signal() {
            return Poll::Ready(signal);
        }
        {
            let mut waker = self.waker.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *waker {
                Some(known) => known.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
        }
        // Told between the look and the registration.
        self.take_signal().map_or(Poll::Pending, Poll::Ready)
    }

    fn take_signal(&self) -> Option<Signal> {
        let set = self.signals.load(Ordering::Acquire);
        if set == 0 {
            return None;
        }
        let signal = Signal::ALL.into_iter().find(|signal| set & signal.bit() != 0)?;
        self.signals.fetch_and(!signal.bit(), Ordering::AcqRel);
        Some(signal)
    }

    /// Forgets a cancel that came too late.
    pub fn clear_cancel(&self) {
        self.signals.fetch_and(!Signal::Cancel.bit(), Ordering::AcqRel);
    }
}

/// All connected clients.
#[derive(Debug, Default)]
pub struct Registry {
    clients: Mutex<HashMap<ProcessId, Arc<Handle>>>,
    /// Clients that have not finished their login.
    pub logging_in: AtomicUsize,
    /// CancelRequests that named nobody.
    pub wrong_cancels: AtomicU64,
    /// Connections closed for what they sent.
    pub malformed: AtomicU64,
}

/// A client's entry: taken out when dropped.
#[derive(Debug)]
pub struct Registered {
    /// The entry.
    pub handle: Arc<Handle>,
    registry: Arc<super::Proxy>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.registry.clients.lock().remove(&self.handle.process);
        self.handle.tenant.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client that has logged in, and is about to be entered.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer<'a> {
    /// Its database and user.
    pub tenant: &'a Arc<Tenant>,
    /// Where it comes from.
    pub peer: Peer,
    /// Whether it came by TLS.
    pub tls: bool,
    /// What it calls itself.
    pub application_name: &'a str,
    /// What it replicates, if it does.
    pub replication: Option<Replication>,
    /// The length of the secret in its cancel key.
    pub secret_bytes: usize,
}

/// There are as many clients as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// At all (`clients.max`).
    #[error("too many clients already")]
    All,
    /// Of the user (`clients.max_per_user`).
    #[error("too many clients already of this user")]
    User,
    /// Of the database (`clients.max_per_database`).
    #[error("too many clients already of this database")]
    Database,
}

/// `clients` are connected now; may one of this tenant's come?
fn check(clients: usize, tenants: &Tenants, tenant: &Tenant, limits: &ClientSettings) -> Result<(), Full> {
    if clients >= limits.max {
        return Err(Full::All);
    }
    let reached = |max: Option<usize>, belongs: fn(&Tenant, &Tenant) -> bool| {
        let Some(max) = max else { return false };
        let all = tenants.list();
        let belonging = all.iter().filter(|other| belongs(other, tenant));
        belonging.map(|other| other.clients.load(Ordering::Relaxed)).sum::<usize>() >= max
    };
    if reached(limits.max_per_user, |a, b| a.user == b.user) {
        return Err(Full::User);
    }
    if reached(limits.max_per_database, |a, b| a.database == b.database) {
        return Err(Full::Database);
    }
    Ok(())
}

impl Registry {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ProcessId, Arc<Handle>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many clients are connected.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether nobody is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one with this process id.
    pub fn find(&self, process: ProcessId) -> Option<Arc<Handle>> {
        self.lock().get(&process).cloned()
    }

    /// All of them.
    pub fn list(&self) -> Vec<Arc<Handle>> {
        self.lock().values().cloned().collect()
    }

    /// Whether limits allow another client: a look, before a login costs the server anything. What counts is
    /// [`Registry::register`].
    pub fn check(&self, tenants: &Tenants, tenant: &Tenant, limits: &ClientSettings) -> Result<(), Full> {
        check(self.len(), tenants, tenant, limits)
    }

    /// Enters a client under a process id that is free, if limits allow another one. Gives the entry and the secret.
    pub fn register(
        proxy: &Arc<super::Proxy>,
        newcomer: &Newcomer<'_>,
        limits: &ClientSettings,
    ) -> Result<(Registered, Box<[u8]>), Full> {
        let Newcomer { tenant, peer, tls, application_name, replication, secret_bytes } = *newcomer;
        let secret: Box<[u8]> = (0..secret_bytes).map(|_| rand::random::<u8>()).collect();
        let mut clients = proxy.clients.lock();
        check(clients.len(), &proxy.tenants, tenant, limits)?;
        let process = loop {
            // Process ids are positive 32-bit numbers; drivers show them signed.
            let candidate = ProcessId(rand::random_range(1..=0x7fff_ffff));
            if !clients.contains_key(&candidate) {
                break candidate;
            }
        };
        let handle = Arc::new(Handle {
            process,
            secret: secret.clone(),
            tenant: Arc::clone(tenant),
            peer,
            tls,
            application_name: application_name.into(),
            replication,
            connected: Instant::now(),
            activity: AtomicU8::new(0),
            since_ms: AtomicU64::new(0),
            pins: AtomicU32::new(0),
            trimmed: AtomicU8::new(0),
            signals: AtomicU8::new(0),
            waker: Mutex::new(None),
            target: Mutex::new(None),
        });
        clients.insert(process, Arc::clone(&handle));
        tenant.clients.fetch_add(1, Ordering::Relaxed);
        tenant.logins.fetch_add(1, Ordering::Relaxed);
        drop(clients);
        Ok((Registered { handle, registry: Arc::clone(proxy) }, secret))
    }

    /// A CancelRequest: gives the cancel to be sent to a server, if the client runs something there. A client that
    /// waits for a server connection stops waiting. A wrong key is counted and changes nothing.
    pub fn cancel(&self, process: ProcessId, secret: &[u8]) -> Option<CancelGuard> {
        let handle = self.lock().get(&process).cloned();
        let known = handle.filter(|handle| startup::is_same_secret(&handle.secret, secret));
        let Some(handle) = known else {
            self.wrong_cancels.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let target = handle.target.lock().unwrap_or_else(PoisonError::into_inner);
        if target.is_none() && handle.activity().0 == Activity::Waiting {
            handle.signal(Signal::Cancel);
        }
        // Announced under the lock that the client's task takes before it gives the connection back.
        target.as_ref().map(CancelTarget::announce)
    }

    /// Once a second: tells clients that have been idle for too long, and those with buffers to give back.
    pub fn tend(&self, idle_timeout: Option<Duration>, idle_in_transaction_timeout: Option<Duration>) {
        for handle in self.list() {
            let (activity, since) = handle.activity();
            match activity {
                Activity::Idle => {
                    if idle_timeout.is_some_and(|limit| since >= limit) {
                        handle.signal(Signal::IdleTimeout);
                    } else if since >= Duration::from_secs(1)
                        && handle.trimmed.swap(1, Ordering::Relaxed) == 0
                    {
                        handle.signal(Signal::Trim);
                    }
                }
                Activity::IdleInTransaction => {
                    if idle_in_transaction_timeout.is_some_and(|limit| since >= limit) {
                        handle.signal(Signal::IdleInTransactionTimeout);
                    }
                }
                Activity::Waiting | Activity::Active => handle.trimmed.store(0, Ordering::Relaxed),
            }
        }
    }
}
