//! What statements that succeeded did to the session, and what a rollback takes back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::inspect::runs_unseen_code;
use super::senders::notifies;
use super::server_state::{Expected, UndoName, Unnamed};
use super::{Named, ServerState, Session, Settings, Shared, Value};
use crate::pg::{GucName, TransactionStatus};
use crate::sql::command::{ConfigLocal, ConfigName, ConfigValue, Discard, Scope, SetConfig, SetValue};
use crate::sql::{Command, Identifier, Pin, PinSet, Statement};
use crate::wire::Malformed;
use crate::wire::frontend::Bind;

/// What a rollback restores. Settings and temporary objects are transactional; SQL-level PREPARE and session
/// advisory locks are not (manual, SET; 13.3.5 Advisory Locks), so their pins are taken when the statement is sent.
#[derive(Debug)]
pub(super) struct Undo {
    client: Settings,
    server: Settings,
    pins: PinSet,
    savepoints: Vec<Savepoint>,
}

#[derive(Debug)]
struct Savepoint {
    name: Identifier,
    client: Settings,
    server: Settings,
    pins: PinSet,
}

/// Those of the pins that a rollback undoes.
fn transactional(pins: PinSet) -> PinSet {
    pins.without(pins.without(TRANSACTIONAL_PINS))
}

/// What the shell must see to after a statement ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// A transaction ended with this ReadyForQuery.
    pub transaction: bool,
}

/// Pins that a rollback undoes.
const TRANSACTIONAL_PINS: PinSet =
    PinSet::of(&[Pin::TemporaryObject, Pin::Listen, Pin::HoldCursor, Pin::UnknownSetting]);

impl Session {
    /// A statement is about to be sent: takes the pins that hold even if it fails.
    pub(super) fn before(&mut self, statement: &Statement, server: &mut ServerState) {
        self.note_inspection(statement);
        self.notifies = notifies(statement).or(self.notifies.take());
        let runs_code = runs_unseen_code(statement)
            || statement.pins.contains(Pin::ProcedureCode)
            || statement.pins.contains(Pin::UnknownSetting);
        self.settings_in_doubt |= runs_code;
        server.has_traces |= runs_code;
        // The server may have them even if the statement fails; the client has them only if it succeeds.
        server.placeholders.note_all(statement);
        self.pins = self.pins.union(statement.pins.without(TRANSACTIONAL_PINS));
        if let Some(name) = statement.command.wants_alone() {
            self.wants_alone = Some(name.clone());
        }
        if self.uses_sequences && statement.sequence.advances {
            self.pins.insert(Pin::SequenceState);
        }
    }

    /// A statement ended with `tag`.
    pub(super) fn completed(
        &mut self,
        statement: &Statement,
        bound: Option<&[BoundSetting]>,
        tag: &[u8],
        server: &mut ServerState,
        shared: &Shared,
    ) {
        self.placeholders.note_all(statement);
        server.made.note_all(statement);
        if statement.sequence.reads {
            // There was something to read, so the client goes on reading: from now on what it draws pins it.
            self.uses_sequences = true;
            self.pins.insert(Pin::SequenceState);
        }
        let gained = transactional(statement.pins);
        if !gained.is_empty() || !statement.ends.is_empty() {
            self.remember(server);
            self.pins = self.pins.union(gained).without(statement.ends);
        }
        match &statement.command {
            Command::Set { scope: Scope::Session, settings } if tag == b"SET" => {
                self.remember(server);
                for setting in settings {
                    match &setting.value {
                        SetValue::Source(text) => {
                            self.assign(&setting.name, &Value::Source(text.clone()), server);
                        }
                        SetValue::Default => self.reset(&setting.name, server),
                    }
                }
            }
            // A portal that is run a second time has no row left.
            Command::SetConfig(calls) if tag != b"SELECT 0" => {
                self.remember(server);
                let constant = calls.iter().filter_map(constant).collect::<Vec<_>>();
                for setting in constant.iter().chain(bound.unwrap_or_default()) {
                    self.placeholders.note(&setting.name);
                    server.note_custom(&setting.name);
                    match &setting.value {
                        _ if setting.is_local => {}
                        Some(value) => self.assign(&setting.name, value, server),
                        None => self.reset(&setting.name, server),
                    }
                }
            }
            Command::Reset(name) => {
                self.remember(server);
                self.reset(name, server);
            }
            Command::ResetAll => {
                self.remember(server);
                self.settings.reset_all(&self.baseline);
                server.settings.reset_all(&Settings::default());
            }
            Command::Discard(Discard::All) if tag == b"DISCARD ALL" => {
                // Of prepared statements it drops those with names.
                let unnamed = std::mem::replace(&mut server.unnamed, Unnamed::Absent);
                server.discarded();
                server.unnamed = unnamed;
                self.settings = self.baseline.clone();
                self.statements = None;
                self.sql_names = None;
                self.pins = PinSet::default();
                self.uses_sequences = false;
                // It stands in no block, and commits at once, in the midst of a batch, too.
                self.undo = None;
            }
            Command::Prepare(name) if tag == b"PREPARE" => {
                self.note_sql_name(name.as_bytes().into());
            }
            Command::Deallocate(name) => {
                if let Some(names) = &mut self.sql_names {
                    names.remove(name.as_bytes());
                }
                if let Some(statement) = self.forget(name.as_bytes()) {
                    server.prepared.remove(&statement);
                }
            }
            Command::DeallocateAll => {
                server.prepared.clear();
                self.statements = None;
                self.sql_names = None;
            }
            Command::Savepoint(name) => self.savepoint(name, server),
            Command::RollbackTo(name) => self.rollback_to(name, server),
            Command::Release(name) => self.release(name),
            Command::Commit { .. } | Command::Rollback { .. } | Command::PrepareTransaction => {
                // A COMMIT of a failed block answers ROLLBACK: the tag tells what happened.
                self.transaction_ended(tag != b"ROLLBACK", server);
            }
            Command::Ddl | Command::CreateTemporary { .. } => {
                self.changed_schema = true;
                shared.ddl_epoch.fetch_add(1, Ordering::AcqRel);
            }
            _ => {}
        }
    }

