//! A change stream of either plugin, cut into messages where its bytes say: none of them panics, and what is put together is
//! bounded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::consistency::{Changes, Plugin};
use weir::pg::Lsn;
use weir::wire::{replication, test_decoding};

fuzz_target!(|data: &[u8]| {
    let Some((&first, mut rest)) = data.split_first() else { return };
    let plugin = if first % 2 == 0 { Plugin::TestDecoding } else { Plugin::PgOutput };
    let mut changes = Changes::new(plugin);
    while let Some((&length, behind)) = rest.split_first() {
        let (message, next) = behind.split_at(usize::from(length).min(behind.len()));
        rest = next;
        let _ = replication::streamed(message);
        if let test_decoding::Line::Written(names) = test_decoding::line(message) {
            assert!((1..=message.len()).contains(&names.each().count()));
        }
        if let Ok(Some(commit)) = changes.take(Lsn(1), message) {
            let touched = commit.written.touched(None, true);
            assert!(touched.everything && touched.relations.is_empty());
        }
    }
});
