//! Which indexes could serve a plan's relations: in each the equalities first, most selective ahead, then one range or
//! the order (manual, 11.3 Multicolumn Indexes).

use serde::{Deserialize, Serialize};

use super::identifier::quoted;
use super::predicates::{Access, Order, Predicate, Target, Test};
use super::schema::{Index, IndexKey, Schema, Table, TableName};

/// An index that does not exist yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// Its table.
    pub table: TableName,
    /// How it is built.
    pub method: Method,
    /// Its keys.
    pub keys: Vec<IndexKey>,
    /// WHERE: a part of the table only.
    pub predicate: Option<String>,
}

/// Index access methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Method {
    /// B-tree
    Btree,
    /// GIN: arrays, jsonb, text search, trigrams
    Gin,
    /// GiST: ranges
    Gist,
}

impl Method {
    /// As SQL writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Btree => "btree",
            Self::Gin => "gin",
            Self::Gist => "gist",
        }
    }

    /// HypoPG can pretend that there is one.
    pub fn is_hypothetical(self) -> bool {
        self == Self::Btree
    }
}

/// More than this are not tried for one statement.
pub const CANDIDATES_MAX: usize = 60;

/// More keys than this cost more to write than they find.
const KEYS_MAX: usize = 4;

/// Below so many rows a further equality key finds nothing more worth finding.
const ROWS_FEW: f64 = 100.0;

/// A constant that fewer rows than this share have is worth an index of its own.
const RARE: f64 = 0.05;

/// An equality that more rows than this share pass leads no index.
const COMMON: f64 = 0.5;

/// All candidates for a plan. `literals` are the constants that every text of the shape has: only they may stand in a
/// WHERE, for another value of a parameter would not find the index.
pub fn candidates(accesses: &[Access], schema: &Schema, literals: &[String]) -> Vec<Candidate> {
    let mut found = Vec::new();
    for access in accesses {
        let Some(table) = schema.table(&access.table) else { continue };
        if table.is_small() {
            continue;
        }
        let mut maker = Maker { access, table, schema, literals, found: Vec::new() };
        maker.all();
        for candidate in maker.found {
            if !found.contains(&candidate)
                && !table.indexes.iter().any(|index| covers(index, &candidate, access))
            {
                found.push(candidate);
            }
        }
    }
    found.truncate(CANDIDATES_MAX);
    found
}

struct Maker<'a> {
    access: &'a Access,
    table: &'a Table,
    schema: &'a Schema,
    literals: &'a [String],
    found: Vec<Candidate>,
}

impl<'a> Maker<'a> {
    fn all(&mut self) {
        let access = self.access;
        let equalities = self.equalities(None);
        let ranges = self.ranges();
        let joins: Vec<&Predicate> = access.joins.iter().collect();
        self.btrees(&equalities, &ranges, &joins, None);
        for constant in self.constants() {
            let rest = self.equalities(Some(constant));
            self.btrees(&rest, &ranges, &joins, Some(constant));
        }
        for predicate in access.local.iter().chain(access.either.iter().flatten()) {
            self.inverted(predicate);
        }
        for arm in access.either.iter().flatten() {
            if arm.test.is_btree() {
                self.add(vec![self.key(arm)], None);
            }
        }
    }

