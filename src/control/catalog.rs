//! Loads the catalog of a database, and asks whether it has changed.
//!
//! One question per kind of thing, in one REPEATABLE READ READ ONLY transaction, so that the answers fit together. Rows
//! are taken as they come, with a pause for others every few hundred; what is made of them is made on another thread.
//! A view's tree, by far the most bytes of a catalog, is asked for only if its rule has changed since the last load.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{ControlError, ControlSession};
use crate::catalog::node_tree::{self, Tree};
use crate::catalog::source::{
    Cast, Function, Kind, Operator, Relation, Rule, Schema, SearchPaths, Source, Type,
};
use crate::catalog::{Catalog, Declared, SharedCatalog};
use crate::pg::Oid;

/// A load that takes longer has failed.
const LOAD_TIMEOUT: Duration = Duration::from_secs(120);

/// Rows, and bytes of trees, that are taken in one go.
const ROWS_AT_ONCE: usize = 256;
const TREE_BYTES_AT_ONCE: usize = 128 << 10;

/// Trees that are asked for in one question: what has arrived waits in memory.
const TREES_AT_ONCE: usize = 200;

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/// Temporary schemas, and those of TOAST, are none of ours.
const SCHEMAS: &str = "
SELECT oid, nspname FROM pg_catalog.pg_namespace
WHERE nspname !~ '^pg_(toast|temp_|toast_temp_)'";

const RELATIONS: &str = "
SELECT oid, relnamespace, relname, relkind, relpersistence, relispartition, relrowsecurity, reltype
FROM pg_catalog.pg_class
WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relpersistence <> 't'";

const PARENTS: &str = "
SELECT i.inhrelid, i.inhparent FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid WHERE c.relkind IN ('r', 'p', 'f')";

const RULES: &str = "
SELECT oid, xmin::text, ev_class, ev_type = '1' FROM pg_catalog.pg_rewrite WHERE ev_enabled <> 'D'";

const RULE_TREES: &str = "SELECT oid, ev_action::text FROM pg_catalog.pg_rewrite WHERE oid = ANY ($1)";

const POLICIES: &str = "
SELECT polrelid, COALESCE(polqual::text, '') || COALESCE(polwithcheck::text, '') FROM pg_catalog.pg_policy";

/// But those whose function is PostgreSQL's own and changes the row at hand only.
const TRIGGERS: &str = "
SELECT DISTINCT tgrelid FROM pg_catalog.pg_trigger
WHERE NOT tgisinternal AND tgenabled <> 'D' AND tgfoid <> ALL (
  SELECT oid FROM pg_catalog.pg_proc WHERE oid < 16384 AND proname IN ('tsvector_update_trigger',
    'tsvector_update_trigger_column', 'suppress_redundant_updates_trigger'))";

/// Defaults, and checks, also by a domain. Dependencies on functions of one's own are all recorded.
const WRITE_CALLS: &str = "
SELECT a.adrelid, p.oid FROM pg_catalog.pg_attrdef a
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.objid = a.oid
JOIN pg_catalog.pg_proc p ON d.refclassid = 'pg_catalog.pg_proc'::regclass AND p.oid = d.refobjid
WHERE p.provolatile = 'v'
UNION
SELECT COALESCE(t.attrelid, c.conrelid), p.oid FROM pg_catalog.pg_constraint c
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_constraint'::regclass AND d.objid = c.oid
JOIN pg_catalog.pg_proc p ON d.refclassid = 'pg_catalog.pg_proc'::regclass AND p.oid = d.refobjid
LEFT JOIN pg_catalog.pg_attribute t ON t.atttypid = c.contypid AND c.contypid <> 0
WHERE p.provolatile = 'v' AND (c.conrelid <> 0 OR t.attrelid IS NOT NULL)";

const CASCADES: &str = "
SELECT DISTINCT confrelid, conrelid FROM pg_catalog.pg_constraint
WHERE contype = 'f' AND (confupdtype IN ('c', 'n', 'd') OR confdeltype IN ('c', 'n', 'd'))";

