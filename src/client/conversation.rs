//! The loop that serves one client: receive, analyze, decide, acquire, relay, settle, record.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::Proxy;
use super::fault::Fault;
use super::filling::Filling;
use super::held::Held;
use super::registry::{Activity, Registered, Signal};
use super::relay::{Relay, Relayed, Traffic};
use super::routing::{Reads, Routed, Routing};
use crate::insight::Watch;
use crate::net::Connection;
use crate::pg::{HostId, SqlState, TransactionStatus};
use crate::route::{Reason, Target};
use crate::server::{Acquire, Lease, Pool};
use crate::session::{self, Decision, LazyBlock, Session, Unit};
use crate::wire::build::Severity;
use crate::wire::frame::{self, MESSAGE_BYTES_MAX, Next};
use crate::wire::{build, frontend};

/// A logged-in client.
pub(super) struct Conversation {
    pub(super) connection: Connection,
    pub(super) session: Session,
    pub(super) entry: Registered,
    pub(super) proxy: Arc<Proxy>,
    pub(super) worker: usize,
    /// It was told to leave in the middle of a lazy block.
    pub(super) leaves: bool,
    /// A replica failed its read: the primary is asked next.
    pub(super) rerun: bool,
    /// The client has the beginning of a message that will not end.
    pub(super) cut_off: bool,
    /// What is left of a batch that was refused: all up to its Sync is passed over.
    pub(super) skipping: Option<Skipping>,
    /// The block that is open on a replica.
    pub(super) held: Option<Box<Held>>,
    /// How its reads are split off, if they are.
    pub(super) routing: Option<Box<Routing>>,
    /// What is told of its statements, if anybody wants to know.
    pub(super) watch: Option<Box<Watch>>,
    /// The server connection that it had last.
    pub(super) last_server: u64,
    pub(super) message_bytes_max: usize,
}

/// A server connection, for as long as the client needs it.
struct Taken {
    lease: Lease,
    /// The replica that it is to.
    replica: Option<HostId>,
    /// The block that is open there, as it was before that.
    block: Option<Box<LazyBlock>>,
    /// When the client asked for it, and since when it is the client's.
    asked: Instant,
    since: Instant,
}

impl Conversation {
    /// Serves the client until it leaves.
    pub(super) async fn run(mut self: Box<Self>) {
        let served = self.serve().await;
        self.abandon_replica().await;
        let Err(fault) = served else { return };
        match &fault {
            Fault::Malformed(malformed) => {
                self.proxy.clients.malformed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(peer = %self.entry.handle.peer, error = %malformed, "a client broke the protocol");
            }
            Fault::ClientGone | Fault::ServerEnded | Fault::Ended(..) | Fault::Refused(_) => {
                tracing::debug!(peer = %self.entry.handle.peer, reason = %fault, "a client's session ends");
            }
            Fault::ServerGone(_)
            | Fault::Confused(_)
            | Fault::Acquire(_)
            | Fault::NoPrimary
            | Fault::Replica => {
                tracing::warn!(peer = %self.entry.handle.peer, reason = %fault, "a client's session ends");
            }
        }
        // In the middle of a message it would be taken for a part of it.
        if !self.cut_off {
            fault.respond(Severity::Fatal, self.connection.output());
        }
        // A client that does not read its farewell must not hold its task.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.connection.close()).await;
    }

