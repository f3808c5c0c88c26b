//! SHOW STATS and its like: what pools have done, since the start and per second.

use std::time::Instant;

use super::snapshot::{self, Averages, Totals};
use super::table::{Cell, ColumnType, Table, row};
use crate::client::Proxy;
use ColumnType::{Int8, Text};

pub(super) const STATS_TOTAL: [&str; 12] = [
    "total_server_assignment_count",
    "total_xact_count",
    "total_query_count",
    "total_received",
    "total_sent",
    "total_xact_time",
    "total_query_time",
    "total_wait_time",
    "total_client_parse_count",
    "total_server_parse_count",
    "total_bind_count",
    "total_client_login_count",
];
pub(super) const STATS_AVERAGE: [&str; 12] = [
    "avg_server_assignment_count",
    "avg_xact_count",
    "avg_query_count",
    "avg_recv",
    "avg_sent",
    "avg_xact_time",
    "avg_query_time",
    "avg_wait_time",
    "avg_client_parse_count",
    "avg_server_parse_count",
    "avg_bind_count",
    "avg_client_login_count",
];
pub(super) const STATS_TOTALS: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "bytes_received",
    "bytes_sent",
    "xact_time",
    "query_time",
    "wait_time",
    "client_parse_count",
    "server_parse_count",
    "bind_count",
    "client_login_count",
];
pub(super) const STATS_AVERAGES: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "bytes_received",
    "bytes_sent",
    "xact_time",
    "query_time",
    "wait_time",
    "avg_client_parse_count",
    "avg_server_parse_count",
    "avg_bind_count",
    "avg_client_login_count",
];
const TOTALS: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

/// The counters in PgBouncer's order.
fn numbers(totals: Totals) -> [u64; 12] {
    [
        totals.loans,
        totals.transactions,
        totals.queries,
        totals.received_bytes,
        totals.sent_bytes,
        totals.transaction_us,
        totals.query_us,
        totals.wait_us,
        0,
        0,
        0,
        totals.logins,
    ]
}

pub(super) fn stats(
    proxy: &Proxy,
    averages: &Averages,
    total_columns: &[&'static str],
    average_columns: &[&'static str],
) -> Table {
    let mut table = Table::new(&[("database", Text)]);
    table.columns.extend(total_columns.iter().chain(average_columns).map(|name| (*name, Int8)));
    let now = Instant::now();
    for (database, totals) in snapshot::databases(proxy, &snapshot::pools(proxy)) {
        let average = averages.of(now, &database, totals);
        let mut row = row![database];
        row.extend(total_columns.iter().zip(numbers(totals)).map(|(_, number)| Cell::from(number)));
        row.extend(average_columns.iter().zip(numbers(average)).map(|(_, number)| Cell::from(number)));
        table.rows.push(row);
    }
    table
}

pub(super) fn totals(proxy: &Proxy, averages: &Averages) -> Table {
    let mut table = Table::new(&[("name", Text), ("value", Int8)]);
    let (mut total, mut average) = (Totals::default(), Totals::default());
    let now = Instant::now();
    for (database, totals) in snapshot::databases(proxy, &snapshot::pools(proxy)) {
        total = total.zip(totals, u64::saturating_add);
        average = average.zip(averages.of(now, &database, totals), u64::saturating_add);
    }
    for (prefix, totals) in [("total", total), ("avg", average)] {
        for (name, number) in TOTALS.iter().zip(numbers(totals)) {
            table.rows.push(row![format!("{prefix}_{name}"), number]);
        }
    }
    table
}
