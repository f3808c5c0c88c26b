"""psycopg 3: sync, async, pipelines, binary, COPY, server-side cursors, prepared statements, cancelling."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timezone
from decimal import Decimal
from uuid import UUID

import psycopg
import pytest
from psycopg import pq
from psycopg.rows import class_row, dict_row

from targets import with_options
from watcher import wait_until_running

IDLE, INTRANS, INERROR = pq.TransactionStatus.IDLE, pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR


@pytest.fixture
def connection(schema):
    with psycopg.connect(schema.url) as connection:
        yield connection


@pytest.fixture
def autocommit(schema):
    with psycopg.connect(schema.url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def other(schema):
    with psycopg.connect(schema.url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def table(autocommit):
    autocommit.execute("create table t (id int primary key, name text)")
    autocommit.execute("insert into t select n, 'n' || n from generate_series(1, 10) n")
    return autocommit


def value(connection, sql, params=None, **how):
    (found,) = connection.execute(sql, params, **how).fetchone()
    return found


# ---- connections and transactions --------------------------------------------------------------------------------------------


def test_process_id_is_the_servers_word(autocommit):
    for _ in range(3):
        assert value(autocommit, "select pg_backend_pid()") == autocommit.info.backend_pid
    with autocommit.transaction():
        assert value(autocommit, "select pg_backend_pid()", prepare=True) == autocommit.info.backend_pid
        assert value(autocommit, "select pg_backend_pid()", binary=True) == autocommit.info.backend_pid


def test_process_id_stays_while_other_clients_run(autocommit, schema):
    """A pooled client is served by many server connections, and must not notice."""

    def ask(_):
        with psycopg.connect(schema.url, autocommit=True) as mine:
            return {value(mine, "select pg_backend_pid()") for _ in range(20)}, mine.info.backend_pid

    with ThreadPoolExecutor(8) as threads:
        for seen, own in threads.map(ask, range(16)):
            assert seen == {own}
    assert value(autocommit, "select pg_backend_pid()") == autocommit.info.backend_pid


def test_commit_and_rollback(connection, other):
    connection.execute("create table t (id int)")
    connection.commit()
    connection.execute("insert into t values (1)")
    assert connection.info.transaction_status == INTRANS
    connection.rollback()
    assert connection.info.transaction_status == IDLE
    connection.execute("insert into t values (2)")
    connection.commit()
    assert other.execute("select id from t").fetchall() == [(2,)]


def test_read_only_block_ends_idle(connection):
    for end in (connection.commit, connection.rollback):
        assert value(connection, "select 1") == 1
        assert connection.info.transaction_status == INTRANS
        end()
        assert connection.info.transaction_status == IDLE


def test_error_in_a_transaction_lasts_until_rollback(connection):
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("select 1/0")
    assert connection.info.transaction_status == INERROR
    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        connection.execute("select 1")
    connection.rollback()
    assert value(connection, "select 1") == 1


def test_transaction_nesting(table, other):
    with table.transaction():
        table.execute("insert into t values (20, 'outer')")
        with pytest.raises(psycopg.errors.UniqueViolation), table.transaction():
            table.execute("insert into t values (20, 'again')")
        with table.transaction() as inner:
            table.execute("insert into t values (21, 'undone')")
            raise psycopg.Rollback(inner)
        with table.transaction():
            table.execute("insert into t values (22, 'kept')")
        assert value(other, "select count(*) from t where id >= 20") == 0
    assert other.execute("select id from t where id >= 20 order by id").fetchall() == [(20,), (22,)]


def test_set_is_undone_by_rollback_and_by_rollback_to(table):
    before = value(table, "show work_mem")
    with table.transaction() as block:
        table.execute("set work_mem = '12MB'")
        assert value(table, "show work_mem") == "12MB"
        with table.transaction() as savepoint:
            table.execute("set work_mem = '13MB'")
            raise psycopg.Rollback(savepoint)
        assert value(table, "show work_mem") == "12MB"
        raise psycopg.Rollback(block)
    assert value(table, "show work_mem") == before
    with table.transaction():
        table.execute("set local work_mem = '14MB'")
        assert value(table, "show work_mem") == "14MB"
    assert value(table, "show work_mem") == before


@pytest.mark.parametrize("level", list(psycopg.IsolationLevel))
def test_isolation_levels(connection, other, level):
    connection.execute("create table t (id int)")
    connection.commit()
    connection.isolation_level = level
    assert value(connection, "show transaction_isolation") == level.name.lower().replace("_", " ")
    connection.execute("select count(*) from t")
    other.execute("insert into t values (1)")
    sees_later_commits = level in (psycopg.IsolationLevel.READ_COMMITTED, psycopg.IsolationLevel.READ_UNCOMMITTED)
    assert value(connection, "select count(*) from t") == int(sees_later_commits)
    connection.rollback()
    assert value(connection, "select count(*) from t") == 1


def test_read_only_and_deferrable(connection):
    connection.execute("create table t (id int)")
    connection.commit()
    connection.read_only = True
    connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    connection.deferrable = True
    assert value(connection, "select count(*) from t") == 0
    assert value(connection, "show transaction_read_only") == "on"
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("insert into t values (1)")


def test_serialization_failure_reaches_the_client(schema, table):
    clients = [psycopg.connect(schema.url) for _ in range(2)]
    for client in clients:
        client.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        assert value(client, "select count(*) from t") == 10
    for number, client in enumerate(clients):
        client.execute("insert into t values (%s, 'skew')", [100 + number])
    clients[0].commit()
    with pytest.raises(psycopg.errors.SerializationFailure):
        clients[1].commit()
    for client in clients:
        client.close()
    assert value(table, "select count(*) from t") == 11


def test_now_is_constant_within_a_transaction_and_moves_between(connection):
    first = value(connection, "select now()")
    connection.execute("create table t (at timestamptz default now())")
    assert value(connection, "select now()") >= first
    inside = value(connection, "insert into t default values returning at")
    assert value(connection, "select current_timestamp") == inside
    connection.commit()
    assert value(connection, "select now()") > inside


def test_closed_connection_leaves_no_transaction(schema, table):
    client = psycopg.connect(schema.url)
    client.execute("insert into t values (50, 'lost')")
    client.close()
    assert value(table, "select count(*) from t where id = 50") == 0
    table.execute("set lock_timeout = '10s'; truncate t")


# ---- startup options ---------------------------------------------------------------------------------------------------------


def test_options_hold_from_the_first_statement_and_are_what_reset_returns_to(schema):
    url = with_options(
        schema.base_url, search_path=f"{schema.name},public", statement_timeout="4321", **{"my.tenant": "a b"}
    )
    with psycopg.connect(url, autocommit=True, application_name="opted") as connection:
        assert value(connection, "show statement_timeout") == "4321ms"
        assert value(connection, "show search_path") == f"{schema.name},public"
        assert value(connection, "select current_setting('my.tenant')") == "a b"
        assert value(connection, "show application_name") == "opted"
        connection.execute("set statement_timeout = 9000; set search_path = public; set application_name = 'changed'")
        assert value(connection, "show statement_timeout") == "9s"
        assert connection.info.parameter_status("application_name") == "changed"
        connection.execute("reset statement_timeout; reset search_path")
        assert value(connection, "show statement_timeout") == "4321ms"
        connection.execute("reset all")
        assert value(connection, "show search_path") == f"{schema.name},public"
        assert connection.info.parameter_status("application_name") == "opted"


def test_statement_timeout_from_options_acts(schema):
    with psycopg.connect(with_options(schema.base_url, statement_timeout="50"), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
            connection.execute("select pg_sleep(10)")
        assert value(connection, "select 1") == 1


def test_info_tells_what_the_server_told(autocommit, schema):
    info = autocommit.info
    assert info.server_version // 10000 == int(value(autocommit, "show server_version_num")) // 10000
    assert info.dbname == value(autocommit, "select current_database()")
    assert info.user == value(autocommit, "select current_user")
    assert info.encoding == "utf-8"
    assert info.options and schema.name in info.options


def test_client_encoding(schema):
    with psycopg.connect(schema.url, client_encoding="latin1", autocommit=True) as connection:
        assert connection.info.encoding == "iso8859-1"
        assert value(connection, "select %s::text", ["Zoë"]) == "Zoë"
        assert value(connection, "select octet_length(convert_to('ë', 'utf8'))") == 2
        with pytest.raises(psycopg.errors.UntranslatableCharacter):
            connection.execute("select chr(8364)")
        connection.execute("set client_encoding to utf8")
        assert value(connection, "select chr(8364)") == "€"


# ---- values and formats ------------------------------------------------------------------------------------------------------

VALUES = [
    (None, "int"),
    (-5, "int8"),
    (1.5, "float8"),
    (Decimal("12345678901234567890.123"), "numeric"),
    (True, "bool"),
    ("héllo €", "text"),
    (b"\x00\xff\\", "bytea"),
    (date(2024, 2, 29), "date"),
    (UUID(int=7), "uuid"),
    (datetime(2024, 2, 29, 12, 30, 1, 5, tzinfo=timezone.utc), "timestamptz"),
    ([1, None, 3], "int[]"),
    (["a", 'b"c'], "text[]"),
]


@pytest.mark.parametrize("binary", [False, True], ids=["text", "binary"])
@pytest.mark.parametrize("sent,type_", VALUES, ids=[t for _, t in VALUES])
def test_values_in_and_out(autocommit, sent, type_, binary):
    placeholder = "%b" if binary else "%t"
    with autocommit.cursor(binary=binary) as cursor:
        for _ in range(2):
            cursor.execute(f"select {placeholder}::{type_}", [sent], prepare=True)
            assert cursor.fetchone() == (sent,)


def test_large_parameter_and_large_value(autocommit):
    big = "x" * (20 << 20)
    assert value(autocommit, "select length(%s::text)", [big]) == len(big)
    assert value(autocommit, "select %b::bytea", [big.encode()], binary=True) == big.encode()


def test_rows_by_name_and_class(table):
    class Row:
        def __init__(self, id, name):
            self.id, self.name = id, name

    with table.cursor(row_factory=dict_row) as cursor:
        assert cursor.execute("select * from t where id = 3").fetchone() == {"id": 3, "name": "n3"}
    with table.cursor(row_factory=class_row(Row)) as cursor:
        assert [row.name for row in cursor.execute("select * from t where id < 3 order by id")] == ["n1", "n2"]


def test_executemany_returning(table):
    with table.cursor() as cursor:
        cursor.executemany(
            "insert into t values (%s, %s) returning id", [(n, "m") for n in range(100, 130)], returning=True
        )
        got = []
        while True:
            got += [row[0] for row in cursor.fetchall()]
            if not cursor.nextset():
                break
    assert got == list(range(100, 130))


def test_multi_statement_string_gives_all_results(autocommit):
    cursor = autocommit.execute("select 1; select 2, 3; select 'four'")
    assert [result.fetchall() for result in cursor.results()] == [[(1,)], [(2, 3)], [("four",)]]


def test_notices(autocommit):
    heard = []
    autocommit.add_notice_handler(lambda notice: heard.append((notice.severity, notice.message_primary)))
    autocommit.execute("do $$ begin raise notice 'one'; raise warning 'two %', 2; end $$")
    autocommit.execute("drop table if exists never_there")
    assert heard[:2] == [("NOTICE", "one"), ("WARNING", "two 2")] and len(heard) == 3


# ---- prepared statements -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0, 1, 5, None])
def test_prepare_threshold(schema, table, threshold):
    with psycopg.connect(schema.url, prepare_threshold=threshold, autocommit=True) as connection:
        for number in range(1, 11):
            assert connection.execute("select name from t where id = %s", [number]).fetchone() == (f"n{number}",)
        with connection.transaction():
            for number in range(1, 8):
                connection.execute("update t set name = %s where id = %s", [f"m{number}", number])
        assert value(connection, "select name from t where id = %s", [7]) == "m7"


def test_prepared_statements_survive_while_other_clients_run(schema, table):
    """All clients use the driver's names `_pg3_0`, `_pg3_1`, ..., each for another text."""

    def run(client):
        with psycopg.connect(schema.url, prepare_threshold=0, autocommit=True) as connection:
            for round_ in range(15):
                for statement in range(4):
                    sql = f"select %s::int * {client} + {statement}"
                    assert value(connection, sql, [round_]) == round_ * client + statement
                with connection.transaction():
                    assert value(connection, "select name from t where id = %s", [client + 1]) == f"n{client + 1}"
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(run, range(8)))


