//! What may be typed at the console, and how it is understood.
//!
//! The words are PgBouncer's, so that its clients, exporters and its users' fingers work. Beside them stand the few
//! statements that drivers send by themselves (SET, BEGIN, `SHOW server_version`, ...), which must not fail.

use crate::pg::{ProcessId, SqlState};
use crate::sql::literal::string_value;
use crate::sql::scan::{Scanner, TokenKind};
use crate::wire::build::{Report, Severity};

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// A list of the console's.
    Show(Show),
    /// What a statement does and where it would go: the text, and the database if one is named.
    Why(String, Option<String>),
    /// Who is in a transaction, pinned, or waits for a lock.
    Transactions,
    /// The plan of a shape, and what its analysis comes to.
    Explain(String),
    /// Advice that nobody wants to see any more.
    Dismiss(String),
    /// Advice that nobody wants to see for so many days.
    Snooze(String, u32),
    /// Advice that is wanted after all.
    Reopen(String),
    /// Begins the statistics of statements anew.
    ResetStatistics,
    /// A setting that drivers ask for: its name and value.
    Variable(&'static str, String),
    /// Reads the configuration anew.
    Reload,
    /// Lends no more server connections of a database, or of all, and waits until they are back.
    Pause(Option<String>),
    /// Lends them again.
    Resume(Option<String>),
    /// Replaces server connections as they come back.
    Reconnect(Option<String>),
    /// Ends one client.
    KillClient(ProcessId),
    /// Ends all clients and server connections of a database, and pauses it.
    KillDatabase(String),
    /// Makes what is kept of a relation's rows void, or all.
    FlushCache(Option<String>),
    /// Ends Weir.
    Shutdown,
    /// What changes nothing here, and the tag it is answered with.
    Nothing(&'static str),
}

/// The lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    Help,
    Pools,
    Clients,
    Servers,
    Databases,
    Stats,
    StatsTotals,
    StatsAverages,
    Totals,
    Lists,
    Config,
    Version,
    Users,
    State,
    Hosts,
    Pins,
    Floors,
    Stream,
    Cache,
    CacheShapes,
    Slow,
    Repeats,
    Advice,
    Indexes,
}

impl Show {
    /// All lists, by name.
    pub(super) const ALL: [(&'static str, Self); 24] = [
        ("help", Self::Help),
        ("pools", Self::Pools),
        ("clients", Self::Clients),
        ("servers", Self::Servers),
        ("databases", Self::Databases),
        ("stats", Self::Stats),
        ("stats_totals", Self::StatsTotals),
        ("stats_averages", Self::StatsAverages),
        ("totals", Self::Totals),
        ("lists", Self::Lists),
        ("config", Self::Config),
        ("version", Self::Version),
        ("users", Self::Users),
        ("state", Self::State),
        ("hosts", Self::Hosts),
        ("pins", Self::Pins),
        ("floors", Self::Floors),
        ("stream", Self::Stream),
        ("cache", Self::Cache),
        ("cache_shapes", Self::CacheShapes),
        ("slow", Self::Slow),
        ("repeats", Self::Repeats),
        ("advice", Self::Advice),
        ("indexes", Self::Indexes),
    ];
}

/// What SHOW answers to drivers.
const VARIABLES: [(&str, &str); 8] = [
    ("server_version", SERVER_VERSION),
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("datestyle", "ISO"),
    ("timezone", "UTC"),
    ("standard_conforming_strings", "on"),
    ("transaction_isolation", "read committed"),
    ("default_transaction_isolation", "read committed"),
];

/// What drivers read a server's abilities off; the console's own version stands behind it.
const SERVER_VERSION: &str = concat!("15.0 (Weir ", env!("CARGO_PKG_VERSION"), ")");

/// For how long advice is put off that somebody snoozes, and at most.
const SNOOZE_DAYS: u32 = 7;
const SNOOZE_DAYS_MAX: u32 = 3650;

impl Command {
    /// Whether users who may only look may use it.
    pub(super) fn is_harmless(&self) -> bool {
        match self {
            Self::Show(_) | Self::Why(..) | Self::Transactions | Self::Variable(..) | Self::Nothing(_) => {
                true
            }
            Self::Reload
            | Self::Pause(_)
            | Self::Resume(_)
            | Self::Reconnect(_)
            | Self::KillClient(_)
            | Self::KillDatabase(_)
            | Self::FlushCache(_)
            | Self::Explain(_)
            | Self::Dismiss(_)
            | Self::Snooze(..)
            | Self::Reopen(_)
            | Self::ResetStatistics
            | Self::Shutdown => false,
        }
    }
}

/// A word of a command: quoted ones are never keywords.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    text: String,
    kind: TokenKind,
}

