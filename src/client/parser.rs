//! The thread that parses texts which are too long for an event loop: its stack is as deep as any of them is nested.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use super::memos::{Memos, lock};
use crate::sql::limits::PARSE_STACK_BYTES;
use crate::sql::memo::Deferred;

/// Texts that wait. What finds no place stays on the primary until its worker's memo has forgotten it.
const QUEUE_MAX: usize = 256;

/// A text, and the worker whose clients sent it.
type Question = (usize, Box<Deferred>);

/// See the module. The thread ends with it.
#[derive(Debug)]
pub(super) struct Parser {
    queue: SyncSender<Question>,
}

impl Parser {
    /// Starts the thread, which tells each worker's memo what it has found.
    pub(super) fn start(memos: Arc<[Mutex<Memos>]>) -> std::io::Result<Self> {
        let (queue, questions) = sync_channel(QUEUE_MAX);
        let thread = thread::Builder::new().name("weir-parser".to_owned()).stack_size(PARSE_STACK_BYTES);
        thread.spawn(move || run(&questions, &memos))?;
        Ok(Self { queue })
    }

    /// Has it parsed, some time soon.
    pub(super) fn parse(&self, worker: usize, deferred: Box<Deferred>) {
        if self.queue.try_send((worker, deferred)).is_err() {
            tracing::warn!(
                waiting = QUEUE_MAX,
                "too many long statements are to be parsed: one stays on the primary"
            );
        }
    }
}

fn run(questions: &Receiver<Question>, memos: &[Mutex<Memos>]) {
    while let Ok((worker, deferred)) = questions.recv() {
        // What the parser cannot take stays opaque.
        if let Ok(classes) = catch_unwind(AssertUnwindSafe(|| deferred.run())) {
            lock(memos, worker).learn(&deferred, classes);
        } else {
            tracing::error!("the parser has panicked: a statement stays on the primary");
        }
    }
}