/// The languages `internal` and `c` are 12 and 13 everywhere. A row is taken by what takes composites (also as domains or in a VARIADIC array), or any type; and by anything if rows
/// are cast implicitly. The volatility of an aggregate of one's own is the worst of its parts: `i`, `s` and `v` sort in this order.
const FUNCTIONS: &str = "
SELECT p.oid, p.pronamespace, p.proname,
       CASE WHEN p.prokind = 'a' AND p.oid >= 16384 THEN (
         SELECT pg_catalog.max(q.provolatile::text) FROM pg_catalog.pg_proc q WHERE q.oid IN (a.aggtransfn, a.aggfinalfn,
           a.aggcombinefn, a.aggserialfn, a.aggdeserialfn, a.aggmtransfn, a.aggminvtransfn, a.aggmfinalfn))
       ELSE p.provolatile::text END,
       CASE WHEN a.aggkind <> 'n' THEN 0
            ELSE greatest(p.pronargs - p.pronargdefaults - (p.provariadic <> 0)::int, 0) END::int4,
       CASE WHEN a.aggkind <> 'n' OR p.provariadic <> 0 THEN 255 ELSE p.pronargs END::int4,
       p.pronargs >= 1 AND (
         NOT (t.typtype IN ('b', 'e', 'r', 'm') AND (t.typcategory <> 'A' OR t.typtype = 'd' OR t.oid < 16384)) OR EXISTS (
           SELECT FROM pg_catalog.pg_cast k JOIN pg_catalog.pg_type r ON r.oid = k.castsource
           WHERE k.castcontext = 'i' AND k.oid >= 16384 AND r.typtype IN ('c', 'd', 'p'))),
       p.prolang IN (12, 13)
FROM pg_catalog.pg_proc p
LEFT JOIN pg_catalog.pg_aggregate a ON a.aggfnoid = p.oid
LEFT JOIN pg_catalog.pg_type t ON t.oid = p.proargtypes[0]
WHERE p.prokind <> 'p'";

const OPERATORS: &str = "
SELECT o.oprname, p.provolatile::text, l.lanname IN ('c', 'internal'), o.oid
FROM pg_catalog.pg_operator o
JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE o.oid >= 16384 AND p.provolatile <> 'i'";

const TYPES: &str = "
SELECT t.oid, t.typnamespace, t.typname, COALESCE(p.provolatile::text, 's')
FROM pg_catalog.pg_type t
LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
LEFT JOIN pg_catalog.pg_proc p ON p.oid = t.typinput
WHERE (t.typrelid = 0 OR c.relkind = 'c') AND (t.typcategory <> 'A' OR t.typtype = 'd' OR t.oid < 16384)";

const CASTS: &str = "
SELECT c.casttarget, p.provolatile::text, l.lanname IN ('c', 'internal'), c.castcontext <> 'e'
FROM pg_catalog.pg_cast c
JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE p.oid >= 16384 AND p.provolatile <> 'i'";

const DOMAIN_CHECKS: &str = "
SELECT contypid, conbin::text FROM pg_catalog.pg_constraint WHERE contypid <> 0 AND conbin IS NOT NULL";

/// Checks run for parts as well: a domain over a domain, an array, a row or a range of it.
const TYPE_PARTS: &str = "
SELECT oid, typbasetype FROM pg_catalog.pg_type WHERE typtype = 'd' AND typbasetype >= 16384
UNION ALL
SELECT oid, typelem FROM pg_catalog.pg_type WHERE typcategory = 'A' AND typelem >= 16384
UNION ALL
SELECT c.reltype, a.atttypid FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
WHERE a.atttypid >= 16384 AND a.attnum > 0 AND c.reltype <> 0 AND c.relpersistence <> 't'
UNION ALL
SELECT rngtypid, rngsubtype FROM pg_catalog.pg_range WHERE rngsubtype >= 16384
UNION ALL
SELECT (pg_catalog.to_jsonb(r)->>'rngmultitypid')::oid, rngtypid FROM pg_catalog.pg_range r
WHERE rngtypid >= 16384 AND pg_catalog.to_jsonb(r)->>'rngmultitypid' IS NOT NULL";

