//! What one server connection has, and what it still owes.

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::HashMap;

use super::again::Again;
use super::effects::BoundSetting;
use super::inspect::Findings;
use super::placeholders::Placeholders;
use super::{PreparedSet, Settings, Statement};
use crate::pg::{GucName, ProcessId};
use crate::route::Plan;
use crate::sql::command::Discard;
use crate::sql::scan::lexes_bytewise;
use crate::sql::{Analysis, Command, Lexing, Template};
use crate::wire::{backend, build, frontend};

/// The settings a server reports by itself (ParameterStatus), in the order of their first report. Shared: most
/// clients and servers of a pool hold the same copy.
#[derive(Clone, Debug, Default)]
pub struct Reported(Arc<Vec<Report>>);

/// A setting's name and value, as reported.
type Report = (Box<[u8]>, Box<[u8]>);

impl Reported {
    /// The value of a reported setting; the name is spelled as PostgreSQL spells it.
    pub fn value(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|(candidate, _)| **candidate == *name).map(|(_, value)| &**value)
    }

    /// A standby must not show through: its client is told nothing of it.
    pub fn hide_standby(&mut self) {
        if self.value(b"in_hot_standby") == Some(b"on") {
            self.report(b"in_hot_standby", b"off");
        }
    }

    /// Takes a report; gives whether it was news.
    pub fn report(&mut self, name: &[u8], value: &[u8]) -> bool {
        if self.value(name) == Some(value) {
            return false;
        }
        let list = Arc::make_mut(&mut self.0);
        match list.iter_mut().find(|(candidate, _)| **candidate == *name) {
            Some((_, old)) => *old = value.into(),
            None => list.push((name.into(), value.into())),
        }
        true
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether both are the very same list.
    #[inline]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether all values are equal, whatever their order.
    pub fn is_equal(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.iter().all(|(name, value)| other.value(name) == Some(value))
    }

    /// How the server cuts texts.
    pub fn lexing(&self) -> Lexing {
        let encoding = self.value(b"client_encoding").map(String::from_utf8_lossy);
        Lexing {
            standard_conforming_strings: self.value(b"standard_conforming_strings") != Some(b"off"),
            bytewise: encoding.is_none_or(|encoding| lexes_bytewise(&encoding)),
        }
    }
}

/// What a server connection has and owes.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what the protocol lets be true at once: each is one fact of its own"
)]
pub struct ServerState {
    /// The server process, for CancelRequest.
    pub process: ProcessId,
    /// What proves to the server that a CancelRequest is ours.
    pub secret: Box<[u8]>,
    /// How its settings differ from those it was opened with.
    pub settings: Settings,
    /// What it last reported.
    pub reported: Reported,
    /// Custom settings that it may ever have had: each is there for ever, if only empty.
    pub placeholders: Placeholders,
    /// Those of them that it has for sure: a statement that was to make one may have failed.
    pub(super) made: Placeholders,
    /// Statements of ours that it has prepared.
    pub prepared: PreparedSet,
    /// Its unnamed statement.
    pub(super) unnamed: Unnamed,
    /// Replies that it owes, in order.
    pub(super) queue: VecDeque<Expected>,
    /// The statements that open portals were bound to.
    pub(super) portals: Portals,
    /// COPY FROM STDIN goes on: Sync is ignored by the server until CopyDone or CopyFail.
    pub(super) copying_in: bool,
    /// A batch is open: extended messages were sent and no Sync yet.
    pub(super) in_batch: bool,
    /// The open batch has an unnamed statement of its own.
    pub(super) parsed_unnamed: bool,
    /// Replies owed that change what a client's name means or which statements are prepared, as counted last.
    pub(super) doubts: usize,
    /// An error came in the open batch: the server skips everything up to Sync.
    pub(super) skipping: bool,
    /// An error came since the last ReadyForQuery.
    pub(super) failed: bool,
    /// The batch under way, if it may be run again.
    pub(super) again: Again,
    /// The last simple query's, kept for its buffers.
    pub(super) template: Template,
    /// Code has run whose traces in the session are not all known: settings of its own, for one, are listed nowhere. To
    /// the client whose code it was they are its own; anybody else gets rid of them first.
    pub(super) has_traces: bool,
    /// They are another client's than that which has the connection now.
    pub(super) has_anothers_traces: bool,
    /// A query of ours failed: the connection is not what we think and must be closed.
    pub(super) broken: bool,
}

