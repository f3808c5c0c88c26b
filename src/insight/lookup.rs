//! What a shape looks up: its command and table, and the one column that it wants to equal a value, if that is what it does.
//!
//! Read off the shape's tokens, once per shape and off the path. A child of an N+1 is a plain SELECT for one key; whatever
//! pages, searches, locks or reads a range is none, and whatever is not understood is none either.

use crate::sql::scan::{Scanner, TokenKind};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent findings; any of them may stand together")]
pub struct Lookup {
    /// The command in capitals: `SELECT`.
    pub command: String,
    /// The table in FROM, INTO or behind UPDATE: the first, as written but for quotes.
    pub table: Option<String>,
    /// The column that equals a value.
    pub key: Option<Key>,
    /// More than one table.
    pub joins: bool,
    /// FOR UPDATE and its like.
    pub locks: bool,
    /// OFFSET, or a condition that something is behind a value: a page of a longer list.
    pub pages: bool,
    /// LIMIT or FETCH FIRST.
    pub limits: bool,
    /// It gives an aggregate of the rows.
    pub aggregates: bool,
    /// It reads, or may read, other tables than `table`: there are joins or subqueries.
    pub reads_more: bool,
    /// It writes one row at a time, for the values that it is given: INSERT ... VALUES, or UPDATE of one key.
    pub is_row_write: bool,
    /// It may change what others give or mean: settings, or several statements in one text.
    pub unsettles: bool,
}

/// The column that equals a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// As written but for quotes.
    pub column: String,
    /// It is the table's own key, by its name: there is one row at most.
    pub is_own: bool,
}

#[derive(Clone, Copy, Debug)]
struct Word<'a> {
    kind: TokenKind,
    text: &'a str,
    depth: usize,
}

impl Word<'_> {
    fn is(&self, word: &str) -> bool {
        self.kind == TokenKind::Word && self.text == word
    }

    fn name(&self) -> Option<&str> {
        match self.kind {
            TokenKind::Word => Some(self.text),
            TokenKind::QuotedIdentifier => Some(self.text.trim_matches('"')),
            _ => None,
        }
    }

    fn is_value(&self) -> bool {
        self.kind == TokenKind::Operator && self.text == "?"
    }
}

/// Tokens of a shape that are looked at; a longer one is no lookup.
const TOKENS_MAX: usize = 4000;

/// How columns are called by which rows are looked up, rather than by a state, a day or a name of a setting.
const KEYS: [&str; 12] =
    ["id", "pk", "fk", "uuid", "guid", "code", "isbn", "sku", "slug", "email", "username", "number"];

/// What ends WHERE.
const ENDS: [&str; 10] =
    ["group", "having", "order", "limit", "offset", "fetch", "for", "union", "window", "except"];

impl Lookup {
    /// Of a shape.
    pub fn of(shape: &str) -> Self {
        let mut depth = 0_usize;
        let mut words = Vec::new();
        for token in Scanner::new(shape.as_bytes(), true).take(TOKENS_MAX) {
            if matches!(token.kind, TokenKind::CloseParen | TokenKind::CloseBracket) {
                depth = depth.saturating_sub(1);
            }
            let text = shape.get(token.span.start..token.span.end).unwrap_or_default();
            words.push(Word { kind: token.kind, text, depth });
            if matches!(token.kind, TokenKind::OpenParen | TokenKind::OpenBracket) {
                depth += 1;
            }
        }
        let Some(first) = words.first() else { return Self::default() };
        let command = first.name().unwrap_or("other").to_ascii_uppercase();
        let at = |word: &str| words.iter().position(|candidate| candidate.depth == 0 && candidate.is(word));
        let is_several = words.iter().any(|word| word.kind == TokenKind::Semicolon);
        let lookup = Self { command, ..Self::default() };
        if is_several {
            return Self { unsettles: true, ..lookup };
        }
        match lookup.command.as_str() {
            "SELECT" => lookup.select(&words),
            "INSERT" | "MERGE" => {
                let is_of_values = at("values").is_some() && !words.iter().any(|word| word.is("select"));
                let table = at("into").and_then(|at| table(&words, at + 1));
                Self { table, is_row_write: lookup.command == "INSERT" && is_of_values, ..lookup }
            }
            "DELETE" => Self { table: at("from").and_then(|at| table(&words, at + 1)), ..lookup },
            "UPDATE" => lookup.update(&words),
            "SET" | "RESET" | "DISCARD" => Self { unsettles: true, ..lookup },
            _ => lookup,
        }
    }

