//! Finds the stored secret of a user by asking the primary (`auth_query`).

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use ahash::HashMap;
use tokio::sync::Mutex;

use super::ControlSession;
use crate::config::{AuthQuerySettings, Secret, ServerSettings};
use crate::server::Hosts;

/// Users whose secrets are kept.
const KNOWN_MAX: usize = 10_000;

/// Asks for users' secrets, and keeps the answers for a while.
#[derive(Debug)]
pub struct UserQuery {
    query: AuthQuerySettings,
    servers: ServerSettings,
    hosts: Arc<Hosts>,
    /// One question at a time, over one connection: a storm of logins becomes a queue here, not on the server.
    session: Mutex<Option<ControlSession>>,
    known: std::sync::Mutex<HashMap<String, (Instant, Option<Secret>)>>,
}

impl UserQuery {
    /// Asks by `query`.
    pub fn new(query: AuthQuerySettings, servers: ServerSettings, hosts: Arc<Hosts>) -> Self {
        Self { query, servers, hosts, session: Mutex::new(None), known: std::sync::Mutex::default() }
    }

    /// The user's stored secret; `None` if there is no such user, or if we may not ask.
    pub async fn secret(&self, user: &str) -> Option<Secret> {
        if let Some(known) = self.known(user) {
            return known;
        }
        let mut session = self.session.lock().await;
        // Somebody who queued before us may have asked the same.
        if let Some(known) = self.known(user) {
            return known;
        }
        let secret = match self.ask(&mut session, user).await {
            Ok(secret) => secret,
            Err(error) => {
                *session = None;
                tracing::warn!(%error, "auth_query failed: only users in the configuration can log in");
                return None;
            }
        };
        let mut map = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= KNOWN_MAX {
            map.clear();
        }
        map.insert(user.to_owned(), (Instant::now(), secret.clone()));
        secret
    }

    /// Forgets what was answered for a user whose login failed: the password may have been changed just now.
    pub fn forget(&self, user: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(user);
    }

    /// Forgets all answers.
    pub fn forget_all(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    #[expect(clippy::option_option, reason = "not known, known to have none, known")]
    fn known(&self, user: &str) -> Option<Option<Secret>> {
        let map = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(user).filter(|(since, _)| since.elapsed() < self.query.ttl).map(|(_, secret)| secret.clone())
    }

    async fn ask(
        &self,
        session: &mut Option<ControlSession>,
        user: &str,
    ) -> Result<Option<Secret>, super::ControlError> {
        let open = if let Some(open) = session.as_ref().filter(|session| !session.is_closed()) {
            open
        } else {
            let primary = self.hosts.primary().unwrap_or(self.hosts.list()[0].id);
            let connector = &self.hosts.host(primary).connector;
            let timeout = self.servers.connect_timeout;
            session.insert(ControlSession::open(connector, &self.servers.control, timeout).await?)
        };
        let rows = open.rows(&self.query.query, &[&user]).await?;
        let secret = rows.first().and_then(|row| row.try_get::<_, Option<String>>(1).ok().flatten());
        Ok(secret.map(Secret::Verifier))
    }
}
