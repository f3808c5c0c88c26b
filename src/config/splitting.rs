//! How reads are split off: the words of the settings that decide where a read may go, and the section that has them.

use std::time::Duration;

use toml::de::DeValue;

use super::file::Section;
use super::value::{Read, Wrong, boolean, duration, one_of};

/// How reads are split off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplittingSettings {
    /// Whether they are.
    pub enabled: Switch,
    /// What a read must have seen, where the database does not say otherwise.
    pub consistency: Consistency,
    /// A replica that is further behind serves nothing.
    pub max_lag: Duration,
    /// Whether the primary serves reads that a replica could.
    pub primary_reads: PrimaryReads,
    /// BEGIN reaches a server only once a statement needs it.
    pub lazy_transactions: bool,
    /// How often each database in use is asked whether its catalog was changed by somebody else.
    pub catalog_interval: Duration,
}

impl SplittingSettings {
    /// Whether reads are told from the rest, with so many hosts.
    pub fn is_on(&self, hosts: usize) -> bool {
        match self.enabled {
            Switch::Off => false,
            // On one host alone it saves the round trips of blocks that only read, and their statements run prepared.
            Switch::On => true,
            Switch::Auto => hosts > 1,
        }
    }
}

/// Whether something is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// No.
    Off,
    /// Yes, wherever it can be.
    On,
    /// As soon as what it needs is there.
    Auto,
}

impl Switch {
    /// The word in the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "false",
            Self::On => "true",
            Self::Auto => "auto",
        }
    }
}

pub(super) const CONSISTENCIES: [(&str, Consistency); 3] =
    [("strong", Consistency::Strong), ("session", Consistency::Session), ("bounded", Consistency::Bounded)];

const PRIMARY_READS: [(&str, PrimaryReads); 2] =
    [("fallback", PrimaryReads::Fallback), ("share", PrimaryReads::Share)];

/// Reads the section.
pub(super) fn splitting(mut section: Section<'_>) -> SplittingSettings {
    let splitting = SplittingSettings {
        enabled: section.read("enabled", switch).unwrap_or(Switch::Auto),
        consistency: section.read("consistency", one_of(&CONSISTENCIES)).unwrap_or_default(),
        max_lag: section.read("max_lag", duration("10ms"..="1d")).unwrap_or(Duration::from_secs(10)),
        primary_reads: section.read("primary_reads", one_of(&PRIMARY_READS)).unwrap_or_default(),
        lazy_transactions: section.read("lazy_transactions", boolean).unwrap_or(true),
        catalog_interval: section
            .read("catalog_interval", duration("100ms"..="1h"))
            .unwrap_or(Duration::from_secs(10)),
    };
    section.finish();
    splitting
}

pub(super) fn switch(value: &DeValue<'_>) -> Read<Switch> {
    match (value.as_bool(), value.as_str()) {
        (Some(true), _) => Ok(Switch::On),
        (Some(false), _) => Ok(Switch::Off),
        (None, Some("auto")) => Ok(Switch::Auto),
        (None, _) => Err(Wrong::new("true, false or \"auto\"")),
    }
}

/// What a read must have seen, the strictest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Consistency {
    /// Every commit that any client was told of.
    #[default]
    Strong,
    /// The client's own commits.
    Session,
    /// Nothing in particular: any replica that is not too far behind.
    Bounded,
}

impl Consistency {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Strong, Self::Session, Self::Bounded];

    /// The word in the file, in hints and in the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Strong => "strong",
            Self::Session => "session",
            Self::Bounded => "bounded",
        }
    }
}

/// Whether the primary serves reads that a replica could.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum PrimaryReads {
    /// Only while no replica has what they need.
    #[default]
    Fallback,
    /// It is one reader among the others, by its weight.
    Share,
}

impl PrimaryReads {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Fallback, Self::Share];

    /// The word in the file and in the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fallback => "fallback",
            Self::Share => "share",
        }
    }
}
