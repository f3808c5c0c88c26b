//! Packs what was loaded into a snapshot.

use ahash::{HashMap, HashSet};

use super::behavior::{Behavior, OnPrimary, Volatility};
use super::builtins::reads_catalogs_by_input;
use super::node_tree::Tree;
use super::search_path::truncated;
use super::snapshot::{Catalog, Detail, Function, Place, Relation, SchemaPlace, Text, Type};
use super::source::{Kind, Rule, Source};
use crate::pg::Oid;

/// Operators that SQL spells otherwise: IN, BETWEEN, DISTINCT, GROUP BY, USING, ORDER BY, LIKE, ILIKE, SIMILAR TO.
const IMPLICIT_OPERATORS: [&str; 12] =
    ["=", "<>", "<", "<=", ">", ">=", "~~", "!~~", "~~*", "!~~*", "~", "!~"];

pub(super) fn build(source: Source, version: u64, changes: u64) -> Catalog {
    Builder::new(source, version, changes).run()
}

/// Builds a snapshot.
struct Builder {
    source: Source,
    catalog: Catalog,
    schema_places: HashMap<Oid, SchemaPlace>,
    places: HashMap<Oid, Place>,
    functions: HashMap<Oid, Behavior>,
    /// Operators of one's own that are not immutable.
    operators: HashMap<Oid, Behavior>,
    /// What the checks of domains do, also of those that a type is made of.
    checks: HashMap<Oid, Behavior>,
}

impl Builder {
    fn new(source: Source, version: u64, changes: u64) -> Self {
        let catalog = Catalog { version, changes, ..Catalog::default() };
        Self {
            source,
            catalog,
            schema_places: HashMap::default(),
            places: HashMap::default(),
            functions: HashMap::default(),
            operators: HashMap::default(),
            checks: HashMap::default(),
        }
    }

    fn run(mut self) -> Catalog {
        self.schemas();
        self.relations();
        self.functions();
        self.operators();
        self.types();
        self.write_calls();
        self.partitions();
        self.details();
        self.catalog.search_paths = std::mem::take(&mut self.source.search_paths);
        self.catalog.names.shrink_to_fit();
        self.catalog
    }

    fn keep(&mut self, name: &str) -> Text {
        // Names have at most 63 bytes; a snapshot of 4 GB of names does not exist.
        let name = truncated(name);
        let start = u32::try_from(self.catalog.names.len()).unwrap_or(u32::MAX);
        self.catalog.names.push_str(name);
        Text { start, len: u8::try_from(name.len()).unwrap_or(0) }
    }

    fn schemas(&mut self) {
        let mut schemas = std::mem::take(&mut self.source.schemas);
        schemas.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for (place, schema) in (0..).zip(&schemas) {
            let name = self.keep(&schema.name);
            self.catalog.schemas.push((name, schema.oid));
            self.schema_places.insert(schema.oid, place);
        }
    }

    fn relations(&mut self) {
        let mut rows = std::mem::take(&mut self.source.relations);
        rows.retain(|row| self.schema_places.contains_key(&row.schema));
        rows.sort_unstable_by(|a, b| {
            self.schema_places[&a.schema]
                .cmp(&self.schema_places[&b.schema])
                .then_with(|| a.name.cmp(&b.name))
        });
        let triggers: HashSet<Oid> = self.source.triggers.iter().copied().collect();
        self.catalog.relations.reserve_exact(rows.len());
        for (place, row) in (0..).map(Place).zip(&rows) {
            let relation = Relation {
                oid: row.oid,
                schema: self.schema_places[&row.schema],
                name: self.keep(&row.name),
                kind: row.kind,
                unit: place,
                detail: 0,
                is_unlogged: row.is_unlogged,
                is_foreign: row.kind == Kind::Foreign,
                has_row_security: row.has_row_security,
                has_write_code: triggers.contains(&row.oid) || row.kind == Kind::Foreign,
            };
            self.places.insert(row.oid, place);
            self.catalog.relations.push(relation);
        }
        let mut by_oid: Vec<Place> = self.places.values().copied().collect();
        by_oid.sort_unstable_by_key(|place| self.catalog.relation(*place).oid);
        self.catalog.by_oid = by_oid;
        // Kept for details: rows of relations by their type, and which relations are partitions.
        self.source.relations = rows;
    }

