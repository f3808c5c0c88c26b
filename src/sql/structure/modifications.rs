//! INSERT, UPDATE, DELETE and MERGE.

use sqlparser::ast::{
    Assignment, ConflictTarget, Delete, FromTable, Insert, Merge, MergeAction, MergeInsertKind,
    MergeUpdateKind, OnConflictAction, OnInsert, OutputClause, Statement, TableFactor, TableObject,
    TableWithJoins, Update, UpdateTableFromKind,
};

use super::Structure;
use crate::sql::class::Access;

impl Structure {
    pub(super) fn modification(&mut self, statement: &Statement) {
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

pub(super) fn returning(statement: &Statement) -> bool {
    match statement {
        Statement::Insert(insert) => insert.returning.is_some(),
        Statement::Update(update) => update.returning.is_some(),
        Statement::Delete(delete) => delete.returning.is_some(),
        Statement::Merge(merge) => merge.output.is_some(),
        _ => false,
    }
}
