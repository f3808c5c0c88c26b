//! The snapshot: what a database's names mean, packed for tens of thousands of relations.
//!
//! Names stand in one string and are found by binary search: a relation costs about 60 bytes with its name, and nothing
//! is hashed. Lookups need not be fast, since their outcome is kept (`route::Memo`). What only few relations have
//! (views, policies, children, foreign keys that act) is a [`Detail`] of its own.
//!
//! A tree of partitions is one *unit*: whoever writes a partition has written its root, and whoever reads one has read
//! the root. So a table of a thousand partitions has one floor and one epoch. Children by inheritance may have several
//! parents and stay relations of their own.

use std::sync::Arc;

use ahash::HashMap;

use super::behavior::{Behavior, OnPrimary, Volatility};
use super::build::build;
use super::node_tree::Tree;
use super::search_path::{SearchPath, truncated};
use super::source::{Kind, SearchPaths, Source};
use crate::pg::{FIRST_NORMAL_OID, Oid};
use crate::sql::class::{Call, Name, Otherwise, Perhaps};

/// A relation, or a tree of partitions by its root: what has a floor and an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelationId(pub Oid);

/// A relation by its place in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place(pub(super) u32);

/// A name by its place in the snapshot's string.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    pub(super) start: u32,
    pub(super) len: u8,
}

/// A schema by its place in the sorted list.
pub(super) type SchemaPlace = u32;

/// One relation.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts; any of them may stand together")]
pub(super) struct Relation {
    pub(super) oid: Oid,
    pub(super) schema: SchemaPlace,
    pub(super) name: Text,
    pub(super) kind: Kind,
    /// Its own place, or that of the root of its partitions.
    pub(super) unit: Place,
    /// Into `details`; 0: none.
    pub(super) detail: u32,
    /// It, or a partition of it, is unlogged.
    pub(super) is_unlogged: bool,
    /// It, or a partition of it, is a foreign table.
    pub(super) is_foreign: bool,
    pub(super) has_row_security: bool,
    /// Writing it runs code that cannot be looked into.
    pub(super) has_write_code: bool,
}

/// What only some relations have.
#[derive(Clone, Debug, Default)]
pub(super) struct Detail {
    /// What a view's query, and policies, read.
    pub(super) reads: Box<[Place]>,
    /// What running a view's query, and policies, does.
    pub(super) behavior: Behavior,
    /// Children by inheritance, of any generation.
    pub(super) children: Box<[Place]>,
    /// What foreign keys write when this is written.
    pub(super) cascades: Box<[Place]>,
}

#[derive(Clone, Debug)]
pub(super) struct Function {
    pub(super) name: Text,
    pub(super) schema: SchemaPlace,
    pub(super) arguments_min: u8,
    pub(super) arguments_max: u8,
    /// Its first argument may be a row: `t.f` calls it.
    pub(super) takes_row: bool,
    pub(super) behavior: Behavior,
}

#[derive(Clone, Debug)]
pub(super) struct Type {
    pub(super) name: Text,
    pub(super) schema: SchemaPlace,
    pub(super) behavior: Behavior,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Catalog {
    pub(super) version: u64,
    pub(super) changes: u64,
    pub(super) names: String,
    /// Sorted by name.
    pub(super) schemas: Vec<(Text, Oid)>,
    /// Sorted by schema and name.
    pub(super) relations: Vec<Relation>,
    pub(super) by_oid: Vec<Place>,
    pub(super) details: Vec<Detail>,
    /// Sorted by name.
    pub(super) functions: Vec<Function>,
    /// Sorted by name.
    pub(super) types: Vec<Type>,
    /// Rows of relations that have columns of types of one's own.
    pub(super) row_types: HashMap<Place, Behavior>,
    pub(super) operators: HashMap<Box<str>, Behavior>,
    /// Operators and casts that are run without being written: `=` for IN, `~~` for LIKE, implicit casts.
    pub(super) implicit: Behavior,
    pub(super) search_paths: SearchPaths,
    /// For the next load: trees of rules that have not changed need not be read again.
    pub(super) rules: HashMap<(Oid, u32), Arc<Tree>>,
}

impl Catalog {
    /// Packs what was loaded. `version` tells snapshots of one database apart; `changes` is how many changes of the
    /// catalog had been seen when loading began ([`super::SharedCatalog::changes`]).
    pub fn build(source: Source, version: u64, changes: u64) -> Self {
        build(source, version, changes)
    }

