//! Memos: analyses by exact text and by outline, classes by shape.
//!
//! A driver that sends parameters apart, or a framework that sends `BEGIN`, repeats its texts word for word: one hash
//! and one comparison then replace the scan. A text with its constants inside never repeats and must not push out
//! those that do, so a text is kept only when its hash is met a second time: what passes once costs four bytes. Its
//! outline repeats ([`super::outline`]), likewise kept from the second time on. Where even that differs, as the lengths of
//! lists do, the shape repeats, and the shape is what is parsed: so classes are kept by shape, from the first time on.
//!
//! One memo belongs to one worker (`&mut self`); share it by a mutex if you must.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use ahash::RandomState;

use super::analyze::{Analysis, Statement, analyze_into};
use super::class::Reason;
use super::classify::{Classes, Verdict, classify, classify_anywhere, opaque, shape_decides};
use super::command::Command;
use super::outline::Outline;
use super::pin::Pin;
use super::scan::Lexing;
use super::shape::typed_text;
use super::template::Form;

/// What each of the two memos may hold.
#[derive(Clone, Copy, Debug)]
pub struct MemoLimits {
    /// Entries kept at most.
    pub entries_max: usize,
    /// Bytes of keys and values kept at most, about.
    pub bytes_max: usize,
}

impl Default for MemoLimits {
    fn default() -> Self {
        Self { entries_max: 8192, bytes_max: 8 << 20 }
    }
}

/// A text longer than this is analyzed each time: hashing and comparing it would cost as much.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// What an entry costs beside its key.
const ENTRY_BYTES: usize = 320;

/// Shapes have no quotes left; their keys tell those whose constants kept their kind from others.
const UNTYPED: Lexing = Lexing { standard_conforming_strings: true, bytewise: true };
const TYPED: Lexing = Lexing { standard_conforming_strings: false, bytewise: true };

/// How many hashes of texts met once are remembered.
const SEEN_ONCE: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct Memo {
    texts: Kept<Entry>,
    outlines: Kept<Arc<Alike>>,
    shapes: Kept<Arc<Classes>>,
    texts_once: SeenOnce,
    outlines_once: SeenOnce,
    outline: Outline,
    shape: Vec<u8>,
    counts: MemoCounts,
}

/// How the memo has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoCounts {
    /// Texts found.
    pub hits: u64,
    /// Texts whose outline was found.
    pub alike: u64,
    /// Texts analyzed.
    pub misses: u64,
    /// Shapes classified.
    pub classified: u64,
    /// Shapes put off to another thread.
    pub deferred: u64,
    /// Generations dropped because a bound was met.
    pub drops: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    analysis: Arc<Analysis>,
    classes: Option<Arc<Classes>>,
}

/// What texts of one outline have in common.
#[derive(Debug)]
struct Alike {
    /// Of the first one, of so many bytes.
    analysis: Arc<Analysis>,
    bytes: usize,
    classes: Option<Arc<Classes>>,
}

impl Alike {
    fn analysis(&self, text: &[u8]) -> Arc<Analysis> {
        if text.len() == self.bytes {
            return Arc::clone(&self.analysis);
        }
        Arc::new(self.analysis.moved(self.bytes, text.len()))
    }
}

/// A text whose shape is too long to be parsed on the event loop.
#[derive(Clone, Debug)]
pub struct Deferred {
    text: Box<[u8]>,
    standard_conforming_strings: bool,
    analysis: Arc<Analysis>,
    shape: Box<[u8]>,
}

impl Deferred {
    /// Classifies it. Wants a thread with a stack of `limits::PARSE_STACK_BYTES`.
    pub fn run(&self) -> Classes {
        classify_anywhere(&self.text, self.standard_conforming_strings, &self.analysis)
    }
}

/// An analysis with its classes.
#[derive(Clone, Debug)]
pub struct Classified {
    /// What the text says.
    pub analysis: Arc<Analysis>,
    /// The class of each statement: Opaque with [`Reason::ParsePending`] until `deferred` has been learned.
    pub classes: Arc<Classes>,
    /// To be run on another thread and given to [`Memo::learn`]. Comes once per shape.
    pub deferred: Option<Box<Deferred>>,
}

