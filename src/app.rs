#![allow(clippy::disallowed_methods, reason = "an I/O module: it reads the clock")]
//! Builds the proxy from its settings and runs it: event loops, signals, reload, drain.

pub mod advise;
pub mod advice_file;
pub mod check;
pub mod logging;
pub mod slow;
pub mod slow_log;
pub mod sources;
pub mod watch;
pub mod why;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle as RuntimeHandle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::admin;
use crate::client::{self, Console, Proxy, Signal};
use crate::config::{HostAddress, HostSettings, ListenAddress, Mistakes, Settings, SharedSettings, reload};
use crate::control::{self, Advisor, SharedCache, SharedCacheError, Splitting, UserQuery};
use crate::insight::Insight;
use crate::insight::entry::HostName;
use crate::net::{self, Listener, tls};
use crate::server::{Hosts, Pool};
use advice_file::AdviceFile;
use slow_log::Drainer;

/// Why Weir cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A certificate or key.
    #[error("{0}")]
    Tls(#[from] tls::SetupError),
    /// An address that cannot be bound.
    #[error("cannot listen on {0:?}: {1}")]
    Listen(ListenAddress, std::io::Error),
    /// The HTTP address.
    #[error("cannot serve HTTP on {0}: {1}")]
    Http(std::net::SocketAddr, std::io::Error),
    /// The file that keeps what became of advice.
    #[error("cannot read insight.advice_file {path}: {source}", path = path.display())]
    AdviceFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Where shared results are.
    #[error("{0}")]
    SharedCache(#[from] SharedCacheError),
    /// The log filter, or a second subscriber.
    #[error("cannot log: {0}")]
    Logging(logging::Error),
    /// The operating system gives no threads or reactors.
    #[error("cannot start an event loop or a thread: {0}")]
    Runtime(#[from] std::io::Error),
}

/// Event loops that clients are spread over.
struct Workers {
    loops: Vec<RuntimeHandle>,
    next: AtomicUsize,
}

impl Workers {
    /// Starts `count - 1` threads beside the calling one, which is worker 0.
    fn start(count: usize) -> Result<Self, StartError> {
        let mut loops = vec![RuntimeHandle::current()];
        for number in 1..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            loops.push(runtime.handle().clone());
            std::thread::Builder::new()
                .name(format!("weir-{number}"))
                .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        }
        Ok(Self { loops, next: AtomicUsize::new(0) })
    }

    /// The worker for the next client.
    fn choose(&self) -> usize {
        self.next.fetch_add(1, Ordering::Relaxed) % self.loops.len()
    }
}

/// Reads the settings anew, for a reload.
pub type Reload = Box<dyn Fn() -> Result<Settings, Mistakes> + Send>;

/// Runs Weir until it is told to stop.
pub fn serve(settings: Settings, reload: Reload) -> Result<(), StartError> {
    let logging = logging::start(&settings.log).map_err(StartError::Logging)?;
    // Two file descriptors for each client that runs a statement: the usual soft limit of 1024 is soon met.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(Arc::new(settings), reload, logging))
}

async fn run(settings: SharedSettings, reload: Reload, logging: logging::Logging) -> Result<(), StartError> {
    let running = Box::pin(start(&settings)).await?;
    wait(&running, &reload, &logging).await?;
    running.stop(settings.drain_timeout).await;
    Ok(())
}

/// A proxy that serves.
struct Running {
    proxy: Arc<Proxy>,
    commands: admin::Commands,
    insight: Option<Arc<Insight>>,
    advisor: Option<Advisor>,
    drainer: Option<Drainer>,
    advice_file: Option<AdviceFile>,
    accepting: Vec<JoinHandle<()>>,
}

/// Starts all that serves clients, on this thread's event loop and as many others as are wanted.
async fn start(settings: &SharedSettings) -> Result<Running, StartError> {
    let acceptor = settings.clients.tls.as_ref().map(tls::Acceptor::new).transpose()?;
    let hosts = Arc::new(Hosts::new(settings)?);
    let users = settings
        .auth_query
        .clone()
        .map(|query| UserQuery::new(query, settings.servers.clone(), Arc::clone(&hosts)));
    let shared = if settings.cache.enabled {
        SharedCache::start(&settings.shared_cache, settings.stream.max_delay)?
    } else {
        None
    };
    let splitting = Splitting::start(settings, &hosts, shared);
    let insight = insight(settings).map(Arc::new);
    let proxy =
        Proxy::new(Arc::clone(settings), Arc::clone(&hosts), acceptor, users, splitting, insight.clone())?;
    let proxy = Arc::new(proxy);
    let (drainer, advisor) = match &insight {
        Some(insight) => {
            let advisor = Advisor::start(Arc::clone(insight), Arc::clone(&hosts), settings.servers.clone())?;
            (Some(Drainer::start(Arc::clone(insight), &settings.slow_log)?), Some(advisor))
        }
        None => (None, None),
    };
    let advice_file = match (&insight, &settings.insight.advice_file) {
        (Some(insight), Some(path)) => {
            let started = AdviceFile::start(Arc::clone(insight), path.clone());
            Some(started.map_err(|source| StartError::AdviceFile { path: path.clone(), source })?)
        }
        _ => None,
    };
    let workers = Arc::new(Workers::start(settings.workers)?);
    let listeners =
        net::bind_all(&settings.listen).map_err(|(address, error)| StartError::Listen(address, error))?;
    let commands = admin::Commands::default();
    let console = admin::AdminConsole::new(Arc::clone(&proxy), commands.clone(), advisor.clone());
    tokio::spawn(console.keep_averages());
    let console: Arc<dyn Console> = Arc::new(console);
    if let Some(address) = settings.http {
        admin::serve_http(address, Arc::clone(&proxy)).map_err(|error| StartError::Http(address, error))?;
    }
    for host in hosts.list() {
        tokio::spawn(control::watch(Arc::clone(&hosts), Arc::clone(host), settings.servers.clone()));
    }
    tokio::spawn(tend(Arc::clone(&proxy)));
    let mut accepting = Vec::new();
    for listener in listeners {
        let address =
            listener.local_address().map_or_else(|| "unix".to_owned(), |address| address.to_string());
        tracing::info!(address, "listening");
        accepting.push(tokio::spawn(accept(
            listener,
            Arc::clone(&proxy),
            Arc::clone(&console),
            Arc::clone(&workers),
        )));
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), workers = settings.workers, "weir is up");
    Ok(Running { proxy, commands, insight, advisor, drainer, advice_file, accepting })
}

