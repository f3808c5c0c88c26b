//! Which sets of indexes to try, and which of those tried to advise. It does not matter here who says what a set
//! costs: the planner with hypothetical indexes, or the model.

use super::candidates::Candidate;

/// What a set of candidates came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Trial {
    /// Positions in the list of candidates, ascending.
    pub set: Vec<usize>,
    /// The plan's cost.
    pub cost: f64,
    /// The plan uses all of them.
    pub is_used: bool,
    /// What they take on disk.
    pub bytes: f64,
}

/// What a gain must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The cost with the index is at most this share of the cost without.
    pub share: f64,
    /// A further index must bring it down to this share of what the first ones left.
    pub further: f64,
    /// Trials of one statement.
    pub trials: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { share: 0.5, further: 0.5, trials: 120 }
    }
}

/// More indexes than this for one statement are never advised.
const INDEXES_MAX: usize = 3;

/// Costs that differ by less are the same.
const SAME: f64 = 1.05;

/// Nor does one page of a table more or less.
const PAGE: f64 = 4.5;

/// Nor does what is so small a share of the statement's cost count: a column more, for a page less to look at.
const SAME_OF_ALL: f64 = 0.001;

/// The search, step by step: [`Choice::next`] says what to try, [`Choice::record`] what came out.
#[derive(Debug)]
pub struct Choice {
    candidates: Vec<Candidate>,
    base: f64,
    limits: Limits,
    /// For each, which share of the cost it may leave at most.
    bars: Vec<f64>,
    /// Those that serve an order behind a key whose commonest value has many rows: what is tried with a rare value does
    /// not show what they are good for.
    ordered: Vec<usize>,
    waiting: Vec<Vec<usize>>,
    trials: Vec<Trial>,
    stage: Stage,
}

/// What is known of the candidates besides what they cost.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Merits {
    /// For each, which share of the cost it may leave at most, if not [`Limits::share`].
    pub bars: Vec<f64>,
    /// Those that serve an order behind a key whose commonest value has many rows.
    pub ordered: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Each by itself, and the sets that belong together.
    First,
    /// One more on the best set.
    Growing,
    /// One less.
    Shrinking,
    Done,
}

impl Choice {
    /// `together`: sets that help only as such.
    pub fn new(
        candidates: Vec<Candidate>,
        together: Vec<Vec<usize>>,
        merits: Merits,
        base: f64,
        limits: Limits,
    ) -> Self {
        let Merits { bars, ordered } = merits;
        let mut waiting = together;
        waiting.extend((0..candidates.len()).map(|at| vec![at]));
        waiting.reverse();
        Self { candidates, base, limits, bars, ordered, waiting, trials: Vec::new(), stage: Stage::First }
    }

    /// The next set to try.
    #[expect(clippy::should_implement_trait, reason = "what it gives depends on what is recorded in between")]
    pub fn next(&mut self) -> Option<Vec<usize>> {
        loop {
            if self.trials.len() >= self.limits.trials {
                return None;
            }
            while let Some(mut set) = self.waiting.pop() {
                set.sort_unstable();
                set.dedup();
                if !set.is_empty() && !self.trials.iter().any(|trial| trial.set == set) {
                    return Some(set);
                }
            }
            match self.stage {
                Stage::First => {
                    self.stage = Stage::Growing;
                    self.grow();
                }
                Stage::Growing => {
                    self.stage = Stage::Shrinking;
                    self.shrink();
                }
                Stage::Shrinking => self.stage = Stage::Done,
                Stage::Done => return None,
            }
        }
    }

    /// What a set came to.
    pub fn record(&mut self, trial: Trial) {
        self.trials.push(trial);
        if self.stage == Stage::Growing && self.waiting.is_empty() {
            // As long as it goes on to help.
            let (best, before) = (self.best_of(|_| true).cloned(), self.trials.len());
            if best.is_some_and(|best| best.set.len() < INDEXES_MAX) && before < self.limits.trials {
                self.grow();
            }
        }
    }

    fn best_of(&self, which: impl Fn(&Trial) -> bool) -> Option<&Trial> {
        let usable =
            self.trials.iter().filter(|trial| trial.is_used && trial.cost < self.base && which(trial));
        usable.min_by(|a, b| a.cost.total_cmp(&b.cost))
    }

    fn grow(&mut self) {
        let Some(best) = self.best_of(|_| true).cloned() else { return };
        if best.set.len() >= INDEXES_MAX {
            return;
        }
        for (at, candidate) in self.candidates.iter().enumerate() {
            let leads_alike = |&member: &usize| {
                let known = &self.candidates[member];
                known.table == candidate.table
                    && known.keys.first().map(|key| &key.expression)
                        == candidate.keys.first().map(|key| &key.expression)
            };
            if best.set.iter().any(leads_alike) {
                continue;
            }
            let set: Vec<usize> = best.set.iter().copied().chain([at]).collect();
            self.waiting.push(set);
        }
    }

