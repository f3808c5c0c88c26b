//! The architecture, checked: a module uses only modules above it in `lib.rs`, and a third-party crate is named in its
//! home only. Read off the text, since what counts is what a reader sees.

use std::fs;
use std::path::{Path, PathBuf};

/// Where a third-party crate may be named.
#[derive(Clone, Copy, Debug)]
enum Home {
    /// It is vocabulary.
    Everywhere,
    /// In this module and all below it.
    From(&'static str),
    /// In these modules; its types do not leave them.
    Only(&'static [&'static str]),
}

use Home::{Everywhere, From, Only};

/// Every dependency of `Cargo.toml`, by the name that code uses, with its home.
const HOMES: &[(&str, Home)] = &[
    ("ahash", Everywhere),
    ("bytes", Everywhere),
    ("thiserror", Everywhere),
    ("tracing", Everywhere),
    ("ipnet", Only(&["config"])),
    ("percent_encoding", Only(&["config"])),
    ("serde", Only(&["config", "advice", "admin"])),
    ("toml", Only(&["config"])),
    ("base64", Only(&["wire"])),
    ("hmac", Only(&["wire"])),
    ("md5", Only(&["wire"])),
    ("memchr", Only(&["wire"])),
    ("sha2", Only(&["wire"])),
    ("stringprep", Only(&["wire"])),
    ("subtle", Only(&["wire"])),
    ("pgwire", Only(&["wire", "admin"])),
    ("sqlparser", Only(&["sql"])),
    ("lru", Only(&["cache"])),
    ("rand", From("net")),
    ("tokio", From("net")),
    ("rustls", Only(&["net"])),
    ("socket2", Only(&["net"])),
    ("tokio_rustls", Only(&["net"])),
    ("x509_parser", Only(&["net"])),
    ("deadpool", Only(&["server", "control"])),
    ("futures_util", Only(&["control"])),
    ("tokio_postgres", Only(&["control"])),
    ("redis", Only(&["control"])),
    ("axum", Only(&["admin"])),
    ("prometheus_client", Only(&["admin"])),
    ("serde_json", Only(&["advice", "insight", "admin", "app"])),
    ("clap", Only(&["app", "main"])),
    ("tracing_subscriber", Only(&["app", "main"])),
    ("rlimit", Only(&["app"])),
];

/// Where the name in code is not the one in `Cargo.toml` with underscores.
const RENAMED: &[(&str, &str)] = &[("md-5", "md5")];

#[test]
fn modules_use_only_modules_above_them() {
    let order = order();
    assert_no_violations(|module, code| layer_violations(&order, module, code));
}

#[test]
fn crates_are_named_in_their_homes_only() {
    let order = order();
    assert_no_violations(|module, code| home_violations(&order, module, code));
}

