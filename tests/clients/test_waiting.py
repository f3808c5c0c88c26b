"""Clients that wait for a server connection: they are served in their order, nobody waits beside a connection that is free, and
whoever waits is heard and told what PostgreSQL would tell it.

Every test has a Weir of its own with few server connections; those that meddle with the server itself have a PostgreSQL, too.
"""

import contextlib
import os
import select
import signal
import threading
import time

import psycopg
import pytest

import targets
from own_servers import Postgres, ReservedPort, needs_weir, wait_until
from watched_weir import WatchedWeir
from wire import Connection, Refused, cancel, errors, query, rows, startup, status, tags

pytestmark = [needs_weir, pytest.mark.skipif(targets.NOISY, reason="its Weirs have no neighbors; once is enough")]


@pytest.fixture
def weir_with(tmp_path):
    """Starts a Weir with these settings, in front of WEIR_DIRECT_URL's server or another."""
    with contextlib.ExitStack() as stack:

        def start(settings: str, primary: str = "") -> WatchedWeir:
            return stack.enter_context(WatchedWeir(tmp_path / "weir", settings, primary)).wait_until_ready()

        yield start


@pytest.fixture
def postgres(own_directory, request):
    server = Postgres(own_directory / request.node.name[-20:].strip("_[]"), ["host all all 127.0.0.1/32 trust"])
    server.execute("create role watcher superuser login", "create role app superuser login", "create database app")
    yield server
    server.stop()


def url_of(server: Postgres, user: str = "watcher") -> str:
    return f"postgres://{user}@127.0.0.1:{server.port}/app?sslmode=disable"


TRUSTING = 'access = ["host all all all trust"]\n'


def login(weir, user: str = "app") -> Connection:
    return Connection.login(f"postgres://{user}@127.0.0.1:{weir.port}/app")


def server_process(watcher: psycopg.Connection) -> int:
    """The process of the only server connection of the clients; what they are told is Weir's name for it."""
    ((process,),) = watcher.execute("select pid from pg_stat_activity where usename = 'app'").fetchall()
    return process


def waiting(weir: WatchedWeir, count: int) -> None:
    weir.wait_for_metric('clients{state="waiting"}', lambda found: found == count)


def console(weir: WatchedWeir, command: str) -> None:
    with psycopg.connect(targets.at_port(targets.as_role_of(targets.DIRECT, targets.ADMIN), weir.port), dbname="weir", autocommit=True) as connection:
        psycopg.ClientCursor(connection).execute(command)


# ---- a connection that is free -----------------------------------------------------------------------------------------------


def test_after_a_wait_for_the_primary_free_connections_are_taken(weir_with, postgres):
    """The probes fail for a while; the pool's connections do not."""
    settings = TRUSTING + '[pool]\nmax = 1\nqueue_timeout = "5s"\n[servers]\nhealth_interval = "50ms"\nfailover_wait = "60s"\n'
    weir = weir_with(settings, url_of(postgres))
    with login(weir) as client:
        client.query("select 1")
        with postgres.connect() as watcher:
            process = server_process(watcher)
        postgres.execute(
            "alter role watcher nologin",
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'watcher'",
        )
        weir.wait_for_metric('host_up{host="primary"}', lambda up: up == 0)
        client.send(query("select 'served'"))
        waiting(weir, 1)
        postgres.execute("alter role watcher login")
        assert rows(client.read_until_ready()) == [(b"served",)]
        with postgres.connect() as watcher:
            assert server_process(watcher) == process


# ---- custom settings ---------------------------------------------------------------------------------------------------------


def test_client_without_the_others_custom_setting_is_served_in_its_turn(weir_with):
    """All connections of a busy pool have had a setting that this client must not find there."""
    weir = weir_with("[pool]\nmax = 2\n")
    stop = threading.Event()

    def tenant(number: int) -> None:
        with Connection.login(weir.address) as client:
            client.query(f"set my.tenant = '{number}'")
            while not stop.is_set():
                client.query("select pg_sleep(0.01)")

    tenants = [threading.Thread(target=tenant, args=(number,)) for number in range(8)]
    try:
        for thread in tenants:
            thread.start()
        weir.wait_for_metric('clients{state="waiting"}', lambda found: found >= 4)
        with Connection.login(weir.address) as plain:
            for _ in range(10):
                began = time.monotonic()
                assert plain.value("select current_setting('my.tenant', true)") is None
                assert time.monotonic() - began < 5
    finally:
        stop.set()
        for thread in tenants:
            thread.join()


