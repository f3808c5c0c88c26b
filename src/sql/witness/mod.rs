//! The second witness: what the tokens alone say about relations, calls and writes.
//!
//! The parser is a library for many dialects and misreads some PostgreSQL: `FROM ONLY t` as a relation named "only",
//! `SELECT interval FROM t` as one without `t`. So the relations of FROM, JOIN, USING, INTO, UPDATE and TABLE are
//! found here a second time, by their words and by commas at the depth of their clause, and the two lists must be
//! equal. Where this reading is too simple for a statement the lists differ, and the statement is Opaque: simplicity
//! costs a replica read, never a wrong answer.
//!
//! Functions, operators and types are taken from here rather than from the tree: a word in front of a parenthesis
//! cannot hide in a node of its own, as `floor`, `unnest` and others do there.
//!
//! On the way the text is rewritten where the parser does not know what PostgreSQL does. Nothing that the class depends
//! on is lost by that, for it has been noted here:
//!
//! | text | rewritten | why |
//! |---|---|---|
//! | `ONLY t`, `t *` | `t` | read as relation "only"; not known |
//! | `FOR NO KEY UPDATE OF t` and the like | nothing | some are not known |
//! | `SELECT FROM t`, `TABLE t` | `SELECT 0 FROM t`, `SELECT * FROM t` | not known everywhere |
//! | `ROWS FROM (f(x), g(y))`, `COLLATION FOR (a)` | `COALESCE (..)` | not known |
//! | `SEARCH ... SET c`, `CYCLE ... USING c`, `USING (a) AS x` | nothing, and `USING (a)` | not known |
//! | `RANGE BETWEEN '1 day'::interval PRECEDING` | `0::interval` | read as INTERVAL |
//! | `AT LOCAL`, `IS DOCUMENT` | `AT TIME ZONE ''`, `IS NULL` | not known |
//! | any operator but the commonest; `OPERATOR(s.@>)` | `+`, or `=` in front of ANY and ALL | user-defined ones are not known |
//! | `type 'constant'` | `'constant'` | types are not known |
//! | `ON CONFLICT (a) WHERE b DO`, `OVERRIDING USER VALUE` | `ON CONFLICT DO`, nothing | not known in full |
//! | `COLLATE c`, `VARIADIC`, `EXCLUDE TIES`, `SYMMETRIC`, `(a).*` | nothing, and `(a)` | not known everywhere |
//! | `a ISNULL`, `a NOTNULL` | `a IS NULL`, `a IS NOT NULL` | not known |

mod look;
mod rewrite;

use super::class::{Access, Call, Mention, Name, Otherwise, Perhaps};
use super::keywords::{begins_query, is_type_keyword, may_precede_string, takes_parenthesis, value_function};
use super::limits::Size;
use super::scan::{Scanner, Token, TokenKind};

/// What the tokens say.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts; any of them may stand together")]
pub(super) struct Witness {
    /// Relations in order, names of WITH queries among them.
    pub(super) mentions: Vec<Mention>,
    /// Names in front of a parenthesis, and functions without one.
    pub(super) calls: Vec<Name>,
    /// Names behind a dot that stand for no relation, type or called function.
    pub(super) attributes: Vec<Attribute>,
    /// A function stands in FROM.
    pub(super) calls_in_from: bool,
    /// Operators, some more than once.
    pub(super) operators: Vec<Box<str>>,
    /// Types, some more than once.
    pub(super) types: Vec<Name>,
    /// A word of a write stands in it: INSERT, UPDATE, DELETE, MERGE, INTO.
    pub(super) write_word: bool,
    /// A locking clause.
    pub(super) locks_rows: bool,
    /// VARIADIC: an argument stands for any number.
    pub(super) variadic: bool,
    /// A `U&"..."` identifier.
    pub(super) unicode_identifier: bool,
    /// A name of three parts or more in the place of a relation, or something else that is no name.
    pub(super) odd_relation: bool,
    pub(super) size: Size,
    /// The text for the parser.
    pub(super) rewritten: String,
}

