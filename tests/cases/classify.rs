//! Statements and their classes.

use proptest::prelude::*;
use weir::sql::class::{Class, Classification, Perhaps};
use weir::sql::classify::{Verdict, classify, classify_anywhere};
use weir::sql::limits::PARSE_STACK_BYTES;
use weir::sql::{Lexing, Memo, Reason, analyze};

#[test]
fn check() {
    super::table::check("classify.txt", lines);
}

#[test]
fn what_drivers_send() {
    super::table::check("captured.txt", lines);
}

fn lines(text: &str) -> String {
    let analysis = analyze(text.as_bytes(), true);
    let classes = classify_anywhere(text.as_bytes(), true, &analysis);
    classes.statements.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn line(class: &Classification) -> String {
    let mut parts = vec![format!("{} {}", class.class.as_str(), class.reason.as_str())];
    let mut add = |what: &str, names: Vec<String>| {
        if !names.is_empty() {
            parts.push(format!("{what} {}", names.join(" ")));
        }
    };
    add("reads", class.read().map(ToString::to_string).collect());
    add("writes", class.written().map(ToString::to_string).collect());
    let calls = class.functions.iter().map(|call| match call.arguments {
        Some(arguments) => format!("{}/{arguments}", call.name),
        None => format!("{}/?", call.name),
    });
    add("calls", calls.collect());
    let perhaps = class.perhaps.iter().map(|perhaps| {
        let Perhaps { call, otherwise } = perhaps;
        format!("{}:{}", call.name, otherwise.as_str())
    });
    add("perhaps", perhaps.collect());
    add("operators", class.operators.iter().map(ToString::to_string).collect());
    add("types", class.types.iter().map(ToString::to_string).collect());
    let facts = class.facts;
    let facts = [
        (facts.returns_rows, "rows"),
        (facts.locks_rows, "locks"),
        (facts.ordered, "ordered"),
        (facts.limited, "limited"),
        (facts.names_time, "time"),
        (facts.samples, "samples"),
    ];
    let facts = facts.into_iter().filter(|(holds, _)| *holds).map(|(_, name)| name.to_owned());
    add("facts", facts.collect());
    parts.join(" | ")
}

/// Texts that are as large as `size` says, in the ways that grow a stack.
fn large(size: usize) -> Vec<String> {
    let nested = |open: &str, close: &str| format!("SELECT {}1{}", open.repeat(size), close.repeat(size));
    vec![
        nested("(", ")"),
        nested("(SELECT ", ")"),
        nested("f(", ")"),
        nested("CASE WHEN a THEN ", " END"),
        nested("ARRAY[", "]"),
        nested("NOT ", ""),
        nested("- ", ""),
        format!("SELECT 1{}", " + 1".repeat(size)),
        format!("SELECT a{}", "::text".repeat(size)),
        format!("SELECT a{}", "[1]".repeat(size)),
        format!("SELECT a{}", " IS NULL".repeat(size)),
        format!("SELECT 1 FROM t WHERE a = 1{}", " AND a = 1".repeat(size)),
        format!("SELECT 1{}", " UNION SELECT 1".repeat(size)),
        format!("SELECT 1{}", " INTERSECT SELECT 1".repeat(size)),
        format!("SELECT 1 FROM t{}", " LEFT JOIN t ON true".repeat(size)),
        format!("SELECT 1 FROM {}t{}", "t LEFT JOIN ".repeat(size), " ON true".repeat(size)),
        format!("SELECT 1 FROM {}t{}", "(".repeat(size), " JOIN t ON true)".repeat(size)),
        format!("SELECT 1 FROM {}t{}", "(SELECT 1 FROM ".repeat(size), ") AS x".repeat(size)),
        format!("SELECT a{}", ".a".repeat(size)),
        format!("{}SELECT 1", "WITH x AS (".repeat(size)),
        format!("SELECT 1 WHERE a LIKE {}'x'", "'x' || ".repeat(size)),
        format!("SELECT 1 WHERE {}true", "a BETWEEN 1 AND ".repeat(size)),
        format!("SELECT 1 WHERE a IN {}1{}", "(SELECT 1 WHERE a IN (".repeat(size), "))".repeat(size)),
    ]
}

#[test]
fn no_text_overflows_a_stack() {
    let sizes = [1, 5, 10, 20, 25, 29, 30, 31, 40, 45, 60, 100, 199, 200, 201, 300, 1000, 5000, 20_000];
    // A worker's stack, and this is not even optimized.
    let here = std::thread::Builder::new().stack_size(2 << 20);
    let here = here.spawn(move || {
        for text in sizes.into_iter().flat_map(large) {
            let analysis = analyze(text.as_bytes(), true);
            classify(text.as_bytes(), true, &analysis);
        }
    });
    here.expect("a thread").join().expect("it does not panic");
    let aside = std::thread::Builder::new().stack_size(PARSE_STACK_BYTES);
    let aside = aside.spawn(move || {
        for text in sizes.into_iter().flat_map(large) {
            let analysis = analyze(text.as_bytes(), true);
            classify_anywhere(text.as_bytes(), true, &analysis);
        }
    });
    aside.expect("a thread").join().expect("it does not panic");
}

#[test]
fn long_texts_are_put_off_or_refused() {
    let verdict = |text: &str| {
        let analysis = analyze(text.as_bytes(), true);
        match classify(text.as_bytes(), true, &analysis) {
            Verdict::Classes(classes) => Some(classes.statements[0].reason),
            Verdict::TooLongHere => None,
        }
    };
    assert_eq!(verdict(&format!("SELECT 1 WHERE {}", vec!["a = 1"; 300].join(" OR "))), None);
    assert_eq!(verdict(&format!("SELECT 1{}", " + 1".repeat(6000))), Some(Reason::TooManyOperators));
    assert_eq!(verdict(&format!("SELECT {}1{}", "(".repeat(100), ")".repeat(100))), Some(Reason::TooDeep));
    assert_eq!(
        verdict(&format!("SELECT 1 FROM t{}", " JOIN u ON a".repeat(400))),
        Some(Reason::TooManyJoins)
    );
    assert_eq!(verdict(&format!("SELECT {}", vec!["abcdefgh"; 9000].join(", "))), Some(Reason::TooLong));
    // Constants do not count: a list of IN, and rows of VALUES, are one.
    let list = vec!["1"; 100_000].join(", ");
    assert_eq!(verdict(&format!("SELECT 1 FROM t WHERE a IN ({list})")), Some(Reason::PlainRead));
}

/// 0x955C is the character of Shift JIS for "table"; to who reads bytes it ends in a backslash.
#[test]
fn no_text_is_read_in_an_encoding_that_hides_quotes() {
    let text = b"SELECT E'\x95\x5c'; DELETE FROM t; --'";
    for (encoding, statements, class) in [
        ("UTF8", 1, Class::Read),
        ("LATIN1", 1, Class::Read),
        ("SJIS", 1, Class::Opaque),
        ("shift_jis_2004", 1, Class::Opaque),
        ("BIG5", 1, Class::Opaque),
        ("GBK", 1, Class::Opaque),
        ("UHC", 1, Class::Opaque),
        ("GB18030", 1, Class::Opaque),
        ("JOHAB", 1, Class::Opaque),
    ] {
        let lexing =
            Lexing { standard_conforming_strings: true, bytewise: weir::sql::scan::lexes_bytewise(encoding) };
        let mut memo = Memo::new(weir::sql::memo::MemoLimits::default());
        // The second and third time it comes from the memo, and never from that of another encoding.
        for _ in 0..3 {
            memo.classify(text, true);
            let classified = memo.classify(text, lexing);
            assert_eq!(classified.classes.statements.len(), statements, "{encoding}");
            assert_eq!(classified.classes.statements[0].class, class, "{encoding}");
        }
        // ASCII is the same in all of them.
        assert_eq!(memo.classify(b"SELECT 1", lexing).classes.statements[0].class, Class::Read, "{encoding}");
    }
}

/// Ratios, since machines differ: classifying may take some times as long as the pass of the scanner, whatever the text.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test may read the clock")]
fn no_text_takes_more_than_its_length() {
    let list = |item: fn(usize) -> String, bytes: usize| {
        let mut text = "SELECT ".to_owned();
        let mut number = 0;
        while text.len() < bytes {
            text.push_str(&item(number));
            number += 1;
        }
        text.push('0');
        text
    };
    let casts = |n| format!("0::t{n},");
    let calls = |n| format!("f{n}(0),");
    let operators = |n: usize| {
        let signs: String = (0..17).map(|bit| if n >> bit & 1 == 1 { '~' } else { '&' }).collect();
        format!("0 {signs} 0,")
    };
    for item in [casts as fn(usize) -> String, calls, operators] {
        for bytes in [60 << 10, 900 << 10] {
            let text = list(item, bytes);
            let began = std::time::Instant::now();
            let analysis = analyze(text.as_bytes(), true);
            let scanned = began.elapsed();
            let began = std::time::Instant::now();
            classify(text.as_bytes(), true, &analysis);
            let took = began.elapsed();
            assert!(took < scanned * 20, "{took:?} for {bytes} bytes, {scanned:?} to scan: {}", &text[..60]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn no_bytes_panic(text in super::splitting::hostile(), strings: bool) {
        let analysis = analyze(&text, strings);
        let classes = classify_anywhere(&text, strings, &analysis);
        prop_assert_eq!(classes.statements.len(), analysis.statements.len());
    }

    #[test]
    fn a_write_in_the_middle_is_never_a_read(
        before in proptest::sample::select(&["SELECT 1", "WITH a AS (SELECT 1)", "SELECT * FROM t", "(SELECT 1)", "VALUES (1)"][..]),
        write in proptest::sample::select(&["INSERT INTO t VALUES (1)", "UPDATE t SET a = 1", "DELETE FROM t", "x AS (DELETE FROM t RETURNING 1)",
            "SELECT 1 INTO x", "SELECT * FROM t FOR UPDATE", "SELECT 1 FOR NO KEY UPDATE", "MERGE INTO t USING u ON a WHEN MATCHED THEN DELETE",][..]),
        glue in proptest::sample::select(&[" ", ", ", " UNION ", "; ", "/* */", " (", ") ", "\n", " AS ", " FROM (", " RETURNING "][..]),
        after in proptest::sample::select(&["", ")", " SELECT 1", ") SELECT 1", " RETURNING 1"][..]),
    ) {
        let text = format!("{before}{glue}{write}{after}");
        let analysis = analyze(text.as_bytes(), true);
        let classes = classify_anywhere(text.as_bytes(), true, &analysis);
        prop_assert!(classes.statements.iter().any(|class| class.class != Class::Read), "{}", text);
    }

    #[test]
    fn literals_never_change_a_class(
        first in proptest::collection::vec(super::shape::literal(), 3),
        second in proptest::collection::vec(super::shape::literal(), 3),
    ) {
        let text = |literals: &[String]| format!(
            "SELECT a FROM t WHERE a = {} AND f({}, b) IN ({})", literals[0], literals[1], literals[2],
        );
        let mut memo = Memo::new(weir::sql::memo::MemoLimits::default());
        for literals in [&first, &second] {
            let text = text(literals);
            let analysis = analyze(text.as_bytes(), true);
            let alone = classify_anywhere(text.as_bytes(), true, &analysis);
            let by_shape = memo.classify(text.as_bytes(), true);
            prop_assert_eq!(&*by_shape.classes, &alone);
        }
    }
}
