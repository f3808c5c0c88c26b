//! What a change stream needs of the server, and the commands that begin one.

use super::replication::{ReplicationError, ReplicationSession};
use super::{ControlError, ControlSession};
use crate::config::{StreamPlugin, StreamSettings, Switch};
use crate::consistency::Plugin;
use crate::pg::SqlState;
use crate::wire::pgoutput;

/// Why there can be no stream until somebody does something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Obstacle {
    /// Logical decoding needs more in the log than there is.
    #[error("wal_level is {0}")]
    WalLevel(String),
    /// The login may not replicate.
    #[error("the user {0} may not replicate")]
    MayNotReplicate(String),
    /// All slots are in use, or all but one.
    #[error("no replication slot is free, or only the last one")]
    NoSlot,
    /// `test_decoding` is not there, nor a publication.
    #[error("the server does not have test_decoding, and there is no publication {0}")]
    NoPlugin(String),
    /// `pgoutput` was asked for, and the login may not publish all tables.
    #[error("there is no publication {0}, and only a superuser may publish all tables")]
    NoPublication(String),
    /// The publication leaves something out.
    #[error("the publication {0} does not publish all that is done to all tables")]
    PartialPublication(String),
    /// Published, some tables could no longer be updated.
    #[error(
        "publication {0} was not created: PostgreSQL would refuse to update {1}, which has no replica identity"
    )]
    NoReplicaIdentity(String, String),
}

impl Obstacle {
    /// What to run.
    pub(super) fn remedy(&self) -> String {
        match self {
            Self::WalLevel(_) => "ALTER SYSTEM SET wal_level = 'logical', and restart the server".to_owned(),
            Self::MayNotReplicate(user) => format!("ALTER ROLE {} REPLICATION", quoted(user)),
            Self::NoSlot => "ALTER SYSTEM SET max_replication_slots = ..., and restart the server".to_owned(),
            Self::NoPlugin(publication) => format!(
                "install the server's contrib package (Debian has it in postgresql-NN); or, if all tables have a \
                 primary key, CREATE PUBLICATION {} FOR ALL TABLES",
                quoted(publication)
            ),
            Self::NoPublication(publication) => format!(
                "CREATE PUBLICATION {} FOR ALL TABLES, if all tables have a primary key",
                quoted(publication)
            ),
            Self::PartialPublication(publication) => {
                format!("DROP PUBLICATION {0}; CREATE PUBLICATION {0} FOR ALL TABLES", quoted(publication))
            }
            Self::NoReplicaIdentity(_, table) => format!("ALTER TABLE {table} REPLICA IDENTITY FULL"),
        }
    }
}

/// A name as SQL wants it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

const FACTS: &str = "
SELECT pg_catalog.current_setting('wal_level'), CURRENT_USER::text, r.rolsuper,
       r.rolsuper OR r.rolreplication OR EXISTS (
         SELECT FROM pg_catalog.pg_roles g
         WHERE g.rolname = 'rds_replication' AND pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER')),
       pg_catalog.current_setting('server_encoding') = 'UTF8',
       pg_catalog.current_setting('server_version_num')::int4,
       pg_catalog.current_setting('max_replication_slots')::int4
         - (SELECT pg_catalog.count(*)::int4 FROM pg_catalog.pg_replication_slots),
       (SELECT p.puballtables AND p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate
        FROM pg_catalog.pg_publication p WHERE p.pubname = $1)
FROM pg_catalog.pg_roles r WHERE r.rolname = CURRENT_USER";

/// A table that could not be updated any more once it is published (manual, 31.1 Publication).
const WITHOUT_IDENTITY: &str = "
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384
  AND (c.relreplident = 'n' OR c.relreplident = 'd' AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary))
ORDER BY 1 LIMIT 1";

/// What was found, and what is wanted.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    /// Names in the database are UTF-8.
    pub(super) is_utf8: bool,
    version: i32,
    plugin: StreamPlugin,
    publication: String,
    is_published: Option<bool>,
}

