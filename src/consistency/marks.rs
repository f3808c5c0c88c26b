//! Pairs that rise together, bounded: "who has this position has passed that ticket", "the primary was there then".

use std::collections::VecDeque;

use crate::pg::Lsn;

/// Positions in order, each with what it stands for.
///
/// When it is full, every other one of the older half is forgotten. What is asked of it is always "the last mark at or
/// below a position", and without a mark the answer is an older one: less is promised, never more.
#[derive(Clone, Debug)]
pub(super) struct Marks<T> {
    list: VecDeque<(Lsn, T)>,
    max: usize,
}

impl<T: Copy> Marks<T> {
    pub(super) fn new(max: usize) -> Self {
        Self { list: VecDeque::new(), max }
    }

    /// Adds a mark; a position below the last counts as the last.
    pub(super) fn push(&mut self, lsn: Lsn, value: T) {
        let lsn = self.list.back().map_or(lsn, |(last, _)| lsn.max(*last));
        if self.list.len() >= self.max {
            let half = self.max / 2;
            let mut at = 0;
            self.list.retain(|_| {
                at += 1;
                at > half || at % 2 == 1
            });
        }
        self.list.push_back((lsn, value));
    }

    /// What the last mark at or below `lsn` stands for.
    pub(super) fn at_or_below(&self, lsn: Lsn) -> Option<T> {
        let behind = self.list.partition_point(|(mark, _)| *mark <= lsn);
        behind.checked_sub(1).map(|at| self.list[at].1)
    }

    /// What the last mark below `lsn` stands for.
    pub(super) fn below(&self, lsn: Lsn) -> Option<T> {
        let behind = self.list.partition_point(|(mark, _)| *mark < lsn);
        behind.checked_sub(1).map(|at| self.list[at].1)
    }

    /// What the first mark above `lsn` stands for.
    pub(super) fn first_above(&self, lsn: Lsn) -> Option<T> {
        self.list.get(self.list.partition_point(|(mark, _)| *mark <= lsn)).map(|(_, value)| *value)
    }

    /// Forgets the marks in front of the last one at or below `lsn`.
    pub(super) fn forget_below(&mut self, lsn: Lsn) {
        let behind = self.list.partition_point(|(mark, _)| *mark <= lsn);
        self.list.drain(..behind.saturating_sub(1));
    }

    pub(super) fn last(&self) -> Option<(Lsn, T)> {
        self.list.back().copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Lsn, T)> {
        self.list.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }
}
