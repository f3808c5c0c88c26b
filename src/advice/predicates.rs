//! What a plan asks of each relation in it: predicates that an index could serve, joins, and orders.

use super::condition::{Column, Expr, Kind};
use super::identifier::quoted;
use super::immutable::immutable_type;
use super::mentions::needed;
use super::pattern::{has_trigram, like_prefix, regex_prefix};
use super::plan::{Node, NodeKind};
use super::schema::{IndexKey, Schema, Table, TableName};

/// How a target is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// `=`
    Equal,
    /// `= ANY (...)`, of so many values.
    In(usize),
    /// IS NULL
    IsNull,
    /// IS NOT NULL
    NotNull,
    /// A boolean column by itself.
    True,
    /// NOT a boolean column.
    False,
    /// `<`, `<=`, `>`, `>=`
    Range,
    /// `LIKE 'abc%'`
    Prefix,
    /// A pattern with three letters or digits in a row.
    Infix,
    /// jsonb `@>`
    JsonContains,
    /// jsonb `?`, `?|`, `?&`
    JsonExists,
    /// jsonb `@?`, `@@`
    JsonPath,
    /// Array `@>`, `&&`, `<@`
    Array,
    /// `tsvector @@ tsquery`
    TextSearch,
    /// Ranges' and geometries' operators.
    Gist,
}

impl Test {
    /// An equality on which further keys of an index can follow.
    pub fn is_equality(self) -> bool {
        matches!(self, Self::Equal | Self::In(_) | Self::IsNull | Self::True | Self::False)
    }

    /// A b-tree serves it.
    pub fn is_btree(self) -> bool {
        self.is_equality() || matches!(self, Self::Range | Self::Prefix | Self::NotNull)
    }
}

/// What stands on the side of the relation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    /// As an index's key is written.
    pub expression: String,
    /// The column that it is.
    pub column: Option<String>,
}

/// One conjunct that an index could serve.
#[derive(Clone, Debug)]
pub struct Predicate {
    /// What is compared.
    pub target: Target,
    /// How.
    pub test: Test,
    /// As the plan writes it.
    pub source: String,
    /// The constant, if there is one.
    pub value: Option<String>,
    /// The other relation's side, of a join.
    pub partner: Option<String>,
    /// `$n` stands for the value.
    pub is_parameter: bool,
    /// The share of rows that pass; the planner's estimate once it was asked.
    pub share: f64,
}

/// An order that is asked for, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The keys.
    pub keys: Vec<IndexKey>,
    /// The targets of the keys.
    pub targets: Vec<Target>,
}

/// What no index can serve as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// The condition, without aliases.
    pub condition: String,
    /// Why.
    pub why: Why,
}

/// Why no index can serve a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// An expression that is not immutable, and how to write it instead.
    NotImmutable,
    /// `$1 = ANY (column)`
    ElementOfArray,
    /// A pattern with fewer than three letters or digits in a row.
    ShortPattern,
    /// `<>`, NOT IN, NOT LIKE
    Negation,
}

/// One relation of a plan.
#[derive(Clone, Debug)]
pub struct Access {
    /// What it is called in the plan.
    pub alias: String,
    /// The table.
    pub table: TableName,
    /// Conditions on it alone.
    pub local: Vec<Predicate>,
    /// Conditions joined by OR, each with the predicates of its arms.
    pub either: Vec<Vec<Predicate>>,
    /// Equalities with other relations.
    pub joins: Vec<Predicate>,
    /// Orders with a limit behind, and those of min and max.
    pub orders: Vec<Order>,
    /// Row comparisons: the columns in order.
    pub rows: Vec<Vec<Target>>,
    /// What no index serves.
    pub unusable: Vec<Unusable>,
    /// Some condition is on it, of any kind.
    pub is_filtered: bool,
    /// The columns that the plan needs of it, where that can be told.
    pub needed: Option<Vec<String>>,
}

