//! What reads on replicas need to know, kept up to date: the replicas' positions, and the catalog of each database that
//! a client uses.
//!
//! How clients use it:
//!
//! - at login: [`Splitting::database`] with the database's name on the servers ([`Tenant::dbname`]), held until the client
//!   leaves. Whose floors nobody holds may be forgotten: those made anew begin with all commits until then.
//! - settle: where [`Floors::commit`] says `wake`, [`Splitting::committed`]; where [`SharedCatalog::changed`] or
//!   [`SharedCatalog::suspect`] say so, [`Splitting::catalog_changed`].
//! - DROP DATABASE and its like: [`Splitting::release`], beside [`Tenants::release_database`].
//!
//! [`Tenant::dbname`]: crate::server::Tenant::dbname
//! [`Tenants::release_database`]: crate::server::Tenants::release_database

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};

use super::follow::Follower;
use super::load::Loading;
use super::memory::Memory;
use super::shared_cache::SharedCache;
use super::stream::{self, Streaming};
use super::stream_state::{StreamState, Subscriber};
use super::visibility::Visibility;
use crate::catalog::defaults::Defaults;
use crate::catalog::{SharedCatalog, Touched};
use crate::config::{CacheFreshness, ServerSettings, Settings, StreamSettings, Switch};
use crate::consistency::{Floors, Pace, Positions};
use crate::server::Hosts;

/// Databases whose catalog is kept at most; statements in others go to the primary.
const CATALOGS_MAX: usize = 100;

/// Who wants a database for himself has so long until our stream comes back, and waits so long for it to leave.
const HOLD: Duration = Duration::from_secs(10);
const PART_WITHIN: Duration = Duration::from_secs(3);

/// What is known of a database that nobody uses is forgotten after so long.
const UNUSED_MAX: Duration = Duration::from_secs(600);

/// A database as the servers know it.
#[derive(Clone, Debug)]
pub struct Database {
    /// Its name on the servers.
    pub name: Arc<str>,
    /// What its names mean.
    pub catalog: Arc<SharedCatalog>,
    /// Who wrote its tables last.
    pub floors: Arc<Floors>,
    /// What its change stream vouches for, and who is told what it shows.
    pub stream: Arc<StreamState>,
    /// Whether results that were read of them are still true.
    pub memory: Arc<Memory>,
    defaults: Arc<RwLock<Arc<Defaults>>>,
    /// The settings of roles that server connections were opened with.
    opened_with: Arc<Mutex<Option<Box<str>>>>,
    /// There are commits without a position.
    pub(super) committed: Arc<Notify>,
    /// Wakes the loader: something is to be done.
    pub(super) wake: Arc<Notify>,
    /// Wakes the loader: its connection is in somebody's way.
    pub(super) release: Arc<Notify>,
}

