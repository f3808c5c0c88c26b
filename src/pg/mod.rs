//! PostgreSQL's vocabulary: the words that every other module speaks.

mod guc;
mod lsn;
mod snapshot;
mod sqlstate;
mod status;

pub use guc::{GucName, REPORTED_AT_STARTUP};
pub use lsn::{Lsn, NotAnLsn};
pub use snapshot::{NotASnapshot, Snapshot};
pub use sqlstate::SqlState;
pub use status::TransactionStatus;

/// The process id that a client sees in `BackendKeyData` and gives back in a CancelRequest
/// (PostgreSQL manual, "Frontend/Backend Protocol", 55.2.8 Canceling Requests in Progress).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId(pub u32);

/// An object's identifier within its database (manual, 8.19 Object Identifier Types).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Oid(pub u32);

/// Objects below were made by `initdb` and are PostgreSQL's own (`FirstNormalObjectId`).
pub const FIRST_NORMAL_OID: Oid = Oid(16384);

impl Oid {
    /// Whether `initdb` made the object.
    pub fn is_builtin(self) -> bool {
        self < FIRST_NORMAL_OID
    }
}

/// A host by its place in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(pub usize);