def test_many_distinct_prepared_statements(schema):
    """More than any cache of names holds, on the client (prepared_max) and on the server connections."""
    with psycopg.connect(schema.url, prepare_threshold=0, autocommit=True) as connection:
        connection.prepared_max = 50
        for round_ in range(2):
            for number in range(400):
                assert value(connection, f"select %s::int + {number}", [round_]) == round_ + number
        connection.prepared_max = None
        for number in range(600):
            assert value(connection, f"select %s::int - {number}", [number]) == 0
        for number in range(600):
            assert value(connection, f"select %s::int - {number}", [2 * number]) == number


def test_deallocate_all_and_discard_all(schema):
    with psycopg.connect(schema.url, prepare_threshold=0, autocommit=True) as connection:
        for forget in ("deallocate all", "discard all"):
            assert value(connection, "select %s::int", [1]) == 1
            connection.execute(forget, prepare=False)  # psycopg forgets its names by itself when it sees this tag
            assert value(connection, "select %s::int", [2]) == 2


def test_server_lists_this_clients_prepared_statements(autocommit):
    autocommit.execute("prepare mine as select 42")
    assert value(autocommit, "execute mine") == 42
    assert (
        value(autocommit, "select statement from pg_prepared_statements where name = 'mine'")
        == "prepare mine as select 42"
    )
    autocommit.execute("deallocate mine")
    with pytest.raises(psycopg.errors.InvalidSqlStatementName):
        autocommit.execute("execute mine")


