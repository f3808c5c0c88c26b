//! What each worker keeps of texts and of what they do, so that it is found out once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use ahash::HashMap;

use super::Proxy;
use super::routing::Routing;
use crate::cache::Verdicts;
use crate::catalog::Reader;
use crate::control::Database;
use crate::route::{self, Plan};
use crate::session::Session;
use crate::sql::memo::{Classified, Deferred, MemoLimits};
use crate::sql::{self, Analysis, Classes};

/// What the clients of one worker know of texts: taken by one of them at a time, for as long as a decision takes.
#[derive(Debug)]
pub(super) struct Memos {
    texts: sql::Memo,
    /// By the database's address, which is nobody else's as long as its plans are here.
    plans: HashMap<usize, Plans>,
}

/// What is known of texts in one database.
#[derive(Debug)]
pub(super) struct Plans {
    database: Weak<Database>,
    pub(super) reader: Reader,
    memo: route::Memo,
    pub(super) verdicts: Verdicts,
    /// Changes of the catalog that clients with prepared statements know of.
    pub(super) changes: u64,
}

impl Default for Memos {
    fn default() -> Self {
        Self { texts: sql::Memo::new(MemoLimits::default()), plans: HashMap::default() }
    }
}

impl Memos {
    /// The classes of a text; what takes too long is Opaque until the parser's thread has learnt it.
    pub(super) fn classify(
        &mut self,
        text: &[u8],
        lexing: sql::Lexing,
        proxy: &Proxy,
        worker: usize,
    ) -> Classified {
        let mut classified = self.texts.classify(text, lexing);
        if let (Some(deferred), Some(parser)) = (classified.deferred.take(), &proxy.parser) {
            parser.parse(worker, deferred);
        }
        classified
    }

    /// What a text says.
    pub(super) fn analyze(&mut self, text: &[u8], lexing: sql::Lexing) -> Arc<Analysis> {
        self.texts.analyze(text, lexing)
    }

    /// Takes what the parser's thread has found.
    pub(super) fn learn(&mut self, deferred: &Deferred, classes: Classes) {
        self.texts.learn(deferred, classes);
    }

    pub(super) fn plan(
        &mut self,
        routing: &mut Routing,
        session: &Session,
        analysis: &Analysis,
        classes: &Arc<Classes>,
    ) -> Arc<Plan> {
        let plans = self.plans_of(&routing.database);
        let path = match plans.reader.current() {
            Ok(catalog) => routing.search_path(session, catalog),
            Err(_) => None,
        };
        plans.memo.plan(&mut plans.reader, &routing.database.floors, analysis, classes, path.as_ref())
    }

    pub(super) fn plans_of(&mut self, database: &Arc<Database>) -> &mut Plans {
        let key = Arc::as_ptr(database).addr();
        if !self.plans.contains_key(&key) {
            // Those of databases that nobody uses any more go.
            self.plans.retain(|_, plans| plans.database.strong_count() > 0);
            let plans = Plans {
                database: Arc::downgrade(database),
                reader: Reader::new(Arc::clone(&database.catalog)),
                memo: route::Memo::default(),
                verdicts: Verdicts::default(),
                changes: database.catalog.changes(),
            };
            self.plans.insert(key, plans);
        }
        self.plans.get_mut(&key).expect("it was just put there")
    }
}

/// One for each worker.
pub(super) fn memos(workers: usize) -> Arc<[Mutex<Memos>]> {
    (0..workers.max(1)).map(|_| Mutex::default()).collect()
}

/// Locks one; what a panic left behind is a memo like any other.
pub(super) fn lock(memos: &[Mutex<Memos>], worker: usize) -> MutexGuard<'_, Memos> {
    memos[worker % memos.len()].lock().unwrap_or_else(PoisonError::into_inner)
}