/// Cuts a query string at its semicolons; each part is a command or an error of its own.
pub(super) fn parse(text: &[u8]) -> Vec<Result<Command, Report>> {
    let mut scanner = Scanner::new(text, true);
    let mut commands = Vec::new();
    let mut words = Vec::new();
    for token in scanner.by_ref() {
        match token.kind {
            TokenKind::Comment => {}
            TokenKind::Semicolon => commands.push(std::mem::take(&mut words)),
            kind => words.push(Word { text: unquoted(token.span.of(text), kind), kind }),
        }
    }
    commands.push(words);
    commands.into_iter().filter(|words| !words.is_empty()).map(|words| command(&words)).collect()
}

/// A name as it is meant; PgBouncer keeps the case of names that are not quoted, and so do we.
fn unquoted(bytes: &[u8], kind: TokenKind) -> String {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let inside = |quote: &str| {
        let inside = text.strip_prefix(quote)?;
        // An unterminated one has no last quote.
        Some(inside.strip_suffix(quote).unwrap_or(inside).replace(&quote.repeat(2), quote))
    };
    match kind {
        TokenKind::QuotedIdentifier => inside("\""),
        TokenKind::String => inside("'"),
        kind if kind.is_string() => {
            string_value(kind, bytes).map(|value| String::from_utf8_lossy(&value).into_owned())
        }
        _ => None,
    }
    .unwrap_or(text)
}

fn command(words: &[Word]) -> Result<Command, Report> {
    let keyword = |index: usize| -> String {
        words
            .get(index)
            .filter(|word| word.kind == TokenKind::Word)
            .map_or_else(String::new, |word| word.text.to_ascii_lowercase())
    };
    let first = keyword(0);
    match (first.as_str(), &words[1..]) {
        ("show", []) => Ok(Command::Show(Show::Help)),
        ("show", [_]) if keyword(1) == "transactions" => Ok(Command::Transactions),
        ("show", [word]) => show(&keyword(1)).map_err(|_| syntax_error(&word.text)),
        ("show", [_, sql, rest @ ..]) if keyword(1) == "why" && sql.kind.is_string() => {
            Ok(Command::Why(sql.text.clone(), one_database(rest)?))
        }
        // SHOW STATS TOTALS is nobody's, but SHOW TRANSACTION ISOLATION LEVEL is JDBC's.
        ("show", [_, ..]) if keyword(1) == "transaction" => show("transaction_isolation"),
        ("reload", []) => Ok(Command::Reload),
        ("shutdown", []) => Ok(Command::Shutdown),
        ("shutdown", [_]) if keyword(1) == "wait_for_servers" => Ok(Command::Shutdown),
        ("pause", rest) => Ok(Command::Pause(one_database(rest)?)),
        ("resume", rest) => Ok(Command::Resume(one_database(rest)?)),
        ("reconnect", rest) => Ok(Command::Reconnect(one_database(rest)?)),
        ("kill" | "kill_client", [word]) if word.kind == TokenKind::Integer => match word.text.parse() {
            Ok(process) => Ok(Command::KillClient(ProcessId(process))),
            Err(_) => Err(syntax_error(&word.text)),
        },
        ("kill", rest) => match one_database(rest)? {
            Some(database) => Ok(Command::KillDatabase(database)),
            None => Err(Report::new(
                Severity::Error,
                SqlState::SYNTAX_ERROR,
                "KILL needs a client's process id or a database",
            )
            .with_hint("SHOW CLIENTS lists the clients' process ids in the column id.")),
        },
        ("flush", [_, rest @ ..]) if keyword(1) == "cache" => Ok(Command::FlushCache(one_relation(rest)?)),
        // A fingerprint may begin with digits, and be cut into several words.
        ("explain", rest @ [_, ..]) => Ok(Command::Explain(joined(rest))),
        ("dismiss", rest @ [_, ..]) => Ok(Command::Dismiss(joined(rest))),
        ("snooze", rest @ [_, ..]) => snooze(rest),
        ("reopen", rest @ [_, ..]) => Ok(Command::Reopen(joined(rest))),
        ("reset", [_]) if keyword(1) == "statistics" => Ok(Command::ResetStatistics),
        ("set", [_, ..]) => Ok(Command::Nothing("SET")),
        ("reset", [_, ..]) => Ok(Command::Nothing("RESET")),
        ("discard", [_, ..]) => Ok(Command::Nothing("DISCARD ALL")),
        ("deallocate", [_, ..]) => Ok(Command::Nothing("DEALLOCATE ALL")),
        ("begin" | "start", _) => Ok(Command::Nothing("BEGIN")),
        ("commit" | "end", _) => Ok(Command::Nothing("COMMIT")),
        ("rollback", _) => Ok(Command::Nothing("ROLLBACK")),
        ("select", rest) => select(rest),
        _ => Err(syntax_error(&words[0].text)),
    }
}

