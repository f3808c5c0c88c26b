//! Transactions of the modelled backend, and what its statements do in them (`xact.c`).

use std::collections::{BTreeMap, BTreeSet};

use super::backend::{Backend, Failure, Outcome, Prepared};
use super::sql::{Kind, Sql, is_setting};

/// What a rollback restores, settings aside.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    /// Temporary tables: their rows, and whether they go at the end of the transaction.
    pub(super) temporary: BTreeMap<String, (Vec<String>, bool)>,
    /// As the next commit leaves it.
    pub(super) listening: BTreeSet<String>,
    /// Rows of `log` that the open transaction has written.
    log: Vec<String>,
}

/// What a rollback restores.
#[derive(Clone, Debug)]
struct Snapshot {
    session: BTreeMap<String, String>,
    local: BTreeMap<String, String>,
    objects: Objects,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// One statement, or a batch up to Sync.
    Command,
    /// A string of several statements.
    ImplicitBlock,
    /// From BEGIN on.
    Block,
}

/// How a transaction ends with its command.
#[derive(Clone, Copy, Debug)]
struct End {
    commits: bool,
    chain: bool,
}

/// An open transaction.
#[derive(Clone, Debug)]
pub(super) struct Transaction {
    extent: Extent,
    begin: Snapshot,
    savepoints: Vec<(String, Snapshot)>,
    pub(super) is_failed: bool,
    end: Option<End>,
    pub(super) is_pipelined: bool,
    pub(super) commits_immediately: bool,
}

impl Transaction {
    pub(super) fn is_block(&self) -> bool {
        self.extent == Extent::Block
    }

    pub(super) fn depth(&self) -> usize {
        self.savepoints.len()
    }
}

impl Backend {
    fn snapshot(&self) -> Snapshot {
        let settings = &self.settings;
        Snapshot {
            session: settings.session.clone(),
            local: settings.local.clone(),
            objects: self.objects.clone(),
        }
    }

    fn restore(&mut self, snapshot: Snapshot) {
        self.settings.session = snapshot.session;
        self.settings.local = snapshot.local;
        self.objects = snapshot.objects;
    }

    pub(super) fn start_command(&mut self) {
        if self.transaction.is_none() {
            self.begin(Extent::Command);
        }
    }

    fn begin(&mut self, extent: Extent) {
        self.transaction = Some(Transaction {
            extent,
            begin: self.snapshot(),
            savepoints: Vec::new(),
            is_failed: false,
            end: None,
            is_pipelined: false,
            commits_immediately: false,
        });
    }

    pub(super) fn is_failed(&self) -> bool {
        self.transaction.as_ref().is_some_and(|transaction| transaction.is_failed)
    }

    /// The open transaction, which every command has.
    fn open(&mut self) -> &mut Transaction {
        self.transaction.as_mut().expect("a command runs in a transaction")
    }

    pub(super) fn begin_implicit_block(&mut self) {
        if self.open().extent == Extent::Command {
            self.open().extent = Extent::ImplicitBlock;
        }
    }

    pub(super) fn end_implicit_block(&mut self) {
        if self.open().extent == Extent::ImplicitBlock {
            self.open().extent = Extent::Command;
        }
    }

    /// `finish_xact_command`: ends the transaction if nothing keeps it open.
    pub(super) fn finish_command(&mut self) {
        let Some(transaction) = &mut self.transaction else { return };
        let end = match transaction.end.take() {
            Some(end) => end,
            None if transaction.extent == Extent::Command => End { commits: true, chain: false },
            None => return,
        };
        if end.commits {
            self.commit();
        } else {
            self.roll_back();
        }
        if end.chain {
            self.begin(Extent::Block);
        }
    }

    fn commit(&mut self) {
        self.transaction = None;
        self.settings.local.clear();
        self.objects.temporary.retain(|_, (_, drops)| !*drops);
        self.committed.append(&mut self.objects.log);
        self.heard = self.objects.listening.len();
        self.portals.retain(|_, portal| portal.is_held);
        self.portals.values_mut().for_each(|portal| portal.fresh = None);
    }

