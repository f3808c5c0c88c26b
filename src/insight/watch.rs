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

use super::queue::Queue;
use super::record::{Cached, Client, Details, Record, Served, Transaction};
use crate::pg::SqlState;
use crate::route::Reason;
use crate::session::{Settings, Statement};
use crate::sql::{Analysis, Command, Fingerprint, Lexing};

/// A longer text is counted, but not kept.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// Longer parameters are not kept.
const PARAMETERS_BYTES_MAX: usize = 8 << 10;

/// What all watches are told, and may be told anew while Weir runs.
#[derive(Debug)]
pub struct Terms {
    /// A statement that took so long brings its text, in microseconds.
    details_us: AtomicU64,
    /// Parameters are copied.
    parameters: bool,
}

impl Terms {
    /// See [`Terms::set_details`]; `parameters`: they are copied.
    pub fn new(details: Duration, parameters: bool) -> Self {
        let terms = Self { details_us: AtomicU64::new(0), parameters };
        terms.set_details(details);
        terms
    }

    /// A statement that takes so long brings its text along.
    pub fn set_details(&self, details: Duration) {
        let us = u64::try_from(details.as_micros()).unwrap_or(u64::MAX);
        self.details_us.store(us, Ordering::Relaxed);
    }

    fn details(&self) -> Duration {
        Duration::from_micros(self.details_us.load(Ordering::Relaxed))
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
    connected: Instant,
    /// When the bytes at hand were read: of the client, and of the server.
    read: Instant,
    filled: Instant,
    /// When the first of the answer that comes now was read.
    first: Option<Instant>,
    /// When the answer before was complete.
    free: Instant,
    /// What the next statement waited for its server connection.
    waited: Duration,
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
    analysis: Arc<Analysis>,
    /// `None`: a simple query.
    statement: Option<Arc<Statement>>,
    text: Range<usize>,
    lexing: Lexing,
    bound: Bound,
    began: Instant,
    waited: Duration,
    transaction: Transaction,
    rows: u64,
    gives_rows: bool,
    sqlstate: Option<SqlState>,
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
}

impl Watch {
    /// For a client that logs in `now`.
    pub fn new(client: Arc<Client>, queue: Arc<Queue>, terms: Arc<Terms>, now: Instant) -> Self {
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
            waited: Duration::ZERO,
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
        self.read = now;
    }

    /// What was read goes to a server for this reason.
    #[inline]
    pub fn decided(&mut self, reason: Reason) {
        self.reason = reason;
    }

    /// What was read goes to this server connection from `now` on.
    pub fn begins(&mut self, served: Served, cached: Cached, now: Instant) {
        self.waited = now.saturating_duration_since(self.read);
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
            self.bound.values = Fingerprint::of(rest).0;
            if self.terms.parameters && rest.len() <= PARAMETERS_BYTES_MAX {
                self.bound.parameters = self.kept(rest);
            }
        }
    }

    /// A text of a simple query was sent.
    #[inline]
    pub fn query(&mut self, text: &[u8], analysis: &Arc<Analysis>, lexing: Lexing) {
        if self.pending.is_empty() {
            self.bytes.clear();
        }
        let span = analysis.single().map_or(text, |only| only.span.of(text));
        let bound = Bound { values: Fingerprint::of(span).0, parameters: 0..0 };
        let text = if text.len() <= TEXT_BYTES_MAX { self.kept(text) } else { 0..0 };
        self.run(analysis, None, text, lexing, bound);
    }