def test_ddl_between_executions_of_a_prepared_statement(schema, table, other):
    """PostgreSQL itself fails here only where the result's columns change; inside a transaction that error must be seen."""
    with psycopg.connect(schema.url, prepare_threshold=0, autocommit=True) as connection:
        narrow, wide = "select name from t where id = %s", "select * from t where id = %s"
        assert connection.execute(narrow, [1]).fetchone() == ("n1",)
        other.execute("alter table t add column more int default 7")
        assert connection.execute(narrow, [1]).fetchone() == ("n1",)
        other.execute("create index on t (name)")
        assert connection.execute(narrow, [2]).fetchone() == ("n2",)
        assert connection.execute(wide, [1]).fetchone() == (1, "n1", 7)
        other.execute("alter table t drop column more")
        try:
            assert connection.execute(wide, [1]).fetchone() == (1, "n1")
        except psycopg.errors.FeatureNotSupported as error:
            assert "cached plan must not change result type" in str(error)
        connection.execute("deallocate all", prepare=False)
        assert connection.execute(wide, [1]).fetchone() == (1, "n1")


def test_table_made_anew_under_a_prepared_statement(schema, autocommit):
    with psycopg.connect(schema.url, prepare_threshold=0, autocommit=True) as connection:
        for round_ in range(5):
            autocommit.execute("create table again (id int)")
            autocommit.execute("insert into again values (%s)", [round_])
            assert connection.execute("select id from again where id >= %s", [0]).fetchall() == [(round_,)]
            autocommit.execute("drop table again")
            with pytest.raises(psycopg.errors.UndefinedTable):
                connection.execute("select id from again where id >= %s", [0])


