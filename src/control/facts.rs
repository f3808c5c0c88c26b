//! Loads what index advice must know of tables: sizes, statistics, indexes, foreign keys.

use std::collections::HashMap;

use super::{ControlError, ControlSession};
use crate::advice::schema::{
    ColumnFacts, ForeignKey, Function, Index, IndexKey, Schema, Server, Table, TableName,
};

const SERVER: &str = "
SELECT pg_catalog.current_setting('server_version_num')::int4,
       pg_catalog.current_setting('seq_page_cost')::float8, pg_catalog.current_setting('random_page_cost')::float8,
       pg_catalog.current_setting('cpu_tuple_cost')::float8, pg_catalog.current_setting('cpu_index_tuple_cost')::float8,
       pg_catalog.current_setting('cpu_operator_cost')::float8,
       (SELECT setting::float8 FROM pg_catalog.pg_settings WHERE name = 'effective_cache_size'),
       (SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e
        JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'hypopg'),
       (SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e
        JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'pg_trgm'),
       COALESCE((SELECT n.nspname = 'pg_catalog' OR n.nspname = ANY (pg_catalog.current_schemas(true))
        FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace
        WHERE e.extname = 'pg_trgm'), false)";

/// Current pages as the planner counts them; rows by the density that was last seen, as it does too.
const TABLES: &str = "
SELECT c.oid, n.nspname::text, c.relname::text, s.pages,
       CASE WHEN c.relpages > 0 AND c.reltuples >= 0 THEN c.reltuples::float8 / c.relpages * s.pages
            ELSE s.pages * 50 END,
       c.relpages::float8, CASE WHEN c.relpages > 0 THEN c.relallvisible::float8 / c.relpages ELSE 0 END,
       c.relkind = 'p' OR c.relispartition,
       rn.nspname::text, r.relname::text,
       COALESCE((t.n_tup_ins + t.n_tup_upd + t.n_tup_del) /
         GREATEST(EXTRACT(EPOCH FROM pg_catalog.now() - COALESCE(d.stats_reset, pg_catalog.pg_postmaster_start_time())) / 60, 1), 0)::float8,
       COALESCE(t.n_mod_since_analyze / GREATEST(t.n_live_tup, 1)::float8, 0)
FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS wanted (namespace, name)
JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.namespace
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name AND c.relkind IN ('r', 'p', 'm')
CROSS JOIN LATERAL (SELECT (CASE WHEN c.relkind = 'p' THEN 0 ELSE pg_catalog.pg_relation_size(c.oid) END
                            / pg_catalog.current_setting('block_size')::int8)::float8) AS s (pages)
LEFT JOIN pg_catalog.pg_stat_all_tables t ON t.relid = c.oid
LEFT JOIN pg_catalog.pg_stat_database d ON d.datname = pg_catalog.current_database()
LEFT JOIN pg_catalog.pg_class r ON c.relispartition AND r.oid = pg_catalog.pg_partition_root(c.oid)
LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace";

/// `pg_stats` shows only what the role may read.
const COLUMNS: &str = "
SELECT a.attrelid, a.attname::text, pg_catalog.format_type(a.atttypid, NULL), a.attnotnull,
       CASE WHEN a.attcollation = 0 THEN true
            WHEN l.collname = 'default' THEN d.datcollate IN ('C', 'POSIX') AND d.datlocprovider = 'c'
            ELSE l.collcollate IN ('C', 'POSIX') AND l.collprovider = 'c' END,
       s.attname IS NOT NULL, COALESCE(s.null_frac, 0)::float8, COALESCE(s.n_distinct, 0)::float8,
       COALESCE(s.avg_width, 8)::float8, COALESCE(s.correlation, 0)::float8,
       CASE WHEN y.typcategory <> 'A' THEN (s.most_common_vals::text::text[])[:100] END,
       s.most_common_freqs[:100],
       CASE WHEN y.typcategory <> 'A' THEN s.histogram_bounds::text::text[] END
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
LEFT JOIN pg_catalog.pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
     AND s.inherited = (c.relkind = 'p')
