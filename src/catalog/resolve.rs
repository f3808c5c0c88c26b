//! From the classes of a text to its effect: names are looked up, views are read through, writes are closed over
//! triggers, rules, foreign keys, partitions and inheritance.

use super::behavior::{Behavior, OnPrimary, Volatility};
use super::effect::{Effect, Touched};
use super::search_path::SearchPath;
use super::snapshot::{Catalog, Place, RelationId, is_system};
use super::source::Kind;
use crate::sql::class::{Access, Class, Classification, Reason};
use crate::sql::classify::Classes;
use crate::sql::command::{Command, ConfigName};
use crate::sql::{Analysis, Statement};

impl Catalog {
    /// What the statements of a text do, together.
    pub fn effect(&self, analysis: &Analysis, classes: &Classes, path: &SearchPath) -> Effect {
        let mut whole = Effect::nothing(self.changes());
        for (statement, class) in analysis.statements.iter().zip(&classes.statements) {
            let mut effect = self.effect_of(class, path);
            if analysis.names_time {
                effect.volatility = effect.volatility.max(Volatility::TransactionTime);
            }
            effect.changes_names &= !keeps_names(&statement.command);
            whole.and(&effect);
        }
        whole
    }

    fn effect_of(&self, class: &Classification, path: &SearchPath) -> Effect {
        if let Some(effect) = nameless(class, self.changes()) {
            return effect;
        }
        let mut effect = Effect::nothing(self.changes());
        match class.class {
            Class::PrimaryRead => {
                effect.on_primary = Some(primary_read(class.reason));
                // New statistics, new file nodes.
                effect.writes.catalogs = class.reason == Reason::Maintenance;
            }
            Class::Write => {
                effect.on_primary = Some(OnPrimary::Write);
                // New file nodes, and what the catalogs say of rows and of being populated.
                effect.writes.catalogs = matches!(class.reason, Reason::Truncate | Reason::Refresh);
            }
            Class::Read | Class::Session | Class::Ddl | Class::Opaque => {}
        }
        let mut walk = Walk {
            catalog: self,
            reads: Set::default(),
            writes: Set::default(),
            behavior: Behavior::HARMLESS,
        };
        for mention in &class.relations {
            match self.relations_named(&mention.name, path) {
                // Only a view that calls a function that writes would make this read a write.
                Err(OnPrimary::TemporaryObject) if mention.access == Access::Read => {
                    walk.on_primary(OnPrimary::TemporaryObject);
                    walk.behavior.reads_everything = true;
                }
                Err(why) => walk.behavior = walk.behavior.and(Behavior::unknown(why)),
                Ok(places) => places.into_iter().for_each(|place| match mention.access {
                    Access::Read => walk.read(place),
                    Access::Write => walk.write(place),
                }),
            }
        }
        let calls = class.functions.iter().map(|call| self.call(call, path));
        let calls = calls.chain(class.perhaps.iter().map(|perhaps| self.perhaps(perhaps, path)));
        let operators = class.operators.iter().map(|operator| self.operator(operator));
        let types = class.types.iter().map(|name| self.cast(name, path));
        walk.behavior = calls.chain(operators).chain(types).fold(walk.behavior, Behavior::and);
        walk.behavior = walk.behavior.and(self.implicit());
        walk.finish(&mut effect);
        if class.facts.names_time {
            effect.volatility = effect.volatility.max(Volatility::TransactionTime);
        }
        effect
    }
}

/// What the statements of a text do where no catalog is in force: only what needs no names is known.
pub fn effect_without_catalog(why: OnPrimary, changes: u64, classes: &Classes) -> Effect {
    let mut whole = Effect::nothing(changes);
    for class in &classes.statements {
        whole.and(&nameless(class, changes).unwrap_or_else(|| Effect::unknown(why, changes)));
    }
    whole
}

/// The effect of what names no relation.
fn nameless(class: &Classification, changes: u64) -> Option<Effect> {
    match class.class {
        Class::Opaque => Some(Effect::unknown(OnPrimary::Opaque, changes)),
        Class::Session => Some(session(class.reason, changes)),
        // The table it makes is the session's own; the query behind AS may do anything.
        Class::Ddl if class.reason == Reason::TemporaryObject => {
            Some(Effect::unknown(OnPrimary::TemporaryObject, changes))
        }
        Class::Ddl => Some(Effect { is_ddl: true, ..Effect::unknown(OnPrimary::Ddl, changes) }),
        Class::Read | Class::PrimaryRead | Class::Write => None,
    }
}

/// SET, SHOW, BEGIN and their like: no table is touched.
fn session(reason: Reason, changes: u64) -> Effect {
    let is_transaction = reason == Reason::TransactionCommand;
    let on_primary = if is_transaction { OnPrimary::TransactionCommand } else { OnPrimary::SessionCommand };
    // A rollback takes SET back, a PREPARE hides what it prepares.
    Effect { on_primary: Some(on_primary), changes_names: true, ..Effect::nothing(changes) }
}

/// Whether two texts of one shape may differ in what names mean behind them: they set settings that constants name.
pub fn constants_name_settings(analysis: &Analysis) -> bool {
    let is = |statement: &Statement| {
        matches!(statement.command, Command::SetConfig(_)) && keeps_names(&statement.command)
    };
    analysis.statements.iter().any(is)
}

