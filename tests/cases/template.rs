//! Simple queries as templates.

use std::fmt::Write as _;

use proptest::prelude::*;
use weir::sql::scan::{Scanner, TokenKind};
use weir::sql::{Template, analyze};

#[test]
fn check() {
    super::table::check("template.txt", |text| {
        let mut template = Template::default();
        if !template.take(text.as_bytes(), true) {
            return "-".to_owned();
        }
        let mut shown = String::from_utf8(template.text.clone()).unwrap();
        for (oid, value) in parameters(&template) {
            let word = match oid {
                20 => "int8",
                23 => "int4",
                1700 => "numeric",
                0 => "unknown",
                other => panic!("{other}"),
            };
            write!(shown, "\n{word} {value}").unwrap();
        }
        shown
    });
}

/// Types and values, as a server reads them from Parse and Bind.
fn parameters(template: &Template) -> Vec<(u32, String)> {
    let number = |bytes: &[u8]| usize::from(u16::from_be_bytes(bytes[..2].try_into().unwrap()));
    let count = number(&template.types);
    assert_eq!(template.types.len(), 2 + 4 * count);
    assert_eq!((number(&template.values), number(&template.values[2..])), (0, count));
    let mut rest = &template.values[4..];
    let parameters = (0..count).map(|index| {
        let oid = u32::from_be_bytes(template.types[2 + 4 * index..][..4].try_into().unwrap());
        let bytes = u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize;
        let value = String::from_utf8(rest[4..4 + bytes].to_vec()).unwrap();
        rest = &rest[4 + bytes..];
        (oid, value)
    });
    let parameters = parameters.collect();
    assert_eq!(rest, [0, 0]);
    parameters
}

/// The template's text with its values in place of its parameters. A string may hold what looks like one.
fn with_values(template: &Template) -> String {
    let (text, parameters) = (&template.text, parameters(template));
    let (mut back, mut copied, mut values) = (Vec::new(), 0, parameters.iter().enumerate());
    for token in Scanner::new(text, true).filter(|token| token.kind == TokenKind::Parameter) {
        let (index, (oid, value)) = values.next().unwrap();
        assert_eq!(token.span.of(text), format!("${}", index + 1).as_bytes());
        back.extend_from_slice(&text[copied..token.span.start]);
        back.extend(
            if *oid == 0 { format!("'{}'", value.replace('\'', "''")) } else { value.clone() }.bytes(),
        );
        copied = token.span.end;
    }
    assert_eq!(values.next(), None);
    back.extend_from_slice(&text[copied..]);
    String::from_utf8(back).unwrap()
}

#[test]
fn standard_strings_and_bytes_only() {
    let (mut template, text) = (Template::default(), b"select a from t where a = 5");
    assert!(template.take(text, true) && !template.take(text, false));
    let sjis = weir::sql::Lexing { standard_conforming_strings: true, bytewise: false };
    assert!(!template.take(text, sjis));
}

#[test]
fn a_bound_on_parameters() {
    let text = |count: usize| format!("select a from t where {}", vec!["a = 5"; count].join(" and "));
    let mut template = Template::default();
    assert!(template.take(text(64).as_bytes(), true));
    assert!(template.text.ends_with(b"a = $63 and a = $64"));
    assert!(!template.take(text(65).as_bytes(), true));
}

proptest! {
    /// With its values put back a template is the text again, and its shape is that of the text.
    #[test]
    fn nothing_is_lost(pieces in proptest::collection::vec(piece(), 0..12)) {
        let text = format!("select a from t where {}", pieces.concat());
        let mut template = Template::default();
        if template.take(text.as_bytes(), true) {
            let back = with_values(&template);
            let tokens = |text: &str| {
                let tokens = Scanner::new(text.as_bytes(), true).map(|token| token.span.of(text.as_bytes()).to_vec());
                tokens.filter(|token| !token.starts_with(b"/*") && !token.starts_with(b"--")).collect::<Vec<_>>()
            };
            prop_assert_eq!(tokens(&back), tokens(&text));
            prop_assert_eq!(
                analyze(&template.text, true).fingerprint,
                analyze(text.as_bytes(), true).fingerprint
            );
        }
    }
}

fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        proptest::sample::select(
            &[
                "a",
                "= ",
                "b < ",
                " and ",
                " or ",
                "(",
                ")",
                "lower(c) <> ",
                "d = ",
                "/* x */",
                "-- y\n",
                " limit ",
                " + ",
                "::int",
                "x.y >= "
            ][..]
        )
        .prop_map(str::to_owned),
        super::shape::literal(),
    ]
}