/// A name behind a dot: a column, a field, or a function of what stands in front of the dot.
#[derive(Debug)]
pub(super) struct Attribute {
    name: Box<str>,
    /// A value stands in front of the dot, and not a name: `(x).f`, `a[1].f`, `$1.f`.
    of_value: bool,
}

impl Attribute {
    /// `is_scalar`: a name in front of the dot may be that of a function in FROM.
    pub(super) fn read(self, is_scalar: bool) -> Perhaps {
        let otherwise = if self.of_value || is_scalar { Otherwise::Field } else { Otherwise::Column };
        let name = Name { schema: None, name: self.name };
        Perhaps { call: Call { name, arguments: Some(1) }, otherwise }
    }
}

/// Reads a shape whose constants kept their kind ([`super::shape::typed`]).
pub(super) fn read(shape: &str) -> Witness {
    let tokens: Vec<Token> = Scanner::new(shape.as_bytes(), true).collect();
    let mut reader = Reader {
        shape,
        tokens: &tokens,
        levels: vec![Level::default()],
        copied: 0,
        last_attribute: (0, false),
        witness: Witness { size: Size { bytes: shape.len(), ..Size::default() }, ..Witness::default() },
    };
    let mut at = 0;
    while at < tokens.len() {
        at = reader.step(at);
    }
    reader.copy_up_to(shape.len());
    reader.witness
}

/// Where in a FROM list a level of parentheses is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum From {
    #[default]
    Outside,
    /// An item must follow.
    Expected,
    /// Behind an item: a comma or JOIN brings the next.
    Inside,
}

/// One level of parentheses.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts; any of them may stand together")]
struct Level {
    from: From,
    /// `extract(... FROM ...)` and its like: FROM is no clause here.
    call_with_from: bool,
    /// `cast(... AS type)`
    cast: bool,
    /// `json_value(... RETURNING type)`
    returning: bool,
    /// CASE, up to END.
    case: bool,
    /// Behind DELETE FROM or MERGE INTO: USING brings items.
    using: bool,
}

struct Reader<'a> {
    shape: &'a str,
    tokens: &'a [Token],
    levels: Vec<Level>,
    /// How much of the shape is in `rewritten`, or left out of it.
    copied: usize,
    /// Where the attribute before stands, and whether it was one of a value.
    last_attribute: (usize, bool),
    witness: Witness,
}