    fn roll_back(&mut self) {
        if let Some(transaction) = self.transaction.take() {
            self.restore(transaction.begin);
        }
        self.portals.retain(|_, portal| portal.fresh.is_none());
    }

    /// An error: rolls back to the last savepoint of a block, or all.
    pub(super) fn abort(&mut self) {
        let Some(transaction) = &mut self.transaction else { return };
        transaction.end = None;
        if !transaction.is_block() {
            return self.roll_back();
        }
        transaction.is_failed = true;
        let depth = transaction.depth();
        let last = transaction.savepoints.last().map(|(_, snapshot)| snapshot);
        let snapshot = last.unwrap_or(&transaction.begin).clone();
        self.restore(snapshot);
        let failed = |fresh: Option<usize>| fresh.is_some_and(|fresh| fresh >= depth);
        self.portals
            .values_mut()
            .filter(|portal| failed(portal.fresh))
            .for_each(|portal| portal.is_failed = true);
    }

    /// The session is over.
    pub(super) fn exit(&mut self) {
        self.roll_back();
        self.is_closed = true;
    }

    /// Parse analysis: do the tables and columns exist?
    pub(super) fn analyze(&self, sql: &Sql) -> Result<(), Failure> {
        let exists = |table: &String| {
            let missing = || Failure::new("42P01", format!("relation \"{table}\" does not exist"));
            (table == "log" || self.objects.temporary.contains_key(table)).then_some(()).ok_or_else(missing)
        };
        match sql {
            Sql::UnknownColumn(name) => {
                Err(Failure::new("42703", format!("column \"{name}\" does not exist")))
            }
            Sql::Count(table) | Sql::Insert { table, .. } => exists(table),
            Sql::Show(name) if self.settings.value(name).is_none() => Err(unknown_setting(name)),
            _ => Ok(()),
        }
    }

    /// Planning: constants are folded.
    pub(super) fn plan(sql: &Sql) -> Result<(), Failure> {
        match sql {
            Sql::DivideByZero => Err(Failure::new("22012", "division by zero")),
            _ => Ok(()),
        }
    }

    /// BEGIN, COMMIT and their like.
    fn control(&mut self, sql: &Sql) -> Result<Outcome, Failure> {
        let needs_block =
            |what: &str| Failure::new("25P01", format!("{what} can only be used in transaction blocks"));
        let is_block = self.open().is_block();
        let missing = |name: &str| Failure::new("3B001", format!("savepoint \"{name}\" does not exist"));
        let tag = match sql {
            Sql::Begin if is_block => {
                self.notice("25001", "there is already a transaction in progress");
                "BEGIN"
            }
            Sql::Begin => {
                self.open().extent = Extent::Block;
                "BEGIN"
            }
            Sql::Commit { chain } | Sql::Rollback { chain } => {
                let is_commit = matches!(sql, Sql::Commit { .. });
                let word = if is_commit { "COMMIT" } else { "ROLLBACK" };
                if !is_block && *chain {
                    return Err(needs_block(&format!("{word} AND CHAIN")));
                }
                if !is_block {
                    self.notice("25P01", "there is no transaction in progress");
                }
                let commits = is_commit && !self.is_failed();
                self.open().end = Some(End { commits, chain: *chain });
                if commits { "COMMIT" } else { "ROLLBACK" }
            }
            Sql::Savepoint(_) | Sql::RollbackTo(_) | Sql::Release(_) if !is_block => {
                return Err(needs_block(match sql {
                    Sql::Savepoint(_) => "SAVEPOINT",
                    Sql::RollbackTo(_) => "ROLLBACK TO SAVEPOINT",
                    _ => "RELEASE SAVEPOINT",
                }));
            }
            Sql::Savepoint(name) => {
                let snapshot = self.snapshot();
                self.open().savepoints.push((name.clone(), snapshot));
                "SAVEPOINT"
            }
            Sql::RollbackTo(name) => {
                let at = self.open().savepoints.iter().rposition(|(known, _)| known == name);
                let at = at.ok_or_else(|| missing(name))?;
                self.open().savepoints.truncate(at + 1);
                self.open().is_failed = false;
                let snapshot = self.open().savepoints[at].1.clone();
                self.restore(snapshot);
                self.portals.retain(|_, portal| portal.fresh.is_none_or(|fresh| fresh <= at));
                "ROLLBACK"
            }
            Sql::Release(name) => {
                let at = self.open().savepoints.iter().rposition(|(known, _)| known == name);
                let at = at.ok_or_else(|| missing(name))?;
                self.open().savepoints.truncate(at);
                for fresh in self.portals.values_mut().filter_map(|portal| portal.fresh.as_mut()) {
                    *fresh = (*fresh).min(at);
                }
                "RELEASE"
            }
            _ => "",
        };
        Ok(Outcome::Tag(tag.to_owned()))
    }

