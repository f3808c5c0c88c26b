//! A client that waits for a server connection.
//!
//! It is watched meanwhile: what Weir answered before goes out, a cancel and the operator's word are heard, and a client
//! that has gone leaves the queue, so that nothing is run for nobody. It waits in the queue of whichever host is the
//! primary, and follows when another is.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;

use super::Proxy;
use super::conversation::{Conversation, ended_by_administrator};
use super::fault::Fault;
use super::registry::{Handle, Signal};
use crate::net::Connection;
use crate::pg::HostId;
use crate::server::{Acquire, AcquireError, Lease, Tenant};

/// What is read ahead of a client that waits, in bytes: the end of one that has sent more is noticed when its turn comes.
const WAITING_INPUT_MAX: usize = 64 * 1024;

impl Conversation {
    /// Waits for a connection to the primary.
    pub(super) async fn wait_for_server(&mut self) -> Result<Lease, Fault> {
        let want = Acquire {
            worker: self.worker,
            settings: self.session.settings(),
            placeholders: self.session.placeholders(),
            process: self.session.process,
            last_server: self.last_server,
        };
        let handle = &self.entry.handle;
        tokio::select! {
            biased;
            fault = interrupted(&mut self.connection, handle) => Err(fault),
            outcome = on_primary(&self.proxy, &handle.tenant, want) => outcome,
        }
    }
}

/// Until there is no use in waiting any longer.
async fn interrupted(connection: &mut Connection, handle: &Handle) -> Fault {
    std::future::poll_fn(|context| {
        if poll_gone(connection, context).is_ready() {
            return Poll::Ready(Fault::ClientGone);
        }
        loop {
            match handle.poll_signal(context) {
                Poll::Ready(Signal::Cancel) => return Poll::Ready(AcquireError::Canceled.into()),
                Poll::Ready(Signal::Kill) => return Poll::Ready(ended_by_administrator()),
                // It is not idle, and may end what it has begun: of the end of Weir it is told again, and hears it then.
                Poll::Ready(
                    Signal::Shutdown | Signal::Trim | Signal::IdleTimeout | Signal::IdleInTransactionTimeout,
                ) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await
}

/// Until the client has gone; meanwhile it is sent what it is owed.
pub(super) async fn gone(connection: &mut Connection) {
    std::future::poll_fn(|context| poll_gone(connection, context)).await;
}

fn poll_gone(connection: &mut Connection, context: &mut Context<'_>) -> Poll<()> {
    if let Poll::Ready(Err(_)) = connection.poll_flush(context) {
        return Poll::Ready(());
    }
    while connection.input().len() < WAITING_INPUT_MAX {
        match connection.poll_fill(context) {
            Poll::Ready(Ok(count)) if count > 0 => {}
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => break,
        }
    }
    Poll::Pending
}

/// A connection to the primary, whichever host that is and becomes.
pub(super) async fn on_primary(
    proxy: &Arc<Proxy>,
    tenant: &Tenant,
    want: Acquire<'_>,
) -> Result<Lease, Fault> {
    let failover_wait = proxy.settings().servers.failover_wait;
    let mut primaries = proxy.hosts.primary_changes();
    let mut queued = None;
    loop {
        let primary = first_primary(&mut primaries, failover_wait).await?;
        // One wait has one end, in however many queues.
        let since = *queued.get_or_insert_with(Instant::now);
        let pool = tenant.pool(proxy.hosts.host(primary));
        let acquiring = pin!(pool.acquire(want, since));
        tokio::select! {
            biased;
            lease = acquiring => return Ok(lease?),
            moved = other_primary(&mut primaries, primary, failover_wait) => moved?,
        }
    }
}

/// Waits for a primary.
pub(super) async fn first_primary(
    primaries: &mut watch::Receiver<Option<HostId>>,
    wait: Duration,
) -> Result<HostId, Fault> {
    let found = timeout(wait, primaries.wait_for(Option::is_some)).await;
    found.ok().and_then(Result::ok).and_then(|primary| *primary).ok_or(Fault::NoPrimary)
}

/// Until another host than `known` is the primary. While there is none, `known` may come back, and its queue is kept.
async fn other_primary(
    primaries: &mut watch::Receiver<Option<HostId>>,
    known: HostId,
    wait: Duration,
) -> Result<(), Fault> {
    loop {
        if primaries.wait_for(|primary| *primary != Some(known)).await.is_err() {
            return Err(Fault::NoPrimary);
        }
        if first_primary(primaries, wait).await? != known {
            return Ok(());
        }
    }
}
