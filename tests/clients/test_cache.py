"""Results from memory: what is kept, what tells results apart, what makes them void. Through a Weir with the cache on, in front of
WEIR_DIRECT_URL's server, whose rows the tests also change past the proxy to see what comes from memory."""

import functools
import os
import threading
import time
from urllib.parse import urlsplit

import psycopg
import pytest

import targets
from own_servers import needs_weir, wait_until
from watched_weir import WatchedWeir
from wire import (
    SYNC,
    Connection,
    bind,
    describe_portal,
    describe_statement,
    errors,
    execute,
    extended,
    parse,
    query,
    rows,
    status,
    tags,
)

pytestmark = [
    needs_weir,
    pytest.mark.skipif(targets.NOISY, reason="its Weir has no neighbors; once is enough"),
    pytest.mark.xdist_group("cache"),
]

HIT = 'cache_total{kind="hit",reason="hit"}'

# Without the stream, which would tell of what the tests write past the proxy.
CACHE = '[stream]\nenabled = false\n[cache]\nenabled = true\nfreshness = "proxy"\n'


@pytest.fixture(scope="module")
def database():
    """One of its own: what is kept is void once anybody changes the catalog."""
    name = f"cache_{os.getpid()}"
    admin = targets.as_role_of(targets.DIRECT, targets.ADMIN or targets.DIRECT)
    owner = urlsplit(targets.DIRECT).username
    with Connection.login(admin) as maker:
        assert not errors(maker.query(f'create database {name} owner "{owner}"'))
        yield name
        # FORCE ends sessions but not what a slot holds, and a stream's slot goes only once its server process has noticed the end.
        slots = f"select count(*) from pg_replication_slots where database = '{name}'"
        wait_until(lambda: maker.value(slots) == "0", "the change streams' slots are gone")
        assert not errors(maker.query(f"drop database {name} with (force)"))


def in_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


def cache_weir(directory, settings: str, database: str) -> WatchedWeir:
    weir = WatchedWeir(directory, settings)
    weir.address = in_database(weir.address, database)
    return weir


def behind(weir) -> str:
    """The server itself."""
    return in_database(targets.DIRECT, urlsplit(weir.address).path[1:])


@pytest.fixture(scope="module")
def weir(tmp_path_factory, database):
    with cache_weir(tmp_path_factory.mktemp("weir"), CACHE, database) as weir:
        yield weir.wait_until_ready()


@pytest.fixture
def client(weir):
    with Connection.login(weir.address) as connection:
        yield connection


@pytest.fixture
def direct(database):
    """The server itself: what is written here the proxy does not see."""
    with Connection.login(in_database(targets.DIRECT, database)) as connection:
        yield connection


@pytest.fixture
def table(request, weir, client):
    """A table with the columns `id` and `v`, and 5 rows; its name."""
    name = "c_" + "".join(c if c.isalnum() else "_" for c in request.node.name)[-40:].lower()
    for sql in (f"drop table if exists {name} cascade", f"create table {name} as select id, 0 as v from generate_series(1, 5) id"):
        assert not errors(client.query("set client_min_messages = error; " + sql + "; reset client_min_messages"))
    client.query("discard all")
    known(weir, client, name)
    yield name
    with Connection.login(weir.address) as cleaner:
        cleaner.query(f"set client_min_messages = error; drop table if exists {name} cascade")


def known(weir, client, name: str) -> None:
    """Until the catalog is loaded that has the table."""
    wait_until(lambda: reason_of(weir, lambda: client.query(f"select now() from {name}")) == "time", "the catalog is loaded")


def count(weir, reason: str) -> float:
    metrics = weir.metrics()
    return sum(value for name, value in metrics.items() if name.startswith("cache_total{") and f'reason="{reason}"' in name)


def is_hit(weir, read) -> bool:
    before = weir.metric(HIT)
    read()
    return weir.metric(HIT) > before


def warm(weir, read) -> None:
    """Until it comes from memory."""
    wait_until(lambda: is_hit(weir, read), "it is answered from memory", within=10)


def reason_of(weir, read) -> str:
    """Why it was not answered from memory, the third time."""
    read()
    read()
    moved = []
    # Behind code that may have left something a session stays where it is for a moment, and nothing is asked.
    for _ in range(20):
        before = weir.metrics()
        read()
        after = weir.metrics()
        moved = [name for name in after if name.startswith("cache_total{") and after[name] > before.get(name, 0)]
        if moved:
            break
    assert len(moved) == 1, moved
    return moved[0].split('reason="')[1].rstrip('"}')


def undisturbed(test):
    """What is kept may be void at any moment, for reasons of others'. That memory does serve is shown by one time of five."""

    @functools.wraps(test)
    def again(*, client, direct, table, **fixtures):
        for attempt in range(5):
            try:
                return test(client=client, direct=direct, table=table, **fixtures)
            except AssertionError:
                if attempt == 4:
                    raise
                client.query("rollback")
                client.query("discard all")
                assert not errors(client.query(f"update {table} set v = 0"))

    return again


# ---- what comes from memory --------------------------------------------------------------------------------------------------


