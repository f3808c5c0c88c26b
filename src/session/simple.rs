//! Simple queries that run prepared: what a driver such as psycopg2 sends with its values inside goes to the server as a
//! template that it has, and the values beside it ([`crate::sql::template`]).
//!
//! Only reads are, outside of a transaction block of the server's: nothing has happened when the server refuses a
//! template, and the query is then run as it came (`session::again`), so that its client gets the error of its own text.
//! Of the answers the client sees what a simple query gets: a description, rows, the tag.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::frontend::Message;
use super::naming::{is_worth_preparing, prepare};
use super::server_state::{Expected, Running};
use super::{ServerState, Session, Shared, Statement};
use crate::pg::TransactionStatus;
use crate::route::Plan;
use crate::sql::Analysis;
use crate::wire::{build, frontend};

impl Session {
    /// Sends a simple query as its template, if it is a read whose template repeats. False: it is to go as it is.
    pub(super) fn run_template(
        &mut self,
        message: Message<'_>,
        analysis: &Analysis,
        plan: Option<&Arc<Plan>>,
        server: &mut ServerState,
        shared: &Shared,
        out: &mut Vec<u8>,
    ) -> bool {
        let Some(statement) = self.template_of(message, analysis, server, shared) else { return false };
        if !server.prepared.touch(&statement) {
            prepare(&statement, server, out);
        }
        build::bind(out, b"", &statement.server_name, &server.template.values);
        server.queue.push_back(Expected::Bind { shown: false, name: None, is_unknown: false });
        build::frame(out, frontend::DESCRIBE, |body| body.extend_from_slice(b"P\0"));
        server.queue.push_back(Expected::Describe);
        build::execute(out, b"");
        let running = Running { statement: Arc::clone(&statement), bound: None, plan: plan.cloned() };
        server.queue.push_back(Expected::Execute(Some(running)));
        build::empty(out, frontend::SYNC);
        server.queue.push_back(Expected::Sync);
        Self::keep_template(message, statement, server);
        true
    }

    fn template_of(
        &self,
        message: Message<'_>,
        analysis: &Analysis,
        server: &mut ServerState,
        shared: &Shared,
    ) -> Option<Arc<Statement>> {
        let is_preparation =
            |expected: &Expected| matches!(expected, Expected::Setup | Expected::Inspection(_));
        let may_fail = self.reading
            && self.status == TransactionStatus::Idle
            && !server.in_batch
            && server.queue.iter().all(is_preparation)
            && !Self::is_second_time(server);
        // Process ids and drawn numbers are told from the text that the client sent.
        let is_plain = |read: &crate::sql::Statement| !read.backend_pid && !read.sequence.reads;
        if !shared.prepare_simple
            || !may_fail
            || !is_worth_preparing(analysis)
            || !analysis.single().is_some_and(is_plain)
        {
            return None;
        }
        let text = frontend::same_query(message.body);
        let template = &mut server.template;
        let is_filled = analysis.form.as_ref().is_some_and(|form| template.fill(form, text));
        if !is_filled && !template.take(text, self.lexing) {
            return None;
        }
        let epoch = shared.ddl_epoch.load(Ordering::Acquire);
        let (text, types) = (&template.text, &template.types);
        let statement = shared.statements.intern_repeated(text, types, &self.settings, self.lexing, epoch)?;
        (!statement.is_unfit.load(Ordering::Relaxed)).then_some(statement)
    }
}
