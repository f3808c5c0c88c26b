//! What comes of an analysis: advice, or the reason why no index helps.

use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::candidates::{Candidate, Method};
use super::identifier::quoted;
use super::schema::{IndexKey, TableName};

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// CREATE INDEX
    CreateIndex,
    /// CREATE INDEX on the columns of a foreign key, which a DELETE of what they refer to looks for.
    ForeignKeyIndex,
    /// ANALYZE: the statistics are of another table than it is now.
    Analyze,
    /// Write the condition otherwise.
    Rewrite,
    /// REINDEX: an index that would do is there, and a build of it failed.
    RepairInvalid,
}

impl Kind {
    /// The word in the console, the API and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CreateIndex => "create_index",
            Self::ForeignKeyIndex => "fk_index",
            Self::Analyze => "analyze",
            Self::Rewrite => "rewrite",
            Self::RepairInvalid => "repair_invalid",
        }
    }
}

/// Why it is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Confidence {
    /// The planner took the hypothetical index, with the values of real executions.
    Proven,
    /// The same with typical values: those of the executions are not known.
    ProvenGeneric,
    /// An estimate from statistics: HypoPG is not there, or cannot pretend an index of this method.
    Unproven,
    /// It follows from the catalog.
    Catalog,
}

impl Confidence {
    /// The word in the console, the API and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::ProvenGeneric => "proven_generic",
            Self::Unproven => "unproven",
            Self::Catalog => "catalog",
        }
    }
}

/// Who says what a plan would cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tool {
    /// The planner, with an index that HypoPG pretends.
    HypoPg,
    /// The model in `advice::model`, from the statistics.
    Statistics,
}

impl Tool {
    /// The word in the API and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HypoPg => "hypopg",
            Self::Statistics => "statistics",
        }
    }
}

/// How the gain was found out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Who says so.
    pub tool: Tool,
    /// The plan's cost now.
    pub cost_before: f64,
    /// With all indexes that are advised for the statement.
    pub cost_after: f64,
    /// Executions whose plans were compared.
    pub samples: usize,
    /// The plan now, as text without values.
    pub plan_before: String,
    /// The plan with the indexes, likewise, if the planner was asked.
    pub plan_after: Option<String>,
}

/// One piece of advice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Advice {
    /// What to do.
    pub kind: Kind,
    /// The index that is advised, if one is.
    pub index: Option<Candidate>,
    /// Its table, or the one to analyze.
    pub table: TableName,
    /// A statement to copy.
    pub ddl: String,
    /// In words: why, or how to rewrite.
    pub reason: String,
    /// Why it is believed.
    pub confidence: Confidence,
    /// How that was found out.
    pub proof: Option<Proof>,
    /// Bytes that the index will take.
    pub bytes: f64,
    /// Rows written to the table per minute, each of which an index slows.
    pub writes_per_minute: f64,
    /// Indexes that exist and have to do with it.
    pub related: Vec<String>,
    /// What to mind.
    pub caveats: Vec<String>,
    /// Other indexes that would do, as statements, with what speaks for them.
    pub variants: Vec<(String, String)>,
}

impl Advice {
    /// A stable name: table, method, columns and WHERE decide, so that what was dismissed stays so.
    pub fn id(&self) -> String {
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        // An index that is missing stays the same one when a build of it has failed.
        let kind = if self.kind == Kind::RepairInvalid { Kind::CreateIndex } else { self.kind };
        kind.as_str().hash(&mut hasher);
        self.table.hash(&mut hasher);
        match &self.index {
            Some(index) => {
                index.method.as_str().hash(&mut hasher);
                for key in &index.keys {
                    key_text(key).hash(&mut hasher);
                }
                index.predicate.hash(&mut hasher);
            }
            None => self.ddl.hash(&mut hasher),
        }
        format!("{:016x}", hasher.finish())
    }

    /// How many times cheaper the plan is.
    pub fn speedup(&self) -> Option<f64> {
        self.proof.as_ref().map(|proof| proof.cost_before / proof.cost_after.max(0.01))
    }

    /// For the API.
    pub fn to_json(&self) -> Value {
        let index = self.index.as_ref();
        let proof = self.proof.as_ref().map(|proof| {
            json!({
                "tool": proof.tool.as_str(),
                "cost_before": rounded(proof.cost_before),
                "cost_after": rounded(proof.cost_after),
                "samples": proof.samples,
                "plan_before": proof.plan_before,
                "plan_after": proof.plan_after,
            })
        });
        let variants: Vec<Value> =
            self.variants.iter().map(|(ddl, reason)| json!({"ddl": ddl, "reason": reason})).collect();
        json!({
            "id": self.id(),
            "kind": self.kind.as_str(),
            "table": format!("{}.{}", quoted(&self.table.0), quoted(&self.table.1)),
            "method": index.map(|index| index.method.as_str()),
            "columns": index.map(|index| index.keys.iter().map(key_text).collect::<Vec<_>>()),
            "where": index.and_then(|index| index.predicate.clone()),
            "include": [],
            "ddl": self.ddl,
            "reason": self.reason,
            "confidence": self.confidence.as_str(),
            "proof": proof,
            "est_speedup": self.speedup().map(rounded),
            "est_size_bytes": rounded(self.bytes),
            "write_rows_per_min": rounded(self.writes_per_minute),
            "existing_related": self.related,
            "caveats": self.caveats,
            "variants": variants,
        })
    }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Why no index is advised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoIndex {
    /// All tables are smaller than 50 pages: reading them whole is as fast.
    SmallTable,
    /// Most rows match: reading the table in order is faster than by an index.
    MostRowsMatch,
    /// There is no condition: all of the table is wanted.
    ReadsAll,
    /// The plan uses the indexes that there are.
    AlreadyIndexed,
    /// As it is written no index can serve the condition.
    Rewrite,
    /// The pattern has fewer than three letters or digits in a row.
    ShortPattern,
    /// `<>` and NOT: what is not wanted is no place in an index.
    Negation,
    /// What was tried brings too little.
    NoGain,
    /// INSERT reads nothing.
    Insert,
    /// It is no read, and writes are not explained.
    NotARead,
    /// It calls a function of the user's, which planning might run.
    UserFunction,
    /// PostgreSQL did not explain it.
    NotExplained,
}

impl NoIndex {
    /// The word in the console, the API and the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SmallTable => "small_table",
            Self::MostRowsMatch => "most_rows_match",
            Self::ReadsAll => "reads_all",
            Self::AlreadyIndexed => "already_indexed",
            Self::Rewrite => "rewrite",
            Self::ShortPattern => "short_pattern",
            Self::Negation => "negation",
            Self::NoGain => "no_gain",
            Self::Insert => "insert",
            Self::NotARead => "not_a_read",
            Self::UserFunction => "user_function",
            Self::NotExplained => "not_explained",
        }
    }
}