@undisturbed
def test_hot_read_comes_from_memory(weir, client, direct, table):
    warm(weir, lambda: client.value(f"select v from {table} where id = 1"))
    assert not errors(direct.query(f"update {table} set v = 7"))
    assert client.value(f"select v from {table} where id = 1") == "0", "the proxy cannot know"
    assert client.value(f"/* by */ select v from {table} where id = 1 -- whom\n;") == "0", "comments count for nothing"
    assert client.value(f"select  v from {table} where id = 1") == "7", "another text"
    assert client.value(f"/* weir: nocache */ select v from {table} where id = 1") == "7"
    assert client.value(f"/* weir: primary */ select v from {table} where id = 1") == "7"


def test_cold_read_is_not_kept(weir, client, table):
    before = weir.metric("cache_entries")
    for number in range(50):
        client.query(f"select v from {table} where id = {number}")
    assert weir.metric("cache_entries") == before


def test_hint_keeps_at_once_and_says_how_long(weir, client, direct, table):
    read = f"/* weir: cache ttl=1s */ select v from {table} where id = 1"
    client.query(read)
    assert is_hit(weir, lambda: client.query(read))
    direct.query(f"update {table} set v = 3")
    wait_until(lambda: client.value(read) == "3", "its time is up", within=5)


def test_hint_asks_for_younger_ones_than_others_keep(weir, client, direct, table):
    """Who says how old a result may be gets none that is older, whoever had it kept."""
    sql = f"select v from {table} where id = 1"
    warm(weir, lambda: client.value(sql))
    direct.query(f"update {table} set v = 3")
    wait_until(lambda: client.value(f"/* weir: cache ttl=300ms */ {sql}") == "3", "it is not older", within=5)


FORMS = {
    "simple": lambda sql: [query(sql)],
    "extended": lambda sql: [extended(sql), SYNC],
    "without description": lambda sql: [parse(sql), bind(), execute(), SYNC],
    "named": lambda sql: [parse(sql, "s1"), bind("s1"), describe_portal(), execute(), SYNC],
    "binary": lambda sql: [extended(sql, result_formats=(1,)), SYNC],
    "text by name": lambda sql: [extended(sql, result_formats=(0,)), SYNC],
}


@pytest.mark.parametrize("first", FORMS)
def test_all_forms_answer_as_the_server_does(weir, direct, table, first):
    sql = f"select id, v, 'x' || v as label from {table} order by id"
    with Connection.login(weir.address) as filler:
        for _ in range(4):
            messages = FORMS[first](sql)
            if first == "named":
                messages[0] = parse(sql, f"f{_}")
                messages[1] = bind(f"f{_}")
            filler.ask(*messages)
    for name, form in FORMS.items():
        with Connection.login(weir.address) as reader, Connection.login(behind(weir)) as other:
            expected = other.ask(*form(sql))
            for _ in range(4):
                messages = form(sql)
                if name == "named":
                    messages[0], messages[1] = parse(sql, f"n{_}"), bind(f"n{_}")
                assert reader.ask(*messages) == expected, (name, _)
            # What comes behind it finds the session as the server would have left it.
            assert reader.value("select 1") == "1"
    metrics = weir.metrics()
    assert metrics[HIT] > 0


@undisturbed
def test_both_protocols_share_an_entry(weir, client, direct, table):
    sql = f"select v from {table} where id = 2"
    warm(weir, lambda: client.value(sql))
    direct.query(f"update {table} set v = 9")
    answer = client.ask(extended(sql), SYNC)
    assert rows(answer) == [(b"0",)] and tags(answer) == "12TDCZ"
    assert rows(client.ask(parse(sql), bind(), execute(), SYNC)) == [(b"0",)]
    # The statement that was parsed without a server is there when a server is needed.
    client.ask(parse(sql, "kept"), bind("kept"), execute(), SYNC)
    assert rows(client.ask(bind("kept"), execute(), SYNC)) == [(b"0",)]
    described = client.ask(describe_statement("kept"), SYNC)
    assert tags(described) == "tTZ"
    direct.query(f"update {table} set v = 10")
    assert not errors(client.query(f"update {table} set v = 11"))
    assert rows(client.ask(bind("kept"), execute(), SYNC)) == [(b"11",)]
    taken = client.ask(parse("select 1", "kept"), SYNC)
    assert errors(taken) == ["42P05"]


def test_parameters_tell_results_apart(weir, client, table):
    client.query(f"update {table} set v = id * 10")
    sql = f"select v from {table} where id = $1"
    for _ in range(4):
        for value in ("1", "2", "3"):
            answer = client.ask(extended(sql, value, types=(23,)), SYNC)
            assert rows(answer) == [(str(int(value) * 10).encode(),)]
        number = (2).to_bytes(4, "big")
        assert rows(client.ask(extended(sql, number, types=(23,), formats=(1,)), SYNC)) == [(b"20",)]
        assert rows(client.ask(extended(sql, None, types=(23,)), SYNC)) == []
    typed = f"select pg_typeof($1)::text, v from {table} where id = 1"
    for _ in range(4):
        assert rows(client.ask(extended(typed, "1", types=(23,)), SYNC))[0][0] == b"integer"
        assert rows(client.ask(extended(typed, "1", types=(20,)), SYNC))[0][0] == b"bigint"


