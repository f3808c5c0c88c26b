//! Asking the server what a session has, instead of guessing.
//!
//! A function, a DO block or a procedure may change settings, make temporary tables, listen, lock. And what ends a pin
//! is often not to be seen in a text: `DROP TABLE t` may drop the last temporary table or an ordinary one. So after
//! such statements, once the client has its answer and its transaction is over, the server is asked for all of it in
//! one query, before the connection is given to anybody else. The client waits for nothing; if it goes on meanwhile,
//! its statements are simply behind the question.
//!
//! The server does not tell everything: custom settings and the state of sequences are not listed anywhere. Those are
//! known from the statements' texts alone.

use super::server_state::Expected;
use super::{ServerState, Session, Value};
use crate::pg::{GucName, TransactionStatus};
use crate::sql::{Command, Pin, PinSet, Statement};
use crate::wire::frame::Fields;
use crate::wire::{Malformed, build};

/// Kind, name and value of each thing that the session has (manual, 54 System Views).
const INSPECTION: &str = "\
SELECT 'setting', name, setting FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session' \
UNION ALL SELECT 'role', 'role', pg_catalog.current_setting('role') \
UNION ALL SELECT 'temporary_object', '', '' WHERE EXISTS (\
SELECT FROM pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
UNION ALL SELECT FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema() \
UNION ALL SELECT FROM pg_catalog.pg_type WHERE typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
UNION ALL SELECT 'listen', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_listening_channels()) \
UNION ALL SELECT 'advisory_lock', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()) \
UNION ALL SELECT 'sql_prepare', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql) \
UNION ALL SELECT 'hold_cursor', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)";

/// The pins that an inspection decides on.
const INSPECTED: PinSet = PinSet::of(&[
    Pin::TemporaryObject,
    Pin::Listen,
    Pin::AdvisoryLock,
    Pin::HoldCursor,
    Pin::SqlPrepare,
    Pin::ProcedureCode,
]);

/// Whether a statement runs code that is not in its text: a function that is not PostgreSQL's own, or a statement
/// that was prepared.
pub(super) fn runs_unseen_code(statement: &Statement) -> bool {
    statement.calls_unknown || matches!(statement.command, Command::Execute(_))
}

/// What an inspection has found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    settings: Vec<(GucName, Value)>,
    role: Option<Value>,
    pins: PinSet,
    failed: bool,
    /// Code ran before it that may have changed any setting.
    settings_in_doubt: bool,
}

impl Findings {
    /// Takes a row of the answer.
    pub(super) fn row(&mut self, body: &[u8]) -> Result<(), Malformed> {
        let mut fields = Fields::new(body);
        let columns = fields.u16()?;
        let mut column = || -> Result<&[u8], Malformed> {
            match fields.u32()? {
                u32::MAX => Ok(b""),
                bytes => fields.bytes(usize::try_from(bytes).map_err(|_| Malformed::Truncated)?),
            }
        };
        if columns != 3 {
            return Err(Malformed::Truncated);
        }
        let (kind, name, value) = (column()?, column()?, column()?);
        match kind {
            b"setting" => {
                if let Ok(name) = std::str::from_utf8(name) {
                    self.settings.push((GucName::new(name), Value::Literal(value.into())));
                }
            }
            b"role" if value != b"none" => self.role = Some(Value::Literal(value.into())),
            b"role" => {}
            _ => {
                if let Some(pin) = Pin::ALL.into_iter().find(|pin| pin.as_str().as_bytes() == kind) {
                    self.pins.insert(pin);
                }
            }
        }
        Ok(())
    }

    /// The server could not answer.
    pub(super) fn fail(&mut self) {
        self.failed = true;
    }
}

impl Session {
    /// A statement is about to be sent: notes whether the server must be asked afterwards.
    pub(super) fn note_inspection(&mut self, statement: &Statement) {
        let leaves_unseen = runs_unseen_code(statement)
            || !statement.pins.without(statement.pins.without(INSPECTED)).is_empty();
        let may_end = !self.pins.is_empty()
            && (statement.unlocks_advisory
                || matches!(
                    statement.command,
                    Command::Ddl
                        | Command::CloseCursor(_)
                        | Command::CloseAllCursors
                        | Command::Deallocate(_)
                        | Command::DeallocateAll
                        | Command::Unlisten(_)
                        | Command::UnlistenAll
                        | Command::Discard(_)
                        | Command::Rollback { .. }
                        | Command::RollbackTo(_)
                ));
        self.inspection_due |= leaves_unseen || may_end;
    }

    /// Asks, if there is reason to and the time has come: nothing is owed, and no transaction is open.
    pub fn inspect(&mut self, server: &mut ServerState, out: &mut Vec<u8>) -> bool {
        let now = self.inspection_due && server.is_drained() && self.status == TransactionStatus::Idle;
        if now {
            self.inspection_due = false;
            // What is found is compared with what the client should have.
            self.set_up(server, out);
            server.simple_query_ran();
            build::query(out, INSPECTION.as_bytes());
            let settings_in_doubt = std::mem::take(&mut self.settings_in_doubt);
            let findings = Findings { settings_in_doubt, ..Findings::default() };
            server.queue.push_back(Expected::Inspection(Box::new(findings)));
        }
        now
    }

    /// Takes over what was found.
    pub(super) fn inspected(&mut self, mut findings: Findings, server: &mut ServerState) {
        if findings.failed {
            self.pins.insert(Pin::UnknownStatement);
            return;
        }
        self.pins = self.pins.without(INSPECTED).union(findings.pins);
        if !self.pins.contains(Pin::SqlPrepare) {
            self.sql_names = None;
        }
        let role = GucName::new("role");
        let differs = findings.settings.iter().any(|(name, _)| server.settings.value(name).is_none())
            || server.settings.shown_names().count() != findings.settings.len()
            || findings.role.is_some() != server.settings.value(&role).is_some();
        // Values are compared by nobody: a server shows `5120` for what a client wrote as `'5MB'`. After code that may
        // have set anything, what the server shows is the truth.
        if differs || findings.settings_in_doubt {
            findings.settings.extend(findings.role.map(|value| (role.clone(), value)));
            server.settings.observe(findings.settings);
            self.settings = server.settings.clone();
        }
    }
}
