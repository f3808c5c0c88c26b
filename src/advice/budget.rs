//! The budget of analyses, so that looking for advice never becomes the load.

use std::time::{Duration, Instant};

/// Analyses that may be begun in a minute.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    per_minute: u32,
    /// When the next one may begin, if the last ones came at an even pace.
    next: Option<Instant>,
}

impl Budget {
    /// As many in a minute, evenly.
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, next: None }
    }

    /// Whether one may begin now; if so it counts. A quarter of a minute's may come at once.
    pub fn take(&mut self, now: Instant) -> bool {
        if self.per_minute == 0 {
            return false;
        }
        let pace = Duration::from_secs(60) / self.per_minute;
        let next = self.next.map_or(now, |next| next.max(now));
        if next.duration_since(now) > pace * (self.per_minute / 4) {
            return false;
        }
        self.next = Some(next + pace);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_kept() {
        #[expect(clippy::disallowed_methods, reason = "an Instant is had in no other way")]
        let now = Instant::now();
        let mut budget = Budget::new(60);
        let begun = (0..600).filter(|second| budget.take(now + Duration::from_millis(second * 100))).count();
        assert!((60..=76).contains(&begun), "{begun} in a minute");
        assert!(!Budget::new(0).take(now));
    }
}
