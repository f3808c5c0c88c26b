//! What a change stream shows, commit by commit: which relations were written.
//!
//! Two output plugins are understood. `test_decoding` needs nothing but the right to replicate, names every table, and
//! shows a transaction that changed only the catalog as one without rows. `pgoutput` needs a publication; for tables
//! without a replica identity, publishing updates makes PostgreSQL refuse UPDATE and DELETE (manual, 31.1 Publication),
//! which is why Weir publishes nothing of its own accord. Nor does it show what was changed in the catalog, from
//! PostgreSQL 15 on.

use ahash::HashSet;

use crate::catalog::{Catalog, RelationId, Touched};
use crate::pg::{Lsn, Oid};
use crate::wire::test_decoding::{self, Line, Names};
use crate::wire::{Malformed, pgoutput};

/// More relations than this in one transaction count as all.
const RELATIONS_MAX: usize = 256;

/// What the server decodes its log with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// Part of PostgreSQL's contrib.
    TestDecoding,
    /// Part of PostgreSQL, for publications.
    PgOutput,
}

impl Plugin {
    /// Its name on the server and in the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TestDecoding => "test_decoding",
            Self::PgOutput => "pgoutput",
        }
    }
}

/// A transaction that has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Its number.
    pub xid: u32,
    /// Where its commit record ends.
    pub end: Lsn,
    /// What it wrote.
    pub written: Written,
}

/// What a transaction wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// As the server writes them.
    names: HashSet<Box<[u8]>>,
    relations: HashSet<Oid>,
    /// More, or other things, than could be told.
    is_unknown: bool,
    /// A relation was told of again: it may be another than it was.
    is_redefined: bool,
}

impl Written {
    fn is_full(&self) -> bool {
        self.names.len() + self.relations.len() >= RELATIONS_MAX
    }

    fn relation(&mut self, relation: Oid) {
        if self.is_full() && !self.relations.contains(&relation) {
            self.is_unknown = true;
        } else {
            self.relations.insert(relation);
        }
    }

    fn names(&mut self, names: Names<'_>) {
        if self.names.contains(names.0) {
            return;
        }
        if self.is_full() {
            self.is_unknown = true;
        } else {
            self.names.insert(names.0.into());
        }
    }

    /// No row was written, so that it must have been the catalog; and if a relation is another, so is the catalog.
    pub fn is_ddl(&self) -> bool {
        let is_empty = self.names.is_empty() && self.relations.is_empty() && !self.is_unknown;
        is_empty || self.is_redefined
    }

    /// The same in terms of floors and epochs. `catalog` is the snapshot in force. Names that are not plain ASCII are
    /// understood where the server's encoding is ours.
    pub fn touched(&self, catalog: Option<&Catalog>, is_utf8: bool) -> Touched {
        let found = catalog.filter(|_| !self.is_unknown && !self.is_redefined);
        let found = found.and_then(|catalog| self.units(catalog, is_utf8));
        let everything = found.is_none();
        let mut relations = found.unwrap_or_default();
        relations.sort_unstable();
        relations.dedup();
        Touched { relations: relations.into(), catalogs: self.is_ddl() || self.is_unknown, everything }
    }

    /// `None`: one of them is not known.
    fn units(&self, catalog: &Catalog, is_utf8: bool) -> Option<Vec<RelationId>> {
        let mut units = Vec::new();
        for names in &self.names {
            for name in Names(names).each() {
                let (schema, name) = name?;
                let is_readable = is_utf8 || schema.is_ascii() && name.is_ascii();
                units.push(catalog.unit_named(&schema, &name).filter(|_| is_readable)?);
            }
        }
        for relation in &self.relations {
            units.push(catalog.unit_of(*relation)?);
        }
        Some(units)
    }
}

/// Puts a stream's messages together to commits.
#[derive(Debug)]
pub struct Changes {
    plugin: Plugin,
    open: Option<(u32, Written)>,
    /// Relations that `pgoutput` has told of.
    told: HashSet<Oid>,
}

