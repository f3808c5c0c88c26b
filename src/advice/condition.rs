//! Reads the conditions of a plan: the text that EXPLAIN VERBOSE gives for Filter, Hash Cond, Sort Key and their like.
//!
//! Taken from the plan and not from the statement: there views are expanded, names resolved and qualified, constants
//! folded and typed, IN lists made `= ANY`, EXISTS made joins. And it is written by one function of PostgreSQL
//! (`ruleutils.c` with no pretty-printing), which puts parentheses around every operator, so that no precedence need be
//! known. What is not understood becomes [`Kind::Other`] and is still searched for columns.

use super::identifier::quoted;
use crate::sql::scan::{Scanner, Span, Token, TokenKind};

/// A column as a plan writes it: qualified with the alias of its relation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Column {
    /// The alias, unquoted.
    pub alias: String,
    /// The name, unquoted.
    pub name: String,
}

/// A part of a condition, with its source.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: Kind,
    /// As the plan writes it.
    pub source: String,
    /// The columns in it, with the bytes of `source` where they stand.
    pub columns: Vec<(Span, Column)>,
}

/// What an expression is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `alias.column`
    Column(Column),
    /// A constant with its value, unquoted; NULL has none.
    Constant(Option<String>),
    /// `$1`: a value that is not known when planning.
    Parameter(u32),
    /// `a AND b`
    And(Vec<Expr>),
    /// `a OR b`
    Or(Vec<Expr>),
    /// `NOT a`
    Not(Box<Expr>),
    /// `a op b`
    Operator(String, Box<Expr>, Box<Expr>),
    /// `a op ANY (b)`, or ALL.
    Quantified {
        /// The operator.
        operator: String,
        /// ALL.
        all: bool,
        /// In front of it.
        left: Box<Expr>,
        /// The array.
        right: Box<Expr>,
    },
    /// `a IS NULL`, or IS NOT NULL.
    IsNull(Box<Expr>, bool),
    /// `f(a, b)`
    Call(String, Vec<Expr>),
    /// `a::type`
    Cast(Box<Expr>, String),
    /// `ROW(a, b)`
    Row(Vec<Expr>),
    /// Anything else.
    Other,
}

impl Expr {
    /// Reads a condition. Never fails.
    pub fn parse(text: &str) -> Self {
        let tokens: Vec<Token> = Scanner::new(text.as_bytes(), true).collect();
        let mut reader = Reader { text, tokens: &tokens, at: 0, depth: 0 };
        match reader.any() {
            Some(expr) if reader.at == tokens.len() => expr,
            _ => reader.make(Kind::Other, 0, tokens.len()),
        }
    }

    /// The conjuncts: the parts joined by AND.
    pub fn conjuncts(self) -> Vec<Self> {
        match self.kind {
            Kind::And(parts) => parts.into_iter().flat_map(Self::conjuncts).collect(),
            _ => vec![self],
        }
    }

    /// Whether all its columns are of this relation, and there is one.
    pub fn is_of(&self, alias: &str) -> bool {
        !self.columns.is_empty() && self.columns.iter().all(|(_, column)| column.alias == alias)
    }

    /// Whether a column of this relation is in it.
    pub fn mentions(&self, alias: &str) -> bool {
        self.columns.iter().any(|(_, column)| column.alias == alias)
    }

    /// The same at run time for all rows: no columns.
    pub fn is_fixed(&self) -> bool {
        self.columns.is_empty() && !self.source.contains("SubPlan")
    }

    /// The source without the aliases, as an index definition writes it.
    pub fn unqualified(&self) -> String {
        let (mut out, mut copied) = (String::new(), 0);
        for (span, column) in &self.columns {
            out.push_str(self.source.get(copied..span.start).unwrap_or_default());
            out.push_str(&quoted(&column.name));
            copied = span.end;
        }
        out.push_str(self.source.get(copied..).unwrap_or_default());
        out
    }

    /// Without casts between types that compare alike (`(status)::text`, which a varchar column gets).
    pub fn without_relabel(&self) -> &Self {
        match &self.kind {
            Kind::Cast(inner, to)
                if matches!(inner.kind, Kind::Column(_))
                    && matches!(to.as_str(), "text" | "bpchar" | "oid" | "text[]") =>
            {
                inner
            }
            _ => self,
        }
    }