/// What sessions begin with (manual, ALTER ROLE: settings of a role in a database go before those of the role, these
/// before those of the database, these before those of all roles).
const SEARCH_PATHS: &str = "
SELECT s.setdatabase <> 0, r.rolname, pg_catalog.substr(c.setting, 13)
FROM pg_catalog.pg_db_role_setting s
CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) c (setting)
LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
WHERE c.setting LIKE 'search\\_path=%' AND (s.setrole = 0 OR r.oid IS NOT NULL)
  AND s.setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))
UNION ALL
SELECT NULL, NULL, setting FROM pg_catalog.pg_settings
WHERE name = 'search_path' AND source IN ('default', 'configuration file', 'command line', 'override')
UNION ALL
SELECT NULL, '', coalesce(pg_catalog.string_agg(pg_catalog.concat_ws('.', setdatabase, setrole, xmin), ' ' ORDER BY setdatabase, setrole), '')
FROM pg_catalog.pg_db_role_setting
WHERE setdatabase IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))";

/// Everything above, hashed: each row has its transaction's number, which changes with the row. (A relation's row also
/// with its file, as by TRUNCATE, and with its statistics: of that only what is told above.)
const FINGERPRINT: &str = "
SELECT pg_catalog.string_agg(pg_catalog.concat(n, ':', h), ' ') FROM (
  SELECT pg_catalog.count(*) AS n, pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat_ws('.', oid, relname, relnamespace, relkind,
      relpersistence, relowner, relnatts, relchecks, relispartition, relhasrules, relhastriggers, relrowsecurity, relforcerowsecurity), 0)) AS h
    FROM pg_catalog.pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relpersistence <> 't'
  UNION ALL SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(oid, '.', xmin), 0)) FROM pg_catalog.pg_namespace
    WHERE nspname !~ '^pg_(toast|temp_|toast_temp_)'
  UNION ALL SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(oid, '.', xmin), 0)) FROM pg_catalog.pg_rewrite
  UNION ALL SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(oid, '.', xmin), 0)) FROM pg_catalog.pg_policy
  UNION ALL SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(oid, '.', xmin), 0)) FROM pg_catalog.pg_trigger
    WHERE NOT tgisinternal
  UNION ALL SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(oid, '.', xmin), 0)) FROM pg_catalog.pg_constraint
    WHERE contype IN ('f', 'c')
  UNION ALL SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(oid, '.', xmin), 0)) FROM pg_catalog.pg_attrdef
  UNION ALL SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(oid, '.', xmin), 0)) FROM pg_catalog.pg_proc
  UNION ALL SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(oid, '.', xmin), 0)) FROM pg_catalog.pg_operator
  UNION ALL SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(oid, '.', xmin), 0)) FROM pg_catalog.pg_cast
  UNION ALL SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(oid, '.', xmin), 0)) FROM pg_catalog.pg_type
    WHERE typrelid = 0 AND (typcategory <> 'A' OR typtype = 'd')
  UNION ALL SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(attrelid, '.', attnum, '.', xmin), 0))
    FROM pg_catalog.pg_attribute WHERE attrelid IN (SELECT oid FROM pg_catalog.pg_class WHERE relkind = 'c')
  UNION ALL SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(inhrelid, '.', inhparent, '.', xmin), 0))
    FROM pg_catalog.pg_inherits
  UNION ALL SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended(pg_catalog.concat(setdatabase, '.', setrole, '.', xmin), 0))
    FROM pg_catalog.pg_db_role_setting
) x";