    /// Which snapshot this is.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many changes it has in it.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// How many relations there are.
    pub fn len(&self) -> usize {
        self.relations.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.relations.is_empty()
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        let lists: usize =
            self.details.iter().map(|d| d.reads.len() + d.children.len() + d.cascades.len()).sum();
        let trees: usize = self.rules.values().map(|tree| tree.relations.len() + tree.functions.len()).sum();
        self.names.capacity()
            + self.relations.capacity() * size_of::<Relation>()
            + self.by_oid.capacity() * size_of::<Place>()
            + self.details.capacity() * size_of::<Detail>()
            + (lists + trees) * size_of::<u32>()
            + self.functions.capacity() * size_of::<Function>()
            + self.types.capacity() * size_of::<Type>()
            + self.rules.capacity() * size_of::<((Oid, u32), Arc<Tree>, Tree)>()
    }

    /// The tree of a rule whose row is still the same.
    pub fn rule_tree(&self, oid: Oid, xmin: u32) -> Option<&Arc<Tree>> {
        self.rules.get(&(oid, xmin))
    }

    /// The path that a session of `user` begins with, unless its startup packet says otherwise; `None`: not known.
    pub fn default_search_path(&self, user: &str) -> Option<SearchPath> {
        let of = |list: &[(Box<str>, Box<str>)]| {
            list.iter().find(|(role, _)| **role == *user).map(|(_, value)| value.clone())
        };
        let paths = &self.search_paths;
        let value = of(&paths.of_roles_here)
            .or_else(|| of(&paths.of_roles))
            .or_else(|| paths.of_database.clone())
            .or_else(|| paths.of_server.clone())?;
        SearchPath::from_value(&value, user)
    }

    /// Another text whenever ALTER ROLE or ALTER DATABASE has changed what sessions begin with.
    pub fn role_settings(&self) -> &str {
        &self.search_paths.role_settings
    }

    /// A relation's name with its schema, if it is known.
    pub fn relation_name(&self, id: RelationId) -> Option<String> {
        let relation = self.relation(self.place(id.0)?);
        let (schema, _) = self.schemas.get(relation.schema as usize)?;
        Some(format!("{}.{}", self.text(*schema), self.text(relation.name)))
    }

    /// What has the epochs of the relations of that name, in a schema or in any: of a view, what it reads. `None`: there
    /// is none.
    pub fn units_named(&self, schema: Option<&str>, name: &str) -> Option<Box<[RelationId]>> {
        let is_named = |relation: &Relation| {
            let in_schema = self.schemas.get(relation.schema as usize).map(|(text, _)| self.text(*text));
            self.text(relation.name) == name && schema.is_none_or(|schema| in_schema == Some(schema))
        };
        let mut open: Vec<&Relation> = self.relations.iter().filter(|relation| is_named(relation)).collect();
        if open.is_empty() {
            return None;
        }
        let mut units = Vec::new();
        let mut seen = ahash::HashSet::default();
        while let Some(relation) = open.pop() {
            if seen.insert(relation.oid) {
                units.push(self.unit(relation));
                let detail = self.detail(relation);
                open.extend(detail.reads.iter().chain(&*detail.children).map(|place| self.relation(*place)));
            }
        }
        units.sort_unstable();
        units.dedup();
        Some(units.into())
    }

    /// Whether a relation is still there.
    pub fn has(&self, id: RelationId) -> bool {
        self.place(id.0).is_some()
    }

    /// What a relation is.
    pub fn relation_kind(&self, id: RelationId) -> Option<Kind> {
        Some(self.relation(self.place(id.0)?).kind)
    }

    /// What has the floor of a relation that was written.
    pub fn unit_of(&self, oid: Oid) -> Option<RelationId> {
        self.place(oid).map(|place| self.unit(self.relation(place)))
    }

