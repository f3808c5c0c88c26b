//! Taking a copy of a result as it passes by, and giving it up at the first sign that memory could not repeat it.

use std::time::Duration;

use super::reason::Outcome;
use crate::wire::backend;
use crate::wire::frame::HEADER_BYTES;

/// A result on its way to a client, copied.
#[derive(Debug)]
pub struct Recorder {
    max_bytes: usize,
    description: Option<Vec<u8>>,
    /// DataRow messages, then CommandComplete.
    rows: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Rows,
    Complete,
    Ready,
    Spoiled(Outcome),
}

/// A result, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The RowDescription message, if the client asked for one.
    pub description: Option<Box<[u8]>>,
    /// DataRow messages and CommandComplete.
    pub rows: Box<[u8]>,
}

impl Recorder {
    /// Keeps at most so many bytes.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, description: None, rows: Vec::new(), state: State::Rows }
    }

    /// A whole message that the client gets, with its header.
    #[inline]
    pub fn message(&mut self, tag: u8, bytes: &[u8]) {
        match tag {
            backend::DATA_ROW => self.row(bytes),
            backend::ROW_DESCRIPTION if self.state == State::Rows && self.description.is_none() => {
                if bytes.len() > self.max_bytes {
                    self.spoil(Outcome::TooLarge);
                } else {
                    self.description = Some(bytes.to_vec());
                }
            }
            backend::COMMAND_COMPLETE if self.state == State::Rows => {
                self.row(bytes);
                let tag = backend::command_tag(bytes.get(HEADER_BYTES..).unwrap_or_default());
                if self.state == State::Rows {
                    let is_select = tag.is_ok_and(|tag| tag.starts_with(b"SELECT "));
                    self.state =
                        if is_select { State::Complete } else { State::Spoiled(Outcome::Unfinished) };
                }
            }
            backend::READY_FOR_QUERY if self.state == State::Complete => self.state = State::Ready,
            // Answers of the batch that say nothing of the result, and other sessions' news.
            backend::PARSE_COMPLETE
            | backend::BIND_COMPLETE
            | backend::CLOSE_COMPLETE
            | backend::NOTIFICATION => {}
            backend::ERROR => self.spoil(Outcome::Error),
            backend::NOTICE | backend::PARAMETER_STATUS => self.spoil(Outcome::Notice),
            _ => self.spoil(Outcome::Unfinished),
        }
    }

    /// A DataRow, or a piece of one, header and all.
    #[inline]
    pub fn row(&mut self, bytes: &[u8]) {
        let taken = self.rows.len() + self.description.as_ref().map_or(0, Vec::len);
        match self.state {
            State::Rows if taken + bytes.len() <= self.max_bytes => self.rows.extend_from_slice(bytes),
            State::Rows => self.spoil(Outcome::TooLarge),
            State::Complete | State::Ready => self.spoil(Outcome::Unfinished),
            State::Spoiled(_) => {}
        }
    }

    /// Whether it is given up.
    pub fn is_spoiled(&self) -> bool {
        matches!(self.state, State::Spoiled(_))
    }

    fn spoil(&mut self, outcome: Outcome) {
        if !matches!(self.state, State::Spoiled(_)) {
            self.state = State::Spoiled(outcome);
            self.rows = Vec::new();
            self.description = None;
        }
    }

    /// All that will come has come.
    pub fn finish(self) -> Result<Recorded, Outcome> {
        match self.state {
            State::Ready => Ok(Recorded {
                description: self.description.map(Vec::into_boxed_slice),
                rows: self.rows.into_boxed_slice(),
            }),
            State::Spoiled(outcome) => Err(outcome),
            State::Rows | State::Complete => Err(Outcome::Unfinished),
        }
    }
}

impl Recorded {
    /// For a store that several Weirs share, with what reading it took, and for how long it is put there.
    ///
    /// ```text
    ///   took, ttl: u64, microseconds | description: 1 + u32, or 0 | ... | DataRow ... CommandComplete
    /// ```
    pub fn packed(&self, took: Duration, ttl: Duration) -> Vec<u8> {
        let described = self.description.as_deref();
        let mut packed = Vec::with_capacity(21 + described.map_or(0, <[u8]>::len) + self.rows.len());
        for time in [took, ttl] {
            packed.extend_from_slice(&u64::try_from(time.as_micros()).unwrap_or(u64::MAX).to_be_bytes());
        }
        packed.push(u8::from(described.is_some()));
        if let Some(description) = described {
            // As long as a message at most.
            packed.extend_from_slice(&u32::try_from(description.len()).unwrap_or(u32::MAX).to_be_bytes());
            packed.extend_from_slice(description);
        }
        packed.extend_from_slice(&self.rows);
        packed
    }