    /// Marks the relations whose defaults and checks may write others.
    fn write_calls(&mut self) {
        for (relation, function) in std::mem::take(&mut self.source.write_calls) {
            let writes = self.functions.get(&function).is_none_or(|behavior| behavior.writes_everything);
            if let Some(place) = self.places.get(&relation).filter(|_| writes) {
                self.catalog.relations[place.0 as usize].has_write_code = true;
            }
        }
    }

    /// Joins partitions to units, and tells each ancestor what its partitions are like.
    fn partitions(&mut self) {
        let is_partition: HashSet<Oid> =
            self.source.relations.iter().filter(|row| row.is_partition).map(|row| row.oid).collect();
        let parents = std::mem::take(&mut self.source.parents);
        let (of_partitions, of_children): (Vec<_>, Vec<_>) =
            parents.into_iter().partition(|(child, _)| is_partition.contains(child));
        self.source.parents = of_children;
        let parent_of: HashMap<Oid, Oid> = of_partitions.into_iter().collect();
        for child in parent_of.keys() {
            let Some(&child) = self.places.get(child) else { continue };
            let leaf = *self.catalog.relation(child);
            let (mut root, mut oid) = (child, leaf.oid);
            // A bound on the depth, against a loop that cannot be.
            for _ in 0..64 {
                let Some(place) = parent_of.get(&oid).and_then(|parent| self.places.get(parent)) else {
                    break;
                };
                let ancestor = &mut self.catalog.relations[place.0 as usize];
                ancestor.is_unlogged |= leaf.is_unlogged;
                ancestor.is_foreign |= leaf.is_foreign;
                ancestor.has_write_code |= leaf.has_write_code;
                (root, oid) = (*place, ancestor.oid);
            }
            self.catalog.relations[child.0 as usize].unit = root;
        }
    }

    fn functions(&mut self) {
        let mut rows = std::mem::take(&mut self.source.functions);
        rows.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut last: Option<(Box<str>, Text)> = None;
        for row in rows {
            let behavior = if row.oid.is_builtin() {
                Behavior::of_builtin(&row.name, row.declared)
            } else {
                Behavior::of_own_function(&row.name, row.declared, row.in_c)
            };
            self.functions.insert(row.oid, behavior);
            let Some(&schema) = self.schema_places.get(&row.schema) else { continue };
            let name = match &last {
                Some((known, text)) if *known == row.name => *text,
                _ => self.keep(&row.name),
            };
            last = Some((row.name, name));
            let (arguments_min, arguments_max) = (row.arguments_min, row.arguments_max);
            let takes_row = row.takes_row;
            self.catalog.functions.push(Function {
                name,
                schema,
                arguments_min,
                arguments_max,
                takes_row,
                behavior,
            });
        }
        self.catalog.functions.shrink_to_fit();
    }

