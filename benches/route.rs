//! Time from a classified text to its route: the effect found out, found again in the memo, and the decision; and the
//! time to pack a large catalog. Plain loops, best of many rounds: run it on a quiet machine.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark reads the clock and prints"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir::catalog::node_tree::Tree;
use weir::catalog::source::{Function, Kind, Relation, Rule, Schema, SearchPaths, Source};
use weir::catalog::{Catalog, Declared, Reader, SearchPath, SharedCatalog, Touched};
use weir::config::{Consistency, PrimaryReads};
use weir::consistency::{Floors, Pace, Positions, PrimaryPosition, ReplicaPosition, Ticket, Timeline};
use weir::pg::{HostId, Lsn, Oid};
use weir::route::{Block, Candidate, Facts, Memo, Pinned, Plan, decide};
use weir::sql::{self, memo::MemoLimits};

const TABLES: u32 = 50_000;

const TEXTS: &[(&str, &str)] = &[
    ("pgbench select", "SELECT abalance FROM table_12345 WHERE aid = 12345"),
    ("view", "SELECT * FROM view_77 WHERE a = 1"),
    (
        "orm join",
        "SELECT a.id, b.id, c.id, lower(a.name) FROM table_1 a LEFT JOIN table_2 b ON a.id = b.id LEFT JOIN table_3 c \
         ON a.id = c.id WHERE a.id IN (1, 2, 3) AND b.name LIKE 'a%' ORDER BY a.id LIMIT 20",
    ),
    ("update", "UPDATE table_9 SET a = 1 WHERE id = 7"),
];

fn best(mut work: impl FnMut()) -> Duration {
    let repeats = 1000;
    let round = |_| {
        let begin = Instant::now();
        (0..repeats).for_each(|_| work());
        begin.elapsed() / repeats
    };
    (0..300).map(round).min().unwrap_or_default()
}

fn source() -> Source {
    let name = |name: String| name.into_boxed_str();
    let relation = |number: u32, kind, title: &str| Relation {
        oid: Oid(20_000 + number),
        schema: Oid(2200),
        name: name(format!("{title}_{}", number % TABLES)),
        kind,
        is_unlogged: false,
        is_partition: false,
        has_row_security: false,
        row_type: Oid(500_000 + number),
    };
    let views = TABLES..TABLES + TABLES / 5;
    Source {
        schemas: vec![
            Schema { oid: Oid(11), name: "pg_catalog".into() },
            Schema { oid: Oid(2200), name: "public".into() },
        ],
        relations: (0..TABLES)
            .map(|number| relation(number, Kind::Table, "table"))
            .chain(views.clone().map(|number| relation(number, Kind::View, "view")))
            .collect(),
        rules: views
            .map(|number| Rule {
                oid: Oid(900_000 + number),
                xmin: number,
                relation: Oid(20_000 + number),
                on_select: true,
                tree: Arc::new(Tree {
                    relations: vec![Oid(20_000 + number % 1000), Oid(20_000 + number % 77)],
                    functions: vec![Oid(870)],
                    ..Tree::default()
                }),
            })
            .collect(),
        functions: vec![Function {
            oid: Oid(870),
            schema: Oid(11),
            name: "lower".into(),
            declared: Declared::Immutable,
            arguments_min: 1,
            arguments_max: 1,
            takes_row: false,
            in_c: true,
        }],
        search_paths: SearchPaths { of_server: Some("\"$user\", public".into()), ..SearchPaths::default() },
        ..Source::default()
    }
}

fn replicas_at_the_end(positions: &Positions) {
    let at = Lsn(1 << 20);
    let reading = positions.begin_reading();
    let position = PrimaryPosition { insert: at, flush: at, timeline: Timeline(1) };
    positions.resolve(reading, position, Instant::now());
    for host in 1..=2 {
        let position = ReplicaPosition { replay: at, timeline: None, is_streaming: true };
        positions.report(HostId(host), position, Instant::now());
    }
}

fn main() {
    let rows = source();
    let begin = Instant::now();
    let catalog = Catalog::build(rows, 1, 0);
    println!("{} relations packed in {:.0?}, {} kB", catalog.len(), begin.elapsed(), catalog.bytes() / 1024);

    let shared = Arc::new(SharedCatalog::default());
    shared.publish(catalog);
    let mut reader = Reader::new(Arc::clone(&shared));
    let positions = Arc::new(Positions::new(3, Pace::default()));
    let floors = Floors::new(Arc::clone(&positions));
    replicas_at_the_end(&positions);
    let path = Arc::new(SearchPath::new(["public"], "app"));
    let facts = Facts {
        splitting: true,
        pinned: Pinned::No,
        hint: None,
        primary_reads: PrimaryReads::Fallback,
        primary: None,
        parameter_names_time: false,
        turn: 1,
    };
    println!("{:<16} {:>9} {:>9} {:>9} {:>9}", "ns", "effect", "memo", "decide", "memo+decide");
    let mut texts = sql::Memo::new(MemoLimits::default());
    let mut memo = Memo::default();
    for (name, text) in TEXTS {
        let classified = texts.classify(text.as_bytes(), true);
        let (analysis, classes) = (classified.analysis, classified.classes);
        let catalog = Arc::clone(reader.current().expect("it was published"));
        let effect = best(|| {
            let effect = catalog.effect(black_box(&analysis), &classes, &path);
            black_box(Plan::new(effect, &floors));
        });
        let found = best(|| {
            black_box(memo.plan(&mut reader, &floors, &analysis, black_box(&classes), Some(&path)));
        });
        let route = |plan: &Plan, turn: u64| {
            let need = floors.need(&plan.watched, Consistency::Strong, Ticket(0));
            let replicas = (1..=2).map(|host| Candidate {
                host: HostId(host),
                standing: positions.standing(HostId(host), need, Duration::from_secs(10)),
                weight: 1,
                outstanding: 3,
            });
            decide(&plan.effect, Block::Lazy, &Facts { turn, ..facts }, replicas)
        };
        let plan = memo.plan(&mut reader, &floors, &analysis, &classes, Some(&path));
        let mut turn = 0;
        let decided = best(|| {
            turn += 1;
            black_box(route(black_box(&plan), turn));
        });
        let both = best(|| {
            turn += 1;
            let plan = memo.plan(&mut reader, &floors, &analysis, black_box(&classes), Some(&path));
            black_box(route(&plan, turn));
        });
        println!(
            "{name:<16} {:>9} {:>9} {:>9} {:>9}",
            effect.as_nanos(),
            found.as_nanos(),
            decided.as_nanos(),
            both.as_nanos()
        );
    }
    let writes = Touched {
        relations: [1, 2, 3].map(|n| weir::catalog::RelationId(Oid(20_000 + n))).into(),
        ..Touched::default()
    };
    println!(
        "commit of three tables: {} ns",
        best(|| _ = black_box(floors.commit(&writes, true))).as_nanos()
    );
}
