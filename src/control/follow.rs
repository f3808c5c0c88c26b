//! Follows the hosts' positions in the log: a task for the primary, and one for each host that may be a replica.
//!
//! A host that hangs holds up nobody else's answers. A task ends only by being aborted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::retry::Retry;
use super::{ControlError, ControlSession, PositionSession};
use crate::config::ServerSettings;
use crate::consistency::{Fault, Pace, Positions, Resolved};
use crate::server::{Host, Hosts, Role};

/// Attempts to reach a host again are at most so far apart: it is to be back soon after it is back.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// What the tasks share.
#[derive(Debug)]
pub(super) struct Follower {
    pub(super) positions: Arc<Positions>,
    pub(super) pace: Pace,
    pub(super) hosts: Arc<Hosts>,
    pub(super) servers: ServerSettings,
    /// There are commits without a position.
    pub(super) committed: Arc<Notify>,
    /// Commits have got their position: replicas are to be asked.
    pub(super) resolved: Arc<Notify>,
}

impl Follower {
    /// Reads the primary's position, for ever, whoever that is. `begun_anew` is told when it is another than before.
    pub(super) async fn follow_primary(&self, begun_anew: impl Fn()) {
        let mut changes = self.hosts.primary_changes();
        let mut last = None;
        loop {
            let primary = *changes.borrow_and_update();
            if let Some(id) = primary {
                if last.is_some_and(|last| last != id) {
                    tracing::warn!(
                        host = self.hosts.host(id).name(),
                        "the primary is another: floors begin anew"
                    );
                    self.positions.begin_anew();
                    begun_anew();
                }
                last = Some(id);
            }
            let following = async {
                match primary {
                    Some(id) => self.read(self.hosts.host(id), &begun_anew).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = Box::pin(following) => {}
            }
        }
    }

    /// Reads one primary's position for as long as it is that.
    async fn read(&self, host: &Host, begun_anew: &impl Fn()) {
        let mut retry = Retry::new(RETRY_MAX);
        loop {
            // Before the first probe the first host is only presumed to be the primary.
            if host.role() == Role::Unknown {
                sleep(self.pace.slow).await;
                continue;
            }
            let Err(error) = self.converse_with_primary(host, &mut retry, begun_anew).await;
            self.positions.primary_lost();
            let (pause, is_news) = retry.failed(&error.to_string());
            if is_news {
                tracing::warn!(
                    host = host.name(), %error,
                    "cannot read the primary's position: reads of what is written go to it"
                );
            }
            sleep(pause).await;
        }
    }

    async fn converse_with_primary(
        &self,
        host: &Host,
        retry: &mut Retry,
        begun_anew: &impl Fn(),
    ) -> Result<std::convert::Infallible, ControlError> {
        let session = self.open(host, self.servers.health_timeout).await?;
        loop {
            let duty = self.positions.duty(Instant::now());
            if duty.nudge_primary {
                session.nudge().await?;
            }
            if !duty.primary_in.is_zero() {
                tokio::select! {
                    biased;
                    () = sleep(duty.primary_in) => {}
                    // Perhaps sooner now, but not back to back.
                    () = self.committed.notified() => continue,
                }
            }
            match session.read_primary(&self.positions, || self.hosts.primary() == Some(host.id)).await? {
                Resolved::Taken if duty.primary_in < self.pace.slow => self.resolved.notify_waiters(),
                Resolved::Taken | Resolved::Outdated => {}
                Resolved::Anew => {
                    tracing::warn!(host = host.name(), "the primary's log is another: floors begin anew");
                    begun_anew();
                }
            }
            if retry.worked() {
                tracing::info!(host = host.name(), "the primary's position can be read again");
            }
        }
    }

    /// Takes what a host says of itself while it is not the primary, for ever.
    pub(super) async fn follow_replica(&self, host: Arc<Host>) {
        let mut changes = self.hosts.primary_changes();
        loop {
            let _ = changes.wait_for(|primary| *primary != Some(host.id)).await;
            tokio::select! {
                biased;
                _ = changes.wait_for(|primary| *primary == Some(host.id)) => {}
                () = Box::pin(self.report(&host)) => {}
            }
            self.positions.lost(host.id);
        }
    }

    async fn report(&self, host: &Host) {
        let mut retry = Retry::new(RETRY_MAX);
        loop {
            let Err(error) = self.converse_with_replica(host, &mut retry).await;
            self.positions.lost(host.id);
            let (pause, is_news) = retry.failed(&error.to_string());
            // That it is down its probe tells.
            if is_news && host.role() != Role::Down {
                tracing::warn!(host = host.name(), %error, "no position of the replica: no reads go to it");
            }
            sleep(pause).await;
        }
    }

    async fn converse_with_replica(
        &self,
        host: &Host,
        retry: &mut Retry,
    ) -> Result<std::convert::Infallible, ControlError> {
        // An answer that takes longer would say nothing when it came.
        let session = self.open(host, self.pace.stale).await?;
        let mut last_fault = None;
        let mut was_replica = true;
        loop {
            let resolved = self.resolved.notified();
            tokio::pin!(resolved);
            // From here on none is missed.
            resolved.as_mut().enable();
            let is_replica = session.report_replica(&self.positions, host.id).await?;
            let fault = self.positions.fault(host.id);
            if was_replica && !is_replica {
                tracing::warn!(host = host.name(), "the replica is none any more: it has been promoted");
            }
            if fault != last_fault {
                match fault {
                    Some(Fault::CutOff) => {
                        tracing::warn!(
                            host = host.name(),
                            "no log is streamed to the replica: no reads go to it"
                        );
                    }
                    Some(Fault::Timeline) => tracing::warn!(
                        host = host.name(),
                        "the replica does not show that it follows the primary's timeline: no reads go to it; \
                         after a failover, a login with the role pg_monitor sees that sooner"
                    ),
                    None => tracing::info!(host = host.name(), "the replica follows the primary again"),
                }
            }
            if retry.worked() {
                tracing::info!(host = host.name(), "the replica tells its position again");
            }
            (was_replica, last_fault) = (is_replica, fault);
            // Whatever wakes it: not back to back.
            sleep(self.pace.fast).await;
            let pause = self.positions.replica_in(host.id, Instant::now()).saturating_sub(self.pace.fast);
            let _ = timeout(pause, resolved).await;
        }
    }

    async fn open(&self, host: &Host, answer_within: Duration) -> Result<PositionSession, ControlError> {
        let (login, wait) = (&self.servers.control, self.servers.connect_timeout);
        let session = Box::pin(ControlSession::open(&host.connector, login, wait)).await?;
        PositionSession::open(session.answering_within(answer_within), &self.positions).await
    }
}
