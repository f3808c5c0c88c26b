//! Indexes that exist and should not be as they are: another one does their work, a build of them failed, or nobody has used
//! them.
//!
//! Only what is certain is told. What guards something that is no search (a constraint, a foreign key's target, a replica
//! identity) stays. An index that is being built or dropped just now is neither invalid nor of use to another. And *unused*
//! takes every server that could have used it: a hot standby counts its own scans (manual, 28.2.20 pg_stat_all_indexes), so
//! one that cannot be asked, or is not known to Weir, may be the one that needs it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use super::identifier::quoted;
use super::schema::TableName;
use crate::pg::Oid;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A build of it failed.
    RepairInvalid,
    /// Another index does its work.
    DropRedundant,
    /// Nobody has used it.
    DropUnused,
}

impl Kind {
    /// The word in the console and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RepairInvalid => "repair_invalid",
            Self::DropRedundant => "drop_redundant",
            Self::DropUnused => "drop_unused",
        }
    }
}

/// What is wrong with one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What to do.
    pub kind: Kind,
    /// The index's table.
    pub table: TableName,
    /// The index, which is in the table's schema.
    pub index: String,
    /// In one sentence: why.
    pub reason: String,
    /// Bytes that it takes.
    pub bytes: u64,
    /// A statement to copy.
    pub ddl: String,
    /// Another one that would do.
    pub alternative: Option<String>,
}

impl Finding {
    /// For the API.
    pub fn to_json(&self) -> Value {
        json!({
            "kind": self.kind.as_str(),
            "table": format!("{}.{}", quoted(&self.table.0), quoted(&self.table.1)),
            "index": self.index,
            "size_bytes": self.bytes,
            "reason": self.reason,
            "ddl": self.ddl,
            "alternative_ddl": self.alternative,
        })
    }
}

/// One key of an index. What is compared is what PostgreSQL compares: numbers, not their spelling.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// The column's number; 0 for an expression.
    pub column: i16,
    /// The expression.
    pub expression: Option<String>,
    /// Its operator class.
    pub class: Oid,
    /// Its collation.
    pub collation: Oid,
    /// DESC and NULLS FIRST, as `indoption` has them.
    pub options: i16,
}

/// What a unique index forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unique {
    /// NULLS NOT DISTINCT
    pub nulls_not_distinct: bool,
    /// At once, and not only at the end of the transaction.
    pub immediate: bool,
}

/// Whether an index can be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Build {
    /// It can.
    #[default]
    Valid,
    /// It cannot, and nobody is at it.
    Failed,
    /// Somebody is building it, or dropping it.
    UnderWay,
}

/// An index as the primary's catalog has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Existing {
    /// The same on all servers.
    pub oid: Oid,
    /// Its table.
    pub table: TableName,
    /// Its name.
    pub name: String,
    /// btree, hash, gin, ...
    pub method: String,
    /// Its keys in order.
    pub keys: Vec<Key>,
    /// Numbers of the columns that it holds besides.
    pub include: Vec<i16>,
    /// Its predicate.
    pub predicate: Option<String>,
    /// What it forbids, if it is unique.
    pub unique: Option<Unique>,
    /// Something that is no search needs it, so that it cannot be dropped, or not for nothing.
    pub is_required: bool,
    /// Whether it can be used.
    pub build: Build,
    /// Bytes that it takes.
    pub bytes: u64,
    /// Rows of its table, as far as the primary knows.
    pub rows: f64,
}

/// What one server has counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// It is a hot standby.
    pub is_replica: bool,
    /// Its counters are at least as old.
    pub since: Duration,
    /// Standbys that take its log from it.
    pub standbys: usize,
    /// Scans by index.
    pub scans: HashMap<Oid, u64>,
}

