"""Reads by simple query run prepared, with their constants beside them, and nobody notices: every message is the one that PostgreSQL
itself sends, errors and their positions included."""

import os
import threading

import pytest

import targets
from own_servers import needs_weir, wait_until
from watched_weir import WatchedWeir
from wire import SYNC, Connection, bind, cancel, errors, execute, extended, parse, query, rows, status, tags

pytestmark = [
    needs_weir,
    pytest.mark.skipif(targets.NOISY, reason="its Weir has no neighbors; once is enough"),
    pytest.mark.xdist_group("templates"),
]

SCHEMA = f"templates_{os.getpid()}"

TABLES = """
create type mood as enum ('sad', 'happy');
create domain positive as int check (value > 0);
create table kinds (
    id int primary key, big bigint, small smallint, price numeric(10,2), ratio float8, single real, name text, code char(5),
    short varchar(10), mood mood, day date, at timestamptz, flag bool, tags text[], doc jsonb, uid uuid, title name, bits bit(4),
    positive positive, parent int
);
insert into kinds select n, n * 1000000000::bigint, n, n * 1.5, n / 3.0, n / 3.0, 'name ' || n, 'c' || n, 'v' || n,
    case when n % 2 = 0 then 'sad'::mood else 'happy'::mood end, date '2026-01-01' + n, timestamptz '2026-01-01 00:00+00' + n * interval '1 day',
    n % 2 = 0, array['t' || n], jsonb_build_object('k', n), ('00000000-0000-0000-0000-00000000000' || n % 10)::uuid, 't' || n, n::bit(4),
    n, n / 2
from generate_series(1, 9) n;
create view seen as select * from kinds where id < 8;
"""

# A text, and values for its place, of which some are no good.
TEXTS = {
    "a key": ("select * from kinds where id = {}", ["1", "2", "99", "2147483648", "'3'", "'x'", "1.5", "4"]),
    "a bigint": ("select big from kinds k where k.big >= {}", ["1", "5000000000", "'6000000000'", "99999999999999999999", "''"]),
    "a smallint": ("select small from kinds where small <> {}", ["1", "40000", "'7'", "'40000'"]),
    "a numeric": ("select price, price = 1.50 from kinds where price <= {}", ["3", "3.00", "'4.5'", "'nan'", "1e0"]),
    "a float": ("select id from kinds where ratio > {} order by 1 desc", ["1", "1.0", "0.33333333333333331", "'2'", "'a'"]),
    "a real": ("select id from kinds where single = {}", ["0.33333334", "'0.33333334'", "1"]),
    "a text": ("select id, name from kinds where name = {}", ["'name 1'", "'it''s'", "''", "'ä'", "1", "'name 2'"]),
    "a char": ("select code, length(code) from kinds where code = {}", ["'c1'", "'c1   '", "'c1    x'"]),
    "a varchar": ("select short from kinds where short = {} or short is null", ["'v1'", "'v1 '", "'longer than ten'"]),
    "an enum": ("select id, mood from kinds where mood = {} limit 2", ["'sad'", "'happy'", "'glad'", "'sad'"]),
    "a date": ("select id from kinds where day = {}", ["'2026-01-03'", "'3 January 2026'", "'never'", "'2026-02-30'", "'infinity'"]),
    "now": ("select count(*) from kinds where at < {}", ["'now'", "'today'", "'2026-01-04 00:00+00'", "'2026-01-04'"]),
    "a boolean": ("select count(*) from kinds where flag = {}", ["'t'", "'no'", "'maybe'", "1"]),
    "an array": ("select id from kinds where tags = {}", ["'{t1}'", "'{t2}'", "'{'"]),
    "a document": ("select id, doc from kinds where doc = {}", ["'{\"k\": 1}'", "'{\"k\":2}'", "'{'"]),
    "a member": ("select id from kinds where (doc ->> 'k') = {}", ["'1'", "'2'", "1"]),
    "a uuid": ("select id from kinds where uid = {}", ["'00000000-0000-0000-0000-000000000001'", "'x'"]),
    "a name": ("select id from kinds where title = {}", ["'t1'", "'" + "t" * 80 + "'"]),
    "bits": ("select id from kinds where bits = {}", ["'0001'", "B'0001'", "'2'"]),
    "a domain": ("select id from kinds where positive = {}", ["1", "-1", "0", "'1'"]),
    "a function's": ("select id from kinds where lower(name) = {} or length(name) < {}", ["'name 1'", "'NAME'", "3"]),
    "twice": ("select id from kinds where id = {} or parent = {}", ["1", "2", "'3'"]),
    "a join": (
        "select a.id, b.name from kinds a join kinds b on b.id = a.parent where a.id = {} order by b.id limit 10",
        ["2", "3", "4"],
    ),
    "a view": ("select count(*), sum(id) from seen where id > {}", ["1", "2", "3"]),
    "groups": ("select parent, count(*) from kinds where id <> {} group by parent having count(*) > {} order by 2, 1", ["1", "2", "0"]),
    "an expression to group by": ("select id = {}, count(*) from kinds group by id = {} order by 1", ["1", "2", "3"]),
    "distinct": ("select distinct on (id = {}) id = {} as is, id from kinds order by id = {}, id", ["1", "2", "3"]),
    "ordinals": ("select parent, id from kinds order by {}, 2", ["1", "2", "3"]),
    "a constant's name": ("select {}, {} as x from kinds where id = 1", ["1", "'a'", "1.5", "null"]),
    "a union": ("select id from kinds where id = {} union all select 0 where 1 = {}", ["1", "2", "3"]),
    "an error by row": ("select 10 / (id - 3) from kinds where id >= {} order by id", ["1", "4", "2", "5"]),
    "an error by plan": ("select id from kinds where id = 1 / 0 and id = {}", ["1", "2", "3"]),
    "an unknown column": ("select nothing from kinds where id = {}", ["1", "2", "3"]),
    "an unknown operator": ("select id from kinds where doc = tags and id = {}", ["1", "2", "3"]),
    "a syntax error": ("select id from kinds where id = {} order", ["1", "2", "3"]),
    "a case": ("select case when id = {} then 'one' when id < {} then 'few' else 'many' end from kinds order by id", ["1", "2", "3"]),
    "a cast": ("select id from kinds where at = {}::timestamptz or id = {}::int", ["'2'", "2"]),
    "a subquery": ("select id, (select count(*) from kinds x where x.parent = k.id and x.id > {}) from kinds k where k.id = {}", ["1", "2", "3"]),
    "a common table": ("with w as (select * from kinds where id < {}) select count(*) from w where name <> {}", ["3", "'name 1'", "5"]),
    "comments": ("/* a */ select id /* b */ from kinds -- c\n where id = {} /*route='x'*/", ["1", "2", "'x'", "3"]),
    "a semicolon": ("select id from kinds where id = {};", ["1", "2", "3"]),
    "no constants": ("select count(*) from kinds{}", ["", "", "", ""]),
    "no rows, no columns": ("select from kinds where id = {}", ["1", "99", "2"]),
    "several statements": ("select id from kinds where id = {}; select 2", ["1", "2", "3"]),
    "a long name": ("select id as " + "n" * 70 + " from kinds where id = {}", ["1", "2", "3"]),
    "settings": ("select id, day, at, ratio from kinds where id = {}", ["1", "2", "3"]),
    "nothing": ("{}", ["", ";", "-- x", ""]),
}


