//! One piece of advice that stands, with what people and measurements made of it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::identifier::quoted;
use super::load::Loads;
use super::merge::Merged;

/// What became of a piece of advice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum State {
    /// Nobody has acted on it.
    Open,
    /// Somebody does not want to see it.
    Dismissed,
    /// Nor does who says so before this time.
    Snoozed(SystemTime),
    /// The index is there; by how much its statements became faster is not known yet.
    Built {
        /// Its name.
        index: String,
    },
    /// The index is there, and they became faster so many times.
    Verified {
        /// Its name.
        index: String,
        /// Below [`GAIN_MIN`]: it brought nothing, and may be dropped.
        times: f64,
    },
}

/// An index is worth having if its statements are so many times faster with it.
pub(super) const GAIN_MIN: f64 = 1.2;

impl State {
    /// The word in the console and the API.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Dismissed => "dismissed",
            Self::Snoozed(_) => "snoozed",
            Self::Built { .. } => "built",
            Self::Verified { times, .. } if *times < GAIN_MIN => "no_gain",
            Self::Verified { .. } => "verified",
        }
    }

    /// Nobody wants to see it, for now at least.
    pub fn is_hidden(&self) -> bool {
        matches!(self, Self::Dismissed | Self::Snoozed(_))
    }
}

/// What somebody says to a piece of advice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decision {
    /// It is not wanted.
    Dismiss,
    /// Not before this time.
    Snooze(SystemTime),
    /// It is, after all.
    Reopen,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The advice, with the statements it serves.
    pub merged: Merged,
    /// When it was first given.
    pub first_seen: SystemTime,
    /// When an analysis last came to it.
    pub last_seen: SystemTime,
    /// What became of it.
    pub state: State,
    /// The last analyses still come to it.
    #[serde(skip)]
    pub(super) is_advised: bool,
    /// What its statements take, with and without it.
    pub(super) loads: Loads,
}

impl Entry {
    /// For the API: the advice of [`Merged::to_json`] with its history.
    pub fn to_json(&self) -> Value {
        let seconds = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut value = self.merged.to_json();
        if let Some(object) = value.as_object_mut() {
            object.insert("first_seen".to_owned(), json!(seconds(self.first_seen)));
            object.insert("last_seen".to_owned(), json!(seconds(self.last_seen)));
            object.insert("state".to_owned(), json!(self.state.as_str()));
            object.insert("confidence".to_owned(), json!(self.confidence()));
            if let State::Snoozed(until) = self.state {
                object.insert("snoozed_until".to_owned(), json!(seconds(until)));
            }
            if let State::Verified { times, .. } = self.state {
                object.insert("measured_speedup".to_owned(), json!((times * 10.0).round() / 10.0));
                object.insert("measured".to_owned(), json!(self.measured()));
                object.insert("drop_ddl".to_owned(), json!(self.drop_ddl()));
            }
        }
        value
    }

    /// Why it is believed: best of all, because it was measured.
    fn confidence(&self) -> &'static str {
        if self.state.as_str() == "verified" { "verified" } else { self.merged.advice.confidence.as_str() }
    }

    /// What was measured, in words; empty: nothing yet.
    pub fn measured(&self) -> String {
        match &self.state {
            State::Verified { times, .. } if *times < GAIN_MIN => "no gain: drop it?".to_owned(),
            State::Verified { times, .. } if *times < 10.0 => format!("x{times:.1} measured"),
            State::Verified { times, .. } => format!("x{times:.0} measured"),
            _ => String::new(),
        }
    }

    /// The statement that takes an index away again which has brought nothing.
    pub fn drop_ddl(&self) -> Option<String> {
        let State::Verified { index, times } = &self.state else { return None };
        let schema = quoted(&self.merged.advice.table.0);
        (*times < GAIN_MIN).then(|| format!("DROP INDEX CONCURRENTLY {schema}.{}", quoted(index)))
    }

    /// For SHOW ADVICE, in the order of [`COLUMNS`].
    pub fn row(&self) -> [String; COLUMNS.len()] {
        let advice = &self.merged.advice;
        [
            advice.id(),
            advice.kind.as_str().to_owned(),
            format!("{}.{}", advice.table.0, advice.table.1),
            self.confidence().to_owned(),
            advice.speedup().map(|times| format!("{times:.1}")).unwrap_or_default(),
            format!("{:.0}", self.merged.saves_ms_per_hour),
            format!("{:.0}", advice.bytes),
            format!("{:.1}", advice.writes_per_minute),
            self.merged.serves.join(","),
            self.state.as_str().to_owned(),
            self.measured(),
            self.drop_ddl().unwrap_or_else(|| advice.ddl.clone()),
            advice.reason.clone(),
        ]
    }
}

/// The columns of SHOW ADVICE.
pub const COLUMNS: [&str; 13] = [
    "id",
    "kind",
    "table",
    "confidence",
    "speedup",
    "saves_ms_per_hour",
    "bytes",
    "writes_per_minute",
    "queries",
    "state",
    "measured",
    "ddl",
    "reason",
];