/// The relations of a plan that are tables we know.
pub fn accesses(plan: &Node, schema: &Schema) -> Vec<Access> {
    let mut found: Vec<Access> = Vec::new();
    plan.walk(&mut |node| {
        let Some(name) = &node.relation else { return };
        if node.operation.is_none() && schema.table(name).is_some() && !node.alias.is_empty() {
            found.push(Access {
                alias: node.alias.clone(),
                table: name.clone(),
                local: Vec::new(),
                either: Vec::new(),
                joins: Vec::new(),
                orders: Vec::new(),
                rows: Vec::new(),
                unusable: Vec::new(),
                is_filtered: false,
                needed: None,
            });
        }
    });
    let is_single = found.len() < 2;
    for access in &mut found {
        // Output of a plan of one relation does not say whose its columns are.
        access.needed = if is_single { None } else { Some(needed(plan, &access.alias)) };
        let Some(table) = schema.table(&access.table) else { continue };
        let mut reader = Reader { access, table, schema };
        plan.walk(&mut |node| {
            if node.kind != NodeKind::BitmapPart {
                for condition in node.filter.iter().chain(&node.index_conditions).chain(&node.join_conditions)
                {
                    reader.conjunct(condition);
                }
            }
            reader.order(node);
        });
    }
    found
}

struct Reader<'a> {
    access: &'a mut Access,
    table: &'a Table,
    schema: &'a Schema,
}

