"""What is written past Weir, it learns from the primary's change stream: no replica that lacks it serves what was written, and
whoever relies on the stream knows when it is down. With each output plugin, in a database of its own."""

import os
import signal
import statistics
import time
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

import targets
from own_servers import needs_weir, starting_cluster, wait_until
from watched_weir import WatchedWeir
from wire import Connection, errors, rows

pytestmark = [
    needs_weir,
    pytest.mark.skipif(targets.NOISY, reason="its servers have no neighbors; once is enough"),
    pytest.mark.xdist_group("stream"),
]

ON_REPLICA = 'route_total{reason="read",target="replica"}'

TABLES = """
create table plain (id int primary key, v text);
create table other (id int primary key, v text);
create table parent (id int primary key);
create table child (id int primary key, parent int references parent on delete cascade);
create table parts (id int, v text, primary key (id)) partition by range (id);
create table parts_low partition of parts for values from (0) to (100);
create table parts_high partition of parts for values from (100) to (1000000000) partition by range (id);
create table parts_high_1 partition of parts_high for values from (100) to (1000000000);
create table base (id int primary key, v text);
create table derived (w int, primary key (id)) inherits (base);
create table "Odd: ""name, x" (id int primary key);
create view plain_view as select * from plain;
create materialized view counted as select count(*) as n from plain;
insert into plain select n, 'old' from generate_series(1, 10) n;
insert into other values (1, 'old');
insert into parent values (1), (2), (3); insert into child values (1, 1), (2, 2), (3, 3);
insert into parts select n, 'old' from generate_series(1, 200) n;
"""


def in_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with starting_cluster(tmp_path_factory.mktemp("cluster")) as variables:
        # An ANALYZE by the server itself shows in the stream as what may be DDL, of which each floor would be an exception here.
        with psycopg.connect(variables["POSTGRES_URL"], autocommit=True) as primary:
            primary.execute("alter system set autovacuum = off")
            primary.execute("select pg_reload_conf()")
        yield variables


class StreamingWeir(WatchedWeir):
    """In front of a database that only one test module uses."""

    def __init__(self, directory, cluster, database: str, stream: str):
        replicas = f'replicas = ["{cluster["REPLICA1_URL"]}", "{cluster["REPLICA2_URL"]}"]\n'
        # Nothing but the stream tells of what others did.
        splitting = '[splitting]\nenabled = "auto"\ncatalog_interval = "1h"\n[pool]\nmax = 10\n'
        super().__init__(directory, replicas + splitting + f"[stream]\n{stream}\n", cluster["PRIMARY_URL"])
        self.database = database
        self.direct = in_database(cluster["APP_URL"], database)
        self.address = targets.at_port(self.direct, self.port)
        self.admin = in_database(cluster["POSTGRES_URL"], database)
        self.replicas = [in_database(cluster[f"REPLICA{n}_URL"], database) for n in (1, 2)]
        self.console = Connection.login(in_database(targets.at_port(cluster["POSTGRES_URL"], self.port), "weir"))

    def stream(self) -> dict[str, str | None]:
        """The row of SHOW STREAM."""
        answer = self.console.query("show stream")
        names = [name.decode() for name in columns(answer)]
        for row in rows(answer):
            shown = {name: value and value.decode() for name, value in zip(names, row, strict=True)}
            if shown["database"] == self.database:
                return shown
        raise AssertionError(f"no stream of {self.database}")

    def is_up(self) -> bool:
        shown = self.stream()
        return shown["state"] == "up" and shown["vouches"] == "yes"

    def wait_until_up(self) -> None:
        wait_until(self.is_up, f"the stream is up: {self.stream()}")

    def wait_until_shown(self) -> None:
        """All that is committed until now."""
        with psycopg.connect(self.admin, autocommit=True) as primary:
            lsn = primary.execute("select pg_current_wal_insert_lsn()").fetchone()[0]
            # What stands behind an unflushed end is flushed in time, but not in a hurry.
            primary.execute("select txid_current()")
        wait_until(lambda: position(self.stream()["position"]) >= position(lsn), f"the stream is at {lsn}")

    def slots(self) -> list[tuple]:
        with psycopg.connect(self.admin, autocommit=True) as primary:
            return primary.execute(
                "select slot_name, active_pid, restart_lsn, confirmed_flush_lsn, temporary from pg_replication_slots"
                " where slot_type = 'logical' and database = current_database()"
            ).fetchall()


