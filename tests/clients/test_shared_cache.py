"""Results that two Weirs share by a real redis-server, which may be killed, paused and emptied: nobody gets an old row, and all that
it costs is misses. In front of WEIR_DIRECT_URL's server, which some of the writes go to past both."""

import os
import subprocess
import time
from urllib.parse import urlsplit

import pytest

import targets
from own_redis import Redis
from own_servers import WEIR, needs_weir, wait_until
from watched_weir import WatchedWeir
from wire import SYNC, Connection, bind, errors, execute, extended, parse, rows

pytestmark = [
    needs_weir,
    pytest.mark.skipif(targets.NOISY, reason="its Weirs have no neighbors; once is enough"),
    pytest.mark.xdist_group("shared_cache"),
]

# The machine may be busy.
CACHE = """
[cache]
enabled = true
[shared_cache]
url = "{url}"
lookup_timeout = "200ms"
invalidate_timeout = "200ms"
[pool]
max = 4
"""

SHARED_HIT = 'shared_cache_total{outcome="hit"}'
OWED = 'shared_cache_total{outcome="owed"}'
KEPT = 'cache_fills_total{outcome="kept"}'


@pytest.fixture(scope="module")
def database():
    name = f"shared_{os.getpid()}"
    admin = targets.as_role_of(targets.DIRECT, targets.ADMIN or targets.DIRECT)
    owner = urlsplit(targets.DIRECT).username
    with Connection.login(admin) as maker:
        assert not errors(maker.query(f'create database {name} owner "{owner}"'))
        yield name
        assert not errors(maker.query(f"drop database {name} with (force)"))


def in_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


class SharingWeir(WatchedWeir):
    def __init__(self, directory, redis, database, settings: str = ""):
        super().__init__(directory, CACHE.format(url=redis.url) + settings)
        self.address = in_database(self.address, database)
        self.wait_until_ready()
        self.client = Connection.login(self.address)

    def wait_until_trusted(self) -> "SharingWeir":
        self.wait_for_metric("shared_cache_trusted_databases", lambda count: count == 1)
        return self

    def moved(self, name: str, read) -> float:
        before = self.metric(name)
        read()
        return self.metric(name) - before

    def stop(self) -> None:
        self.client.close()
        super().stop()


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    with Redis(tmp_path_factory.mktemp("redis")) as redis:
        yield redis


@pytest.fixture(scope="module")
def both(tmp_path_factory, redis, database):
    with (
        SharingWeir(tmp_path_factory.mktemp("one"), redis, database) as one,
        SharingWeir(tmp_path_factory.mktemp("two"), redis, database) as two,
    ):
        yield one.wait_until_trusted(), two.wait_until_trusted()


@pytest.fixture
def direct(database):
    """The server itself."""
    with Connection.login(in_database(targets.DIRECT, database)) as connection:
        yield connection


@pytest.fixture
def table(request, both, direct):
    """A table with the columns `id` and `v`, and 50 rows, which both know; its name."""
    name = "s_" + "".join(c if c.isalnum() else "_" for c in request.node.name)[-40:].lower()
    assert not errors(direct.query(f"create table {name} as select id, 0 as v from generate_series(1, 50) id"))
    for weir in both:
        weir.wait_until_trusted()
        wait_until(lambda weir=weir: kept(weir, f"select count(*) from {name}"), "it is kept")
    yield name
    direct.query(f"drop table {name}")


def kept(weir, sql: str) -> bool:
    """Whether it came from memory."""
    return weir.moved('cache_total{kind="hit",reason="hit"}', lambda: weir.client.value(sql)) == 1


def test_result_of_one_is_found_by_the_other(both, table):
    one, two = both
    for number in range(1, 30):
        sql = f"select v + {number} from {table} where id = {number}"
        wait_until(lambda sql=sql: kept(one, sql), "the first keeps it")
        before = two.metrics()
        values = {two.client.value(sql) for _ in range(3)}
        after = two.metrics()
        assert values == {str(number)}
        if after[SHARED_HIT] == before[SHARED_HIT] + 1 and after[KEPT] == before[KEPT]:
            break
    else:
        raise AssertionError("nothing was found in the store")


def test_other_protocol_formats_and_descriptions(both, table):
    one, two = both
    sql = f"select id, v from {table} where id = 7"
    messages = [parse(sql), bind(), execute(), SYNC]  # nobody asks what the columns are
    wait_until(lambda: one.moved('cache_total{kind="hit",reason="hit"}', lambda: one.client.ask(*messages)) == 1, "kept")
    expected = rows(one.client.query(sql))
    for _ in range(4):
        assert rows(two.client.query(sql)) == expected
        assert rows(two.client.ask(*messages)) == expected
        assert rows(two.client.ask(extended(sql, result_formats=(1,)), SYNC)) == [(b"\0\0\0\x07", b"\0\0\0\0")]


def test_users_are_told_apart(both, table, direct):
    admin = targets.as_role_of(both[0].address, targets.ADMIN or targets.DIRECT)
    for weir in both:
        with Connection.login(targets.at_port(in_database(admin, urlsplit(weir.address).path[1:]), weir.port)) as other:
            for _ in range(4):
                who = other.value(f"select current_user from {table} limit 1")
                assert who == urlsplit(admin).username
                assert weir.client.value(f"select current_user from {table} limit 1") == urlsplit(targets.DIRECT).username