impl Memo {
    /// An empty memo.
    pub fn new(limits: MemoLimits) -> Self {
        Self {
            texts: Kept::new(limits),
            outlines: Kept::new(limits),
            shapes: Kept::new(limits),
            texts_once: SeenOnce::default(),
            outlines_once: SeenOnce::default(),
            outline: Outline::default(),
            shape: Vec::new(),
            counts: MemoCounts::default(),
        }
    }

    /// How it has done.
    pub fn counts(&self) -> MemoCounts {
        let drops = self.texts.drops + self.outlines.drops + self.shapes.drops;
        MemoCounts { drops, ..self.counts }
    }

    /// The texts it holds.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Holds it none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The analysis of `text`, from the memo or made now.
    pub fn analyze(&mut self, text: &[u8], lexing: impl Into<Lexing>) -> Arc<Analysis> {
        let lexing = lexing.into();
        let hash = self.texts.hash(text, lexing);
        if let Some(entry) = self.texts.find(hash, text, lexing) {
            self.counts.hits += 1;
            return entry.analysis;
        }
        let (analysis, outlined) = match self.alike(text, lexing) {
            Outlined::Found(alike) => (alike.analysis(text), Outlined::No),
            outlined => (self.make(text, lexing), outlined),
        };
        let analysis = self.keep_outline(&outlined, text, lexing, analysis, None);
        self.keep_text(hash, text, lexing, &analysis, None);
        analysis
    }

    /// The analysis of `text` and the classes of its statements, from the memo or made now.
    pub fn classify(&mut self, text: &[u8], lexing: impl Into<Lexing>) -> Classified {
        let lexing = lexing.into();
        let hash = self.texts.hash(text, lexing);
        let found = self.texts.find(hash, text, lexing);
        if let Some(Entry { analysis, classes: Some(classes) }) = found {
            self.counts.hits += 1;
            return Classified { analysis, classes, deferred: None };
        }
        let outlined = self.alike(text, lexing);
        if let Outlined::Found(alike) = &outlined
            && let Some(classes) = &alike.classes
        {
            let (analysis, classes) = (alike.analysis(text), Arc::clone(classes));
            self.keep_text(hash, text, lexing, &analysis, Some(Arc::clone(&classes)));
            return Classified { analysis, classes, deferred: None };
        }
        let analysis = self.make(text, lexing);
        let (classes, deferred) = self.classes(text, lexing.standard_conforming_strings, &analysis);
        let is_pending = classes.statements.iter().any(|class| class.reason == Reason::ParsePending);
        let to_keep = (!is_pending).then(|| Arc::clone(&classes));
        let outlined = if is_pending { Outlined::No } else { outlined };
        let analysis = self.keep_outline(&outlined, text, lexing, analysis, to_keep.clone());
        self.keep_text(hash, text, lexing, &analysis, to_keep);
        Classified { analysis, classes, deferred }
    }

    /// Takes the classes that a [`Deferred`] came to.
    pub fn learn(&mut self, deferred: &Deferred, classes: Classes) {
        if classes.depend_on_kinds() {
            let typed = typed_text(&deferred.text, deferred.standard_conforming_strings);
            self.shapes.insert(&typed, TYPED, Arc::new(classes));
        } else {
            self.shapes.insert(&deferred.shape, UNTYPED, Arc::new(classes));
        }
    }

    /// Takes the text's outline, and looks for it.
    fn alike(&mut self, text: &[u8], lexing: Lexing) -> Outlined {
        if text.len() > TEXT_BYTES_MAX || !lexing.can_scan(text) || !self.outline.take(text) {
            return Outlined::No;
        }
        let hash = self.outlines.hash(&self.outline.bytes, lexing);
        match self.outlines.find(hash, &self.outline.bytes, lexing) {
            Some(alike) => {
                self.counts.alike += 1;
                Outlined::Found(alike)
            }
            None if self.outlines_once.is_second_time(hash) => Outlined::Again(hash),
            None => Outlined::No,
        }
    }

