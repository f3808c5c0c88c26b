//! Texts and their shapes.

use proptest::prelude::*;
use weir::sql::{analyze, analyze_into};

#[test]
fn check() {
    super::table::check("shape.txt", |text| {
        let mut shape = Vec::new();
        analyze_into(text.as_bytes(), true, &mut shape);
        String::from_utf8(shape).unwrap()
    });
}

const PIECES: &[&str] = &[
    "a", "in", "values", "array", "select", " ", ",", "(", ")", "[", "]", "'x'", "12", "-", "+", "=", "->>",
    "a.b", "x.*", "::int", "null", "$1", "/**/", "\n", "\"Q\"", "and", " AS ",
];

pub(super) fn literal() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<u32>().prop_map(|number| number.to_string()),
        any::<i32>().prop_map(|number| number.to_string()),
        any::<u16>().prop_map(|number| format!("{number}.5e-3")),
        "[a-zA-Z0-9 ;$/*-]{0,12}".prop_map(|text| format!("'{text}'")),
        "[a-zA-Z0-9 '\"]{0,12}".prop_map(|text| format!("'{}'", text.replace('\'', "''"))),
        "[a-zA-Z0-9 '\\\\]{0,12}"
            .prop_map(|text| format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))),
        "[a-zA-Z0-9 '\\\\;]{0,12}".prop_map(|text| format!("$x${text}$x$")),
        "[01]{0,8}".prop_map(|bits| format!("B'{bits}'")),
        Just("NULL".to_owned()),
        Just("true".to_owned()),
        (1_u16..9).prop_map(|number| format!("${number}")),
    ]
}

proptest! {
    #[test]
    fn literals_never_change_a_fingerprint(
        first in proptest::collection::vec(literal(), 4),
        second in proptest::collection::vec(literal(), 4),
        more in proptest::collection::vec(literal(), 1..9),
    ) {
        let text = |literals: &[String], list: &[String]| format!(
            "SELECT a, \"B c\" FROM t WHERE a = {} AND (b <> {}) AND c IN ({}) AND f(x, {}) OR ARRAY[{}] && d",
            literals[0], literals[1], list.join(", "), literals[2], literals[3],
        );
        let one = analyze(text(&first, &second).as_bytes(), true);
        let two = analyze(text(&second, &more).as_bytes(), true);
        prop_assert_eq!(one.fingerprint, two.fingerprint);
        prop_assert!(one.flaw.is_none());
    }

    #[test]
    fn rows_do_not_count(rows in proptest::collection::vec((literal(), literal()), 1..9)) {
        let rows: Vec<String> = rows.into_iter().map(|(a, b)| format!("({a}, {b})")).collect();
        let text = format!("INSERT INTO t (a, b) VALUES {} ON CONFLICT DO NOTHING", rows.join(","));
        let one = b"insert into t(a,b)values(1,2)on conflict do nothing";
        prop_assert_eq!(analyze(text.as_bytes(), true).fingerprint, analyze(one, true).fingerprint);
    }

    #[test]
    fn a_shape_is_its_own_shape(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..30)) {
        let text = pieces.concat();
        // Layout is decided by tokens alone: laying out a shape again changes nothing.
        let mut once = Vec::new();
        if analyze_into(text.as_bytes(), true, &mut once).flaw.is_none() {
            let mut twice = Vec::new();
            let text = String::from_utf8(once.clone()).unwrap().replace('?', "''");
            analyze_into(text.as_bytes(), true, &mut twice);
            let (once, twice) = (String::from_utf8(once).unwrap(), String::from_utf8(twice).unwrap());
            prop_assert_eq!(once, twice);
        }
    }
}
