//! One client's conversation, as a machine without I/O.
//!
//! A client thinks it has a session of its own. What makes it its own lives here: transaction status, settings,
//! prepared statements, pins. What a server connection has and still owes lives in [`ServerState`], beside the
//! socket. The machine takes one message at a time, from either side, and says what becomes of it:
//!
//! ```text
//!   client ── frontend(message) ──► forward | replace | swallow ──► server
//!   client ◄── forward | replace | swallow ── backend(message) ◄── server
//! ```
//!
//! Every message that will be answered leaves an [`Expected`](server_state::Expected) in the server's queue; every
//! answer takes one off. So an answer that Weir gives by itself (a Parse that the server need not see) keeps its
//! place in the order, and the replies to what Weir added are told from those the client waits for.

mod again;
mod backend;
mod block;
mod cached;
mod contents;
mod decide;
mod doubt;
mod effects;
mod frontend;
mod inspect;
mod naming;
mod placeholders;
mod senders;
mod sent;
mod server_state;
mod settings;
mod simple;
mod statement;
mod writes;

pub use backend::{Backend, Confused, translate_notification};
pub use block::{BlockStep, Laziness, LazyBlock};
pub use cached::Plain;
pub use contents::{Contents, Text};
pub use decide::{Decision, UNIT_BYTES_MAX, Unit, decide, unit};
pub use effects::Finished;
pub use frontend::{Message, Refusal};
pub use placeholders::Placeholders;
pub use senders::{Notifies, Senders};
pub use sent::Answering;
pub use server_state::{Reported, ServerState};
pub use settings::{SHORT_TIMEOUT, Settings, Value};
pub use statement::{Interned, PreparedSet, Statement, Statements};
pub use writes::{Committed, may_change_catalog};

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ahash::{HashMap, HashSet};

use crate::catalog::WriteSet;
use crate::config::PoolMode;
use crate::pg::{ProcessId, TransactionStatus};
use crate::route::Plan;
use crate::sql::{Analysis, Identifier, Lexing, PinSet};
use effects::Undo;

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on unchanged, behind whatever the machine wrote before it.
    Forward,
    /// What the machine wrote goes in its place (nothing, if it wrote nothing).
    Replace,
}

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    /// All prepared statements.
    pub statements: Statements,
    /// DDL statements seen; a statement prepared at an older count is prepared again when its client asks afresh.
    pub ddl_epoch: AtomicU64,
    /// Run unnamed statements that repeat prepared on the server.
    pub prepare_unnamed: bool,
    /// Run reads by simple query that repeat, but for their constants, prepared on the server.
    pub prepare_simple: bool,
    /// Named statements of one client, at most; past it the client is pinned and the server keeps them.
    pub statements_per_client_max: usize,
}

/// A client's named statement.
#[derive(Clone, Debug)]
struct Named {
    /// The name itself, shared with what is expected of the server.
    name: Arc<[u8]>,
    statement: Arc<Statement>,
}

impl Named {
    fn new(name: &[u8], statement: Arc<Statement>) -> Self {
        Self { name: name.into(), statement }
    }
}

/// One client's session.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about a session; any of them may stand together"
)]
pub struct Session {
    /// The process id the client was given.
    pub process: ProcessId,
    mode: PoolMode,
    /// As the client was last told by ReadyForQuery.
    /// (Of a lazy block no server knows.)
    status: TransactionStatus,
    /// A block that is open for the client only.
    lazy: Option<Box<LazyBlock>>,
    /// What the open transaction may have written.
    wrote: WriteSet,
    /// What is sent now is known to be a read.
    reading: bool,
    /// What the message does that is taken next.
    foreseen: Option<Arc<Plan>>,
    /// What the text of the simple query says that is taken next, cut that way, if somebody has looked already.
    analyzed: Option<(Lexing, Arc<Analysis>)>,
    /// What was sent and not settled yet may have changed what names mean.
    names_moved: bool,
    /// The client's settings, and those RESET returns to.
    settings: Settings,
    baseline: Settings,
    /// What the client was told by ParameterStatus.
    view: Reported,
    lexing: Lexing,
    /// What a rollback of the open transaction restores; present once something was changed in it.
    undo: Option<Box<Undo>>,
    pins: PinSet,
    /// There have been pins since the client took its server connection.
    pinned: bool,
    /// Custom settings that the client has ever set.
    placeholders: Placeholders,
    /// A statement ran that may have left what its text does not show: the server must be asked.
    inspection_due: bool,
    /// Code ran that may have changed any setting.
    settings_in_doubt: bool,
    /// The server connection is the one that this client had last.
    same_server: bool,
    /// The client has been seen to use `currval` or `lastval`.
    uses_sequences: bool,
    /// A statement just taken needs a database without other sessions.
    wants_alone: Option<Identifier>,
    /// A statement just taken may notify.
    notifies: Option<Notifies>,
    /// The open transaction has run DDL.
    changed_schema: bool,
    statements: Option<Box<HashMap<Box<[u8]>, Named>>>,
    unnamed: Option<Arc<Statement>>,
    /// What the simple query says that was taken last, until somebody asks.
    queried: Option<Arc<Analysis>>,
    /// Names that SQL PREPARE gave; the server keeps these statements, and the client its server connection.
    sql_names: Option<Box<HashSet<Box<[u8]>>>>,
}

