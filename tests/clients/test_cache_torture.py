"""Looks for one wrong answer from memory: many clients, writes by all means, a cache so small that it evicts all the time. In front
of a primary alone; with two replicas; and through two Weirs that share results, with writes past both, while their streams' backends,
the replicas and Redis are killed.

Each row has a version. Whoever writes notes the version once it is acknowledged; whoever reads through the same Weir must find no
older one, and on a primary alone no older one than it has ever seen. What was written elsewhere must show soon.

WEIR_TORTURE_SECONDS says how long; with WEIR_TORTURE_HITS the last form goes on until there were so many hits.
"""

import os
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

import targets
from own_cluster import Cluster
from own_redis import Redis
from own_servers import WEIR, Process, needs_weir, wait_until
from watched_weir import WatchedWeir
from wire import COPY_DONE, SYNC, Connection, bind, copy_data, errors, execute, extended, parse, query, rows

pytestmark = [
    needs_weir,
    pytest.mark.skipif(targets.NOISY, reason="its servers have no neighbors; once is enough"),
    pytest.mark.xdist_group("cache_torture"),
    pytest.mark.timeout(0 if "WEIR_TORTURE_HITS" in os.environ else 120 + float(os.environ.get("WEIR_TORTURE_SECONDS", "8"))),
]

SECONDS = float(os.environ.get("WEIR_TORTURE_SECONDS", "8"))

HITS = int(os.environ.get("WEIR_TORTURE_HITS", "0"))

WRITERS, READERS, ROWS = 3, 5, 9

# What was written elsewhere shows within this time: a change stream that is behind falls silent after `max_delay`. The rest is for a
# machine that is busy.
SHOWS_WITHIN = 5.0

HIT = 'cache_total{kind="hit",reason="hit"}'

CACHE = '[cache]\nenabled = true\nfreshness = "proxy"\nbytes = "64kB"\nmax_entry = "2kB"\n[pool]\nmax = 12\n'

# For those that share; what they share is put out of the way more often than what they keep.
SHARED = """
[cache]
enabled = true
bytes = "128kB"
max_entry = "2kB"
[shared_cache]
url = "{url}"
[stream]
max_delay = "500ms"
[pool]
max = 12
"""

SCHEMA = """
    create table tort (id int primary key, v int not null, pad text default 'x');
    insert into tort select id, 0 from generate_series(0, 8) id;
    create view tort_view as select id, v from tort;
    create table tort_orders (id int, v int);
    create function tort_apply() returns trigger language plpgsql as
        'begin update tort set v = new.v where id = new.id; return null; end';
    create trigger t after insert on tort_orders for each row execute function tort_apply();
    create function tort_write(int, int) returns int volatile language sql as 'update tort set v = $2 where id = $1 returning v';
    create table tort_aside (id int);
    create table tort_part (id int, v int) partition by list (id);
    create table tort_keys (id int primary key, v int unique);
    create table tort_refs (id int, v int references tort_keys (v) on update cascade);
    insert into tort_keys select id, id * 1000000 from generate_series(0, 8) id;
    insert into tort_refs select id, v from tort_keys
    """


class Site:
    """One Weir or several, in front of one primary."""

    def __init__(self, weirs, app: str, has_replicas: bool):
        self.weirs, self.direct, self.has_replicas = weirs, app, has_replicas
        for weir in weirs:
            weir.wait_until_ready()
            weir.address = targets.at_port(app, weir.port)
        with Connection.login(weirs[0].address) as maker:
            assert not errors(maker.query(SCHEMA))

    def metrics(self) -> Counter:
        return sum((Counter(weir.metrics()) for weir in self.weirs), Counter())

    def wait_until_warm(self) -> None:
        for weir in self.weirs:
            with Connection.login(weir.address) as client:
                wait_until(lambda: client.query("select v from tort") and weir.metric(HIT) > 0, "memory serves")  # noqa: B023


