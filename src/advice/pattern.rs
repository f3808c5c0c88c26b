//! What LIKE patterns and regular expressions leave for an index to find.

/// The constant characters in front of the first wildcard of a LIKE pattern, if there are some.
pub fn like_prefix(pattern: &str) -> Option<String> {
    let mut prefix = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '%' | '_' => break,
            '\\' => prefix.extend(chars.next()),
            c => prefix.push(c),
        }
    }
    (!prefix.is_empty()).then_some(prefix)
}

/// The constant characters at the start of an anchored regular expression.
pub fn regex_prefix(pattern: &str) -> Option<String> {
    let rest = pattern.strip_prefix('^')?;
    if rest.contains('|') {
        return None;
    }
    let mut prefix: String =
        rest.chars().take_while(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_' | '@')).collect();
    // A quantifier makes the character in front of it optional.
    if rest[prefix.len()..].starts_with(['*', '?', '{']) {
        prefix.pop();
    }
    (!prefix.is_empty()).then_some(prefix)
}

/// Whether pg_trgm finds a trigram in the pattern: three letters or digits in a row that must be there.
pub fn has_trigram(pattern: &str, is_regex: bool) -> bool {
    if is_regex {
        // Each alternative must have one.
        return pattern.split('|').all(|alternative| runs(&literal(alternative)));
    }
    let mut plain = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '%' | '_' => plain.push('\u{1}'),
            '\\' => plain.extend(chars.next()),
            c => plain.push(c),
        }
    }
    runs(&plain)
}

fn runs(text: &str) -> bool {
    text.split(|c: char| !c.is_alphanumeric()).any(|run| run.chars().count() >= 3)
}

/// The characters of a regular expression that stand for themselves; all others are made blanks.
fn literal(pattern: &str) -> String {
    let mut out = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '[' => {
                while chars.next().is_some_and(|c| c != ']') {}
                out.push(' ');
            }
            '\\' => {
                chars.next();
                out.push(' ');
            }
            '*' | '?' | '{' => {
                out.pop();
                out.push(' ');
                if c == '{' {
                    while chars.next().is_some_and(|c| c != '}') {}
                }
            }
            c if c.is_alphanumeric() => out.push(c),
            _ => out.push(' '),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_the_first_wildcard() {
        for (pattern, expected) in [
            ("abc%", Some("abc")),
            ("a\\%b_c", Some("a%b")),
            ("%abc", None),
            ("_x", None),
            ("abc", Some("abc")),
        ] {
            assert_eq!(like_prefix(pattern).as_deref(), expected, "{pattern}");
        }
        for (pattern, expected) in
            [("^abc", Some("abc")), ("^abc*", Some("ab")), ("abc", None), ("^a|b", None)]
        {
            assert_eq!(regex_prefix(pattern).as_deref(), expected, "{pattern}");
        }
    }

    #[test]
    fn a_trigram_is_three_letters_in_a_row() {
        for (pattern, is_regex, expected) in [
            ("%abc%", false, true),
            ("%ab%cd%", false, false),
            ("%a_bc%", false, false),
            ("%ab\\_c%", false, false),
            ("abc|x", true, false),
            ("abc|xyz", true, true),
            ("ab[c]d", true, false),
            ("abc*", true, false),
            ("abcd*", true, true),
        ] {
            assert_eq!(has_trigram(pattern, is_regex), expected, "{pattern}");
        }
    }
}
