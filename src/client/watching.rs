//! What a client runs, told to its watch (`crate::insight`) as the relay passes it on; and what memory answers.

use std::sync::Arc;
use std::time::Instant;

use super::conversation::Conversation;
use super::relay::Relay;
use super::routing::Tagged;
use super::{Handle, Proxy};
use crate::cache::Entry;
use crate::insight::record::{Cached, Noting, Served};
use crate::insight::watch::{Answer, Hit};
use crate::insight::{Client, Watch};
use crate::net::Peer;
use crate::pg::{HostId, TransactionStatus};
use crate::route::Reason;
use crate::session::{Answering, Message, ServerState, Session, Verdict};
use crate::sql::Fingerprint;
use crate::wire::frame::Frame;
use crate::wire::{backend, frontend};

/// The watch of a client, if statements are watched.
pub(super) fn watch(proxy: &Proxy, handle: &Handle, worker: usize) -> Option<Box<Watch>> {
    let insight = proxy.insight.as_ref()?;
    let tenant = &handle.tenant;
    let client = Client {
        process: handle.process.0,
        database: tenant.database.as_str().into(),
        dbname: tenant.dbname().into(),
        database_key: Fingerprint::of(tenant.dbname().as_bytes()).0,
        user: tenant.user.as_str().into(),
        application: handle.application_name.clone(),
        address: match handle.peer {
            Peer::Tcp(address) => Some(address),
            Peer::Unix => None,
        },
        noting: Noting::default(),
    };
    Some(Box::new(insight.watch(client, worker, handle.connected)))
}

/// A message of the client is about to be taken.
#[inline]
pub(super) fn note_unit(watch: &mut Watch, tag: u8, state: &ServerState, session: &Session) {
    let begins = matches!(
        tag,
        frontend::QUERY
            | frontend::PARSE
            | frontend::BIND
            | frontend::DESCRIBE
            | frontend::EXECUTE
            | frontend::CLOSE
            | frontend::FUNCTION_CALL
    );
    if begins && !state.is_in_batch() {
        watch.unit(session.status() == TransactionStatus::Idle);
    }
}

/// A message of the client was taken; `owed`: what the server owed before.
#[inline]
pub(super) fn note_sent(
    watch: &mut Watch,
    message: Message<'_>,
    state: &ServerState,
    owed: usize,
    session: &mut Session,
) {
    let is_owed = state.owed() > owed;
    match message.tag {
        frontend::BIND => {
            if let Ok(bind) = frontend::bind(message.body) {
                watch.bind(bind.portal.is_empty(), bind.rest);
            }
        }
        frontend::QUERY if is_owed => match session.take_queried() {
            Some(analysis) => watch.query(frontend::same_query(message.body), analysis, session.lexing()),
            None => watch.sync(),
        },
        frontend::EXECUTE if is_owed => {
            if let Some(statement) = state.last_executed() {
                watch.execute(statement);
            }
        }
        frontend::SYNC | frontend::FUNCTION_CALL if is_owed => watch.sync(),
        _ => {}
    }
}

impl Relay<'_> {
    /// A message of the server was looked at, and this became of it; `end` is where it ends in the input.
    #[inline]
    pub(super) fn note_answered(
        &mut self,
        tag: u8,
        answering: Answering,
        (verdict, is_ready): (Verdict, bool),
        body: (usize, usize),
    ) {
        let Some(watch) = &mut self.watch else { return };
        if answering == Answering::Ours {
            watch.passed(self.down + body.1 as u64);
            return;
        }
        let input = self.lease.connection.input();
        let whole = input.get(body.0..body.1).unwrap_or_default();
        let answer = match tag {
            backend::COMMAND_COMPLETE => {
                let text = whole.get(5..).unwrap_or_default();
                Answer::Complete(text.strip_suffix(b"\0").unwrap_or(text))
            }
            backend::EMPTY_QUERY => Answer::Empty,
            backend::PORTAL_SUSPENDED => Answer::Suspended,
            // What is mended and run again, the client does not hear of.
            backend::ERROR if verdict == Verdict::Replace && self.before.is_empty() => return,
            backend::ERROR => {
                let view = whole.get(5..).and_then(|body| backend::error(body).ok());
                Answer::Error(view.and_then(|view| view.code))
            }
            backend::READY_FOR_QUERY if is_ready => Answer::Ready,
            _ => return,
        };
        watch.answered(answer, self.down + body.1 as u64, self.session.settings());
    }
}

/// Whether a message of this type ends something.
#[inline]
pub(super) fn ends_something(frame: Frame<'_>) -> bool {
    matches!(
        frame.tag,
        backend::COMMAND_COMPLETE
            | backend::EMPTY_QUERY
            | backend::PORTAL_SUSPENDED
            | backend::ERROR
            | backend::READY_FOR_QUERY
    )
}

impl Conversation {
    /// A unit was answered without a server.
    #[inline]
    pub(super) fn note_unit(&mut self, is_idle: bool) {
        if let Some(watch) = &mut self.watch {
            watch.unit(is_idle);
        }
    }

    /// What was read goes to a server connection from `now` on; it was asked for
    /// at `asked`.
    pub(super) fn watch_begins(
        &mut self,
        replica: Option<HostId>,
        fills: bool,
        asked: Instant,
        now: Instant,
    ) {
        let Some(watch) = &mut self.watch else { return };
        let served = match replica {
            Some(host) => Served::Replica(host),
            None => Served::Primary(self.proxy.hosts.primary()),
        };
        watch.begins(served, if fills { Cached::Fill } else { Cached::Bypass }, asked, now);
    }

    /// Memory has answered a unit.
    #[inline]
    pub(super) fn note_hit(
        &mut self,
        entry: &Arc<Entry>,
        tagged: Option<&Tagged>,
        is_idle: bool,
        now: Instant,
    ) {
        let Some(watch) = &mut self.watch else { return };
        watch.unit(is_idle);
        let rows = &entry.recorded.rows;
        let hit = Hit {
            fingerprint: entry.shape.fingerprint,
            shape: entry.shape.text.as_bytes(),
            // One entry is one set of values.
            values: Arc::as_ptr(entry) as usize as u64,
            tag: rows.strip_suffix(b"\0").unwrap_or(rows),
            bytes: rows.len() as u64,
            reason: Reason::Memory,
            tagged: tagged.map(|(analysis, text)| (&**text, &**analysis)),
        };
        watch.hit(hit, self.session.settings(), now);
    }
}
