//! Databases and users as clients name them, and the pools of each.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ahash::{HashMap, HashSet};

use super::connect::Credentials;
use super::hosts::Host;
use super::pool::{Pool, PoolKey, PoolStats};
use crate::config::{PoolSettings, Settings};
use crate::session::{self, Reported};

/// Databases and users that may be known at a time: with a `*` database, clients make up their names.
const TENANTS_MAX: usize = 10_000;

/// A database and user without clients and server connections are forgotten after so long.
const TENANT_REST: Duration = Duration::from_secs(60);

/// Logins whose reported settings are remembered, per database and user.
const WELCOMES_MAX: usize = 256;

/// A database and user as a client names them, with a pool on each host.
#[derive(Debug)]
pub struct Tenant {
    /// The database, as clients name it.
    pub database: String,
    /// The user.
    pub user: String,
    /// The database's name on the servers.
    dbname: String,
    /// The limits of each pool.
    pub pool_settings: PoolSettings,
    database_open: Arc<AtomicUsize>,
    database_max: Option<usize>,
    credentials: Mutex<Credentials>,
    pools: Vec<OnceLock<Arc<Pool>>>,
    /// The counters of the pools in whose place ours are, after a reload.
    counters: Vec<Option<(Arc<PoolStats>, u64)>>,
    /// Clients that are connected.
    pub clients: AtomicUsize,
    /// Clients that ever were.
    pub logins: AtomicU64,
    /// PAUSE is in force.
    paused: AtomicBool,
    /// Since when it has had neither clients nor server connections.
    at_rest: Mutex<Option<Instant>>,
    /// What a client is told at login, by the settings that it asks for: so that a login costs no server's time.
    welcomes: Mutex<HashMap<session::Settings, Reported>>,
}

impl Tenant {
    /// The pool on one host, made at need.
    pub fn pool(&self, host: &Host) -> &Arc<Pool> {
        self.pools[host.id.0].get_or_init(|| {
            let key = PoolKey {
                host: host.name().to_owned(),
                database: self.dbname.clone(),
                user: self.user.clone(),
            };
            let pool = Pool::new(
                key,
                self.pool_settings,
                Arc::clone(&host.connector),
                self.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone(),
                Arc::clone(&self.database_open),
                self.database_max,
            );
            let pool = match self.counters.get(host.id.0).cloned().flatten() {
                Some(counters) => pool.counting_on(counters),
                None => pool,
            };
            if self.paused.load(Ordering::Acquire) {
                pool.hold();
            }
            Arc::new(pool)
        })
    }

    /// PAUSE: no more loans, also of pools that are yet to be made.
    pub fn hold(&self) {
        self.paused.store(true, Ordering::Release);
        self.pools().for_each(|pool| pool.hold());
    }

    /// RESUME.
    pub fn resume(&self) {
        self.paused.store(false, Ordering::Release);
        self.pools().for_each(|pool| pool.resume(0));
    }

    /// Whether PAUSE is in force.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Acquire)
    }

    /// Server connections to the database over all users.
    pub fn database_open(&self) -> usize {
        self.database_open.load(Ordering::Relaxed)
    }

    /// The most there may be.
    pub fn database_max(&self) -> Option<usize> {
        self.database_max
    }

    /// Since when it has had neither clients nor server connections, if it has none. Called about once a second.
    fn at_rest(&self, now: Instant) -> Option<Instant> {
        let is_empty = |pool: &Arc<Pool>| {
            let counts = pool.counts();
            counts.active + counts.idle + counts.connecting + counts.waiting == 0
        };
        let rests = self.clients.load(Ordering::Relaxed) == 0 && self.pools().all(is_empty);
        let mut since = self.at_rest.lock().unwrap_or_else(PoisonError::into_inner);
        *since = rests.then(|| since.unwrap_or(now));
        *since
    }

    /// The pools that exist.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.iter().filter_map(OnceLock::get)
    }

    /// The counters of its pools, for those that take their place.
    fn counters(&self) -> Vec<Option<(Arc<PoolStats>, u64)>> {
        let of_pool = |pool: &Arc<Pool>| (Arc::clone(&pool.stats), pool.counts().loans);
        let inherited = |index: usize| self.counters.get(index).cloned().flatten();
        let each = self.pools.iter().enumerate();
        each.map(|(index, pool)| pool.get().map(of_pool).or_else(|| inherited(index))).collect()
    }

    /// The database's name on the servers.
    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// A client has proved who it is: its proof serves to log in to servers from now on. Who is trusted, or showed a
    /// certificate, brings nothing that a server would take; what somebody else proved stays.
    pub fn set_credentials(&self, credentials: &Credentials) {
        if matches!(credentials, Credentials::None) {
            return;
        }
        *self.credentials.lock().unwrap_or_else(PoisonError::into_inner) = credentials.clone();
        for pool in self.pools() {
            pool.set_credentials(credentials.clone());
        }
    }

    /// What a client with these settings is told at login, if it is known.
    pub fn welcome(&self, settings: &session::Settings) -> Option<Reported> {
        self.welcomes.lock().unwrap_or_else(PoisonError::into_inner).get(settings).cloned()
    }

    /// Remembers what a client with these settings is told.
    pub fn remember_welcome(&self, settings: session::Settings, reported: Reported) {
        let mut welcomes = self.welcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if welcomes.len() >= WELCOMES_MAX {
            welcomes.clear();
        }
        welcomes.insert(settings, reported);
    }
}

