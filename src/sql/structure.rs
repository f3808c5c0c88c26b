//! The first witness: what the parser's tree says (home of sqlparser).
//!
//! The walk names what it knows, field by field, and gives up at anything else: the tree is made for many dialects,
//! and a part that PostgreSQL does not have, or that was added since, must not be passed over. Functions and types
//! are counted by the second witness; from here come relations with the scopes of WITH, numbers of arguments, and
//! names in front of a parenthesis that are no function.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sqlparser::ast::{
    AccessExpr, ArrayElemTypeDef, Assignment, ConflictTarget, DataType, Delete, Distinct, Expr, FromTable,
    Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments, GroupByExpr, Ident,
    Insert, Join, JoinConstraint, JoinOperator, LimitClause, Merge, MergeAction, MergeInsertKind,
    MergeUpdateKind, NamedWindowExpr, ObjectName, ObjectNamePart, OnConflictAction, OnInsert, OrderByExpr,
    OrderByKind, OutputClause, Query, Select, SelectFlavor, SelectItem, SelectItemQualifiedWildcardKind,
    SetExpr, Statement, Subscript, TableAlias, TableFactor, TableObject, TableWithJoins, Update,
    UpdateTableFromKind, Values, WildcardAdditionalOptions, WindowFrameBound, WindowSpec, WindowType,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

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

    fn tables(&mut self, tables: &[TableWithJoins]) {
        for table in tables {
            self.joined(table);
        }
    }

    fn joined(&mut self, table: &TableWithJoins) {
        self.factor(&table.relation);
        for join in &table.joins {
            self.join(join);
        }
    }

    fn join(&mut self, join: &Join) {
        self.absent(!join.global, "join");
        self.factor(&join.relation);
        match &join.join_operator {
            JoinOperator::Join(constraint)
            | JoinOperator::Inner(constraint)
            | JoinOperator::Left(constraint)
            | JoinOperator::LeftOuter(constraint)
            | JoinOperator::Right(constraint)
            | JoinOperator::RightOuter(constraint)
            | JoinOperator::FullOuter(constraint)
            | JoinOperator::CrossJoin(constraint) => match constraint {
                JoinConstraint::On(condition) => self.expr(condition),
                JoinConstraint::Using(_) | JoinConstraint::Natural | JoinConstraint::None => {}
            },
            _ => self.unlisted("join"),
        }
    }

    fn factor(&mut self, factor: &TableFactor) {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args,
                with_hints,
                version,
                with_ordinality: _,
                partitions,
                json_path,
                sample,
                index_hints,
            } => {
                let absent = with_hints.is_empty()
                    && version.is_none()
                    && partitions.is_empty()
                    && json_path.is_none()
                    && index_hints.is_empty();
                self.absent(absent, "table");
                self.samples |= sample.is_some();
                self.optional_alias(alias.as_ref());
                match args {
                    None => self.object(name, Access::Read),
                    Some(args) => {
                        self.absent(args.settings.is_none(), "table function");
                        self.calls_in_from = true;
                        self.called(name, &args.args);
                    }
                }
            }
            TableFactor::Derived { lateral: _, subquery, alias, sample } => {
                self.absent(sample.is_none(), "sample");
                self.optional_alias(alias.as_ref());
                self.query(subquery);
            }
            TableFactor::Function { lateral: _, name, args, with_ordinality: _, alias } => {
                self.optional_alias(alias.as_ref());
                self.calls_in_from = true;
                self.called(name, args);
            }
            TableFactor::UNNEST {
                alias,
                array_exprs,
                with_offset,
                with_offset_alias,
                with_ordinality: _,
            } => {
                self.absent(!with_offset && with_offset_alias.is_none(), "unnest");
                self.optional_alias(alias.as_ref());
                self.calls_in_from = true;
                self.exprs(array_exprs);
            }
            TableFactor::NestedJoin { table_with_joins, alias } => {
                self.optional_alias(alias.as_ref());
                self.joined(table_with_joins);
            }
            _ => self.unlisted("from item"),
        }
    }

    fn optional_alias(&mut self, alias: Option<&TableAlias>) {
        if let Some(alias) = alias {
            self.alias(alias);
        }
    }

    fn alias(&mut self, alias: &TableAlias) {
        self.absent(alias.at.is_none(), "alias");
        if !alias.columns.is_empty() {
            self.no_calls.push(Name { schema: None, name: alias.name.value.as_str().into() });
        }
        for data_type in alias.columns.iter().filter_map(|column| column.data_type.as_ref()) {
            self.column_type(data_type);
        }
    }

    /// A type of a column definition list. What the parser takes for a type of its own may be a name to PostgreSQL.
    fn column_type(&mut self, data_type: &DataType) {
        match data_type {
            DataType::Array(
                ArrayElemTypeDef::SquareBracket(inner, _)
                | ArrayElemTypeDef::AngleBracket(inner)
                | ArrayElemTypeDef::Parenthesis(inner),
            ) => self.column_type(inner),
            DataType::Custom(name, _) => match parts(name).and_then(Name::from_parts) {
                Some(name) => self.types.push(name),
                None => self.unlisted("type name"),
            },
            other => {
                let written = other.to_string().to_ascii_lowercase();
                let word = written.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
                self.types.extend(word.take(1).map(|word| Name { schema: None, name: word.into() }));
            }
        }
    }

    fn object(&mut self, name: &ObjectName, access: Access) {
        match parts(name) {
            Some(parts) => self.relation(parts, access),
            None => self.unlisted("name"),
        }
    }

    fn relation(&mut self, parts: Vec<Box<str>>, access: Access) {
        let Some(name) = Name::from_parts(parts) else {
            self.unlisted("name");
            return;
        };
        let is_with_query = access == Access::Read
            && name.schema.is_none()
            && self.scopes.iter().any(|scope| scope.contains(&name.name));
        let mention = Mention { name, access };
        if !is_with_query {
            self.relations.push(mention.clone());
        }
        self.mentions.push(mention);
    }

    fn called(&mut self, name: &ObjectName, arguments: &[FunctionArg]) {
        self.arguments(arguments);
        self.call(name, arguments);
    }

    fn call(&mut self, name: &ObjectName, arguments: &[FunctionArg]) {
        let is_wildcard =
            |argument: &FunctionArg| matches!(argument, FunctionArg::Unnamed(FunctionArgExpr::Wildcard));
        let count = arguments.iter().filter(|argument| !is_wildcard(argument)).count();
        match parts(name).and_then(Name::from_parts) {
            Some(name) => self.calls.push(Call { name, arguments: u8::try_from(count).ok() }),
            None => self.unlisted("function name"),
        }
    }

    fn arguments(&mut self, arguments: &[FunctionArg]) {
        for argument in arguments {
            let value = match argument {
                FunctionArg::Named { name: _, arg, operator: _ } | FunctionArg::Unnamed(arg) => arg,
                FunctionArg::ExprNamed { name, arg, operator: _ } => {
                    self.expr(name);
                    arg
                }
            };
            match value {
                FunctionArgExpr::Expr(expr) => self.expr(expr),
                FunctionArgExpr::Wildcard | FunctionArgExpr::QualifiedWildcard(_) => {}
                FunctionArgExpr::WildcardWithOptions(options) => self.wildcard(options),
            }
        }
    }

    fn function(&mut self, function: &Function) {
        let Function {
            name,
            uses_odbc_syntax,
            parameters,
            args,
            within_group,
            filter,
            null_treatment: _,
            over,
        } = function;
        self.absent(!uses_odbc_syntax && matches!(parameters, FunctionArguments::None), "function");
        match args {
            // `current_date`; the other witness counts it.
            FunctionArguments::None => {}
            FunctionArguments::Subquery(query) => {
                // ARRAY(SELECT ...)
                if matches!(parts(name).as_deref(), Some([name]) if &**name != "array") {
                    self.call(name, &[]);
                }
                self.query(query);
            }
            FunctionArguments::List(list) => {
                self.called(name, &list.args);
                for clause in &list.clauses {
                    match clause {
                        FunctionArgumentClause::OrderBy(order_by) => self.order_by(order_by),
                        FunctionArgumentClause::JsonNullClause(_)
                        | FunctionArgumentClause::JsonReturningClause(_) => {}
                        _ => self.unlisted("argument clause"),
                    }
                }
            }
        }
        self.order_by(within_group);
        if let Some(filter) = filter {
            self.expr(filter);
        }
        match over {
            None | Some(WindowType::NamedWindow(_)) => {}
            Some(WindowType::WindowSpec(window)) => self.window(window),
        }
    }

    fn window(&mut self, window: &WindowSpec) {
        let WindowSpec { window_name: _, partition_by, order_by, window_frame } = window;
        self.exprs(partition_by);
        self.order_by(order_by);
        if let Some(frame) = window_frame {
            for bound in [Some(&frame.start_bound), frame.end_bound.as_ref()].into_iter().flatten() {
                match bound {
                    WindowFrameBound::CurrentRow => {}
                    WindowFrameBound::Preceding(offset) | WindowFrameBound::Following(offset) => {
                        self.exprs(offset.as_deref());
                    }
                }
            }
        }
    }

    fn order_by(&mut self, order_by: &[OrderByExpr]) {
        for order in order_by {
            self.absent(order.with_fill.is_none(), "order by");
            self.expr(&order.expr);
        }
    }

    fn exprs<'e>(&mut self, expressions: impl IntoIterator<Item = &'e Expr>) {
        for expr in expressions {
            self.expr(expr);
        }
    }

    fn expr(&mut self, expr: &Expr) {
        // Chains of operators and casts lean to the left: a thousand of them must not be a thousand calls.
        let mut expr = expr;
        loop {
            match expr {
                Expr::BinaryOp { left, op: _, right } => {
                    self.expr(right);
                    expr = left;
                }
                Expr::Cast { kind: _, expr: inner, data_type: _, format } => {
                    self.absent(format.is_none(), "cast");
                    expr = inner;
                }
                Expr::Nested(inner)
                | Expr::IsFalse(inner)
                | Expr::IsNotFalse(inner)
                | Expr::IsTrue(inner)
                | Expr::IsNotTrue(inner)
                | Expr::IsNull(inner)
                | Expr::IsNotNull(inner)
                | Expr::IsUnknown(inner)
                | Expr::IsNotUnknown(inner)
                | Expr::IsJson { expr: inner, kind: _, unique_keys: _, negated: _ }
                | Expr::IsNormalized { expr: inner, form: _, negated: _ }
                | Expr::UnaryOp { op: _, expr: inner }
                | Expr::Collate { expr: inner, collation: _ }
                | Expr::Extract { field: _, syntax: _, expr: inner }
                | Expr::Ceil { expr: inner, field: _ }
                | Expr::Floor { expr: inner, field: _ } => expr = inner,
                _ => return self.other_expr(expr),
            }
        }
    }

    fn other_expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Identifier(_)
            | Expr::CompoundIdentifier(_)
            | Expr::Wildcard(_)
            | Expr::QualifiedWildcard(_, _)
            | Expr::Value(_)
            | Expr::TypedString(_) => {}
            Expr::CompoundFieldAccess { root, access_chain } => {
                self.expr(root);
                for access in access_chain {
                    match access {
                        AccessExpr::Dot(expr) => self.expr(expr),
                        AccessExpr::Subscript(Subscript::Index { index }) => self.expr(index),
                        AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride }) => {
                            self.exprs(lower_bound.iter().chain(upper_bound).chain(stride));
                        }
                    }
                }
            }
            Expr::IsDistinctFrom(left, right)
            | Expr::IsNotDistinctFrom(left, right)
            | Expr::AnyOp { left, compare_op: _, right, is_some: _ }
            | Expr::AllOp { left, compare_op: _, right }
            | Expr::AtTimeZone { timestamp: left, time_zone: right }
            | Expr::Position { expr: left, r#in: right } => self.exprs([&**left, &**right]),
            Expr::InList { expr, list, negated: _ } => {
                self.expr(expr);
                self.exprs(list);
            }
            Expr::InSubquery { expr, subquery, negated: _ } => {
                self.expr(expr);
                self.query(subquery);
            }
            Expr::Between { expr, negated: _, low, high } => self.exprs([&**expr, &**low, &**high]),
            Expr::Like { negated: _, any: _, expr, pattern, escape_char }
            | Expr::ILike { negated: _, any: _, expr, pattern, escape_char }
            | Expr::SimilarTo { negated: _, expr, pattern, escape_char } => {
                self.exprs([&**expr, &**pattern]);
                self.exprs(escape_char.as_deref());
            }
            Expr::Substring { expr, substring_from, substring_for, special: _, shorthand: _ } => {
                self.expr(expr);
                self.exprs(substring_from.iter().chain(substring_for).map(|expr| &**expr));
            }
            Expr::Trim { trim_where: _, trim_what, expr, trim_characters } => {
                self.expr(expr);
                self.exprs(trim_what.as_deref());
                self.exprs(trim_characters.iter().flatten());
            }
            Expr::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
                self.exprs([&**expr, &**overlay_what, &**overlay_from]);
                self.exprs(overlay_for.as_deref());
            }
            Expr::Function(function) => self.function(function),
            Expr::Case { case_token: _, end_token: _, operand, conditions, else_result } => {
                self.exprs(operand.as_deref());
                for when in conditions {
                    self.exprs([&when.condition, &when.result]);
                }
                self.exprs(else_result.as_deref());
            }
            Expr::Exists { subquery, negated: _ } | Expr::Subquery(subquery) => self.query(subquery),
            Expr::GroupingSets(sets) => self.exprs(sets.iter().flatten()),
            Expr::Cube(sets) => {
                self.no_calls.push(Name { schema: None, name: "cube".into() });
                self.exprs(sets.iter().flatten());
            }
            Expr::Rollup(sets) => {
                self.no_calls.push(Name { schema: None, name: "rollup".into() });
                self.exprs(sets.iter().flatten());
            }
            Expr::Tuple(expressions) => self.exprs(expressions),
            Expr::Array(array) => self.exprs(&array.elem),
            Expr::Interval(interval) => self.expr(&interval.value),
            _ => self.unlisted("expression"),
        }
    }

    fn modification(&mut self, statement: &Statement) {
        self.modifies = true;
        match statement {
            Statement::Insert(insert) => self.insert(insert),
            Statement::Update(update) => self.update(update),
            Statement::Delete(delete) => self.delete(delete),
            Statement::Merge(merge) => self.merge(merge),
            _ => self.unlisted("modification"),
        }
    }

    fn insert(&mut self, insert: &Insert) {
        let Insert {
            insert_token: _,
            optimizer_hints,
            or,
            ignore,
            into,
            table,
            table_alias: _,
            columns: _,
            overwrite,
            source,
            assignments,
            partitioned,
            after_columns,
            has_table_keyword,
            on,
            returning,
            output,
            replace_into,
            priority,
            insert_alias,
            settings,
            format_clause,
            multi_table_insert_type,
            multi_table_into_clauses,
            multi_table_when_clauses,
            multi_table_else_clause,
        } = insert;
        let absent = optimizer_hints.is_empty()
            && or.is_none()
            && !ignore
            && *into
            && !overwrite
            && assignments.is_empty()
            && partitioned.is_none()
            && after_columns.is_empty()
            && !has_table_keyword
            && output.is_none()
            && !replace_into
            && priority.is_none()
            && insert_alias.is_none()
            && settings.is_none()
            && format_clause.is_none()
            && multi_table_insert_type.is_none()
            && multi_table_into_clauses.is_empty()
            && multi_table_when_clauses.is_empty()
            && multi_table_else_clause.is_none();
        self.absent(absent, "insert");
        match table {
            TableObject::TableName(name) => self.object(name, Access::Write),
            TableObject::TableFunction(_) | TableObject::TableQuery(_) => self.unlisted("insert target"),
        }
        if let Some(source) = source {
            self.query(source);
        }
        match on {
            None => {}
            Some(OnInsert::OnConflict(conflict)) => {
                match &conflict.conflict_target {
                    None | Some(ConflictTarget::Columns(_) | ConflictTarget::OnConstraint(_)) => {}
                }
                match &conflict.action {
                    OnConflictAction::DoNothing => {}
                    OnConflictAction::DoUpdate(update) => {
                        self.assignments(&update.assignments);
                        self.exprs(&update.selection);
                    }
                }
            }
            Some(_) => self.unlisted("on duplicate key"),
        }
        self.items(returning.as_deref().unwrap_or_default());
    }

    fn assignments(&mut self, assignments: &[Assignment]) {
        for assignment in assignments {
            self.expr(&assignment.value);
        }
    }

    fn update(&mut self, update: &Update) {
        let Update {
            update_token: _,
            optimizer_hints,
            table,
            assignments,
            from,
            selection,
            returning,
            output,
            or,
            order_by,
            limit,
        } = update;
        let absent = optimizer_hints.is_empty()
            && output.is_none()
            && or.is_none()
            && order_by.is_empty()
            && limit.is_none();
        self.absent(absent, "update");
        self.target(table);
        self.assignments(assignments);
        match from {
            None => {}
            Some(UpdateTableFromKind::AfterSet(tables)) => self.tables(tables),
            Some(UpdateTableFromKind::BeforeSet(_)) => self.unlisted("update from"),
        }
        self.exprs(selection);
        self.items(returning.as_deref().unwrap_or_default());
    }

    /// The table of UPDATE or DELETE: a name, perhaps with an alias.
    fn target(&mut self, table: &TableWithJoins) {
        self.absent(table.joins.is_empty(), "target");
        self.target_factor(&table.relation);
    }

    fn target_factor(&mut self, factor: &TableFactor) {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                with_hints,
                version: None,
                with_ordinality: false,
                partitions,
                json_path: None,
                sample: None,
                index_hints,
            } if with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty() => {
                self.optional_alias(alias.as_ref());
                self.object(name, Access::Write);
            }
            _ => self.unlisted("target"),
        }
    }

    fn delete(&mut self, delete: &Delete) {
        let Delete {
            delete_token: _,
            optimizer_hints,
            tables,
            from,
            using,
            selection,
            returning,
            output,
            order_by,
            limit,
        } = delete;
        let absent = optimizer_hints.is_empty()
            && tables.is_empty()
            && output.is_none()
            && order_by.is_empty()
            && limit.is_none();
        self.absent(absent, "delete");
        match from {
            FromTable::WithFromKeyword(tables) if tables.len() == 1 => self.target(&tables[0]),
            FromTable::WithFromKeyword(_) | FromTable::WithoutKeyword(_) => self.unlisted("delete from"),
        }
        self.tables(using.as_deref().unwrap_or_default());
        self.exprs(selection);
        self.items(returning.as_deref().unwrap_or_default());
    }

    fn merge(&mut self, merge: &Merge) {
        let Merge { merge_token: _, optimizer_hints, into, table, source, on, clauses, output } = merge;
        self.absent(optimizer_hints.is_empty() && *into, "merge");
        self.target_factor(table);
        self.factor(source);
        self.expr(on);
        for clause in clauses {
            self.exprs(&clause.predicate);
            match &clause.action {
                MergeAction::Insert(insert) => {
                    self.exprs(&insert.insert_predicate);
                    match &insert.kind {
                        MergeInsertKind::Values(values) => self.values(values),
                        MergeInsertKind::Row | MergeInsertKind::Wildcard => self.unlisted("merge insert"),
                    }
                }
                MergeAction::Update(update) => {
                    self.exprs(update.update_predicate.iter().chain(&update.delete_predicate));
                    match &update.kind {
                        MergeUpdateKind::Set(assignments) => self.assignments(assignments),
                        MergeUpdateKind::Wildcard => self.unlisted("merge update"),
                    }
                }
                MergeAction::Delete { .. } | MergeAction::DoNothing { .. } => {}
            }
        }
        match output {
            None => {}
            Some(OutputClause::Returning { returning_token: _, select_items }) => self.items(select_items),
            Some(OutputClause::Output { .. }) => self.unlisted("output"),
        }
    }
}

fn returning(statement: &Statement) -> bool {
    match statement {
        Statement::Insert(insert) => insert.returning.is_some(),
        Statement::Update(update) => update.returning.is_some(),
        Statement::Delete(delete) => delete.returning.is_some(),
        Statement::Merge(merge) => merge.output.is_some(),
        _ => false,
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