/// BEGIN in front of a write must not make it a write of everything, as SET does; nor must the name of a tenant.
fn keeps_names(command: &Command) -> bool {
    if let Command::SetConfig(calls) = command {
        return !calls.iter().any(|call| match &call.name {
            ConfigName::Literal(name) => {
                matches!(name.as_str(), "search_path" | "role" | "session_authorization")
            }
            ConfigName::Parameter(_) => true,
        });
    }
    matches!(
        command,
        Command::Begin(_)
            | Command::Savepoint(_)
            | Command::Release(_)
            | Command::SetTransaction(_)
            | Command::SetConstraints
            | Command::Empty
            | Command::Show(_)
            | Command::ShowAll
            | Command::Listen(_)
            | Command::Unlisten(_)
            | Command::UnlistenAll
            | Command::Notify(_)
    )
}

fn primary_read(reason: Reason) -> OnPrimary {
    match reason {
        Reason::LockingClause => OnPrimary::LockingClause,
        Reason::LockTable => OnPrimary::LockTable,
        Reason::CopyOut => OnPrimary::CopyOut,
        Reason::Explain => OnPrimary::Explain,
        Reason::Cursor => OnPrimary::Cursor,
        Reason::Maintenance => OnPrimary::Maintenance,
        _ => OnPrimary::Opaque,
    }
}

/// Relations that were met.
#[derive(Default)]
struct Set {
    /// Sorted.
    seen: Vec<Place>,
    units: Vec<RelationId>,
    catalogs: bool,
}

impl Set {
    /// Whether it is the first time.
    fn meets(&mut self, place: Place) -> bool {
        match self.seen.binary_search(&place) {
            Ok(_) => false,
            Err(at) => {
                self.seen.insert(at, place);
                true
            }
        }
    }

    fn finish(mut self, everything: bool) -> Touched {
        self.units.sort_unstable();
        self.units.dedup();
        Touched { relations: self.units.into(), catalogs: self.catalogs, everything }
    }
}

/// Follows relations to what they lead to.
struct Walk<'a> {
    catalog: &'a Catalog,
    reads: Set,
    writes: Set,
    behavior: Behavior,
}

impl Walk<'_> {
    fn on_primary(&mut self, why: OnPrimary) {
        self.behavior.on_primary = self.behavior.on_primary.or(Some(why));
    }

    /// A relation is read. As deep as views are nested: a stack of our own.
    fn read(&mut self, place: Place) {
        let catalog = self.catalog;
        let mut open = vec![place];
        while let Some(place) = open.pop() {
            if !self.reads.meets(place) {
                continue;
            }
            let relation = catalog.relation(place);
            let detail = catalog.detail(relation);
            match relation.kind {
                // A materialized view is read as it stands; what its query does counts when it is refreshed.
                Kind::MaterializedView => {
                    self.reads.units.push(catalog.unit(relation));
                    continue;
                }
                Kind::Table | Kind::Partitioned if is_system(relation) => self.reads.catalogs = true,
                Kind::Table | Kind::Partitioned => self.reads.units.push(catalog.unit(relation)),
                Kind::Foreign => self.on_primary(OnPrimary::ForeignTable),
                Kind::Sequence => self.on_primary(OnPrimary::Sequence),
                Kind::View => {}
            }
            if relation.is_foreign {
                self.on_primary(OnPrimary::ForeignTable);
            }
            if relation.is_unlogged {
                self.on_primary(OnPrimary::UnloggedTable);
            }
            self.behavior = self.behavior.and(detail.behavior);
            open.extend(detail.reads.iter().chain(&*detail.children));
        }
    }

    /// A relation is written.
    fn write(&mut self, place: Place) {
        let catalog = self.catalog;
        let mut open = vec![place];
        while let Some(place) = open.pop() {
            if !self.writes.meets(place) {
                continue;
            }
            let relation = catalog.relation(place);
            let detail = catalog.detail(relation);
            // Its triggers and rules, or those of one of its partitions.
            self.behavior.writes_everything |= relation.has_write_code;
            self.behavior = self.behavior.and(detail.behavior);
            match relation.kind {
                Kind::Table | Kind::Partitioned if is_system(relation) => self.writes.catalogs = true,
                // REFRESH runs its query.
                Kind::MaterializedView => {
                    self.writes.units.push(catalog.unit(relation));
                    detail.reads.iter().for_each(|place| self.read(*place));
                    continue;
                }
                Kind::Table | Kind::Partitioned => {
                    self.writes.units.push(catalog.unit(relation));
                    open.push(Catalog::unit_place(relation));
                }
                // One that PostgreSQL writes through: all that it reads, and not only the one that is.
                Kind::View => open.extend(&*detail.reads),
                Kind::Foreign | Kind::Sequence => {}
            }
            open.extend(detail.children.iter().chain(&*detail.cascades));
        }
    }

    fn finish(self, effect: &mut Effect) {
        let row_security =
            |set: &Set| set.seen.iter().any(|place| self.catalog.relation(*place).has_row_security);
        effect.row_security = row_security(&self.reads) || row_security(&self.writes);
        let behavior = self.behavior;
        effect.on_primary = effect.on_primary.or(behavior.on_primary);
        effect.volatility = behavior.volatility;
        effect.changes_names = behavior.changes_names;
        effect.reads = self.reads.finish(behavior.reads_everything);
        effect.reads.catalogs |= behavior.reads_catalogs;
        let catalogs = effect.writes.catalogs;
        effect.writes = self.writes.finish(behavior.writes_everything);
        effect.writes.catalogs |= catalogs || behavior.writes_everything;
    }
}