/// What a load came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// From the first question to the snapshot in force.
    pub took: Duration,
    /// The longest that anybody else on this event loop had to wait because of it.
    pub held: Duration,
    /// Rows that were read.
    pub rows: usize,
    /// Trees of views that had to be read.
    pub trees: usize,
    /// Relations in the snapshot.
    pub relations: usize,
    /// About how much memory it takes.
    pub bytes: usize,
}

/// Loads the catalog of one database.
#[derive(Debug)]
pub struct CatalogLoader {
    shared: Arc<SharedCatalog>,
    version: u64,
    /// Of the catalog when it was loaded last.
    fingerprint: Option<String>,
}

impl CatalogLoader {
    /// Loads into `shared`.
    pub fn new(shared: Arc<SharedCatalog>) -> Self {
        Self { shared, version: 0, fingerprint: None }
    }

    /// Whether the catalog is another than was loaded last. It is then told as changed, so that nobody relies on it.
    pub async fn look(&self, session: &ControlSession) -> Result<bool, ControlError> {
        let doubts = self.shared.doubts();
        let asking = session.client().query_one(FINGERPRINT, &[]);
        let row = tokio::time::timeout(LOAD_TIMEOUT, asking).await.map_err(|_| ControlError::Timeout)??;
        let is_other = self.fingerprint.as_deref() != Some(row.try_get::<_, &str>(0)?);
        if is_other {
            self.shared.changed();
        } else {
            self.shared.resolve(doubts);
        }
        Ok(is_other)
    }

    /// Loads, and puts the snapshot in force. The session should be one to the primary: a replica may lack what DDL
    /// has just made. After an error it is of no more use.
    pub async fn load(&mut self, session: &ControlSession) -> Result<Load, ControlError> {
        let began = Instant::now();
        let (changes, doubts) = (self.shared.changes(), self.shared.doubts());
        let before = self.shared.latest();
        let mut reading =
            Reading { session, before: before.as_deref(), pace: Pace::begin(), rows: 0, trees: 0 };
        session.client().batch_execute(BEGIN).await?;
        let asked = tokio::time::timeout(LOAD_TIMEOUT, Box::pin(reading.everything())).await;
        let (rows, trees, held) = (reading.rows, reading.trees, reading.pace.held);
        let (source, fingerprint) = asked.map_err(|_| ControlError::Timeout)??;
        session.client().batch_execute("ROLLBACK").await?;
        self.version += 1;
        let version = self.version;
        let building = tokio::task::spawn_blocking(move || Catalog::build(source, version, changes));
        // It ends early only if it panics, or if the runtime is going down.
        let catalog = building.await.map_err(|_| ControlError::Timeout)?;
        let (relations, bytes) = (catalog.len(), catalog.bytes());
        self.shared.publish(catalog);
        self.shared.resolve(doubts);
        self.fingerprint = Some(fingerprint);
        let load = Load { took: began.elapsed(), held, rows, trees, relations, bytes };
        tracing::info!(took = ?load.took, held = ?load.held, rows, trees, relations, bytes, "catalog loaded");
        Ok(load)
    }
}

/// Lets others run now and then, and knows how long they had to wait.
struct Pace {
    since: Instant,
    held: Duration,
    work: usize,
}

impl Pace {
    fn begin() -> Self {
        Self { since: Instant::now(), held: Duration::ZERO, work: 0 }
    }

    /// So much has been done, of all that may be done in one go.
    async fn done(&mut self, work: usize, of: usize) {
        self.work += work;
        if self.work >= of {
            self.work = 0;
            self.held = self.held.max(self.since.elapsed());
            tokio::task::yield_now().await;
            self.since = Instant::now();
        }
    }
}

struct Reading<'a> {
    session: &'a ControlSession,
    before: Option<&'a Catalog>,
    pace: Pace,
    rows: usize,
    trees: usize,
}

