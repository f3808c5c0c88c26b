//! What `Splitting` knows of real servers, and how soon.

#![expect(clippy::disallowed_methods, reason = "a test may read the clock")]

mod stream;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use weir::catalog::{OnPrimary, Reader, RelationId, Touched};
use weir::config::{Consistency, Flags, Machine, Settings, load};
use weir::consistency::{Fault, Standing, Ticket};
use weir::control::{Database, Splitting};
use weir::demo::cluster::{Cluster, Member, Options};
use weir::pg::{HostId, Oid};
use weir::server::Hosts;
use weir::sql::command::Isolation;

const SECOND: Duration = Duration::from_secs(1);
const MAX_LAG: Duration = SECOND;
const PRIMARY: HostId = HostId(0);
const FIRST: HostId = HostId(1);
const SECOND_REPLICA: HostId = HostId(2);

/// Weir's eyes on a cluster; the user is an ordinary one, without rights to see much.
struct Watch {
    hosts: Arc<Hosts>,
    splitting: Arc<Splitting>,
    /// When this is dropped, the event loop ends.
    _alive: oneshot::Sender<()>,
}

/// An event loop on a thread of its own, while the test waits for other programs.
fn event_loop() -> (Handle, oneshot::Sender<()>) {
    let (alive, end) = oneshot::channel();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    std::thread::spawn(move || runtime.block_on(end));
    (handle, alive)
}

impl Watch {
    fn begin(cluster: &Cluster, more: &str) -> Self {
        let file = format!("[splitting]\nenabled = 'auto'\n{more}");
        let url = |member| format!("postgres://127.0.0.1:{}", cluster.port(member));
        let flags = Flags {
            config: Some("weir.toml".into()),
            primary: Some(cluster.url("app", Member::Primary)),
            replicas: cluster.members().skip(1).map(url).collect(),
            ..Flags::default()
        };
        let environment = BTreeMap::new();
        let read = |_: &Path| Ok(file.clone().into_bytes());
        let settings: Settings =
            load(&flags, &Machine { environment: &environment, cores: 1, read: &read }).unwrap();
        let hosts = Arc::new(Hosts::new(&settings).unwrap());
        let (event_loop, alive) = event_loop();
        let _entered = event_loop.enter();
        let splitting = Splitting::start(&settings, &hosts, None).unwrap();
        for host in hosts.list() {
            let watching =
                weir::control::watch(Arc::clone(&hosts), Arc::clone(host), settings.servers.clone());
            event_loop.spawn(watching);
        }
        Self { hosts, splitting, _alive: alive }
    }

    fn standing(&self, host: HostId, need: Ticket) -> Standing {
        self.splitting.positions.standing(host, need, MAX_LAG)
    }

    /// Waits until a replica stands so, and gives how long that took.
    fn until(&self, within: Duration, host: HostId, need: Ticket, standing: Standing) -> Duration {
        let what = format!("{host:?} {standing:?}");
        eventually(&what, within, || self.standing(host, need) == standing)
    }

    /// A commit on the primary, as a client's; gives what a reader needs of a replica.
    fn commit(&self, database: &Database, cluster: &Cluster, primary: Member) -> Ticket {
        cluster.psql_as("app", primary, "app", "INSERT INTO t VALUES (1)").unwrap();
        self.committed(database)
    }

    fn committed(&self, database: &Database) -> Ticket {
        let writes = Touched { everything: true, ..Touched::default() };
        let watched = database.floors.watch(&writes);
        if database.floors.commit(&writes, true).wake {
            self.splitting.committed();
        }
        database.floors.need(&watched, Consistency::Strong, Ticket(0))
    }
}

/// Waits for a condition no longer than `within`, and gives how long that took.
fn eventually(what: &str, within: Duration, is_so: impl Fn() -> bool) -> Duration {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < within, "{what} takes more than {within:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    begin.elapsed()
}

