//! How the write-ahead log is cut into pages, and why that matters for a floor.

use crate::pg::Lsn;

/// The header of a page, and of the first page of a segment (`SizeOfXLogShortPHD`, `SizeOfXLogLongPHD`).
const SHORT_HEADER_BYTES: u64 = 24;
const LONG_HEADER_BYTES: u64 = 40;

/// `wal_block_size` and `wal_segment_size` (manual, 20.15 Preset Options).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalLayout {
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Bytes of a segment.
    pub segment_bytes: u64,
}

impl Default for WalLayout {
    fn default() -> Self {
        Self { page_bytes: 8 << 10, segment_bytes: 16 << 20 }
    }
}

impl WalLayout {
    /// Where the last record ends, given where the next one will begin.
    ///
    /// `pg_current_wal_insert_lsn()` says where the next record will begin: if the last one filled its page, that is
    /// behind the header of the next page, which is yet to be written. A replica reports where the last record ends,
    /// which is in front of that header: it never gets to the insert position of an idle primary. No record ends
    /// right behind a header, so the two cannot be confused.
    pub fn record_end(self, insert: Lsn) -> Lsn {
        let begins_segment = insert.0 % self.segment_bytes.max(1) == LONG_HEADER_BYTES;
        let begins_page = insert.0 % self.page_bytes.max(1) == SHORT_HEADER_BYTES
            && insert.0 % self.segment_bytes.max(1) != SHORT_HEADER_BYTES;
        if begins_segment {
            Lsn(insert.0 - LONG_HEADER_BYTES)
        } else if begins_page {
            Lsn(insert.0 - SHORT_HEADER_BYTES)
        } else {
            insert
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_nobody_wrote_is_taken_off() {
        let layout = WalLayout::default();
        let end = |lsn: &str| layout.record_end(lsn.parse().unwrap()).to_string();
        assert_eq!(end("0/3000028"), "0/3000000");
        assert_eq!(end("0/3002018"), "0/3002000");
        // A record that ends 16 bytes into a page, and 40 bytes behind a segment's beginning were its header short.
        assert_eq!(end("0/3002028"), "0/3002028");
        assert_eq!(end("0/3000018"), "0/3000018");
        assert_eq!(end("0/3002020"), "0/3002020");
        assert_eq!(end("0/3002000"), "0/3002000");
        let small = WalLayout { segment_bytes: 1 << 20, ..layout };
        assert_eq!(small.record_end("0/3100028".parse().unwrap()).to_string(), "0/3100000");
    }
}
