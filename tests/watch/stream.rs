//! What a change stream tells its subscribers, and when.

use std::sync::Mutex;

use weir::control::{StreamPhase, Subscriber};

use super::*;

#[derive(Debug, Default)]
struct Told(Mutex<Vec<Touched>>);

impl Subscriber for Told {
    fn written(&self, touched: &Touched) {
        self.0.lock().unwrap().push(touched.clone());
    }

    fn begun(&self) {
        self.written(&Touched { everything: true, catalogs: true, ..Touched::default() });
    }
}

impl Told {
    fn take(&self) -> Vec<Touched> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }

    fn has(&self, relation: u32) -> bool {
        let is_it = |touched: &Touched| touched.relations.contains(&RelationId(Oid(relation)));
        self.0.lock().unwrap().iter().any(is_it)
    }
}

/// A commit is streamed as soon as it is flushed. With synchronous replication nobody sees it before a standby has
/// confirmed it: who was told at once would read the old row again, keep it, and never be told again.
#[test]
fn subscribers_are_told_when_the_primary_shows_it() {
    let cluster = Cluster::start(&Options { replicas: 1, ..Options::default() }).unwrap();
    superuser(&cluster, Member::Primary, "ALTER ROLE app REPLICATION");
    let app = |sql: &str| cluster.psql_as("app", Member::Primary, "app", sql).unwrap();
    app("CREATE TABLE t (n int PRIMARY KEY); CREATE TABLE u (n int)");
    let oid: u32 = app("SELECT 't'::regclass::oid").trim().parse().unwrap();
    let watch = Watch::begin(&cluster, "catalog_interval = '1h'");
    let database = watch.splitting.database("app");
    let told = Arc::new(Told::default());
    database.stream.subscribe(Arc::clone(&told) as Arc<dyn Subscriber>);
    eventually("the stream vouches", 10 * SECOND, || database.stream.vouches(Instant::now()));
    eventually("all is told when it begins", SECOND, || told.take().iter().any(|told| told.everything));
    let is_in_force = || {
        let latest = database.catalog.latest();
        latest.is_some_and(|catalog| catalog.changes() == database.catalog.changes())
    };
    eventually("the catalog", 10 * SECOND, is_in_force);
    let view = || database.stream.view(Instant::now());

    told.take();
    app("INSERT INTO t VALUES (1)");
    eventually("it is told", SECOND, || told.has(oid));
    let exactly = Touched { relations: [RelationId(Oid(oid))].into(), ..Touched::default() };
    assert_eq!(told.take(), [exactly]);

    superuser(&cluster, Member::Primary, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'");
    superuser(&cluster, Member::Primary, "SELECT pg_reload_conf()");
    let names = || superuser(&cluster, Member::Primary, "SHOW synchronous_standby_names");
    eventually("it is in force", 10 * SECOND, || names() == "nobody");
    let shown = view().counts.commits;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| app("INSERT INTO t VALUES (2)"));
        eventually("it is shown", 10 * SECOND, || view().counts.commits > shown);
        // It waits for a standby that does not exist, for longer than a stream may be late: it is none of that.
        let until = Instant::now() + 3 * SECOND;
        while Instant::now() < until {
            assert_eq!(app("SELECT count(*) FROM t WHERE n = 2").trim(), "0");
            assert_eq!(told.take(), [], "who reads now reads the old row");
            assert!(database.stream.vouches(Instant::now()));
        }
        superuser(&cluster, Member::Primary, "ALTER SYSTEM RESET synchronous_standby_names");
        superuser(&cluster, Member::Primary, "SELECT pg_reload_conf()");
        eventually("it is told", 10 * SECOND, || told.has(oid));
        assert_eq!(app("SELECT count(*) FROM t WHERE n = 2").trim(), "1");
        waiting.join().unwrap();
    });

    // Of a primary that is gone nothing is vouched for, and what follows it is told as everything.
    told.take();
    superuser(
        &cluster,
        Member::Primary,
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_type = 'logical'",
    );
    eventually("it is lost", SECOND, || view().counts.lost == 1);
    eventually("it is back", 10 * SECOND, || view().phase == StreamPhase::Up);
    eventually("all is told", SECOND, || told.take().iter().any(|told| told.everything));
    watch.splitting.stop();
    let slots = || {
        superuser(
            &cluster,
            Member::Primary,
            "SELECT count(*) FROM pg_replication_slots WHERE slot_type = 'logical'",
        )
    };
    eventually("its slot is gone", 10 * SECOND, || slots() == "0");
}
