//! Whether what the shared store has of a database may be believed, and what we say there of it.
//!
//! Results in the store are good while every write since they were read has set its tokens anew. Of those that we know of we
//! do that ourselves. So what is there is *trusted* from the moment that all of the database was made void, for as long as we
//! know of all that is written: until its change stream is lost and begins anew. But then nothing need be made void where
//! another Weir has *vouched* for it all the while: that is what makes results survive a restart of one of two.
//!
//! ```text
//!             nobody vouches: make all void
//!   Unknown ────────────────────────────────► Trusted: vouches while it covers
//!     │ ▲ ▲                                   ▲  │
//!     │ │ └──────────── begun anew ───────────┼──┘
//!     ▼ │ somebody else vouches               │ long enough
//!   Joining ──────────────────────────────────┘
//! ```

use std::fmt;
use std::time::{Duration, Instant};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Something may have been written that the store was not told of.
    Unknown,
    /// Another Weir vouches, and we have known of all writes since then.
    Joining(Instant),
    /// What is there and has the present tokens is true.
    Trusted,
}

/// What is to be said to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Say {
    /// Nothing.
    Nothing,
    /// That all of the database is void; once it has been said, the database is trusted.
    Void,
    /// That we vouch for it.
    Vouch,
}

impl Standing {
    /// Where it stands next. `covers`: we know of all that is written now. Who joins waits for `join_after`.
    pub(super) fn next(
        self,
        covers: bool,
        others_vouch: bool,
        join_after: Duration,
        now: Instant,
    ) -> (Self, Say) {
        match self {
            Self::Trusted if covers => (Self::Trusted, Say::Vouch),
            // What we do not know of yet we will be told of.
            Self::Trusted => (Self::Trusted, Say::Nothing),
            Self::Unknown | Self::Joining(_) if !covers => (Self::Unknown, Say::Nothing),
            Self::Unknown | Self::Joining(_) if !others_vouch => (Self::Unknown, Say::Void),
            Self::Unknown => (Self::Joining(now), Say::Nothing),
            Self::Joining(since) if now.saturating_duration_since(since) >= join_after => {
                (Self::Trusted, Say::Vouch)
            }
            Self::Joining(since) => (Self::Joining(since), Say::Nothing),
        }
    }
}

/// A database that we follow.
pub(super) struct Followed {
    covers: Box<dyn Fn(Instant) -> bool + Send + Sync>,
    /// Tells it from another of the name.
    pub(super) number: u64,
    pub(super) standing: Standing,
    /// How often it began anew: what was found out before is no more.
    pub(super) era: u64,
    /// No lookups until then.
    pub(super) rests_until: Option<Instant>,
}

impl fmt::Debug for Followed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Followed").field("standing", &self.standing).finish_non_exhaustive()
    }
}

impl Followed {
    pub(super) fn new(number: u64, covers: impl Fn(Instant) -> bool + Send + Sync + 'static) -> Self {
        Self { covers: Box::new(covers), number, standing: Standing::Unknown, era: 0, rests_until: None }
    }

    /// Whether we know of all that is written.
    pub(super) fn covers(&self, now: Instant) -> bool {
        (self.covers)(now)
    }

    /// What was written until now nobody has told us.
    pub(super) fn begin_anew(&mut self) {
        self.standing = Standing::Unknown;
        self.era += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOIN_AFTER: Duration = Duration::from_secs(5);

    #[test]
    fn a_database_is_believed_once_it_is_void_or_another_has_vouched_all_the_while() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let (unknown, trusted, joining) = (Standing::Unknown, Standing::Trusted, Standing::Joining(at(0)));
        #[rustfmt::skip]
        let cases = [
            // standing, covers, others vouch, now -> standing, what is said
            (unknown, false, false, 0, unknown, Say::Nothing),
            (unknown, false, true, 0, unknown, Say::Nothing),
            (unknown, true, false, 0, unknown, Say::Void),
            (unknown, true, true, 0, joining, Say::Nothing),
            (joining, true, true, 4, joining, Say::Nothing),
            (joining, true, true, 5, trusted, Say::Vouch),
            (joining, true, false, 4, unknown, Say::Void),
            (joining, true, false, 9, unknown, Say::Void),
            (joining, false, true, 9, unknown, Say::Nothing),
            (trusted, true, false, 9, trusted, Say::Vouch),
            (trusted, false, false, 9, trusted, Say::Nothing),
        ];
        for (standing, covers, others, now, next, say) in cases {
            let found = standing.next(covers, others, JOIN_AFTER, at(now));
            assert_eq!(found, (next, say), "{standing:?} covers: {covers}, others: {others}, at {now}");
        }
    }
}