impl Reader<'_> {
    fn conjunct(&mut self, condition: &Expr) {
        if !condition.mentions(&self.access.alias) {
            return;
        }
        let is_local = condition.is_of(&self.access.alias);
        self.access.is_filtered |= is_local;
        if let Kind::Or(arms) = &condition.kind {
            return self.either(arms);
        }
        if let Some(targets) = self.row_comparison(condition) {
            if !self.access.rows.contains(&targets) {
                self.access.rows.push(targets);
            }
            return;
        }
        match self.predicate(condition) {
            Ok(Some(predicate)) => {
                let list =
                    if predicate.partner.is_some() { &mut self.access.joins } else { &mut self.access.local };
                let is_known = |known: &Predicate| {
                    known.source == predicate.source
                        || (known.partner.is_some()
                            && known.partner == predicate.partner
                            && known.target == predicate.target)
                };
                if !list.iter().any(is_known) {
                    list.push(predicate);
                }
            }
            Ok(None) => {}
            Err(why) => {
                let unusable = Unusable { condition: condition.unqualified(), why };
                if !self.access.unusable.contains(&unusable) {
                    self.access.unusable.push(unusable);
                }
            }
        }
    }

    /// Each arm must have a predicate of its own, or the whole table is read for that arm.
    fn either(&mut self, arms: &[Expr]) {
        let mut predicates = Vec::new();
        for arm in arms {
            let best = arm.clone().conjuncts().iter().find_map(|part| self.predicate(part).ok().flatten());
            match best {
                Some(predicate) if predicate.partner.is_none() => predicates.push(predicate),
                _ => return,
            }
        }
        let is_known =
            |known: &Vec<Predicate>| known.iter().map(|p| &p.source).eq(predicates.iter().map(|p| &p.source));
        if !self.access.either.iter().any(is_known) {
            self.access.either.push(predicates);
        }
    }

    /// `ROW(a, b) < ROW(1, 2)`
    fn row_comparison(&self, condition: &Expr) -> Option<Vec<Target>> {
        let Kind::Operator(operator, left, right) = &condition.kind else { return None };
        if !matches!(operator.as_str(), "<" | "<=" | ">" | ">=") {
            return None;
        }
        let (Kind::Row(left), Kind::Row(right)) = (&left.kind, &right.kind) else { return None };
        let (columns, values) = if left.iter().all(Expr::is_fixed) { (right, left) } else { (left, right) };
        if !values.iter().all(Expr::is_fixed) {
            return None;
        }
        columns.iter().map(|column| self.target(column)).collect()
    }

    /// The predicate that a conjunct is; `Err` if it is on this relation and no index can serve it.
    fn predicate(&self, condition: &Expr) -> Result<Option<Predicate>, Why> {
        let alias = &self.access.alias;
        let make = |target: Option<Target>, test, value: Option<&Expr>| {
            target.map(|target| Predicate {
                target,
                test,
                source: condition.source.clone(),
                value: value.and_then(Expr::constant).map(str::to_owned),
                partner: value.filter(|value| !value.is_fixed()).map(|value| value.source.clone()),
                is_parameter: value.is_some_and(|value| value.parameter().is_some()),
                share: 1.0,
            })
        };
        match &condition.kind {
            Kind::Column(column) if self.is_boolean(column) => {
                Ok(make(self.target(condition), Test::True, None))
            }
            Kind::Not(inner) => match &inner.kind {
                Kind::Column(column) if self.is_boolean(column) => {
                    Ok(make(self.target(inner), Test::False, None))
                }
                _ => Ok(None),
            },
            Kind::IsNull(inner, negated) => {
                let test = if *negated { Test::NotNull } else { Test::IsNull };
                Ok(make(self.target(inner), test, None))
            }
            Kind::Operator(operator, left, right) => {
                let (own, other, operator) = if left.is_of(alias) && !right.mentions(alias) {
                    (left, right, operator.as_str())
                } else if right.is_of(alias) && !left.mentions(alias) {
                    (right, left, commuted(operator))
                } else {
                    return Ok(None);
                };
                let test = match self.test(operator, own, other) {
                    Ok(Some(test)) => test,
                    Ok(None) => return Ok(None),
                    Err(why) => return Err(why),
                };
                // What is asked of the other side of a join must be an equality.
                if !other.is_fixed() && test != Test::Equal {
                    return Ok(None);
                }
                match self.target(own) {
                    Some(target) => Ok(make(Some(target), test, Some(other))),
                    None if other.is_fixed() => Err(Why::NotImmutable),
                    None => Ok(None),
                }
            }
            Kind::Quantified { operator, all: false, left, right } if operator == "=" => {
                if left.is_of(alias) && right.is_fixed() {
                    let values = right.constant().map_or(IN_VALUES, elements);
                    return Ok(make(self.target(left), Test::In(values), Some(right)));
                }
                if right.is_of(alias) && right.columns.len() == 1 && !left.mentions(alias) {
                    return Err(Why::ElementOfArray);
                }
                Ok(None)
            }
            Kind::Quantified { all: true, left, .. } if left.is_of(alias) => Err(Why::Negation),
            _ => Ok(None),
        }
    }

    fn test(&self, operator: &str, own: &Expr, other: &Expr) -> Result<Option<Test>, Why> {
        let pattern = other.constant();
        let of_type = self.type_of(own);
        let is_json = of_type.as_deref() == Some("jsonb");
        let is_array = of_type.as_deref().is_some_and(|name| name.ends_with("[]"));
        Ok(Some(match operator {
            "=" => Test::Equal,
            "<" | "<=" | ">" | ">=" => Test::Range,
            "<>" | "!~~" | "!~~*" | "!~" | "!~*" => return Err(Why::Negation),
            // A pattern that is not known: a trigram index serves all but the short ones.
            "~~" | "~~*" | "~" | "~*" if pattern.is_none() => Test::Infix,
            "~~" if pattern.is_some_and(|pattern| like_prefix(pattern).is_some()) => Test::Prefix,
            "~" if pattern.is_some_and(|pattern| regex_prefix(pattern).is_some()) => Test::Prefix,
            "~~" | "~~*" if pattern.is_some_and(|pattern| has_trigram(pattern, false)) => Test::Infix,
            "~" | "~*" if pattern.is_some_and(|pattern| has_trigram(pattern, true)) => Test::Infix,
            "~~" | "~~*" | "~" | "~*" => return Err(Why::ShortPattern),
            "^@" => Test::Prefix,
            "@>" if is_json => Test::JsonContains,
            "?" | "?|" | "?&" if is_json => Test::JsonExists,
            "@?" | "@@" if is_json => Test::JsonPath,
            "@>" | "&&" | "<@" if is_array => Test::Array,
            "@@" => Test::TextSearch,
            "@>" | "<@" | "&&" | "-|-" => Test::Gist,
            _ => return Ok(None),
        }))
    }

    fn is_boolean(&self, column: &Column) -> bool {
        column.alias == self.access.alias
            && self.table.column(&column.name).is_some_and(|column| column.type_name == "boolean")
    }

    fn type_of(&self, expr: &Expr) -> Option<String> {
        immutable_type(expr, self.table, self.schema)
    }

    /// What an index's key would be for this expression; `None` if there can be none.
    fn target(&self, expr: &Expr) -> Option<Target> {
        if !expr.is_of(&self.access.alias) {
            return None;
        }
        let expr = expr.without_relabel();
        if let Some(column) = expr.column() {
            self.table.column(&column.name)?;
            return Some(Target { expression: quoted(&column.name), column: Some(column.name.clone()) });
        }
        self.type_of(expr)?;
        Some(Target { expression: outer_stripped(&expr.unqualified()).to_owned(), column: None })
    }

    /// The order that an index gives to a LIMIT while a filter throws most rows away.
    fn order_of_index(&self, limit: &Node) -> Option<Vec<String>> {
        let mut node = limit.inputs().next()?;
        while matches!(node.kind, NodeKind::Other | NodeKind::NestedLoop | NodeKind::IncrementalSort) {
            node = node.inputs().next()?;
        }
        if node.kind != NodeKind::IndexScan || node.alias != self.access.alias || node.filter.is_empty() {
            return None;
        }
        let index = self.table.indexes.iter().find(|index| Some(&index.name) == node.index.as_ref())?;
        let is_column =
            |key: &&IndexKey| self.table.columns.iter().any(|column| quoted(&column.name) == key.expression);
        let is_fixed = |key: &&IndexKey| {
            let same =
                |expr: &Expr| expr.column().is_some_and(|column| quoted(&column.name) == key.expression);
            node.index_conditions.iter().any(|condition| match &condition.kind {
                Kind::Operator(operator, left, _) => operator == "=" && same(left),
                _ => false,
            })
        };
        let keys = index.keys.iter().filter(|key| !is_fixed(key)).take_while(is_column);
        // One key: those behind it seldom matter, and cost.
        let key = keys.into_iter().next()?;
        let direction = if key.descending { " DESC" } else { "" };
        Some(vec![format!("{}.{}{direction}", quoted(&node.alias), key.expression)])
    }

    fn order(&mut self, node: &Node) {
        let keys = match node.kind {
            NodeKind::Limit => limited_sort(node).or_else(|| self.order_of_index(node)),
            NodeKind::Aggregate if node.group_key.is_empty() => min_max(node),
            _ => None,
        };
        let Some(keys) = keys else { return };
        let mut order = Order { keys: Vec::new(), targets: Vec::new() };
        for key in &keys {
            let (text, descending, nulls_first) = split_key(key);
            let Some(target) = self.target(&Expr::parse(text)) else { return };
            order.keys.push(IndexKey {
                expression: target.expression.clone(),
                opclass: None,
                descending,
                nulls_first,
            });
            order.targets.push(target);
        }
        if !order.keys.is_empty() && !self.access.orders.contains(&order) {
            self.access.orders.push(order);
        }
    }
}

