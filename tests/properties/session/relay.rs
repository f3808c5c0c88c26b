//! What `client::relay` does with sockets, done with buffers; and how `client::conversation` settles.

use weir::pg::{SqlState, TransactionStatus};
use weir::session::{Message, Verdict};
use weir::wire::build::{Report, Severity};
use weir::wire::frame::{self, HEADER_BYTES, MESSAGE_BYTES_MAX, Next};
use weir::wire::{backend as tags, build, frontend};

use super::conversation::show;
use super::proxy::{Ended, Place, Proxy, odd};
use super::server::{clean, dirt};

impl Proxy<'_> {
    /// `Relay::take_from_client`.
    pub(super) fn take_from_client(&mut self, index: usize, server: usize) -> Result<(), String> {
        let client = &mut self.clients[index];
        let server = self.servers.get_mut(&server).expect("it is held");
        client.waiting = false;
        let mut at = 0;
        let end = client.allowance.unwrap_or(usize::MAX).min(client.input.len());
        loop {
            let input = &client.input[at..end];
            if client.passing_up > 0 {
                let count = client.passing_up.min(input.len());
                server.backend.input.extend_from_slice(&input[..count]);
                client.passing_up -= count;
                at += count;
                if client.passing_up > 0 {
                    break;
                }
                continue;
            }
            if client.leaving {
                break;
            }
            let (message, bytes) = match frame::next(input, MESSAGE_BYTES_MAX).map_err(odd)? {
                Next::NeedHeader => break,
                Next::NeedBody { tag, frame_bytes } => {
                    if tag != frontend::COPY_DATA {
                        break;
                    }
                    client.passing_up = frame_bytes - input.len();
                    let body = &input[HEADER_BYTES..];
                    (Message { tag, body, body_bytes: frame_bytes - HEADER_BYTES }, input.len())
                }
                Next::Frame(frame) => {
                    let body = frame.body();
                    (Message { tag: frame.tag, body, body_bytes: body.len() }, frame.bytes.len())
                }
            };
            if client.session.must_wait(message, &server.state).map_err(odd)? {
                client.passing_up = 0;
                client.waiting = true;
                break;
            }
            if message.tag == frontend::TERMINATE {
                client.leaving = true;
                break;
            }
            let mut before = Vec::new();
            let verdict = client
                .session
                .frontend(message, &mut server.state, &self.shared, &mut before)
                .map_err(|refusal| format!("refused: {refusal:?}"))?;
            let _ = client.session.take_notifies();
            server.backend.input.append(&mut before);
            if verdict == Verdict::Forward {
                server.backend.input.extend_from_slice(&input[..bytes]);
            }
            at += bytes;
        }
        if at > 0 {
            client.input.drain(..at);
            client.allowance = client.allowance.map(|allowance| allowance - at);
            client.session.answer_local(&mut server.state, &mut client.received);
        }
        Ok(())
    }

    /// `Relay::is_released`.
    pub(super) fn is_released(&mut self, index: usize, server: usize) -> bool {
        let client = &mut self.clients[index];
        let server = self.servers.get_mut(&server).expect("it is held");
        if client.passing_up > 0 {
            return false;
        }
        if client.session.inspect(&mut server.state, &mut server.backend.input) {
            return false;
        }
        client.session.may_release(&server.state) && !client.waiting && !client.leaving
    }

    /// `Relay::take_from_server`, once some bytes have arrived.
    pub(super) fn deliver(&mut self, at: usize, number: usize) -> Result<(), String> {
        let holder = self.holder(at);
        let Some(server) = self.servers.get_mut(&at) else { return Ok(()) };
        let Some(index) = holder else {
            return if server.backend.is_closed || server.backend.output.is_empty() {
                self.servers.remove(&at);
                Ok(())
            } else {
                Err(format!("server {at} answers nobody: {:?}", server.backend.output))
            };
        };
        if server.backend.output.is_empty() {
            return self.end_relay(index, Ended::ServerLost);
        }
        let output = &mut server.backend.output;
        let count = if number == 0 { output.len() } else { number.min(output.len()) };
        server.input.extend(output.drain(..count));
        let client = &mut self.clients[index];
        loop {
            let input = &server.input[..];
            if client.passing_down > 0 {
                let count = client.passing_down.min(input.len());
                client.received.extend_from_slice(&input[..count]);
                client.passing_down -= count;
                server.input.drain(..count);
                if client.passing_down > 0 {
                    break;
                }
                continue;
            }
            let is_relayed = |tag| matches!(tag, tags::DATA_ROW | tags::COPY_DATA);
            let whole = match frame::next(input, MESSAGE_BYTES_MAX).map_err(odd)? {
                Next::NeedHeader => break,
                Next::NeedBody { tag, frame_bytes } => {
                    if is_relayed(tag) && !client.session.opens(tag, &server.state) {
                        client.passing_down = frame_bytes;
                        continue;
                    }
                    break;
                }
                Next::Frame(whole) => whole,
            };
            let bytes = whole.bytes.len();
            self.trace.push(format!("client {index} is due {}", show(whole.bytes)));
            if is_relayed(whole.tag) && !client.session.opens(whole.tag, &server.state) {
                client.received.extend_from_slice(whole.bytes);
                server.input.drain(..bytes);
                continue;
            }
            let (mut before, mut after) = (Vec::new(), Vec::new());
            let result = client
                .session
                .backend(whole, &mut server.state, &self.shared, &mut before, &mut after)
                .map_err(|confused| format!("client {index}: {confused}"))?;
            client.received.append(&mut before);
            if result.verdict == Verdict::Forward {
                client.received.extend_from_slice(whole.bytes);
            }
            client.received.append(&mut after);
            server.input.drain(..bytes);
            if result.again {
                client
                    .session
                    .run_again(&mut server.state, &self.shared, &mut server.backend.input)
                    .map_err(|refusal| format!("refused: {refusal:?}"))?;
            }
            if result.finished.is_some() && client.session.may_release(&server.state) {
                break;
            }
            if result.fatal {
                return self.end_relay(index, Ended::ServerLeft);
            }
        }
        self.go_on(index)
    }

    /// `Conversation::settle`.
    pub(super) fn end_relay(&mut self, index: usize, ended: Ended) -> Result<(), String> {
        let client = &mut self.clients[index];
        let Place::Relaying(at) = client.place else { return Ok(()) };
        let server = self.servers.get_mut(&at).expect("it is held");
        self.trace.push(format!("client {index} leaves server {at}: {ended:?}"));
        let midway = client.passing_up > 0;
        let pinned = client.session.was_pinned();
        let cleaned = match ended {
            Ended::Released if pinned => {
                client.session.unpinned();
                clean(server, TransactionStatus::Idle)
            }
            Ended::Released => true,
            Ended::Left | Ended::ClientGone
                if !midway
                    && !server.state.is_in_batch()
                    && !server.state.is_broken()
                    && client.session.is_cleanable() =>
            {
                let status = client.session.status();
                let is_clean = server.state.is_drained() && status == TransactionStatus::Idle && !pinned;
                client.session.abandon(&mut server.state);
                is_clean || clean(server, status)
            }
            _ => false,
        };
        if !cleaned {
            server.backend.exit();
        }
        self.note_commits(at);
        let client = &mut self.clients[index];
        client.passing_up = 0;
        client.passing_down = 0;
        client.allowance = None;
        client.session.set_reading(false);
        client.place = if ended == Ended::Released { Place::Idle } else { Place::Out };
        if ended == Ended::ServerLost {
            let text = "server closed the connection unexpectedly";
            let report = Report::new(Severity::Fatal, SqlState::CONNECTION_FAILURE, text);
            build::report(&mut client.received, &report);
            self.cut_off.push(index);
        }
        if !cleaned {
            self.servers.remove(&at);
            return Ok(());
        }
        let server = self.servers.get_mut(&at).expect("it is kept");
        server.is_free = true;
        dirt(server)
            .map_or(Ok(()), |dirt| Err(format!("client {index} leaves behind on server {at}: {dirt}")))
    }
}