@pytest.fixture(scope="module")
def weir(tmp_path_factory):
    with Connection.login(targets.DIRECT) as maker:
        assert not errors(maker.query(f"create schema {SCHEMA}; set search_path = {SCHEMA}; {TABLES}"))
        try:
            # Where reads are known, whether there is a replica for them or not.
            settings = "[splitting]\nenabled = true\n[pool]\nmax = 1\n"
            with WatchedWeir(tmp_path_factory.mktemp("weir"), settings) as weir:
                yield weir.wait_until_ready()
        finally:
            maker.query(f"set client_min_messages = error; drop schema {SCHEMA} cascade")


@pytest.fixture
def client(weir):
    with Connection.login(weir.address, options=f"-c search_path={SCHEMA}") as connection:
        # Until the catalog is loaded.
        becomes_prepared(connection, "select id from kinds where parent = {}")
        yield connection


@pytest.fixture
def direct():
    with Connection.login(targets.DIRECT, options=f"-c search_path={SCHEMA}") as connection:
        yield connection


def is_prepared(client, text: str) -> bool:
    """Whether the server has prepared it for the client, by the second time at the latest."""
    for value in (1, 2):
        client.query(text.format(value))
    prepared = client.query("select statement from pg_prepared_statements")
    return any(statement == text.format("$1").encode() for (statement,) in rows(prepared))


def becomes_prepared(client, text: str) -> None:
    """Others change the catalog meanwhile, and until it has been read anew no read is known to be one."""
    wait_until(lambda: is_prepared(client, text), f"{text} runs prepared")


def seen(answer) -> list[tuple[str, bytes]]:
    return [(message.tag, message.body) for message in answer]


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("block", ["", "in a block"])
def test_every_message_is_the_same(client, direct, name, block):
    text, values = TEXTS[name]
    for _ in range(2):
        for value in values:
            sql = text.replace("{}", value)
            for statement in ["begin", sql, "rollback"] if block else [sql]:
                assert seen(client.query(statement)) == seen(direct.query(statement)), statement


