//! Explains statements on a connection of its own, and advises indexes for them.
//!
//! Nothing here executes a client's statement: EXPLAIN without ANALYZE, in a transaction that is READ ONLY and short by
//! its timeouts, one statement per message (the extended protocol takes no second one). It is rolled back to a savepoint
//! after each question, so that no lock outlives the question it was for. Planning itself may run IMMUTABLE and STABLE
//! functions; statements that call functions of users are therefore left alone.
//!
//! HypoPG's indexes are those of one server process, which nobody else uses: [`Explainer`] is exclusive by `&mut`, so on
//! one host there is one analysis at a time.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type};

use super::{ControlError, ControlSession, facts};
use crate::advice::analysis::Analysis;
use crate::advice::candidates::Candidate;
use crate::advice::choice::{Limits, Trial};
use crate::advice::effort::rows_read;
use crate::advice::mentions::names;
use crate::advice::plan::Node;
use crate::advice::plan_text::plan_text;
use crate::advice::samples::{Bound, Sample};
use crate::advice::schema::{Schema, TableName};
use crate::advice::text::literals;
use crate::advice::verdict::{Confidence, NoIndex, Proof, Tool, Verdict, hypothetical};
use crate::config::Login;
use crate::server::Connector;
use crate::sql::class::{Class, Reason};
use crate::sql::classify::Classes;

/// How far an analysis may go.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainOptions {
    /// Also UPDATE and DELETE, which are planned and never run.
    pub writes: bool,
    /// Use HypoPG where it is.
    pub hypopg: bool,
    /// One statement of ours may take so long.
    pub statement_timeout: Duration,
    /// The analysis of one statement of the client may take so long.
    pub analysis_timeout: Duration,
    /// What a gain must be.
    pub limits: Limits,
}

impl Default for ExplainOptions {
    fn default() -> Self {
        Self {
            writes: true,
            hypopg: true,
            statement_timeout: Duration::from_secs(2),
            analysis_timeout: Duration::from_secs(5),
            limits: Limits::default(),
        }
    }
}

/// What is to be explained.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Executions of one shape: the typical one first.
    pub samples: Vec<Sample>,
    /// What the texts' statements are.
    pub classes: Option<Classes>,
    /// The client's `search_path`; `None`: the login's.
    pub search_path: Option<String>,
    /// The role that it runs as, if the login may take it.
    pub role: Option<String>,
    /// Rows that it really gives, on average.
    pub rows_given: Option<f64>,
}

/// A connection for explaining, on one host.
#[derive(Debug)]
pub struct Explainer {
    pub(super) session: ControlSession,
    pub(super) options: ExplainOptions,
    /// Where HypoPG's functions are.
    hypopg: Option<String>,
    pub(super) schema: Schema,
}

/// EXPLAIN did not say what it should.
const NO_PLAN: &str = "EXPLAIN gave no plan";

/// A parameter as the client bound it.
#[derive(Debug)]
struct Raw<'a>(&'a Bound);

impl ToSql for Raw<'_> {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match &self.0.value {
            Some(value) => {
                out.extend_from_slice(value);
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        if self.0.is_binary { Format::Binary } else { Format::Text }
    }

    fn to_sql_checked(
        &self,
        of: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.to_sql(of, out)
    }
}

impl Explainer {
    /// Logs in to a host.
    pub async fn open(
        connector: &Connector,
        login: &Login,
        timeout: Duration,
        options: ExplainOptions,
    ) -> Result<Self, ControlError> {
        let session = ControlSession::open(connector, login, timeout).await?;
        // More than a statement may take, so that the server's own error comes first.
        let session = session.answering_within(options.statement_timeout.saturating_mul(2));
        let (server, hypopg) = facts::server(&session).await?;
        let casts = facts::casts(&session).await?;
        let hypopg = hypopg.filter(|_| options.hypopg);
        let schema = Schema { casts, server, ..Schema::default() };
        Ok(Self { session, options, hypopg, schema })
    }

    /// Forgets what is known of tables: before the analyses of a new round, and after DDL.
    pub fn forget(&mut self) {
        self.schema.tables.clear();
        self.schema.functions.clear();
    }

    /// Whether advice can be proven here.
    pub fn proves(&self) -> bool {
        self.hypopg.is_some()
    }

    /// The tables that were looked at so far.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Explains a statement and looks for indexes. An error is one of the connection; what the server does not explain
    /// is a verdict.
    pub async fn advise(&mut self, request: &Request) -> Result<Verdict, ControlError> {
        if let Some(verdict) = self.refused(request).await? {
            return Ok(verdict);
        }
        self.begin(request).await?;
        let verdict = Box::pin(self.analyze(request)).await;
        let ended = self.end().await;
        match verdict {
            Err(ControlError::Postgres(error)) if error.as_db_error().is_some() => {
                let verdict =
                    Verdict::nothing(NoIndex::NotExplained, ControlError::Postgres(error).to_string());
                ended.map(|()| verdict)
            }
            other => ended.and(other),
        }
    }

