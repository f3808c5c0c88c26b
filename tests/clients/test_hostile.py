"""Hostile and broken clients: each must get the answer that DESIGN.md promises, and nobody else may notice.

Only through the proxy: PostgreSQL drops some of these connections without a word. Nothing here may hang, so every read has a
deadline; and after every test an ordinary client must be served.
"""

import contextlib
import os
import random
import socket
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

import targets
import wire
from wire import (
    SYNC,
    Closed,
    Connection,
    Refused,
    bind,
    cstring,
    errors,
    execute,
    extended,
    message,
    open_socket,
    parse,
    query,
    rows,
    startup,
    tags,
)

pytestmark = [
    pytest.mark.skipif(not targets.BEHIND_PROXY, reason="PostgreSQL itself answers differently"),
    pytest.mark.xdist_group("hostile"),
]

SEED = int(os.environ.get("WEIR_SEED", "1"))
DEADLINE = 10


@pytest.fixture(autouse=True)
def ordinary_client_is_served(url):
    yield
    with Connection.login(url) as ordinary:
        assert ordinary.value("select 'served'") == "served"


def raw(url) -> Connection:
    return Connection(url, deadline=DEADLINE)


def answer_to(url, *sent: bytes) -> list[wire.Message]:
    """Everything that comes until the proxy closes. Not closing in time is a failure."""
    connection = raw(url)
    with contextlib.suppress(ConnectionError):
        connection.send(*sent)
    try:
        return connection.read_until_closed()
    finally:
        connection.close()


def parameters(url) -> dict:
    address = wire.Address.of(url)
    return {"user": address.user, "database": address.database}


# ---- before login ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [-(2**31), -1, 0, 1, 4, 7, 1 << 20, 2**31 - 1])
def test_startup_packet_of_impossible_length(url, length):
    answer = answer_to(url, struct.pack("!i", length) + b"\0\3\0\0" + b"user\0app\0\0")
    assert errors(answer) == ["08P01"] and tags(answer) == "E"


@pytest.mark.parametrize(
    "body",
    [
        b"user\0app\0",
        b"user\0app",
        b"user\0",
        b"user",
        b"\0\0",
        b"user\0app\0\0more\0",
        b"user\0app\0database\0\0",
        b"x" * 200,
    ],
    ids=lambda body: repr(body[:30]),
)
def test_startup_packet_of_broken_layout(url, body):
    packet = struct.pack("!ii", len(body) + 8, wire.PROTOCOL_3_0) + body
    sqlstates = errors(answer_to(url, packet))
    assert len(sqlstates) == 1 and sqlstates[0] in ("08P01", "28000", "28P01", "3D000")


def test_startup_packet_without_terminator_is_a_protocol_violation(url):
    body = cstring("user") + cstring("app") + cstring("database") + b"app"
    answer = answer_to(url, struct.pack("!ii", len(body) + 8, wire.PROTOCOL_3_0) + body)
    assert errors(answer) == ["08P01"]


def test_startup_packet_without_user(url):
    assert errors(answer_to(url, startup({"database": "app"}))) == ["28000"]


@pytest.mark.parametrize("protocol", [4 << 16, 0x7FFFFFFF, (1234 << 16) | 9999])
def test_unknown_protocol_versions(url, protocol):
    answer = answer_to(url, startup(parameters(url), protocol))
    assert tags(answer) == "E" and errors(answer)[0] in ("0A000", "08P01")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(300),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        bytes(64),
        b"\xff" * 64,
        query("select 1"),
        wire.password("before asked"),
        wire.TERMINATE,
    ],
    ids=["http", "tls hello", "ssh", "zeros", "ones", "query", "password", "terminate"],
)
def test_other_protocols_and_messages_out_of_order(url, sent):
    answer = answer_to(url, sent + bytes(8))
    assert tags(answer) == "E" and errors(answer) == ["08P01"]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 12, 20])
def test_client_that_leaves_in_the_middle_of_its_startup_packet(url, size):
    connection = raw(url)
    connection.send(startup(parameters(url))[:size])
    connection.socket.shutdown(socket.SHUT_WR)
    assert errors(connection.read_until_closed()) in ([], ["08P01"])
    connection.close()