/// Why nothing is said of unused indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// A host does not answer.
    Unreachable(String),
    /// Not one host, and only one, takes writes.
    NoPrimary,
    /// A standby follows that is no host of Weir's.
    Stranger,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(host) => write!(f, "{host} cannot be asked what it has used"),
            Self::NoPrimary => f.write_str("there is not one primary"),
            Self::Stranger => f.write_str("a standby that Weir does not know may use them"),
        }
    }
}

/// All that was asked about the indexes of some tables.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inventory {
    /// Tables that are not there any more.
    pub gone: Vec<TableName>,
    /// The indexes of all others.
    pub indexes: Vec<Existing>,
    /// Foreign keys that these tables have: the table, and the numbers of its columns.
    pub foreign_keys: Vec<(TableName, Vec<i16>)>,
    /// What was counted, by server; the name of one that did not answer.
    pub counted: Vec<Result<Counted, String>>,
}

/// An index that nobody has used for so long is called unused.
const UNUSED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Indexes of smaller tables are not worth a word: the planner would rather read the table.
const ROWS_MIN: f64 = 1000.0;

impl Inventory {
    /// What is wrong, the largest first of each kind. `known`: for how long Weir has known of an index.
    pub fn findings(&self, known: impl Fn(Oid) -> Duration) -> Vec<Finding> {
        let usage = self.usage();
        let mut found: Vec<Finding> = Vec::new();
        for index in self.indexes.iter().filter(|index| !index.is_required) {
            let unused = |usage: &Usage<'_>| self.unused(index, usage, known(index.oid));
            found.extend(
                self.invalid(index)
                    .or_else(|| self.redundant(index))
                    .or_else(|| usage.as_ref().ok().and_then(unused)),
            );
        }
        found.sort_by(|a, b| (a.kind, Reverse(a.bytes), &a.index).cmp(&(b.kind, Reverse(b.bytes), &b.index)));
        found
    }

    /// Why nothing is said of unused indexes, if nothing is.
    pub fn unknown(&self) -> Option<Unknown> {
        self.usage().err()
    }

    /// All servers' counters, if they are all there are.
    fn usage(&self) -> Result<Usage<'_>, Unknown> {
        let mut servers = Vec::new();
        for counted in &self.counted {
            servers.push(counted.as_ref().map_err(|host| Unknown::Unreachable(host.clone()))?);
        }
        let replicas = servers.iter().filter(|server| server.is_replica).count();
        if servers.len() != replicas + 1 {
            return Err(Unknown::NoPrimary);
        }
        if servers.iter().map(|server| server.standbys).sum::<usize>() > replicas {
            return Err(Unknown::Stranger);
        }
        Ok(Usage { servers, replicas })
    }

    fn invalid(&self, index: &Existing) -> Option<Finding> {
        if index.build != Build::Failed {
            return None;
        }
        let other = self.indexes.iter().find(|other| other.does_work_of(index));
        let Repair { ddl, alternative, mut reason } = repair(&index.table.0, &index.name);
        if index.unique.is_some() && alternative.is_some() {
            reason.push_str("; the next one fails, too, while values are there twice");
        }
        Some(match other {
            Some(other) => {
                let reason = format!("a build of it failed, and {} does its work", other.name);
                Finding { ddl: drop_ddl(index), ..index.finding(Kind::RepairInvalid, reason) }
            }
            None => Finding { ddl, alternative, ..index.finding(Kind::RepairInvalid, reason) },
        })
    }

    fn redundant(&self, index: &Existing) -> Option<Finding> {
        let other = self.instead_of(index)?;
        let is_same = other.keys.len() == index.keys.len();
        let what = match (is_same, other.unique.is_some() && index.unique.is_none()) {
            (true, true) => "has the same keys and is unique",
            (true, false) => "has the same keys",
            (false, _) => "begins with the same keys",
        };
        Some(index.finding(Kind::DropRedundant, format!("{} {what}", other.name)))
    }

    /// The index that makes this one superfluous, and stays itself if all is done that is said here.
    fn instead_of(&self, index: &Existing) -> Option<&Existing> {
        if index.is_required || index.build != Build::Valid {
            return None;
        }
        let mut others = self.indexes.iter().filter(|other| {
            other.does_work_of(index) && (!index.does_work_of(other) || other.rank() > index.rank())
        });
        others.find(|other| self.instead_of(other).is_none())
    }

    fn unused(&self, index: &Existing, usage: &Usage<'_>, known: Duration) -> Option<Finding> {
        // A DELETE of what it refers to may come once a year, and would read the whole table for each row then.
        let of_foreign_key = self.foreign_keys.iter().any(|(table, columns)| {
            *table == index.table && index.keys.first().is_some_and(|key| columns.contains(&key.column))
        });
        let is_unused = usage.servers.iter().all(|server| server.scans.get(&index.oid) == Some(&0));
        let since = usage.servers.iter().map(|server| server.since).min()?.min(known);
        if index.build != Build::Valid
            || index.unique.is_some()
            || index.rows < ROWS_MIN
            || of_foreign_key
            || !is_unused
            || since < UNUSED_AFTER
        {
            return None;
        }
        let of = match usage.replicas {
            0 => "on the only server".to_owned(),
            1 => "on the primary and its replica".to_owned(),
            replicas => format!("on the primary and {replicas} replicas"),
        };
        let mut reason = format!("no scan of it in {}, {of}", words(since));
        if index.keys.iter().any(|key| key.column == 0) {
            reason.push_str("; without it the planner has no statistics of its expression");
        }
        Some(index.finding(Kind::DropUnused, reason))
    }
}