    /// The same by its full name.
    pub fn unit_named(&self, schema: &str, name: &str) -> Option<RelationId> {
        let schema = self.schema(schema)?;
        self.in_schema(schema, name).map(|place| self.unit(self.relation(place)))
    }

    /// Whether all that is written to a relation, and to its partitions, goes through the log of this server: what is
    /// written to others no change stream shows.
    pub fn is_logged(&self, id: RelationId) -> bool {
        self.place(id.0).is_some_and(|place| {
            let relation = self.relation(place);
            !relation.is_unlogged && !relation.is_foreign && relation.kind != Kind::Foreign
        })
    }

    pub(super) fn relation(&self, place: Place) -> &Relation {
        &self.relations[place.0 as usize]
    }

    pub(super) fn detail(&self, relation: &Relation) -> &Detail {
        &self.details[relation.detail as usize]
    }

    /// What has the relation's floor.
    pub(super) fn unit(&self, relation: &Relation) -> RelationId {
        RelationId(self.relation(relation.unit).oid)
    }

    pub(super) fn unit_place(relation: &Relation) -> Place {
        relation.unit
    }

    pub(super) fn implicit(&self) -> Behavior {
        self.implicit
    }

    fn place(&self, oid: Oid) -> Option<Place> {
        let found = self.by_oid.binary_search_by_key(&oid, |place| self.relation(*place).oid);
        found.ok().map(|at| self.by_oid[at])
    }

    fn text(&self, text: Text) -> &str {
        let start = text.start as usize;
        self.names.get(start..start + usize::from(text.len)).unwrap_or_default()
    }

    fn schema(&self, name: &str) -> Option<SchemaPlace> {
        let found = self.schemas.binary_search_by(|(text, _)| self.text(*text).cmp(name));
        found.ok().and_then(|at| u32::try_from(at).ok())
    }

    fn in_schema(&self, schema: SchemaPlace, name: &str) -> Option<Place> {
        let found = self.relations.binary_search_by(|relation| {
            relation.schema.cmp(&schema).then_with(|| self.text(relation.name).cmp(name))
        });
        found.ok().and_then(|at| u32::try_from(at).ok()).map(Place)
    }

