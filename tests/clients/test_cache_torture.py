"""Looks for one wrong answer from memory: many clients, writes by all means that pass through Weir, a cache so small that it evicts
all the time, in front of a primary alone and with two replicas.

Each row has a version. Whoever writes notes the version once it is acknowledged; whoever reads must find no older one, and on a
primary alone no older one than it has ever seen. WEIR_TORTURE_SECONDS says how long.
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
from own_servers import WEIR, Process, needs_weir, wait_until
from watched_weir import WatchedWeir
from wire import COPY_DONE, SYNC, Connection, bind, copy_data, errors, execute, extended, parse, query, rows

pytestmark = [
    needs_weir,
    pytest.mark.skipif(targets.NOISY, reason="its servers have no neighbors; once is enough"),
    pytest.mark.xdist_group("cache_torture"),
]

SECONDS = float(os.environ.get("WEIR_TORTURE_SECONDS", "8"))

WRITERS, READERS, ROWS = 3, 5, 9

HIT = 'cache_total{kind="hit",reason="hit"}'

CACHE = '[cache]\nenabled = true\nfreshness = "proxy"\nbytes = "64kB"\nmax_entry = "2kB"\n[pool]\nmax = 12\n'

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


@pytest.fixture(scope="module", params=["alone", "with replicas"])
def weir(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("weir")
    count = {"alone": "0", "with replicas": "2"}[request.param]
    log = tmp_path_factory.mktemp("cluster") / "log"
    command = [WEIR, "demo", "--only-cluster", "--replicas", count]
    process = Process(command, log, lambda process: process.said().endswith("/env\n"), cwd="/")
    try:
        variables = dict(
            re.findall(r"^export (\w+)='(.*)'$", Path(process.said().split()[-1]).read_text(), re.MULTILINE)
        )
        replicas = [url for name, url in sorted(variables.items()) if re.fullmatch(r"REPLICA\d_URL", name)]
        configuration = CACHE
        if replicas:
            listed = ", ".join(f'"{url}"' for url in replicas)
            configuration = f'replicas = [{listed}]\n[splitting]\nenabled = "auto"\n{CACHE}'
        with WatchedWeir(directory, configuration, variables["PRIMARY_URL"]) as weir:
            weir.wait_until_ready()
            weir.address = targets.at_port(variables["APP_URL"], weir.port)
            weir.has_replicas = bool(replicas)
            with Connection.login(weir.address) as maker:
                assert not errors(maker.query(SCHEMA))
            yield weir
    finally:
        process.stop(signal.SIGINT)


class Torture:
    def __init__(self, weir):
        self.weir = weir
        self.acknowledged = [0] * ROWS
        self.wrong, self.broken = [], []
        self.ways, self.reads = Counter(), Counter()
        self.stop = threading.Event()

    # ---- writers -------------------------------------------------------------------------------------------------------------

    def write(self, number: int) -> None:
        """Owns the rows whose number leaves this rest."""
        chance = Random(number)
        with Connection.login(self.weir.address) as client:
            client.ask(parse("update tort set v = $2 where id = $1", "w", types=(23, 23)), SYNC)
            versions = dict.fromkeys(range(number, ROWS, WRITERS), 0)
            while not self.stop.is_set():
                row = chance.choice(list(versions))
                versions[row] += 1
                way = chance.choice(self.RARE if chance.random() < 0.004 else self.WAYS)
                answer = way(self, client, row, versions[row], chance)
                if failed := errors(answer):
                    self.broken.append((way.__name__, failed))
                    return
                self.acknowledged[row] = versions[row]
                self.ways[way.__name__] += 1
                time.sleep(chance.random() * 0.06)

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
        with Connection.login(self.weir.address) as writer, Connection.login(self.weir.address) as reader:
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
        chance = Random(1000 + number)
        seen = [0] * ROWS
        with Connection.login(self.weir.address) as client:
            while not self.stop.is_set():
                in_block = chance.random() < 0.3
                if in_block:
                    client.query("begin")
                for _ in range(chance.randint(1, 6)):
                    row, shape = chance.randrange(ROWS), chance.choice(self.SHAPES).format(row=chance.randrange(ROWS))
                    row = int(re.search(r"id = (\d+)", shape)[1])
                    acknowledged = self.acknowledged[row]
                    how = chance.randrange(3)
                    if how == 0:
                        answer = client.query(shape)
                    elif how == 1:
                        answer = client.ask(extended(shape), SYNC)
                    else:
                        prepared = shape.replace(f"id = {row}", "id = $1")
                        answer = client.ask(parse(prepared, types=(23,)), bind(values=(str(row),)), execute(), SYNC)
                    self.check(answer, row, acknowledged, seen, shape)
                if in_block:
                    client.query(chance.choice(["commit", "rollback"]))

    def check(self, answer, row, acknowledged, seen, shape) -> None:
        found = rows(answer)
        if errors(answer) or len(found) != 1:
            self.broken.append((shape, errors(answer), found))
            self.stop.set()
            return
        version = int(found[0][0])
        self.reads[shape.partition(" where")[0]] += 1
        if version < acknowledged:
            self.wrong.append(("not the acknowledged", shape, version, acknowledged))
        if version < seen[row] and not self.weir.has_replicas:
            self.wrong.append(("gone back", shape, version, seen[row]))
        if version > 900000:
            self.wrong.append(("rolled back", shape, version))
        seen[row] = max(seen[row], version)


def guarded(torture: Torture, work, *arguments) -> None:
    try:
        work(*arguments)
    except Exception as failure:
        torture.broken.append(repr(failure))
    finally:
        if torture.broken or torture.wrong:
            torture.stop.set()


def test_nothing_old_comes_from_memory(weir):
    torture = Torture(weir)
    with Connection.login(weir.address) as client:
        wait_until(lambda: client.query("select v from tort") and weir.metric(HIT) > 0, "the catalog is loaded")
    before = weir.metrics()
    work = [(torture.write, number) for number in range(WRITERS)] + [(torture.read, number) for number in range(READERS)]
    work.append((torture.cascade, 3))
    threads = [threading.Thread(target=guarded, args=(torture, *one)) for one in work]
    for thread in threads:
        thread.start()
    torture.stop.wait(SECONDS)
    torture.stop.set()
    for thread in threads:
        thread.join()
    after = weir.metrics()
    moved = {name: after[name] - before.get(name, 0) for name in after if "cache" in name and after[name] > before.get(name, 0)}
    hits, reads = moved.get(HIT, 0), sum(torture.reads.values())
    print(f"{reads} reads, {hits:.0f} hits, {sum(torture.ways.values())} writes: {dict(torture.ways)}; {moved}")
    assert not torture.broken, torture.broken[:5]
    assert not torture.wrong, torture.wrong[:5]
    assert hits > 50 * SECONDS and moved.get("cache_evicted_total", 0) + moved.get('cache_fills_total{outcome="kept"}', 0) > 10 * SECONDS
    assert len(set(torture.ways) - {"do", "ddl"}) == len(set(Torture.WAYS)), "a way to write was never taken: run longer"
