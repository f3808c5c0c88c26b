"""What meets a limit: each has its SQLSTATE, its counter, and does not harm whoever is within.

Every test has a Weir of its own with the limit set low. Manual: chapter "Server Configuration", "Client Connection Defaults", for
those that PostgreSQL has too.
"""

import contextlib
import time

import pytest

import targets
from own_servers import ReservedPort, needs_weir
from watched_weir import WatchedWeir
from wire import (
    SYNC,
    Connection,
    Refused,
    bind,
    cancel,
    copy_data,
    describe_portal,
    errors,
    execute,
    message,
    parse,
    query,
    rows,
    status,
    tags,
)

pytestmark = [needs_weir, pytest.mark.skipif(targets.NOISY, reason="its Weirs have no neighbors; once is enough")]


@pytest.fixture
def weir_with(tmp_path):
    """Starts a Weir with these settings."""
    with contextlib.ExitStack() as stack:

        def start(settings: str, primary: str = "") -> WatchedWeir:
            weir = stack.enter_context(WatchedWeir(tmp_path / "weir", settings, primary))
            return weir if primary else weir.wait_until_ready()

        yield start


def waiting(weir: WatchedWeir, count: int) -> None:
    weir.wait_for_metric('clients{state="waiting"}', lambda found: found == count)


def total(weir: WatchedWeir, name: str) -> int:
    """Over all pools."""
    return int(sum(value for series, value in weir.metrics().items() if series.startswith(name)))


# ---- a full pool -------------------------------------------------------------------------------------------------------------

WAITING = {
    "simple": query("select 1"),
    "extended": parse("select 1") + bind() + describe_portal() + execute() + SYNC,
    "begin": query("begin; select 1"),
}


@pytest.mark.parametrize("way", WAITING)
def test_queue_timeout(weir_with, way):
    """53300 with a hint, and the session goes on; in a pipeline what follows is answered too."""
    weir = weir_with('[pool]\nmax = 1\nqueue_timeout = "300ms"\n')
    with Connection.login(weir.address) as holder, Connection.login(weir.address) as late:
        holder.query("begin; select 1")
        began = time.monotonic()
        answer = late.ask(WAITING[way])
        seconds = time.monotonic() - began
        assert errors(answer) == ["53300"] and "H" in answer[0].fields and status(answer) == "I"
        assert 0.25 < seconds < 5, f"{seconds:.2f} s"
        assert total(weir, "pool_queue_timeouts_total") == 1
        assert status(holder.query("commit")) == "I"
        assert rows(late.ask(WAITING["simple"])) == [(b"1",)]


def test_those_who_wait_are_served_in_their_order(weir_with):
    weir = weir_with("[pool]\nmax = 1\n")
    with Connection.login(weir.address) as holder:
        holder.query("begin; select 1")
        late = []
        for number in range(5):
            late.append(Connection.login(weir.address))
            late[-1].send(query("select clock_timestamp()"))
            waiting(weir, number + 1)
        holder.query("commit")
        times = [rows(each.read_until_ready())[0][0] for each in late]
        assert times == sorted(times)
        for each in late:
            each.terminate()


def test_cancel_while_waiting(weir_with):
    weir = weir_with("[pool]\nmax = 1\n")
    with Connection.login(weir.address) as holder, Connection.login(weir.address) as late:
        holder.query("begin; select 1")
        late.send(WAITING["simple"])
        waiting(weir, 1)
        cancel(late)
        answer = late.read_until_ready()
        assert errors(answer) == ["57014"] and status(answer) == "I"
        assert rows(holder.query("select 'untouched'")) == [(b"untouched",)]
        holder.query("commit")
        assert rows(late.ask(WAITING["extended"])) == [(b"1",)]


def test_one_that_leaves_while_it_waits_keeps_nothing(weir_with):
    weir = weir_with("[pool]\nmax = 1\n")
    with Connection.login(weir.address) as holder, Connection.login(weir.address) as next_one:
        holder.query("begin; select 1")
        gone = Connection.login(weir.address)
        gone.send(query("begin; select 1"))
        waiting(weir, 1)
        gone.vanish()
        next_one.send(WAITING["simple"])
        weir.wait_for_metric('clients{state="waiting"}', lambda found: found >= 1)
        holder.query("commit")
        assert rows(next_one.read_until_ready()) == [(b"1",)]


LAST_WORDS = {
    "a statement": query("select pg_sleep(60)"),
    "a batch": parse("select pg_sleep(60)") + bind() + execute() + SYNC,
    "a statement in a transaction": query("begin; select pg_sleep(60)"),
    "COPY FROM": query("copy t from stdin") + copy_data(b"1\n"),
    "COPY FROM in a batch": parse("copy t from stdin") + bind() + execute() + SYNC + copy_data(b"1\n"),
}


