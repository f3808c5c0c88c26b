//! The rule: which statements may be answered from memory at all, and what the configuration says of them.
//!
//! A result may be kept if it depends on nothing but the rows of relations whose writes are seen, and on what is in the
//! key. So: one read, of tables, partitions, materialized views and views over them; functions that are immutable, or
//! stable and depend on settings only, which the key has; no time. Row security is covered if its policies ask for no
//! more than that: `current_user` is in the key by login and role, while `current_setting` tells one server session
//! from another and keeps a statement on the primary.

use std::time::Duration;

use super::reason::Reason;
use crate::catalog::{Catalog, Effect, RelationId, Volatility};
use crate::config::{CacheAction, CacheRule, CacheSettings};
use crate::sql::classify::Classes;
use crate::sql::comment::CacheHint;
use crate::sql::{Analysis, Fingerprint};

/// Whether the results of a text may be kept, by what it does; if not, why.
pub fn may_keep(effect: &Effect, classes: &Classes) -> Result<(), Reason> {
    if let Some(why) = effect.on_primary {
        return Err(Reason::Statement(why));
    }
    // An effect without a reason writes nothing; should that ever be otherwise, it is a write.
    if !effect.writes.is_nothing() || effect.is_ddl {
        return Err(Reason::Statement(crate::catalog::OnPrimary::Write));
    }
    let [_] = &*classes.statements else { return Err(Reason::SeveralStatements) };
    match effect.volatility {
        Volatility::Immutable | Volatility::Stable => {}
        Volatility::TransactionTime if effect.reads.everything => return Err(Reason::UnknownTables),
        Volatility::TransactionTime => return Err(Reason::Time),
        Volatility::Volatile => return Err(Reason::Statement(crate::catalog::OnPrimary::VolatileFunction)),
    }
    if effect.reads.everything {
        return Err(Reason::UnknownTables);
    }
    if effect.reads.catalogs {
        return Err(Reason::SystemCatalog);
    }
    if effect.reads.relations.is_empty() {
        // Most are asked to see whether the server is there.
        return Err(Reason::NoTable);
    }
    Ok(())
}

/// What is to be done with the results of a statement that may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// From the first time on, without having been seen before.
    pub at_once: bool,
    /// How long.
    pub ttl: Duration,
    /// How large, in bytes.
    pub max_entry: usize,
}

/// The rules that speak of a statement, as far as that does not depend on who asks: by their place in the settings.
pub fn rules_for(
    settings: &CacheSettings,
    catalog: Option<&Catalog>,
    database: &str,
    fingerprint: Fingerprint,
    reads: &[RelationId],
) -> Box<[usize]> {
    if settings.rules.is_empty() {
        return Box::default();
    }
    let names: Vec<String> =
        reads.iter().filter_map(|id| catalog.and_then(|catalog| catalog.relation_name(*id))).collect();
    let is_named = |wanted: &str| {
        names.iter().any(|name| {
            name == wanted
                || !wanted.contains('.') && name.rsplit('.').next().is_some_and(|bare| bare == wanted)
        })
    };
    let speaks = |rule: &CacheRule| {
        rule.table.as_deref().is_none_or(is_named)
            && rule.fingerprint.is_none_or(|wanted| wanted == fingerprint.0)
            && rule.database.as_deref().is_none_or(|wanted| wanted == database)
    };
    let rules = settings.rules.iter().enumerate();
    rules.filter(|(_, rule)| speaks(rule)).map(|(place, _)| place).collect()
}

/// What hint and rules come to. `rules` are those that speak of the statement; of several words the most careful counts.
pub fn terms(
    analysis: &Analysis,
    settings: &CacheSettings,
    rules: &[usize],
    user: &str,
) -> Result<Terms, Reason> {
    if analysis.hints.target.is_some() {
        return Err(Reason::TargetHint);
    }
    let mut terms = Terms { at_once: false, ttl: settings.ttl, max_entry: settings.max_entry };
    let (mut action, mut ttl, mut max_entry): (Option<CacheAction>, Option<Duration>, Option<usize>) =
        (None, None, None);
    let of_user = |rule: &&CacheRule| rule.user.as_deref().is_none_or(|wanted| wanted == user);
    for rule in rules.iter().filter_map(|place| settings.rules.get(*place)).filter(of_user) {
        action = match (action, rule.action) {
            (_, CacheAction::Never) | (Some(CacheAction::Never), _) => Some(CacheAction::Never),
            (Some(CacheAction::Hot), _) | (Some(CacheAction::Always), CacheAction::Hot) => {
                Some(CacheAction::Hot)
            }
            (None | Some(CacheAction::Always), other) => Some(other),
        };
        ttl = [ttl, rule.ttl].into_iter().flatten().min();
        max_entry = [max_entry, rule.max_entry].into_iter().flatten().min();
    }
    if action == Some(CacheAction::Never) {
        return Err(Reason::Rule);
    }
    terms.at_once = action == Some(CacheAction::Always);
    terms.ttl = ttl.unwrap_or(terms.ttl);
    terms.max_entry = max_entry.unwrap_or(terms.max_entry);
    match analysis.hints.cache {
        Some(CacheHint::Never) => return Err(Reason::Hint),
        Some(CacheHint::Cache { ttl }) => {
            terms.at_once = true;
            // An application may ask for less than the operator allows, not for more.
            terms.ttl = ttl.map_or(terms.ttl, |ttl| ttl.min(terms.ttl));
        }
        None => {}
    }
    Ok(terms)
}
