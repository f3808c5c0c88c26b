//! Why a statement went where it went: one closed set of words for logs, metrics, the console and the tests.

use crate::catalog::OnPrimary;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Here: nothing in it needs a server (Sync, Flush, Close).
    NothingToRun,
    /// Here: CopyData, CopyDone or CopyFail outside of COPY, which a server would ignore.
    StrayCopy,
    /// Here: BEGIN of a lazy block.
    LazyBegin,
    /// Here: the end of a lazy block, of which no server knows.
    LazyEnd,
    /// Here: the lazy block has failed, and refuses everything until it ends.
    FailedBlock,
    /// Here: from memory.
    Memory,
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
    /// Primary: a replica has failed the read, and nothing of it was answered yet.
    Rerun,
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
            Self::NothingToRun => "nothing_to_run",
            Self::StrayCopy => "stray_copy",
            Self::LazyBegin => "lazy_begin",
            Self::LazyEnd => "lazy_end",
            Self::FailedBlock => "failed_block",
            Self::Memory => "memory",
            Self::Read => "read",
            Self::TransactionTime => "transaction_time",
            Self::Snapshot => "snapshot",
            Self::BlockOnReplica => "block_on_replica",
            Self::NoSplitting => "no_splitting",
            Self::NoReplica => "no_replica",
            Self::Lag => "lag",
            Self::Floor => "floor",
            Self::PrimaryReads => "primary_reads",
            Self::Rerun => "rerun",
            Self::Hint => "hint",
            Self::Pinned => "pinned",
            Self::BlockOnPrimary => "block_on_primary",
            Self::Isolation => "isolation",
            Self::Eager => "eager",
            Self::Statement(why) => why.as_str(),
        }
    }

    /// Where it leads: `here`, `replica` or `primary`.
    pub fn target(self) -> &'static str {
        match self {
            Self::NothingToRun
            | Self::StrayCopy
            | Self::LazyBegin
            | Self::LazyEnd
            | Self::FailedBlock
            | Self::Memory => "here",
            Self::Read | Self::TransactionTime | Self::Snapshot | Self::BlockOnReplica => "replica",
            Self::NoSplitting
            | Self::NoReplica
            | Self::Lag
            | Self::Floor
            | Self::PrimaryReads
            | Self::Rerun
            | Self::Hint
            | Self::Pinned
            | Self::BlockOnPrimary
            | Self::Isolation
            | Self::Eager
            | Self::Statement(_) => "primary",
        }
    }

    const OWN: [Self; 21] = [
        Self::NothingToRun,
        Self::StrayCopy,
        Self::LazyBegin,
        Self::LazyEnd,
        Self::FailedBlock,
        Self::Memory,
        Self::Read,
        Self::TransactionTime,
        Self::Snapshot,
        Self::BlockOnReplica,
        Self::NoSplitting,
        Self::NoReplica,
        Self::Lag,
        Self::Floor,
        Self::PrimaryReads,
        Self::Rerun,
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
            Self::NothingToRun => 0,
            Self::StrayCopy => 1,
            Self::LazyBegin => 2,
            Self::LazyEnd => 3,
            Self::FailedBlock => 4,
            Self::Memory => 5,
            Self::Read => 6,
            Self::TransactionTime => 7,
            Self::Snapshot => 8,
            Self::BlockOnReplica => 9,
            Self::NoSplitting => 10,
            Self::NoReplica => 11,
            Self::Lag => 12,
            Self::Floor => 13,
            Self::PrimaryReads => 14,
            Self::Rerun => 15,
            Self::Hint => 16,
            Self::Pinned => 17,
            Self::BlockOnPrimary => 18,
            Self::Isolation => 19,
            Self::Eager => 20,
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
