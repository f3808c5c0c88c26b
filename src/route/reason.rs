//! Why a statement went where it went: one closed set of words for logs, metrics, the console and the tests.

use crate::catalog::OnPrimary;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Replica: it has what the read needs.
    Read,
    /// Replica: the read names the transaction's time, so the block stays there.
    TransactionTime,
    /// Replica: a block of one snapshot that only reads.
    Snapshot,
    /// Replica: the block is open there.
    BlockOnReplica,
    /// Primary: there are no replicas, or splitting is off.
    NoSplitting,
    /// Primary: no replica answers.
    NoReplica,
    /// Primary: replicas are further behind than is allowed.
    Lag,
    /// Primary: no replica has passed the floors yet.
    Floor,
    /// Primary: it is one of the readers, and it was its turn.
    PrimaryReads,
    /// Primary: by a hint.
    Hint,
    /// Primary: the session is pinned to its connection.
    Pinned,
    /// Primary: the block is open there.
    BlockOnPrimary,
    /// Primary: the block's isolation wants one snapshot, and it may write.
    Isolation,
    /// Primary: lazy transactions are off.
    Eager,
    /// Primary: by what the statement is.
    Statement(OnPrimary),
}

impl Reason {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::TransactionTime => "transaction_time",
            Self::Snapshot => "snapshot",
            Self::BlockOnReplica => "block_on_replica",
            Self::NoSplitting => "no_splitting",
            Self::NoReplica => "no_replica",
            Self::Lag => "lag",
            Self::Floor => "floor",
            Self::PrimaryReads => "primary_reads",
            Self::Hint => "hint",
            Self::Pinned => "pinned",
            Self::BlockOnPrimary => "block_on_primary",
            Self::Isolation => "isolation",
            Self::Eager => "eager",
            Self::Statement(why) => why.as_str(),
        }
    }

    /// Where it leads: `replica` or `primary`.
    pub fn target(self) -> &'static str {
        match self {
            Self::Read | Self::TransactionTime | Self::Snapshot | Self::BlockOnReplica => "replica",
            Self::NoSplitting
            | Self::NoReplica
            | Self::Lag
            | Self::Floor
            | Self::PrimaryReads
            | Self::Hint
            | Self::Pinned
            | Self::BlockOnPrimary
            | Self::Isolation
            | Self::Eager
            | Self::Statement(_) => "primary",
        }
    }

    const OWN: [Self; 14] = [
        Self::Read,
        Self::TransactionTime,
        Self::Snapshot,
        Self::BlockOnReplica,
        Self::NoSplitting,
        Self::NoReplica,
        Self::Lag,
        Self::Floor,
        Self::PrimaryReads,
        Self::Hint,
        Self::Pinned,
        Self::BlockOnPrimary,
        Self::Isolation,
        Self::Eager,
    ];

    /// How many there are.
    pub const COUNT: usize = Self::OWN.len() + OnPrimary::ALL.len();

    /// All of them, in the order of their index.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::OWN.into_iter().chain(OnPrimary::ALL.into_iter().map(Self::Statement))
    }

    /// Its place among all of them, below [`Reason::COUNT`].
    pub fn index(self) -> usize {
        match self {
            Self::Read => 0,
            Self::TransactionTime => 1,
            Self::Snapshot => 2,
            Self::BlockOnReplica => 3,
            Self::NoSplitting => 4,
            Self::NoReplica => 5,
            Self::Lag => 6,
            Self::Floor => 7,
            Self::PrimaryReads => 8,
            Self::Hint => 9,
            Self::Pinned => 10,
            Self::BlockOnPrimary => 11,
            Self::Isolation => 12,
            Self::Eager => 13,
            Self::Statement(why) => Self::OWN.len() + why as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_word_and_a_place_of_its_own() {
        let all: Vec<Reason> = Reason::all().collect();
        assert_eq!(all.len(), Reason::COUNT);
        for (index, reason) in all.iter().enumerate() {
            assert_eq!(reason.index(), index, "{}", reason.as_str());
        }
        let mut words: Vec<_> = all.iter().map(|reason| reason.as_str()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Reason::COUNT);
    }
}
