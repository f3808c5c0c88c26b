//! One statement's analysis between the questions to the server: plan and schema in, candidates and trials out.

use super::candidates::{self, Candidate, Method, bare};
use super::choice::{Choice, Limits, Merits, Trial};
use super::existing;
use super::explain_why;
use super::identifier::quoted;
use super::include;
use super::model::Model;
use super::paths::{Paths, Shape};
use super::plan::Node;
use super::predicates::{Access, Test, accesses};
use super::probes::{self, Probe};
use super::schema::{Index, Schema, Table};
use super::verdict::{self, Advice, Confidence, Kind, Proof, Tool, Verdict};

/// What is known of a statement once its plan was read.
#[derive(Debug)]
pub struct Analysis<'a> {
    /// The plan as it is.
    pub plan: &'a Node,
    /// Its tables.
    pub schema: &'a Schema,
    /// Its relations.
    pub accesses: Vec<Access>,
    /// What would be tried.
    pub candidates: Vec<Candidate>,
}

/// An index that gives an order and bounds nothing must leave no more.
const ORDER_SHARE: f64 = 0.2;

/// One on an expression may leave so much before its statistics are there.
const EXPRESSION_SHARE: f64 = 0.65;

impl<'a> Analysis<'a> {
    /// Reads a plan; then the probes must be answered.
    pub fn new(plan: &'a Node, schema: &'a Schema) -> (Self, Vec<Probe>) {
        let mut accesses = accesses(plan, schema);
        let probes = probes::probes(&mut accesses, schema);
        (Self { plan, schema, accesses, candidates: Vec::new() }, probes)
    }

    /// The planner's estimate of rows for a probe.
    pub fn answer(&mut self, probe: &Probe, rows: f64) {
        probes::answer(&mut self.accesses, self.schema, probe, rows);
    }

    /// Makes the candidates, and begins the choice among them.
    pub fn choose(&mut self, literals: &[String], limits: Limits) -> Choice {
        self.candidates = candidates::candidates(&self.accesses, self.schema, literals);
        let together = candidates::together(&self.candidates, &self.accesses);
        let merits = Merits {
            bars: self.candidates.iter().map(|candidate| self.bar(candidate, limits.share)).collect(),
            ordered: candidates::ordered(&self.candidates, &self.accesses, self.schema),
        };
        Choice::new(self.candidates.clone(), together, merits, self.plan.total_cost, limits)
    }

    /// What share of the cost a candidate may leave.
    fn bar(&self, candidate: &Candidate, share: f64) -> f64 {
        let Some(first) = candidate.keys.first() else { return share };
        let mut mine = self.accesses.iter().filter(|access| access.table == candidate.table);
        let bounds = |access: &Access| {
            let mut conditions =
                access.local.iter().chain(&access.joins).chain(access.either.iter().flatten());
            conditions.any(|p| p.target.expression == first.expression)
        };
        if candidate.predicate.is_none() && !mine.clone().any(bounds) {
            // Good for its order alone: either the first rows are all that is read, or all are, at random.
            return ORDER_SHARE.min(share);
        }
        // Of an expression the planner knows nothing, and takes two hundred values for granted.
        let is_expression = |access: &Access| {
            access.local.iter().any(|p| {
                p.target.expression == first.expression && p.target.column.is_none() && p.test == Test::Equal
            })
        };
        if mine.any(is_expression) { EXPRESSION_SHARE.max(share) } else { share }
    }

    /// What a set costs by the model, on this plan or on another one of the same statement.
    pub fn modeled(&self, plan: &Node, set: &[&Candidate]) -> f64 {
        Model { plan, accesses: &self.accesses, schema: self.schema }.cost(set)
    }

