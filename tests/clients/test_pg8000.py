"""pg8000: a pure Python driver that sends Flush where others send Sync, and reads each answer by its message type."""

import datetime
import decimal
import io
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import pg8000.dbapi
import pg8000.native
import pytest

from wire import Address

DatabaseError, InterfaceError = pg8000.dbapi.DatabaseError, pg8000.dbapi.InterfaceError


@pytest.fixture
def login(schema):
    address = Address.of(schema.base_url)
    return dict(
        user=address.user,
        password=address.password,
        host=address.host,
        port=address.port,
        database=address.database,
        startup_params={"search_path": f"{schema.name},public"},
    )


@pytest.fixture
def connect(login):
    made = []

    def connect(**how):
        made.append(pg8000.dbapi.connect(**{**login, **how}))
        return made[-1]

    yield connect
    for connection in made:
        try:
            connection.close()
        except (InterfaceError, DatabaseError, OSError):
            pass


@pytest.fixture
def native(login):
    connection = pg8000.native.Connection(**login)
    yield connection
    connection.close()


@pytest.fixture
def connection(connect):
    return connect()


@pytest.fixture
def table(native):
    native.run("create table t (id int primary key, name text)")
    native.run("insert into t select n, 'n' || n from generate_series(1, 10) n")
    return native


def ask(connection, sql, parameters=()):
    cursor = connection.cursor()
    cursor.execute(sql, parameters)
    return [tuple(row) for row in cursor.fetchall()]


def sqlstate(error):
    return error.value.args[0]["C"]


def test_dbapi_transactions(connection, table):
    ask(connection, "insert into t values (%s, %s) returning id", (20, "new"))
    assert table.run("select count(*) from t") == [[10]]
    connection.commit()
    assert table.run("select count(*) from t") == [[11]]
    connection.cursor().execute("delete from t")
    connection.rollback()
    assert ask(connection, "select count(*) from t") == [(11,)]


def test_error_in_a_transaction(connection):
    with pytest.raises(DatabaseError) as error:
        ask(connection, "select 1/0")
    assert sqlstate(error) == "22012"
    with pytest.raises(DatabaseError) as error:
        ask(connection, "select 1")
    assert sqlstate(error) == "25P02"
    connection.rollback()
    assert ask(connection, "select 1") == [(1,)]


def test_autocommit(connect, table):
    mine = connect()
    mine.autocommit = True
    mine.cursor().execute("insert into t values (30, 'at once')")
    assert table.run("select count(*) from t where id = 30") == [[1]]
    mine.cursor().execute("vacuum t")
    mine.autocommit = False
    mine.cursor().execute("delete from t")
    mine.rollback()
    assert table.run("select count(*) from t") == [[11]]


VALUES = [
    (5, "int4"),
    (2**40, "int8"),
    (decimal.Decimal("12.50"), "numeric"),
    (1.25, "float8"),
    (True, "bool"),
    ("héllo € ' \\", "text"),
    (b"\x00\xff", "bytea"),
    (datetime.date(2024, 2, 29), "date"),
    (datetime.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=datetime.timezone.utc), "timestamptz"),
    (uuid.UUID(int=3), "uuid"),
    ([1, None, 3], "int4[]"),
    ({"a": [1, None]}, "jsonb"),
    (None, "text"),
]


@pytest.mark.parametrize("value,type_", VALUES, ids=[type_ for _, type_ in VALUES])
def test_values_in_and_out(connection, native, value, type_):
    for _ in range(2):
        assert ask(connection, f"select %s::{type_}", (value,)) == [(value,)]
        assert native.run(f"select cast(:v as {type_})", v=value) == [[value]]


def test_prepared_statements(table, login):
    statement = table.prepare("select name from t where id = :id")
    other = pg8000.native.Connection(**login)
    other_statement = other.prepare("select :id || ' of the other'")
    for number in range(1, 6):
        table.run("begin")
        assert statement.run(id=number) == [[f"n{number}"]]
        table.run("commit")
        assert other_statement.run(id=str(number)) == [[f"{number} of the other"]]
    statement.close()
    other_statement.close()
    other.close()


def test_statement_cache_of_many_clients(connect, table):
    def work(number):
        mine = connect()
        for round_ in range(15):
            assert ask(mine, f"select %s::int * {number}", (round_,)) == [(round_ * number,)]
            mine.commit()
        return True

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(work, range(6)))


