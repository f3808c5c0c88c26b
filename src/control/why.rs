//! Answers a person's question about a statement: what it does, and where it would go now. For `weir why`, which looks
//! around for it, and for the console, which knows already.

use tokio::sync::oneshot;

use crate::cache;
use crate::catalog::{Catalog, Effect, OnPrimary, SearchPath, effect_without_catalog};
use crate::config::{CacheSettings, Consistency, SplittingSettings};
use crate::consistency::{Floors, Standing, Ticket};
use crate::pg::HostId;
use crate::route::{Block, Candidate, Facts, Pinned, Reason, Route, decide, why};
use crate::server::Hosts;
use crate::sql::classify::{Classes, classify_anywhere};
use crate::sql::limits::PARSE_STACK_BYTES;
use crate::sql::{Analysis, analyze};

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The text as a client would send it.
    pub text: String,
    /// The client's `search_path`, if not its default.
    pub search_path: Option<String>,
    /// Behind BEGIN.
    pub in_transaction: bool,
}

/// The `search_path` of a question is not a list of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("search_path: not a list of names")]
pub struct NotAPath;

/// What is known of a database, and of where reads may go.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// All hosts.
    pub hosts: &'a Hosts,
    /// Whether reads are split off, and how.
    pub splitting: Option<&'a SplittingSettings>,
    /// What a read of this database must have seen.
    pub consistency: Consistency,
    /// How results are kept.
    pub cache: &'a CacheSettings,
    /// The database, as the servers call it.
    pub database: &'a str,
    /// Who wrote its tables last.
    pub floors: &'a Floors,
    /// What its names mean, or why that is not known.
    pub catalog: Result<&'a Catalog, OnPrimary>,
    /// Who asks.
    pub user: &'a str,
}

/// Names and values.
pub type Lines = Vec<(&'static str, String)>;

impl Question {
    /// Says what the text is by itself: on a thread with room for the parser, while others go on.
    pub async fn classify(&self) -> std::io::Result<(Analysis, Classes)> {
        let text = self.text.clone();
        let (sender, receiver) = oneshot::channel();
        let classify = move || {
            let analysis = analyze(text.as_bytes(), true);
            let classes = classify_anywhere(text.as_bytes(), true, &analysis);
            // Who does not wait any more does not want it.
            let _ = sender.send((analysis, classes));
        };
        std::thread::Builder::new().stack_size(PARSE_STACK_BYTES).spawn(classify)?;
        receiver.await.map_err(|_| std::io::Error::other("the parser ended unexpectedly"))
    }

    /// The answer: to a person, and as the route that it comes to.
    pub fn answer(
        &self,
        analysis: &Analysis,
        classes: &Classes,
        known: &Known<'_>,
    ) -> Result<(Lines, Route), NotAPath> {
        let path = match (&self.search_path, known.catalog) {
            (Some(value), _) => Some(SearchPath::from_value(value, known.user).ok_or(NotAPath)?),
            (None, Ok(catalog)) => catalog.default_search_path(known.user),
            (None, Err(_)) => None,
        };
        let effect: Effect = match (known.catalog, &path) {
            (Ok(catalog), Some(path)) => catalog.effect(analysis, classes, path),
            (Ok(catalog), None) => {
                effect_without_catalog(OnPrimary::UnknownSearchPath, catalog.changes(), classes)
            }
            (Err(reason), _) => effect_without_catalog(reason, 0, classes),
        };
        let positions = known.floors.positions();
        let need =
            known.floors.need(&known.floors.watch(&effect.reads), known.consistency, Ticket::default());
        let max_lag = known.splitting.map(|splitting| splitting.max_lag).unwrap_or_default();
        let candidates = known.hosts.list().iter().map(|host| Candidate {
            host: host.id,
            standing: positions.standing(host.id, need, max_lag),
            weight: host.weight,
            outstanding: 0,
        });
        // The primary has reported no position as a replica.
        let candidates = candidates.filter(|candidate| candidate.standing != Standing::Unknown);
        let facts = Facts {
            splitting: known.splitting.is_some(),
            pinned: Pinned::No,
            hint: analysis.hints.target,
            primary_reads: known.splitting.map(|splitting| splitting.primary_reads).unwrap_or_default(),
            // Whose turn it is nobody knows.
            primary: None,
            parameter_names_time: false,
            turn: 0,
        };
        let is_lazy = known.splitting.is_none_or(|splitting| splitting.lazy_transactions);
        let block = match (self.in_transaction, is_lazy) {
            (false, _) => Block::None,
            (true, true) => Block::Lazy,
            (true, false) => Block::Eager { isolation: false },
        };
        let route = decide(&effect, block, &facts, candidates);
        let name = |host: HostId| known.hosts.host(host).name().to_owned();
        let text = self.text.as_bytes();
        let mut lines = why(text, analysis, classes, known.catalog.ok(), &effect, &route, name);
        lines.push(("cache", cache_verdict(analysis, classes, &effect, known)));
        if route.reason == Reason::Statement(OnPrimary::UnknownRelation) {
            let path = path.map(|path| path.schemas().collect::<Vec<_>>().join(", "));
            lines.push(("searched", path.unwrap_or_default()));
        }
        Ok((lines, route))
    }
}

/// Whether the result may be answered from memory, as if that were on; if not, why.
fn cache_verdict(analysis: &Analysis, classes: &Classes, effect: &Effect, known: &Known<'_>) -> String {
    let terms = cache::may_keep(effect, classes).and_then(|()| {
        let reads = &effect.reads.relations;
        let rules =
            cache::rules_for(known.cache, known.catalog.ok(), known.database, analysis.fingerprint, reads);
        cache::terms(analysis, known.cache, &rules, known.user)
    });
    match terms {
        Ok(terms) => {
            let when = if terms.at_once { "at once" } else { "when hot" };
            let off = if known.cache.enabled { "" } else { "; but the cache is off" };
            format!("{when}, for {:?}, up to {} bytes{off}", terms.ttl, terms.max_entry)
        }
        Err(reason) => format!("no ({})", reason.as_str()),
    }
}
