//! The SQL that the model of PostgreSQL knows: what conversations are made of, and what Weir itself sends.
//!
//! Read by code of its own, not by Weir's: where the two disagree on a text, a property fails.

use super::settings::is_known;

/// One statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sql {
    Empty,
    Begin,
    Commit {
        chain: bool,
    },
    Rollback {
        chain: bool,
    },
    Savepoint(String),
    RollbackTo(String),
    Release(String),
    /// `None` is DEFAULT.
    Set {
        name: String,
        value: Option<String>,
        local: bool,
    },
    Reset(String),
    ResetAll,
    Show(String),
    /// `set_config(name, value, local)`.
    SetConfig {
        name: Argument,
        value: Argument,
        local: bool,
    },
    /// `current_setting(name, true)`.
    CurrentSetting(String),
    Value(Argument),
    DivideByZero,
    UnknownColumn(String),
    Series(u32),
    BackendPid,
    Count(String),
    Insert {
        table: String,
        value: Argument,
    },
    CreateTemporary {
        table: String,
        on_commit_drop: bool,
    },
    DropTable(String),
    CopyIn(String),
    CopyOut(u32),
    Lock(String),
    Unlock(String),
    UnlockAll,
    /// A function of the application's own: sets a setting.
    AppSet {
        name: String,
        value: String,
    },
    /// Likewise: makes the temporary table `t1`.
    AppTemporary,
    Listen(String),
    /// `None` is `*`.
    Unlisten(Option<String>),
    Listening,
    Prepare {
        name: String,
        statement: Box<Sql>,
    },
    Execute(String),
    /// `None` is ALL.
    Deallocate(Option<String>),
    Declare {
        name: String,
        hold: bool,
        rows: u32,
    },
    Fetch {
        count: u32,
        name: String,
    },
    /// `None` is ALL.
    Close(Option<String>),
    DiscardAll,
    DiscardTemporary,
    DiscardOther(&'static str),
    Comment,
    /// Weir's question for all that a session has.
    Inspection,
}

/// A constant, or `$1` and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Argument {
    Constant(String),
    Parameter(usize),
}

/// What a result has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A query that the executor runs row by row.
    Select,
    /// A utility statement with rows.
    UtilityRows,
    /// Rows of a table change.
    Insert,
    /// A utility statement without rows.
    Utility,
}

impl Sql {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::SetConfig { .. }
            | Self::CurrentSetting(_)
            | Self::Value(_)
            | Self::DivideByZero
            | Self::UnknownColumn(_)
            | Self::Series(_)
            | Self::BackendPid
            | Self::Count(_)
            | Self::Lock(_)
            | Self::Unlock(_)
            | Self::AppSet { .. }
            | Self::AppTemporary
            | Self::Listening
            | Self::Inspection => Kind::Select,
            Self::Show(_) | Self::Fetch { .. } | Self::Execute(_) => Kind::UtilityRows,
            Self::Insert { .. } => Kind::Insert,
            _ => Kind::Utility,
        }
    }

    /// Whether a failed transaction block runs it.
    pub(super) fn ends_block(&self) -> bool {
        matches!(self, Self::Commit { .. } | Self::Rollback { .. } | Self::RollbackTo(_))
    }

    /// Whether PostgreSQL calls it transaction control.
    pub(super) fn is_transaction_control(&self) -> bool {
        self.ends_block() || matches!(self, Self::Begin | Self::Savepoint(_) | Self::Release(_))
    }

    /// How many parameters it has.
    pub(super) fn parameters(&self) -> usize {
        let number = |argument: &Argument| match argument {
            Argument::Parameter(number) => *number,
            Argument::Constant(_) => 0,
        };
        match self {
            Self::SetConfig { name, value, .. } => number(name).max(number(value)),
            Self::Value(value) | Self::Insert { value, .. } => number(value),
            _ => 0,
        }
    }

    /// Whether it returns a setting to what the session began with.
    pub(super) fn resets(&self) -> bool {
        matches!(self, Self::Set { value: None, .. } | Self::Reset(_) | Self::ResetAll | Self::DiscardAll)
    }
}