    async fn serve(&mut self) -> Result<(), Fault> {
        loop {
            let unit_bytes = self.receive().await?;
            if self.skipping.is_some() {
                self.skip(unit_bytes)?;
                continue;
            }
            let unit = &self.connection.input()[..unit_bytes];
            let is_idle = self.session.status() == TransactionStatus::Idle;
            match session::decide(&mut self.session, unit)? {
                Decision::Leave => return Ok(()),
                Decision::Here { answer, reason } => {
                    self.proxy.count(reason);
                    self.note_unit(is_idle);
                    self.answer(&answer, unit_bytes);
                }
                Decision::Server => match self.route(unit_bytes)? {
                    Routed::Here(answer, _) => {
                        self.note_unit(is_idle);
                        self.answer(&answer, unit_bytes);
                    }
                    Routed::Leaves => {
                        if let Some(held) = self.held.take() {
                            self.leave_replica(*held).await;
                        }
                    }
                    Routed::Cached(entry, now, tagged) => {
                        self.serve_from_memory(&entry, unit_bytes, now).await?;
                        self.note_hit(&entry, tagged.as_ref(), is_idle, now);
                    }
                    Routed::Fetched(landing) => match Box::pin(self.wait_for_flight(landing)).await {
                        Err(fault @ Fault::Acquire(_)) => self.refuse(&fault)?,
                        waited => waited?,
                    },
                    Routed::Shared(filling) => match Box::pin(self.ask_others(filling)).await {
                        Err(fault @ Fault::Acquire(_)) => self.refuse(&fault)?,
                        asked => asked?,
                    },
                    Routed::To { target, opens_block, reads, filling, analysis, reason } => match self
                        .prepare(target, reason)
                        .await
                    {
                        Ok(taken) => {
                            let only_reads = match reads {
                                Reads::No => false,
                                Reads::OnReplica => taken.replica.is_some(),
                                Reads::Anywhere => true,
                            };
                            let allowance = only_reads.then_some(unit_bytes);
                            self.session.analyzed(analysis);
                            let opens_block = opens_block || allowance.is_none() && self.session.is_lazy();
                            if self.relay(taken, opens_block, allowance, filling).await? == Relayed::Left {
                                return Ok(());
                            }
                        }
                        Err(fault @ (Fault::ClientGone | Fault::Ended(..))) => return Err(fault),
                        Err(fault) => self.refuse(&fault)?,
                    },
                },
            }
        }
    }

    /// Answers a unit without a server.
    fn answer(&mut self, answer: &[u8], unit_bytes: usize) {
        self.connection.output().extend_from_slice(answer);
        self.connection.consume(unit_bytes);
        self.note_rest();
    }

    /// What the client does next is its own time.
    pub(super) fn note_rest(&self) {
        self.note_rest_since(Instant::now());
    }

    /// Likewise, since `now`.
    #[inline]
    pub(super) fn note_rest_since(&self, now: Instant) {
        let in_block = self.is_in_block();
        let activity = if in_block { Activity::IdleInTransaction } else { Activity::Idle };
        self.entry.handle.set_activity(activity, now);
    }

    /// Decides where the unit goes, and counts why.
    fn route(&mut self, unit_bytes: usize) -> Result<Routed, Fault> {
        let rerun = std::mem::take(&mut self.rerun);
        let mut routed = match &mut self.routing {
            None => Routed::primary(false, Reason::NoSplitting),
            Some(routing) => {
                let unit = &self.connection.input()[..unit_bytes];
                let held = self.held.as_deref().map(Held::as_block);
                let tenant = &self.entry.handle.tenant;
                routing.route(&mut self.session, held, unit, &self.proxy, tenant)?
            }
        };
        if rerun && let Routed::To { target, reason, reads, .. } = &mut routed {
            // Why the replica failed it is not known: it may have been a write.
            (*target, *reason, *reads) = (Target::Primary, Reason::Rerun, Reads::No);
        }
        if let Some(reason) = routed.reason() {
            self.proxy.count(reason);
        }
        Ok(routed)
    }

