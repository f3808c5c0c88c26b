//! What of the advice outlives a restart, as text: what somebody has decided, built or measured,
//! and since when indexes have been there, which PostgreSQL does not say.
//!
//! An entry that this version cannot read is left out, and so is a file of another version: at worst a decision is to be made
//! once more.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::advice::entry::Entry;
use crate::advice::schema::TableName;

/// Raised when an older Weir would misunderstand what is written.
const VERSION: u64 = 1;

/// What is kept of one database.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeptDatabase {
    /// Advice with what became of it.
    pub advice: Vec<Entry>,
    /// Indexes that are there.
    pub indexes: Vec<KeptIndex>,
}

/// An index: its number, its table, and since when it has been known, in seconds of Unix time.
pub type KeptIndex = (u32, TableName, u64);

/// By the database as the servers name it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept(pub BTreeMap<String, KeptDatabase>);

impl Kept {
    /// As it stands in the file.
    pub fn to_text(&self) -> String {
        let database = |kept: &KeptDatabase| json!({ "advice": kept.advice, "indexes": kept.indexes });
        let databases: serde_json::Map<String, Value> =
            self.0.iter().map(|(dbname, kept)| (dbname.clone(), database(kept))).collect();
        format!("{:#}\n", json!({ "version": VERSION, "databases": databases }))
    }

    /// Whether there is news for somebody who knows `other`: what statements took since is none by itself.
    pub fn is_news(&self, other: &Self) -> bool {
        let states = |kept: &KeptDatabase| -> Vec<_> {
            kept.advice.iter().map(|entry| (entry.merged.advice.id(), entry.state.clone())).collect()
        };
        let is_same =
            |(a, b): (&KeptDatabase, &KeptDatabase)| states(a) == states(b) && a.indexes == b.indexes;
        !(self.0.keys().eq(other.0.keys()) && self.0.values().zip(other.0.values()).all(is_same))
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
        for (dbname, mut database) in databases {
            let mut list = |key: &str| match database.get_mut(key).map(Value::take) {
                Some(Value::Array(list)) => Ok(list),
                _ => Err(format!("{dbname} has no {key}")),
            };
            let (advice, indexes) = (list("advice")?, list("indexes")?);
            let written = advice.len() + indexes.len();
            let database = KeptDatabase {
                advice: advice.into_iter().filter_map(|entry| serde_json::from_value(entry).ok()).collect(),
                indexes: indexes.into_iter().filter_map(|index| serde_json::from_value(index).ok()).collect(),
            };
            left_out += written - database.advice.len() - database.indexes.len();
            kept.0.insert(dbname, database);
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
        let one = r#"{"version": 1, "databases": {"app": {"advice": [{"state": "Open"}], "indexes": [[7, ["s", "t"], 5]]}}}"#;
        assert_eq!(parsed(one), Ok((1, 1)));
        for (text, error) in [
            ("{}", "it has no version"),
            (r#"{"version": 2}"#, "its version is 2, and not 1"),
            (r#"{"version": 1}"#, "it has no databases"),
            (r#"{"version": 1, "databases": {"app": 1}}"#, "app has no advice"),
            (r#"{"version": 1, "databases": {"app": {"advice": []}}}"#, "app has no indexes"),
            ("", "EOF while parsing a value at line 1 column 0"),
        ] {
            assert_eq!(parsed(text), Err(error.to_owned()), "{text}");
        }
    }
    #[test]
    fn what_is_written_is_read() {
        let index = (7, ("s".to_owned(), "t".to_owned()), 1_790_000_000);
        let database = KeptDatabase { advice: Vec::new(), indexes: vec![index] };
        let kept = Kept(BTreeMap::from([("app".to_owned(), database)]));
        assert_eq!(Kept::parse(&kept.to_text()), Ok((kept.clone(), 0)));
        assert!(kept.is_news(&Kept::default()) && !kept.is_news(&kept));
    }
}