    fn assign(&mut self, name: &GucName, value: &Value, server: &mut ServerState) {
        self.settings.set(name.clone(), value.clone());
        server.settings.set(name.clone(), value.clone());
    }

    /// The server goes back to its own value; the client is owed that of its startup packet.
    fn reset(&mut self, name: &GucName, server: &mut ServerState) {
        self.settings.reset(name, &self.baseline);
        server.settings.reset(name, &Settings::default());
    }

    /// ReadyForQuery: an implicit transaction has ended, or a block has begun or goes on.
    pub(super) fn ready(
        &mut self,
        status: TransactionStatus,
        failed: bool,
        server: &mut ServerState,
        shared: &Shared,
    ) -> Finished {
        self.status = status;
        if status == TransactionStatus::Idle {
            if std::mem::take(&mut self.changed_schema) {
                // Whatever was prepared inside the transaction saw tables that a rollback has taken back.
                shared.ddl_epoch.fetch_add(1, Ordering::AcqRel);
            }
            self.transaction_ended(!failed, server);
            server.transaction_ended();
            self.names_moved &= !server.queue.is_empty();
        }
        Finished { transaction: status == TransactionStatus::Idle }
    }

    /// The first change in a transaction notes what was before it.
    fn remember(&mut self, server: &ServerState) {
        if self.undo.is_none() {
            self.undo = Some(Box::new(Undo {
                client: self.settings.clone(),
                server: server.settings.clone(),
                pins: self.pins,
                savepoints: Vec::new(),
            }));
        }
    }

    fn savepoint(&mut self, name: &Identifier, server: &ServerState) {
        self.remember(server);
        let savepoint = Savepoint {
            name: name.clone(),
            client: self.settings.clone(),
            server: server.settings.clone(),
            pins: self.pins,
        };
        if let Some(undo) = &mut self.undo {
            undo.savepoints.push(savepoint);
        }
    }

    fn rollback_to(&mut self, name: &Identifier, server: &mut ServerState) {
        let Some(undo) = &mut self.undo else { return };
        let Some(at) = undo.savepoints.iter().rposition(|savepoint| savepoint.name == *name) else {
            return;
        };
        undo.savepoints.truncate(at + 1);
        let savepoint = &undo.savepoints[at];
        self.settings = savepoint.client.clone();
        server.settings = savepoint.server.clone();
        self.pins = restored(self.pins, savepoint.pins);
    }

    fn release(&mut self, name: &Identifier) {
        let Some(undo) = &mut self.undo else { return };
        if let Some(at) = undo.savepoints.iter().rposition(|savepoint| savepoint.name == *name) {
            undo.savepoints.truncate(at);
        }
    }

    fn transaction_ended(&mut self, committed: bool, server: &mut ServerState) {
        if !committed {
            self.forget_written();
        }
        let Some(undo) = self.undo.take() else { return };
        if !committed {
            self.settings = undo.client;
            server.settings = undo.server;
            self.pins = restored(self.pins, undo.pins);
        }
    }

    /// The client has gone in the middle of a transaction, which will be rolled back.
    pub fn abandon(&mut self, server: &mut ServerState) {
        self.transaction_ended(false, server);
    }

