//! A [`Record`] as it waits in its queue: half as long, since each of its bytes is written by one core and read by another.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::record::{Cached, Client, Details, Record, Served, Transaction};
use super::tags::{Tags, Trace};
use crate::pg::SqlState;
use crate::route::Reason;
use crate::sql::Fingerprint;

/// A point in time: nanoseconds since statements are watched. Two of them are compared and subtracted in one instruction
/// each, which `Instant` takes thirty for, and a statement needs a dozen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Time(u64);

impl Time {
    /// What `instant` is; that of `epoch` is zero.
    #[inline]
    pub(super) fn of(instant: Instant, epoch: Instant) -> Self {
        let since = instant.saturating_duration_since(epoch);
        // Five hundred years.
        Self(since.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(since.subsec_nanos())))
    }

    /// Nanoseconds from `earlier` until this; zero if that is not earlier.
    #[inline]
    pub(super) fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    fn instant(self, epoch: Instant) -> Instant {
        epoch + Duration::from_nanos(self.0)
    }
}

/// See the module; times are in nanoseconds.
#[derive(Debug)]
pub(super) struct Noted {
    pub(super) fingerprint: Fingerprint,
    pub(super) client: Arc<Client>,
    pub(super) ended: Time,
    pub(super) total: u64,
    pub(super) queue: u64,
    pub(super) server: u64,
    pub(super) first: u64,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) values: u64,
    pub(super) tags: Option<Arc<Tags>>,
    /// What few statements have.
    pub(super) more: Option<Box<More>>,
    pub(super) transaction: Transaction,
    pub(super) served: Served,
    pub(super) reason: Reason,
    pub(super) cached: Cached,
    pub(super) sqlstate: Option<SqlState>,
    pub(super) gives_rows: bool,
}

/// See [`Noted::more`].
#[derive(Debug, Default)]
pub(super) struct More {
    pub(super) trace: Option<Trace>,
    pub(super) slow: Option<Duration>,
    pub(super) details: Option<Box<Details>>,
}

impl Noted {
    /// The record that it stands for.
    pub(super) fn into_record(self, epoch: Instant) -> Record {
        let More { trace, slow, details } = self.more.map(|more| *more).unwrap_or_default();
        Record {
            fingerprint: self.fingerprint,
            client: self.client,
            ended: self.ended.instant(epoch),
            total: Duration::from_nanos(self.total),
            queue: Duration::from_nanos(self.queue),
            server: Duration::from_nanos(self.server),
            first: Duration::from_nanos(self.first),
            rows: self.rows,
            bytes: self.bytes,
            gives_rows: self.gives_rows,
            served: self.served,
            reason: self.reason,
            cached: self.cached,
            sqlstate: self.sqlstate,
            transaction: self.transaction,
            values: self.values,
            tags: self.tags,
            trace,
            slow,
            details,
        }
    }
}
