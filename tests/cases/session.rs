//! Statements and what they do to the session.

use weir::sql::command::{ConfigLocal, ConfigName, ConfigValue, Scope, SetValue, TransactionModes};
use weir::sql::comment::{CacheHint, TargetHint};
use weir::sql::{Command, PinSet, Statement, analyze};

#[test]
fn check() {
    super::table::check("session.txt", |text| answer(text, true));
}

#[test]
fn check_with_backslashes() {
    super::table::check("session_backslashes.txt", |text| answer(text, false));
}

fn answer(text: &str, standard_conforming_strings: bool) -> String {
    let analysis = analyze(text.as_bytes(), standard_conforming_strings);
    let mut lines: Vec<String> =
        analysis.statements.iter().map(|statement| line(text.as_bytes(), statement)).collect();
    if analysis.names_time {
        lines.push("names time".to_owned());
    }
    if let Some(flaw) = analysis.flaw {
        lines.push(format!("flaw: {}", flaw.as_str()));
    }
    match analysis.hints.target {
        Some(TargetHint::Primary) => lines.push("hint: primary".to_owned()),
        Some(TargetHint::Replica) => lines.push("hint: replica".to_owned()),
        None => {}
    }
    if let Some(consistency) = analysis.hints.consistency {
        lines.push(format!("hint: consistency={}", consistency.as_str()));
    }
    match analysis.hints.cache {
        Some(CacheHint::Never) => lines.push("hint: nocache".to_owned()),
        Some(CacheHint::Cache { ttl: None }) => lines.push("hint: cache".to_owned()),
        Some(CacheHint::Cache { ttl: Some(ttl) }) => lines.push(format!("hint: cache ttl={ttl:?}")),
        None => {}
    }
    for tag in analysis.comments.tags(text.as_bytes()) {
        lines.push(format!("tag: {}={}", tag.key, tag.value));
    }
    lines.join("\n")
}

fn line(text: &[u8], statement: &Statement) -> String {
    let mut line = statement.command.as_str().to_owned();
    let details = details(&statement.command);
    if !details.is_empty() {
        line.push(' ');
        line.push_str(&details);
    }
    let mut add = |name: &str, pins: PinSet| {
        if !pins.is_empty() {
            let words: Vec<&str> = pins.iter().map(weir::sql::Pin::as_str).collect();
            line = format!("{line} [{name} {}]", words.join(" "));
        }
    };
    add("pins", statement.pins);
    add("ends", statement.ends);
    if statement.sequence.advances {
        line.push_str(" [nextval]");
    }
    if statement.sequence.reads {
        line.push_str(" [currval]");
    }
    if statement.notifies {
        line.push_str(" [notifies]");
    }
    if statement.unlocks_advisory {
        line.push_str(" [unlocks_advisory]");
    }
    if statement.backend_pid {
        line.push_str(" [backend_pid]");
    }
    if statement.span.of(text).trim_ascii() != text.trim_ascii() {
        let part = String::from_utf8_lossy(statement.span.of(text)).replace('\n', "\\n");
        line = format!("{line} | {part}");
    }
    line
}

fn details(command: &Command) -> String {
    let source = |source: &[u8]| String::from_utf8_lossy(source).into_owned();
    match command {
        Command::Begin(modes) | Command::SetTransaction(modes) => modes_line(*modes),
        Command::Commit { chain } | Command::Rollback { chain } => {
            if *chain { "chain" } else { "" }.to_owned()
        }
        Command::Savepoint(name)
        | Command::RollbackTo(name)
        | Command::Release(name)
        | Command::Prepare(name)
        | Command::Execute(name)
        | Command::Deallocate(name)
        | Command::Listen(name)
        | Command::Unlisten(name)
        | Command::Notify(name)
        | Command::CloseCursor(name)
        | Command::DropDatabase(name)
        | Command::AlterDatabaseRename(name)
        | Command::AlterDatabaseTablespace(name) => name.to_string(),
        Command::DeclareCursor { name, hold } => format!("{name}{}", if *hold { " hold" } else { "" }),
        Command::CreateDatabase { name, template } => match template {
            Some(template) => format!("{name} from {template}"),
            None => name.to_string(),
        },
        Command::Set { scope, settings } => {
            let settings: Vec<String> = settings
                .iter()
                .map(|setting| match &setting.value {
                    SetValue::Source(value) => format!("{}={}", setting.name, source(value)),
                    SetValue::Default => format!("{}=default", setting.name),
                })
                .collect();
            let scope = if *scope == Scope::Local { "local " } else { "" };
            format!("{scope}{}", settings.join("; "))
        }
        Command::SetConfig(calls) => {
            let calls: Vec<String> = calls
                .iter()
                .map(|call| {
                    let name = match &call.name {
                        ConfigName::Literal(name) => name.to_string(),
                        ConfigName::Parameter(number) => format!("${number}"),
                    };
                    let value = match &call.value {
                        ConfigValue::Source(value) => source(value),
                        ConfigValue::Parameter(number) => format!("${number}"),
                        ConfigValue::Null => "null".to_owned(),
                    };
                    let local = match call.local {
                        ConfigLocal::Transaction => "local".to_owned(),
                        ConfigLocal::Session => "session".to_owned(),
                        ConfigLocal::Parameter(number) => format!("${number}"),
                    };
                    format!("{name}={value} {local}")
                })
                .collect();
            calls.join("; ")
        }
        Command::Reset(name) | Command::Show(name) => name.to_string(),
        Command::Discard(what) => format!("{what:?}").to_lowercase(),
        Command::Copy(which) => format!("{which:?}"),
        Command::Explain { analyze } => if *analyze { "analyze" } else { "" }.to_owned(),
        Command::CreateTemporary { on_commit_drop } => {
            if *on_commit_drop { "on_commit_drop" } else { "" }.to_owned()
        }
        _ => String::new(),
    }
}

fn modes_line(modes: TransactionModes) -> String {
    let mut words = Vec::new();
    words.extend(modes.isolation.map(weir::sql::command::Isolation::as_str));
    words.extend(modes.read_only.map(|read_only| if read_only { "read only" } else { "read write" }));
    words.extend(modes.deferrable.map(|deferrable| if deferrable { "deferrable" } else { "not deferrable" }));
    words.join(", ")
}
