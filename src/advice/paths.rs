//! What reading a table through an index would cost: PostgreSQL's own formulas (`costsize.c`: `cost_index`,
//! `cost_bitmap_heap_scan`, `index_pages_fetched`) with its own statistics, for where HypoPG cannot say.

use super::candidates::{Candidate, bare};
use super::predicates::{Access, Predicate, Target, Test};
use super::schema::{Index, IndexKey, Schema, Server, Table};

/// An index, there or not.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// btree, gin, ...
    pub method: &'a str,
    /// Its keys.
    pub keys: &'a [IndexKey],
    /// WHERE
    pub predicate: Option<&'a str>,
    /// It does not exist yet.
    pub is_candidate: bool,
}

impl<'a> From<&'a Candidate> for Shape<'a> {
    fn from(candidate: &'a Candidate) -> Self {
        let Candidate { method, keys, predicate, .. } = candidate;
        Self { method: method.as_str(), keys, predicate: predicate.as_deref(), is_candidate: true }
    }
}

impl<'a> From<&'a Index> for Shape<'a> {
    fn from(index: &'a Index) -> Self {
        let Index { method, keys, predicate, .. } = index;
        Self { method, keys, predicate: predicate.as_deref(), is_candidate: false }
    }
}

/// Costs of a scan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// Before the first row.
    pub startup: f64,
    /// With the last row.
    pub total: f64,
}

/// Dearer than any plan, and still a number to reckon with.
const UNORDERED: f64 = 1e300;

impl Cost {
    /// What a part of the rows costs.
    pub fn part(self, fraction: f64) -> f64 {
        self.startup + fraction * (self.total - self.startup)
    }

    /// The cheaper one, if only this part of the rows is taken.
    #[must_use]
    pub fn cheaper(self, other: Self, fraction: f64) -> Self {
        if other.part(fraction) < self.part(fraction) { other } else { self }
    }
}

/// What an index does for an access.
#[derive(Clone, Debug)]
pub struct Match {
    /// The share of the table's rows that it finds.
    pub share: f64,
    /// The keys that equalities hold fixed.
    pub fixed: usize,
    /// Some condition bounds the scan.
    pub is_bounded: bool,
    /// A join bounds it.
    pub is_joined: bool,
    /// The share of rows that the index holds at all.
    pub held: f64,
}

/// What one table's indexes cost to read.
#[derive(Clone, Copy, Debug)]
pub struct Paths<'a> {
    /// The planner's constants.
    pub server: &'a Server,
    /// The table.
    pub table: &'a Table,
    /// What is asked of it.
    pub access: &'a Access,
}

/// Rows that a page of an index holds, of average width.
const PAGE: f64 = 8192.0 * 0.9;

impl<'a> Paths<'a> {
    /// For an access.
    pub fn new(access: &'a Access, schema: &'a Schema) -> Option<Self> {
        Some(Self { server: &schema.server, table: schema.table(&access.table)?, access })
    }

    /// What an index does for the access, with the joins that may bound it; `None` if it holds too few rows.
    pub fn matching(&self, index: Shape<'_>, joins: &[&Predicate]) -> Option<Match> {
        let mut found = Match { share: 1.0, fixed: 0, is_bounded: false, is_joined: false, held: 1.0 };
        if let Some(part) = index.predicate {
            let implied = self.access.local.iter().find(|predicate| {
                bare(&super::candidates::part_text(predicate, &self.access.alias)) == bare(part)
            });
            // `a IS NOT NULL` follows from any comparison of `a`.
            let not_null = part.strip_suffix(" IS NOT NULL").map(bare);
            let follows = || {
                let mut all = self.access.local.iter().chain(joins.iter().copied());
                all.any(|p| p.test != Test::IsNull && Some(bare(&p.target.expression)) == not_null)
            };
            found.held = match implied {
                Some(predicate) => predicate.share,
                None if not_null.is_some() && follows() => 1.0,
                None => return None,
            };
            found.share = found.held;
        }
        if matches!(index.method, "gin" | "gist") {
            let key = index.keys.first()?;
            let predicate = self
                .access
                .local
                .iter()
                .find(|p| p.target.expression == key.expression && !p.test.is_btree())?;
            return Some(Match { share: predicate.share, is_bounded: true, ..found });
        }
        if index.method != "btree" {
            return None;
        }
        for key in index.keys {
            let mine = |p: &&Predicate| bare(&p.target.expression) == bare(&key.expression);
            if let Some(p) = self.access.local.iter().filter(mine).find(|p| p.test.is_equality()) {
                found.share *= p.share;
                found.fixed += 1;
                found.is_bounded = true;
            } else if let Some(p) = joins.iter().copied().find(mine) {
                found.share *= self.share_of_one(&p.target);
                found.fixed += 1;
                (found.is_bounded, found.is_joined) = (true, true);
            } else {
                let has_class = key.opclass.is_some() || self.is_c(&p_target(key));
                let ranges = self.access.local.iter().filter(mine).filter(|p| match p.test {
                    Test::Prefix => has_class,
                    Test::Range => key.opclass.is_none(),
                    Test::NotNull => true,
                    _ => false,
                });
                for range in ranges {
                    found.share *= range.share;
                    found.is_bounded = true;
                }
                break;
            }
        }
        Some(found)
    }