    /// Equalities worth a key, the most selective first.
    fn equalities(&self, except: Option<&Predicate>) -> Vec<&'a Predicate> {
        let mut equalities: Vec<_> =
            self.access.local.iter().filter(|p| p.test.is_equality() && p.share < COMMON).collect();
        equalities.retain(|predicate| except.is_none_or(|except| except.source != predicate.source));
        equalities.sort_by(|a, b| a.share.total_cmp(&b.share));
        // One key for one column.
        let mut seen: Vec<&Target> = Vec::new();
        equalities.retain(|predicate| {
            let is_new = !seen.contains(&&predicate.target);
            seen.push(&predicate.target);
            is_new
        });
        equalities
    }

    fn ranges(&self) -> Vec<&'a Predicate> {
        let is_range = |p: &&Predicate| p.test.is_btree() && !p.test.is_equality();
        let mut ranges: Vec<&Predicate> = Vec::new();
        for predicate in self.access.local.iter().filter(is_range) {
            if !ranges.iter().any(|known| known.target == predicate.target) {
                ranges.push(predicate);
            }
        }
        ranges
    }

    /// Rare constants of the text itself.
    fn constants(&self) -> Vec<&'a Predicate> {
        let is_constant = |p: &&Predicate| {
            let is_text = match p.test {
                Test::Equal => {
                    p.value.as_ref().is_some_and(|value| self.literals.contains(value))
                        && self.is_common_value(p)
                }
                Test::IsNull | Test::NotNull | Test::True | Test::False => true,
                _ => false,
            };
            is_text && p.share < RARE && p.partner.is_none() && !p.is_parameter
        };
        self.access.local.iter().filter(is_constant).collect()
    }

    /// One of few: the status of a row, not its owner.
    fn is_common_value(&self, predicate: &Predicate) -> bool {
        let column = predicate.target.column.as_deref().and_then(|name| self.table.column(name));
        column.is_some_and(|column| column.has_statistics && (0.0..=50.0).contains(&column.n_distinct))
    }

    fn btrees(
        &mut self,
        equalities: &[&Predicate],
        ranges: &[&Predicate],
        joins: &[&Predicate],
        part: Option<&Predicate>,
    ) {
        let tuples = self.table.tuples * part.map_or(1.0, |part| part.share);
        // As many equalities as leave more than a few rows.
        let mut lists: Vec<Vec<&Predicate>> = vec![Vec::new()];
        let (mut list, mut rows) = (Vec::new(), tuples);
        for predicate in equalities {
            if rows < ROWS_FEW {
                break;
            }
            list.push(*predicate);
            rows *= predicate.share;
            lists.push(list.clone());
        }
        for predicate in equalities {
            lists.push(vec![*predicate]);
        }
        for (at, first) in equalities.iter().enumerate() {
            for second in &equalities[at + 1..] {
                lists.push(vec![*first, *second]);
            }
        }
        let access = self.access;
        for list in &lists {
            let keys: Vec<IndexKey> = list.iter().map(|predicate| self.key(predicate)).collect();
            self.add(keys.clone(), part);
            for range in ranges {
                self.add(with(&keys, [self.key(range)]), part);
            }
            for columns in &access.rows {
                self.add(with(&keys, columns.iter().map(plain)), part);
            }
            let is_ordered = list.iter().all(|predicate| !matches!(predicate.test, Test::In(_)));
            for order in access.orders.iter().filter(|_| is_ordered) {
                self.add(with(&keys, self.order_keys(order, list)), part);
            }
            for join in joins {
                self.add(with(&keys, [self.key(join)]), part);
                let joined = with(&[self.key(join)], keys.clone());
                self.add(joined.clone(), part);
                for order in access.orders.iter().filter(|_| is_ordered) {
                    self.add(with(&joined, self.order_keys(order, list)), part);
                }
                for range in ranges {
                    self.add(with(&joined, [self.key(range)]), part);
                }
            }
        }
        // A join on two columns.
        if joins.len() > 1 {
            self.add(joins.iter().map(|join| self.key(join)).collect(), part);
        }
        // Of a part that is rare enough by itself: any key does, so the one that costs no update.
        if let Some(part) = part
            && equalities.is_empty()
            && ranges.is_empty()
            && joins.is_empty()
            && let Some(key) = self.identity()
        {
            self.add(vec![key], Some(part));
        }
    }

    fn inverted(&mut self, predicate: &Predicate) {
        let of_type = predicate
            .target
            .column
            .as_deref()
            .and_then(|name| self.table.column(name))
            .map(|column| column.type_name.as_str());
        let (method, opclass) = match predicate.test {
            Test::JsonContains | Test::JsonPath => (Method::Gin, Some("jsonb_path_ops".to_owned())),
            Test::JsonExists | Test::Array | Test::TextSearch => (Method::Gin, None),
            Test::Infix => (Method::Gin, Some(format!("{}gin_trgm_ops", self.schema.server.trgm_schema))),
            Test::Gist if of_type.is_some_and(|name| name.ends_with("range")) => (Method::Gist, None),
            _ => return,
        };
        let key = IndexKey { opclass, ..plain(&predicate.target) };
        self.found.push(Candidate {
            table: self.access.table.clone(),
            method,
            keys: vec![key],
            predicate: None,
        });
    }

    fn add(&mut self, keys: Vec<IndexKey>, part: Option<&Predicate>) {
        let mut unique: Vec<IndexKey> = Vec::new();
        for key in keys {
            if !unique.iter().any(|known| known.expression == key.expression) {
                unique.push(key);
            }
        }
        if let Some(part) = part {
            // What the WHERE says need not be a key as well, unless nothing else is.
            let is_same = |key: &IndexKey| key.expression == part.target.expression;
            if unique.len() > 1 && part.test != Test::NotNull {
                unique.retain(|key| !is_same(key));
            }
        }
        if unique.is_empty() || unique.len() > KEYS_MAX {
            return;
        }
        let predicate = part.map(|part| part_text(part, &self.access.alias));
        let candidate =
            Candidate { table: self.access.table.clone(), method: Method::Btree, keys: unique, predicate };
        if !self.found.contains(&candidate) {
            self.found.push(candidate);
        }
    }

    fn key(&self, predicate: &Predicate) -> IndexKey {
        let column = predicate.target.column.as_deref().and_then(|name| self.table.column(name));
        let needs_class =
            predicate.test == Test::Prefix && !column.is_some_and(|column| column.collates_as_c);
        let opclass = needs_class.then(|| {
            let of_type = column.map(|column| column.type_name.as_str());
            if of_type == Some("character varying") { "varchar_pattern_ops" } else { "text_pattern_ops" }
                .to_owned()
        });
        IndexKey { opclass, ..plain(&predicate.target) }
    }

    /// The keys of an order behind equalities, in the simplest directions that serve it: an index is read backward too.
    fn order_keys(&self, order: &Order, equalities: &[&Predicate]) -> Vec<IndexKey> {
        let mut keys: Vec<IndexKey> = order.keys.clone();
        keys.retain(|key| !equalities.iter().any(|predicate| predicate.target.expression == key.expression));
        for (key, target) in keys.iter_mut().zip(&order.targets) {
            let column = target.column.as_deref().and_then(|name| self.table.column(name));
            if column.is_some_and(|column| column.not_null) {
                key.nulls_first = key.descending;
            }
        }
        if keys.first().is_some_and(|key| key.descending && key.nulls_first) {
            for key in &mut keys {
                key.descending = !key.descending;
                key.nulls_first = !key.nulls_first;
            }
        }
        keys
    }

    /// A column that never changes: the primary key's, else the first one that is NOT NULL.
    fn identity(&self) -> Option<IndexKey> {
        let of_key = self
            .table
            .indexes
            .iter()
            .find(|index| index.is_unique && index.is_constraint && index.predicate.is_none());
        let of_key = of_key.and_then(|index| index.keys.first()).map(|key| key.expression.clone());
        let column =
            || self.table.columns.iter().find(|column| column.not_null).map(|column| quoted(&column.name));
        of_key.or_else(column).map(|expression| IndexKey { expression, ..IndexKey::default() })
    }
}

