//! Asks what indexes tables have, what each is for, and how often it was used: the primary for its catalog, all hosts for what
//! they have counted.
//!
//! Nothing here waits for anybody: tables that are locked are asked about the next time.

use std::collections::HashMap;
use std::time::Duration;

use super::{ControlError, ControlSession};
use crate::advice::existing::{Build, Counted, Existing, Inventory, Key, Unique};
use crate::advice::schema::TableName;
use crate::config::{Login, ServerSettings};
use crate::pg::Oid;
use crate::server::{Host, Hosts, Role};

/// One question may take so long, the server's own limit being the shorter.
const ANSWER_MAX: Duration = Duration::from_secs(3);

const LIMITS: &str = "SET statement_timeout = '2s'; SET lock_timeout = '100ms'";

/// What was lost in a crash shows in the counters of the background writer, which then begin anew, too. Standbys are those that
/// take log from here: neither a logical decoder, as Weir's own stream is, nor a program that copies it. Who may not see what
/// they are sees them all the same.
const SERVER: &str = "
SELECT pg_catalog.pg_is_in_recovery(),
       EXTRACT(EPOCH FROM pg_catalog.now() - GREATEST(
         COALESCE((SELECT stats_reset FROM pg_catalog.pg_stat_database WHERE datname = pg_catalog.current_database()),
                  pg_catalog.pg_postmaster_start_time()),
         (SELECT stats_reset FROM pg_catalog.pg_stat_bgwriter)))::float8,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication r
        WHERE COALESCE(r.state, 'streaming') IN ('streaming', 'catchup', 'startup')
          AND COALESCE(r.application_name, '') NOT IN ('pg_receivewal', 'pg_basebackup')
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots s
                          WHERE s.active_pid = r.pid AND s.slot_type = 'logical'))";

const TABLES: &str = "
SELECT c.oid, n.nspname::text, c.relname::text
FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS wanted (namespace, name)
JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.namespace
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name AND c.relkind IN ('r', 'p', 'm')";

/// Of `indnullsnotdistinct` servers before 15 know nothing. A build shows by its table, as a login without rights sees no more
/// (and not even that of another's: then any build in this database may be the one). DROP INDEX CONCURRENTLY shows by its
/// lock on the index.
const INDEXES: &str = "
SELECT i.indexrelid, i.indrelid, x.relname::text, m.amname::text, i.indnkeyatts, i.indkey::int2[],
       (SELECT pg_catalog.array_agg(CASE WHEN i.indkey[k - 1] = 0 THEN pg_catalog.pg_get_indexdef(i.indexrelid, k, true) END ORDER BY k)
        FROM pg_catalog.generate_series(1, i.indnkeyatts) k),
       i.indclass::oid[], i.indcollation::oid[], i.indoption::int2[],
       pg_catalog.pg_get_expr(i.indpred, i.indrelid, true),
       i.indisunique, COALESCE((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::bool, false), i.indimmediate,
       i.indisprimary OR i.indisexclusion OR i.indisreplident OR i.indisclustered OR x.relkind <> 'i' OR x.relispartition
         OR EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid)
         OR EXISTS (SELECT FROM pg_catalog.pg_depend d
                    WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = i.indexrelid
                       OR d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid AND d.deptype IN ('e', 'i')),
       i.indisvalid AND i.indisready AND i.indislive,
       NOT i.indislive
         OR EXISTS (SELECT FROM pg_catalog.pg_stat_progress_create_index p
                    WHERE p.datname = pg_catalog.current_database() AND COALESCE(p.relid, i.indrelid) = i.indrelid)
         OR EXISTS (SELECT FROM pg_catalog.pg_locks l
                    WHERE l.relation = i.indexrelid AND l.mode IN ('ShareUpdateExclusiveLock', 'AccessExclusiveLock')),
       pg_catalog.pg_relation_size(i.indexrelid), GREATEST(t.reltuples, 0)::float8
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
JOIN pg_catalog.pg_am m ON m.oid = x.relam
WHERE i.indrelid = ANY ($1::oid[])
ORDER BY i.indexrelid";

const FOREIGN_KEYS: &str = "
SELECT conrelid, conkey FROM pg_catalog.pg_constraint WHERE contype = 'f' AND conrelid = ANY ($1::oid[])";

const SCANS: &str = "
SELECT indexrelid, COALESCE(idx_scan, 0) FROM pg_catalog.pg_stat_all_indexes WHERE relid = ANY ($1::oid[])";

/// A host that answers.
struct Asked {
    session: ControlSession,
    name: String,
    counted: Counted,
}