def columns(answer) -> list[bytes]:
    description = next(message.body for message in answer if message.tag == "T")
    names, rest = [], description[2:]
    while rest:
        name, rest = rest.split(b"\0", 1)
        names.append(name)
        rest = rest[18:]
    return names


def position(lsn: str | None) -> int:
    high, low = (lsn or "0/0").split("/")
    return int(high, 16) << 32 | int(low, 16)


@pytest.fixture(scope="module", params=["test_decoding", "pgoutput"])
def weir(cluster, tmp_path_factory, request):
    database = f"of_{request.param}"
    with psycopg.connect(cluster["POSTGRES_URL"], autocommit=True) as primary:
        primary.execute(f"create database {database} owner app")
    with psycopg.connect(in_database(cluster["APP_URL"], database), autocommit=True) as owner:
        owner.execute(TABLES)
    with StreamingWeir(tmp_path_factory.mktemp("weir"), cluster, database, f'plugin = "{request.param}"') as weir:
        weir.wait_until_ready()
        weir.plugin = request.param
        with Connection.login(weir.address) as client:
            weir.client = client
            weir.wait_until_up()
            assert weir.stream()["plugin"] == request.param
            until_served_by_replica(weir, "select count(*) from other")
            yield weir
        weir.stop()
        assert weir.slots() == [], "the slot outlives Weir"


@pytest.fixture
def bypass(weir):
    """A connection to the primary, past Weir."""
    with psycopg.connect(weir.direct, autocommit=True) as connection:
        yield connection


def served_by_replica(weir, sql: str) -> bool:
    before = weir.metrics().get(ON_REPLICA, 0)
    assert not errors(weir.client.query(sql))
    return weir.metrics().get(ON_REPLICA, 0) > before


def until_served_by_replica(weir, sql: str) -> None:
    wait_until(lambda: served_by_replica(weir, sql), f"a replica serves {sql}: {weir.stream()}")


@contextmanager
def replicas_stand_still(weir):
    replicas = [psycopg.connect(url, autocommit=True) for url in weir.replicas]
    try:
        for replica in replicas:
            replica.execute("select pg_wal_replay_pause()")
            wait_until(
                lambda replica=replica: replica.execute("select pg_get_wal_replay_pause_state()").fetchone()[0] == "paused",
                "the replica stands still",
            )
        yield
    finally:
        for replica in replicas:
            replica.execute("select pg_wal_replay_resume()")
            replica.close()


def copied(bypass) -> None:
    with bypass.cursor().copy("copy plain from stdin") as copy:
        copy.write("".join(f"{n}\tcopied\n" for n in range(1000, 3000)))


def in_two_phases(bypass) -> None:
    bypass.execute("begin; insert into plain values (5001, 'prepared'); prepare transaction 'of_stream'")
    bypass.execute("commit prepared 'of_stream'")


def partly_rolled_back(bypass) -> None:
    bypass.execute(
        "begin; savepoint a; insert into other values (99, 'never'); rollback to a;"
        "savepoint b; update plain set v = 'kept' where id = 2; release b; commit"
    )