def test_prepared_statement_follows_search_path(schema, autocommit):
    second = schema.name[:50] + "_2"
    autocommit.execute(f"create schema {second}; create table t (id int); create table {second}.t (id int)")
    autocommit.execute(f"insert into t values (1); insert into {second}.t values (2)")
    try:
        with psycopg.connect(schema.url, prepare_threshold=0, autocommit=True) as connection:
            for path, found in ((schema.name, 1), (second, 2)) * 3:
                connection.execute(f"set search_path = {path}")
                assert value(connection, "select id from t where id > %s", [0]) == found
    finally:
        autocommit.execute(f"drop schema {second} cascade")


# ---- pipeline mode -----------------------------------------------------------------------------------------------------------


def test_pipeline(table):
    with table.pipeline():
        cursors = [table.execute("select name from t where id = %s", [n]) for n in range(1, 11)]
    assert [cursor.fetchone() for cursor in cursors] == [(f"n{n}",) for n in range(1, 11)]


def test_pipeline_with_sync_points(table):
    with table.pipeline() as pipeline:
        table.execute("insert into t values (20, 'a')")
        pipeline.sync()
        second = table.execute("select count(*) from t")
        pipeline.sync()
        assert second.fetchone() == (11,)
        with table.transaction():
            table.execute("insert into t values (21, 'b')")
        third = table.execute("select count(*) from t")
    assert third.fetchone() == (12,)


