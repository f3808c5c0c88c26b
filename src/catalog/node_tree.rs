//! What an expression or query that PostgreSQL has stored refers to, from its tree as text (`pg_rewrite.ev_action`,
//! `pg_policy.polqual`, `pg_constraint.conbin`).
//!
//! Not from `pg_depend`: dependencies on PostgreSQL's own objects are not recorded there, so a view's `random()` or
//! `pg_stat_get_activity()` would not show. Nor from the view's text, which would have to be parsed. The tree names
//! every function and relation by its OID, behind labels that have been the same since PostgreSQL 8; spaces in names
//! are escaped, so no alias can look like a label. A label met where it means something else adds a function or
//! relation, which errs to the safe side.

use crate::pg::Oid;

/// What a tree refers to, each once.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tree {
    /// Relations, the view itself perhaps among them.
    pub relations: Vec<Oid>,
    /// Functions: called, behind operators, aggregates, window functions.
    pub functions: Vec<Oid>,
    /// Operators that are known by no function: those of GROUP BY, ORDER BY, DISTINCT, UNION, and of row comparisons.
    pub operators: Vec<Oid>,
    /// Types that it casts to, of constants, of what functions give, and of column definition lists: a domain's checks
    /// run, also inside of `json_populate_record(NULL::t, ...)`.
    pub result_types: Vec<Oid>,
    /// `current_date` and its like, which are no functions there, or a constant that says "now" or "today".
    pub names_time: bool,
    /// FOR UPDATE and its like.
    pub locks_rows: bool,
}

/// Reads a tree.
pub fn read(text: &str) -> Tree {
    let mut tree = Tree { locks_rows: text.contains(":hasForUpdate true"), ..Tree::default() };
    // Labels are a small part of the text: hop from colon to colon.
    let mut rest = text.as_bytes();
    let mut in_value_function = false;
    while let Some(at) = rest.iter().position(|&byte| matches!(byte, b':' | b'{')) {
        let opens = rest[at] == b'{';
        rest = &rest[at + 1..];
        if opens {
            in_value_function = rest.starts_with(b"SQLVALUEFUNCTION");
            continue;
        }
        match rest.first() {
            Some(b'f') => {
                tree.functions.extend(number(rest, b"funcid "));
                tree.result_types.extend(number(rest, b"funcresulttype "));
                numbers(rest, b"funccoltypes (o", &mut tree.result_types);
            }
            Some(b'a') => tree.functions.extend(number(rest, b"aggfnoid ")),
            Some(b'w') => tree.functions.extend(number(rest, b"winfnoid ")),
            Some(b'r') => {
                tree.relations.extend(number(rest, b"relid "));
                tree.result_types.extend(number(rest, b"resulttype "));
            }
            Some(b'o') => {
                tree.functions.extend(number(rest, b"opfuncid "));
                numbers(rest, b"opnos (o", &mut tree.operators);
                // SQLValueFunctionOp: the dates and times come first, users and names behind them.
                let is_time = in_value_function && number(rest, b"op ").is_some_and(|op| op.0 <= 8);
                tree.names_time |= is_time;
            }
            Some(b'e') => {
                tree.operators.extend(number(rest, b"eqop "));
                tree.functions.extend(number(rest, b"endInRangeFunc "));
            }
            Some(b's') => {
                tree.operators.extend(number(rest, b"sortop "));
                tree.functions.extend(number(rest, b"startInRangeFunc "));
            }
            Some(b'c') if rest.starts_with(b"constvalue ") => tree.names_time |= says_now(rest),
            Some(b'c') => tree.result_types.extend(number(rest, b"consttype ")),
            _ => {}
        }
    }
    for list in [&mut tree.relations, &mut tree.functions, &mut tree.operators, &mut tree.result_types] {
        list.retain(|oid| oid.0 != 0);
        list.sort_unstable();
        list.dedup();
    }
    tree
}

/// The number behind `label` where the text begins with it.
fn number(text: &[u8], label: &[u8]) -> Option<Oid> {
    let digits = text.strip_prefix(label)?;
    let mut value = None;
    for digit in digits.iter().take_while(|byte| byte.is_ascii_digit()) {
        value = Some(value.unwrap_or(0_u32).checked_mul(10)?.checked_add(u32::from(digit - b'0'))?);
    }
    value.map(Oid)
}