def test_it_is_what_runs(client):
    becomes_prepared(client, "select name from kinds where id = {}")
    becomes_prepared(client, "select name from kinds where parent = {} limit 3")
    # Nobody knows what it does.
    assert not is_prepared(client, "select name, random() from kinds where id = {}")
    # It was sent as it came once it had been refused.
    assert errors(client.query("select id = 1, count(*) from kinds group by id = 1")) == []


def test_it_can_be_switched_off(tmp_path, weir):
    settings = "[splitting]\nenabled = true\n[prepared]\nsimple = false\n[pool]\nmax = 1\n"
    with WatchedWeir(tmp_path, settings) as plain:
        plain.wait_until_ready()
        with Connection.login(plain.address, options=f"-c search_path={SCHEMA}") as client:
            wait_until(lambda: client.query("select 1") and plain.metrics().get('route_total{reason="no_replica",target="primary"}', 0) > 0, "reads are known")
            assert not is_prepared(client, "select name from kinds where id = {}")


def test_a_changed_table_is_seen(client, direct):
    for sql in ("drop table if exists changing", "create table changing as select 1 as id, 'a' as v"):
        assert not errors(client.query(f"set client_min_messages = error; {sql}"))
    becomes_prepared(client, "select * from changing where id = {}")
    for change in ("alter table changing add w int default 7", "alter table changing alter v type varchar(3)", "alter table changing rename v to x"):
        # Past Weir, so that nothing but the server tells.
        assert not errors(direct.query(change))
        for _ in range(2):
            sql = "select * from changing where id = 1"
            assert seen(client.query(sql)) == seen(direct.query(sql))
    client.query("drop table changing")


def test_settings_that_change_what_a_text_means(client, direct):
    for setting in ("DateStyle = 'German'", "TimeZone = 'Asia/Tokyo'", "extra_float_digits = 0", f"search_path = pg_catalog, {SCHEMA}", "bytea_output = escape"):
        for connection in (client, direct):
            connection.query(f"set {setting}")
        for value in ("'2026-01-03'", "'03.01.2026'", "'01/03/2026'"):
            sql = f"select id, day, at, ratio from kinds where day = {value}"
            assert seen(client.query(sql)) == seen(direct.query(sql)), (setting, value)


def test_backslashes_are_as_the_server_reads_them(client, direct):
    for connection in (client, direct):
        connection.query("set escape_string_warning = off; set standard_conforming_strings = off")
    for value in (r"'name \1'", r"'name\0401'", r"'a\'b'"):
        sql = f"select id from kinds where name = {value}"
        for _ in range(2):
            assert seen(client.query(sql)) == seen(direct.query(sql))


def test_beside_extended_statements(client):
    """To the client a simple query drops the unnamed statement, and what it prepared by name stays."""
    client.ask(parse("select name from kinds where id = $1::int", "mine"), SYNC)
    for number in range(1, 4):
        assert rows(client.ask(extended("select $1::text", "x"), SYNC)) == [(b"x",)]
        assert client.value(f"select name from kinds where id = {number}") == f"name {number}"
        assert errors(client.ask(bind(), execute(), SYNC)) == ["26000"]
        assert rows(client.ask(bind("mine", (str(number).encode(),)), execute(), SYNC)) == [(f"name {number}".encode(),)]


def test_pipelined(client):
    """The next queries are there before the first is answered; one in the middle fails."""
    texts = [f"select name from kinds where id = {value}" for value in ("1", "'x'", "2", "3")]
    for _ in range(3):
        client.send(*map(query, texts))
        answer = client.read_until_ready(4)
        assert tags(answer) == "TDCZEZTDCZTDCZ"
        assert [row for (row,) in rows(answer)] == [b"name 1", b"name 2", b"name 3"]


def test_cancel_ends_it_once(client):
    sql = "select count(*) from kinds a, kinds b, kinds c, kinds d, kinds e, kinds f, kinds g, kinds h where a.id > {}"
    assert status(client.query("set statement_timeout = '50ms'")) == "I"
    for value in (0, 1, 2):
        assert errors(client.query(sql.format(value))) == ["57014"]
    client.query("reset statement_timeout")
    for value in (0, 1):
        client.send(query(sql.format(value)))
        threading.Timer(0.3, cancel, [client]).start()
        assert errors(client.read_until_ready()) == ["57014"]
    assert client.value("select name from kinds where id = 1") == "name 1"
