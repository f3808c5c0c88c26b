//! Whether the next unit of work needs a server.
//!
//! A unit is what a client without a server connection sends until it waits: one simple query, or the messages of
//! an extended batch up to Sync or Flush.

use super::Session;
use crate::route::Reason;
use crate::wire::frame::{self, Next};
use crate::wire::{Malformed, build, frontend};

/// An extended batch without an end in sight is sent on once it is this long, in bytes.
pub const UNIT_BYTES_MAX: usize = 64 * 1024;

/// The extent of the first unit in a client's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// It has not all arrived; nothing to decide yet. Holds how far the input was looked at.
    Incomplete(usize),
    /// Its first `bytes` bytes are whole messages that belong together (or the head of a message too long to wait
    /// for).
    Ready {
        /// Length of the unit.
        bytes: usize,
    },
}

/// Finds the first unit in `input`, continuing at `from`, where an earlier look stopped.
pub fn unit(input: &[u8], from: usize, message_bytes_max: usize) -> Result<Unit, Malformed> {
    let mut at = from;
    loop {
        if let Some(&tag) = input.get(at)
            && !frontend::is_known(tag)
        {
            return Err(Malformed::Unexpected(tag));
        }
        match frame::next(&input[at..], message_bytes_max)? {
            Next::NeedHeader | Next::NeedBody { .. } if input.len() > UNIT_BYTES_MAX => {
                return Ok(Unit::Ready { bytes: input.len() });
            }
            Next::NeedHeader | Next::NeedBody { .. } => return Ok(Unit::Incomplete(at)),
            Next::Frame(message) => {
                at += message.bytes.len();
                match message.tag {
                    frontend::PARSE
                    | frontend::BIND
                    | frontend::DESCRIBE
                    | frontend::EXECUTE
                    | frontend::CLOSE
                        if at <= UNIT_BYTES_MAX => {}
                    _ => return Ok(Unit::Ready { bytes: at }),
                }
            }
        }
    }
}

/// Where a unit goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Weir answers by itself, with these bytes (none for a lone Flush).
    Here {
        /// The answer.
        answer: Vec<u8>,
        /// Why.
        reason: Reason,
    },
    /// It needs a server.
    Server,
    /// The client leaves.
    Leave,
}

/// Decides on a unit of a client that holds no server connection.
pub fn decide(session: &mut Session, unit: &[u8]) -> Result<Decision, Malformed> {
    match unit.first() {
        Some(&frontend::TERMINATE) => return Ok(Decision::Leave),
        Some(&(frontend::COPY_DATA | frontend::COPY_DONE | frontend::COPY_FAIL)) => {
            return Ok(Decision::Here { answer: Vec::new(), reason: Reason::StrayCopy });
        }
        _ => {}
    }
    let mut answer = Vec::new();
    let mut closing = Vec::new();
    let mut rest = unit;
    while let Ok(Next::Frame(message)) = frame::next(rest, frame::MESSAGE_BYTES_MAX) {
        rest = &rest[message.bytes.len()..];
        match message.tag {
            frontend::SYNC | frontend::FLUSH if !message.body().is_empty() => return Err(Malformed::Length),
            frontend::SYNC => build::ready_for_query(&mut answer, session.client_status()),
            frontend::FLUSH => {}
            frontend::TERMINATE => return Ok(Decision::Leave),
            frontend::CLOSE => {
                // Outside of a transaction there are no portals, and all statement names are known here.
                if let frontend::Named::Statement(name) = frontend::named(message.body())? {
                    closing.push(name);
                }
                build::empty(&mut answer, crate::wire::backend::CLOSE_COMPLETE);
            }
            _ => return Ok(Decision::Server),
        }
    }
    if !rest.is_empty() {
        return Ok(Decision::Server);
    }
    for name in closing {
        session.forget(name);
    }
    Ok(Decision::Here { answer, reason: Reason::NothingToRun })
}
