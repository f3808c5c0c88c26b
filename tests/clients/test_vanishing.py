"""Clients that go away at the worst moment leave nothing of theirs to whoever gets their server connection next.

Through a Weir of their own with one server connection, so that it is certain who gets it: a client that waits for it already.
"""



import time

import pytest

import targets
from own_servers import needs_weir
from watched_weir import MIB, WatchedWeir
from wire import SYNC, Connection, bind, errors, execute, extended, message, parse, query, rows, status, tags

pytestmark = [needs_weir, pytest.mark.skipif(targets.NOISY, reason="its Weir has no neighbors; once is enough")]


@pytest.fixture(scope="module")
def weir(tmp_path_factory):
    with WatchedWeir(tmp_path_factory.mktemp("weir"), "[pool]\nmax = 1\n") as weir:
        yield weir.wait_until_ready()


class Waiting:
    """A client that waits for the one server connection, and what it was answered in the end."""

    def __init__(self, weir, *messages: bytes):
        self.connection = Connection.login(weir.address)
        self.connection.send(*messages)
        weir.wait_for_metric('clients{state="waiting"}', lambda count: count >= 1)

    def __enter__(self) -> Connection:
        return self.connection

    def __exit__(self, *_):
        self.connection.terminate()


@pytest.mark.parametrize("first, last", [(query("select 1"), query("select pg_sleep(0.3), 'secret'")), (b"", query("select pg_sleep(0.3), 'secret'"))])
@pytest.mark.parametrize("leave", ["close", "vanish"])
def test_answer_that_could_not_be_delivered_is_not_the_next_clients(weir, first, last, leave):
    """The reset that a client's kernel sends for the first answer is met by the second."""
    client = Connection.login(weir.address)
    client.send(first + last)
    with Waiting(weir, query("select 'mine'")) as other:
        getattr(client, leave)()
        for _ in range(3):
            assert rows(other.read_until_ready()) == [(b"mine",)]
            other.send(query("select 'mine'"))


MANY_ROWS = {
    # Taken for messages, these bytes would be as long as can be.
    "digits": "select repeat('3141592653', 100000) from generate_series(1, 50)",
    "blanks": "select repeat(' ', 1000000) from generate_series(1, 50)",
    # Taken for messages, these say that a command has completed and the server is ready.
    "messages": r"select decode(repeat('430000000500' || '5a0000000549', 80000), 'hex') from generate_series(1, 50)",
}


@pytest.mark.parametrize("sql", MANY_ROWS.values(), ids=MANY_ROWS)
def test_row_that_was_cut_off_is_not_read_as_messages(weir, sql):
    for cut in range(1, 13):
        client = Connection.login(weir.address)
        client.send(parse(sql), bind(result_formats=(1,)), execute(), SYNC)
        client.read_exactly(100_000 + cut)
        with Waiting(weir, query("select 'mine'")) as other:
            began = time.monotonic()
            client.vanish()
            assert rows(other.read_until_ready()) == [(b"mine",)]
            assert time.monotonic() - began < 5, "the connection was kept for an answer that never ends"


LEFTOVERS = {
    "an advisory lock": ("perform pg_advisory_lock(815)", "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()", "0"),
    "a temporary table": ("create temp table left_behind (id int)", "select to_regclass('left_behind') is null", "t"),
    "a search_path": ("perform set_config('search_path', 'pg_catalog', false)", "show search_path", None),
    "a setting of its own": ("perform set_config('left.behind', 'yes', false)", "select coalesce(current_setting('left.behind', true), '')", ""),
}


@pytest.mark.parametrize("does, shows, wanted", LEFTOVERS.values(), ids=LEFTOVERS)
@pytest.mark.parametrize("leave", ["close", "vanish", "terminate"])
def test_what_a_function_left_is_not_the_next_clients(weir, does, shows, wanted, leave):
    with Connection.login(weir.address) as maker:
        usual = maker.value("show search_path")
        assert not errors(maker.query(f"create or replace function leaves() returns void language plpgsql as $$begin {does}; end$$"))
    for last in ["select leaves(), pg_sleep(0.2)", "select 1; select leaves(), pg_sleep(0.2)"]:
        client = Connection.login(weir.address)
        client.send(query("select 1"), query(last))
        with Waiting(weir, query(shows)) as other:
            getattr(client, leave)()
            answer = other.read_until_ready()
            assert rows(answer) == [((usual if wanted is None else wanted).encode(),)], list(map(str, answer))


