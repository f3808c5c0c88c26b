//! Explains slow shapes in the background, one at a time, on a replica where there is one; and shapes that somebody asks for.
//!
//! It runs on a thread of its own (the parser wants a deep stack), never on a client's event loop. Looking for advice must
//! not become the load: so many analyses in a minute, each with its timeouts, and none while the one before goes on.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt as _;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

use super::existing::inventory;
use super::explain::{ExplainOptions, Explainer, Request};
use super::facts::indexes;
use super::scans::Scan;
use super::session::{ControlError, ControlSession};
use crate::advice::budget::Budget;
use crate::advice::choice::Limits;
use crate::advice::verdict::Verdict;
use crate::config::{ExplainOn, InsightSettings, Login, ServerSettings};
use crate::insight::Insight;
use crate::insight::plans::Task;
use crate::server::{Host, Hosts, Role};
use crate::sql::analyze;
use crate::sql::class::Class;
use crate::sql::classify::classify_anywhere;
use crate::sql::limits::PARSE_STACK_BYTES;

/// How often it is looked whether something is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Questions that wait.
const QUESTIONS_MAX: usize = 8;

/// One analysis, connecting included, takes no longer.
const ANALYSIS_MAX: Duration = Duration::from_secs(15);

/// Who is asked for indexes answers within.
const INDEXES_MAX: Duration = Duration::from_secs(2);

/// Asks for the plan of a shape.
#[derive(Clone, Debug)]
pub struct Advisor(mpsc::Sender<Question>);

#[derive(Debug)]
enum Question {
    Advise(u64, oneshot::Sender<Result<Verdict, String>>),
    Scans(u64, oneshot::Sender<Result<Vec<Scan>, String>>),
}

impl Advisor {
    /// Starts the thread. It ends with the last clone of what is given.
    pub fn start(insight: Arc<Insight>, hosts: Arc<Hosts>, servers: ServerSettings) -> std::io::Result<Self> {
        let (sender, questions) = mpsc::channel(QUESTIONS_MAX);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let settings = insight.settings().clone();
        let budget = Budget::new(settings.explain_per_minute);
        let advising = Advising { insight, hosts, servers, settings, budget };
        let thread = std::thread::Builder::new().name("weir-advisor".to_owned());
        thread
            .stack_size(PARSE_STACK_BYTES)
            .spawn(move || runtime.block_on(Box::pin(advising.run(questions))))?;
        Ok(Self(sender))
    }

    /// What the analysis of a shape comes to, now.
    pub async fn ask(&self, key: u64) -> Result<Verdict, String> {
        let (answer, answered) = oneshot::channel();
        let busy = |_| "other statements are being explained: try again".to_owned();
        self.0.try_send(Question::Advise(key, answer)).map_err(busy)?;
        answered.await.map_err(|_| ended_unexpectedly())?
    }

    /// The tables that a shape reads whole, waiting for its turn.
    pub async fn scans(&self, key: u64) -> Result<Vec<Scan>, String> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Question::Scans(key, answer)).await.map_err(|_| ended_unexpectedly())?;
        answered.await.map_err(|_| ended_unexpectedly())?
    }
}

fn ended_unexpectedly() -> String {
    "the analysis ended unexpectedly".to_owned()
}

struct Advising {
    insight: Arc<Insight>,
    hosts: Arc<Hosts>,
    servers: ServerSettings,
    settings: InsightSettings,
    budget: Budget,
}

impl Advising {
    async fn run(mut self, mut questions: mpsc::Receiver<Question>) {
        loop {
            tokio::select! {
                question = questions.recv() => match question {
                    // Who asked may have gone.
                    Some(Question::Advise(key, answer)) => _ = answer.send(self.answer(key).await),
                    Some(Question::Scans(key, answer)) => _ = answer.send(self.scans(key).await),
                    None => return,
                },
                () = tokio::time::sleep(LOOK_EVERY) => self.look().await,
            }
        }
    }

    /// Analyzes what is due, if there is budget for it.
    async fn look(&mut self) {
        if self.settings.explain == ExplainOn::Off {
            return;
        }
        // Before anything is analyzed again: what is advised no more may have been built.
        self.look_at_indexes().await;
        self.insight.measure(SystemTime::now());
        self.look_at_existing().await;
        let Some(task) = self.insight.due(Instant::now()) else { return };
        if self.host(false).is_none() || !self.budget.take(Instant::now()) {
            return;
        }
        let outcome = self.analyze(&task).await;
        if let Err(error) = &outcome {
            tracing::info!(fingerprint = task.fingerprint, error, "a slow statement was not explained");
        }
        self.insight.analyzed(&task, outcome, Instant::now(), SystemTime::now());
    }

