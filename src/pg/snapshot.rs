//! What `pg_current_snapshot()` says: which transactions had ended (manual, 9.27.10 Transaction ID and Snapshot
//! Information Functions).

use std::str::FromStr;

/// A snapshot, by the lower half of its transactions' numbers, which is all that the log has of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// This and all behind it had not begun, or not ended.
    xmax: u32,
    /// Those in front of it that had not ended.
    running: Vec<u32>,
}

/// It was not `xmin:xmax:xip_list`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot")]
pub struct NotASnapshot;

impl FromStr for Snapshot {
    type Err = NotASnapshot;

    fn from_str(text: &str) -> Result<Self, NotASnapshot> {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is wanted")]
        let low = |digits: &str| digits.parse::<u64>().map(|xid| xid as u32).map_err(|_| NotASnapshot);
        let mut fields = text.split(':');
        let (Some(_), Some(xmax), Some(running), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(NotASnapshot);
        };
        let list = running.split(',').filter(|xid| !xid.is_empty());
        Ok(Self { xmax: low(xmax)?, running: list.map(low).collect::<Result<_, _>>()? })
    }
}

impl Snapshot {
    /// Whether everybody who begins to read now sees what the transaction wrote, if it has committed: one that is not
    /// more than two thousand million transactions old.
    pub fn has_ended(&self, xid: u32) -> bool {
        xid.wrapping_sub(self.xmax).cast_signed() < 0 && !self.running.contains(&xid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_who_has_ended() {
        let snapshot: Snapshot = "10:20:10,14,15".parse().unwrap();
        let ended: Vec<_> = (8..22).filter(|xid| snapshot.has_ended(*xid)).collect();
        assert_eq!(ended, [8, 9, 11, 12, 13, 16, 17, 18, 19]);
        // Of the second epoch, just behind the wrap-around.
        let snapshot: Snapshot = "4294967290:4294967300:".parse().unwrap();
        assert!(snapshot.has_ended(3) && snapshot.has_ended(u32::MAX) && !snapshot.has_ended(4));
        for text in ["", "1:2", "1:2:3:4", "a:b:", "1:2:x"] {
            assert_eq!(text.parse::<Snapshot>(), Err(NotASnapshot), "{text}");
        }
    }
}