    /// What was packed; `None`: it is none.
    pub fn unpacked(packed: &[u8]) -> Option<(Self, Duration, Duration)> {
        let (took, rest) = packed.split_first_chunk()?;
        let (ttl, rest) = rest.split_first_chunk()?;
        let [took, ttl] = [took, ttl].map(|time| Duration::from_micros(u64::from_be_bytes(*time)));
        let (description, rows) = match rest.split_first()? {
            (0, rows) => (None, rows),
            (1, rest) => {
                let (length, rest) = rest.split_first_chunk()?;
                let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
                let (description, rows) = rest.split_at_checked(length)?;
                (Some(description.into()), rows)
            }
            _ => return None,
        };
        Some((Self { description, rows: rows.into() }, took, ttl))
    }

    /// What its messages take, in bytes.
    pub fn bytes(&self) -> usize {
        self.rows.len() + self.description.as_ref().map_or(0, |description| description.len())
    }

    /// Whether two results have the same rows, in whatever order: that of rows that no ORDER BY tells apart is the
    /// server's to choose.
    pub fn has_rows_of(&self, other: &[u8]) -> bool {
        if *self.rows == *other {
            return true;
        }
        let (mut ours, mut theirs) = (messages(&self.rows), messages(other));
        ours.sort_unstable();
        theirs.sort_unstable();
        ours == theirs
    }
}

fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Ok(crate::wire::frame::Next::Frame(frame)) =
        crate::wire::frame::next(bytes, crate::wire::frame::MESSAGE_BYTES_MAX)
    {
        messages.push(frame.bytes);
        bytes = &bytes[frame.bytes.len()..];
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::TransactionStatus;
    use crate::wire::build;
    use crate::wire::frame::{self, Next};

    fn answer(rows: &[&[u8]], tag: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        build::frame(&mut out, backend::ROW_DESCRIPTION, |body| body.extend_from_slice(b"\0\0"));
        for row in rows {
            build::single_value_row(&mut out, row);
        }
        build::command_complete(&mut out, tag);
        build::ready_for_query(&mut out, TransactionStatus::Idle);
        out
    }

    fn record(mut bytes: &[u8], max: usize) -> Result<Recorded, Outcome> {
        let mut recorder = Recorder::new(max);
        while let Ok(Next::Frame(frame)) = frame::next(bytes, 1 << 20) {
            recorder.message(frame.tag, frame.bytes);
            bytes = &bytes[frame.bytes.len()..];
        }
        recorder.finish()
    }

    #[test]
    fn a_plain_result_is_kept() {
        let recorded = record(&answer(&[b"1", b"2"], b"SELECT 2"), 1000).unwrap();
        assert_eq!(recorded.description.as_deref(), Some(&b"T\0\0\0\x06\0\0"[..]));
        assert_eq!(messages(&recorded.rows).len(), 3);
        let other = record(&answer(&[b"2", b"1"], b"SELECT 2"), 1000).unwrap();
        let third = record(&answer(&[b"2", b"2"], b"SELECT 2"), 1000).unwrap();
        assert!(recorded.has_rows_of(&other.rows) && !recorded.has_rows_of(&third.rows));
    }

    #[test]
    fn what_is_packed_comes_back() {
        let (took, ttl) = (Duration::from_micros(1234), Duration::from_secs(60));
        let described = record(&answer(&[b"1", b"2"], b"SELECT 2"), 1000).unwrap();
        let bare = Recorded { description: None, ..described.clone() };
        for recorded in [described, bare] {
            let packed = recorded.packed(took, ttl);
            assert_eq!(Recorded::unpacked(&packed), Some((recorded.clone(), took, ttl)));
            let head = packed.len() - recorded.rows.len();
            (0..head).for_each(|cut| assert_eq!(Recorded::unpacked(&packed[..cut]), None, "{cut}"));
        }
    }

    #[test]
    fn what_memory_could_not_repeat_is_given_up() {
        let whole = answer(&[b"1"], b"SELECT 1");
        let ready = whole.len() - 6;
        assert_eq!(record(&whole[..ready], 1000), Err(Outcome::Unfinished));
        assert_eq!(record(&whole, 30), Err(Outcome::TooLarge));
        assert_eq!(record(&answer(&[b"1"], b"INSERT 0 1"), 1000), Err(Outcome::Unfinished));
        assert_eq!(record(&[&whole[..ready], &whole[..]].concat(), 1000), Err(Outcome::Unfinished));
        let with = |tag: u8| {
            let mut bytes = Vec::new();
            build::frame(&mut bytes, tag, |body| body.push(0));
            record(&[&bytes, &whole[..]].concat(), 1000)
        };
        assert_eq!(with(backend::ERROR), Err(Outcome::Error));
        assert_eq!(with(backend::NOTICE), Err(Outcome::Notice));
        assert_eq!(with(backend::PARAMETER_STATUS), Err(Outcome::Notice));
        assert_eq!(with(backend::PORTAL_SUSPENDED), Err(Outcome::Unfinished));
        assert_eq!(with(backend::COPY_OUT), Err(Outcome::Unfinished));
        assert!(with(backend::NOTIFICATION).is_ok());
    }
}
