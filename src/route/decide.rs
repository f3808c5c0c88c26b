//! The decision: effect x block x facts -> route.

use super::balance::{Candidate, Choice};
use super::reason::Reason;
use crate::catalog::{Effect, OnPrimary, Volatility};
use crate::config::PrimaryReads;
use crate::consistency::Standing;
use crate::pg::{HostId, SqlState};
use crate::sql::comment::TargetHint;

/// The transaction block that the statement is in, as the session has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// None: the statement is a transaction by itself.
    None,
    /// BEGIN was answered by us, and no server knows of it.
    Lazy,
    /// As `Lazy`, at REPEATABLE READ or SERIALIZABLE, READ ONLY, not DEFERRABLE: one snapshot for all that follows.
    Snapshot,
    /// As `Lazy`, at REPEATABLE READ or SERIALIZABLE, and it may write; or lazy transactions are off.
    Eager {
        /// Why it may not stay lazy.
        isolation: bool,
    },
    /// Open on the primary.
    OnPrimary,
    /// Open on a replica, for a read that names the transaction's time: a write leaves it for the primary.
    OnReplica(HostId),
    /// Open on a replica for the whole block: it is READ ONLY, and PostgreSQL itself refuses writes there.
    SnapshotOnReplica(HostId),
}

/// Whether the session must stay on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// No.
    No,
    /// Yes, and that is a connection to the primary.
    ToPrimary,
}

/// What there is to know besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// There are replicas in the settings, and reads go to them.
    pub splitting: bool,
    /// See there.
    pub pinned: Pinned,
    /// What the client asks for.
    pub hint: Option<TargetHint>,
    /// See there.
    pub primary_reads: PrimaryReads,
    /// The primary as a reader, for `PrimaryReads::Share`.
    pub primary: Option<Candidate>,
    /// A parameter's value stands for the current time.
    pub parameter_names_time: bool,
    /// Any number that differs from one decision to the next.
    pub turn: u64,
}

/// Where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The primary, whoever that is.
    Primary,
    /// This replica.
    Replica(HostId),
}

/// Where a statement goes, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub target: Target,
    /// Why.
    pub reason: Reason,
    /// The block becomes real there: the client's BEGIN goes in front.
    pub opens_block: bool,
}

impl Route {
    fn primary(reason: Reason, block: Block) -> Self {
        let opens_block = match block {
            Block::Lazy | Block::Snapshot | Block::Eager { .. } | Block::OnReplica(_) => true,
            Block::None | Block::OnPrimary | Block::SnapshotOnReplica(_) => false,
        };
        Self { target: Target::Primary, reason, opens_block }
    }

    fn replica(host: HostId, reason: Reason, opens_block: bool) -> Self {
        Self { target: Target::Replica(host), reason, opens_block }
    }
}