def test_custom_settings_cost_no_connections_while_there_is_room(weir_with):
    weir = weir_with("[pool]\nmax = 5\n")
    with Connection.login(weir.address) as tenant, Connection.login(weir.address) as plain:
        tenant.query("set my.tenant = '1'")
        plain.query("select 1")
        opened = total(weir, "pool_connects_total")
        assert opened == 2
        for _ in range(10):
            assert tenant.value("select current_setting('my.tenant')") == "1"
            assert plain.value("select current_setting('my.tenant', true)") is None
        assert total(weir, "pool_connects_total") == opened


def total(weir: WatchedWeir, name: str) -> int:
    """Over all pools."""
    return int(sum(value for series, value in weir.metrics().items() if series.startswith(name)))


# ---- who waits is heard ------------------------------------------------------------------------------------------------------


def test_killed_while_it_waits(weir_with):
    weir = weir_with("[pool]\nmax = 1\n")
    with Connection.login(weir.address) as holder, Connection.login(weir.address) as late:
        holder.query("begin; select 1")
        late.send(query("select 1"))
        waiting(weir, 1)
        console(weir, f"kill {late.process_id}")
        assert errors(late.read_until_closed()) == ["57P01"]
        assert status(holder.query("commit")) == "I"


def test_end_of_the_drain_ends_those_who_wait(weir_with):
    weir = weir_with('drain_timeout = "300ms"\n[pool]\nmax = 1\n')
    holder, late = Connection.login(weir.address), Connection.login(weir.address)
    holder.query("begin; select 1")
    late.send(query("select 1"))
    waiting(weir, 1)
    weir.process.child.send_signal(signal.SIGTERM)
    assert errors(late.read_until_closed()) == ["57P01"]
    assert weir.process.child.wait(10) == 0
    holder.close()


def test_one_that_has_gone_leaves_the_queue(weir_with):
    """And nothing is run for it."""
    weir = weir_with("[pool]\nmax = 1\n")
    with Connection.login(weir.address) as holder:
        holder.query("create temp table ran (id int)")
        for leave in (Connection.vanish, Connection.close, Connection.terminate):
            gone = Connection.login(weir.address)
            gone.send(query("select 1"))
            waiting(weir, 1)
            leave(gone)
            waiting(weir, 0)


def test_cancel_while_there_is_no_primary(weir_with, postgres):
    settings = TRUSTING + '[servers]\nhealth_interval = "50ms"\nfailover_wait = "60s"\n'
    weir = weir_with(settings, url_of(postgres))
    with login(weir) as client:
        client.query("select 1")
        postgres.stop()
        weir.wait_for_metric('host_up{host="primary"}', lambda up: up == 0)
        client.send(query("select 1"))
        waiting(weir, 1)
        cancel(client)
        answer = client.read_until_ready()
        assert errors(answer) == ["57014"] and status(answer) == "I"


def test_what_weir_answered_before_goes_out(weir_with):
    """Where there are replicas, Weir answers BEGIN by itself: only the statement behind it has to wait."""
    weir = weir_with(f'replicas = ["postgres://127.0.0.1:{ReservedPort().release()}"]\n[splitting]\nenabled = true\n[pool]\nmax = 1\n')
    with Connection.login(weir.address) as holder, Connection.login(weir.address) as late:

        def begins_here() -> bool:
            """Once it knows the server's defaults for transactions."""
            late.query("begin")
            held = total(weir, "pool_active_connections")
            late.query("rollback")
            return held == 0

        wait_until(begins_here, "BEGIN is answered by Weir")
        holder.query("begin; select 1")
        late.deadline = 5
        late.send(query("begin") + query("create temp table t ()"))
        waiting(weir, 1)
        assert tags(late.read_until_ready()) == "CZ"
        holder.query("commit")
        assert errors(late.read_until_ready()) == []


