//! Splits a byte stream into frames without copying.
//!
//! ```text
//!   +-----+-------------+----------------------+
//!   | tag | length: i32 | body: length-4 bytes |
//!   +-----+-------------+----------------------+
//! ```
//!
//! The length counts itself but not the tag (manual, 55.2). Nothing here allocates, and no input makes it panic.

use memchr::memchr;

use super::Malformed;

/// Tag and length field of a frame, in bytes.
pub const HEADER_BYTES: usize = 5;

/// The longest message that PostgreSQL itself accepts or makes: `MaxAllocSize`.
pub const MESSAGE_BYTES_MAX: usize = 0x3fff_ffff;

/// One whole message: its tag and body, borrowed from the buffer it arrived in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The message type.
    pub tag: u8,
    /// All bytes of the message, header included.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// What follows the header.
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }
}

/// What stands at the front of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// Fewer than [`HEADER_BYTES`] bytes.
    NeedHeader,
    /// A header whose body has not all arrived.
    NeedBody {
        /// The message type.
        tag: u8,
        /// Length of the whole frame, header included, in bytes.
        frame_bytes: usize,
    },
    /// A whole message.
    Frame(Frame<'a>),
}

/// Looks at the front of `buffer`. `body_bytes_max` bounds the declared length, so that a hostile one is refused
/// before anything is reserved for it.
#[inline]
pub fn next(buffer: &[u8], message_bytes_max: usize) -> Result<Next<'_>, Malformed> {
    let Some((header, _)) = buffer.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(Next::NeedHeader);
    };
    let [tag, a, b, c, d] = *header;
    let declared = i32::from_be_bytes([a, b, c, d]);
    let Ok(length) = usize::try_from(declared) else {
        return Err(Malformed::Length);
    };
    if length < 4 {
        return Err(Malformed::Length);
    }
    if length > message_bytes_max {
        return Err(Malformed::TooLong);
    }
    let frame_bytes = length + 1;
    match buffer.get(..frame_bytes) {
        Some(bytes) => Ok(Next::Frame(Frame { tag, bytes })),
        None => Ok(Next::NeedBody { tag, frame_bytes }),
    }
}

/// Reads typed fields off the front of a message body; every method fails instead of reading past the end.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// Starts at the front of `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// A string up to its terminating zero byte, without it.
    pub fn cstr(&mut self) -> Result<&'a [u8], Malformed> {
        let end = memchr(0, self.rest).ok_or(Malformed::Truncated)?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Ok(text)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        let (&first, rest) = self.rest.split_first().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(first)
    }

    /// A 16-bit integer in network order.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk::<2>().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    /// A 32-bit integer in network order.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk::<4>().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A 64-bit integer in network order.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk::<8>().ok_or(Malformed::Truncated)?;
        self.rest = rest;
        Ok(u64::from_be_bytes(*bytes))
    }

    /// `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        if count > self.rest.len() {
            return Err(Malformed::Truncated);
        }
        let (bytes, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(mut buffer: &[u8]) -> Result<(Vec<(u8, usize)>, usize), Malformed> {
        let mut frames = Vec::new();
        while let Next::Frame(frame) = next(buffer, MESSAGE_BYTES_MAX)? {
            frames.push((frame.tag, frame.body().len()));
            buffer = &buffer[frame.bytes.len()..];
        }
        Ok((frames, buffer.len()))
    }

    #[test]
    fn refuses_lengths_that_lie() {
        assert_eq!(next(b"Q\xff\xff\xff\xff", 100), Err(Malformed::Length));
        assert_eq!(next(b"Q\x00\x00\x00\x03", 100), Err(Malformed::Length));
        assert_eq!(next(b"Q\x00\x00\x00\x65", 100), Err(Malformed::TooLong));
        assert_eq!(next(b"Q\x00\x00\x00\x64", 100), Ok(Next::NeedBody { tag: b'Q', frame_bytes: 101 }));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = split(&bytes);
            let mut fields = Fields::new(&bytes);
            while fields.u16().is_ok() && fields.cstr().is_ok() && fields.u32().is_ok() {}
        }

        #[test]
        fn frames_split_alike_however_the_bytes_arrive(
            bodies in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
            cut in 0usize..400,
        ) {
            let mut stream = Vec::new();
            for (tag, body) in &bodies {
                stream.push(*tag);
                stream.extend_from_slice(&u32::try_from(body.len() + 4).expect("short").to_be_bytes());
                stream.extend_from_slice(body);
            }
            let (whole, rest) = split(&stream).expect("well formed");
            prop_assert_eq!(rest, 0);
            let cut = cut.min(stream.len());
            let (mut first, left) = split(&stream[..cut]).expect("well formed");
            let (second, _) = split(&stream[cut - left..]).expect("well formed");
            first.extend(second);
            prop_assert_eq!(first, whole);
        }
    }
}