# What is done past Weir, and what must be seen of it then.
WAYS = {
    "insert": ("insert into plain values (11, 'new')", "select v from plain where id = 11", "new"),
    "update": ("update plain set v = 'newer' where id = 1", "select v from plain where id = 1", "newer"),
    "by a view": ("update plain_view set v = 'by view' where id = 3", "select v from plain where id = 3", "by view"),
    "seen by a view": ("update plain set v = 'seen' where id = 4", "select v from plain_view where id = 4", "seen"),
    "delete": ("delete from plain where id = 10", "select count(*) from plain where id = 10", "0"),
    "code": (
        "do $$begin for n in 20..30 loop insert into plain values (n, 'code'); end loop; end$$",
        "select count(*) from plain where v = 'code'",
        "11",
    ),
    "copy": (copied, "select count(*) from plain where v = 'copied'", "2000"),
    "two phases": (in_two_phases, "select v from plain where id = 5001", "prepared"),
    "savepoints": (partly_rolled_back, "select v from plain where id = 2", "kept"),
    "a large transaction": (
        "insert into plain select n, 'many' from generate_series(100000, 160000) n",
        "select count(*) from plain where v = 'many'",
        "60001",
    ),
    "a long row": (
        "insert into plain values (40, repeat('x', 5000000))",
        "select length(v) from plain where id = 40",
        "5000000",
    ),
    "cascade": ("delete from parent where id = 1", "select count(*) from child where id = 1", "0"),
    "a partition by its root": ("update parts set v = 'a' where id = 1", "select v from parts where id = 1", "a"),
    "a partition": ("update parts_high_1 set v = 'b' where id = 150", "select v from parts where id = 150", "b"),
    "a root, seen in its partition": (
        "update parts set v = 'c' where id = 151",
        "select v from parts_high_1 where id = 151",
        "c",
    ),
    "a child by inheritance": ("insert into derived values (1, 'd', 2)", "select v from base where id = 1", "d"),
    "an odd name": (
        'insert into "Odd: ""name, x" values (7)',
        'select id from "Odd: ""name, x" where id = 7',
        "7",
    ),
}