    /// An Execute was sent.
    #[inline]
    pub fn execute(&mut self, statement: &Arc<Statement>) {
        let bound = std::mem::take(&mut self.bound);
        self.run(&statement.analysis, Some(Arc::clone(statement)), 0..0, statement.lexing, bound);
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

    fn run(
        &mut self,
        analysis: &Arc<Analysis>,
        statement: Option<Arc<Statement>>,
        text: Range<usize>,
        lexing: Lexing,
        bound: Bound,
    ) {
        self.transaction.statement = self.transaction.statement.saturating_add(1);
        self.client.note_statement(analysis.fingerprint);
        if self.transaction.statement == 1 {
            self.client.note_transaction(Some(self.read.saturating_duration_since(self.connected)));
        }
        let run = Run {
            analysis: Arc::clone(analysis),
            statement,
            text,
            lexing,
            bound,
            began: self.read,
            waited: std::mem::take(&mut self.waited),
            transaction: self.transaction,
            rows: 0,
            gives_rows: false,
            sqlstate: None,
        };
        self.pending.push_back(Some(run));
    }

    /// Whether an answer is due.
    #[inline]
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Bytes of the server were read `now`.
    #[inline]
    pub fn filled(&mut self, now: Instant) {
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
        let is_query = run.statement.is_none();
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
        let Some(Some(run)) = self.pending.pop_front() else { return };
        let began = run.began.max(self.free);
        let server = self.filled.saturating_duration_since(began);
        let first = self.first.take().map_or(server, |first| first.saturating_duration_since(began));
        self.free = self.filled;
        let answer_bytes = bytes.saturating_sub(std::mem::replace(&mut self.answered_bytes, bytes));
        if run.analysis.single().is_some_and(|only| only.command == Command::Empty) {
            return;
        }
        let record = Record {
            fingerprint: run.analysis.fingerprint,
            client: Arc::clone(&self.client),
            ended: self.filled,
            total: run.waited + server,
            queue: run.waited,
            server,
            first: first.min(server),
            rows: run.rows,
            bytes: answer_bytes,
            gives_rows: run.gives_rows,
            served: self.served,
            reason: self.reason,
            cached: self.cached,
            sqlstate: run.sqlstate,
            transaction: run.transaction,
            values: run.bound.values,
            tags: None,
            trace: None,
            slow: run.analysis.hints.slow,
            details: None,
        };
        let details = self.terms.details().min(record.slow.unwrap_or(Duration::MAX));
        let text = match &run.statement {
            Some(statement) => &statement.text,
            None => self.bytes.get(run.text.clone()).unwrap_or_default(),
        };
        let is_tagged = !run.analysis.comments.spans().is_empty();
        let tagged = is_tagged.then_some((text, &*run.analysis));
        let needs = record.total >= details;
        self.queue.push(record, needs, tagged, || {
            (!text.is_empty()).then(|| {
                Box::new(Details {
                    text: text.into(),
                    standard_conforming_strings: run.lexing.standard_conforming_strings,
                    parameters: self.bytes.get(run.bound.parameters.clone()).unwrap_or_default().into(),
                    types: run
                        .statement
                        .as_ref()
                        .map(|statement| statement.types.clone())
                        .unwrap_or_default(),
                    settings: settings.clone(),
                    is_shape: false,
                })
            })
        });
    }

    /// Memory has answered `now`, at once.
    pub fn hit(&mut self, hit: Hit<'_>, settings: &Settings, now: Instant) {
        self.transaction.statement = self.transaction.statement.saturating_add(1);
        let record = Record {
            fingerprint: hit.fingerprint,
            client: Arc::clone(&self.client),
            ended: now,
            total: Duration::ZERO,
            queue: Duration::ZERO,
            server: Duration::ZERO,
            first: Duration::ZERO,
            rows: rows(hit.tag),
            bytes: hit.bytes,
            gives_rows: true,
            served: Served::Cache,
            reason: hit.reason,
            cached: Cached::Hit,
            sqlstate: None,
            transaction: self.transaction,
            values: hit.values,
            tags: None,
            trace: None,
            slow: None,
            details: None,
        };
        self.queue.push(record, false, None, || {
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

/// The number of rows in a command tag.
fn rows(tag: &[u8]) -> u64 {
    let digits = tag.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let number = &tag[tag.len() - digits..];
    number.iter().fold(0_u64, |rows, digit| rows.saturating_mul(10).saturating_add(u64::from(digit - b'0')))
}
