//! Pins: why a client must keep its server connection, and what lets it go again.

use std::fmt;

/// A reason a client must keep its server connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Pin {
    /// A temporary table, view or sequence, or anything in `pg_temp`.
    TemporaryObject,
    /// LISTEN.
    Listen,
    /// A session-level advisory lock.
    AdvisoryLock,
    /// A cursor WITH HOLD.
    HoldCursor,
    /// SQL PREPARE.
    SqlPrepare,
    /// LOAD of a library.
    Load,
    /// `currval` and `lastval` ask what this very session drew from a sequence.
    SequenceState,
    /// DO and CALL: their code may leave anything behind.
    ProcedureCode,
    /// A setting that cannot be sent again: `set_config` with computed arguments, `SET seed`, and the like.
    UnknownSetting,
    /// A function that keeps state in the session: dblink connections, hypothetical indexes, a running backup.
    SessionFunction,
    /// A statement that is not understood.
    UnknownStatement,
}

impl Pin {
    /// All pins.
    pub const ALL: [Self; 11] = [
        Self::TemporaryObject,
        Self::Listen,
        Self::AdvisoryLock,
        Self::HoldCursor,
        Self::SqlPrepare,
        Self::Load,
        Self::SequenceState,
        Self::ProcedureCode,
        Self::UnknownSetting,
        Self::SessionFunction,
        Self::UnknownStatement,
    ];

    /// The word in logs, metrics, the console and the tests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TemporaryObject => "temporary_object",
            Self::Listen => "listen",
            Self::AdvisoryLock => "advisory_lock",
            Self::HoldCursor => "hold_cursor",
            Self::SqlPrepare => "sql_prepare",
            Self::Load => "load",
            Self::SequenceState => "sequence_state",
            Self::ProcedureCode => "procedure_code",
            Self::UnknownSetting => "unknown_setting",
            Self::SessionFunction => "session_function",
            Self::UnknownStatement => "unknown_statement",
        }
    }
}

/// A set of pins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PinSet(u16);

impl PinSet {
    /// No pin.
    pub const EMPTY: Self = Self(0);

    /// What `DISCARD ALL` undoes. The others (a loaded library, state inside a function's library, who knows what)
    /// outlive it: a server connection with one of those is closed, not cleaned.
    pub const UNDONE_BY_DISCARD_ALL: Self = Self::of(&[
        Pin::TemporaryObject,
        Pin::Listen,
        Pin::AdvisoryLock,
        Pin::HoldCursor,
        Pin::SqlPrepare,
        Pin::SequenceState,
        Pin::ProcedureCode,
        Pin::UnknownSetting,
    ]);

    /// The set of these.
    pub const fn of(pins: &[Pin]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < pins.len() {
            bits |= 1 << pins[index] as u16;
            index += 1;
        }
        Self(bits)
    }

    /// As a number, for an atomic.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// From its number.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// No pin in it?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Is `pin` in it?
    pub const fn contains(self, pin: Pin) -> bool {
        self.0 & Self::of(&[pin]).0 != 0
    }

    /// Adds one.
    pub fn insert(&mut self, pin: Pin) {
        *self = self.union(Self::of(&[pin]));
    }

    /// Those in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those in `self` and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Each pin in it.
    pub fn iter(self) -> impl Iterator<Item = Pin> {
        Pin::ALL.into_iter().filter(move |&pin| self.contains(pin))
    }
}

impl From<Pin> for PinSet {
    fn from(pin: Pin) -> Self {
        Self::of(&[pin])
    }
}

impl fmt::Debug for PinSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Pin::as_str)).finish()
    }
}