    /// Keeps what is true of all texts with the outline in `self.outline`, if anything is; gives the analysis, with all
    /// that is known then.
    fn keep_outline(
        &mut self,
        outlined: &Outlined,
        text: &[u8],
        lexing: Lexing,
        analysis: Arc<Analysis>,
        classes: Option<Arc<Classes>>,
    ) -> Arc<Analysis> {
        let hash = match outlined {
            Outlined::No => return analysis,
            Outlined::Again(hash) => *hash,
            // It was only analyzed so far.
            Outlined::Found(_) => self.outlines.hash(&self.outline.bytes, lexing),
        };
        if !outline_decides(&analysis)
            || !self.outline.is_of_constants(text, lexing.standard_conforming_strings)
        {
            return analysis;
        }
        let form = Form::of(text, &self.outline.gaps, lexing).map(Arc::new);
        let analysis = Arc::new(Analysis { form, ..Arc::unwrap_or_clone(analysis) });
        let alike = Alike { analysis: Arc::clone(&analysis), bytes: text.len(), classes };
        self.outlines.insert_hashed(hash, &self.outline.bytes, lexing, Arc::new(alike));
        analysis
    }

    /// Analyzes a text and leaves its shape in `self.shape`.
    fn make(&mut self, text: &[u8], lexing: Lexing) -> Arc<Analysis> {
        self.counts.misses += 1;
        // A shape beyond the usual is not worth its memory until the next.
        self.shape.clear();
        self.shape.shrink_to(TEXT_BYTES_MAX);
        Arc::new(analyze_into(text, lexing, &mut self.shape))
    }

    /// Classes for the text whose shape is in `self.shape`.
    fn classes(
        &mut self,
        text: &[u8],
        standard_conforming_strings: bool,
        analysis: &Arc<Analysis>,
    ) -> (Arc<Classes>, Option<Box<Deferred>>) {
        let by_shape = shape_decides(analysis) && self.shape.len() <= TEXT_BYTES_MAX;
        if by_shape {
            let hash = self.shapes.hash(&self.shape, UNTYPED);
            if let Some(classes) = self.shapes.find(hash, &self.shape, UNTYPED) {
                return (classes, None);
            }
        }
        // What is not understood may be a text that the server refuses, and others of its shape need not be: the kinds
        // of the constants decide.
        let typed = by_shape.then(|| typed_text(text, standard_conforming_strings));
        if let Some(typed) = &typed {
            let hash = self.shapes.hash(typed, TYPED);
            if let Some(classes) = self.shapes.find(hash, typed, TYPED) {
                return (classes, None);
            }
        }
        let (classes, deferred) = match classify(text, standard_conforming_strings, analysis) {
            Verdict::Classes(classes) => {
                self.counts.classified += 1;
                (Arc::new(classes), None)
            }
            // What has no shape to be found by again is not worth the thread.
            Verdict::TooLongHere if !by_shape => (Arc::new(opaque(analysis, Reason::TooLong)), None),
            Verdict::TooLongHere => {
                self.counts.deferred += 1;
                let deferred = Deferred {
                    text: text.into(),
                    standard_conforming_strings,
                    analysis: Arc::clone(analysis),
                    shape: self.shape.as_slice().into(),
                };
                (Arc::new(opaque(analysis, Reason::ParsePending)), Some(Box::new(deferred)))
            }
        };
        if let Some(typed) = typed {
            let (key, kinds) =
                if classes.depend_on_kinds() { (&*typed, TYPED) } else { (&*self.shape, UNTYPED) };
            self.shapes.insert(key, kinds, Arc::clone(&classes));
        }
        (classes, deferred)
    }

    fn keep_text(
        &mut self,
        hash: u64,
        text: &[u8],
        lexing: Lexing,
        analysis: &Arc<Analysis>,
        classes: Option<Arc<Classes>>,
    ) {
        if text.len() <= TEXT_BYTES_MAX && self.texts_once.is_second_time(hash) {
            let entry = Entry { analysis: Arc::clone(analysis), classes };
            self.texts.insert_hashed(hash, text, lexing, entry);
        }
    }
}

/// What is known of a text by its outline.
enum Outlined {
    /// Nothing, and nothing to be kept.
    No,
    /// It was met before, with this hash.
    Again(u64),
    /// This.
    Found(Arc<Alike>),
}