/// Decides on a statement, or on all statements of a batch as one effect.
pub fn decide(
    effect: &Effect,
    block: Block,
    facts: &Facts,
    replicas: impl IntoIterator<Item = Candidate>,
) -> Route {
    // Where the block is settled, so is the route.
    match block {
        Block::OnPrimary => return Route::primary(Reason::BlockOnPrimary, block),
        Block::SnapshotOnReplica(host) => return Route::replica(host, Reason::BlockOnReplica, false),
        Block::None | Block::Lazy | Block::Snapshot | Block::Eager { .. } | Block::OnReplica(_) => {}
    }
    if facts.pinned == Pinned::ToPrimary {
        return Route::primary(Reason::Pinned, block);
    }
    if !facts.splitting {
        return Route::primary(Reason::NoSplitting, block);
    }
    // A snapshot's first statement may be anything but a write, which PostgreSQL refuses on either; what shows the
    // server through, or is not known, still wants the primary.
    if let Some(why) = effect.on_primary {
        return Route::primary(Reason::Statement(why), block);
    }
    // An effect without a reason writes nothing; should that ever be otherwise, it is a write.
    if !effect.writes.is_nothing() || effect.is_ddl || effect.volatility == Volatility::Volatile {
        return Route::primary(Reason::Statement(OnPrimary::Write), block);
    }
    match block {
        Block::Eager { isolation: true } => return Route::primary(Reason::Isolation, block),
        Block::Eager { isolation: false } => return Route::primary(Reason::Eager, block),
        Block::OnReplica(host) if facts.hint != Some(TargetHint::Primary) => {
            // The session keeps this connection, and its time, whatever it reads next. What it reads must be there.
            return match replicas.into_iter().find(|candidate| candidate.host == host) {
                Some(Candidate { standing: Standing::Satisfies, .. }) => {
                    Route::replica(host, Reason::BlockOnReplica, false)
                }
                Some(Candidate { standing, .. }) => Route::primary(unfit(standing), block),
                None => Route::primary(Reason::NoReplica, block),
            };
        }
        Block::None
        | Block::Lazy
        | Block::Snapshot
        | Block::OnReplica(_)
        | Block::OnPrimary
        | Block::SnapshotOnReplica(_) => {}
    }
    let names_time = effect.volatility == Volatility::TransactionTime || facts.parameter_names_time;
    let (reason, opens_block) = match block {
        Block::Snapshot => (Reason::Snapshot, true),
        Block::Lazy if names_time => (Reason::TransactionTime, true),
        // It leaves the replica that it is on.
        Block::OnReplica(_) => (Reason::Read, true),
        _ => (Reason::Read, false),
    };
    let by_hint = facts.hint == Some(TargetHint::Primary);
    match if by_hint { Err(Reason::Hint) } else { choose(facts, replicas) } {
        Ok(host) => Route::replica(host, reason, opens_block),
        // A lazy block stays lazy: the read is sent alone.
        Err(reason) => Route { target: Target::Primary, reason, opens_block },
    }
}

/// A replica, or why the primary.
fn choose(facts: &Facts, replicas: impl IntoIterator<Item = Candidate>) -> Result<HostId, Reason> {
    let mut choice = Choice::default();
    // The best excuse of those that do not satisfy.
    let mut why = Reason::NoReplica;
    for candidate in replicas.into_iter().filter(|candidate| candidate.weight > 0) {
        match candidate.standing {
            Standing::Satisfies => choice.offer(candidate, facts.turn),
            Standing::Floor => why = Reason::Floor,
            Standing::Lag if why == Reason::NoReplica => why = Reason::Lag,
            Standing::Lag | Standing::Unknown => {}
        }
    }
    let Some(chosen) = choice.chosen() else { return Err(why) };
    if let (PrimaryReads::Share, Some(primary)) = (facts.primary_reads, facts.primary)
        && facts.hint != Some(TargetHint::Replica)
    {
        choice.offer(primary, facts.turn);
        if choice.chosen().is_some_and(|best| best.host == primary.host) {
            return Err(Reason::PrimaryReads);
        }
    }
    Ok(chosen.host)
}

fn unfit(standing: Standing) -> Reason {
    match standing {
        Standing::Floor => Reason::Floor,
        Standing::Lag => Reason::Lag,
        Standing::Unknown | Standing::Satisfies => Reason::NoReplica,
    }
}

/// Whether a statement of a READ ONLY transaction must not be run on a replica, even if the snapshot of its block is
/// there: the answer would be another. What writes is refused by either in the same words.
pub fn would_show_replica(why: OnPrimary) -> bool {
    matches!(
        why,
        OnPrimary::ServerFunction
            | OnPrimary::UnloggedTable
            | OnPrimary::TemporaryObject
            | OnPrimary::LockTable
            | OnPrimary::Maintenance
    )
}

/// What to do about an error that a replica answered in front of the first row.
///
/// 25006: it turned out to be a write. 42501: a role was granted that the replica does not know of yet; it belongs to the
/// cluster, so that another database's floor was raised. 40001 and 57014: cancelled by a recovery conflict, which the primary
/// cannot have (manual, 27.4.2 Handling Query Conflicts); 57014 also by a client's cancel or by `statement_timeout`, so the
/// message tells. 57P01 to 57P03: it is going down, or comes up.
pub fn retry(state: SqlState, message: &str) -> bool {
    match state.as_str() {
        "25006" | "42501" | "57P01" | "57P02" | "57P03" => true,
        "40001" | "40P01" | "57014" => message.contains("conflict with recovery"),
        // What DDL has made, and the replica has not: the floor was passed over by something that we did not see.
        "0A000" => message.contains("during recovery"),
        "55000" => message.contains("recovery"),
        _ => false,
    }
}
