//! What statements took without an index and with it: whether it brings what was said.
//!
//! Both sides are taken from one running sum of each statement, read at each look at the catalog. So what ran between the last
//! look that did not find the index and the first that did counts for neither.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How often a statement ran on servers so far, and how long that took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Executions.
    pub calls: u64,
    /// Milliseconds.
    pub ms: f64,
}

/// Executions without the index that are enough to go by, where there are older ones besides.
const CALLS_MIN: u64 = 5;

impl Load {
    fn mean(self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let calls = self.calls as f64;
        (self.calls > 0).then(|| self.ms / calls)
    }

    /// What came after an earlier sum; all, where counting has begun anew since.
    fn since(self, earlier: Self) -> Self {
        if self.calls < earlier.calls {
            return self;
        }
        Self { calls: self.calls - earlier.calls, ms: (self.ms - earlier.ms).max(0.0) }
    }

    fn and(self, other: Self) -> Self {
        Self { calls: self.calls + other.calls, ms: self.ms + other.ms }
    }
}

/// One statement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sides {
    /// Its mean without the index.
    mean_ms: f64,
    /// Its sum when the index was first found missing: what is older may have had it.
    opened: Option<Load>,
    /// Its sum when the index was first there.
    begun: Option<Load>,
    /// What it took with the index before the last start.
    earlier: Load,
}

impl Sides {
    /// What it took with the index.
    fn with(&self, now: Option<Load>) -> Option<Load> {
        Some(now.unwrap_or_default().since(self.begun?).and(self.earlier))
    }
}

/// The statements of one index.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Loads(BTreeMap<String, Sides>);

impl Loads {
    /// What statements take by their analysis, for as long as nothing better is known.
    pub fn learn<'a>(&mut self, means: impl Iterator<Item = (&'a str, f64)>) {
        for (name, mean_ms) in means {
            self.0.entry(name.to_owned()).or_insert_with(|| Sides { mean_ms, ..Sides::default() });
        }
    }

    /// The index is not there.
    pub fn without(&mut self, names: &[String], load: impl Fn(&str) -> Option<Load>) {
        for name in names {
            let Some(now) = load(name) else { continue };
            let sides = self.0.entry(name.clone()).or_default();
            let recent = now.since(*sides.opened.get_or_insert(now));
            let better = if recent.calls >= CALLS_MIN { recent.mean() } else { None };
            let known = Some(sides.mean_ms).filter(|ms| *ms > 0.0);
            sides.mean_ms = better.or(known).or(now.mean()).unwrap_or_default();
        }
    }

    /// The index is there from now on.
    pub fn begin(&mut self, names: &[String], load: impl Fn(&str) -> Option<Load>) {
        for name in names {
            let sides = self.0.entry(name.clone()).or_default();
            (sides.begun, sides.earlier) = (Some(load(name).unwrap_or_default()), Load::default());
        }
    }

    /// The same for the next start, with which the sums begin anew.
    #[must_use]
    pub fn carried(&self, load: impl Fn(&str) -> Option<Load>) -> Self {
        let carried = |(name, sides): (&String, &Sides)| {
            let with = sides.with(load(name));
            let carried = Sides {
                mean_ms: sides.mean_ms,
                opened: None,
                begun: with.map(|_| Load::default()),
                earlier: with.unwrap_or_default(),
            };
            (name.clone(), carried)
        };
        Self(self.0.iter().map(carried).collect())
    }

    /// How many executions there were since, and how many times faster they are.
    pub fn times(&self, load: impl Fn(&str) -> Option<Load>) -> Option<(u64, f64)> {
        let (mut calls, mut before, mut after) = (0, 0.0, 0.0);
        for (name, sides) in &self.0 {
            let Some(since) = sides.with(load(name)) else { continue };
            if sides.mean_ms > 0.0 {
                #[expect(clippy::cast_precision_loss, reason = "a mean")]
                let count = since.calls as f64;
                calls += since.calls;
                before += sides.mean_ms * count;
                after += since.ms;
            }
        }
        // A microsecond each is as good as nothing.
        #[expect(clippy::cast_precision_loss, reason = "a floor")]
        let least = calls as f64 * 0.001;
        (calls > 0).then(|| (calls, before / after.max(least)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(calls: u64, ms: f64) -> impl Fn(&str) -> Option<Load> {
        move |_| Some(Load { calls, ms })
    }

    #[test]
    fn older_executions_do_not_count() {
        let names = ["one".to_owned()];
        let mut loads = Loads::default();
        loads.learn([("one", 2.0)].into_iter());
        // A thousand were fast, when the index was there the first time.
        loads.without(&names, of(1000, 1000.0));
        loads.without(&names, of(1010, 1400.0));
        loads.begin(&names, of(1020, 1500.0));
        assert_eq!(loads.times(of(1020, 1500.0)), None);
        assert_eq!(loads.times(of(1030, 1510.0)), Some((10, 40.0)));
        // Statistics were reset.
        assert_eq!(loads.times(of(5, 10.0)), Some((5, 20.0)));
    }

    #[test]
    fn a_restart_goes_on_counting() {
        let names = ["one".to_owned()];
        let mut loads = Loads::default();
        loads.learn([("one", 10.0)].into_iter());
        loads.begin(&names, of(100, 1000.0));
        let first = loads.carried(of(110, 1010.0));
        assert_eq!(first.times(|_| None), Some((10, 10.0)));
        // The sums begin at nothing, and pass where they stood before.
        assert_eq!(first.times(of(190, 390.0)), Some((200, 5.0)));
        let second = first.carried(of(190, 390.0));
        assert_eq!(second.times(of(0, 0.0)), Some((200, 5.0)));
        // Not begun is not begun.
        let mut open = Loads::default();
        open.learn([("one", 10.0)].into_iter());
        assert_eq!(open.carried(of(9, 9.0)).times(of(9, 9.0)), None);
    }

    #[test]
    fn without_executions_the_analysis_must_do() {
        let names = ["one".to_owned()];
        let mut loads = Loads::default();
        loads.learn([("one", 30.0)].into_iter());
        loads.without(&names, of(4, 100.0));
        loads.without(&names, of(5, 101.0));
        loads.begin(&names, of(5, 101.0));
        assert_eq!(loads.times(of(15, 111.0)), Some((10, 30.0)));
        assert_eq!(loads.times(|_| None), None);
    }
}