@undisturbed
def test_memory_serves_inside_of_lazy_blocks(weir, client, direct, table):
    sql = f"select v from {table} where id = 3"
    warm(weir, lambda: client.value(sql))
    direct.query(f"update {table} set v = 8")
    assert status(client.query("begin")) == "T"
    answer = client.query(sql)
    assert rows(answer) == [(b"0",)] and status(answer) == "T"
    answer = client.ask(extended(sql), SYNC)
    assert rows(answer) == [(b"0",)] and status(answer) == "T"
    assert not errors(client.query(f"update {table} set v = v where false"))
    # From here on the block is a real one.
    assert client.value(sql) == "8"
    assert status(client.query("rollback")) == "I"


def test_pipelined_hits_keep_their_order_and_wait_for_their_reader(weir, table):
    with Connection.login(weir.address) as client:
        client.query(f"update {table} set v = id")
        big = f"select id, repeat('x', 100000) from {table} order by id"
        warm(weir, lambda: client.query(big))
        for number in range(1, 6):
            warm(weir, lambda: client.value(f"select v from {table} where id = {number}"))
        before = weir.resident()
        messages = [query(big if n % 2 else f"select v from {table} where id = {n % 5 + 1}") for n in range(400)]
        sender = threading.Thread(target=lambda: client.send(*messages))
        sender.start()
        time.sleep(0.3)  # nobody reads: it must not pile up
        assert weir.resident() - before < 30 << 20
        for n in range(400):
            answer = client.read_until_ready()
            assert len(rows(answer)) == (5 if n % 2 else 1), n
            if n % 2 == 0:
                assert rows(answer) == [(str(n % 5 + 1).encode(),)]
        sender.join()


def test_entry_is_bounded(weir, client, direct, table):
    sql = f"select repeat('x', 2000000) from {table} where id = 1"
    for _ in range(4):
        assert len(rows(client.query(sql))[0][0]) == 2000000
    metrics = weir.metrics()
    assert metrics['cache_fills_total{outcome="too_large"}'] > 0
    assert metrics["cache_size_bytes"] < metrics["cache_max_bytes"]


def test_errors_and_notices_are_not_kept(weir, client, table):
    failing = f"select 1 / v from {table}"
    for _ in range(4):
        assert errors(client.query(failing)) == ["22012"]
    client.query("set client_min_messages = debug5")
    noisy = f"select v from {table} where id = 5"
    for _ in range(4):
        assert "N" in tags(client.query(noisy))


# ---- what makes it void ------------------------------------------------------------------------------------------------------

WRITES = {
    "update": "update {t} set v = v + 1",
    "block": "begin; update {t} set v = v + 1; commit",
    "cte": "with w as (update {t} set v = v + 1 returning 1) select count(*) from w",
    "do": "do $$ begin update {t} set v = v + 1; end $$",
    "function": "select {t}_write()",
    "volatile in a read": "select {t}_write() from {t} limit 1",
    "trigger of another table": "insert into {t}_other values (1)",
    "truncate and insert": "begin; truncate {t}; insert into {t} select id, (random() * 1e6)::int from generate_series(1, 5) id; commit",
    "through a view": "update {t}_view set v = v + 1",
    "merge": "merge into {t} using (values (1)) s(x) on true when matched then update set v = v + 1",
    "execute": "prepare p_{t} as update {t} set v = v + 1; execute p_{t}; deallocate p_{t}",
    "cascade": "update {t}_parent set id = id + 1000 where id = (select max(id) from {t}_parent)",
    "alter": "begin; alter table {t} rename v to w; alter table {t} rename id to v; alter table {t} rename w to id; commit",
    "swap": "begin; alter table {t} rename to {t}_old; create table {t} as select id, v + 1 as v from {t}_old; commit",
}


@pytest.mark.parametrize("way", WRITES)
def test_write_makes_void(weir, client, table, way):
    left = f"drop table if exists {table}_other, {table}_child, {table}_parent, {table}_old cascade"
    client.query(f"set client_min_messages = error; {left}; reset client_min_messages")
    prepare = f"""
        create or replace function {table}_write() returns int volatile language sql as 'update {table} set v = v + 1; select 1';
        create table {table}_other (id int);
        create or replace function {table}_trigger() returns trigger language plpgsql as
            'begin update {table} set v = v + 1; return null; end';
        create trigger t after insert on {table}_other for each row execute function {table}_trigger();
        create view {table}_view as select id, v from {table};
        create table {table}_parent (id int primary key);
        insert into {table}_parent values (1);
        create table {table}_child (id int references {table}_parent on update cascade);
        insert into {table}_child values (1)"""
    assert not errors(client.query(prepare))
    what = f"select sum(id) from {table}_child" if way == "cascade" else f"select sum(v) from {table}"
    try:
        for form in FORMS.values():
            with Connection.login(weir.address) as reader:
                messages = form(what)
                warm(weir, lambda: Connection.login(weir.address).ask(*messages))
                before = reader.value(what)
                write = WRITES[way].format(t=table)
                assert not errors(client.query(write)), way
                after = reader.value(what)
                assert after != before, (way, before)
            if way in ("alter", "swap"):
                break
    finally:
        client.query(left)
        client.query(f"drop function {table}_write, {table}_trigger cascade")