/// The unnamed statement of a server connection.
#[derive(Clone, Debug)]
pub(super) enum Unnamed {
    /// There is none, or the client who holds the connection made one that is not known here.
    Absent,
    /// This one.
    Is(Arc<Statement>),
    /// A message that was to change it was skipped or failed: it may be there or not, and it may be another client's.
    InDoubt,
}

/// The statements behind portals, so that Execute knows what it runs.
#[derive(Debug, Default)]
pub(super) struct Portals {
    pub(super) unnamed: Option<Running>,
    named: HashMap<Box<[u8]>, Running>,
}

/// What a portal runs.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) statement: Arc<Statement>,
    /// Settings that it changes by its parameters.
    pub(super) bound: Option<Arc<[BoundSetting]>>,
    /// What this run of it does, where that is known.
    pub(super) plan: Option<Arc<Plan>>,
}

impl Portals {
    pub(super) fn bind(&mut self, portal: &[u8], running: Option<Running>) {
        if portal.is_empty() {
            self.unnamed = running;
        } else if let Some(running) = running {
            self.named.insert(portal.into(), running);
        } else {
            self.named.remove(portal);
        }
    }

    pub(super) fn running(&self, portal: &[u8]) -> Option<Running> {
        if portal.is_empty() { self.unnamed.clone() } else { self.named.get(portal).cloned() }
    }

    fn clear(&mut self) {
        self.unnamed = None;
        if !self.named.is_empty() {
            self.named.clear();
        }
    }
}

/// One reply, or run of replies, that a server owes.
#[derive(Debug)]
pub(super) enum Expected {
    /// A query of ours: everything up to its ReadyForQuery stays here.
    Setup,
    /// Likewise, and it is to fail.
    Failure,
    /// Likewise, and its rows tell what the session has.
    Inspection(Box<Findings>),
    /// ParseComplete.
    Parse {
        /// What is being prepared, if the table of statements knows it.
        statement: Option<Arc<Statement>>,
        /// The client asked for it and waits for ParseComplete; else it is ours.
        shown: bool,
        /// What to undo if it fails.
        undo: Option<Box<UndoName>>,
    },
    /// BindComplete.
    Bind {
        /// The client waits for the reply.
        shown: bool,
        /// What the client calls the statement, if not by the empty name.
        name: Option<Arc<[u8]>>,
        /// Nobody here knows what the statement does: SQL has prepared it.
        is_unknown: bool,
    },
    /// CommandComplete of our `DISCARD SEQUENCES` within a batch.
    ForgetSequences,
    /// CloseComplete.
    Close {
        /// A statement of ours that is closed to make room: the client knows nothing of it.
        evicted: Option<Arc<Statement>>,
        /// The client waits for the reply.
        shown: bool,
    },
    /// CloseComplete, of a name that SQL's PREPARE has given.
    CloseSql(Box<[u8]>),
    /// ParameterDescription, then RowDescription or NoData; or just the latter, for a portal.
    Describe,
    /// Rows, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute(Option<Running>),
    /// The results of a simple query, up to its ReadyForQuery.
    Query {
        /// What the text does.
        analysis: Arc<Analysis>,
        /// And to which tables, where that is known.
        plan: Option<Arc<Plan>>,
        /// How many of its statements have ended.
        ended: usize,
        /// The client's name of a statement for which ours was put into the text.
        renamed: Option<Box<UndoName>>,
    },
    /// FunctionCallResponse, then ReadyForQuery.
    FunctionCall,
    /// ReadyForQuery.
    Sync,
    /// CopyDone or CopyFail was sent; no reply by itself.
    CopyEnd,
    /// The unnamed statement is dropped by what comes next; no reply by itself. If it is skipped, this is
    /// what the client had there.
    Forgot(Option<Arc<Statement>>),
    /// The client has asked for what is answered so far, some of it by Weir; no reply by itself.
    Flush,
    /// A reply that Weir gives when its turn comes.
    Local {
        /// The tag of a message without a body.
        tag: u8,
        /// What to undo if an error before it makes the server skip the message that it answers.
        undo: Option<Box<UndoName>>,
    },
}

impl Expected {
    fn ends_with_ready(&self) -> bool {
        match self {
            Self::Setup
            | Self::Failure
            | Self::Inspection(_)
            | Self::Query { .. }
            | Self::FunctionCall
            | Self::Sync => true,
            Self::Parse { .. }
            | Self::Bind { .. }
            | Self::ForgetSequences
            | Self::Close { .. }
            | Self::CloseSql(_)
            | Self::Describe
            | Self::Execute(_)
            | Self::CopyEnd
            | Self::Forgot(_)
            | Self::Flush
            | Self::Local { .. } => false,
        }
    }

