//! One record per statement: what a client's task hands over when a statement has been answered.
//!
//! It is small and owns next to nothing: the shape is a number, the client is shared, and the text comes along only where
//! somebody will want it: the first time in a while, or when the statement was slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::tags::{Tags, Trace};
use crate::pg::{HostId, SqlState};
use crate::route::Reason;
use crate::session::Settings;
use crate::sql::Fingerprint;

/// Who runs statements.
#[derive(Debug, Default)]
pub struct Client {
    /// The process id that it was given.
    pub process: u32,
    /// The database as it names it.
    pub database: Box<str>,
    /// The database as the servers name it.
    pub dbname: Arc<str>,
    /// A number for that, so that equal shapes in two databases are two.
    pub database_key: u64,
    /// Who it is.
    pub user: Box<str>,
    /// What it calls itself.
    pub application: Box<str>,
    /// Where it comes from; `None`: a Unix socket.
    pub address: Option<std::net::SocketAddr>,
    /// What it does, for those who look on.
    pub noting: Noting,
}

/// What a client does, noted by its task and read by others.
#[derive(Debug, Default)]
pub struct Noting {
    statement: AtomicU64,
    /// Microseconds after its login, and 1; 0: it has run nothing yet in this transaction.
    transaction_us: AtomicU64,
}

impl Client {
    /// It runs a statement.
    #[inline]
    pub fn note_statement(&self, Fingerprint(fingerprint): Fingerprint) {
        self.noting.statement.store(fingerprint, Ordering::Relaxed);
    }

    /// Its transaction's first statement has begun, so long after its login; `None`: it has none.
    #[inline]
    pub fn note_transaction(&self, began: Option<Duration>) {
        let us = began.map_or(0, |began| u64::try_from(began.as_micros()).unwrap_or(u64::MAX - 1) + 1);
        self.noting.transaction_us.store(us, Ordering::Relaxed);
    }

    /// The statement that it runs or ran last, and when its transaction began, after its login.
    pub fn noted(&self) -> (Fingerprint, Option<Duration>) {
        let statement = Fingerprint(self.noting.statement.load(Ordering::Relaxed));
        let us = self.noting.transaction_us.load(Ordering::Relaxed);
        (statement, us.checked_sub(1).map(Duration::from_micros))
    }
}

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// The primary.
    Primary(Option<HostId>),
    /// A replica.
    Replica(HostId),
    /// Memory.
    Cache,
}

impl Served {
    /// The word in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary(_) => "primary",
            Self::Replica(_) => "replica",
            Self::Cache => "cache",
        }
    }

    /// The host.
    pub fn host(self) -> Option<HostId> {
        match self {
            Self::Primary(host) => host,
            Self::Replica(host) => Some(host),
            Self::Cache => None,
        }
    }
}

/// What the cache had to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// It answered.
    Hit,
    /// It took a copy of the answer.
    Fill,
    /// Nothing.
    Bypass,
}

impl Cached {
    /// The word in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Fill => "fill",
            Self::Bypass => "bypass",
        }
    }
}

/// One statement, answered.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its shape.
    pub fingerprint: Fingerprint,
    /// Whose it is.
    pub client: Arc<Client>,
    /// When the answer was complete.
    pub ended: Instant,
    /// From its arrival until then.
    pub total: Duration,
    /// Waiting for a server connection.
    pub queue: Duration,
    /// From sending it to the end of its answer.
    pub server: Duration,
    /// From sending it to the first byte of its answer.
    pub first: Duration,
    /// Rows given or changed, by the command tag.
    pub rows: u64,
    /// Bytes of the answer.
    pub bytes: u64,
    /// The text runs a query, so that `rows` were given and not changed.
    pub gives_rows: bool,
    /// Who answered.
    pub served: Served,
    /// Why.
    pub reason: Reason,
    /// What the cache had to do with it.
    pub cached: Cached,
    /// Its error.
    pub sqlstate: Option<SqlState>,
    /// Which of the client's transactions it belongs to, and whether that is a block.
    pub transaction: Transaction,
    /// Equal values have equal ones.
    pub values: u64,
    /// What its comments say.
    pub tags: Option<Arc<Tags>>,
    /// The request that it belongs to.
    pub trace: Option<Trace>,
    /// When it is slow, by a hint.
    pub slow: Option<Duration>,
    /// Its text.
    pub details: Option<Box<Details>>,
}

/// A place in a client's transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Transaction {
    /// Counted by client.
    pub number: u32,
    /// The statement's place in it, from 1.
    pub statement: u32,
    /// There is a BEGIN.
    pub is_block: bool,
}

/// The text of a statement, with what it bound.
#[derive(Clone, Debug, PartialEq)]
pub struct Details {
    /// As the client sent it.
    pub text: Box<[u8]>,
    /// How the server cut it.
    pub standard_conforming_strings: bool,
    /// Its parameters as Bind has them, formats in front and result formats behind; empty where there are none, or they are
    /// not kept.
    pub parameters: Box<[u8]>,
    /// The parameters' types as Parse has them.
    pub types: Box<[u8]>,
    /// The client's settings.
    pub settings: Settings,
    /// The text is the shape itself: nothing else was known.
    pub is_shape: bool,
}