    /// Whether somebody has built what was advised.
    async fn look_at_indexes(&self) {
        for (dbname, tables) in self.insight.watched_tables(Instant::now()) {
            let Some(primary) = self.hosts.primary() else { return };
            let login = Login { database: dbname.to_string(), ..self.servers.control.clone() };
            let asking = async {
                let host = self.hosts.host(primary);
                let session =
                    ControlSession::open(&host.connector, &login, self.servers.connect_timeout).await?;
                indexes(&session.answering_within(INDEXES_MAX), &tables).await
            };
            match Box::pin(asking).await {
                Ok(found) => self.insight.saw_indexes(&dbname, &found),
                Err(error) => tracing::debug!(%error, "nobody tells which indexes there are"),
            }
        }
    }

    /// Which indexes of the tables in use are invalid, superfluous or unused.
    async fn look_at_existing(&self) {
        let Some((dbname, tables)) = self.insight.state().indexes.due(Instant::now()) else { return };
        let asking = inventory(&self.hosts, &self.servers, &dbname, &tables);
        let found = match tokio::time::timeout(ANALYSIS_MAX, Box::pin(asking)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(%error, "nobody tells which indexes there are");
                None
            }
            Err(_) => None,
        };
        self.insight.state().indexes.found(&dbname, found.as_ref(), Instant::now(), SystemTime::now());
    }

    async fn answer(&mut self, key: u64) -> Result<Verdict, String> {
        if self.settings.explain == ExplainOn::Off {
            return Err("insight.explain is off".to_owned());
        }
        let task = self.task(key)?;
        let outcome = self.analyze(&task).await;
        self.insight.analyzed(&task, outcome.clone(), Instant::now(), SystemTime::now());
        outcome
    }

    async fn scans(&mut self, key: u64) -> Result<Vec<Scan>, String> {
        let task = self.task(key)?;
        self.asking(&task, async |explainer, request| explainer.scans(request).await).await
    }

    fn task(&self, key: u64) -> Result<Task, String> {
        let state = self.insight.state();
        let task = state.plans.task(key, &state.statistics, &state.samples, Instant::now());
        task.ok_or_else(|| "there is no such shape".to_owned())
    }

    async fn analyze(&self, task: &Task) -> Result<Verdict, String> {
        self.asking(task, async |explainer, request| explainer.advise(request).await).await
    }

    /// Asks something about a task, where that is allowed.
    async fn asking<T>(
        &self,
        task: &Task,
        ask: impl AsyncFn(&mut Explainer, &Request) -> Result<T, ControlError>,
    ) -> Result<T, String> {
        let text = task.samples.first().map(|sample| sample.text.as_bytes()).unwrap_or_default();
        let analysis = analyze(text, task.standard_conforming_strings);
        let classes = classify_anywhere(text, task.standard_conforming_strings, &analysis);
        let writes = classes.statements.iter().any(|statement| statement.class == Class::Write);
        let host = self.host(writes).ok_or("no host that may be asked is up")?;
        let mut request = Request {
            samples: task.samples.clone(),
            classes: Some(classes),
            search_path: task.search_path.clone(),
            role: Some(task.user.to_string()),
            rows_given: Some(task.rows_given),
        };
        let asking = async {
            let login = Login { database: task.dbname.to_string(), ..self.servers.control.clone() };
            if login.user == *task.user {
                request.role = None;
            }
            let options = ExplainOptions {
                writes: self.settings.explain_writes,
                limits: Limits::default(),
                ..ExplainOptions::default()
            };
            let timeout = self.servers.connect_timeout;
            let mut explainer = Box::pin(Explainer::open(&host.connector, &login, timeout, options)).await?;
            match Box::pin(ask(&mut explainer, &request)).await {
                // The login may not take the client's role: its own must do.
                Err(_) if request.role.is_some() => {
                    request.role = None;
                    Box::pin(ask(&mut explainer, &request)).await
                }
                answer => answer,
            }
        };
        // A mistake in an analysis must not end all others.
        let asking = AssertUnwindSafe(tokio::time::timeout(ANALYSIS_MAX, asking)).catch_unwind();
        match asking.await.map_err(|_| ended_unexpectedly())? {
            Ok(outcome) => outcome.map_err(|error| error.to_string()),
            Err(_) => Err("the analysis took too long".to_owned()),
        }
    }

    /// Where to ask: what writes is planned on the primary only.
    fn host(&self, writes: bool) -> Option<&Arc<Host>> {
        let primary = || self.hosts.primary().map(|id| self.hosts.host(id));
        if writes {
            return primary().filter(|_| self.settings.explain_writes);
        }
        let replica = self.hosts.list().iter().find(|host| host.role() == Role::Replica);
        replica.or_else(|| primary().filter(|_| self.settings.explain == ExplainOn::Any))
    }
}