    /// The statement of ours that the server has, or has no more, if this is answered well.
    fn concerns(&self) -> Option<&Statement> {
        match self {
            Self::Parse { statement, .. } | Self::Close { evicted: statement, .. } => statement.as_deref(),
            _ => None,
        }
    }

    /// Whether SQL gives or takes names when this is answered well: PREPARE, DEALLOCATE, DISCARD ALL.
    fn changes_names(&self) -> bool {
        match self {
            Self::Query { analysis, .. } => changes_names(analysis),
            Self::Execute(Some(running)) => changes_names(&running.statement.analysis),
            _ => false,
        }
    }

    /// The client's name of a statement that means something else from here on, unless this is skipped.
    fn renames(&self) -> Option<&[u8]> {
        match self {
            Self::Parse { undo, .. } | Self::Local { undo, .. } => undo.as_deref().map(|undo| &*undo.name),
            Self::CloseSql(name) => Some(name),
            _ => None,
        }
    }
}

/// Whether it gives a name to a prepared statement, or makes the server forget some.
pub(super) fn changes_names(analysis: &Analysis) -> bool {
    analysis.statements.iter().any(|statement| {
        matches!(
            statement.command,
            Command::Prepare(_)
                | Command::Deallocate(_)
                | Command::DeallocateAll
                | Command::Discard(Discard::All)
        )
    })
}

/// What a client's name for a statement meant before a message that may yet be skipped.
#[derive(Debug)]
pub(super) struct UndoName {
    pub(super) name: Box<[u8]>,
    pub(super) before: Option<Arc<Statement>>,
}

impl ServerState {
    /// The state of a connection that has just logged in.
    pub fn new(process: ProcessId, secret: Box<[u8]>, reported: Reported, prepared_max: usize) -> Self {
        Self {
            process,
            secret,
            settings: Settings::default(),
            reported,
            placeholders: Placeholders::default(),
            made: Placeholders::default(),
            prepared: PreparedSet::new(prepared_max),
            unnamed: Unnamed::Absent,
            queue: VecDeque::new(),
            portals: Portals::default(),
            copying_in: false,
            in_batch: false,
            parsed_unnamed: false,
            doubts: 0,
            skipping: false,
            failed: false,
            again: Again::default(),
            template: Template::default(),
            has_traces: false,
            has_anothers_traces: false,
            broken: false,
        }
    }

    /// Whether every message that was sent has been answered.
    #[inline]
    pub fn is_drained(&self) -> bool {
        self.queue.is_empty() && !self.in_batch
    }

    /// Whether what a message means depends on what is not answered yet: something that changes what the client's `name`
    /// stands for, or prepares or closes a statement that is `meant`.
    pub(super) fn is_in_doubt(&self, name: &[u8], meant: impl Fn(&Statement) -> bool) -> bool {
        self.doubtful().any(|expected| {
            expected.renames().is_some_and(|renamed| !name.is_empty() && renamed == name)
                || expected.concerns().is_some_and(&meant)
                || expected.changes_names()
        })
    }

    /// Whether a batch that is closed and not answered yet may change, or fail to change, the unnamed statement: the
    /// client's or the server's.
    pub(super) fn is_unnamed_in_doubt(&self) -> bool {
        self.queue.iter().take(self.closed()).any(|expected| match expected {
            Expected::Forgot(_)
            | Expected::Parse { statement: None, .. }
            | Expected::Close { evicted: None, .. } => true,
            _ => expected.renames().is_some_and(<[u8]>::is_empty),
        })
    }

    /// The replies owed that change what a name means, or which statements the server has. Those of the open batch do
    /// not count, since nothing says that they come before its Sync; but for what changes names in SQL, which is sent
    /// with a Flush.
    pub(super) fn doubtful(&self) -> impl Iterator<Item = &Expected> {
        let closed = self.closed();
        let changes = |expected: &Expected| {
            expected.concerns().is_some() || expected.renames().is_some_and(|renamed| !renamed.is_empty())
        };
        let is_doubtful = move |(index, expected): &(usize, &Expected)| {
            expected.changes_names() || *index < closed && changes(expected)
        };
        self.queue.iter().enumerate().filter(is_doubtful).map(|(_, expected)| expected)
    }