struct Usage<'a> {
    servers: Vec<&'a Counted>,
    replicas: usize,
}

impl Existing {
    /// Whether everything for which somebody may have the other one is done by this one, too.
    fn does_work_of(&self, other: &Self) -> bool {
        let holds =
            |column: &i16| self.include.contains(column) || self.keys.iter().any(|key| key.column == *column);
        let forbids =
            other.unique.is_none() || (self.unique == other.unique && self.keys.len() == other.keys.len());
        self.oid != other.oid
            && self.table == other.table
            && self.build == Build::Valid
            && (self.method == "btree" && other.method == "btree")
            && self.predicate == other.predicate
            && self.keys.starts_with(&other.keys)
            && other.include.iter().all(holds)
            && forbids
    }

    /// Of two that do each other's work the one of the higher rank stays: the one that is needed, else the older one.
    fn rank(&self) -> (bool, Reverse<Oid>) {
        (self.is_required, Reverse(self.oid))
    }

    fn finding(&self, kind: Kind, reason: String) -> Finding {
        Finding {
            kind,
            table: self.table.clone(),
            index: self.name.clone(),
            reason,
            bytes: self.bytes,
            ddl: drop_ddl(self),
            alternative: None,
        }
    }
}

/// What to do about an index whose build failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// A statement to copy.
    pub ddl: String,
    /// Another one that would do.
    pub alternative: Option<String>,
    /// Why.
    pub reason: String,
}

/// REINDEX, or DROP; of what a REINDEX itself has left only the latter (manual, REINDEX: Rebuilding Indexes Concurrently).
pub fn repair(schema: &str, name: &str) -> Repair {
    let index = format!("{}.{}", quoted(schema), quoted(name));
    let drop = format!("DROP INDEX CONCURRENTLY {index}");
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if stem.ends_with("_ccnew") || stem.ends_with("_ccold") {
        let reason = "a REINDEX CONCURRENTLY that failed left it: it is never read".to_owned();
        return Repair { ddl: drop, alternative: None, reason };
    }
    let ddl = format!("REINDEX INDEX CONCURRENTLY {index}");
    Repair { ddl, alternative: Some(drop), reason: "a build of it failed: it is never read".to_owned() }
}

fn drop_ddl(index: &Existing) -> String {
    format!("DROP INDEX CONCURRENTLY {}.{}", quoted(&index.table.0), quoted(&index.name))
}

