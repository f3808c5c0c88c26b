"""A PostgreSQL and Weirs of a test's own, for what cannot be tried on shared ones: how they let somebody in.

WEIR_BINARY names the program, PG_BINDIR the programs of PostgreSQL.
"""

import contextlib
import glob
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import targets
import wire
from certificates import Pair

BINARIES = os.environ.get("PG_BINDIR") or max(
    glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: int(p.split("/")[-2]), default=""
)
WEIR = os.environ.get("WEIR_BINARY", "")

STARTS_WITHIN = 30.0  # seconds

needs_weir = pytest.mark.skipif(
    not WEIR and not targets.BEHIND_PROXY, reason="there is no Weir to be started; set WEIR_BINARY"
)


def wait_until(condition: Callable[[], object], what: str, within: float = STARTS_WITHIN):
    """What `condition` gives once it gives something true."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.005)
    return found


class ReservedPort:
    """A port that nobody else is given while this lives, though Weir and PostgreSQL may listen on it."""

    def __init__(self):
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.socket.bind(("127.0.0.1", 0))
        self.number = self.socket.getsockname()[1]

    def release(self) -> int:
        self.socket.close()
        return self.number


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
        return True
    except OSError:
        return False


class Process:
    """A child whose output goes to a file, and which is gone at the end."""

    def __init__(
        self, command: list, log: Path, ready: Callable[["Process"], object], within: float = STARTS_WITHIN, **how
    ):
        self.log = log
        with log.open("wb") as output:
            self.child = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=output, stderr=output, **how
            )

        def up():
            assert self.child.poll() is None, f"{command[0]} ended: {self.said()[-3000:]}"
            return ready(self)

        try:
            wait_until(up, f"{command[0]} is up", within)
        except BaseException:
            self.stop(signal.SIGKILL)
            raise

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def says(self, text: str, after: int = 0, within: float = STARTS_WITHIN) -> None:
        wait_until(lambda: text in self.said()[after:], f"{text!r} in {self.said()[after:][-3000:]}", within)

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.child.poll() is None:
            self.child.send_signal(how)
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


# ---- PostgreSQL --------------------------------------------------------------------------------------------------------------

CONFIGURATION = """
listen_addresses = '127.0.0.1'
wal_level = logical
max_wal_senders = 10
max_connections = 60
fsync = off
wal_keep_size = 64MB
log_connections = on
log_line_prefix = ''
lc_messages = 'C'
timezone = 'UTC'
"""


class Postgres:
    """A primary that logs how each connection was authenticated. Reached by Unix socket, its superuser is trusted."""

    def __init__(self, directory: Path, hba: list[str]):
        self.directory = directory
        self.data = directory / "data"
        self.hba = hba
        self.account = pwd.getpwnam("postgres") if os.getuid() == 0 else None
        directory.mkdir()
        directory.chmod(0o711)
        if self.account:
            os.chown(directory, self.account.pw_uid, self.account.pw_gid)
        initdb = ["initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"]
        subprocess.run(self.command(*initdb), check=True, capture_output=True, cwd="/", **self.identity)
        (self.data / "postgresql.conf").write_text(CONFIGURATION)
        self.write_hba()
        self.port = ReservedPort().release()
        command = self.command(
            "postgres", "-D", self.data, "-p", self.port, "-c", f"unix_socket_directories={self.directory}"
        )
        self.process = Process(command, self.directory / "log", lambda _: self.is_up(), cwd="/", **self.identity)

    @property
    def identity(self) -> dict:
        """PostgreSQL does not run as root."""
        if not self.account:
            return {}
        return {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}

    @staticmethod
    def command(program: str, *arguments) -> list[str]:
        return [f"{BINARIES}/{program}", *map(str, arguments)]

    def write_hba(self) -> None:
        (self.data / "pg_hba.conf").write_text("\n".join(["local all postgres trust", *self.hba, ""]))

    def is_up(self) -> bool:
        try:
            self.connect().close()
            return True
        except psycopg.OperationalError:
            return False

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(
            host=str(self.directory), port=self.port, user="postgres", dbname="postgres", autocommit=True
        )

    def execute(self, *statements: str) -> None:
        with self.connect() as connection:
            for statement in statements:
                connection.execute(statement)

    def value(self, query: str, *parameters):
        with self.connect() as connection:
            return connection.execute(query, parameters).fetchone()[0]

    def show_certificate(self, pair: Pair | None, client_authority: Path | None = None) -> None:
        """Serves TLS with this certificate from now on, or no TLS."""
        for path in (pair.certificate, pair.key) if pair else ():
            shutil.copy(path, self.data / path.name)
            (self.data / path.name).chmod(0o600)
            if self.account:
                os.chown(self.data / path.name, self.account.pw_uid, self.account.pw_gid)
        if client_authority:
            shutil.copy(client_authority, self.data / "clients.crt")
            (self.data / "clients.crt").chmod(0o644)
            self.execute("alter system set ssl_ca_file = 'clients.crt'")
        if pair:
            self.execute(
                f"alter system set ssl_cert_file = '{pair.certificate.name}'",
                f"alter system set ssl_key_file = '{pair.key.name}'",
            )
        self.execute(f"alter system set ssl = {'on' if pair else 'off'}", "select pg_reload_conf()")
        wanted = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text()) if pair else None
        wait_until(lambda: self.shown_certificate() == wanted, "PostgreSQL has reloaded its certificate")

    def shown_certificate(self) -> bytes | None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as plain:
            plain.sendall(wire.SSL_REQUEST)
            if plain.recv(1) != b"S":
                return None
            with unchecked().wrap_socket(plain) as tls:
                return tls.getpeercert(binary_form=True)

    def authenticated(self, user: str, method: str) -> int:
        """How many connections of the user were authenticated by a method so far, by PostgreSQL's log."""
        lines = self.process.said().splitlines()
        return sum(
            line.startswith(f'LOG:  connection authenticated: identity="{user}" method={method} ') for line in lines
        )

    def stop(self) -> None:
        self.process.stop(signal.SIGQUIT)