    fn is_c(&self, target: &Target) -> bool {
        let column = target.column.as_deref().and_then(|name| self.table.column(name));
        column.is_some_and(|column| column.collates_as_c)
    }

    /// The share of rows with one value of this.
    pub fn share_of_one(&self, target: &Target) -> f64 {
        let column = target.column.as_deref().and_then(|name| self.table.column(name));
        column.map_or(1.0 / 200.0_f64.min(self.table.tuples.max(1.0)), |column| {
            column.share_of_one(self.table.tuples)
        })
    }

    /// The share of rows that pass all conditions on this relation alone.
    pub fn local_share(&self) -> f64 {
        self.access.local.iter().map(|predicate| predicate.share).product()
    }

    /// Reads the rows that the index finds, as often as that is done; the cost of once.
    pub fn scan(&self, index: Shape<'_>, found: &Match, loops: f64) -> Cost {
        let direct = self.index_scan(index, found, loops);
        let bitmap = self.bitmap_scan(&[(index, found.clone())], loops);
        direct.cheaper(bitmap, 1.0)
    }

    /// In the order of the index.
    pub fn index_scan(&self, index: Shape<'_>, found: &Match, loops: f64) -> Cost {
        if index.method != "btree" {
            return Cost { startup: UNORDERED, total: UNORDERED };
        }
        let Server { seq_page_cost, random_page_cost, cpu_tuple_cost, .. } = *self.server;
        let tuples = (self.table.tuples * found.share).max(1.0);
        let (startup, inside) = self.inside(index, found, loops);
        let most = self.pages_fetched(tuples * loops) / loops * random_page_cost;
        let fewest_pages = (found.share * self.table.pages).ceil().max(1.0);
        let fewest = if loops > 1.0 {
            self.pages_fetched(fewest_pages * loops) / loops * random_page_cost
        } else {
            random_page_cost + (fewest_pages - 1.0) * seq_page_cost
        };
        let unseen = if self.is_index_only(index) { 1.0 - self.table.all_visible } else { 1.0 };
        let (most, fewest) = (most * unseen, fewest * unseen);
        let correlation = self.correlation(index);
        let pages = most + correlation * correlation * (fewest.min(most) - most);
        let total = startup + inside + pages + tuples * (cpu_tuple_cost + self.filter_cost());
        Cost { startup, total }
    }

    /// With a sort behind it: no row before the last one was read.
    pub fn sorted(&self, cost: Cost, rows: f64, keys: &[IndexKey]) -> Cost {
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let compared = 2.0 * self.server.cpu_operator_cost * keys.len() as f64;
        let startup = cost.total + compared * rows * rows.max(2.0).log2();
        Cost { startup, total: startup + rows * self.server.cpu_operator_cost }
    }

    /// All that is needed is in the index.
    fn is_index_only(&self, index: Shape<'_>) -> bool {
        let holds =
            |name: &String| index.keys.iter().any(|key| key.expression == super::identifier::quoted(name));
        self.access.needed.as_ref().is_some_and(|needed| needed.iter().all(holds))
    }

