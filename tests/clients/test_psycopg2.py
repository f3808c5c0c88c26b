"""psycopg2: literals inlined by the driver, named cursors, COPY, large objects, notifications, an asynchronous mode."""

import io
import select
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import psycopg2.errorcodes
import psycopg2.extensions as ext
import psycopg2.extras
import pytest
from psycopg2 import errors

from watcher import terminate_holder_of_lock, wait_until_running

IDLE, INTRANS, INERROR = ext.TRANSACTION_STATUS_IDLE, ext.TRANSACTION_STATUS_INTRANS, ext.TRANSACTION_STATUS_INERROR


@pytest.fixture
def connect(schema):
    made = []

    def connect(autocommit=False, **how):
        made.append(psycopg2.connect(schema.url, **how))
        made[-1].autocommit = autocommit
        return made[-1]

    yield connect
    for connection in made:
        connection.close()


@pytest.fixture
def connection(connect):
    return connect()


@pytest.fixture
def other(connect):
    return connect(autocommit=True)


@pytest.fixture
def table(other):
    run(other, "create table t (id int primary key, name text)")
    run(other, "insert into t select n, 'n' || n from generate_series(1, 10) n")
    return other


def run(connection, sql, parameters=None):
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchall() if cursor.description else cursor.rowcount


def value(connection, sql, parameters=None):
    ((found,),) = run(connection, sql, parameters)
    return found


# ---- transactions ------------------------------------------------------------------------------------------------------------


def test_commit_and_rollback(connection, table):
    assert connection.info.transaction_status == IDLE
    run(connection, "insert into t values (20, 'new')")
    assert connection.info.transaction_status == INTRANS
    assert value(table, "select count(*) from t") == 10
    connection.rollback()
    run(connection, "insert into t values (21, 'new')")
    connection.commit()
    assert connection.info.transaction_status == IDLE
    assert run(table, "select id from t where id >= 20") == [(21,)]


def test_with_blocks(connection, table):
    with connection:
        run(connection, "insert into t values (22, 'kept')")
    with pytest.raises(ZeroDivisionError), connection:
        run(connection, "insert into t values (23, 'undone')")
        raise ZeroDivisionError
    assert run(table, "select id from t where id >= 20") == [(22,)]


def test_autocommit(connect, table):
    mine = connect(autocommit=True)
    run(mine, "insert into t values (24, 'at once')")
    assert value(table, "select count(*) from t where id = 24") == 1
    assert mine.info.transaction_status == IDLE
    run(mine, "vacuum t")
    mine.autocommit = False
    run(mine, "delete from t")
    mine.rollback()
    assert value(table, "select count(*) from t") == 11


def test_errors_inside_a_transaction(connection, table):
    with pytest.raises(errors.DivisionByZero):
        run(connection, "select 1/0")
    assert connection.info.transaction_status == INERROR
    with pytest.raises(errors.InFailedSqlTransaction):
        run(connection, "select 1")
    connection.commit()
    assert connection.info.transaction_status == IDLE, "COMMIT of a failed transaction rolls back"
    run(connection, "insert into t values (25, 'kept'); savepoint s")
    with pytest.raises(errors.UniqueViolation) as raised:
        run(connection, "insert into t values (25, 'twice')")
    assert (raised.value.diag.table_name, raised.value.diag.constraint_name, raised.value.pgcode) == (
        "t",
        "t_pkey",
        "23505",
    )
    assert raised.value.diag.message_detail == "Key (id)=(25) already exists."
    run(connection, "rollback to savepoint s")
    connection.commit()
    assert value(table, "select count(*) from t where id = 25") == 1


def test_error_tells_where_in_the_text(connection):
    with pytest.raises(errors.UndefinedColumn) as raised:
        run(connection, "select 1,\n  nobody from (values (1)) as x (a)")
    assert raised.value.diag.statement_position == "13"
    assert "LINE 2:   nobody" in str(raised.value)


