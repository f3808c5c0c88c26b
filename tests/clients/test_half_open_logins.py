"""Ten thousand clients that connect and then say nothing, or stop in the middle of their login: they cost little, they are closed
at the login timeout, and others are served meanwhile.

In front of a Weir of its own, which has a short `login_timeout` and enough file descriptors.
"""

import resource
import select
import struct
import time
from collections import Counter
from dataclasses import dataclass

import pytest

import targets
from own_servers import needs_weir
from watched_weir import MIB, WatchedWeir
from wire import SSL_REQUEST, Address, Connection, cstring, message, open_socket, startup

CLIENTS = 10_000
SPARE_FILES = 500
LOGIN_TIMEOUT = 10.0
GRACE = 5.0  # seconds after the login timeout in which all must be closed
ORDINARY_MAX = (
    3.0  # seconds for the whole session of an ordinary client among them: ten times what a busy machine needs
)
BYTES_EACH = 16 * 1024  # of Weir's memory for a login that is open, in a debug build too; measured: 8
BYTES_MORE = 16 * MIB  # that a second wave of all of them takes

pytestmark = [
    needs_weir,
    pytest.mark.skipif(targets.NOISY, reason="its Weir has no neighbors; once is enough"),
    pytest.mark.xdist_group("flat memory"),
]


@pytest.fixture(scope="module")
def weir(tmp_path_factory):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CLIENTS + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.fail(f"needs {wanted} open files, and the hard limit is {hard}: raise it (ulimit -Hn)")
    # Weir inherits the limit.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted) if soft != resource.RLIM_INFINITY else soft, hard))
    settings = f'[clients]\nmax = 20000\nlogin_timeout = "{LOGIN_TIMEOUT:.0f}s"\n'
    try:
        with WatchedWeir(tmp_path_factory.mktemp("weir"), settings) as weir:
            yield weir.wait_until_ready()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def openings() -> dict[str, tuple[list[bytes], str]]:
    """What each kind of client says, each step but the first after an answer; and the tags of what it is told before it is closed."""
    address = Address.of(targets.DIRECT)
    packet = startup({"user": address.user, "database": address.database})
    stranger = startup({"user": "nobody_here", "database": "nowhere"})
    first = b"n,,n=,r=abcdefghijklmnopqrstuvwx"
    response = message("p", cstring("SCRAM-SHA-256") + struct.pack("!i", len(first)) + first)
    return {
        "nothing": ([], ""),
        "two bytes": ([packet[:2]], ""),
        "half a startup packet": ([packet[: len(packet) // 2]], ""),
        "all but its last byte": ([packet[:-1]], ""),
        "a startup packet": ([packet], "R"),
        "a startup packet of nobody": ([stranger], "R"),
        "a request for TLS": ([SSL_REQUEST], "N"),
        "a request for TLS, half a startup packet": ([SSL_REQUEST, packet[:20]], "N"),
        "the first SASL message": ([packet, response], "RR"),
        "half of the first SASL message": ([packet, response[:17]], "R"),
    }


class HalfOpen:
    """One such client."""

    def __init__(self, url: str, kind: str, steps: list[bytes]):
        self.kind, self.steps = kind, steps
        self.received = b""
        self.end = "open"
        self.seconds = 0.0
        self.began = time.monotonic()
        self.socket = open_socket(url)
        if steps:
            self.socket.sendall(steps[0])

    def go_on(self) -> None:
        """The second step, once the first is answered."""
        if len(self.steps) > 1:
            self.received += self.socket.recv(4096)
            self.socket.sendall(self.steps[1])

    def read(self) -> bool:
        """What has come; False once it is closed."""
        try:
            piece = self.socket.recv(4096)
            self.end = "closed"
        except ConnectionError as error:
            piece, self.end = b"", str(error)
        self.received += piece
        self.seconds = time.monotonic() - self.began
        return bool(piece)

    @property
    def told(self) -> str:
        """The tags of what was received; the answer to a request for TLS is a bare byte."""
        found, at = "", 0
        while at < len(self.received):
            tag = chr(self.received[at])
            found += tag
            at += 1 if tag in "NS" else 1 + struct.unpack_from("!i", self.received, at + 1)[0]
        return found


@dataclass
class Wave:
    """What became of all of them, and of Weir and an ordinary client meanwhile."""

    clients: list[HalfOpen]
    ordinary_seconds: list[float]
    before: int
    peak: int


def session_of_an_ordinary_client(url: str) -> float:
    """From the first byte to the last, with one answer between."""
    began = time.monotonic()
    with Connection.login(url) as connection:
        assert connection.value("select 'served'") == "served"
    return time.monotonic() - began


@pytest.fixture(scope="module")
def wave(weir):
    return wave_of_logins(weir)


def wave_of_logins(weir) -> Wave:
    session_of_an_ordinary_client(weir.address)
    weir.forget_peak()
    before, logging_in = weir.resident(), 'clients{state="logging_in"}'
    kinds = list(openings().items())
    clients, ordinary_seconds = [], []
    try:
        for number in range(CLIENTS):
            kind, (steps, _) = kinds[number % len(kinds)]
            clients.append(HalfOpen(weir.address, kind, steps))
        for client in clients:
            client.go_on()
        weir.wait_for_metric(logging_in, lambda count: count == CLIENTS, within=LOGIN_TIMEOUT)
        poll = select.poll()
        by_file = {client.socket.fileno(): client for client in clients}
        for file in by_file:
            poll.register(file, select.POLLIN)
        until = time.monotonic() + LOGIN_TIMEOUT + GRACE
        while by_file and time.monotonic() < until:
            ordinary_seconds.append(session_of_an_ordinary_client(weir.address))
            for file, _ in poll.poll(50):
                if not by_file[file].read():
                    poll.unregister(file)
                    del by_file[file]
    finally:
        for client in clients:
            client.socket.close()
    weir.wait_for_metric(logging_in, lambda count: count == 0)
    return Wave(clients, ordinary_seconds, before, weir.peak())


def test_each_is_told_what_it_is_due_and_closed(wave):
    """PostgreSQL closes without a word, too: whoever has not proved who it is learns nothing."""
    kinds = openings()
    ends = Counter((client.kind, client.told, client.end) for client in wave.clients)
    assert ends == {(kind, told, "closed"): CLIENTS // len(kinds) for kind, (_, told) in kinds.items()}


def test_all_are_closed_at_the_login_timeout(wave):
    """Counted from the connect to the close as the client sees them, so hardly before, and not long after."""
    seconds = [client.seconds for client in wave.clients]
    assert LOGIN_TIMEOUT - 0.1 < min(seconds) and max(seconds) < LOGIN_TIMEOUT + GRACE


def test_others_are_served_meanwhile(wave):
    assert len(wave.ordinary_seconds) > 20
    assert max(wave.ordinary_seconds) < ORDINARY_MAX


def test_they_cost_little_memory(wave):
    each = (wave.peak - wave.before) / CLIENTS
    assert each < BYTES_EACH, f"{each:.0f} bytes each"


def test_their_memory_serves_the_next(weir, wave):
    """Whether it goes back to the system is the allocator's affair; another wave finds it free."""
    more = wave_of_logins(weir).peak - wave.peak
    assert more < BYTES_MORE, f"{more / MIB:.1f} MiB more than {(wave.peak - wave.before) / MIB:.1f}"


def test_silence_is_not_counted_as_malformed(weir, wave):
    assert weir.metric("malformed_clients_total") == 0
