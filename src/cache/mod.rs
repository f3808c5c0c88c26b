//! The cache of results: what may be kept (`rule`), what tells results apart (`key`), how long they are true (`epochs`),
//! which are worth keeping (`admission`), how they are taken (`fill`, `flight`) and where they are (`store`). Pure.
//!
//! How the loop of seven verbs uses it:
//!
//! - **analyze**: a plan's [`Verdict`] is kept by worker ([`Verdicts`]): whether its results may be kept, and the epochs
//!   that they depend on.
//! - **decide**: [`Store::find`]; if nothing is there, [`Store::board`] *before the route is chosen*: so whoever sees the
//!   new epoch of a write sees its floor too.
//! - **relay**: a [`Recorder`] takes a copy, which [`Flight::land`] keeps unless the epochs have moved.
//! - a write: floor, then [`Epochs::invalidate`], then the answer to its client; from when it may be committed until
//!   then it is in [`Doubt`].

mod admission;
mod epochs;
mod fill;
mod flight;
mod key;
mod reason;
mod rule;
mod shapes;
mod store;
mod verdict;

pub use admission::Doorkeeper;
pub use epochs::{Doubt, Epochs, Stamp, Watch};
pub use fill::{Recorded, Recorder};
pub use flight::Landing;
pub use key::{KEY_BYTES_MAX, Key, KeyView, Request, Scope};
pub use reason::{Counts, Outcome, Reason};
pub use rule::{Terms, may_keep, rules_for, terms};
pub use shapes::{Shape, ShapeSnapshot, Shapes};
pub use store::{Boarded, Entry, Fetched, Flight, Found, Store, Validity};
pub use verdict::{Evidence, Verdict, Verdicts};

use std::sync::Arc;

use ahash::RandomState;

use crate::config::CacheSettings;

/// All of it that is shared by all clients.
#[derive(Debug)]
pub struct Cache {
    /// The results.
    pub store: Arc<Store>,
    /// Which statements are hot.
    pub doorkeeper: Doorkeeper,
    /// Whose results could not be kept.
    pub not_kept: Doorkeeper,
    /// How it has done.
    pub counts: Arc<Counts>,
    /// How it has done by shape.
    pub shapes: Shapes,
    /// Keyed: nobody can make keys meet.
    pub hasher: RandomState,
}

impl Cache {
    /// An empty one; `None` if it is off.
    pub fn new(settings: &CacheSettings) -> Option<Arc<Self>> {
        let counts: Arc<Counts> = Arc::default();
        settings.enabled.then(|| {
            Arc::new(Self {
                store: Arc::new(Store::new(settings.bytes, settings.max_entry, Arc::clone(&counts))),
                doorkeeper: Doorkeeper::default(),
                not_kept: Doorkeeper::default(),
                counts,
                shapes: Shapes::default(),
                hasher: RandomState::new(),
            })
        })
    }
}