impl Database {
    /// What sessions begin with, as far as ALTER ROLE, ALTER DATABASE and the server's configuration say. Startup-packet
    /// parameters go before these. The same `Arc` as before as long as nothing has changed.
    pub fn defaults(&self) -> Arc<Defaults> {
        Arc::clone(&self.defaults.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Nobody knows what was written: subscribers are told that all was.
    pub(super) fn tell_everything(&self) {
        self.stream.tell(&Touched { catalogs: true, everything: true, ..Touched::default() });
    }

    /// Renews the server connections that began with other settings of roles than there are now: what a session's names
    /// mean is judged by these. Whoever comes meanwhile waits.
    pub fn renew(&self, role_settings: &str, reconnect: impl FnOnce()) {
        let mut opened_with = self.opened_with.lock().unwrap_or_else(PoisonError::into_inner);
        match opened_with.as_deref() {
            Some(known) if known == role_settings => return,
            Some(_) => reconnect(),
            None => {}
        }
        *opened_with = Some(role_settings.into());
    }

    /// Another Weir has written these: what is read from now on has that.
    pub fn written_elsewhere(&self, touched: &Touched) {
        if self.floors.commit(touched, false).wake {
            self.committed.notify_one();
        }
        self.memory.epochs.invalidate(touched);
    }

    pub(super) fn set_defaults(&self, defaults: Defaults) {
        *self.defaults.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(defaults);
    }
}

/// A database, and the task that keeps it up to date.
#[derive(Debug)]
struct Kept {
    /// Only users have this `Arc`; the loader has a copy of what is in it.
    database: Arc<Database>,
    loader: Option<AbortHandle>,
    stream: Option<AbortHandle>,
    unused_since: Option<Instant>,
}

impl Kept {
    /// Whether anybody but us has it. Who has not can get it from us only.
    fn is_used(&self) -> bool {
        Arc::strong_count(&self.database) > 1
    }

    fn abort(&self) {
        for task in self.loader.iter().chain(&self.stream) {
            task.abort();
        }
    }

    fn has_loader(&self) -> bool {
        self.loader.as_ref().is_some_and(|loader| !loader.is_finished())
    }
}

/// By name. Those without a loader are here for their floors.
type Databases = HashMap<Box<str>, Kept>;

/// See the module.
#[derive(Debug)]
pub struct Splitting {
    /// Reads go to replicas; else all this is for the cache, which wants to know what statements do.
    pub splits: bool,
    /// Of all hosts.
    pub positions: Arc<Positions>,
    committed: Arc<Notify>,
    resolved: Arc<Notify>,
    databases: Arc<Mutex<Databases>>,
    hosts: Arc<Hosts>,
    servers: ServerSettings,
    catalog_interval: Duration,
    stream: StreamSettings,
    visibility: Arc<Visibility>,
    freshness: CacheFreshness,
    /// Results that several Weirs share.
    pub shared: Option<Arc<SharedCache>>,
    /// Where its tasks run, whoever asks for them.
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
}

impl Splitting {
    /// Begins to watch, on this event loop; `None` if there is nothing to split.
    pub fn start(
        settings: &Settings,
        hosts: &Arc<Hosts>,
        shared: Option<Arc<SharedCache>>,
    ) -> Option<Arc<Self>> {
        let splits = settings.splitting.is_on(hosts.list().len());
        if !splits && !settings.cache.enabled {
            return None;
        }
        let pace = Pace::default();
        let splitting = Arc::new(Self {
            splits,
            positions: Arc::new(Positions::new(hosts.list().len(), pace)),
            committed: Arc::default(),
            resolved: Arc::default(),
            databases: Arc::default(),
            hosts: Arc::clone(hosts),
            servers: settings.servers.clone(),
            catalog_interval: settings.splitting.catalog_interval,
            stream: settings.stream.clone(),
            visibility: Arc::new(Visibility::new(settings.servers.clone())),
            freshness: settings.cache.freshness,
            shared,
            runtime: Handle::current(),
            tasks: Mutex::default(),
        });
        splitting.follow(pace);
        Some(splitting)
    }

    fn follow(&self, pace: Pace) {
        let follower = Arc::new(Follower {
            positions: Arc::clone(&self.positions),
            pace,
            hosts: Arc::clone(&self.hosts),
            servers: self.servers.clone(),
            committed: Arc::clone(&self.committed),
            resolved: Arc::clone(&self.resolved),
        });
        for host in self.hosts.list() {
            let (follower, host) = (Arc::clone(&follower), Arc::clone(host));
            self.spawn(async move { follower.follow_replica(host).await });
        }
        let databases = Arc::clone(&self.databases);
        self.spawn(async move {
            let begun_anew = || {
                for kept in locked(&databases).values() {
                    kept.database.catalog.changed();
                    kept.database.stream.tell_begun();
                    kept.database.wake.notify_one();
                }
            };
            follower.follow_primary(begun_anew).await;
        });
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        locked(&self.tasks).spawn_on(task, &self.runtime)
    }

    /// What is known of a database. Hold it as long as its floors are to count.
    pub fn database(&self, name: &str) -> Arc<Database> {
        let mut databases = locked(&self.databases);
        if let Some(kept) = databases.get_mut(name) {
            kept.unused_since = None;
            return Arc::clone(&kept.database);
        }
        let (name, stream): (Arc<str>, Arc<StreamState>) = (name.into(), Arc::default());
        // It has the memory for its subscriber.
        let (weak, freshness) = (Arc::downgrade(&stream), self.freshness);
        let covers = move |now| match freshness {
            CacheFreshness::Stream => weak.upgrade().is_some_and(|stream| stream.vouches(now)),
            CacheFreshness::Proxy | CacheFreshness::Ttl => true,
        };
        let memory = Arc::new(Memory::new(Arc::clone(&name), self.shared.clone(), covers));
        // What others have written is void, too.
        stream.subscribe(Arc::clone(&memory) as Arc<dyn Subscriber>);
        let database = Arc::new(Database {
            name: Arc::clone(&name),
            catalog: Arc::default(),
            floors: Arc::new(Floors::new(Arc::clone(&self.positions))),
            stream,
            memory,
            defaults: Arc::default(),
            opened_with: Arc::default(),
            committed: Arc::clone(&self.committed),
            wake: Arc::default(),
            release: Arc::default(),
        });
        let kept = Kept { database: Arc::clone(&database), loader: None, stream: None, unused_since: None };
        databases.insert((*name).into(), kept);
        self.start_loaders(&mut databases);
        database
    }

    /// Gives those that have none a loader, as far as there may be so many.
    fn start_loaders(&self, databases: &mut Databases) {
        let loaders = databases.values().filter(|kept| kept.has_loader()).count();
        let without = databases.values_mut().filter(|kept| !kept.has_loader());
        for kept in without.take(CATALOGS_MAX.saturating_sub(loaders)) {
            let loading = Loading {
                database: Database::clone(&kept.database),
                hosts: Arc::clone(&self.hosts),
                servers: self.servers.clone(),
                interval: self.catalog_interval,
            };
            kept.loader = Some(self.spawn(loading.run()));
            if self.stream.enabled != Switch::Off && kept.stream.is_none() {
                let streaming = Streaming {
                    database: Database::clone(&kept.database),
                    hosts: Arc::clone(&self.hosts),
                    servers: self.servers.clone(),
                    settings: self.stream.clone(),
                    positions: Arc::clone(&self.positions),
                    visibility: Arc::clone(&self.visibility),
                    resolved: Arc::clone(&self.resolved),
                };
                kept.stream = Some(self.spawn(streaming.run()));
            }
        }
    }

    /// A commit has no position yet.
    pub fn committed(&self) {
        self.committed.notify_one();
    }

    /// The catalog of a database has changed, or may have.
    pub fn catalog_changed(&self, database: &Database) {
        database.wake.notify_one();
    }

    /// Closes our own connections to a database, so that DROP DATABASE and its like can run. The stream's must be closed
    /// before that is sent: it is refused at once where a slot is in use.
    pub async fn release(&self, name: &str) {
        if let Some(stream) = self.hold(name) {
            stream::parted(&stream, PART_WITHIN).await;
        }
    }

    /// The same without waiting.
    pub fn hold(&self, name: &str) -> Option<Arc<StreamState>> {
        let databases = locked(&self.databases);
        let database = &databases.get(name)?.database;
        database.release.notify_one();
        database.stream.held_until.send_replace(Some(Instant::now() + HOLD));
        Some(Arc::clone(&database.stream))
    }

    /// The databases that are known, by name.
    pub fn list(&self) -> Vec<Arc<Database>> {
        let mut list: Vec<_> =
            locked(&self.databases).values().map(|kept| Arc::clone(&kept.database)).collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// Databases whose catalog is kept, and those for which there is no room.
    pub fn catalogs(&self) -> (usize, usize) {
        let databases = locked(&self.databases);
        let kept = databases.values().filter(|kept| kept.has_loader()).count();
        (kept, databases.len() - kept)
    }

    /// Once a second: forgets databases that nobody uses.
    pub fn tend(&self, now: Instant) {
        let mut databases = locked(&self.databases);
        databases.retain(|_, kept| {
            if kept.is_used() {
                kept.unused_since = None;
                return true;
            }
            let since = *kept.unused_since.get_or_insert(now);
            let is_kept = now.saturating_duration_since(since) < UNUSED_MAX;
            if !is_kept {
                kept.abort();
            }
            is_kept
        });
        self.start_loaders(&mut databases);
        drop(databases);
        while let Some(ended) = locked(&self.tasks).try_join_next() {
            // All of them run until they are aborted.
            if let Err(error) = ended.as_ref()
                && error.is_panic()
            {
                tracing::error!(%error, "a task of the splitting ended: what it kept up to date is old from now on");
            }
        }
    }

    /// Ends all its tasks.
    pub fn stop(&self) {
        if let Some(shared) = &self.shared {
            shared.stop();
        }
        locked(&self.tasks).abort_all();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