    fn not_in_block(&mut self, what: &str) -> Result<(), Failure> {
        let transaction = self.open();
        if transaction.extent != Extent::Command {
            return Err(Failure::new("25001", format!("{what} cannot run inside a transaction block")));
        }
        if transaction.is_pipelined {
            return Err(Failure::new("25001", format!("{what} cannot be executed within a pipeline")));
        }
        transaction.commits_immediately = true;
        Ok(())
    }

    /// Runs a statement.
    pub(super) fn run(&mut self, sql: &Sql, parameters: &[String]) -> Result<Outcome, Failure> {
        let rows = |rows: Vec<String>| {
            let tag = format!("SELECT {}", rows.len());
            Ok(Outcome::Rows(rows, tag))
        };
        let tag = |tag: &str| Ok(Outcome::Tag(tag.to_owned()));
        match sql {
            Sql::Begin
            | Sql::Commit { .. }
            | Sql::Rollback { .. }
            | Sql::Savepoint(_)
            | Sql::RollbackTo(_)
            | Sql::Release(_) => self.control(sql),
            Sql::Empty => tag(""),
            Sql::Set { name, value, local } => {
                let in_block = self.open().extent != Extent::Command;
                if *local && !in_block {
                    self.notice("25P01", "SET LOCAL can only be used in transaction blocks");
                }
                self.set(name, value.as_ref(), *local)?;
                tag("SET")
            }
            Sql::Reset(name) => {
                self.set(name, None, false)?;
                tag("RESET")
            }
            Sql::ResetAll => {
                self.settings.reset_all();
                tag("RESET")
            }
            Sql::Show(name) => {
                let value = self.settings.value(name).ok_or_else(|| unknown_setting(name))?;
                Ok(Outcome::Rows(vec![value], "SHOW".to_owned()))
            }
            Sql::SetConfig { name, value, local } => {
                let (name, value) = (name.value(parameters).to_lowercase(), value.value(parameters));
                self.set(&name, Some(&value), *local)?;
                rows(vec![value])
            }
            Sql::CurrentSetting(name) => {
                let value = self.settings.value(&name.to_lowercase());
                rows(vec![value.unwrap_or_else(|| "\\N".to_owned())])
            }
            Sql::Value(value) => rows(vec![value.value(parameters)]),
            Sql::DivideByZero | Sql::UnknownColumn(_) => Err(Failure::new("XX000", "it was planned")),
            Sql::Series(count) => rows((1..=*count).map(|number| number.to_string()).collect()),
            Sql::BackendPid => rows(vec![self.process.0.to_string()]),
            Sql::Count(table) => {
                let count = self.objects.temporary.get(table).map_or(0, |(rows, _)| rows.len());
                rows(vec![count.to_string()])
            }
            Sql::Insert { table, value } => {
                self.add_row(table, value.value(parameters));
                tag("INSERT 0 1")
            }
            Sql::CreateTemporary { table, on_commit_drop } => {
                self.create_temporary(table, *on_commit_drop)?;
                tag("CREATE TABLE")
            }
            Sql::DropTable(table) => match self.objects.temporary.remove(table) {
                Some(_) => tag("DROP TABLE"),
                None => Err(Failure::new("42P01", format!("table \"{table}\" does not exist"))),
            },
            Sql::CopyIn(table) => {
                self.analyze(&Sql::Count(table.clone()))?;
                Ok(Outcome::CopyIn(table.clone()))
            }
            Sql::CopyOut(count) => {
                Ok(Outcome::CopyOut((1..=*count).map(|number| number.to_string()).collect()))
            }
            Sql::Lock(key) => {
                *self.locks.entry(key.clone()).or_default() += 1;
                rows(vec![String::new()])
            }
            Sql::UnlockAll => {
                self.locks.clear();
                rows(vec![String::new()])
            }
            Sql::Unlock(key) => {
                let count = self.locks.entry(key.clone()).or_default();
                let had = *count > 0;
                *count = count.saturating_sub(1);
                self.locks.retain(|_, count| *count > 0);
                if !had {
                    self.notice("01000", "you don't own a lock of type ExclusiveLock");
                }
                rows(vec![if had { "t" } else { "f" }.to_owned()])
            }
            Sql::AppSet { name, value } => {
                self.set(&name.to_lowercase(), Some(value), false)?;
                rows(vec![value.clone()])
            }
            Sql::AppTemporary => {
                self.create_temporary("t1", false)?;
                rows(vec![String::new()])
            }
            Sql::Listen(channel) => {
                self.objects.listening.insert(channel.clone());
                tag("LISTEN")
            }
            Sql::Unlisten(channel) => {
                let all = channel.is_none();
                self.objects.listening.retain(|known| !all && Some(known) != channel.as_ref());
                tag("UNLISTEN")
            }
            Sql::Listening => rows(vec![self.heard.to_string()]),
            Sql::Inspection => rows(self.inspection()),
            Sql::Prepare { .. } | Sql::Execute(_) | Sql::Deallocate(_) => self.prepared(sql),
            Sql::Declare { .. } | Sql::Fetch { .. } | Sql::Close(_) => self.cursor(sql),
            Sql::DiscardAll => {
                self.not_in_block("DISCARD ALL")?;
                self.portals.retain(|_, portal| portal.sql == Sql::DiscardAll);
                self.settings.discard_all();
                self.deallocate_all();
                self.locks.clear();
                self.objects.listening.clear();
                self.objects.temporary.clear();
                tag("DISCARD ALL")
            }
            Sql::DiscardTemporary => {
                self.objects.temporary.clear();
                tag("DISCARD TEMP")
            }
            Sql::DiscardOther(what) => tag(what),
            Sql::Comment => tag("COMMENT"),
        }
    }

