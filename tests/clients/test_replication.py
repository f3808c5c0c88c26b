"""Replication connections: PostgreSQL's own programs and psycopg2's cursor, through Weir to the primary."""

import contextlib
import subprocess
import threading
import time

import psycopg
import psycopg2
import psycopg2.extras
import pytest

import wire
from own_servers import Postgres, needs_weir, starting_weirs, wait_until

pytestmark = [pytest.mark.xdist_group("replication"), needs_weir]


@pytest.fixture(scope="module")
def directory(own_directory):
    path = own_directory / "replication"
    path.mkdir()
    path.chmod(0o711)
    return path


@pytest.fixture(scope="module")
def postgres(directory):
    hba = ["host all all all scram-sha-256", "host replication all all scram-sha-256"]
    server = Postgres(directory / "postgres", hba)
    try:
        server.execute(
            "alter role postgres password 'super'",
            "create role copier login replication password 'copying'",
            "create role app login password 'app'",
            "create database app owner app",
            "grant create on database app to copier",
        )
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def weirs(directory):
    with starting_weirs(directory) as start:
        yield start


def in_front_of(postgres, more: str = "") -> str:
    return f"""
        primary = "postgres://postgres:super@127.0.0.1:{postgres.port}/app"
        drain_timeout = "20s"
        {more}
        """


@pytest.fixture(scope="module")
def weir(weirs, postgres):
    return weirs(in_front_of(postgres))


@pytest.fixture
def table(postgres, request):
    """A table with a slot whose changes are of that table alone."""
    name = request.node.name.split("[")[0]
    with inside(postgres) as connection:
        connection.execute(f"create table {name} (n int)")
        connection.execute(f"grant all on {name} to copier")
        yield name
        connection.execute(f"drop table {name}")


def inside(postgres) -> psycopg.Connection:
    """Of the database `app`, directly."""
    return psycopg.connect(
        host=str(postgres.directory), port=postgres.port, user="postgres", dbname="app", autocommit=True
    )


def environment(weir) -> dict:
    return {"PGHOST": "127.0.0.1", "PGPORT": str(weir.port), "PGUSER": "copier", "PGPASSWORD": "copying", "LC_ALL": "C"}


def program(postgres, weir, name: str, *arguments, **how) -> subprocess.Popen:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(postgres.command(name, *arguments), env=environment(weir), **pipes, **how)


def output(child: subprocess.Popen, ends_with: int = 0) -> str:
    out, _ = child.communicate(timeout=50)
    assert child.returncode == ends_with, out
    return out


def show(weir, what: str) -> list[dict]:
    with psycopg.connect(
        host="127.0.0.1", port=weir.port, user="postgres", password="super", dbname="weir", autocommit=True
    ) as console:
        cursor = psycopg.ClientCursor(console)
        cursor.execute(f"show {what}")
        return [dict(zip([column.name for column in cursor.description], row)) for row in cursor.fetchall()]


def senders(postgres) -> int:
    return postgres.value("select count(*) from pg_stat_activity where backend_type = 'walsender'")


def logical(weir, **parameters):
    return psycopg2.connect(
        host="127.0.0.1",
        port=weir.port,
        user="copier",
        password="copying",
        dbname="app",
        connection_factory=psycopg2.extras.LogicalReplicationConnection,
        **parameters,
    )


# ---- PostgreSQL's programs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wal", ["fetch", "stream"])
def test_pg_basebackup(weir, postgres, directory, wal):
    """With `stream` a second connection streams the log meanwhile. What came must be whole: the manifest says so."""
    target = directory / f"backup-{wal}"
    output(program(postgres, weir, "pg_basebackup", "-D", target, "-X", wal, "-c", "fast", "--no-sync"))
    assert "successfully verified" in output(program(postgres, weir, "pg_verifybackup", target))
    wait_until(lambda: senders(postgres) == 0, "its server connections are closed", 5)


