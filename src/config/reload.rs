//! What of a changed configuration can take effect while Weir runs.
//!
//! Sockets, threads, hosts and how they are reached, prepared statements and the log's format are made once, at
//! start. Everything else is read anew where it is used: by the next client, its pool, the next wait.

use super::cache::CacheSettings;
use super::settings::{LogSettings, Settings};
use super::splitting::SplittingSettings;

/// The outcome of comparing two configurations. Holds names of keys, never values: some are secrets.
#[derive(Clone, Debug, PartialEq)]
pub struct Reload {
    /// What to run with now: the new settings, but for what needs a restart.
    pub settings: Settings,
    /// Changed keys and sections that take effect at once.
    pub live: Vec<&'static str>,
    /// Changed keys that take effect at the next start.
    pub restart: Vec<&'static str>,
}

/// Compares the settings that Weir runs with to those it was given now.
pub fn compare(old: &Settings, new: &Settings) -> Reload {
    // Taken apart by name, so that a new setting cannot be forgotten here.
    let Settings {
        listen,
        http,
        workers,
        console_database,
        console,
        clients,
        hosts,
        servers,
        pool,
        databases,
        users,
        auth_query,
        access,
        prepared,
        splitting,
        stream,
        shared_cache,
        cache,
        insight,
        slow_log,
        log,
        drain_timeout,
    } = new;
    let changed = |keys: &[(&'static str, bool)]| {
        keys.iter().filter(|(_, is_same)| !is_same).map(|(key, _)| *key).collect::<Vec<_>>()
    };
    let restart = changed(&[
        ("listen", *listen == old.listen),
        ("http", *http == old.http),
        ("workers", *workers == old.workers),
        ("hosts", *hosts == old.hosts),
        ("servers", *servers == old.servers),
        ("auth_query", *auth_query == old.auth_query),
        ("prepared", *prepared == old.prepared),
        ("splitting.enabled", splitting.enabled == old.splitting.enabled),
        ("splitting.catalog_interval", splitting.catalog_interval == old.splitting.catalog_interval),
        ("stream", *stream == old.stream),
        ("shared_cache", *shared_cache == old.shared_cache),
        ("cache.enabled", cache.enabled == old.cache.enabled),
        ("cache.bytes", cache.bytes == old.cache.bytes),
        ("insight", *insight == old.insight),
        ("log.format", log.format == old.log.format),
    ]);
    let splitting_now = SplittingSettings {
        enabled: old.splitting.enabled,
        catalog_interval: old.splitting.catalog_interval,
        ..*splitting
    };
    let cache_now = CacheSettings { enabled: old.cache.enabled, bytes: old.cache.bytes, ..cache.clone() };
    let live = changed(&[
        ("console", *console_database == old.console_database && *console == old.console),
        ("clients", *clients == old.clients),
        ("pool", *pool == old.pool),
        ("databases", *databases == old.databases),
        ("users", *users == old.users),
        ("access", *access == old.access),
        ("splitting", splitting_now == old.splitting),
        ("cache", cache_now == old.cache),
        ("slow_log", *slow_log == old.slow_log),
        ("log.level", log.level == old.log.level),
        ("log.connections", log.connections == old.log.connections),
        ("drain_timeout", *drain_timeout == old.drain_timeout),
    ]);
    let settings = Settings {
        listen: old.listen.clone(),
        http: old.http,
        workers: old.workers,
        hosts: old.hosts.clone(),
        servers: old.servers.clone(),
        auth_query: old.auth_query.clone(),
        prepared: old.prepared,
        splitting: splitting_now,
        stream: old.stream.clone(),
        shared_cache: old.shared_cache.clone(),
        cache: cache_now,
        insight: old.insight.clone(),
        log: LogSettings { format: old.log.format, ..log.clone() },
        ..new.clone()
    };
    Reload { settings, live, restart }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Switch;
    use std::time::Duration;

    #[test]
    fn sockets_and_threads_wait_for_a_restart() {
        let old = Settings::from_url("postgres://app:secret@db1/app").unwrap();
        assert_eq!(compare(&old, &old), Reload { settings: old.clone(), live: vec![], restart: vec![] });

        let mut new = old.clone();
        new.workers = 7;
        new.pool.max = 5;
        new.log.level = "debug".to_owned();
        new.drain_timeout = Duration::ZERO;
        new.splitting.enabled = Switch::On;
        new.splitting.max_lag = Duration::from_secs(1);
        let reload = compare(&old, &new);
        assert_eq!(reload.restart, ["workers", "splitting.enabled"]);
        assert_eq!(reload.live, ["pool", "splitting", "log.level", "drain_timeout"]);
        new.splitting.enabled = old.splitting.enabled;
        assert_eq!(reload.settings, Settings { workers: old.workers, ..new });
    }
}
