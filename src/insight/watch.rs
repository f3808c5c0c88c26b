//! What one client runs, noted as its messages pass: from the message that runs a statement to the last of its answer.
//!
//! Answers come in the order in which statements were sent, so this is a queue beside that of the session machine. What a
//! slow statement may be asked for later, its text and parameters, is copied into one buffer, which is used again with the
//! next unit: nothing is allocated per statement.
//!
//! The clock is read by the shell, as seldom as can be: a statement begins when its unit was read, or when the answer in
//! front of its own was complete, and it ends when the last bytes of its answer were read.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::noted::{More, Noted, Time};
use super::queue::Queue;
use super::record::{Cached, Client, Details, Served, Transaction};
use crate::pg::SqlState;
use crate::route::Reason;
use crate::session::{Settings, Statement};
use crate::sql::{Analysis, Command, Fingerprint, Lexing};

/// A longer text is counted, but not kept.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// A statement that took a server so long may be explained: it brings its text along. What it waited for a connection does not
/// count, or all would bring theirs when many wait.
pub(super) const EXPLAINED_AFTER: Duration = Duration::from_millis(2);

/// Longer parameters are not kept.
const PARAMETERS_BYTES_MAX: usize = 8 << 10;

/// What all watches are told, and may be told anew while Weir runs.
#[derive(Debug)]
pub struct Terms {
    /// A statement that took so long may be slow, and brings its text, in microseconds.
    slow_us: AtomicU64,
    /// Parameters are copied.
    parameters: bool,
    /// What times are counted from.
    epoch: Instant,
}

impl Terms {
    /// See [`Terms::set_slow`]; `parameters`: they are copied; `epoch`: no statement began before.
    pub fn new(slow: Duration, parameters: bool, epoch: Instant) -> Self {
        let terms = Self { slow_us: AtomicU64::new(0), parameters, epoch };
        terms.set_slow(slow);
        terms
    }

    /// A statement that takes less in all is slow for nobody who has not said so in a hint.
    pub fn set_slow(&self, slow: Duration) {
        let us = u64::try_from(slow.as_micros()).unwrap_or(u64::MAX);
        self.slow_us.store(us, Ordering::Relaxed);
    }

    /// What times are counted from.
    pub(super) fn epoch(&self) -> Instant {
        self.epoch
    }

    #[inline]
    fn time(&self, now: Instant) -> Time {
        Time::of(now, self.epoch)
    }
}

/// One client's part.
#[derive(Debug)]
pub struct Watch {
    client: Arc<Client>,
    queue: Arc<Queue>,
    terms: Arc<Terms>,
    /// Simple queries and Executes; `None` is a Sync, or a function call.
    pending: VecDeque<Option<Run>>,
    /// Texts and parameters of what is pending.
    bytes: Vec<u8>,
    bound: Bound,
    served: Served,
    reason: Reason,
    cached: Cached,
    transaction: Transaction,
    connected: Time,
    /// When the bytes at hand were read: of the client, and of the server.
    read: Time,
    filled: Time,
    /// When the first of the answer that comes now was read.
    first: Option<Time>,
    /// When the answer before was complete.
    free: Time,
    /// What the next statement waited for its server connection, in nanoseconds.
    waited: u64,
    /// The server's bytes up to the answer before.
    answered_bytes: u64,
}

/// The portal without a name.
#[derive(Clone, Debug, Default)]
struct Bound {
    parameters: Range<usize>,
    values: u64,
}

#[derive(Debug)]
struct Run {
    what: What,
    bound: Bound,
    began: Time,
    waited: u64,
    transaction: Transaction,
    rows: u64,
    gives_rows: bool,
    sqlstate: Option<SqlState>,
}

/// What runs.
#[derive(Debug)]
enum What {
    /// A simple query, with its text in [`Watch::bytes`].
    Query(Arc<Analysis>, Range<usize>, Lexing),
    /// A prepared statement.
    Statement(Arc<Statement>),
}