impl Reader<'_> {
    /// Reads the token at `at`, perhaps more; gives the next.
    fn step(&mut self, at: usize) -> usize {
        let token = self.tokens[at];
        match token.kind {
            TokenKind::Word => self.word(at),
            TokenKind::QuotedIdentifier if at > 0 && self.is_kind(at - 1, TokenKind::Dot) => {
                self.attribute(at)
            }
            TokenKind::QuotedIdentifier => self.identifier(at),
            TokenKind::UnicodeIdentifier => {
                self.witness.unicode_identifier = true;
                self.identifier(at)
            }
            TokenKind::OpenParen => {
                self.open(at);
                at + 1
            }
            TokenKind::OpenBracket => {
                self.witness.size.operators += 1;
                self.push(Level::default());
                at + 1
            }
            TokenKind::CloseParen | TokenKind::CloseBracket => {
                while self.level().case {
                    self.pop();
                }
                self.pop();
                at + 1
            }
            TokenKind::Comma => {
                let level = self.level();
                if level.from == From::Inside {
                    level.from = From::Expected;
                }
                at + 1
            }
            TokenKind::Operator => self.operator(at, at, at + 1),
            // `(a).*`
            TokenKind::Dot
                if at > 0
                    && matches!(
                        self.tokens[at - 1].kind,
                        TokenKind::CloseParen | TokenKind::CloseBracket
                    )
                    && self.is_operator(at + 1, "*") =>
            {
                self.replace(at, at + 2, "");
                at + 2
            }
            TokenKind::TypeCast => {
                self.witness.size.operators += 1;
                self.type_name(at + 1);
                at + 1
            }
            TokenKind::String
            | TokenKind::EscapeString
            | TokenKind::NationalString
            | TokenKind::UnicodeString
            | TokenKind::BitString
            | TokenKind::DollarString => {
                // `type 'constant'`
                if at > 0
                    && self.tokens[at - 1].kind.is_identifier()
                    && !(self.tokens[at - 1].kind == TokenKind::Word
                        && may_precede_string(self.source(at - 1)))
                {
                    let first = self.chain_start(at - 1);
                    self.type_name(first);
                    // INTERVAL may go on behind the constant, and the parser knows it.
                    if self.source(first) != "interval" {
                        self.replace(first, at, "");
                    }
                } else if self.begins_bound(at) {
                    self.replace(at, at + 1, "0 ");
                }
                at + 1
            }
            TokenKind::Integer
            | TokenKind::Numeric
            | TokenKind::Parameter
            | TokenKind::Dot
            | TokenKind::DotDot
            | TokenKind::Semicolon
            | TokenKind::Colon
            | TokenKind::ColonEquals
            | TokenKind::Comment
            | TokenKind::Invalid => at + 1,
        }
    }

    fn word(&mut self, at: usize) -> usize {
        let word = self.source(at);
        if self.is_kind(at.wrapping_sub(1), TokenKind::Dot) {
            return self.attribute(at);
        }
        let before = at.checked_sub(1).map_or("", |before| self.word_at(before));
        match word {
            "and" | "or" | "not" | "is" | "like" | "ilike" | "similar" | "in" | "between" | "collate"
            | "at" | "union" | "except" | "intersect" => self.witness.size.operators += 1,
            "join" => self.witness.size.joins += 1,
            _ => {}
        }
        match word {
            "from" => self.from(at, before),
            "join" if self.level().from == From::Inside => {
                self.level().from = From::Expected;
                at + 1
            }
            "using" if self.level().using => {
                *self.level() = Level { from: From::Expected, using: false, ..*self.level() };
                at + 1
            }
            "update" if !matches!(before, "for" | "do" | "then" | "key" | "on") => {
                self.witness.write_word = true;
                self.level().from = From::Outside;
                self.target(at + 1)
            }
            // MERGE: THEN INSERT (a, b)
            "insert" if self.is_kind(at + 1, TokenKind::OpenParen) && before == "then" => {
                self.witness.write_word = true;
                self.push(Level::default());
                at + 2
            }
            "insert" | "delete" | "merge" | "update" => {
                self.witness.write_word = true;
                at + 1
            }
            "into" => {
                self.witness.write_word = true;
                if before == "merge" {
                    self.level().using = true;
                }
                if matches!(before, "merge" | "insert") { self.target(at + 1) } else { at + 1 }
            }
            "table" if self.begins_query(at, before) => {
                self.replace(at, at + 1, "select * from ");
                self.level().from = From::Expected;
                at + 1
            }
            "select" if self.selects_nothing(at + 1) => {
                self.replace(at, at + 1, "select 0 ");
                at + 1
            }
            "case" if before != "as" => {
                self.push(Level { case: true, ..Level::default() });
                at + 1
            }
            "end" if self.level().case => {
                self.pop();
                at + 1
            }
            "symmetric" if before == "between" => {
                self.replace(at, at + 1, "");
                at + 1
            }
            "isnull" | "notnull" if !self.is_kind(at + 1, TokenKind::OpenParen) => {
                self.replace(at, at + 1, if word == "isnull" { "is null " } else { "is not null " });
                at + 1
            }
            "collate" => {
                let end = self.chain(at + 1).1;
                self.replace(at, end, "");
                end
            }
            "variadic" if before.is_empty() => {
                self.witness.variadic = true;
                self.replace(at, at + 1, "");
                at + 1
            }
            "overriding"
                if matches!(self.word_at(at + 1), "system" | "user") && self.word_at(at + 2) == "value" =>
            {
                self.replace(at, at + 3, "");
                at + 3
            }
            "conflict" if before == "on" && self.is_kind(at + 1, TokenKind::OpenParen) => {
                self.conflict_target(at)
            }
            "exclude" => self.frame_exclusion(at),
            "search" | "cycle" if self.is_kind(at.wrapping_sub(1), TokenKind::CloseParen) => {
                self.search_and_cycle(at)
            }
            "document" if before == "is" || (before == "not" && at >= 2 && self.word_at(at - 2) == "is") => {
                self.replace(at, at + 1, "null ");
                at + 1
            }
            "local" if before == "at" => {
                self.replace(at, at + 1, "time zone '' ");
                at + 1
            }
            "collation" if self.word_at(at + 1) == "for" && self.is_kind(at + 2, TokenKind::OpenParen) => {
                self.replace(at, at + 2, "coalesce ");
                at + 2
            }
            "operator" if self.is_kind(at + 1, TokenKind::OpenParen) => {
                let operator = self.chain(at + 2).1;
                if self.is_kind(operator, TokenKind::Operator)
                    && self.is_kind(operator + 1, TokenKind::CloseParen)
                {
                    return self.operator(operator, at, operator + 2);
                }
                at + 1
            }
            "for" if self.is_lock(at) => self.lock(at),
            "as" if self.level().cast => {
                self.type_name(at + 1);
                at + 1
            }
            // `JOIN u USING (a, b) AS x`
            "as" if self.level().from == From::Inside && self.closes_using(at) => {
                self.replace(at, at + 2, "");
                at + 2
            }
            "only" | "lateral" if self.level().from == From::Expected => {
                if word == "only" {
                    self.replace(at, at + 1, "");
                }
                at + 1
            }
            // ROWS FROM (f(x), g(y)): calls, no relations.
            "rows" if self.level().from == From::Expected && self.word_at(at + 1) == "from" => {
                self.replace(at, at + 2, "coalesce");
                self.witness.calls_in_from = true;
                self.level().from = From::Inside;
                at + 2
            }
            "where" | "group" | "having" | "window" | "order" | "limit" | "offset" | "fetch" | "for"
            | "union" | "except" | "intersect" | "returning" | "set" | "when" => {
                if word == "returning" && self.level().returning {
                    self.type_name(at + 1);
                }
                // A function may be called `set`.
                self.witness.calls_in_from |= self.level().from == From::Expected;
                self.level().from = From::Outside;
                at + 1
            }
            _ => {
                if before != "as"
                    && let Some(name) = value_function(word)
                {
                    self.witness.calls.push(Name { schema: None, name: name.into() });
                }
                self.identifier(at)
            }
        }
    }

    /// An identifier that is no word known above: in the place of a relation it is one, unless it is called.
    fn identifier(&mut self, at: usize) -> usize {
        if self.level().from == From::Expected {
            return self.relation(at, Access::Read);
        }
        at + 1
    }

    /// A name behind a dot. One that is called is noted with its parenthesis.
    fn attribute(&mut self, at: usize) -> usize {
        let behind_name = at >= 2 && self.tokens[at - 2].kind.is_identifier();
        let of_value = match self.last_attribute {
            (last, of_value) if behind_name && last + 2 == at => of_value,
            _ => !behind_name,
        };
        self.last_attribute = (at, of_value);
        if !self.is_kind(at + 1, TokenKind::OpenParen) {
            let name = self.name_at(at);
            self.witness.attributes.push(Attribute { name, of_value });
        }
        at + 1
    }

    /// The clause FROM, the target of DELETE, or a word of something else.
    fn from(&mut self, at: usize, before: &str) -> usize {
        let two_before = at.checked_sub(2).map_or("", |at| self.word_at(at));
        let is_distinct_from = before == "distinct" && matches!(two_before, "is" | "not");
        if self.level().call_with_from {
            // `trim(leading from a)`
            if matches!(before, "leading" | "trailing" | "both") || self.is_kind(at - 1, TokenKind::OpenParen)
            {
                self.replace(at, at + 1, "");
            }
            return at + 1;
        }
        if is_distinct_from {
            return at + 1;
        }
        if before == "delete" {
            *self.level() = Level { from: From::Outside, using: true, ..*self.level() };
            return self.target(at + 1);
        }
        self.level().from = From::Expected;
        at + 1
    }

    /// `[ONLY] name`: what INSERT, UPDATE, DELETE and MERGE write.
    fn target(&mut self, mut at: usize) -> usize {
        if self.word_at(at) == "only" {
            self.replace(at, at + 1, "");
            at += 1;
        }
        self.relation(at, Access::Write)
    }

    /// A relation's name at `at`; a function if a parenthesis follows in FROM.
    fn relation(&mut self, at: usize, access: Access) -> usize {
        let (parts, end) = self.chain(at);
        if access == Access::Read {
            self.level().from = From::Inside;
            if self.is_kind(end, TokenKind::OpenParen) {
                self.witness.calls_in_from = true;
                return end;
            }
        }
        let mut end = end;
        if self.is_operator(end, "*") {
            self.replace(end, end + 1, "");
            end += 1;
        }
        match Name::from_parts(parts) {
            Some(name) => self.witness.mentions.push(Mention { name, access }),
            None => self.witness.odd_relation = true,
        }
        if access == Access::Write && self.is_kind(end, TokenKind::OpenParen) {
            // The columns of INSERT INTO t (a, b): `t` is not called.
            self.push(Level::default());
            return end + 1;
        }
        end.max(at + 1)
    }

    /// An opening parenthesis: a call, a subquery, or a joined table.
    fn open(&mut self, at: usize) {
        let mut level = Level::default();
        if self.level().from == From::Expected {
            self.level().from = From::Inside;
            if !begins_query(self.word_at(at + 1)) {
                level.from = From::Expected;
            }
        }
        if at > 0 && self.tokens[at - 1].kind.is_identifier() {
            let first = self.chain_start(at - 1);
            let before = first.checked_sub(1);
            let word = if first == at - 1 { self.word_at(at - 1) } else { "" };
            level.call_with_from = matches!(word, "extract" | "substring" | "trim" | "overlay");
            level.cast = word == "cast";
            // `json_value(x, '$.a' RETURNING type)`
            level.returning = word.starts_with("json");
            let is_type_or_alias = before.is_some_and(|before| {
                self.is_kind(before, TokenKind::TypeCast) || self.word_at(before) == "as"
            });
            if !is_type_or_alias && !self.is_construct(word, before) && value_function(word).is_none() {
                let (parts, _) = self.chain(first);
                match Name::from_parts(parts) {
                    Some(name) => self.witness.calls.push(name),
                    None => self.witness.odd_relation = true,
                }
            }
        }
        self.push(level);
    }

    fn push(&mut self, level: Level) {
        self.levels.push(level);
        self.witness.size.depth = self.witness.size.depth.max(self.levels.len() - 1);
    }

    fn pop(&mut self) {
        if self.levels.len() > 1 {
            self.levels.pop();
        }
    }

    fn type_name(&mut self, at: usize) {
        let (parts, _) = self.chain(at);
        match Name::from_parts(parts) {
            Some(name) if is_type_keyword(&name) => {}
            Some(name) => self.witness.types.push(name),
            None => self.witness.odd_relation = true,
        }
    }

    /// Whether a word in front of a parenthesis belongs to the grammar and is no function. Words that could also name
    /// a function count by the token before them.
    fn is_construct(&self, word: &str, before: Option<usize>) -> bool {
        let word_before = before.map_or("", |before| self.word_at(before));
        match word {
            "by" => matches!(word_before, "order" | "group" | "partition"),
            "over" | "filter" => before.is_some_and(|before| self.is_kind(before, TokenKind::CloseParen)),
            "conflict" => word_before == "on",
            "sets" => word_before == "grouping",
            "materialized" => matches!(word_before, "as" | "not"),
            "repeatable" => before.is_some_and(|before| self.is_kind(before, TokenKind::CloseParen)),
            "set" => self.witness.write_word,
            word => takes_parenthesis(word),
        }
    }

    fn level(&mut self) -> &mut Level {
        let last = self.levels.len() - 1;
        &mut self.levels[last]
    }
}
