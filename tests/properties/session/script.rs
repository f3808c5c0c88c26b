//! Bytes as scripts, for the fuzz target.

use weir::config::PoolMode;
use weir::pg::ProcessId;
use weir::session::{Message, Reported, ServerState, Session, Settings, Shared, Statements};
use weir::wire::frame::{self, MESSAGE_BYTES_MAX, Next};
use weir::wire::{backend, build, frontend};

use super::conversation::{Client, Conversation, End, Step};
use super::generate::{COPY_DATA, NAMES, PARAMETERS, PORTALS, STARTUPS, STATEMENTS};

/// Takes bytes one by one; behind the last there are zeros.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn number(&mut self) -> usize {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(first)
    }

    fn choose<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.number() % list.len()]
    }

    fn text(&mut self, list: &[&str]) -> String {
        self.choose(list).to_owned()
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes.to_vec()
    }
}

/// Any bytes are a conversation.
pub(super) fn conversation(bytes: &[u8]) -> Conversation {
    let mut script = Script(bytes);
    let shape = script.number();
    let clients = (0..=shape / 6 % 3).map(|_| {
        let startup = script.choose(STARTUPS);
        Client {
            startup: startup.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            steps: Vec::new(),
            end: script.choose(&End::ALL),
        }
    });
    let mut conversation = Conversation {
        pool: 1 + shape % 3,
        prepared_max: if shape & 64 == 0 { 2 } else { 100 },
        prepare_unnamed: shape & 128 == 0,
        clients: clients.collect(),
        schedule: Vec::new(),
        breaks_after: None,
    };
    while !script.0.is_empty() {
        let which = script.number();
        let count = conversation.clients.len();
        if which >= 224 {
            let next = script.number();
            conversation.schedule.push(u8::try_from(next).unwrap());
        } else {
            let step = step(which / count, &mut script);
            conversation.clients[which % count].steps.push(step);
        }
    }
    conversation
}

fn step(kind: usize, script: &mut Script<'_>) -> Step {
    match kind % 16 {
        0 | 1 => Step::Query(script.text(STATEMENTS)),
        2 => Step::Query([script.text(STATEMENTS), script.text(STATEMENTS)].join("; ")),
        3 | 4 => Step::Parse { name: script.text(NAMES), text: script.text(STATEMENTS) },
        5 | 6 => Step::Bind {
            portal: script.text(PORTALS),
            statement: script.text(NAMES),
            parameters: script.choose(PARAMETERS).iter().map(|text| (*text).to_owned()).collect(),
        },
        7 | 8 => Step::Execute { portal: script.text(PORTALS), limit: script.choose(&[0, 0, 1, 2]) },
        9 => Step::DescribeStatement(script.text(NAMES)),
        10 => Step::DescribePortal(script.text(PORTALS)),
        11 => Step::CloseStatement(script.text(NAMES)),
        12 | 13 => Step::Sync,
        14 => Step::Wait,
        _ => match script.number() % 5 {
            0 => Step::ClosePortal(script.text(PORTALS)),
            1 => Step::Flush,
            2 => Step::CopyData(script.text(COPY_DATA)),
            3 => Step::CopyDone,
            _ => Step::CopyFail,
        },
    }
}

const FRONTEND: &[u8] = &[
    frontend::QUERY,
    frontend::PARSE,
    frontend::BIND,
    frontend::DESCRIBE,
    frontend::EXECUTE,
    frontend::CLOSE,
    frontend::SYNC,
    frontend::FLUSH,
    frontend::COPY_DATA,
    frontend::COPY_DONE,
    frontend::COPY_FAIL,
    frontend::FUNCTION_CALL,
];

const BACKEND: &[u8] = &[
    backend::READY_FOR_QUERY,
    backend::COMMAND_COMPLETE,
    backend::ERROR,
    backend::PARSE_COMPLETE,
    backend::BIND_COMPLETE,
    backend::CLOSE_COMPLETE,
    backend::ROW_DESCRIPTION,
    backend::NO_DATA,
    backend::DATA_ROW,
    backend::EMPTY_QUERY,
    backend::PORTAL_SUSPENDED,
    backend::COPY_IN,
    backend::COPY_OUT,
    backend::COPY_DONE,
    backend::PARAMETER_STATUS,
    backend::PARAMETER_DESCRIPTION,
    backend::NOTICE,
    backend::NOTIFICATION,
    backend::FUNCTION_CALL,
];

