//! What the cache has done for each shape: for the console, to turn a shape off whose results were found to differ, and to
//! look less often for a shape of which nothing is ever found.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ahash::HashMap;

use super::reason::Reason;
use crate::sql::Fingerprint;

/// Shapes that are remembered at most; past it those that were of least use are forgotten.
const SHAPES_MAX: usize = 2048;

/// After so many lookups on end that found nothing, nor anything seen before, a shape is looked for less often.
const PATIENCE: u32 = 256;

/// Then one in so many is looked for, until one finds something.
const ONE_IN: u32 = 8;

/// One shape.
#[derive(Debug)]
pub struct Shape {
    /// Its fingerprint.
    pub fingerprint: Fingerprint,
    /// Its text, without literals.
    pub text: Box<str>,
    hits: AtomicU64,
    misses: AtomicU64,
    refusals: AtomicU64,
    saved_us: AtomicU64,
    /// The last reason that was not a hit.
    last: AtomicUsize,
    is_off: AtomicBool,
    /// Lookups on end that found nothing, and past [`PATIENCE`] those that were spared, too.
    in_vain: AtomicU32,
}

impl Shape {
    /// It is run once more: whether it is to be looked for. A shape with other values each time would be looked for in vain
    /// for ever; one time in [`ONE_IN`] shows soon enough when that changes.
    #[inline]
    pub fn is_worth_a_look(&self) -> bool {
        let in_vain = self.in_vain.load(Ordering::Relaxed);
        if in_vain < PATIENCE {
            return true;
        }
        self.in_vain.store(in_vain.checked_add(1).unwrap_or(PATIENCE), Ordering::Relaxed);
        in_vain.is_multiple_of(ONE_IN)
    }

    /// A lookup found a result, or that the statement was seen before; or neither.
    #[inline]
    pub fn was_looked_for(&self, is_found: bool) {
        // Two at once may count as one.
        match self.in_vain.load(Ordering::Relaxed) {
            0 if is_found => {}
            _ if is_found => self.in_vain.store(0, Ordering::Relaxed),
            in_vain if in_vain < PATIENCE => self.in_vain.store(in_vain + 1, Ordering::Relaxed),
            _ => {}
        }
    }

    /// It was asked for, and came to this; a hit saved so many microseconds.
    #[inline]
    pub fn count(&self, reason: Reason, saved_us: u64) {
        let counter = match reason.kind() {
            "hit" => &self.hits,
            "miss" => &self.misses,
            _ => &self.refusals,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if reason == Reason::Hit {
            self.saved_us.fetch_add(saved_us, Ordering::Relaxed);
        } else {
            self.last.store(reason.index() + 1, Ordering::Relaxed);
        }
    }

    /// Its results differed from the primary's: it is cached no more.
    pub fn turn_off(&self) {
        self.is_off.store(true, Ordering::SeqCst);
    }

    /// Whether it is cached no more.
    pub fn is_off(&self) -> bool {
        self.is_off.load(Ordering::SeqCst)
    }

    /// How it has done.
    pub fn snapshot(&self) -> ShapeSnapshot {
        let last = self.last.load(Ordering::Relaxed).checked_sub(1);
        ShapeSnapshot {
            fingerprint: self.fingerprint,
            text: self.text.clone(),
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            refusals: self.refusals.load(Ordering::Relaxed),
            saved_us: self.saved_us.load(Ordering::Relaxed),
            last: last.and_then(|index| Reason::all().nth(index)),
            is_off: self.is_off(),
        }
    }
}

/// A shape, for the console.
#[derive(Clone, Debug)]
pub struct ShapeSnapshot {
    /// See [`Shape`].
    pub fingerprint: Fingerprint,
    /// See [`Shape`].
    pub text: Box<str>,
    /// Answered from memory.
    pub hits: u64,
    /// Could have been.
    pub misses: u64,
    /// Could not.
    pub refusals: u64,
    /// Time that hits saved, in microseconds.
    pub saved_us: u64,
    /// The last reason that was not a hit.
    pub last: Option<Reason>,
    /// It is cached no more.
    pub is_off: bool,
}

/// All shapes.
#[derive(Debug, Default)]
pub struct Shapes(Mutex<HashMap<Fingerprint, Arc<Shape>>>);

impl Shapes {
    /// The shape of a fingerprint; `text` is asked for if it is new.
    pub fn shape(&self, fingerprint: Fingerprint, text: impl FnOnce() -> String) -> Arc<Shape> {
        let mut shapes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = shapes.get(&fingerprint) {
            return Arc::clone(known);
        }
        if shapes.len() >= SHAPES_MAX {
            make_room(&mut shapes);
        }
        let shape = Arc::new(Shape {
            fingerprint,
            text: text().into(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            refusals: AtomicU64::new(0),
            saved_us: AtomicU64::new(0),
            last: AtomicUsize::new(0),
            is_off: AtomicBool::new(false),
            in_vain: AtomicU32::new(0),
        });
        shapes.insert(fingerprint, Arc::clone(&shape));
        shape
    }

    /// All that are remembered, those that saved most first.
    pub fn list(&self) -> Vec<ShapeSnapshot> {
        let shapes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = shapes.values().map(|shape| shape.snapshot()).collect();
        drop(shapes);
        list.sort_by_key(|shape| {
            std::cmp::Reverse((shape.saved_us, shape.misses, shape.refusals, shape.fingerprint))
        });
        list
    }
}

/// Forgets the half that saved least; one that was turned off is never forgotten.
fn make_room(shapes: &mut HashMap<Fingerprint, Arc<Shape>>) {
    let mut saved: Vec<u64> = shapes.values().map(|shape| shape.saved_us.load(Ordering::Relaxed)).collect();
    let middle = saved.len() / 2;
    let (_, median, _) = saved.select_nth_unstable(middle);
    let median = *median;
    let mut to_go = middle;
    shapes.retain(|_, shape| {
        let goes = to_go > 0 && !shape.is_off() && shape.saved_us.load(Ordering::Relaxed) <= median;
        to_go -= usize::from(goes);
        !goes
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_eight_is_looked_for_when_nothing_is_found_for_long() {
        let shape = Shapes::default().shape(Fingerprint(1), String::new);
        let looks = |times: u32| {
            let look = |_: &u32| {
                let looks = shape.is_worth_a_look();
                if looks {
                    shape.was_looked_for(false);
                }
                looks
            };
            (0..times).filter(look).count()
        };
        assert_eq!(looks(PATIENCE), 256);
        assert_eq!(looks(8000), 1000);
        shape.was_looked_for(true);
        assert_eq!(looks(PATIENCE), 256, "it is patient again");
        assert_eq!(looks(80), 10);
    }

    #[test]
    fn what_saved_most_stays() {
        let shapes = Shapes::default();
        for number in 0..10 * SHAPES_MAX as u64 {
            let shape = shapes.shape(Fingerprint(number), String::new);
            if number == 5 {
                shape.count(Reason::Hit, 100);
                shape.count(Reason::Cold, 0);
            }
            if number == 6 {
                shape.turn_off();
            }
        }
        let list = shapes.list();
        assert!(list.len() <= SHAPES_MAX);
        assert_eq!(
            (list[0].fingerprint, list[0].hits, list[0].last),
            (Fingerprint(5), 1, Some(Reason::Cold))
        );
        assert!(list.iter().any(|shape| shape.is_off));
    }
}
