"""Results and COPY data of any size pass in flat memory, and a slow client slows only itself.

Through a Weir of their own, so that its memory is theirs alone. The peak is the kernel's (VmHWM), so no moment is missed. A bare
socket reads and writes, since a driver would be the slowest part. How many bytes must come is computed, so that none can be lost or
added unseen.
"""

import contextlib
import struct
import threading
import time

import pytest

import targets
from own_servers import needs_weir
from test_protocol import run_full_duplex
from watched_weir import MIB, WatchedWeir
from wire import COPY_DONE, SYNC, Connection, bind, copy_data, execute, message, parse, query, startup, tags

pytestmark = [
    needs_weir,
    pytest.mark.skipif(targets.NOISY, reason="its Weir has no neighbors; once is enough"),
    pytest.mark.xdist_group("flat memory"),
]

GROWTH_MAX = 32 * MIB
SLEEP = 8.0  # seconds for which a slow client does not read
WAIT_MAX = 6.0  # seconds; a client held up by one that sleeps would wait for longer, one on a busy machine does not
READY = message("Z", b"I")


@pytest.fixture(scope="module")
def weir(tmp_path_factory):
    with WatchedWeir(tmp_path_factory.mktemp("weir"), "[pool]\nmax = 20\n") as weir:
        weir.wait_until_ready()
        # The first of each kind makes what is made once: code paged in, connections, tables.
        with Connection.login(weir.address) as connection:
            for warm_up in ("select repeat('x', 500000)", "copy (select repeat('x', 500000)) to stdout"):
                connection.query(warm_up)
                connection.ask(parse(warm_up), bind(), execute(), SYNC)
            connection.send(query("copy pg_temp.t from stdin"), copy_data(b"x" * 500_000), COPY_DONE, SYNC)
            connection.read_until_ready(2)
        yield weir


@contextlib.contextmanager
def memory_stays_flat(weir):
    before = weir.resident()
    weir.forget_peak()
    yield
    growth = weir.peak() - before
    assert growth < GROWTH_MAX, f"grew by {growth / MIB:.1f} MiB from {before / MIB:.1f}"


@contextlib.contextmanager
def another_client_is_served(weir, answers_min=1):
    """Somebody with small questions all the while, who must hardly notice."""
    times, stop, failures = [], threading.Event(), []

    def ask():
        try:
            with Connection.login(weir.address) as connection:
                while not stop.wait(0.005):
                    began = time.monotonic()
                    assert connection.value("select 'small'") == "small"
                    times.append(time.monotonic() - began)
        except Exception as error:
            failures.append(error)

    client = threading.Thread(target=ask)
    client.start()
    try:
        yield
    finally:
        stop.set()
        client.join(30)
    assert not client.is_alive() and not failures, failures
    assert len(times) >= answers_min, f"only {len(times)} answers to another client"
    assert max(times) < WAIT_MAX, f"another client waited {max(times):.3f} s"


class Stream:
    """Counts what comes up to ReadyForQuery without taking it apart."""

    def __init__(self, connection: Connection):
        self.socket = connection.socket
        self.buffer = bytearray(MIB)
        self.bytes = 0
        self.end = b""

    def read_until_ready(self, at_most: int | None = None) -> None:
        """Or until `at_most` bytes have come."""
        view = memoryview(self.buffer)
        while not self.end.endswith(READY) and (at_most is None or self.bytes < at_most):
            count = self.socket.recv_into(self.buffer)
            assert count > 0, f"closed after {self.bytes} bytes"
            self.bytes += count
            self.end = (self.end + view[max(0, count - 200) : count])[-200:]


def slow_connection(weir) -> Connection:
    """A small window, so that what is not read stays with Weir and not in this machine's kernel."""
    connection = Connection(weir.address, receive_buffer=1 << 16)
    connection.send(startup(connection.startup_parameters()))
    connection.authenticate()
    return connection


# ---- COPY --------------------------------------------------------------------------------------------------------------------

SIZES = [100, 8000, 200_000, 3_000_000]
ROUNDS = 672  # 2 GiB


def test_two_gigabytes_of_copy_to_stdout(weir):
    values = f"select repeat('x', size) as value from unnest(array[{','.join(map(str, SIZES))}]) size"
    rows = f"with vals as materialized ({values}) select value from generate_series(1, {ROUNDS}), vals"
    with memory_stays_flat(weir), Connection.login(weir.address) as connection:
        connection.send(query(f"copy ({rows}) to stdout"))
        stream = Stream(connection)
        stream.read_until_ready()
    begin, end = message("H", b"\0\0\1\0\0"), COPY_DONE + message("C", b"COPY %d\0" % (ROUNDS * 4)) + READY
    assert stream.end.endswith(b"xx\n" + end)
    assert stream.bytes == len(begin) + ROUNDS * sum(5 + size + 1 for size in SIZES) + len(end) > 2 << 30


def test_two_gigabytes_of_copy_from_stdin(weir, schema):
    """Nothing is stored; that all of it came is told by a sequence that counts the rows whose length is right."""
    size, rows = 2 * MIB, 1024
    row = struct.pack("!hi", 1, size) + b"x" * size
    # The pieces begin and end anywhere in the row, as COPY allows; some are small, one is larger than any buffer.
    cuts = [0, 1, 5, 100, 9000, 70_000, 400_000, len(row)]
    pieces = b"".join(copy_data(row[at:end]) for at, end in zip(cuts, cuts[1:]))
    with Connection.login(weir.address) as connection:
        connection.query(f"create table {schema.name}.t (data bytea); create sequence {schema.name}.seen")
        seen = f"length(data) = {size} and nextval('{schema.name}.seen') < 0"
        with memory_stays_flat(weir):
            connection.send(query(f"copy {schema.name}.t from stdin (format binary) where {seen}"))
            assert tags(connection.read_until("G", "E")) == "G"
            connection.send(copy_data(b"PGCOPY\n\xff\r\n\0" + bytes(8)))
            for _ in range(rows):
                connection.send(pieces)
            connection.send(copy_data(struct.pack("!h", -1)), COPY_DONE)
            assert tags(connection.read_until_ready()) == "CZ"
        assert connection.value(f"select last_value from {schema.name}.seen") == str(rows)


