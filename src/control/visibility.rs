//! Asks the primary which transactions have ended, for all change streams, over one connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::sleep;

use super::{ControlError, ControlSession};
use crate::config::ServerSettings;
use crate::pg::{HostId, Snapshot};
use crate::server::Host;

/// Of transactions of all databases.
const SNAPSHOT: &str = "SELECT pg_catalog.txid_current_snapshot()::text";

/// See the module.
#[derive(Debug)]
pub(super) struct Visibility {
    servers: ServerSettings,
    session: Mutex<Option<(HostId, Arc<ControlSession>)>>,
}

impl Visibility {
    pub(super) fn new(servers: ServerSettings) -> Self {
        Self { servers, session: Mutex::default() }
    }

    /// Asks a host, after a pause.
    pub(super) async fn snapshot(&self, host: &Host, pause: Duration) -> Result<Snapshot, ControlError> {
        if !pause.is_zero() {
            sleep(pause).await;
        }
        let session = self.session(host).await?;
        let row = session.row(SNAPSHOT, &[]).await?;
        // A text that is none would be another server's than PostgreSQL's.
        row.get::<_, &str>(0).parse().map_err(|_| ControlError::Timeout)
    }

    /// Makes an idle primary flush what stands behind its last commit, as `PositionSession::nudge`.
    pub(super) async fn nudge(&self, host: &Host) -> Result<(), ControlError> {
        self.session(host).await?.run("SELECT pg_catalog.txid_current()").await
    }

    async fn session(&self, host: &Host) -> Result<Arc<ControlSession>, ControlError> {
        let mut kept = self.session.lock().await;
        if let Some((_, session)) =
            kept.as_ref().filter(|(id, session)| *id == host.id && !session.is_closed())
        {
            return Ok(Arc::clone(session));
        }
        let (login, wait) = (&self.servers.control, self.servers.health_timeout);
        let session = Arc::new(Box::pin(ControlSession::open(&host.connector, login, wait)).await?);
        *kept = Some((host.id, Arc::clone(&session)));
        Ok(session)
    }
}
