"""TLS on both sides: towards clients every way to ask for it, towards servers every `sslmode` and every wrong certificate."""

import contextlib
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives import hashes

import wire
from certificates import Authority, Pair
from own_servers import Postgres, needs_weir, starting_weirs, unchecked, wait_until

pytestmark = [pytest.mark.xdist_group("tls"), needs_weir]


@pytest.fixture(scope="module")
def directory(own_directory):
    path = own_directory / "tls"
    path.mkdir()
    path.chmod(0o711)
    return path


@pytest.fixture(scope="module")
def authority(directory):
    return Authority(directory, "authority")


@pytest.fixture(scope="module")
def postgres(directory):
    server = Postgres(directory / "postgres", ["host all all all scram-sha-256"])
    try:
        server.execute("create role app login password 'app'", "create database app owner app")
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def weirs(directory):
    with starting_weirs(directory) as start:
        yield start


def in_front_of(
    postgres: Postgres, sslmode: str, root: Path | None = None, host: str = "127.0.0.1", more: str = ""
) -> str:
    checked = f"&sslrootcert={root}" if root else ""
    return f"""
        primary = "postgres://app:app@{host}:{postgres.port}/app?sslmode={sslmode}{checked}"
        {more}
        [auth_query]
        enabled = false
        [servers]
        failover_wait = "100ms"
        """


def offering_tls(postgres, pair, more: str = "") -> str:
    certificate = f"""
        [clients.tls]
        certificate = "{pair.certificate}"
        key = "{pair.key}"
        """
    return in_front_of(postgres, "prefer", more=more) + certificate


# ---- towards servers ---------------------------------------------------------------------------------------------------------

SERVERS = ["right", "of another authority", "of another host", "without TLS"]

OUTCOMES = {
    "disable": {"right": "plain", "of another authority": "plain", "of another host": "plain", "without TLS": "plain"},
    "prefer": {"right": "tls", "of another authority": "tls", "of another host": "tls", "without TLS": "plain"},
    "require": {"right": "tls", "of another authority": "tls", "of another host": "tls", "without TLS": "no TLS"},
    "verify-ca": {"right": "tls", "of another authority": "refused", "of another host": "tls", "without TLS": "no TLS"},
    "verify-full": {
        "right": "tls",
        "of another authority": "refused",
        "of another host": "refused",
        "without TLS": "no TLS",
    },
}


@pytest.fixture(scope="module", params=SERVERS)
def server(request, postgres, authority, directory):
    """PostgreSQL with one of the certificates; each is put in place once for all tests with it."""
    match request.param:
        case "right":
            pair = authority.issue("db", "localhost", "127.0.0.1", file="right")
        case "of another authority":
            pair = Authority(directory, "stranger").issue("db", "localhost", "127.0.0.1", file="foreign")
        case "of another host":
            pair = authority.issue("elsewhere", "elsewhere.test", "127.0.0.9", file="elsewhere")
        case "without TLS":
            pair = None
    postgres.show_certificate(pair)
    return request.param


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("sslmode", OUTCOMES)
def test_sslmode_towards_servers(weirs, postgres, authority, server, sslmode, host):
    root = authority.file if sslmode.startswith("verify") else None
    weir = weirs(in_front_of(postgres, sslmode, root, host))
    expected = OUTCOMES[sslmode][server]
    if expected in ("plain", "tls"):
        with weir.connect("app", "app") as connection:
            assert is_encrypted(connection) == (expected == "tls")
        # Weir's own questions go the same way; those of Weirs that have just ended may still be listed.
        weir.process.says("host has a new role")
        last = "select ssl from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'weir'"
        assert postgres.value(f"{last} order by backend_start desc limit 1") == (expected == "tls")
    else:
        began = time.monotonic()
        refused = weir.refusal("app", "app")
        assert time.monotonic() - began < 3, "a certificate does not become right by waiting"
        assert refused["C"] in ("08006", "57P03")
        assert "certificate" not in refused["M"] and host not in str(refused), "the reason is for the log"
        said = "certificate" if expected == "refused" else "does not support TLS"
        weir.process.says(said, within=5)
    weir.stop()


