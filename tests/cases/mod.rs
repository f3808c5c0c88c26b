//! Tables of cases as text: input and outcome side by side, so that a decision can be read and reviewed as prose.
//!
//! ```text
//! === what this case shows
//! input
//! ---
//! outcome
//! ```
//!
//! `UPDATE_CASES=1 cargo test` writes the outcomes anew; review that diff as code. A new table is a `.txt` file here and
//! a module with one test that calls [`check`].

mod classify;
mod cache;
mod config;
pub(crate) mod effect;
mod repeats;
mod route;
mod session;
mod shape;
mod splitting;
mod table;
mod template;

use std::fmt::Write as _;
use std::path::Path;

/// Runs every case of `tests/cases/<file>` through `outcome` and compares.
fn check(file: &str, outcome: impl Fn(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    let (mut actual, mut failed) = (String::new(), Vec::new());
    let (head, cases) = text.split_once("=== ").unwrap();
    actual.push_str(head);
    for case in cases.split("\n=== ") {
        let (title, body) = case.split_once('\n').unwrap();
        let (input, expected) = body.split_once("---\n").unwrap_or_else(|| panic!("{file}: {title}: no ---"));
        let outcome = outcome(input.trim_end());
        if outcome.trim() != expected.trim() {
            failed.push(format!("=== {title}\n{}\n--- but expected\n{}", outcome.trim(), expected.trim()));
        }
        write!(actual, "=== {title}\n{}\n---\n{}\n\n", input.trim_end(), outcome.trim()).unwrap();
    }
    if is_updating() {
        std::fs::write(path, actual.trim_end().to_owned() + "\n").unwrap();
    } else {
        assert!(failed.is_empty(), "{file}:\n{}", failed.join("\n\n"));
    }
}

#[expect(clippy::disallowed_methods, reason = "tests have no settings")]
fn is_updating() -> bool {
    std::env::var_os("UPDATE_CASES").is_some()
}
