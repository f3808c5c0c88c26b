//! Time per scan, analysis and memo hit. Plain loops, best of many rounds: run it on a quiet machine, before and
//! after a change to `sql/`.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock and prints"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use weir::sql::scan::Scanner;
use weir::sql::{Memo, analyze, analyze_into, classify::classify, memo::MemoLimits};

const TEXTS: &[(&str, &str)] = &[
    ("pgbench select", "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;"),
    ("begin", "BEGIN"),
    ("set", "SET search_path TO a, b"),
    (
        "orm get",
        "SELECT users.id AS users_id, users.name AS users_name, users.email AS users_email, users.created_at AS \
         users_created_at, users.is_active AS users_is_active \nFROM users \nWHERE users.id = %(pk_1)s",
    ),
    (
        "orm join",
        "SELECT posts.id AS posts_id, posts.title AS posts_title, posts.body AS posts_body, posts.author_id AS \
         posts_author_id, users_1.id AS users_1_id, users_1.name AS users_1_name, users_1.email AS users_1_email, \
         comments_1.id AS comments_1_id, comments_1.body AS comments_1_body, comments_1.post_id AS \
         comments_1_post_id \nFROM posts LEFT OUTER JOIN users AS users_1 ON users_1.id = posts.author_id LEFT OUTER \
         JOIN comments AS comments_1 ON posts.id = comments_1.post_id \nWHERE posts.id IN (1, 2, 3, 4, 5, 6, 7, 8) \
         AND users_1.name LIKE 'a%' ORDER BY posts.created_at DESC \n LIMIT 20 OFFSET 40",
    ),
];

fn best(mut work: impl FnMut()) -> Duration {
    let rounds = 200;
    let repeats = 500;
    (0..rounds)
        .map(|_| {
            let begin = Instant::now();
            for _ in 0..repeats {
                work();
            }
            begin.elapsed() / repeats
        })
        .min()
        .unwrap_or_default()
}

fn main() {
    println!(
        "{:<16} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "ns", "bytes", "scan", "into", "analyze", "classify", "by shape", "by text"
    );
    for (name, text) in TEXTS {
        let text = text.as_bytes();
        let scan = best(|| {
            for token in Scanner::new(black_box(text), true) {
                black_box(token);
            }
        });
        let mut shape = Vec::new();
        let into = best(|| {
            black_box(analyze_into(black_box(text), true, &mut shape));
        });
        let whole = best(|| {
            black_box(analyze(black_box(text), true));
        });
        let analysis = analyze(text, true);
        let parse = best(|| {
            black_box(classify(black_box(text), true, &analysis));
        });
        // As a text that never repeats with a shape that does: what a client that inlines its constants costs.
        let mut memo = Memo::new(MemoLimits::default());
        let mut other = text.to_vec();
        other.extend_from_slice(b" -- 0000000000");
        let (digits, mut number) = (other.len() - 10, 0_u64);
        let by_shape = best(|| {
            number += 1;
            other[digits..].copy_from_slice(format!("{number:010}").as_bytes());
            black_box(memo.classify(black_box(&other), true));
        });
        let mut memo = Memo::new(MemoLimits::default());
        let hit = best(|| {
            black_box(memo.classify(black_box(text), true));
        });
        println!(
            "{name:<16} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
            text.len(),
            scan.as_nanos(),
            into.as_nanos(),
            whole.as_nanos(),
            parse.as_nanos(),
            by_shape.as_nanos(),
            hit.as_nanos()
        );
    }
}