def test_require_with_an_authority_checks_it(weirs, postgres, authority, directory):
    """As libpq: then `require` is `verify-ca`."""
    right = authority.issue("db", "elsewhere.test", file="required")
    foreign = Authority(directory, "unknown").issue("db", "localhost", file="required-foreign")
    configuration = in_front_of(postgres, "require", authority.file)
    postgres.show_certificate(right)
    with weirs(configuration).connect("app", "app") as connection:
        assert is_encrypted(connection)
    postgres.show_certificate(foreign)
    assert weirs(configuration).refusal("app", "app")["C"] in ("08006", "57P03")


@pytest.mark.parametrize("sslmode", ["prefer", "require", "verify-ca", "verify-full"])
def test_certificate_that_signed_itself(weirs, postgres, directory, sslmode):
    """As the manual has it made (19.9.5): an authority of its own, with the host's name as its common name only."""
    pair = Pair(directory / f"itself-{sslmode}.crt", directory / f"itself-{sslmode}.key")
    request = "req -new -x509 -days 1 -nodes -newkey rsa:2048 -subj /CN=localhost".split()
    openssl(*request, "-out", pair.certificate, "-keyout", pair.key)
    postgres.show_certificate(pair)
    root = pair.certificate if sslmode.startswith("verify") else None
    with weirs(in_front_of(postgres, sslmode, root, "localhost")).connect("app", "app") as connection:
        assert is_encrypted(connection)


def test_certificate_that_signed_itself_for_another_host(weirs, postgres, directory):
    pair = Pair(directory / "itself-elsewhere.crt", directory / "itself-elsewhere.key")
    request = "req -new -x509 -days 1 -nodes -newkey rsa:2048 -subj /CN=elsewhere.test".split()
    openssl(*request, "-out", pair.certificate, "-keyout", pair.key)
    postgres.show_certificate(pair)
    with weirs(in_front_of(postgres, "verify-ca", pair.certificate, "localhost")).connect("app", "app") as connection:
        assert is_encrypted(connection)
    weir = weirs(in_front_of(postgres, "verify-full", pair.certificate, "localhost"))
    assert weir.refusal("app", "app")["C"] in ("08006", "57P03")


@pytest.mark.parametrize("sslmode", ["prefer", "require"])
def test_certificate_of_the_first_version(weirs, postgres, directory, sslmode):
    """`openssl x509 -req` makes them so. Nobody asked for it to be checked."""
    pair = Pair(directory / f"first-{sslmode}.crt", directory / f"first-{sslmode}.key")
    request = directory / f"first-{sslmode}.csr"
    openssl(*"req -new -nodes -newkey rsa:2048 -subj /CN=localhost".split(), "-out", request, "-keyout", pair.key)
    openssl("x509", "-req", "-days", "1", "-in", request, "-signkey", pair.key, "-out", pair.certificate)
    postgres.show_certificate(pair)
    with weirs(in_front_of(postgres, sslmode, None, "localhost")).connect("app", "app") as connection:
        assert is_encrypted(connection)


def openssl(*arguments):
    if not shutil.which("openssl"):
        pytest.skip("there is no openssl")
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def is_encrypted(connection: psycopg.Connection) -> bool:
    """From Weir to PostgreSQL."""
    return connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone()[0]


# ---- towards clients ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(authority):
    return authority.issue("weir", "localhost", file="weir")


@pytest.fixture(scope="module")
def weir(weirs, postgres, own):
    return weirs(offering_tls(postgres, own))


def test_clients_check_the_certificate(weir, authority, directory):
    def connect(**how):
        with weir.connect("app", "app", sslmode="verify-full", **how) as connection:
            assert connection.pgconn.ssl_in_use
            return connection.execute("select 1").fetchone()

    by_name = {"host": "localhost", "hostaddr": "127.0.0.1"}
    assert connect(**by_name, sslrootcert=str(authority.file)) == (1,)
    with pytest.raises(psycopg.OperationalError, match="certificate"):
        connect(sslrootcert=str(authority.file))
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        connect(**by_name, sslrootcert=str(Authority(directory, "nobody").file))


