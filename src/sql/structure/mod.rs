//! The first witness: what the parser's tree says (home of sqlparser).
//!
//! The walk names what it knows, field by field, and gives up at anything else: the tree is made for many dialects,
//! and a part that PostgreSQL does not have, or that was added since, must not be passed over. Functions and types
//! are counted by the second witness; from here come relations with the scopes of WITH, numbers of arguments, and
//! names in front of a parenthesis that are no function.

mod expressions;
mod modifications;
mod tables;

use std::panic::{AssertUnwindSafe, catch_unwind};

use sqlparser::ast::{
    Distinct, GroupByExpr, Ident, LimitClause, NamedWindowExpr, ObjectName, ObjectNamePart, OrderByKind,
    Query, Select, SelectFlavor, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Statement, Values,
    WildcardAdditionalOptions,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

use self::modifications::returning;
use super::class::{Access, Call, Mention, Name, Reason};

/// What the tree says.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts; any of them may stand together")]
pub(super) struct Structure {
    /// Relations in order, names of WITH queries among them.
    pub(super) mentions: Vec<Mention>,
    /// Relations: the mentions that are no WITH query in scope.
    pub(super) relations: Vec<Mention>,
    /// Functions with their arguments.
    pub(super) calls: Vec<Call>,
    /// Names in front of a parenthesis that are no function: aliases with columns, ROLLUP and CUBE.
    pub(super) no_calls: Vec<Name>,
    /// It, or a part of it, is an INSERT, UPDATE, DELETE or MERGE.
    pub(super) modifies: bool,
    /// SELECT INTO
    pub(super) selects_into: bool,
    pub(super) locks_rows: bool,
    pub(super) returns_rows: bool,
    pub(super) ordered: bool,
    pub(super) limited: bool,
    pub(super) samples: bool,
    /// A function stands in FROM.
    pub(super) calls_in_from: bool,
    /// Types of column definition lists: `f() AS (a t)`.
    pub(super) types: Vec<Name>,
    /// The first part that is not known.
    unlisted: Option<&'static str>,
    /// Names of WITH queries, innermost last.
    scopes: Vec<Vec<Box<str>>>,
}

/// Parses one statement: a query, or INSERT, UPDATE, DELETE or MERGE.
pub(super) fn parse(text: &str) -> Result<Structure, Reason> {
    // A parser of 20,000 lines that is given what clients send: a panic of its own makes the statement Opaque.
    let statement = catch_unwind(AssertUnwindSafe(|| tree(text)))
        .map_err(|_| Reason::Unparsed)?
        .map_err(|_| Reason::Unparsed)?;
    let mut structure = Structure::default();
    structure.statement(&statement);
    match structure.unlisted {
        Some(_) => Err(Reason::UnlistedSyntax),
        None => Ok(structure),
    }
}

fn tree(text: &str) -> Result<Statement, ParserError> {
    let dialect = PostgreSqlDialect {};
    let mut parser = Parser::new(&dialect).try_with_sql(text)?;
    let first = text.split(' ').next().unwrap_or_default();
    let statement = if matches!(first, "insert" | "update" | "delete" | "merge") {
        parser.parse_statement()?
    } else {
        // Not `parse_statement`: it does not know TABLE as a query.
        Statement::Query(parser.parse_query()?)
    };
    if parser.peek_token().token != Token::EOF {
        return Err(ParserError::ParserError("more behind the statement".to_owned()));
    }
    Ok(statement)
}

impl Structure {
    fn unlisted(&mut self, what: &'static str) {
        self.unlisted.get_or_insert(what);
    }

    /// Gives up if something is there that PostgreSQL does not have.
    fn absent(&mut self, absent: bool, what: &'static str) {
        if !absent {
            self.unlisted(what);
        }
    }

    fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Query(query) => {
                self.returns_rows = true;
                self.ordered = query.order_by.is_some();
                self.limited = query.limit_clause.is_some() || query.fetch.is_some();
                // WITH ... INSERT: rows come only from RETURNING.
                if let SetExpr::Insert(inner)
                | SetExpr::Update(inner)
                | SetExpr::Delete(inner)
                | SetExpr::Merge(inner) = &*query.body
                {
                    self.returns_rows = returning(inner);
                }
                self.query(query);
            }
            Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) | Statement::Merge(_) => {
                self.returns_rows = returning(statement);
                self.modification(statement);
            }
            _ => self.unlisted("statement"),
        }
    }

    fn query(&mut self, query: &Query) {
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        self.absent(
            for_clause.is_none()
                && settings.is_none()
                && format_clause.is_none()
                && pipe_operators.is_empty(),
            "query",
        );
        self.scopes.push(Vec::new());
        if let Some(with) = with {
            for table in &with.cte_tables {
                self.absent(table.from.is_none(), "with");
                self.alias(&table.alias);
                // Without RECURSIVE a name stands for the query only behind it. With it also before; taking such a
                // name for a relation there errs to the safe side.
                let name: Box<str> = table.alias.name.value.as_str().into();
                if with.recursive {
                    self.in_scope(name);
                    self.query(&table.query);
                } else {
                    self.query(&table.query);
                    self.in_scope(name);
                }
            }
        }
        self.set_expr(body);
        if let Some(order_by) = order_by {
            self.absent(order_by.interpolate.is_none(), "order by");
            match &order_by.kind {
                OrderByKind::Expressions(expressions) => self.order_by(expressions),
                OrderByKind::All(_) => self.unlisted("order by all"),
            }
        }
        match limit_clause {
            None => {}
            Some(LimitClause::LimitOffset { limit, offset, limit_by }) => {
                self.absent(limit_by.is_empty(), "limit by");
                self.exprs(limit.iter().chain(offset.iter().map(|offset| &offset.value)));
            }
            Some(LimitClause::OffsetCommaLimit { .. }) => self.unlisted("limit"),
        }
        if let Some(fetch) = fetch {
            self.absent(!fetch.percent, "fetch");
            self.exprs(&fetch.quantity);
        }
        self.locks_rows |= !locks.is_empty();
        self.scopes.pop();
    }

    fn in_scope(&mut self, name: Box<str>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.push(name);
        }
    }

    fn set_expr(&mut self, body: &SetExpr) {
        // Chains of UNION lean to the left.
        let mut body = body;
        while let SetExpr::SetOperation { left, op: _, set_quantifier: _, right } = body {
            self.set_expr(right);
            body = left;
        }
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::Query(query) => self.query(query),
            SetExpr::Values(values) => self.values(values),
            SetExpr::Insert(statement)
            | SetExpr::Update(statement)
            | SetExpr::Delete(statement)
            | SetExpr::Merge(statement) => self.modification(statement),
            SetExpr::Table(table) => {
                let parts = [&table.schema_name, &table.table_name].into_iter().flatten();
                self.relation(parts.map(|part| part.as_str().into()).collect(), Access::Read);
            }
            SetExpr::SetOperation { .. } => self.unlisted("set operation"),
        }
    }

    fn values(&mut self, values: &Values) {
        self.absent(!values.explicit_row && !values.value_keyword, "values");
        for row in &values.rows {
            self.exprs(row.iter());
        }
    }

    fn select(&mut self, select: &Select) {
        let Select {
            select_token: _,
            optimizer_hints,
            distinct,
            select_modifiers,
            top,
            top_before_distinct: _,
            projection,
            exclude,
            into,
            from,
            lateral_views,
            prewhere,
            selection,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having,
            named_window,
            qualify,
            window_before_qualify: _,
            value_table_mode,
            flavor,
        } = select;
        let absent = optimizer_hints.is_empty()
            && select_modifiers.is_none()
            && top.is_none()
            && exclude.is_none()
            && lateral_views.is_empty()
            && prewhere.is_none()
            && connect_by.is_empty()
            && cluster_by.is_empty()
            && distribute_by.is_empty()
            && sort_by.is_empty()
            && qualify.is_none()
            && value_table_mode.is_none()
            && matches!(flavor, SelectFlavor::Standard);
        self.absent(absent, "select");
        self.selects_into |= into.is_some();
        match distinct {
            None | Some(Distinct::All | Distinct::Distinct) => {}
            Some(Distinct::On(expressions)) => self.exprs(expressions),
        }
        self.items(projection);
        self.tables(from);
        self.exprs(selection);
        match group_by {
            GroupByExpr::Expressions(expressions, modifiers) => {
                self.absent(modifiers.is_empty(), "group by");
                self.exprs(expressions);
            }
            GroupByExpr::All(_) => self.unlisted("group by all"),
        }
        self.exprs(having);
        for window in named_window {
            match &window.1 {
                NamedWindowExpr::NamedWindow(_) => {}
                NamedWindowExpr::WindowSpec(window) => self.window(window),
            }
        }
    }

    fn items(&mut self, items: &[SelectItem]) {
        for item in items {
            match item {
                SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, alias: _ } => {
                    self.expr(expr);
                }
                SelectItem::Wildcard(options) => self.wildcard(options),
                SelectItem::QualifiedWildcard(of, options) => {
                    self.wildcard(options);
                    match of {
                        SelectItemQualifiedWildcardKind::ObjectName(_) => {}
                        SelectItemQualifiedWildcardKind::Expr(expr) => self.expr(expr),
                    }
                }
                SelectItem::ExprWithAliases { .. } => self.unlisted("select item"),
            }
        }
    }

    fn wildcard(&mut self, options: &WildcardAdditionalOptions) {
        let WildcardAdditionalOptions {
            wildcard_token: _,
            opt_ilike,
            opt_exclude,
            opt_except,
            opt_replace,
            opt_rename,
            opt_alias,
        } = options;
        let absent = opt_ilike.is_none()
            && opt_exclude.is_none()
            && opt_except.is_none()
            && opt_replace.is_none()
            && opt_rename.is_none()
            && opt_alias.is_none();
        self.absent(absent, "wildcard");
    }
}

/// The parts of a name; the text was folded already.
fn parts(name: &ObjectName) -> Option<Vec<Box<str>>> {
    let part = |part: &ObjectNamePart| match part {
        ObjectNamePart::Identifier(Ident { value, quote_style: _, span: _ }) => Some(value.as_str().into()),
        ObjectNamePart::Function(_) => None,
    };
    name.0.iter().map(part).collect()
}
