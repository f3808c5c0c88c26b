//! The catalog of a real server, and positions of a real replica.

#![expect(clippy::disallowed_methods, reason = "a test may read the clock")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use weir::catalog::{Catalog, OnPrimary, Reader, SharedCatalog, Touched};
use weir::config::{Consistency, Settings};
use weir::consistency::{Floors, Pace, Positions, Standing};
use weir::control::{CatalogLoader, ControlSession, PositionSession};
use weir::demo::cluster::{Cluster, Member, Options};
use weir::pg::{HostId, Lsn};
use weir::server::Hosts;

async fn session(cluster: &Cluster, user: &str, member: Member) -> ControlSession {
    let settings = Settings::from_url(&cluster.url(user, member)).unwrap();
    let hosts = Hosts::new(&settings).unwrap();
    let timeout = Duration::from_secs(30);
    ControlSession::open(&hosts.list()[0].connector, &settings.servers.control, timeout).await.unwrap()
}

fn run(cluster: &Cluster, sql: &str) {
    cluster.psql_as("postgres", Member::Primary, "app", sql).unwrap();
}

#[tokio::test]
async fn effects_are_those_of_the_table() {
    let cluster = Cluster::start(&Options { replicas: 0, ..Options::default() }).unwrap();
    run(&cluster, "ALTER SCHEMA public OWNER TO postgres");
    run(&cluster, include_str!("schema.sql"));
    let shared = Arc::new(SharedCatalog::default());
    let mut loader = CatalogLoader::new(Arc::clone(&shared));
    let session = session(&cluster, "app", Member::Primary).await;

    let first = loader.load(&session).await.unwrap();
    assert!(first.trees > 100, "{first:?}");
    crate::cases::effect::check_with(&shared.latest().unwrap());
    assert!(!loader.look(&session).await.unwrap());

    // What has not changed is not read again, and means the same.
    run(&cluster, "CREATE VIEW another AS SELECT random(), u.* FROM users u");
    let mut reader = Reader::new(Arc::clone(&shared));
    assert!(reader.current().is_ok());
    assert!(loader.look(&session).await.unwrap());
    assert_eq!(reader.current().err(), Some(OnPrimary::CatalogChanging));
    let second = loader.load(&session).await.unwrap();
    assert_eq!((second.trees, second.relations), (1, first.relations + 1));
    assert!(!loader.look(&session).await.unwrap());
    crate::cases::effect::check_with(reader.current().unwrap());

    for ddl in [
        "CREATE TRIGGER more AFTER DELETE ON tags EXECUTE FUNCTION note()",
        "ALTER TABLE tags DISABLE TRIGGER more",
        "CREATE OR REPLACE VIEW plain AS SELECT id, name FROM users WHERE id > 0",
        "ALTER TABLE tags ADD CONSTRAINT fine CHECK (is_fine(id)) NOT VALID",
        "ALTER FUNCTION title(text) STABLE",
        "ALTER TABLE measures DETACH PARTITION measures_new",
        "ALTER TABLE tags ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE tags SET SCHEMA other",
        "ALTER ROLE app SET search_path = other",
        "DROP OPERATOR ### (pair, pair)",
    ] {
        run(&cluster, ddl);
        assert!(loader.look(&session).await.unwrap(), "{ddl}");
        loader.load(&session).await.unwrap();
        assert!(!loader.look(&session).await.unwrap(), "{ddl}");
    }
    // The first notices that a parent has no children any more.
    run(&cluster, "ANALYZE");
    loader.load(&session).await.unwrap();
    // What is no change.
    for sql in [
        "INSERT INTO other.tags VALUES (1)",
        "TRUNCATE other.tags CASCADE",
        "REINDEX TABLE other.tags",
        "ANALYZE",
        "VACUUM",
        "VACUUM FULL other.tags",
        "CREATE TEMP TABLE x (a int)",
    ] {
        run(&cluster, sql);
        assert!(!loader.look(&session).await.unwrap(), "{sql}");
    }
}

#[tokio::test]
async fn search_paths_are_those_that_sessions_begin_with() {
    let cluster = Cluster::start(&Options { replicas: 0, ..Options::default() }).unwrap();
    let path = async |user: &str| {
        let shared = Arc::new(SharedCatalog::default());
        let session = session(&cluster, "app", Member::Primary).await;
        CatalogLoader::new(Arc::clone(&shared)).load(&session).await.unwrap();
        let catalog: Arc<Catalog> = shared.latest().unwrap();
        catalog.default_search_path(user).map(|path| path.schemas().skip(1).collect::<Vec<_>>().join(","))
    };
    assert_eq!(path("bench").await.as_deref(), Some("bench,public"));
    run(&cluster, "ALTER DATABASE app SET search_path = a, \"B c\"");
    assert_eq!(path("bench").await.as_deref(), Some("a,B c"));
    run(&cluster, "ALTER ROLE bench SET search_path = d");
    assert_eq!(path("bench").await.as_deref(), Some("d"));
    run(
        &cluster,
        "ALTER ROLE bench IN DATABASE app SET search_path = e; ALTER ROLE bench IN DATABASE postgres SET search_path = f",
    );
    assert_eq!(path("bench").await.as_deref(), Some("e"));
    assert_eq!(path("app").await.as_deref(), Some("a,B c"));
    run(&cluster, "ALTER DATABASE app RESET search_path; ALTER ROLE ALL SET search_path = g");
    assert_eq!(path("postgres").await.as_deref(), Some("g"));
}

