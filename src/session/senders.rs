//! Who sent a notification.
//!
//! A NotificationResponse names the sender's server process, and by the time it arrives another client may run its
//! statements there. So each server connection remembers whose statements, of late, may have notified: a NOTIFY with
//! its channel, and whatever may notify unseen (`pg_notify`, a trigger, a function of one's own).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::pg::ProcessId;
use crate::sql::{Command, Identifier, Statement};

/// Senders that a server connection remembers.
const SENDERS_MAX: usize = 8;

/// A notification arrives within a millisecond of its commit; on a busy machine within this.
const RECENT: Duration = Duration::from_millis(100);

/// How sure it is that a statement notifies; the surest last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notifies {
    /// By a trigger, a rule or a function that is not in the text.
    Perhaps,
    /// By `pg_notify`, on a channel that is not in the text.
    Surely,
    /// By NOTIFY.
    Channel(Identifier),
}

/// What a statement may notify; `None` if nothing.
pub(super) fn notifies(statement: &Statement) -> Option<Notifies> {
    match &statement.command {
        Command::Notify(channel) => Some(Notifies::Channel(channel.clone())),
        _ if statement.notifies => Some(Notifies::Surely),
        Command::With
        | Command::Insert
        | Command::Update
        | Command::Delete
        | Command::Merge
        | Command::Truncate
        | Command::Copy(_)
        | Command::Execute(_)
        | Command::Call
        | Command::Do
        | Command::Explain { analyze: true }
        | Command::Ddl
        | Command::Unknown => Some(Notifies::Perhaps),
        _ => statement.calls_unknown.then_some(Notifies::Perhaps),
    }
}

/// Whose statements on one server connection may have notified, the latest last.
#[derive(Debug, Default)]
pub struct Senders(VecDeque<Sender>);

#[derive(Debug)]
struct Sender {
    client: ProcessId,
    notifies: Notifies,
    at: Instant,
}

impl Senders {
    /// A client's statement may notify.
    pub fn note(&mut self, client: ProcessId, notifies: Notifies, now: Instant) {
        self.0.retain(|known| known.client != client || known.notifies != notifies);
        if self.0.len() == SENDERS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Sender { client, notifies, at: now });
    }

    /// What a client's statements notify goes out when its transaction commits: perhaps just now.
    pub fn renew(&mut self, client: ProcessId, now: Instant) {
        self.0.iter_mut().filter(|known| known.client == client).for_each(|known| known.at = now);
    }

    /// The client that most likely notified `channel`: of those of late the one who named it, or else called
    /// `pg_notify`, or else may have; if there was none of late, the last who may have.
    pub fn sender(&self, channel: &[u8], now: Instant) -> Option<ProcessId> {
        let rank = |sender: &Sender| match &sender.notifies {
            Notifies::Channel(named) if named.as_bytes() == channel => Some(3),
            Notifies::Channel(_) => None,
            Notifies::Surely => Some(2),
            Notifies::Perhaps => Some(1),
        };
        let is_recent = |sender: &Sender| now.saturating_duration_since(sender.at) < RECENT;
        // Among equals `max_by_key` gives the last.
        let best = self
            .0
            .iter()
            .filter(|sender| rank(sender).is_some())
            .max_by_key(|sender| if is_recent(sender) { rank(sender) } else { Some(0) });
        best.map(|sender| sender.client)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
mod tests {
    use super::*;
    use crate::sql::analyze;

    fn note(senders: &mut Senders, client: u32, sql: &str, now: Instant) {
        let analysis = analyze(sql.as_bytes(), true);
        if let Some(notifies) = notifies(&analysis.statements[0]) {
            senders.note(ProcessId(client), notifies, now);
        }
    }

    #[test]
    fn who_named_the_channel_sent_it_whoever_wrote_meanwhile() {
        let now = Instant::now();
        let mut senders = Senders::default();
        note(&mut senders, 1, "notify news", now);
        note(&mut senders, 2, "update t set a = 1", now);
        note(&mut senders, 3, "notify other", now);
        note(&mut senders, 4, "select 1", now);
        assert_eq!(senders.sender(b"news", now), Some(ProcessId(1)));
        assert_eq!(senders.sender(b"other", now), Some(ProcessId(3)));
        assert_eq!(senders.sender(b"of a trigger", now), Some(ProcessId(2)));
        note(&mut senders, 5, "select pg_notify('computed', '')", now);
        note(&mut senders, 2, "update t set a = 1", now);
        assert_eq!(senders.sender(b"computed", now), Some(ProcessId(5)));
    }

    #[test]
    fn what_was_named_long_ago_has_arrived_long_ago() {
        let now = Instant::now();
        let mut senders = Senders::default();
        note(&mut senders, 1, "notify news", now);
        let later = now + 2 * RECENT;
        note(&mut senders, 2, "update t set a = 1", later);
        assert_eq!(senders.sender(b"news", later), Some(ProcessId(2)));
        assert_eq!(senders.sender(b"news", later + 2 * RECENT), Some(ProcessId(2)));
        senders.renew(ProcessId(1), later);
        assert_eq!(senders.sender(b"news", later), Some(ProcessId(1)));
    }

    #[test]
    fn reads_send_nothing_and_the_memory_is_bounded() {
        let now = Instant::now();
        let mut senders = Senders::default();
        note(&mut senders, 1, "select 1", now);
        assert_eq!(senders.sender(b"c", now), None);
        for client in 0..100 {
            note(&mut senders, client, "select pg_notify('c', '')", now);
        }
        assert_eq!(senders.sender(b"c", now), Some(ProcessId(99)));
        assert_eq!(senders.0.len(), SENDERS_MAX);
    }
}