# ---- a cancel that comes late ------------------------------------------------------------------------------------------------


def test_cancel_that_hangs_strikes_nobody_else(weir_with, postgres):
    """The postmaster stands still: the request lies in its socket long after Weir has given it up."""
    settings = TRUSTING + '[pool]\nmax = 1\n[servers]\nconnect_timeout = "500ms"\nhealth_timeout = "60s"\n'
    weir = weir_with(settings, url_of(postgres))
    with login(weir) as first, login(weir) as second, postgres.connect() as watcher:
        first.query("select 1")
        process = server_process(watcher)
        postmaster = int((postgres.data / "postmaster.pid").read_text().split()[0])
        first.send(query("select pg_sleep(0.2)"))
        watch = "select query from pg_stat_activity where pid = %s"
        wait_until(lambda: "pg_sleep(0.2)" in str(watcher.execute(watch, [process]).fetchone()), "the first one runs")
        os.kill(postmaster, signal.SIGSTOP)
        try:
            cancel(first)
            first.read_until_ready()
            second.send(query("select pg_sleep(1), 'second'"))

            def has_another() -> bool:
                found = watcher.execute(watch, [process]).fetchone()
                return found is None or "second" in found[0]

            wait_until(has_another, "the connection is another client's, or none's")
        finally:
            os.kill(postmaster, signal.SIGCONT)
        assert errors(second.read_until_ready()) == []


# ---- Weir's own query in front of the client's -------------------------------------------------------------------------------

# What a session takes on slowly, once another has the catalog of the first to itself. Until the second is taken on, too, the last
# client's is in force.
SLOW_SETTING = {"default_text_search_config": "english", "statement_timeout": "60s"}


@pytest.fixture
def slow_settings(weir_with, postgres):
    """Gives a Weir with one server connection, the session that holds things up, and a session that watches."""
    settings = TRUSTING + '[pool]\nmax = 1\n[servers]\nconnect_timeout = "20s"\n'
    weir = weir_with(settings, url_of(postgres))
    with postgres.connect() as watcher, psycopg.connect(url_of(postgres), autocommit=True) as blocker:
        yield weir, blocker, watcher


def hold_up(blocker: psycopg.Connection, weir) -> None:
    """From now on, what is read of the catalog has to be read anew, and that waits."""
    blocker.execute("update pg_ts_config set cfgname = cfgname where cfgname = 'english'")
    blocker.execute("begin")
    blocker.execute("lock table pg_ts_config in access exclusive mode")


def held_up(watcher: psycopg.Connection, seconds: float = 0.0) -> bool:
    """Whether Weir's query has waited for so long, by PostgreSQL's clock."""
    sql = """
        select count(*) from pg_stat_activity where usename = 'app' and wait_event_type = 'Lock'
        and strpos(query, 'default_text_search_config') > 0 and clock_timestamp() - query_start > %s * interval '1s'
    """
    return watcher.execute(sql, [seconds]).fetchone()[0] == 1


def login_with_slow_setting(weir) -> Connection:
    url = f"postgres://app@127.0.0.1:{weir.port}/app"
    return Connection.login(targets.with_options(url, **SLOW_SETTING))


def test_timeout_of_another_client_does_not_strike_the_settings_of_the_next(slow_settings):
    weir, blocker, watcher = slow_settings
    with login_with_slow_setting(weir) as slow, login(weir) as hasty:
        slow.query("select 1")
        hasty.query("set statement_timeout = '200ms'")
        hasty.query("select 1")
        hold_up(blocker, weir)
        slow.send(query("select 'served'"))
        wait_until(lambda: held_up(watcher, 0.4) or readable(slow), "the timeout would have struck")
        blocker.execute("commit")
        assert rows(slow.read_until_ready()) == [(b"served",)]
        assert hasty.value("show statement_timeout") == "200ms"