/// Looks whether a stream can be had, and makes the publication if that is wanted and harmless.
pub(super) async fn look_around(
    session: &ControlSession,
    settings: &StreamSettings,
) -> Result<Setup, LookError> {
    let row = session.row(FACTS, &[&settings.publication]).await?;
    let (wal_level, user): (String, String) = (row.get(0), row.get(1));
    let (is_superuser, may_replicate): (bool, bool) = (row.get(2), row.get(3));
    if wal_level != "logical" {
        return Err(Obstacle::WalLevel(wal_level).into());
    }
    if !may_replicate {
        return Err(Obstacle::MayNotReplicate(user).into());
    }
    // The last one is left to others, who may have come to rely on it.
    let needed = if settings.enabled == Switch::On { 1 } else { 2 };
    if row.get::<_, i32>(6) < needed {
        return Err(Obstacle::NoSlot.into());
    }
    let mut setup = Setup {
        is_utf8: row.get(4),
        version: row.get(5),
        plugin: settings.plugin,
        publication: settings.publication.clone(),
        is_published: row.get(7),
    };
    if settings.plugin == StreamPlugin::PgOutput && setup.is_published.is_none() {
        setup.publish(session, is_superuser).await?;
    }
    Ok(setup)
}

/// Why nothing could be found out, or what stands in the way.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error("{0}")]
    Control(#[from] ControlError),
    #[error("{0}")]
    Obstacle(#[from] Obstacle),
}

impl Setup {
    async fn publish(&mut self, session: &ControlSession, is_superuser: bool) -> Result<(), LookError> {
        let publication = self.publication.clone();
        if !is_superuser {
            return Err(Obstacle::NoPublication(publication).into());
        }
        if let Some(row) = session.rows(WITHOUT_IDENTITY, &[]).await?.first() {
            return Err(Obstacle::NoReplicaIdentity(publication, row.get(0)).into());
        }
        session.run(&format!("CREATE PUBLICATION {} FOR ALL TABLES", quoted(&publication))).await?;
        self.is_published = Some(true);
        Ok(())
    }

    /// Makes our slot; waits for the transactions that are open.
    pub(super) async fn create_slot(
        &self,
        session: &mut ReplicationSession,
        slot: &str,
    ) -> Result<Plugin, CreateError> {
        let create = |plugin: Plugin| {
            format!(
                "CREATE_REPLICATION_SLOT \"{slot}\" TEMPORARY LOGICAL {} NOEXPORT_SNAPSHOT",
                plugin.as_str()
            )
        };
        if self.plugin != StreamPlugin::PgOutput {
            match session.run(&create(Plugin::TestDecoding)).await {
                Ok(()) => return Ok(Plugin::TestDecoding),
                Err(ReplicationError::Refused { sqlstate: Some(SqlState::UNDEFINED_FILE), .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match self.is_published {
            Some(true) if self.plugin != StreamPlugin::TestDecoding => {}
            Some(false) if self.plugin != StreamPlugin::TestDecoding => {
                return Err(Obstacle::PartialPublication(self.publication.clone()).into());
            }
            _ => return Err(Obstacle::NoPlugin(self.publication.clone()).into()),
        }
        session.run(&create(Plugin::PgOutput)).await?;
        Ok(Plugin::PgOutput)
    }

    /// The command that begins the stream, where the slot does.
    pub(super) fn start(&self, plugin: Plugin, slot: &str) -> String {
        let options = match plugin {
            Plugin::TestDecoding => "\"include-xids\" 'on', \"skip-empty-xacts\" 'off'".to_owned(),
            Plugin::PgOutput => {
                let list = quoted(&self.publication).replace('\'', "''");
                format!("\"proto_version\" '{}', \"publication_names\" '{list}'", pgoutput::PROTOCOL_VERSION)
            }
        };
        format!("START_REPLICATION SLOT \"{slot}\" LOGICAL 0/0 ({options})")
    }

    /// What a stream does not show that others would.
    pub(super) fn weakness(&self, plugin: Plugin) -> Option<&'static str> {
        let is_blind = plugin == Plugin::PgOutput && self.version >= 150_000;
        is_blind.then_some("pgoutput does not show DDL: the catalog is asked every catalog_interval")
    }
}

/// Why there is no slot.
#[derive(Debug, thiserror::Error)]
pub(super) enum CreateError {
    #[error("{0}")]
    Replication(#[from] ReplicationError),
    #[error("{0}")]
    Obstacle(#[from] Obstacle),
}