fn words(time: Duration) -> String {
    let hours = time.as_secs() / 3600;
    if hours < 48 { format!("{hours} hours") } else { format!("{} days", hours / 24) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = UNUSED_AFTER;

    /// An index of `public.t` on these columns.
    fn index(oid: u32, columns: &[i16]) -> Existing {
        let key = |column: &i16| Key { column: *column, ..Key::default() };
        Existing {
            oid: Oid(oid),
            table: ("public".to_owned(), "t".to_owned()),
            name: format!("i{oid}"),
            method: "btree".to_owned(),
            keys: columns.iter().map(key).collect(),
            rows: 100_000.0,
            ..Existing::default()
        }
    }

    fn unique(oid: u32, columns: &[i16]) -> Existing {
        let forbids = Unique { nulls_not_distinct: false, immediate: true };
        Existing { unique: Some(forbids), ..index(oid, columns) }
    }

    fn primary_key(oid: u32, columns: &[i16]) -> Existing {
        Existing { is_required: true, ..unique(oid, columns) }
    }

    fn said(inventory: &Inventory) -> Vec<String> {
        let found = inventory.findings(|_| 3 * DAY);
        found.iter().map(|one| format!("{} {}: {}", one.kind.as_str(), one.index, one.reason)).collect()
    }

    fn of(indexes: Vec<Existing>) -> Inventory {
        Inventory { indexes, ..Inventory::default() }
    }

    #[test]
    fn what_another_index_does_is_redundant() {
        let with = |mut index: Existing, change: fn(&mut Existing)| {
            change(&mut index);
            index
        };
        for (what, indexes, expected) in [
            ("a left part", vec![index(1, &[1]), index(2, &[1, 2])], "i1: i2 begins with the same keys"),
            ("a part that is not the left one", vec![index(1, &[2]), index(2, &[1, 2])], ""),
            (
                "a left part of a unique one",
                vec![index(1, &[1]), unique(2, &[1, 2])],
                "i1: i2 begins with the same keys",
            ),
            ("a unique left part", vec![unique(1, &[1]), index(2, &[1, 2])], ""),
            (
                "of two that are the same the younger",
                vec![index(2, &[1]), index(1, &[1])],
                "i2: i1 has the same keys",
            ),
            (
                "the one that is not unique",
                vec![index(1, &[1]), unique(2, &[1])],
                "i1: i2 has the same keys and is unique",
            ),
            (
                "unique beside the primary key",
                vec![unique(1, &[1]), primary_key(2, &[1])],
                "i1: i2 has the same keys",
            ),
            ("a primary key stays", vec![primary_key(1, &[1]), index(2, &[1, 2])], ""),
            (
                "a deferred constraint does not forbid at once",
                vec![
                    unique(1, &[1]),
                    with(primary_key(2, &[1]), |i| {
                        i.unique = Some(Unique { nulls_not_distinct: false, immediate: false });
                    }),
                ],
                "",
            ),
            (
                "another class",
                vec![with(index(1, &[1]), |i| i.keys[0].class = Oid(7)), index(2, &[1, 2])],
                "",
            ),
            (
                "another collation",
                vec![with(index(1, &[1]), |i| i.keys[0].collation = Oid(7)), index(2, &[1, 2])],
                "",
            ),
            ("another order", vec![with(index(1, &[1]), |i| i.keys[0].options = 3), index(2, &[1, 2])], ""),
            (
                "another predicate",
                vec![with(index(1, &[1]), |i| i.predicate = Some("x".to_owned())), index(2, &[1, 2])],
                "",
            ),
            (
                "another expression",
                vec![
                    with(index(1, &[0]), |i| i.keys[0].expression = Some("lower(a)".to_owned())),
                    with(index(2, &[0]), |i| i.keys[0].expression = Some("upper(a)".to_owned())),
                ],
                "",
            ),
            (
                "another method",
                vec![with(index(1, &[1]), |i| i.method = "hash".to_owned()), index(2, &[1, 2])],
                "",
            ),
            (
                "two of another method",
                {
                    let gin = |oid| with(index(oid, &[1]), |i| i.method = "gin".to_owned());
                    vec![gin(1), gin(2)]
                },
                "",
            ),
            (
                "another table",
                vec![with(index(1, &[1]), |i| i.table.1 = "u".to_owned()), index(2, &[1, 2])],
                "",
            ),
            ("it holds more", vec![with(index(1, &[1]), |i| i.include = vec![3]), index(2, &[1, 2])], ""),
            (
                "it holds what is a key there",
                vec![with(index(1, &[1]), |i| i.include = vec![2]), index(2, &[1, 2])],
                "i1: i2 begins with the same keys",
            ),
            (
                "the wider one failed",
                vec![index(1, &[1]), with(index(2, &[1, 2]), |i| i.build = Build::UnderWay)],
                "",
            ),
        ] {
            let said = said(&of(indexes));
            let expected: Vec<String> =
                (!expected.is_empty()).then(|| format!("drop_redundant {expected}")).into_iter().collect();
            assert_eq!(said, expected, "{what}");
        }
    }

    #[test]
    fn what_is_named_instead_is_not_to_be_dropped_itself() {
        let inventory = of(vec![index(1, &[1]), index(2, &[1, 2]), index(3, &[1, 2, 3]), index(4, &[1])]);
        let said = said(&inventory);
        assert_eq!(said.len(), 3);
        assert!(said.iter().all(|one| one.ends_with("i3 begins with the same keys")), "{said:?}");
    }

    #[test]
    fn an_invalid_index_is_repaired_or_dropped() {
        let failed = |index: Existing| Existing { build: Build::Failed, ..index };
        let named = |name: &str| Existing { name: name.to_owned(), ..failed(index(1, &[1])) };
        let reindex = |name: &str| format!("REINDEX INDEX CONCURRENTLY public.{name}");
        let drop = |name: &str| format!("DROP INDEX CONCURRENTLY public.{name}");
        for (indexes, ddl, alternative) in [
            (vec![failed(index(1, &[1]))], Some(reindex("i1")), Some(drop("i1"))),
            (vec![failed(unique(1, &[1])), index(2, &[1])], Some(reindex("i1")), Some(drop("i1"))),
            (vec![failed(index(1, &[1])), index(2, &[1, 2])], Some(drop("i1")), None),
            (vec![named("Odd")], Some(reindex("\"Odd\"")), Some(drop("\"Odd\""))),
            (vec![named("t_a_idx_ccnew")], Some(drop("t_a_idx_ccnew")), None),
            (vec![named("t_a_idx_ccold1")], Some(drop("t_a_idx_ccold1")), None),
            (vec![Existing { build: Build::UnderWay, ..index(1, &[1]) }], None, None),
            // A partitioned index lacks that of a partition: no REINDEX mends that.
            (vec![Existing { is_required: true, ..failed(index(1, &[1])) }], None, None),
        ] {
            let found = of(indexes.clone()).findings(|_| 3 * DAY);
            assert!(found.iter().all(|one| one.kind == Kind::RepairInvalid), "{found:?}");
            assert_eq!(found.first().map(|one| one.ddl.clone()), ddl, "{indexes:?}");
            assert_eq!(found.first().and_then(|one| one.alternative.clone()), alternative, "{indexes:?}");
        }
    }

    fn counted(is_replica: bool, days: u32, scans: &[u64]) -> Counted {
        let scans = (1..).map(Oid).zip(scans.iter().copied()).collect();
        Counted { is_replica, since: days * DAY, standbys: 0, scans }
    }

    #[test]
    fn unused_is_what_no_server_has_used_for_a_day() {
        let primary = |days, scans: &[u64]| Ok(counted(false, days, scans));
        let replica = |days, scans: &[u64]| Ok(counted(true, days, scans));
        let feeds = |is_replica, standbys| Ok(Counted { standbys, ..counted(is_replica, 5, &[0]) });
        let one = || vec![index(1, &[1])];
        let keys = vec![(("public".to_owned(), "t".to_owned()), vec![2, 1])];
        for (what, indexes, foreign_keys, counted, expected) in [
            (
                "one server",
                one(),
                vec![],
                vec![primary(5, &[0])],
                "no scan of it in 3 days, on the only server",
            ),
            ("used", one(), vec![], vec![primary(5, &[1])], ""),
            ("used on a replica", one(), vec![], vec![primary(5, &[0]), replica(5, &[9])], ""),
            (
                "unused there, too",
                one(),
                vec![],
                vec![primary(5, &[0]), replica(2, &[0])],
                "no scan of it in 2 days, on the primary and its replica",
            ),
            (
                "a day",
                one(),
                vec![],
                vec![primary(1, &[0]), replica(5, &[0]), replica(5, &[0])],
                "no scan of it in 24 hours, on the primary and 2 replicas",
            ),
            ("too young a count", one(), vec![], vec![primary(5, &[0]), replica(0, &[0])], ""),
            ("a host is away", one(), vec![], vec![primary(5, &[0]), Err("r1".to_owned())], ""),
            ("a replica lacks it yet", one(), vec![], vec![primary(5, &[0]), replica(5, &[])], ""),
            ("no primary", one(), vec![], vec![replica(5, &[0])], ""),
            ("two primaries", one(), vec![], vec![primary(5, &[0]), primary(5, &[0])], ""),
            ("a standby that nobody knows", one(), vec![], vec![feeds(false, 1)], ""),
            ("one behind a replica", one(), vec![], vec![feeds(false, 1), feeds(true, 1)], ""),
            (
                "all are known",
                one(),
                vec![],
                vec![feeds(false, 1), feeds(true, 0)],
                "no scan of it in 3 days, on the primary and its replica",
            ),
            ("nobody was asked", one(), vec![], vec![], ""),
            ("unique", vec![unique(1, &[1])], vec![], vec![primary(5, &[0])], ""),
            (
                "required",
                vec![Existing { is_required: true, ..index(1, &[1]) }],
                vec![],
                vec![primary(5, &[0])],
                "",
            ),
            ("small", vec![Existing { rows: 10.0, ..index(1, &[1]) }], vec![], vec![primary(5, &[0])], ""),
            ("of a foreign key", one(), keys.clone(), vec![primary(5, &[0])], ""),
            (
                "beside a foreign key",
                vec![index(1, &[3])],
                keys,
                vec![primary(5, &[0])],
                "no scan of it in 3 days, on the only server",
            ),
            (
                "an expression",
                vec![index(1, &[0])],
                vec![],
                vec![primary(5, &[0])],
                "no scan of it in 3 days, on the only server; without it the planner has no statistics of its expression",
            ),
        ] {
            let inventory = Inventory { indexes, foreign_keys, counted, ..Inventory::default() };
            let expected: Vec<String> =
                (!expected.is_empty()).then(|| format!("drop_unused i1: {expected}")).into_iter().collect();
            assert_eq!(said(&inventory), expected, "{what}");
        }
    }

    #[test]
    fn an_index_that_appeared_an_hour_ago_is_not_unused() {
        let counted = vec![Ok(counted(false, 5, &[0]))];
        let inventory = Inventory { counted, ..of(vec![index(1, &[1])]) };
        assert_eq!(inventory.findings(|_| Duration::from_secs(3600)), []);
        assert_eq!(inventory.findings(|_| DAY).len(), 1);
    }

    #[test]
    fn why_nothing_is_said_of_unused_ones_is_told() {
        let of = |counted| Inventory { counted, ..Inventory::default() }.unknown().map(|why| why.to_string());
        assert_eq!(of(vec![Ok(counted(false, 0, &[]))]), None);
        let away = of(vec![Ok(counted(false, 0, &[])), Err("r1".to_owned())]);
        assert_eq!(away.as_deref(), Some("r1 cannot be asked what it has used"));
    }
}
