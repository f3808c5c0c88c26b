//! Consistency: which replicas have what a read must see. Pure: positions and `now` come in from `control`.
//!
//! Commits are counted, and floors are numbers of commits, not log positions: a table's floor is the [`Ticket`] of the
//! last commit that wrote it, known at once and without asking anybody. Positions are read later, one question for all
//! commits since the last, and say which ticket a replica has *passed*. A replica satisfies a read if it has passed the
//! largest floor among the read's tables: one comparison per replica, and a pending floor needs no bookkeeping, for no
//! replica has passed it.
//!
//! Who writes: any worker raises floors, with atomics; one task of `control` feeds [`Positions`], whose mutex no worker
//! takes. Reading floors and standings takes no lock at all.
//!
//! How the loop of seven verbs uses it:
//!
//! - There is one [`Positions`] for all hosts, and one [`Floors`] per database.
//! - **analyze**: [`Floors::watch`] for what an effect reads is kept with the effect (`route::Memo` does that).
//! - **decide**: `need = floors.need(&watched, mode, session.own_ticket)`, then [`Positions::standing`] for each replica.
//! - **settle**: in front of CommandComplete of COMMIT, and of ReadyForQuery of what committed by itself, call
//!   [`Floors::commit`]; keep the ticket as the session's own; if it says `wake`, wake the task that reads positions.
//! - that task: [`Positions::duty`] and [`Positions::replica_in`] say what to ask and when; answers go to
//!   [`Positions::resolve`] and [`Positions::report`]; a replica that breaks a connection is [`Positions::lost`]; a new primary is
//!   [`Positions::begin_anew`].
//! - the change stream: [`Changes`] puts its messages together to commits, which [`Floors::commit_at`] takes with the
//!   position that they have already.

mod changes;
mod floors;
mod marks;
mod positions;
mod wal;

pub use changes::{Changes, Committed, Plugin, Written};
pub use floors::{Commit, Floors, PendingFloor, Shown, Watched};
pub use positions::{
    Duty, Era, Fault, Pace, Positions, PrimaryPosition, Reading, ReplicaPosition, Resolved, Standing, Ticket,
    Timeline,
};
pub use wal::WalLayout;