def test_cancel_strikes_the_statement_and_not_the_settings_in_front(slow_settings):
    weir, blocker, watcher = slow_settings
    with login_with_slow_setting(weir) as slow, login(weir) as other:
        slow.query("select 1")
        other.query("select 1")
        hold_up(blocker, weir)
        slow.send(query("select pg_sleep(60)"))
        wait_until(lambda: held_up(watcher), "its settings are under way")
        canceling = threading.Thread(target=cancel, args=(slow,))
        canceling.start()
        wait_until(lambda: held_up(watcher, 0.5) or readable(slow), "the cancel would have struck")
        blocker.execute("commit")
        answer = slow.read_until_ready()
        assert errors(answer) == ["57014"] and status(answer) == "I"
        canceling.join()
        assert slow.value("select 'still here'") == "still here"


def readable(connection: Connection) -> bool:
    return bool(select.select([connection.socket], [], [], 0)[0])


# ---- a primary that is too busy to be asked ----------------------------------------------------------------------------------


def test_a_primary_that_does_not_answer_in_time_is_still_the_primary(weir_with, postgres):
    """Weir's own sessions stand still, as on a machine with too much to do; those of clients go on."""
    settings = TRUSTING + '[servers]\nhealth_interval = "100ms"\nhealth_timeout = "200ms"\nfailover_wait = "500ms"\n'
    weir = weir_with(settings, url_of(postgres))
    postmaster = int((postgres.data / "postmaster.pid").read_text().split()[0])
    with login(weir) as client, postgres.connect() as observer:
        assert client.value("select 1") == "1"
        ours = [pid for (pid,) in observer.execute("select pid from pg_stat_activity where usename = 'watcher' and application_name like 'weir%'")]
        assert ours
        for process in (postmaster, *ours):
            os.kill(process, signal.SIGSTOP)
        try:
            weir.wait_for_metric('host_role{host="primary",role="silent"}', lambda is_so: is_so == 1)
            assert [client.value("select 2") for _ in range(10)] == ["2"] * 10
        finally:
            for process in (*ours, postmaster):
                os.kill(process, signal.SIGCONT)
        weir.wait_for_metric('host_role{host="primary",role="primary"}', lambda is_so: is_so == 1)
        assert client.value("select 3") == "3"


# ---- limits ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["max", "max_per_user", "max_per_database"])
def test_limits_hold_for_those_who_come_at_the_same_time(weir_with, postgres, limit):
    """All of them have proved who they are, and wait for what the server says to newcomers."""
    settings = TRUSTING + f'[clients]\n{limit} = 3\n[servers]\nconnect_timeout = "20s"\n[users.app]\npassword = "none"\n'
    weir = weir_with(settings, url_of(postgres))
    postmaster = int((postgres.data / "postmaster.pid").read_text().split()[0])
    clients = []
    os.kill(postmaster, signal.SIGSTOP)
    try:
        for number in range(10):
            client = Connection(f"postgres://app@127.0.0.1:{weir.port}/app")
            client.send(startup(client.startup_parameters(application_name=str(number))))
            clients.append(client)
        weir.wait_for_metric('clients{state="logging_in"}', lambda count: count == 10)
        wait_until(lambda: total(weir, "pool_waiting_clients") == 10, "all wait for the server")
    finally:
        os.kill(postmaster, signal.SIGCONT)
    outcomes = []
    for client in clients:
        try:
            client.authenticate()
            outcomes.append("")
        except Refused as refused:
            outcomes.append(refused.sqlstate)
    assert sorted(outcomes) == [""] * 3 + ["53300"] * 7
    for client in clients:
        client.terminate()


def test_one_that_goes_while_it_logs_in_leaves_the_queue(weir_with):
    weir = weir_with("[pool]\nmax = 1\n")
    with Connection.login(weir.address) as holder:
        holder.query("begin; select 1")
        gone = Connection(weir.address)
        gone.send(startup(gone.startup_parameters(application_name="another")))
        wait_until(lambda: authenticate_until_waiting(gone, weir), "it waits for a server connection")
        gone.vanish()
        wait_until(lambda: total(weir, "pool_waiting_clients") == 0, "it has left the queue", 5)
        holder.query("commit")


def authenticate_until_waiting(connection: Connection, weir) -> bool:
    """Answers what it is asked while it is asked."""
    if readable(connection):
        got = connection.read()
        assert got.tag == "R", str(got)
        connection._answer_authentication(got.body)
    return total(weir, "pool_waiting_clients") == 1
