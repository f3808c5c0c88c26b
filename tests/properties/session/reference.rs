//! What a client would see with a backend of its own.

use std::fmt;

use weir::pg::ProcessId;
use weir::wire::{build, frontend};

use super::backend::Backend;
use super::conversation::{Client, End, Step};
use super::exclusions;
use super::proxy::messages;

/// What a client does.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// It sends these, as they may be cut.
    Bytes(Vec<u8>),
    /// It reads until it has had so many messages.
    Wait(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes to send", bytes.len()),
            Self::Wait(count) => write!(f, "{count} messages to come"),
        }
    }
}

/// A conversation with a backend of its own.
#[derive(Debug)]
pub(super) struct Reference {
    pub(super) process: ProcessId,
    pub(super) parts: Vec<Part>,
    /// What is answered.
    pub(super) messages: Vec<Vec<u8>>,
    /// Rows of `log` committed.
    pub(super) committed: Vec<String>,
    /// Steps that were left out, with the reason.
    pub(super) excluded: Vec<(usize, &'static str)>,
}

impl Reference {
    /// Runs it; what is excluded is not sent.
    pub(super) fn new(index: usize, client: &Client) -> Self {
        let process = ProcessId(1 + u32::try_from(index).unwrap());
        let mut backend = Backend::new(process, &client.startup);
        let mut parts = Vec::new();
        let mut excluded = Vec::new();
        // Only Sync, Flush and simple queries oblige a server to answer: a wait is for no more than those called for.
        let mut due = 0;
        let closing = [Step::CopyFail, Step::Sync];
        let closing = if client.end == End::Politely { &closing[..] } else { &[] };
        for (number, step) in client.steps.iter().chain(closing).enumerate() {
            if backend.is_closed {
                break;
            }
            let Some((tag, body)) = step.message() else {
                parts.push(Part::Wait(due));
                backend.amid_copy = false;
                backend.has_failed = backend.is_failed();
                continue;
            };
            if let Some(reason) = exclusions::reason(client, &backend, step) {
                excluded.push((number, reason));
                continue;
            }
            if !matches!(parts.last(), Some(Part::Bytes(_))) {
                parts.push(Part::Bytes(Vec::new()));
            }
            if let Some(Part::Bytes(bytes)) = parts.last_mut() {
                step.encode(bytes);
            }
            backend.take(tag, &body);
            backend.has_failed |= backend.is_failed();
            if !matches!(
                tag,
                frontend::PARSE | frontend::BIND | frontend::DESCRIBE | frontend::EXECUTE | frontend::CLOSE
            ) {
                due = messages(&backend.output).len();
            }
            if exclusions::must_wait(client, step) {
                parts.push(Part::Wait(due));
            }
        }
        if client.end == End::Politely {
            parts.push(Part::Wait(messages(&backend.output).len()));
        }
        if matches!(client.end, End::Politely | End::Terminate) {
            let mut bytes = Vec::new();
            build::empty(&mut bytes, frontend::TERMINATE);
            parts.push(Part::Bytes(bytes));
        }
        // Weir may answer before it must.
        backend.flush();
        Self { process, parts, messages: messages(&backend.output), committed: backend.committed, excluded }
    }
}
