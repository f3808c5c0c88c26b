//! The repetitions that were found, brought together: one entry for each kind, parent, child and route, with how often and
//! how much.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::HashMap;

use super::lookup::Lookup;
use super::record::Client;
use super::remedy::Remedy;
use super::repeats::{Found, Kind};
use super::tags::Tags;
use crate::sql::Fingerprint;

/// Entries at most; the one that was seen least lately goes.
const PATTERNS_MAX: usize = 256;

/// Counts that the median is of.
const COUNTS_MAX: usize = 32;

/// One repetition of the application.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// What kind it is, as it was seen first.
    pub kind: Kind,
    /// What was repeated.
    pub child: (Fingerprint, Arc<Lookup>),
    /// The number that the child's database adds to a shape's.
    pub database_key: u64,
    /// Where in the application, by its tags.
    pub route: Option<String>,
    /// What to write instead.
    pub remedy: Remedy,
    /// How many scopes had it.
    pub scopes: u64,
    /// Executions of the child in the last of them.
    counts: Vec<u32>,
    /// Most executions in one scope.
    pub count_max: u32,
    /// Executions of the child, in all.
    pub count: u64,
    /// Time that all but one of them took, in all.
    pub lost: Duration,
    /// Who had it last.
    pub client: Arc<Client>,
    /// What its comments said.
    pub tags: Option<Arc<Tags>>,
    /// When it was first seen.
    pub first_seen: Instant,
    /// When it was last seen.
    pub last_seen: Instant,
}

impl Pattern {
    /// The median number of executions of the last scopes.
    pub fn count_median(&self) -> u32 {
        let mut counts = self.counts.clone();
        counts.sort_unstable();
        counts.get(counts.len() / 2).copied().unwrap_or(0)
    }

    /// What to do, in a sentence.
    pub fn suggestion(&self) -> String {
        self.remedy.sentence(self.kind.parent().map(|parent| &*parent.lookup), &self.child.1)
    }
}

/// What tells one from another: its kind, the parent's shape, the child's, and the route.
type Key = (&'static str, Option<Fingerprint>, Fingerprint, Option<String>);

/// See the module.
#[derive(Debug, Default)]
pub struct Patterns {
    patterns: HashMap<Key, Pattern>,
}

impl Patterns {
    /// Takes in what was found. Gives its entry.
    pub fn add(&mut self, found: &Found) -> &Pattern {
        let last = &*found.last;
        let route = last.tags.as_ref().and_then(|tags| tags.route());
        let parent = found.kind.parent().map(|parent| parent.fingerprint);
        let key = (found.kind.as_str(), parent, found.child.0, route.clone());
        if self.patterns.len() >= PATTERNS_MAX && !self.patterns.contains_key(&key) {
            let oldest = self.patterns.iter().min_by_key(|(_, pattern)| pattern.last_seen);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                self.patterns.remove(&oldest);
            }
        }
        let pattern = self.patterns.entry(key).or_insert_with(|| Pattern {
            kind: found.kind.clone(),
            child: found.child.clone(),
            database_key: last.client.database_key,
            route,
            remedy: Remedy::of(found),
            scopes: 0,
            counts: Vec::new(),
            count_max: 0,
            count: 0,
            lost: Duration::ZERO,
            client: Arc::clone(&last.client),
            tags: None,
            first_seen: last.ended,
            last_seen: last.ended,
        });
        if pattern.counts.len() >= COUNTS_MAX {
            pattern.counts.remove(0);
        }
        pattern.counts.push(found.count);
        pattern.scopes += 1;
        pattern.count_max = pattern.count_max.max(found.count);
        pattern.count += u64::from(found.count);
        pattern.lost += found.lost();
        pattern.client = Arc::clone(&last.client);
        pattern.tags = last.tags.clone().or(pattern.tags.take());
        pattern.last_seen = last.ended;
        pattern
    }

    /// What costs most comes first.
    pub fn list(&self) -> Vec<&Pattern> {
        let mut patterns: Vec<&Pattern> = self.patterns.values().collect();
        patterns.sort_by(|a, b| b.lost.cmp(&a.lost).then(b.count.cmp(&a.count)));
        patterns
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.patterns.clear();
    }
}