    fn types(&mut self) {
        let mut alone: HashMap<Oid, Behavior> = HashMap::default();
        let mut note = |oid: Oid, behavior: Behavior| {
            let entry = alone.entry(oid).or_default();
            *entry = entry.and(behavior);
        };
        let mut checks: HashMap<Oid, Behavior> = HashMap::default();
        let mut parts: HashMap<Oid, Vec<Oid>> = HashMap::default();
        for (whole, part) in std::mem::take(&mut self.source.type_parts) {
            parts.entry(whole).or_default().push(part);
        }
        for (domain, tree) in std::mem::take(&mut self.source.domain_checks) {
            let behavior = self.behavior(&tree);
            let entry = checks.entry(domain).or_default();
            *entry = entry.and(behavior);
            note(domain, behavior);
            // The checks of the domains that it casts to run as well.
            parts.entry(domain).or_default().extend(&tree.result_types);
        }
        for cast in std::mem::take(&mut self.source.casts) {
            let behavior = Behavior::of_own_operator(cast.declared, cast.in_c);
            note(cast.target, behavior);
            if cast.is_implicit {
                self.catalog.implicit = self.catalog.implicit.and(behavior);
            }
        }
        let mut rows = std::mem::take(&mut self.source.types);
        rows.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for row in &rows {
            note(row.oid, input(row));
        }
        let wholes = checks.keys().chain(parts.keys());
        self.checks = wholes.map(|oid| (*oid, with_parts(*oid, &checks, &parts))).collect();
        for row in rows {
            let Some(&schema) = self.schema_places.get(&row.schema) else { continue };
            let behavior = with_parts(row.oid, &alone, &parts);
            let name = self.keep(&row.name);
            self.catalog.types.push(Type { name, schema, behavior });
        }
        for row in &self.source.relations {
            let (Some(checks), Some(&place)) = (self.checks.get(&row.row_type), self.places.get(&row.oid))
            else {
                continue;
            };
            self.catalog.relations[place.0 as usize].has_write_code |= checks.writes_everything;
            self.catalog.row_types.insert(place, with_parts(row.row_type, &alone, &parts));
        }
    }

    fn operators(&mut self) {
        for row in std::mem::take(&mut self.source.operators) {
            let behavior = Behavior::of_own_operator(row.declared, row.in_c);
            if behavior == Behavior::HARMLESS {
                continue;
            }
            self.operators.insert(row.oid, behavior);
            if IMPLICIT_OPERATORS.contains(&&*row.name) {
                self.catalog.implicit = self.catalog.implicit.and(behavior);
            }
            let entry = self.catalog.operators.entry(row.name).or_default();
            *entry = entry.and(behavior);
        }
    }

    /// What running what the tree says does, apart from the relations that it reads.
    fn behavior(&self, tree: &Tree) -> Behavior {
        let mut behavior = Behavior::HARMLESS;
        if tree.names_time {
            behavior.volatility = Volatility::TransactionTime;
        }
        if tree.locks_rows {
            behavior.on_primary = Some(OnPrimary::LockingClause);
        }
        for function in &tree.functions {
            let known = self.functions.get(function).copied();
            behavior = behavior.and(known.unwrap_or(Behavior::unknown(OnPrimary::UnknownFunction)));
        }
        for operator in tree.operators.iter().filter_map(|oid| self.operators.get(oid)) {
            behavior = behavior.and(*operator);
        }
        for checks in tree.result_types.iter().filter_map(|oid| self.checks.get(oid)) {
            behavior = behavior.and(*checks);
        }
        behavior
    }