def test_error_in_a_pipeline_aborts_up_to_the_sync(table):
    with pytest.raises(psycopg.errors.UniqueViolation), table.pipeline() as pipeline:
        table.execute("insert into t values (30, 'kept')")
        pipeline.sync()
        table.execute("insert into t values (31, 'undone')")
        table.execute("insert into t values (1, 'twice')")
        table.execute("insert into t values (32, 'skipped')")
    assert table.info.transaction_status == IDLE
    assert table.execute("select id from t where id >= 30").fetchall() == [(30,)]


def test_a_pipeline_goes_on_after_the_sync_that_follows_an_error(autocommit):
    """libpq itself, since psycopg may tell of an error as early as the next execute."""
    libpq = autocommit.pgconn
    libpq.enter_pipeline_mode()
    for sql in (b"select 1/0", b"select 2"):
        libpq.send_query_params(sql, None)
    libpq.pipeline_sync()
    libpq.send_query_params(b"select 3", None)
    libpq.pipeline_sync()
    statuses = []
    while len(statuses) < 5:
        if result := libpq.get_result():
            statuses.append(pq.ExecStatus(result.status).name)
            value = result.get_value(0, 0) if result.ntuples else None
            assert value in (None, b"3")
    libpq.exit_pipeline_mode()
    assert statuses == ["FATAL_ERROR", "PIPELINE_ABORTED", "PIPELINE_SYNC", "TUPLES_OK", "PIPELINE_SYNC"]
    assert autocommit.execute("select 4").fetchone() == (4,)


def test_pipeline_in_a_transaction(connection, other):
    connection.execute("create table p (id int primary key)")
    connection.commit()
    with connection.pipeline():
        for number in range(100):
            connection.execute("insert into p values (%s)", [number])
        count = connection.execute("select count(*) from p").fetchone()
        assert count == (100,) and value(other, "select count(*) from p") == 0
        connection.rollback()
    assert value(other, "select count(*) from p") == 0


def test_large_pipeline(table):
    with table.pipeline():
        with table.cursor() as cursor:
            cursor.executemany("insert into t values (%s, %s)", [(n, "p" * 200) for n in range(1000, 6000)])
        found = table.execute("select count(*) from t where id >= 1000")
    assert found.fetchone() == (5000,)


# ---- COPY --------------------------------------------------------------------------------------------------------------------


def test_copy_rows_in_and_out(table):
    with table.cursor() as cursor:
        with cursor.copy("copy t (id, name) from stdin") as copy:
            for number in range(100, 1100):
                copy.write_row((number, f"tab\tline\n{number}"))
        assert cursor.rowcount == 1000
        with cursor.copy("copy (select id, name from t where id >= 100 order by id) to stdout") as copy:
            copy.set_types(["int4", "text"])
            assert list(copy.rows()) == [(n, f"tab\tline\n{n}") for n in range(100, 1100)]