def test_copy_makes_void(weir, table):
    with psycopg.connect(weir.address, autocommit=True) as writer, Connection.login(weir.address) as reader:
        sql = f"select count(*) from {table}"
        for number in range(3):
            warm(weir, lambda: reader.value(sql))
            with writer.cursor().copy(f"copy {table} from stdin") as copy:
                copy.write_row((100 + number, 1))
            assert reader.value(sql) == str(6 + number)


def test_rollback_makes_nothing_void(weir, client, table):
    sql = f"select sum(v) from {table}"
    warm(weir, lambda: client.value(sql))
    with Connection.login(weir.address) as writer:
        writer.query("begin")
        writer.query(f"update {table} set v = 1000")
        assert is_hit(weir, lambda: client.value(sql)), "nothing of it is visible yet"
        writer.query("rollback")
    assert is_hit(weir, lambda: client.value(sql))
    assert client.value(sql) == "0"


def test_other_tables_stay(weir, client, table):
    with Connection.login(weir.address) as writer:
        writer.query(f"create table {table}_b as select 1 as id")
        sql = f"select sum(v) from {table}"

        def stays() -> bool:
            warm(weir, lambda: client.value(sql))
            assert not errors(writer.query(f"insert into {table}_b values (2)"))
            return is_hit(weir, lambda: client.value(sql))

        # Right behind DDL nobody is sure what a write touches.
        wait_until(stays, "a write of another table leaves it")
        writer.query(f"drop table {table}_b")


def test_partition_makes_its_parent_void(weir, client, table):
    client.query(
        f"create table {table}_p (id int, v int) partition by list (id); create table {table}_p1 partition of {table}_p"
        f" for values in (1); create table {table}_p2 partition of {table}_p for values in (2)"
    )
    try:
        sql = f"select count(*) from {table}_p"
        leaf = f"select count(*) from {table}_p1"
        for number in range(1, 4):
            warm(weir, lambda: client.value(sql))
            warm(weir, lambda: client.value(leaf))
            client.query(f"insert into {table}_p1 values (1, 1)")
            assert client.value(sql) == str(number) and client.value(leaf) == str(number)
        warm(weir, lambda: client.value(leaf))
        client.query(f"insert into {table}_p values (1, 1)")
        assert client.value(leaf) == "4"
        warm(weir, lambda: client.value(sql))
        client.query(f"alter table {table}_p detach partition {table}_p1")
        assert client.value(sql) == "0"
    finally:
        client.query(f"drop table if exists {table}_p, {table}_p1, {table}_p2")


def test_materialized_view_is_void_when_refreshed(weir, client, direct, table):
    client.query(f"create materialized view {table}_m as select sum(v) as v from {table}")
    sql = f"select v from {table}_m"
    warm(weir, lambda: client.value(sql))
    client.query(f"update {table} set v = 1")
    assert client.value(sql) == "0"
    warm(weir, lambda: client.value(sql))
    client.query(f"refresh materialized view {table}_m")
    assert client.value(sql) == "5"


def test_outcome_unknown_counts_as_committed(weir, client, table):
    """The client vanishes with its COMMIT on the way."""
    sql = f"select sum(v) from {table}"
    for number in range(1, 6):
        warm(weir, lambda: client.value(sql))
        writer = Connection.login(weir.address)
        writer.query("begin")
        writer.query(f"update {table} set v = {number}")
        writer.send(query("commit"))
        writer.vanish()
        # Its bytes may not even have been read; whatever became of it, memory agrees with the server.
        running = "select count(*) from pg_stat_activity where state <> 'idle' and pid <> pg_backend_pid() and datname = current_database()"
        with Connection.login(behind(weir)) as direct:
            wait_until(lambda: direct.value(running) == "0", "the server is done with it", within=5)
            for _ in range(3):
                assert client.value(sql) == direct.value(sql)


def test_write_in_session_mode_makes_void(tmp_path, database):
    """Whoever keeps its server connection makes things void for the others."""
    pools = '[databases."*"]\n[users.postgres]\npool_mode = "session"\n'
    with cache_weir(tmp_path, CACHE + pools, database) as weir:
        weir.wait_until_ready()
        owner = targets.as_role_of(weir.address, targets.ADMIN)
        with Connection.login(weir.address) as client, Connection.login(owner) as writer:
            client.query("create table in_session (v int); insert into in_session values (0)")
            try:
                for number in range(1, 4):
                    warm(weir, lambda: client.value("select v from in_session"))
                    assert not errors(writer.query(f"update in_session set v = {number}"))
                    assert client.value("select v from in_session") == str(number)
            finally:
                client.query("drop table in_session")


# ---- what tells results apart ------------------------------------------------------------------------------------------------