#[test]
fn every_dependency_has_a_home() {
    let cargo = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = cargo.split("[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let homeless: Vec<_> = section
        .lines()
        .filter_map(|line| line.split_once('=').map(|(name, _)| name.trim()))
        .filter(|name| !name.starts_with('#'))
        .map(|name| {
            let renamed = RENAMED.iter().find(|(dependency, _)| *dependency == name);
            renamed.map_or_else(|| name.replace('-', "_"), |(_, code)| (*code).to_owned())
        })
        .filter(|name| !HOMES.iter().any(|(known, _)| known == name))
        .collect();
    assert!(homeless.is_empty(), "give these a home in tests/layers/mod.rs: {homeless:?}");
}

#[test]
fn planted_violations_are_found() {
    let order: Vec<_> = ["pg", "sql", "net", "client"].map(str::to_owned).to_vec();
    let layers = |module: &str, code: &str| layer_violations(&order, module, code);
    assert_eq!(layers("sql", "use crate::pg::Lsn;\nuse crate::sql::memo; // crate::net"), [""; 0]);
    assert_eq!(layers("sql", "use crate::net::Stream;"), ["net"]);
    assert_eq!(layers("pg", "use crate::{client::accept, net};"), ["client", "net"]);
    assert_eq!(
        layers("pg", "use crate::{\n    net::{self, tls},\n    sql::{Class, client},\n};"),
        ["net", "sql"]
    );
    assert_eq!(layers("pg", "fn f() { super::super::sql::scan() }"), ["sql"]);
    assert_eq!(layers("app", "use crate::pg;"), ["app is not in lib.rs"]);

    let homes = |module: &str, code: &str| home_violations(&order, module, code);
    assert_eq!(homes("net", "use rustls::Error;\nuse tokio::net::TcpStream;"), [""; 0]);
    assert_eq!(homes("sql", "use sqlparser::ast;\nuse crate::wire::md5;\nuse super::rustls::x;"), [""; 0]);
    assert_eq!(homes("sql", "#[tokio::test]\nfn f() { hmac::Hmac::new() }"), ["hmac", "tokio"]);
    assert_eq!(homes("client", "use rustls as tls;"), ["rustls"]);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The modules of `lib.rs` from top to bottom; the command line stands below all.
fn order() -> Vec<String> {
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    let module = |line: &str| {
        let line = line.trim().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        Some(line.strip_prefix("mod ")?.strip_suffix(';')?.to_owned())
    };
    lib.lines().filter_map(module).chain(["main".to_owned()]).collect()
}

fn assert_no_violations(violations: impl Fn(&str, &str) -> Vec<String>) {
    let mut found = Vec::new();
    for path in rust_files(&root().join("src")) {
        let inside = path.strip_prefix(root().join("src")).unwrap();
        let module = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let code = fs::read_to_string(&path).unwrap();
        found
            .extend(violations(module, &code).iter().map(|name| format!("src/{}: {name}", inside.display())));
    }
    assert!(found.is_empty(), "named where they must not be:\n{}", found.join("\n"));
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Modules that `code` reaches for and that do not stand above `module`.
fn layer_violations(order: &[String], module: &str, code: &str) -> Vec<String> {
    let Some(own) = order.iter().position(|name| name == module) else {
        return vec![format!("{module} is not in lib.rs")];
    };
    let code = without_comments(code);
    let mut found: Vec<_> = ["crate::", "super::super::"]
        .iter()
        .flat_map(|start| code.split(start).skip(1).flat_map(first_names))
        .filter(|name| order.iter().position(|known| known == name).is_some_and(|position| position > own))
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    found
}

/// Third-party crates that `code` names outside of their homes.
fn home_violations(order: &[String], module: &str, code: &str) -> Vec<String> {
    let code = without_comments(code);
    let position = |name: &str| order.iter().position(|known| known == name);
    let is_at_home = |home: Home| match home {
        Everywhere => true,
        From(first) => position(module) >= position(first),
        Only(modules) => modules.contains(&module),
    };
    let mut found: Vec<_> = HOMES
        .iter()
        .filter(|(name, home)| !is_at_home(*home) && names_crate(&code, name))
        .map(|(name, _)| (*name).to_owned())
        .collect();
    found.sort();
    found
}

/// Whether `name` begins a path, or is imported by itself.
fn names_crate(code: &str, name: &str) -> bool {
    // A module of ours with the same name, brought in by `use crate::wire::md5;`.
    let is_ours = code.contains(&format!("::{name};"));
    code.match_indices(name).any(|(at, _)| {
        let (before, after) = (&code[..at], &code[at + name.len()..]);
        let is_first = !before.ends_with(|c: char| c.is_alphanumeric() || "_:.".contains(c))
            || before.ends_with(':') && !before.ends_with("::");
        let is_imported = before.ends_with("use ") && (after.starts_with(';') || after.starts_with(" as "));
        is_first && !is_ours && (after.starts_with("::") || is_imported)
    })
}

/// The first name of each path behind `crate::`: of one path, or of several in braces.
fn first_names(rest: &str) -> Vec<&str> {
    let Some(group) = rest.strip_prefix('{') else {
        return vec![identifier(rest)];
    };
    let (mut depth, mut is_start, mut names) = (0, true, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            c if c.is_whitespace() => {}
            _ => {
                if is_start && depth == 0 {
                    names.push(identifier(&group[at..]));
                }
                is_start = false;
            }
        }
    }
    names
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

fn without_comments(code: &str) -> String {
    let code_of = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    code.lines().map(code_of).collect::<Vec<_>>().join("\n")
}