/// What is taken for the length of an IN list whose values are not known.
const IN_VALUES: usize = 10;

/// How many elements an array constant has.
fn elements(array: &str) -> usize {
    array.matches(',').count() + 1
}

fn commuted(operator: &str) -> &str {
    match operator {
        "<" => ">",
        "<=" => ">=",
        ">" => "<",
        ">=" => "<=",
        "@>" => "<@",
        "<@" => "@>",
        other => other,
    }
}

/// The keys of a sort whose result is cut by this LIMIT.
fn limited_sort(limit: &Node) -> Option<Vec<String>> {
    let mut node = limit.inputs().next()?;
    loop {
        match node.kind {
            NodeKind::Sort | NodeKind::IncrementalSort => return Some(node.sort_key.clone()),
            NodeKind::Other if node.inputs().count() == 1 => node = node.inputs().next()?,
            _ => return None,
        }
    }
}

/// The column of `min(a)` or `max(a)`, as an order.
fn min_max(aggregate: &Node) -> Option<Vec<String>> {
    let [output] = aggregate.output.as_slice() else { return None };
    let Kind::Call(name, arguments) = Expr::parse(output).kind else { return None };
    let [argument] = arguments.as_slice() else { return None };
    // Where there is one relation only, Output does not say of which a column is.
    let mut relations = Vec::new();
    aggregate.walk(&mut |node| relations.extend(node.relation.as_ref().map(|_| node.alias.as_str())));
    let is_name = argument.columns.is_empty()
        && argument.source.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '"'));
    let source = match relations.as_slice() {
        [alias] if is_name => format!("{}.{}", quoted(alias), argument.source),
        _ => argument.source.clone(),
    };
    match name.as_str() {
        "min" => Some(vec![source]),
        "max" => Some(vec![format!("{source} DESC")]),
        _ => None,
    }
}

/// A sort key's expression, whether it is descending, and whether NULLs come first.
pub(super) fn split_key(key: &str) -> (&str, bool, bool) {
    let (key, nulls) = if let Some(key) = key.strip_suffix(" NULLS FIRST") {
        (key, Some(true))
    } else if let Some(key) = key.strip_suffix(" NULLS LAST") {
        (key, Some(false))
    } else {
        (key, None)
    };
    let (key, descending) = key.strip_suffix(" DESC").map_or((key, false), |key| (key, true));
    (key, descending, nulls.unwrap_or(descending))
}

/// Without parentheses around all of it.
fn outer_stripped(expression: &str) -> &str {
    let mut expression = expression;
    while let Some(inside) = expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        let mut depth = 0_i32;
        let is_one_group = inside.chars().all(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth >= 0
        });
        if !is_one_group {
            break;
        }
        expression = inside;
    }
    expression
}