def test_copy_binary(table):
    with table.cursor() as cursor, cursor.copy("copy t from stdin (format binary)") as copy:
        copy.set_types(["int4", "text"])
        for number in range(100, 200):
            copy.write_row((number, "bin"))
    assert value(table, "select count(*) from t where name = 'bin'") == 100


def test_copy_errors(table, connection):
    with (
        pytest.raises(psycopg.errors.UniqueViolation),
        table.cursor() as cursor,
        cursor.copy("copy t from stdin") as copy,
    ):
        copy.write("200\tfine\n1\ttwice\n")
    with pytest.raises(ZeroDivisionError), table.cursor() as cursor, cursor.copy("copy t from stdin") as copy:
        copy.write("201\tfine\n")
        raise ZeroDivisionError
    assert value(table, "select count(*) from t") == 10
    with (
        pytest.raises(psycopg.errors.BadCopyFileFormat),
        connection.cursor() as cursor,
        cursor.copy("copy t from stdin") as copy,
    ):
        copy.write("202\ttoo\tmany\n")
    assert connection.info.transaction_status == INERROR
    connection.rollback()


def test_copy_out_left_early(table):
    with table.cursor() as cursor:
        with pytest.raises(KeyError):
            with cursor.copy("copy (select generate_series(1, 2000000)) to stdout") as copy:
                for _ in copy:
                    raise KeyError
    assert value(table, "select 1") == 1


# ---- cursors on the server ---------------------------------------------------------------------------------------------------


def test_server_side_cursor(connection):
    with connection.cursor(name="walk") as cursor:
        cursor.itersize = 100
        cursor.execute("select n, 'row ' || n from generate_series(1, 1000) n")
        assert sum(n for n, _ in cursor) == 500500
    with connection.cursor(name="walk", binary=True) as cursor:
        cursor.execute("select generate_series(1, 10)")
        assert [cursor.fetchone(), *cursor.fetchmany(2)] == [(1,), (2,), (3,)]
        cursor.scroll(3)
        assert cursor.fetchall() == [(7,), (8,), (9,), (10,)]


def test_scrollable_and_with_hold_cursor(connection, schema):
    with connection.cursor(name="held", scrollable=True, withhold=True) as cursor:
        cursor.execute("select generate_series(1, 10)")
        assert cursor.fetchmany(3) == [(1,), (2,), (3,)]
        connection.commit()
        with psycopg.connect(schema.url, autocommit=True) as other:
            assert value(other, "select count(*) from pg_cursors") == 0
        assert cursor.fetchmany(2) == [(4,), (5,)]
        cursor.scroll(0, mode="absolute")
        assert cursor.fetchone() == (1,)


def test_client_side_stream(autocommit):
    with autocommit.cursor() as cursor:
        seen = 0
        for (number,) in cursor.stream("select generate_series(1, %s)", [20000]):
            seen += 1
            assert number == seen
    assert seen == 20000


def test_stream_left_early(autocommit):
    with autocommit.cursor() as cursor:
        for _ in cursor.stream("select generate_series(1, 1000000)"):
            break
    with autocommit.cursor() as cursor:
        assert cursor.execute("select 1").fetchone() == (1,)


# ---- cancel, notify, two-phase ----------------------------------------------------------------------------------------------


def run_and_cancel(connection, direct, marker, cancel):
    failure = []

    def sleep():
        try:
            connection.execute(f"select pg_sleep(30) /* {marker} */")
        except psycopg.Error as error:
            failure.append(error)

    thread = threading.Thread(target=sleep)
    thread.start()
    wait_until_running(direct, marker)
    cancel()
    thread.join(20)
    assert not thread.is_alive()
    return failure[0]


@pytest.mark.parametrize("how", ["cancel", "cancel_safe"])
def test_cancel(autocommit, direct, schema, how):
    error = run_and_cancel(autocommit, direct, schema.name, getattr(autocommit, how))
    assert isinstance(error, psycopg.errors.QueryCanceled)
    assert value(autocommit, "select 1") == 1


