//! What one database's results from memory depend on: the epochs here and, where results are shared, the tokens there.

use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;

use super::shared_cache::SharedCache;
use super::stream_state::Subscriber;
use crate::cache::Epochs;
use crate::catalog::Touched;

/// See the module.
#[derive(Debug)]
pub struct Memory {
    /// Whether what was read is still so.
    pub epochs: Epochs,
    /// Where results are that other Weirs have read.
    pub shared: Option<Arc<SharedCache>>,
    database: Arc<str>,
    /// By which it is followed there.
    following: u64,
}

/// The other Weirs are being told: it ends when no older result is found in the shared store, or none at all.
pub type Telling = JoinHandle<()>;

impl Memory {
    /// Of a database, by its name on the servers. `covers`: whether we know of all that is written there.
    pub(super) fn new(
        database: Arc<str>,
        shared: Option<Arc<SharedCache>>,
        covers: impl Fn(Instant) -> bool + Send + Sync + 'static,
    ) -> Self {
        let following = shared.as_ref().map_or(0, |shared| shared.follow(&database, covers));
        Self { epochs: Epochs::default(), shared, database, following }
    }

    /// These were written: nothing older comes from memory from now on, nor from the shared store: until that has been told,
    /// they are in doubt here. Whoever acknowledges a write waits for what is given back.
    #[must_use = "others may still get older results"]
    pub fn written(&self, touched: &Touched) -> Option<Telling> {
        let Some(shared) = self.shared.as_ref().filter(|_| !touched.is_nothing()) else {
            self.epochs.invalidate(touched);
            return None;
        };
        let doubt = self.epochs.doubt(touched);
        self.epochs.invalidate(touched);
        let (telling, database, touched) = (Arc::clone(shared), Arc::clone(&self.database), touched.clone());
        Some(shared.spawn(async move {
            // Where it is owed, nothing is found there any more.
            let _ = telling.invalidate(&database, &touched).await;
            doubt.end();
        }))
    }

    /// Somebody's commit has been seen before anybody has told of it: nothing older comes from memory from now on.
    pub fn seen(&self) {
        self.epochs.invalidate_all();
        if let Some(shared) = &self.shared {
            // By then it has been told, or nothing is served.
            shared.hold(&self.database, Instant::now() + shared.told_within);
        }
    }
}

impl Subscriber for Memory {
    fn written(&self, touched: &Touched) {
        drop(Memory::written(self, touched));
    }

    fn begun(&self) {
        self.epochs.invalidate_all();
        if let Some(shared) = &self.shared {
            shared.begun(&self.database);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            shared.leave(&self.database, self.following);
        }
    }
}
