//! `weir why`: what a statement does, and where it would go now, by the servers' own catalog and positions.

use std::io::Write as _;
use std::sync::Arc;

use tokio::runtime::Builder;

use crate::catalog::{Catalog, SharedCatalog};
use crate::config::Settings;
use crate::consistency::{Floors, Pace, Positions};
use crate::control::{
    CatalogLoader, ControlError, ControlSession, Inspection, Known, Lines, Load, NotAPath, PositionSession,
};
use crate::net::tls;
use crate::server::Hosts;

pub use crate::control::Question;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WhyError {
    /// There is nobody to ask.
    #[error("no host is a primary that lets Weir in{0}")]
    NoPrimary(String),
    /// The primary, while it was asked.
    #[error("{0}")]
    Control(#[from] ControlError),
    /// `--search-path`.
    #[error("{0}")]
    SearchPath(#[from] NotAPath),
    /// A certificate or key.
    #[error("{0}")]
    Tls(#[from] tls::SetupError),
    /// No event loop, no thread, or nowhere to print.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Asks, and prints the answer on standard output.
pub fn run(settings: &Settings, question: &Question) -> Result<(), WhyError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let lines = runtime.block_on(answer(settings, question))?;
    let mut out = std::io::stdout().lock();
    for (name, value) in lines {
        writeln!(out, "{name:<12} {value}")?;
    }
    Ok(())
}

async fn answer(settings: &Settings, question: &Question) -> Result<Lines, WhyError> {
    let (analysis, classes) = question.classify().await?;
    let hosts = Hosts::new(settings)?;
    let positions = Arc::new(Positions::new(hosts.list().len(), Pace::default()));
    let (catalog, load) = look_around(settings, &hosts, &positions).await?;
    let login = &settings.servers.control;
    let database = settings.databases.get(&login.database).or_else(|| settings.databases.get("*"));
    let known = Known {
        hosts: &hosts,
        // As if it were on: whether it should be is what people ask first.
        splitting: (hosts.list().len() > 1).then_some(&settings.splitting),
        consistency: database.map_or(settings.splitting.consistency, |database| database.consistency),
        cache: &settings.cache,
        database: &login.database,
        floors: &Floors::new(Arc::clone(&positions)),
        catalog: Ok(&catalog),
        user: &login.user,
    };
    let (mut lines, _) = question.answer(&analysis, &classes, &known)?;
    let Load { took, relations, bytes, .. } = load;
    lines.push(("catalog", format!("{relations} relations, {} kB, loaded in {took:.0?}", bytes / 1024)));
    Ok(lines)
}

/// Loads the catalog from the primary, and asks all hosts for their positions.
async fn look_around(
    settings: &Settings,
    hosts: &Hosts,
    positions: &Positions,
) -> Result<(Arc<Catalog>, Load), WhyError> {
    let (mut primary, mut replicas, mut errors) = (None, Vec::new(), String::new());
    for host in hosts.list() {
        match Box::pin(Inspection::begin(&host.connector, &settings.servers)).await {
            Ok(inspection) if inspection.findings.in_recovery => replicas.push(host),
            Ok(_) => primary = primary.or(Some(host)),
            Err(error) => errors = format!("{errors}; {}: {error}", host.name()),
        }
    }
    let primary = primary.ok_or(WhyError::NoPrimary(errors))?;
    let open = |host: &Arc<crate::server::Host>| {
        let (connector, servers) = (Arc::clone(&host.connector), &settings.servers);
        async move { ControlSession::open(&connector, &servers.control, servers.connect_timeout).await }
    };
    let shared = Arc::new(SharedCatalog::default());
    let session = Box::pin(open(primary)).await?;
    let load = CatalogLoader::new(Arc::clone(&shared)).load(&session).await?;
    let session = Box::pin(open(primary)).await?;
    PositionSession::open(session, positions).await?.read_primary(positions, || true).await?;
    for host in replicas {
        // One that does not answer is no candidate.
        let Ok(session) = Box::pin(open(host)).await else { continue };
        let Ok(session) = PositionSession::open(session, positions).await else { continue };
        let _ = session.report_replica(positions, host.id).await;
    }
    Ok((shared.latest().unwrap_or_default(), load))
}