impl Reading<'_> {
    async fn everything(&mut self) -> Result<(Source, String), ControlError> {
        let source = Source {
            schemas: self.list(SCHEMAS, schema).await?,
            relations: self.list(RELATIONS, relation).await?.into_iter().flatten().collect(),
            parents: self.list(PARENTS, pair).await?,
            rules: self.rules().await?,
            policies: self.list(POLICIES, tree).await?,
            triggers: self.list(TRIGGERS, |row| oid(row, 0)).await?,
            write_calls: self.list(WRITE_CALLS, pair).await?,
            cascades: self.list(CASCADES, pair).await?,
            functions: self.list(FUNCTIONS, function).await?,
            operators: self.list(OPERATORS, operator).await?,
            types: self.list(TYPES, own_type).await?,
            casts: self.list(CASTS, cast).await?,
            domain_checks: self.list(DOMAIN_CHECKS, tree).await?,
            type_parts: self.list(TYPE_PARTS, pair).await?,
            search_paths: search_paths(self.list(SEARCH_PATHS, search_path).await?),
        };
        let fingerprint = self.list(FINGERPRINT, |row| row.try_get::<_, String>(0)).await?.pop();
        Ok((source, fingerprint.unwrap_or_default()))
    }

    /// The answer to a question, each row made something of as it comes.
    async fn list<T>(&mut self, sql: &str, make: impl Fn(&Row) -> Made<T>) -> Result<Vec<T>, ControlError> {
        self.asked(sql, &[], ROWS_AT_ONCE, |row| Ok((make(row)?, 1))).await
    }

    /// `make` also says how much work a row was, of which `at_once` is done in one go.
    async fn asked<T>(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        at_once: usize,
        make: impl Fn(&Row) -> Made<(T, usize)>,
    ) -> Result<Vec<T>, ControlError> {
        let rows = self.session.client().query_raw(sql, parameters.iter().copied()).await?;
        let mut rows = pin!(rows);
        let mut list = Vec::new();
        self.pace.since = Instant::now();
        while let Some(row) = rows.try_next().await? {
            let (item, work) = make(&row)?;
            list.push(item);
            self.rows += 1;
            self.pace.done(work, at_once).await;
        }
        list.shrink_to_fit();
        Ok(list)
    }

    async fn rules(&mut self) -> Result<Vec<Rule>, ControlError> {
        let listed = self.list(RULES, rule).await?;
        let known = |oid, xmin| self.before.and_then(|before| before.rule_tree(oid, xmin));
        let is_new = |row: &&RuleRow| row.on_select && known(row.oid, row.xmin).is_none();
        let new: Vec<u32> = listed.iter().filter(is_new).map(|row| row.oid.0).collect();
        let mut trees: HashMap<Oid, Arc<Tree>> = HashMap::new();
        for part in new.chunks(TREES_AT_ONCE) {
            let part = self
                .asked(RULE_TREES, &[&part], TREE_BYTES_AT_ONCE, |row| {
                    let text: &str = row.try_get(1)?;
                    Ok(((oid(row, 0)?, Arc::new(node_tree::read(text))), text.len()))
                })
                .await?;
            trees.extend(part);
        }
        self.trees = trees.len();
        let with_tree = |row: RuleRow| {
            let RuleRow { oid, xmin, relation, on_select } = row;
            let known = self.before.and_then(|before| before.rule_tree(oid, xmin));
            let tree = trees.get(&oid).or(known).cloned().unwrap_or_default();
            Rule { oid, xmin, relation, on_select, tree }
        };
        Ok(listed.into_iter().map(with_tree).collect())
    }
}

type Made<T> = Result<T, tokio_postgres::Error>;

struct RuleRow {
    oid: Oid,
    xmin: u32,
    relation: Oid,
    on_select: bool,
}

fn oid(row: &Row, column: usize) -> Made<Oid> {
    row.try_get(column).map(Oid)
}

fn name(row: &Row, column: usize) -> Made<Box<str>> {
    row.try_get::<_, &str>(column).map(Box::from)
}

/// A `"char"`.
fn letter(row: &Row, column: usize) -> Made<u8> {
    row.try_get::<_, i8>(column).map(i8::cast_unsigned)
}

