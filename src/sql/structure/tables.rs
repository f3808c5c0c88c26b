//! What stands in FROM, and the names of relations.

use sqlparser::ast::{
    ArrayElemTypeDef, DataType, Join, JoinConstraint, JoinOperator, ObjectName, TableAlias, TableFactor,
    TableWithJoins,
};

use super::{Structure, parts};
use crate::sql::class::{Access, Mention, Name};

impl Structure {
    pub(super) fn tables(&mut self, tables: &[TableWithJoins]) {
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

    pub(super) fn factor(&mut self, factor: &TableFactor) {
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

    pub(super) fn optional_alias(&mut self, alias: Option<&TableAlias>) {
        if let Some(alias) = alias {
            self.alias(alias);
        }
    }

    pub(super) fn alias(&mut self, alias: &TableAlias) {
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

    pub(super) fn object(&mut self, name: &ObjectName, access: Access) {
        match parts(name) {
            Some(parts) => self.relation(parts, access),
            None => self.unlisted("name"),
        }
    }

    pub(super) fn relation(&mut self, parts: Vec<Box<str>>, access: Access) {
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
}