fn joined(words: &[Word]) -> String {
    words.iter().map(|word| word.text.as_str()).collect()
}

/// `SNOOZE id`, or `SNOOZE id FOR 30 DAYS`.
fn snooze(words: &[Word]) -> Result<Command, Report> {
    let is = |word: &Word, of: &str| word.kind == TokenKind::Word && word.text.eq_ignore_ascii_case(of);
    let [id @ .., by, count, unit] = words else { return Ok(Command::Snooze(joined(words), SNOOZE_DAYS)) };
    if !is(by, "for") || !(is(unit, "days") || is(unit, "day")) {
        return Ok(Command::Snooze(joined(words), SNOOZE_DAYS));
    }
    match count.text.parse() {
        Ok(days) if !id.is_empty() && (1..=SNOOZE_DAYS_MAX).contains(&days) => {
            Ok(Command::Snooze(joined(id), days))
        }
        _ => Err(syntax_error(&count.text)),
    }
}

fn show(name: &str) -> Result<Command, Report> {
    if let Some((_, show)) = Show::ALL.into_iter().find(|(known, _)| *known == name) {
        return Ok(Command::Show(show));
    }
    match VARIABLES.into_iter().find(|(known, _)| *known == name) {
        Some((name, value)) => Ok(Command::Variable(name, value.to_owned())),
        None => Err(syntax_error(name)),
    }
}

/// `SELECT 1` and `SELECT version()`: how monitors and connection pools ask whether somebody is there.
fn select(rest: &[Word]) -> Result<Command, Report> {
    match rest {
        [word] if word.kind == TokenKind::Integer => Ok(Command::Variable("?column?", word.text.clone())),
        [word, open, close]
            if word.text.eq_ignore_ascii_case("version")
                && open.kind == TokenKind::OpenParen
                && close.kind == TokenKind::CloseParen =>
        {
            Ok(Command::Variable("version", format!("PostgreSQL {SERVER_VERSION}")))
        }
        _ => Err(Report::new(
            Severity::Error,
            SqlState::FEATURE_NOT_SUPPORTED,
            "this is Weir's console, not a database",
        )
        .with_hint("SHOW HELP")),
    }
}

fn one_database(words: &[Word]) -> Result<Option<String>, Report> {
    match words {
        [] => Ok(None),
        [word] if word.kind.is_identifier() || word.kind == TokenKind::String => Ok(Some(word.text.clone())),
        [word, ..] if !word.kind.is_identifier() => Err(syntax_error(&word.text)),
        [_, next, ..] => Err(syntax_error(&next.text)),
        [word] => Err(syntax_error(&word.text)),
    }
}

/// A relation's name, with a schema or without; nothing for all.
fn one_relation(words: &[Word]) -> Result<Option<String>, Report> {
    match words {
        [schema, dot, name]
            if schema.kind.is_identifier() && dot.kind == TokenKind::Dot && name.kind.is_identifier() =>
        {
            Ok(Some(format!("{}.{}", schema.text, name.text)))
        }
        words => one_database(words),
    }
}