/// Whether texts of one outline have the same analysis but for where they end: a single statement whose constants were not
/// looked at, with nothing said in comments.
fn outline_decides(analysis: &Analysis) -> bool {
    let is_plain = |statement: &Statement| {
        let command = &statement.command;
        matches!(
            command,
            Command::Select
                | Command::Values
                | Command::Table
                | Command::With
                | Command::Insert
                | Command::Update
                | Command::Delete
                | Command::Merge
        ) && !statement.pins.contains(Pin::UnknownSetting)
    };
    analysis.flaw.is_none()
        && !analysis.names_time
        && analysis.comments.spans().is_empty()
        && analysis.single().is_some_and(is_plain)
}

/// Tells what is met a second time, for four bytes each; a later one may push out an earlier one.
#[derive(Debug)]
struct SeenOnce(Box<[u32]>);

impl Default for SeenOnce {
    fn default() -> Self {
        Self(vec![0; SEEN_ONCE].into_boxed_slice())
    }
}

impl SeenOnce {
    fn is_second_time(&mut self, hash: u64) -> bool {
        let slot = usize::try_from(hash % SEEN_ONCE as u64).unwrap_or(0);
        let tag = u32::try_from(hash >> 32).unwrap_or(0) | 1;
        std::mem::replace(&mut self.0[slot], tag) == tag
    }
}

/// A map from bytes, bounded by entries and by bytes in two generations: what is found in the old one moves to the
/// young; when the young one is full it becomes the old, and the old is dropped. That is a coarse LRU without a list
/// to maintain. Keys are found by a keyed hash and compared in full.
#[derive(Debug)]
struct Kept<V> {
    limits: MemoLimits,
    hasher: RandomState,
    young: Generation<V>,
    old: Generation<V>,
    drops: u64,
}

#[derive(Debug)]
struct Generation<V> {
    /// Of keys with one hash the last is kept.
    entries: HashMap<u64, (Key, V), HashedAlready>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Key {
    bytes: Box<[u8]>,
    /// Of shapes: [`UNTYPED`] or [`TYPED`].
    lexing: Lexing,
}

impl Key {
    fn is(&self, bytes: &[u8], lexing: Lexing) -> bool {
        *self.bytes == *bytes && self.lexing == lexing
    }

    fn cost(&self) -> usize {
        self.bytes.len() + ENTRY_BYTES
    }
}

impl<V> Default for Generation<V> {
    fn default() -> Self {
        Self { entries: HashMap::default(), bytes: 0 }
    }
}

impl<V: Clone> Kept<V> {
    fn new(limits: MemoLimits) -> Self {
        Self {
            limits,
            hasher: RandomState::new(),
            young: Generation::default(),
            old: Generation::default(),
            drops: 0,
        }
    }

    fn len(&self) -> usize {
        self.young.entries.len() + self.old.entries.len()
    }

    fn hash(&self, bytes: &[u8], lexing: Lexing) -> u64 {
        let Lexing { standard_conforming_strings, bytewise } = lexing;
        self.hasher.hash_one(bytes) ^ u64::from(standard_conforming_strings) ^ u64::from(bytewise) << 1
    }

    fn find(&mut self, hash: u64, bytes: &[u8], lexing: Lexing) -> Option<V> {
        if let Some((key, value)) = self.young.entries.get(&hash)
            && key.is(bytes, lexing)
        {
            return Some(value.clone());
        }
        if !self.old.entries.get(&hash)?.0.is(bytes, lexing) {
            return None;
        }
        let (key, value) = self.old.entries.remove(&hash)?;
        self.old.bytes -= key.cost();
        self.keep(hash, key, value.clone());
        Some(value)
    }

    fn insert(&mut self, bytes: &[u8], lexing: Lexing, value: V) {
        let hash = self.hash(bytes, lexing);
        self.insert_hashed(hash, bytes, lexing, value);
    }

    fn insert_hashed(&mut self, hash: u64, bytes: &[u8], lexing: Lexing, value: V) {
        // Else a move from the old generation could bring a stale value back.
        if let Some((key, _)) = self.old.entries.remove(&hash) {
            self.old.bytes -= key.cost();
        }
        self.keep(hash, Key { bytes: bytes.into(), lexing }, value);
    }