def after_the_first_answer(url, sent: bytes) -> list[wire.Message]:
    """Startup, then `sent` in place of what the server asked for."""
    connection = raw(url)
    connection.send(startup(parameters(url)))
    assert connection.read().tag == "R"
    with contextlib.suppress(ConnectionError):
        connection.send(sent)
    try:
        return connection.read_until_closed()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "sent",
    [
        query("select 1"),
        SYNC,
        extended("select 1") + SYNC,
        startup({"user": "app"}),
        message("p"),
        message("p", b"no terminator"),
        message("p", b"\0" * 50),
        message("p", cstring("SCRAM-SHA-999") + struct.pack("!i", 4) + b"n,,x"),
        message("p", cstring("SCRAM-SHA-256") + struct.pack("!i", 500) + b"n,,n=,r=short"),
        message("p", cstring("SCRAM-SHA-256") + struct.pack("!i", -5)),
        message("p", cstring("SCRAM-SHA-256") + struct.pack("!i", 3) + b"n,,"),
        message("p", cstring("SCRAM-SHA-256") + struct.pack("!i", 9) + b"garbage\xff\0"),
        b"p" + struct.pack("!i", 2**31 - 1) + b"x" * 100,
        b"p" + struct.pack("!i", 3),
        b"p" + struct.pack("!i", -1),
        message("p", b"x" * 5000),
    ],
)
def test_instead_of_a_password(url, sent):
    answer = after_the_first_answer(url, sent)
    assert len(errors(answer)) == 1 and errors(answer)[0] in ("08P01", "28P01", "28000")
    assert "Z" not in tags(answer) and "K" not in tags(answer)


@pytest.mark.parametrize("protocol", [0, 2, 1 << 16, 2 << 16])
def test_protocols_of_the_last_century(url, protocol):
    """PostgreSQL refuses them in their own format: an `E` and a text without a length."""
    connection = raw(url)
    connection.send(startup(parameters(url), protocol))
    assert connection.socket.recv(1) in (b"E", b"")
    connection.close()


def test_nothing_is_served_before_the_password(url, schema):
    """Statements pipelined behind the startup packet, in the hope that they run before anybody asks who this is."""
    with Connection.login(schema.base_url) as owner:
        owner.query(f"create table {schema.name}.t (id int)")
        answer = answer_to(url, startup(parameters(url)) + query(f"insert into {schema.name}.t values (1)") * 3)
        assert rows(answer) == [] and errors(answer)[0] in ("08P01", "28P01")
        assert owner.value(f"select count(*) from {schema.name}.t") == "0"


def refusal(url, **login):
    address = wire.Address.of(url)
    changed = {"user": address.user, "password": address.password, "database": address.database, **login}
    text = f"postgresql://{changed['user']}:{changed['password']}@{address.host}:{address.port}/{changed['database']}"
    with pytest.raises(Refused) as refused:
        Connection.login(text)
    return refused.value.fields


def test_refusals_do_not_say_which_half_was_wrong(url):
    wrong_password, unknown_user = refusal(url, password="wrong"), refusal(url, user="nobody_here")
    assert wrong_password["C"] == unknown_user["C"] == "28P01"
    user = wire.Address.of(url).user
    assert wrong_password["M"].replace(user, "x") == unknown_user["M"].replace("nobody_here", "x")
    assert wrong_password.keys() == unknown_user.keys()
    assert refusal(url, user="nobody_here", database="nowhere")["C"] == "28P01"
    assert refusal(url, database="nowhere")["C"] == "3D000"


@pytest.mark.parametrize("name", ["a" * 300, "odd\nname", "quote'\"name", "../../etc", "émoji€"])
def test_strange_names(url, name):
    address = wire.Address.of(url)
    for changed in ({"user": name}, {"database": name}):
        connection = raw(url)
        connection.send(startup({"user": address.user, "database": address.database, **changed}))
        with pytest.raises(Refused) as refused:
            connection.authenticate()
        assert refused.value.sqlstate in ("28P01", "28000", "3D000")
        connection.close()


