//! How often each reason has decided.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Reason;

/// A count per reason.
#[derive(Debug)]
pub struct Counts([AtomicU64; Reason::COUNT]);

impl Default for Counts {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Reason::COUNT])
    }
}

impl Counts {
    /// One more statement, or batch, went where it went for this reason.
    #[inline]
    pub fn count(&self, reason: Reason) {
        self.0[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn of(&self, reason: Reason) -> u64 {
        self.0[reason.index()].load(Ordering::Relaxed)
    }
}
