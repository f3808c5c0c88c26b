//! What may be parsed, and where.
//!
//! The parser recurses, its own limit does not count all of it, and its trees are dropped recursively: measured, 300
//! nested LEFT JOINs (6 KB) or 100,000 ANDs (1 MB) overflow a stack of 2 MiB, which ends the process. So the scanner
//! counts before anything is parsed.

use super::class::Reason;

/// The stack that a thread for long shapes must have.
pub const PARSE_STACK_BYTES: usize = 64 << 20;

/// What grows a parser's stack or a tree's depth, counted from tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Size {
    /// Of the shape.
    pub bytes: usize,
    /// Parentheses, brackets and CASEs inside each other.
    pub depth: usize,
    /// Operators, and the words and signs that work like one.
    pub operators: usize,
    /// JOINs.
    pub joins: usize,
}

/// Up to here a shape is parsed where it is met: well under a millisecond and 500 KB of stack.
const HERE: Size = Size { bytes: 4 << 10, depth: 30, operators: 200, joins: 30 };

/// Up to here it is parsed on a thread with a stack of its own ([`PARSE_STACK_BYTES`]).
const ASIDE: Size = Size { bytes: 64 << 10, depth: 45, operators: 5000, joins: 300 };

/// Where a shape is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Here and now.
    Here,
    /// Off the event loop.
    Aside,
    /// Nowhere.
    Nowhere(Reason),
}

impl Size {
    /// Of a shape of which no more is known than how long it is.
    pub fn of_bytes(bytes: usize) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// Where a shape of this size is parsed.
    pub fn place(self) -> Place {
        if let Some(reason) = self.beyond(ASIDE) {
            Place::Nowhere(reason)
        } else if self.beyond(HERE).is_some() {
            Place::Aside
        } else {
            Place::Here
        }
    }

    fn beyond(self, bound: Self) -> Option<Reason> {
        if self.bytes > bound.bytes {
            Some(Reason::TooLong)
        } else if self.depth > bound.depth {
            Some(Reason::TooDeep)
        } else if self.operators > bound.operators {
            Some(Reason::TooManyOperators)
        } else if self.joins > bound.joins {
            Some(Reason::TooManyJoins)
        } else {
            None
        }
    }
}