def test_pg_receivewal(weir, postgres, directory):
    target = directory / "wal"
    target.mkdir()
    child = program(postgres, weir, "pg_receivewal", "-D", target, "--no-sync", "-n")
    try:
        wait_until(lambda: has_begun(postgres, target), "it streams")
        begun = {path.name.removesuffix(".partial") for path in target.glob("*.partial")}
        postgres.execute("create table if not exists filler (n int)", "insert into filler values (1)")
        postgres.execute("select pg_switch_wal()")
        wait_until(lambda: begun & {path.name for path in target.iterdir()}, "a whole segment has come")
        (segment,) = begun & {path.name for path in target.iterdir()}
        original = postgres.data / "pg_wal" / segment
        assert (target / segment).read_bytes() == original.read_bytes()
    finally:
        child.terminate()
        child.wait(10)
    wait_until(lambda: senders(postgres) == 0, "its server connection is closed", 5)


def has_begun(postgres, target) -> bool:
    """A server on which nothing happens has nothing to send."""
    postgres.execute("select pg_logical_emit_message(false, 'here', 'we are')")
    return bool(list(target.glob("*.partial")))


def test_pg_recvlogical(weir, postgres, table, directory):
    target = directory / "changes"
    slot = ["--slot", "recvlogical", "-d", "app"]
    output(program(postgres, weir, "pg_recvlogical", *slot, "--create-slot", "-P", "test_decoding"))
    with inside(postgres) as connection:
        connection.execute(f"insert into {table} select generate_series(1, 3000)")
        connection.execute("create table the_end ()")
        end = connection.execute("select pg_current_wal_insert_lsn()").fetchone()[0]
        connection.execute("drop table the_end")
    output(
        program(
            postgres,
            weir,
            "pg_recvlogical",
            *slot,
            "--start",
            "-f",
            target,
            "--endpos",
            end,
            "-o",
            "skip-empty-xacts=1",
        )
    )
    changes = [line for line in target.read_text().splitlines() if table in line]
    assert changes == [f"table public.{table}: INSERT: n[integer]:{n}" for n in range(1, 3001)]
    output(program(postgres, weir, "pg_recvlogical", *slot, "--drop-slot"))


# ---- psycopg2 ----------------------------------------------------------------------------------------------------------------


def test_replication_cursor_of_psycopg2(weir, postgres, table):
    with contextlib.closing(logical(weir)) as connection, inside(postgres) as writer:
        cursor = connection.cursor()
        cursor.create_replication_slot("psycopg2", output_plugin="test_decoding")
        cursor.start_replication("psycopg2", decode=True, options={"skip-empty-xacts": "1"}, status_interval=1)
        text = "x" * 200_000
        writer.execute(f"alter table {table} add t text")
        for n in range(5):
            writer.execute(f"insert into {table} values (%s, %s)", [n, text])

        came = []

        def read():
            if message := cursor.read_message():
                cursor.send_feedback(flush_lsn=message.data_start, reply=True)
                came.extend([message.payload] if "INSERT" in message.payload else [])
            return len(came) == 5

        wait_until(read, "five changes have come", 20)
        assert came == [f"table public.{table}: INSERT: n[integer]:{n} t[text]:'{text}'" for n in range(5)]
        # What the client says on its way arrives as well.
        confirmed = "select confirmed_flush_lsn > restart_lsn from pg_replication_slots where slot_name = 'psycopg2'"
        wait_until(lambda: postgres.value(confirmed), "the server knows of it", 10)
    dropped = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = 'psycopg2' and not active"
    with inside(postgres) as writer:
        wait_until(lambda: writer.execute(dropped).fetchall(), "the slot is free", 10)


def test_ordinary_statements_on_a_replication_connection(weir, postgres):
    """Of a database: it keeps its session, as it is nobody else's."""
    with wire.Connection.login(weir.url("copier", "copying"), replication="database") as connection:
        (system,) = wire.rows(connection.query("IDENTIFY_SYSTEM"))
        assert system[3] == b"app"
        connection.query("set application_name = 'mine'")
        assert connection.value("select current_setting('application_name')") == "mine"
        assert wire.errors(connection.query("no such command")) == ["42601"]
        assert connection.value("show wal_level") == "logical"
        # As PostgreSQL has it.
        answer = connection.ask(wire.extended("select 1"), wire.SYNC)
        assert wire.errors(answer) == ["08P01"]