    fn prepared(&mut self, sql: &Sql) -> Result<Outcome, Failure> {
        let missing =
            |name: &str| Failure::new("26000", format!("prepared statement \"{name}\" does not exist"));
        let tag = match sql {
            Sql::Prepare { name, statement } => {
                self.analyze(statement)?;
                if self.statements.contains_key(name) {
                    let message = format!("prepared statement \"{name}\" already exists");
                    return Err(Failure::new("42P05", message));
                }
                let prepared = Prepared { sql: (**statement).clone(), from_sql: true, batch: self.batch };
                self.statements.insert(name.clone(), prepared);
                "PREPARE"
            }
            Sql::Execute(name) => {
                let sql = self.statements.get(name).ok_or_else(|| missing(name))?.sql.clone();
                if sql.parameters() > 0 {
                    let message = format!("wrong number of parameters for prepared statement \"{name}\"");
                    return Err(Failure::new("42601", message));
                }
                self.analyze(&sql)?;
                Self::plan(&sql)?;
                return self.run(&sql, &[]);
            }
            Sql::Deallocate(Some(name)) => {
                self.statements.remove(name).ok_or_else(|| missing(name))?;
                "DEALLOCATE"
            }
            _ => {
                self.deallocate_all();
                "DEALLOCATE ALL"
            }
        };
        Ok(Outcome::Tag(tag.to_owned()))
    }