@pytest.mark.parametrize("options", ["-c", "-c work_mem", "-x", "-c work_mem=much", "-c no_such=1", "\\", "-c \\"])
def test_broken_options_are_refused(url, options):
    with pytest.raises(Refused):
        Connection.login(url, options=options)


@pytest.mark.parametrize("key_size", [0, 2, 3, 5, 256, 5000])
def test_cancel_requests_of_wrong_size_or_key_do_nothing(url, key_size):
    with Connection.login(url) as victim:
        victim.send(query("select 'not cancelled' from pg_sleep(0.3)"))
        request = wire.cancel_request(victim.process_id, bytes(key_size))
        answer = answer_to(url, request)
        assert errors(answer) in ([], ["08P01"])
        assert rows(victim.read_until_ready()) == [(b"not cancelled",)]


def test_many_wrong_cancel_requests(url):
    with Connection.login(url) as victim:
        victim.send(query("select 'not cancelled' from pg_sleep(0.5)"))
        for guess in range(100):
            with contextlib.suppress(ConnectionError), contextlib.closing(open_socket(url)) as sock:
                sock.sendall(wire.cancel_request(victim.process_id, struct.pack("!i", guess)))
        assert rows(victim.read_until_ready()) == [(b"not cancelled",)]


# ---- after login -------------------------------------------------------------------------------------------------------------


def after_login(url, *sent: bytes, ends=("Z",)) -> list[wire.Message]:
    """What comes until the proxy closes or is ready again."""
    connection = Connection.login(url)
    connection.deadline = DEADLINE
    with contextlib.suppress(ConnectionError):
        connection.send(*sent)
    found = []
    with contextlib.suppress(Closed):
        while not found or found[-1].tag not in ends:
            found.append(connection.read())
    connection.close()
    return found


FRONTEND_TAGS = "QPBDECSHFXpdcf"


@pytest.mark.parametrize("length", [-(2**31), -1, 0, 3])
@pytest.mark.parametrize("tag", FRONTEND_TAGS)
def test_message_of_impossible_length(url, tag, length):
    answer = after_login(url, tag.encode() + struct.pack("!i", length) + b"select 1\0")
    assert errors(answer)[:1] == ["08P01"] and "Z" not in tags(answer), "framing is lost, so the connection must go"


@pytest.mark.parametrize("tag", FRONTEND_TAGS)
def test_message_too_large_to_take(url, tag):
    answer = after_login(url, tag.encode() + struct.pack("!i", 2**31 - 1) + b"x" * 1000)
    assert errors(answer)[:1] == ["08P01"] and "Z" not in tags(answer)


@pytest.mark.parametrize(
    "tag", [b"\0", b"\1", b"\xff", b" ", b"@", b"1", b"A", b"K", b"R", b"T", b"Z", b"a", b"s", b"v", b"z"]
)
def test_unknown_message_tags(url, tag):
    answer = after_login(url, tag + struct.pack("!i", 8) + b"abcd" + query("select 1"))
    assert errors(answer)[:1] == ["08P01"] and rows(answer) == []


def test_second_startup_packet(url):
    answer = after_login(url, startup(parameters(url)))
    assert errors(answer)[:1] == ["08P01"] and "Z" not in tags(answer)


def test_password_message_after_login(url):
    answer = after_login(url, wire.password("late"), query("select 1"))
    assert errors(answer)[:1] == ["08P01"] and rows(answer) == []


def test_unknown_message_in_the_middle_of_copy(schema):
    with Connection.login(schema.base_url) as owner:
        owner.query(f"create table {schema.name}.t (id int)")
        for intruder in (
            message("Z", b"I"),
            message("p", b"x"),
            b"d" + struct.pack("!i", 2),
            b"d" + struct.pack("!i", -1),
        ):
            answer = after_login(
                schema.base_url, query(f"copy {schema.name}.t from stdin"), wire.copy_data(b"1\n"), intruder
            )
            assert errors(answer)[:1] == ["08P01"] and "C" not in tags(answer)
        assert owner.value(f"select count(*) from {schema.name}.t") == "0"