SETTINGS = {
    "TimeZone": ("select ts from {t}_typed", "set timezone to 'UTC'", "set timezone to 'Asia/Tokyo'"),
    "DateStyle": ("select ts from {t}_typed", "set datestyle to 'ISO, MDY'", "set datestyle to 'German'"),
    "IntervalStyle": ("select i from {t}_typed", "set intervalstyle to postgres", "set intervalstyle to iso_8601"),
    "bytea_output": ("select b from {t}_typed", "set bytea_output to hex", "set bytea_output to escape"),
    "extra_float_digits": ("select f from {t}_typed", "set extra_float_digits to 1", "set extra_float_digits to -5"),
    "client_encoding": ("select u from {t}_typed", "set client_encoding to utf8", "set client_encoding to latin1"),
    "search_path": ("select v from same", "set search_path to {t}_a", "set search_path to {t}_b"),
    "lc_monetary": ("select f::numeric::money from {t}_typed", "set lc_monetary to 'C'", "set lc_monetary to 'C.UTF-8'"),
    "standard_conforming_strings": (
        "select v, 'a\\\\b' from same",
        "set search_path to {t}_a; set standard_conforming_strings to on",
        "set search_path to {t}_a; set standard_conforming_strings to off; set escape_string_warning to off",
    ),
}


@pytest.fixture(scope="module")
def typed(weir):
    with Connection.login(weir.address) as maker:
        made = maker.query(
            """create table k_typed as select timestamptz '2024-07-01 12:00:00+00' as ts, interval '1 day 2 hours' as i,
                   '\\xff00'::bytea as b, 1.23456789012345::float8 as f, 'é' as u;
               create schema k_a; create table k_a.same as select 1 as v;
               create schema k_b; create table k_b.same as select 2 as v"""
        )
        assert not errors(made)
        known(weir, maker, "k_typed")
        yield "k"
        maker.query("drop table k_typed; drop schema k_a cascade; drop schema k_b cascade")


@pytest.mark.parametrize("setting", SETTINGS)
def test_setting_tells_results_apart(weir, typed, setting):
    sql, one, two = (part.format(t=typed) for part in SETTINGS[setting])
    with Connection.login(weir.address) as first, Connection.login(weir.address) as second:
        with Connection.login(behind(weir)) as direct:
            answers = []
            for set_it in (one, two):
                direct.query(set_it)
                answers.append(rows(direct.query(sql)))
        first.query(one)
        second.query(two)
        if setting != "lc_monetary":
            assert answers[0] != answers[1]
        for _ in range(4):
            assert rows(first.query(sql)) == answers[0]
            assert rows(second.query(sql)) == answers[1]
        # A text with backslashes that may be escapes is not looked into.
        if setting != "standard_conforming_strings":
            assert is_hit(weir, lambda: first.query(sql)) and is_hit(weir, lambda: second.query(sql))
        # The same client, as it goes to and fro; also by the startup packet, and by SET LOCAL.
        for _ in range(2):
            first.query(two)
            assert rows(first.query(sql)) == answers[1]
            first.query("reset all")
            first.query(one)
            assert rows(first.query(sql)) == answers[0]
        first.query("begin")
        first.query(two.replace("set ", "set local "))
        assert rows(first.query(sql)) == answers[1]
        first.query("rollback")
        assert rows(first.query(sql)) == answers[0]


def test_setting_of_the_startup_packet_tells_results_apart(weir, typed):
    for _ in range(4):
        for path, value in (("k_a", "1"), ("k_b", "2")):
            with Connection.login(weir.address, options=f"-c search_path={path}") as client:
                assert client.value("select v from same") == value


def test_application_name_is_no_setting_of_the_result(weir, typed):
    with Connection.login(weir.address, application_name="one") as one:
        warm(weir, lambda: one.value("select v from k_a.same"))
    with Connection.login(weir.address, application_name="two") as two:
        assert is_hit(weir, lambda: two.value("select v from k_a.same"))


@pytest.fixture(scope="module")
def tenants(weir):
    """Rows of two tenants, by user, by setting, and by a function; and users for them."""
    if not targets.ADMIN:
        pytest.skip("WEIR_ADMIN_URL is not set")
    with Connection.login(targets.as_role_of(weir.address, targets.ADMIN)) as admin:
        admin.query("set client_min_messages = error; drop owned by c_anna, c_bert; drop role c_anna, c_bert")
        made = admin.query(
            """create role c_anna login password 'anna'; create role c_bert login password 'bert';
               create table by_user (owner name, what text);
               insert into by_user values ('c_anna', 'of anna'), ('c_bert', 'of bert');
               alter table by_user enable row level security;
               create policy own on by_user using (owner = current_user);
               create table by_setting (tenant text, what text);
               insert into by_setting values ('a', 'of a'), ('b', 'of b');
               alter table by_setting enable row level security;
               create policy own on by_setting using (tenant = current_setting('my.tenant', true));
               create view as_owner as select * from by_user;
               create view as_invoker with (security_invoker) as select * from by_user;
               create table only_anna (v int); insert into only_anna values (1);
               grant select on by_user, by_setting, as_owner, as_invoker to c_anna, c_bert;
               grant select on only_anna to c_anna;
               grant c_anna, c_bert to app with admin option; grant select on by_user, by_setting, as_invoker to app"""
        )
        assert not errors(made), [str(m) for m in made if m.tag == "E"]
        known(weir, admin, "by_user")
        yield admin
        admin.query(
            "drop view as_owner, as_invoker; drop table by_user, by_setting, only_anna;"
            "drop owned by c_anna, c_bert; drop role c_anna, c_bert"
        )


