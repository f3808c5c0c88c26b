//! The shared second level of the cache against a real redis-server: whatever befalls that, nobody gets an old result.

#![expect(clippy::disallowed_methods, reason = "a test may read the clock")]

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weir::catalog::{RelationId, Touched};
use weir::config::SharedCacheSettings;
use weir::control::{Invalidated, Lookup, SharedCache, SharedStamp};
use weir::pg::Oid;

const TTL: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);

/// A server of the test's own, in a directory of its own.
struct Redis {
    directory: PathBuf,
    port: u16,
    server: Child,
}

impl Redis {
    fn start() -> Self {
        let directory = std::env::temp_dir().join(format!("weir-redis-{:016x}", rand::random::<u64>()));
        std::fs::create_dir(&directory).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self::launch(&directory, port);
        Self { directory, port, server }
    }

    fn launch(directory: &PathBuf, port: u16) -> Child {
        let port_text = port.to_string();
        let server = Command::new("redis-server")
            .current_dir(directory)
            .args([
                "--port",
                &port_text,
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--enable-debug-command",
                "yes",
            ])
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (Debian: apt-get install redis-server)");
        let until = Instant::now() + 10 * SECOND;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "redis-server does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    fn kill(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.server = Self::launch(&self.directory, self.port);
    }

    /// Runs a command; gives the answer as it comes.
    fn say(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        // It is short, and comes in one piece.
        let mut answer = [0; 4096];
        let length = stream.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(!answer.starts_with('-'), "{command}: {answer}");
        answer
    }

    fn settings(&self) -> SharedCacheSettings {
        SharedCacheSettings {
            url: Some(format!("redis://127.0.0.1:{}", self.port)),
            // The machine may be busy.
            lookup_timeout: Duration::from_millis(200),
            invalidate_timeout: Duration::from_millis(200),
            ..SharedCacheSettings::default()
        }
    }

    /// A Weir's end of it, once what it has of the database is trusted.
    async fn weir(&self) -> Arc<SharedCache> {
        let weir = self.weir_that_covers(&Arc::new(AtomicBool::new(true)));
        trusted(&weir).await;
        weir
    }