/// Looks at the indexes of tables in a database. `None`: no host that can be asked is a primary.
pub async fn inventory(
    hosts: &Hosts,
    servers: &ServerSettings,
    dbname: &str,
    tables: &[TableName],
) -> Result<Option<Inventory>, ControlError> {
    let login = Login { database: dbname.to_owned(), ..servers.control.clone() };
    let (mut reached, mut counted) = (Vec::new(), Vec::new());
    for host in hosts.list() {
        match Box::pin(open(host, &login, servers.connect_timeout)).await {
            Ok(asked) => reached.push(asked),
            Err(error) => {
                tracing::debug!(host = host.name(), %error, "nobody tells which indexes it uses");
                counted.push(Err(host.name().to_owned()));
            }
        }
    }
    let Some(primary) = reached.iter().find(|asked| !asked.counted.is_replica) else { return Ok(None) };
    let (mut inventory, oids) = catalog(&primary.session, tables).await?;
    for Asked { session, name, counted: server } in reached {
        counted.push(match scans(&session, &oids).await {
            Ok(scans) => Ok(Counted { scans, ..server }),
            Err(_) => Err(name),
        });
    }
    inventory.counted = counted;
    Ok(Some(inventory))
}

async fn open(host: &Host, login: &Login, timeout: Duration) -> Result<Asked, ControlError> {
    if matches!(host.role(), Role::Down | Role::Silent) {
        // It would be waited for in vain.
        return Err(ControlError::Timeout);
    }
    let session = ControlSession::open(&host.connector, login, timeout).await?.answering_within(ANSWER_MAX);
    session.run(LIMITS).await?;
    let row = session.row(SERVER, &[]).await?;
    let counted = Counted {
        is_replica: row.get(0),
        since: Duration::try_from_secs_f64(row.get(1)).unwrap_or_default(),
        standbys: usize::try_from(row.get::<_, i64>(2)).unwrap_or_default(),
        scans: HashMap::new(),
    };
    Ok(Asked { session, name: host.name().to_owned(), counted })
}

/// What the primary's catalog says, and which tables there are.
async fn catalog(
    session: &ControlSession,
    wanted: &[TableName],
) -> Result<(Inventory, Vec<u32>), ControlError> {
    let (namespaces, names): (Vec<&str>, Vec<&str>) =
        wanted.iter().map(|(namespace, name)| (namespace.as_str(), name.as_str())).unzip();
    let rows = session.rows(TABLES, &[&namespaces, &names]).await?;
    let tables: HashMap<u32, TableName> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    let oids: Vec<u32> = tables.keys().copied().collect();
    let rows = session.rows(INDEXES, &[&oids]).await?;
    let indexes = rows.iter().filter_map(|row| existing(row, &tables)).collect();
    let rows = session.rows(FOREIGN_KEYS, &[&oids]).await?;
    let foreign_keys =
        rows.iter().filter_map(|row| Some((tables.get(&row.get(0))?.clone(), row.get(1)))).collect();
    let gone = wanted.iter().filter(|name| !tables.values().any(|known| known == *name)).cloned().collect();
    Ok((Inventory { gone, indexes, foreign_keys, counted: Vec::new() }, oids))
}

/// `None`: it is being dropped, and what its catalog row says is gone already.
fn existing(row: &tokio_postgres::Row, tables: &HashMap<u32, TableName>) -> Option<Existing> {
    let keys = usize::try_from(row.get::<_, i16>(4)).ok()?;
    let columns: Vec<i16> = row.get(5);
    let expressions: Vec<Option<String>> = row.get(6);
    let (classes, collations): (Vec<u32>, Vec<u32>) = (row.get(7), row.get(8));
    let options: Vec<i16> = row.get(9);
    let key = |at: usize| {
        Some(Key {
            column: *columns.get(at)?,
            expression: expressions.get(at)?.clone(),
            class: Oid(*classes.get(at)?),
            collation: Oid(*collations.get(at)?),
            options: *options.get(at)?,
        })
    };
    let unique = Unique { nulls_not_distinct: row.get(12), immediate: row.get(13) };
    let (is_valid, is_under_way): (bool, bool) = (row.get(15), row.get(16));
    Some(Existing {
        oid: Oid(row.get(0)),
        table: tables.get(&row.get(1))?.clone(),
        name: row.get(2),
        method: row.get(3),
        keys: (0..keys).map(key).collect::<Option<_>>()?,
        include: columns.get(keys..)?.to_vec(),
        predicate: row.get(10),
        unique: row.get::<_, bool>(11).then_some(unique),
        is_required: row.get(14),
        build: match (is_valid, is_under_way) {
            (true, _) => Build::Valid,
            (false, true) => Build::UnderWay,
            (false, false) => Build::Failed,
        },
        bytes: u64::try_from(row.get::<_, Option<i64>>(17)?).ok()?,
        rows: row.get(18),
    })
}

async fn scans(session: &ControlSession, tables: &[u32]) -> Result<HashMap<Oid, u64>, ControlError> {
    let rows = session.rows(SCANS, &[&tables]).await?;
    let scans = |row: &tokio_postgres::Row| u64::try_from(row.get::<_, i64>(1)).unwrap_or(0);
    Ok(rows.iter().map(|row| (Oid(row.get(0)), scans(row))).collect())
}
