//! Clients and modelled backends with the session machine between them.
//!
//! What `client::conversation`, `client::relay` and `server::pool` do with sockets is done here with buffers, message for
//! message in the same order. What happens next (who sends how many bytes, which backend takes its next message, how
//! many bytes of its answers arrive) is chosen by the conversation's schedule.

use std::collections::{BTreeMap, VecDeque};

use weir::config::PoolMode;
use weir::pg::ProcessId;
use weir::session::{self, Decision, Reported, ServerState, Session, Settings, Shared, Unit};
use weir::wire::frame::{self, MESSAGE_BYTES_MAX, Next};

use super::backend::Backend;
use super::conversation::{Conversation, End};
use super::reference::{Part, Reference};
use super::server::Server;

/// Something is wrong if a conversation has not ended after so many events.
const EVENTS_MAX: usize = 20_000;
const TRACE_MAX: usize = 5_000;

/// A client as the proxy has it.
#[expect(clippy::struct_excessive_bools, reason = "as in `client::relay`")]
pub(super) struct Client {
    pub(super) session: Session,
    /// What it has still to say.
    pub(super) parts: VecDeque<Part>,
    pub(super) end: End,
    /// What has arrived and was not taken.
    pub(super) input: Vec<u8>,
    /// What it was sent.
    pub(super) received: Vec<u8>,
    pub(super) committed: Vec<String>,
    pub(super) place: Place,
    pub(super) last_server: u64,
    /// Its side is closed; with an error, if it is gone.
    pub(super) is_closed: bool,
    pub(super) is_gone: bool,
    pub(super) leaving: bool,
    pub(super) waiting: bool,
    pub(super) passing_up: usize,
    pub(super) passing_down: usize,
    /// Bytes of its input that the next server connection is for; `None`: whatever it sends.
    pub(super) allowance: Option<usize>,
    /// Its BEGIN goes in front.
    pub(super) opens_block: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Idle,
    /// It wants a server connection.
    Waiting,
    /// It has this one.
    Relaying(usize),
    Out,
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Released,
    Left,
    ClientGone,
    ServerLeft,
    ServerLost,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The server's answers arrive.
    Deliver(usize),
    /// The backend takes a message.
    Step(usize),
    /// A waiting client gets a server connection.
    Acquire(usize),
    /// The client sends.
    Send(usize),
    /// The client closes its side, or is gone.
    Close(usize),
    /// A client that closed its side is waited for no longer.
    GiveUp(usize),
}

/// What one client saw, and what it did.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) messages: Vec<Vec<u8>>,
    pub(super) committed: Vec<String>,
    /// Its server connection broke.
    pub(super) was_cut_off: bool,
}

pub(super) struct Proxy<'a> {
    pub(super) conversation: &'a Conversation,
    /// Blocks are lazy, and reads are sent one by one.
    pub(super) splitting: bool,
    pub(super) shared: Shared,
    pub(super) clients: Vec<Client>,
    pub(super) servers: BTreeMap<usize, Server>,
    pub(super) next_server: usize,
    pub(super) cut_off: Vec<usize>,
    pub(super) trace: Vec<String>,
}