fn syntax_error(near: &str) -> Report {
    // What was typed may be long or strange; an error message is neither.
    let near: String = near.chars().take(64).collect();
    Report::new(Severity::Error, SqlState::SYNTAX_ERROR, format!("syntax error at or near \"{near}\""))
        .with_hint("SHOW HELP")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_are_read() {
        let one = |text: &str| {
            let mut commands = parse(text.as_bytes());
            assert_eq!(commands.len(), 1, "{text}");
            commands.remove(0)
        };
        for (text, expected) in [
            ("show pools", Command::Show(Show::Pools)),
            ("  SHOW  Stats_Totals ;", Command::Show(Show::StatsTotals)),
            ("show -- all of it\n help", Command::Show(Show::Help)),
            ("SHOW", Command::Show(Show::Help)),
            ("show why 'select ''x'''", Command::Why("select 'x'".to_owned(), None)),
            (
                "SHOW WHY $$DELETE FROM t; -- ';'$$ app",
                Command::Why("DELETE FROM t; -- ';'".to_owned(), Some("app".to_owned())),
            ),
            ("RELOAD;", Command::Reload),
            ("pause", Command::Pause(None)),
            ("PAUSE App", Command::Pause(Some("App".to_owned()))),
            ("resume \"my \"\"db\"\"\"", Command::Resume(Some("my \"db\"".to_owned()))),
            ("reconnect 'my-db'", Command::Reconnect(Some("my-db".to_owned()))),
            ("show transactions", Command::Transactions),
            ("show slow", Command::Show(Show::Slow)),
            ("explain 0123e4567890abcd", Command::Explain("0123e4567890abcd".to_owned())),
            ("EXPLAIN 'a123e4567890abcd'", Command::Explain("a123e4567890abcd".to_owned())),
            ("dismiss 1f00", Command::Dismiss("1f00".to_owned())),
            ("snooze 1f00", Command::Snooze("1f00".to_owned(), 7)),
            ("SNOOZE '1f00' FOR 30 days", Command::Snooze("1f00".to_owned(), 30)),
            ("snooze 12e4f for 1 day", Command::Snooze("12e4f".to_owned(), 1)),
            ("reopen 1f00", Command::Reopen("1f00".to_owned())),
            ("reset statistics", Command::ResetStatistics),
            ("reset all", Command::Nothing("RESET")),
            ("flush cache", Command::FlushCache(None)),
            ("FLUSH CACHE public.\"T\"", Command::FlushCache(Some("public.T".to_owned()))),
            ("kill 4711", Command::KillClient(ProcessId(4711))),
            ("KILL_CLIENT 4711", Command::KillClient(ProcessId(4711))),
            ("kill app", Command::KillDatabase("app".to_owned())),
            ("kill \"4711\"", Command::KillDatabase("4711".to_owned())),
            ("shutdown wait_for_servers", Command::Shutdown),
            ("SET extra_float_digits = 3", Command::Nothing("SET")),
            ("set application_name to 'exporter; v1'", Command::Nothing("SET")),
            ("select 1", Command::Variable("?column?", "1".to_owned())),
            (
                "SHOW TRANSACTION ISOLATION LEVEL",
                Command::Variable("transaction_isolation", "read committed".to_owned()),
            ),
        ] {
            assert_eq!(one(text), Ok(expected), "{text}");
        }
        for (text, message, hint) in [
            ("frobnicate", "syntax error at or near \"frobnicate\"", Some("SHOW HELP")),
            ("show \"pools\"", "syntax error at or near \"pools\"", Some("SHOW HELP")),
            ("show why", "syntax error at or near \"why\"", Some("SHOW HELP")),
            ("show why select", "syntax error at or near \"show\"", Some("SHOW HELP")),
            ("show why 'select' a b", "syntax error at or near \"b\"", Some("SHOW HELP")),
            ("snooze '1f00' for 0 days", "syntax error at or near \"0\"", Some("SHOW HELP")),
            ("snooze for 3 days", "syntax error at or near \"3\"", Some("SHOW HELP")),
            ("flush", "syntax error at or near \"flush\"", Some("SHOW HELP")),
            ("flush cache a.b.c", "syntax error at or near \".\"", Some("SHOW HELP")),
            ("pause a b", "syntax error at or near \"b\"", Some("SHOW HELP")),
            ("pause 1", "syntax error at or near \"1\"", Some("SHOW HELP")),
            ("kill -1", "syntax error at or near \"-\"", Some("SHOW HELP")),
            ("kill 99999999999", "syntax error at or near \"99999999999\"", Some("SHOW HELP")),
            ("select * from users", "this is Weir's console, not a database", Some("SHOW HELP")),
        ] {
            let report = one(text).unwrap_err();
            assert_eq!((report.message.as_str(), report.hint.as_deref()), (message, hint), "{text}");
        }
    }

    #[test]
    fn several_commands_stand_in_one_string() {
        let commands = parse(b"; show version;;set x to 1; nonsense ;");
        assert_eq!(commands.len(), 3);
        assert_eq!(commands[0], Ok(Command::Show(Show::Version)));
        assert!(commands[2].is_err());
        assert!(parse(b" ; /* nothing */ ").is_empty());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<Vec<u8>>(), nearly in "(show|kill|pause|select) [\"'a-z0-9;()]{0,12}") {
            let _ = (parse(&text), parse(nearly.as_bytes()));
        }
    }
}
