//! Texts that are known by their outline mean what they mean when nothing is known.

use proptest::prelude::*;
use weir::sql::memo::{Memo, MemoLimits};
use weir::sql::{Analysis, Lexing, Template, analyze, classify::classify_anywhere};

/// Shows the memo a text twice, so that it keeps its outline, and then others; each must be found to be what it is.
/// Gives how many were known by their outline, and how often a template was.
fn agree(texts: &[String], lexing: Lexing) -> (u64, u64) {
    let mut filled = 0;
    let mut memo = Memo::new(MemoLimits::default());
    memo.classify(texts[0].as_bytes(), lexing);
    for text in texts {
        let text = text.as_bytes();
        let analysis = analyze(text, lexing);
        let classes = classify_anywhere(text, lexing.standard_conforming_strings, &analysis);
        let shown = String::from_utf8_lossy(text);
        for _ in 0..2 {
            let known = memo.classify(text, lexing);
            assert_eq!(without_form(&known.analysis), analysis, "{shown}");
            assert_eq!(*known.classes, classes, "{shown}");
            filled += u64::from(fills(&known.analysis, text, lexing));
        }
    }
    // The same where nobody asks for classes.
    let mut memo = Memo::new(MemoLimits::default());
    for text in [&texts[0]].into_iter().chain(texts) {
        let known = memo.analyze(text.as_bytes(), lexing);
        assert_eq!(without_form(&known), analyze(text.as_bytes(), lexing), "{text}");
    }
    (memo.counts().alike, filled)
}

fn without_form(analysis: &Analysis) -> Analysis {
    Analysis { form: None, ..analysis.clone() }
}

/// Whether the text's template is known by its outline; it is then the one that a scan finds.
fn fills(analysis: &Analysis, text: &[u8], lexing: Lexing) -> bool {
    let (mut filled, mut taken) = (Template::default(), Template::default());
    let Some(form) = &analysis.form else { return false };
    if !filled.fill(form, text) {
        return false;
    }
    assert!(taken.take(text, lexing));
    assert_eq!((filled.text, filled.types, filled.values), (taken.text, taken.types, taken.values));
    true
}

const LEXING: Lexing = Lexing { standard_conforming_strings: true, bytewise: true };
const BACKSLASHES: Lexing = Lexing { standard_conforming_strings: false, bytewise: true };

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[test]
fn what_drivers_write_is_known() {
    let known = |all: &[&str]| {
        let (alike, filled) = agree(&texts(all), LEXING);
        (alike, filled > 0)
    };
    assert_eq!(known(&["SELECT a FROM t WHERE b = 1;", "SELECT a FROM t WHERE b = 12345;"]), (1, true));
    let orm = |id: &str, name: &str, price: &str| {
        format!(
            "SELECT \"t1\".a1 AS t1_a1 FROM t1 WHERE t1.id = {id} AND name IN ('{name}', '') AND -{price} < x LIMIT 10"
        )
    };
    let all = [orm("1", "x", "1.5"), orm("999999999999", "Müller; DROP TABLE t", "0.25")];
    // What stands in a list stays in the template's text, and differs here.
    assert_eq!(agree(&all, LEXING), (1, 2));
    let by_key = |id: &str| format!("SELECT t1.a FROM t1 WHERE t1.id = {id} AND t1.b = 'x' LIMIT 10");
    assert_eq!(agree(&[by_key("1"), by_key("9999999999")], LEXING), (1, 4));
    assert_eq!(agree(&all, BACKSLASHES), (1, 0));
    assert_eq!(known(&["INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (22, 'b')"]), (1, true));
}

#[test]
fn what_a_constant_may_change_is_looked_at() {
    let unknown = |all: &[&str], lexing| assert_eq!(agree(&texts(all), lexing).0, 0, "{all:?}");
    unknown(&["SELECT 1 WHERE d > 'x'", "SELECT 1 WHERE d > 'now'"], LEXING);
    unknown(&["SELECT set_config('a.b', '1', false)", "SELECT set_config('role', '1', false)"], LEXING);
    unknown(&["SET work_mem = 1", "SET work_mem = 2"], LEXING);
    unknown(&["SELECT 'a' /* 1 */", "SELECT 'a' /* 2 */"], LEXING);
    unknown(&["SELECT 1 -- 'a'", "SELECT 1 -- 'b'"], LEXING);
    unknown(&["SELECT E'a'", "SELECT E'b'"], LEXING);
    unknown(&["SELECT 'a''b'", "SELECT 'a''c'"], LEXING);
    unknown(&["SELECT 'a'\n'b'", "SELECT 'a'\n'c'"], LEXING);
    unknown(&["SELECT $$1$$", "SELECT $$2$$"], LEXING);
    unknown(&["SELECT 1e5", "SELECT 2e5"], LEXING);
    unknown(&["SELECT 0x1", "SELECT 0x2"], LEXING);
    unknown(&["SELECT U&'a'", "SELECT U&'b'"], LEXING);
    unknown(&["SELECT \"a 1\"", "SELECT \"a 2\""], LEXING);
    unknown(&["SELECT 'a\\'", "SELECT 'b\\'"], BACKSLASHES);
    unknown(&["EXPLAIN SELECT 1", "EXPLAIN SELECT 2"], LEXING);
    unknown(&["SELECT 1; SELECT 2", "SELECT 2; SELECT 3"], LEXING);
}

