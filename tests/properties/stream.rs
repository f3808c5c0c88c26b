//! A change stream: no bytes make reading it panic, and what is put together of well-formed messages is what was written.

use proptest::prelude::*;
use weir::consistency::{Changes, Plugin};
use weir::pg::{Lsn, Oid};
use weir::wire::{pgoutput, replication};

use super::config;

proptest! {
    #![proptest_config(config(2000))]

    #[test]
    fn arbitrary_messages_never_panic(
        messages in proptest::collection::vec(message(), 0..12),
        is_text in any::<bool>(),
    ) {
        let mut changes = Changes::new(if is_text { Plugin::TestDecoding } else { Plugin::PgOutput });
        for message in &messages {
            if let Ok(Some(commit)) = changes.take(Lsn(1), message) {
                let _ = (commit.written.is_ddl(), commit.written.touched(None, true));
            }
            let _ = replication::streamed(message);
            if let Ok(pgoutput::Message::Truncate(oids)) = pgoutput::message(message) {
                prop_assert!(oids.each().count() <= message.len());
            }
        }
    }

    #[test]
    fn a_message_that_is_cut_is_refused_or_the_same(cut in 0usize..40, relation in any::<u32>(), row in any::<[u8; 12]>()) {
        let whole = [&b"I"[..], &relation.to_be_bytes(), b"N", &row].concat();
        let opened = pgoutput::message(&whole[..cut.min(whole.len())]);
        prop_assert!(opened.is_err() || opened == Ok(pgoutput::Message::Insert(Oid(relation))));
    }
}

/// Bytes of which many begin as messages do.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let start = prop_oneof![
        Just(&b""[..]),
        Just(&b"table "[..]),
        Just(&b"table public.\""[..]),
        Just(&b"BEGIN 7"[..]),
        Just(&b"COMMIT 7"[..]),
        Just(&b"B\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07"[..]),
        Just(&b"C\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x09"[..]),
        Just(&b"I\0\0\x40\0N"[..]),
        Just(&b"R\0\0\x40\0"[..]),
        Just(&b"T\0\0\0\x02\0"[..]),
        Just(&b"w"[..]),
        Just(&b"k"[..]),
    ];
    (start, proptest::collection::vec(any::<u8>(), 0..30)).prop_map(|(start, rest)| [start, &rest].concat())
}