impl Running {
    /// Takes no more clients, lets transactions finish, and writes what is left of the slow-query log and the advice.
    async fn stop(self, drain_timeout: Duration) {
        for task in &self.accepting {
            task.abort();
        }
        drain(&self.proxy, drain_timeout).await;
        if let Some(drainer) = self.drainer {
            drainer.stop();
        }
        if let Some(advice_file) = self.advice_file {
            advice_file.stop();
        }
    }
}

/// What is to be seen of statements, if anything is.
fn insight(settings: &Settings) -> Option<Insight> {
    let name = |host: &HostSettings| match &host.address {
        HostAddress::Tcp { host: address, port } => {
            HostName { name: host.name.clone(), address: address.clone(), port: Some(*port) }
        }
        HostAddress::Unix(path) => {
            HostName { name: host.name.clone(), address: path.display().to_string(), port: None }
        }
    };
    let hosts = settings.hosts.iter().map(name).collect();
    settings
        .insight
        .enabled
        .then(|| Insight::new(&settings.insight, &settings.slow_log, hosts, settings.workers, Instant::now()))
}

/// Takes clients in and spreads them over the event loops.
async fn accept(listener: Listener, proxy: Arc<Proxy>, console: Arc<dyn Console>, workers: Arc<Workers>) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: clients that leave make room.
                tracing::error!(%error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let worker = workers.choose();
        let (proxy, console) = (Arc::clone(&proxy), Arc::clone(&console));
        if worker == 0 {
            tokio::spawn(client::serve(stream, peer, proxy, console, worker));
            continue;
        }
        // The socket must be watched by the event loop that serves it.
        let Ok(stream) = stream.detach() else { continue };
        workers.loops[worker].spawn(async move {
            if let Ok(stream) = stream.attach() {
                client::serve(stream, peer, proxy, console, worker).await;
            }
        });
    }
}

/// Once a second: what no client's task does by itself.
async fn tend(proxy: Arc<Proxy>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        proxy.beat();
        let settings = proxy.settings();
        proxy.clients.tend(settings.clients.idle_timeout, settings.clients.idle_in_transaction_timeout);
        for tenant in proxy.tenants.list() {
            for pool in tenant.pools() {
                pool.tend(0);
            }
        }
        proxy.tenants.reap();
        if let Some(splitting) = &proxy.splitting {
            splitting.tend(Instant::now());
        }
    }
}

/// Waits for the word to stop, and reloads meanwhile when told so.
async fn wait(running: &Running, reload: &Reload, logging: &logging::Logging) -> Result<(), StartError> {
    let Running { proxy, commands, drainer, .. } = running;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            () = commands.shutdown_requested() => return Ok(()),
            _ = hangup.recv() => {}
            () = commands.reload_requested() => {}
        }
        let outcome = reload()
            .map_err(|mistakes| mistakes.to_string())
            .and_then(|settings| put_in_force(proxy, &settings, logging, drainer.as_ref()));
        if let Err(error) = &outcome {
            tracing::error!(%error, "reload refused: the settings in force stay");
        }
        commands.reloaded(&outcome);
    }
}

/// Takes over of new settings what may change live, and says what waits for the next start.
fn put_in_force(
    proxy: &Proxy,
    settings: &Settings,
    logging: &logging::Logging,
    drainer: Option<&Drainer>,
) -> Result<(), String> {
    let change = reload::compare(&proxy.settings(), settings);
    let acceptor = change.settings.clients.tls.as_ref().map(tls::Acceptor::new).transpose();
    let acceptor = acceptor.map_err(|error| error.to_string())?;
    if let Err(error) = logging.set_level(&change.settings.log) {
        tracing::error!(%error, "cannot change the log level");
    }
    if let Some(drainer) = drainer {
        drainer.reload(&change.settings.slow_log);
    }
    proxy.reload(Arc::new(change.settings), acceptor);
    let renewed = proxy.tenants.renew(&proxy.settings());
    tracing::info!(renewed, live = ?change.live, at_next_start = ?change.restart, "settings reloaded");
    Ok(())
}

/// Lets transactions finish; idle clients are told to go at once.
async fn drain(proxy: &Proxy, timeout: Duration) {
    let deadline = Instant::now() + timeout;
    proxy.begin_drain();
    tracing::info!(clients = proxy.clients.len(), "draining");
    while !proxy.clients.is_empty() && Instant::now() < deadline {
        for handle in proxy.clients.list() {
            handle.signal(Signal::Shutdown);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for handle in proxy.clients.list() {
        handle.signal(Signal::Kill);
    }
    tokio::time::sleep(Duration::from_millis(if proxy.clients.is_empty() { 0 } else { 100 })).await;
    for tenant in proxy.tenants.list() {
        tenant.pools().for_each(Pool::close);
    }
    if let Some(splitting) = &proxy.splitting {
        splitting.stop();
    }
    tracing::info!("weir is down");
}