/// Pieces that scanners stumble over.
const PIECES: &[&str] = &[
    "SELECT ",
    "select",
    " FROM t",
    " WHERE ",
    "a",
    "t1",
    "_1",
    "e",
    "E",
    "x",
    "n",
    "u&",
    "U&",
    "b",
    "\"",
    "\"\"",
    "'",
    "''",
    "\\",
    "$",
    "$$",
    "$1",
    "$q$",
    ".",
    "..",
    ",",
    ";",
    ":",
    "::",
    ":=",
    "(",
    ")",
    "[",
    "]",
    "-",
    "--",
    "/*",
    "*/",
    "+",
    "=",
    "&",
    "<",
    "?",
    " ",
    "\n",
    "\t",
    "0",
    "1",
    "23",
    "0x",
    "1_0",
    "1.5",
    "1.",
    ".5",
    "2e3",
    "now",
    "'now'",
    "'today'",
    "set_config(",
    "nextval(",
    "pg_advisory_lock(",
    "f(",
    "INTO ",
    "IN (",
    "LIMIT ",
    "INSERT INTO t ",
    "VALUES (",
    "WITH ",
    "SET ",
    "update t set ",
    "é",
    "\u{1}",
];

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => prop::sample::select(PIECES).prop_map(ToOwned::to_owned),
        1 => "[0-9]{1,3}",
        1 => "'[a-z0-9 ]{0,4}'",
    ]
}

/// A text, and others like it with other digits and strings.
fn look_alikes() -> impl Strategy<Value = Vec<String>> {
    let plain = prop::sample::select(
        &[
            " WHERE a = ",
            " AND b < ",
            ", ",
            " + ",
            " LIMIT ",
            "(",
            ")",
            " c ",
            "\"d 1\" ",
            "t1.x1 = ",
            "::int",
            " IN (",
        ][..],
    )
    .prop_map(ToOwned::to_owned);
    let likely = prop::collection::vec(
        prop_oneof![2 => plain, 1 => piece(), 2 => "[0-9]{1,3}", 1 => "'[a-z0-9 ]{0,4}'"],
        0..12,
    )
    .prop_map(|pieces| format!("SELECT x FROM t {}", pieces.concat()));
    let soup = prop::collection::vec(piece(), 1..14).prop_map(|pieces| pieces.concat());
    (prop_oneof![likely, soup], prop::collection::vec(any::<u64>(), 3)).prop_map(|(text, seeds)| {
        let mut all = vec![text.clone()];
        all.extend(seeds.into_iter().map(|seed| changed(&text, seed)));
        all
    })
}

/// The text with other digits, and other letters between quotes, of other lengths too; nothing is known of what they are.
fn changed(text: &str, mut seed: u64) -> String {
    let mut draw = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let mut out = String::new();
    let mut in_quotes = false;
    for letter in text.chars() {
        in_quotes ^= letter == '\'';
        let changes = letter.is_ascii_digit() || (in_quotes && letter.is_ascii_lowercase());
        if !changes || draw(2) == 0 {
            out.push(letter);
            continue;
        }
        let fresh = |number: u64| {
            let range = if letter.is_ascii_digit() { (b'0', 10) } else { (b'a', 26) };
            char::from(range.0 + u8::try_from(number % range.1).unwrap())
        };
        for _ in 0..draw(3) {
            out.push(fresh(draw(1000)));
        }
        out.push(fresh(draw(1000)));
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    #[test]
    fn look_alikes_are_alike(texts in look_alikes(), strings in any::<bool>(), bytewise in any::<bool>()) {
        agree(&texts, Lexing { standard_conforming_strings: strings, bytewise });
    }
}

/// The property above looks at something: many of its texts are known by their outline.
#[test]
fn many_look_alikes_are_known() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = look_alikes();
    let known =
        (0..500).filter(|_| agree(&strategy.new_tree(&mut runner).unwrap().current(), LEXING).1 > 0).count();
    assert!(known > 50, "{known}");
}
