//! Who waits for whose lock, as the primary tells.

use std::time::Duration;

use super::{ControlError, ControlSession};
use crate::config::ServerSettings;
use crate::server::Host;

/// A server process that waits for a lock.
#[derive(Clone, Debug, PartialEq)]
pub struct LockWait {
    /// The one that waits.
    pub process: u32,
    /// Those that it waits for.
    pub blockers: Vec<u32>,
    /// For how long; `None`: the login may not know.
    pub waited: Option<Duration>,
    /// What it wants: `transactionid ShareLock`, `relation AccessExclusiveLock public.t`.
    pub lock: String,
    /// What it runs, as its client sent it.
    pub text: String,
}

/// Names of relations are those of the login's database only.
const WAITS: &str = "
SELECT a.pid, pg_catalog.pg_blocking_pids(a.pid),
       extract(epoch FROM pg_catalog.clock_timestamp() - a.state_change)::float8,
       pg_catalog.concat_ws(' ', l.locktype, l.mode,
           CASE WHEN l.database = d.oid THEN l.relation::pg_catalog.regclass::text END),
       COALESCE(a.query, '')
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_stat_activity a USING (pid)
LEFT JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
WHERE NOT l.granted
LIMIT 1000";

/// Asks a host.
pub async fn lock_waits(host: &Host, servers: &ServerSettings) -> Result<Vec<LockWait>, ControlError> {
    let timeout = servers.connect_timeout;
    let session = Box::pin(ControlSession::open(&host.connector, &servers.control, timeout)).await?;
    let rows = session.rows(WAITS, &[]).await?;
    let process = |pid: i32| u32::try_from(pid).unwrap_or_default();
    Ok(rows
        .iter()
        .map(|row| LockWait {
            process: process(row.get(0)),
            blockers: row.get::<_, Vec<i32>>(1).into_iter().map(process).collect(),
            waited: row.get::<_, Option<f64>>(2).and_then(|s| Duration::try_from_secs_f64(s).ok()),
            lock: row.get(3),
            text: row.get(4),
        })
        .collect())
}