def test_setting_that_a_function_made_is_not_the_next_clients(weir):
    """Nobody vanishes: each has its turn on the same connection."""
    with Connection.login(weir.address) as one, Connection.login(weir.address) as two:
        one.query("create or replace function set_tenant(tenant int) returns void language sql as $$select set_config('app.tenant', tenant::text, false)$$")
        for tenant in range(1, 5):
            assert not errors(one.query(f"select set_tenant({tenant})"))
            assert not two.value("select current_setting('app.tenant', true)")


def test_error_is_not_written_into_the_middle_of_a_row(weir, direct):
    """A server that dies with a few bytes to go: the client must not take our words for them."""
    with Connection.login(weir.address) as client:
        client.send(query("select pg_backend_pid(); select repeat('x', 50000000)"))
        client.read_exactly(1_000_000)
        with Connection.login(direct) as killer:
            killer.query("select pg_terminate_backend(pid) from pg_stat_activity where query like '%repeat(''x'', 50000000)%' and pid <> pg_backend_pid()")
        rest = bytearray()
        client.socket.settimeout(20)
        while piece := client.socket.recv(1 << 20):
            rest += piece
        assert rest.strip(b"x") == b"" or len(rest) > 49_000_000 + 10_000, bytes(rest[-300:])


FLOODS = {
    "Sync": (b"", SYNC),
    "a statement that a failed block refuses": (query("begin") + query("select 1 / 0"), query("x")),
    "a statement that is prepared already, flushed": (extended("select 1") + SYNC + extended("select 1") + SYNC, parse("select 1") + message("H")),
}


@pytest.mark.parametrize("first, again", FLOODS.values(), ids=FLOODS)
def test_client_that_does_not_read_what_weir_answers_is_not_read(weir, first, again):
    before = weir.resident()
    client = Connection.login(weir.address)
    client.send(first)
    time.sleep(0.2)
    client.socket.settimeout(1)
    sent = 0
    flood = again * (65536 // len(again))
    try:
        while sent < 64 * MIB:
            client.socket.sendall(flood)
            sent += len(flood)
    except TimeoutError:
        pass
    assert sent < 64 * MIB, "all of it was taken"
    assert weir.resident() - before < 16 * MIB
    client.vanish()
    with Connection.login(weir.address) as other:
        assert other.value("select 1") == "1"


def test_refused_batch_goes_on_to_its_sync(tmp_path):
    """It ends in Flush first, as drivers send it that ask for a description."""
    with WatchedWeir(tmp_path / "weir", "[pool]\nmax = 1\nqueue_timeout = \"2s\"\n").wait_until_ready() as weir:
        with Connection.login(weir.address) as holder, Connection.login(weir.address) as client:
            holder.query("begin; select 1; create temp table held (id int)")
            client.send(parse("select 1"), message("D", b"S\0"), message("H"))
            assert errors(client.read_until("E")) == ["53300"]
            client.send(bind(), execute(), query("select 'skipped'"), parse("select '" + "x" * 300_000 + "'"))
            answer = client.ask(SYNC)
            assert tags(answer) == "Z" and status(answer) == "I"
            holder.query("rollback")
            assert client.value("select 'there'") == "there"


def test_block_is_as_old_as_its_begin(tmp_path):
    """The time before BEGIN is not the block's."""
    settings = '[clients]\nidle_in_transaction_timeout = "1500ms"\n'
    with WatchedWeir(tmp_path / "weir", settings).wait_until_ready() as weir, Connection.login(weir.address) as client:
        for _ in range(2):
            client.query("begin")
            assert client.value("select 1") == "1"
            client.query("rollback")
            time.sleep(1.2)
        client.query("begin")
        time.sleep(0.8)
        assert client.value("select 1") == "1"
