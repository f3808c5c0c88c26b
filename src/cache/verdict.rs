//! Verdicts, kept: whether the results of a plan may be kept, with all that is found out once per plan.

use std::sync::Arc;

use ahash::HashMap;

use super::Cache;
use super::epochs::{Epochs, Watch};
use super::reason::Reason;
use super::rule::{may_keep, rules_for};
use super::shapes::Shape;
use crate::catalog::Catalog;
use crate::config::{CacheSettings, SharedSettings};
use crate::route::Plan;
use crate::sql::classify::Classes;
use crate::sql::scan::Lexing;
use crate::sql::{Analysis, analyze_into};

/// What is to be known of a plan.
#[derive(Debug)]
pub struct Verdict {
    /// Whether its results may be kept; if not, why.
    pub may_keep: Result<(), Reason>,
    /// The epochs of what it reads.
    pub watch: Arc<Watch>,
    /// The rules of the settings that speak of it.
    pub rules: Box<[usize]>,
    /// How the cache has done for it.
    pub shape: Arc<Shape>,
}

/// More are not kept; they are found out again in no time.
const ENTRIES_MAX: usize = 8192;

/// One worker's verdicts on the plans of one database.
#[derive(Debug, Default)]
pub struct Verdicts(HashMap<usize, Known>);

#[derive(Debug)]
struct Known {
    /// Held, so that its address cannot come to mean another.
    plan: Arc<Plan>,
    /// By which it was found out.
    settings: SharedSettings,
    verdict: Arc<Verdict>,
}

/// What a verdict is found out from.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The statement's text.
    pub text: &'a [u8],
    /// See there.
    pub lexing: Lexing,
    /// What it says.
    pub analysis: &'a Analysis,
    /// What it does.
    pub classes: &'a Classes,
    /// What its names mean.
    pub catalog: Option<&'a Catalog>,
    /// The database, as the servers call it.
    pub database: &'a str,
}

impl Verdicts {
    /// The verdict on a plan.
    pub fn of(
        &mut self,
        plan: &Arc<Plan>,
        evidence: &Evidence<'_>,
        epochs: &Epochs,
        cache: &Cache,
        settings: &SharedSettings,
    ) -> Arc<Verdict> {
        if let Some(known) = self.known(plan, settings) {
            return Arc::clone(known);
        }
        let verdict = Arc::new(find_out(plan, evidence, epochs, cache, &settings.cache));
        if self.0.len() >= ENTRIES_MAX {
            self.0.clear();
        }
        let known =
            Known { plan: Arc::clone(plan), settings: Arc::clone(settings), verdict: Arc::clone(&verdict) };
        debug_assert!(Arc::ptr_eq(&known.plan, plan));
        self.0.insert(address_of(plan), known);
        verdict
    }

    /// The verdict on a plan, if it was found out before.
    #[inline]
    pub fn known(&self, plan: &Arc<Plan>, settings: &SharedSettings) -> Option<&Arc<Verdict>> {
        let known = self.0.get(&address_of(plan))?;
        Arc::ptr_eq(&known.settings, settings).then_some(&known.verdict)
    }
}

fn address_of(plan: &Arc<Plan>) -> usize {
    Arc::as_ptr(plan) as usize
}

fn find_out(
    plan: &Plan,
    evidence: &Evidence<'_>,
    epochs: &Epochs,
    cache: &Cache,
    settings: &CacheSettings,
) -> Verdict {
    let Evidence { text, lexing, analysis, classes, catalog, database } = *evidence;
    let shape_text = || {
        let mut shape = Vec::new();
        analyze_into(text, lexing, &mut shape);
        String::from_utf8_lossy(&shape).into_owned()
    };
    let reads = &plan.effect.reads;
    Verdict {
        may_keep: may_keep(&plan.effect, classes),
        watch: Arc::new(epochs.watch(reads)),
        rules: rules_for(settings, catalog, database, analysis.fingerprint, &reads.relations),
        shape: cache.shapes.shape(analysis.fingerprint, shape_text),
    }
}