impl Changes {
    /// Of a stream that begins.
    pub fn new(plugin: Plugin) -> Self {
        Self { plugin, open: None, told: HashSet::default() }
    }

    /// Takes what the plugin wrote at `position`; gives the transaction that has thereby ended.
    pub fn take(&mut self, position: Lsn, message: &[u8]) -> Result<Option<Committed>, Malformed> {
        match self.plugin {
            Plugin::TestDecoding => self.take_line(position, message),
            Plugin::PgOutput => self.take_message(message),
        }
    }

    fn begin(&mut self, xid: u32) -> Result<(), Malformed> {
        match self.open.replace((xid, Written::default())) {
            None => Ok(()),
            Some(_) => Err(Malformed::Unexpected(b'B')),
        }
    }

    fn end(&mut self, end: Lsn) -> Result<Option<Committed>, Malformed> {
        let (xid, written) = self.open.take().ok_or(Malformed::Unexpected(b'C'))?;
        Ok(Some(Committed { xid, end, written }))
    }

    fn written(&mut self, tag: u8) -> Result<&mut Written, Malformed> {
        self.open.as_mut().map(|(_, written)| written).ok_or(Malformed::Unexpected(tag))
    }

    fn take_line(&mut self, position: Lsn, line: &[u8]) -> Result<Option<Committed>, Malformed> {
        match test_decoding::line(line) {
            Line::Begin { xid } => self.begin(xid)?,
            Line::Commit => return self.end(position),
            Line::Written(names) => self.written(b't')?.names(names),
            Line::Unknown => self.written(b'?')?.is_unknown = true,
            Line::Logical => {}
        }
        Ok(None)
    }