    /// The size that a candidate would have.
    pub fn bytes(&self, candidate: &Candidate) -> f64 {
        let access = self.accesses.iter().find(|access| access.table == candidate.table);
        let paths = access.and_then(|access| Paths::new(access, self.schema));
        let held = |paths: Paths<'_>| {
            let part = candidate.predicate.as_ref()?;
            let own =
                paths.access.local.iter().find(|p| candidates::part_text(p, &paths.access.alias) == *part)?;
            Some(own.share)
        };
        paths.map_or(0.0, |paths| paths.bytes(Shape::from(candidate), held(paths).unwrap_or(1.0)))
    }

    /// The verdict; `chosen` is what the choice came to, `best` the best cost that was found at all.
    pub fn verdict(
        &self,
        chosen: Option<&Trial>,
        best: Option<f64>,
        proof: &Proof,
        confidence: Confidence,
        rows_given: Option<f64>,
    ) -> Verdict {
        let findings = explain_why::findings(self.plan, &self.accesses, self.schema, rows_given);
        let mut advice: Vec<Advice> = explain_why::stale(&self.accesses, self.schema);
        for &at in chosen.map(|trial| trial.set.as_slice()).unwrap_or_default() {
            let candidate = &self.candidates[at];
            let is_model = proof.tool != Tool::HypoPg || !candidate.method.is_hypothetical();
            let confidence = if is_model { Confidence::Unproven } else { confidence };
            let index = self.index_advice(candidate, proof, confidence);
            // The partitions of one table come to one index.
            advice.extend(index.filter(|index| !advice.iter().any(|known| known.ddl == index.ddl)));
        }
        advice.extend(explain_why::foreign_keys(self.plan, self.schema));
        let has_index = advice.iter().any(|advice| advice.index.is_some());
        let mut no_index = None;
        if !has_index {
            no_index = Some(explain_why::no_index(self.plan, &self.accesses, self.schema, best));
            if no_index.as_ref().is_some_and(|(reason, _)| *reason == verdict::NoIndex::Rewrite) {
                advice.extend(explain_why::rewrites(&self.accesses, self.schema));
            }
        }
        let mut tables: Vec<_> = self.accesses.iter().map(|access| access.table.clone()).collect();
        tables.sort();
        tables.dedup();
        let cost = self.plan.total_cost;
        Verdict { advice, no_index, findings, cost, plan: None, plan_text: None, rows_read: 0.0, tables }
    }

    fn index_advice(&self, candidate: &Candidate, proof: &Proof, confidence: Confidence) -> Option<Advice> {
        let table = self.schema.table(&candidate.table)?;
        // An index on a partition alone would be one for each: the root's makes them all.
        let mut candidate = candidate.clone();
        if let Some(root) = &table.root {
            candidate.table.clone_from(root);
        }
        let reason = match confidence {
            Confidence::Proven => "the planner takes it".to_owned(),
            Confidence::ProvenGeneric => "the planner takes it for typical values".to_owned(),
            _ if candidate.method.is_hypothetical() => {
                "estimated from the table's statistics: HypoPG is not installed".to_owned()
            }
            _ => format!(
                "estimated from the table's statistics: HypoPG cannot pretend a {} index",
                candidate.method.as_str()
            ),
        };
        let mut related = related(table, &candidate);
        let (kind, ddl, reason) = match left_by_a_build(table, &candidate) {
            Some(index) => {
                related.clear();
                let repair = existing::repair(&table.name.0, &index.name);
                let why =
                    format!("{} would do, and is invalid: a build of it failed, or goes on", index.name);
                (Kind::RepairInvalid, repair.ddl, format!("{why}; {reason}"))
            }
            None => (Kind::CreateIndex, verdict::ddl(&candidate, table.is_partitioned), reason),
        };
        Some(Advice {
            kind,
            ddl,
            table: candidate.table.clone(),
            reason,
            confidence,
            proof: Some(proof.clone()),
            bytes: self.bytes(&candidate),
            writes_per_minute: table.writes_per_minute,
            related,
            caveats: self.caveats(table, &candidate),
            variants: if kind == Kind::CreateIndex { self.variants(table, &candidate) } else { Vec::new() },
            index: Some(candidate),
        })
    }

    /// Other forms that would do.
    fn variants(&self, table: &Table, candidate: &Candidate) -> Vec<(String, String)> {
        let covering = include::variant(self.plan, &self.accesses, self.schema, candidate);
        appended(table, candidate).into_iter().chain(covering).collect()
    }

    fn caveats(&self, table: &Table, candidate: &Candidate) -> Vec<String> {
        let mut caveats = Vec::new();
        let is_trigram = candidate
            .keys
            .iter()
            .any(|key| key.opclass.as_deref().is_some_and(|class| class.ends_with("gin_trgm_ops")));
        if is_trigram && !self.schema.server.has_trgm {
            caveats.push("needs CREATE EXTENSION pg_trgm".to_owned());
        }
        if candidate.method == Method::Gin {
            caveats.push("a GIN index makes writes several times slower".to_owned());
        }
        let is_expression = |key: &super::schema::IndexKey| {
            !table.columns.iter().any(|column| quoted(&column.name) == key.expression)
        };
        if candidate.keys.iter().any(is_expression) {
            caveats.push(format!(
                "run ANALYZE {} afterwards: the planner has no statistics of the expression before",
                quoted(&table.name.1)
            ));
        }
        if table.is_partitioned {
            caveats.push("CREATE INDEX on a partitioned table locks out writes; build it per partition with CONCURRENTLY and attach".to_owned());
        }
        caveats
    }
}