def int16(*numbers):
    return struct.pack(f"!{len(numbers)}h", *numbers)


BROKEN_BODIES = {
    "query without terminator": message("Q", b"select 1"),
    "query without body": message("Q"),
    "query with more behind": message("Q", b"select 1\0select 2\0"),
    "parse without body": message("P"),
    "parse without terminators": message("P", b"name"),
    "parse without types": message("P", b"\0select 1\0"),
    "parse with too few types": message("P", b"\0select 1\0" + int16(3)),
    "parse with a negative count": message("P", b"\0select 1\0" + int16(-1)),
    "parse with more behind": message("P", b"\0select 1\0" + int16(0) + b"x"),
    "bind without body": message("B"),
    "bind without counts": message("B", b"\0\0"),
    "bind with too many formats": message("B", b"\0\0" + int16(2, 0, 0) + int16(1) + struct.pack("!i", -1) + int16(0)),
    "bind with a negative format count": message("B", b"\0\0" + int16(-1)),
    "bind with 65535 parameters and none": message("B", b"\0\0" + int16(0, -1)),
    "bind with a parameter longer than the message": message("B", b"\0\0" + int16(0, 1) + struct.pack("!i", 1 << 30)),
    "bind with a parameter of length -2": message("B", b"\0\0" + int16(0, 1) + struct.pack("!i", -2) + int16(0)),
    "bind with more behind": bind()[:1] + struct.pack("!i", len(bind())) + bind()[5:] + b"x",
    "describe without body": message("D"),
    "describe of nothing known": message("D", b"X\0"),
    "describe without terminator": message("D", b"Sname"),
    "close without body": message("C"),
    "close of nothing known": message("C", b"Q\0"),
    "execute without body": message("E"),
    "execute without a limit": message("E", b"\0"),
    "execute with more behind": message("E", b"\0\0\0\0\0\0\0\0\0"),
    "sync with a body": message("S", b"x"),
    "flush with a body": message("H", b"x"),
    "function call without body": message("F"),
    "function call with too few arguments": message("F", struct.pack("!Ihhhi", 177, 1, 1, 2, 4) + b"\0\0"),
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
def test_message_with_a_broken_body(url, name):
    """Closed, or refused and skipped up to Sync as PostgreSQL does; the statement behind it must not run as if all were well."""
    answer = after_login(url, parse("select 1"), BROKEN_BODIES[name], execute(), SYNC)
    assert errors(answer)[:1] == ["08P01"], [str(m) for m in answer]
    assert rows(answer) == []


@pytest.mark.parametrize("size", [1, 4, 5, 6, 20, 38])
def test_client_that_leaves_in_the_middle_of_a_message(schema, size):
    with Connection.login(schema.base_url) as owner:
        assert errors(owner.query(f"create table {schema.name}.t (id int)")) == []
        leaving = Connection.login(schema.base_url)
        leaving.send(query(f"insert into {schema.name}.t values (1)")[:size])
        leaving.socket.shutdown(socket.SHUT_WR)
        leaving.read_until_closed()
        leaving.close()
        assert owner.value(f"select count(*) from {schema.name}.t") == "0"


def test_large_messages_announced_and_never_sent(url):
    """Fifty clients announce half a gigabyte each: memory is taken for what came, not for what was announced."""
    announcing = []
    for number in range(50):
        connection = Connection.login(url)
        tag = "QPBd"[number % 4].encode()
        connection.send(tag + struct.pack("!i", 1 << 29) + b"x" * 1000)
        announcing.append(connection)
    with Connection.login(url) as ordinary:
        assert ordinary.value("select 1") == "1"
    for connection in announcing:
        connection.vanish()


def test_thousands_of_prepared_statements_of_one_client(url):
    with Connection.login(url) as connection:
        connection.send(b"".join(parse(f"select {n}", f"s{n}") for n in range(5000)), SYNC)
        assert tags(connection.read_until_ready()) == "1" * 5000 + "Z"
        for n in (0, 2500, 4999):
            assert rows(connection.ask(bind(f"s{n}"), execute(), SYNC)) == [(str(n).encode(),)]


def test_client_that_never_reads(url):
    deaf = Connection(url, receive_buffer=4096)
    deaf.send(startup(deaf.startup_parameters()))
    deaf.authenticate()
    deaf.socket.setblocking(False)
    flood = query("select repeat('x', 100000) from generate_series(1, 100)") * 50
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sent < len(flood):
            sent += deaf.socket.send(flood[sent:])
    with Connection.login(url) as ordinary:
        for n in range(20):
            assert ordinary.value(f"select {n}") == str(n)
    deaf.vanish()


def test_deeply_nested_statements(url):
    """Text that overflows a recursive parser must end as PostgreSQL's own error or answer, not as the end of the process."""
    with Connection.login(url) as connection:
        # The planner needs seconds for hundreds of joins otherwise.
        connection.query("set join_collapse_limit = 1")
        for sql in (
            "select " + "(" * 20_000 + "1" + ")" * 20_000,
            "select 1" + " + 1" * 20_000,
            "select " + "not " * 20_000 + "true",
            "select * from (values (1)) a0 " + "".join(f"left join (values (1)) a{n} on true " for n in range(1, 300)),
            "select " + "case when true then " * 3000 + "1" + " end" * 3000,
            "select array" + "[" * 5000 + "1" + "]" * 5000,
            "/*" * 10_000 + "*/" * 10_000 + " select 1",
            "select '" + "''" * 100_000 + "'",
            "select 1 where 1 in (" + ",".join(str(n) for n in range(50_000)) + ")",
            "with " + ", ".join(f"c{n} as (select 1)" for n in range(2000)) + " select 1",
        ):
            answer = connection.query(sql)
            assert errors(answer) in ([], ["54001"], ["42601"], ["54000"]), (sql[:40], errors(answer))
            assert connection.value("select 'alive'") == "alive"


# ---- noise -------------------------------------------------------------------------------------------------------------------


def converse_until_closed(url, sent: bytes) -> None:
    """Logged in, sends, ends its side; the proxy must close, and whatever it says before must be well formed."""
    connection = Connection.login(url)
    connection.deadline = DEADLINE
    try:
        with contextlib.suppress(ConnectionError):
            connection.send(sent)
            connection.socket.shutdown(socket.SHUT_WR)
        connection.read_until_closed()
    finally:
        connection.close()


def test_random_bytes(url):
    chance = random.Random(SEED)
    for _ in range(150):
        first = chance.choice([b"", *(tag.encode() for tag in FRONTEND_TAGS)])
        converse_until_closed(url, first + chance.randbytes(chance.randint(1, 300)))
    for _ in range(50):
        connection = raw(url)
        with contextlib.suppress(ConnectionError):
            connection.send(chance.randbytes(chance.randint(1, 300)))
            connection.socket.shutdown(socket.SHUT_WR)
        connection.read_until_closed()
        connection.close()


def test_mutated_conversations(url):
    """Good messages with bytes flipped, dropped and doubled: near enough to be taken, wrong enough to hurt."""
    good = [
        query("select 1"),
        extended("select $1::int, $2", "1", "text"),
        parse("select 1", "s"),
        bind("s"),
        execute(rows_max=1),
        SYNC,
        query("begin"),
        query("set work_mem = '5MB'"),
        query("rollback"),
        query("copy (select 1) to stdout"),
        wire.close_statement("s"),
        wire.function_call(177, (bytes(4), bytes(4))),
    ]
    chance = random.Random(SEED)
    mutated = []
    for _ in range(250):
        sent = bytearray(b"".join(chance.choices(good, k=chance.randint(1, 6))))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(sent))
            match chance.randint(0, 2):
                case 0:
                    sent[at] ^= 1 << chance.randint(0, 7)
                case 1:
                    del sent[at : at + chance.randint(1, 3)]
                case _:
                    sent[at:at] = sent[at : at + chance.randint(1, 8)]
            if not sent:
                break
        mutated.append(bytes(sent))
    # Half of them ask for nothing that ends, and are given a second: so several at once.
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda sent: converse_until_closed(url, sent), mutated))