    fn update(mut self, words: &[Word<'_>]) -> Self {
        let at = |word: &str| words.iter().position(|candidate| candidate.depth == 0 && candidate.is(word));
        self.table = table(words, 1);
        self.reads_more = words.iter().any(|word| word.is("from") || word.is("select"));
        if let Some(filter) = at("where") {
            self.conditions(&words[filter + 1..at("returning").unwrap_or(words.len())]);
        }
        self.is_row_write = self.key.is_some() && !self.pages && !self.reads_more;
        self
    }

    fn select(mut self, words: &[Word<'_>]) -> Self {
        let at = |word: &str| words.iter().position(|candidate| candidate.depth == 0 && candidate.is(word));
        self.unsettles = words.iter().any(|word| word.is("set_config"));
        let Some(from) = at("from") else { return self };
        let end_of = |start: usize| {
            let ends = |word: &Word<'_>| word.depth == 0 && ENDS.iter().any(|end| word.is(end));
            words[start..].iter().position(ends).map_or(words.len(), |at| start + at)
        };
        self.table = table(words, from + 1);
        self.limits = at("limit").is_some() || at("fetch").is_some();
        self.pages = at("offset").is_some();
        self.locks = at("for").is_some();
        let is_call = |at: usize, word: &Word<'_>| {
            word.depth == 0
                && ["count", "sum", "max", "min", "avg", "bool_or", "bool_and"]
                    .iter()
                    .any(|name| word.is(name))
                && words.get(at + 1).is_some_and(|next| next.kind == TokenKind::OpenParen)
        };
        self.aggregates =
            at("group").is_none() && words[..from].iter().enumerate().any(|(at, word)| is_call(at, word));
        let filter = at("where");
        let relations = &words[from..filter.unwrap_or_else(|| end_of(from))];
        self.joins = relations
            .iter()
            .any(|word| word.depth == 0 && (word.is("join") || word.kind == TokenKind::Comma));
        let nests = words.iter().filter(|word| word.is("from") || word.is("select")).count() > 2;
        self.reads_more = self.joins || nests;
        let is_set = at("union").is_some() || at("except").is_some() || at("intersect").is_some();
        if let Some(filter) = filter
            && !is_set
        {
            self.conditions(&words[filter + 1..end_of(filter)]);
        }
        self
    }

    fn conditions(&mut self, mut words: &[Word<'_>]) {
        // Django puts several of them into parentheses.
        while let [open, inner @ .., close] = words
            && open.kind == TokenKind::OpenParen
            && close.kind == TokenKind::CloseParen
            && inner.iter().all(|word| word.depth > open.depth)
        {
            words = inner;
        }
        let Some(depth) = words.first().map(|word| word.depth) else { return };
        if words.iter().any(|word| word.depth == depth && word.is("or")) {
            return;
        }
        let mut keys: Vec<(String, Option<String>)> = Vec::new();
        for condition in words.split(|word| word.depth == depth && word.is("and")) {
            let mut condition = condition;
            while let [open, inner @ .., close] = condition
                && open.kind == TokenKind::OpenParen
                && close.kind == TokenKind::CloseParen
                && inner.iter().all(|word| word.depth > open.depth)
            {
                condition = inner;
            }
            let is_range = |word: &Word<'_>| {
                word.kind == TokenKind::Operator && matches!(word.text, "<" | ">" | "<=" | ">=")
            };
            if condition.iter().any(is_range) {
                self.pages = true;
            }
            keys.extend(equality(condition));
        }
        let is_key = |column: &str| {
            let column = column.to_ascii_lowercase();
            KEYS.iter().any(|end| column.ends_with(end))
        };
        let own = |(column, qualifier): &(String, Option<String>)| {
            let table = self.table.as_deref().unwrap_or_default();
            let is_of_table = qualifier.is_none() || !self.joins || qualifier.as_deref() == Some(table);
            is_of_table && is_own_key(column, table)
        };
        // Where several columns are given, the table's own key is the one, else the last: a tenant's stands in front.
        let named: Vec<_> = keys.iter().filter(|(column, _)| is_key(column)).collect();
        let key = named.iter().copied().find(|key| own(key)).or(named.last().copied());
        self.key = key.map(|key| Key { column: key.0.clone(), is_own: own(key) });
    }

    /// Whether all that it gives is out of a table of the application's, so that it gives the same until somebody writes.
    pub fn is_read_of_table(&self) -> bool {
        let is_own = |table: &String| !table.starts_with("pg_") && !table.starts_with("information_schema.");
        self.command == "SELECT" && !self.locks && !self.unsettles && self.table.as_ref().is_some_and(is_own)
    }

    /// Whether it reads a table, or may do so.
    pub fn may_read(&self, table: &str) -> bool {
        self.reads_more || self.table.as_deref() == Some(table)
    }

    /// Whether it may be what an N+1 repeats.
    pub fn is_child(&self) -> bool {
        self.command == "SELECT" && self.key.is_some() && !self.locks && !self.pages
    }

    /// Whether it changes rows.
    pub fn writes(&self) -> bool {
        matches!(self.command.as_str(), "INSERT" | "UPDATE" | "DELETE" | "MERGE")
    }

    /// `SELECT articles`
    pub fn summary(&self) -> String {
        match &self.table {
            Some(table) => format!("{} {table}", self.command),
            None => self.command.clone(),
        }
    }
}

/// `column = ?` or `? = column`, with casts; the column and what qualifies it.
fn equality(condition: &[Word<'_>]) -> Option<(String, Option<String>)> {
    let equals = condition.iter().position(|word| word.kind == TokenKind::Operator && word.text == "=")?;
    let (left, right) = (&condition[..equals], &condition[equals + 1..]);
    match (value(left), value(right)) {
        (true, false) => column(right),
        (false, true) => column(left),
        _ => None,
    }
}

/// `?`, or `?::type`.
fn value(words: &[Word<'_>]) -> bool {
    match words {
        [value] => value.is_value(),
        [value, cast, ..] => value.is_value() && cast.kind == TokenKind::TypeCast,
        [] => false,
    }
}

fn column(words: &[Word<'_>]) -> Option<(String, Option<String>)> {
    let words = match words.iter().position(|word| word.kind == TokenKind::TypeCast) {
        Some(cast) => &words[..cast],
        None => words,
    };
    match words {
        [column] => Some((column.name()?.to_owned(), None)),
        [qualifier, dot, column] if dot.kind == TokenKind::Dot => {
            Some((column.name()?.to_owned(), Some(qualifier.name()?.to_owned())))
        }
        _ => None,
    }
}

/// The relation that is named at `at`; without its schema if that is `public`.
fn table(words: &[Word<'_>], at: usize) -> Option<String> {
    let at = if words.get(at)?.is("only") { at + 1 } else { at };
    let first = words.get(at)?.name()?;
    let is_qualified = words.get(at + 1).is_some_and(|word| word.kind == TokenKind::Dot);
    match words.get(at + 2).and_then(Word::name) {
        Some(name) if is_qualified && first == "public" => Some(name.to_owned()),
        Some(name) if is_qualified => Some(format!("{first}.{name}")),
        _ => Some(first.to_owned()),
    }
}

/// `id`, or `author_id` in the table `author` or `authors`.
fn is_own_key(column: &str, table: &str) -> bool {
    let column = column.to_ascii_lowercase();
    if matches!(column.as_str(), "id" | "pk" | "uuid" | "guid") {
        return true;
    }
    let table = table.rsplit('.').next().unwrap_or(table).to_ascii_lowercase();
    let stems = [Some(table.as_str()), table.strip_suffix('s'), table.strip_suffix("es")];
    let stem = ["_id", "id", "_pk", "_uuid"].iter().find_map(|end| column.strip_suffix(end));
    stem.is_some_and(|stem| {
        stems.iter().flatten().any(|table| *table == stem)
            || table.strip_suffix("ies").is_some_and(|table| stem.strip_suffix('y') == Some(table))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::analyze::analyze_into;

    fn lookup(text: &str) -> Lookup {
        let mut shape = Vec::new();
        let _ = analyze_into(text.as_bytes(), true, &mut shape);
        Lookup::of(std::str::from_utf8(&shape).unwrap())
    }

    #[test]
    fn keys_are_found() {
        for (text, summary, key) in [
            ("SELECT * FROM users WHERE users.id = $1", "SELECT users", "id own"),
            ("SELECT * FROM users WHERE users.id = $1::INTEGER", "SELECT users", "id own"),
            ("SELECT a FROM comments WHERE $1 = comments.post_id ORDER BY id", "SELECT comments", "post_id"),
            (
                "SELECT \"u\".\"id\" FROM \"auth_user\" \"u\" WHERE \"u\".\"id\" = 7 LIMIT 21",
                "SELECT auth_user",
                "id own",
            ),
            ("SELECT a FROM public.authors WHERE author_id = 3", "SELECT authors", "author_id own"),
            ("SELECT a FROM categories WHERE category_id = 3", "SELECT categories", "category_id own"),
            (
                "SELECT t.n FROM tags AS t, article_tags AS x WHERE $1 = x.article_id AND t.id = x.tag_id",
                "SELECT tags",
                "article_id",
            ),
            ("SELECT a FROM s.b WHERE (tenant_id = 1 AND b_id = 2)", "SELECT s.b", "b_id own"),
            ("SELECT a FROM posts WHERE email = 'x'", "SELECT posts", "email"),
            ("SELECT a FROM settings WHERE key = 'x'", "SELECT settings", ""),
            ("SELECT a FROM posts WHERE a = 1 AND b = 2", "SELECT posts", ""),
            ("SELECT a FROM posts WHERE id IN (1, 2)", "SELECT posts", ""),
            ("SELECT a FROM posts WHERE id = 1 OR id = 2", "SELECT posts", ""),
            ("SELECT a FROM posts WHERE title LIKE 'x%'", "SELECT posts", ""),
            ("SELECT a FROM posts WHERE id = (SELECT 1)", "SELECT posts", ""),
            ("INSERT INTO posts (id) VALUES (1)", "INSERT posts", ""),
            ("UPDATE ONLY posts SET a = 1 WHERE id = 1", "UPDATE posts", "id own"),
            ("DELETE FROM posts WHERE id = 1", "DELETE posts", ""),
            ("SELECT 1", "SELECT", ""),
            ("BEGIN", "BEGIN", ""),
            ("", "", ""),
        ] {
            let found = lookup(text);
            let shown = found.key.as_ref().map_or_else(String::new, |key| {
                format!("{}{}", key.column, if key.is_own { " own" } else { "" })
            });
            assert_eq!((found.summary().as_str(), shown.as_str()), (summary, key), "{text}");
        }
    }

    #[test]
    fn writes_of_one_row_are_told_from_others() {
        for (text, is_row_write) in [
            ("INSERT INTO posts (id, title) VALUES (1, 'x') RETURNING id", true),
            ("INSERT INTO posts (id) VALUES (1) ON CONFLICT DO NOTHING", true),
            ("INSERT INTO posts SELECT * FROM drafts WHERE id = 1", false),
            ("INSERT INTO posts (id, n) VALUES (1, (SELECT max(n) FROM posts))", false),
            ("INSERT INTO posts DEFAULT VALUES", true),
            ("UPDATE posts SET views = views + 1 WHERE posts.id = 7", true),
            ("UPDATE posts SET a = 1 WHERE posts.id = $1::UUID RETURNING posts.version", true),
            ("UPDATE posts SET a = 1 WHERE id IN (1, 2)", false),
            ("UPDATE posts SET a = 1 WHERE state = 'new'", false),
            ("UPDATE posts SET a = 1 WHERE id > 7", false),
            ("UPDATE posts SET a = d.a FROM drafts d WHERE posts.id = 1", false),
            ("UPDATE posts SET a = (SELECT max(a) FROM posts) WHERE id = 1", false),
            ("DELETE FROM posts WHERE id = 1", false),
            ("SELECT a FROM posts WHERE id = 1", false),
        ] {
            assert_eq!(lookup(text).is_row_write, is_row_write, "{text}");
        }
    }

    #[test]
    fn what_may_be_read_is_known() {
        for (text, is_read, of_posts, of_users) in [
            ("SELECT a FROM posts WHERE id = 1", true, true, false),
            ("SELECT a FROM posts JOIN users ON author = users.id", true, true, true),
            ("SELECT a FROM posts WHERE author IN (SELECT id FROM users)", true, true, true),
            ("SELECT a FROM posts FOR UPDATE", false, true, false),
            ("SELECT oid FROM pg_type WHERE typname = 'x'", false, false, false),
            ("SELECT set_config('a', 'b', true) FROM posts", false, true, false),
            ("SELECT 1", false, false, false),
        ] {
            let lookup = lookup(text);
            let found = (lookup.is_read_of_table(), lookup.may_read("posts"), lookup.may_read("users"));
            assert_eq!(found, (is_read, of_posts, of_users), "{text}");
        }
        for text in
            ["SET search_path = a", "SELECT set_config('a', 'b', true)", "SELECT 1; DELETE FROM posts"]
        {
            assert!(lookup(text).unsettles, "{text}");
        }
    }

    #[test]
    fn what_pages_or_locks_is_no_child() {
        for text in [
            "SELECT a FROM posts WHERE blog_id = 1 ORDER BY id LIMIT 10 OFFSET 20",
            "SELECT a FROM posts WHERE blog_id = 1 AND id > 20 ORDER BY id LIMIT 10",
            "SELECT a FROM posts WHERE id = 1 FOR UPDATE SKIP LOCKED",
            "UPDATE posts SET a = 1 WHERE id = 1",
            "SELECT a FROM posts",
        ] {
            assert!(!lookup(text).is_child(), "{text}");
        }
        assert!(lookup("SELECT count(*) FROM posts WHERE blog_id = 1").aggregates);
        assert!(lookup("SELECT a FROM posts WHERE blog_id = 1 ORDER BY id LIMIT 3").limits);
    }
}
