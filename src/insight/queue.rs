//! Records on their way from one worker's clients to the thread that counts them.
//!
//! A mutex around a vector: its worker's clients are one thread, and the other side takes the whole vector at once, ten
//! times a second, so nobody meets anybody. A channel would wake its receiver with each statement, which costs more than
//! all else here. What has no room is dropped and counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::noted::Noted;
use super::record::Details;
use super::tags::Known;
use crate::sql::{Analysis, Fingerprint};

/// Records that wait at most; more than a worker's statements of a tenth of a second.
pub const RECORDS_MAX: usize = 16_384;

/// Room that is kept, in records.
const ROOM_MIN: usize = 64;

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
    records: Vec<Noted>,
    /// Empty, with room: taken in turns with `records`, so that neither grows anew each time.
    spare: Vec<Noted>,
    tags: Known,
    announced: Box<[u32]>,
}

impl Default for Queue {
    fn default() -> Self {
        let inner = Inner {
            records: Vec::new(),
            spare: Vec::new(),
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
    #[inline]
    pub(super) fn push(
        &self,
        mut record: Noted,
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
            let (tags, trace) = inner.tags.read(text, analysis);
            record.tags = tags;
            if trace.is_some() {
                record.more.get_or_insert_default().trace = trace;
            }
        }
        if (inner.announce(record.fingerprint) || needs)
            && let Some(details) = details()
        {
            record.more.get_or_insert_default().details = Some(details);
        }
        inner.records.push(record);
    }

    /// Takes all records, to be [returned](Self::give_back) empty. `forget`: texts of shapes are handed over anew.
    pub(super) fn take(&self, forget: bool) -> Vec<Noted> {
        let mut inner = self.lock();
        if forget {
            inner.announced.fill(0);
        }
        let spare = std::mem::take(&mut inner.spare);
        std::mem::replace(&mut inner.records, spare)
    }

    /// Returns what was taken, which held `taken` records: its room is used again, unless that is far more than is needed.
    pub(super) fn give_back(&self, mut records: Vec<Noted>, taken: usize) {
        records.clear();
        records.shrink_to(taken.saturating_mul(4).max(ROOM_MIN));
        self.lock().spare = records;
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
