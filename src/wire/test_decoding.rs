//! Lines of the output plugin `test_decoding` (manual, F.46 test_decoding), as far as they say which relations were written.
//!
//! ```text
//!   BEGIN 690
//!   table public.versions: UPDATE: id[integer]:1 v[integer]:2
//!   table public.a, "odd: name".b: TRUNCATE: (no-flags)
//!   COMMIT 690
//! ```
//!
//! Read from the front, so that nothing in a row can be taken for a name. A line that is none of these is
//! [`Line::Unknown`]: later versions may have more.

use std::borrow::Cow;

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A transaction that has committed begins.
    Begin {
        /// The transaction's number.
        xid: u32,
    },
    /// It ends.
    Commit,
    /// Rows of these relations came, went or changed.
    Written(Names<'a>),
    /// `pg_logical_emit_message()`.
    Logical,
    /// Something else.
    Unknown,
}

/// The relations of a line, still as they are written. Two with equal bytes have equal names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Names<'a>(pub &'a [u8]);

/// Opens a line.
pub fn line(bytes: &[u8]) -> Line<'_> {
    if let Some(rest) = bytes.strip_prefix(b"table ") {
        return names_end(rest).map_or(Line::Unknown, |end| Line::Written(Names(&rest[..end])));
    }
    if let Some(rest) = bytes.strip_prefix(b"BEGIN ") {
        let xid = std::str::from_utf8(rest).ok().and_then(|digits| digits.parse().ok());
        return xid.map_or(Line::Unknown, |xid| Line::Begin { xid });
    }
    if bytes == b"COMMIT" || bytes.starts_with(b"COMMIT ") {
        return Line::Commit;
    }
    if bytes.starts_with(b"message: ") { Line::Logical } else { Line::Unknown }
}

/// Where the list of names ends: at the colon behind it.
fn names_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at = part_end(bytes, at)?;
        match bytes.get(at..)? {
            [b'.', ..] => at += 1,
            [b',', b' ', ..] => at += 2,
            [b':', b' ', ..] => return Some(at),
            _ => return None,
        }
    }
}

/// Where the identifier that begins at `start` ends (`quote_identifier`).
fn part_end(bytes: &[u8], start: usize) -> Option<usize> {
    let rest = bytes.get(start..)?;
    let Some((b'"', quoted)) = rest.split_first() else {
        let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
        let length = rest.iter().position(|byte| !is_plain(byte))?;
        return (length > 0).then_some(start + length);
    };
    let mut at = 0;
    loop {
        at += quoted.get(at..)?.iter().position(|byte| *byte == b'"')?;
        if quoted.get(at + 1) != Some(&b'"') {
            // Both quotes.
            return Some(start + at + 2);
        }
        at += 2;
    }
}

impl<'a> Names<'a> {
    /// Each with its schema; `None` for one that is not UTF-8.
    pub fn each(self) -> impl Iterator<Item = Option<(Cow<'a, str>, Cow<'a, str>)>> {
        let Self(bytes) = self;
        let mut at = 0;
        std::iter::from_fn(move || {
            if at >= bytes.len() {
                return None;
            }
            let schema_end = part_end_or_all(bytes, at);
            let name_start = (schema_end + 1).min(bytes.len());
            let name_end = part_end_or_all(bytes, name_start);
            let name = identifier(&bytes[at..schema_end]).zip(identifier(&bytes[name_start..name_end]));
            // Behind the comma and the space.
            at = name_end + 2;
            Some(name)
        })
    }
}

/// As [`part_end`], of a list that ends with its last name.
fn part_end_or_all(bytes: &[u8], start: usize) -> usize {
    part_end(bytes, start).unwrap_or(bytes.len())
}

/// An identifier without its quotes.
fn identifier(bytes: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(bytes).ok()?;
    Some(match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        None => Cow::Borrowed(text),
        Some(quoted) if quoted.contains('"') => Cow::Owned(quoted.replace("\"\"", "\"")),
        Some(quoted) => Cow::Borrowed(quoted),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(bytes: &[u8]) -> Vec<(String, String)> {
        let Line::Written(names) = line(bytes) else { panic!("it names nothing: {bytes:?}") };
        names
            .each()
            .map(|name| name.expect("UTF-8"))
            .map(|(schema, name)| (schema.into(), name.into()))
            .collect()
    }

    fn quoted(name: &str) -> String {
        let is_plain = !name.is_empty()
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if is_plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
    }

    #[test]
    fn lines_are_opened() {
        assert_eq!(line(b"BEGIN 690"), Line::Begin { xid: 690 });
        assert_eq!(line(b"COMMIT 690"), Line::Commit);
        assert_eq!(line(b"COMMIT"), Line::Commit);
        assert_eq!(line(b"message: transactional: 1 prefix: a, sz: 1 content:b"), Line::Logical);
        let one = [("public".to_owned(), "versions".to_owned())];
        assert_eq!(names(b"table public.versions: UPDATE: id[integer]:1"), one);
        assert_eq!(names(b"table public.\"We ird: \"\"x\": INSERT: v[text]:': '")[0].1, "We ird: \"x");
        let three = names(b"table public.p, public.p1, \"N\".nopk: TRUNCATE: (no-flags)");
        assert_eq!(three[2], ("N".to_owned(), "nopk".to_owned()));
        for other in
            [&b"BEGIN"[..], b"BEGIN x", b"sequence a.b: x", b"table a", b"table a.b", b"table .b: x", b""]
        {
            assert_eq!(line(other), Line::Unknown, "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for bytes in [bytes.clone(), [b"table ", &bytes[..]].concat()] {
                if let Line::Written(names) = line(&bytes) {
                    prop_assert!(names.each().count() > 0);
                }
                prop_assert!(Names(&bytes).each().count() <= bytes.len());
            }
        }

        #[test]
        fn names_come_out_as_they_went_in(
            relations in proptest::collection::vec(("[a-z\": .,é]{1,6}", "[a-zA-Z\"\\. ,:]{1,6}"), 1..4),
            row in "[a-z\": .,]{0,12}",
        ) {
            let list: Vec<_> =
                relations.iter().map(|(schema, name)| format!("{}.{}", quoted(schema), quoted(name))).collect();
            let text = format!("table {}: INSERT: {row}", list.join(", "));
            prop_assert_eq!(names(text.as_bytes()), relations);
        }
    }
}