    /// The unnamed statement is again what it was before messages that were skipped; unless a later batch, which the
    /// server has yet to look at, has made or dropped one. Then that is what it will be, or take back.
    pub(super) fn undo_unnamed(&mut self, before: Option<Arc<super::Statement>>, server: &mut ServerState) {
        for expected in &mut server.queue {
            match expected {
                Expected::Parse { undo: Some(undo), .. } | Expected::Local { undo: Some(undo), .. }
                    if undo.name.is_empty() =>
                {
                    undo.before = before;
                    return;
                }
                Expected::Forgot(statement) => {
                    *statement = before;
                    return;
                }
                Expected::Query { .. } => return,
                _ => {}
            }
        }
        self.unnamed = before;
    }

    /// A message was skipped after an error: the client's name means again what it meant.
    pub(super) fn undo_name(&mut self, undo: UndoName, server: &mut ServerState) {
        if undo.name.is_empty() {
            self.undo_unnamed(undo.before, server);
            return;
        }
        match undo.before {
            Some(statement) => {
                let named = Named::new(&undo.name, statement);
                self.statements.get_or_insert_default().insert(undo.name, named);
            }
            None => {
                if let Some(statements) = &mut self.statements {
                    statements.remove(&undo.name);
                }
            }
        }
    }
}

/// A setting that a call of `set_config` with parameters changes.
#[derive(Debug)]
pub(super) struct BoundSetting {
    pub(super) name: GucName,
    /// `None` sets it back.
    value: Option<Value>,
    /// For this transaction only.
    is_local: bool,
}

/// What a call without parameters sets for the session.
fn constant(call: &SetConfig) -> Option<BoundSetting> {
    let (ConfigName::Literal(name), ConfigLocal::Session) = (&call.name, call.local) else {
        return None;
    };
    let value = match &call.value {
        ConfigValue::Source(text) => Some(Value::Quoted(text.clone())),
        ConfigValue::Null => None,
        ConfigValue::Parameter(_) => return None,
    };
    Some(BoundSetting { name: name.clone(), value, is_local: false })
}

/// What the calls of a statement set with the parameters of `bind`; an error if a value
/// is not plain text, so that what is set cannot be known.
pub(super) fn bound_settings(
    statement: &Statement,
    bind: &Bind<'_>,
) -> Result<Vec<BoundSetting>, UnknownSetting> {
    let Command::SetConfig(calls) = &statement.command else {
        return Ok(Vec::new());
    };
    let mut settings = Vec::new();
    let text = |number: u16| match bind.parameter(usize::from(number))? {
        Some((0, text)) => Ok(Some(text)),
        Some(_) => Err(UnknownSetting),
        None => Ok(None),
    };
    for call in calls {
        let name = match &call.name {
            ConfigName::Literal(name) => name.clone(),
            ConfigName::Parameter(number) => {
                let name =
                    text(*number)?.and_then(|name| std::str::from_utf8(name).ok()).ok_or(UnknownSetting)?;
                GucName::new(name)
            }
        };
        let session = match call.local {
            ConfigLocal::Session => true,
            ConfigLocal::Transaction => false,
            ConfigLocal::Parameter(number) => match bind.parameter(usize::from(number))? {
                Some((0 | 1, [value])) => matches!(value, 0 | b'f' | b'F' | b'0' | b'n' | b'N'),
                Some((0, b"false" | b"off" | b"no")) => true,
                Some((0, b"true" | b"on" | b"yes")) => false,
                _ => return Err(UnknownSetting),
            },
        };
        let value = match &call.value {
            ConfigValue::Source(text) => Some(Value::Quoted(text.clone())),
            ConfigValue::Null => None,
            ConfigValue::Parameter(number) => text(*number)?.map(|text| Value::Literal(text.into())),
        };
        let is_constant = matches!(
            (&call.name, &call.value, call.local),
            (ConfigName::Literal(_), ConfigValue::Source(_) | ConfigValue::Null, ConfigLocal::Session)
        );
        // What a local one leaves is its name, which may be in the text.
        let is_noted = !session && matches!(call.name, ConfigName::Literal(_));
        if !is_constant && !is_noted {
            settings.push(BoundSetting { name, value, is_local: !session });
        }
    }
    Ok(settings)
}

/// What is set cannot be told from the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UnknownSetting;

impl From<Malformed> for UnknownSetting {
    fn from(_: Malformed) -> Self {
        Self
    }
}

/// Pins after a rollback: the transactional ones as they were, the others as they are.
fn restored(now: PinSet, before: PinSet) -> PinSet {
    now.without(TRANSACTIONAL_PINS).union(transactional(before))
}