WHERE a.attrelid = ANY ($1::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum";

const NAMES: &str = "
SELECT c.oid, n.nspname::text, c.relname::text
FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS wanted (namespace, name)
JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.namespace
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name AND c.relkind IN ('r', 'p', 'm')";

/// Before 15 there is no `datlocprovider`: all databases are libc's.
const PROVIDER_SINCE: i32 = 150_000;

const INDEXES: &str = "
SELECT i.indrelid, c.relname::text, m.amname::text, i.indisunique, i.indisvalid AND i.indisready,
       EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u', 'x')),
       pg_catalog.pg_get_expr(i.indpred, i.indrelid, true), pg_catalog.pg_relation_size(i.indexrelid)::float8,
       COALESCE(t.idx_scan, 0),
       (SELECT pg_catalog.array_agg(pg_catalog.pg_get_indexdef(i.indexrelid, k, true) ORDER BY k)
        FROM pg_catalog.generate_series(1, i.indnatts) k),
       (SELECT pg_catalog.array_agg(CASE WHEN o.opcdefault THEN NULL ELSE o.opcname::text END ORDER BY k)
        FROM pg_catalog.generate_series(1, i.indnkeyatts) k JOIN pg_catalog.pg_opclass o ON o.oid = i.indclass[k - 1]),
       (SELECT pg_catalog.array_agg(i.indoption[k - 1]::int4 ORDER BY k) FROM pg_catalog.generate_series(1, i.indnkeyatts) k)
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_am m ON m.oid = c.relam
LEFT JOIN pg_catalog.pg_stat_all_indexes t ON t.indexrelid = i.indexrelid
WHERE i.indrelid = ANY ($1::oid[])
ORDER BY c.relname";

const FOREIGN_KEYS: &str = "
SELECT k.confrelid, k.conname::text, n.nspname::text, c.relname::text,
       (SELECT pg_catalog.array_agg(a.attname::text ORDER BY o.at) FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY o (num, at)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = o.num),
       (SELECT pg_catalog.array_agg(a.attname::text ORDER BY o.at) FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY o (num, at)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = o.num)
FROM pg_catalog.pg_constraint k
JOIN pg_catalog.pg_class c ON c.oid = k.conrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE k.contype = 'f' AND k.confrelid = ANY ($1::oid[])";

const FUNCTIONS: &str = "
SELECT p.proname::text, (SELECT pg_catalog.array_agg(pg_catalog.format_type(t, NULL) ORDER BY at)
                   FROM pg_catalog.unnest(p.proargtypes::oid[]) WITH ORDINALITY o (t, at)),
       pg_catalog.format_type(p.prorettype, NULL), p.provolatile = 'i'
FROM pg_catalog.pg_proc p WHERE p.prokind = 'f' AND p.proname = ANY ($1::text[])
UNION ALL
SELECT o.oprname::text, ARRAY[pg_catalog.format_type(o.oprleft, NULL), pg_catalog.format_type(o.oprright, NULL)],
       pg_catalog.format_type(o.oprresult, NULL), p.provolatile = 'i'
FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
WHERE o.oprkind = 'b' AND o.oprname = ANY ($1::text[])";

const CASTS: &str = "
SELECT pg_catalog.format_type(c.castsource, NULL), pg_catalog.format_type(c.casttarget, NULL), p.provolatile = 'i'
FROM pg_catalog.pg_cast c JOIN pg_catalog.pg_proc p ON p.oid = c.castfunc";

/// Asks for the planner's constants and the extensions.
pub(super) async fn server(session: &ControlSession) -> Result<(Server, Option<String>), ControlError> {
    let row = session.row(SERVER, &[]).await?;
    let hypopg: Option<String> = row.get(7);
    let trgm: Option<String> = row.get(8);
    let is_found: bool = row.get(9);
    let server = Server {
        version: row.get(0),
        seq_page_cost: row.get(1),
        random_page_cost: row.get(2),
        cpu_tuple_cost: row.get(3),
        cpu_index_tuple_cost: row.get(4),
        cpu_operator_cost: row.get(5),
        cache_pages: row.get(6),
        has_hypopg: hypopg.is_some(),
        has_trgm: trgm.is_some(),
        trgm_schema: trgm.filter(|_| !is_found).map(|schema| format!("{schema}.")).unwrap_or_default(),
    };
    Ok((server, hypopg))
}

/// Casts that run a function.
pub(super) async fn casts(session: &ControlSession) -> Result<HashMap<(String, String), bool>, ControlError> {
    let rows = session.rows(CASTS, &[]).await?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

/// Adds functions and operators of these names.
pub(super) async fn functions(
    session: &ControlSession,
    schema: &mut Schema,
    names: Vec<String>,
) -> Result<(), ControlError> {
    let names: Vec<String> = names.into_iter().filter(|name| !schema.functions.contains_key(name)).collect();
    if names.is_empty() {
        return Ok(());
    }
    for row in session.rows(FUNCTIONS, &[&names]).await? {
        let arguments: Option<Vec<String>> = row.get(1);
        let function =
            Function { arguments: arguments.unwrap_or_default(), returns: row.get(2), immutable: row.get(3) };
        schema.functions.entry(row.get(0)).or_default().push(function);
    }
    Ok(())
}

/// Adds the tables of these names, and those that refer to them.
pub(super) async fn tables(
    session: &ControlSession,
    schema: &mut Schema,
    names: &[TableName],
) -> Result<(), ControlError> {
    let mut wanted: Vec<TableName> =
        names.iter().filter(|name| !schema.tables.contains_key(name)).cloned().collect();
    // Those that refer are wanted for their indexes alone: not again those that refer to them.
    for _ in 0..2 {
        if wanted.is_empty() {
            break;
        }
        let found = load(session, schema, &wanted).await?;
        let children =
            found.iter().filter_map(|name| schema.tables.get(name)).flat_map(|table| &table.referenced_by);
        let children: Vec<TableName> = children.map(|key| key.child.clone()).collect();
        wanted = children.into_iter().filter(|name| !schema.tables.contains_key(name)).collect();
        wanted.sort();
        wanted.dedup();
    }
    Ok(())
}

/// The indexes of these tables; of one that is gone, none.
pub(super) async fn indexes(
    session: &ControlSession,
    wanted: &[TableName],
) -> Result<HashMap<TableName, Vec<Index>>, ControlError> {
    let mut found: HashMap<TableName, Vec<Index>> =
        wanted.iter().map(|name| (name.clone(), Vec::new())).collect();
    let (namespaces, names): (Vec<&str>, Vec<&str>) =
        wanted.iter().map(|(namespace, name)| (namespace.as_str(), name.as_str())).unzip();
    let rows = session.rows(NAMES, &[&namespaces, &names]).await?;
    let names: HashMap<u32, TableName> =
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    let oids: Vec<u32> = names.keys().copied().collect();
    for row in session.rows(INDEXES, &[&oids]).await? {
        let table: u32 = row.get(0);
        if let Some(indexes) = names.get(&table).and_then(|name| found.get_mut(name)) {
            indexes.extend(index(&row));
        }
    }
    Ok(found)
}

async fn load(
    session: &ControlSession,
    schema: &mut Schema,
    wanted: &[TableName],
) -> Result<Vec<TableName>, ControlError> {
    let (namespaces, names): (Vec<&str>, Vec<&str>) =
        wanted.iter().map(|(namespace, name)| (namespace.as_str(), name.as_str())).unzip();
    let mut tables: HashMap<u32, Table> = HashMap::new();
    for row in session.rows(TABLES, &[&namespaces, &names]).await? {
        let root: Option<String> = row.get(8);
        // It is being dropped: its files are gone, and soon its row.
        let Some(pages) = row.get(3) else { continue };
        let table = Table {
            name: (row.get(1), row.get(2)),
            pages,
            tuples: row.get(4),
            analyzed_pages: row.get(5),
            all_visible: row.get(6),
            is_partitioned: row.get(7),
            root: root.zip(row.get(9)),
            writes_per_minute: row.get(10),
            changed_since_analyze: row.get(11),
            ..Table::default()
        };
        tables.insert(row.get(0), table);
    }
    let oids: Vec<u32> = tables.keys().copied().collect();
    let columns = if schema.server.version >= PROVIDER_SINCE {
        COLUMNS.to_owned()
    } else {
        COLUMNS.replace(" AND d.datlocprovider = 'c'", "")
    };
    for row in session.rows(&columns, &[&oids]).await? {
        let values: Option<Vec<Option<String>>> = row.get(10);
        let shares: Option<Vec<f32>> = row.get(11);
        let bounds: Option<Vec<Option<String>>> = row.get(12);
        let values = values.unwrap_or_default().into_iter().flatten();
        let column = ColumnFacts {
            name: row.get(1),
            type_name: row.get(2),
            not_null: row.get(3),
            collates_as_c: row.get(4),
            has_statistics: row.get(5),
            null_share: row.get(6),
            n_distinct: row.get(7),
            width: row.get(8),
            correlation: row.get(9),
            common: values.zip(shares.unwrap_or_default().into_iter().map(f64::from)).collect(),
            histogram: bounds.unwrap_or_default().into_iter().flatten().collect(),
        };
        if let Some(table) = tables.get_mut(&row.get(0)) {
            table.columns.push(column);
        }
    }
    for row in session.rows(INDEXES, &[&oids]).await? {
        if let Some(table) = tables.get_mut(&row.get(0)) {
            table.indexes.extend(index(&row));
        }
    }
    for row in session.rows(FOREIGN_KEYS, &[&oids]).await? {
        let key = ForeignKey {
            name: row.get(1),
            child: (row.get(2), row.get(3)),
            columns: row.get(4),
            parent_columns: row.get(5),
        };
        if let Some(table) = tables.get_mut(&row.get(0)) {
            table.referenced_by.push(key);
        }
    }
    let names = tables.values().map(|table| table.name.clone()).collect();
    schema.tables.extend(tables.into_values().map(|table| (table.name.clone(), table)));
    Ok(names)
}

/// `None`: it is being dropped, and what its catalog row says is gone already.
fn index(row: &tokio_postgres::Row) -> Option<Index> {
    let definitions: Vec<Option<String>> = row.get(9);
    let definitions: Vec<String> = definitions.into_iter().collect::<Option<_>>()?;
    let classes: Vec<Option<String>> = row.get(10);
    let options: Vec<i32> = row.get(11);
    let key = |at: usize, class: &Option<String>| IndexKey {
        expression: definitions.get(at).cloned().unwrap_or_default(),
        opclass: class.clone(),
        // INDOPTION_DESC and INDOPTION_NULLS_FIRST
        descending: options.get(at).is_some_and(|option| option & 1 != 0),
        nulls_first: options.get(at).is_some_and(|option| option & 2 != 0),
    };
    Some(Index {
        name: row.get(1),
        method: row.get(2),
        is_unique: row.get(3),
        is_valid: row.get(4),
        is_constraint: row.get(5),
        predicate: row.get(6),
        bytes: row.get::<_, Option<f64>>(7)?,
        scans: u64::try_from(row.get::<_, i64>(8)).unwrap_or(0),
        keys: classes.iter().enumerate().map(|(at, class)| key(at, class)).collect(),
        include: definitions.get(classes.len()..).unwrap_or_default().to_vec(),
    })
}
