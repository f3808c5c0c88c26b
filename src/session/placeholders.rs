//! Custom settings (`my.tenant`) that a session has ever had.
//!
//! PostgreSQL knows them only once they are set: before, `current_setting('my.tenant', true)` is NULL, afterwards it is
//! never NULL again, not even by RESET or `DISCARD ALL` (manual, 20.16 Customized Options). Row security policies ask for
//! just that NULL. So a client must not get a server connection that has seen a custom setting which the client
//! never set; and one that has not seen a custom setting of the client's is made to.

use std::collections::BTreeSet;

use crate::pg::GucName;
use crate::sql::command::ConfigName;
use crate::sql::{Command, Statement};

/// A set of custom settings, without cost while it is empty.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::box_collection,
    reason = "most clients have none, and there are thousands: a null pointer is all they pay"
)]
pub struct Placeholders(Option<Box<BTreeSet<GucName>>>);

impl Placeholders {
    /// Adds a setting, if it is a custom one.
    pub fn note(&mut self, name: &GucName) {
        if name.is_custom() && !self.0.as_ref().is_some_and(|set| set.contains(name)) {
            self.0.get_or_insert_default().insert(name.clone());
        }
    }

    /// Adds those that a statement makes: they are there from their first SET or RESET on, even one that is local or
    /// rolled back.
    pub(super) fn note_all(&mut self, statement: &Statement) {
        match &statement.command {
            Command::Set { settings, .. } => settings.iter().for_each(|setting| self.note(&setting.name)),
            Command::Reset(name) => self.note(name),
            Command::SetConfig(calls) => {
                for call in calls {
                    if let ConfigName::Literal(name) = &call.name {
                        self.note(name);
                    }
                }
            }
            _ => {}
        }
    }

    /// Those here that `others` have not.
    pub(super) fn beyond<'a>(&'a self, others: &Self) -> Vec<&'a GucName> {
        let mine = self.0.iter().flat_map(|set| set.iter());
        mine.filter(|name| !others.0.as_ref().is_some_and(|set| set.contains(name))).collect()
    }

    /// Whether all of `others` are here too.
    #[inline]
    pub fn cover(&self, others: &Self) -> bool {
        match (&self.0, &others.0) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(mine), Some(theirs)) => theirs.is_subset(mine),
        }
    }
}
