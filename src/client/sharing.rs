//! Results that other Weirs may have, or may want: what it takes to look them up in the store that they share, and to put them
//! there.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::{Key, Recorded};
use crate::control::{Database, Lookup, SharedStamp};
use crate::route::Plan;

/// See the module.
#[derive(Debug)]
pub(super) struct Sharing {
    database: Arc<Database>,
    plan: Arc<Plan>,
    /// With which it may be put there, once it was looked up in vain.
    pub(super) stamp: Option<SharedStamp>,
}

impl Sharing {
    /// `None`: nothing is shared, or the store is not to be believed now.
    pub(super) fn new(database: &Arc<Database>, plan: &Arc<Plan>) -> Option<Self> {
        let shared = database.memory.shared.as_ref()?;
        let (database, plan) = (Arc::clone(database), Arc::clone(plan));
        shared.is_trusted(&database.name).then_some(Self { database, plan, stamp: None })
    }

    /// Looks a result up. What others have written is made known here first, so that what is read next has it.
    pub(super) async fn ask(&self, key: &Key) -> Lookup {
        let Some(shared) = &self.database.memory.shared else { return Lookup::Silent };
        let foreign = |touched: &_| self.database.written_elsewhere(touched);
        shared.find(&self.database.name, &self.plan.effect.reads, &key.packed(), foreign).await
    }

    /// It has been found to have what is not so.
    pub(super) fn void(&self) {
        drop(self.database.memory.written(&self.plan.effect.reads));
    }

    /// Puts a result there that was read since it was looked up.
    pub(super) fn put(&self, key: &Key, recorded: &Recorded, took: Duration, ttl: Duration) {
        if let (Some(shared), Some(stamp)) = (&self.database.memory.shared, &self.stamp) {
            shared.put(stamp, &self.database.name, &key.packed(), &recorded.packed(took, ttl), ttl);
        }
    }
}
