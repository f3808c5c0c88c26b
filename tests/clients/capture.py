"""What drivers and ORMs really send, as cases for the classification: ../cases/captured.txt.

    WEIR_DIRECT_URL=... python capture.py > ../cases/captured.txt && UPDATE_CASES=1 cargo test --test main cases

Runs suites of this directory through a relay that looks at every Query and Parse on its way to PostgreSQL. Of texts that differ in
their literals only, the first is kept. Review the outcome as code: a write must never be a `read`.
"""

import os
import re
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import targets
from wire import Address

SUITES = {
    "test_sqlalchemy.py": "SQLAlchemy with psycopg2, psycopg 3, asyncpg and pg8000",
    "test_flask_sqlalchemy.py": "Flask-SQLAlchemy",
    "test_django.py": "Django",
    "test_psycopg2.py": "psycopg2",
    "test_psycopg3.py": "psycopg 3",
    "test_asyncpg.py": "asyncpg",
    "test_pg8000.py": "pg8000",
}
BYTES_MAX = 4000  # a longer text says nothing new


class Relay:
    """Between clients and PostgreSQL, without TLS."""

    def __init__(self, address: Address):
        self.address = address
        self.texts: dict[str, None] = {}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection((self.address.host, self.address.port))
            threading.Thread(target=self.pass_on, args=(client, server, Frontend(self.texts)), daemon=True).start()
            threading.Thread(target=self.pass_on, args=(server, client, None), daemon=True).start()

    @staticmethod
    def pass_on(source: socket.socket, target: socket.socket, frontend: "Frontend | None") -> None:
        try:
            while data := source.recv(1 << 16):
                if frontend:
                    frontend.take(data)
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Frontend:
    """Cuts what a client sends into messages; the startup packets, which have no tag, are passed over."""

    def __init__(self, texts: dict[str, None]):
        self.texts, self.buffer, self.started = texts, b"", False

    def take(self, data: bytes) -> None:
        self.buffer += data
        while True:
            head = 1 if self.started else 0
            if len(self.buffer) < head + 4:
                return
            (length,) = struct.unpack_from("!i", self.buffer, head)
            if len(self.buffer) < head + length:
                return
            whole, self.buffer = self.buffer[: head + length], self.buffer[head + length :]
            if not self.started:
                # SSLRequest and its like are eight bytes; the client then begins anew.
                self.started = length > 8
            elif whole[:1] == b"Q":
                self.keep(whole[5:-1])
            elif whole[:1] == b"P":
                self.keep(whole[5:].split(b"\0")[1])

    def keep(self, text: bytes) -> None:
        if len(text) <= BYTES_MAX:
            self.texts.setdefault(text.decode(errors="replace"))


def captured(suite: str) -> list[str]:
    relay = Relay(Address.of(targets.DIRECT))
    through = targets.at_port(targets.DIRECT, relay.port)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WEIR_")}
    environment |= {"WEIR_DIRECT_URL": targets.DIRECT, "WEIR_TEST_URL": through}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", suite]
    run = subprocess.run(command, cwd=Path(__file__).parent, env=environment, stdout=sys.stderr, check=False)
    assert run.returncode in (0, 1), f"{suite} did not run"
    return list(relay.texts)


def tidy(text: str) -> str:
    """As a case: no empty lines, and nothing that differs from run to run."""
    text = re.sub(r"\b\w+_main\b", "own", text)
    text = re.sub(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", "01234567-89ab-cdef-0123-456789abcdef", text)
    text = re.sub(r"\b[0-9a-f]{24,}\b", "0123456789abcdef", text)
    # Cursors named after addresses.
    text = re.sub(r'"(c|_django_curs)_\w+"', r'"\1_1"', text)
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip())


def shape(text: str) -> str:
    text = re.sub(r"'(?:[^']|'')*'", "?", text)
    text = re.sub(r"\b\d+\b|__asyncpg_\w+__", "?", text)
    return re.sub(r"\?(?:, \?)+", "?", re.sub(r"\s+", " ", text)).strip().lower()


def main() -> None:
    print("# What drivers and ORMs send, captured by tests/clients/capture.py.")
    known = set()
    for suite, name in SUITES.items():
        print(f"\n# {name}.")
        for text in map(tidy, captured(suite)):
            # A line of its own that begins so would be a comment or an outcome to the table.
            if text and shape(text) not in known and not re.search(r"^(#|=>)", text, re.MULTILINE):
                known.add(shape(text))
                print(f"\n{text}")


if __name__ == "__main__":
    main()