    /// How many of the replies owed are of batches that are closed.
    fn closed(&self) -> usize {
        let closes = |expected: &Expected| {
            matches!(expected, Expected::Sync | Expected::Query { .. } | Expected::FunctionCall)
        };
        self.queue.iter().rposition(closes).map_or(0, |last| last + 1)
    }

    /// Whether a ReadyForQuery is still to come.
    pub fn owes_ready(&self) -> bool {
        self.queue.iter().any(Expected::ends_with_ready)
    }

    /// Whether a ReadyForQuery is still to come that the client waits for.
    pub(super) fn owes_client(&self) -> bool {
        self.queue.iter().any(|expected| {
            matches!(expected, Expected::Query { .. } | Expected::FunctionCall | Expected::Sync)
        })
    }

    /// A Parse of ours failed or was skipped.
    pub(super) fn not_prepared(&mut self, statement: &Statement) {
        self.prepared.remove(statement);
        for expected in &mut self.queue {
            if let Expected::Close { evicted, .. } = expected
                && evicted.as_ref().is_some_and(|evicted| evicted.id == statement.id)
            {
                // If this is skipped in turn, there is nothing that stays.
                *evicted = None;
            }
        }
    }

    /// Counts the doubtful replies.
    pub(super) fn count_doubts(&mut self) {
        self.doubts = self.doubtful().count();
    }

    /// Whether a batch is open, whose work only Sync would commit: a client that goes away now must not have it
    /// committed.
    pub fn is_in_batch(&self) -> bool {
        self.in_batch
    }

    /// Whether the server waits for COPY data, and answers nothing before they end.
    pub fn is_copying_in(&self) -> bool {
        self.copying_in
    }

    /// Whether the connection cannot be used again.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// It has a custom setting.
    pub fn note_custom(&mut self, name: &GucName) {
        self.placeholders.note(name);
        self.made.note(name);
    }

    /// Takes a ParameterStatus that no client is to see.
    pub fn take_report(&mut self, body: &[u8]) {
        if let Ok((name, value)) = backend::parameter_status(body) {
            self.reported.report(name, value);
        }
    }

    /// Replies still owed.
    pub fn owed(&self) -> usize {
        self.queue.len()
    }

    /// Portals end with their transaction. If others were bound since then, all are kept until it is quiet: what a
    /// dead portal's name stands for does no harm, since the server refuses it.
    pub(super) fn transaction_ended(&mut self) {
        if !self.queue.iter().any(|expected| matches!(expected, Expected::Bind { .. })) {
            self.portals.clear();
        }
    }

    /// Whether the next ReadyForQuery that the client waits for is that of an extended batch.
    pub fn owes_sync(&self) -> bool {
        let next = self.queue.iter().find(|expected| {
            matches!(expected, Expected::Query { .. } | Expected::FunctionCall | Expected::Sync)
        });
        next.map_or(self.in_batch, |expected| matches!(expected, Expected::Sync))
    }

    /// The client is gone: ends what it left open, and gives how many ReadyForQuery are still to come.
    pub fn abandon(&mut self, out: &mut Vec<u8>) -> usize {
        if self.copying_in {
            build::copy_fail(out, b"the client has gone");
        }
        let mut ready_owed = self.queue.iter().filter(|expected| expected.ends_with_ready()).count();
        if self.in_batch {
            build::empty(out, frontend::SYNC);
            ready_owed += 1;
        }
        self.queue.clear();
        self.in_batch = false;
        self.parsed_unnamed = false;
        self.copying_in = false;
        self.failed = false;
        self.skipping = false;
        self.doubts = 0;
        self.again = Again::default();
        ready_owed
    }

    /// Everything is as after login: what `DISCARD ALL` does.
    pub fn discarded(&mut self) {
        self.has_traces = false;
        self.has_anothers_traces = false;
        self.settings = Settings::default();
        self.prepared.clear();
        self.unnamed = Unnamed::Absent;
        self.portals.clear();
    }

    /// Any simple query, ours too, destroys the unnamed statement and portal (manual, 55.2.3).
    pub fn simple_query_ran(&mut self) {
        self.unnamed = Unnamed::Absent;
        self.portals.unnamed = None;
    }

    /// Notes that a query of ours was sent that fails, as it should.
    pub(super) fn expect_failure(&mut self) {
        self.simple_query_ran();
        self.queue.push_back(Expected::Failure);
    }

    /// Notes that a query of ours was sent, whose replies the client must not see.
    pub fn expect_setup(&mut self) {
        self.simple_query_ran();
        self.queue.push_back(Expected::Setup);
    }
}