    fn keep(&mut self, hash: u64, key: Key, value: V) {
        let cost = key.cost();
        let (entries_max, bytes_max) = (self.limits.entries_max / 2, self.limits.bytes_max / 2);
        if self.young.entries.len() >= entries_max || self.young.bytes + cost > bytes_max {
            self.old = std::mem::take(&mut self.young);
            self.drops += 1;
        }
        if entries_max > 0 && cost <= bytes_max {
            self.young.bytes += cost;
            if let Some((replaced, _)) = self.young.entries.insert(hash, (key, value)) {
                self.young.bytes -= replaced.cost();
            }
        }
    }
}

/// The keys are keyed hashes already.
#[derive(Clone, Copy, Debug, Default)]
struct HashedAlready(u64);

impl BuildHasher for HashedAlready {
    type Hasher = Self;

    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for HashedAlready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::class::Class;
    use crate::sql::limits::PARSE_STACK_BYTES;

    #[test]
    fn a_text_that_the_server_refuses_does_not_decide_for_its_shape() {
        let mut memo = Memo::new(MemoLimits::default());
        let mut class = |text: &str| memo.classify(text.as_bytes(), true).classes.statements[0].class;
        assert_eq!(class("SELECT * FROM t WHERE d = mytype 5"), Class::Opaque);
        assert_eq!(class("SELECT * FROM t WHERE d = mytype 7"), Class::Opaque);
        assert_eq!(class("SELECT * FROM t WHERE d = mytype '5'"), Class::Read);
        assert_eq!(memo.counts().classified, 2);
    }

    #[test]
    fn keeps_a_text_from_its_second_time_on() {
        let mut memo = Memo::new(MemoLimits::default());
        for _ in 0..3 {
            memo.analyze(b"SELECT 1", true);
        }
        assert_eq!((memo.counts().hits, memo.counts().misses, memo.len()), (1, 2, 1));
    }

    #[test]
    fn string_rules_are_part_of_the_key() {
        let mut memo = Memo::new(MemoLimits::default());
        for _ in 0..4 {
            assert!(memo.analyze(b"SELECT 'a\\'", true).flaw.is_none());
            assert!(memo.analyze(b"SELECT 'a\\'", false).flaw.is_some());
        }
    }

    #[test]
    fn stays_within_its_bounds() {
        let limits = MemoLimits { entries_max: 64, bytes_max: 64 << 10 };
        let mut memo = Memo::new(limits);
        for number in 0..10_000 {
            let text = format!("SELECT {number} FROM t{number}");
            memo.classify(text.as_bytes(), true);
            memo.classify(text.as_bytes(), true);
            assert!(memo.len() <= limits.entries_max && memo.shapes.len() <= limits.entries_max);
            assert!(memo.texts.young.bytes + memo.texts.old.bytes <= limits.bytes_max);
            assert!(memo.shapes.young.bytes + memo.shapes.old.bytes <= limits.bytes_max);
        }
        assert!(memo.counts().drops > 0);
    }

    #[test]
    fn a_shape_is_classified_once() {
        let mut memo = Memo::new(MemoLimits::default());
        for number in 0..100 {
            let text = format!("SELECT a FROM t WHERE b = {number} AND c IN ({number}, {number})");
            assert_eq!(memo.classify(text.as_bytes(), true).classes.statements[0].class, Class::Read);
        }
        assert_eq!((memo.counts().classified, memo.len()), (1, 0));
    }

    #[test]
    fn a_long_shape_is_opaque_until_it_is_learned() {
        let mut memo = Memo::new(MemoLimits::default());
        let text = format!("SELECT a FROM t WHERE {}", vec!["b = 1"; 400].join(" AND "));
        let first = memo.classify(text.as_bytes(), true);
        assert_eq!(first.classes.statements[0].reason, Reason::ParsePending);
        let deferred = first.deferred.expect("the first to meet it");
        assert!(memo.classify(text.as_bytes(), true).deferred.is_none());
        let thread = std::thread::Builder::new().stack_size(PARSE_STACK_BYTES);
        let run = thread.spawn(move || (deferred.run(), deferred)).expect("a thread");
        let (classes, deferred) = run.join().expect("it does not panic");
        memo.learn(&deferred, classes);
        for _ in 0..3 {
            assert_eq!(memo.classify(text.as_bytes(), true).classes.statements[0].class, Class::Read);
        }
    }
}