# To pgoutput a truncated table may be another table, and so may all of them: it is found out that they are not.
TRUNCATES = {
    "truncate cascade": ("truncate parent cascade", "select count(*) from child", "0"),
    "truncate": ("truncate plain", "select count(*) from plain", "0"),
    "truncate of partitions": ("truncate parts", "select count(*) from parts_low", "0"),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_is_written_past_weir_is_read(weir, bypass, way):
    """While the replicas stand still none of them has it, and all else is still theirs."""
    write, read, seen = WAYS[way]
    for sql in (read, "select count(*) from other"):
        until_served_by_replica(weir, sql)
    with replicas_stand_still(weir):
        if callable(write):
            write(bypass)
        else:
            bypass.execute(write)
        weir.wait_until_shown()
        before = weir.metrics().get(ON_REPLICA, 0)
        assert weir.client.value(read) == seen
        assert weir.metrics().get(ON_REPLICA, 0) == before
        assert served_by_replica(weir, "select count(*) from other"), weir.console.query("show floors")
    until_served_by_replica(weir, read)


def test_what_is_rolled_back_is_nothing(weir, bypass):
    weir.wait_until_shown()
    before = int(weir.stream()["commits"])
    bypass.execute("begin; insert into plain values (71, 'never'); rollback")
    bypass.execute("begin; insert into plain values (72, 'never'); prepare transaction 'never'")
    bypass.execute("rollback prepared 'never'")
    bypass.execute("select * from plain for update")
    weir.wait_until_shown()
    shown = int(weir.stream()["commits"]) - before
    assert shown == 0 or weir.stream()["schema_changes"] != "0", "only autovacuum may have been shown"
    with replicas_stand_still(weir):
        assert served_by_replica(weir, "select count(*) from plain")


@pytest.mark.parametrize("way", TRUNCATES)
def test_what_is_truncated_past_weir_is_gone(weir, bypass, way):
    write, read, seen = TRUNCATES[way]
    until_served_by_replica(weir, read)
    with replicas_stand_still(weir):
        bypass.execute(write)
        weir.wait_until_shown()
        before = weir.metrics().get(ON_REPLICA, 0)
        assert weir.client.value(read) == seen
        assert weir.metrics().get(ON_REPLICA, 0) == before
    until_served_by_replica(weir, read)


def test_what_passes_weir_is_not_raised_again(weir):
    """But for those that the stream shows before the reply has come, which are few."""
    weir.wait_until_shown()
    before = weir.stream()
    for n in range(200):
        assert not errors(weir.client.query(f"insert into other values ({1000 + n}, 'own')"))
    weir.wait_until_shown()
    after = weir.stream()
    shown = int(after["commits"]) - int(before["commits"])
    raised = int(after["commits_of_others"]) - int(before["commits_of_others"])
    print(f"{shown} commits shown, {raised} raised a floor")
    assert shown >= 200 and raised <= shown // 4


def test_ddl_and_refreshes_are_seen_before_the_catalog_is_asked(weir, bypass):
    if weir.plugin == "pgoutput":
        pytest.skip("it does not show them")
    read = "select n >= 1000000 from counted"
    until_served_by_replica(weir, read)
    bypass.execute("insert into plain select n, 'refreshed' from generate_series(2000000, 2000009) n")
    weir.wait_until_shown()
    bypass.execute("create or replace view plain_view as select id + 1 as id, v from plain where id >= 2000000")
    began = time.monotonic()
    wait_until(lambda: weir.client.value("select min(id) from plain_view") == "2000001", "the view is the new one", 5)
    print(f"a view replaced past Weir is seen after {(time.monotonic() - began) * 1000:.0f} ms at most")
    with replicas_stand_still(weir):
        bypass.execute("refresh materialized view counted")
        expected = str(bypass.execute("select n from counted").fetchone()[0])
        wait_until(lambda: weir.client.value("select n from counted") == expected, "the refreshed view is seen", 5)


def test_a_lost_stream_is_told_and_comes_back(weir, bypass, cluster):
    weir.wait_until_up()
    lost, begun = (int(weir.stream()[name]) for name in ("lost", "begun"))
    with psycopg.connect(weir.admin, autocommit=True) as admin, psycopg.connect(weir.direct) as long:
        # A new slot waits for the transactions that are open.
        long.execute("insert into other values (777, 'open')")
        [(slot, process, *_)] = weir.slots()
        assert admin.execute("select pg_terminate_backend(%s)", [process]).fetchone()[0]
        wait_until(lambda: weir.stream()["state"] == "waiting", "a new slot is on its way")
        shown = weir.stream()
        assert shown["vouches"] == "no" and int(shown["lost"]) == lost + 1, shown
        label = f'{{database="{weir.database}"}}'
        assert weir.metric(f"stream_up{label}") == 0 and weir.metric(f"stream_vouches{label}") == 0
        assert "the change stream is lost" in weir.said()
        with replicas_stand_still(weir):
            bypass.execute("insert into plain values (81, 'meanwhile')")
            long.commit()
            weir.wait_until_up()
            # Nobody has shown it: it counts as everything.
            assert weir.client.value("select v from plain where id = 81") == "meanwhile"
            assert weir.client.value("select v from other where id = 777") == "open"
    assert int(weir.stream()["begun"]) == begun + 1
    assert [name for name, *_ in weir.slots()] != [slot]
    until_served_by_replica(weir, "select count(*) from plain")


def test_a_silent_stream_vouches_for_nothing_until_it_has_caught_up(weir, bypass):
    weir.wait_until_up()
    lost = weir.stream()["lost"]
    [(_, process, *_)] = weir.slots()
    os.kill(process, signal.SIGSTOP)
    try:
        wait_until(lambda: weir.stream()["vouches"] == "no", "silence is noticed", 5)
        bypass.execute("insert into plain values (82, 'in silence')")
    finally:
        os.kill(process, signal.SIGCONT)
    wait_until(weir.is_up, "it has caught up", 5)
    assert weir.client.value("select v from plain where id = 82") == "in silence"
    assert weir.stream()["lost"] == lost


def test_no_log_is_held_back(weir, bypass):
    [(_, _, _, _, temporary)] = weir.slots()
    assert temporary
    with psycopg.connect(weir.admin, autocommit=True) as admin:
        bypass.execute("insert into plain select n, 'held' from generate_series(3000000, 3020000) n")
        end = position(admin.execute("select pg_current_wal_lsn()").fetchone()[0])

        def has_passed() -> bool:
            # What may be forgotten is found when the running transactions are logged, as by a checkpoint.
            admin.execute("checkpoint")
            [(_, _, restart, flushed, _)] = weir.slots()
            return position(restart) >= end and position(flushed) >= end

        wait_until(has_passed, "the slot lets go of the log")


def test_delay(weir, bypass):
    """From the reply to a commit past Weir until its floors are raised: printed, and held to a bound that a broken one misses."""
    for synchronous_commit, bound in (("on", 0.1), ("off", 1.0)):
        bypass.execute(f"set synchronous_commit = {synchronous_commit}")
        delays = []
        for n in range(40):
            before = int(weir.stream()["commits"])
            bypass.execute("update other set v = %s where id = 1", [str(n)])
            replied = time.perf_counter()
            while int(weir.stream()["commits"]) == before:
                assert time.perf_counter() < replied + 5, "it is not shown"
            delays.append(time.perf_counter() - replied)
        delays.sort()
        median = statistics.median(delays)
        print(
            f"{weir.plugin}, synchronous_commit {synchronous_commit}: seen after {median * 1000:.2f} ms (median), "
            f"{delays[37] * 1000:.2f} ms (p95)"
        )
        assert median < bound


def test_database_can_be_dropped_while_it_is_streamed(weir, cluster):
    superuser = targets.at_port(cluster["POSTGRES_URL"], weir.port)
    with Connection.login(superuser) as maker:
        assert not errors(maker.query("create database doomed"))
        with Connection.login(in_database(superuser, "doomed")) as client:
            assert client.value("select 1") == "1"
            with psycopg.connect(in_database(cluster["POSTGRES_URL"], "doomed"), autocommit=True) as primary:
                slots = "select count(*) from pg_replication_slots where database = 'doomed' and active"
                wait_until(lambda: primary.execute(slots).fetchone()[0] == 1, "it is streamed")
        assert errors(maker.query("drop database doomed")) == []


def test_tables_without_a_key_stay_as_they_were(cluster, tmp_path):
    """PostgreSQL refuses to update them once they are published: with `auto` nothing is, and with `pgoutput` not these."""
    with psycopg.connect(cluster["POSTGRES_URL"], autocommit=True) as primary:
        primary.execute("create database without_keys owner app")
    database = in_database(cluster["APP_URL"], "without_keys")
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("create table keyless as select 1 as id")
        for plugin in ("auto", "pgoutput"):
            with StreamingWeir(tmp_path / plugin, cluster, "without_keys", f'plugin = "{plugin}"') as weir:
                weir.wait_until_ready()
                with Connection.login(weir.address) as client:
                    if plugin == "auto":
                        weir.wait_until_up()
                        assert weir.stream()["plugin"] == "test_decoding"
                    else:
                        wait_until(lambda weir=weir: weir.stream()["state"] == "refused", "it is refused")
                        assert "keyless" in weir.stream()["reason"] and "REPLICA IDENTITY FULL" in weir.said()
                    assert errors(client.query("update keyless set id = id + 1")) == []
        assert owner.execute("select count(*) from pg_publication").fetchone()[0] == 0


def test_it_can_be_switched_off(cluster, tmp_path):
    with psycopg.connect(cluster["POSTGRES_URL"], autocommit=True) as primary:
        primary.execute("create database unstreamed owner app")
    with StreamingWeir(tmp_path / "off", cluster, "unstreamed", "enabled = false") as weir:
        weir.wait_until_ready()
        with Connection.login(weir.address) as client:
            assert client.value("select 1") == "1"
            assert weir.stream()["state"] == "off" and weir.slots() == []
