//! Identifiers as SQL text wants them.

/// An identifier as SQL needs it.
pub fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !RESERVED.split_whitespace().any(|word| word == name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Words that cannot be a column's or table's name without quotes (manual, appendix C).
const RESERVED: &str = "
all analyse analyze and any array as asc asymmetric authorization between binary both case cast check
collate collation column concurrently constraint create cross current_catalog current_date current_role
current_schema current_time current_timestamp current_user default deferrable desc distinct do else end
except exists false fetch for foreign freeze from full grant group having ilike in initially inner intersect
into is isnull join lateral leading left like limit localtime localtimestamp natural not notnull null offset
on only or order outer overlaps placing primary references returning right select session_user similar some
symmetric system_user table tablesample then to trailing true union unique user using variadic verbose when
where window with";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_odd_names_are_quoted() {
        for (name, expected) in
            [("a_1", "a_1"), ("A", "\"A\""), ("user", "\"user\""), ("a\"b", "\"a\"\"b\""), ("1a", "\"1a\"")]
        {
            assert_eq!(quoted(name), expected);
        }
    }
}