@pytest.fixture(params=["alone", "with replicas"])
def site(request, tmp_path):
    count = {"alone": "0", "with replicas": "2"}[request.param]
    command = [WEIR, "demo", "--only-cluster", "--replicas", count]
    process = Process(command, tmp_path / "log", lambda process: process.said().endswith("/env\n"), cwd="/")
    try:
        variables = dict(
            re.findall(r"^export (\w+)='(.*)'$", Path(process.said().split()[-1]).read_text(), re.MULTILINE)
        )
        replicas = [url for name, url in sorted(variables.items()) if re.fullmatch(r"REPLICA\d_URL", name)]
        configuration = CACHE
        if replicas:
            listed = ", ".join(f'"{url}"' for url in replicas)
            configuration = f'replicas = [{listed}]\n[splitting]\nenabled = "auto"\n{CACHE}'
        with WatchedWeir(tmp_path / "weir", configuration, variables["PRIMARY_URL"]) as weir:
            yield Site([weir], variables["APP_URL"], bool(replicas))
    finally:
        process.stop(signal.SIGINT)


class Torture:
    def __init__(self, site):
        self.site = site
        # By the Weir that it went through, and with the time, by whatever way.
        self.acknowledged = [[0] * ROWS for _ in site.weirs]
        self.history = [[(0.0, 0)] for _ in range(ROWS)]
        self.wrong, self.broken = [], []
        self.ways, self.reads = Counter(), Counter()
        self.stop = threading.Event()

    def acknowledge(self, row: int, version: int, weir: int | None) -> None:
        if weir is not None:
            self.acknowledged[weir][row] = version
        self.history[row] = [*self.history[row][-500:], (time.monotonic(), version)]

    def shown_by_now(self, row: int) -> int:
        """What everybody must see, whichever way it was written."""
        until = time.monotonic() - SHOWS_WITHIN
        return max((version for at, version in self.history[row] if at < until), default=0)

    # ---- writers -------------------------------------------------------------------------------------------------------------

    def write(self, number: int) -> None:
        """Owns the rows whose number leaves this rest."""
        chance, weir = Random(number), number % len(self.site.weirs)
        past = self.site.direct if len(self.site.weirs) > 1 else self.site.weirs[weir].address
        with Connection.login(self.site.weirs[weir].address) as through, Connection.login(past) as bypass:
            for client in (through, bypass):
                client.ask(parse("update tort set v = $2 where id = $1", "w", types=(23, 23)), SYNC)
            versions = dict.fromkeys(range(number, ROWS, WRITERS), 0)
            while not self.stop.is_set():
                row = chance.choice(list(versions))
                versions[row] += 1
                way = chance.choice(self.RARE if chance.random() < 0.004 else self.WAYS)
                passes = chance.random() < 0.7 or past == self.site.weirs[weir].address
                answer = way(self, through if passes else bypass, row, versions[row], chance)
                if failed := errors(answer):
                    self.broken.append((way.__name__, failed))
                    return
                self.acknowledge(row, versions[row], weir if passes else None)
                self.ways[way.__name__] += 1
                self.ways["past all"] += not passes
                # Close behind each other, and then none for as long as it takes that memory serves again.
                time.sleep(chance.random() * (1 if chance.random() < 0.25 else 0.02))

    def update(self, client, row, v, chance):
        return client.query(f"update tort set v = {v} where id = {row}")

    def block(self, client, row, v, chance):
        answer = client.query("begin")
        if chance.random() < 0.5:
            answer += client.query(f"select v from tort where id = {row}")
        answer += client.query(f"update tort set v = {v} where id = {row}")
        return answer + client.query("commit")

    def rollback_first(self, client, row, v, chance):
        answer = client.query("begin") + client.query(f"update tort set v = {v + 1000000} where id = {row}")
        answer += client.query("rollback")
        return answer + client.query(f"update tort set v = {v} where id = {row}")

    def extended(self, client, row, v, chance):
        return client.ask(extended(f"update tort set v = {v} where id = $1", str(row), types=(23,)), SYNC)

    def prepared(self, client, row, v, chance):
        return client.ask(bind("w", (str(row), str(v))), execute(), SYNC)

    def trigger(self, client, row, v, chance):
        return client.query(f"insert into tort_orders values ({row}, {v})")

    def function(self, client, row, v, chance):
        return client.query(f"select tort_write({row}, {v})")

    def do(self, client, row, v, chance):
        return client.query(f"do $$ begin perform tort_write({row}, {v}); end $$")

    def copy(self, client, row, v, chance):
        answer = client.query("begin") + client.query(f"delete from tort where id = {row}")
        client.send(query("copy tort (id, v) from stdin"))
        client.read_until("G")
        client.send(copy_data(f"{row}\t{v}\n".encode()), COPY_DONE)
        return answer + client.read_until_ready() + client.query("commit")

    def view(self, client, row, v, chance):
        return client.query(f"with w as (update tort_view set v = {v} where id = {row} returning v) select v from w")

    def pipelined(self, client, row, v, chance):
        client.send(query("begin"), query(f"update tort set v = {v} where id = {row}"), query("commit"))
        return client.read_until_ready(3)

    def several(self, client, row, v, chance):
        return client.query(f"begin; update tort set v = {v} where id = {row}; commit; select 1")

    def ddl(self, client, row, v, chance):
        answer = client.query(f"begin; alter table tort alter pad set default '{v}'")
        return answer + client.query(f"update tort set v = {v} where id = {row}; commit")

    def savepoint(self, client, row, v, chance):
        answer = client.query("begin; savepoint s") + client.query(f"update tort set v = {v + 5000000} where id = {row}")
        answer += client.query("rollback to s") + client.query(f"update tort set v = {v} where id = {row}")
        return answer + client.query("commit")

    def two_statements_of_one_batch(self, client, row, v, chance):
        other = extended(f"update tort set v = {v} where id = {row}")
        return client.ask(extended("insert into tort_aside values (1)"), other, SYNC)

    WAYS = [update] * 6 + [block] * 4 + [extended, prepared] * 3 + [rollback_first, trigger, function, copy, view]
    WAYS += [pipelined, several, savepoint, two_statements_of_one_batch]
    # After these the catalog is loaded again, and nothing is kept until then.
    RARE = (do, ddl)

    def cascade(self, number: int) -> None:
        """Versions of rows that only a foreign key writes."""
        chance, version = Random(100 + number), 0
        address = self.site.weirs[0].address
        with Connection.login(address) as writer, Connection.login(address) as reader:
            while not self.stop.is_set():
                version += 1
                failed = errors(writer.query(f"update tort_keys set v = v + 1 where id = {number}"))
                seen = int(reader.value(f"select v from tort_refs where id = {number}")) % 1000000
                if failed or seen != version:
                    self.wrong.append(("cascade", version, seen, failed))
                    return
                self.reads["cascade"] += 1
                for _ in range(chance.randint(0, 4)):
                    reader.value(f"select v from tort_refs where id = {number}")

    # ---- readers -------------------------------------------------------------------------------------------------------------

    SHAPES = (
        "select v from tort where id = {row}",
        "select v from tort_view where id = {row}",
        "select max(v) from tort where id = {row}",
        "/* weir: cache */ select v from tort where id = {row} and v >= 0",
    )

    def read(self, number: int) -> None:
        chance, weir = Random(1000 + number), number % len(self.site.weirs)
        seen = [0] * ROWS
        with Connection.login(self.site.weirs[weir].address) as client:
            while not self.stop.is_set():
                in_block = chance.random() < 0.3
                if in_block:
                    client.query("begin")
                # Some of them pipelined: nothing is sent in front of them that could make their answers older.
                burst = [self.read_of(chance) for _ in range(chance.randint(1, 8))]
                pipelined = chance.random() < 0.5
                least = [max(self.acknowledged[weir][row], self.shown_by_now(row)) for row, _, _ in burst]
                if pipelined:
                    client.send(*(sent for _, _, sent in burst))
                for (row, shape, sent), acknowledged in zip(burst, least, strict=True):
                    if not pipelined:
                        acknowledged = max(acknowledged, self.acknowledged[weir][row])
                        client.send(sent)
                    self.check(client.read_until_ready(), row, acknowledged, seen, shape)
                if in_block:
                    client.query(chance.choice(["commit", "rollback"]))

    def read_of(self, chance):
        """A row, the shape of what asks for it, and what is sent."""
        row, shape = chance.randrange(ROWS), chance.choice(self.SHAPES)
        text = shape.format(row=row)
        match chance.randrange(3):
            case 0:
                return row, shape, query(text)
            case 1:
                return row, shape, extended(text) + SYNC
            case _:
                prepared = shape.format(row="$1")
                return row, shape, parse(prepared, types=(23,)) + bind(values=(str(row),)) + execute() + SYNC

    def check(self, answer, row, acknowledged, seen, shape) -> None:
        found = rows(answer)
        if errors(answer) or len(found) != 1:
            self.broken.append((shape, errors(answer), found))
            self.stop.set()
            return
        version = int(found[0][0])
        self.reads[shape.partition(" where")[0]] += 1
        if version < acknowledged:
            self.wrong.append(("older than it may be", shape, row, version, acknowledged))
        if version < seen[row] and not self.site.has_replicas and len(self.site.weirs) == 1:
            self.wrong.append(("gone back", shape, row, version, seen[row]))
        if version > 900000:
            self.wrong.append(("rolled back", shape, row, version))
        seen[row] = max(seen[row], version)

    # ---- what befalls them -------------------------------------------------------------------------------------------------------

    def befall(self, cluster, redis) -> None:
        """Kills what it can, one after the other, and lets it come back."""
        chance = Random(7)

        def streams():
            with Connection.login(cluster.primary) as admin:
                slots = "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_type = 'logical' and active_pid is not null"
                admin.query(slots + " order by random() limit 1")

        def a_replica():
            replica = chance.choice(cluster.replicas)
            replica.kill()
            self.stop.wait(chance.random())
            replica.restart()

        def death_of_redis():
            redis.kill()
            self.stop.wait(chance.random())
            redis.start()

        def a_slow_redis():
            redis.pause()
            self.stop.wait(chance.random() / 2)
            redis.resume()

        troubles = [streams, streams, a_replica, death_of_redis, a_slow_redis, redis.empty, redis.empty]
        while not self.stop.is_set():
            trouble = chance.choice(troubles)
            trouble()
            self.ways[trouble.__name__] += 1
            # Long enough for those who share to trust what they share again, most of the time.
            self.stop.wait(1 + 6 * chance.random())