impl What {
    fn analysis(&self) -> &Analysis {
        match self {
            Self::Query(analysis, ..) => analysis,
            Self::Statement(statement) => &statement.analysis,
        }
    }
}

/// A message of the server that ends something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// CommandComplete, with its tag.
    Complete(&'a [u8]),
    /// EmptyQueryResponse.
    Empty,
    /// PortalSuspended.
    Suspended,
    /// ErrorResponse.
    Error(Option<SqlState>),
    /// ReadyForQuery.
    Ready,
}

/// A statement that memory has answered.
#[derive(Clone, Copy, Debug)]
pub struct Hit<'a> {
    /// Its shape.
    pub fingerprint: Fingerprint,
    /// The shape's text.
    pub shape: &'a [u8],
    /// What tells its values from others.
    pub values: u64,
    /// The answer's end: the number there is that of its rows.
    pub tag: &'a [u8],
    /// Bytes of the answer.
    pub bytes: u64,
    /// Where to go without memory.
    pub reason: Reason,
    /// The text, where it has comments.
    pub tagged: Option<(&'a [u8], &'a Analysis)>,
}

impl Watch {
    /// For a client that logs in `now`.
    pub fn new(client: Arc<Client>, queue: Arc<Queue>, terms: Arc<Terms>, now: Instant) -> Self {
        let now = terms.time(now);
        Self {
            client,
            queue,
            terms,
            pending: VecDeque::new(),
            bytes: Vec::new(),
            bound: Bound::default(),
            served: Served::Primary(None),
            reason: Reason::NoSplitting,
            cached: Cached::Bypass,
            transaction: Transaction::default(),
            connected: now,
            read: now,
            filled: now,
            first: None,
            free: now,
            waited: 0,
            answered_bytes: 0,
        }
    }

    /// A unit of the client begins, `is_idle`: outside of a transaction.
    #[inline]
    pub fn unit(&mut self, is_idle: bool) {
        if is_idle {
            let number = self.transaction.number.wrapping_add(1);
            self.transaction = Transaction { number, statement: 0, is_block: false };
            self.client.note_transaction(None);
        } else {
            self.transaction.is_block = true;
        }
    }

    /// The client's bytes at hand were read `now`.
    #[inline]
    pub fn read(&mut self, now: Instant) {
        self.read = self.terms.time(now);
    }

    /// What was read goes to a server for this reason.
    #[inline]
    pub fn decided(&mut self, reason: Reason) {
        self.reason = reason;
    }

    /// What was read at `asked` goes to this server connection from `now` on.
    pub fn begins(&mut self, served: Served, cached: Cached, asked: Instant, now: Instant) {
        let asked = (asked, self.terms.time(asked));
        // Most find one free.
        let now = if now == asked.0 { asked.1 } else { self.terms.time(now) };
        self.waited = now.since(asked.1);
        self.read = now;
        self.free = now;
        (self.served, self.cached) = (served, cached);
        self.answered_bytes = 0;
        self.pending.clear();
    }

    /// What follows on the same connection goes there for this reason.
    #[inline]
    pub fn stays(&mut self, reason: Reason) {
        (self.reason, self.cached) = (reason, Cached::Bypass);
    }

    /// A portal is bound to these values: what Bind has behind its names.
    #[inline]
    pub fn bind(&mut self, is_unnamed: bool, rest: &[u8]) {
        if self.pending.is_empty() {
            self.bytes.clear();
        }
        self.bound = Bound::default();
        if is_unnamed {
            self.bound.values = hash(rest);
            if self.terms.parameters && rest.len() <= PARAMETERS_BYTES_MAX {
                self.bound.parameters = self.kept(rest);
            }
        }
    }

