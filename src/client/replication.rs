//! Replication connections (manual, 55.4): a server connection of the client's own, opened with the client's own startup
//! parameters and closed when it leaves.
//!
//! Nothing is shared, so nothing is looked into: messages are passed on both ways as they come, once their lengths have
//! been checked. That goes for COPY in both directions, which is how the log is streamed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Proxy;
use super::fault::{Fault, LoginError};
use super::login::Login;
use super::registry::{Activity, Registered, Signal};
use super::routing::Routing;
use crate::net::Connection;
use crate::pg::SqlState;
use crate::server::{Lease, Tenant};
use crate::session::Confused;
use crate::wire::build::{Report, Severity};
use crate::wire::frame::{self, MESSAGE_BYTES_MAX, Next};
use crate::wire::startup::{self, StartupMessage};
use crate::wire::{Malformed, backend, frontend};

/// A logged-in client and the server connection that it has to itself.
pub(super) struct Replication {
    client: Connection,
    lease: Lease,
    entry: Registered,
    proxy: Arc<Proxy>,
    message_bytes_max: usize,
    up: Passing,
    down: Passing,
    /// Whom to tell of what it writes.
    routing: Option<Box<Routing>>,
    doing: Doing,
}

/// What the client has the server do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Doing {
    #[default]
    Nothing,
    /// A command that comes to an end by itself, such as a base backup.
    Command,
    /// The log, for ever.
    Streaming,
}

/// One direction's place in its stream of messages.
#[derive(Debug, Default)]
struct Passing {
    /// Bytes still to come of a message whose head was passed on.
    left: usize,
}

impl Passing {
    /// How much of `input` may be passed on. `begins` is told of each message that begins there, and says whether it
    /// is passed on too.
    fn advance(
        &mut self,
        input: &[u8],
        message_bytes_max: usize,
        mut begins: impl FnMut(u8) -> Result<bool, Malformed>,
    ) -> Result<usize, Malformed> {
        let mut at = self.left.min(input.len());
        self.left -= at;
        while self.left == 0 {
            let rest = &input[at..];
            let (tag, frame_bytes) = match frame::next(rest, message_bytes_max)? {
                Next::NeedHeader => break,
                Next::NeedBody { tag, frame_bytes } => (tag, frame_bytes),
                Next::Frame(whole) => (whole.tag, whole.bytes.len()),
            };
            if !begins(tag)? {
                break;
            }
            let here = frame_bytes.min(rest.len());
            self.left = frame_bytes - here;
            at += here;
        }
        Ok(at)
    }
}

impl Login {
    /// Opens a server connection for the client alone, with its own startup parameters.
    pub(super) async fn replicate(
        &mut self,
        message: &StartupMessage,
        tenant: &Arc<Tenant>,
        what: startup::Replication,
    ) -> Result<Replication, LoginError> {
        let is_passed_on =
            |name: &[u8]| !matches!(name, b"user" | b"database") && !name.starts_with(b"_pq_.");
        let all = message.parameters.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
        let parameters: Vec<_> = all.filter(|(name, _)| is_passed_on(name)).collect();
        let pool = self.primary_pool(tenant).await?;
        let lease = pool.open_own(&parameters, self.worker).await;
        let lease = lease.map_err(|error| LoginError::Server(error.into()))?;
        let (client, entry) = self.welcome(message, tenant, Some(what), &lease.state.reported)?;
        Ok(Replication {
            client,
            lease,
            entry,
            proxy: Arc::clone(&self.proxy),
            message_bytes_max: self.settings.clients.message_bytes_max,
            up: Passing::default(),
            down: Passing::default(),
            doing: Doing::default(),
            routing: Routing::new(&self.proxy, tenant, &tenant.user, self.worker).map(Box::new),
        })
    }
}

impl Replication {
    /// Serves the client until it leaves, or the server ends it.
    pub(super) async fn run(mut self: Box<Self>) {
        let handle = Arc::clone(&self.entry.handle);
        handle.set_activity(Activity::Active, Instant::now());
        handle.set_target(Some(Arc::clone(&self.lease.cancel)));
        self.lease.cancel.set_client(handle.process);
        let outcome = std::future::poll_fn(|context| self.poll(context)).await;
        handle.set_target(None);
        if let Err(fault) = outcome {
            tracing::debug!(peer = %handle.peer, reason = %fault, "a replication connection ends");
            if let Fault::Malformed(_) = fault {
                self.proxy.clients.malformed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(peer = %handle.peer, error = %fault, "a client broke the protocol");
            }
            // In the middle of a message it would be taken for a part of it.
            if self.down.left == 0 {
                fault.respond(Severity::Fatal, self.client.output());
            }
        }
        self.lease.close();
        let _ = tokio::time::timeout(Duration::from_secs(5), self.client.close()).await;
    }