    /// One that knows of all that is written while `covers` says so.
    fn weir_that_covers(&self, covers: &Arc<AtomicBool>) -> Arc<SharedCache> {
        let weir = SharedCache::start(&self.settings(), SECOND / 2).unwrap().unwrap();
        for database in ["app", "other"] {
            let covers = Arc::clone(covers);
            weir.follow(database, move |_| covers.load(Ordering::SeqCst));
        }
        weir
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

async fn eventually(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + within;
    while !is_so() {
        assert!(Instant::now() < until, "{what} takes more than {within:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn trusted(weir: &SharedCache) {
    eventually("it is trusted", 20 * SECOND, || weir.is_trusted("app") && weir.is_trusted("other")).await;
}

fn tables(oids: &[u32]) -> Touched {
    Touched { relations: oids.iter().map(|oid| RelationId(Oid(*oid))).collect(), ..Touched::default() }
}

async fn find(weir: &SharedCache, table: u32, key: &str) -> Lookup {
    weir.find("app", &tables(&[table]), key.as_bytes(), |_| {}).await
}

async fn stamp(weir: &SharedCache, table: u32, key: &str) -> SharedStamp {
    match find(weir, table, key).await {
        Lookup::Miss(stamp) => stamp,
        other => panic!("{other:?}"),
    }
}

async fn hit(weir: &SharedCache, table: u32, key: &str) -> Option<String> {
    match find(weir, table, key).await {
        Lookup::Hit(found) => Some(String::from_utf8(found.bytes.to_vec()).unwrap()),
        Lookup::Miss(_) | Lookup::Silent => None,
    }
}

/// Puts a result there, and waits until it is.
async fn fill(weir: &SharedCache, table: u32, key: &str, result: &str) {
    let stamp = stamp(weir, table, key).await;
    put(weir, &stamp, key, result).await;
    assert_eq!(hit(weir, table, key).await.as_deref(), Some(result));
}

async fn put(weir: &SharedCache, stamp: &SharedStamp, key: &str, result: &str) {
    let before = weir.counts.puts.load(Ordering::Relaxed);
    weir.put(stamp, "app", key.as_bytes(), result.as_bytes(), TTL);
    eventually("it is put", SECOND, || weir.counts.puts.load(Ordering::Relaxed) > before).await;
}

async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.expect("it takes too long")
}

#[tokio::test]
async fn a_result_is_shared_until_what_it_was_read_from_is_written() {
    let redis = Redis::start();
    let (one, two) = (redis.weir().await, redis.weir().await);
    fill(&one, 1, "a", "old").await;
    fill(&one, 2, "b", "kept").await;
    assert_eq!(hit(&two, 1, "a").await.as_deref(), Some("old"));
    assert_eq!(hit(&two, 1, "another key").await, None);
    let elsewhere = two.find("other", &tables(&[1]), b"a", |_| {}).await;
    assert!(matches!(elsewhere, Lookup::Miss(_)), "it is of another database");

    assert_eq!(two.invalidate("app", &tables(&[1])).await, Invalidated::Done);
    for weir in [&one, &two] {
        assert_eq!(hit(weir, 1, "a").await, None);
        assert_eq!(hit(weir, 2, "b").await.as_deref(), Some("kept"));
    }
    for written in
        [Touched { everything: true, ..Touched::default() }, Touched { catalogs: true, ..Touched::default() }]
    {
        fill(&two, 1, "a", "new").await;
        assert_eq!(one.invalidate("other", &written).await, Invalidated::Done);
        assert_eq!(hit(&two, 1, "a").await.as_deref(), Some("new"));
        assert_eq!(one.invalidate("app", &written).await, Invalidated::Done);
        assert_eq!(hit(&two, 1, "a").await, None);
    }
    let anything = Touched { everything: true, ..Touched::default() };
    assert!(matches!(one.find("app", &anything, b"a", |_| {}).await, Lookup::Silent));
}

#[tokio::test]
async fn a_result_that_was_crossed_by_a_write_is_never_found() {
    let redis = Redis::start();
    let (one, two) = (redis.weir().await, redis.weir().await);
    let stamp = stamp(&one, 1, "a").await;
    assert_eq!(two.invalidate("app", &tables(&[1])).await, Invalidated::Done);
    put(&one, &stamp, "a", "old").await;
    assert_eq!(hit(&one, 1, "a").await, None);
    assert_eq!(hit(&two, 1, "a").await, None);
}

/// Else what is read next might be read from a replica that lacks it, and be kept.
#[tokio::test]
async fn writes_of_others_are_told_before_the_route_is_chosen() {
    let redis = Redis::start();
    let (one, two) = (redis.weir().await, redis.weir().await);
    let told = Mutex::new(Vec::new());
    let ask = |weir: Arc<SharedCache>| {
        let told = &told;
        async move {
            let _ = weir
                .find("app", &tables(&[1, 2]), b"a", |touched| told.lock().unwrap().push(touched.clone()))
                .await;
            std::mem::take(&mut *told.lock().unwrap())
        }
    };
    assert!(ask(Arc::clone(&one)).await.iter().any(|touched| touched.everything), "nothing was known");
    assert_eq!(ask(Arc::clone(&one)).await, []);
    one.invalidate("app", &tables(&[1])).await;
    assert_eq!(ask(Arc::clone(&one)).await, [], "it was our own");
    two.invalidate("app", &tables(&[2])).await;
    assert_eq!(ask(Arc::clone(&one)).await, [tables(&[2])]);
    assert_eq!(ask(Arc::clone(&one)).await, []);
    let everything = Touched { everything: true, catalogs: true, ..Touched::default() };
    two.invalidate("app", &everything).await;
    assert_eq!(ask(Arc::clone(&one)).await, [everything]);
}

#[tokio::test]
async fn what_the_store_forgets_is_missed_and_nothing_comes_back() {
    let redis = Redis::start();
    let weir = redis.weir().await;
    fill(&weir, 1, "a", "old").await;
    weir.invalidate("app", &tables(&[1])).await;
    // As by eviction: the tokens go, the result stays.
    let script = "EVAL \"for _, k in ipairs(redis.call('keys', '*:t*')) do redis.call('del', k) end\" 0";
    redis.say(script);
    assert_eq!(hit(&weir, 1, "a").await, None);
    fill(&weir, 1, "a", "new").await;
    redis.say("FLUSHALL");
    assert_eq!(hit(&weir, 1, "a").await, None);
    fill(&weir, 1, "a", "newer").await;
    assert_eq!(weir.counts.voided.load(Ordering::Relaxed), 2, "the connection stood all the while");
}

#[tokio::test]
async fn a_dead_store_costs_misses_and_its_old_dump_is_not_believed() {
    let mut redis = Redis::start();
    let weir = redis.weir().await;
    fill(&weir, 1, "a", "old").await;
    redis.say("SAVE");
    redis.kill();
    let begin = Instant::now();
    assert!(matches!(find(&weir, 1, "a").await, Lookup::Silent));
    assert_eq!(weir.invalidate("app", &tables(&[1])).await, Invalidated::Owed);
    assert!(begin.elapsed() < SECOND / 2, "{:?}", begin.elapsed());
    assert!(!weir.is_trusted("app"));
    let begin = Instant::now();
    for _ in 0..1000 {
        assert!(matches!(find(&weir, 1, "a").await, Lookup::Silent));
        assert_eq!(weir.invalidate("app", &tables(&[1])).await, Invalidated::Owed);
    }
    assert!(
        begin.elapsed() < SECOND / 2,
        "a store that is known to be dead costs nothing: {:?}",
        begin.elapsed()
    );

    redis.start_again();
    assert!(redis.say("KEYS *:r:*").starts_with("*1"), "the old dump is there");
    trusted(&weir).await;
    assert_eq!(hit(&weir, 1, "a").await, None);
    fill(&weir, 1, "a", "new").await;
}

#[tokio::test]
async fn a_slow_store_costs_misses_within_a_bound() {
    let redis = Redis::start();
    let (weir, other) = (redis.weir().await, redis.weir().await);
    fill(&weir, 1, "a", "old").await;
    redis.say("CLIENT PAUSE 1500 ALL");
    let begin = Instant::now();
    assert!(matches!(find(&weir, 1, "a").await, Lookup::Silent));
    let one = begin.elapsed();
    assert!(matches!(find(&weir, 1, "a").await, Lookup::Silent));
    assert!(begin.elapsed() < one + one / 2, "the second is not even tried");
    let invalidated = within(SECOND, weir.invalidate("app", &tables(&[1]))).await;
    assert_eq!(invalidated, Invalidated::Owed);
    assert!(!weir.is_trusted("app"));
    trusted(&weir).await;
    assert_eq!(hit(&weir, 1, "a").await, None);
    eventually("the other is served again", 10 * SECOND, || other.is_trusted("app")).await;
    assert_eq!(hit(&other, 1, "a").await, None);
}

#[tokio::test]
async fn who_starts_joins_those_who_have_vouched_all_the_while() {
    let redis = Redis::start();
    let one = redis.weir().await;
    fill(&one, 1, "a", "shared").await;
    eventually("it vouches", 10 * SECOND, || redis.say("KEYS *:v:app").starts_with("*1")).await;
    let two = redis.weir().await;
    assert_eq!(two.counts.joined.load(Ordering::Relaxed), 2);
    assert_eq!(hit(&two, 1, "a").await.as_deref(), Some("shared"));
    // What its stream missed, that of the other has not, as long as the other keeps up: on a busy machine it may not, and
    // then all is void, as it should be.
    for attempt in 1.. {
        one.begun("app");
        assert_eq!(hit(&one, 1, "a").await, None);
        trusted(&one).await;
        if hit(&one, 1, "a").await.is_some_and(|found| found == "shared") {
            break;
        }
        assert!(attempt < 10, "it never joins");
        fill(&one, 1, "a", "shared").await;
    }

    // Nobody has vouched for the time between.
    one.stop();
    two.stop();
    eventually("nobody vouches", 10 * SECOND, || redis.say("KEYS *:v:*").starts_with("*0")).await;
    let three = redis.weir().await;
    assert_eq!(three.counts.voided.load(Ordering::Relaxed), 2);
    assert_eq!(hit(&three, 1, "a").await, None);
}

#[tokio::test]
async fn who_does_not_know_what_is_written_looks_nothing_up_and_does_not_vouch() {
    let redis = Redis::start();
    let covers = Arc::new(AtomicBool::new(false));
    let blind = redis.weir_that_covers(&covers);
    eventually("it is connected", 10 * SECOND, || blind.is_connected()).await;
    tokio::time::sleep(SECOND).await;
    assert!(matches!(find(&blind, 1, "a").await, Lookup::Silent));
    assert!(redis.say("KEYS *:v:*").starts_with("*0"));
    covers.store(true, Ordering::SeqCst);
    trusted(&blind).await;
    fill(&blind, 1, "a", "read").await;
    // Its change stream begins anew: what was written between is not known, and nobody else knows.
    covers.store(false, Ordering::SeqCst);
    blind.begun("app");
    assert!(matches!(find(&blind, 1, "a").await, Lookup::Silent));
    eventually("its lease ends", 10 * SECOND, || redis.say("KEYS *:v:*").starts_with("*0")).await;
    covers.store(true, Ordering::SeqCst);
    trusted(&blind).await;
    assert_eq!(hit(&blind, 1, "a").await, None);
    fill(&blind, 1, "a", "read again").await;
    blind.hold("app", Instant::now() + SECOND / 2);
    assert!(matches!(find(&blind, 1, "a").await, Lookup::Silent));
    eventually("it is asked again", 10 * SECOND, || blind.is_trusted("app")).await;
    assert_eq!(hit(&blind, 1, "a").await.as_deref(), Some("read again"));
}

#[tokio::test]
async fn a_result_is_kept_no_longer_than_it_has_left() {
    let redis = Redis::start();
    let (one, two) = (redis.weir().await, redis.weir().await);
    fill(&one, 1, "a", "old").await;
    let Lookup::Hit(found) = find(&two, 1, "a").await else { panic!("it is there") };
    assert!(found.left <= TTL && found.left + 30 * SECOND > TTL, "{:?}", found.left);
}

/// A table: each write is a version, visible before it is acknowledged, as in a database.
#[derive(Default)]
struct Table {
    visible: AtomicU64,
    /// Acknowledged where the store had taken the invalidation: nobody may see less.
    acknowledged: AtomicU64,
    /// By Weir, whatever became of the invalidation: its own clients may not see less.
    by_weir: [AtomicU64; 3],
}

/// Writers and readers through three Weirs, while the store is emptied, paused and loses its connections.
#[tokio::test]
async fn nobody_sees_an_old_result_whatever_befalls_the_store() {
    const TABLES: u32 = 3;
    let redis = Redis::start();
    let tables_of_all: Arc<Vec<Table>> = Arc::new((0..TABLES).map(|_| Table::default()).collect());
    let mut settings = redis.settings();
    (settings.lookup_timeout, settings.invalidate_timeout) =
        (Duration::from_millis(20), Duration::from_millis(20));
    let (stop, hits) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (mut tasks, mut weirs) = (Vec::new(), Vec::new());
    for number in 0..3_usize {
        let weir = SharedCache::start(&settings, SECOND / 2).unwrap().unwrap();
        weir.follow("app", |_| true);
        weirs.push(Arc::clone(&weir));
        for client in 0..4_u32 {
            let (weir, all) = (Arc::clone(&weir), Arc::clone(&tables_of_all));
            let (stop, hits) = (Arc::clone(&stop), Arc::clone(&hits));
            tasks.push(tokio::spawn(async move {
                let mut turn = client;
                while !stop.load(Ordering::Relaxed) {
                    turn = turn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let place = (turn >> 8) % TABLES;
                    let table = &all[place as usize];
                    if turn >> 28 == 0 {
                        let version = table.visible.fetch_add(1, Ordering::SeqCst) + 1;
                        tokio::task::yield_now().await;
                        if weir.invalidate("app", &tables(&[place])).await == Invalidated::Done {
                            table.acknowledged.fetch_max(version, Ordering::SeqCst);
                        }
                        table.by_weir[number].fetch_max(version, Ordering::SeqCst);
                        continue;
                    }
                    let least = table.acknowledged.load(Ordering::SeqCst);
                    let least = least.max(table.by_weir[number].load(Ordering::SeqCst));
                    match find(&weir, place, "a").await {
                        Lookup::Hit(found) => {
                            let seen = u64::from_be_bytes(found.bytes[..].try_into().unwrap());
                            assert!(
                                seen >= least,
                                "Weir {number} gave version {seen} of table {place}, not {least}"
                            );
                            hits.fetch_add(1, Ordering::Relaxed);
                        }
                        Lookup::Miss(stamp) => {
                            let version = table.visible.load(Ordering::SeqCst);
                            tokio::task::yield_now().await;
                            weir.put(&stamp, "app", b"a", &version.to_be_bytes(), TTL);
                        }
                        Lookup::Silent => tokio::task::yield_now().await,
                    }
                }
            }));
        }
    }
    let until = Instant::now() + 12 * SECOND;
    let mut turn = 0;
    while Instant::now() < until {
        turn += 1;
        tokio::time::sleep(Duration::from_millis(300)).await;
        match turn % 5 {
            0 => redis.say("FLUSHALL"),
            1 => redis.say("CLIENT PAUSE 60 ALL"),
            2 => redis.say("CLIENT KILL TYPE normal SKIPME yes"),
            3 => redis.say("CLIENT PAUSE 60 WRITE"),
            _ => redis.say("PING"),
        };
    }
    stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.expect("nobody has seen an old result");
    }
    let owed: u64 = weirs.iter().map(|weir| weir.counts.owed.load(Ordering::Relaxed)).sum();
    let (hits, writes) = (hits.load(Ordering::Relaxed), tables_of_all[0].visible.load(Ordering::Relaxed));
    assert!(
        hits > 1000 && writes > 100 && owed > 0,
        "{hits} hits, {writes} writes, {owed} owed: too little was tried"
    );
    for weir in weirs {
        weir.stop();
    }
}
