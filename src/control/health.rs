//! Asks each host for its role, over and over: the list of hosts serves before and after a failover.

use std::sync::Arc;
use std::time::Duration;

use crate::config::ServerSettings;
use crate::control::{ControlError, ControlSession};
use crate::server::{Host, Hosts, Role};

/// After a failed probe the next one comes soon, then ever later up to the usual interval.
const RETRY_FIRST: Duration = Duration::from_millis(100);

/// Watches one host for ever.
pub async fn watch(hosts: Arc<Hosts>, host: Arc<Host>, settings: ServerSettings) {
    let mut session: Option<ControlSession> = None;
    let mut pause = RETRY_FIRST;
    loop {
        let found = probe(&mut session, &host, &settings).await;
        let (role, error) = match found {
            Ok(role) => {
                pause = RETRY_FIRST;
                (role, None)
            }
            Err(error) => {
                session = None;
                let role = if error.is_timeout() { host.role().without_answer() } else { Role::Down };
                (role, Some(error.to_string()))
            }
        };
        let failed = error.is_some();
        if hosts.found(host.id, role, error.clone()) {
            if let Some(error) = error {
                tracing::warn!(host = host.name(), role = role.as_str(), %error, "host does not answer");
            } else {
                tracing::info!(host = host.name(), role = role.as_str(), "host has a new role");
            }
        }
        if failed {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(settings.health_interval.max(RETRY_FIRST));
        } else {
            tokio::time::sleep(settings.health_interval).await;
        }
    }
}

async fn probe(
    session: &mut Option<ControlSession>,
    host: &Host,
    settings: &ServerSettings,
) -> Result<Role, ControlError> {
    let session = match session.as_ref().filter(|session| !session.is_closed()) {
        Some(session) => session,
        None => session
            .insert(ControlSession::open(&host.connector, &settings.control, settings.health_timeout).await?),
    };
    let rows = session.rows("SELECT pg_catalog.pg_is_in_recovery()", &[]).await?;
    let in_recovery = rows.first().is_none_or(|row| row.get::<_, bool>(0));
    Ok(if in_recovery { Role::Replica } else { Role::Primary })
}
