//! A model of a PostgreSQL backend: messages in, messages out, and what a session leaves behind.
//!
//! It follows `postgres.c`: one message at a time, answers held back until Sync, Flush or an error, everything up to
//! Sync skipped after an error in the extended protocol (manual, 55.2.3 Extended Query, 55.2.4 Pipelining).

use std::collections::{BTreeMap, VecDeque};

use weir::pg::{ProcessId, TransactionStatus};
use weir::wire::frame::{self, Next};
use weir::wire::{backend, build, frontend};

use super::settings::Settings;
use super::sql::{self, Kind, Sql};
use super::transaction::{Objects, Transaction};

/// A backend process.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub(super) struct Backend {
    pub(super) process: ProcessId,
    pub(super) settings: Settings,
    pub(super) objects: Objects,
    pub(super) transaction: Option<Transaction>,
    pub(super) statements: BTreeMap<String, Prepared>,
    pub(super) portals: BTreeMap<String, Portal>,
    pub(super) locks: BTreeMap<String, u32>,
    /// Rows of `log` that were committed.
    pub(super) committed: Vec<String>,
    /// Channels that are listened on.
    pub(super) heard: usize,
    /// How many times it was ready for a query.
    pub(super) batch: usize,
    /// What the frontend has sent and was not looked at.
    pub(super) input: Vec<u8>,
    /// Answers on their way.
    pub(super) output: Vec<u8>,
    /// Answers that wait for a reason to be sent.
    held: Vec<u8>,
    skipping: bool,
    pub(super) copying: Option<CopyIn>,
    /// Data for COPY FROM STDIN came last, whether or not they were taken.
    pub(super) amid_copy: bool,
    /// Messages of the extended protocol came, and no Sync yet.
    pub(super) in_batch: bool,
    /// A block was failed since the client last waited for answers.
    pub(super) has_failed: bool,
    pub(super) is_closed: bool,
}

/// A prepared statement.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) sql: Sql,
    /// By PREPARE, not by Parse.
    pub(super) from_sql: bool,
    /// The batch in which it was made.
    pub(super) batch: usize,
}

/// A portal; a cursor is one too.
#[derive(Clone, Debug)]
pub(super) struct Portal {
    pub(super) sql: Sql,
    pub(super) kind: Kind,
    pub(super) parameters: Vec<String>,
    /// Rows still to come, once it was run; and the tag of a utility statement.
    pub(super) rows: Option<(VecDeque<String>, String)>,
    /// The batch in which it ran to its end.
    pub(super) done_in: Option<usize>,
    pub(super) is_failed: bool,
    pub(super) is_cursor: bool,
    pub(super) is_held: bool,
    /// Made in the open transaction, inside this many savepoints.
    pub(super) fresh: Option<usize>,
}

#[derive(Debug)]
pub(super) struct CopyIn {
    pub(super) table: String,
    pub(super) rows: Vec<String>,
    /// The statements behind it in a simple query; `None` in the extended protocol.
    pub(super) rest: Option<Query>,
}

/// A simple query under way.
#[derive(Debug, Default)]
pub(super) struct Query {
    rest: VecDeque<Sql>,
    is_implicit_block: bool,
}

/// An error.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(super) fn in_failed_block() -> Self {
        let message = "current transaction is aborted, commands ignored until end of transaction block";
        Self::new("25P02", message)
    }
}

/// What a statement gave.
pub(super) enum Outcome {
    Tag(String),
    Rows(Vec<String>, String),
    CopyIn(String),
    CopyOut(Vec<String>),
}

impl Backend {
    pub(super) fn new(process: ProcessId, startup: &[(String, String)]) -> Self {
        Self {
            process,
            settings: Settings::new(startup),
            objects: Objects::default(),
            transaction: None,
            statements: BTreeMap::new(),
            portals: BTreeMap::new(),
            locks: BTreeMap::new(),
            committed: Vec::new(),
            heard: 0,
            batch: 0,
            input: Vec::new(),
            output: Vec::new(),
            held: Vec::new(),
            skipping: false,
            copying: None,
            amid_copy: false,
            in_batch: false,
            has_failed: false,
            is_closed: false,
        }
    }

    /// Whether a whole message waits.
    pub(super) fn is_busy(&self) -> bool {
        !self.is_closed && matches!(frame::next(&self.input, frame::MESSAGE_BYTES_MAX), Ok(Next::Frame(_)))
    }

    pub(super) fn is_copying_in(&self) -> bool {
        self.copying.is_some()
    }

    pub(super) fn is_skipping(&self) -> bool {
        self.skipping
    }

    /// Takes one message, if one is there.
    pub(super) fn step(&mut self) {
        let Ok(Next::Frame(message)) = frame::next(&self.input, frame::MESSAGE_BYTES_MAX) else { return };
        let (tag, body, bytes) = (message.tag, message.body().to_vec(), message.bytes.len());
        self.input.drain(..bytes);
        if !self.is_closed {
            self.take(tag, &body);
        }
    }

