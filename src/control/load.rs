//! Keeps the catalog of one database fresh: a task per database in use.
//!
//! It holds a connection to the database for a moment only after it was needed: an idle one would take a place on the
//! server, and stand in the way of DROP DATABASE.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until, timeout};

use super::retry::Retry;
use super::{CatalogLoader, ControlError, ControlSession};
use crate::catalog::defaults::{Defaults, Owner, SETTINGS};
use crate::catalog::{Due, Freshness, Touched};
use crate::config::{Login, ServerSettings};
use crate::control::splitting::Database;
use crate::pg::HostId;
use crate::server::Hosts;

/// Loads and looks with a cause are at least so far apart.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection that was not needed for so long is closed.
const LINGER: Duration = Duration::from_secs(1);

/// Attempts are at most so far apart: a database that we may not enter is no reason to knock all the time.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// As `SEARCH_PATHS` of the catalog: the server's own value is known unless the role that asks has one of its own.
const DEFAULTS: &str = "
SELECT s.setdatabase <> 0, r.rolname, pg_catalog.split_part(c.setting, '=', 1),
       pg_catalog.substr(c.setting, pg_catalog.strpos(c.setting, '=') + 1)
FROM pg_catalog.pg_db_role_setting s
CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) c (setting)
LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
WHERE pg_catalog.split_part(c.setting, '=', 1) = ANY ($1) AND (s.setrole = 0 OR r.oid IS NOT NULL)
  AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
UNION ALL
SELECT NULL, NULL, name, setting FROM pg_catalog.pg_settings
WHERE name = ANY ($1) AND source IN ('default', 'configuration file', 'command line', 'environment variable', 'override')";

/// With the primary that it is to.
type Session = (HostId, ControlSession);

/// Loads one database's catalog whenever that is due.
#[derive(Debug)]
pub(super) struct Loading {
    pub(super) database: Database,
    pub(super) hosts: Arc<Hosts>,
    pub(super) servers: ServerSettings,
    /// How often to look without a cause.
    pub(super) interval: Duration,
}

impl Loading {
    /// Does so for ever.
    pub(super) async fn run(self) {
        let mut loader = CatalogLoader::new(Arc::clone(&self.database.catalog));
        let mut freshness = Freshness::new(self.interval, PAUSE);
        let mut retry = Retry::new(RETRY_MAX);
        let mut changes = self.hosts.primary_changes();
        loop {
            let working = Box::pin(self.work(&mut loader, &mut freshness, &mut retry));
            let Err(error) = working.await;
            let (pause, is_news) = retry.failed(&error.to_string());
            if is_news {
                let database = &*self.database.name;
                tracing::warn!(database, %error, "cannot load the catalog: its statements go to the primary");
            }
            changes.mark_unchanged();
            // Nobody's wish makes it any sooner, a new primary may.
            let _ = timeout(pause, changes.changed()).await;
        }
    }

    async fn work(
        &self,
        loader: &mut CatalogLoader,
        freshness: &mut Freshness,
        retry: &mut Retry,
    ) -> Result<std::convert::Infallible, ControlError> {
        let database = &self.database;
        let mut session: Option<Session> = None;
        loop {
            match freshness.due(database.catalog.take_wishes(), Instant::now()) {
                Due::At(at) => self.wait(at, &mut session).await,
                Due::Load => {
                    let open = self.open(&mut session).await?;
                    let load = loader.load(open).await?;
                    database.set_defaults(defaults(open).await?);
                    freshness.loaded(Instant::now(), load.took);
                    if let Some(catalog) = database.catalog.latest() {
                        database.floors.forget(|relation| catalog.has(relation));
                        database.memory.epochs.forget(|relation| catalog.has(relation));
                    }
                }
                Due::Look => {
                    let began = Instant::now();
                    let open = self.open(&mut session).await?;
                    if loader.look(open).await? {
                        // Somebody else's commit, of which we know no more than that it was: replicas may lack it.
                        let writes = Touched { catalogs: true, everything: true, ..Touched::default() };
                        if database.floors.commit(&writes, false).wake {
                            database.committed.notify_one();
                        }
                        database.tell_everything();
                    }
                    database.set_defaults(defaults(open).await?);
                    freshness.looked(Instant::now(), began.elapsed());
                }
            }
            if session.is_some() && retry.worked() {
                tracing::info!(database = &*database.name, "the catalog can be loaded again");
            }
        }
    }

    /// Waits for something to do. A connection that is not needed is closed meanwhile.
    async fn wait(&self, at: Instant, session: &mut Option<Session>) {
        let lingering = async {
            if session.is_none() {
                std::future::pending::<()>().await;
            }
            tokio::select! {
                () = sleep(LINGER) => {}
                () = self.database.release.notified() => {}
            }
        };
        tokio::select! {
            biased;
            () = self.database.wake.notified() => {}
            () = sleep_until(at.into()) => {}
            () = lingering => *session = None,
        }
    }

    /// A connection to the primary, waited for if there is none.
    async fn open<'a>(&self, session: &'a mut Option<Session>) -> Result<&'a ControlSession, ControlError> {
        let mut changes = self.hosts.primary_changes();
        // The sender lives as long as the hosts do.
        let primary = changes.wait_for(Option::is_some).await.ok().and_then(|primary| *primary);
        let primary = primary.ok_or(ControlError::Timeout)?;
        let is_good = |(host, open): &Session| *host == primary && !open.is_closed();
        let open = if let Some(open) = session.take().filter(is_good) {
            open
        } else {
            let login = Login { database: self.database.name.to_string(), ..self.servers.control.clone() };
            let connector = &self.hosts.host(primary).connector;
            let opening = ControlSession::open(connector, &login, self.servers.connect_timeout);
            (primary, Box::pin(opening).await?)
        };
        Ok(&session.insert(open).1)
    }
}

async fn defaults(session: &ControlSession) -> Result<Defaults, ControlError> {
    let rows = session.rows(DEFAULTS, &[&SETTINGS.as_slice()]).await?;
    let owner = |is_here: Option<bool>, role: Option<&str>| match (is_here, role) {
        (None, _) => Owner::Server,
        (Some(true), Some(role)) => Owner::RoleHere(role.into()),
        (Some(true), None) => Owner::Database,
        (Some(false), Some(role)) => Owner::Role(role.into()),
        (Some(false), None) => Owner::AllRoles,
    };
    let default = |row: &tokio_postgres::Row| {
        (owner(row.get(0), row.get(1)), row.get::<_, &str>(2).into(), row.get::<_, &str>(3).into())
    };
    Ok(Defaults(rows.iter().map(default).collect()))
}