def login(weir, name: str) -> Connection:
    return Connection.login(f"postgresql://c_{name}:{name}@127.0.0.1:{weir.port}/{weir.address.rpartition('/')[2]}")


@pytest.mark.parametrize("relation", ["by_user", "as_invoker"])
def test_row_security_by_user(weir, tenants, relation):
    with login(weir, "anna") as anna, login(weir, "bert") as bert:
        for _ in range(5):
            assert rows(anna.query(f"select what from {relation}")) == [(b"of anna",)]
            assert rows(bert.query(f"select what from {relation}")) == [(b"of bert",)]
        assert is_hit(weir, lambda: anna.query(f"select what from {relation}"))
    with Connection.login(weir.address) as client:
        for _ in range(4):
            for name in ("anna", "bert"):
                client.query(f"set role c_{name}")
                assert rows(client.query(f"select what from {relation}")) == [(f"of {name}".encode(),)]
                client.query("reset role")
            client.query("begin; set local role c_anna")
            assert rows(client.query(f"select what from {relation}")) == [(b"of anna",)]
            client.query("rollback")
            assert rows(client.query(f"select what from {relation}")) == []


def test_row_security_by_setting(weir, tenants):
    with login(weir, "anna") as one, login(weir, "anna") as other:
        for _ in range(5):
            for client, tenant in ((one, "a"), (other, "b")):
                client.query(f"set my.tenant = '{tenant}'")
                assert rows(client.query("select what from by_setting")) == [(f"of {tenant}".encode(),)]
                client.query(f"select set_config('my.tenant', '{'b' if tenant == 'a' else 'a'}', false)")
                assert rows(client.query("select what from by_setting")) != [(f"of {tenant}".encode(),)]
                client.query("reset my.tenant")
                assert rows(client.query("select what from by_setting")) == []


def test_rights_are_not_passed_on(weir, tenants):
    with login(weir, "anna") as anna, login(weir, "bert") as bert:
        warm(weir, lambda: anna.value("select v from only_anna"))
        for _ in range(3):
            assert errors(bert.query("select v from only_anna")) == ["42501"]
        tenants.query("revoke select on only_anna from c_anna")
        assert errors(anna.query("select v from only_anna")) == ["42501"]
        tenants.query("grant select on only_anna to c_anna")


def test_temporary_table_hides_a_real_one(weir, client, table):
    sql = f"select sum(v) from {table}"
    with Connection.login(weir.address) as other:
        warm(weir, lambda: other.value(sql))
        client.query(f"create temp table {table} as select 1 as id, 99 as v")
        for _ in range(4):
            assert client.value(sql) == "99" and other.value(sql) == "0"
        client.query("discard all")
        assert client.value(sql) == "0"


# ---- what is never kept ------------------------------------------------------------------------------------------------------

NEVER = {
    "select now(), v from {t}": "time",
    "select v from {t} where current_date > '2000-01-01'": "time",
    "select v, 'now'::timestamptz from {t}": "time",
    "select v, age(timestamptz '2020-01-01') from {t}": "time",
    "select v, timetz '12:00 Europe/Berlin' from {t}": "time",
    "select * from {t}_clock": "time",
    "select v, random() from {t}": "volatile_function",
    "select v, clock_timestamp() from {t}": "volatile_function",
    "select v from {t} for update": "locking_clause",
    "select v, current_setting('work_mem') from {t}": "server_function",
    "select v, {t}_f() from {t}": "unknown_tables",
    "select relname from pg_class limit 1": "system_catalog",
    "select v, '{t}'::regclass from {t}": "system_catalog",
    "select 1": "no_table",
    "select v from {t}; select v from {t}": "several_statements",
    "select v from {t} tablesample bernoulli (50)": "volatile_function",
    "select v from {t}_unlogged": "unlogged_table",
    "/* weir: nocache */ select v from {t}": "hint",
    "/* weir: replica */ select v from {t}": "target_hint",
}


@pytest.fixture(scope="module")
def never(weir):
    with Connection.login(weir.address) as maker:
        made = maker.query(
            """create table n as select 1 as v; create unlogged table n_unlogged as select 1 as v;
               create view n_clock as select v, now() from n;
               create function n_f() returns int stable language sql as 'select v from n'"""
        )
        assert not errors(made)
        wait_until(lambda: reason_of(weir, lambda: maker.query("select now(), v from n")) == "time", "the catalog is there")
        yield "n"
        maker.query("drop table n, n_unlogged cascade; drop function n_f")


@pytest.mark.parametrize("sql", NEVER)
def test_never_kept(weir, client, never, sql):
    assert reason_of(weir, lambda: client.query(sql.format(t=never))) == NEVER[sql]