def test_notifications(autocommit, other, schema):
    autocommit.execute(f"listen {schema.name}")
    autocommit.execute(f"notify {schema.name}, 'own'")
    with other.transaction():
        other.execute("select pg_notify(%s, 'not yet'), pg_notify(%s, 'either')", [schema.name] * 2)
        assert [n.payload for n in autocommit.notifies(timeout=0.05)] == ["own"]
    heard = list(autocommit.notifies(timeout=10, stop_after=2))
    assert [(n.payload, n.channel) for n in heard] == [("not yet", schema.name), ("either", schema.name)]
    assert {n.pid for n in heard} == {other.info.backend_pid}
    autocommit.execute(f"unlisten {schema.name}")
    other.execute(f"notify {schema.name}, 'nobody hears this'")
    assert value(autocommit, "select 1") == 1
    assert list(autocommit.notifies(timeout=0.05)) == []


def test_two_phase_commit(schema, table):
    def prepare(number):
        connection = psycopg.connect(schema.url)
        connection.tpc_begin(connection.xid(number, schema.name, "branch"))
        connection.execute("insert into t values (%s, 'two-phase')", [number])
        connection.tpc_prepare()
        connection.close()

    def finish(number, how):
        with psycopg.connect(schema.url) as connection:
            (xid,) = [x for x in connection.tpc_recover() if (x.gtrid, x.format_id) == (schema.name, number)]
            connection.rollback()
            getattr(connection, how)(xid)

    prepare(70)
    prepare(71)
    assert value(table, "select count(*) from t where id >= 70") == 0
    finish(70, "tpc_commit")
    finish(71, "tpc_rollback")
    assert table.execute("select id from t where id >= 70").fetchall() == [(70,)]


def test_two_phase_commit_on_one_connection(connection, schema, table):
    for number, how in ((72, "tpc_commit"), (73, "tpc_rollback")):
        connection.tpc_begin(connection.xid(number, schema.name, "one"))
        connection.execute("insert into t values (%s, 'two-phase')", [number])
        connection.tpc_prepare()
        getattr(connection, how)()
    assert table.execute("select id from t where id >= 70").fetchall() == [(72,)]


# ---- async -------------------------------------------------------------------------------------------------------------------


async def test_async_transactions_pipeline_and_copy(schema, table):
    async with await psycopg.AsyncConnection.connect(schema.url) as connection:
        async with connection.transaction():
            await connection.execute("insert into t values (80, 'async')")
        async with connection.pipeline():
            cursors = [await connection.execute("select %s::int", [n]) for n in range(50)]
            assert [await cursor.fetchone() for cursor in cursors] == [(n,) for n in range(50)]
        async with connection.cursor() as cursor:
            async with cursor.copy("copy t from stdin") as copy:
                for number in range(300, 400):
                    await copy.write_row((number, "copied"))
        async with connection.cursor(name="walk") as cursor:
            await cursor.execute("select id from t order by id")
            assert len([row async for row in cursor]) == 111


async def test_async_many_connections_at_once(schema, table):
    async def work(number):
        async with await psycopg.AsyncConnection.connect(schema.url, prepare_threshold=1) as connection:
            for round_ in range(10):
                cursor = await connection.execute(
                    "select name, %s::int from t where id = %s", [round_, number % 10 + 1]
                )
                assert await cursor.fetchone() == (f"n{number % 10 + 1}", round_)
                await connection.rollback()
            return connection.info.backend_pid

    process_ids = await asyncio.gather(*(work(n) for n in range(20)))
    assert len(set(process_ids)) == 20, "each client has a process id of its own"


async def test_async_task_cancelled_while_a_statement_runs(schema):
    connection = await psycopg.AsyncConnection.connect(schema.url, autocommit=True)
    task = asyncio.create_task(connection.execute("select pg_sleep(30)"))
    done, _ = await asyncio.wait([task], timeout=0.2)
    assert not done
    task.cancel()
    with pytest.raises((asyncio.CancelledError, psycopg.errors.QueryCanceled)):
        await asyncio.wait_for(task, 20)
    await connection.close()