/// Runs a conversation through the machine; an error says what went wrong, and the trace what happened.
pub(super) fn run(
    conversation: &Conversation,
    references: &[Reference],
    splitting: bool,
) -> (Result<Vec<Seen>, String>, Vec<String>) {
    let shared = Shared {
        statements: session::Statements::default(),
        ddl_epoch: std::sync::atomic::AtomicU64::new(0),
        prepare_unnamed: conversation.prepare_unnamed,
        prepare_simple: conversation.prepare_unnamed,
        statements_per_client_max: 3,
    };
    let clients = conversation.clients.iter().zip(references).map(|(client, reference)| {
        let baseline = client.startup.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let view = reported(&Backend::new(reference.process, &client.startup));
        Client {
            session: Session::new(
                reference.process,
                PoolMode::Transaction,
                Settings::from_literals(baseline),
                view,
            ),
            parts: reference.parts.clone().into(),
            end: client.end,
            input: Vec::new(),
            received: Vec::new(),
            committed: Vec::new(),
            place: Place::Idle,
            last_server: 0,
            is_closed: false,
            is_gone: false,
            leaving: false,
            waiting: false,
            passing_up: 0,
            passing_down: 0,
            allowance: None,
            opens_block: false,
        }
    });
    let mut proxy = Proxy {
        conversation,
        splitting,
        shared,
        clients: clients.collect(),
        servers: BTreeMap::new(),
        next_server: 1,
        cut_off: Vec::new(),
        trace: Vec::new(),
    };
    let result = proxy.run();
    let trace = std::mem::take(&mut proxy.trace);
    (result.map(|()| proxy.seen()), trace)
}

fn reported(backend: &Backend) -> Reported {
    let mut reported = Reported::default();
    for (name, value) in backend.settings.told() {
        reported.report(name.as_bytes(), value.as_bytes());
    }
    reported
}