def test_parameter_that_names_the_time(weir, client, never):
    sql = f"select v, $1::date from {never}"
    assert reason_of(weir, lambda: client.ask(extended(sql, "today", types=(25,)), SYNC)) == "time"
    warm(weir, lambda: client.ask(extended(sql, "2020-01-01", types=(25,)), SYNC))


def test_more_than_a_plain_statement(weir, client, never):
    sql = f"select v from {never}"
    limited = [parse(sql), bind(), execute(rows_max=1), SYNC]
    assert reason_of(weir, lambda: client.ask(*limited)) == "messages"
    assert tags(client.ask(*limited)) == "12DsZ"
    twice = [extended(sql), extended(sql), SYNC]
    assert reason_of(weir, lambda: client.ask(*twice)) == "messages"


def test_old_statement_is_told_of_new_columns(weir, client, table):
    """Who was told of a statement's columns before they changed is not given the new ones as if nothing had happened."""
    sql = f"select * from {table} where id = 1"
    client.ask(parse(sql, "old"), describe_statement("old"), SYNC)
    for _ in range(4):
        client.ask(bind("old"), execute(), SYNC)
    with Connection.login(weir.address) as other:
        assert not errors(other.query(f"alter table {table} add column w int default 5"))
        warm(weir, lambda: other.ask(extended(sql), SYNC))
        assert len(rows(other.query(sql))[0]) == 3
    with Connection.login(behind(weir)) as direct:
        direct.ask(parse(sql.replace(" w", ""), "old"), SYNC)
    told = client.ask(bind("old"), execute(), SYNC)
    assert errors(told) == ["0A000"], "cached plan must not change result type"


# ---- operation ---------------------------------------------------------------------------------------------------------------


def test_concurrent_misses_are_one_flight(weir, table):
    with Connection.login(weir.address) as maker:
        maker.query(f"insert into {table} select g, 0 from generate_series(10, 1500) g")
        sql = f"/* weir: cache */ select count(*) from {table} a, {table} b where a.v = b.v"
        fills = 'cache_total{kind="miss",reason="fill"}'
        before = weir.metrics()
        clients = [Connection.login(weir.address) for _ in range(8)]
        try:
            for client in clients:
                client.send(query(sql))
            answers = [rows(client.read_until_ready()) for client in clients]
        finally:
            for client in clients:
                client.close()
        after = weir.metrics()
        assert len(set(map(str, answers))) == 1
        waited = 'cache_total{kind="miss",reason="waited"}'
        assert after[fills] - before[fills] == 1
        assert after[HIT] - before[HIT] + after.get(waited, 0) - before.get(waited, 0) == 7


def test_cancel_while_waiting_for_a_flight(tmp_path, table, database):
    with cache_weir(tmp_path, CACHE + 'flight_wait = "30s"\n', database) as weir:
        weir.wait_until_ready()
        with Connection.login(weir.address) as first, Connection.login(weir.address) as second:
            sql = "/* weir: cache */ select count(*) from only_one a, only_one b where a.v <> b.v"
            first.query("create table only_one as select v from generate_series(1, 12000) v")
            try:
                wait_until(lambda: reason_of(weir, lambda: first.query("select now() from only_one")) == "time", "a catalog")
                first.send(query(sql))
                wait_until(lambda: weir.metric("cache_flights") == 1, "the flight is on its way")
                second.send(query(sql))
                from wire import cancel

                wait_until(lambda: "waiting" in console(weir, "show clients"), "the second waits")
                cancel(second)
                assert errors(second.read_until_ready()) == ["57014"]
                assert second.value("select 1") == "1"
                cancel(first)
                first.read_until_ready()
                wait_until(lambda: weir.metric("cache_flights") == 0, "the flight is over")
            finally:
                first.query("drop table only_one")


def console(weir, command: str) -> str:
    address = targets.as_role_of(weir.address, targets.ADMIN or targets.DIRECT).rpartition("/")[0] + "/weir"
    with Connection.login(address) as admin:
        return "\n".join(" ".join((v or b"").decode() for v in row) for row in rows(admin.query(command)))


@undisturbed
def test_console_shows_and_flushes(weir, client, direct, table):
    sql = f"select v from {table} where id = 4"
    warm(weir, lambda: client.value(sql))
    direct.query(f"update {table} set v = 1")
    assert client.value(sql) == "0"
    console(weir, f"flush cache {table}")
    assert client.value(sql) == "1"
    warm(weir, lambda: client.value(sql))
    direct.query(f"update {table} set v = 2")
    console(weir, f"flush cache public.{table}")
    assert client.value(sql) == "2"
    warm(weir, lambda: client.value(sql))
    direct.query(f"update {table} set v = 3")
    console(weir, "flush cache")
    assert client.value(sql) == "3"
    shown = console(weir, "show cache")
    for part in ("total entries", "total bytes", "hit hit", "shape"):
        assert part in shown, shown
    shapes = console(weir, "show cache_shapes")
    assert f"select v from {table} where id = ?" in shapes, shapes
    address = targets.as_role_of(weir.address, targets.ADMIN or targets.DIRECT).rpartition("/")[0] + "/weir"
    with Connection.login(address) as admin:
        assert errors(admin.query("flush cache nobody_has_it")) == ["42P01"]