    /// A text of a simple query was sent.
    #[inline]
    pub fn query(&mut self, text: &[u8], analysis: Arc<Analysis>, lexing: Lexing) {
        if self.pending.is_empty() {
            self.bytes.clear();
        }
        let span = analysis.single().map_or(text, |only| only.span.of(text));
        let bound = Bound { values: hash(span), parameters: 0..0 };
        let text = if text.len() <= TEXT_BYTES_MAX { self.kept(text) } else { 0..0 };
        self.run(What::Query(analysis, text, lexing), bound);
    }

    /// An Execute was sent.
    #[inline]
    pub fn execute(&mut self, statement: &Arc<Statement>) {
        let bound = std::mem::take(&mut self.bound);
        self.run(What::Statement(Arc::clone(statement)), bound);
    }

    /// A Sync was sent, or a function call.
    #[inline]
    pub fn sync(&mut self) {
        self.pending.push_back(None);
    }

    fn kept(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        // Of a long pipeline the rest is counted only.
        if start + bytes.len() > 2 * TEXT_BYTES_MAX {
            return 0..0;
        }
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    #[inline]
    fn run(&mut self, what: What, bound: Bound) {
        self.transaction.statement = self.transaction.statement.saturating_add(1);
        self.client.note_statement(what.analysis().fingerprint);
        if self.transaction.statement == 1 {
            let began = Duration::from_nanos(self.read.since(self.connected));
            self.client.note_transaction(Some(began));
        }
        self.pending.push_back(Some(Run {
            what,
            bound,
            began: self.read,
            waited: std::mem::take(&mut self.waited),
            transaction: self.transaction,
            rows: 0,
            gives_rows: false,
            sqlstate: None,
        }));
    }

    /// Whether an answer is due.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Bytes of the server were read `now`.
    #[inline]
    pub fn filled(&mut self, now: Instant) {
        let now = self.terms.time(now);
        self.filled = now;
        self.first.get_or_insert(now);
    }

    /// The server has answered something that the client knows nothing of; `bytes` as in [`Watch::answered`].
    #[inline]
    pub fn passed(&mut self, bytes: u64) {
        self.answered_bytes = bytes;
        self.first = None;
    }

    /// The server has answered something; `bytes` is what it has said in all since [`Watch::begins`].
    pub fn answered(&mut self, answer: Answer<'_>, bytes: u64, settings: &Settings) {
        let Some(Some(run)) = self.pending.front_mut() else {
            if answer == Answer::Ready && self.pending.pop_front().is_some() {
                self.answered_bytes = bytes;
                self.first = None;
            }
            return;
        };
        let is_query = matches!(run.what, What::Query(..));
        match answer {
            Answer::Complete(tag) => {
                run.rows += rows(tag);
                run.gives_rows |= tag.starts_with(b"SELECT") || tag.starts_with(b"FETCH");
            }
            Answer::Error(sqlstate) => run.sqlstate = sqlstate.or(Some(SqlState::INTERNAL_ERROR)),
            Answer::Empty | Answer::Ready => {}
            Answer::Suspended => run.gives_rows = true,
        }
        match answer {
            Answer::Ready if is_query => {
                self.end(bytes, settings);
            }
            // What an error has made the server skip, up to its Sync.
            Answer::Ready => {
                while let Some(Some(_)) = self.pending.pop_front() {}
                self.answered_bytes = bytes;
            }
            _ if is_query => {}
            _ => self.end(bytes, settings),
        }
    }

    /// The statement in front is done.
    fn end(&mut self, bytes: u64, settings: &Settings) {
        let Some(Some(run)) = self.pending.front_mut() else { return };
        let began = run.began.max(self.free);
        let server = self.filled.since(began);
        let first = self.first.take().map_or(server, |first| first.since(began));
        self.free = self.filled;
        let answer_bytes = bytes.saturating_sub(std::mem::replace(&mut self.answered_bytes, bytes));
        let analysis = run.what.analysis();
        if analysis.single().is_some_and(|only| only.command == Command::Empty) {
            self.pending.pop_front();
            return;
        }
        let total = run.waited + server;
        let record = Noted {
            fingerprint: analysis.fingerprint,
            client: Arc::clone(&self.client),
            ended: self.filled,
            total,
            queue: run.waited,
            server,
            first: first.min(server),
            rows: run.rows,
            bytes: answer_bytes,
            values: run.bound.values,
            tags: None,
            more: analysis.hints.slow.map(|slow| Box::new(More { slow: Some(slow), ..More::default() })),
            transaction: run.transaction,
            served: self.served,
            reason: self.reason,
            cached: self.cached,
            sqlstate: run.sqlstate,
            gives_rows: run.gives_rows,
        };
        let text = match &run.what {
            What::Statement(statement) => &statement.text,
            What::Query(_, text, _) => self.bytes.get(text.clone()).unwrap_or_default(),
        };
        let is_tagged = !analysis.comments.spans().is_empty();
        let tagged = is_tagged.then_some((text, analysis));
        let total_us = total / 1000;
        let needs = u128::from(server / 1000) >= EXPLAINED_AFTER.as_micros()
            || total_us >= self.terms.slow_us.load(Ordering::Relaxed)
            || analysis.hints.slow.is_some_and(|slow| u128::from(total_us) >= slow.as_micros());
        self.queue.push(record, needs, tagged, || {
            let (lexing, types) = match &run.what {
                What::Statement(statement) => (statement.lexing, statement.types.clone()),
                What::Query(_, _, lexing) => (*lexing, Box::default()),
            };
            (!text.is_empty()).then(|| {
                Box::new(Details {
                    text: text.into(),
                    standard_conforming_strings: lexing.standard_conforming_strings,
                    parameters: self.bytes.get(run.bound.parameters.clone()).unwrap_or_default().into(),
                    types,
                    settings: settings.clone(),
                    is_shape: false,
                })
            })
        });
        self.pending.pop_front();
    }

    /// Memory has answered `now`, at once.
    pub fn hit(&mut self, hit: Hit<'_>, settings: &Settings, now: Instant) {
        self.transaction.statement = self.transaction.statement.saturating_add(1);
        let record = Noted {
            fingerprint: hit.fingerprint,
            client: Arc::clone(&self.client),
            ended: self.terms.time(now),
            total: 0,
            queue: 0,
            server: 0,
            first: 0,
            rows: rows(hit.tag),
            bytes: hit.bytes,
            values: hit.values,
            tags: None,
            more: None,
            transaction: self.transaction,
            served: Served::Cache,
            reason: hit.reason,
            cached: Cached::Hit,
            sqlstate: None,
            gives_rows: true,
        };
        self.queue.push(record, false, hit.tagged, || {
            Some(Box::new(Details {
                text: hit.shape.into(),
                standard_conforming_strings: true,
                parameters: Box::default(),
                types: Box::default(),
                settings: settings.clone(),
                is_shape: true,
            }))
        });
    }

    /// The server connection is gone, and with it what was not answered.
    pub fn ends(&mut self, settings: &Settings) {
        // It has ended with an error behind which nothing comes.
        if let Some(Some(Run { sqlstate: Some(_), .. })) = self.pending.front() {
            self.end(self.answered_bytes, settings);
        }
        self.pending.clear();
        self.bound = Bound::default();
        self.first = None;
    }

    /// Gives unused memory back.
    pub fn trim(&mut self) {
        if self.pending.is_empty() {
            // What an idle client keeps is what thousands of them keep.
            self.bytes = Vec::new();
            self.pending = VecDeque::new();
            self.bound = Bound::default();
        }
    }
}

/// Equal bytes have equal ones: to tell whether values repeat.
#[inline]
fn hash(bytes: &[u8]) -> u64 {
    ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(bytes)
}

/// The number of rows in a command tag.
fn rows(tag: &[u8]) -> u64 {
    let digits = tag.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let number = &tag[tag.len() - digits..];
    number.iter().fold(0_u64, |rows, digit| rows.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}