def test_own_write_is_seen_at_once_and_by_the_other_soon(both, table):
    one, two = both
    sql = f"select v from {table} where id = 1"
    for version in range(1, 60):
        writer, reader = (one, two) if version % 2 else (two, one)
        assert not errors(writer.client.query(f"update {table} set v = {version} where id = 1"))
        assert writer.client.value(sql) == str(version)
        wait_until(lambda: reader.client.value(sql) == str(version), "the other sees it", within=5)  # noqa: B023
        # Once it has, it never goes back.
        assert {reader.client.value(sql) for _ in range(3)} == {str(version)}


def test_write_past_both_is_seen_soon(both, table, direct):
    sql = f"select v from {table} where id = 2"
    for version in range(1, 30):
        for weir in both:
            wait_until(lambda weir=weir: kept(weir, sql), "it is kept")
        assert not errors(direct.query(f"update {table} set v = {version} where id = 2"))
        for weir in both:
            wait_until(lambda weir=weir: weir.client.value(sql) == str(version), "it is seen", within=5)  # noqa: B023
            assert {weir.client.value(sql) for _ in range(3)} == {str(version)}


def test_results_survive_a_restart(tmp_path, both, redis, table, database):
    one, _ = both
    sql = f"select sum(v) + 77 from {table}"
    wait_until(lambda: kept(one, sql), "it is kept")
    with SharingWeir(tmp_path / "again", redis, database) as again:
        again.client.value("select 1")
        again.wait_until_trusted()
        assert again.metric('shared_cache_total{outcome="joined"}') == 1
        # Statements that it has never seen it asks for, since it knows nothing of what was hot.
        # One of the others' streams may have told late of how the table was made: what is in the store is put there anew.
        console(one, f"flush cache {table}")
        wait_until(lambda: kept(one, sql), "it is there again")
        before = again.metrics()
        assert again.client.value(sql) == "77"
        after = again.metrics()
        assert after[SHARED_HIT] > before.get(SHARED_HIT, 0)
        assert after[KEPT] == before.get(KEPT, 0), "no server was asked"


def test_flushing_one_flushes_both(both, table, direct):
    one, two = both
    sql = f"select v from {table} where id = 9"
    for weir in both:
        wait_until(lambda weir=weir: kept(weir, sql), "it is kept")
    console(one, f"flush cache {table}")
    # The other has it in its own memory; what it finds in the store is void.
    console(two, f"flush cache {table}")
    before = two.metrics()
    two.client.value(sql), two.client.value(sql)
    assert two.metrics()[SHARED_HIT] == before[SHARED_HIT]


def console(weir, command: str) -> str:
    admin = targets.as_role_of(weir.address, targets.ADMIN or targets.DIRECT)
    with Connection.login(admin.rpartition("/")[0] + "/weir") as console:
        answer = console.query(command)
        assert not errors(answer), command
        return "\n".join(" ".join((v or b"").decode() for v in row) for row in rows(answer))


def test_dead_store_costs_misses(both, redis, table):
    one, two = both
    sql = f"select v from {table} where id = 3"
    version = 0
    for trouble in (redis.kill, redis.pause, redis.empty):
        for weir in both:
            weir.wait_until_trusted()
            wait_until(lambda weir=weir: kept(weir, sql), "it is kept")
        trouble()
        slowest = 0
        for _ in range(20):
            version += 1
            for writer, reader in ((one, two), (two, one)):
                began = time.monotonic()
                assert not errors(writer.client.query(f"update {table} set v = {version} where id = 3"))
                assert writer.client.value(sql) == str(version)
                assert writer.client.value(sql) == str(version)
                slowest = max(slowest, time.monotonic() - began)
                wait_until(lambda: reader.client.value(sql) == str(version), "the other sees it", within=5)  # noqa: B023
        # Once for each of the two the answer to a write has waited for the store.
        assert slowest < 2, slowest
        if trouble == redis.kill:
            assert one.metric("shared_cache_connected") == 0 and one.metric(OWED) > 0
            assert "shared connected 0 not trusted" in console(one, "show cache")
            redis.start()
        elif trouble == redis.pause:
            assert one.metric("shared_cache_connected") == 0
            redis.resume()
        for weir in both:
            weir.wait_for_metric("shared_cache_connected", lambda connected: connected == 1)
            weir.wait_until_trusted()
            assert {weir.client.value(sql) for _ in range(5)} == {str(version)}
    assert "shared trusted_databases 1 of 1 in use" in console(one, "show cache")


def test_check_tells_of_the_store(both, redis):
    one, _ = both
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}
    primary = targets.as_role_of(targets.DIRECT, targets.ADMIN or targets.DIRECT)
    command = [WEIR, "check", "--config", str(one.file), "--primary", primary]
    # Other tests' open transactions may keep it from trying out a slot: then it says so, and to check again.
    for _ in range(10):
        said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        if "a slot could not be tried out" not in said:
            break
    assert "results from memory    on: the change stream vouches" in said, said
    assert "results of other Weirs on: Redis " in said