    fn shrink(&mut self) {
        let Some(best) = self.chosen().cloned() else { return };
        for at in &best.set {
            let fewer: Vec<usize> = best.set.iter().copied().filter(|member| member != at).collect();
            self.waiting.push(fewer);
        }
    }

    /// What to advise, by what was tried so far: the fewest indexes, of these the cheapest plan, and of those that do as
    /// well the fewest and smallest columns.
    pub fn chosen(&self) -> Option<&Trial> {
        let mut best: Option<&Trial> = None;
        for size in 1..=INDEXES_MAX {
            let is_candidate = |trial: &Trial| trial.set.len() == size && self.is_enough(trial);
            let Some(cheapest) = self.best_of(is_candidate) else { continue };
            if best.is_none_or(|best| cheapest.cost <= best.cost * self.limits.further) {
                best = Some(cheapest);
            }
        }
        let best = best?;
        let columns =
            |trial: &Trial| trial.set.iter().map(|&at| self.candidates[at].keys.len()).sum::<usize>();
        let alike = self.trials.iter().filter(|trial| {
            trial.is_used
                && trial.set.len() == best.set.len()
                && self.is_enough(trial)
                && trial.cost <= (best.cost * SAME).max(best.cost + PAGE.max(self.base * SAME_OF_ALL))
        });
        let unordered = |trial: &Trial| trial.set.iter().filter(|at| !self.ordered.contains(at)).count();
        alike.min_by(|a, b| {
            let by_columns = columns(a).cmp(&columns(b));
            unordered(a)
                .cmp(&unordered(b))
                .then(by_columns)
                .then(a.bytes.total_cmp(&b.bytes))
                .then(a.cost.total_cmp(&b.cost))
        })
    }

    /// Whether it brings what its members must; the strictest of them decides.
    fn is_enough(&self, trial: &Trial) -> bool {
        let bars = trial.set.iter().map(|&at| self.bars.get(at).copied().unwrap_or(self.limits.share));
        trial.cost <= self.base * bars.fold(1.0, f64::min)
    }

    /// The best that was found, though it is not enough.
    pub fn best_cost(&self) -> Option<f64> {
        self.best_of(|_| true).map(|trial| trial.cost)
    }

    /// What the statement costs without.
    pub fn base(&self) -> f64 {
        self.base
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::candidates::Method;
    use crate::advice::schema::IndexKey;

    fn candidate(table: &str, columns: &[&str]) -> Candidate {
        let key = |column: &&str| IndexKey { expression: (*column).to_owned(), ..IndexKey::default() };
        let table = ("public".to_owned(), table.to_owned());
        Candidate { table, method: Method::Btree, keys: columns.iter().map(key).collect(), predicate: None }
    }

    fn search(
        candidates: &[Candidate],
        together: Vec<Vec<usize>>,
        cost: impl Fn(&[usize]) -> f64,
    ) -> Option<Vec<usize>> {
        let mut choice =
            Choice::new(candidates.to_vec(), together, Merits::default(), 1000.0, Limits::default());
        while let Some(set) = choice.next() {
            let cost = cost(&set);
            choice.record(Trial { is_used: true, cost, bytes: 1.0, set });
        }
        choice.chosen().map(|trial| trial.set.clone())
    }

    #[test]
    fn the_fewest_columns_of_those_that_do_as_well() {
        let candidates = [candidate("t", &["a", "b"]), candidate("t", &["a"]), candidate("t", &["b"])];
        assert_eq!(search(&candidates, vec![], |set| if set == [2] { 900.0 } else { 8.0 }), Some(vec![1]));
        assert_eq!(search(&candidates, vec![], |set| if set == [0] { 8.0 } else { 100.0 }), Some(vec![0]));
        assert_eq!(search(&candidates, vec![], |_| 600.0), None);
    }

    #[test]
    fn a_second_index_must_halve_what_is_left() {
        let candidates = [candidate("t", &["a"]), candidate("u", &["b"])];
        let cost = |both| {
            move |set: &[usize]| {
                if set.len() == 2 {
                    both
                } else if set == [0] {
                    300.0
                } else {
                    900.0
                }
            }
        };
        assert_eq!(search(&candidates, vec![], cost(200.0)), Some(vec![0]));
        assert_eq!(search(&candidates, vec![], cost(100.0)), Some(vec![0, 1]));
    }

    #[test]
    fn two_that_help_only_together_are_found() {
        let candidates = [candidate("t", &["a"]), candidate("t", &["b"])];
        let cost = |set: &[usize]| if set.len() == 2 { 10.0 } else { 1000.0 };
        assert_eq!(search(&candidates, vec![vec![0, 1]], cost), Some(vec![0, 1]));
    }
}
