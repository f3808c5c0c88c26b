//! Expressions, the functions that they call, and windows.

use sqlparser::ast::{
    AccessExpr, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentClause, FunctionArguments,
    ObjectName, OrderByExpr, Subscript, WindowFrameBound, WindowSpec, WindowType,
};

use super::{Structure, parts};
use crate::sql::class::{Call, Name};

impl Structure {
    pub(super) fn called(&mut self, name: &ObjectName, arguments: &[FunctionArg]) {
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

    pub(super) fn window(&mut self, window: &WindowSpec) {
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

    pub(super) fn order_by(&mut self, order_by: &[OrderByExpr]) {
        for order in order_by {
            self.absent(order.with_fill.is_none(), "order by");
            self.expr(&order.expr);
        }
    }

    pub(super) fn exprs<'e>(&mut self, expressions: impl IntoIterator<Item = &'e Expr>) {
        for expr in expressions {
            self.expr(expr);
        }
    }

    pub(super) fn expr(&mut self, expr: &Expr) {
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
}