    /// The plan alone, as EXPLAIN (FORMAT JSON) gives it: to be shown on demand.
    pub async fn plan(&mut self, request: &Request) -> Result<String, ControlError> {
        self.begin(request).await?;
        let json = match request.samples.first() {
            Some(sample) => Box::pin(self.explain_json(&sample.text, &sample.bound)).await,
            None => Ok(String::new()),
        };
        self.end().await?;
        json
    }

    /// Why a statement is not explained at all.
    pub(super) async fn refused(&self, request: &Request) -> Result<Option<Verdict>, ControlError> {
        let refuse = |reason, detail: &str| Ok(Some(Verdict::nothing(reason, detail)));
        let classes = request.classes.as_ref().map(|classes| &*classes.statements);
        let Some([statement]) = classes else { return refuse(NoIndex::NotARead, "not one statement") };
        let is_locking = statement.class == Class::PrimaryRead && statement.facts.locks_rows;
        match statement.class {
            Class::Read => {}
            Class::PrimaryRead if is_locking => {}
            Class::Write if self.options.writes && statement.reason == Reason::DataModification => {}
            _ => return refuse(NoIndex::NotARead, statement.reason.as_str()),
        }
        let called: Vec<&str> = statement.functions.iter().map(|call| &*call.name.name).collect();
        if called.is_empty() {
            return Ok(None);
        }
        let users: Vec<String> =
            self.session.rows(USER_FUNCTIONS, &[&called]).await?.iter().map(|row| row.get(0)).collect();
        match users.first() {
            Some(name) => refuse(NoIndex::UserFunction, name),
            None => Ok(None),
        }
    }

    pub(super) async fn begin(&mut self, request: &Request) -> Result<(), ControlError> {
        let milliseconds = self.options.statement_timeout.as_millis();
        let begin = format!(
            "BEGIN READ ONLY; SET LOCAL statement_timeout = {milliseconds}; SET LOCAL lock_timeout = 100; \
             SET LOCAL idle_in_transaction_session_timeout = 5000; SET LOCAL max_parallel_workers_per_gather = 0"
        );
        self.session.run(&begin).await?;
        let settings = [("search_path", &request.search_path), ("role", &request.role)];
        let set = "SELECT pg_catalog.set_config($1, $2, true)";
        for (name, value) in
            settings.into_iter().filter_map(|(name, value)| value.as_deref().map(|value| (name, value)))
        {
            if let Err(error) = self.session.rows(set, &[&name, &value]).await {
                self.session.run("ROLLBACK").await?;
                return Err(error);
            }
        }
        self.session.run("SAVEPOINT weir").await?;
        self.reset_hypothetical().await
    }

    pub(super) async fn end(&mut self) -> Result<(), ControlError> {
        self.session.run("ROLLBACK TO SAVEPOINT weir").await?;
        let reset = self.reset_hypothetical().await;
        self.session.run("ROLLBACK").await?;
        reset
    }

    async fn reset_hypothetical(&self) -> Result<(), ControlError> {
        if let Some(schema) = &self.hypopg {
            self.session.rows(&format!("SELECT {schema}.hypopg_reset()"), &[]).await?;
        }
        Ok(())
    }

    async fn analyze(&mut self, request: &Request) -> Result<Verdict, ControlError> {
        let deadline = Instant::now() + self.options.analysis_timeout;
        let Some(first) = request.samples.first() else {
            return Ok(Verdict::nothing(NoIndex::NotExplained, "no execution is known"));
        };
        let wanted =
            self.session.client().prepare(&first.text).await.map(|prepared| prepared.params().to_vec());
        self.rollback().await?;
        let types: Vec<String> = wanted?.iter().map(|of| of.name().to_owned()).collect();
        let is_generic = first.bound.len() < types.len();
        let mut samples = request.samples.clone();
        if is_generic {
            let bound = self.typical(&first.text, &types).await?;
            samples = vec![Sample { text: first.text.clone(), bound }];
        }
        let json = Box::pin(self.explain_json(&samples[0].text, &samples[0].bound)).await?;
        let Some(plan) = Node::parse(&json) else {
            return Ok(Verdict::nothing(NoIndex::NotExplained, NO_PLAN));
        };
        self.learn(&plan).await?;
        let schema = std::mem::take(&mut self.schema);
        let verdict = Box::pin(self.search(&plan, &schema, &samples, request, is_generic, deadline)).await;
        self.schema = schema;
        let mut verdict = verdict?;
        verdict.plan = Some(json);
        verdict.plan_text = Some(plan_text(&plan));
        verdict.rows_read = rows_read(&plan, &self.schema);
        Ok(verdict)
    }

