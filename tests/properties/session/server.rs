//! A server connection of the modelled pool: cleaning it, and looking whether it is clean.

use std::collections::BTreeMap;

use weir::pg::{GucName, ProcessId, TransactionStatus};
use weir::session::{Placeholders, ServerState, Value};
use weir::wire::frame::{self, MESSAGE_BYTES_MAX, Next};
use weir::wire::{backend as tags, build};

use super::backend::Backend;
use super::settings::canonical;

/// A server connection.
pub(super) struct Server {
    pub(super) id: u64,
    pub(super) backend: Backend,
    pub(super) state: ServerState,
    pub(super) input: Vec<u8>,
    pub(super) last_client: ProcessId,
    pub(super) is_free: bool,
}

/// `Server::cleaned`.
pub(super) fn clean(server: &mut Server, status: TransactionStatus) -> bool {
    let mut status = status;
    if !server.state.is_drained() {
        let mut ready_owed = server.state.abandon(&mut server.backend.input);
        while ready_owed > 0 {
            let Some((tag, body)) = next_answer(server) else { return false };
            match tag {
                tags::READY_FOR_QUERY => {
                    status = tags::ready_for_query(&body).expect("the model is right");
                    ready_owed -= 1;
                }
                tags::PARAMETER_STATUS => server.state.take_report(&body),
                _ => {}
            }
        }
    }
    if status != TransactionStatus::Idle && !run_query(server, b"ROLLBACK") {
        return false;
    }
    if !run_query(server, b"DISCARD ALL") {
        return false;
    }
    server.state.discarded();
    true
}

/// `Server::run`.
fn run_query(server: &mut Server, sql: &[u8]) -> bool {
    build::query(&mut server.backend.input, sql);
    let mut failed = false;
    while let Some((tag, body)) = next_answer(server) {
        match tag {
            tags::ERROR => failed = true,
            tags::PARAMETER_STATUS => server.state.take_report(&body),
            tags::READY_FOR_QUERY => return !failed && body == b"I",
            _ => {}
        }
    }
    false
}

fn next_answer(server: &mut Server) -> Option<(u8, Vec<u8>)> {
    loop {
        server.input.append(&mut server.backend.output);
        if let Ok(Next::Frame(message)) = frame::next(&server.input, MESSAGE_BYTES_MAX) {
            let (answer, bytes) = ((message.tag, message.body().to_vec()), message.bytes.len());
            server.input.drain(..bytes);
            return Some(answer);
        }
        if !server.backend.is_busy() {
            return None;
        }
        server.backend.step();
    }
}

/// What of its last client a free server connection still has, or where it is not what Weir takes it for.
pub(super) fn dirt(server: &mut Server) -> Option<String> {
    // A Flush, or data for a COPY that failed, may still be on its way.
    while server.backend.is_busy() {
        server.backend.step();
    }
    let backend = &server.backend;
    let found = [
        (
            "bytes to be read",
            !backend.input.is_empty() || !backend.output.is_empty() || !server.input.is_empty(),
        ),
        ("replies owed", !server.state.is_drained()),
        (
            "an open transaction",
            backend.transaction.is_some() || backend.is_copying_in() || backend.is_skipping(),
        ),
        ("temporary tables", !backend.objects.temporary.is_empty()),
        ("channels", backend.heard > 0),
        ("advisory locks", !backend.locks.is_empty()),
        ("cursors", !backend.portals.is_empty()),
        ("statements of SQL PREPARE", backend.statements.values().any(|prepared| prepared.from_sql)),
    ];
    if let Some((what, _)) = found.iter().find(|(_, is_there)| *is_there) {
        return Some((*what).to_owned());
    }
    let settings = &server.state.settings;
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let names = settings.shown_names().chain(settings.custom_names()).cloned().chain([GucName::new("role")]);
    for name in names {
        if let Some(value) = settings.value(&name) {
            known.insert(name.to_string(), plain(value));
        }
    }
    if known != backend.settings.session {
        return Some(format!("settings {:?} where {known:?} are noted", backend.settings.session));
    }
    let mut placeholders = Placeholders::default();
    backend.settings.placeholders().for_each(|name| placeholders.note(&GucName::new(name)));
    if !server.state.placeholders.cover(&placeholders) {
        return Some("a custom setting that is not noted".to_owned());
    }
    let ours = backend.statements.keys().filter(|name| !name.is_empty() && *name != "weir_scratch").count();
    if ours != server.state.prepared.len() {
        return Some(format!("{ours} statements where {} are noted", server.state.prepared.len()));
    }
    None
}

/// A setting's value without quotes.
fn plain(value: &Value) -> String {
    let (Value::Source(text) | Value::Literal(text) | Value::Quoted(text)) = value;
    canonical(String::from_utf8_lossy(text).trim_matches('\'').to_owned())
}
