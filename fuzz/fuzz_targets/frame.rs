//! A stream, cut where its first bytes say: the same frames as uncut, and no view on a message panics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::session::{self, Unit};
use weir::wire::frame::{self, MESSAGE_BYTES_MAX, Next};

#[path = "../../tests/properties/views.rs"]
mod views;

fuzz_target!(|data: &[u8]| {
    let Some((&[cut, max], stream)) = data.split_first_chunk::<2>() else { return };
    let whole = split(stream);
    let (mut buffer, mut pieces, mut sound) = (Vec::new(), Vec::new(), true);
    for piece in stream.chunks(usize::from(cut).max(1)) {
        buffer.extend_from_slice(piece);
        let (mut frames, ok) = split(&buffer);
        let taken: usize = frames.iter().map(Vec::len).sum();
        buffer.drain(..taken);
        pieces.append(&mut frames);
        sound = ok;
        if !ok {
            break;
        }
    }
    assert_eq!((pieces, sound), whole);
    for frame in &whole.0 {
        views::every(&frame[5..], usize::from(cut) % 4);
    }
    views::every(stream, usize::from(cut) % 4);
    if let Ok(Unit::Ready { bytes }) = session::unit(stream, 0, usize::from(max) * 64) {
        assert!(bytes <= stream.len());
    }
});

/// The frames at the front, and whether what follows may yet become one.
fn split(mut rest: &[u8]) -> (Vec<Vec<u8>>, bool) {
    let mut frames = Vec::new();
    loop {
        match frame::next(rest, MESSAGE_BYTES_MAX) {
            Ok(Next::Frame(frame)) => {
                frames.push(frame.bytes.to_vec());
                rest = &rest[frame.bytes.len()..];
            }
            Ok(Next::NeedHeader | Next::NeedBody { .. }) => return (frames, true),
            Err(_) => return (frames, false),
        }
    }
}