/// An index that would do what the candidate does, were it valid. A unique one is none, for it may fail again; nor is what
/// REINDEX itself has left, which is to be dropped; nor that of a partition, whose root is advised for.
fn left_by_a_build<'a>(table: &'a Table, candidate: &Candidate) -> Option<&'a Index> {
    let would_do = |index: &&Index| {
        let repaired = Index { is_valid: true, ..(*index).clone() };
        let is_same_part = index.predicate.as_deref().map(bare) == candidate.predicate.as_deref().map(bare);
        let is_mended = existing::repair(&table.name.0, &index.name).alternative.is_some();
        !index.is_valid
            && !index.is_unique
            && is_same_part
            && is_mended
            && candidates::covers_keys(&repaired, candidate)
    };
    table.indexes.iter().filter(|_| !table.is_partitioned).find(would_do)
}

/// Indexes that the candidate makes superfluous.
fn related(table: &Table, candidate: &Candidate) -> Vec<String> {
    let is_prefix = |index: &&Index| {
        index.method == candidate.method.as_str()
            && !index.is_unique
            && index.predicate == candidate.predicate
            && index.keys.len() < candidate.keys.len()
            && index.keys.iter().zip(&candidate.keys).all(|(existing, wanted)| existing == wanted)
    };
    table.indexes.iter().filter(is_prefix).map(|index| format!("replaces {}", index.name)).collect()
}

