//! PostgreSQL's keywords, by what they are not: names of functions or of types (manual, appendix C SQL Key Words).

use super::class::Name;

/// A word that a query begins with.
pub(super) fn begins_query(word: &str) -> bool {
    matches!(word, "select" | "values" | "with" | "table")
}

/// Words that stand in front of a parenthesis and are no function: reserved, or keywords with a syntax of their own,
/// which without a schema cannot name a function. What is missing here is taken for a function, which the catalog
/// then does not know.
pub(super) fn takes_parenthesis(word: &str) -> bool {
    matches!(
        word,
        "all"
            | "and"
            | "any"
            | "array"
            | "as"
            | "between"
            | "case"
            | "cast"
            | "coalesce"
            | "collate"
            | "cross"
            | "distinct"
            | "else"
            | "except"
            | "exists"
            | "fetch"
            | "for"
            | "from"
            | "greatest"
            | "group"
            | "grouping"
            | "having"
            | "ilike"
            | "in"
            | "inner"
            | "intersect"
            | "into"
            | "is"
            | "join"
            | "lateral"
            | "least"
            | "like"
            | "limit"
            | "not"
            | "nullif"
            | "offset"
            | "on"
            | "only"
            | "or"
            | "order"
            | "returning"
            | "row"
            | "select"
            | "similar"
            | "some"
            | "symmetric"
            | "table"
            | "then"
            | "to"
            | "treat"
            | "trim"
            | "union"
            | "using"
            | "values"
            | "when"
            | "where"
            | "with"
            | "xmlconcat"
            | "xmlelement"
            | "xmlforest"
            | "xmlparse"
            | "xmlpi"
            | "xmlroot"
            | "xmlserialize"
            | "xmltable"
    )
}

/// Names that are grammar since PostgreSQL 16 (JSON constructors) or 17 (JSON queries), and may be those of functions of
/// one's own before.
pub(super) fn is_grammar_of_newer(name: &Name) -> bool {
    name.schema.is_none()
        && matches!(
            &*name.name,
            "json"
                | "json_array"
                | "json_arrayagg"
                | "json_exists"
                | "json_objectagg"
                | "json_query"
                | "json_scalar"
                | "json_serialize"
                | "json_table"
                | "json_value"
        )
}

/// Functions that are called without parentheses, by the name under which the catalog knows their volatility.
pub(super) fn value_function(word: &str) -> Option<&'static str> {
    Some(match word {
        "current_catalog" => "current_database",
        "current_schema" => "current_schema",
        "current_role" | "current_user" | "user" => "current_user",
        "session_user" => "session_user",
        "system_user" => "system_user",
        "current_date" | "current_time" | "current_timestamp" | "localtime" | "localtimestamp" => "now",
        _ => return None,
    })
}

/// Types that the grammar itself knows (manual, table 8.1): builtin, whatever the catalog has of that name.
pub(super) fn is_type_keyword(name: &Name) -> bool {
    name.schema.is_none()
        && matches!(
            &*name.name,
            "bigint"
                | "bit"
                | "boolean"
                | "char"
                | "character"
                | "dec"
                | "decimal"
                | "double"
                | "float"
                | "int"
                | "integer"
                | "interval"
                | "json"
                | "national"
                | "nchar"
                | "numeric"
                | "real"
                | "smallint"
                | "time"
                | "timestamp"
                | "varchar"
        )
}

/// Keywords that stand in front of a string constant and are no type.
pub(super) fn may_precede_string(word: &str) -> bool {
    matches!(
        word,
        "all"
            | "and"
            | "any"
            | "as"
            | "between"
            | "by"
            | "case"
            | "distinct"
            | "else"
            | "do"
            | "escape"
            | "placing"
            | "passing"
            | "document"
            | "content"
            | "except"
            | "for"
            | "from"
            | "having"
            | "ilike"
            | "in"
            | "intersect"
            | "is"
            | "like"
            | "limit"
            | "not"
            | "offset"
            | "on"
            | "or"
            | "returning"
            | "select"
            | "similar"
            | "some"
            | "symmetric"
            | "then"
            | "to"
            | "uescape"
            | "union"
            | "using"
            | "values"
            | "when"
            | "where"
            | "zone"
            | "both"
            | "leading"
            | "trailing"
            | "end"
            | "path"
    )
}
