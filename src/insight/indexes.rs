//! Which tables' indexes are to be looked at, and what was found of them: those that the explained statements use.
//!
//! It is seldom looked: when a table is new, after DDL, and every ten minutes. How long an index has been there PostgreSQL does
//! not say, so it is known for as long as Weir has seen it, by the clock on the wall: that outlives a restart.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ahash::HashMap;

use super::keep::{Kept, KeptIndex};
use crate::advice::existing::{Finding, Inventory, Unknown};
use crate::advice::schema::TableName;
use crate::pg::Oid;

/// It is looked again after so long without a cause.
const LOOK_EVERY: Duration = Duration::from_secs(600);

/// And with one: a table that is new, or DDL.
const PAUSE: Duration = Duration::from_secs(10);

/// Tables of one database, and indexes that were there before the last start.
const TABLES_MAX: usize = 1000;
const RESTORED_MAX: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Indexes(HashMap<Arc<str>, Looked>);

/// What is known of one database.
#[derive(Debug, Default)]
pub struct Looked {
    tables: BTreeSet<TableName>,
    is_doubted: bool,
    /// When it was last begun.
    begun: Option<Instant>,
    /// When it last came to something.
    pub at: Option<Instant>,
    seen: HashMap<Oid, (TableName, SystemTime)>,
    /// What is wrong with which index.
    pub findings: Vec<Finding>,
    /// Why nothing is said of unused ones, if nothing is.
    pub unknown: Option<Unknown>,
}

impl Indexes {
    /// A statement that was explained uses these tables.
    pub fn uses(&mut self, dbname: &Arc<str>, tables: &[TableName]) {
        if tables.is_empty() {
            return;
        }
        let looked = self.0.entry(Arc::clone(dbname)).or_default();
        for table in tables.iter().filter(|table| !is_catalog(table)) {
            if looked.tables.len() < TABLES_MAX {
                looked.is_doubted |= looked.tables.insert(table.clone());
            }
        }
    }

    /// Indexes may have been changed.
    pub fn doubt(&mut self) {
        self.0.values_mut().for_each(|looked| looked.is_doubted = true);
    }

    /// Tables of a database that are to be looked at now.
    pub fn due(&mut self, now: Instant) -> Option<(Arc<str>, Vec<TableName>)> {
        let is_due = |looked: &Looked| {
            let since = looked.begun.map(|begun| now.saturating_duration_since(begun));
            let after = if looked.is_doubted { PAUSE } else { LOOK_EVERY };
            !looked.tables.is_empty() && since.is_none_or(|since| since >= after)
        };
        let (dbname, looked) = self.0.iter_mut().find(|(_, looked)| is_due(looked))?;
        looked.begun = Some(now);
        looked.is_doubted = false;
        Some((Arc::clone(dbname), looked.tables.iter().cloned().collect()))
    }

    /// What was found, having looked. `None`: nobody could be asked, and it is to be tried again.
    pub fn found(&mut self, dbname: &str, inventory: Option<&Inventory>, now: Instant, wall: SystemTime) {
        let Some(looked) = self.0.get_mut(dbname) else { return };
        let Some(inventory) = inventory else {
            looked.is_doubted = true;
            return;
        };
        for table in &inventory.gone {
            looked.tables.remove(table);
            looked.seen.retain(|_, (of, _)| of != table);
        }
        let there: HashMap<Oid, &TableName> =
            inventory.indexes.iter().map(|index| (index.oid, &index.table)).collect();
        // What was restored is of tables that nobody has asked about yet, too.
        let Looked { seen, tables, .. } = looked;
        seen.retain(|oid, (table, _)| there.contains_key(oid) || !tables.contains(table));
        for (oid, table) in there {
            seen.entry(oid).or_insert_with(|| (table.clone(), wall));
        }
        let known = |oid: Oid| {
            let since = looked.seen.get(&oid).and_then(|(_, since)| wall.duration_since(*since).ok());
            since.unwrap_or_default()
        };
        looked.findings = inventory.findings(known);
        looked.unknown = inventory.unknown();
        looked.at = Some(now);
    }

    /// Since when indexes have been there, for the next start.
    pub fn kept(&self, kept: &mut Kept) {
        for (dbname, looked) in self.0.iter().filter(|(_, looked)| !looked.seen.is_empty()) {
            let seconds = |at: &SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let mut indexes: Vec<KeptIndex> = looked
                .seen
                .iter()
                .map(|(oid, (table, since))| (oid.0, table.clone(), seconds(since)))
                .collect();
            indexes.sort_unstable();
            kept.0.entry(dbname.to_string()).or_default().indexes = indexes;
        }
    }

