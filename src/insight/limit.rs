//! How many lines the slow-query log may get: of one shape one in a while, of all so many in a second. What is left out is
//! counted, and the next line of the shape says how many.

use std::time::{Duration, Instant};

use ahash::HashMap;

/// Shapes that are remembered at most.
const SHAPES_MAX: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Limiter {
    shapes: HashMap<u64, Shape>,
    second: Option<(Instant, u32)>,
    /// Lines left out, ever.
    pub suppressed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    written: Instant,
    suppressed: u64,
}

impl Limiter {
    /// Whether a line of this shape may be written now; if so, how many of it were left out since the last.
    pub fn admit(
        &mut self,
        shape: u64,
        per_shape: Option<Duration>,
        per_second_max: u32,
        now: Instant,
    ) -> Option<u64> {
        let known = self.shapes.get_mut(&shape);
        let is_early = |known: &Shape| {
            per_shape.is_some_and(|pause| now.saturating_duration_since(known.written) < pause)
        };
        if let Some(known) = known
            && is_early(known)
        {
            known.suppressed += 1;
            self.suppressed += 1;
            return None;
        }
        let count = match &mut self.second {
            Some((began, count)) if now.saturating_duration_since(*began) < Duration::from_secs(1) => {
                *count += 1;
                *count
            }
            other => {
                *other = Some((now, 1));
                1
            }
        };
        if count > per_second_max {
            self.suppressed += 1;
            if let Some(known) = self.shapes.get_mut(&shape) {
                known.suppressed += 1;
            }
            return None;
        }
        if self.shapes.len() >= SHAPES_MAX && !self.shapes.contains_key(&shape) {
            let pause = per_shape.unwrap_or_default();
            self.shapes.retain(|_, known| now.saturating_duration_since(known.written) < pause);
            if self.shapes.len() >= SHAPES_MAX {
                self.shapes.clear();
            }
        }
        let before = self.shapes.insert(shape, Shape { written: now, suppressed: 0 });
        Some(before.map_or(0, |before| before.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_leaves_few_lines() {
        #[expect(clippy::disallowed_methods, reason = "an Instant is had in no other way")]
        let now = Instant::now();
        let mut limiter = Limiter::default();
        let minute = Some(Duration::from_secs(60));
        let at = |ms: u64| now + Duration::from_millis(ms);
        let written = (0..10_000).filter(|ms| limiter.admit(1, minute, 50, at(*ms)).is_some()).count();
        assert_eq!(written, 1);
        assert_eq!(limiter.admit(1, minute, 50, at(60_000)), Some(9999));
        let shapes = (100..1100).filter(|shape| limiter.admit(*shape, minute, 50, at(70_000)).is_some());
        assert_eq!(shapes.count(), 50);
        assert_eq!(limiter.admit(2000, None, 50, at(71_000)), Some(0));
        assert_eq!(limiter.admit(2000, None, 50, at(71_001)), Some(0));
        for shape in 0..50_000 {
            limiter.admit(shape, minute, u32::MAX, at(80_000));
        }
        assert!(limiter.shapes.len() <= SHAPES_MAX);
    }
}
