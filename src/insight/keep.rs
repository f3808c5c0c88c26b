//! What of the advice outlives a restart, as text: what somebody has decided, built or measured.
//!
//! An entry that this version cannot read is left out, and so is a file of another version: at worst a decision is to be made
//! once more.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::advice::entry::Entry;

/// Raised when an older Weir would misunderstand what is written.
const VERSION: u64 = 1;

/// Entries, by the database as the servers name it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept(pub BTreeMap<String, Vec<Entry>>);

impl Kept {
    /// As it stands in the file.
    pub fn to_text(&self) -> String {
        let databases: serde_json::Map<String, Value> =
            self.0.iter().map(|(dbname, entries)| (dbname.clone(), json!(entries))).collect();
        format!("{:#}\n", json!({ "version": VERSION, "databases": databases }))
    }

    /// Whether there is news for somebody who knows `other`: what statements took since is none by itself.
    pub fn is_news(&self, other: &Self) -> bool {
        let states = |kept: &Self| -> Vec<_> {
            let entries =
                kept.0.iter().flat_map(|(dbname, entries)| entries.iter().map(move |of| (dbname, of)));
            entries.map(|(dbname, of)| (dbname.clone(), of.merged.advice.id(), of.state.clone())).collect()
        };
        states(self) != states(other)
    }

    /// Reads it, and says how many entries were left out. An error says in words what the text is instead.
    pub fn parse(text: &str) -> Result<(Self, usize), String> {
        let mut file: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let version = file.get("version").and_then(Value::as_u64).ok_or("it has no version")?;
        if version != VERSION {
            return Err(format!("its version is {version}, and not {VERSION}"));
        }
        let databases = file.get_mut("databases").map(Value::take);
        let Some(Value::Object(databases)) = databases else { return Err("it has no databases".to_owned()) };
        let (mut kept, mut left_out) = (Self::default(), 0);
        for (dbname, entries) in databases {
            let Value::Array(entries) = entries else { return Err(format!("{dbname} has no list")) };
            let written = entries.len();
            let entries: Vec<Entry> =
                entries.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect();
            left_out += written - entries.len();
            kept.0.insert(dbname, entries);
        }
        Ok((kept, left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_such_file_is_said() {
        let parsed = |text: &str| Kept::parse(text).map(|(kept, left_out)| (kept.0.len(), left_out));
        assert_eq!(parsed(&Kept::default().to_text()), Ok((0, 0)));
        assert_eq!(parsed(r#"{"version": 1, "databases": {"app": [{"state": "Open"}]}}"#), Ok((1, 1)));
        for (text, error) in [
            ("{}", "it has no version"),
            (r#"{"version": 2}"#, "its version is 2, and not 1"),
            (r#"{"version": 1}"#, "it has no databases"),
            (r#"{"version": 1, "databases": {"app": 1}}"#, "app has no list"),
            ("", "EOF while parsing a value at line 1 column 0"),
        ] {
            assert_eq!(parsed(text), Err(error.to_owned()), "{text}");
        }
    }
}