    /// Takes in what was kept before this start.
    pub fn restore(&mut self, dbname: &Arc<str>, indexes: Vec<KeptIndex>) {
        if indexes.is_empty() {
            return;
        }
        let looked = self.0.entry(Arc::clone(dbname)).or_default();
        for (oid, table, since) in indexes.into_iter().take(RESTORED_MAX) {
            looked.seen.insert(Oid(oid), (table, UNIX_EPOCH + Duration::from_secs(since)));
        }
    }

    /// What is known, by database.
    pub fn list(&self) -> Vec<(&Arc<str>, &Looked)> {
        let mut all: Vec<_> = self.0.iter().collect();
        all.sort_by_key(|(dbname, _)| *dbname);
        all
    }
}

impl Looked {
    /// How many tables are looked at.
    pub fn tables(&self) -> usize {
        self.tables.len()
    }
}

fn is_catalog((schema, _): &TableName) -> bool {
    schema.starts_with("pg_") || schema == "information_schema"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::existing::{Counted, Existing, Key};

    fn table(name: &str) -> TableName {
        ("public".to_owned(), name.to_owned())
    }

    fn unused() -> Inventory {
        let index = Existing {
            oid: Oid(1),
            table: table("t"),
            name: "i".to_owned(),
            method: "btree".to_owned(),
            keys: vec![Key { column: 1, ..Key::default() }],
            rows: 1e6,
            ..Existing::default()
        };
        let scans = [(Oid(1), 0)].into();
        let since = Duration::from_secs(1_000_000);
        let counted = vec![Ok(Counted { is_replica: false, since, standbys: 0, scans })];
        Inventory { indexes: vec![index], counted, ..Inventory::default() }
    }

    #[test]
    fn it_is_looked_with_a_cause_and_now_and_then() {
        #[expect(clippy::disallowed_methods, reason = "an Instant is had in no other way")]
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let dbname: Arc<str> = "app".into();
        let mut indexes = Indexes::default();
        let due =
            |indexes: &mut Indexes, seconds| indexes.due(after(seconds)).map(|(_, tables)| tables.len());
        indexes.uses(&dbname, &[]);
        indexes.uses(&dbname, &[("pg_catalog".to_owned(), "pg_class".to_owned())]);
        assert_eq!(due(&mut indexes, 0), None, "PostgreSQL's own tables are none of ours");
        indexes.uses(&dbname, &[table("t")]);
        assert_eq!(due(&mut indexes, 0), Some(1));
        indexes.uses(&dbname, &[table("t"), table("u")]);
        assert_eq!(due(&mut indexes, 5), None, "not again at once");
        assert_eq!(due(&mut indexes, 10), Some(2), "a new table");
        indexes.uses(&dbname, &[table("t")]);
        assert_eq!(due(&mut indexes, 609), None);
        assert_eq!(due(&mut indexes, 610), Some(2), "every ten minutes");
        indexes.doubt();
        assert_eq!(due(&mut indexes, 620), Some(2), "after DDL");
        indexes.found("app", None, after(620), UNIX_EPOCH);
        assert_eq!(due(&mut indexes, 630), Some(2), "nobody could be asked");
        indexes.found("app", Some(&Inventory { gone: vec![table("u")], ..unused() }), after(630), UNIX_EPOCH);
        assert_eq!(due(&mut indexes, 1230), Some(1), "a table has gone");
    }

    #[test]
    fn an_index_is_known_for_as_long_as_it_was_seen() {
        #[expect(clippy::disallowed_methods, reason = "an Instant is had in no other way")]
        let now = Instant::now();
        let after = |hours: u64| UNIX_EPOCH + Duration::from_secs(hours * 3600);
        let mut indexes = Indexes::default();
        indexes.uses(&"app".into(), &[table("t")]);
        let found = |indexes: &mut Indexes, hours, inventory| {
            indexes.found("app", Some(&inventory), now, after(hours));
            indexes.list()[0].1.findings.len()
        };
        assert_eq!(found(&mut indexes, 0, unused()), 0);
        assert_eq!(found(&mut indexes, 23, unused()), 0);
        // A restart, after which another table is asked about first.
        let mut kept = Kept::default();
        indexes.kept(&mut kept);
        let mut indexes = Indexes::default();
        indexes.restore(&"app".into(), kept.0.remove("app").unwrap().indexes);
        assert_eq!(indexes.due(now), None, "its table may be used no more");
        indexes.uses(&"app".into(), &[table("u")]);
        assert_eq!(found(&mut indexes, 23, Inventory::default()), 0);
        indexes.uses(&"app".into(), &[table("t")]);
        assert_eq!(found(&mut indexes, 24, unused()), 1);
        assert_eq!(found(&mut indexes, 25, Inventory::default()), 0, "it was dropped");
        assert_eq!(found(&mut indexes, 26, unused()), 0, "and is another one");
    }
}