impl Proxy<'_> {
    fn run(&mut self) -> Result<(), String> {
        let mut schedule = self.conversation.schedule.iter();
        for count in 0..EVENTS_MAX {
            if self.conversation.breaks_after == Some(count) {
                self.break_server()?;
            }
            let enabled = self.enabled();
            if enabled.is_empty() {
                return self.at_rest();
            }
            // The number chooses the event by its remainder, and how many bytes move by the rest.
            let number = usize::from(schedule.next().copied().unwrap_or(0));
            let event = enabled[number % enabled.len()];

            self.act(event, number / enabled.len())?;
        }
        Err("it does not end".to_owned())
    }

    /// Nothing can happen any more: then everybody has left.
    fn at_rest(&self) -> Result<(), String> {
        for (index, client) in self.clients.iter().enumerate() {
            if client.place != Place::Out {
                let next = client.parts.front().map_or("nothing".to_owned(), Part::to_string);
                return Err(format!("client {index} waits for ever as {:?}; its next: {next}", client.place));
            }
        }
        Ok(())
    }

    fn seen(self) -> Vec<Seen> {
        let cut_off = self.cut_off;
        let seen = |(index, client): (usize, Client)| Seen {
            messages: messages(&client.received),
            committed: client.committed,
            was_cut_off: cut_off.contains(&index),
        };
        self.clients.into_iter().enumerate().map(seen).collect()
    }

    pub(super) fn holder(&self, server: usize) -> Option<usize> {
        self.clients.iter().position(|client| client.place == Place::Relaying(server))
    }

    fn enabled(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (&index, server) in &self.servers {
            if !server.backend.output.is_empty() || server.backend.is_closed {
                events.push(Event::Deliver(index));
            }
            if server.backend.is_busy() {
                events.push(Event::Step(index));
            }
        }
        for (index, client) in self.clients.iter().enumerate() {
            let is_read = !client.leaving && !client.waiting && client.place != Place::Waiting;
            match client.place {
                Place::Out => continue,
                Place::Waiting if self.may_acquire(client) => events.push(Event::Acquire(index)),
                _ => {}
            }
            match client.parts.front() {
                Some(Part::Bytes(_)) if is_read => events.push(Event::Send(index)),
                Some(Part::Wait(count)) if messages(&client.received).len() >= *count => {
                    events.push(Event::Send(index));
                }
                None if !client.is_closed && (is_read || client.end == End::Vanish) => {
                    events.push(Event::Close(index));
                }
                None if client.leaving && client.is_closed && matches!(client.place, Place::Relaying(_)) => {
                    events.push(Event::GiveUp(index));
                }
                _ => {}
            }
        }
        events
    }

    fn act(&mut self, event: Event, number: usize) -> Result<(), String> {
        match event {
            Event::Send(index) => {
                let client = &mut self.clients[index];
                match client.parts.front_mut() {
                    Some(Part::Bytes(bytes)) => {
                        let count = if number == 0 { bytes.len() } else { number.min(bytes.len()) };
                        client.input.extend(bytes.drain(..count));
                        if bytes.is_empty() {
                            client.parts.pop_front();
                        }
                        self.trace.push(format!("client {index} sends {count} bytes"));
                    }
                    _ => drop(client.parts.pop_front()),
                }
                self.go_on(index)
            }
            Event::Step(index) => {
                let Some(server) = self.servers.get_mut(&index) else { return Ok(()) };
                let bytes = match frame::next(&server.backend.input, MESSAGE_BYTES_MAX) {
                    Ok(Next::Frame(message)) => message.bytes.to_vec(),
                    _ => Vec::new(),
                };
                server.backend.step();
                self.trace.push(format!("server {index} takes {}", show_frontend(&bytes)));
                self.note_commits(index);
                Ok(())
            }
            Event::Deliver(index) => self.deliver(index, number),
            Event::Acquire(index) => {
                self.acquire(index);
                self.go_on(index)
            }
            Event::Close(index) => {
                let client = &mut self.clients[index];
                client.is_closed = true;
                client.is_gone = client.end == End::Vanish;
                self.trace.push(format!("client {index} goes"));
                self.go_on(index)
            }
            Event::GiveUp(index) => self.end_relay(index, Ended::ClientGone),
        }
    }

    pub(super) fn note_commits(&mut self, server: usize) {
        let holder = self.holder(server);
        let Some(server) = self.servers.get_mut(&server) else { return };
        let committed = std::mem::take(&mut server.backend.committed);
        if let Some(holder) = holder {
            self.clients[holder].committed.extend(committed);
        }
    }

    /// The loop of `client::conversation`, and the part of `client::relay` that looks at the client.
    pub(super) fn go_on(&mut self, index: usize) -> Result<(), String> {
        while self.trace.len() < TRACE_MAX {
            let client = &mut self.clients[index];
            match client.place {
                Place::Out | Place::Waiting => return Ok(()),
                Place::Idle => match session::unit(&client.input, 0, MESSAGE_BYTES_MAX).map_err(odd)? {
                    Unit::Ready { bytes } => {
                        match session::decide(&mut client.session, &client.input[..bytes]).map_err(odd)? {
                            Decision::Leave => client.place = Place::Out,
                            Decision::Here { answer, reason } => {
                                self.trace.push(format!("client {index} is answered: {}", reason.as_str()));
                                client.received.extend_from_slice(&answer);
                                client.input.drain(..bytes);
                            }
                            Decision::Server if self.splitting && self.is_answered(index, bytes)? => {}
                            Decision::Server => {
                                let client = &mut self.clients[index];
                                client.place = Place::Waiting;
                                if self.conversation.clients.len() == 1 {
                                    self.acquire(index);
                                }
                            }
                        }
                    }
                    Unit::Incomplete(_) => {
                        if client.is_closed {
                            client.place = Place::Out;
                        }
                        return Ok(());
                    }
                },
                Place::Relaying(server) => {
                    self.take_from_client(index, server)?;
                    if self.is_released(index, server) {
                        self.end_relay(index, Ended::Released)?;
                        continue;
                    }
                    let client = &mut self.clients[index];
                    let state = &self.servers[&server].state;
                    if client.allowance == Some(0) && state.is_drained() && !client.session.may_release(state)
                    {
                        // What was decided on has left something that keeps the client here.
                        client.allowance = None;
                        client.session.set_reading(false);
                        continue;
                    }
                    let owes_nothing = !state.owes_ready() || state.is_copying_in();
                    if client.leaving && owes_nothing {
                        return self.end_relay(index, Ended::Left);
                    }
                    if client.is_gone {
                        return self.end_relay(index, Ended::ClientGone);
                    }
                    if client.is_closed && !client.leaving && !client.waiting {
                        client.leaving = true;
                        continue;
                    }
                    return Ok(());
                }
            }
        }
        Err("it goes round in a circle".to_owned())
    }

    fn may_acquire(&self, client: &Client) -> bool {
        let full = self.servers.len() >= self.conversation.pool;
        let _ = client;
        !full || self.servers.values().any(|server| server.is_free)
    }

    /// `Pool::try_acquire` and `Conversation::acquire`.
    fn acquire(&mut self, index: usize) {
        if !self.may_acquire(&self.clients[index]) {
            return;
        }
        let client = &self.clients[index];
        let fits = |server: &Server| {
            server.is_free
                && !server.backend.is_closed
                && client.session.placeholders().cover(&server.state.placeholders)
        };
        // Not the one that it had last: that would hide what does not follow it.
        let found = self.servers.iter().filter(|(_, server)| fits(server));
        let found =
            found.min_by_key(|(_, server)| server.last_client == client.session.process).map(|(&at, _)| at);
        let at = found.unwrap_or_else(|| self.open());
        let client = &mut self.clients[index];
        let Some(server) = self.servers.get_mut(&at) else { return };
        server.is_free = false;
        let same = server.id == client.last_server && server.last_client == client.session.process;
        server.last_client = client.session.process;
        client.session.attached(&mut server.state, same);
        client.last_server = server.id;
        client.place = Place::Relaying(at);
        client.session.set_reading(client.allowance.is_some());
        client.session.tell_settings_unless_changed(&mut server.state, &mut client.received);
        if client.opens_block {
            client.session.open_block(&client.input, &mut server.state, &mut server.backend.input);
        }
        self.trace.push(format!("client {index} gets server {at}"));
    }

    /// Opens a server connection; one that is free and fits nobody makes room.
    fn open(&mut self) -> usize {
        if self.servers.len() >= self.conversation.pool
            && let Some(at) = self.servers.iter().find(|(_, server)| server.is_free).map(|(&at, _)| at)
        {
            self.servers.remove(&at);
        }
        let at = self.next_server;
        self.next_server += 1;
        let process = ProcessId(1000 + u32::try_from(at).unwrap());
        let backend = Backend::new(process, &[]);
        let state =
            ServerState::new(process, Box::default(), reported(&backend), self.conversation.prepared_max);
        let server = Server {
            id: at as u64,
            backend,
            state,
            input: Vec::new(),
            last_client: ProcessId(0),
            is_free: true,
        };
        self.servers.insert(at, server);
        at
    }

    /// The server connection that is in use, if one is, breaks.
    fn break_server(&mut self) -> Result<(), String> {
        let found = self.servers.iter().max_by_key(|(_, server)| !server.is_free).map(|(&at, _)| at);
        let Some(at) = found else { return Ok(()) };
        self.trace.push(format!("server {at} breaks"));
        let holder = self.holder(at);
        if let Some(server) = self.servers.get_mut(&at) {
            server.backend.exit();
            server.backend.output.clear();
        }
        if let Some(index) = holder {
            return self.end_relay(index, Ended::ServerLost);
        }
        self.servers.remove(&at);
        Ok(())
    }
}

/// The messages of a stream.
pub(super) fn messages(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = stream;
    let mut messages = Vec::new();
    while let Ok(Next::Frame(message)) = frame::next(rest, MESSAGE_BYTES_MAX) {
        messages.push(message.bytes.to_vec());
        rest = &rest[message.bytes.len()..];
    }
    messages
}

pub(super) fn odd(malformed: weir::wire::Malformed) -> String {
    format!("malformed: {malformed}")
}

fn show_frontend(message: &[u8]) -> String {
    match message.split_first() {
        Some((tag, rest)) => {
            let body = String::from_utf8_lossy(rest.get(4..).unwrap_or_default());
            format!(
                "{:?} {}",
                char::from(*tag),
                body.trim_end_matches('\0').replace('\0', " ").escape_default()
            )
        }
        None => String::new(),
    }
}