/// Takes bytes as messages of a client and a server that keep to nothing: each is taken or refused.
pub(super) fn survive(bytes: &[u8]) {
    let mut script = Script(bytes);
    let shared = Shared {
        statements: Statements::default(),
        ddl_epoch: std::sync::atomic::AtomicU64::new(0),
        prepare_unnamed: true,
        prepare_simple: true,
        statements_per_client_max: 4,
    };
    let mut session =
        Session::new(ProcessId(1), PoolMode::Transaction, Settings::default(), Reported::default());
    let mut server = ServerState::new(ProcessId(1000), Box::default(), Reported::default(), 2);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    while !script.0.is_empty() {
        let kind = script.number();
        if kind & 1 == 0 {
            let tag = script.choose(FRONTEND);
            let body = frontend_body(tag, kind, &mut script);
            let missing = if kind & 64 == 0 { 0 } else { 100 };
            let message = Message { tag, body: &body, body_bytes: body.len() + missing };
            match session.must_wait(message, &server) {
                Ok(false) => {}
                Ok(true) => continue,
                Err(_) => return,
            }
            if session.frontend(message, &mut server, &shared, &mut before).is_err() {
                return;
            }
        } else {
            let mut bytes = Vec::new();
            let tag = script.choose(BACKEND);
            let body = backend_body(tag, kind, &mut script);
            build::frame(&mut bytes, tag, |out| out.extend_from_slice(&body));
            let Ok(Next::Frame(frame)) = frame::next(&bytes, MESSAGE_BYTES_MAX) else { return };
            let Ok(result) = session.backend(frame, &mut server, &shared, &mut before, &mut after) else {
                return;
            };
            if result.fatal || result.again && session.run_again(&mut server, &shared, &mut after).is_err() {
                return;
            }
        }
        session.inspect(&mut server, &mut after);
        if session.may_release(&server) {
            session.attached(&mut server, kind & 32 == 0);
        }
        before.clear();
        after.clear();
    }
    session.abandon(&mut server);
    server.abandon(&mut after);
}

/// Mostly a body that the message may have.
fn frontend_body(tag: u8, kind: usize, script: &mut Script<'_>) -> Vec<u8> {
    if kind & 0b1100 == 0b1100 {
        let count = script.number() % 24;
        return script.bytes(count);
    }
    let step = match tag {
        frontend::QUERY => Step::Query(script.text(STATEMENTS)),
        frontend::PARSE => step(3, script),
        frontend::BIND => step(5, script),
        frontend::DESCRIBE => step(9 + kind % 2, script),
        frontend::EXECUTE => step(7, script),
        frontend::CLOSE => step(11, script),
        _ => return Vec::new(),
    };
    step.message().map(|(_, body)| body).unwrap_or_default()
}

fn backend_body(tag: u8, kind: usize, script: &mut Script<'_>) -> Vec<u8> {
    if kind & 0b1100 == 0b1100 {
        let count = script.number() % 24;
        return script.bytes(count);
    }
    match tag {
        backend::READY_FOR_QUERY => vec![script.choose(b"ITE")],
        backend::COMMAND_COMPLETE => {
            let tags =
                ["SET", "SELECT 1", "SELECT 0", "DISCARD ALL", "COMMIT", "ROLLBACK", "COPY 1", "PREPARE"];
            [script.text(&tags).as_bytes(), b"\0"].concat()
        }
        backend::ERROR => {
            let severity = if kind & 0b11_0000 == 0b11_0000 { "FATAL" } else { "ERROR" };
            let code = script.text(&["26000", "42P05", "08P01", "0A000", "25P02", "42601"]);
            let message = script.text(&["statement \"weir_1\"", "weir_", "weir_scratch", ""]);
            format!("V{severity}\0C{code}\0M{message}\0RRevalidateCachedQuery\0\0").into_bytes()
        }
        backend::PARAMETER_STATUS => b"DateStyle\0German\0".to_vec(),
        backend::NOTICE => b"SWARNING\0\0".to_vec(),
        _ => Vec::new(),
    }
}
