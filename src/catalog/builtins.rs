//! What PostgreSQL's own functions do beyond what `pg_proc.provolatile` says.
//!
//! A positive list: a stable function that is not on it may tell one server from another (`inet_server_addr`,
//! `version`, `current_setting`, the statistics), a volatile one that is not on it may write.

use std::sync::LazyLock;

use ahash::HashMap;

/// What is known of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Builtin {
    /// Stable because it depends on settings, or on its arguments' types.
    Plain,
    /// Reads system catalogs.
    Catalog,
    /// Names the transaction's time.
    Time,
    /// Reads tables named by a constant.
    Tables,
    /// Volatile, and writes no table.
    NoWrite,
    /// Likewise, and tells one server from another.
    Server,
}

/// One a line: the name, and what is known.
static BUILTINS: LazyLock<HashMap<&'static str, Builtin>> = LazyLock::new(|| {
    let mut map = HashMap::default();
    for line in include_str!("builtins.txt").lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let kind = match words.next() {
            Some("plain") => Builtin::Plain,
            Some("catalog") => Builtin::Catalog,
            Some("time") => Builtin::Time,
            Some("tables") => Builtin::Tables,
            Some("no_write") => Builtin::NoWrite,
            Some("server") => Builtin::Server,
            _ => continue,
        };
        map.extend(words.map(|name| (name, kind)));
    }
    map
});

pub(super) fn builtin(name: &str) -> Option<Builtin> {
    BUILTINS.get(name).copied()
}

/// Types whose input function reads system catalogs (manual, 8.19 Object Identifier Types).
pub(super) fn reads_catalogs_by_input(type_name: &str) -> bool {
    matches!(
        type_name,
        "regclass"
            | "regcollation"
            | "regconfig"
            | "regdictionary"
            | "regnamespace"
            | "regoper"
            | "regoperator"
            | "regproc"
            | "regprocedure"
            | "regrole"
            | "regtype"
            | "regdatabase"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_understood() {
        let text = include_str!("builtins.txt");
        let words = text.lines().filter(|line| !line.starts_with('#')).flat_map(|line| {
            assert!(!line.trim().is_empty());
            line.split_whitespace().skip(1)
        });
        for name in words {
            assert!(builtin(name).is_some(), "{name}");
        }
        assert_eq!(builtin("to_char"), Some(Builtin::Plain));
        assert_eq!(builtin("inet_server_addr"), None);
    }
}
