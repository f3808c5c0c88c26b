//! What the routes of the application cost, by the tags in its comments: how many statements one request runs, and how long
//! these take. The application's own view of itself, seen from the database.
//!
//! A request is a trace; without one, a transaction. In autocommit without a trace each statement counts as a request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::HashMap;

use super::record::{Record, Served};
use super::tags::Tags;

/// Routes at most; the one that was seen least lately goes.
const ROUTES_MAX: usize = 500;

/// Requests of one route that may be under way at once, and are not counted twice.
const OPEN_MAX: usize = 32;

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// As [`Tags::route`] says it.
    pub name: Arc<str>,
    /// Statements.
    pub statements: u64,
    /// Of these, those that memory answered.
    pub from_cache: u64,
    /// Those that failed.
    pub errors: u64,
    /// Requests.
    pub requests: u64,
    /// How long its statements took in all, waiting included.
    pub total: Duration,
    /// When it was last seen.
    pub last_seen: Instant,
    /// The last requests, as a ring.
    open: Vec<u64>,
    next: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Routes(HashMap<Arc<str>, Route>);

impl Routes {
    /// Counts a statement that has tags.
    pub fn add(&mut self, tags: &Tags, record: &Record) {
        let Some(name) = tags.route() else { return };
        if !self.0.contains_key(&*name) {
            if self.0.len() >= ROUTES_MAX {
                let oldest = self.0.values().min_by_key(|route| route.last_seen);
                if let Some(oldest) = oldest.map(|route| Arc::clone(&route.name)) {
                    self.0.remove(&oldest);
                }
            }
            let name: Arc<str> = name.as_str().into();
            self.0.insert(Arc::clone(&name), Route::new(name, record.ended));
        }
        if let Some(route) = self.0.get_mut(&*name) {
            route.add(record);
        }
    }

    /// Those that took most time first.
    pub fn list(&self) -> Vec<&Route> {
        let mut routes: Vec<&Route> = self.0.values().collect();
        routes.sort_by(|a, b| b.total.cmp(&a.total).then_with(|| a.name.cmp(&b.name)));
        routes
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Route {
    fn new(name: Arc<str>, now: Instant) -> Self {
        Self {
            name,
            statements: 0,
            from_cache: 0,
            errors: 0,
            requests: 0,
            total: Duration::ZERO,
            last_seen: now,
            open: Vec::new(),
            next: 0,
        }
    }

    fn add(&mut self, record: &Record) {
        self.statements += 1;
        self.from_cache += u64::from(record.served == Served::Cache);
        self.errors += u64::from(record.sqlstate.is_some());
        self.total += record.total;
        self.last_seen = self.last_seen.max(record.ended);
        let request = request(record);
        if self.open.contains(&request) {
            return;
        }
        self.requests += 1;
        if self.open.len() < OPEN_MAX {
            self.open.push(request);
        } else {
            self.open[self.next] = request;
            self.next = (self.next + 1) % OPEN_MAX;
        }
    }
}

/// A number for the request that a statement belongs to.
fn request(record: &Record) -> u64 {
    match record.trace {
        #[expect(clippy::cast_possible_truncation, reason = "both halves are in it")]
        Some(trace) => (trace.trace ^ (trace.trace >> 64)) as u64,
        None => u64::from(record.client.process) << 32 | u64::from(record.transaction.number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insight::record::{Cached, Client, Transaction};
    use crate::insight::tags::Trace;
    use crate::route::Reason;
    use crate::sql::Fingerprint;

    fn record(trace: Option<u128>, process: u32, transaction: u32) -> Record {
        #[expect(clippy::disallowed_methods, reason = "an Instant is had in no other way")]
        let now = Instant::now();
        Record {
            fingerprint: Fingerprint(1),
            client: Arc::new(Client { process, ..Client::default() }),
            ended: now,
            total: Duration::from_millis(2),
            queue: Duration::ZERO,
            server: Duration::from_millis(2),
            first: Duration::ZERO,
            rows: 1,
            bytes: 1,
            gives_rows: true,
            served: Served::Primary(None),
            reason: Reason::NoSplitting,
            cached: Cached::Bypass,
            sqlstate: None,
            transaction: Transaction { number: transaction, ..Transaction::default() },
            values: 0,
            tags: None,
            trace: trace.map(|trace| Trace { trace, span: 1 }),
            slow: None,
            details: None,
        }
    }

    fn tags(route: &str) -> Tags {
        Tags::new([("route".to_owned(), route.to_owned())])
    }

    #[test]
    fn a_request_is_a_trace_or_a_transaction() {
        let mut routes = Routes::default();
        // Two requests that are under way at once, on two connections each.
        for turn in 0..4 {
            for trace in [7, 8] {
                routes.add(&tags("/a"), &record(Some(trace), turn % 2, turn));
            }
        }
        for transaction in [1, 1, 1, 2, 2, 2] {
            routes.add(&tags("/b"), &record(None, 1, transaction));
        }
        routes.add(&Tags::default(), &record(None, 1, 3));
        let list: Vec<_> =
            routes.list().iter().map(|route| (&*route.name, route.statements, route.requests)).collect();
        assert_eq!(list, [("/a", 8, 2), ("/b", 6, 2)]);
        assert_eq!(routes.list()[0].total, Duration::from_millis(16));
    }

    #[test]
    fn routes_are_bounded() {
        let mut routes = Routes::default();
        for number in 0..2 * ROUTES_MAX {
            routes.add(&tags(&number.to_string()), &record(None, 1, 1));
        }
        assert_eq!(routes.list().len(), ROUTES_MAX);
    }
}
