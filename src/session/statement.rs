//! Prepared statements, shared by all who prepare the same text.
//!
//! A client's statement name means a text and parameter types; on server connections the same statement goes by a
//! name of ours, so that clients with equal names and other texts do not meet. The table holds weak references:
//! what no client and no server connection uses is forgotten, so a million distinct texts leave nothing behind.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ahash::{HashMap, RandomState};

use super::Settings;
use crate::sql::{self, Analysis, Lexing};

/// Names of ours begin with this; an application's own SQL PREPARE would have to guess it to collide.
pub(super) const SERVER_NAME_PREFIX: &[u8] = b"weir_";

/// Parts of the table, each with a lock of its own: workers that parse at once seldom meet.
const SHARDS: usize = 16;

/// Slots of a part's memory for texts seen once.
const SEEN_SLOTS: usize = 512;

/// A part is swept when it has grown by this many entries since its last sweep.
const SWEEP_EVERY: usize = 64;

/// A statement's text and parameter types, what they do, and the name they have on server connections.
#[derive(Debug)]
pub struct Statement {
    /// Unique among all that were ever made.
    pub id: u64,
    /// The text as the client sent it.
    pub text: Box<[u8]>,
    /// Count and Oids of the declared parameter types, as in Parse.
    pub types: Box<[u8]>,
    /// How the server cut it when it was parsed.
    pub lexing: Lexing,
    /// The client's settings when it was parsed: some decide what the text means.
    pub settings: Settings,
    /// The count of DDL statements seen when it was parsed. A client that parses afresh must see the tables as they
    /// are, and one that holds on to an older statement must be told so by the server ("cached plan must not change
    /// result type"): theirs are two statements.
    pub ddl_epoch: u64,
    /// What it does.
    pub analysis: Arc<Analysis>,
    /// Its name on server connections.
    pub server_name: Box<[u8]>,
    /// A template that the server did not take: texts that give it are sent as they are.
    pub is_unfit: AtomicBool,
}

/// All statements in use, and a short memory of texts seen.
#[derive(Debug)]
pub struct Statements {
    hasher: RandomState,
    next_id: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug)]
struct Shard {
    table: HashMap<u64, Weak<Statement>>,
    swept_at: usize,
    /// For each slot the hash last seen there: admission without memory per cold statement.
    seen: Box<[u64]>,
}

/// A statement, and whether its text was seen before.
#[derive(Clone, Debug)]
pub struct Interned {
    /// The statement.
    pub statement: Arc<Statement>,
    /// The text was parsed before, not long ago: worth keeping prepared.
    pub repeats: bool,
}

/// What tells one statement from another.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    text: &'a [u8],
    types: &'a [u8],
    settings: &'a Settings,
    lexing: Lexing,
    ddl_epoch: u64,
}

impl Shard {
    /// Whether the text was met before, not long ago.
    fn is_repeat(&mut self, hash: u64) -> bool {
        let slot = usize::try_from(hash).unwrap_or(0) / SHARDS % SEEN_SLOTS;
        std::mem::replace(&mut self.seen[slot], hash) == hash
    }

    fn find(&self, hash: u64, wanted: Wanted<'_>) -> Option<Arc<Statement>> {
        let is_wanted = |known: &Arc<Statement>| {
            *known.text == *wanted.text
                && *known.types == *wanted.types
                && known.settings.parses_as(wanted.settings)
                && known.lexing == wanted.lexing
                && known.ddl_epoch == wanted.ddl_epoch
        };
        self.table.get(&hash).and_then(Weak::upgrade).filter(is_wanted)
    }

    fn keep(&mut self, hash: u64, statement: &Arc<Statement>) {
        self.table.insert(hash, Arc::downgrade(statement));
        if self.table.len() > self.swept_at + SWEEP_EVERY {
            self.table.retain(|_, weak| weak.strong_count() > 0);
            self.swept_at = self.table.len();
        }
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self { table: HashMap::default(), swept_at: 0, seen: vec![0; SEEN_SLOTS].into_boxed_slice() }
    }
}

impl Default for Statements {
    fn default() -> Self {
        Self { hasher: RandomState::new(), next_id: AtomicU64::new(1), shards: Default::default() }
    }
}

impl Statements {
    /// Finds or makes the statement. By other `settings` of the client the same text may mean other tables, other times;
    /// `lexing` changes what it means to the analysis, too.
    pub fn intern(
        &self,
        text: &[u8],
        types: &[u8],
        settings: &Settings,
        lexing: impl Into<Lexing>,
        ddl_epoch: u64,
    ) -> Interned {
        self.shard(
            Wanted { text, types, settings, lexing: lexing.into(), ddl_epoch },
            |wanted, hash, shard| {
                let repeats = shard.is_repeat(hash);
                shard.find(hash, wanted).map_or_else(
                    || {
                        let statement = self.make(wanted, hash, shard);
                        // `'now'` is the time of each Parse (manual, 8.5.1.4 Special Values).
                        let repeats = repeats && !statement.analysis.names_time;
                        Interned { statement, repeats }
                    },
                    |statement| Interned { statement, repeats },
                )
            },
        )
    }

    /// Likewise, but only if the text is met again: what passes once costs no more than its hash.
    pub fn intern_repeated(
        &self,
        text: &[u8],
        types: &[u8],
        settings: &Settings,
        lexing: Lexing,
        ddl_epoch: u64,
    ) -> Option<Arc<Statement>> {
        self.shard(Wanted { text, types, settings, lexing, ddl_epoch }, |wanted, hash, shard| {
            if !shard.is_repeat(hash) {
                return None;
            }
            let statement = shard.find(hash, wanted).unwrap_or_else(|| self.make(wanted, hash, shard));
            Some(statement).filter(|statement| !statement.analysis.names_time)
        })
    }

