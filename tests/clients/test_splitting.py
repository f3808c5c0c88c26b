"""Reads leave the primary, in transactions too, and nobody sees an old row: through a Weir with splitting on, in front of a primary
with two streaming replicas that belong to this module."""

import os
import signal
import threading
import time
from random import Random

import pytest

import targets
from own_servers import needs_weir, starting_cluster, wait_until
from watched_weir import WatchedWeir
from wire import (
    SYNC,
    Connection,
    bind,
    close_statement,
    describe_portal,
    errors,
    execute,
    extended,
    message,
    parse,
    query,
    rows,
    status,
    tags,
)

pytestmark = [
    needs_weir,
    pytest.mark.skipif(targets.NOISY, reason="its servers have no neighbors; once is enough"),
    pytest.mark.xdist_group("splitting"),
]

ON_REPLICA = [f'route_total{{reason="{why}",target="replica"}}' for why in ["read", "transaction_time", "snapshot", "block_on_replica"]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with starting_cluster(tmp_path_factory.mktemp("cluster")) as variables:
        yield variables


@pytest.fixture(scope="module")
def weir(cluster, tmp_path_factory):
    replicas = f'replicas = ["{cluster["REPLICA1_URL"]}", "{cluster["REPLICA2_URL"]}"]\n'
    splitting = '[splitting]\nenabled = "auto"\n[pool]\nmax = 10\n'
    with WatchedWeir(tmp_path_factory.mktemp("weir"), replicas + splitting, cluster["PRIMARY_URL"]) as weir:
        weir.wait_until_ready()
        weir.address = targets.at_port(cluster["APP_URL"], weir.port)
        with Connection.login(weir.address) as maker:
            made = maker.query("create table versions as select id, 0 as v from generate_series(1, 8) as id")
            assert not errors(made)
            until = time.monotonic() + 20
            while not served_by_replica(weir, lambda: maker.value("select count(*) from versions")):
                assert time.monotonic() < until, "no read has reached a replica"
        yield weir


def served_by_replica(weir, read) -> bool:
    before = on_replica(weir)
    read()
    return on_replica(weir) > before


def on_replica(weir) -> float:
    metrics = weir.metrics()
    return sum(metrics.get(name, 0) for name in ON_REPLICA)


@pytest.fixture
def client(weir):
    with Connection.login(weir.address) as connection:
        yield connection


def until_served_by_replica(weir, read) -> None:
    """A write of the test before may still keep the replicas closed."""
    until = time.monotonic() + 10
    while not served_by_replica(weir, read):
        assert time.monotonic() < until, "no replica serves it"


@pytest.mark.parametrize("way", ["alone", "in a block", "in a block, extended", "in a prepared block", "prepared"])
def test_read_goes_to_a_replica(weir, client, way):
    def read():
        match way:
            case "alone":
                assert client.value("select count(*) from versions") == "8"
            case "in a block":
                assert tags(client.query("begin")) == "CZ" and status(client.query("select v from versions")) == "T"
                assert tags(client.query("rollback")) == "CZ"
            case "in a block, extended":
                begun = client.ask(extended("begin"), SYNC)
                assert tags(begun) == "12nCZ" and status(begun) == "T"
                assert status(client.ask(extended("select v from versions"), SYNC)) == "T"
                ended = client.ask(extended("commit"), SYNC)
                assert tags(ended) == "12nCZ" and status(ended) == "I"
            case "in a prepared block":
                begun = client.ask(bind("begins") + execute(), SYNC)
                assert tags(begun) == "2CZ" and begun[1].text == "BEGIN" and status(begun) == "T"
                assert status(client.ask(extended("select v from versions"), SYNC)) == "T"
                ended = client.ask(bind("ends") + describe_portal() + execute(), SYNC)
                assert tags(ended) == "2nCZ" and ended[2].text == "COMMIT" and status(ended) == "I"
            case _:
                assert len(rows(client.ask(extended("select v from versions where id < $1::int", "4"), SYNC))) == 3

    for name, text in [("begins", "begin"), ("ends", "commit")]:
        assert tags(client.ask(parse(text, name), SYNC)) == "1Z"
    until_served_by_replica(weir, read)


def test_prepared_block_is_the_servers_where_it_must_be(client):
    for name, text in [("begins", "begin"), ("ends", "commit"), ("reads", "select 1 / (v - v) from versions"), ("begins again", "begin")]:
        assert tags(client.ask(parse(text, name), SYNC)) == "1Z"
    assert status(client.ask(bind("begins") + execute(), SYNC)) == "T"
    assert client.value("update versions set v = v + 1 where id = 8 returning v") == "1"
    assert status(client.query("rollback")) == "I"
    # COMMIT of a block that failed is a ROLLBACK, by whatever name.
    assert status(client.ask(bind("begins") + execute(), SYNC)) == "T"
    assert errors(client.ask(bind("reads") + execute(), SYNC)) == ["22012"]
    refused = client.ask(bind("begins again") + execute(), SYNC)
    assert errors(refused) == ["25P02"] and status(refused) == "E"
    ended = client.ask(bind("ends") + execute(), SYNC)
    assert ended[1].text == "ROLLBACK" and status(ended) == "I"
    # Nobody has prepared this, and what comes with a portal's name or with values is the server's to judge.
    assert errors(client.ask(bind("nobody's") + execute(), SYNC)) == ["26000"]
    assert errors(client.ask(bind("begins", ("1",)) + execute(), SYNC)) == ["08P01"]
    assert status(client.ask(bind("begins", portal="p") + execute("p"), SYNC)) == "T"
    assert status(client.ask(bind("ends") + execute(), SYNC)) == "I"
    assert client.value("select v from versions where id = 8") == "0"


def test_block_becomes_real_at_its_first_write_and_sees_it(client):
    client.query("begin")
    client.query("select v from versions where id = 8")
    assert client.value("update versions set v = v + 1 where id = 8 returning v") == "1"
    assert client.value("select v from versions where id = 8") == "1"
    assert status(client.query("rollback")) == "I"
    assert client.value("select v from versions where id = 8") == "0"


@pytest.mark.parametrize("end, tag", [("commit", "ROLLBACK"), ("rollback", "ROLLBACK")])
def test_failed_read_fails_the_block(client, end, tag):
    client.query("begin")
    failed = client.query("select 1 / (v - v) from versions")
    assert errors(failed) == ["22012"] and status(failed) == "E"
    assert errors(client.query("select 1")) == ["25P02"]
    refused = client.ask(extended("select 1"), SYNC)
    assert errors(refused) == ["25P02"] and status(refused) == "E"
    ended = client.query(end)
    assert ended[0].body == tag.encode() + b"\0" and status(ended) == "I"
    assert client.value("select 1") == "1"


def test_replica_does_not_show_through(client):
    assert "in_hot_standby" not in client.parameters or client.parameters["in_hot_standby"] == "off"
    told = [m for _ in range(20) for m in client.query("select v from versions") if m.tag == "S"]
    assert told == []
    assert client.value("select pg_is_in_recovery()") == "f"
    assert client.value("show transaction_read_only") == "off"


def test_write_is_seen_while_replicas_stand_still(weir, client, cluster):
    replicas = [Connection.login(cluster[f"REPLICA{n}_URL"]) for n in (1, 2)]
    try:
        for replica in replicas:
            replica.query("select pg_wal_replay_pause()")
        with Connection.login(weir.address) as writer:
            for v in range(1, 6):
                assert not errors(writer.query(f"update versions set v = {v} where id = 7"))
                assert client.value("select v from versions where id = 7") == str(v)
    finally:
        for replica in replicas:
            replica.query("select pg_wal_replay_resume()")
            replica.close()


@pytest.mark.parametrize("past_weir", [False, True])
def test_what_roles_begin_with_holds_for_who_comes_next(weir, client, cluster, past_weir):
    """The server connections in the pool began with something else."""
    schema = f"begun_{past_weir}".lower()
    made = client.query(f"create schema {schema}; create table {schema}.versions as select id, 77 as v from versions")
    assert not errors(made)
    altered = cluster["APP_URL"] if past_weir else weir.address

    def seen() -> str | None:
        with Connection.login(weir.address) as newcomer:
            return newcomer.value("select v from versions where id = 5")

    assert seen() == "0"
    try:
        with Connection.login(altered) as connection:
            assert not errors(connection.query(f"alter role app set search_path = {schema}, public"))
        # Past Weir it is found at catalog_interval.
        until = time.monotonic() + (20 if past_weir else 5)
        while seen() != "77":
            assert time.monotonic() < until, "connections are still the old ones"
        for _ in range(20):
            assert seen() == "77"
    finally:
        with Connection.login(altered) as connection:
            connection.query("alter role app reset search_path")
        until = time.monotonic() + 20
        while seen() != "0":
            assert time.monotonic() < until, "connections are still the old ones"
        client.query(f"set client_min_messages = error; drop schema {schema} cascade")


@pytest.mark.parametrize("hint, seen", [("", "1"), ("consistency=session", "0"), ("consistency=bounded", "0")])
def test_hint_lets_a_read_do_with_less(weir, client, cluster, hint, seen):
    """What another client has written, while no replica has it; a batch is as strict as its strictest text."""
    read = "select v from versions where id = 6"
    until_served_by_replica(weir, lambda: client.value(f"/* weir: consistency=strong */ {read}"))
    replicas = [Connection.login(cluster[f"REPLICA{n}_URL"]) for n in (1, 2)]
    with Connection.login(weir.address) as writer:
        try:
            for replica in replicas:
                replica.query("select pg_wal_replay_pause()")
            assert not errors(writer.query("update versions set v = 1 where id = 6"))
            # A replica may have no server connection yet, and then the primary serves.
            wait_until(lambda: client.value(f"/* weir: {hint} */ {read}") == seen, "it is read where the hint allows")
            if seen == "1":
                assert [client.value(f"/* weir: {hint} */ {read}") for _ in range(20)] == [seen] * 20
            both = client.ask(extended(f"/* weir: {hint} */ {read}"), extended(read), SYNC)
            assert rows(both) == [(b"1",), (b"1",)]
            # The writer's own it sees all the same, but for one that is content with anything.
            own = "0" if "bounded" in hint else "1"
            wait_until(lambda: writer.value(f"/* weir: {hint} */ {read}") == own, "it is read where the hint allows")
            if own == "1":
                assert [writer.value(f"/* weir: {hint} */ {read}") for _ in range(20)] == [own] * 20
        finally:
            for replica in replicas:
                replica.query("select pg_wal_replay_resume()")
                replica.close()
            writer.query("update versions set v = 0 where id = 6")


def test_no_read_is_stale(weir):
    """Each writes its row by some way, and another connection reads it at once by some way."""
    stale, reads, broken, until = [], [0], [], time.monotonic() + 4

    def work(row: int) -> None:
        chance = Random(row)
        with Connection.login(weir.address) as writer, Connection.login(weir.address) as reader:
            version = 0
            while time.monotonic() < until:
                version += 1
                write = f"update versions set v = {version} where id = {row}"
                older = f"update versions set v = {version - 1} where id = {row}"
                match chance.randint(0, 5):
                    case 0:
                        answer = writer.query(write)
                    case 1:
                        answer = [*writer.query("begin"), *writer.query(write), *writer.query("commit")]
                    case 2:
                        answer = writer.ask(extended(write), SYNC)
                    case 3:
                        answer = writer.query(f"begin; {older}; commit; {write}")
                    case 4:
                        writer.send(extended(older), SYNC, extended(write), SYNC)
                        answer = [*writer.read_until_ready(), *writer.read_until_ready()]
                    case _:
                        writer.send(query("begin"), query(older), query("commit"), query(write))
                        answer = [message for _ in range(4) for message in writer.read_until_ready()]
                broken.extend(errors(answer))
                for _ in range(chance.randint(1, 3)):
                    read = f"select v from versions where id = {row}"
                    seen = reader.value(read) if chance.random() < 0.5 else rows(reader.ask(extended(read), SYNC))[0][0]
                    reads[0] += 1
                    if int(seen) < version:
                        stale.append((row, version, seen))
                    time.sleep(chance.random() * 0.004)

    before = on_replica(weir)
    threads = [threading.Thread(target=work, args=(row,)) for row in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    share = (on_replica(weir) - before) / reads[0]
    print(f"{reads[0]} reads, {share:.0%} of them by replicas")
    assert not stale and not broken and reads[0] > 100
    assert share > 0.02, "the replicas served next to nothing, so little was proven"


# ---- what a write keeps from the replicas -------------------------------------------------------------------------------------

SCHEMA = """
create table plain (id int);
create table other (id int);
create table parent (id int primary key);
create table child (id int references parent on delete cascade on update cascade);
create table measured (id int) partition by range (id);
create table measured_low partition of measured for values from (0) to (100);
create table old (id int);
create table young () inherits (old);
create table watched (id int);
create table audit (id int);
create function note() returns trigger language plpgsql as 'begin insert into audit values (new.id); return new; end';
create trigger note after insert on watched for each row execute function note();
create view shown as select id from plain;
create function writes() returns int language sql as 'insert into other values (1) returning id';
create procedure gives_up() language plpgsql as 'begin insert into plain values (1); commit; raise exception using errcode = 22012; end';
create schema elsewhere;
create table elsewhere.plain (id int);
insert into parent values (1), (2), (3), (4), (5), (6);
"""

TABLES = ["plain", "other", "parent", "child", "measured", "old", "audit", "shown", "elsewhere.plain"]

EVERYTHING = set(TABLES)

WRITES = {
    "alone": ("insert into plain values (1)", {"plain", "shown"}),
    "extended": ([extended("insert into plain values (1)"), SYNC], {"plain", "shown"}),
    "in a block": ("begin;; insert into plain values (1);; commit", {"plain", "shown"}),
    "in a block, extended": (
        [extended("begin"), SYNC, extended("insert into other values (1)"), SYNC, extended("commit"), SYNC],
        {"other"},
    ),
    "in a string": ("begin; insert into plain values (1); insert into other values (1); commit", {"plain", "shown", "other"}),
    "pipelined in one batch": ([extended("insert into plain values (1)"), extended("insert into old values (1)"), SYNC], {"plain", "shown", "old"}),
    "rolled back": ("begin;; insert into plain values (1);; rollback", set()),
    "failed": ("insert into plain select 1 / 0", set()),
    "rolled back in part": ("begin;; savepoint s;; insert into other values (1);; rollback to s;; commit", {"other"}),
    "by a read that locks": ("select * from parent for update", set()),
    "by a data-modifying query": ("with w as (insert into other values (1) returning id) select * from w", {"other"}),
    "from one table to another": ("insert into other select id from plain", {"other"}),
    "by cascade": ("delete from parent where id = 1", {"parent", "child"}),
    "to a partition": ("insert into measured_low values (1)", {"measured"}),
    "to a partitioned table": ("insert into measured values (1)", {"measured"}),
    "to an heir": ("insert into young values (1)", {"old"}),
    "through a view": ("insert into shown values (1)", {"plain", "shown"}),
    "by a trigger": ("insert into watched values (1)", EVERYTHING),
    "by a function": ("select writes()", EVERYTHING),
    "by a function in a block": ("begin;; select writes();; insert into other values (1);; commit", EVERYTHING),
    "by a procedure that fails later": ("call gives_up()", EVERYTHING),
    "truncated": ("truncate other", {"other"}),
    "truncated, and what refers to it": ("truncate parent cascade", EVERYTHING),
    "by COPY": ([query("copy other from stdin"), message("d", b"7\n"), message("c")], {"other"}),
    "by another path": ("set search_path = elsewhere;; insert into plain values (1);; reset search_path", {"elsewhere.plain"}),
    "by another path in its block": (
        "begin;; set local search_path = elsewhere;; insert into plain values (1);; commit",
        EVERYTHING,
    ),
    "by another path, pipelined": (
        [query("set search_path = elsewhere"), query("insert into plain values (1)"), query("reset search_path")],
        EVERYTHING,
    ),
    "behind DDL": ("begin;; create table made (id int);; insert into plain values (1);; commit", EVERYTHING),
    "by DO": ("do 'begin insert into other values (1); end'", EVERYTHING),
}


class PausedReplicas:
    """Both have what is there now, and nothing that comes."""

    def __init__(self, weir, cluster, client):
        self.weir, self.client = weir, client
        self.replicas = [Connection.login(cluster[f"REPLICA{n}_URL"]) for n in (1, 2)]

    def __enter__(self):
        # What code the test before has run was looked into.
        self.weir.wait_for_metric("catalogs_in_doubt", lambda count: count == 0)
        for table in TABLES:
            until_served_by_replica(self.weir, lambda table=table: self.client.value(f"select count(*) from {table}"))
        for replica in self.replicas:
            assert not errors(replica.query("select pg_wal_replay_pause()"))
            until = time.monotonic() + 10
            while replica.value("select pg_get_wal_replay_pause_state()") != "paused":
                assert time.monotonic() < until

    def __exit__(self, *_):
        for replica in self.replicas:
            replica.query("select pg_wal_replay_resume()")
            replica.close()


@pytest.fixture(scope="module")
def schema(weir):
    with Connection.login(weir.address) as maker:
        assert not errors(maker.query(SCHEMA))


@pytest.mark.parametrize("way", WRITES)
def test_write_keeps_from_the_replicas_what_it_touches(weir, cluster, client, schema, way):
    """No less, or somebody reads an old row; no more, or the replicas serve nothing while anybody writes."""
    write, touches = WRITES[way]
    with PausedReplicas(weir, cluster, client), Connection.login(weir.address) as writer:
        if isinstance(write, str):
            for statement in write.split(";;"):
                writer.query(statement)
        else:
            writer.send(*write)
            writer.read_until_ready(sum(part == SYNC or part[:1] == b"Q" for part in write))
        kept = {table for table in TABLES if not served_by_replica(weir, lambda: client.value(f"select count(*) from {table}"))}
    assert kept == touches


# ---- blocks that stay on a replica --------------------------------------------------------------------------------------------

SNAPSHOT = "begin isolation level repeatable read read only"
COUNT = "select count(*) from versions"


def until_block_is_on_a_replica(weir, client, begin, read) -> None:
    """A write of the test before may still keep the replicas closed."""
    until = time.monotonic() + 10
    while True:
        client.query(begin)
        if served_by_replica(weir, lambda: client.value(read)):
            return
        client.query("rollback")
        assert time.monotonic() < until, "no replica serves it"


@pytest.mark.parametrize("read", ["select now() - interval '1 day' from versions limit 1", "select current_timestamp from versions where id = 8"])
def test_time_stands_still_in_a_block(weir, client, read):
    until_block_is_on_a_replica(weir, client, "begin", read)
    first = client.value(read)
    assert client.value(COUNT) == "8"
    assert rows(client.ask(extended(read), SYNC))[0][0].decode() == first
    assert client.value(read) == first
    # A write leaves the replica for the primary, and the block goes on there.
    assert client.value("update versions set v = v + 1 where id = 8 returning v") == "1"
    assert client.value("select v from versions where id = 8") == "1" and client.value(read) > first
    assert status(client.query("rollback")) == "I" and client.value("select v from versions where id = 8") == "0"


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_block_on_a_replica_ends_there(weir, client, end):
    until_block_is_on_a_replica(weir, client, "begin", "select now() - interval '1 day' from versions limit 1")
    warned = client.query("begin")
    assert [m.fields["C"] for m in warned if m.tag == "N"] == ["25001"] and status(warned) == "T"
    ended = client.query(end)
    assert tags(ended) == "CZ" and ended[0].text == end.upper() and status(ended) == "I"
    assert [m.fields["C"] for m in client.query(end) if m.tag == "N"] == ["25P01"]


@pytest.mark.parametrize("begin, read", [("begin", "select now() - interval '1 day' from versions limit 1"), (SNAPSHOT, COUNT)])
def test_failed_block_on_a_replica(weir, client, begin, read):
    until_block_is_on_a_replica(weir, client, begin, read)
    failed = client.query("select 1 / (v - v) from versions")
    assert errors(failed) == ["22012"] and status(failed) == "E"
    assert errors(client.query("insert into versions values (9, 9)")) == ["25P02"]
    assert errors(client.ask(extended("select 1"), SYNC)) == ["25P02"]
    ended = client.query("commit")
    assert ended[0].text == "ROLLBACK" and status(ended) == "I" and client.value(COUNT) == "8"


def test_snapshot_on_a_replica_is_one(weir, client):
    until_block_is_on_a_replica(weir, client, SNAPSHOT, COUNT)
    with Connection.login(weir.address) as writer:
        writer.query("insert into versions values (9, 9)")
        assert int(writer.value(COUNT)) == 9
        for _ in range(20):
            assert client.value(COUNT) == "8" and rows(client.ask(extended(COUNT), SYNC)) == [(b"8",)]
            time.sleep(0.01)
        refused = client.query("insert into versions values (10, 10)")
        assert errors(refused) == ["25006"] and status(refused) == "E"
        client.query("rollback")
        assert client.value(COUNT) == "9"
        writer.query("delete from versions where id = 9")


def test_snapshot_on_a_replica_has_all_that_a_block_has(weir, client):
    """Cursors, portals that are read bit by bit, savepoints, settings of its own; and all is gone behind it."""
    until_block_is_on_a_replica(weir, client, SNAPSHOT, COUNT)
    client.query("declare c cursor for select id from versions order by id")
    assert client.value("fetch next from c") == "1" and client.value("fetch next from c") == "2"
    client.query("savepoint s")
    assert errors(client.query("select 1 / 0")) == ["22012"]
    assert status(client.query("rollback to s")) == "T" and client.value("fetch next from c") == "3"
    portal = parse("select id from versions order by id") + bind(portal="p") + execute("p", 2) + message("H")
    client.send(portal)
    assert tags(client.read_until("s")) == "12DDs"
    client.send(execute("p", 2), SYNC)
    assert tags(client.read_until_ready()) == "DDsZ"
    assert tags(client.ask(execute("p", 0), SYNC)) == "DDDDCZ"
    client.query("set local work_mem = '1MB'")
    assert client.value("show work_mem") == "1MB"
    client.query("commit")
    assert client.value("show work_mem") != "1MB" and errors(client.ask(execute("p", 0), SYNC)) == ["34000"]


def test_snapshot_with_chain_is_another(weir, client):
    until_block_is_on_a_replica(weir, client, SNAPSHOT, COUNT)
    chained = client.query("commit and chain")
    assert chained[0].text == "COMMIT" and status(chained) == "T"
    assert client.value("show transaction_isolation") == "repeatable read" and client.value("show transaction_read_only") == "on"
    assert status(client.query("rollback")) == "I"


@pytest.mark.parametrize("chain, tag", [("commit and chain", "COMMIT"), ("rollback and chain", "ROLLBACK")])
def test_lazy_block_with_chain(client, chain, tag):
    client.query("begin")
    assert errors(client.query("select 1 / (v - v) from versions")) == ["22012"]
    chained = client.query(chain)
    assert chained[0].text == "ROLLBACK" and status(chained) == "T"
    chained = client.query(chain)
    assert chained[0].text == tag and status(chained) == "T"
    assert client.value("update versions set v = v + 1 where id = 8 returning v") == "1"
    assert status(client.query("rollback")) == "I" and client.value("select v from versions where id = 8") == "0"


@pytest.mark.parametrize("begin, read", [("begin", "select now() - interval '1 day' from versions limit 1"), (SNAPSHOT, COUNT)])
def test_what_is_pipelined_behind_a_block_on_a_replica(weir, client, begin, read):
    until_block_is_on_a_replica(weir, client, begin, read)
    client.send(query(read), query("commit"), query("insert into versions values (9, 9)"), query(COUNT))
    answers = [client.read_until_ready() for _ in range(4)]
    assert [errors(answer) for answer in answers] == [[]] * 4
    assert [status(answer) for answer in answers] == ["T", "I", "I", "I"] and rows(answers[3]) == [(b"9",)]
    client.query("delete from versions where id = 9")


def test_replica_does_not_show_through_in_a_snapshot(weir, client):
    until_block_is_on_a_replica(weir, client, SNAPSHOT, COUNT)
    client.send(query("select pg_is_in_recovery()"))
    refused = client.read_until_closed()
    assert errors(refused) == ["0A000"] and "weir: primary" in refused[-1].fields["H"]


@pytest.mark.parametrize("begin, read", [("begin", "select now() - interval '1 day' from versions limit 1"), (SNAPSHOT, COUNT)])
def test_client_vanishes_from_a_block_on_a_replica(weir, begin, read):
    """Again and again, more often than there are connections: none is lost, none is in a block."""
    for _ in range(15):
        with Connection.login(weir.address) as client:
            until_block_is_on_a_replica(weir, client, begin, read)
            client.vanish()
    with Connection.login(weir.address) as client:
        until_block_is_on_a_replica(weir, client, begin, read)


@pytest.mark.parametrize("begin, read", [("begin", "select now() - interval '1 day' from versions limit 1"), (SNAPSHOT, COUNT)])
def test_block_on_a_replica_is_drained(weir, cluster, begin, read, tmp_path):
    """SIGTERM lets it end, and then says good-bye."""
    replicas = f'replicas = ["{cluster["REPLICA1_URL"]}", "{cluster["REPLICA2_URL"]}"]\n[splitting]\nenabled = "auto"\n'
    with WatchedWeir(tmp_path / "weir", replicas, cluster["PRIMARY_URL"]) as weir:
        weir.wait_until_ready()
        with Connection.login(targets.at_port(cluster["APP_URL"], weir.port)) as client:
            until_block_is_on_a_replica(weir, client, begin, read)
            weir.process.child.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert client.value(read)
            assert status(client.query("commit")) == "I"
            assert errors(client.read_until_closed()) == ["57P01"]


# ---- what else may go wrong ---------------------------------------------------------------------------------------------------


def test_what_is_pipelined_behind_a_read_is_answered(client):
    """More of it than is looked at in one go."""
    client.send(*(query(f"select {n}, '{'x' * 1000}', count(*) from versions") for n in range(300)))
    for n in range(300):
        assert rows(client.read_until_ready())[0][0] == str(n).encode()


@pytest.mark.parametrize("length", [5_000, 15_000])
def test_long_statement_is_read_by_a_replica_in_the_end(weir, client, length):
    """It is parsed apart from the event loop, which takes its time, and on the primary until then."""
    columns = ", ".join(f"v as column_{n}" for n in range(length // 18))
    long = f"select count(*) from (select {columns} from versions) as wide"
    assert client.value(long) == "8"
    until_served_by_replica(weir, lambda: client.value(long))


def test_listener_keeps_nothing_from_the_replicas(weir, cluster, client):
    """What keeps it on its connection does not change what its statements write."""
    with Connection.login(weir.address) as listener:
        listener.query("listen anything; prepare p as select 1")
        with PausedReplicas(weir, cluster, client):
            assert listener.value("select count(*) from versions") == "8"
            assert served_by_replica(weir, lambda: client.value(COUNT))


def test_read_behind_an_open_batch_is_answered(weir, client):
    """Close without Sync, and behind it a simple query, which needs none."""
    until_served_by_replica(weir, lambda: client.value("select count(*) from versions"))
    client.send(close_statement(), query("select count(*) from versions"), extended("create temp table mine (a int)"), SYNC)
    assert tags(client.read_until_ready()) == "3TDCZ" and tags(client.read_until_ready()) == "12nCZ"
    assert not errors(client.query("discard all"))


def test_own_function_may_leave_something_on_the_primary_only(weir, client):
    with Connection.login(weir.address) as maker:
        assert not errors(
            maker.query("create function locks() returns void stable language sql as 'select pg_advisory_lock(4711)'")
        )
    until_served_by_replica(weir, lambda: client.value("select count(*) from versions"))
    client.query("/* weir: primary */ select locks()")
    assert client.value("select pg_advisory_unlock(4711)") == "t"


def test_serializable_sessions_read_on_the_primary(weir):
    with Connection.login(weir.address, options="-c default_transaction_isolation=serializable") as careful:
        for _ in range(20):
            assert not served_by_replica(weir, lambda: careful.value("select count(*) from versions"))
        assert status(careful.query("begin")) == "T" and careful.value("show transaction_isolation") == "serializable"


def test_settings_decide(cluster, tmp_path):
    """Each in a Weir of its own: where a client keeps its connection that is one to the primary, and blocks need not be lazy."""
    replicas = f'replicas = ["{cluster["REPLICA1_URL"]}", "{cluster["REPLICA2_URL"]}"]\n[splitting]\nenabled = "auto"\n'
    for number, settings in enumerate(
        ["lazy_transactions = false\n", '[pool]\nmode = "session"\n', '[pool]\nmode = "statement"\n']
    ):
        with WatchedWeir(tmp_path / f"weir{number}", replicas + settings, cluster["PRIMARY_URL"]) as weir:
            weir.wait_until_ready()
            with Connection.login(targets.at_port(cluster["APP_URL"], weir.port)) as client:
                assert client.value("select count(*) from versions") == "8"
                if "statement" in settings:
                    client.send(query("begin isolation level read committed"))
                    assert errors(client.read_until_closed()) == ["08P01"]
                    continue
                assert status(client.query("begin isolation level read committed")) == "T"
                assert not served_by_replica(weir, lambda: client.value("select count(*) from versions"))
                assert errors(client.query("create temp table mine (id int); drop table mine; commit")) == []


def test_replica_whose_process_crashes_is_not_noticed(weir, cluster, client):
    """All others of the replica end with it: they warn, and go."""
    slow = "select count(*) + (select count(*) from generate_series(1, 3000000)) - 3000000 from versions"
    for attempt in range(20):
        until_served_by_replica(weir, lambda: client.value(COUNT))
        before = on_replica(weir)
        client.send(query(slow) if attempt % 2 else extended(slow) + SYNC)
        for number in (1, 2):
            with Connection.login(cluster[f"REPLICA{number}_URL"]) as replica:
                if replica.value("select count(*) from pg_stat_activity where query like '%generate_series(1, 3000000)) -%' and pid <> pg_backend_pid()") != "0":
                    os.kill(int(replica.value("select pg_backend_pid()")), signal.SIGKILL)
        answer = client.read_until_ready()
        assert rows(answer) == [(b"8",)], list(map(str, answer))
        if "a read is run again" in weir.said():
            assert on_replica(weir) > before
            return
    raise AssertionError("no read was caught in the middle")


def test_replica_that_dies_is_not_noticed(weir, cluster):
    """Behind all others: the replica stays dead."""
    failures, done, stop = [], [0], threading.Event()

    def read() -> None:
        with Connection.login(weir.address) as client:
            while not stop.is_set():
                statements = [query("begin"), query("select count(*) from versions"), query("rollback")]
                if done[0] % 2:
                    client.send(*statements)
                    answer = client.read_until_ready(3)
                else:
                    answer = [message for statement in statements for message in client.ask(statement)]
                failures.extend(errors(answer) or [] if rows(answer) == [(b"8",)] else [str(m) for m in answer])
                done[0] += 1

    def work() -> None:
        try:
            read()
        except Exception as failure:
            failures.append(repr(failure))

    with Connection.login(cluster["REPLICA1_URL"]) as replica:
        directory = replica.value("select setting from pg_settings where name = 'data_directory'")
    with open(f"{directory}/postmaster.pid") as file:
        postmaster = int(file.readline())
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 10
    while done[0] < 50 and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(postmaster, signal.SIGKILL)
    before = done[0]
    while done[0] < before + 200 and time.monotonic() < until:
        time.sleep(0.01)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == [] and done[0] >= before + 200


def test_replica_that_dies_behind_its_answer_is_not_noticed(weir, cluster):
    """It is asked then what the function has left in its session. The other replica is dead already, and now this one, too."""
    with Connection.login(weir.address) as client, Connection.login(cluster["REPLICA2_URL"]) as replica:
        busy = "begin perform count(*) from generate_series(1, 2000000); return 8; end"
        assert not errors(client.query(f"create function busy() returns int stable language plpgsql as $${busy}$$"))
        until_served_by_replica(weir, lambda: client.value("select busy()"))
        directory = replica.value("select setting from pg_settings where name = 'data_directory'")
        with open(f"{directory}/postmaster.pid") as file:
            postmaster = int(file.readline())
        client.send(query("select busy()"))
        running = "select count(*) from pg_stat_activity where query like 'select busy%' and state = 'active'"
        wait_until(lambda: replica.value(running) == "1", "it runs there")
        os.kill(postmaster, signal.SIGKILL)
        assert rows(client.read_until_ready()) == [(b"8",)]
        assert client.value(COUNT) == "8"
