//! One flight: of clients that miss the same key at once, one fetches, and the others wait for what it brings.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

/// Where those wait who want what is being fetched. It tells them only that the flight is over, not how: they look again.
#[derive(Clone, Debug, Default)]
pub struct Landing(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    is_over: bool,
    /// One per waiting client.
    wakers: Vec<Waker>,
}

impl Landing {
    /// Waits for the end of the flight.
    pub fn poll(&self, context: &Context<'_>) -> Poll<()> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_over {
            return Poll::Ready(());
        }
        if !waiting.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            waiting.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }

    /// It is over.
    pub(super) fn land(&self) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.is_over = true;
        waiting.wakers.drain(..).for_each(Waker::wake);
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