    fn take_message(&mut self, message: &[u8]) -> Result<Option<Committed>, Malformed> {
        use pgoutput::Message;
        match pgoutput::message(message)? {
            Message::Begin { xid } => self.begin(xid)?,
            Message::Commit { end } => return self.end(end),
            Message::Insert(relation) | Message::Update(relation) | Message::Delete(relation) => {
                self.written(message[0])?.relation(relation);
            }
            Message::Truncate(relations) => {
                let written = self.written(message[0])?;
                relations.each().for_each(|relation| written.relation(relation));
            }
            Message::Relation { relation, .. } => {
                if !self.told.insert(relation) {
                    self.written(message[0])?.is_redefined = true;
                }
            }
            Message::Origin | Message::Type | Message::Logical => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::source::{Kind, Relation, Schema, Source};

    /// `public.p` (20001) with its partition `public.p1` (20002), and `public.odd é` (20003).
    fn catalog() -> Catalog {
        let relation = |oid, name: &str, kind| Relation {
            oid: Oid(oid),
            schema: Oid(2200),
            name: name.into(),
            kind,
            is_partition: name == "p1",
            is_unlogged: false,
            has_row_security: false,
            row_type: Oid(oid + 1000),
        };
        let source = Source {
            schemas: vec![Schema { oid: Oid(2200), name: "public".into() }],
            relations: vec![
                relation(20001, "p", Kind::Partitioned),
                relation(20002, "p1", Kind::Table),
                relation(20003, "odd é", Kind::Table),
            ],
            parents: vec![(Oid(20002), Oid(20001))],
            ..Source::default()
        };
        Catalog::build(source, 1, 0)
    }

    fn lines(lines: &[&str]) -> Committed {
        let mut changes = Changes::new(Plugin::TestDecoding);
        let (last, before) = lines.split_last().unwrap();
        for line in before {
            assert_eq!(changes.take(Lsn(1), line.as_bytes()), Ok(None), "{line}");
        }
        changes.take(Lsn(9), last.as_bytes()).unwrap().expect("it ends with COMMIT")
    }

    fn relations(oids: &[u32]) -> Touched {
        Touched { relations: oids.iter().map(|oid| RelationId(Oid(*oid))).collect(), ..Touched::default() }
    }

    #[test]
    fn partitions_are_written_as_their_root() {
        let commit = lines(&[
            "BEGIN 7",
            "table public.p1: INSERT: id[integer]:1",
            "table public.p1: INSERT: id[integer]:2",
            "table public.p, public.\"odd é\": TRUNCATE: (no-flags)",
            "COMMIT 7",
        ]);
        assert_eq!((commit.xid, commit.end), (7, Lsn(9)));
        assert_eq!(commit.written.touched(Some(&catalog()), true), relations(&[20001, 20003]));
        assert!(commit.written.touched(Some(&catalog()), false).everything, "its encoding is not known");
        assert!(commit.written.touched(None, true).everything);
    }

    #[test]
    fn what_is_not_known_is_everything() {
        let unknown = lines(&["BEGIN 7", "table public.nobody: INSERT: a[integer]:1", "COMMIT 7"]);
        assert!(unknown.written.touched(Some(&catalog()), true).everything);
        let other = lines(&["BEGIN 7", "sequence public.s: transactional:1", "COMMIT 7"]);
        assert!(other.written.touched(Some(&catalog()), true).everything);
        let many: Vec<_> = (0..300).map(|n| format!("table public.t{n}: INSERT: a[integer]:1")).collect();
        let all = ["BEGIN 7"].into_iter().chain(many.iter().map(String::as_str)).chain(["COMMIT 7"]);
        assert!(lines(&all.collect::<Vec<_>>()).written.is_unknown);
    }

    #[test]
    fn a_transaction_without_rows_changed_the_catalog() {
        let ddl = lines(&["BEGIN 7", "COMMIT 7"]);
        assert!(ddl.written.is_ddl());
        assert_eq!(
            ddl.written.touched(Some(&catalog()), true),
            Touched { catalogs: true, ..Touched::default() }
        );
        assert!(!lines(&["BEGIN 7", "table public.p: INSERT: a[integer]:1", "COMMIT 7"]).written.is_ddl());
    }

    #[test]
    fn a_relation_told_again_is_another() {
        let mut changes = Changes::new(Plugin::PgOutput);
        let begin = [&b"B"[..], &[0; 16], &7_u32.to_be_bytes()].concat();
        let commit = [&b"C"[..], &[0; 9], &9_u64.to_be_bytes(), &[0; 8]].concat();
        let relation = [&b"R"[..], &20002_u32.to_be_bytes(), b"public\0p1\0d\0\0"].concat();
        let insert = [&b"I"[..], &20002_u32.to_be_bytes(), b"N\0\0"].concat();
        let mut commit_of = |messages: &[&[u8]]| {
            for message in messages {
                assert_eq!(changes.take(Lsn(1), message), Ok(None));
            }
            changes.take(Lsn(1), &commit).unwrap().expect("a commit").written.touched(Some(&catalog()), true)
        };
        assert_eq!(commit_of(&[&begin, &relation, &insert]), relations(&[20001]));
        assert_eq!(commit_of(&[&begin, &insert]), relations(&[20001]));
        let again = commit_of(&[&begin, &relation, &insert]);
        assert!(again.everything && again.catalogs);
    }

    #[test]
    fn what_stands_outside_of_a_transaction_is_refused() {
        let refused = |plugin, message: &[u8]| Changes::new(plugin).take(Lsn(1), message).is_err();
        assert!(refused(Plugin::TestDecoding, b"COMMIT 7"));
        assert!(refused(Plugin::TestDecoding, b"table public.p: INSERT: a[integer]:1"));
        assert!(refused(Plugin::PgOutput, b"I\0\0\x40\0N\0\0"));
        assert!(!refused(Plugin::TestDecoding, b"message: transactional: 0 prefix: a, sz: 0 content:"));
        let mut twice = Changes::new(Plugin::TestDecoding);
        assert_eq!(twice.take(Lsn(1), b"BEGIN 7"), Ok(None));
        assert!(twice.take(Lsn(1), b"BEGIN 8").is_err());
    }
}
