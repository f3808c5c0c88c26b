//! The settings (GUCs) that a client has changed, and the SQL that gives them to another server connection.
//!
//! A setting is kept as the client wrote it, not as a parsed value: the server that accepted the text once is the
//! one authority on what it means. `SET x TO <text>` replays the source text; values that came as one string (the
//! startup packet, `set_config`) are replayed by `set_config` with a quoted string, since `SET search_path TO 'a, b'`
//! would name one schema.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::pg::GucName;
use crate::wire::build;

/// The value of a setting, as it was given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// The text behind `SET name TO`.
    Source(Box<[u8]>),
    /// A string as the startup packet and `set_config` take it.
    Literal(Box<[u8]>),
    /// A string constant with its quotes, as it stood in a call of `set_config`.
    Quoted(Box<[u8]>),
}

/// A timeout below this might strike while a server connection takes on the settings of its next client.
pub const SHORT_TIMEOUT: Duration = Duration::from_millis(100);

impl Value {
    /// The value as a time that is not zero ("never"), with PostgreSQL's units and milliseconds without one (manual,
    /// 20.1.1 Parameter Names and Values); `None` if it cannot be told. Zero gives the longest time.
    fn duration(&self) -> Option<Duration> {
        let (Self::Source(text) | Self::Literal(text) | Self::Quoted(text)) = self;
        let text =
            std::str::from_utf8(text).ok()?.trim_matches(|c: char| c == '\'' || c.is_ascii_whitespace());
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let number: f64 = text[..digits].parse().ok()?;
        let seconds = match text[digits..].trim_start() {
            "us" => 1e-6,
            "" | "ms" => 1e-3,
            "s" => 1.0,
            "min" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return None,
        };
        if number == 0.0 { Some(Duration::MAX) } else { Duration::try_from_secs_f64(number * seconds).ok() }
    }
}

/// Settings that differ from what the server connection was opened with. Cheap to clone and to compare when shared.
#[derive(Clone, Debug, Default, Eq)]
pub struct Settings(Arc<BTreeMap<GucName, Value>>);

impl PartialEq for Settings {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
    }
}

impl std::hash::Hash for Settings {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl Settings {
    /// Settings from names and strings, later ones win.
    pub fn from_literals<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let map = pairs
            .into_iter()
            .map(|(name, value)| (GucName::new(name), Value::Literal(value.into())))
            .collect();
        Self(Arc::new(map))
    }

    /// Whether both are the very same map: true implies equal, at the price of one comparison.
    #[inline]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether nothing differs from the server's own values.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of `name`, if it was changed.
    pub fn value(&self, name: &GucName) -> Option<&Value> {
        self.0.get(name)
    }

    /// The value of `search_path`, if it was changed.
    #[inline]
    pub fn search_path(&self) -> Option<&Value> {
        if self.0.is_empty() {
            return None;
        }
        self.0.iter().find(|(name, _)| name.as_str() == "search_path").map(|(_, value)| value)
    }

    /// Those that decide what a text means when it is parsed: which tables and roles its names are, and the values of
    /// constants, which are read then and not when it is run.
    pub fn of_parsing(&self) -> impl Iterator<Item = (&GucName, &Value)> {
        self.0.iter().filter(|(name, _)| {
            matches!(
                name.as_str(),
                "array_nulls"
                    | "backslash_quote"
                    | "client_encoding"
                    | "datestyle"
                    | "default_text_search_config"
                    | "intervalstyle"
                    | "lc_monetary"
                    | "role"
                    | "search_path"
                    | "session_authorization"
                    | "standard_conforming_strings"
                    | "timezone"
                    | "timezone_abbreviations"
                    | "transform_null_equals"
                    | "xmloption"
            )
        })
    }

    /// Whether a text means the same by these settings as by `other`.
    pub fn parses_as(&self, other: &Self) -> bool {
        self.is_same(other) || self.of_parsing().eq(other.of_parsing())
    }

    /// The settings that an application made up; a server connection that ever had one has it for ever, if only
    /// empty.
    pub fn custom_names(&self) -> impl Iterator<Item = &GucName> {
        self.0.keys().filter(|name| name.is_custom())
    }