    /// Both directions at the same time, each read only while the other side keeps up. `Ok`: one of the two has ended
    /// it, and what it said last has been passed on.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            let mut progress = false;
            if let Some(routing) = &mut self.routing
                && routing.is_telling()
                && routing.poll_told(context).is_pending()
            {
                return Poll::Pending;
            }
            if let Poll::Ready(Err(error)) = self.lease.connection.poll_flush(context) {
                return Poll::Ready(Err(Fault::ServerGone(error)));
            }
            if let Poll::Ready(Err(_)) = self.client.poll_flush(context) {
                return Poll::Ready(Err(Fault::ClientGone));
            }
            if !self.client.is_clogged() {
                match self.lease.connection.poll_fill(context) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(_)) => {
                        self.pass_down(context)?;
                        progress = true;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Fault::ServerGone(error))),
                    Poll::Pending => {}
                }
            }
            if !self.lease.connection.is_clogged() {
                match self.client.poll_fill(context) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Fault::ClientGone)),
                    Poll::Ready(Ok(_)) => {
                        if self.pass_up(context)? {
                            return Poll::Ready(Ok(()));
                        }
                        progress = true;
                    }
                    Poll::Pending => {}
                }
            }
            if !progress {
                match self.entry.handle.poll_signal(context) {
                    Poll::Ready(signal) => self.told(signal)?,
                    Poll::Pending => return Poll::Pending,
                }
            }
        }
    }

    fn pass_down(&mut self, context: &mut Context<'_>) -> Result<(), Fault> {
        let (doing, mut completed) = (&mut self.doing, false);
        let input = self.lease.connection.input();
        let begins = |tag| {
            match tag {
                backend::COMMAND_COMPLETE => completed = true,
                backend::COPY_BOTH => *doing = Doing::Streaming,
                backend::READY_FOR_QUERY => *doing = Doing::Nothing,
                _ => {}
            }
            Ok(true)
        };
        let count = self.down.advance(input, MESSAGE_BYTES_MAX, begins).map_err(Confused::Malformed)?;
        if let Some(routing) = &mut self.routing
            && completed
        {
            // Such a connection runs SQL too, which nobody has looked at here.
            routing.ran_unseen();
        }
        if completed {
            // Once other Weirs have been told of it.
            self.client.output().extend_from_slice(&input[..count]);
        } else {
            self.client.send(context, &input[..count]).map_err(|_| Fault::ClientGone)?;
        }
        self.lease.connection.consume(count);
        self.lease.pool().stats.sent.fetch_add(count as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Gives whether the client leaves.
    fn pass_up(&mut self, context: &mut Context<'_>) -> Result<bool, Fault> {
        let (doing, mut leaves, mut queries) = (&mut self.doing, false, 0);
        let input = self.client.input();
        let begins = |tag| {
            match tag {
                frontend::TERMINATE => leaves = true,
                frontend::QUERY => {
                    *doing = Doing::Command;
                    queries += 1;
                }
                other if !frontend::is_known(other) => return Err(Malformed::Unexpected(other)),
                _ => {}
            }
            Ok(!leaves)
        };
        let count = self.up.advance(input, self.message_bytes_max, begins)?;
        self.lease.connection.send(context, &input[..count]).map_err(Fault::ServerGone)?;
        self.client.consume(count);
        let stats = &self.lease.pool().stats;
        stats.received.fetch_add(count as u64, Ordering::Relaxed);
        stats.queries.fetch_add(queries, Ordering::Relaxed);
        Ok(leaves)
    }

    /// A command may come to its end before Weir does; a stream has none.
    fn told(&self, signal: Signal) -> Result<(), Fault> {
        let ends = match signal {
            Signal::Kill => true,
            Signal::Shutdown => self.doing != Doing::Command,
            Signal::Trim | Signal::Cancel | Signal::IdleTimeout | Signal::IdleInTransactionTimeout => false,
        };
        if ends {
            let text = "terminating connection due to administrator command";
            return Err(Fault::Ended(SqlState::ADMIN_SHUTDOWN, text));
        }
        Ok(())
    }
}

/// What a client is told of a value of `replication` that PostgreSQL does not understand either.
pub(super) fn unknown(value: &[u8]) -> LoginError {
    let message =
        format!("invalid value for parameter \"replication\": \"{}\"", String::from_utf8_lossy(value));
    let report = Report::new(Severity::Fatal, SqlState::INVALID_PARAMETER_VALUE, message);
    LoginError::Refused(Box::new(
        report.with_hint("Valid values are: \"false\", 0, \"true\", 1, \"database\"."),
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_that_is_not_wanted_stays() {
        let mut passing = Passing::default();
        let input = b"Q\0\0\0\x05\0X\0\0\0\x04";
        let begins = |tag| Ok(tag != b'X');
        assert_eq!(passing.advance(input, 100, begins), Ok(6));
        assert_eq!(passing.advance(b"Q\0\0\0\x65", 100, |_| Ok(true)), Err(Malformed::TooLong));
        assert_eq!(passing.advance(b"Q\0\0\0\x03", 100, |_| Ok(true)), Err(Malformed::Length));
    }

    proptest! {
        #[test]
        fn messages_begin_alike_however_the_bytes_arrive(
            bodies in proptest::collection::vec((any::<u8>(), 0usize..40), 0..8),
            piece in 1usize..50,
        ) {
            let mut stream = Vec::new();
            for (tag, length) in &bodies {
                stream.push(*tag);
                stream.extend_from_slice(&u32::try_from(length + 4).expect("short").to_be_bytes());
                stream.resize(stream.len() + length, 0);
            }
            let (mut passing, mut seen, mut input, mut passed) = (Passing::default(), Vec::new(), Vec::new(), 0);
            for bytes in stream.chunks(piece) {
                input.extend_from_slice(bytes);
                let count = passing.advance(&input, 100, |tag| { seen.push(tag); Ok(true) }).expect("well formed");
                passed += count;
                input.drain(..count);
            }
            prop_assert_eq!(passed, stream.len());
            prop_assert_eq!(seen, bodies.iter().map(|(tag, _)| *tag).collect::<Vec<_>>());
        }
    }
}
