//! The advice for many statements, brought together: the fewest indexes that serve all of them, ranked by the time they
//! save.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::candidates::{Candidate, Method};
use super::verdict::Advice;

/// A statement that advice is for.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Served {
    /// What it is called: its fingerprint.
    pub name: String,
    /// How often it runs.
    pub calls_per_hour: f64,
    /// How long it takes now.
    pub mean_ms: f64,
}

/// One piece of advice for all statements that it serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Merged {
    /// The advice, for the statement that saves most.
    pub advice: Advice,
    /// All statements that it serves.
    pub serves: Vec<String>,
    /// Milliseconds saved per hour, by the share of the plan's cost that is saved.
    pub saves_ms_per_hour: f64,
}

impl Merged {
    /// For the API.
    pub fn to_json(&self) -> Value {
        let mut value = self.advice.to_json();
        if let Some(object) = value.as_object_mut() {
            object.insert("queries".to_owned(), json!(self.serves));
            object.insert("saves_ms_per_hour".to_owned(), json!(self.saves_ms_per_hour.round()));
        }
        value
    }
}

/// A written row costs so much more with one more index: 2 microseconds by measurement of 200,000 inserted rows.
const WRITE_MS: f64 = 0.002;

/// Brings together what was advised for each statement.
pub fn merge(verdicts: &[(Served, Vec<Advice>)]) -> Vec<Merged> {
    let mut all: Vec<Merged> = Vec::new();
    for (served, advice) in verdicts {
        for advice in advice {
            let share = advice
                .proof
                .as_ref()
                .map_or(0.5, |proof| 1.0 - proof.cost_after / proof.cost_before.max(0.01));
            let saves = served.calls_per_hour * served.mean_ms * share.clamp(0.0, 1.0);
            let same = all.iter_mut().find(|known| is_same(&known.advice, advice));
            match same {
                Some(known) => {
                    known.serves.push(served.name.clone());
                    known.saves_ms_per_hour += saves;
                }
                None => all.push(Merged {
                    advice: advice.clone(),
                    serves: vec![served.name.clone()],
                    saves_ms_per_hour: saves,
                }),
            }
        }
    }
    // The longest first, so that each finds the one that it is a left part of.
    all.sort_by_key(|merged| {
        std::cmp::Reverse(merged.advice.index.as_ref().map_or(0, |index| index.keys.len()))
    });
    let mut kept: Vec<Merged> = Vec::new();
    for merged in all {
        let wider = kept.iter_mut().find(|known| match (&known.advice.index, &merged.advice.index) {
            (Some(known), Some(index)) => is_left_part(index, known),
            _ => false,
        });
        match wider {
            Some(known) => {
                known.serves.extend(merged.serves);
                known.saves_ms_per_hour += merged.saves_ms_per_hour;
            }
            None => kept.push(merged),
        }
    }
    let rank = |merged: &Merged| {
        let writes = if merged.advice.index.is_some() {
            merged.advice.writes_per_minute * 60.0 * WRITE_MS
        } else {
            0.0
        };
        merged.saves_ms_per_hour - writes
    };
    kept.sort_by(|a, b| rank(b).total_cmp(&rank(a)).then_with(|| a.advice.ddl.cmp(&b.advice.ddl)));
    kept
}

fn is_same(a: &Advice, b: &Advice) -> bool {
    match (&a.index, &b.index) {
        (Some(a), Some(b)) => a == b,
        _ => a.kind == b.kind && a.ddl == b.ddl && a.table == b.table,
    }
}

/// Whether a b-tree does what the other one does, being the first of its keys.
fn is_left_part(index: &Candidate, of: &Candidate) -> bool {
    index.table == of.table
        && index.method == Method::Btree
        && of.method == Method::Btree
        && index.predicate == of.predicate
        && index.keys.len() <= of.keys.len()
        && index.keys.iter().zip(&of.keys).all(|(a, b)| a == b)
}
