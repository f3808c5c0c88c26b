//! Plans, kept: from the classes of a text to its effect and its floors costs a hash lookup.
//!
//! The key is the identity of the classes, which `sql::Memo` keeps once per shape, with the search path. An entry holds
//! its classes, so their address cannot come to mean others. One memo belongs to one worker and one database.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::catalog::{
    Effect, OnPrimary, Reader, SearchPath, constants_name_settings, effect_without_catalog,
};
use crate::consistency::{Floors, Watched};
use crate::sql::Analysis;
use crate::sql::classify::Classes;

/// What a text does, and the floors that it looks at.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it does.
    pub effect: Effect,
    /// The floors of what it reads.
    pub watched: Watched,
}

impl Plan {
    /// A plan for an effect that no memo has: a batch of several texts, [`Effect::and`].
    pub fn new(effect: Effect, floors: &Floors) -> Self {
        // What only the primary may run looks at no floor.
        let watched =
            if effect.on_primary.is_some() { Watched::default() } else { floors.watch(&effect.reads) };
        Self { effect, watched }
    }

    /// Both run in one transaction, `next` last.
    #[must_use]
    pub fn and(&self, next: &Self, floors: &Floors) -> Self {
        let mut effect = self.effect.clone();
        effect.and(&next.effect);
        Self::new(effect, floors)
    }
}

/// Entries kept at most.
const ENTRIES_MAX: usize = 8192;

#[derive(Debug)]
struct Entry {
    classes: Arc<Classes>,
    path: Arc<SearchPath>,
    constants: Constants,
    plan: Arc<Plan>,
}

/// What a text's constants decide, which its classes do not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Constants {
    /// One may stand for the current time.
    name_time: bool,
    /// They name settings, none of which changes what names mean.
    keep_names: bool,
}

impl Constants {
    fn of(analysis: &Analysis) -> Self {
        Self { name_time: analysis.names_time, keep_names: constants_name_settings(analysis) }
    }
}

type Generation = HashMap<u64, Entry, BuildHasherDefault<AsItIs>>;

/// See the module.
#[derive(Debug, Default)]
pub struct Memo {
    /// The snapshot that all entries are of.
    version: u64,
    young: Generation,
    /// What is found here moves to the young ones; when those are full they become the old.
    old: Generation,
    /// How it has done.
    pub counts: MemoCounts,
}

/// How the memo has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoCounts {
    /// Plans found.
    pub hits: u64,
    /// Plans made.
    pub misses: u64,
    /// Generations dropped because the bound was met.
    pub drops: u64,
}

impl Memo {
    /// The plan of a text. `path` is `None` where it is not known what `search_path` is in force.
    pub fn plan(
        &mut self,
        reader: &mut Reader,
        floors: &Floors,
        analysis: &Analysis,
        classes: &Arc<Classes>,
        path: Option<&Arc<SearchPath>>,
    ) -> Arc<Plan> {
        let changes = reader.shared().changes();
        let (catalog, path) = match (reader.current(), path) {
            (Ok(catalog), Some(path)) => (catalog, path),
            (current, _) => {
                let why = current.err().unwrap_or(OnPrimary::UnknownSearchPath);
                return Arc::new(Plan::new(effect_without_catalog(why, changes, classes), floors));
            }
        };
        if catalog.version() != self.version {
            self.young.clear();
            self.old.clear();
            self.version = catalog.version();
        }
        let constants = Constants::of(analysis);
        let key = key(classes, path, constants);
        let is_it = |entry: &Entry| {
            Arc::ptr_eq(&entry.classes, classes)
                && entry.constants == constants
                && (Arc::ptr_eq(&entry.path, path) || entry.path == *path)
        };
        if let Some(entry) = self.young.get(&key).filter(|entry| is_it(entry)) {
            self.counts.hits += 1;
            return Arc::clone(&entry.plan);
        }
        if let Some(entry) = self.old.remove(&key).filter(is_it) {
            self.counts.hits += 1;
            let plan = Arc::clone(&entry.plan);
            self.keep(key, entry);
            return plan;
        }
        self.counts.misses += 1;
        let plan = Arc::new(Plan::new(catalog.effect(analysis, classes, path), floors));
        let (classes, path) = (Arc::clone(classes), Arc::clone(path));
        self.keep(key, Entry { classes, path, constants, plan: Arc::clone(&plan) });
        plan
    }

    fn keep(&mut self, key: u64, entry: Entry) {
        if self.young.len() >= ENTRIES_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
            self.counts.drops += 1;
        }
        self.young.insert(key, entry);
    }

    /// The plans it holds.
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Holds it none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn key(classes: &Arc<Classes>, path: &SearchPath, constants: Constants) -> u64 {
    let address = Arc::as_ptr(classes) as usize as u64;
    // An address is a multiple of more than four.
    (address ^ u64::from(constants.name_time) ^ u64::from(constants.keep_names) << 1)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ path.quick_hash()
}

/// The keys are spread already.
#[derive(Clone, Copy, Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
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
