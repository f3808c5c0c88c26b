//! SHOW CONFIG: every setting in force.

use super::snapshot;
use super::table::{ColumnType, Table, row};
use crate::config::{ListenAddress, Settings};
use ColumnType::Text;

/// Keys as in `weir.toml`, and behind them those of PgBouncer that exporters look for. Never a password.
pub(super) fn table(settings: &Settings) -> Table {
    let mut table = Table::new(&[("key", Text), ("value", Text), ("default", Text), ("changeable", Text)]);
    let defaults = Settings::from_url("postgres://weir@localhost").map(|defaults| values(&defaults));
    for (index, (key, value, changeable)) in values(settings).into_iter().enumerate() {
        let default =
            defaults.as_ref().ok().and_then(|defaults| defaults.get(index)).map(|row| row.1.clone());
        // Hosts and the login have no defaults worth the name.
        let default = default.filter(|_| !["primary", "replicas"].contains(&key));
        table.rows.push(row![key, value, default, if changeable { "yes" } else { "no" }]);
    }
    table
}

fn values(settings: &Settings) -> Vec<(&'static str, String, bool)> {
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
        cache: of_cache,
        insight,
        slow_log,
        log,
        drain_timeout,
    } = settings;
    let listen: Vec<_> = listen
        .iter()
        .map(|address| match address {
            ListenAddress::Tcp(address) => address.to_string(),
            ListenAddress::Unix { directory, port } => format!("{}:{port}", directory.display()),
        })
        .collect();
    let host_names: Vec<_> = hosts.iter().map(|host| snapshot::address(&host.address)).collect();
    let names = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>().join(",");
    let time =
        |time: Option<std::time::Duration>| time.map_or_else(|| "off".to_owned(), |time| format!("{time:?}"));
    let limit = |limit: Option<usize>| limit.unwrap_or(0).to_string();
    let word = |flag: bool| flag.to_string();
    vec![
        ("primary", host_names.first().cloned().unwrap_or_default(), false),
        ("replicas", host_names.get(1..).unwrap_or_default().join(","), false),
        ("listen", listen.join(","), false),
        ("http", http.map_or_else(|| "off".to_owned(), |address| address.to_string()), false),
        ("workers", workers.to_string(), false),
        ("drain_timeout", time(Some(*drain_timeout)), true),
        ("access", format!("{} rules", access.len()), true),
        ("console.database", console_database.clone(), true),
        ("console.admin_users", console.admin_users.join(","), true),
        ("console.stats_users", console.stats_users.join(","), true),
        ("log.level", log.level.clone(), true),
        ("log.format", format!("{:?}", log.format).to_ascii_lowercase(), false),
        ("log.connections", word(log.connections), true),
        ("clients.max", clients.max.to_string(), true),
        ("clients.max_per_user", limit(clients.max_per_user), true),
        ("clients.max_per_database", limit(clients.max_per_database), true),
        ("clients.login_timeout", time(Some(clients.login_timeout)), true),
        ("clients.idle_timeout", time(clients.idle_timeout), true),
        ("clients.idle_in_transaction_timeout", time(clients.idle_in_transaction_timeout), true),
        ("clients.message_bytes_max", clients.message_bytes_max.to_string(), true),
        ("clients.tls", if clients.tls.is_some() { "on" } else { "off" }.to_owned(), true),
        ("servers.connect_timeout", time(Some(servers.connect_timeout)), false),
        ("servers.failover_wait", time(Some(servers.failover_wait)), false),
        ("servers.sslmode", format!("{:?}", servers.ssl_mode).to_ascii_lowercase(), false),
        ("servers.health_interval", time(Some(servers.health_interval)), false),
        ("servers.health_timeout", time(Some(servers.health_timeout)), false),
        ("pool.mode", snapshot::mode(pool.mode).to_owned(), true),
        ("pool.max", pool.max.to_string(), true),
        ("pool.min", pool.min.to_string(), true),
        ("pool.reserve", pool.reserve.to_string(), true),
        ("pool.reserve_timeout", time(Some(pool.reserve_timeout)), true),
        ("pool.queue_timeout", time(Some(pool.queue_timeout)), true),
        ("pool.idle_timeout", time(pool.idle_timeout), true),
        ("pool.lifetime", time(pool.lifetime), true),
        ("databases", names(databases.keys().collect()), true),
        ("users", names(users.keys().collect()), true),
        (
            "auth_query",
            auth_query.as_ref().map_or_else(|| "off".to_owned(), |query| query.query.clone()),
            false,
        ),
        ("prepared.per_server_max", prepared.per_server_max.to_string(), false),
        ("prepared.per_client_max", prepared.per_client_max.to_string(), false),
        ("prepared.unnamed", word(prepared.unnamed), false),
        ("splitting.enabled", splitting.enabled.as_str().to_owned(), false),
        ("splitting.consistency", splitting.consistency.as_str().to_owned(), true),
        ("splitting.max_lag", time(Some(splitting.max_lag)), true),
        ("splitting.primary_reads", splitting.primary_reads.as_str().to_owned(), true),
        ("splitting.lazy_transactions", word(splitting.lazy_transactions), true),
        ("splitting.catalog_interval", time(Some(splitting.catalog_interval)), false),
        ("stream.enabled", stream.enabled.as_str().to_owned(), false),
        ("stream.plugin", stream.plugin.as_str().to_owned(), false),
        ("stream.publication", stream.publication.clone(), false),
        ("stream.slot_prefix", stream.slot_prefix.clone(), false),
        ("stream.max_delay", time(Some(stream.max_delay)), false),
        ("shared_cache.url", if shared_cache.url.is_some() { "set" } else { "" }.to_owned(), false),
        ("shared_cache.namespace", shared_cache.namespace.clone(), false),
        ("shared_cache.lookup_timeout", time(Some(shared_cache.lookup_timeout)), false),
        ("shared_cache.invalidate_timeout", time(Some(shared_cache.invalidate_timeout)), false),
        ("cache.enabled", word(of_cache.enabled), false),
        ("cache.bytes", of_cache.bytes.to_string(), false),
        ("cache.max_entry", of_cache.max_entry.to_string(), true),
        ("cache.ttl", time(Some(of_cache.ttl)), true),
        ("cache.admission_window", time(Some(of_cache.admission_window)), true),
        ("cache.freshness", of_cache.freshness.as_str().to_owned(), true),
        ("cache.flight_wait", time(Some(of_cache.flight_wait)), true),
        ("cache.verify", of_cache.verify.map_or_else(|| "0".to_owned(), |of| format!("1/{of}")), true),
        ("cache.rules", of_cache.rules.iter().map(|rule| &*rule.name).collect::<Vec<_>>().join(", "), true),
        ("insight.enabled", word(insight.enabled), false),
        ("insight.shapes_max", insight.shapes_max.to_string(), false),
        ("insight.repeats", word(insight.repeats), false),
        ("insight.samples", word(insight.samples), false),
        ("insight.samples_ttl", time(Some(insight.samples_ttl)), false),
        ("insight.explain", insight.explain.as_str().to_owned(), false),
        ("insight.explain_per_minute", insight.explain_per_minute.to_string(), false),
        ("insight.explain_writes", word(insight.explain_writes), false),
        (
            "insight.advice_file",
            insight.advice_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
            false,
        ),
        ("slow_log.file", slow_log.shown_output(), true),
        ("slow_log.threshold", time(Some(slow_log.threshold)), true),
        ("slow_log.databases", names(slow_log.databases.keys().collect()), true),
        ("slow_log.users", names(slow_log.users.keys().collect()), true),
        ("slow_log.sample", slow_log.shown_sample(), true),
        ("slow_log.per_shape", time(slow_log.per_shape), true),
        ("slow_log.per_second_max", slow_log.per_second_max.to_string(), true),
        ("slow_log.log_parameters", slow_log.parameters.as_str().to_owned(), true),
        ("slow_log.rotate_bytes", slow_log.rotate_bytes.to_string(), true),
        ("slow_log.rotate_age", time(slow_log.rotate_age), true),
        ("slow_log.keep", slow_log.keep.to_string(), true),
        ("max_client_conn", clients.max.to_string(), true),
        ("max_user_connections", "0".to_owned(), true),
        ("max_db_connections", "0".to_owned(), true),
        ("default_pool_size", pool.max.to_string(), true),
        ("pool_mode", snapshot::mode(pool.mode).to_owned(), true),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_shown_without_secrets() {
        let settings = Settings::from_url("postgres://app:hush@db1:5433/app").unwrap();
        let shown = table(&settings);
        assert!(!format!("{shown:?}").contains("hush"));
        assert_eq!(shown.rows[0], row!["primary", "db1:5433", None::<String>, "no"]);
        assert!(shown.rows.contains(&row!["workers", "1", "1", "no"]), "{shown:?}");
    }
}