    /// In the order of the table, through one or more indexes.
    pub fn bitmap_scan(&self, indexes: &[(Shape<'_>, Match)], loops: f64) -> Cost {
        let Server { seq_page_cost, random_page_cost, cpu_tuple_cost, cpu_operator_cost, .. } = *self.server;
        let mut startup = 0.0;
        let mut share = 0.0;
        for (index, found) in indexes {
            let (descent, inside) = self.inside(*index, found, loops);
            startup += descent + inside;
            share += found.share;
        }
        let tuples = (self.table.tuples * share.min(1.0)).max(1.0);
        let all = self.table.pages.max(1.0);
        let pages = if loops > 1.0 {
            self.pages_fetched(tuples * loops) / loops
        } else {
            ((2.0 * all * tuples) / (2.0 * all + tuples)).min(all).ceil()
        };
        let per_page = if pages >= 2.0 {
            random_page_cost - (random_page_cost - seq_page_cost) * (pages / all).sqrt()
        } else {
            random_page_cost
        };
        let total = startup
            + pages * per_page
            + tuples * (cpu_tuple_cost + self.filter_cost() + 0.1 * cpu_operator_cost);
        Cost { startup, total }
    }

    /// The descent, and the leaf pages and entries that are read.
    fn inside(&self, index: Shape<'_>, found: &Match, loops: f64) -> (f64, f64) {
        let Server { random_page_cost, cpu_index_tuple_cost, cpu_operator_cost, .. } = *self.server;
        let held = (self.table.tuples * found.held).max(1.0);
        let tuples = (self.table.tuples * found.share).max(1.0);
        let bytes = self.bytes(index, found.held);
        let pages = (tuples * bytes / 8192.0 / held).ceil().max(1.0);
        let pages = if loops > 1.0 { (self.pages_fetched(pages * loops) / loops).min(pages) } else { pages };
        let height = (bytes / 8192.0).max(1.0).log(200.0).floor() + 1.0;
        let descent = held.log2().ceil() * cpu_operator_cost + (height + 1.0) * 50.0 * cpu_operator_cost;
        let mut inside = pages * random_page_cost + tuples * (cpu_index_tuple_cost + cpu_operator_cost);
        if index.method == "gin" {
            // A pattern is looked up by each of its trigrams, and their lists are long.
            let is_pattern = index.keys.iter().any(|key| {
                key.opclass.is_some()
                    && !key.opclass.as_deref().is_some_and(|class| class.starts_with("json"))
            });
            inside += if is_pattern { 20.0 + self.table.tuples * 0.0005 } else { 8.0 };
        }
        (descent, inside)
    }

    /// The size that an index of these keys would have.
    pub fn bytes(&self, index: Shape<'_>, held: f64) -> f64 {
        let width = |key: &IndexKey| {
            let column = self
                .table
                .columns
                .iter()
                .find(|column| super::identifier::quoted(&column.name) == key.expression);
            column.map_or(16.0, |column| column.width.max(1.0))
        };
        let keys: f64 = index.keys.iter().map(width).sum();
        // Line pointer and tuple header; then what alignment takes.
        let entry = 12.0 + ((keys + 7.0) / 8.0).floor() * 8.0;
        let factor = if index.method == "gin" { 0.8 } else { 1.0 };
        (self.table.tuples * held * entry * factor * 8192.0 / PAGE).max(8192.0)
    }

    fn correlation(&self, index: Shape<'_>) -> f64 {
        let Some(first) = index.keys.first() else { return 0.0 };
        let column = self
            .table
            .columns
            .iter()
            .find(|column| super::identifier::quoted(&column.name) == first.expression);
        let correlation = column.map_or(0.0, |column| column.correlation);
        if index.keys.len() > 1 { correlation * 0.75 } else { correlation }
    }

    /// One operator for each condition.
    fn filter_cost(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let conditions = self.access.local.len() as f64;
        conditions * self.server.cpu_operator_cost
    }

    /// Mackert and Lohman: pages read for so many random rows, when a cache keeps some.
    fn pages_fetched(&self, tuples: f64) -> f64 {
        let pages = self.table.pages.max(1.0);
        let cache = self.server.cache_pages.max(1.0);
        let fetched = if pages <= cache {
            ((2.0 * pages * tuples) / (2.0 * pages + tuples)).min(pages)
        } else {
            let limit = (2.0 * pages * cache) / (2.0 * pages - cache);
            if tuples <= limit {
                (2.0 * pages * tuples) / (2.0 * pages + tuples)
            } else {
                cache + (tuples - limit) * (pages - cache) / pages
            }
        };
        fetched.ceil()
    }

    /// Whether an index gives rows in this order behind the keys that are held fixed.
    pub fn is_ordered(&self, index: Shape<'_>, fixed: usize, wanted: &[IndexKey]) -> bool {
        if index.method != "btree" {
            return false;
        }
        let is_fixed = |key: &IndexKey| {
            let mut equal =
                self.access.local.iter().filter(|p| p.test.is_equality() && !matches!(p.test, Test::In(_)));
            equal.any(|p| p.target.expression == key.expression)
        };
        let lists = index.keys.iter().take(fixed).any(|key| {
            self.access
                .local
                .iter()
                .any(|p| p.target.expression == key.expression && matches!(p.test, Test::In(_)))
        });
        let keys: Vec<_> = index.keys.iter().skip(fixed).collect();
        let wanted: Vec<_> = wanted.iter().filter(|key| !is_fixed(key)).collect();
        let pairs = || keys.iter().zip(&wanted);
        let nulls_matter = |key: &IndexKey| {
            let column = self
                .table
                .columns
                .iter()
                .find(|column| super::identifier::quoted(&column.name) == key.expression);
            !column.is_some_and(|column| column.not_null)
        };
        let fits = |own: &IndexKey, wanted: &IndexKey, backward: bool| {
            own.descending == (wanted.descending != backward)
                && (!nulls_matter(wanted) || own.nulls_first == (wanted.nulls_first != backward))
        };
        !lists
            && keys.len() >= wanted.len()
            && pairs().all(|(own, wanted)| own.expression == wanted.expression && own.opclass.is_none())
            && [false, true].iter().any(|&backward| pairs().all(|(own, wanted)| fits(own, wanted, backward)))
    }
}

fn p_target(key: &IndexKey) -> Target {
    let column = key.expression.trim_matches('"').to_owned();
    Target { expression: key.expression.clone(), column: Some(column) }
}
