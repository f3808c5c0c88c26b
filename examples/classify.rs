//! Classifies statements for comparison with another parser: JSON strings in, one a line; JSON objects out.
//! `tests/oracle/compare.py` drives it.

#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::io::BufRead;

use weir::sql::analyze;
use weir::sql::classify::classify_anywhere;
use weir::sql::limits::PARSE_STACK_BYTES;

fn main() {
    let thread = std::thread::Builder::new().stack_size(PARSE_STACK_BYTES).spawn(run).expect("a thread");
    thread.join().expect("it does not panic");
}

fn run() {
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("stdin can be read");
        let text: String = serde_json::from_str(&line).expect("a JSON string");
        let analysis = analyze(text.as_bytes(), true);
        let classes = classify_anywhere(text.as_bytes(), true, &analysis);
        let statements: Vec<_> = analysis
            .statements
            .iter()
            .zip(&classes.statements)
            .map(|(statement, class)| {
                serde_json::json!({
                    "text": String::from_utf8_lossy(statement.span.of(text.as_bytes())),
                    "command": statement.command.as_str(),
                    "class": class.class.as_str(),
                    "reason": class.reason.as_str(),
                    "read": class.read().map(ToString::to_string).collect::<Vec<_>>(),
                    "written": class.written().map(ToString::to_string).collect::<Vec<_>>(),
                    "functions": class.functions.iter().chain(class.perhaps.iter().map(|perhaps| &perhaps.call)).map(|call| (call.name.to_string(), call.arguments)).collect::<Vec<_>>(),
                    "locks": class.facts.locks_rows,
                    "rows": class.facts.returns_rows,
                })
            })
            .collect();
        println!(
            "{}",
            serde_json::json!({ "fingerprint": analysis.fingerprint.to_string(), "statements": statements })
        );
    }
}
