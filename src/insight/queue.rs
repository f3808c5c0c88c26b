//! Records on their way from one worker's clients to the thread that counts them.
//!
//! A mutex around a vector: its worker's clients are one thread, and the other side takes the whole vector at once, ten
//! times a second, so nobody meets anybody. A channel would wake its receiver with each statement, which costs more than
//! all else here. What has no room is dropped and counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::record::{Details, Record};
use super::tags::Known;
use crate::sql::{Analysis, Fingerprint};

/// Records that wait at most; more than a worker's statements of a tenth of a second.
pub const RECORDS_MAX: usize = 16_384;

/// Shapes whose text was handed over not long ago, as a table of hashes.
const ANNOUNCED: usize = 4096;

/// One worker's records.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    records: Vec<Record>,
    tags: Known,
    announced: Box<[u32]>,
}

impl Default for Queue {
    fn default() -> Self {
        let inner = Inner {
            records: Vec::new(),
            tags: Known::default(),
            announced: vec![0; ANNOUNCED].into_boxed_slice(),
        };
        Self { inner: Mutex::new(inner), dropped: AtomicU64::new(0) }
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a record over. `details` is asked for if it `needs` them, or if nobody has told of its shape for a while;
    /// `tagged` are the text and its analysis where it has comments.
    pub fn push(
        &self,
        mut record: Record,
        needs: bool,
        tagged: Option<(&[u8], &Analysis)>,
        details: impl FnOnce() -> Option<Box<Details>>,
    ) {
        let mut inner = self.lock();
        if inner.records.len() >= RECORDS_MAX {
            drop(inner);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if let Some((text, analysis)) = tagged {
            (record.tags, record.trace) = inner.tags.read(text, analysis);
        }
        if inner.announce(record.fingerprint) || needs {
            record.details = details();
        }
        inner.records.push(record);
    }

    /// Takes all records, leaving `empty` in their place. `forget`: texts of shapes are handed over anew.
    pub fn take(&self, empty: Vec<Record>, forget: bool) -> Vec<Record> {
        let mut inner = self.lock();
        if forget {
            inner.announced.fill(0);
        }
        std::mem::replace(&mut inner.records, empty)
    }

    /// Records that had no room, ever.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Inner {
    /// Notes a shape; gives whether it is news.
    fn announce(&mut self, Fingerprint(fingerprint): Fingerprint) -> bool {
        let slot = usize::try_from(fingerprint % ANNOUNCED as u64).unwrap_or_default();
        let tag = u32::try_from(fingerprint >> 32).unwrap_or_default() | 1;
        std::mem::replace(&mut self.announced[slot], tag) != tag
    }
}
