"""Tries to get a wrong answer from memory: writes that hide, names that come to mean something else, rights that are taken away. The
change stream is off, so that nothing but what Weir sees by itself makes results void."""

import asyncio
import os
from urllib.parse import urlsplit

import asyncpg
import psycopg
import psycopg2
import pytest
import sqlalchemy

import targets
from own_servers import needs_weir, wait_until
from watched_weir import WatchedWeir
from wire import SYNC, Connection, bind, describe_portal, errors, execute, extended, parse, query, rows

pytestmark = [
    needs_weir,
    pytest.mark.skipif(targets.NOISY, reason="its Weir has no neighbors; once is enough"),
    pytest.mark.xdist_group("cache_hostile"),
]

HIT = 'cache_total{kind="hit",reason="hit"}'

CONFIGURATION = '[cache]\nenabled = true\nfreshness = "proxy"\n[stream]\nenabled = false\n'


def in_database(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


@pytest.fixture(scope="module")
def weir(tmp_path_factory):
    name = f"hostile_{os.getpid()}"
    admin = targets.as_role_of(targets.DIRECT, targets.ADMIN or targets.DIRECT)
    owner = urlsplit(targets.DIRECT).username
    with Connection.login(admin) as maker:
        assert not errors(maker.query(f'create database {name} owner "{owner}"'))
        with WatchedWeir(tmp_path_factory.mktemp("weir"), CONFIGURATION) as weir:
            weir.other_address = weir.address
            weir.address = in_database(weir.address, name)
            weir.admin = targets.as_role_of(weir.address, admin)
            yield weir.wait_until_ready()
        assert not errors(maker.query(f"drop database {name} with (force)"))


@pytest.fixture
def client(weir):
    with Connection.login(weir.address) as connection:
        yield connection


@pytest.fixture
def table(request, weir):
    name = "h_" + "".join(c if c.isalnum() else "_" for c in request.node.name)[-40:].lower()
    with Connection.login(weir.address) as maker:
        assert not errors(maker.query(f"create table {name} as select id, 0 as v from generate_series(1, 5) id"))
        assert not errors(maker.query(f"alter table {name} add primary key (id)"))
        yield name
        maker.query(f"drop table {name} cascade")


def warm(weir, read) -> None:
    def is_hit():
        before = weir.metric(HIT)
        read()
        return weir.metric(HIT) > before

    wait_until(is_hit, "it is answered from memory", within=15)


# ---- writes that hide --------------------------------------------------------------------------------------------------------

WRITES = {
    "explain analyze": [query("explain analyze update {t} set v = 7")],
    "explain with options": [query("explain (analyze, costs off) update {t} set v = 7")],
    "copy of a write": [query("copy (update {t} set v = 7 returning v) to stdout")],
    "suspended": [parse("update {t} set v = 7 returning v"), bind(), execute(rows_max=1), SYNC],
    "suspended in a block": [
        query("begin"),
        parse("update {t} set v = 7 returning v"),
        bind(),
        execute(rows_max=1),
        SYNC,
        query("commit"),
    ],
    "behind a read": [extended("select 1"), extended("update {t} set v = 7"), SYNC],
    "in front of an error": [query("begin; update {t} set v = 7; commit; select 1 / 0")],
    "cursor over code": [
        query("begin; declare c cursor for select {t}_write(7)"),
        query("fetch all from c"),
        query("commit"),
    ],
    "held cursor over code": [query("begin; declare c cursor with hold for select {t}_write(7); commit"), query("close c")],
    "call": [query("call {t}_procedure(7)")],
    "call that fails after its commit": [query("call {t}_commits_and_fails(7)")],
    "do that commits": [query("do $$ begin update {t} set v = 7; commit; perform 1 / 0; end $$")],
    "default that writes": [query("insert into {t}_default (id) values (1)")],
    "set null": [query("delete from {t}_parent where id = 1")],
    "child by inheritance": [query("insert into {t}_child values (100, 7)")],
    "deferred trigger": [query("begin; insert into {t}_deferred values (1)"), query("commit")],
    "rule": [query("insert into {t}_rule values (7)")],
    "two phases": [query("begin; update {t} set v = 7; prepare transaction '{t}'"), query("commit prepared '{t}'")],
    "truncate of a parent": [query("truncate {t}_parent cascade")],
    "prepared in SQL": [query("prepare w as update {t} set v = 7; execute w; deallocate w")],
    "chain": [query("begin; update {t} set v = 7; commit and chain"), query("rollback")],
    "savepoint": [query("begin; savepoint a; update {t} set v = 7; release a; commit")],
    "rolled back in part": [query("begin; update {t} set v = 7; savepoint a; update {t} set v = 8; rollback to a; commit")],
    "update of a view": [query("update {t}_view set v = 7")],
    "select into": [query("alter table {t} rename to {t}_gone; select id, 7 as v into {t} from {t}_gone")],
    "in a function of a read": [query("select {t}_write(7) from {t} where id = 1")],
    "lateral": [query("select * from {t} a, lateral {t}_write(7) w")],
    "merge": [query("merge into {t} using (values (1)) s(x) on true when matched then update set v = 7")],
}

MAKE = """
    create function {t}_write(int) returns int volatile language sql as 'update {t} set v = $1; select 1';
    create procedure {t}_procedure(int) language sql as 'update {t} set v = $1';
    create procedure {t}_commits_and_fails(int) language plpgsql as 'begin update {t} set v = $1; commit; perform 1 / 0; end';
    create table {t}_default (id int, w int default {t}_write(7));
    create table {t}_parent (id int primary key);
    insert into {t}_parent values (1);
    alter table {t} add column p int references {t}_parent on delete set null;
    update {t} set p = 1;
    create table {t}_child () inherits ({t});
    create table {t}_deferred (id int);
    create function {t}_trigger() returns trigger language plpgsql as 'begin update {t} set v = 7; return null; end';
    create constraint trigger d after insert on {t}_deferred deferrable initially deferred for each row execute function {t}_trigger();
    create table {t}_rule (v int);
    create rule r as on insert to {t}_rule do also update {t} set v = new.v;
    create view {t}_view as select id, v from {t}
"""

CLEAN = """
    set client_min_messages = error;
    drop table if exists {t}_default, {t}_child, {t}_deferred, {t}_rule, {t}_gone, {t}_parent cascade;
    drop function if exists {t}_write, {t}_trigger cascade; drop procedure if exists {t}_procedure, {t}_commits_and_fails;
    reset client_min_messages
"""


@pytest.mark.parametrize("way", WRITES)
def test_write_that_hides(weir, client, table, way):
    with Connection.login(weir.address) as writer:
        for statement in MAKE.format(t=table).strip().split(";\n"):
            assert not errors(writer.query(statement)), statement
        sql = f"select count(*), sum(v), count(p) from {table}"
        if way == "select into":
            sql = f"select count(*), sum(v) from {table}"
        try:
            warm(weir, lambda: client.query(sql))
            before = rows(client.query(sql))
            for sent in WRITES[way]:
                writer.send(rebuilt(sent, table))
                if sent[:1] == b"Q" or sent == SYNC or sent.endswith(SYNC):
                    writer.read_until_ready()
            after = rows(client.query(sql))
            with Connection.login(in_database(targets.DIRECT, urlsplit(weir.address).path[1:])) as direct:
                assert after == rows(direct.query(sql))
            assert after != before, "nothing was written"
        finally:
            client.query("rollback")
            writer.query("rollback")
            for statement in CLEAN.format(t=table).split(";"):
                writer.query(statement)


def rebuilt(message: bytes, table: str) -> bytes:
    """With the table's name, and lengths that are right again."""
    out = b""
    while message:
        length = int.from_bytes(message[1:5], "big")
        body = message[5 : length + 1].replace(b"{t}", table.encode())
        out += message[:1] + (len(body) + 4).to_bytes(4, "big") + body
        message = message[length + 1 :]
    return out


# ---- names that come to mean something else ------------------------------------------------------------------------------------


def test_table_that_a_function_hides(weir, client, table):
    """A function makes a temporary table of the same name."""
    client.query(
        f"create function {table}_hide() returns void volatile language plpgsql as"
        f" 'begin execute ''create temp table {table} as select 1 as id, 99 as v''; end'"
    )
    sql = f"select sum(v) from {table}"
    warm(weir, lambda: client.value(sql))
    with Connection.login(weir.address) as other:
        assert not errors(other.query(f"select {table}_hide()"))
        for _ in range(3):
            assert other.value(sql) == "99" and client.value(sql) == "0"
        other.query("discard all")
        assert other.value(sql) == "0"
    client.query(f"drop function {table}_hide")


def test_path_that_changes_in_a_block(weir, client, table):
    client.query(f"create schema if not exists hidden; create table hidden.{table} as select 1 as id, 55 as v")
    sql = f"select sum(v) from {table}"
    try:
        warm(weir, lambda: client.value(sql))
        for change in (
            "set local search_path = hidden, public",
            "set search_path = hidden, public",
            "select set_config('search_path', 'hidden, public', true)",
            "savepoint a; set search_path = hidden, public",
        ):
            client.query("begin")
            assert client.value(sql) == "0"
            client.query(change)
            assert client.value(sql) == "55", change
            if "savepoint" in change:
                client.query("rollback to a")
                assert client.value(sql) == "0"
            client.query("rollback")
            assert client.value(sql) == "0", change
        client.query("set local search_path = hidden, public")
        assert client.value(sql) == "0", "outside of a block it does nothing"
        warm(weir, lambda: client.value(sql))
        # A name in front of it in the path, where there was none.
        client.query("set search_path = hidden, public")
        assert client.value(sql) == "55"
        warm(weir, lambda: client.value(sql))
        with Connection.login(weir.address) as other:
            other.query(f"drop table hidden.{table}")
            assert client.value(sql) == "0"
            warm(weir, lambda: client.value(sql))
            other.query(f"create table hidden.{table} as select 1 as id, 56 as v")
            assert client.value(sql) == "56"
    finally:
        client.query("reset search_path")
        client.query("drop schema hidden cascade")


LITERALS = [
    "select v, '{{today}}'::date[] from {t}",
    "select v from {t} where daterange('[today,tomorrow)') @> date '2024-01-01'",
    "select v, '[today,tomorrow)'::daterange from {t}",
    "select v, ('(\"today\")'::{t}_row).d from {t}",
    "select v, (jsonb_populate_record(null::{t}_row, '{{\"d\": \"today\"}}')).d from {t}",
    "select v, to_timestamp(0) < 'now'::timestamptz from {t}",
    "select v, cast('tomorrow' as date) from {t}",
    "select v, 'NOW '::timestamp from {t}",
    "select v, E'to\\x64ay'::date from {t}",
    "select v, U&'t\\006Fday'::date from {t}",
    "select v, $$today$$::date from {t}",
]


@pytest.mark.parametrize("sql", LITERALS)
def test_time_that_hides(weir, client, table, sql):
    assert not errors(client.query(f"create type {table}_row as (d date)"))
    try:
        sql = sql.format(t=table)
        assert not errors(client.query(sql)), sql
        warm(weir, lambda: client.query(f"select v from {table}"))
        before = weir.metric(HIT)
        for _ in range(12):
            client.query(sql)
        assert weir.metric(HIT) == before, "it is another tomorrow"
    finally:
        client.query(f"drop type {table}_row cascade")


# ---- rights --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def reader(weir, table):
    """A connection of a role that may read by its membership in another: `reader` and `group` are its names."""
    # Names of their own: whoever is connected as a role that was dropped is not the new one of that name.
    names = {"reader": f"r{abs(hash(table)) % 10**9}", "group": f"g{abs(hash(table)) % 10**9}"}
    with Connection.login(weir.admin) as admin:
        make = "create role {group}; create role {reader} login password 'h'; grant {group} to {reader}; grant select on "
        made = admin.query((make + table + " to {group}").format(**names))
        assert not errors(made)
        try:
            netloc = f"{names['reader']}:h@127.0.0.1:{urlsplit(weir.address).port}"
            with Connection.login(urlsplit(weir.address)._replace(netloc=netloc).geturl()) as connection:
                connection.names = names
                yield connection
        finally:
            gone = admin.query("drop owned by {group}, {reader}; drop role {reader}, {group}".format(**names))
            assert not errors(gone), [str(message) for message in gone]


@pytest.mark.skipif(not targets.ADMIN, reason="it takes a superuser")
@pytest.mark.parametrize("where", ["the same database", "another database"])
def test_membership_that_ends(weir, table, reader, where):
    sql = f"select sum(v) from {table}"
    warm(weir, lambda: reader.value(sql))
    address = weir.admin if where == "the same database" else in_database(weir.admin, "postgres")
    with Connection.login(address) as admin:
        assert not errors(admin.query("revoke {group} from {reader}".format(**reader.names)))
        assert errors(reader.query(sql)) == ["42501"]


@pytest.mark.skipif(not targets.ADMIN, reason="it takes a superuser")
def test_row_security_that_no_longer_binds(weir, table, reader):
    sql = f"select count(*) from {table}"
    with Connection.login(weir.admin) as admin, Connection.login(in_database(weir.admin, "postgres")) as elsewhere:
        admin.query(f"alter table {table} enable row level security")
        admin.query(f"create policy p on {table} using (id = 1)")
        for _ in range(2):
            warm(weir, lambda: reader.value(sql))
            assert reader.value(sql) == "1"
            elsewhere.query("alter role {reader} bypassrls".format(**reader.names))
            assert reader.value(sql) == "5"
            elsewhere.query("alter role {reader} nobypassrls".format(**reader.names))
            assert reader.value(sql) == "1"


# ---- drivers -------------------------------------------------------------------------------------------------------------------


def test_psycopg_sees_its_own_writes(weir, table):
    with psycopg.connect(weir.address, autocommit=True) as one, psycopg.connect(weir.address) as two:
        one.prepare_threshold = two.prepare_threshold = 1
        sql = f"select v from {table} where id = %s"
        for version in range(1, 40):
            assert one.execute(sql, (1,)).fetchone() == (version - 1,)
            two.execute(f"update {table} set v = %s where id = 1", (version,))
            assert two.execute(sql, (1,)).fetchone() == (version,)
            assert one.execute(sql, (1,)).fetchone() == (version - 1,), "not committed"
            with two.transaction(force_rollback=True):
                two.execute(f"update {table} set v = 1000 where id = 1")
                assert two.execute(sql, (1,)).fetchone() == (1000,)
            assert two.execute(sql, (1,)).fetchone() == (version,)
            two.commit()
            assert one.execute(sql, (1,)).fetchone() == (version,)
            assert one.execute(sql, (1,)).fetchone() == (version,)


def test_psycopg2_rolls_back(weir, table):
    one, two = psycopg2.connect(weir.address), psycopg2.connect(weir.address)
    try:
        with one.cursor() as reader, two.cursor() as writer:
            for version in range(1, 30):
                writer.execute(f"update {table} set v = {1000 + version}")
                reader.execute(f"select max(v) from {table}")
                assert reader.fetchone() == (version - 1,)
                one.rollback()
                two.rollback()
                writer.execute(f"update {table} set v = {version}")
                two.commit()
                for _ in range(3):
                    reader.execute(f"select max(v) from {table}")
                    assert reader.fetchone() == (version,)
                one.commit()
    finally:
        one.close()
        two.close()


def test_asyncpg_prepared_before_ddl(weir, table):
    async def run():
        one, two = await asyncpg.connect(weir.address), await asyncpg.connect(weir.address)
        try:
            sql = f"select * from {table} where id = $1"
            for round_number in range(4):
                for _ in range(4):
                    assert len(await one.fetchrow(sql, 1)) == 2 + round_number
                await two.execute(f"alter table {table} add column c{round_number} int default {round_number}")
                try:
                    found = await one.fetchrow(sql, 1)
                except asyncpg.InvalidCachedStatementError:
                    found = await one.fetchrow(sql, 1)
                assert len(found) == 3 + round_number and found[f"c{round_number}"] == round_number
                await two.execute(f"alter table {table} alter c{round_number} type text using 'x' || c{round_number}")
                try:
                    found = await one.fetchrow(sql, 1)
                except asyncpg.InvalidCachedStatementError:
                    found = await one.fetchrow(sql, 1)
                assert found[f"c{round_number}"] == f"x{round_number}"
        finally:
            await one.close()
            await two.close()

    asyncio.run(run())


def test_sqlalchemy_sessions_of_two_tenants(weir, client, table):
    """As schema-per-tenant applications do it: the path is set when a transaction begins."""
    for tenant in ("ta", "tb"):
        client.query(f"create schema {tenant}; create table {tenant}.things as select '{tenant}' as whose")
    engine = sqlalchemy.create_engine(weir.address.replace("postgresql://", "postgresql+psycopg://"), pool_size=2)
    try:
        for number in range(60):
            tenant = "ta" if number % 2 else "tb"
            with engine.begin() as connection:
                how = (f"set local search_path = {tenant}", f"set search_path to {tenant}")[number % 3 == 0]
                connection.execute(sqlalchemy.text(how))
                for _ in range(3):
                    assert connection.execute(sqlalchemy.text("select whose from things")).scalar() == tenant
            with engine.begin() as connection:
                connection.execute(sqlalchemy.text("reset search_path"))
    finally:
        engine.dispose()
        client.query("drop schema ta, tb cascade")


def test_described_without_being_run(weir, client, table):
    """A description alone is the server's; a hit behind it has the columns of now."""
    sql = f"select * from {table} where id = 1"
    warm(weir, lambda: client.ask(extended(sql), SYNC))
    with Connection.login(weir.address) as other:
        for number in range(3):
            other.query(f"alter table {table} rename v to v{number}")
            answer = client.ask(parse(sql), bind(), describe_portal(), execute(), SYNC)
            described = next(message.body for message in answer if message.tag == "T")
            assert b"v%d\0" % number in described
            other.query(f"alter table {table} rename v{number} to v")