@pytest.mark.parametrize("level", ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_isolation_levels(connection, table, level):
    connection.set_session(isolation_level=level)
    assert value(connection, "select count(*) from t") == 10
    run(table, "insert into t values (30, 'later')")
    assert value(connection, "select count(*) from t") == (11 if level.startswith("READ") else 10)
    assert value(connection, "show transaction_isolation") == level.lower()
    connection.rollback()


def test_set_session_read_only_deferrable(connection, table):
    connection.set_session(isolation_level="SERIALIZABLE", readonly=True, deferrable=True)
    assert value(connection, "show transaction_read_only") == "on"
    with pytest.raises(errors.ReadOnlySqlTransaction):
        run(connection, "delete from t")
    connection.rollback()
    connection.set_session(readonly=False)
    assert run(connection, "delete from t where id = 1") == 1


def test_set_session_in_autocommit_sets_session_defaults(connect, table):
    mine = connect(autocommit=True)
    mine.set_session(isolation_level="REPEATABLE READ", readonly=True)
    assert value(mine, "show default_transaction_isolation") == "repeatable read"
    with pytest.raises(errors.ReadOnlySqlTransaction):
        run(mine, "delete from t")
    assert run(table, "delete from t where id = 1") == 1
    mine.set_session(isolation_level="DEFAULT", readonly="DEFAULT")
    assert run(mine, "delete from t where id = 2") == 1


def test_two_phase_commit(connect, schema, table):
    for number, end in ((70, "tpc_commit"), (71, "tpc_rollback")):
        mine = connect()
        xid = mine.xid(number, schema.name, "branch")
        mine.tpc_begin(xid)
        run(mine, "insert into t values (%s, 'two-phase')", (number,))
        mine.tpc_prepare()
        mine.close()
        finisher = connect()
        (found,) = [x for x in finisher.tpc_recover() if (x.gtrid, x.format_id) == (schema.name, number)]
        finisher.rollback()
        getattr(finisher, end)(found)
    assert run(table, "select id from t where id >= 70") == [(70,)]


# ---- cursors -----------------------------------------------------------------------------------------------------------------


def test_named_cursor(connection):
    with connection.cursor("walk") as cursor:
        cursor.itersize = 300
        cursor.execute("select n, 'row ' || n from generate_series(1, %s) n", (1000,))
        assert sum(n for n, _ in cursor) == 500500
    with connection.cursor("walk", scrollable=True) as cursor:
        cursor.execute("select generate_series(1, 10)")
        assert cursor.fetchmany(3) == [(1,), (2,), (3,)]
        cursor.scroll(-2)
        assert cursor.fetchone() == (2,)
        cursor.scroll(9, mode="absolute")
        assert cursor.fetchall() == [(10,)]


def test_named_cursor_with_hold(connection, table):
    with connection.cursor("held", withhold=True) as cursor:
        cursor.execute("select id from t order by id")
        assert cursor.fetchmany(4) == [(1,), (2,), (3,), (4,)]
        connection.commit()
        run(table, "delete from t")
        assert cursor.fetchmany(4) == [(5,), (6,), (7,), (8,)]
        connection.commit()
        assert cursor.fetchall() == [(9,), (10,)]


def test_a_million_rows_stream_through_a_named_cursor(connection):
    with connection.cursor("many") as cursor:
        cursor.itersize = 20000
        cursor.execute("select generate_series(1, 1000000)")
        total = 0
        for (n,) in cursor:
            total += n
    assert total == 1000000 * 1000001 // 2


def test_a_large_result_at_once(connection):
    rows = run(connection, "select n, repeat('x', 30) from generate_series(1, 300000) n")
    assert len(rows) == 300000 and rows[-1] == (300000, "x" * 30)


def test_twenty_megabyte_parameter(connection, table):
    big = "é" * (10 << 20)
    assert value(connection, "select length(%s)", (big,)) == 10 << 20
    run(connection, "insert into t values (40, %s)", (big,))
    assert value(connection, "select name from t where id = 40") == big


def test_many_statement_shapes(connection, table):
    """The driver puts literals into the text: each statement is a new text of an old shape."""
    for number in range(400):
        assert value(connection, "select name from t where id = %s", (number % 10 + 1,)) == f"n{number % 10 + 1}"
        assert (
            value(connection, "select %s || ' -- ' || %s", (f"it's {number}", "\\' /* ")) == f"it's {number} -- \\' /* "
        )
        connection.rollback()


def test_execute_values_and_batch(connection, table):
    with connection.cursor() as cursor:
        found = psycopg2.extras.execute_values(
            cursor,
            "insert into t values %s returning id",
            [(n, "v") for n in range(100, 1100)],
            page_size=300,
            fetch=True,
        )
        assert [n for (n,) in found] == list(range(100, 1100))
        psycopg2.extras.execute_batch(
            cursor, "update t set name = %s where id = %s", [(f"b{n}", n) for n in range(100, 200)]
        )
    connection.commit()
    assert value(table, "select count(*) from t where name like 'b%%'") == 100


def test_multi_statement_string(connection):
    assert run(connection, "create table m (x int); insert into m values (1), (2); select x from m order by x") == [
        (1,),
        (2,),
    ]
    with pytest.raises(errors.DivisionByZero):
        run(connection, "insert into m values (3); select 1/0; insert into m values (4)")
    connection.rollback()
    with pytest.raises(errors.UndefinedTable):
        run(connection, "select x from m")


def test_dict_cursor_and_types(connection):
    with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        cursor.execute(
            "select 1 as a, array[1, null] as b, '{\"k\": [1]}'::jsonb as c, '\\x00ff'::bytea as d, 1.5::numeric as e"
        )
        row = cursor.fetchone()
    assert (row["a"], row["b"], row["c"], bytes(row["d"]), str(row["e"])) == (
        1,
        [1, None],
        {"k": [1]},
        b"\x00\xff",
        "1.5",
    )


# ---- COPY and large objects --------------------------------------------------------------------------------------------------


def test_copy_from_to_and_expert(connection, table):
    with connection.cursor() as cursor:
        cursor.copy_from(io.StringIO("".join(f"{n}\tcopied\n" for n in range(100, 2100))), "t")
        out = io.StringIO()
        cursor.copy_to(out, "t", columns=("id",))
        assert len(out.getvalue().splitlines()) == 2010
        out = io.BytesIO()
        cursor.copy_expert(
            "copy (select id, name from t where id < 3 order by id) to stdout with (format csv, header)", out
        )
        assert out.getvalue() == b"id,name\n1,n1\n2,n2\n"
        cursor.copy_expert("copy t from stdin with (format csv)", io.BytesIO(b'5000,"a, ""quoted"" one"\n'))
    connection.commit()
    assert value(table, "select name from t where id = 5000") == 'a, "quoted" one'


class Failing(io.StringIO):
    def read(self, *_):
        if self.tell() > 0:
            raise LookupError("the source broke")
        return super().read(4)


def test_copy_errors_midway(connection, table):
    with connection.cursor() as cursor:
        with pytest.raises(errors.UniqueViolation):
            cursor.copy_from(io.StringIO("3000\tfine\n1\ttwice\n" + "3001\tx\n" * 20000), "t")
        assert connection.info.transaction_status == INERROR
        connection.rollback()
        with pytest.raises(errors.QueryCanceled, match="the source broke|error in .read"):
            cursor.copy_from(Failing("3000\tundone\n"), "t")
        connection.rollback()
        with pytest.raises(errors.BadCopyFileFormat):
            cursor.copy_expert("copy t from stdin with (format csv)", io.StringIO("1,2,3\n"))
        connection.rollback()
        with pytest.raises(errors.UndefinedTable):
            cursor.copy_expert("copy nowhere from stdin", io.StringIO("1\n"))
        connection.rollback()
    assert value(connection, "select count(*) from t") == 10


def test_large_objects(connect):
    mine = connect()
    large = mine.lobject(0, "wb")
    large.write(b"0123456789" * 100000)
    oid = large.oid
    large.seek(5)
    large.write(b"|")
    large.close()
    mine.commit()
    again = connect()
    large = again.lobject(oid, "rb")
    assert large.read(10) == b"01234|6789" and large.seek(0, 2) == 1000000
    large.seek(999990)
    assert large.read() == b"0123456789"
    large.close()
    again.rollback()
    mine.lobject(oid, "rw").truncate(4)
    mine.commit()
    assert bytes(value(again, "select lo_get(%s)", (oid,))) == b"0123"
    again.rollback()
    mine.lobject(oid, "n").unlink()
    mine.commit()
    with pytest.raises((psycopg2.OperationalError, errors.UndefinedObject)):
        again.lobject(oid, "rb")


# ---- what the server tells ---------------------------------------------------------------------------------------------------


def test_notifications_name_their_sender(connect, schema):
    listener, speaker = connect(autocommit=True), connect()
    run(listener, f"listen {schema.name}")
    run(listener, f"notify {schema.name}, 'own'")
    run(speaker, f"notify {schema.name}, 'other'")
    listener.poll()
    assert [n.payload for n in listener.notifies] == ["own"], "the other has not committed"
    assert listener.notifies[0].pid == listener.info.backend_pid == value(listener, "select pg_backend_pid()")
    speaker.commit()
    heard = wait_for_notification(listener, 2)
    assert (heard.payload, heard.channel, heard.pid) == ("other", schema.name, speaker.info.backend_pid)
    run(listener, "unlisten *")
    run(speaker, f"notify {schema.name}, 'nobody'")
    speaker.commit()
    run(listener, "select 1")
    assert len(listener.notifies) == 2


def wait_for_notification(connection, count):
    until = time.monotonic() + 15
    while len(connection.notifies) < count:
        assert time.monotonic() < until, "no notification came"
        select.select([connection], [], [], 0.5)
        connection.poll()
    return connection.notifies[count - 1]


def test_notices(connection):
    run(connection, "do $$ begin raise notice 'first'; raise warning 'second'; end $$")
    run(connection, "create table if not exists n (x int)")
    run(connection, "create table if not exists n (x int)")
    assert [notice.split(":")[0] for notice in connection.notices] == ["NOTICE", "WARNING", "NOTICE"]
    assert 'relation "n" already exists' in connection.notices[2]


def test_parameter_status(connection):
    assert connection.info.parameter_status("server_version") == value(connection, "show server_version")
    assert connection.info.server_version == int(value(connection, "show server_version_num"))
    run(connection, "set timezone to 'Asia/Tokyo'")
    assert connection.info.parameter_status("TimeZone") == "Asia/Tokyo"
    connection.rollback()
    assert connection.info.parameter_status("TimeZone") != "Asia/Tokyo"
    assert connection.info.parameter_status("standard_conforming_strings") == "on"
    assert connection.info.backend_pid == value(connection, "select pg_backend_pid()")


def test_client_encoding_latin1(connect):
    mine = connect()
    mine.set_client_encoding("LATIN1")
    assert mine.encoding == "LATIN1" == mine.info.parameter_status("client_encoding")
    assert value(mine, "select %s", ("Zoë Ünal",)) == "Zoë Ünal"
    assert value(mine, "select octet_length(convert_to(%s, 'UTF8'))", ("ë",)) == 2
    out = io.BytesIO()
    with mine.cursor() as cursor:
        cursor.copy_expert("copy (select chr(235)) to stdout", out)
    assert out.getvalue() == b"\xeb\n"
    with pytest.raises(errors.UntranslatableCharacter):
        run(mine, "select chr(8364)")
    mine.rollback()
    mine.set_client_encoding("UTF8")
    assert value(mine, "select chr(8364)") == "€"


def test_reset_returns_to_the_startup_settings(connect, schema):
    mine = connect(autocommit=True, application_name="psycopg2 test")
    run(mine, "set search_path = pg_catalog; set work_mem = '5MB'; set application_name = 'changed'")
    mine.reset()
    assert value(mine, "show search_path") == f"{schema.name},public"
    assert value(mine, "show application_name") == "psycopg2 test"
    assert value(mine, "show work_mem") != "5MB"


# ---- cancel, threads, the asynchronous mode ----------------------------------------------------------------------------------


def test_cancel_from_another_thread(connection, direct, schema):
    failure = []

    def sleep():
        try:
            run(connection, f"select pg_sleep(30) /* {schema.name} */")
        except psycopg2.Error as error:
            failure.append(error)

    thread = threading.Thread(target=sleep)
    thread.start()
    wait_until_running(direct, schema.name)
    connection.cancel()
    thread.join(20)
    assert not thread.is_alive() and isinstance(failure[0], errors.QueryCanceled)
    assert connection.info.transaction_status == INERROR
    connection.rollback()
    assert value(connection, "select 1") == 1


def test_one_connection_shared_by_threads(connection, table):
    def ask(number):
        return value(connection, "select name from t where id = %s", (number % 10 + 1,)) == f"n{number % 10 + 1}"

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(ask, range(200)))