    /// All but the unnamed one.
    fn deallocate_all(&mut self) {
        self.statements.retain(|name, _| name.is_empty());
    }

    fn cursor(&mut self, sql: &Sql) -> Result<Outcome, Failure> {
        let tag = match sql {
            Sql::Declare { name, hold, rows } => {
                if !hold && self.open().extent == Extent::Command {
                    let message = "DECLARE CURSOR can only be used in transaction blocks";
                    return Err(Failure::new("25P01", message));
                }
                if self.portals.contains_key(name) {
                    return Err(Failure::new("42P03", format!("cursor \"{name}\" already exists")));
                }
                let mut portal = self.new_portal(Sql::Series(*rows), Kind::Select, Vec::new());
                (portal.is_cursor, portal.is_held) = (true, *hold);
                self.portals.insert(name.clone(), portal);
                "DECLARE CURSOR".to_owned()
            }
            Sql::Fetch { count, name } => {
                let rows = self.fetch(name, *count)?;
                let tag = format!("FETCH {}", rows.len());
                return Ok(Outcome::Rows(rows, tag));
            }
            Sql::Close(Some(name)) => {
                let missing = || Failure::new("34000", format!("cursor \"{name}\" does not exist"));
                self.portals.remove(name).ok_or_else(missing)?;
                "CLOSE CURSOR".to_owned()
            }
            _ => {
                // The portal that runs this cannot be dropped by it.
                self.portals.retain(|_, portal| portal.sql == Sql::Close(None));
                "CLOSE CURSOR ALL".to_owned()
            }
        };
        Ok(Outcome::Tag(tag))
    }

    fn create_temporary(&mut self, table: &str, on_commit_drop: bool) -> Result<(), Failure> {
        if self.objects.temporary.contains_key(table) {
            return Err(Failure::new("42P07", format!("relation \"{table}\" already exists")));
        }
        self.objects.temporary.insert(table.to_owned(), (Vec::new(), on_commit_drop));
        Ok(())
    }

    pub(super) fn add_row(&mut self, table: &str, row: String) {
        match self.objects.temporary.get_mut(table) {
            Some((rows, _)) => rows.push(row),
            None => self.objects.log.push(row),
        }
    }

    fn set(&mut self, name: &str, value: Option<&String>, local: bool) -> Result<(), Failure> {
        if !is_setting(name) {
            return Err(unknown_setting(name));
        }
        if let Some(value) = value
            && value == "bad"
        {
            return Err(Failure::new(
                "22023",
                format!("invalid value for parameter \"{name}\": \"{value}\""),
            ));
        }
        self.settings.set(name, value.cloned(), local);
        Ok(())
    }

    /// What Weir asks for: settings, role, and what pins.
    fn inspection(&self) -> Vec<String> {
        let role = self.settings.value("role").unwrap_or_default();
        let shown = |name: &&String| !name.contains('.') && name.as_str() != "role";
        let settings = self.settings.session.iter().filter(|(name, _)| shown(name));
        let mut rows: Vec<String> =
            settings.map(|(name, value)| format!("setting\t{name}\t{value}")).collect();
        rows.push(format!("role\trole\t{role}"));
        let mut note = |pin: &str, is_there: bool| rows.extend(is_there.then(|| format!("{pin}\t\t")));
        note("temporary_object", !self.objects.temporary.is_empty());
        note("listen", !self.objects.listening.is_empty());
        note("advisory_lock", !self.locks.is_empty());
        note("sql_prepare", self.statements.values().any(|prepared| prepared.from_sql));
        note("hold_cursor", self.portals.values().any(|portal| portal.is_held));
        rows
    }
}

fn unknown_setting(name: &str) -> Failure {
    Failure::new("42704", format!("unrecognized configuration parameter \"{name}\""))
}