def guarded(torture: Torture, work, *arguments) -> None:
    try:
        work(*arguments)
    except Exception as failure:
        torture.broken.append(repr(failure))
    finally:
        if torture.broken or torture.wrong:
            torture.stop.set()


def run(torture: Torture, *others, is_enough=lambda: True) -> tuple[int, dict]:
    """Hits, and what the counters of the cache have moved by."""
    site = torture.site
    site.wait_until_warm()
    before = site.metrics()
    work = [(torture.write, number) for number in range(WRITERS)] + [(torture.read, number) for number in range(READERS)]
    work += [(torture.cascade, 3), *others]
    threads = [threading.Thread(target=guarded, args=(torture, *one)) for one in work]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    while not torture.stop.wait(1) and (time.monotonic() - began < SECONDS or not is_enough()):
        pass
    torture.stop.set()
    for thread in threads:
        thread.join()
    after = site.metrics()
    moved = {name: after[name] - before[name] for name in after if "cache" in name and after[name] > before[name]}
    hits, reads = int(moved.get(HIT, 0)), sum(torture.reads.values())
    print(f"{reads} reads, {hits} hits, {sum(torture.ways.values())} writes and more in {time.monotonic() - began:.0f} s: {dict(torture.ways)}; {moved}")
    # A machine that is too busy for its servers breaks off; what was wrong until then is wrong all the same.
    assert not torture.wrong, torture.wrong[:5]
    assert not torture.broken, torture.broken[:5]
    return hits, moved