/// The WHERE of an index, from the condition as the plan writes it.
pub fn part_text(predicate: &Predicate, alias: &str) -> String {
    let expr = super::condition::Expr::parse(&predicate.source);
    let text = if expr.mentions(alias) { expr.unqualified() } else { predicate.source.clone() };
    match text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        Some(inside) if !inside.contains('(') => inside.to_owned(),
        _ => text,
    }
}

fn plain(target: &Target) -> IndexKey {
    IndexKey { expression: target.expression.clone(), ..IndexKey::default() }
}

fn with(keys: &[IndexKey], more: impl IntoIterator<Item = IndexKey>) -> Vec<IndexKey> {
    keys.iter().cloned().chain(more).collect()
}

/// Whether an index that exists does what the candidate would.
pub fn covers(index: &Index, candidate: &Candidate, access: &Access) -> bool {
    if !index.is_valid {
        return false;
    }
    let is_same_part = index.predicate.is_none()
        || index.predicate.as_deref().map(bare) == candidate.predicate.as_deref().map(bare);
    if !is_same_part {
        return false;
    }
    let is_equality = |key: &IndexKey| {
        let mut own = access.local.iter().chain(&access.joins).chain(access.either.iter().flatten());
        own.any(|p| p.target.expression == key.expression && matches!(p.test, Test::Equal | Test::In(_)))
    };
    if index.method == "hash" {
        return matches!((index.keys.as_slice(), candidate.keys.as_slice()),
            ([existing], [wanted]) if existing.expression == wanted.expression && is_equality(wanted));
    }
    if index.method != candidate.method.as_str() || index.keys.len() < candidate.keys.len() {
        return false;
    }
    if candidate.method == Method::Gin {
        // Each key of a GIN index stands for itself; the default class of jsonb answers what jsonb_path_ops does.
        let answers = |existing: &IndexKey, wanted: &IndexKey| {
            existing.expression == wanted.expression
                && (existing.opclass == wanted.opclass
                    || (existing.opclass.is_none() && wanted.opclass.as_deref() == Some("jsonb_path_ops")))
        };
        return candidate
            .keys
            .iter()
            .all(|wanted| index.keys.iter().any(|existing| answers(existing, wanted)));
    }
    covers_keys(index, candidate)
}