    /// From the plan to the verdict.
    async fn search(
        &mut self,
        plan: &Node,
        schema: &Schema,
        samples: &[Sample],
        request: &Request,
        is_generic: bool,
        deadline: Instant,
    ) -> Result<Verdict, ControlError> {
        let (mut analysis, probes) = Analysis::new(plan, schema);
        for probe in &probes {
            // What a plan prints cannot always be read back; then the column's own statistics must do.
            if let Ok(answer) = Box::pin(self.explain(&probe.sql, &[])).await {
                analysis.answer(probe, answer.rows);
            }
        }
        let statements: Vec<&str> = request.samples.iter().map(|sample| sample.text.as_str()).collect();
        let mut choice = analysis.choose(&literals(&statements), self.options.limits);
        let mut texts: Vec<(Vec<usize>, Option<String>)> = Vec::new();
        while let Some(set) = choice.next() {
            if Instant::now() > deadline {
                break;
            }
            let tried = Box::pin(self.trial(&analysis, &samples[0], &set)).await?;
            texts.push((set, tried.text));
            choice.record(tried.trial);
        }
        let mut chosen = choice.chosen().cloned();
        if let Some(trial) = &chosen
            && Box::pin(self.another_loses(&analysis, trial, samples)).await?
        {
            chosen = None;
        }
        let text = chosen.as_ref().and_then(|trial| texts.iter().find(|(set, _)| *set == trial.set));
        let proof = Proof {
            tool: if self.hypopg.is_some() { Tool::HypoPg } else { Tool::Statistics },
            cost_before: plan.total_cost,
            cost_after: chosen.as_ref().map_or(plan.total_cost, |trial| trial.cost),
            samples: samples.len(),
            plan_before: plan_text(plan),
            plan_after: text.and_then(|(_, text)| text.clone()),
        };
        let confidence = if is_generic { Confidence::ProvenGeneric } else { Confidence::Proven };
        Ok(analysis.verdict(chosen.as_ref(), choice.best_cost(), &proof, confidence, request.rows_given))
    }