    fn details(&mut self) {
        let mut drafts: HashMap<Place, Draft> = HashMap::default();
        let rules = std::mem::take(&mut self.source.rules);
        let policies = std::mem::take(&mut self.source.policies);
        for rule in rules.iter().filter(|rule| !rule.on_select) {
            if let Some(place) = self.places.get(&rule.relation) {
                self.catalog.relations[place.0 as usize].has_write_code = true;
            }
        }
        let views = rules.iter().filter(|rule| rule.on_select).map(|rule| (rule.relation, &*rule.tree));
        for (relation, tree) in views.chain(policies.iter().map(|(relation, tree)| (*relation, tree))) {
            let Some(&place) = self.places.get(&relation) else { continue };
            let draft = drafts.entry(place).or_default();
            draft.behavior = draft.behavior.and(self.behavior(tree));
            for oid in tree.relations.iter().filter(|oid| **oid != relation) {
                match self.places.get(oid) {
                    Some(read) => draft.reads.push(*read),
                    None => {
                        draft.behavior = draft.behavior.and(Behavior::unknown(OnPrimary::UnknownRelation));
                    }
                }
            }
        }
        for (child, ancestor) in self.descendants() {
            drafts.entry(ancestor).or_default().children.push(child);
        }
        for (referenced, written) in &self.source.cascades {
            let place = |oid| self.places.get(oid).copied();
            if let (Some(referenced), Some(written)) = (place(referenced), place(written)) {
                let unit = Catalog::unit_place(self.catalog.relation(referenced));
                drafts.entry(referenced).or_default().cascades.push(written);
                drafts.entry(unit).or_default().cascades.push(written);
            }
        }
        // The first stands for relations that have none.
        self.catalog.details.reserve_exact(drafts.len() + 1);
        self.catalog.details.push(Detail::default());
        for (place, draft) in drafts {
            let at = u32::try_from(self.catalog.details.len()).unwrap_or(0);
            self.catalog.relations[place.0 as usize].detail = at;
            self.catalog.details.push(draft.finish());
        }
        self.catalog.rules = rules
            .into_iter()
            .filter(|rule| rule.on_select)
            .map(|Rule { oid, xmin, tree, .. }| ((oid, xmin), tree))
            .collect();
    }

    /// Children by inheritance with each of their ancestors.
    fn descendants(&self) -> Vec<(Place, Place)> {
        let mut parents: HashMap<Oid, Vec<Oid>> = HashMap::default();
        for (child, parent) in &self.source.parents {
            parents.entry(*child).or_default().push(*parent);
        }
        let mut found = Vec::new();
        for (&child, direct) in &parents {
            let mut open = direct.clone();
            let mut seen: HashSet<Oid> = HashSet::default();
            while let Some(ancestor) = open.pop() {
                if seen.insert(ancestor) {
                    open.extend(parents.get(&ancestor).into_iter().flatten());
                    if let (Some(&child), Some(&ancestor)) =
                        (self.places.get(&child), self.places.get(&ancestor))
                    {
                        found.push((child, ancestor));
                    }
                }
            }
        }
        found
    }
}

/// What the input function of a type does.
fn input(row: &super::source::Type) -> Behavior {
    let stable = Behavior { volatility: Volatility::Stable, ..Behavior::HARMLESS };
    if row.oid.is_builtin() {
        // A time with a zone has the zone's offset of today.
        let volatility =
            if &*row.name == "timetz" { Volatility::TransactionTime } else { Volatility::Stable };
        return Behavior { volatility, reads_catalogs: reads_catalogs_by_input(&row.name), ..stable };
    }
    // Enums, ranges and rows look into the catalogs by their input functions.
    Behavior { reads_catalogs: true, ..stable }.and(Behavior::of_own_operator(row.input, true))
}

/// What a type does with all that it is made of.
fn with_parts(oid: Oid, alone: &HashMap<Oid, Behavior>, parts: &HashMap<Oid, Vec<Oid>>) -> Behavior {
    let mut open = vec![oid];
    let mut seen: HashSet<Oid> = HashSet::default();
    let mut behavior = Behavior::HARMLESS;
    while let Some(oid) = open.pop() {
        if seen.insert(oid) {
            behavior = behavior.and(alone.get(&oid).copied().unwrap_or_default());
            open.extend(parts.get(&oid).into_iter().flatten());
        }
    }
    behavior
}

/// A detail in the making.
#[derive(Default)]
struct Draft {
    reads: Vec<Place>,
    behavior: Behavior,
    children: Vec<Place>,
    cascades: Vec<Place>,
}

impl Draft {
    fn finish(self) -> Detail {
        Detail {
            reads: distinct(self.reads),
            behavior: self.behavior,
            children: distinct(self.children),
            cascades: distinct(self.cascades),
        }
    }
}

fn distinct(mut places: Vec<Place>) -> Box<[Place]> {
    places.sort_unstable();
    places.dedup();
    places.into_boxed_slice()
}
