"""PostgreSQL's frontend/backend protocol 3.0, from the client's side, with nothing smoothed over.

Drivers hide what a proxy gets wrong: they drop messages they do not expect, retry, and never send bad input. This codec sends
exactly the bytes a test asks for and returns exactly the messages that come back. Every wait has a deadline.

Manual: chapter "Frontend/Backend Protocol", "Message Formats".
"""

import base64
import hashlib
import hmac
import os
import socket
import struct
import time
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

PROTOCOL_3_0 = 3 << 16
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
GSSENC_REQUEST = struct.pack("!ii", 8, 80877104)

DEADLINE = 30.0  # seconds that any single answer may take before the test is a failure


class Closed(Exception):
    """The server closed the connection where a message was expected."""


class Refused(Exception):
    """The server answered the startup packet with an ErrorResponse."""

    def __init__(self, fields):
        super().__init__(f"{fields.get('C')}: {fields.get('M')}")
        self.fields = fields
        self.sqlstate = fields.get("C")


# ---- what the frontend sends -------------------------------------------------------------------------------------------------


def message(tag: str, body: bytes = b"") -> bytes:
    return tag.encode("ascii") + struct.pack("!i", len(body) + 4) + body


def cstring(text: str | bytes) -> bytes:
    return (text.encode() if isinstance(text, str) else text) + b"\0"


def startup(parameters: dict[str, str], protocol: int = PROTOCOL_3_0) -> bytes:
    body = struct.pack("!i", protocol) + b"".join(cstring(k) + cstring(v) for k, v in parameters.items()) + b"\0"
    return struct.pack("!i", len(body) + 4) + body


def cancel_request(process_id: int, secret: bytes) -> bytes:
    return struct.pack("!iii", 12 + len(secret), 80877102, process_id) + secret


def password(text: str) -> bytes:
    return message("p", cstring(text))


def query(sql: str | bytes) -> bytes:
    return message("Q", cstring(sql))


def parse(sql: str, name: str = "", types: tuple[int, ...] = ()) -> bytes:
    return message("P", cstring(name) + cstring(sql) + struct.pack(f"!H{len(types)}I", len(types), *types))


def bind(
    statement: str = "",
    values: tuple = (),
    portal: str = "",
    formats: tuple[int, ...] = (),
    result_formats: tuple[int, ...] = (),
) -> bytes:
    """`values` are None, str (sent as text) or bytes (sent as they are)."""
    parts = [cstring(portal), cstring(statement), struct.pack(f"!h{len(formats)}h", len(formats), *formats)]
    parts.append(struct.pack("!H", len(values)))
    for value in values:
        if value is None:
            parts.append(struct.pack("!i", -1))
            continue
        raw = value.encode() if isinstance(value, str) else value
        parts.append(struct.pack("!i", len(raw)) + raw)
    parts.append(struct.pack(f"!h{len(result_formats)}h", len(result_formats), *result_formats))
    return message("B", b"".join(parts))


def describe_statement(name: str = "") -> bytes:
    return message("D", b"S" + cstring(name))


def describe_portal(name: str = "") -> bytes:
    return message("D", b"P" + cstring(name))


def close_statement(name: str = "") -> bytes:
    return message("C", b"S" + cstring(name))


def close_portal(name: str = "") -> bytes:
    return message("C", b"P" + cstring(name))


def execute(portal: str = "", rows_max: int = 0) -> bytes:
    return message("E", cstring(portal) + struct.pack("!i", rows_max))


def function_call(oid: int, arguments: tuple[bytes | None, ...], binary: bool = True) -> bytes:
    form = int(binary)
    body = struct.pack("!Ihhh", oid, 1, form, len(arguments))
    for argument in arguments:
        body += struct.pack("!i", -1) if argument is None else struct.pack("!i", len(argument)) + argument
    return message("F", body + struct.pack("!h", form))


def copy_data(data: bytes) -> bytes:
    return message("d", data)


def copy_fail(reason: str) -> bytes:
    return message("f", cstring(reason))


SYNC = message("S")
FLUSH = message("H")
COPY_DONE = message("c")
TERMINATE = message("X")


def extended(sql: str, *values, types: tuple[int, ...] = (), formats=(), result_formats=()) -> bytes:
    """Parse, Bind, Describe and Execute of the unnamed statement, as most drivers send them; no Sync."""
    return (
        parse(sql, types=types)
        + bind(values=values, formats=formats, result_formats=result_formats)
        + describe_portal()
        + execute()
    )