/// All tenants.
#[derive(Debug, Default)]
pub struct Tenants {
    map: Mutex<TenantMap>,
    /// Server connections per database.
    open: Mutex<HashMap<String, Arc<AtomicUsize>>>,
    paused: Mutex<Paused>,
    /// Those with settings of the past, for the clients that they still have.
    retired: Mutex<Vec<Arc<Tenant>>>,
    /// What is left of each database's releases.
    releases: Mutex<HashMap<String, Allowance>>,
}

/// By database and user.
type TenantMap = HashMap<(String, String), Arc<Tenant>>;

/// Why a client's database and user are not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TenantError {
    /// The settings name no such database.
    #[error("there is no such database")]
    Unknown,
    /// There is no room for another.
    #[error("too many databases and users are in use")]
    TooMany,
}

/// How often something may be done: so often at once, and again after a while each.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    const AT_ONCE: u32 = 20;
    const AGAIN_AFTER: Duration = Duration::from_secs(3);

    fn full(now: Instant) -> Self {
        Self { left: Self::AT_ONCE, since: now }
    }

    fn renew(&mut self, now: Instant) {
        while self.left < Self::AT_ONCE && now.duration_since(self.since) >= Self::AGAIN_AFTER {
            self.left += 1;
            self.since += Self::AGAIN_AFTER;
        }
        if self.left == Self::AT_ONCE {
            self.since = now;
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        self.renew(now);
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}

/// What PAUSE is in force on.
#[derive(Debug, Default)]
struct Paused {
    all: bool,
    databases: HashSet<String>,
}

impl Tenants {
    /// The tenant for a database and user, made at need.
    pub fn tenant(
        &self,
        database: &str,
        user: &str,
        settings: &Settings,
    ) -> Result<Arc<Tenant>, TenantError> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (database.to_owned(), user.to_owned());
        if let Some(tenant) = map.get(&key) {
            return Ok(Arc::clone(tenant));
        }
        if map.len() >= TENANTS_MAX {
            self.forget_at_rest(&mut map, Instant::now(), Duration::ZERO);
        }
        if map.len() >= TENANTS_MAX {
            return Err(TenantError::TooMany);
        }
        let tenant = Arc::new(self.make(database, user, settings).ok_or(TenantError::Unknown)?);
        map.insert(key, Arc::clone(&tenant));
        Ok(tenant)
    }

    /// Forgets those that nobody has used for `rest`. Who logs in holds its tenant: where the map alone does, under its
    /// lock, nobody is about to.
    fn forget_at_rest(&self, map: &mut TenantMap, now: Instant, rest: Duration) {
        map.retain(|_, tenant| {
            let rests = tenant.at_rest(now).is_some_and(|since| now.duration_since(since) >= rest);
            !rests || Arc::strong_count(tenant) > 1
        });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, count| Arc::strong_count(count) > 1);
    }

    /// A tenant by the settings.
    fn make(&self, database: &str, user: &str, settings: &Settings) -> Option<Tenant> {
        let entry = settings.databases.get(database).or_else(|| settings.databases.get("*"))?;
        let mut pool_settings = entry.pool;
        if let Some(user) = settings.users.get(user) {
            pool_settings.mode = user.pool_mode.unwrap_or(pool_settings.mode);
            pool_settings.max = user.pool_max.unwrap_or(pool_settings.max);
        }
        let open = Arc::clone(
            self.open.lock().unwrap_or_else(PoisonError::into_inner).entry(database.to_owned()).or_default(),
        );
        Some(Tenant {
            database: database.to_owned(),
            user: user.to_owned(),
            dbname: entry.dbname.clone().unwrap_or_else(|| database.to_owned()),
            pool_settings,
            database_open: open,
            database_max: entry.connections_max,
            credentials: Mutex::new(Credentials::None),
            pools: settings.hosts.iter().map(|_| OnceLock::new()).collect(),
            counters: Vec::new(),
            clients: AtomicUsize::new(0),
            logins: AtomicU64::new(0),
            paused: AtomicBool::new(self.is_paused(Some(database))),
            at_rest: Mutex::default(),
            welcomes: Mutex::default(),
        })
    }

    /// All that exist; of those with equal names the one that new clients get comes first.
    pub fn list(&self) -> Vec<Arc<Tenant>> {
        let mut list: Vec<_> =
            self.map.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        list.extend(self.retired.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        list
    }

    /// Replaces those that the settings now make otherwise; gives how many. Who has one keeps it until it leaves.
    pub fn renew(&self, settings: &Settings) -> usize {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        let before = retired.len();
        map.retain(|(database, user), tenant| {
            let Some(mut new) = self.make(database, user, settings) else {
                retired.push(Arc::clone(tenant));
                return false;
            };
            let is_same = new.dbname == tenant.dbname
                && new.pool_settings == tenant.pool_settings
                && new.database_max == tenant.database_max;
            if !is_same {
                new.counters = tenant.counters();
                new.logins = AtomicU64::new(tenant.logins.swap(0, Ordering::Relaxed));
                let credentials = tenant.credentials.lock().unwrap_or_else(PoisonError::into_inner).clone();
                new.credentials = Mutex::new(credentials);
                retired.push(std::mem::replace(tenant, Arc::new(new)));
            }
            true
        });
        retired.len() - before
    }

    /// Closes what retired tenants have left, once nobody holds them, and forgets what nobody uses.
    pub fn reap(&self) {
        let now = Instant::now();
        self.forget_at_rest(&mut self.map.lock().unwrap_or_else(PoisonError::into_inner), now, TENANT_REST);
        self.releases.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, allowance| {
            allowance.renew(now);
            allowance.left < Allowance::AT_ONCE
        });
        // Clients and logins hold their tenant: where this list alone does, nobody can come back.
        self.retired.lock().unwrap_or_else(PoisonError::into_inner).retain(|tenant| {
            let is_held = Arc::strong_count(tenant) > 1;
            if !is_held {
                tenant.pools().for_each(Pool::close);
            }
            is_held
        });
    }

    /// PAUSE of one database, or of all: no more loans, to clients of today or of tomorrow.
    pub fn pause(&self, database: Option<&str>) {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        match database {
            Some(name) => _ = paused.databases.insert(name.to_owned()),
            None => paused.all = true,
        }
        drop(paused);
        drop(map);
        self.list().iter().filter(|tenant| is_named(tenant, database)).for_each(|tenant| tenant.hold());
    }

    /// RESUME of one database, or of all.
    pub fn resume(&self, database: Option<&str>) {
        let map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        match database {
            Some(name) => _ = paused.databases.remove(name),
            None => *paused = Paused::default(),
        }
        let all = paused.all;
        drop(paused);
        if !all {
            drop(map);
            self.list().iter().filter(|tenant| is_named(tenant, database)).for_each(|tenant| tenant.resume());
        }
    }

    /// Whether PAUSE is in force on a database, or on all of them.
    pub fn is_paused(&self, database: Option<&str>) -> bool {
        let paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        paused.all || database.is_some_and(|name| paused.databases.contains(name))
    }

    /// Closes idle server connections to a database, so that DROP DATABASE and its like can run. Whoever asks need not
    /// have the right to drop it: it is done so often only that nobody can keep a pool cold by asking.
    pub fn release_database(&self, dbname: &str) {
        if !self.list().iter().any(|tenant| tenant.dbname == dbname) {
            return;
        }
        let now = Instant::now();
        let mut releases = self.releases.lock().unwrap_or_else(PoisonError::into_inner);
        if !releases.entry(dbname.to_owned()).or_insert_with(|| Allowance::full(now)).take(now) {
            tracing::warn!(database = dbname, "idle server connections are closed too often, and stay");
            return;
        }
        drop(releases);
        self.reconnect(dbname);
    }

    /// Closes the server connections to a database: idle ones now, others once they come back.
    pub fn reconnect(&self, dbname: &str) {
        for tenant in self.list().iter().filter(|tenant| tenant.dbname == dbname) {
            tenant.pools().for_each(Pool::reconnect);
        }
    }
}

