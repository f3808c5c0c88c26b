//! HTTP for operators: metrics, health, a JSON interface, and a status page that reads it.
//!
//! It has a thread and an event loop of its own: a scrape of ten thousand clients costs those clients nothing but
//! short locks. What is served is made when it is asked for. There is nothing here that changes anything, since nobody is
//! asked who he is: to dismiss advice, or to see a plan with its values, the page gives commands for the console.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{indexes, insight, metrics, snapshot, transactions};
use crate::client::Proxy;

/// The status page.
const PAGE: &str = include_str!("status.html");

/// Clients in one answer, unless more are asked for; and the most there are.
const CLIENTS_DEFAULT: usize = 200;
const CLIENTS_MAX: usize = 10_000;

/// An event loop that has not turned for so long does not live.
const HEARTBEAT_MAX: Duration = Duration::from_secs(15);

/// OpenMetrics text, the exposition format that `prometheus-client` writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves HTTP in the background.
pub fn serve_http(address: SocketAddr, proxy: Arc<Proxy>) -> std::io::Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tracing::info!(%address, "serving HTTP");
    std::thread::Builder::new().name("weir-http".to_owned()).spawn(move || {
        let served = runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            axum::serve(listener, router(proxy)).await
        });
        if let Err(error) = served {
            tracing::error!(%error, "HTTP has ended");
        }
    })?;
    Ok(())
}

fn router(proxy: Arc<Proxy>) -> Router {
    Router::new()
        .route("/", get(|| async { page() }))
        .route("/metrics", get(scrape))
        .route("/livez", get(live))
        .route("/readyz", get(ready))
        .route("/api/v1/pools", get(pools))
        .route("/api/v1/clients", get(clients))
        .route("/api/v1/hosts", get(hosts))
        .route("/api/v1/stats", get(stats))
        .route("/api/v1/queries", get(queries))
        .route("/api/v1/repeats", get(repeats))
        .route("/api/v1/routes", get(routes))
        .route("/api/v1/advice", get(advice))
        .route("/api/v1/indexes", get(existing))
        .route("/api/v1/slow", get(slow))
        .route("/api/v1/transactions", get(running))
        .with_state(proxy)
}

/// The page runs its own script and asks nobody else for anything; names in it come from clients.
fn page() -> impl IntoResponse {
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                  connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Html(PAGE))
}

async fn scrape(State(proxy): State<Arc<Proxy>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics::text(&proxy))
}

async fn live(State(proxy): State<Arc<Proxy>>) -> impl IntoResponse {
    let since = proxy.since_heartbeat();
    if since < HEARTBEAT_MAX {
        (StatusCode::OK, "live\n".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the event loop has not turned for {} s\n", since.as_secs()),
        )
    }
}

async fn ready(State(proxy): State<Arc<Proxy>>) -> impl IntoResponse {
    match snapshot::unready(&proxy) {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}

async fn pools(State(proxy): State<Arc<Proxy>>) -> Json<Value> {
    Json(json!({ "pools": snapshot::pools(&proxy) }))
}

async fn clients(State(proxy): State<Arc<Proxy>>, RawQuery(query): RawQuery) -> Json<Value> {
    let limit = limit(query.as_deref().unwrap_or_default());
    Json(json!({ "total": proxy.clients.len(), "clients": snapshot::clients(&proxy, limit) }))
}

async fn hosts(State(proxy): State<Arc<Proxy>>) -> Json<Value> {
    Json(json!({ "hosts": snapshot::hosts(&proxy, &snapshot::pools(&proxy)) }))
}

async fn stats(State(proxy): State<Arc<Proxy>>) -> Json<Value> {
    let unready = snapshot::unready(&proxy);
    Json(json!({ "unready": unready, "stats": snapshot::stats(&proxy, &snapshot::pools(&proxy)) }))
}

async fn queries(State(proxy): State<Arc<Proxy>>, RawQuery(query): RawQuery) -> Json<Value> {
    Json(insight::queries(&proxy, limit(query.as_deref().unwrap_or_default())))
}

async fn repeats(State(proxy): State<Arc<Proxy>>) -> Json<Value> {
    Json(insight::repeats(&proxy))
}

async fn routes(State(proxy): State<Arc<Proxy>>) -> Json<Value> {
    Json(insight::routes(&proxy))
}

async fn advice(State(proxy): State<Arc<Proxy>>) -> Json<Value> {
    Json(insight::advice(&proxy))
}

async fn existing(State(proxy): State<Arc<Proxy>>) -> Json<Value> {
    Json(indexes::json(&proxy))
}

async fn slow(State(proxy): State<Arc<Proxy>>) -> Json<Value> {
    Json(insight::slow(&proxy))
}

async fn running(State(proxy): State<Arc<Proxy>>) -> Json<Value> {
    Json(json!({ "transactions": transactions::transactions(&proxy).await }))
}

/// `limit=N` out of a query string, which is too little to have a parser for.
fn limit(query: &str) -> usize {
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("limit=")?.parse().ok());
    asked.unwrap_or(CLIENTS_DEFAULT).min(CLIENTS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_bounded() {
        for (query, expected) in [
            ("", CLIENTS_DEFAULT),
            ("limit=5", 5),
            ("a=b&limit=5&limit=6", 5),
            ("limit=all", CLIENTS_DEFAULT),
            ("limit=99999999", CLIENTS_MAX),
        ] {
            assert_eq!(limit(query), expected, "{query}");
        }
    }
}
