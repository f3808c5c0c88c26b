//! Why a statement was answered from memory or not: one closed set of words for logs, metrics, the console and the tests.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::catalog::OnPrimary;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Answered from memory.
    Hit,
    /// Answered from memory, but asked of the primary, to compare.
    Verified,
    /// Its result is being kept.
    Fill,
    /// It has not been seen of late; or none of its shape ever is, so that this one was not looked for.
    Cold,
    /// Its result could not be kept of late: too large, an error, a notice.
    NotKept,
    /// Another client is fetching it; waited for, in vain or for too long.
    Waited,
    /// What it reads is being written.
    InDoubt,
    /// Nobody vouches for entries: the change stream is lost.
    NoStream,
    /// By `/* weir: nocache */`.
    Hint,
    /// By a hint that names a server.
    TargetHint,
    /// By a rule of the configuration.
    Rule,
    /// Its results differed from those of the primary.
    Mismatch,
    /// The isolation of its transaction wants one snapshot, or it is open on a server.
    Block,
    /// Its messages are more than one plain statement.
    Messages,
    /// Several statements in one text.
    SeveralStatements,
    /// Its key is too long.
    KeyTooLong,
    /// It was prepared before the tables were changed, and does not ask for a description of what comes.
    Outdated,
    /// It reads no table.
    NoTable,
    /// It reads system catalogs, or functions of its do.
    SystemCatalog,
    /// It calls a function that may read any table.
    UnknownTables,
    /// Its result depends on the time.
    Time,
    /// By what the statement is.
    Statement(OnPrimary),
}

impl Reason {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Verified => "verified",
            Self::Fill => "fill",
            Self::Cold => "cold",
            Self::NotKept => "not_kept",
            Self::Waited => "waited",
            Self::InDoubt => "in_doubt",
            Self::NoStream => "no_stream",
            Self::Hint => "hint",
            Self::TargetHint => "target_hint",
            Self::Rule => "rule",
            Self::Mismatch => "mismatch",
            Self::Block => "block",
            Self::Messages => "messages",
            Self::SeveralStatements => "several_statements",
            Self::KeyTooLong => "key_too_long",
            Self::Outdated => "outdated",
            Self::NoTable => "no_table",
            Self::SystemCatalog => "system_catalog",
            Self::UnknownTables => "unknown_tables",
            Self::Time => "time",
            Self::Statement(why) => why.as_str(),
        }
    }

    /// What it is: `hit`, `miss` (it could have been one), or `refusal`.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Verified | Self::Fill | Self::Cold | Self::NotKept | Self::Waited | Self::InDoubt => "miss",
            Self::NoStream
            | Self::Hint
            | Self::TargetHint
            | Self::Rule
            | Self::Mismatch
            | Self::Block
            | Self::Messages
            | Self::SeveralStatements
            | Self::KeyTooLong
            | Self::Outdated
            | Self::NoTable
            | Self::SystemCatalog
            | Self::UnknownTables
            | Self::Time
            | Self::Statement(_) => "refusal",
        }
    }

    const OWN: [Self; 21] = [
        Self::Hit,
        Self::Verified,
        Self::Fill,
        Self::Cold,
        Self::NotKept,
        Self::Waited,
        Self::InDoubt,
        Self::NoStream,
        Self::Hint,
        Self::TargetHint,
        Self::Rule,
        Self::Mismatch,
        Self::Block,
        Self::Messages,
        Self::SeveralStatements,
        Self::KeyTooLong,
        Self::Outdated,
        Self::NoTable,
        Self::SystemCatalog,
        Self::UnknownTables,
        Self::Time,
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
            Self::Statement(why) => Self::OWN.len() + why as usize,
            own => Self::OWN.iter().position(|known| *known == own).unwrap_or(0),
        }
    }
}

/// What became of a result that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// It is kept.
    Kept,
    /// What it reads was written meanwhile, or is being written.
    Crossed,
    /// It is larger than `max_entry`.
    TooLarge,
    /// It failed.
    Error,
    /// A notice or a changed setting came with it, which memory would not repeat.
    Notice,
    /// It came to no end, or not to that of a SELECT.
    Unfinished,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Kept, Self::Crossed, Self::TooLarge, Self::Error, Self::Notice, Self::Unfinished];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Crossed => "crossed",
            Self::TooLarge => "too_large",
            Self::Error => "error",
            Self::Notice => "notice",
            Self::Unfinished => "unfinished",
        }
    }
}

/// How often each reason decided, and what became of fills.
#[derive(Debug)]
pub struct Counts {
    reasons: [AtomicU64; Reason::COUNT],
    outcomes: [AtomicU64; Outcome::ALL.len()],
    /// Hits that were compared, and those of them that differed.
    pub compared: AtomicU64,
    /// See above.
    pub mismatches: AtomicU64,
    /// Entries that went to make room.
    pub evicted: AtomicU64,
    /// Time that hits saved servers, by what their fills took, in microseconds.
    pub saved_us: AtomicU64,
    /// Bytes sent to clients from memory.
    pub hit_bytes: AtomicU64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            reasons: [const { AtomicU64::new(0) }; Reason::COUNT],
            outcomes: [const { AtomicU64::new(0) }; Outcome::ALL.len()],
            compared: AtomicU64::new(0),
            mismatches: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            saved_us: AtomicU64::new(0),
            hit_bytes: AtomicU64::new(0),
        }
    }
}

impl Counts {
    /// One more statement came to this.
    #[inline]
    pub fn count(&self, reason: Reason) {
        self.reasons[reason.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// How many did.
    pub fn of(&self, reason: Reason) -> u64 {
        self.reasons[reason.index()].load(Ordering::Relaxed)
    }

    /// One more fill came to this.
    pub fn ended(&self, outcome: Outcome) {
        self.outcomes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many did.
    pub fn outcomes(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome as usize].load(Ordering::Relaxed)
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
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
        }
    }
}
