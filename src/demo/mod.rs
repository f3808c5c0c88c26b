#![allow(clippy::disallowed_methods, reason = "an I/O module: it reads the clock and the environment")]
//! A throw-away primary with replicas, from the PostgreSQL binaries found on the machine, and the proxy in front.

mod account;
pub mod cluster;
mod machine;
pub mod sample;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::available_parallelism;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{self, Flags, Machine, Settings};
use cluster::{Cluster, Error, Member, ROLES};

/// What `weir demo` was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the servers keep their data, absent or empty; `None`: a temporary directory. Removed at the end.
    pub directory: Option<PathBuf>,
    /// Without the proxy.
    pub only_cluster: bool,
    /// How many replicas.
    pub replicas: usize,
}

/// Brings the servers up, and runs `serve` with settings for them unless only the cluster is wanted; takes the servers
/// down when it returns. The proxy is an argument because it stands below this module.
pub fn run<E: From<io::Error>>(
    options: &Options,
    serve: impl FnOnce(Settings) -> Result<(), E>,
) -> Result<(), E> {
    let stop = Stop::watch()?;
    let cluster = match start(options, &stop) {
        Ok(cluster) => cluster,
        Err(Error::Interrupted) => return Ok(()),
        Err(error) => return Err(io::Error::other(error).into()),
    };
    if options.only_cluster {
        writeln!(io::stdout(), "{}", cluster.directory().join("env").display())?;
        stop.wait();
        return Ok(());
    }
    let (listen, http) = (free_address(6432)?, free_address(6433)?);
    introduce(&cluster, &listen, &http)?;
    serve(settings(&cluster, listen, http)?)
}

fn start(options: &Options, stop: &Stop) -> Result<Cluster, Error> {
    let cluster = Cluster::start(&cluster::Options {
        directory: options.directory.clone(),
        replicas: options.replicas,
        interrupted: Arc::clone(&stop.requested),
    })?;
    sample::load(&cluster)?;
    cluster.write_environment()?;
    // The proxy will watch for signals itself, but knows nothing of those that came before.
    if stop.requested.load(Ordering::Acquire) { Err(Error::Interrupted) } else { Ok(cluster) }
}

/// Says what there is to try.
fn introduce(cluster: &Cluster, listen: &str, http: &str) -> io::Result<()> {
    let mut text = String::from("\nThrow-away PostgreSQL, until Ctrl-C:\n");
    for member in cluster.members() {
        let _ = writeln!(text, "  {:<9} {}", member.to_string(), cluster.url("app", member));
    }
    let through = |user: &str| {
        let direct = cluster.url(user, Member::Primary);
        direct.replace(&format!("127.0.0.1:{}", cluster.port(Member::Primary)), listen)
    };
    let _ = writeln!(text, "\nThrough Weir (HTTP on http://{http}):");
    for user in ROLES {
        let _ = writeln!(text, "  {user:<9} {}", through(user));
    }
    let _ = writeln!(text, "\n  psql {}\n", through("app"));
    io::stdout().write_all(text.as_bytes())
}

fn settings(cluster: &Cluster, listen: String, http: String) -> io::Result<Settings> {
    let replicas = cluster.members().skip(1).map(|replica| cluster.url("postgres", replica));
    let flags = Flags {
        primary: Some(cluster.url("postgres", Member::Primary)),
        replicas: replicas.collect(),
        listen: vec![listen],
        http: Some(http),
        cache: Some("on".to_owned()),
        ..Flags::default()
    };
    // The environment speaks of other servers.
    let environment = BTreeMap::new();
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    let machine = Machine { environment: &environment, cores, read: &|path| std::fs::read(path) };
    config::load(&flags, &machine).map_err(io::Error::other)
}

/// The usual port, or any if that is taken.
fn free_address(port: u16) -> io::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", port)).or_else(|_| TcpListener::bind("127.0.0.1:0"))?;
    Ok(listener.local_addr()?.to_string())
}

/// The word to stop, from the first moment on: nothing may be left behind by a Ctrl-C half-way.
struct Stop {
    requested: Arc<AtomicBool>,
    told: mpsc::Receiver<()>,
}

impl Stop {
    fn watch() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate, mut hangup) = {
            let _inside = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            )
        };
        let requested = Arc::new(AtomicBool::new(false));
        let (teller, told) = mpsc::channel();
        let noted = Arc::clone(&requested);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            noted.store(true, Ordering::Release);
            // Nobody listens while the proxy runs: it watches for signals itself.
            let _ = teller.send(());
        })?;
        Ok(Self { requested, told })
    }

    fn wait(&self) {
        let _ = self.told.recv();
    }
}