impl Session {
    /// A session that has just logged in: `baseline` are the startup packet's settings, `view` what the client was
    /// told of the reported ones.
    pub fn new(process: ProcessId, mode: PoolMode, baseline: Settings, view: Reported) -> Self {
        let mut placeholders = Placeholders::default();
        baseline.custom_names().for_each(|name| placeholders.note(name));
        Self {
            process,
            mode,
            status: TransactionStatus::Idle,
            lazy: None,
            wrote: WriteSet::default(),
            reading: false,
            foreseen: None,
            analyzed: None,
            names_moved: false,
            settings: baseline.clone(),
            baseline,
            lexing: view.lexing(),
            view,
            undo: None,
            pins: PinSet::default(),
            pinned: false,
            placeholders,
            inspection_due: false,
            settings_in_doubt: false,
            same_server: false,
            uses_sequences: false,
            wants_alone: None,
            notifies: None,
            changed_schema: false,
            statements: None,
            unnamed: None,
            queried: None,
            sql_names: None,
        }
    }

    /// The transaction status of the server connection that the client holds.
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Why the client must keep its server connection; empty if it need not.
    pub fn pins(&self) -> PinSet {
        self.pins
    }

    /// How the server cuts what this client sends.
    pub fn lexing(&self) -> Lexing {
        self.lexing
    }

    /// The client's settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Custom settings that the client has ever set: a server connection with others is not for it.
    pub fn placeholders(&self) -> &Placeholders {
        &self.placeholders
    }

    /// Whoever chose the route has analyzed the text of the simple query that is taken next, as this client's server cuts
    /// it: it need not be scanned twice. `None`: nobody has.
    pub fn analyzed(&mut self, analysis: Option<Arc<Analysis>>) {
        self.analyzed = analysis.map(|analysis| (self.lexing, analysis));
    }

    /// The client has got a server connection; `same` if nobody else had it since this client did.
    pub fn attached(&mut self, server: &mut ServerState, same: bool) {
        self.same_server = same;
        server.has_anothers_traces |= !same && std::mem::take(&mut server.has_traces);
    }

    /// Whether a server connection may be given back now: it owes nothing, no transaction is open, nothing pins.
    #[inline]
    pub fn may_release(&mut self, server: &ServerState) -> bool {
        self.pinned |= !self.pins.is_empty() || self.mode == PoolMode::Session;
        server.is_drained()
            && self.status == TransactionStatus::Idle
            && self.pins.is_empty()
            && self.mode != PoolMode::Session
    }

    /// The database that a statement just taken needs for itself (DROP DATABASE and its like): idle server
    /// connections to it must be closed before the statement is sent.
    pub fn take_wanted_alone(&mut self) -> Option<String> {
        let name = self.wants_alone.take()?;
        Some(String::from_utf8_lossy(name.as_bytes()).into_owned())
    }

    /// What the statements just taken may notify.
    #[inline]
    pub fn take_notifies(&mut self) -> Option<Notifies> {
        self.notifies.take()
    }

    /// Whether nobody else would find anything of this client on its server connection.
    pub fn leaves_nothing(&self, server: &ServerState) -> bool {
        server.is_drained()
            && self.status == TransactionStatus::Idle
            && !self.pinned
            && self.pins.is_empty()
            && !self.inspection_due
            && !self.settings_in_doubt
    }

    /// Whether the server connection that the client holds must be cleaned before another client gets it.
    pub fn was_pinned(&self) -> bool {
        self.pinned
    }

    /// The server connection with the pinned state is gone.
    pub fn unpinned(&mut self) {
        self.pinned = false;
    }

    /// Whether `DISCARD ALL` undoes what pinned the client; a loaded library or an unknown statement's traces stay.
    pub fn is_cleanable(&self) -> bool {
        self.pins.without(PinSet::UNDONE_BY_DISCARD_ALL).is_empty()
    }

    /// Tells the client at once of reported settings that differ, if its own settings are in force on the server;
    /// else they are told when they are.
    pub fn tell_settings_unless_changed(&mut self, server: &mut ServerState, out: &mut Vec<u8>) {
        if !self.view.is_same(&server.reported) && self.settings == server.settings {
            self.tell_settings(server, out);
        }
    }
}