    /// Whether the plan of an execution other than the first costs more with the indexes.
    async fn another_loses(
        &mut self,
        analysis: &Analysis<'_>,
        trial: &Trial,
        samples: &[Sample],
    ) -> Result<bool, ControlError> {
        if self.hypopg.is_none() {
            return Ok(false);
        }
        let set: Vec<&Candidate> = trial.set.iter().map(|&at| &analysis.candidates[at]).collect();
        for sample in samples.iter().skip(1) {
            let Ok(before) = Box::pin(self.explain(&sample.text, &sample.bound)).await else { continue };
            let Some((after, ..)) = Box::pin(self.with_hypothetical(sample, &set)).await? else { continue };
            if after.total_cost > before.total_cost * 1.05 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a set of candidates brings: by the planner where HypoPG can pretend them, by the model for the rest.
    async fn trial(
        &mut self,
        analysis: &Analysis<'_>,
        sample: &Sample,
        set: &[usize],
    ) -> Result<Tried, ControlError> {
        let set_of = |which: bool| {
            let mine = set.iter().map(|&at| &analysis.candidates[at]);
            mine.filter(|candidate| (candidate.method.is_hypothetical() && self.hypopg.is_some()) == which)
                .collect::<Vec<_>>()
        };
        let (pretended, modeled) = (set_of(true), set_of(false));
        let trial = |cost, is_used, bytes| Trial { set: set.to_vec(), cost, is_used, bytes };
        let mut bytes: f64 = modeled.iter().map(|candidate| analysis.bytes(candidate)).sum();
        if pretended.is_empty() {
            let trial = trial(analysis.modeled(analysis.plan, &modeled), true, bytes);
            return Ok(Tried { trial, text: None });
        }
        let Some((plan, is_used, size)) = Box::pin(self.with_hypothetical(sample, &pretended)).await? else {
            return Ok(Tried { trial: trial(f64::INFINITY, false, 0.0), text: None });
        };
        bytes += size;
        let cost = if modeled.is_empty() { plan.total_cost } else { analysis.modeled(&plan, &modeled) };
        Ok(Tried { trial: trial(cost, is_used, bytes), text: Some(plan_text(&plan)) })
    }

    /// The plan with hypothetical indexes, whether it uses them all, and their size; `None` if one cannot be.
    async fn with_hypothetical(
        &mut self,
        sample: &Sample,
        set: &[&Candidate],
    ) -> Result<Option<(Node, bool, f64)>, ControlError> {
        let Some(schema) = self.hypopg.clone() else { return Ok(None) };
        let create = format!(
            "SELECT c.indexname::text, {schema}.hypopg_relation_size(c.indexrelid)::float8 FROM {schema}.hypopg_create_index($1) c"
        );
        let (mut names, mut bytes, mut is_possible) = (Vec::new(), 0.0, true);
        for candidate in set.iter().filter(|candidate| candidate.method.is_hypothetical()) {
            match self.session.rows(&create, &[&hypothetical(candidate)]).await {
                Ok(rows) => {
                    for row in rows {
                        names.push(row.get::<_, String>(0));
                        bytes += row.get::<_, f64>(1);
                    }
                }
                Err(ControlError::Postgres(error)) if error.as_db_error().is_some() => {
                    tracing::debug!(index = hypothetical(candidate), %error, "no hypothetical index");
                    self.rollback().await?;
                    is_possible = false;
                }
                Err(error) => return Err(error),
            }
        }
        let plan =
            if is_possible { Some(Box::pin(self.explain(&sample.text, &sample.bound)).await) } else { None };
        self.reset_hypothetical().await?;
        let Some(plan) = plan.transpose()? else { return Ok(None) };
        let used = plan.indexes();
        let is_used = names.iter().all(|name| used.contains(&name.as_str()));
        Ok(Some((plan, is_used, bytes)))
    }

    /// Looks up what a plan names and is not known yet.
    pub(super) async fn learn(&mut self, plan: &Node) -> Result<(), ControlError> {
        let mut tables: Vec<TableName> = Vec::new();
        plan.walk(&mut |node| tables.extend(node.relation.clone()));
        tables.sort();
        tables.dedup();
        facts::tables(&self.session, &mut self.schema, &tables).await?;
        facts::functions(&self.session, &mut self.schema, names(plan)).await
    }

    async fn explain(&mut self, text: &str, bound: &[Bound]) -> Result<Node, ControlError> {
        let json = Box::pin(self.explain_json(text, bound)).await?;
        // An EXPLAIN without a plan says nothing of costs.
        Ok(Node::parse(&json).unwrap_or_else(Node::unknown))
    }

    /// EXPLAIN, and back to the savepoint whatever it said.
    pub(super) async fn explain_json(&mut self, text: &str, bound: &[Bound]) -> Result<String, ControlError> {
        let answer = self.asked(text, bound).await;
        self.rollback().await?;
        answer
    }

    async fn asked(&self, text: &str, bound: &[Bound]) -> Result<String, ControlError> {
        let types: Vec<Type> =
            bound.iter().map(|bound| Type::from_oid(bound.type_oid).unwrap_or(Type::UNKNOWN)).collect();
        let values: Vec<Raw<'_>> = bound.iter().map(Raw).collect();
        let parameters: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|value| value as &(dyn ToSql + Sync)).collect();
        let asking = async {
            let client = self.session.client();
            let prepared = client.prepare_typed(&format!("{EXPLAIN} {text}"), &types).await?;
            client.query_one(&prepared, &parameters).await
        };
        let limit = self.options.statement_timeout.saturating_mul(2);
        let row = tokio::time::timeout(limit, asking).await.map_err(|_| ControlError::Timeout)??;
        Ok(json(&row))
    }

    /// From now on until the next question is answered a table is read whole only where there is no other way.
    pub(super) async fn without_seq_scans(&self) -> Result<(), ControlError> {
        self.session.run("SET LOCAL enable_seqscan = off").await
    }

    pub(super) async fn rollback(&self) -> Result<(), ControlError> {
        self.session.run("ROLLBACK TO SAVEPOINT weir").await
    }
}

/// Never ANALYZE.
pub(super) const EXPLAIN: &str = "EXPLAIN (FORMAT JSON, VERBOSE, SETTINGS)";

/// Functions of these names that are neither PostgreSQL's own nor an extension's. Volatile ones are not run by planning.
const USER_FUNCTIONS: &str = "
SELECT p.proname::text FROM pg_catalog.pg_proc p
WHERE p.proname = ANY ($1::text[]) AND p.pronamespace <> 'pg_catalog'::regnamespace AND p.provolatile <> 'v'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')";

/// A trial, and the plan that came of it, as text.
struct Tried {
    trial: Trial,
    text: Option<String>,
}

/// The answer of EXPLAIN (FORMAT JSON): of type json, read as the text that it is.
pub(super) fn json(row: &tokio_postgres::Row) -> String {
    row.try_get::<_, Text>(0).map(|text| text.0).unwrap_or_default()
}

struct Text(String);

impl<'a> FromSql<'a> for Text {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