    fn shard<T>(&self, wanted: Wanted<'_>, then: impl FnOnce(Wanted<'_>, u64, &mut Shard) -> T) -> T {
        let mut hasher = self.hasher.build_hasher();
        (wanted.text, wanted.types, wanted.lexing, wanted.ddl_epoch).hash(&mut hasher);
        wanted.settings.of_parsing().for_each(|setting| setting.hash(&mut hasher));
        let hash = hasher.finish();
        let shard = &self.shards[usize::try_from(hash).unwrap_or(0) % SHARDS];
        then(wanted, hash, &mut shard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn make(&self, wanted: Wanted<'_>, hash: u64, shard: &mut Shard) -> Arc<Statement> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let statement = Arc::new(Statement {
            id,
            text: wanted.text.into(),
            types: wanted.types.into(),
            lexing: wanted.lexing,
            settings: wanted.settings.clone(),
            ddl_epoch: wanted.ddl_epoch,
            analysis: Arc::new(sql::analyze(wanted.text, wanted.lexing)),
            server_name: [SERVER_NAME_PREFIX, format!("{id:x}").as_bytes()].concat().into(),
            is_unfit: AtomicBool::new(false),
        });
        if !statement.analysis.names_time {
            shard.keep(hash, &statement);
        }
        statement
    }

    /// Statements in the table; some may be unused since the last sweep.
    pub fn len(&self) -> usize {
        let locked = |shard: &Mutex<Shard>| shard.lock().unwrap_or_else(PoisonError::into_inner).table.len();
        self.shards.iter().map(locked).sum()
    }

    /// Whether the table is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The statements of ours that one server connection has prepared: bounded, the least recently used goes first.
#[derive(Debug)]
pub struct PreparedSet {
    entries: HashMap<u64, Entry>,
    clock: u64,
    max: usize,
}

#[derive(Debug)]
struct Entry {
    statement: Arc<Statement>,
    used: u64,
}

impl PreparedSet {
    /// An empty set of at most `max` statements.
    pub fn new(max: usize) -> Self {
        Self { entries: HashMap::default(), clock: 0, max: max.max(1) }
    }

    /// Notes a use; gives whether the statement is there.
    #[inline]
    pub fn touch(&mut self, statement: &Statement) -> bool {
        self.clock += 1;
        let entry = self.entries.get_mut(&statement.id);
        entry.map(|entry| entry.used = self.clock).is_some()
    }

    /// Adds a statement. Room was made for it; one that was to make room and was not closed after all is one too many.
    pub fn insert(&mut self, statement: Arc<Statement>) {
        self.clock += 1;
        self.entries.insert(statement.id, Entry { statement, used: self.clock });
    }

    /// Takes out the one that must be closed to make room for another; to be asked until there is none.
    pub fn make_room(&mut self) -> Option<Arc<Statement>> {
        if self.entries.len() < self.max {
            return None;
        }
        let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used).map(|(id, _)| *id)?;
        self.entries.remove(&oldest).map(|entry| entry.statement)
    }

    /// Forgets one statement.
    pub fn remove(&mut self, statement: &Statement) {
        self.entries.remove(&statement.id);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.entries.clear();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_statement_and_repeats_are_noticed() {
        let statements = Statements::default();
        let first = statements.intern(b"select 1", b"\0\0", &Settings::default(), true, 0);
        let second = statements.intern(b"select 1", b"\0\0", &Settings::default(), true, 0);
        assert!(Arc::ptr_eq(&first.statement, &second.statement));
        assert!(!first.repeats && second.repeats);
        let typed = statements.intern(b"select 1", b"\0\x01\0\0\0\x17", &Settings::default(), true, 0);
        assert_ne!(typed.statement.server_name, first.statement.server_name);
    }

    #[test]
    fn a_text_in_another_encoding_is_another_statement() {
        let statements = Statements::default();
        let text = b"select '\x95\x5c'; delete from t --'";
        let sjis = Lexing { standard_conforming_strings: false, bytewise: false };
        let first = statements.intern(text, b"\0\0", &Settings::default(), false, 0).statement;
        let second = statements.intern(text, b"\0\0", &Settings::default(), sjis, 0).statement;
        assert!(!Arc::ptr_eq(&first, &second));
        assert_eq!(first.analysis.statements[0].command, sql::Command::Select);
        assert_eq!(second.analysis.statements[0].command, sql::Command::Unknown);
    }

    #[test]
    fn a_million_distinct_texts_leave_nothing_behind() {
        let statements = Statements::default();
        for number in 0..50_000 {
            statements.intern(format!("select {number}").as_bytes(), b"\0\0", &Settings::default(), true, 0);
        }
        assert!(statements.len() <= 2 * SHARDS * SWEEP_EVERY, "{}", statements.len());
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let statements = Statements::default();
        let [a, b, c] = ["a", "b", "c"]
            .map(|text| statements.intern(text.as_bytes(), b"\0\0", &Settings::default(), true, 0).statement);
        let mut set = PreparedSet::new(2);
        for statement in [&a, &b] {
            assert!(set.make_room().is_none());
            set.insert(statement.clone());
        }
        assert!(set.touch(&a));
        assert!(Arc::ptr_eq(&set.make_room().expect("full"), &b));
        assert!(set.make_room().is_none());
        set.insert(c);
        assert!(!set.touch(&b));
    }
}