    /// The column that it is.
    pub fn column(&self) -> Option<&Column> {
        match &self.kind {
            Kind::Column(column) => Some(column),
            _ => None,
        }
    }

    /// The constant that it is, whatever its casts.
    pub fn constant(&self) -> Option<&str> {
        match &self.kind {
            Kind::Constant(value) => value.as_deref(),
            Kind::Cast(inner, _) => inner.constant(),
            _ => None,
        }
    }

    /// Whether a value that is not known stands for it: `$1`, whatever its casts.
    pub fn parameter(&self) -> Option<u32> {
        match &self.kind {
            Kind::Parameter(number) => Some(*number),
            Kind::Cast(inner, _) => inner.parameter(),
            _ => None,
        }
    }
}

/// Deeper nesting than this is not read.
const DEPTH_MAX: usize = 60;

struct Reader<'a> {
    text: &'a str,
    tokens: &'a [Token],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn source(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| self.text.get(token.span.start..token.span.end).unwrap_or(""))
    }

    fn kind(&self, at: usize) -> Option<TokenKind> {
        self.tokens.get(at).map(|token| token.kind)
    }

    fn word(&mut self, word: &str) -> bool {
        let is =
            self.kind(self.at) == Some(TokenKind::Word) && self.source(self.at).eq_ignore_ascii_case(word);
        self.at += usize::from(is);
        is
    }

    fn sign(&mut self, kind: TokenKind) -> bool {
        let is = self.kind(self.at) == Some(kind);
        self.at += usize::from(is);
        is
    }

    fn make(&self, kind: Kind, first: usize, end: usize) -> Expr {
        let (Some(start), Some(last)) = (self.tokens.get(first), self.tokens.get(end.wrapping_sub(1))) else {
            return Expr { kind: Kind::Other, source: String::new(), columns: Vec::new() };
        };
        let offset = start.span.start;
        let source = self.text.get(offset..last.span.end).unwrap_or_default().to_owned();
        let mut columns = Vec::new();
        let mut at = first;
        while at < end {
            if let Some(column) = self.column_at(at) {
                let span = Span {
                    start: self.tokens[at].span.start - offset,
                    end: self.tokens[at + 2].span.end - offset,
                };
                columns.push((span, column));
                at += 2;
            }
            at += 1;
        }
        Expr { kind, source, columns }
    }

    /// `alias.column`, and no function of a schema.
    fn column_at(&self, at: usize) -> Option<Column> {
        let is_name = |at| self.kind(at).is_some_and(TokenKind::is_identifier);
        let is_column = is_name(at)
            && self.kind(at + 1) == Some(TokenKind::Dot)
            && is_name(at + 2)
            && !matches!(self.kind(at + 3), Some(TokenKind::OpenParen | TokenKind::Dot))
            && (at == 0 || !matches!(self.kind(at - 1), Some(TokenKind::Dot | TokenKind::TypeCast)));
        let name = |at| unquoted(self.source(at));
        is_column.then(|| Column { alias: name(at), name: name(at + 2) })
    }

    fn any(&mut self) -> Option<Expr> {
        self.depth += 1;
        let expr = if self.depth > DEPTH_MAX { None } else { self.disjunction() };
        self.depth -= 1;
        expr
    }

    fn disjunction(&mut self) -> Option<Expr> {
        self.joined("OR", Self::conjunction, Kind::Or)
    }

    fn conjunction(&mut self) -> Option<Expr> {
        self.joined("AND", Self::negation, Kind::And)
    }

    fn joined(
        &mut self,
        word: &str,
        part: fn(&mut Self) -> Option<Expr>,
        kind: fn(Vec<Expr>) -> Kind,
    ) -> Option<Expr> {
        let first = self.at;
        let mut parts = vec![part(self)?];
        while self.word(word) {
            parts.push(part(self)?);
        }
        Some(if parts.len() == 1 { parts.swap_remove(0) } else { self.make(kind(parts), first, self.at) })
    }

    fn negation(&mut self) -> Option<Expr> {
        let first = self.at;
        if self.word("NOT") {
            let inner = self.negation()?;
            return Some(self.make(Kind::Not(Box::new(inner)), first, self.at));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Option<Expr> {
        let first = self.at;
        let mut left = self.primary()?;
        loop {
            if self.word("IS") {
                let negated = self.word("NOT");
                let kind = if self.word("NULL") {
                    Kind::IsNull(Box::new(left), negated)
                } else {
                    // IS TRUE, IS DISTINCT FROM
                    self.word("DISTINCT");
                    self.word("FROM");
                    self.primary()?;
                    Kind::Other
                };
                left = self.make(kind, first, self.at);
            } else if self.word("COLLATE") {
                self.at += 1;
                if self.sign(TokenKind::Dot) {
                    self.at += 1;
                }
                left = self.make(Kind::Other, first, self.at);
            } else if self.word("AT") {
                self.word("TIME");
                self.word("ZONE");
                self.primary()?;
                left = self.make(Kind::Other, first, self.at);
            } else if let Some(operator) = self.operator() {
                let (any, all) = (self.word("ANY"), self.word("ALL"));
                let right = Box::new(self.primary()?);
                let kind = if any || all {
                    Kind::Quantified { operator, all, left: Box::new(left), right }
                } else {
                    Kind::Operator(operator, Box::new(left), right)
                };
                left = self.make(kind, first, self.at);
            } else {
                return Some(left);
            }
        }
    }

    /// An operator, also in the form `OPERATOR(schema.+)`.
    fn operator(&mut self) -> Option<String> {
        if self.kind(self.at) == Some(TokenKind::Operator) {
            let operator = self.source(self.at).to_owned();
            self.at += 1;
            return Some(operator);
        }
        if self.source(self.at) == "OPERATOR" && self.kind(self.at + 1) == Some(TokenKind::OpenParen) {
            let end =
                (self.at..self.tokens.len()).find(|&at| self.kind(at) == Some(TokenKind::CloseParen))?;
            let operator = self.source(end - 1).to_owned();
            self.at = end + 1;
            return Some(operator);
        }
        None
    }

    fn primary(&mut self) -> Option<Expr> {
        let first = self.at;
        let mut expr = self.atom()?;
        loop {
            if self.sign(TokenKind::TypeCast) {
                let to = self.type_name()?;
                expr = self.make(Kind::Cast(Box::new(expr), to), first, self.at);
            } else if self.kind(self.at) == Some(TokenKind::OpenBracket) {
                self.skip_group()?;
                expr = self.make(Kind::Other, first, self.at);
            } else if self.kind(self.at) == Some(TokenKind::Dot) && !matches!(expr.kind, Kind::Column(_)) {
                // (composite).field
                self.at += 2;
                expr = self.make(Kind::Other, first, self.at);
            } else {
                return Some(expr);
            }
        }
    }

    fn atom(&mut self) -> Option<Expr> {
        let first = self.at;
        let kind = self.kind(first)?;
        if let Some(column) = self.column_at(first) {
            self.at += 3;
            return Some(self.make(Kind::Column(column), first, self.at));
        }
        match kind {
            TokenKind::OpenParen => self.group(),
            TokenKind::Parameter => {
                self.at += 1;
                let number = self.source(first).get(1..)?.parse().ok()?;
                Some(self.make(Kind::Parameter(number), first, self.at))
            }
            TokenKind::Operator => {
                // A sign in front: a negative number stays a constant.
                self.at += 1;
                let inner = self.primary()?;
                let value = inner.constant().map(|value| format!("{}{value}", self.source(first)));
                let kind = value.map_or(Kind::Other, |value| Kind::Constant(Some(value)));
                Some(self.make(kind, first, self.at))
            }
            TokenKind::Integer | TokenKind::Numeric => {
                self.at += 1;
                let value = self.source(first).to_owned();
                Some(self.make(Kind::Constant(Some(value)), first, self.at))
            }
            kind if kind.is_string() || kind == TokenKind::BitString => {
                self.at += 1;
                let value = string(self.source(first));
                Some(self.make(Kind::Constant(Some(value)), first, self.at))
            }
            kind if kind.is_identifier() => self.named(),
            _ => None,
        }
    }

    /// `(a)`, `(a, b)`, `(SubPlan 1)`
    fn group(&mut self) -> Option<Expr> {
        let first = self.at;
        self.at += 1;
        if let Some(inner) = self.any()
            && self.sign(TokenKind::CloseParen)
        {
            // The parentheses belong to the source, or casts of it would not parse.
            return Some(self.make(inner.kind, first, self.at));
        }
        self.at = first;
        self.skip_group()?;
        Some(self.make(Kind::Other, first, self.at))
    }

    /// A word: TRUE, NULL, CASE, a function or something else.
    fn named(&mut self) -> Option<Expr> {
        let first = self.at;
        let word = self.source(first).to_owned();
        let constant = match word.as_str() {
            "true" | "false" => Some(Some(word.clone())),
            "NULL" => Some(None),
            _ => None,
        };
        if let Some(value) = constant {
            self.at += 1;
            return Some(self.make(Kind::Constant(value), first, self.at));
        }
        if word == "CASE" {
            let mut depth = 0;
            while self.at < self.tokens.len() {
                match self.source(self.at) {
                    "CASE" => depth += 1,
                    "END" => depth -= 1,
                    _ => {}
                }
                self.at += 1;
                if depth == 0 {
                    break;
                }
            }
            return Some(self.make(Kind::Other, first, self.at));
        }
        self.at += 1;
        while self.kind(self.at) == Some(TokenKind::Dot) {
            self.at += 2;
        }
        let name = unquoted(self.source(self.at - 1));
        match self.kind(self.at) {
            // Or ARRAY[...]
            Some(TokenKind::OpenParen | TokenKind::OpenBracket) => self.call(first, name),
            // current_date, "hashed SubPlan 1" and their like.
            _ => Some(self.make(Kind::Other, first, self.at)),
        }
    }

    fn call(&mut self, first: usize, name: String) -> Option<Expr> {
        let open = self.at;
        let kind = match self.arguments() {
            Some(arguments) if name == "ROW" => Kind::Row(arguments),
            Some(arguments) => Kind::Call(name, arguments),
            None => {
                // EXTRACT(year FROM a) and other forms of their own.
                self.at = open;
                self.skip_group()?;
                Kind::Other
            }
        };
        Some(self.make(kind, first, self.at))
    }

    fn arguments(&mut self) -> Option<Vec<Expr>> {
        self.at += 1;
        let mut arguments = Vec::new();
        while !self.closes() {
            if !arguments.is_empty() && !self.sign(TokenKind::Comma) {
                return None;
            }
            arguments.push(self.any()?);
        }
        Some(arguments)
    }

    fn closes(&mut self) -> bool {
        self.sign(TokenKind::CloseParen) || self.sign(TokenKind::CloseBracket)
    }

    /// Over parentheses or brackets with all that is in them.
    fn skip_group(&mut self) -> Option<()> {
        let mut depth = 0_usize;
        loop {
            match self.kind(self.at)? {
                TokenKind::OpenParen | TokenKind::OpenBracket => depth += 1,
                TokenKind::CloseParen | TokenKind::CloseBracket => depth = depth.checked_sub(1)?,
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return Some(());
            }
        }
    }

    /// `text`, `numeric(10,2)`, `timestamp(3) with time zone`, `schema.type[]`
    fn type_name(&mut self) -> Option<String> {
        let mut name = unquoted(self.source(self.at));
        if !self.kind(self.at)?.is_identifier() {
            return None;
        }
        self.at += 1;
        while self.sign(TokenKind::Dot) {
            name = unquoted(self.source(self.at));
            self.at += 1;
        }
        for more in ["varying", "precision"] {
            if self.word(more) {
                name = format!("{name} {more}");
            }
        }
        if self.kind(self.at) == Some(TokenKind::OpenParen) {
            self.skip_group()?;
        }
        for (words, text) in
            [(["with", "time"], " with time zone"), (["without", "time"], " without time zone")]
        {
            if self.source(self.at) == words[0] && self.source(self.at + 1) == words[1] {
                self.at += 3;
                name.push_str(text);
            }
        }
        while self.kind(self.at) == Some(TokenKind::OpenBracket) {
            self.skip_group()?;
            name.push_str("[]");
        }
        Some(name)
    }
}

fn unquoted(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(inside) => inside.replace("\"\"", "\""),
        None => name.to_owned(),
    }
}