    /// All of them in the order of their names, each with how its value was written, as a number, and the value.
    pub fn entries(&self) -> impl Iterator<Item = (&str, u8, &[u8])> {
        self.0.iter().map(|(name, value)| match value {
            Value::Source(text) => (name.as_str(), 0, &**text),
            Value::Literal(text) => (name.as_str(), 1, &**text),
            Value::Quoted(text) => (name.as_str(), 2, &**text),
        })
    }

    /// Whether the isolation of transactions may be another than by the server's default.
    pub fn changes_isolation(&self) -> bool {
        !self.0.is_empty()
            && self.0.keys().any(|name| {
                matches!(name.as_str(), "default_transaction_isolation" | "default_transaction_deferrable")
            })
    }

    /// The names that `pg_settings` shows.
    pub fn shown_names(&self) -> impl Iterator<Item = &GucName> {
        self.0.keys().filter(|name| !is_hidden(name))
    }

    /// Takes over what the server itself says: `found` are the settings of the session that it shows, and the role;
    /// those that it does not show stay.
    pub fn observe(&mut self, found: Vec<(GucName, Value)>) {
        let stays = |name: &GucName| is_hidden(name) && name.as_str() != "role";
        let mut map: BTreeMap<_, _> = self
            .0
            .iter()
            .filter(|(name, _)| stays(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        map.extend(found);
        self.0 = Arc::new(map);
    }

    /// These settings without timeouts below `limit`, which would strike the next client of the server connection, or the
    /// connection while it is free; `None` if there are none.
    pub fn without_timeouts(&self, limit: Duration) -> Option<Self> {
        let strikes = |(name, value): &(&GucName, &Value)| match name.as_str() {
            "statement_timeout" | "transaction_timeout" => value.duration().is_none_or(|time| time < limit),
            "idle_session_timeout" => true,
            _ => false,
        };
        let mut calm: Option<Self> = None;
        for (name, _) in self.0.iter().filter(strikes) {
            Arc::make_mut(&mut calm.get_or_insert_with(|| self.clone()).0).remove(name);
        }
        calm
    }

    /// Remembers a change.
    pub fn set(&mut self, name: GucName, value: Value) {
        if name.as_str() == "session_authorization" {
            // The manual, SET SESSION AUTHORIZATION: it also resets the role.
            Arc::make_mut(&mut self.0).remove(&GucName::new("role"));
        }
        Arc::make_mut(&mut self.0).insert(name, value);
    }

    /// Back to what the session began with: `baseline` holds the startup packet's settings.
    pub fn reset(&mut self, name: &GucName, baseline: &Self) {
        match baseline.0.get(name) {
            Some(value) => self.set(name.clone(), value.clone()),
            None if self.0.contains_key(name) => {
                Arc::make_mut(&mut self.0).remove(name);
            }
            None => {}
        }
    }

    /// `RESET ALL`: all but those that PostgreSQL exempts (`GUC_NO_RESET_ALL`), role and authorization.
    pub fn reset_all(&mut self, baseline: &Self) {
        let mut map = (*baseline.0).clone();
        for name in ["role", "session_authorization"].map(GucName::new) {
            if let Some(value) = self.0.get(&name) {
                map.insert(name, value.clone());
            }
        }
        self.0 = Arc::new(map);
    }

    /// Writes the queries that take a server connection from `actual` to these settings; gives their number.
    ///
    /// Each is one transaction: if a part fails (a role that was dropped), the block stays failed, and the statement
    /// that was sent behind it in the same write is refused by the server instead of running as somebody else.
    /// The client's encoding goes first, by itself: the server decodes a query by the encoding it found when it
    /// began to read it.
    /// Inside a transaction block (`in_block`) that is not needed: there a failure fails the block.
    /// `lacking` are custom settings that the connection shall know: RESET makes them.
    pub fn write_difference(
        &self,
        actual: &Self,
        lacking: &[&GucName],
        in_block: bool,
        out: &mut Vec<u8>,
    ) -> usize {
        if self == actual && lacking.is_empty() {
            return 0;
        }
        let (begin, commit): (&[u8], &[u8]) = if in_block { (b"", b"") } else { (b"BEGIN", b";COMMIT") };
        let encoding = GucName::new("client_encoding");
        let mut queries = 0;
        if self.0.get(&encoding) != actual.0.get(&encoding) {
            let mut sql = begin.to_vec();
            self.change(&encoding, &mut sql);
            sql.extend_from_slice(commit);
            build::query(out, &sql);
            queries += 1;
        }
        let identity = [GucName::new("session_authorization"), GucName::new("role")];
        let others = |name: &&GucName| **name != encoding && !identity.contains(name);
        let mut sql = begin.to_vec();
        let empty = sql.len();
        // What needs the login's own rights is changed between giving up one identity and taking the next.
        for name in identity.iter().rev().filter(|name| actual.0.contains_key(*name)) {
            sql.extend_from_slice(b";RESET ");
            quote_name(&mut sql, name);
        }
        for name in actual.0.keys().filter(others).filter(|name| !self.0.contains_key(*name)) {
            self.change(name, &mut sql);
        }
        for name in lacking.iter().filter(|name| !self.0.contains_key(**name)) {
            self.change(name, &mut sql);
        }
        for (name, value) in self.0.iter().filter(|(name, _)| others(name)) {
            if actual.0.get(name) != Some(value) {
                self.change(name, &mut sql);
            }
        }
        for name in identity.iter().filter(|name| self.0.contains_key(*name)) {
            self.change(name, &mut sql);
        }
        if sql.len() > empty {
            sql.extend_from_slice(commit);
            build::query(out, &sql);
            queries += 1;
        }
        queries
    }

    /// Appends the statement that gives one setting its value here.
    fn change(&self, name: &GucName, sql: &mut Vec<u8>) {
        match self.0.get(name) {
            None => {
                sql.extend_from_slice(b";RESET ");
                quote_name(sql, name);
            }
            // `INTERVAL '2' HOUR` is understood in this spelling only.
            Some(Value::Source(text)) if name.as_str() == "timezone" => {
                sql.extend_from_slice(b";SET TIME ZONE ");
                sql.extend_from_slice(text);
            }
            Some(Value::Source(text)) => {
                sql.extend_from_slice(b";SET ");
                quote_name(sql, name);
                sql.extend_from_slice(b" TO ");
                sql.extend_from_slice(text);
            }
            Some(Value::Literal(text)) => {
                sql.extend_from_slice(b";SELECT pg_catalog.set_config(");
                quote_literal(sql, name.as_str().as_bytes());
                sql.push(b',');
                quote_literal(sql, text);
                sql.extend_from_slice(b",false)");
            }
            Some(Value::Quoted(text)) => {
                sql.extend_from_slice(b";SELECT pg_catalog.set_config(");
                quote_literal(sql, name.as_str().as_bytes());
                sql.push(b',');
                sql.extend_from_slice(text);
                sql.extend_from_slice(b",false)");
            }
        }
    }
}

/// Whether `pg_settings` leaves it out.
fn is_hidden(name: &GucName) -> bool {
    name.is_custom() || matches!(name.as_str(), "role" | "session_authorization" | "seed" | "is_superuser")
}

/// Each part of a dotted name in double quotes.
fn quote_name(sql: &mut Vec<u8>, name: &GucName) {
    for (index, part) in name.as_str().split('.').enumerate() {
        if index > 0 {
            sql.push(b'.');
        }
        sql.push(b'"');
        for &byte in part.as_bytes() {
            sql.extend_from_slice(if byte == b'"' { b"\"\"" } else { std::slice::from_ref(&byte) });
        }
        sql.push(b'"');
    }
}

/// An `E''` string: it means the same whatever `standard_conforming_strings` is.
fn quote_literal(sql: &mut Vec<u8>, text: &[u8]) {
    sql.extend_from_slice(b"E'");
    for &byte in text {
        if matches!(byte, b'\'' | b'\\') {
            sql.push(byte);
        }
        sql.push(byte);
    }
    sql.push(b'\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literals(pairs: &[(&str, &str)]) -> Settings {
        Settings::from_literals(pairs.iter().map(|(name, value)| (*name, value.as_bytes())))
    }

    fn difference(wanted: &Settings, actual: &Settings) -> String {
        let mut out = Vec::new();
        wanted.write_difference(actual, &[], false, &mut out);
        out.split(|&byte| byte == 0)
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .filter_map(|part| part.find("BEGIN").map(|at| part[at..].to_owned()))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn nothing_is_sent_between_equals() {
        let one = literals(&[("TimeZone", "UTC")]);
        assert_eq!(difference(&one, &literals(&[("timezone", "UTC")])), "");
    }

    #[test]
    fn what_the_other_had_is_reset_and_what_this_one_wants_is_set() {
        let mut wanted = literals(&[("search_path", "a, b")]);
        wanted.set(GucName::new("my.Tenant"), Value::Source(b"'x', y".as_slice().into()));
        let actual = literals(&[("datestyle", "German")]);
        assert_eq!(
            difference(&wanted, &actual),
            "BEGIN;RESET \"datestyle\";SET \"my\".\"tenant\" TO 'x', y;\
             SELECT pg_catalog.set_config(E'search_path',E'a, b',false);COMMIT"
        );
    }

    #[test]
    fn timeouts_that_would_strike_others_are_left_out() {
        let calm = |name: &str, value: &str| {
            let mut settings = literals(&[("work_mem", "1MB")]);
            settings.set(GucName::new(name), Value::Source(value.as_bytes().into()));
            settings.without_timeouts(SHORT_TIMEOUT)
        };
        let rest = Some(literals(&[("work_mem", "1MB")]));
        for short in ["'1ms'", "99", "'0.01s'", " '50 ms' ", "'1us'", "E'5'", "'5 fortnights'"] {
            assert_eq!(calm("statement_timeout", short), rest, "{short}");
        }
        for long in ["0", "'0'", "100", "'30s'", "5000", "'1min'", "'2 h'"] {
            assert_eq!(calm("statement_timeout", long), None, "{long}");
        }
        assert_eq!(calm("idle_session_timeout", "'10min'"), rest);
        assert_eq!(calm("lock_timeout", "'1ms'"), None);
    }

    #[test]
    fn identity_is_given_up_first_and_taken_last() {
        let wanted = literals(&[("role", "bob"), ("work_mem", "1MB")]);
        let actual = literals(&[("role", "eve"), ("session_authorization", "eve")]);
        assert_eq!(
            difference(&wanted, &actual),
            "BEGIN;RESET \"role\";RESET \"session_authorization\";\
             SELECT pg_catalog.set_config(E'work_mem',E'1MB',false);\
             SELECT pg_catalog.set_config(E'role',E'bob',false);COMMIT"
        );
    }

    #[test]
    fn encoding_goes_first_by_itself() {
        let wanted = literals(&[("client_encoding", "LATIN1"), ("application_name", "b\\'s")]);
        assert_eq!(
            difference(&wanted, &Settings::default()),
            "BEGIN;SELECT pg_catalog.set_config(E'client_encoding',E'LATIN1',false);COMMIT\n\
             BEGIN;SELECT pg_catalog.set_config(E'application_name',E'b\\\\''s',false);COMMIT"
        );
    }

    #[test]
    fn reset_returns_to_what_the_startup_packet_said() {
        let baseline = literals(&[("timezone", "UTC")]);
        let mut settings = baseline.clone();
        settings.set(GucName::new("timezone"), Value::Source(b"'Asia/Tokyo'".as_slice().into()));
        settings.set(GucName::new("work_mem"), Value::Source(b"'1MB'".as_slice().into()));
        settings.set(GucName::new("role"), Value::Source(b"bob".as_slice().into()));
        let mut one = settings.clone();
        one.reset(&GucName::new("TimeZone"), &baseline);
        assert_eq!(one.value(&GucName::new("timezone")), baseline.value(&GucName::new("timezone")));
        settings.reset_all(&baseline);
        assert_eq!(settings.value(&GucName::new("work_mem")), None);
        assert!(settings.value(&GucName::new("role")).is_some());
    }
}
