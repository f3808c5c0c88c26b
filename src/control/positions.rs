//! Asks hosts for their positions in the log, and tells `consistency::Positions`.

use std::time::Instant;

use super::{ControlError, ControlSession};
use crate::consistency::{Positions, PrimaryPosition, ReplicaPosition, Resolved, Timeline, WalLayout};
use crate::pg::{HostId, Lsn};

/// One question, 0.05 ms: what commits are in front of, and which log it is.
const OF_PRIMARY: &str = "
SELECT pg_catalog.pg_current_wal_insert_lsn()::text, pg_catalog.pg_current_wal_flush_lsn()::text,
       pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)";

/// The status and the timeline are shown to members of `pg_read_all_stats` alone; that there is a receiver, to everybody.
/// The control file has the timeline too, but some minutes late after a failover, when the next restartpoint has been
/// made: until then the replica is not known to follow the new primary. It may have log that this one lacks, which
/// PostgreSQL refuses to go on from, and positions alone would not tell.
const OF_REPLICA: &str = "
SELECT pg_catalog.pg_last_wal_replay_lsn()::text, pg_catalog.pg_is_in_recovery(),
       COALESCE(r.received_tli, TIMELINE), r.pid IS NOT NULL AND COALESCE(r.status = 'streaming', true)
FROM (VALUES (1)) v LEFT JOIN pg_catalog.pg_stat_get_wal_receiver() r ON true";

/// Where the control file may be read.
const TIMELINE: &str = "(SELECT GREATEST(c.timeline_id, e.min_recovery_end_timeline)
  FROM pg_catalog.pg_control_checkpoint() c, pg_catalog.pg_control_recovery() e)";

const MAY_READ_CONTROL: &str = "
SELECT pg_catalog.has_function_privilege('pg_catalog.pg_control_checkpoint()', 'EXECUTE')
   AND pg_catalog.has_function_privilege('pg_catalog.pg_control_recovery()', 'EXECUTE')";

const LAYOUT: &str = "
SELECT (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'wal_block_size'),
       pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))";

/// A control connection on which positions are asked for, with its questions prepared.
#[derive(Debug)]
pub struct PositionSession {
    session: ControlSession,
    of_primary: tokio_postgres::Statement,
    of_replica: tokio_postgres::Statement,
}

impl PositionSession {
    /// Prepares the questions, and asks what the log's pages are like.
    pub async fn open(session: ControlSession, positions: &Positions) -> Result<Self, ControlError> {
        let row = session.row(LAYOUT, &[]).await?;
        let bytes = |column| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0).max(1);
        positions.set_layout(WalLayout { page_bytes: bytes(0), segment_bytes: bytes(1) });
        let of_primary = session.client().prepare(OF_PRIMARY).await?;
        let may_read_control = session.row(MAY_READ_CONTROL, &[]).await?.get(0);
        let timeline = if may_read_control { TIMELINE } else { "NULL" };
        let of_replica = session.client().prepare(&OF_REPLICA.replace("TIMELINE", timeline)).await?;
        Ok(Self { session, of_primary, of_replica })
    }

    /// Whether the connection has ended: the replica is then `Positions::lost`.
    pub fn is_closed(&self) -> bool {
        self.session.is_closed()
    }

    /// Asks the primary, for all commits until now. `is_primary` tells whether it is the primary, and is asked when the
    /// answer is there: commits on another one meanwhile have no position in this one's log.
    pub async fn read_primary(
        &self,
        positions: &Positions,
        is_primary: impl Fn() -> bool,
    ) -> Result<Resolved, ControlError> {
        let reading = positions.begin_reading();
        let row = self.session.one(&self.of_primary).await?;
        let lsn = |column| -> Lsn { row.get::<_, &str>(column).parse().unwrap_or_default() };
        let timeline = u32::from_str_radix(row.get(2), 16).map_or(Timeline(0), Timeline);
        if !is_primary() {
            return Ok(Resolved::Outdated);
        }
        let position = PrimaryPosition { insert: lsn(0), flush: lsn(1), timeline };
        Ok(positions.resolve(reading, position, Instant::now()))
    }

    /// Asks a replica; gives whether it is one. One that is none any more is lost.
    pub async fn report_replica(&self, positions: &Positions, host: HostId) -> Result<bool, ControlError> {
        // The answer is as old as the question: a replica that hangs must not look fresh.
        let asked = Instant::now();
        let row = self.session.one(&self.of_replica).await?;
        let replay = row.get::<_, Option<&str>>(0).and_then(|lsn| lsn.parse().ok());
        match replay {
            Some(replay) if row.get(1) => {
                let timeline = row.get::<_, Option<i32>>(2);
                let timeline = timeline.map(|timeline| Timeline(timeline.cast_unsigned()));
                positions.report(host, ReplicaPosition { replay, timeline, is_streaming: row.get(3) }, asked);
                Ok(true)
            }
            _ => {
                positions.lost(host);
                Ok(false)
            }
        }
    }

    /// Makes an idle primary's WAL writer flush what stands behind the last commit
    /// (`consistency::Duty::nudge_primary`).
    pub async fn nudge(&self) -> Result<(), ControlError> {
        self.session.run("SELECT pg_catalog.txid_current()").await
    }
}