fn is_named(tenant: &Tenant, database: Option<&str>) -> bool {
    database.is_none_or(|name| tenant.database == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::Hosts;

    #[tokio::test]
    async fn a_reload_replaces_only_what_it_changes() {
        let old = Settings::from_url("postgres://app:secret@localhost/app").unwrap();
        let hosts = Hosts::new(&old).unwrap();
        let tenants = Tenants::default();
        let held = tenants.tenant("app", "app", &old).unwrap();
        let other = tenants.tenant("other", "app", &old).unwrap();
        held.pool(&hosts.list()[0]).stats.queries.store(7, Ordering::Relaxed);
        assert_eq!(tenants.renew(&old), 0);

        let mut new = old.clone();
        let mut entry = new.databases["*"].clone();
        entry.pool.max = 3;
        new.databases.insert("app".to_owned(), entry);
        assert_eq!(tenants.renew(&new), 1);
        assert!(Arc::ptr_eq(&tenants.tenant("other", "app", &new).unwrap(), &other));
        let renewed = tenants.tenant("app", "app", &new).unwrap();
        assert_eq!((held.pool_settings.max, renewed.pool_settings.max), (20, 3));
        assert_eq!(renewed.pool(&hosts.list()[0]).stats.queries.load(Ordering::Relaxed), 7);

        tenants.reap();
        assert_eq!(tenants.list().len(), 3, "a client is left");
        drop(held);
        tenants.reap();
        assert_eq!(tenants.list().len(), 2);

        new.databases.remove("*");
        assert_eq!(tenants.renew(&new), 1);
        assert_eq!(tenants.tenant("other", "app", &new).unwrap_err(), TenantError::Unknown);
    }

    #[tokio::test]
    async fn names_that_nobody_uses_are_forgotten() {
        let settings = Settings::from_url("postgres://app:secret@localhost/app").unwrap();
        let hosts = Hosts::new(&settings).unwrap();
        let tenants = Tenants::default();
        let held = tenants.tenant("app", "app", &settings).unwrap();
        let used = tenants.tenant("used", "app", &settings).unwrap();
        used.clients.store(1, Ordering::Relaxed);
        drop(used);
        let names = || tenants.list().len();
        for number in 0..TENANTS_MAX * 2 {
            let tenant = tenants.tenant(&format!("x{number}"), "app", &settings).unwrap();
            tenant.pool(&hosts.list()[0]);
        }
        assert!(names() <= TENANTS_MAX);
        let now = Instant::now();
        let forget = |now| tenants.forget_at_rest(&mut tenants.map.lock().unwrap(), now, TENANT_REST);
        forget(now);
        forget(now + TENANT_REST);
        assert_eq!(names(), 2, "one is held and one has a client");
        assert_eq!(tenants.open.lock().unwrap().len(), 2);
        let all: Vec<_> =
            (0..TENANTS_MAX).map(|n| tenants.tenant(&n.to_string(), "app", &settings)).collect();
        assert_eq!(all.last().unwrap().as_ref().unwrap_err(), &TenantError::TooMany);
        assert!(Arc::ptr_eq(&held, &tenants.tenant("app", "app", &settings).unwrap()));
    }

    #[test]
    fn an_allowance_is_used_up_and_comes_back() {
        let mut now = Instant::now();
        let mut allowance = Allowance::full(now);
        let taken = (0..100).filter(|_| allowance.take(now)).count();
        assert_eq!(taken, 20);
        now += Allowance::AGAIN_AFTER;
        assert_eq!((allowance.take(now), allowance.take(now)), (true, false));
        now += Duration::from_secs(3600);
        assert_eq!((0..100).filter(|_| allowance.take(now)).count(), 20);
    }
}