@pytest.mark.parametrize("last_words", LAST_WORDS)
def test_one_that_vanishes_frees_its_place_at_once(weir_with, schema, last_words):
    """Whether what it asked for has begun or not: so again and again, for there is a race between the two."""
    weir = weir_with("[pool]\nmax = 1\n")
    with Connection.login(weir.address) as next_one:
        next_one.query(f"set search_path = {schema.name}; create table t (id int)")
        next_one.deadline = 5
        for _ in range(12):
            gone = Connection.login(weir.address, options=f"-c search_path={schema.name}")
            gone.send(LAST_WORDS[last_words])
            gone.vanish()
            assert next_one.value("select count(*) from t") == "0"


@pytest.mark.parametrize("way", ["simple", "extended"])
def test_malformed_message_frees_its_place_at_once(weir_with, way):
    """Behind one that is well formed, which the server then has or has not: it must not be waited for in vain."""
    weir = weir_with("[pool]\nmax = 1\n")
    good = query("select 1") if way == "simple" else parse("select 1") + bind() + execute() + SYNC
    with Connection.login(weir.address) as next_one:
        next_one.deadline = 5
        assert next_one.value("select 'before'") == "before"
        broken = Connection.login(weir.address)
        broken.send(good, message("Q", b"no terminator"))
        assert errors(broken.read_until_closed()) == ["08P01"]
        broken.close()
        assert next_one.value("select 'served'") == "served"


def test_free_connection_is_not_kept_from_those_who_wait(weir_with):
    """One that has to wait, since no free connection will do for it, must not make others wait for whom one would."""
    weir = weir_with("[pool]\nmax = 2\n")
    with contextlib.ExitStack() as stack:
        first, second, plain = (stack.enter_context(Connection.login(weir.address)) for _ in range(3))
        first.deadline = 5
        for number in range(5):
            # Two connections, each with a custom setting that only its own client may find there.
            second.query(f"set my.second = '{number}'")
            second.query("begin; select 1")
            first.query(f"set my.first = '{number}'")
            second.query("commit")
            plain.send(query("begin; select 1"))
            assert first.value("select current_setting('my.first')") == str(number)
            plain.read_until_ready()
            plain.query("commit")


# ---- clients -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["max", "max_per_user", "max_per_database"])
def test_too_many_clients(weir_with, limit):
    weir = weir_with(f"[clients]\n{limit} = 3\n")
    clients = [Connection.login(weir.address) for _ in range(3)]
    with pytest.raises(Refused) as refused:
        Connection.login(weir.address)
    assert refused.value.sqlstate == "53300"
    assert [client.value("select 'still here'") for client in clients] == ["still here"] * 3
    clients.pop().terminate()
    weir.wait_for_metric('clients{state="idle"}', lambda found: found == 2)
    clients.append(Connection.login(weir.address))
    for client in clients:
        client.terminate()


def test_idle_client_is_closed(weir_with):
    weir = weir_with('[clients]\nidle_timeout = "1s"\n')
    with Connection.login(weir.address) as idle, Connection.login(weir.address) as busy:
        busy.send(query("select pg_sleep(3)"))
        began = time.monotonic()
        assert errors(idle.read_until_closed()) == ["57P05"]
        assert 0.9 < time.monotonic() - began < 10
        assert tags(busy.read_until_ready()) == "TDCZ", "who waits for an answer is not idle"


def test_client_idle_in_a_transaction_is_closed(weir_with, schema):
    weir = weir_with('[pool]\nmax = 1\n[clients]\nidle_in_transaction_timeout = "1s"\n')
    with Connection.login(weir.address) as forgetful, Connection.login(weir.address) as next_one:
        forgetful.query(f"begin; create table {schema.name}.t (id int)")
        next_one.send(query(f"select to_regclass('{schema.name}.t') is null"))
        assert errors(forgetful.read_until_closed()) == ["25P03"]
        assert rows(next_one.read_until_ready()) == [(b"t",)], "its transaction is undone, and its connection free"


def test_message_longer_than_allowed(weir_with):
    weir = weir_with('[clients]\nmessage_bytes_max = "64kB"\n')
    with Connection.login(weir.address) as client:
        assert rows(client.query("select '" + "x" * 60_000 + "'")) == [(b"x" * 60_000,)]
        client.send(query("select '" + "x" * 70_000 + "'"))
        assert errors(client.read_until_closed()) == ["08P01"]
    assert weir.metric("malformed_clients_total") == 1


# ---- no primary --------------------------------------------------------------------------------------------------------------


def test_without_a_primary(weir_with):
    """Weir is up, and whoever comes is told after a while what is missing."""
    nowhere = targets.at_port(targets.DIRECT, ReservedPort().release())
    weir = weir_with('[servers]\nfailover_wait = "500ms"\n', primary=nowhere)
    began = time.monotonic()
    with pytest.raises(Refused) as refused:
        Connection.login(weir.address)
    assert refused.value.sqlstate == "57P03" and "H" in refused.value.fields
    assert 0.4 < time.monotonic() - began < 10
    assert weir.metric('host_up{host="primary"}') == 0