    /// Waits for the next unit; gives its length.
    async fn receive(&mut self) -> Result<usize, Fault> {
        let mut looked = 0;
        std::future::poll_fn(|context| {
            loop {
                if let Some(Skipping { left, .. }) = self.skipping
                    && left > 0
                    && !self.connection.input().is_empty()
                {
                    return Poll::Ready(Ok(left.min(self.connection.input().len())));
                }
                match session::unit(self.connection.input(), looked, self.message_bytes_max)? {
                    Unit::Ready { bytes } => return Poll::Ready(Ok(bytes)),
                    Unit::Incomplete(until) => looked = until,
                }
                if self.leaves && !self.is_in_block() {
                    return Poll::Ready(Err(ended_by_administrator()));
                }
                if let Poll::Ready(Err(_)) = self.connection.poll_flush(context) {
                    return Poll::Ready(Err(Fault::ClientGone));
                }
                // A client that does not read its answers is not asked for more questions.
                if !self.connection.is_clogged() {
                    match self.connection.poll_fill(context) {
                        Poll::Ready(Ok(count)) if count > 0 => continue,
                        Poll::Ready(_) => return Poll::Ready(Err(Fault::ClientGone)),
                        Poll::Pending => {}
                    }
                }
                match self.entry.handle.poll_signal(context) {
                    Poll::Ready(Signal::Trim) => {
                        self.connection.trim();
                        if let Some(watch) = &mut self.watch {
                            watch.trim();
                        }
                    }
                    // It may finish its transaction, and ends behind it.
                    Poll::Ready(Signal::Shutdown) if self.is_in_block() => self.leaves = true,
                    Poll::Ready(Signal::Kill | Signal::Shutdown) => {
                        return Poll::Ready(Err(ended_by_administrator()));
                    }
                    Poll::Ready(Signal::IdleTimeout) => {
                        let text = "terminating connection due to idle-session timeout";
                        return Poll::Ready(Err(Fault::Ended(SqlState::IDLE_SESSION_TIMEOUT, text)));
                    }
                    Poll::Ready(Signal::IdleInTransactionTimeout) if self.is_in_block() => {
                        let text = "terminating connection due to idle-in-transaction timeout";
                        return Poll::Ready(Err(Fault::Ended(SqlState::IDLE_IN_TRANSACTION_TIMEOUT, text)));
                    }
                    Poll::Ready(Signal::Cancel | Signal::IdleInTransactionTimeout) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }

    async fn prepare(&mut self, target: Target, reason: Reason) -> Result<Taken, Fault> {
        if let Some(watch) = &mut self.watch {
            watch.decided(reason);
        }
        if let Some(routing) = &mut self.routing {
            routing.clear_the_way().await;
        }
        self.acquire(target).await
    }

    /// Takes a server connection; where a replica has none to give, to the primary.
    async fn acquire(&mut self, target: Target) -> Result<Taken, Fault> {
        let now = Instant::now();
        if let Some(held) = self.held.take() {
            if target == Target::Replica(held.host) {
                self.entry.handle.set_activity(Activity::Active, now);
                let Held { lease, host, block } = *held;
                return Ok(Taken { lease, replica: Some(host), block: Some(block), asked: now, since: now });
            }
            self.leave_replica(*held).await;
        }
        let replica = match target {
            Target::Replica(host) => self.acquire_on_replica(host).map(|lease| (host, lease)),
            Target::Primary => None,
        };
        let (mut replica, mut free) = replica.unzip();
        let mut since = now;
        let mut lease = loop {
            let lease = if let Some(lease) = free.take() {
                lease
            } else {
                let (lease, had) = self.acquire_on_primary(now).await?;
                since = had;
                lease
            };
            if lease.state.settings == *self.session.settings() {
                break lease;
            }
            if let Some(lease) = Box::pin(lease.calmed()).await {
                lease.cancel.hold();
                since = Instant::now();
                break lease;
            }
            replica = None;
        };
        let handle = &self.entry.handle;
        let same = lease.id == self.last_server && lease.cancel.client() == self.session.process;
        lease.cancel.set_client(self.session.process);
        self.session.attached(&mut lease.state, same);
        self.last_server = lease.id;
        handle.set_activity(Activity::Active, now);
        handle.set_target(Some(Arc::clone(&lease.cancel)));
        Ok(Taken { lease, replica, block: None, asked: now, since })
    }

    /// Gives also when it was had, which is `now` for who need not wait.
    async fn acquire_on_primary(&mut self, now: Instant) -> Result<(Lease, Instant), Fault> {
        if let Some(lease) = self.pool().and_then(|pool| pool.try_acquire(self.want())) {
            return Ok((lease, now));
        }
        self.entry.handle.clear_cancel();
        self.entry.handle.set_activity(Activity::Waiting, now);
        let waited = Box::pin(self.wait_for_server()).await;
        let now = Instant::now();
        self.entry.handle.set_activity(Activity::Idle, now);
        Ok((waited?, now))
    }

    fn acquire_on_replica(&self, host: HostId) -> Option<Lease> {
        let pool = self.entry.handle.tenant.pool(self.proxy.hosts.host(host));
        let Some(mut lease) = pool.try_acquire(self.want()) else {
            // The next read finds one there.
            pool.warm(self.want());
            return None;
        };
        lease.state.reported.hide_standby();
        Some(lease)
    }

    fn pool(&self) -> Option<&Arc<Pool>> {
        let primary = self.proxy.hosts.primary()?;
        Some(self.entry.handle.tenant.pool(self.proxy.hosts.host(primary)))
    }

    fn want(&self) -> Acquire<'_> {
        Acquire {
            worker: self.worker,
            settings: self.session.settings(),
            placeholders: self.session.placeholders(),
            process: self.session.process,
            last_server: self.last_server,
        }
    }

    /// Relays until the server connection may be given back, and gives it back.
    ///
    /// `opens_block`: the client's BEGIN goes in front. `allowance`: so many bytes of the client's input are for this
    /// connection; all that it sends until then, if there is none.
    async fn relay(
        &mut self,
        taken: Taken,
        opens_block: bool,
        allowance: Option<usize>,
        mut filling: Option<Box<Filling>>,
    ) -> Result<Relayed, Fault> {
        let Taken { mut lease, replica, mut block, asked, since } = taken;
        self.watch_begins(replica, filling.is_some(), asked, since);
        self.session.set_reading(allowance.is_some());
        self.session.tell_settings_unless_changed(&mut lease.state, self.connection.output());
        if opens_block {
            let server = &mut *lease;
            let input = self.connection.input();
            block = self.session.open_block(input, &mut server.state, server.connection.output());
        }
        // A read that a replica fails may be run again elsewhere, as long as its client knows nothing of it.
        let unit = match allowance {
            Some(bytes) if replica.is_some() => self.connection.input()[..bytes].to_vec(),
            _ => Vec::new(),
        };
        let mut relay = Relay {
            client: &mut self.connection,
            session: &mut self.session,
            lease: &mut lease,
            proxy: &self.proxy,
            handle: &self.entry.handle,
            worker: self.worker,
            message_bytes_max: self.message_bytes_max,
            traffic: Traffic::default(),
            passing_up: 0,
            passing_down: 0,
            leaving: false,
            waiting: false,
            full: false,
            closing: None,
            before: Vec::new(),
            after: Vec::new(),
            quiet: false,
            notifies: false,
            allowance,
            on_replica: replica.is_some(),
            taken: false,
            may_rerun: !unit.is_empty(),
            routing: self.routing.as_deref_mut(),
            watch: self.watch.as_deref_mut(),
            down: 0,
            filled: since,
            filling: filling.as_deref_mut(),
        };
        let outcome = relay.run().await;
        // What the server said last was the end of it.
        let ended = if matches!(outcome, Ok(Relayed::Released)) { relay.filled } else { Instant::now() };
        let (traffic, midway) = (relay.traffic, relay.passing_up > 0 || relay.passing_down > 0);
        self.cut_off = relay.passing_down > 0;
        let taken = unit.len() - relay.allowance.unwrap_or(0).min(unit.len());
        let fails = outcome.as_ref().is_err_and(Fault::is_servers);
        let reruns = relay.may_rerun && fails;
        let is_done = fails && relay.is_done_on_replica();
        if relay.notifies {
            lease.cancel.renew_sender();
        }
        // Dropped without that, it is not kept.
        if let Some(filling) = filling.filter(|_| matches!(outcome, Ok(Relayed::Released))) {
            filling.land();
        }
        let wrote = self.session.committed_perhaps(&lease.state);
        self.session.set_reading(false);
        if let Some(routing) = &mut self.routing {
            // Whether it was committed is not known.
            routing.committed(&wrote);
            routing.settled();
            routing.no_doubt();
            if routing.is_telling() {
                std::future::poll_fn(|context| routing.poll_told(context)).await;
            }
        }
        if let Some(watch) = &mut self.watch {
            watch.ends(self.session.settings());
        }
        record(lease.pool(), traffic, ended.saturating_duration_since(since));
        if let (Some(host), Err(Fault::ServerGone(_) | Fault::ServerEnded)) = (replica, &outcome)
            && let Some(splitting) = &self.proxy.splitting
        {
            // It may have been started again, further back than it was.
            splitting.positions.lost(host);
        }
        if reruns {
            tracing::info!(host = lease.cancel.host(), "a read is run again on the primary");
            self.session.rewind(&mut lease.state);
            if let Some(block) = block.take() {
                self.session.reopen(block);
            }
            self.connection.unread(&unit[..taken]);
            self.rerun = true;
        }
        if let (Ok(Relayed::Held), Some(host), Some(block)) = (&outcome, replica, block) {
            self.held = Some(Box::new(Held { lease, host, block }));
            self.note_rest();
            return outcome;
        }
        self.settle(lease, &outcome, midway, (since, ended)).await;
        if reruns || is_done { Ok(Relayed::Released) } else { outcome }
    }

    /// Gives the server connection back, cleans it first, or closes it.
    async fn settle(
        &mut self,
        mut lease: Lease,
        outcome: &Result<Relayed, Fault>,
        midway: bool,
        (since, now): (Instant, Instant),
    ) {
        let used = now.saturating_duration_since(since);
        // From here on no cancel can be announced; one that was is waited for before anybody else gets the
        // connection.
        let handle = &self.entry.handle;
        handle.set_target(None);
        self.note_rest_since(now);
        handle.set_pins(self.session.pins());
        if !lease.cancel.is_settled() {
            lease.cancel.settled().await;
        }
        let pinned = self.session.was_pinned();
        match outcome {
            Ok(Relayed::Released) if pinned => {
                self.session.unpinned();
                lease.give_back_dirty(TransactionStatus::Idle);
            }
            Ok(Relayed::Released) => lease.give_back_after(used, now),
            Ok(Relayed::Left)
            | Err(Fault::ClientGone | Fault::Ended(..) | Fault::Malformed(_) | Fault::Refused(_))
                if !midway
                    && !lease.state.is_in_batch()
                    && !lease.state.is_broken()
                    && self.session.is_cleanable() =>
            {
                let status = self.session.status();
                let clean = self.session.leaves_nothing(&lease.state);
                self.session.abandon(&mut lease.state);
                if clean { lease.give_back_after(used, now) } else { lease.give_back_dirty(status) }
            }
            Ok(Relayed::Left | Relayed::Held) | Err(_) => lease.close(),
        }
    }

    /// No server connection was to be had: the client is told, and its unit is passed over.
    fn refuse(&mut self, fault: &Fault) -> Result<(), Fault> {
        tracing::warn!(peer = %self.entry.handle.peer, reason = %fault, "no server connection");
        fault.respond(Severity::Error, self.connection.output());
        // Up to Sync the rest of an extended batch is skipped, as a server does after an error.
        self.skipping = Some(Skipping::default());
        let unit_bytes = self.connection.input().len();
        self.skip(unit_bytes)
    }

    /// Passes over the next `bytes` of the input, up to the message that ends what was refused.
    fn skip(&mut self, bytes: usize) -> Result<(), Fault> {
        let Some(skipping) = &mut self.skipping else { return Ok(()) };
        let input = &self.connection.input()[..bytes];
        let mut at = skipping.left.min(bytes);
        skipping.left -= at;
        let mut ended = false;
        while !ended {
            match frame::next(&input[at..], MESSAGE_BYTES_MAX)? {
                Next::Frame(message) => {
                    at += message.bytes.len();
                    let is_alone = matches!(message.tag, frontend::QUERY | frontend::FUNCTION_CALL);
                    ended = message.tag == frontend::SYNC || is_alone && !skipping.is_batch;
                    skipping.is_batch = true;
                    if message.tag == frontend::TERMINATE {
                        return Err(Fault::ClientGone);
                    }
                }
                Next::NeedHeader => break,
                Next::NeedBody { frame_bytes, .. } => {
                    skipping.is_batch = true;
                    skipping.left = frame_bytes - (bytes - at);
                    at = bytes;
                    break;
                }
            }
        }
        self.connection.consume(at);
        if ended {
            self.skipping = None;
            let status = self.session.refused();
            build::ready_for_query(self.connection.output(), status);
            self.note_rest();
        }
        Ok(())
    }
}

/// What is left of a refused batch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Skipping {
    /// Bytes still to come of a message whose head was passed over.
    left: usize,
    /// It is a batch, which ends with Sync and nothing else.
    is_batch: bool,
}

pub(super) fn ended_by_administrator() -> Fault {
    Fault::Ended(SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
}

/// Adds to the pool's counters.
fn record(pool: &Pool, traffic: Traffic, elapsed: Duration) {
    let elapsed = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    let stats = &pool.stats;
    stats.received.fetch_add(traffic.received, Ordering::Relaxed);
    stats.sent.fetch_add(traffic.sent, Ordering::Relaxed);
    stats.queries.fetch_add(traffic.queries, Ordering::Relaxed);
    stats.transactions.fetch_add(traffic.transactions, Ordering::Relaxed);
    stats.query_us.fetch_add(elapsed, Ordering::Relaxed);
    stats.transaction_us.fetch_add(elapsed, Ordering::Relaxed);
}