# ---- rows --------------------------------------------------------------------------------------------------------------------

ROWS = 5_000_000


@pytest.mark.parametrize("way", ["simple", "extended"])
def test_five_million_rows(weir, way):
    sql = f"select generate_series(1, {ROWS}) as n"
    with memory_stays_flat(weir), Connection.login(weir.address) as connection:
        if way == "simple":
            connection.send(query(sql))
        else:
            connection.send(parse(sql) + bind() + execute() + SYNC)
        stream = Stream(connection)
        stream.read_until_ready()
    # T: one field of one letter with 18 bytes about it; 1 and 2: ParseComplete and BindComplete.
    begin = 5 + 2 + 2 + 18 if way == "simple" else 5 + 5
    end = message("C", b"SELECT %d\0" % ROWS) + READY
    digits = sum(9 * 10 ** (n - 1) * n for n in range(1, 7)) + (ROWS - 999_999) * 7
    assert stream.end.endswith(b"4999999" + message("D", struct.pack("!hi", 1, 7) + b"5000000") + end)
    assert stream.bytes == begin + ROWS * (5 + 2 + 4) + digits + len(end)


def test_bulk_takes_turns_with_small_statements(weir):
    """Rows that come as fast as they can must not have the event loop for themselves: 270 MB of them are a thousand turns."""
    with another_client_is_served(weir, answers_min=2), Connection.login(weir.address) as connection:
        connection.send(query(f"select generate_series(1, {3 * ROWS})"))
        Stream(connection).read_until_ready()


# ---- slow clients and a slow server ------------------------------------------------------------------------------------------


def wait_until_waiting(direct, marker: str, event: str, count: int = 1) -> None:
    """Until the server itself is held up by `event`: so far back the pressure must reach."""
    waiting = f"select count(*) from pg_stat_activity where query like '%{marker}%' and wait_event = '{event}'"
    until = time.monotonic() + 20
    with Connection.login(direct) as watcher:
        while int(found := watcher.value(waiting)) < count:
            assert time.monotonic() < until, f"{found} of {count} wait for {event}"
            time.sleep(0.02)


def test_clients_that_do_not_read_slow_only_themselves(weir, direct):
    """Ten at once ask for 100 MB each and then sleep."""
    clients, rows, width = 10, 1000, 100_000
    with memory_stays_flat(weir), another_client_is_served(weir), contextlib.ExitStack() as stack:
        sleeping = [stack.enter_context(slow_connection(weir)) for _ in range(clients)]
        for number, connection in enumerate(sleeping):
            sql = f"select repeat('x', {width}) as n from generate_series(1, {rows}) /* sleeping {number} */"
            connection.send(query(sql) if number % 2 else parse(sql) + bind() + execute() + SYNC)
        wait_until_waiting(direct, "/* sleeping", "ClientWrite", clients)
        time.sleep(SLEEP)  # the load itself: a proxy that reads on would take in all of it now
        wait_until_waiting(direct, "/* sleeping", "ClientWrite", clients)
        for number, connection in enumerate(sleeping):
            stream = Stream(connection)
            stream.read_until_ready()
            begin = 5 + 2 + 2 + 18 if number % 2 else 5 + 5
            end = len(message("C", b"SELECT %d\0" % rows) + READY)
            assert stream.bytes == begin + rows * (5 + 2 + 4 + width) + end


def test_client_that_sends_on_and_on_and_reads_little(weir):
    """Full duplex: 64 MB of statements go in while 64 MB of answers wait to be read. Nobody waits for the other."""
    size, batches = 1 << 20, 64
    batch = parse("select $1::text") + bind(values=["x" * size]) + execute() + SYNC
    with memory_stays_flat(weir), another_client_is_served(weir), slow_connection(weir) as connection:
        run_full_duplex(connection, batch * batches, batches, pause_every=256 * 1024)


def test_client_that_sends_to_a_server_that_does_not_read(weir, direct, schema):
    """COPY data for a table that is locked: what the kernels' buffers do not hold must wait in the client, not in Weir."""
    lines = 10_000
    chunk = copy_data((b"y" * 99 + b"\n") * lines)
    sent_max = 512 * MIB
    with Connection.login(direct) as owner, Connection.login(weir.address) as sender:
        owner.query(f"create table {schema.name}.t (data text); create sequence {schema.name}.seen")
        owner.query(f"begin; lock table {schema.name}.t")
        with memory_stays_flat(weir), another_client_is_served(weir):
            sender.send(query(f"copy {schema.name}.t from stdin where nextval('{schema.name}.seen') < 0"))
            wait_until_waiting(direct, f"copy {schema.name}.t from", "relation")
            sent = 0
            sender.socket.settimeout(SLEEP)
            with contextlib.suppress(TimeoutError):
                while sent < sent_max:
                    sent += sender.socket.send(memoryview(chunk)[sent % len(chunk) :])
            assert sent < sent_max, "all of it was taken, though nobody reads it"
            owner.query("rollback")
            sender.send(chunk[sent % len(chunk) :], COPY_DONE)
            assert tags(sender.read_until_ready()) == "GCZ"
        assert int(owner.value(f"select last_value from {schema.name}.seen")) == (sent // len(chunk) + 1) * lines