def test_why_says_whether_it_is_kept(weir, never):
    database = weir.address.rpartition("/")[2]
    asked = f"show why 'select now() from public.{never}' {database}"
    wait_until(lambda: "cache no (time)" in console(weir, asked), "the catalog is loaded")
    assert "cache when hot, for 900s" in console(weir, f"show why 'select v from public.{never}' {database}")
    assert "cache no (time)" in console(weir, f"show why 'select v, now() from public.{never}' {database}")
    assert "cache no (write)" in console(weir, f"show why 'delete from public.{never}' {database}")


def test_verification_finds_what_differs(tmp_path, direct, table, database):
    with cache_weir(tmp_path, CACHE + 'verify = "1/1"\n', database) as weir:
        weir.wait_until_ready()
        with Connection.login(weir.address) as client:
            sql = f"select v from {table} where id = 1"
            wait_until(lambda: client.value(sql) and weir.metric("cache_compared_total") >= 3, "hits are compared")
            assert weir.metric("cache_mismatches_total") == 0
            direct.query(f"update {table} set v = 5")
            assert client.value(sql) == "5", "what is compared comes from the primary"
            assert weir.metric("cache_mismatches_total") == 1
            weir.process.says("a cached result differs")
            assert reason_of(weir, lambda: client.value(sql)) == "mismatch"
            assert f"{table}" in console(weir, "show cache_shapes")


def test_without_a_stream_nothing_is_served(tmp_path, table, database):
    with cache_weir(tmp_path, "[cache]\nenabled = true\n[stream]\nenabled = false\n", database) as weir:
        weir.wait_until_ready()
        with Connection.login(weir.address) as client:
            sql = f"select v from {table}"
            wait_until(lambda: reason_of(weir, lambda: client.query(sql)) == "no_stream", "a catalog")
            assert weir.metric("cache_entries") == 0


def test_stream_tells_of_what_is_written_elsewhere(tmp_path, direct, table, database):
    with cache_weir(tmp_path, "[cache]\nenabled = true\n", database) as weir:
        weir.wait_until_ready()
        with Connection.login(weir.address) as client:
            sql, delays = f"select sum(v) from {table}", []
            for number in range(1, 31):
                wait_until(lambda: is_hit(weir, lambda: client.value(sql)), "the stream vouches")
                assert not errors(direct.query(f"update {table} set v = {number}"))
                acknowledged = time.monotonic()
                while client.value(sql) != str(5 * number):
                    assert time.monotonic() < acknowledged + 5, "it is not seen"
                delays.append(1000 * (time.monotonic() - acknowledged))
            delays.sort()
            print(f"seen {delays[15]:.1f} ms after the reply of the commit in the median, {delays[28]:.1f} at most but for one")


def test_rules_of_the_configuration(tmp_path, direct, table, database):
    rules = f"""
        [cache.rules.first]
        table = "{table}"
        cache = "always"
        ttl = "1s"
        [cache.rules.never]
        table = "public.{table}_secret"
        cache = "never"
        [cache.rules.user]
        user = "nobody"
        cache = "never"
        """
    with cache_weir(tmp_path, CACHE + rules, database) as weir:
        weir.wait_until_ready()
        with Connection.login(weir.address) as client:
            client.query(f"create table {table}_secret as select 1 as v")
            try:
                both = f"select a.v from {table} a, {table}_secret b where a.id = 1"
                wait_until(lambda: reason_of(weir, lambda: client.query(both)) == "rule", "the careful one wins")
                sql = f"select v from {table} where id = 1"
                client.query(sql)
                assert is_hit(weir, lambda: client.query(sql)), "from the first time on"
                direct.query(f"update {table} set v = 4")
                wait_until(lambda: client.value(sql) == "4", "a second is short", within=5)
            finally:
                client.query(f"drop table {table}_secret")


def test_accounting_is_honest(tmp_path, table, database):
    """What the process takes more than before is what the cache says, by and large."""
    with cache_weir(tmp_path, CACHE + 'bytes = "12MB"\nadmission_window = "1h"\n[pool]\nmax = 2\n', database) as weir:
        weir.wait_until_ready()
        with Connection.login(weir.address) as client:
            warm(weir, lambda: client.value(f"select v from {table} where id = 1"))
            before = weir.resident()
            for number in range(0, 16_000, 200):
                client.send(*(query(f"/* weir: cache */ select v + {n}, 'abc' from {table} where id = 1") for n in range(number, number + 200)))
                client.read_until_ready(200)
            metrics = weir.metrics()
            taken = weir.resident() - before
            print(f"{metrics['cache_entries']:.0f} entries, {metrics['cache_size_bytes'] / 2**20:.1f} MB said, {taken / 2**20:.1f} MB taken")
            assert metrics["cache_size_bytes"] <= metrics["cache_max_bytes"]
            assert metrics["cache_entries"] > 15_000
            assert taken < 1.25 * metrics["cache_size_bytes"] + (2 << 20)