def test_nothing_old_comes_from_memory(site):
    torture = Torture(site)
    hits, moved = run(torture)
    assert hits > 20 * SECONDS and moved.get("cache_evicted_total", 0) + moved.get('cache_fills_total{outcome="kept"}', 0) > 10 * SECONDS
    missing = set(way.__name__ for way in Torture.WAYS) - set(torture.ways)
    assert not missing, f"a way to write was never taken: run longer: {missing}"


def test_nothing_old_is_shared(tmp_path):
    with Cluster(tmp_path) as cluster, Redis(tmp_path) as redis:
        configuration = cluster.configuration() + SHARED.format(url=redis.url)
        with (
            WatchedWeir(tmp_path / "one", configuration, cluster.primary) as one,
            WatchedWeir(tmp_path / "two", configuration, cluster.primary) as two,
        ):
            torture = Torture(Site([one, two], cluster.app, True))
            for weir in (one, two):
                with Connection.login(weir.address) as client:
                    client.query("select 1")
                    weir.wait_for_metric("shared_cache_trusted_databases", lambda count: count == 1)
            began = torture.site.metrics()[HIT]
            enough = lambda: torture.site.metrics()[HIT] - began >= HITS  # noqa: E731
            hits, moved = run(torture, (torture.befall, cluster, redis), is_enough=enough)
            assert hits > 20 * SECONDS and hits >= HITS
            assert moved.get('shared_cache_total{outcome="hit"}', 0) > SECONDS
            assert torture.ways["past all"] > SECONDS