const REPLICA: HostId = HostId(1);

/// Asks both servers until the replica has what `commit` needs; gives how often the primary was nudged.
async fn satisfied(
    positions: &Positions,
    floors: &Floors,
    primary: &mut PositionSession,
    replica: &mut PositionSession,
    touched: &Touched,
) -> usize {
    let deadline = Instant::now() + Duration::from_secs(10);
    let watched = floors.watch(touched);
    let need = floors.need(&watched, Consistency::Strong, positions.newest());
    let mut nudges = 0;
    while positions.standing(REPLICA, need, Duration::from_secs(10)) != Standing::Satisfies {
        assert!(Instant::now() < deadline, "{need:?} {:?}", positions.replayed(REPLICA));
        let duty = positions.duty(Instant::now());
        if duty.nudge_primary {
            nudges += 1;
            primary.nudge().await.unwrap();
        }
        if duty.primary_in.is_zero() {
            primary.read_primary(positions, || true).await.unwrap();
        }
        replica.report_replica(positions, REPLICA).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    nudges
}

#[tokio::test]
async fn no_floor_hangs_while_the_primary_is_idle() {
    let cluster = Cluster::start(&Options { replicas: 1, ..Options::default() }).unwrap();
    run(&cluster, "CREATE TABLE t (a int); CREATE TABLE u (a int)");
    cluster.wait_for_replicas().unwrap();
    let positions = Arc::new(Positions::new(2, Pace::default()));
    let floors = Floors::new(Arc::clone(&positions));
    let mut primary =
        PositionSession::open(session(&cluster, "app", Member::Primary).await, &positions).await.unwrap();
    let mut replica =
        PositionSession::open(session(&cluster, "app", Member::Replica(1)).await, &positions).await.unwrap();
    let everything = Touched { everything: true, ..Touched::default() };
    satisfied(&positions, &floors, &mut primary, &mut replica, &everything).await;

    // The insert position stands behind the header of a segment that nobody has written to.
    let mut headers = 0;
    for _ in 0..3 {
        run(&cluster, "INSERT INTO t VALUES (1); SELECT pg_switch_wal()");
        let insert = cluster
            .psql_as("postgres", Member::Primary, "app", "SELECT pg_current_wal_insert_lsn()")
            .unwrap();
        floors.commit(&everything, true);
        satisfied(&positions, &floors, &mut primary, &mut replica, &everything).await;
        floors.commit(&everything, false);
        satisfied(&positions, &floors, &mut primary, &mut replica, &everything).await;
        let insert: Lsn = insert.trim().parse().unwrap();
        headers += usize::from(insert.0 % (16 << 20) == 40);
    }

    assert!(headers > 0, "it never stood there");

    // Behind the commit stands what another has written, and has not committed: it is not flushed.
    let writer = session(&cluster, "postgres", Member::Primary).await;
    for round in 0..3 {
        writer.rows("SELECT 1", &[]).await.unwrap();
        run(&cluster, "CHECKPOINT");
        let other = session(&cluster, "postgres", Member::Primary).await;
        other.run("BEGIN; INSERT INTO u VALUES (1)").await.unwrap();
        writer.run("INSERT INTO t VALUES (1)").await.unwrap();
        other.run("INSERT INTO u VALUES (2)").await.unwrap();
        floors.commit(&everything, true);
        let nudges = satisfied(&positions, &floors, &mut primary, &mut replica, &everything).await;
        assert_eq!(nudges, 0, "a flushed commit waits for nobody else ({round})");
        writer
            .run("SET synchronous_commit = off; INSERT INTO t VALUES (1); SET synchronous_commit = on")
            .await
            .unwrap();
        other.run("INSERT INTO u VALUES (2)").await.unwrap();
        floors.commit(&everything, false);
        let nudges = satisfied(&positions, &floors, &mut primary, &mut replica, &everything).await;
        assert!(nudges <= 1, "{nudges}");
        other.run("ROLLBACK").await.unwrap();
    }
}

#[test]
fn why_tells_where_a_statement_would_go() {
    let cluster = Cluster::start(&Options { replicas: 1, ..Options::default() }).unwrap();
    run(&cluster, "CREATE TABLE t (a int); GRANT ALL ON t TO app; CREATE VIEW v AS SELECT a, now() FROM t");
    cluster.wait_for_replicas().unwrap();
    let why = |arguments: &[&str]| {
        let replica = format!("postgres://127.0.0.1:{}", cluster.port(Member::Replica(1)));
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["why", "--primary", &cluster.url("app", Member::Primary), "--replica", &replica])
            .args(arguments)
            .env_clear()
            .output()
            .unwrap();
        let answer = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        let value = |name: &str| {
            let line = answer.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim().to_owned()
        };
        ["reads", "writes", "route", "reason", "transaction"].map(value).join(" | ")
    };
    assert_eq!(why(&["SELECT a FROM v"]), "public.t | nothing | replica1 | read | ");
    let in_block = why(&["--in-transaction", "SELECT a FROM v"]);
    assert_eq!(in_block, "public.t | nothing | replica1 | transaction_time | begins there");
    assert_eq!(why(&["DELETE FROM t"]), "nothing | public.t | primary | write | ");
    let elsewhere = why(&["--search-path", "pg_catalog", "SELECT a FROM v"]);
    assert!(elsewhere.ends_with("primary | unknown_relation | "), "{elsewhere}");
}
