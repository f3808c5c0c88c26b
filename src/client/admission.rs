//! From the proof of who a client is to its first ReadyForQuery: its place among the others, and what it is told of the
//! server's settings.

use std::io::ErrorKind;
use std::sync::Arc;

use super::conversation::Conversation;
use super::fault::{Fault, LoginError};
use super::login::{LONG_SECRET_BYTES, Login, SECRET_BYTES};
use super::registry::{Full, Newcomer, Registered, Registry};
use super::routing::Routing;
use super::waiting::{first_primary, gone, on_primary};
use super::watching;
use crate::net::Connection;
use crate::pg::{ProcessId, SqlState, TransactionStatus};
use crate::server::{Acquire, Credentials, Pool, Tenant, TenantError};
use crate::session::{self, Placeholders, Reported, Session};
use crate::wire::Malformed;
use crate::wire::build::{self, Authentication};
use crate::wire::startup::{self, StartupMessage};

impl Login {
    /// The client's database and user, if their limits have room for it.
    pub(super) fn tenant(
        &self,
        database: &str,
        user: &str,
        credentials: &Credentials,
    ) -> Result<Arc<Tenant>, LoginError> {
        let tenant = self.proxy.tenants.tenant(database, user, &self.proxy.settings());
        let tenant = tenant.map_err(|error| match error {
            TenantError::Unknown => LoginError::refused(
                SqlState::INVALID_CATALOG_NAME,
                format!("database \"{database}\" does not exist"),
            ),
            TenantError::TooMany => {
                LoginError::refused(SqlState::TOO_MANY_CONNECTIONS, format!("sorry, {error}"))
            }
        })?;
        self.proxy.clients.check(&self.proxy.tenants, &tenant, &self.settings.clients).map_err(too_many)?;
        tenant.set_credentials(credentials);
        Ok(tenant)
    }

    /// Finds out what the client is to be told, and lets it in.
    pub(super) async fn admit(
        &mut self,
        message: &StartupMessage,
        tenant: &Arc<Tenant>,
        user: &str,
    ) -> Result<Conversation, LoginError> {
        let settings = asked_settings(message)?;
        let reported = match tenant.welcome(&settings) {
            Some(reported) => reported,
            None => self.learn_welcome(tenant, &settings).await?,
        };
        let (connection, entry) = self.welcome(message, tenant, None, &reported)?;
        let watch = watching::watch(&self.proxy, &entry.handle, self.worker);
        Ok(Conversation {
            connection,
            session: Session::new(entry.handle.process, tenant.pool_settings.mode, settings, reported),
            entry,
            leaves: false,
            rerun: false,
            cut_off: false,
            skipping: None,
            held: None,
            routing: Routing::new(&self.proxy, tenant, user, self.worker).map(Box::new),
            watch,
            proxy: Arc::clone(&self.proxy),
            worker: self.worker,
            last_server: 0,
            message_bytes_max: self.settings.clients.message_bytes_max,
        })
    }

    /// The pool on the primary, once there is one.
    pub(super) async fn primary_pool<'a>(&self, tenant: &'a Tenant) -> Result<&'a Arc<Pool>, LoginError> {
        let hosts = &self.proxy.hosts;
        let wait = self.settings.servers.failover_wait;
        let primary = first_primary(&mut hosts.primary_changes(), wait).await.map_err(LoginError::Server)?;
        Ok(tenant.pool(hosts.host(primary)))
    }

    /// Enters the client among the connected, and writes what ends its login.
    pub(super) fn welcome(
        &mut self,
        message: &StartupMessage,
        tenant: &Arc<Tenant>,
        replication: Option<startup::Replication>,
        reported: &Reported,
    ) -> Result<(Connection, Registered), LoginError> {
        let tls = self.encrypted;
        let secret_bytes = if message.minor_version >= 2 { LONG_SECRET_BYTES } else { SECRET_BYTES };
        // As long as PostgreSQL keeps it (NAMEDATALEN).
        let name = message.parameter("application_name").unwrap_or_default();
        let name = String::from_utf8_lossy(&name[..name.len().min(63)]);
        let peer = self.peer;
        let newcomer = Newcomer { tenant, peer, tls, application_name: &name, replication, secret_bytes };
        let (entry, secret) =
            Registry::register(&self.proxy, &newcomer, &self.settings.clients).map_err(too_many)?;
        let mut connection = self.connection.take().ok_or(Malformed::Length)?;
        let out = connection.output();
        build::authentication(out, Authentication::Ok);
        for (name, value) in reported.iter() {
            build::parameter_status(out, name, value);
        }
        build::backend_key_data(out, entry.handle.process, &secret);
        build::ready_for_query(out, TransactionStatus::Idle);
        if self.settings.log.connections {
            tracing::info!(peer = %self.peer, user = tenant.user, database = tenant.database, "client logged in");
        }
        Ok((connection, entry))
    }

    /// A login with settings not seen before: a server connection takes them on, so that the client is told their
    /// values as PostgreSQL spells them, or its error.
    async fn learn_welcome(
        &mut self,
        tenant: &Arc<Tenant>,
        settings: &session::Settings,
    ) -> Result<Reported, LoginError> {
        let mut placeholders = Placeholders::default();
        settings.custom_names().for_each(|name| placeholders.note(name));
        let (worker, process) = (self.worker, ProcessId(0));
        let wish = Acquire { worker, settings, placeholders: &placeholders, process, last_server: 0 };
        let proxy = Arc::clone(&self.proxy);
        let asking = async {
            let mut lease = on_primary(&proxy, tenant, wish).await?;
            let result = lease.take_on(settings).await;
            Ok((lease, result))
        };
        let (lease, result) = tokio::select! {
            biased;
            () = gone(self.connection()) => Err(LoginError::Gone(ErrorKind::UnexpectedEof.into())),
            outcome = asking => outcome.map_err(LoginError::Server),
        }?;
        match result {
            Ok(()) => {
                let reported = lease.state.reported.clone();
                lease.give_back();
                tenant.remember_welcome(settings.clone(), reported.clone());
                Ok(reported)
            }
            Err(Some(report)) => {
                lease.close();
                Err(LoginError::SettingRefused(Box::new(report)))
            }
            Err(None) => {
                lease.close();
                Err(LoginError::Server(Fault::ServerGone(ErrorKind::UnexpectedEof.into())))
            }
        }
    }
}

fn too_many(full: Full) -> LoginError {
    LoginError::refused(SqlState::TOO_MANY_CONNECTIONS, format!("sorry, {full}"))
}

/// The settings in a startup packet: all parameters that are not the protocol's own, and those in `options`.
fn asked_settings(message: &StartupMessage) -> Result<session::Settings, LoginError> {
    let mut pairs: Vec<(String, Vec<u8>)> = Vec::new();
    if let Some(options) = message.parameter("options") {
        let options = startup::options(options).map_err(|argument| {
            let argument = String::from_utf8_lossy(&argument).into_owned();
            LoginError::refused(
                SqlState::SYNTAX_ERROR,
                format!("invalid command-line argument for server process: {argument}"),
            )
        })?;
        for (name, value) in options {
            pairs.push((String::from_utf8_lossy(&name).into_owned(), value));
        }
    }
    for (name, value) in &message.parameters {
        let name = String::from_utf8_lossy(name).into_owned();
        match name.as_str() {
            "user" | "database" | "options" | "replication" => {}
            _ if name.starts_with("_pq_.") => {}
            _ => pairs.push((name, value.clone())),
        }
    }
    Ok(session::Settings::from_literals(pairs.iter().map(|(name, value)| (name.as_str(), value.as_slice()))))
}