# ---- what the backend sends --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    tag: str
    body: bytes

    @property
    def fields(self) -> dict[str, str]:
        """Of ErrorResponse and NoticeResponse."""
        parts = self.body.rstrip(b"\0").split(b"\0")
        return {chr(part[0]): part[1:].decode(errors="backslashreplace") for part in parts if part}

    @property
    def sqlstate(self) -> str:
        return self.fields["C"]

    @property
    def values(self) -> tuple[bytes | None, ...]:
        """Of DataRow."""
        (count,), at, found = struct.unpack_from("!H", self.body), 2, []
        for _ in range(count):
            (size,) = struct.unpack_from("!i", self.body, at)
            at += 4
            found.append(None if size < 0 else self.body[at : at + size])
            at += max(size, 0)
        return tuple(found)

    @property
    def columns(self) -> list[tuple]:
        """Of RowDescription: (name, table oid, column number, type oid, type size, type modifier, format)."""
        (count,), at, found = struct.unpack_from("!H", self.body), 2, []
        for _ in range(count):
            end = self.body.index(b"\0", at)
            found.append(
                (self.body[at:end].decode(errors="surrogateescape"), *struct.unpack_from("!IhIhih", self.body, end + 1))
            )
            at = end + 19
        return found

    @property
    def parameter_types(self) -> tuple[int, ...]:
        """Of ParameterDescription."""
        (count,) = struct.unpack_from("!H", self.body)
        return struct.unpack_from(f"!{count}I", self.body, 2)

    @property
    def text(self) -> str:
        """Of CommandComplete: the tag. Of ReadyForQuery: the status."""
        return self.body.rstrip(b"\0").decode()

    @property
    def pair(self) -> tuple[str, str]:
        """Of ParameterStatus."""
        name, value, _ = self.body.split(b"\0")
        return name.decode(), value.decode(errors="backslashreplace")

    def __str__(self) -> str:
        match self.tag:
            case "E" | "N":
                return f"{self.tag} {self.fields.get('S')} {self.fields.get('C')} {self.fields.get('M')!r}"
            case "D":
                return f"D {self.values!r}"
            case "T":
                return f"T {self.columns!r}"
            case "C" | "Z":
                return f"{self.tag} {self.text}"
            case _:
                return f"{self.tag} {self.body!r}"


def tags(messages: list[Message]) -> str:
    return "".join(m.tag for m in messages)


def rows(messages: list[Message]) -> list[tuple]:
    return [m.values for m in messages if m.tag == "D"]


def errors(messages: list[Message]) -> list[str]:
    return [m.sqlstate for m in messages if m.tag == "E"]


def status(messages: list[Message]) -> str:
    assert messages[-1].tag == "Z", f"no ReadyForQuery at the end of {tags(messages)}"
    return messages[-1].text


# ---- the connection ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    user: str
    password: str
    database: str
    parameters: dict

    @staticmethod
    def of(url: str) -> "Address":
        parts = urlsplit(url)
        return Address(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 5432,
            user=unquote(parts.username or "postgres"),
            password=unquote(parts.password or ""),
            database=parts.path.lstrip("/") or "postgres",
            parameters=dict(parse_qsl(parts.query)),
        )


