//! Trying again: ever later, and each failure told once.

use std::time::Duration;

/// After a failure the next attempt comes soon, then ever later.
const FIRST: Duration = Duration::from_millis(50);

/// Different failures that are told of while nothing works.
const TOLD_MAX: usize = 4;

/// What is tried again until it works.
#[derive(Debug)]
pub(super) struct Retry {
    pause: Duration,
    max: Duration,
    /// What was told since it last worked.
    told: Vec<String>,
}

impl Retry {
    /// Attempts at most `max` apart.
    pub(super) fn new(max: Duration) -> Self {
        Self { pause: FIRST.min(max), max, told: Vec::new() }
    }

    /// It has failed: how long to wait, and whether that is to be told.
    pub(super) fn failed(&mut self, error: &str) -> (Duration, bool) {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.max);
        let is_news = self.told.len() < TOLD_MAX && !self.told.iter().any(|told| told == error);
        if is_news {
            self.told.push(error.to_owned());
        }
        (pause, is_news)
    }

    /// It has worked; gives whether that is to be told.
    pub(super) fn worked(&mut self) -> bool {
        self.pause = FIRST.min(self.max);
        !std::mem::take(&mut self.told).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_is_told_once_until_it_works() {
        let millis = Duration::from_millis;
        let mut retry = Retry::new(millis(150));
        assert!(!retry.worked());
        assert_eq!(retry.failed("a"), (millis(50), true));
        assert_eq!(retry.failed("b"), (millis(100), true));
        assert_eq!(retry.failed("a"), (millis(150), false));
        assert_eq!(retry.failed("c"), (millis(150), true));
        assert_eq!(retry.failed("d"), (millis(150), true));
        assert_eq!(retry.failed("e"), (millis(150), false), "enough has been told");
        assert!(retry.worked());
        assert_eq!(retry.failed("a"), (millis(50), true));
    }
}