/// Whether the candidate's keys are the first ones of an index that exists.
pub fn covers_keys(index: &Index, candidate: &Candidate) -> bool {
    let pairs = || index.keys.iter().zip(&candidate.keys);
    let is_named_alike = pairs().all(|(existing, wanted)| {
        bare(&existing.expression) == bare(&wanted.expression) && existing.opclass == wanted.opclass
    });
    let forward = pairs().all(|(e, w)| (e.descending, e.nulls_first) == (w.descending, w.nulls_first));
    let backward = pairs().all(|(e, w)| e.descending != w.descending && e.nulls_first != w.nulls_first);
    index.is_valid
        && index.method == candidate.method.as_str()
        && index.keys.len() >= candidate.keys.len()
        && is_named_alike
        && (forward || backward)
}

/// Without what two spellings of one expression differ in.
pub fn bare(expression: &str) -> String {
    expression
        .replace("::text", "")
        .chars()
        .filter(|c| !c.is_whitespace() && !matches!(c, '(' | ')'))
        .collect()
}

/// Sets of candidates that may help only together: one for each arm of an OR, and for two sides of a join.
pub fn together(candidates: &[Candidate], accesses: &[Access]) -> Vec<Vec<usize>> {
    let mut sets: Vec<Vec<usize>> = Vec::new();
    let leading = |access: &Access, predicate: &Predicate| {
        candidates.iter().position(|candidate| {
            candidate.table == access.table
                && candidate.predicate.is_none()
                && candidate.keys.len() == 1
                && candidate.keys[0].expression == predicate.target.expression
        })
    };
    for access in accesses {
        for arms in &access.either {
            // An arm that has an index already needs none.
            let mut set: Vec<usize> = arms.iter().filter_map(|arm| leading(access, arm)).collect();
            set.sort_unstable();
            set.dedup();
            if set.len() > 1 {
                sets.push(set);
            }
        }
    }
    for driven in accesses {
        for join in &driven.joins {
            let Some(inner) = leading(driven, join) else { continue };
            for (at, outer) in candidates.iter().enumerate() {
                let alias = join
                    .partner
                    .as_deref()
                    .and_then(|partner| partner.split_once('.'))
                    .map(|(alias, _)| alias);
                let drives = accesses.iter().any(|access| {
                    access.table == outer.table
                        && alias.is_some_and(|alias| alias.trim_matches(['(', '"']) == access.alias)
                        && access.local.iter().any(|p| p.target.expression == outer.keys[0].expression)
                });
                if drives && at != inner && sets.len() < TOGETHER_MAX {
                    sets.push(vec![at, inner]);
                }
            }
        }
    }
    sets
}

/// More sets than this are not tried together from the start.
const TOGETHER_MAX: usize = 24;

/// Rows of one value from which on it matters that they come in order.
const ROWS_MANY: f64 = 1000.0;

/// Candidates that serve an order with a limit behind equalities of which the commonest value has many rows.
pub fn ordered(candidates: &[Candidate], accesses: &[Access], schema: &Schema) -> Vec<usize> {
    let serves = |candidate: &Candidate| {
        let mine = accesses.iter().filter(|access| access.table == candidate.table);
        mine.into_iter().any(|access| {
            let Some(table) = schema.table(&access.table) else { return false };
            let mut equal = access.local.iter().filter(|p| p.test == Test::Equal).chain(&access.joins);
            let Some(first) = candidate.keys.first() else { return false };
            let Some(leading) = equal.find(|p| p.target.expression == first.expression) else { return false };
            let column = leading.target.column.as_deref().and_then(|name| table.column(name));
            let most = column.and_then(|column| column.common.first()).map_or(0.0, |(_, share)| *share);
            let rest = &candidate.keys[1..];
            most * table.tuples >= ROWS_MANY
                && access.orders.iter().any(|order| {
                    order.keys.len() == rest.len()
                        && order.keys.iter().zip(rest).all(|(a, b)| a.expression == b.expression)
                })
        })
    };
    (0..candidates.len()).filter(|&at| serves(&candidates[at])).collect()
}