@pytest.mark.parametrize("value", ["true", "on", "1", "yes"])
def test_words_for_physical_replication(weir, value):
    with wire.Connection.login(weir.url("copier", "copying", "anything"), replication=value) as connection:
        (system,) = wire.rows(connection.query("IDENTIFY_SYSTEM"))
        assert system[3] is None


def test_words_for_no_replication(weir, postgres):
    with wire.Connection.login(weir.url("app", "app"), replication="false") as connection:
        assert connection.value("select 1") == "1"
        assert wire.errors(connection.query("IDENTIFY_SYSTEM")) == ["42601"]
    refused = weir.refusal("copier", "copying", replication="maybe")
    assert (refused["C"], refused["M"]) == ("22023", 'invalid value for parameter "replication": "maybe"')


def test_startup_parameters_go_with_it(weir):
    startup = {"replication": "database", "application_name": "replicator", "options": "-c work_mem=3MB"}
    with wire.Connection.login(weir.url("copier", "copying"), **startup) as connection:
        assert connection.parameters["application_name"] == "replicator"
        assert connection.value("show work_mem") == "3MB"
        (client,) = [client for client in show(weir, "clients") if client["application_name"] == "replicator"]
        assert (client["user"], client["replication"], client["state"]) == ("copier", "logical", "active")


# ---- rights ------------------------------------------------------------------------------------------------------------------


def test_who_may_replicate(weir, weirs, postgres):
    assert weir.refusal("app", "app", replication="true")["C"] == "42501", "PostgreSQL's own word"
    assert weir.refusal("copier", "wrong", replication="true")["C"] == "28P01"
    assert weir.refusal("copier", "copying", "nowhere", replication="database")["C"] == "3D000"
    # As in pg_hba.conf: `all` does not speak of physical replication.
    without = weirs(in_front_of(postgres, 'access = ["host all all all scram-sha-256"]'))
    refused = without.refusal("copier", "copying", replication="true")
    assert refused["C"] == "28000" and "replication" in refused["M"]
    wire.Connection.login(without.url("copier", "copying"), replication="database").terminate()
    only = weirs(in_front_of(postgres, 'access = ["host replication all all scram-sha-256"]'))
    wire.Connection.login(only.url("copier", "copying"), replication="true").terminate()
    assert only.refusal("copier", "copying", replication="database")["C"] == "28000"


# ---- places, cancelling, ends ------------------------------------------------------------------------------------------------


def test_it_takes_a_place_of_the_pool(weirs, postgres):
    weir = weirs(in_front_of(postgres, "[pool]\nmax = 2\nqueue_timeout = '300ms'"))
    url = weir.url("copier", "copying")
    with wire.Connection.login(url) as ordinary:
        assert ordinary.value("select 1") == "1"
        # The idle connection of the pool makes room.
        first = wire.Connection.login(url, replication="database")
        second = wire.Connection.login(url, replication="database")
        assert senders(postgres) == 2
        servers = [server for server in show(weir, "servers") if server["user"] == "copier"]
        assert [(server["state"], server["replication"]) for server in servers] == [("active", "logical")] * 2
        assert sorted(s["remote_pid"] for s in servers) == sorted(
            int(connection.value("select pg_backend_pid()")) for connection in (first, second)
        )
        (pool,) = [pool for pool in show(weir, "pools") if pool["user"] == "copier"]
        assert (pool["cl_active"], pool["sv_active"], pool["sv_idle"]) == (3, 2, 0)
        assert weir.refusal("copier", "copying", replication="database")["C"] == "53300"
        assert wire.errors(ordinary.query("select 1")) == ["53300"]
        # One leaves with a word, the other without: both places are free again, and none of the two is used again.
        gone = [int(connection.value("select pg_backend_pid()")) for connection in (first, second)]
        first.terminate()
        second.vanish()
        still = "select count(*) from pg_stat_activity where pid = any(%s)"
        wait_until(lambda: postgres.value(still, gone) == 0, "both server connections are closed", 5)
        assert ordinary.value("select 2") == "2"
        wire.Connection.login(url, replication="database").terminate()