def unchecked() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def starting_cluster(directory: Path) -> Iterator[dict[str, str]]:
    """A primary with two replicas; gives what `weir demo --only-cluster` says of them, by the names of its shell variables."""
    # It makes a directory that the servers' user may enter, and says where its variables stand.
    command = [WEIR, "demo", "--only-cluster"]
    process = Process(command, directory / "log", lambda process: process.said().endswith("/env\n"), cwd="/")
    try:
        variables = Path(process.said().split()[-1]).read_text()
        yield dict(re.findall(r"^export (\w+)='(.*)'$", variables, re.MULTILINE))
    finally:
        process.stop(signal.SIGINT)


# ---- Weir --------------------------------------------------------------------------------------------------------------------


class Weir:
    """`weir serve` with a configuration of its own, on a port of its own of 127.0.0.1, and in `directory` by Unix socket.

    In the configuration, PORT stands for that port and SOCKETS for the directory.
    """

    def __init__(self, directory: Path, configuration: str, *flags: str):
        assert WEIR, "WEIR_BINARY is not set: there is no Weir to be started"
        self.directory = directory
        directory.mkdir(exist_ok=True)
        directory.chmod(0o711)
        self.reserved = ReservedPort()
        self.port = self.reserved.number
        self.file = directory / "weir.toml"
        self.configure(configuration)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}
        self.process = Process(
            [WEIR, "serve", "--config", self.file, *flags],
            directory / "weir.log",
            lambda process: "weir is up" in process.said(),
            env=environment,
        )

    def configure(self, configuration: str) -> None:
        listen = "" if "listen =" in configuration else 'listen = ["127.0.0.1:PORT", "SOCKETS:PORT"]\n'
        text = (listen + configuration).replace("PORT", str(self.port)).replace("SOCKETS", str(self.directory))
        self.file.write_text(text)

    def reload(self, configuration: str) -> None:
        before = len(self.said())
        self.configure(configuration)
        self.process.child.send_signal(signal.SIGHUP)
        self.process.says("reload", after=before)

    def said(self) -> str:
        return self.process.said()

    def connect(self, user: str, password: str | None = None, dbname: str = "app", **parameters) -> psycopg.Connection:
        """By libpq, over TCP without TLS if nothing else is said."""
        address = {"host": "127.0.0.1", "port": self.port, "sslmode": "disable", "gssencmode": "disable"}
        login = {"user": user, "password": password or "", "dbname": dbname}
        return psycopg.connect(**{**address, **login, **parameters}, autocommit=True)

    def url(self, user: str, password: str = "", dbname: str = "app", host: str = "127.0.0.1") -> str:
        return f"postgresql://{user}:{password}@{host}:{self.port}/{dbname}"

    def refusal(self, user: str, password: str = "", dbname: str = "app", sock=None, **startup: str) -> dict[str, str]:
        """The fields of the ErrorResponse that the login ends with."""
        try:
            wire.Connection.login(self.url(user, password, dbname), sock=sock, **startup).terminate()
        except wire.Refused as refused:
            return refused.fields
        raise AssertionError(f"{user} was let in")

    def tls_socket(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """Asks for TLS, and is inside of it."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=wire.DEADLINE)
        plain.sendall(wire.SSL_REQUEST)
        assert plain.recv(1) == b"S", "Weir offers no TLS"
        return (context or unchecked()).wrap_socket(plain, server_hostname="localhost")

    def stop(self) -> None:
        self.process.stop()
        self.reserved.release()


@contextlib.contextmanager
def starting_weirs(directory: Path) -> Iterator[Callable[..., Weir]]:
    """Gives a function that starts Weirs; all of them are stopped at the end."""
    weirs: list[Weir] = []

    def start(configuration: str, *flags: str) -> Weir:
        weirs.append(Weir(directory / f"weir{len(weirs)}", configuration, *flags))
        return weirs[-1]

    try:
        yield start
    finally:
        for weir in weirs:
            weir.stop()
