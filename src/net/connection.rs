//! A stream with what was read and not yet used, and what was written and not yet sent.
//!
//! Neither side has a buffer while it is empty and idle: ten thousand idle clients cost no buffers. Bytes to be
//! relayed go from one connection's input straight to the other's socket; only what the socket did not take is
//! copied. Back pressure is the caller's: it stops filling one side while [`Connection::is_clogged`] says that
//! the other does not keep up.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::io::{AsyncReadExt, AsyncWrite};

use super::Stream;

/// Room made for one read, in bytes: of whoever has not shown yet that it sends more.
const FIRST_READ_BYTES: usize = 2 * 1024;

/// Room for one read once reads came back full, in bytes.
pub const READ_BYTES: usize = 16 * 1024;

/// Room for one read while reads come back full (bulk data), in bytes.
const BULK_READ_BYTES: usize = 128 * 1024;

/// Unsent bytes above which the peer's sender is no longer read.
const CLOGGED_BYTES: usize = 64 * 1024;

/// A stream and its buffers.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    input: Vec<u8>,
    input_start: usize,
    output: Vec<u8>,
    output_start: usize,
    /// TLS records may wait inside rustls even when `output` is empty.
    unflushed: bool,
    /// Room to be made for the next read.
    room: usize,
}

impl Connection {
    /// Wraps a connected stream.
    pub fn new(stream: Stream) -> Self {
        stream.tune();
        Self {
            stream,
            input: Vec::new(),
            input_start: 0,
            output: Vec::new(),
            output_start: 0,
            unflushed: false,
            room: FIRST_READ_BYTES,
        }
    }

    /// The stream, for questions about it.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Gives the stream up, for a TLS handshake, with what was already read off it.
    pub fn into_parts(mut self) -> (Stream, Vec<u8>) {
        self.input.drain(..self.input_start);
        (self.stream, self.input)
    }

    /// What was read and not yet consumed.
    #[inline]
    pub fn input(&self) -> &[u8] {
        &self.input[self.input_start..]
    }

    /// Drops `count` bytes off the front of the input.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        self.input_start += count;
        debug_assert!(self.input_start <= self.input.len());
        if self.input_start == self.input.len() {
            self.input.clear();
            self.input_start = 0;
        }
    }

    /// Puts bytes back in front of the input.
    pub fn unread(&mut self, bytes: &[u8]) {
        self.input.splice(..self.input_start, bytes.iter().copied());
        self.input_start = 0;
    }

    /// Appends to what is to be sent.
    #[inline]
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Whether bytes wait to be sent.
    #[inline]
    pub fn has_output(&self) -> bool {
        self.unflushed || self.output_start < self.output.len()
    }

    /// Whether so much waits that whoever produces it should pause.
    #[inline]
    pub fn is_clogged(&self) -> bool {
        self.output.len() - self.output_start > CLOGGED_BYTES
    }

    /// Gives empty buffers back to the allocator.
    pub fn trim(&mut self) {
        if self.input_start == self.input.len() {
            self.input = Vec::new();
            self.input_start = 0;
            self.room = FIRST_READ_BYTES;
        }
        if self.output_start == self.output.len() {
            self.output = Vec::new();
            self.output_start = 0;
        }
    }

    /// Reads what has arrived, once; 0 means that the peer has closed.
    #[inline]
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() == 0 {
            // Whoever waits in silence needs no buffer.
            std::task::ready!(self.stream.poll_readable(cx))?;
        }
        if self.input.capacity() - self.input.len() < self.room / 2 {
            self.make_room(self.room);
        }
        let before = self.input.capacity() - self.input.len();
        let read = pin!(self.stream.read_buf(&mut self.input)).poll(cx);
        if let Poll::Ready(Ok(count)) = read {
            self.room = match self.room {
                FIRST_READ_BYTES if count == before => READ_BYTES,
                FIRST_READ_BYTES => FIRST_READ_BYTES,
                _ if count == before => BULK_READ_BYTES,
                _ => READ_BYTES,
            };
        }
        read
    }

    /// Moves unconsumed bytes to the front and reserves room behind them.
    fn make_room(&mut self, room: usize) {
        if self.input_start > 0 {
            self.input.drain(..self.input_start);
            self.input_start = 0;
        }
        self.input.reserve_exact(room);
    }

    /// Sends `bytes` now if nothing waits before them; keeps what the socket does not take.
    #[inline]
    pub fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        if self.output_start == self.output.len() {
            while sent < bytes.len() {
                match Pin::new(&mut self.stream).poll_write(cx, &bytes[sent..])? {
                    Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(count) => sent += count,
                    Poll::Pending => break,
                }
            }
            self.unflushed = self.stream.is_tls();
        }
        self.output.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    /// Sends what waits.
    #[inline]
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.output_start < self.output.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.output[self.output_start..])? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(count) => self.output_start += count,
                Poll::Pending => {
                    self.compact_output();
                    return Poll::Pending;
                }
            }
            self.unflushed = self.stream.is_tls();
        }
        if self.output_start > 0 {
            self.output.clear();
            self.output_start = 0;
        }
        if self.unflushed {
            std::task::ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Keeps a slow reader's backlog from being moved on every write, and from growing by what was already sent.
    fn compact_output(&mut self) {
        if self.output_start > self.output.len() / 2 {
            self.output.drain(..self.output_start);
            self.output_start = 0;
        }
    }

    /// Waits until all is sent.
    pub async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Waits for bytes; 0 means that the peer has closed.
    pub async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Sends what waits and closes in good order, as far as that works.
    pub async fn close(mut self) {
        if self.flush().await.is_ok() {
            let _ = std::future::poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await;
        }
    }
}