def test_executemany(connection, table):
    cursor = connection.cursor()
    cursor.executemany("insert into t values (%s, %s)", [(n, "many") for n in range(100, 200)])
    connection.commit()
    assert table.run("select count(*) from t where name = 'many'") == [[100]]


def test_copy(connection, table):
    cursor = connection.cursor()
    cursor.execute(
        "copy t from stdin with (format csv)", stream=io.BytesIO(b"".join(b"%d,copied\n" % n for n in range(100, 1100)))
    )
    connection.commit()
    assert table.run("select count(*) from t where name = 'copied'") == [[1000]]
    out = io.BytesIO()
    table.run("copy (select id, name from t where id < 4 order by id) to stdout with (format csv)", stream=out)
    assert out.getvalue() == b"1,n1\n2,n2\n3,n3\n"
    with pytest.raises(DatabaseError) as error:
        cursor.execute("copy t from stdin with (format csv)", stream=io.BytesIO(b"5000,undone\n1,twice\n"))
    assert sqlstate(error) == "23505"
    connection.rollback()
    assert table.run("select count(*) from t where id = 5000") == [[0]]


def test_parameter_status_and_notices(native):
    assert native.parameter_statuses["server_encoding"] == "UTF8"
    native.run("set timezone to 'Europe/Rome'")
    assert native.parameter_statuses["TimeZone"] == "Europe/Rome"
    native.run("do $$ begin raise notice 'a note'; end $$")
    assert [notice[b"M"] for notice in native.notices] == [b"a note"]


def test_notifications(native, login, schema):
    other = pg8000.native.Connection(**login)
    native.run(f"listen {schema.name}")
    other.run(f"notify {schema.name}, 'from the other'")
    native.run(f"notify {schema.name}, 'own'")
    heard = [(channel, payload) for _, channel, payload in native.notifications]
    assert heard == [(schema.name, "from the other"), (schema.name, "own")]
    ((process_id,),) = other.run("select pg_backend_pid()")
    assert native.notifications[0][0] == process_id
    other.close()


def test_large_results_and_parameters(native):
    assert len(native.run("select n, repeat('x', 20) from generate_series(1, 60000) n")) == 60000
    big = "y" * (8 << 20)
    assert native.run("select cast(:v as text)", v=big) == [[big]]


def test_two_phase_commit(connect, schema, table):
    mine = connect()
    for number, end in ((70, "tpc_commit"), (71, "tpc_rollback")):
        name = f"{schema.name} {number}"
        xid = mine.xid(0, name, "")  # the driver finds no other form again
        mine.tpc_begin(xid)
        mine.cursor().execute("insert into t values (%s, 'two-phase')", (number,))
        mine.tpc_prepare()
        assert name in [x[1] for x in mine.tpc_recover()]
        mine.rollback()
        getattr(mine, end)(xid)
    assert table.run("select id from t where id >= 70") == [[70]]


def test_settings_and_savepoints(native):
    ((before,),) = native.run("show work_mem")
    native.run("begin")
    native.run("set work_mem = '5MB'")
    native.run("savepoint s")
    native.run("set work_mem = '6MB'")
    native.run("rollback to savepoint s")
    assert native.run("show work_mem") == [["5MB"]]
    native.run("rollback")
    assert native.run("show work_mem") == [[before]]


def test_application_name_and_client_encoding(login):
    mine = pg8000.native.Connection(**login, application_name="pg8000 test")
    assert mine.run("show application_name") == [["pg8000 test"]]
    mine.run("set client_encoding to 'LATIN1'")
    assert mine.run("select cast(:v as text), 'ë'", v="ë") == [["ë", "ë"]]
    mine.close()


def test_multi_statement_string(native, table):
    assert native.run("update t set name = 'x' where id = 1; select name from t where id = 1") == [["x"]]


def test_wrong_password_is_refused(login):
    with pytest.raises(DatabaseError) as error:
        pg8000.native.Connection(**{**login, "password": "wrong"})
    assert sqlstate(error) == "28P01"


def test_abandoned_thread_leaves_no_transaction(connect, table):
    def abandon():
        mine = connect()
        mine.cursor().execute("insert into t values (90, 'lost')")
        mine._usock.close()

    thread = threading.Thread(target=abandon)
    thread.start()
    thread.join()
    assert table.run("select count(*) from t where id = 90") == [[0]]