def wait_async(connection):
    until = time.monotonic() + 20
    while True:
        assert time.monotonic() < until
        match connection.poll():
            case ext.POLL_OK:
                return
            case ext.POLL_READ:
                select.select([connection.fileno()], [], [], 5)
            case ext.POLL_WRITE:
                select.select([], [connection.fileno()], [], 5)


def test_asynchronous_connection(schema):
    mine = psycopg2.connect(schema.url, async_=True)
    wait_async(mine)
    cursor = mine.cursor()
    for number in range(20):
        cursor.execute("select %s, pg_sleep(0.001)", (number,))
        assert mine.isexecuting()
        wait_async(mine)
        assert cursor.fetchone()[0] == number
    cursor.execute("select repeat('x', 5000000)")
    wait_async(mine)
    assert len(cursor.fetchone()[0]) == 5000000
    with pytest.raises(errors.DivisionByZero):
        cursor.execute("select 1/0")
        wait_async(mine)
    cursor.execute("select 'again'")
    wait_async(mine)
    assert cursor.fetchone() == ("again",)
    mine.close()


def test_terminated_session_is_noticed(connection, direct, schema):
    run(connection, "select pg_advisory_xact_lock(%s)", (schema.lock,))
    terminate_holder_of_lock(direct, schema.lock)
    with pytest.raises((errors.AdminShutdown, psycopg2.OperationalError)):
        run(connection, "select 1")
    assert connection.closed


def test_many_short_connections(schema):
    def visit(number):
        mine = psycopg2.connect(schema.url)
        found = value(mine, "select %s", (number,)) == number and mine.info.backend_pid == value(
            mine, "select pg_backend_pid()"
        )
        mine.close()
        return found

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(visit, range(120)))
