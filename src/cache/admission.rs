//! Admission: which statements are hot. Most texts pass once; what passes once must cost no memory.
//!
//! A fixed table of hashes, each with the time it was seen last. A hash that is met again within the window is hot; one
//! that meets a stranger in its slot takes it over if the stranger is older than its neighbor. Two that share a slot may
//! keep each other cold: then they are read from a server, as without a cache.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Slots of the table: 512 KiB.
const SLOTS: usize = 1 << 16;

/// Bits of a slot that hold the time, in milliseconds, modulo.
const TIME_BITS: u32 = 28;

const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// See the module.
#[derive(Debug)]
pub struct Doorkeeper(Box<[AtomicU64]>);

impl Default for Doorkeeper {
    fn default() -> Self {
        Self((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Doorkeeper {
    /// Whether the hash was seen less than `window` ago, without noting anything.
    #[inline]
    pub fn has_seen(&self, hash: u64, now: Duration, window: Duration) -> bool {
        let (first, tag, now_ms, window_ms) = Self::place(hash, now, window);
        [first, first ^ 1].into_iter().map(|at| self.0[at].load(Ordering::Relaxed)).any(|seen| {
            seen != 0 && seen & !TIME_MASK == tag && now_ms.wrapping_sub(seen) & TIME_MASK < window_ms
        })
    }

    /// The first of the two slots, the tag, and now and the window in milliseconds.
    #[inline]
    fn place(hash: u64, now: Duration, window: Duration) -> (usize, u64, u64, u64) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        // Two neighbors by the low bits, which the tag has not.
        let first = usize::try_from(hash).unwrap_or(0) % SLOTS;
        (
            first,
            hash & !TIME_MASK | 1 << TIME_BITS,
            millis(now) & TIME_MASK,
            millis(window).min(TIME_MASK / 2),
        )
    }

    /// Notes that the hash was seen, `now` being the time since any beginning; gives whether it was seen before, less
    /// than `window` ago.
    pub fn is_hot(&self, hash: u64, now: Duration, window: Duration) -> bool {
        let (first, tag, now_ms, window_ms) = Self::place(hash, now, window);
        let age = |slot: u64| now_ms.wrapping_sub(slot) & TIME_MASK;
        let pair = [&self.0[first], &self.0[first ^ 1]];
        let seen = pair.map(|slot| slot.load(Ordering::Relaxed));
        let new = tag | now_ms;
        for (slot, seen) in pair.into_iter().zip(seen) {
            if seen != 0 && seen & !TIME_MASK == tag {
                slot.store(new, Ordering::Relaxed);
                return age(seen) < window_ms;
            }
        }
        let older = usize::from(seen[0] != 0 && (seen[1] == 0 || age(seen[1]) > age(seen[0])));
        pair[older].store(new, Ordering::Relaxed);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn hot_is_twice_within_the_window() {
        let door = Doorkeeper::default();
        assert!(!door.is_hot(0xabcd_ef01_2345_6789, at(0), WINDOW));
        assert!(door.is_hot(0xabcd_ef01_2345_6789, at(59), WINDOW));
        assert!(!door.is_hot(0xabcd_ef01_2345_6789, at(120), WINDOW), "too long ago");
        assert!(door.is_hot(0xabcd_ef01_2345_6789, at(121), WINDOW));
        // The clock of the table goes round.
        let late = Duration::from_millis((1 << TIME_BITS) - 5);
        assert!(!door.is_hot(0x1111_1111_1111_1111, late, WINDOW));
        assert!(door.is_hot(0x1111_1111_1111_1111, late + Duration::from_millis(10), WINDOW));
    }

    #[test]
    fn a_flood_of_cold_ones_takes_no_memory_and_leaves_most_hot_ones_hot() {
        let door = Doorkeeper::default();
        let mut random = 1u64;
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            random ^ (random >> 29)
        };
        let hot: Vec<u64> = (0..100).map(|_| next()).collect();
        let (mut hits, mut false_hits) = (0, 0);
        for round in 0..50 {
            hits += hot.iter().filter(|hash| door.is_hot(**hash, at(round), WINDOW)).count();
            false_hits += (0..5000).filter(|_| door.is_hot(next(), at(round), WINDOW)).count();
        }
        assert!(hits > 4500, "{hits}");
        assert_eq!(false_hits, 0);
    }
}