/// A range of a table that is only appended to: BRIN takes next to no room.
fn appended(table: &Table, candidate: &Candidate) -> Option<(String, String)> {
    let [key] = candidate.keys.as_slice() else { return None };
    let column = table.columns.iter().find(|column| quoted(&column.name) == key.expression);
    let is_appended = column.is_some_and(|column| column.correlation.abs() > 0.95) && table.pages > 10_000.0;
    if candidate.method != Method::Btree || candidate.predicate.is_some() || !is_appended {
        return None;
    }
    let ddl = verdict::ddl(candidate, table.is_partitioned).replacen(" (", " USING brin (", 1).replacen(
        "_idx ON",
        "_brin_idx ON",
        1,
    );
    Some((
        ddl,
        "some hundred kilobytes instead, for ranges only, while rows stay in the order they came in"
            .to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advice::plan_text::plan_text;
    use crate::advice::schema::{ColumnFacts, Index, IndexKey, Server, TableName};
    use crate::advice::verdict::NoIndex;

    fn column(name: &str, of_type: &str, n_distinct: f64) -> ColumnFacts {
        ColumnFacts {
            name: name.to_owned(),
            type_name: of_type.to_owned(),
            not_null: true,
            has_statistics: true,
            n_distinct,
            width: 8.0,
            ..ColumnFacts::default()
        }
    }

    fn table(name: &str, pages: f64, columns: Vec<ColumnFacts>) -> (TableName, Table) {
        let name = ("public".to_owned(), name.to_owned());
        let table = Table {
            name: name.clone(),
            pages,
            tuples: pages * 100.0,
            analyzed_pages: pages,
            columns,
            ..Table::default()
        };
        (name, table)
    }

    fn schema() -> Schema {
        let orders = vec![
            column("id", "bigint", -1.0),
            column("user_id", "bigint", 50_000.0),
            column("at", "timestamp with time zone", -1.0),
            column("note", "text", -1.0),
        ];
        let users = vec![column("id", "bigint", -1.0), column("email", "text", -1.0)];
        let tables = [
            table("orders", 10_000.0, orders),
            table("users", 4_000.0, users),
            table("tiny", 3.0, vec![column("a", "integer", 3.0)]),
        ];
        Schema { tables: tables.into(), server: Server::default(), ..Schema::default() }
    }

    /// A Seq Scan of a table of `schema`, with what is in front of the filter's end.
    fn scan(table: &str, alias: &str, rows: u32, cost: u32, filter: &str) -> String {
        format!(
            r#"{{"Node Type": "Seq Scan", "Relation Name": "{table}", "Schema": "public", "Alias": "{alias}", "Startup Cost": 0,
                 "Total Cost": {cost}, "Plan Rows": {rows}, "Filter": "{filter}"}}"#
        )
    }

    /// What is advised without HypoPG; probes are answered with `rows`.
    fn advised(plan: &str, schema: &Schema, rows: f64) -> Result<Vec<String>, NoIndex> {
        let plan = Node::parse(&format!("[{{\"Plan\": {plan}}}]")).unwrap();
        let (mut analysis, probes) = Analysis::new(&plan, schema);
        for probe in &probes {
            analysis.answer(probe, rows);
        }
        let mut choice = analysis.choose(&[], Limits::default());
        while let Some(set) = choice.next() {
            let chosen: Vec<&Candidate> = set.iter().map(|&at| &analysis.candidates[at]).collect();
            let cost = analysis.modeled(&plan, &chosen);
            choice.record(Trial { set, cost, is_used: true, bytes: 1.0 });
        }
        let proof = Proof {
            tool: Tool::Statistics,
            cost_before: plan.total_cost,
            cost_after: choice.best_cost().unwrap_or(plan.total_cost),
            samples: 1,
            plan_before: plan_text(&plan),
            plan_after: None,
        };
        let verdict = analysis.verdict(choice.chosen(), choice.best_cost(), &proof, Confidence::Proven, None);
        let ddl = verdict.advice.iter().map(|advice| advice.ddl.replace("CREATE INDEX CONCURRENTLY ", ""));
        verdict.no_index.map_or_else(|| Ok(ddl.collect()), |(reason, _)| Err(reason))
    }

    #[test]
    fn a_selective_equality_gets_an_index() {
        let plan = scan("orders", "o", 20, 22_500, "(o.user_id = '5'::bigint)");
        assert_eq!(
            advised(&plan, &schema(), 20.0).unwrap(),
            ["orders_user_id_idx ON public.orders (user_id)"]
        );
    }

    #[test]
    fn an_order_with_a_limit_follows_the_equality() {
        let scan = scan("orders", "o", 20_000, 22_500, "(o.user_id = '5'::bigint)");
        let sort = format!(
            r#"{{"Node Type": "Sort", "Startup Cost": 24000, "Total Cost": 24050, "Plan Rows": 20000, "Sort Key": ["o.at DESC"], "Plans": [{scan}]}}"#
        );
        let plan = format!(
            r#"{{"Node Type": "Limit", "Startup Cost": 24000, "Total Cost": 24001, "Plan Rows": 10, "Plans": [{sort}]}}"#
        );
        let advice = advised(&plan, &schema(), 20_000.0).unwrap();
        assert_eq!(advice, ["orders_user_id_at_idx ON public.orders (user_id, at)"]);
    }

    #[test]
    fn a_join_is_turned_round_by_an_index_on_its_large_side() {
        let orders = r#"{"Node Type": "Seq Scan", "Relation Name": "orders", "Schema": "public", "Alias": "o", "Startup Cost": 0, "Total Cost": 20000, "Plan Rows": 1000000}"#;
        let users = scan("users", "u", 1, 9_000, "(u.email = 'x'::text)");
        let plan = format!(
            r#"{{"Node Type": "Hash Join", "Join Type": "Inner", "Hash Cond": "(o.user_id = u.id)", "Startup Cost": 9001, "Total Cost": 33000, "Plan Rows": 20,
                 "Plans": [{orders}, {{"Node Type": "Hash", "Startup Cost": 9000, "Total Cost": 9000, "Plan Rows": 1, "Plans": [{users}]}}]}}"#
        );
        let advice = advised(&plan, &schema(), 1.0).unwrap();
        assert_eq!(
            advice,
            ["orders_user_id_idx ON public.orders (user_id)", "users_email_idx ON public.users (email)"]
        );
    }

    #[test]
    fn what_no_index_helps_says_why() {
        let all = scan("orders", "o", 900_000, 22_500, "(o.user_id = '5'::bigint)");
        assert_eq!(advised(&all, &schema(), 900_000.0), Err(NoIndex::MostRowsMatch));
        let small = scan("tiny", "t", 1, 4, "(t.a = 1)");
        assert_eq!(advised(&small, &schema(), 1.0), Err(NoIndex::SmallTable));
        let stable = scan(
            "orders",
            "o",
            5_000,
            22_500,
            "(date_trunc('day'::text, o.at) = '2024-01-01 00:00:00+00'::timestamp with time zone)",
        );
        assert_eq!(advised(&stable, &schema(), 5_000.0), Err(NoIndex::Rewrite));
        let short = scan("orders", "o", 100, 22_500, "(o.note ~~ '%a%'::text)");
        assert_eq!(advised(&short, &schema(), 100.0), Err(NoIndex::ShortPattern));
    }

    #[test]
    fn what_exists_is_not_advised_again() {
        let mut schema = schema();
        let key = |expression: &str| IndexKey { expression: expression.to_owned(), ..IndexKey::default() };
        let index = Index {
            name: "i".to_owned(),
            method: "btree".to_owned(),
            keys: vec![key("user_id"), key("id")],
            is_valid: true,
            ..Index::default()
        };
        let orders = ("public".to_owned(), "orders".to_owned());
        schema.tables.get_mut(&orders).unwrap().indexes.push(index);
        let plan = scan("orders", "o", 20, 22_500, "(o.user_id = '5'::bigint)");
        assert_eq!(advised(&plan, &schema, 20.0), Err(NoIndex::NoGain));
        // A build of it failed: it is not to be built once more beside itself.
        let indexes = &mut schema.tables.get_mut(&orders).unwrap().indexes;
        indexes[0].is_valid = false;
        assert_eq!(advised(&plan, &schema, 20.0).unwrap(), ["REINDEX INDEX CONCURRENTLY public.i"]);
        schema.tables.get_mut(&orders).unwrap().indexes[0].name = "i_ccnew".to_owned();
        assert_eq!(advised(&plan, &schema, 20.0).unwrap(), ["orders_user_id_idx ON public.orders (user_id)"]);
    }
}
