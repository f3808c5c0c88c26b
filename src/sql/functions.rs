//! Functions of PostgreSQL and of common extensions that do something to the session, by name.
//!
//! A name is looked up wherever an identifier stands in front of `(`, whatever schema it is qualified with: a
//! function of one's own that happens to be called `pg_advisory_lock` costs a pin, the other way round costs a leak.

use std::sync::LazyLock;

use super::pin::Pin;

/// What a call of a function does to the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionCall {
    /// Leaves something behind.
    Pins(Pin),
    /// Takes all of it away.
    Ends(Pin),
    /// `nextval`, `setval`
    AdvancesSequence,
    /// `currval`, `lastval`
    ReadsSequence,
    /// `pg_advisory_unlock`: one lock less, but perhaps not the last.
    UnlocksAdvisory,
    /// `pg_notify`
    Notifies,
    /// `set_config`: depends on the arguments.
    SetConfig,
    /// `pg_backend_pid`
    BackendPid,
}

/// The functions of `pg_catalog` (PostgreSQL 15), and the keywords and types that may stand in front of `(`; one a
/// line, sorted.
static BUILTINS: LazyLock<Vec<&'static [u8]>> =
    LazyLock::new(|| include_str!("builtins.txt").lines().map(str::as_bytes).collect());

/// Whether an identifier in front of `(` is PostgreSQL's own, so that [`session_call`] knows all it does. Any other
/// may be a function that leaves something in the session.
pub(super) fn is_builtin(word: bool, source: &[u8]) -> bool {
    let name = if word { source } else { source.get(1..source.len().saturating_sub(1)).unwrap_or_default() };
    BUILTINS
        .binary_search_by(|builtin| {
            let folded = name.iter().map(|byte| if word { byte.to_ascii_lowercase() } else { *byte });
            builtin.iter().copied().cmp(folded)
        })
        .is_ok()
}

/// No name in the table is longer.
const NAME_MAX: usize = 40;

/// Looks up an identifier as written: `word` is unquoted, otherwise with its quotes.
#[inline]
pub(super) fn session_call(word: bool, source: &[u8]) -> Option<SessionCall> {
    let name = if word { source } else { source.get(1..source.len().checked_sub(1)?)? };
    let first = name.first()?.to_ascii_lowercase();
    if name.len() < 6
        || name.len() > NAME_MAX
        || !matches!(first, b'p' | b's' | b'n' | b'c' | b'l' | b'd' | b'h')
    {
        return None;
    }
    let mut folded = [0; NAME_MAX];
    let folded = &mut folded[..name.len()];
    folded.copy_from_slice(name);
    if word {
        folded.make_ascii_lowercase();
    }
    lookup(folded)
}

fn lookup(name: &[u8]) -> Option<SessionCall> {
    use SessionCall::{
        AdvancesSequence, BackendPid, Ends, Notifies, Pins, ReadsSequence, SetConfig, UnlocksAdvisory,
    };
    Some(match name {
        b"nextval" | b"setval" => AdvancesSequence,
        b"currval" | b"lastval" => ReadsSequence,
        b"set_config" => SetConfig,
        b"pg_notify" => Notifies,
        b"pg_backend_pid" => BackendPid,
        b"pg_advisory_lock"
        | b"pg_advisory_lock_shared"
        | b"pg_try_advisory_lock"
        | b"pg_try_advisory_lock_shared" => Pins(Pin::AdvisoryLock),
        b"pg_advisory_unlock" | b"pg_advisory_unlock_shared" => UnlocksAdvisory,
        b"pg_advisory_unlock_all" => Ends(Pin::AdvisoryLock),
        // pg_trgm: sets pg_trgm.similarity_threshold.
        b"set_limit" => Pins(Pin::UnknownSetting),
        b"setseed"
        // Extension set_user.
        | b"set_user"
        | b"set_session_auth"
        | b"dblink_connect"
        | b"dblink_connect_u"
        | b"dblink_open"
        | b"dblink_send_query"
        | b"hypopg_create_index"
        | b"hypopg_drop_index"
        | b"hypopg_hide_index"
        | b"hypopg_unhide_index"
        // A backup is tied to the session that began it.
        | b"pg_backup_start"
        | b"pg_start_backup"
        | b"pg_replication_origin_session_setup"
        // These make a temporary slot if asked to.
        | b"pg_create_logical_replication_slot"
        | b"pg_create_physical_replication_slot"
        | b"pg_copy_logical_replication_slot"
        | b"pg_copy_physical_replication_slot" => Pins(Pin::SessionFunction),
        // Extension pg_variables.
        name if name.starts_with(b"pgv_") => Pins(Pin::SessionFunction),
        _ => return None,
    })
}