/// All that was found out about one statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// What to do; several indexes belong together.
    pub advice: Vec<Advice>,
    /// Why no index, where none is among the advice; with details.
    pub no_index: Option<(NoIndex, String)>,
    /// What the plan shows, in words.
    pub findings: Vec<String>,
    /// The plan's cost.
    pub cost: f64,
    /// The plan, as EXPLAIN (FORMAT JSON) gave it, with the values of the first sample.
    pub plan: Option<String>,
    /// The same as text, without values.
    pub plan_text: Option<String>,
    /// Rows that one execution reads, by the plan.
    pub rows_read: f64,
    /// The tables of the plan.
    pub tables: Vec<TableName>,
}

impl Verdict {
    /// Nothing, for a reason.
    pub fn nothing(reason: NoIndex, detail: impl Into<String>) -> Self {
        let no_index = Some((reason, detail.into()));
        Self {
            advice: Vec::new(),
            no_index,
            findings: Vec::new(),
            cost: 0.0,
            plan: None,
            plan_text: None,
            rows_read: 0.0,
            tables: Vec::new(),
        }
    }

    /// Whether an index is advised.
    pub fn has_index(&self) -> bool {
        self.advice.iter().any(|advice| advice.index.is_some())
    }
}

/// `CREATE INDEX CONCURRENTLY`, with a generated name.
pub fn ddl(candidate: &Candidate, is_partitioned: bool) -> String {
    let Candidate { table: (schema, table), method, keys, predicate } = candidate;
    let keys: Vec<String> = keys.iter().map(key_text).collect();
    let using = if *method == Method::Btree { String::new() } else { format!("USING {} ", method.as_str()) };
    let part = predicate.as_ref().map(|part| format!(" WHERE {part}")).unwrap_or_default();
    // A partitioned table takes no CONCURRENTLY (manual, 5.11.2.1 Declarative Partitioning).
    let concurrently = if is_partitioned { "" } else { "CONCURRENTLY " };
    let name = quoted(&name(candidate));
    format!(
        "CREATE INDEX {concurrently}{name} ON {}.{} {using}({}){part}",
        quoted(schema),
        quoted(table),
        keys.join(", ")
    )
}

/// The statement without name, for HypoPG.
pub fn hypothetical(candidate: &Candidate) -> String {
    let statement = ddl(candidate, true);
    let name = quoted(&name(candidate));
    statement.replacen(&format!("{name} ON"), "ON", 1)
}

/// A key as CREATE INDEX wants it.
pub fn key_text(key: &IndexKey) -> String {
    let mut text =
        if is_plain(&key.expression) { key.expression.clone() } else { format!("({})", key.expression) };
    if let Some(class) = &key.opclass {
        text.push(' ');
        text.push_str(class);
    }
    if key.descending {
        text.push_str(" DESC");
    }
    if key.nulls_first != key.descending {
        text.push_str(if key.nulls_first { " NULLS FIRST" } else { " NULLS LAST" });
    }
    text
}

/// A column, or a call of a function, which needs no parentheses.
fn is_plain(expression: &str) -> bool {
    let is_word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || c == '_');
    if is_word(expression)
        || (expression.starts_with('"') && expression.ends_with('"') && expression.matches('"').count() == 2)
    {
        return true;
    }
    let Some((function, rest)) = expression.split_once('(') else { return false };
    let mut depth = 1_i32;
    let closes_last = rest.char_indices().find_map(|(at, c)| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        (depth == 0).then_some(at + 1 == rest.len())
    });
    is_word(function) && closes_last == Some(true)
}

/// The longest name that PostgreSQL keeps.
const NAME_MAX: usize = 63;

/// `table_columns_idx`, as PostgreSQL names them.
pub fn name(candidate: &Candidate) -> String {
    let word = |key: &IndexKey| -> String {
        let mut word: String = key
            .expression
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
            .collect();
        while word.contains("__") {
            word = word.replace("__", "_");
        }
        word.trim_matches('_').to_owned()
    };
    let words: Vec<String> = candidate.keys.iter().map(word).collect();
    let mut name = format!("{}_{}", candidate.table.1, words.join("_"));
    let suffix = match (candidate.method, &candidate.predicate) {
        (Method::Btree, None) => "_idx",
        (Method::Btree, Some(_)) => "_part_idx",
        (Method::Gin, _) => "_gin_idx",
        (Method::Gist, _) => "_gist_idx",
    };
    let mut end = name.len().min(NAME_MAX - suffix.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name + suffix
}

/// FNV-1a: the same on every build and machine, as an id that is kept must be.
struct Fnv(u64);

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