    /// Takes one message.
    pub(super) fn take(&mut self, tag: u8, body: &[u8]) {
        if tag == frontend::TERMINATE {
            self.is_closed = true;
            return;
        }
        self.amid_copy = tag == frontend::COPY_DATA;
        match tag {
            frontend::SYNC => self.in_batch = self.copying.is_some(),
            frontend::PARSE | frontend::BIND | frontend::DESCRIBE | frontend::EXECUTE | frontend::CLOSE => {
                self.in_batch = true;
            }
            _ => {}
        }
        if self.copying.is_some() {
            return self.copy(tag, body);
        }
        if self.skipping && tag != frontend::SYNC {
            return;
        }
        let result = match tag {
            frontend::QUERY => return self.query(body),
            frontend::PARSE => self.parse(body),
            frontend::BIND => self.bind(body),
            frontend::DESCRIBE => self.describe(body),
            frontend::EXECUTE => self.execute(body),
            frontend::CLOSE => {
                self.close(body);
                Ok(())
            }
            frontend::SYNC => {
                self.skipping = false;
                self.finish_command();
                self.ready();
                Ok(())
            }
            frontend::FLUSH => {
                self.flush();
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(failure) = result {
            self.skipping = true;
            self.fail(&failure);
        }
    }

    /// Sends what was held back.
    pub(super) fn flush(&mut self) {
        self.output.append(&mut self.held);
    }

    pub(super) fn answer(&mut self, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
        build::frame(&mut self.held, tag, body);
    }

    pub(super) fn empty(&mut self, tag: u8) {
        self.answer(tag, |_| {});
    }

    pub(super) fn tag(&mut self, tag: &str) {
        self.answer(backend::COMMAND_COMPLETE, |body| cstr(body, tag));
    }

    fn ready(&mut self) {
        self.batch += 1;
        for (name, value) in self.settings.reports() {
            build::parameter_status(&mut self.held, name.as_bytes(), value.as_bytes());
        }
        let status = self.status();
        build::ready_for_query(&mut self.held, status);
        self.flush();
    }

    pub(super) fn status(&self) -> TransactionStatus {
        match &self.transaction {
            Some(transaction) if transaction.is_failed => TransactionStatus::Failed,
            Some(transaction) if transaction.is_block() => TransactionStatus::InBlock,
            _ => TransactionStatus::Idle,
        }
    }

    pub(super) fn notice(&mut self, code: &str, message: &str) {
        self.answer(backend::NOTICE, |body| report(body, "WARNING", code, message));
    }

    /// Tells of an error and rolls back what it undoes.
    fn fail(&mut self, failure: &Failure) {
        self.answer(backend::ERROR, |body| report(body, "ERROR", failure.code, &failure.message));
        self.flush();
        self.abort();
    }

    fn query(&mut self, body: &[u8]) {
        self.start_command();
        self.statements.remove("");
        let parsed = sql::parse(&text(body));
        let statements = match parsed {
            Ok(statements) => statements,
            Err(near) => {
                self.fail(&syntax_error(&near));
                return self.ready();
            }
        };
        if statements.is_empty() {
            self.empty(backend::EMPTY_QUERY);
            self.finish_command();
            return self.ready();
        }
        let is_implicit_block = statements.len() > 1;
        self.go_on(Query { rest: statements.into(), is_implicit_block });
    }

    /// Runs the statements of a simple query up to the end, an error or COPY FROM STDIN.
    fn go_on(&mut self, mut query: Query) {
        while let Some(statement) = query.rest.pop_front() {
            let outcome = self.run_in_query(&statement, query.is_implicit_block);
            match outcome {
                Ok(Outcome::CopyIn(table)) => {
                    self.answer(backend::COPY_IN, |body| body.extend_from_slice(&[0, 0, 1, 0, 0]));
                    self.flush();
                    self.copying = Some(CopyIn { table, rows: Vec::new(), rest: Some(query) });
                    return;
                }
                Ok(outcome) => self.completed_in_query(&statement, outcome, &query),
                Err(failure) => {
                    self.fail(&failure);
                    break;
                }
            }
        }
        self.ready();
    }

    fn run_in_query(&mut self, statement: &Sql, is_implicit_block: bool) -> Result<Outcome, Failure> {
        self.start_command();
        if self.is_failed() && !statement.ends_block() {
            return Err(Failure::in_failed_block());
        }
        if is_implicit_block {
            self.begin_implicit_block();
        }
        if statement.parameters() > 0 {
            return Err(Failure::new("42P02", "there is no parameter $1"));
        }
        self.analyze(statement)?;
        Self::plan(statement)?;
        self.portals.remove("");
        if statement.kind() == Kind::Select {
            self.row_description(statement);
        }
        self.run(statement, &[]).inspect_err(|_| {
            // What a simple query runs is the unnamed portal; a failed block keeps it.
            let mut portal = self.new_portal(statement.clone(), self.portal_kind(statement), Vec::new());
            portal.is_failed = true;
            self.portals.insert(String::new(), portal);
        })
    }

    fn completed_in_query(&mut self, statement: &Sql, outcome: Outcome, query: &Query) {
        match outcome {
            Outcome::Tag(tag) => self.tag(&tag),
            Outcome::Rows(rows, tag) => {
                if statement.kind() != Kind::Select {
                    self.row_description(statement);
                }
                for row in &rows {
                    self.row(row);
                }
                self.tag(&tag);
            }
            Outcome::CopyOut(rows) => self.copy_out(&rows),
            Outcome::CopyIn(_) => {}
        }
        if query.rest.is_empty() {
            self.end_implicit_block();
            self.finish_command();
        } else if statement.is_transaction_control() {
            self.finish_command();
        }
    }

    pub(super) fn row_description(&mut self, statement: &Sql) {
        let columns: &[&str] =
            if *statement == Sql::Inspection { &["kind", "name", "value"] } else { &["a"] };
        self.answer(backend::ROW_DESCRIPTION, |body| {
            body.extend_from_slice(&u16::try_from(columns.len()).unwrap().to_be_bytes());
            for column in columns {
                cstr(body, column);
                body.extend_from_slice(&[0; 18]);
            }
        });
    }

    /// A row; its columns are divided by tabulators, and `\N` is NULL.
    pub(super) fn row(&mut self, row: &str) {
        self.answer(backend::DATA_ROW, |body| {
            let columns: Vec<&str> = row.split('\t').collect();
            body.extend_from_slice(&u16::try_from(columns.len()).unwrap().to_be_bytes());
            for column in columns {
                if column == "\\N" {
                    body.extend_from_slice(&u32::MAX.to_be_bytes());
                } else {
                    body.extend_from_slice(&u32::try_from(column.len()).unwrap().to_be_bytes());
                    body.extend_from_slice(column.as_bytes());
                }
            }
        });
    }

    pub(super) fn copy_out(&mut self, rows: &[String]) {
        self.answer(backend::COPY_OUT, |body| body.extend_from_slice(&[0, 0, 1, 0, 0]));
        for row in rows {
            self.answer(backend::COPY_DATA, |body| body.extend_from_slice(format!("{row}\n").as_bytes()));
        }
        self.empty(backend::COPY_DONE);
        self.tag(&format!("COPY {}", rows.len()));
    }

    /// A message during COPY FROM STDIN.
    fn copy(&mut self, tag: u8, body: &[u8]) {
        let Some(mut copying) = self.copying.take() else { return };
        let failure = match tag {
            frontend::FLUSH | frontend::SYNC => {
                self.copying = Some(copying);
                return;
            }
            frontend::COPY_DATA => {
                let data = String::from_utf8_lossy(body).into_owned();
                copying.rows.extend(data.lines().map(str::to_owned));
                if !data.contains('\t') {
                    self.copying = Some(copying);
                    return;
                }
                Failure::new("22P04", "extra data after last expected column")
            }
            frontend::COPY_DONE => {
                let tag = format!("COPY {}", copying.rows.len());
                copying.rows.into_iter().for_each(|row| self.add_row(&copying.table, row));
                if let Some(query) = copying.rest {
                    self.completed_in_query(&Sql::CopyIn(copying.table), Outcome::Tag(tag), &query);
                    self.go_on(query);
                } else {
                    self.tag(&tag);
                    self.pipelined(&Sql::CopyIn(copying.table));
                }
                return;
            }
            frontend::COPY_FAIL => Failure::new("57014", format!("COPY from stdin failed: {}", text(body))),
            _ => {
                // PostgreSQL says which; behind Weir that may be one of Weir's own.
                self.fail(&Failure::new("08P01", "unexpected message type during COPY from stdin"));
                let message = "terminating connection because protocol synchronization was lost";
                self.answer(backend::ERROR, |body| report(body, "FATAL", "08P01", message));
                self.flush();
                self.is_closed = true;
                return;
            }
        };
        self.skipping = copying.rest.is_none();
        self.fail(&failure);
        if !self.skipping {
            self.ready();
        }
    }

    /// The next rows of a cursor.
    pub(super) fn fetch(&mut self, name: &str, count: u32) -> Result<Vec<String>, Failure> {
        let missing = || Failure::new("34000", format!("cursor \"{name}\" does not exist"));
        let mut portal = self.portals.get(name).cloned().ok_or_else(missing)?;
        if portal.is_failed {
            return Err(Failure::new("55000", format!("portal \"{name}\" cannot be run")));
        }
        if portal.rows.is_none()
            && let Outcome::Rows(rows, tag) = self.run(&portal.sql, &[])?
        {
            portal.rows = Some((rows.into(), tag));
        }
        let mut fetched = Vec::new();
        if let Some((rows, _)) = &mut portal.rows {
            let count = rows.len().min(usize::try_from(count).unwrap());
            fetched.extend(rows.drain(..count));
        }
        self.portals.insert(name.to_owned(), portal);
        Ok(fetched)
    }
}

pub(super) fn syntax_error(near: &str) -> Failure {
    Failure::new("42601", format!("syntax error at or near \"{near}\""))
}

fn report(body: &mut Vec<u8>, severity: &str, code: &str, message: &str) {
    for (field, value) in [(b'S', severity), (b'V', severity), (b'C', code), (b'M', message)] {
        body.push(field);
        cstr(body, value);
    }
    body.push(0);
}

fn cstr(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(text.as_bytes());
    body.push(0);
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}