@pytest.mark.parametrize("minimum", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_asking_for_tls_and_direct_tls(weir, negotiation, minimum):
    versions = {"ssl_min_protocol_version": minimum, "ssl_max_protocol_version": minimum}
    how = {"sslmode": "require", "sslnegotiation": negotiation, "channel_binding": "require"}
    with weir.connect("app", "app", **how, **versions) as connection:
        assert connection.pgconn.ssl_in_use
        # More than one TLS record, both ways.
        text = "x" * 300_000
        assert connection.execute("select %s::text", [text]).fetchone() == (text,)


@pytest.mark.parametrize("negotiation", ["postgres", "direct"])
def test_cancel_requests_come_by_tls_too(weir, postgres, negotiation):
    """And are answered by the end of TLS: libpq takes a bare end of the socket for a failure."""
    sleeping = f"select pg_sleep(30), '{negotiation}'"
    with (
        ThreadPoolExecutor(1) as thread,
        weir.connect("app", "app", sslmode="require", sslnegotiation=negotiation) as connection,
    ):
        running = thread.submit(connection.execute, sleeping)
        seen = "select count(*) from pg_stat_activity where query = %s and wait_event = 'PgSleep'"
        wait_until(lambda: postgres.value(seen, sleeping), "the statement runs")
        connection.cancel_safe(timeout=10)
        with pytest.raises(psycopg.errors.QueryCanceled):
            running.result(10)


@pytest.mark.parametrize(
    "kind", [{}, {"with_rsa": True}, {"digest": hashes.SHA384()}, {"with_rsa": True, "digest": hashes.SHA512()}]
)
def test_channel_binding_for_each_kind_of_certificate(weirs, postgres, authority, kind):
    pair = authority.issue("weir", "localhost", file="binding", **kind)
    weir = weirs(offering_tls(postgres, pair))
    with weir.connect("app", "app", sslmode="require", channel_binding="require") as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_channel_binding_shows_whoever_sits_between(weir, authority):
    """He has a certificate that the client takes, and passes everything on; both ends find out."""
    pair = authority.issue("between", "localhost", file="between")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    listener = socket.create_server(("127.0.0.1", 0))

    def sit_between():
        plain, _ = listener.accept()
        assert plain.recv(8) == wire.SSL_REQUEST
        plain.sendall(b"S")
        with context.wrap_socket(plain, server_side=True) as client, weir.tls_socket() as server:
            pass_on(client, server)

    thread = threading.Thread(target=sit_between)
    thread.start()
    parameters = {"port": listener.getsockname()[1], "sslmode": "verify-full", "sslrootcert": str(authority.file)}
    by_name = {"host": "localhost", "hostaddr": "127.0.0.1"}
    with pytest.raises(psycopg.OperationalError, match="SCRAM channel binding check failed"):
        weir.connect("app", "app", **by_name, **parameters, channel_binding="require")
    thread.join()
    listener.close()


def pass_on(one: ssl.SSLSocket, other: ssl.SSLSocket):
    """Both ways, until one of them ends; in one thread, which is all that a connection of OpenSSL stands."""
    peers = {one: other, other: one}
    while True:
        select.select(list(peers), [], [], 10)
        for source, sink in peers.items():
            source.setblocking(False)
            with contextlib.suppress(ssl.SSLWantReadError):
                piece = source.recv(1 << 16)
                if not piece:
                    return
                sink.setblocking(True)
                sink.sendall(piece)


def test_no_tls_without_a_certificate(weirs, postgres):
    weir = weirs(in_front_of(postgres, "prefer"))
    with weir.connect("app", "app", sslmode="prefer") as connection:
        assert not connection.pgconn.ssl_in_use
    with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
        weir.connect("app", "app", sslmode="require")
    with pytest.raises(psycopg.OperationalError):
        weir.connect("app", "app", sslmode="require", sslnegotiation="direct")


def test_plain_text_where_tls_is_required(weirs, postgres, own):
    weir = weirs(offering_tls(postgres, own, more='access = ["hostssl all all all scram-sha-256"]'))
    refused = weir.refusal("app", "app")
    assert (refused["C"], "no encryption" in refused["M"]) == ("28000", True)
    with weir.connect("app", "app", sslmode="prefer") as connection:
        assert connection.pgconn.ssl_in_use
    with pytest.raises(psycopg.OperationalError, match="no access rule"):
        weir.connect("app", "app", sslmode="disable")
    only_plain = weirs(offering_tls(postgres, own, more='access = ["hostnossl all all all scram-sha-256"]'))
    with pytest.raises(psycopg.OperationalError, match="no access rule.*SSL encryption"):
        only_plain.connect("app", "app", sslmode="require")


@pytest.mark.parametrize("request_", [wire.SSL_REQUEST, wire.GSSENC_REQUEST], ids=["ssl", "gss"])
def test_bytes_behind_an_encryption_request_close_the_connection(weir, request_):
    """CVE-2021-23214: said in front of the handshake, they must not count as said inside of it."""
    connection = wire.Connection(weir.url("app", "app"))
    packet = wire.startup(connection.startup_parameters())
    connection.send(request_ + packet)
    assert received(connection) == b""
    connection.close()


def test_bytes_in_front_of_the_handshake_are_not_taken_for_a_part_of_it(weir):
    """They come between the answer and the handshake: to TLS they are rubbish."""
    connection = wire.Connection(weir.url("app", "app"))
    connection.send(wire.SSL_REQUEST)
    assert connection.read_exactly(1) == b"S"
    connection.send(wire.startup(connection.startup_parameters()))
    answer = received(connection)
    assert b"SCRAM" not in answer and answer[:1] in (b"", b"\x15"), "an alert of TLS, or nothing"
    connection.close()


def received(connection: wire.Connection) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.socket.recv(4096):
            answer += piece
    return answer


def test_encryption_requests_in_all_orders(weir):
    """GSSENCRequest is answered with N, and SSLRequest may follow, as libpq does it; neither comes twice or inside of TLS."""
    connection = wire.Connection(weir.url("app", "app"))
    connection.send(wire.GSSENC_REQUEST)
    assert connection.read_exactly(1) == b"N"
    connection.send(wire.SSL_REQUEST)
    assert connection.read_exactly(1) == b"S"
    tls = unchecked().wrap_socket(connection.socket)
    with wire.Connection.login(weir.url("app", "app"), sock=tls) as inside:
        assert inside.value("select 1") == "1"

    for within in (wire.SSL_REQUEST, wire.GSSENC_REQUEST):
        with weir.tls_socket() as tls:
            tls.sendall(within)
            assert tls.recv(1) in (b"", b"E"), "asked for inside of TLS"
    connection = wire.Connection(weir.url("app", "app"))
    for answer in (b"N", b"E"):
        connection.send(wire.GSSENC_REQUEST)
        assert connection.read_exactly(1) == answer
    connection.close()


def test_direct_tls_must_name_its_protocol(weir):
    """ALPN `postgresql` (55.2.11): else a page in a browser could be made to speak to us."""

    def direct(*protocols):
        context = unchecked()
        context.set_alpn_protocols(list(protocols))
        plain = socket.create_connection(("127.0.0.1", weir.port), timeout=10)
        return context.wrap_socket(plain)

    with wire.Connection.login(weir.url("app", "app"), sock=direct("postgresql")) as connection:
        assert connection.value("select 1") == "1"
    with pytest.raises((wire.Closed, wire.Refused)):
        wire.Connection.login(weir.url("app", "app"), sock=direct())
    with pytest.raises((ssl.SSLError, ConnectionError)):
        direct("http/1.1")


def test_old_tls_is_refused(weir):
    with pytest.raises(psycopg.OperationalError):
        weir.connect(
            "app", "app", sslmode="require", ssl_min_protocol_version="TLSv1", ssl_max_protocol_version="TLSv1.1"
        )


def test_certificate_that_does_not_fit_its_key_stops_the_start(weirs, postgres, authority):
    one, other = (authority.issue("weir", "localhost", file=name) for name in ("one", "other"))
    other.key.replace(one.key)
    with pytest.raises(AssertionError, match="cannot use the client-side certificate"):
        weirs(offering_tls(postgres, one))