fn declared(row: &Row, column: usize) -> Made<Declared> {
    let letter = row.try_get::<_, Option<&str>>(column)?.and_then(|text| text.bytes().next());
    Ok(Declared::from_letter(letter.unwrap_or(b'v')))
}

fn pair(row: &Row) -> Made<(Oid, Oid)> {
    Ok((oid(row, 0)?, oid(row, 1)?))
}

fn tree(row: &Row) -> Made<(Oid, Tree)> {
    Ok((oid(row, 0)?, node_tree::read(row.try_get(1)?)))
}

fn schema(row: &Row) -> Made<Schema> {
    Ok(Schema { oid: oid(row, 0)?, name: name(row, 1)? })
}

fn relation(row: &Row) -> Made<Option<Relation>> {
    let Some(kind) = Kind::from_letter(letter(row, 3)?) else { return Ok(None) };
    Ok(Some(Relation {
        oid: oid(row, 0)?,
        schema: oid(row, 1)?,
        name: name(row, 2)?,
        kind,
        is_unlogged: letter(row, 4)? == b'u',
        is_partition: row.try_get(5)?,
        has_row_security: row.try_get(6)?,
        row_type: oid(row, 7)?,
    }))
}

fn rule(row: &Row) -> Made<RuleRow> {
    let xmin = row.try_get::<_, &str>(1)?.parse().unwrap_or(0);
    Ok(RuleRow { oid: oid(row, 0)?, xmin, relation: oid(row, 2)?, on_select: row.try_get(3)? })
}

fn function(row: &Row) -> Made<Function> {
    let count = |column| row.try_get::<_, i32>(column).map(|count| u8::try_from(count).unwrap_or(u8::MAX));
    Ok(Function {
        oid: oid(row, 0)?,
        schema: oid(row, 1)?,
        name: name(row, 2)?,
        declared: declared(row, 3)?,
        arguments_min: count(4)?,
        arguments_max: count(5)?,
        takes_row: row.try_get::<_, Option<bool>>(6)?.unwrap_or(true),
        in_c: row.try_get(7)?,
    })
}

fn operator(row: &Row) -> Made<Operator> {
    Ok(Operator {
        oid: oid(row, 3)?,
        name: name(row, 0)?,
        declared: declared(row, 1)?,
        in_c: row.try_get(2)?,
    })
}

fn own_type(row: &Row) -> Made<Type> {
    Ok(Type { oid: oid(row, 0)?, schema: oid(row, 1)?, name: name(row, 2)?, input: declared(row, 3)? })
}

fn cast(row: &Row) -> Made<Cast> {
    let (in_c, is_implicit) = (row.try_get(2)?, row.try_get(3)?);
    Ok(Cast { target: oid(row, 0)?, declared: declared(row, 1)?, in_c, is_implicit })
}

/// Whether it is of this database, of which role, and the path. The server's own has no database at all; that of nobody
/// says which settings of any kind there are.
type PathRow = (Option<bool>, Option<Box<str>>, Box<str>);

fn search_path(row: &Row) -> Made<PathRow> {
    let role = row.try_get::<_, Option<&str>>(1)?.map(Box::from);
    Ok((row.try_get(0)?, role, name(row, 2)?))
}

fn search_paths(rows: Vec<PathRow>) -> SearchPaths {
    let mut paths = SearchPaths::default();
    let mut of_all_roles = None;
    for (is_here, role, path) in rows {
        match (is_here, role) {
            (None, None) => paths.of_server = Some(path),
            (None, Some(_)) => paths.role_settings = path,
            (Some(true), Some(role)) => paths.of_roles_here.push((role, path)),
            (Some(true), None) => paths.of_database = Some(path),
            (Some(false), Some(role)) => paths.of_roles.push((role, path)),
            (Some(false), None) => of_all_roles = Some(path),
        }
    }
    paths.of_server = of_all_roles.or(paths.of_server);
    paths
}