impl Argument {
    pub(super) fn value(&self, parameters: &[String]) -> String {
        match self {
            Self::Constant(value) => value.clone(),
            Self::Parameter(number) => parameters.get(number - 1).cloned().unwrap_or_default(),
        }
    }
}

/// The statements of a text; `Err` holds what stands where it should not.
pub(super) fn parse(text: &str) -> Result<Vec<Sql>, String> {
    if text.starts_with("SELECT 'setting', name, setting FROM pg_catalog.pg_settings") {
        return Ok(vec![Sql::Inspection]);
    }
    let tokens = tokens(text);
    let mut statements = Vec::new();
    for statement in tokens.split(|token| token == ";") {
        if !statement.is_empty() {
            let words: Vec<&str> = statement.iter().map(String::as_str).collect();
            statements.push(one(&words).ok_or_else(|| statement[0].clone())?);
        }
    }
    Ok(statements)
}

/// Words in lower case, strings behind an apostrophe, punctuation. Quoted and dotted names are one word.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let mut token = String::new();
        if first.is_whitespace() {
            rest = &rest[1..];
            continue;
        } else if first == '\'' || rest.starts_with("E'") {
            let escapes = first != '\'';
            let mut chars = rest[if escapes { 2 } else { 1 }..].chars();
            token.push('\'');
            while let Some(next) = chars.next() {
                match next {
                    '\'' if chars.as_str().starts_with('\'') => token.extend(chars.next()),
                    '\'' => break,
                    '\\' if escapes => token.extend(chars.next()),
                    _ => token.push(next),
                }
            }
            rest = chars.as_str();
        } else if first.is_alphanumeric() || matches!(first, '_' | '"' | '$') {
            let end = rest.find(|c: char| !c.is_alphanumeric() && !matches!(c, '_' | '"' | '.' | '$'));
            let (word, behind) = rest.split_at(end.unwrap_or(rest.len()));
            token = word.replace('"', "").to_lowercase();
            rest = behind;
        } else {
            token.push(first);
            rest = &rest[first.len_utf8()..];
        }
        tokens.push(token);
    }
    tokens
}