def open_socket(url: str, deadline: float = DEADLINE, receive_buffer: int | None = None) -> socket.socket:
    address = Address.of(url)
    sock = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(deadline)
    sock.connect((address.host, address.port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Connection:
    """One socket to a server. `Connection.login(url)` gives one that is ready for queries."""

    drip = 0

    def __init__(
        self,
        url: str,
        deadline: float = DEADLINE,
        receive_buffer: int | None = None,
        sock: socket.socket | None = None,
    ):
        """`sock` is connected already: from another address, or inside of TLS."""
        self.url = url
        self.address = Address.of(url)
        self.deadline = deadline
        self.socket = sock or open_socket(url, deadline, receive_buffer)
        self.parameters: dict[str, str] = {}
        self.process_id = 0
        self.secret = b""
        self._buffer = bytearray()

    @classmethod
    def login(
        cls, url: str, protocol: int = PROTOCOL_3_0, drip: int = 0, sock: socket.socket | None = None, **parameters: str
    ) -> "Connection":
        """`drip`: send everything in pieces of so many bytes."""
        connection = cls(url, sock=sock)
        connection.drip = drip
        try:
            connection.send(startup(connection.startup_parameters(**parameters), protocol))
            connection.authenticate()
        except BaseException:
            connection.close()
            raise
        return connection

    def startup_parameters(self, **more: str) -> dict[str, str]:
        from_url = {k: v for k, v in self.address.parameters.items() if k in ("options", "application_name")}
        return {"user": self.address.user, "database": self.address.database, **from_url, **more}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.terminate()

    def send(self, *messages: bytes) -> None:
        data = b"".join(messages)
        if not self.drip:
            self.socket.sendall(data)
            return
        for at in range(0, len(data), self.drip):
            self.socket.sendall(data[at : at + self.drip])

    def read_exactly(self, size: int) -> bytes:
        until = time.monotonic() + self.deadline
        while len(self._buffer) < size:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"nothing came within {self.deadline} s; {bytes(self._buffer[:80])!r} is unread")
            self.socket.settimeout(left)
            try:
                piece = self.socket.recv(1 << 16)
            except ConnectionError as error:
                raise Closed(str(error)) from None
            if not piece:
                raise Closed(f"closed with {len(self._buffer)} bytes of an unfinished message")
            self._buffer += piece
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def read(self) -> Message:
        head = self.read_exactly(5)
        (length,) = struct.unpack("!i", head[1:])
        assert length >= 4, f"impossible length {length} in a message {head[:1]!r}"
        return Message(chr(head[0]), self.read_exactly(length - 4))

    def read_until(self, *wanted: str) -> list[Message]:
        found = [self.read()]
        while found[-1].tag not in wanted:
            found.append(self.read())
        return found

    def read_until_ready(self, times: int = 1) -> list[Message]:
        found = []
        for _ in range(times):
            found += self.read_until("Z")
        return found

    def read_until_closed(self) -> list[Message]:
        found = []
        while True:
            try:
                found.append(self.read())
            except Closed:
                return found

    def ask(self, *messages: bytes) -> list[Message]:
        """Sends, and reads to the next ReadyForQuery."""
        self.send(*messages)
        return self.read_until_ready()

    def query(self, sql: str | bytes) -> list[Message]:
        return self.ask(query(sql))

    def value(self, sql: str) -> str | None:
        """The only column of the only row; an error is a failure."""
        answer = self.query(sql)
        assert not errors(answer), [str(m) for m in answer]
        ((value,),) = rows(answer)
        return None if value is None else value.decode()

    def authenticate(self) -> list[Message]:
        """Everything from the first answer to the startup packet up to ReadyForQuery."""
        seen = []
        while True:
            got = self.read()
            seen.append(got)
            match got.tag:
                case "R":
                    self._answer_authentication(got.body)
                case "S":
                    name, value = got.pair
                    self.parameters[name] = value
                case "K":
                    (self.process_id,) = struct.unpack_from("!i", got.body)
                    self.secret = got.body[4:]
                case "E":
                    raise Refused(got.fields)
                case "Z":
                    return seen

    def _answer_authentication(self, body: bytes) -> None:
        (kind,) = struct.unpack_from("!i", body)
        secret = self.address.password
        match kind:
            case 0:
                pass
            case 3:
                self.send(password(secret))
            case 5:
                inner = hashlib.md5((secret + self.address.user).encode()).hexdigest().encode()
                self.send(password("md5" + hashlib.md5(inner + body[4:8]).hexdigest()))
            case 10:
                self._scram = Scram(secret)
                first = self._scram.client_first()
                self.send(message("p", cstring("SCRAM-SHA-256") + struct.pack("!i", len(first)) + first))
            case 11:
                self.send(message("p", self._scram.client_final(body[4:])))
            case 12:
                self._scram.check_server(body[4:])
            case _:
                raise AssertionError(f"authentication request {kind} is not known here")

    def terminate(self) -> None:
        try:
            self.send(TERMINATE)
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        self.socket.close()

    def vanish(self) -> None:
        """Closes with a reset, as a killed process or an unplugged cable looks to the other side."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def cancel(connection: Connection, secret: bytes | None = None) -> None:
    """Sends a CancelRequest for what `connection` runs and waits until the server has closed that socket."""
    sock = open_socket(connection.url)
    sock.sendall(cancel_request(connection.process_id, connection.secret if secret is None else secret))
    try:
        assert sock.recv(1) == b"", "a CancelRequest is never answered"
    except ConnectionError:
        pass
    sock.close()


class Scram:
    """SCRAM-SHA-256 without channel binding (RFC 5802, RFC 7677)."""

    def __init__(self, secret: str):
        self.secret = secret.encode()
        self.nonce = base64.b64encode(os.urandom(18)).decode()

    def client_first(self) -> bytes:
        self.bare = f"n=,r={self.nonce}"
        return ("n,," + self.bare).encode()

    def client_final(self, server_first: bytes) -> bytes:
        given = dict(part.split("=", 1) for part in server_first.decode().split(","))
        assert given["r"].startswith(self.nonce), "the server must extend our nonce"
        salted = hashlib.pbkdf2_hmac("sha256", self.secret, base64.b64decode(given["s"]), int(given["i"]))
        final = f"c=biws,r={given['r']}"
        signed = ",".join((self.bare, server_first.decode(), final)).encode()
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        self.server_signature = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
        return f"{final},p={base64.b64encode(proof).decode()}".encode()

    def check_server(self, server_final: bytes) -> None:
        given = dict(part.split("=", 1) for part in server_final.decode().split(","))
        assert base64.b64decode(given["v"]) == self.server_signature, "the server does not know the password either"
