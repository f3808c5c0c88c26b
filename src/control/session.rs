//! A control connection: tokio-postgres over a stream that `server` opened, so that TLS and Unix sockets are the
//! same for clients' statements and our own.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

use crate::config::Login;
use crate::pg::SqlState;
use crate::server::{ConnectError, Connector};

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// No connection.
    #[error("{0}")]
    Connect(#[from] ConnectError),
    /// The server's error, or a broken connection.
    #[error("{}", describe(.0))]
    Postgres(#[from] tokio_postgres::Error),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
}

impl ControlError {
    /// The code of the server's error, if it is one.
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            Self::Postgres(error) => SqlState::from_bytes(error.code()?.code().as_bytes()),
            Self::Connect(_) | Self::Timeout => None,
        }
    }

    /// There was no answer in time.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout | Self::Connect(ConnectError::Timeout))
    }
}

/// The server's own words where there are any: tokio-postgres says just "db error".
fn describe(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned())
}

/// A logged-in control connection.
#[derive(Debug)]
pub struct ControlSession {
    client: Client,
    driver: JoinHandle<()>,
    tls: bool,
    timeout: Duration,
}

impl Drop for ControlSession {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl ControlSession {
    /// Logs in to a host.
    pub async fn open(connector: &Connector, login: &Login, timeout: Duration) -> Result<Self, ControlError> {
        let opening = async {
            let (stream, _) = connector.open().await?;
            let tls = stream.is_tls();
            let mut config = Config::new();
            config.user(&login.user).dbname(&login.database).application_name("weir");
            if let Some(password) = &login.password {
                config.password(password);
            }
            let (client, connection) = config.connect_raw(stream, NoTls).await?;
            let driver = tokio::spawn(async move {
                // Its end shows in the next question.
                let _ = connection.await;
            });
            Ok(Self { client, driver, tls, timeout })
        };
        tokio::time::timeout(timeout, Box::pin(opening)).await.map_err(|_| ControlError::Timeout)?
    }

    /// From now on waits no longer than this for an answer.
    #[must_use]
    pub fn answering_within(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Whether it is encrypted.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// For what is more than a question.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Asks, and waits for the answer no longer than the session's timeout.
    pub async fn rows(
        &self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, ControlError> {
        let asking = self.client.query(sql, parameters);
        Ok(tokio::time::timeout(self.timeout, asking).await.map_err(|_| ControlError::Timeout)??)
    }

    /// Runs statements whose answers nobody reads.
    pub async fn run(&self, sql: &str) -> Result<(), ControlError> {
        let running = self.client.batch_execute(sql);
        Ok(tokio::time::timeout(self.timeout, running).await.map_err(|_| ControlError::Timeout)??)
    }

    /// The single row that a prepared question has for an answer.
    pub(super) async fn one(&self, question: &Statement) -> Result<Row, ControlError> {
        let asking = self.client.query_one(question, &[]);
        Ok(tokio::time::timeout(self.timeout, asking).await.map_err(|_| ControlError::Timeout)??)
    }

    /// The same for a question that has one row for an answer.
    pub async fn row(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, ControlError> {
        let asking = self.client.query_one(sql, parameters);
        Ok(tokio::time::timeout(self.timeout, asking).await.map_err(|_| ControlError::Timeout)??)
    }
}