fn one(words: &[&str]) -> Option<Sql> {
    let owned = |word: &&str| (*word).to_owned();
    let value = |word: &str| word.strip_prefix('\'').unwrap_or(word).to_owned();
    let is_name = |word: &str| word.starts_with(|c: char| c.is_alphabetic() || c == '_');
    let argument = |word: &str| match word.strip_prefix('$').and_then(|number| number.parse().ok()) {
        Some(number) => Argument::Parameter(number),
        None => Argument::Constant(value(word)),
    };
    Some(match words {
        ["begin"] | ["start", "transaction"] => Sql::Begin,
        ["commit" | "end"] => Sql::Commit { chain: false },
        ["commit", "and", "chain"] => Sql::Commit { chain: true },
        ["rollback" | "abort"] => Sql::Rollback { chain: false },
        ["rollback", "and", "chain"] => Sql::Rollback { chain: true },
        ["savepoint", name] => Sql::Savepoint(owned(name)),
        ["rollback", "to", name] => Sql::RollbackTo(owned(name)),
        ["release", name] => Sql::Release(owned(name)),
        ["set", "role", role] => Sql::Set { name: "role".to_owned(), value: Some(value(role)), local: false },
        ["set", rest @ .., name, "to" | "=", to] if matches!(rest, [] | ["local" | "session"]) => Sql::Set {
            name: owned(name),
            value: (*to != "default").then(|| value(to)),
            local: *rest == ["local"],
        },
        ["reset", "all"] => Sql::ResetAll,
        ["set", "session", "authorization", "default"] => Sql::Reset("role".to_owned()),
        ["reset", name] => Sql::Reset(owned(name)),
        ["show", name] => Sql::Show(owned(name)),
        ["select", "set_config" | "pg_catalog.set_config", "(", name, ",", to, ",", local, ")"] => {
            Sql::SetConfig { name: argument(name), value: argument(to), local: *local == "true" }
        }
        ["select", "current_setting", "(", name, ",", "true", ")"] => Sql::CurrentSetting(value(name)),
        ["select", "1", "/", "0"] => Sql::DivideByZero,
        // What Weir lets a block take its snapshot with.
        ["select"] => Sql::Series(0),
        ["select", "pg_backend_pid", "(", ")"] => Sql::BackendPid,
        ["select", "generate_series", "(", "1", ",", count, ")"] => Sql::Series(count.parse().ok()?),
        ["select", "count", "(", "*", ")", "from", "pg_listening_channels", "(", ")"] => Sql::Listening,
        ["select", "count", "(", "*", ")", "from", table] => Sql::Count(owned(table)),
        ["select", "pg_advisory_lock", "(", key, ")"] => Sql::Lock(owned(key)),
        ["select", "pg_advisory_unlock", "(", key, ")"] => Sql::Unlock(owned(key)),
        ["select", "pg_catalog.pg_advisory_unlock_all", "(", ")"] => Sql::UnlockAll,
        ["select", "app_set", "(", name, ",", to, ")"] => Sql::AppSet { name: value(name), value: value(to) },
        ["select", "app_temporary", "(", ")"] => Sql::AppTemporary,
        ["select", name] if is_name(name) => Sql::UnknownColumn(owned(name)),
        ["select", constant] => Sql::Value(argument(constant)),
        ["insert", "into", table, "values", "(", of, ")"] => {
            Sql::Insert { table: owned(table), value: argument(of) }
        }
        ["create", "temp", "table", table, "(", "a", "text", ")", rest @ ..] => {
            Sql::CreateTemporary { table: owned(table), on_commit_drop: !rest.is_empty() }
        }
        ["drop", "table", table] => Sql::DropTable(owned(table)),
        ["copy", table, "from", "stdin"] => Sql::CopyIn(owned(table)),
        ["copy", "(", "select", "generate_series", "(", "1", ",", count, ")", ")", "to", "stdout"] => {
            Sql::CopyOut(count.parse().ok()?)
        }
        ["listen", channel] => Sql::Listen(owned(channel)),
        ["unlisten", "*"] => Sql::Unlisten(None),
        ["unlisten", channel] => Sql::Unlisten(Some(owned(channel))),
        ["prepare", name, "as", statement @ ..] => {
            Sql::Prepare { name: owned(name), statement: Box::new(one(statement)?) }
        }
        ["execute", name] => Sql::Execute(owned(name)),
        ["deallocate", "all"] => Sql::Deallocate(None),
        ["deallocate", name] => Sql::Deallocate(Some(owned(name))),
        [
            "declare",
            name,
            "cursor",
            hold @ ..,
            "for",
            "select",
            "generate_series",
            "(",
            "1",
            ",",
            rows,
            ")",
        ] => Sql::Declare { name: owned(name), hold: !hold.is_empty(), rows: rows.parse().ok()? },
        ["fetch", count, "from", name] => Sql::Fetch { count: count.parse().ok()?, name: owned(name) },
        ["close", "all"] => Sql::Close(None),
        ["close", name] => Sql::Close(Some(owned(name))),
        ["discard", "all"] => Sql::DiscardAll,
        ["discard", "temp"] => Sql::DiscardTemporary,
        ["discard", "plans"] => Sql::DiscardOther("DISCARD PLANS"),
        ["discard", "sequences"] => Sql::DiscardOther("DISCARD SEQUENCES"),
        ["comment", "on", "table", "log", "is", _] => Sql::Comment,
        _ => return None,
    })
}

/// Whether a name of a setting means anything to the server.
pub(super) fn is_setting(name: &str) -> bool {
    name.contains('.') || is_known(name)
}