    /// The schemas that a name is looked up in, in order.
    fn schemas_for<'a>(
        &'a self,
        name: &'a Name,
        path: &'a SearchPath,
    ) -> impl Iterator<Item = SchemaPlace> + 'a {
        let written = name.schema.as_deref().map(truncated);
        let path = path.schemas().filter(move |_| written.is_none());
        written.into_iter().chain(path).filter_map(|schema| self.schema(schema))
    }

    /// The relations that a name may mean. PostgreSQL takes the first schema of the path that has it, passing over
    /// those that the role may not use; since roles' rights are not known here, all that may be meant are given.
    pub(super) fn relations_named(&self, name: &Name, path: &SearchPath) -> Result<Vec<Place>, OnPrimary> {
        let is_hidden = name.schema.is_none() && path.has_temporary();
        if is_hidden || name.schema.as_deref().is_some_and(|schema| schema.starts_with("pg_temp")) {
            return Err(OnPrimary::TemporaryObject);
        }
        let wanted = truncated(&name.name);
        let mut places = Vec::new();
        for schema in self.schemas_for(name, path) {
            if let Some(place) = self.in_schema(schema, wanted) {
                places.push(place);
                // Everybody may use pg_catalog.
                if self.relation(place).oid.is_builtin() {
                    break;
                }
            }
        }
        if places.is_empty() { Err(OnPrimary::UnknownRelation) } else { Ok(places) }
    }

    /// What a call may do: the worst of all functions of that name, in the path, that take so many arguments.
    pub(super) fn call(&self, call: &Call, path: &SearchPath) -> Behavior {
        if call.name.schema.as_deref().is_some_and(|schema| schema.starts_with("pg_temp")) {
            return Behavior::unknown(OnPrimary::TemporaryObject);
        }
        // With another number of arguments the server would refuse it, or we have miscounted.
        let named = || self.functions_named(&call.name, path);
        worst(named().filter(|function| function.takes(call.arguments)))
            .or_else(|| worst(named()))
            // `date(x)`: a cast that is written like a call.
            .or_else(|| self.type_named(&call.name, path))
            .unwrap_or(Behavior::unknown(OnPrimary::UnknownFunction))
    }

    /// The functions that a name may mean.
    fn functions_named<'a>(
        &'a self,
        name: &'a Name,
        path: &'a SearchPath,
    ) -> impl Iterator<Item = &'a Function> + 'a {
        let wanted = truncated(&name.name);
        let first = self.functions.partition_point(|function| self.text(function.name) < wanted);
        let schemas: Vec<SchemaPlace> = self.schemas_for(name, path).collect();
        self.functions[first..]
            .iter()
            .take_while(move |function| self.text(function.name) == wanted)
            .filter(move |function| schemas.contains(&function.schema))
    }

    /// What a name may do that need not call anything.
    pub(super) fn perhaps(&self, perhaps: &Perhaps, path: &SearchPath) -> Behavior {
        let Perhaps { call, otherwise } = perhaps;
        let named = self.functions_named(&call.name, path);
        match otherwise {
            Otherwise::Grammar => worst(named),
            Otherwise::Field => {
                let called = worst(named.filter(|function| function.takes(call.arguments)));
                let cast = self.type_alone_named(&call.name, path);
                called.into_iter().chain(cast).reduce(Behavior::and)
            }
            Otherwise::Column => {
                worst(named.filter(|function| function.takes_row && function.takes(call.arguments)))
            }
        }
        .unwrap_or(Behavior::HARMLESS)
    }

    /// What an operator of that name may do, in whatever schema.
    pub(super) fn operator(&self, name: &str) -> Behavior {
        self.operators.get(name).copied().unwrap_or(Behavior::HARMLESS)
    }

    /// What a cast to the type may do.
    pub(super) fn cast(&self, name: &Name, path: &SearchPath) -> Behavior {
        let found = self.type_named(name, path);
        // A type of the session's own: a row of a temporary table, most likely.
        let in_temporary = Behavior {
            volatility: Volatility::Stable,
            on_primary: Some(OnPrimary::TemporaryObject),
            ..Behavior::HARMLESS
        };
        found
            .or(path.has_temporary().then_some(in_temporary))
            .unwrap_or(Behavior::unknown(OnPrimary::UnknownType))
    }

    fn type_named(&self, name: &Name, path: &SearchPath) -> Option<Behavior> {
        // The rows of a relation are a type, too.
        self.type_alone_named(name, path).or_else(|| {
            let row = Behavior { volatility: Volatility::Stable, ..Behavior::HARMLESS };
            let places = self.relations_named(name, path).ok()?;
            let parts = places.iter().filter_map(|place| self.row_types.get(place));
            Some(parts.fold(row, |row, parts| row.and(*parts)))
        })
    }

    /// A type that is no relation's row.
    fn type_alone_named(&self, name: &Name, path: &SearchPath) -> Option<Behavior> {
        let wanted = truncated(&name.name);
        let first = self.types.partition_point(|known| self.text(known.name) < wanted);
        let named: Vec<&Type> =
            self.types[first..].iter().take_while(|known| self.text(known.name) == wanted).collect();
        self.schemas_for(name, path)
            .filter_map(|schema| named.iter().find(|known| known.schema == schema))
            .map(|known| known.behavior)
            .reduce(Behavior::and)
    }
}

fn worst<'a>(functions: impl Iterator<Item = &'a Function>) -> Option<Behavior> {
    functions.map(|function| function.behavior).reduce(Behavior::and)
}

impl Function {
    /// Whether it can be called with so many arguments; `None`: it is not known how many they are.
    fn takes(&self, arguments: Option<u8>) -> bool {
        arguments.is_none_or(|count| {
            (self.arguments_min..=self.arguments_max).contains(&count)
                || self.arguments_max == u8::MAX && count >= self.arguments_min
        })
    }
}

/// Whether a relation is a system catalog: what DDL writes.
pub(super) fn is_system(relation: &Relation) -> bool {
    relation.oid < FIRST_NORMAL_OID
}