def test_who_waits_gets_the_place_of_who_leaves(weirs, postgres):
    weir = weirs(in_front_of(postgres, "[pool]\nmax = 1\nqueue_timeout = '20s'"))
    url = weir.url("copier", "copying")
    first = wire.Connection.login(url, replication="database")
    threading.Timer(0.3, first.terminate).start()
    began = time.monotonic()
    with wire.Connection.login(url, replication="database") as second:
        assert 0.2 < time.monotonic() - began < 10
        assert second.value("show work_mem") == "4MB"


def test_cancel(weir):
    with wire.Connection.login(weir.url("copier", "copying"), replication="database") as connection:
        connection.send(wire.query("select pg_sleep(30)"))
        wait_until(lambda: is_cancelled(connection), "the statement is cancelled", 10)
        assert connection.value("show wal_level") == "logical"


def is_cancelled(connection: wire.Connection) -> bool:
    """A cancel that comes before the statement runs is for nothing, as ever."""
    wire.cancel(connection)
    deadline, connection.deadline = connection.deadline, 0.3
    try:
        answer = connection.read_until_ready()
    except TimeoutError:
        return False
    finally:
        connection.deadline = deadline
    return wire.errors(answer) == ["57014"]


def streaming(weir) -> wire.Connection:
    connection = wire.Connection.login(weir.url("copier", "copying"), replication="true")
    (system,) = wire.rows(connection.query("IDENTIFY_SYSTEM"))
    connection.send(wire.query(f"START_REPLICATION PHYSICAL {system[2].decode()}"))
    assert connection.read().tag == "W"
    return connection


def test_stream_ends_when_the_client_says_so(weir):
    connection = streaming(weir)
    connection.send(wire.COPY_DONE)
    answer = connection.read_until_ready()
    assert wire.tags([m for m in answer if m.tag != "d"])[0] == "c" and answer[-1].text == "I"
    assert len(wire.rows(connection.query("IDENTIFY_SYSTEM"))) == 1
    connection.terminate()


def test_lengths_are_checked(weir, postgres):
    connection = streaming(weir)
    connection.send(b"d\0\0\0\2")
    errors = [m for m in connection.read_until_closed() if m.tag == "E"]
    assert [m.sqlstate for m in errors] == ["08P01"]
    connection.close()
    wait_until(lambda: senders(postgres) == 0, "its server connection is closed", 5)


def test_server_that_ends_it_is_heard(weir, postgres):
    connection = streaming(weir)
    postgres.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'copier'")
    errors = [m for m in connection.read_until_closed() if m.tag == "E"]
    assert [m.sqlstate for m in errors] == ["57P01"]
    connection.close()


def test_kill_ends_it(weir, postgres):
    connection = streaming(weir)
    with psycopg.connect(
        host="127.0.0.1", port=weir.port, user="postgres", password="super", dbname="weir", autocommit=True
    ) as console:
        (client,) = [client for client in show(weir, "clients") if client["user"] == "copier"]
        psycopg.ClientCursor(console).execute(f"kill {client['id']}")
    assert [m.sqlstate for m in connection.read_until_closed() if m.tag == "E"] == ["57P01"]
    connection.close()


def test_drain_does_not_wait_for_a_stream(weirs, postgres):
    weir = weirs(in_front_of(postgres))
    connection = streaming(weir)
    began = time.monotonic()
    weir.stop()
    assert time.monotonic() - began < 5
    assert [m.sqlstate for m in connection.read_until_closed() if m.tag == "E"] == ["57P01"]
    connection.close()
