//! Keeps the connection to the shared store, and what is known of the databases there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Value};
use tokio::time::{sleep, timeout};

use super::retry::Retry;
use super::shared_cache::{CONNECT_TIMEOUT, SharedCache, SharedCacheError, locked};
use super::shared_entry::Link;
use super::shared_trust::{Say, Standing};
use crate::config::SharedCacheSettings;

/// Attempts to reach the store are at most so far apart.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Who vouches says so every half second, and it counts for so long.
const TEND: Duration = Duration::from_millis(500);
const LEASE: Duration = Duration::from_secs(2);

impl SharedCache {
    /// Keeps a connection, for ever.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut retry = Retry::new(RETRY_MAX);
        loop {
            let error = match self.connect().await {
                Ok(link) => {
                    retry.worked();
                    tracing::info!("the shared cache is there");
                    self.tend(&link).await
                }
                Err(error) => error,
            };
            self.distrust(&error.to_string());
            let (pause, is_news) = retry.failed(&error.to_string());
            if is_news {
                tracing::warn!(%error, "no shared cache");
            }
            sleep(pause).await;
        }
    }

    /// Connects once, and gives what the server says that it is.
    pub async fn try_out(settings: &SharedCacheSettings) -> Result<String, SharedCacheError> {
        let client = settings.url.as_deref().and_then(|url| Client::open(url).ok());
        let (_, info) = greet(&client.ok_or(SharedCacheError::Url)?).await?;
        let of = |key: &str| info.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        run_id(&info)?;
        Ok(match (of("valkey_version:"), of("redis_version:")) {
            (Some(version), _) => format!("Valkey {version}"),
            (None, Some(version)) => format!("Redis {version}"),
            (None, None) => "a server of a kind that is not known".to_owned(),
        })
    }

    /// Connects; and makes all void that is there, if an invalidation of ours has not reached it.
    async fn connect(&self) -> Result<Arc<Link>, SharedCacheError> {
        let (connection, info) = greet(&self.client).await?;
        let prefix = format!("{}:{}:", self.settings.namespace, run_id(&info)?);
        let link = Arc::new(Link { connection, prefix });
        loop {
            let (owed, paid) = {
                let state = locked(&self.state);
                (state.owed, state.paid)
            };
            if owed > paid {
                link.void(None).await?;
                self.counts.voided.fetch_add(1, Ordering::Relaxed);
            }
            let mut state = locked(&self.state);
            // Otherwise something was written meanwhile, perhaps after others had read it.
            if state.owed == owed {
                state.paid = owed;
                state.link = Some(Arc::clone(&link));
                return Ok(link);
            }
        }
    }

    /// Sees that the connection stands, vouches for what is known, and finds out of the rest whether it may be believed.
    async fn tend(&self, link: &Arc<Link>) -> SharedCacheError {
        loop {
            if let Err(error) = self.say(link).await {
                return error;
            }
            tokio::select! {
                () = sleep(TEND) => {}
                () = self.lost.notified() => {}
            }
            if !locked(&self.state).link.as_ref().is_some_and(|now| Arc::ptr_eq(now, link)) {
                return SharedCacheError::Distrusted;
            }
        }
    }

    async fn say(&self, link: &Link) -> Result<(), SharedCacheError> {
        let names: Vec<Box<str>> = locked(&self.state).databases.keys().cloned().collect();
        let mut pipeline = redis::pipe();
        pipeline.cmd("PING").ignore();
        for name in &names {
            pipeline.cmd("GET").arg(link.lease_key(name));
        }
        let holders: Vec<Option<String>> = link.query(&pipeline).await?;
        let mut pipeline = redis::pipe();
        let mut voided = Vec::new();
        for (name, holder) in names.iter().zip(holders) {
            let others_vouch = holder.is_some_and(|holder| holder != self.instance);
            let (say, era) = self.stand(name, others_vouch);
            match say {
                Say::Nothing => {}
                Say::Vouch => {
                    let millis = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
                    let lease = pipeline.cmd("SET").arg(link.lease_key(name)).arg(&self.instance);
                    lease.arg(("PX", millis)).ignore();
                }
                Say::Void => {
                    link.void(Some(name)).await?;
                    voided.push((name, era));
                }
            }
        }
        if !pipeline.is_empty() {
            link.query::<Value>(&pipeline).await?;
        }
        let mut state = locked(&self.state);
        for (name, era) in voided {
            if let Some(followed) = state.databases.get_mut(name).filter(|followed| followed.era == era) {
                followed.standing = Standing::Trusted;
                self.counts.voided.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Moves a database on; gives what is to be said of it.
    fn stand(&self, database: &str, others_vouch: bool) -> (Say, u64) {
        let mut state = locked(&self.state);
        let Some(followed) = state.databases.get_mut(database) else { return (Say::Nothing, 0) };
        let (now, before) = (Instant::now(), followed.standing);
        let (next, say) = before.next(followed.covers(now), others_vouch, self.join_after(), now);
        followed.standing = next;
        if before != Standing::Trusted && next == Standing::Trusted {
            self.counts.joined.fetch_add(1, Ordering::Relaxed);
        }
        (say, followed.era)
    }

    /// Whoever still vouches by then has done so again since, for all that was written before.
    fn join_after(&self) -> Duration {
        LEASE + TEND * 2 + self.told_within + self.settings.invalidate_timeout
    }
}

/// Connects, and hears what the server says of itself.
async fn greet(client: &Client) -> Result<(MultiplexedConnection, String), SharedCacheError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(CONNECT_TIMEOUT));
    let opening = Box::pin(client.get_multiplexed_async_connection_with_config(&config));
    let connection = timeout(CONNECT_TIMEOUT * 2, opening).await.map_err(|_| SharedCacheError::Timeout)??;
    let info = redis::cmd("INFO").arg("server").query_async(&mut connection.clone()).await?;
    Ok((connection, info))
}

fn run_id(info: &str) -> Result<&str, SharedCacheError> {
    let run = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    run.map(str::trim).ok_or(SharedCacheError::NoRunId)
}
