//! Any bytes as SQL: analysis never fails, its statements lie inside of the text and follow each other, and classes come
//! one for each statement.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::sql::classify::{Verdict, classify_anywhere};
use weir::sql::{analyze, classify, limits};

fuzz_target!(|data: &[u8]| {
    let Some((how, text)) = data.split_first() else { return };
    let standard_conforming_strings = how & 1 == 0;
    let analysis = analyze(text, standard_conforming_strings);
    let mut end = 0;
    for statement in &analysis.statements {
        assert!(statement.span.start >= end && statement.span.end <= text.len());
        end = statement.span.end;
    }
    let classes = match classify(text, standard_conforming_strings, &analysis) {
        Verdict::Classes(classes) => classes,
        Verdict::TooLongHere => std::thread::scope(|scope| {
            let classify = || classify_anywhere(text, standard_conforming_strings, &analysis);
            let thread = std::thread::Builder::new().stack_size(limits::PARSE_STACK_BYTES);
            thread.spawn_scoped(scope, classify).expect("a thread").join().expect("classified")
        }),
    };
    assert_eq!(classes.statements.len(), analysis.statements.len());
    // The same bytes are the same statement.
    assert_eq!(analyze(text, standard_conforming_strings).fingerprint, analysis.fingerprint);
});
