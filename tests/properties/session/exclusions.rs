//! What the generator leaves out, and why: the README's "What is not kept", and what the model does not know.

use weir::wire::frontend;

use super::backend::{Backend, Portal};
use super::conversation::{Client, Step};
use super::sql::{self, Argument, Kind, Sql};

/// Why a client's next step is left out, in the state that a backend of its own is in; `None` if it is not.
pub(super) fn reason(client: &Client, backend: &Backend, step: &Step) -> Option<&'static str> {
    if backend.amid_copy && !matches!(step, Step::CopyData(_) | Step::CopyDone | Step::CopyFail) {
        return Some("libpq: ends its data with CopyDone or CopyFail, or has read of an error");
    }
    if backend.is_copying_in() {
        let is_extended = matches!(
            step,
            Step::Parse { .. }
                | Step::Bind { .. }
                | Step::DescribeStatement(_)
                | Step::DescribePortal(_)
                | Step::Execute { .. }
                | Step::CloseStatement(_)
                | Step::ClosePortal(_)
        );
        return is_extended.then_some("PostgreSQL: ends the session; Weir may have answered it by itself");
    }
    if backend.is_skipping() {
        return None;
    }
    let prepared = |name: &str| backend.statements.get(name);
    let statements = |text: &str| sql::parse(text).unwrap_or_default();
    let is_reported = |name: &str| matches!(name, "datestyle" | "application_name");
    if let Step::Query(text) = step
        && client.startup.iter().any(|(name, _)| is_reported(name))
        && statements(text).iter().any(Sql::resets)
    {
        return Some("README: RESET reports the server's own default first");
    }
    if let Step::Query(text) | Step::Parse { text, .. } = step
        && backend.is_failed()
        && sql::parse(text).is_err()
    {
        return Some("README: a block that has only read refuses all but its end");
    }
    match step {
        Step::Query(text) => {
            let statements = statements(text);
            let (last, before) = statements.split_last()?;
            if !client.startup.is_empty()
                && (before.iter().any(Sql::resets) || backend.in_batch && last.resets())
            {
                return Some("README: behind RESET in a string or batch the server's own default is seen");
            }
            // The end of a failed block, and what comes behind it, may be sent before Weir has heard of the end.
            let is_first_to_know = backend.has_failed && !backend.is_failed();
            if (statements.len() > 1 || is_first_to_know) && statements.iter().any(names_statement) {
                return Some(SEES_SQL_ONLY);
            }
            [last].into_iter().chain(before).find_map(|sql| unknown_to_model(backend, sql))
        }
        Step::Parse { name, text } => {
            let statements = statements(text);
            let is_first_to_know = backend.has_failed && !backend.is_failed();
            let is_seen =
                |sql: &Sql| name.is_empty() && !is_first_to_know && names_protocol_statement(backend, sql);
            let sees = |sql: &Sql| !names_statement(sql) || is_seen(sql);
            if !statements.iter().all(sees) {
                return Some(SEES_SQL_ONLY);
            }
            if !client.startup.is_empty() && statements.iter().any(Sql::resets) {
                return Some("README: behind RESET in a batch the server's own default is seen");
            }
            statements.iter().find_map(|sql| unknown_to_model(backend, sql))
        }
        Step::DescribeStatement(name) | Step::Bind { statement: name, .. } if backend.is_failed() => {
            let sql = &prepared(name)?.sql;
            (!sql.ends_block() && *sql != Sql::Empty)
                .then_some("README: in a failed block what is prepared elsewhere is refused at once")
        }
        Step::Bind { statement, .. } => {
            let prepared = prepared(statement)?;
            let is_seen = names_protocol_statement(backend, &prepared.sql) && prepared.batch == backend.batch;
            (names_statement(&prepared.sql) && !is_seen).then_some(SEES_SQL_ONLY)
        }
        Step::DescribeStatement(name) => {
            let sql = &prepared(name)?.sql;
            matches!(sql, Sql::Execute(_) | Sql::Fetch { .. })
                .then_some("model: the result of EXECUTE and FETCH")
        }
        Step::DescribePortal(portal)
            if backend.portals.get(portal).is_some_and(|portal| is_over(portal, backend)) =>
        {
            Some(GONE)
        }
        Step::Execute { portal, .. } => {
            let portal = backend.portals.get(portal)?;
            if is_over(portal, backend) {
                return Some(GONE);
            }
            if names_statement(&portal.sql) && !names_protocol_statement(backend, &portal.sql) {
                return Some(SEES_SQL_ONLY);
            }
            let again = portal.done_in.is_some() && portal.kind == Kind::UtilityRows;
            again.then_some("model: a utility statement's rows, a second time")
        }
        _ => None,
    }
}

const SEES_SQL_ONLY: &str =
    "README: SQL sees a name of the protocol's as a statement by itself, simple or parsed unnamed";

/// Whether it names a statement that the protocol may have given the name.
fn names_statement(sql: &Sql) -> bool {
    let (Sql::Execute(name) | Sql::Deallocate(Some(name)) | Sql::Prepare { name, .. }) = sql else {
        return false;
    };
    name.starts_with('s')
}

/// Whether it names a statement that the protocol has given the name.
fn names_protocol_statement(backend: &Backend, sql: &Sql) -> bool {
    let (Sql::Execute(name) | Sql::Deallocate(Some(name)) | Sql::Prepare { name, .. }) = sql else {
        return false;
    };
    backend.statements.get(name).is_some_and(|prepared| !prepared.from_sql)
}

fn unknown_to_model(backend: &Backend, sql: &Sql) -> Option<&'static str> {
    match sql {
        Sql::Execute(name)
            if backend.statements.get(name).is_some_and(|of| of.sql.kind() != Kind::Select) =>
        {
            Some("model: EXECUTE of anything but a query")
        }
        Sql::Execute(name) if backend.statements.get(name).is_some_and(|of| of.sql == Sql::BackendPid) => {
            Some("README: pg_backend_pid() is the client's own where it is asked for plainly")
        }
        Sql::Execute(name) if backend.statements.get(name).is_some_and(|of| sets_custom(&of.sql)) => {
            Some("README: a custom setting that no statement names stays behind")
        }
        Sql::Prepare { statement, .. } if statement.kind() != Kind::Select => {
            Some("PostgreSQL: PREPARE takes plain statements only")
        }
        Sql::Fetch { name, .. } if backend.portals.get(name).is_some_and(|portal| !portal.is_cursor) => {
            Some("model: FETCH from a portal of the protocol")
        }
        _ => None,
    }
}

fn sets_custom(sql: &Sql) -> bool {
    matches!(sql, Sql::SetConfig { name: Argument::Constant(name), .. } if name.contains('.'))
}

/// Whether the client must read the answer before it goes on: RESET returns to the startup packet's value only with
/// the client's next message (README).
pub(super) fn must_wait(client: &Client, step: &Step) -> bool {
    !client.startup.is_empty()
        && step.message().is_some_and(|(tag, _)| tag == frontend::QUERY)
        && matches!(step, Step::Query(text) if sql::parse(text).unwrap_or_default().iter().any(Sql::resets))
}

const GONE: &str = "README: a portal that was run is gone with its batch";

/// It has run to its end, in a batch before: its server may be another one by now, or have never been.
fn is_over(portal: &Portal, backend: &Backend) -> bool {
    portal.done_in.is_some_and(|batch| batch < backend.batch)
}
