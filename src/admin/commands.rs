//! What the console asks of the running program.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, oneshot};

/// Requests to reload and to shut down.
#[derive(Clone, Debug, Default)]
pub struct Commands(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    reload: Notify,
    shutdown: Notify,
    /// Those who asked for a reload and wait for its outcome.
    waiting: Mutex<Vec<oneshot::Sender<Result<(), String>>>>,
}

impl Commands {
    /// Asks for a reload and waits for its outcome; `Err` holds the mistakes in the configuration.
    pub async fn reload(&self) -> Result<(), String> {
        let (sender, receiver) = oneshot::channel();
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        self.0.reload.notify_one();
        receiver.await.unwrap_or_else(|_| Err("Weir is ending".to_owned()))
    }

    /// Asks for the end.
    pub fn request_shutdown(&self) {
        self.0.shutdown.notify_one();
    }

    /// Waits for a request to reload.
    pub async fn reload_requested(&self) {
        self.0.reload.notified().await;
    }

    /// Tells those who wait how the reload went.
    pub fn reloaded(&self, outcome: &Result<(), String>) {
        let waiting = std::mem::take(&mut *self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        for sender in waiting {
            let _ = sender.send(outcome.clone());
        }
    }

    /// Waits for a request to end.
    pub async fn shutdown_requested(&self) {
        self.0.shutdown.notified().await;
    }
}
