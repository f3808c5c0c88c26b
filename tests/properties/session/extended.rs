//! The extended protocol of the modelled backend: Parse, Bind, Describe, Execute, Close.

use weir::wire::frame::Fields;
use weir::wire::{backend, frontend};

use super::backend::{Backend, CopyIn, Failure, Outcome, Portal, Prepared, syntax_error, text};
use super::sql::{self, Kind, Sql};
use super::transaction::Transaction;

impl Backend {
    pub(super) fn parse(&mut self, body: &[u8]) -> Result<(), Failure> {
        let parse = frontend::parse(body).expect("a well-formed Parse");
        let name = String::from_utf8_lossy(parse.name).into_owned();
        self.start_command();
        if name.is_empty() {
            self.statements.remove("");
        }
        let mut statements =
            sql::parse(&String::from_utf8_lossy(parse.text)).map_err(|near| syntax_error(&near))?;
        if statements.len() > 1 {
            return Err(Failure::new("42601", "cannot insert multiple commands into a prepared statement"));
        }
        let sql = statements.pop().unwrap_or(Sql::Empty);
        if self.is_failed() && sql != Sql::Empty && !sql.ends_block() {
            return Err(Failure::in_failed_block());
        }
        self.analyze(&sql)?;
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(Failure::new("42P05", format!("prepared statement \"{name}\" already exists")));
        }
        self.statements.insert(name, Prepared { sql, from_sql: false, batch: self.batch });
        self.empty(backend::PARSE_COMPLETE);
        Ok(())
    }

    fn statement(&self, name: &str) -> Result<Sql, Failure> {
        self.statements.get(name).map(|prepared| prepared.sql.clone()).ok_or_else(|| {
            let message = if name.is_empty() {
                "unnamed prepared statement does not exist".to_owned()
            } else {
                format!("prepared statement \"{name}\" does not exist")
            };
            Failure::new("26000", message)
        })
    }

    pub(super) fn bind(&mut self, body: &[u8]) -> Result<(), Failure> {
        let bind = frontend::bind(body).expect("a well-formed Bind");
        let (portal, name) = (text(bind.portal), text(bind.statement));
        self.start_command();
        let sql = self.statement(&name)?;
        let parameters = parameters(bind.rest);
        if parameters.len() != sql.parameters() {
            let message = format!(
                "bind message supplies {} parameters, but prepared statement \"{name}\" requires {}",
                parameters.len(),
                sql.parameters()
            );
            return Err(Failure::new("08P01", message));
        }
        if self.is_failed() && sql != Sql::Empty && !sql.ends_block() {
            return Err(Failure::in_failed_block());
        }
        if !portal.is_empty() && self.portals.contains_key(&portal) {
            return Err(Failure::new("42P03", format!("cursor \"{portal}\" already exists")));
        }
        self.portals.remove(&portal);
        self.analyze(&sql)?;
        Self::plan(&sql)?;
        let kind = self.portal_kind(&sql);
        let made = self.new_portal(sql, kind, parameters);
        self.portals.insert(portal, made);
        self.empty(backend::BIND_COMPLETE);
        Ok(())
    }

    /// Whether EXECUTE and FETCH have rows depends on what they name.
    pub(super) fn portal_kind(&self, sql: &Sql) -> Kind {
        match sql {
            Sql::Execute(name) if !self.statements.contains_key(name) => Kind::Utility,
            Sql::Fetch { name, .. } if !self.portals.contains_key(name) => Kind::Utility,
            sql => sql.kind(),
        }
    }

    pub(super) fn new_portal(&self, sql: Sql, kind: Kind, parameters: Vec<String>) -> Portal {
        let depth = self.transaction.as_ref().map_or(0, Transaction::depth);
        Portal {
            sql,
            kind,
            parameters,
            rows: None,
            done_in: None,
            is_failed: false,
            is_cursor: false,
            is_held: false,
            fresh: Some(depth),
        }
    }

    pub(super) fn describe(&mut self, body: &[u8]) -> Result<(), Failure> {
        self.start_command();
        let (sql, kind) = match frontend::named(body).expect("a well-formed Describe") {
            frontend::Named::Statement(name) => {
                let sql = self.statement(&text(name))?;
                let has_rows = matches!(sql.kind(), Kind::Select | Kind::UtilityRows);
                if self.is_failed() && has_rows {
                    return Err(Failure::in_failed_block());
                }
                if has_rows {
                    self.analyze(&sql)?;
                }
                let count = sql.parameters();
                self.answer(backend::PARAMETER_DESCRIPTION, |body| {
                    body.extend_from_slice(&u16::try_from(count).unwrap().to_be_bytes());
                    body.extend(std::iter::repeat_n([0, 0, 0, 25], count).flatten());
                });
                let kind = sql.kind();
                (sql, kind)
            }
            frontend::Named::Portal(name) => {
                let portal = self.portal(&text(name))?;
                let has_rows = matches!(portal.kind, Kind::Select | Kind::UtilityRows);
                if self.is_failed() && has_rows {
                    return Err(Failure::in_failed_block());
                }
                (portal.sql, portal.kind)
            }
        };
        match kind {
            Kind::Select | Kind::UtilityRows => self.row_description(&sql),
            Kind::Insert | Kind::Utility => self.empty(backend::NO_DATA),
        }
        Ok(())
    }

    fn portal(&self, name: &str) -> Result<Portal, Failure> {
        let missing = || Failure::new("34000", format!("portal \"{name}\" does not exist"));
        self.portals.get(name).cloned().ok_or_else(missing)
    }

    pub(super) fn execute(&mut self, body: &[u8]) -> Result<(), Failure> {
        let (name, limit) = frontend::execute(body).expect("a well-formed Execute");
        let name = text(name);
        let mut portal = self.portal(&name)?;
        if portal.sql == Sql::Empty {
            self.empty(backend::EMPTY_QUERY);
            return Ok(());
        }
        self.start_command();
        if self.is_failed() && !portal.sql.ends_block() {
            return Err(Failure::in_failed_block());
        }
        if portal.is_failed
            || portal.done_in.is_some() && !matches!(portal.kind, Kind::Select | Kind::UtilityRows)
        {
            return Err(Failure::new("55000", format!("portal \"{name}\" cannot be run")));
        }
        if portal.rows.is_none() {
            match self.run(&portal.sql, &portal.parameters)? {
                Outcome::Rows(rows, tag) => portal.rows = Some((rows.into(), tag)),
                outcome => {
                    let batch = self.batch;
                    if let Some(kept) = self.portals.get_mut(&name) {
                        kept.done_in = Some(batch);
                    }
                    match outcome {
                        Outcome::Tag(tag) => self.tag(&tag),
                        Outcome::CopyOut(rows) => self.copy_out(&rows),
                        Outcome::CopyIn(table) => {
                            self.answer(backend::COPY_IN, |body| body.extend_from_slice(&[0, 0, 1, 0, 0]));
                            self.flush();
                            self.copying = Some(CopyIn { table, rows: Vec::new(), rest: None });
                            return Ok(());
                        }
                        Outcome::Rows(..) => {}
                    }
                    self.pipelined(&portal.sql);
                    return Ok(());
                }
            }
        }
        if let Some((rows, tag)) = &mut portal.rows {
            let limit = usize::try_from(limit).unwrap();
            let count = if limit == 0 { rows.len() } else { rows.len().min(limit) };
            let now: Vec<String> = rows.drain(..count).collect();
            let is_suspended = limit > 0 && count == limit;
            let tag = if portal.kind == Kind::Select { format!("SELECT {count}") } else { tag.clone() };
            for row in &now {
                self.row(row);
            }
            if is_suspended {
                self.empty(backend::PORTAL_SUSPENDED);
            } else {
                portal.done_in = Some(self.batch);
                self.tag(&tag);
            }
            let sql = portal.sql.clone();
            self.portals.insert(name, portal);
            if !is_suspended {
                self.pipelined(&sql);
            }
        }
        Ok(())
    }

    /// An Execute has completed.
    pub(super) fn pipelined(&mut self, sql: &Sql) {
        let immediately =
            self.transaction.as_ref().is_some_and(|transaction| transaction.commits_immediately);
        if sql.is_transaction_control() || immediately {
            self.finish_command();
        } else if let Some(transaction) = &mut self.transaction {
            transaction.is_pipelined = true;
        }
    }

    pub(super) fn close(&mut self, body: &[u8]) {
        match frontend::named(body).expect("a well-formed Close") {
            frontend::Named::Statement(name) => drop(self.statements.remove(&text(name))),
            frontend::Named::Portal(name) => drop(self.portals.remove(&text(name))),
        }
        self.empty(backend::CLOSE_COMPLETE);
    }
}

/// The parameters of a Bind, all of them text.
fn parameters(rest: &[u8]) -> Vec<String> {
    let mut fields = Fields::new(rest);
    let formats = usize::from(fields.u16().unwrap());
    fields.bytes(2 * formats).unwrap();
    let count = fields.u16().unwrap();
    let mut parameter = || {
        let bytes = usize::try_from(fields.u32().unwrap()).unwrap();
        text(fields.bytes(bytes).unwrap())
    };
    (0..count).map(|_| parameter()).collect()
}
