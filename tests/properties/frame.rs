//! Framing: whatever arrives, cut wherever, is split alike or refused, in time in proportion to its length.

use proptest::collection::vec;
use proptest::prelude::*;
use weir::wire::Malformed;
use weir::wire::frame::{self, HEADER_BYTES, MESSAGE_BYTES_MAX, Next};

use super::views::every;

type Message = (u8, Vec<u8>);

fn messages() -> impl Strategy<Value = Vec<Message>> {
    vec((any::<u8>(), vec(any::<u8>(), 0..60)), 0..12)
}

fn stream(messages: &[Message]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (tag, body) in messages {
        stream.push(*tag);
        stream.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
        stream.extend_from_slice(body);
    }
    stream
}

/// Takes what is whole off the front of a buffer, as a connection does.
fn take(buffer: &mut Vec<u8>, found: &mut Vec<Message>) -> Result<(), Malformed> {
    while let Next::Frame(message) = frame::next(buffer, MESSAGE_BYTES_MAX)? {
        let bytes = message.bytes.len();
        found.push((message.tag, message.body().to_vec()));
        buffer.drain(..bytes);
    }
    Ok(())
}

proptest! {
    #![proptest_config(super::config(400))]

    #[test]
    fn a_stream_gives_the_same_frames_however_it_is_cut(
        messages in messages(),
        cuts in vec(1usize..40, 0..80),
    ) {
        let stream = stream(&messages);
        let (mut buffer, mut found, mut rest) = (Vec::new(), Vec::new(), &stream[..]);
        for cut in cuts.into_iter().chain([stream.len()]) {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            buffer.extend_from_slice(now);
            rest = later;
            take(&mut buffer, &mut found).expect("well formed");
        }
        prop_assert_eq!(found, messages);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn what_is_not_whole_is_waited_for(tag: u8, body in vec(any::<u8>(), 0..40), missing in 1usize..45) {
        let whole = stream(&[(tag, body)]);
        let part = &whole[..whole.len().saturating_sub(missing)];
        match frame::next(part, MESSAGE_BYTES_MAX).expect("well formed") {
            Next::NeedHeader => prop_assert!(part.len() < HEADER_BYTES),
            Next::NeedBody { tag: found, frame_bytes } => prop_assert_eq!((found, frame_bytes), (tag, whole.len())),
            Next::Frame(_) => prop_assert!(false, "a part was taken for the whole"),
        }
    }

    #[test]
    fn lengths_that_lie_are_refused_before_anything_arrives(
        tag: u8,
        declared: u32,
        max in 4usize..2000,
        body in vec(any::<u8>(), 0..20),
    ) {
        let mut input = vec![tag];
        input.extend_from_slice(&declared.to_be_bytes());
        input.extend_from_slice(&body);
        let length = usize::try_from(declared).unwrap();
        let found = frame::next(&input, max);
        if !(4..=0x7fff_ffff).contains(&length) {
            prop_assert_eq!(found, Err(Malformed::Length));
        } else if length > max {
            prop_assert_eq!(found, Err(Malformed::TooLong));
        } else {
            prop_assert!(found.is_ok());
        }
    }

    #[test]
    fn small_lengths_are_judged_to_the_byte(declared in 0u32..12, rest in 0usize..12) {
        let input = [&b"Q"[..], &declared.to_be_bytes(), &vec![0; rest]].concat();
        let found = frame::next(&input, MESSAGE_BYTES_MAX);
        let length = usize::try_from(declared).unwrap();
        match found {
            Err(error) => prop_assert_eq!((error, length < 4), (Malformed::Length, true)),
            Ok(Next::Frame(message)) => {
                prop_assert_eq!(message.bytes.len(), length + 1);
                prop_assert!(length - 4 <= rest);
            }
            Ok(Next::NeedBody { .. }) => prop_assert!(length - 4 > rest),
            Ok(Next::NeedHeader) => prop_assert!(false, "the header is there"),
        }
    }

    #[test]
    fn no_bytes_make_a_view_panic(body in vec(any::<u8>(), 0..120), number in 0usize..5) {
        every(&body, number);
    }

    /// Bytes that look like a message more often than arbitrary ones do.
    #[test]
    fn no_fields_make_a_view_panic(
        strings in vec("[a-z]{0,3}", 0..3),
        numbers in vec(prop_oneof![0u16..4, any::<u16>()], 0..6),
        number in 0usize..5,
        cut in 0usize..40,
    ) {
        let mut body = Vec::new();
        for text in strings {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
        body.extend(numbers.into_iter().flat_map(u16::to_be_bytes));
        every(&body, number);
        every(&body[..body.len().min(cut)], number);
    }
}

/// Work, not time, so that a busy machine does not fail it: each message is looked at once, and only its header.
#[test]
fn a_million_messages_are_split_in_one_pass() {
    let stream = stream(&vec![(b'D', vec![7; 3]); 1_000_000]);
    let (mut rest, mut count) = (&stream[..], 0);
    while let Ok(Next::Frame(message)) = frame::next(rest, MESSAGE_BYTES_MAX) {
        rest = &rest[message.bytes.len()..];
        count += 1;
    }
    assert_eq!((count, rest.len()), (1_000_000, 0));
}