fn superuser(cluster: &Cluster, member: Member, sql: &str) -> String {
    cluster.psql_as("postgres", member, "app", sql).unwrap().trim().to_owned()
}

/// Connects a replica to a primary at `port`, or to none; gives the connection that it had.
fn point(cluster: &Cluster, replica: Member, connection: &str) -> String {
    let before = superuser(cluster, replica, "SHOW primary_conninfo");
    let quoted = connection.replace('\'', "''");
    superuser(cluster, replica, &format!("ALTER SYSTEM SET primary_conninfo = '{quoted}'"));
    superuser(cluster, replica, "SELECT pg_reload_conf()");
    before
}

/// Processes that have been stopped; dropped, they go on.
struct Frozen(Vec<String>);

impl Frozen {
    /// Our sessions on a server, which answer no more and break no connection.
    fn sessions(cluster: &Cluster, member: Member) -> Self {
        let ours = "SELECT pid FROM pg_stat_activity WHERE application_name = 'weir'";
        let frozen = Self(superuser(cluster, member, ours).lines().map(str::to_owned).collect());
        assert!(!frozen.0.is_empty());
        frozen.signal("-STOP");
        frozen
    }

    fn signal(&self, signal: &str) {
        let status = std::process::Command::new("kill").arg(signal).args(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()));
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

#[test]
fn floors_pass_and_replicas_that_hang_or_die_are_out_within_a_second() {
    let mut cluster = Cluster::start(&Options { replicas: 2, ..Options::default() }).unwrap();
    superuser(&cluster, Member::Primary, "CREATE TABLE t (a int); GRANT ALL ON t TO app");
    let watch = Watch::begin(&cluster, "");
    let database = watch.splitting.database("app");
    let begin = watch.committed(&database);
    for replica in [FIRST, SECOND_REPLICA] {
        watch.until(10 * SECOND, replica, begin, Standing::Satisfies);
    }
    assert_eq!(watch.standing(PRIMARY, Ticket(0)), Standing::Unknown, "it is no replica");

    let mut times = Vec::new();
    for _ in 0..30 {
        let need = watch.commit(&database, &cluster, Member::Primary);
        times.push(watch.until(SECOND, FIRST, need, Standing::Satisfies));
        watch.until(SECOND, SECOND_REPLICA, need, Standing::Satisfies);
    }
    times.sort_unstable();
    assert!(times[15] < SECOND / 4, "{times:?}");

    // It replays nothing.
    superuser(&cluster, Member::Replica(1), "SELECT pg_wal_replay_pause()");
    let paused = "SELECT pg_get_wal_replay_pause_state()";
    eventually("pausing", 10 * SECOND, || superuser(&cluster, Member::Replica(1), paused) == "paused");
    let need = watch.commit(&database, &cluster, Member::Primary);
    watch.until(SECOND, SECOND_REPLICA, need, Standing::Satisfies);
    assert_eq!(watch.standing(FIRST, need), Standing::Floor);
    assert_eq!(watch.standing(FIRST, begin), Standing::Satisfies, "what it has it has");
    let pending = database.floors.pending();
    assert!(pending.iter().any(|floor| floor.ticket == need && floor.position.is_some()), "{pending:?}");
    let late = watch.until(MAX_LAG + SECOND, FIRST, begin, Standing::Lag);
    assert!(late > MAX_LAG / 2, "{late:?}");
    assert!(watch.splitting.positions.lag(FIRST).unwrap() > MAX_LAG);
    assert_eq!(watch.standing(SECOND_REPLICA, need), Standing::Satisfies);
    superuser(&cluster, Member::Replica(1), "SELECT pg_wal_replay_resume()");
    watch.until(SECOND, FIRST, need, Standing::Satisfies);

    // It is cut off from the primary, and back.
    let before = point(&cluster, Member::Replica(2), "");
    watch.until(SECOND, SECOND_REPLICA, begin, Standing::Unknown);
    assert_eq!(watch.splitting.positions.fault(SECOND_REPLICA), Some(Fault::CutOff));
    assert_eq!(watch.standing(FIRST, need), Standing::Satisfies);
    point(&cluster, Member::Replica(2), &before);
    let need = watch.commit(&database, &cluster, Member::Primary);
    // PostgreSQL tries again every wal_retrieve_retry_interval, of 5 s.
    watch.until(15 * SECOND, SECOND_REPLICA, need, Standing::Satisfies);

    let frozen = Frozen::sessions(&cluster, Member::Replica(1));
    watch.until(SECOND, FIRST, begin, Standing::Unknown);
    // It is asked on a new connection.
    watch.until(5 * SECOND, FIRST, need, Standing::Satisfies);
    drop(frozen);

    cluster.crash(Member::Replica(1)).unwrap();
    watch.until(SECOND, FIRST, begin, Standing::Unknown);
    assert_eq!(watch.standing(SECOND_REPLICA, need), Standing::Satisfies);
    watch.splitting.stop();
}

#[test]
fn a_new_primary_is_followed_from_the_beginning() {
    let mut cluster = Cluster::start(&Options { replicas: 2, ..Options::default() }).unwrap();
    superuser(&cluster, Member::Primary, "CREATE TABLE t (a int); GRANT ALL ON t TO app");
    let watch = Watch::begin(&cluster, "");
    let database = watch.splitting.database("app");
    let mut reader = Reader::new(Arc::clone(&database.catalog));
    let need = watch.commit(&database, &cluster, Member::Primary);
    for replica in [FIRST, SECOND_REPLICA] {
        watch.until(10 * SECOND, replica, need, Standing::Satisfies);
    }
    eventually("the catalog", 10 * SECOND, || database.catalog.latest().is_some());
    let version = reader.current().unwrap().version();

    // The other replica follows the one that is to be promoted: it must not have more of the log.
    let old = superuser(&cluster, Member::Replica(2), "SHOW primary_conninfo");
    let port = |member| format!("port={}", cluster.port(member));
    assert!(old.contains(&port(Member::Primary)), "{old}");
    point(&cluster, Member::Replica(2), &old.replace(&port(Member::Primary), &port(Member::Replica(1))));
    let need = watch.commit(&database, &cluster, Member::Primary);
    watch.until(15 * SECOND, SECOND_REPLICA, need, Standing::Satisfies);

    // While the old primary is there, it stays the primary, and who was promoted serves nothing.
    superuser(&cluster, Member::Replica(1), "SELECT pg_promote()");
    watch.until(SECOND, FIRST, Ticket(0), Standing::Unknown);
    assert_eq!(watch.hosts.primary(), Some(PRIMARY));

    cluster.crash(Member::Primary).unwrap();
    eventually("the new primary", 5 * SECOND, || watch.hosts.primary() == Some(FIRST));
    watch.until(SECOND, SECOND_REPLICA, Ticket(0), Standing::Unknown);
    watch.commit(&database, &cluster, Member::Replica(1));
    let question = "SELECT count(*) FROM t";
    eventually("replay", 15 * SECOND, || superuser(&cluster, Member::Replica(2), question) == "3");
    // It follows the new primary, but an ordinary user cannot see that yet.
    let unseen = || watch.splitting.positions.fault(SECOND_REPLICA) == Some(Fault::Timeline);
    eventually("the doubt", SECOND, unseen);
    superuser(&cluster, Member::Replica(1), "GRANT pg_read_all_stats TO app");
    let need = watch.commit(&database, &cluster, Member::Replica(1));
    watch.until(5 * SECOND, SECOND_REPLICA, need, Standing::Satisfies);
    for _ in 0..5 {
        let need = watch.commit(&database, &cluster, Member::Replica(1));
        watch.until(SECOND, SECOND_REPLICA, need, Standing::Satisfies);
    }
    eventually("its catalog", 5 * SECOND, || {
        Reader::new(Arc::clone(&database.catalog)).current().is_ok_and(|catalog| catalog.version() > version)
    });
    watch.splitting.stop();
}

#[test]
fn catalogs_are_fresh_and_in_nobodys_way() {
    let cluster = Cluster::start(&Options { replicas: 1, ..Options::default() }).unwrap();
    let create = |name: &str| {
        cluster.psql("app", &format!("CREATE TABLE {name} (a int)")).unwrap();
        let oid = cluster.psql("app", &format!("SELECT '{name}'::regclass::oid")).unwrap();
        RelationId(Oid(oid.trim().parse().unwrap()))
    };
    let knows = |database: &Database, relation: RelationId| {
        Reader::new(Arc::clone(&database.catalog)).current().is_ok_and(|catalog| catalog.has(relation))
    };
    let first = create("a");

    // Found by asking now and then.
    let asking = Watch::begin(&cluster, "catalog_interval = '300ms'");
    let database = asking.splitting.database("app");
    assert!(Arc::ptr_eq(&database, &asking.splitting.database("app")));
    eventually("the first load", 10 * SECOND, || knows(&database, first));
    let watched = database.floors.watch(&Touched::default());
    let before = database.floors.need(&watched, Consistency::Strong, Ticket(0));
    let second = create("b");
    eventually("a look", 5 * SECOND, || knows(&database, second));
    let after = database.floors.need(&watched, Consistency::Strong, Ticket(0));
    assert!(after > before, "a replica may lack what somebody else has made");
    asking.until(5 * SECOND, FIRST, after, Standing::Satisfies);
    let usual = database.defaults().session("app").unwrap();
    assert_eq!((usual.isolation, usual.flushes_commits), (Isolation::ReadCommitted, true));
    superuser(
        &cluster,
        Member::Primary,
        "ALTER ROLE bench SET default_transaction_isolation = 'serializable'",
    );
    eventually("the role's default", 5 * SECOND, || {
        database
            .defaults()
            .session("bench")
            .is_some_and(|defaults| defaults.isolation == Isolation::Serializable)
    });
    assert_eq!(database.defaults().session("app"), Some(usual));
    asking.splitting.stop();

    // Told.
    let told = Watch::begin(&cluster, "catalog_interval = '1h'");
    let database = told.splitting.database("app");
    eventually("the first load", 10 * SECOND, || knows(&database, second));
    let third = create("c");
    assert!(database.catalog.changed());
    let current = Reader::new(Arc::clone(&database.catalog)).current().err();
    assert_eq!(current, Some(OnPrimary::CatalogChanging));
    told.splitting.catalog_changed(&database);
    eventually("the load", 20 * SECOND, || knows(&database, third));
    let fourth = create("d");
    assert!(database.catalog.suspect());
    told.splitting.catalog_changed(&database);
    eventually("the look and the load", 20 * SECOND, || knows(&database, fourth));

    // A database that is used can be dropped; one that is not is forgotten, but not before.
    superuser(&cluster, Member::Primary, "CREATE DATABASE gone");
    let gone = told.splitting.database("gone");
    eventually("its catalog", 10 * SECOND, || gone.catalog.latest().is_some());
    let here = Builder::new_current_thread().enable_time().build().unwrap();
    here.block_on(told.splitting.release("gone"));
    superuser(&cluster, Member::Primary, "DROP DATABASE gone");
    let names = || told.splitting.list().iter().map(|known| known.name.to_string()).collect::<Vec<_>>();
    let now = Instant::now();
    told.splitting.tend(now);
    told.splitting.tend(now + 3600 * SECOND);
    assert_eq!(names(), ["app", "gone"]);
    drop(gone);
    told.splitting.tend(now);
    assert_eq!(names(), ["app", "gone"]);
    told.splitting.tend(now + 3600 * SECOND);
    assert_eq!(names(), ["app"]);
    assert_eq!(told.splitting.catalogs(), (1, 0));

    // What is forgotten with its floors is not passed by who has not passed them.
    let need = told.committed(&told.splitting.database("anew"));
    let again = told.splitting.database("again");
    let watched = again.floors.watch(&Touched::default());
    assert!(again.floors.need(&watched, Consistency::Strong, Ticket(0)) >= need);

    told.splitting.stop();
    let ours =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'weir' AND query !~ 'is_in_recovery'";
    eventually("the end", 5 * SECOND, || superuser(&cluster, Member::Primary, ours) == "0");
}

/// A running `weir serve`, ended when dropped.
struct Weir(std::process::Child, u16);

impl Weir {
    fn serve(cluster: &Cluster) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let replica = format!("postgres://127.0.0.1:{}", cluster.port(Member::Replica(1)));
        let config = cluster.directory().join("weir.toml");
        std::fs::write(&config, "[splitting]\nenabled = 'auto'\n").unwrap();
        let weir = std::process::Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["serve", "--primary", &cluster.url("app", Member::Primary), "--replica", &replica])
            .args(["--listen", &format!("127.0.0.1:{port}"), "--log", "warn", "--config"])
            .arg(config)
            .env_clear()
            .spawn()
            .unwrap();
        let weir = Self(weir, port);
        eventually("weir", 10 * SECOND, || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        weir
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_console_tells_what_is_known() {
    let cluster = Cluster::start(&Options { replicas: 1, ..Options::default() }).unwrap();
    cluster.psql("app", "CREATE TABLE t (a int)").unwrap();
    let weir = Weir::serve(&cluster);
    let login =
        format!("host=127.0.0.1 port={} user=app dbname=weir password={}", weir.1, cluster.password("app"));
    let (client, connection) = tokio_postgres::connect(&login, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let value = |rows: &[tokio_postgres::Row], name: &str| -> String {
        let row = rows.iter().find(|row| row.get::<_, &str>(0) == name);
        row.map_or_else(String::new, |row| row.get(1))
    };
    // Nobody has used the database yet: it is loaded for the answer.
    let question = "SHOW WHY $$SELECT a FROM t WHERE a = 'x'::text::int$$";
    let deadline = Instant::now() + 10 * SECOND;
    loop {
        let rows = client.query(question, &[]).await.unwrap();
        assert_eq!(value(&rows, "reads"), "public.t");
        let route = (value(&rows, "route"), value(&rows, "reason"));
        if route == ("replica1".to_owned(), "read".to_owned()) {
            break;
        }
        assert!(Instant::now() < deadline, "{route:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let rows = client.query("SHOW WHY 'DELETE FROM t' app", &[]).await.unwrap();
    assert_eq!(
        (value(&rows, "writes"), value(&rows, "route")),
        ("public.t".to_owned(), "primary".to_owned())
    );
    let hosts = client.query("SHOW HOSTS", &[]).await.unwrap();
    assert_eq!(hosts[1].get::<_, &str>("reads"), "ok");
    assert!(hosts[1].get::<_, &str>("replayed").contains('/') && hosts[1].get::<_, i64>("lag_ms") < 1000);
    assert_eq!(hosts[0].get::<_, Option<&str>>("reads"), None);

    // The replica falls behind what somebody else has made.
    superuser(&cluster, Member::Replica(1), "SELECT pg_wal_replay_pause()");
    cluster.psql("app", "CREATE TABLE u (a int)").unwrap();
    let why =
        async |sql: &str| value(&client.query(&format!("SHOW WHY '{sql}'"), &[]).await.unwrap(), "reason");
    let deadline = Instant::now() + 20 * SECOND;
    while why("SELECT a FROM u").await != "floor" {
        assert!(Instant::now() < deadline, "{}", why("SELECT a FROM u").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let floors = client.query("SHOW FLOORS", &[]).await.unwrap();
    assert_eq!((floors[0].get::<_, &str>("database"), floors[0].get::<_, &str>("relation")), ("app", "*"));
    let hosts = client.query("SHOW HOSTS", &[]).await.unwrap();
    assert_eq!(hosts[1].get::<_, i32>("pending_floors"), 1);
}
