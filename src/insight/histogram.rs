//! A histogram of times, in a kilobyte.
//!
//! Log-linear, as an HDR histogram: eight buckets for each power of two, so that a quantile is off by a sixteenth at most,
//! from a microsecond to four hours. The crate `hdrhistogram` was looked at: at its least precision it takes twice the
//! memory, of which there are three per shape and thousands of shapes, and needs its bounds checked at each use.

use std::time::Duration;

/// Buckets per power of two, as a power of two.
const PRECISION: u32 = 3;

/// The last power of two, in microseconds.
const EXPONENT_MAX: u32 = 33;

const BUCKETS: usize = ((EXPONENT_MAX - PRECISION + 2) << PRECISION) as usize;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u32; BUCKETS]>,
    total: u64,
    sum: Duration,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), total: 0, sum: Duration::ZERO, max: Duration::ZERO }
    }
}

impl Histogram {
    /// Adds one.
    #[inline]
    pub fn add(&mut self, time: Duration) {
        let count = &mut self.counts[bucket(time)];
        *count = count.saturating_add(1);
        self.total += 1;
        self.sum += time;
        self.max = self.max.max(time);
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&*other.counts) {
            *count = count.saturating_add(*more);
        }
        self.total += other.total;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// The longest.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// Their mean; zero if there are none.
    pub fn mean(&self) -> Duration {
        let nanoseconds = self.sum.as_nanos().checked_div(u128::from(self.total)).unwrap_or_default();
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    /// The time that `per_mille` of a thousand did not exceed, to a sixteenth.
    pub fn quantile(&self, per_mille: u64) -> Duration {
        let rank = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                return middle(at).min(self.max);
            }
        }
        self.max
    }

    /// Counts by power of two: the lower end in microseconds, and how many. For pictures.
    pub fn octaves(&self) -> Vec<(u64, u64)> {
        let mut octaves: Vec<(u64, u64)> = Vec::new();
        for (at, count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let lower = lower_us(at);
            let lower = if lower == 0 { 0 } else { 1 << lower.ilog2() };
            match octaves.last_mut() {
                Some((same, sum)) if *same == lower => *sum += u64::from(*count),
                _ => octaves.push((lower, u64::from(*count))),
            }
        }
        octaves
    }
}

fn bucket(time: Duration) -> usize {
    let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    if us < 1 << PRECISION {
        return usize::try_from(us).unwrap_or_default();
    }
    let exponent = us.ilog2();
    if exponent > EXPONENT_MAX {
        return BUCKETS - 1;
    }
    let shift = exponent - PRECISION;
    let index = (u64::from(shift) << PRECISION) + (us >> shift);
    usize::try_from(index).unwrap_or(BUCKETS - 1)
}

fn lower_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 << PRECISION {
        return bucket;
    }
    let shift = (bucket >> PRECISION) - 1;
    ((bucket & ((1 << PRECISION) - 1)) + (1 << PRECISION)) << shift
}

fn middle(bucket: usize) -> Duration {
    let (lower, upper) = (lower_us(bucket), lower_us(bucket + 1));
    Duration::from_micros(lower.midpoint(upper.saturating_sub(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_are_near() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        for (per_mille, ms) in [(500, 500.0), (950, 950.0), (990, 990.0), (1000, 1000.0)] {
            let found = histogram.quantile(per_mille).as_secs_f64() * 1000.0;
            assert!((found / ms - 1.0).abs() < 1.0 / 16.0, "{per_mille}: {found}");
        }
        assert_eq!(histogram.mean(), Duration::from_micros(500_500));
        assert_eq!(Histogram::default().quantile(500), Duration::ZERO);
    }

    #[test]
    fn a_merged_one_has_both() {
        let (mut a, mut b) = (Histogram::default(), Histogram::default());
        a.add(Duration::from_micros(3));
        b.add(Duration::from_secs(100_000));
        a.merge(&b);
        assert_eq!((a.count(), a.max()), (2, Duration::from_secs(100_000)));
        assert_eq!(a.octaves(), [(2, 1), (1 << 33, 1)]);
    }

    proptest! {
        #[test]
        fn each_time_has_a_bucket_around_it(us in 0_u64..(1 << 34)) {
            let at = bucket(Duration::from_micros(us));
            prop_assert!(lower_us(at) <= us && us < lower_us(at + 1), "{us} in {at}");
        }
    }
}
