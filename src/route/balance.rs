//! Balancing: which of the replicas that have what a read needs.

use crate::consistency::Standing;
use crate::pg::HostId;

/// A host that may serve a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub host: HostId,
    /// How it stands to what the read needs.
    pub standing: Standing,
    /// Its share of reads; 0 takes none.
    pub weight: u32,
    /// Statements that it runs for us now.
    pub outstanding: u32,
}

/// Whether `a` has less to do than `b`, each by its weight, with one more statement.
pub(super) fn is_less_busy(a: Candidate, b: Candidate) -> bool {
    is_before(a, b) == std::cmp::Ordering::Less
}

fn is_before(a: Candidate, b: Candidate) -> std::cmp::Ordering {
    let work = |of: Candidate, other: Candidate| (u64::from(of.outstanding) + 1) * u64::from(other.weight);
    work(a, b).cmp(&work(b, a))
}

/// Chooses as statements come: the least busy; of equals each in its turn, by weight.
#[derive(Debug, Default)]
pub(super) struct Choice {
    best: Option<Candidate>,
    /// The weights of those that are as little busy as the best.
    equals: u64,
}

impl Choice {
    /// Takes a candidate that satisfies into account. `turn` is any number that differs from one choice to the next.
    pub(super) fn offer(&mut self, candidate: Candidate, turn: u64) {
        if candidate.weight == 0 {
            return;
        }
        match self.best {
            Some(best) if is_less_busy(best, candidate) => {}
            Some(best) if !is_less_busy(candidate, best) => {
                // Reservoir sampling by weight: the second of two equals replaces the first half the time.
                self.equals += u64::from(candidate.weight);
                let draw = mixed(turn ^ (candidate.host.0 as u64) << 32) % self.equals;
                if draw < u64::from(candidate.weight) {
                    self.best = Some(candidate);
                }
            }
            _ => {
                self.best = Some(candidate);
                self.equals = u64::from(candidate.weight);
            }
        }
    }

    pub(super) fn chosen(&self) -> Option<Candidate> {
        self.best
    }
}

/// Spreads the bits of a counter (the finalizer of SplitMix64).
fn mixed(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(host: usize, weight: u32, outstanding: u32) -> Candidate {
        Candidate { host: HostId(host), standing: Standing::Satisfies, weight, outstanding }
    }

    fn shares(candidates: &[Candidate]) -> Vec<usize> {
        let mut counts = vec![0; candidates.len()];
        for turn in 0..10_000 {
            let mut choice = Choice::default();
            for candidate in candidates {
                choice.offer(*candidate, turn);
            }
            if let Some(chosen) = choice.chosen() {
                counts[chosen.host.0] += 1;
            }
        }
        counts
    }

    #[test]
    fn equals_take_turns() {
        let shares = shares(&[candidate(0, 1, 3), candidate(1, 1, 3), candidate(2, 1, 3)]);
        assert!(shares.iter().all(|share| (3000..3700).contains(share)), "{shares:?}");
    }

    #[test]
    fn weights_count_while_idle_and_while_busy() {
        // Idle: the larger weight is less busy with one statement.
        assert_eq!(shares(&[candidate(0, 1, 0), candidate(1, 2, 0)]), [0, 10_000]);
        let even = shares(&[candidate(0, 1, 0), candidate(1, 2, 1)]);
        assert!((3000..3700).contains(&even[0]), "{even:?}");
        assert_eq!(shares(&[candidate(0, 1, 0), candidate(1, 2, 2)]), [10_000, 0]);
        assert_eq!(shares(&[candidate(0, 0, 0), candidate(1, 1, 1000)]), [0, 10_000]);
        assert_eq!(shares(&[candidate(0, 0, 0)]), [0]);
    }
}
