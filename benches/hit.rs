//! What an answer from memory costs: looked for and written, without a socket; and, with `--responder ADDRESS`, a bare
//! loopback responder that answers each query with the same canned bytes, to be measured by pgbench beside Weir: it is the
//! ceiling that a cache can come near to. Plain loops, best of many rounds: run it on a quiet machine.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock and prints"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ahash::RandomState;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weir::cache::{Boarded, Epochs, Found, KeyView, Recorded, Request, Scope, Shapes, Store};
use weir::catalog::{RelationId, Touched};
use weir::pg::{Oid, TransactionStatus};
use weir::sql::Fingerprint;
use weir::wire::frame::{self, MESSAGE_BYTES_MAX, Next};
use weir::wire::{backend, build, frontend};

fn main() {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--responder").skip(1);
    if let Some(address) = arguments.next() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("an event loop").block_on(respond(&address));
        return;
    }
    lookups();
}

fn best(mut work: impl FnMut()) -> Duration {
    let repeats = 1000;
    let round = |_| {
        let begin = Instant::now();
        (0..repeats).for_each(|_| work());
        begin.elapsed() / repeats
    };
    (0..300).map(round).min().unwrap_or_default()
}

/// pgbench's SELECT, kept with its answer, among others.
fn lookups() {
    let hasher = RandomState::with_seeds(1, 2, 3, 4);
    let store = Arc::new(Store::new(64 << 20, 1 << 20, Arc::default()));
    let epochs = Epochs::default();
    let reads = Touched { relations: [RelationId(Oid(16_400))].into(), ..Touched::default() };
    let watch = Arc::new(epochs.watch(&reads));
    let scope = Arc::new(Scope::new(&hasher, "bench", "bench", true, []));
    let shape = Shapes::default().shape(Fingerprint(1), String::new);
    let now = Instant::now();
    let texts: Vec<String> =
        (0..10_000).map(|id| format!("SELECT abalance FROM pgbench_accounts WHERE aid = {id};")).collect();
    for text in &texts {
        let key = KeyView::new(&hasher, &scope, request(text)).expect("it is short");
        let Boarded::Pilot(flight) = store.board(&key, &watch, 0, &shape, now) else { continue };
        let (description, rows) = answer();
        let recorded = Recorded { description: Some(description.into()), rows: rows.into() };
        flight.land(recorded, Duration::from_secs(3600), now);
    }
    let (mut at, mut out) = (0, Vec::new());
    let found = best(|| {
        at = (at + 7919) % texts.len();
        let key = KeyView::new(&hasher, &scope, request(&texts[at])).expect("it is short");
        let Found::Hit(entry) = store.find(&key, &watch, 0, true, now) else { panic!("it is there") };
        out.clear();
        out.extend_from_slice(entry.recorded.description.as_deref().unwrap_or_default());
        out.extend_from_slice(&entry.recorded.rows);
        build::ready_for_query(&mut out, TransactionStatus::Idle);
        black_box(&out);
    });
    println!("key, lookup, validity and answer: {found:.0?}");
    let (entries, bytes) = store.size();
    println!("{entries} entries of {} bytes each", bytes / entries.max(1));
    let invalidated = best(|| epochs.invalidate(black_box(&reads)));
    println!("a write of one table: {invalidated:.0?}");
}

/// Of the simple protocol.
fn request(text: &str) -> Request<'_> {
    Request { text: text.as_bytes(), types: b"", parameters: b"", formats: b"" }
}

/// A row of one number.
fn answer() -> (Vec<u8>, Vec<u8>) {
    let mut description = Vec::new();
    build::frame(&mut description, backend::ROW_DESCRIPTION, |body| {
        body.extend_from_slice(b"\0\x01abalance\0\0\0\x40\x10\0\x03\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0");
    });
    let mut rows = Vec::new();
    build::single_value_row(&mut rows, b"-1234");
    build::command_complete(&mut rows, b"SELECT 1");
    (description, rows)
}

/// Lets everybody in, and answers everything alike.
async fn respond(address: &str) {
    let listener = TcpListener::bind(address).await.expect("an address");
    println!("listening on {address}");
    tokio::task::LocalSet::new()
        .run_until(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(serve(stream));
            }
        })
        .await;
}

async fn serve(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let (description, rows) = answer();
    let mut buffer = vec![0; 64 << 10];
    // SSLRequest has 8 bytes, and a startup packet more.
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        if count > 8 {
            break;
        }
        let _ = stream.write_all(b"N").await;
    }
    let mut out = Vec::new();
    build::authentication(&mut out, build::Authentication::Ok);
    build::parameter_status(&mut out, b"server_version", b"15.0");
    build::parameter_status(&mut out, b"client_encoding", b"UTF8");
    build::parameter_status(&mut out, b"standard_conforming_strings", b"on");
    build::ready_for_query(&mut out, TransactionStatus::Idle);
    let mut filled = 0;
    while stream.write_all(&out).await.is_ok() {
        out.clear();
        let mut used = 0;
        while out.is_empty() {
            let Ok(count @ 1..) = stream.read(&mut buffer[filled..]).await else { return };
            filled += count;
            while let Ok(Next::Frame(message)) = frame::next(&buffer[used..filled], MESSAGE_BYTES_MAX) {
                used += message.bytes.len();
                match message.tag {
                    frontend::QUERY => {
                        out.extend_from_slice(&description);
                        out.extend_from_slice(&rows);
                        build::ready_for_query(&mut out, TransactionStatus::Idle);
                    }
                    frontend::PARSE => build::empty(&mut out, backend::PARSE_COMPLETE),
                    frontend::BIND => build::empty(&mut out, backend::BIND_COMPLETE),
                    frontend::DESCRIBE => out.extend_from_slice(&description),
                    frontend::EXECUTE => out.extend_from_slice(&rows),
                    frontend::SYNC => build::ready_for_query(&mut out, TransactionStatus::Idle),
                    _ => return,
                }
            }
            buffer.copy_within(used..filled, 0);
            filled -= used;
            used = 0;
        }
    }
}
