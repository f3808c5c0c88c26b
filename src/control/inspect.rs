//! Looks a host over, for `weir check`: what it is, and what it lets the login of Weir do.

use super::{ControlError, ControlSession};
use crate::config::{Login, ServerSettings};
use crate::pg::SqlState;
use crate::server::Connector;

/// What was found out about one host. Rights are those of the login in the URL.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "facts about a server that do not depend on each other")]
pub struct Findings {
    /// The connection is encrypted.
    pub tls: bool,
    /// It is a hot standby.
    pub in_recovery: bool,
    /// As the server spells it.
    pub version: String,
    /// What tells one cluster from another; `None` where we may not ask.
    pub system: Option<String>,
    /// Connections that ordinary roles may have.
    pub connections_max: usize,
    /// `wal_level`.
    pub wal_level: String,
    /// The login may stream changes.
    pub may_replicate: bool,
    /// The login is a superuser.
    pub is_superuser: bool,
    /// Replication slots that are free.
    pub slots_free: i32,
    /// There is a publication of all tables.
    pub publishes_all: bool,
    /// The output plugin `test_decoding` is installed; `None`: not found out.
    pub test_decoding: Option<bool>,
    /// HypoPG, in the login's database.
    pub hypopg: Extension,
    /// The position of a primary.
    pub position: Option<String>,
    /// How far a replica is behind.
    pub lag: Option<Lag>,
}

/// Whether an extension can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// In this database.
    Installed,
    /// On the machine: CREATE EXTENSION will do.
    Available,
    /// Its package is missing.
    Missing,
}

/// How far a replica is behind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lag {
    /// Bytes behind the primary; `None` without a primary's position to compare with.
    pub bytes: Option<i64>,
    /// Seconds since the last replayed transaction, if something waits to be replayed.
    pub seconds: Option<f64>,
}

/// Everything that one row can tell.
const QUESTIONS: &str = "
SELECT pg_catalog.pg_is_in_recovery(),
       pg_catalog.current_setting('server_version'),
       pg_catalog.current_setting('max_connections')::int4
         - pg_catalog.current_setting('superuser_reserved_connections')::int4
         - COALESCE(pg_catalog.current_setting('reserved_connections', true)::int4, 0),
       pg_catalog.current_setting('wal_level'),
       r.rolsuper,
       r.rolsuper OR r.rolreplication OR EXISTS (
         SELECT FROM pg_catalog.pg_roles g
         WHERE g.rolname = 'rds_replication' AND pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER')),
       pg_catalog.current_setting('max_replication_slots')::int4
         - (SELECT pg_catalog.count(*)::int4 FROM pg_catalog.pg_replication_slots),
       EXISTS (SELECT FROM pg_catalog.pg_publication WHERE puballtables),
       EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'hypopg'),
       EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'hypopg')
FROM pg_catalog.pg_roles r
WHERE r.rolname = CURRENT_USER";

/// A temporary slot, which ends with the session if not before.
const TRY_DECODING: &str = "
SET statement_timeout = '2s';
SELECT pg_catalog.pg_create_logical_replication_slot('weir_check_' || pg_catalog.pg_backend_pid(), 'test_decoding', true);
SELECT pg_catalog.pg_drop_replication_slot('weir_check_' || pg_catalog.pg_backend_pid())";

const SYSTEM: &str = "SELECT system_identifier::text FROM pg_catalog.pg_control_system()";

const POSITION: &str = "SELECT pg_catalog.pg_current_wal_lsn()::text";

const LAG: &str = "
SELECT pg_catalog.pg_wal_lsn_diff($1::text::pg_lsn, pg_catalog.pg_last_wal_replay_lsn())::int8,
       CASE WHEN pg_catalog.pg_last_wal_receive_lsn() IS DISTINCT FROM pg_catalog.pg_last_wal_replay_lsn()
            THEN EXTRACT(EPOCH FROM
                   pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp())::float8 END";

/// A host that let us in, and what is known of it.
#[derive(Debug)]
pub struct Inspection {
    session: ControlSession,
    /// What was found.
    pub findings: Findings,
}

impl Inspection {
    /// Logs in and asks.
    pub async fn begin(connector: &Connector, settings: &ServerSettings) -> Result<Self, ControlError> {
        let session = ControlSession::open(connector, &settings.control, settings.connect_timeout).await?;
        let row = session.row(QUESTIONS, &[]).await?;
        let in_recovery = row.get(0);
        let hypopg = match (row.get(8), row.get(9)) {
            (true, _) => Extension::Installed,
            (false, true) => Extension::Available,
            (false, false) => Extension::Missing,
        };
        // Not everybody may ask; then two clusters cannot be told apart here.
        let system = session.row(SYSTEM, &[]).await.ok().map(|row| row.get(0));
        let position = if in_recovery { None } else { Some(session.row(POSITION, &[]).await?.get(0)) };
        let findings = Findings {
            tls: session.is_tls(),
            in_recovery,
            version: row.get(1),
            system,
            connections_max: usize::try_from(row.get::<_, i32>(2)).unwrap_or(0),
            wal_level: row.get(3),
            is_superuser: row.get(4),
            may_replicate: row.get(5),
            slots_free: row.get(6),
            publishes_all: row.get(7),
            test_decoding: None,
            hypopg,
            position,
            lag: None,
        };
        Ok(Self { session, findings })
    }

    /// Asks a replica how far it is behind the primary, which stands at `position` if there is one.
    pub async fn ask_lag(&mut self, position: Option<&str>) -> Result<(), ControlError> {
        let row = self.session.row(LAG, &[&position]).await?;
        self.findings.lag = Some(Lag { bytes: row.get(0), seconds: row.get(1) });
        Ok(())
    }

    /// Tries whether a change stream could begin: makes a slot for a moment, if there may be one.
    pub async fn try_decoding(&mut self) {
        let found = &self.findings;
        if found.in_recovery || found.wal_level != "logical" || !found.may_replicate || found.slots_free < 1 {
            return;
        }
        self.findings.test_decoding = match self.session.run(TRY_DECODING).await {
            Ok(()) => Some(true),
            Err(error) if error.sqlstate() == Some(SqlState::UNDEFINED_FILE) => Some(false),
            // It waits for open transactions, most likely.
            Err(_) => None,
        };
    }

    /// Tries `auth_query` on the login's own name: whether it finds the stored secret.
    pub async fn try_user_query(&self, query: &str, login: &Login) -> Result<bool, ControlError> {
        let rows = self.session.rows(query, &[&login.user]).await?;
        Ok(rows.first().is_some_and(|row| row.try_get::<_, Option<String>>(1).ok().flatten().is_some()))
    }
}
