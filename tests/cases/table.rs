//! Reads and rewrites a table: cases separated by empty lines, each some lines of input and behind them lines that
//! begin with `=> `. Lines of `#` are comments and stay.

use std::fmt::Write as _;
use std::path::Path;

/// Holds every case of `tests/cases/<file>` against what `answer` gives for its input.
pub(super) fn check(file: &str, answer: impl Fn(&str) -> String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases").join(file);
    let table = std::fs::read_to_string(&path).expect("the table is there");
    let mut rewritten = String::new();
    let mut failures = String::new();
    let mut blocks = table.trim_end().split("\n\n").peekable();
    while let Some(block) = blocks.next() {
        let is_comment = |line: &&str| line.starts_with('#');
        let comments: Vec<&str> = block.lines().take_while(is_comment).collect();
        let rest: Vec<&str> = block.lines().skip(comments.len()).collect();
        let input: Vec<&str> = rest.iter().copied().take_while(|line| !line.starts_with("=>")).collect();
        let expected = rest[input.len()..].join("\n");
        let input = input.join("\n");
        for comment in comments {
            writeln!(rewritten, "{comment}").expect("a String takes it");
        }
        if !rest.is_empty() {
            let given = answer(&input);
            let given = given.lines().map(|line| format!("=> {line}")).collect::<Vec<_>>().join("\n");
            if given != expected {
                writeln!(failures, "{input}\nexpected\n{expected}\ngiven\n{given}\n")
                    .expect("a String takes it");
            }
            writeln!(rewritten, "{input}\n{given}").expect("a String takes it");
        }
        if blocks.peek().is_some() {
            rewritten.push('\n');
        }
    }
    #[expect(clippy::disallowed_methods, reason = "a test may ask how it is run")]
    let update = std::env::var_os("UPDATE_CASES").is_some();
    if update {
        std::fs::write(&path, rewritten).expect("the table can be written");
    } else {
        assert!(failures.is_empty(), "{file} (UPDATE_CASES=1 rewrites it):\n\n{failures}");
    }
}