/// The numbers of a list behind `label` where the text begins with it.
fn numbers(text: &[u8], label: &[u8], into: &mut Vec<Oid>) {
    let Some(mut list) = text.strip_prefix(label) else { return };
    while let Some(oid) = number(list, b" ") {
        into.push(oid);
        let digits = list[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        list = &list[1 + digits..];
    }
}

/// A constant's bytes end in one of the words that stand for the current time (`'now'::text::date`, as old dumps have).
fn says_now(constant: &[u8]) -> bool {
    let end = constant.iter().position(|&byte| matches!(byte, b']' | b'}' | b'<')).unwrap_or(0);
    let bytes = &constant[..end];
    let words: [&[u8]; 4] = [
        b" 110 111 119 ",
        b" 116 111 100 97 121 ",
        b" 116 111 109 111 114 114 111 119 ",
        b" 121 101 115 116 101 114 100 97 121 ",
    ];
    words.iter().any(|word| bytes.ends_with(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_named_by_number() {
        let text = r"({QUERY :hasForUpdate false :rtable ({RANGETBLENTRY :alias {ALIAS :aliasname a\ :funcid\ 7 :colnames <>}
            :rtekind 0 :relid 16384 :relkind v} {RANGETBLENTRY :rtekind 0 :relid 1259})
            :quals {OPEXPR :opno 639 :opfuncid 79 :args ({CONST :constvalue 7 [ 28 0 0 0 97 98 99 ]})}
            :targetList ({FUNCEXPR :funcid 1598 :args <>} {AGGREF :aggfnoid 2803} {WINDOWFUNC :winfnoid 3100}
            {SQLVALUEFUNCTION :op 12 :type 19} {COERCETODOMAIN :arg {CONST :constvalue 4 [ 1 0 0 0 ]} :resulttype 16500})})";
        let tree = read(text);
        assert_eq!(tree.relations, [Oid(1259), Oid(16384)]);
        assert_eq!(tree.functions, [Oid(79), Oid(1598), Oid(2803), Oid(3100)]);
        assert!(!tree.names_time && !tree.locks_rows);
    }

    #[test]
    fn finds_time_and_locks() {
        assert!(read("{SQLVALUEFUNCTION :op 0 :type 1082 :typmod -1}").names_time);
        assert!(read("{CONST :consttype 25 :constvalue 7 [ 28 0 0 0 110 111 119 ]}").names_time);
        assert!(!read("{CONST :consttype 25 :constvalue 7 [ 28 0 0 0 110 111 120 ]}").names_time);
        assert!(read("({QUERY :hasForUpdate true })").locks_rows);
        assert!(!read("{OPEXPR :op 0}").names_time);
    }

    #[test]
    fn operators_without_functions_are_found() {
        let text =
            "{SORTGROUPCLAUSE :tleSortGroupRef 1 :eqop 16501 :sortop 16502 :nulls_first false :hashable true}
            {WINDOWCLAUSE :startInRangeFunc 16600 :endInRangeFunc 0 :inRangeColl 0}
            {ROWCOMPAREEXPR :rctype 1 :opnos (o 97 16503) :opfamilies (o 1976 1976) :inputcollids (o 0 0)}";
        let tree = read(text);
        assert_eq!(tree.operators, [Oid(97), Oid(16501), Oid(16502), Oid(16503)]);
        assert_eq!(tree.functions, [Oid(16600)]);
    }

    #[test]
    fn domains_are_found() {
        let text =
            "{COERCETODOMAIN :arg {RELABELTYPE :arg {VAR :varno 1} :resulttype 25} :resulttype 16500 }";
        assert_eq!(read(text).result_types, [Oid(25), Oid(16500)]);
        let text = "{RANGETBLFUNCTION :funcexpr {FUNCEXPR :funcid 3204 :funcresulttype 2249 :args ({CONST :consttype 16501
            :constvalue <>})} :funccolcount 2 :funccoltypes (o 16502 16503) :funccoltypmods (i -1 -1)}";
        assert_eq!(read(text).result_types, [Oid(2249), Oid(16501), Oid(16502), Oid(16503)]);
    }
}