/// The value of a string constant as PostgreSQL writes it: with `E` only if there is a backslash in it.
fn string(source: &str) -> String {
    let (escaped, rest) = source.strip_prefix('E').map_or((false, source), |rest| (true, rest));
    let rest = rest.strip_prefix('B').unwrap_or(rest);
    let inside =
        rest.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).unwrap_or(rest).replace("''", "'");
    if escaped { inside.replace("\\\\", "\\") } else { inside }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The structure in short.
    fn show(expr: &Expr) -> String {
        let list = |parts: &[Expr]| parts.iter().map(show).collect::<Vec<_>>().join(" ");
        match &expr.kind {
            Kind::Column(column) => format!("{}.{}", column.alias, column.name),
            Kind::Constant(value) => format!("<{}>", value.as_deref().unwrap_or("NULL")),
            Kind::Parameter(number) => format!("${number}"),
            Kind::And(parts) => format!("(and {})", list(parts)),
            Kind::Or(parts) => format!("(or {})", list(parts)),
            Kind::Not(inner) => format!("(not {})", show(inner)),
            Kind::Operator(operator, left, right) => format!("({operator} {} {})", show(left), show(right)),
            Kind::Quantified { operator, all, left, right } => {
                let word = if *all { "all" } else { "any" };
                format!("({operator}{word} {} {})", show(left), show(right))
            }
            Kind::IsNull(inner, negated) => {
                format!("({} {})", if *negated { "notnull" } else { "null" }, show(inner))
            }
            Kind::Call(name, arguments) => format!("({name} {})", list(arguments)),
            Kind::Cast(inner, to) => format!("(as {to} {})", show(inner)),
            Kind::Row(parts) => format!("(row {})", list(parts)),
            Kind::Other => format!("?{}", expr.source),
        }
    }

    #[test]
    fn conditions_are_read_as_the_plan_writes_them() {
        for (text, expected) in [
            ("(orders.user_id = '5'::bigint)", "(= orders.user_id (as bigint <5>))"),
            (
                "((o.status = 'a''b'::text) AND (o.at >= '2024-01-01 00:00:00+00'::timestamp with time zone))",
                "(and (= o.status (as text <a'b>)) (>= o.at (as timestamp with time zone <2024-01-01 00:00:00+00>)))",
            ),
            ("((o.a IS NULL) OR (NOT o.b) OR o.c)", "(or (null o.a) (not o.b) o.c)"),
            ("(o.id = ANY ('{1,2}'::bigint[]))", "(=any o.id (as bigint[] <{1,2}>))"),
            ("(lower(u.email) = lower('X'::text))", "(= (lower u.email) (lower (as text <X>)))"),
            ("((a.meta ->> 'source'::text) = $1)", "(= (->> a.meta (as text <source>)) $1)"),
            ("(ROW(o.at, o.id) < ROW($1, '-4'::integer))", "(< (row o.at o.id) (row $1 (as integer <-4>)))"),
            ("(\"Odd\".\"a\"\"b\" ~~ 'x%'::text)", "(~~ Odd.a\"b (as text <x%>))"),
            ("((c.code)::text = 'x'::text)", "(= (as text c.code) (as text <x>))"),
            ("(x.n = '1.50'::numeric(10,2))", "(= x.n (as numeric <1.50>))"),
            ("(NOT (hashed SubPlan 1))", "(not ?(hashed SubPlan 1))"),
            ("(x.a > COALESCE(x.b, 0))", "(> x.a (COALESCE x.b <0>))"),
            (
                "(EXTRACT(year FROM x.at) = '2024'::numeric)",
                "(= ?EXTRACT(year FROM x.at) (as numeric <2024>))",
            ),
            ("(x.a OPERATOR(public.@>) '{}'::jsonb)", "(@> x.a (as jsonb <{}>))"),
        ] {
            assert_eq!(show(&Expr::parse(text)), expected, "{text}");
        }
    }

    #[test]
    fn index_expressions_lose_their_aliases_only() {
        let Kind::Operator(_, left, _) = Expr::parse("(lower((\"U\".\"Mail\")::text) = 'U.x'::text)").kind
        else {
            panic!("an operator")
        };
        assert_eq!(left.unqualified(), "lower((\"Mail\")::text)");
        assert!(left.is_of("U") && !left.is_of("u"));
    }

    #[test]
    fn nonsense_is_other() {
        for text in ["", "((", "a.b c.d", ")", "CASE", "$"] {
            assert_eq!(Expr::parse(text).kind, Kind::Other, "{text}");
        }
        assert_eq!(Expr::parse(&"(".repeat(10_000)).kind, Kind::Other);
    }
}
