//! Any bytes, and texts of several statements.

use proptest::prelude::*;
use weir::sql::scan::{Scanner, TokenKind};
use weir::sql::{Analysis, Command, Memo, analyze};

/// Pieces that meet badly.
pub(super) fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let pieces: &'static [&'static [u8]] = &[
        b"'",
        b"\"",
        b"E'",
        b"U&'",
        b"U&\"",
        b"$$",
        b"$a$",
        b"/*",
        b"*/",
        b"--",
        b"\n",
        b"\\",
        b";",
        b"(",
        b")",
        b"[",
        b"]",
        b",",
        b" in ",
        b" values ",
        b"array",
        b"set_config",
        b"select ",
        b"set ",
        b"explain ",
        b"analyze ",
        b"create function begin atomic ",
        b" end ",
        b"1",
        b"0x",
        b"1e+",
        b"-",
        b"+",
        b".",
        b"..",
        b"::",
        b"$1",
        b"\0",
        b"\xff",
        b"copy ",
        b"begin ",
        b" isolation level ",
        b" to ",
        b" = ",
        b"into ",
        b"temp ",
        b"pg_temp",
        b"pg_backend_pid",
        b"null",
        b"/* weir: cache ttl=9s */",
        b"time zone ",
        b"interval ",
        b"reset ",
        b"declare ",
    ];
    proptest::collection::vec(proptest::sample::select(pieces), 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_bytes_panic(text in prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), hostile()], strings: bool) {
        let analysis = analyze(&text, strings);
        prop_assert!(!analysis.statements.is_empty());
        for statement in &analysis.statements {
            prop_assert!(statement.span.start <= statement.span.end && statement.span.end <= text.len());
        }
        for tag in analysis.comments.tags(&text) {
            prop_assert!(!tag.key.is_empty());
        }
        let mut memo = Memo::new(weir::sql::memo::MemoLimits::default());
        for _ in 0..3 {
            let kept = Analysis { form: None, ..Analysis::clone(&memo.analyze(&text, strings)) };
            prop_assert_eq!(&kept, &analysis);
        }
    }

    #[test]
    fn tokens_cover_all_but_whitespace(text in hostile(), strings: bool) {
        let mut at = 0;
        for token in Scanner::new(&text, strings) {
            prop_assert!(token.span.start >= at && token.span.end > token.span.start);
            prop_assert!(text[at..token.span.start].iter().all(|byte| b" \t\n\r\x0b\x0c".contains(byte)));
            at = token.span.end;
        }
        prop_assert!(text[at..].iter().all(|byte| b" \t\n\r\x0b\x0c".contains(byte)));
    }

    #[test]
    fn statements_joined_come_apart_again(
        statements in proptest::collection::vec(prop_oneof![
            Just("select ';'"),
            Just("select $a$;$b$;$a$"),
            Just("select E'\\';', \";\""),
            Just("select 1 /* ; /* ; */ ; */ + 2"),
            Just("select 1 -- ;\n + 2"),
            Just("create rule r as on insert to t do also (insert into l values (1); select 2)"),
            Just("create function f() returns int begin atomic select 1; select case when true then 2 end; end"),
            Just("create or replace procedure p() begin atomic end"),
            Just("create function f() returns int language sql as 'select 1; select 2'"),
            Just("begin"),
            Just("select 1 as end"),
            Just("commit"),
        ], 1..8),
        separator in prop_oneof![Just(";"), Just(" ; "), Just(";;"), Just(";/* x */;\n")],
    ) {
        let text = statements.join(separator);
        let analysis = analyze(text.as_bytes(), true);
        let found: Vec<&[u8]> =
            analysis.statements.iter().map(|statement| statement.span.of(text.as_bytes())).collect();
        let given: Vec<&[u8]> = statements.iter().map(|statement| statement.as_bytes()).collect();
        prop_assert_eq!(found, given);
    }
}

#[test]
fn long_texts_take_linear_time() {
    // Each of these is quadratic for a scanner that looks back or ahead without a bound; 4 MB would then take hours.
    for piece in [
        "(",
        "in(",
        "values(",
        "'a'\n",
        "/*",
        "$a$ $",
        "--\n",
        "-",
        "'a' --",
        "1e",
        "array[",
        "explain ",
        "explain analyze ",
        "\"",
        "a;",
    ] {
        let text = piece.repeat(4_000_000 / piece.len());
        let analysis = analyze(text.as_bytes(), true);
        assert!(!analysis.statements.is_empty());
    }
}

#[test]
fn a_text_without_statements_is_one_empty() {
    for text in ["", " ", ";", ";;", "/* nothing */", "-- nothing", "\n;\n"] {
        let analysis = analyze(text.as_bytes(), true);
        assert_eq!(analysis.statements.len(), 1);
        assert_eq!(analysis.statements[0].command, Command::Empty);
    }
}

#[test]
fn pieces_of_numbers_and_operators_are_cut_as_postgresql_does() {
    let cut = |text: &str| -> Vec<String> {
        Scanner::new(text.as_bytes(), true)
            .filter(|token| token.kind != TokenKind::Comment)
            .map(|token| String::from_utf8_lossy(token.span.of(text.as_bytes())).into_owned())
            .collect()
    };
    assert_eq!(cut("1..2"), ["1", "..", "2"]);
    assert_eq!(cut("1.5e10+.5-1."), ["1.5e10", "+", ".5", "-", "1."]);
    assert_eq!(cut("1_000 0xFF_FF 0o17 0b1_0"), ["1_000", "0xFF_FF", "0o17", "0b1_0"]);
    assert_eq!(cut("a=-1"), ["a", "=", "-", "1"]);
    assert_eq!(cut("a@-1"), ["a", "@-", "1"]);
    assert_eq!(cut("a*/*b*/-c"), ["a", "*", "-", "c"]);
    assert_eq!(cut("a+--b\nc"), ["a", "+", "c"]);
    assert_eq!(cut("f(a=>1,b:=2)::int"), ["f", "(", "a", "=>", "1", ",", "b", ":=", "2", ")", "::", "int"]);
    assert_eq!(cut("'a'\n -- x\n 'b' 'c'"), ["'a'\n -- x\n 'b'", "'c'"]);
    assert_eq!(cut("a$b$c $b$ x$b$ $b$"), ["a$b$c", "$b$ x$b$", "$b$"]);
    // One word too long behind the number: PostgreSQL refuses these, in one piece.
    assert_eq!(cut("0b12 1e5$x 0x1F$$ 1_0$1"), ["0b12", "1e5$x", "0x1F$$", "1_0$1"]);
    assert_eq!(cut("1e-5$1 1.5$1"), ["1e-5", "$1", "1.5", "$1"]);
    assert_eq!(cut("$1$$a$$"), ["$1", "$$a$$"]);
    assert_eq!(cut("n'a''b'E'\\''B'1'"), ["n'a''b'", "E'\\''", "B'1'"]);
}
