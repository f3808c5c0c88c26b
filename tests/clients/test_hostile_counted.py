"""What DESIGN.md promises of every malformed message: 08P01, the connection closed, nothing of it run, and counted.

The corpus is that of test_hostile.py, and more. Through a Weir of its own, whose counters nobody else moves.
"""

import socket
import struct

import pytest

import targets
from own_servers import needs_weir, wait_until
from test_hostile import (
    BROKEN_BODIES,
    FRONTEND_TAGS,
    after_login,
    after_the_first_answer,
    answer_to,
    int16,
    parameters,
    raw,
)
from watched_weir import WatchedWeir
from wire import (
    PROTOCOL_3_0,
    SSL_REQUEST,
    SYNC,
    Connection,
    bind,
    copy_data,
    cstring,
    errors,
    execute,
    extended,
    message,
    parse,
    password,
    query,
    rows,
    startup,
    tags,
)
from wire import cancel as cancel_statement

pytestmark = [
    needs_weir,
    pytest.mark.skipif(targets.NOISY, reason="its Weir has no neighbors; once is enough"),
    pytest.mark.xdist_group("hostile"),
]

MALFORMED, WRONG_CANCELS = "malformed_clients_total", "wrong_cancels_total"
IMPOSSIBLE_LENGTHS = [-(2**31), -1, 0, 3, 2**31 - 1]


@pytest.fixture(scope="module")
def weir(tmp_path_factory):
    with WatchedWeir(tmp_path_factory.mktemp("weir")) as weir:
        yield weir.wait_until_ready()


def length(number: int) -> bytes:
    return struct.pack("!i", number)


def startup_of(url: str) -> bytes:
    return startup(parameters(url))


def leave_in_the_middle(url: str, sent: bytes):
    connection = raw(url)
    connection.send(sent)
    connection.socket.shutdown(socket.SHUT_WR)
    try:
        return connection.read_until_closed()
    finally:
        connection.close()


def scram(mechanism: str, declared: int, first: bytes) -> bytes:
    return message("p", cstring(mechanism) + length(declared) + first)


# Before login: what is sent, and how.
BEFORE_LOGIN = {
    **{
        f"a startup packet of length {n}": lambda url, n=n: answer_to(url, length(n) + startup_of(url)[4:])
        for n in [-(2**31), -1, 0, 1, 4, 7, 10_001, 2**31 - 1]
    },
    "a startup packet without terminator": lambda url: answer_to(
        url, struct.pack("!ii", 17, PROTOCOL_3_0) + b"user\0app\0"
    ),
    "a startup packet with a name and no value": lambda url: answer_to(
        url, struct.pack("!ii", 14, PROTOCOL_3_0) + b"user\0\0"
    ),
    "half a startup packet and the end": lambda url: leave_in_the_middle(url, startup_of(url)[:9]),
    "a query": lambda url: answer_to(url, query("select 1")),
    "a password": lambda url: answer_to(url, password("before asked") + bytes(8)),
    "HTTP": lambda url: answer_to(url, b"GET / HTTP/1.1\r\n\r\n"),
    "a request for TLS, twice": lambda url: tls_twice(url),
    "a query for a password": lambda url: after_the_first_answer(url, query("select 1")),
    "a batch for a password": lambda url: after_the_first_answer(url, extended("select 1") + SYNC),
    "an empty password message": lambda url: after_the_first_answer(url, message("p")),
    "a password message of 2 GB": lambda url: after_the_first_answer(url, b"p" + length(2**31 - 1) + b"x" * 100),
    "a password message of length -1": lambda url: after_the_first_answer(url, b"p" + length(-1)),
    "SCRAM with a length too long": lambda url: after_the_first_answer(url, scram("SCRAM-SHA-256", 500, b"n,,n=,r=a")),
    "SCRAM with a length of -5": lambda url: after_the_first_answer(url, scram("SCRAM-SHA-256", -5, b"")),
    "SCRAM of an unknown kind": lambda url: after_the_first_answer(url, scram("SCRAM-SHA-999", 4, b"n,,x")),
    "SCRAM with nothing in it": lambda url: after_the_first_answer(url, scram("SCRAM-SHA-256", 3, b"n,,")),
    "SCRAM with garbage in it": lambda url: after_the_first_answer(url, scram("SCRAM-SHA-256", 9, b"garbage\xff\0")),
}


def tls_twice(url: str):
    connection = raw(url)
    connection.send(SSL_REQUEST)
    assert connection.read_exactly(1) == b"N"
    connection.send(SSL_REQUEST)
    try:
        return connection.read_until_closed()
    finally:
        connection.close()


# The server reads the layout of these, and refuses it in its own words; the client goes on behind the Sync.
LEFT_TO_THE_SERVER = [
    "bind without counts",
    "bind with too many formats",
    "bind with a negative format count",
    "bind with 65535 parameters and none",
    "bind with a parameter longer than the message",
    "bind with a parameter of length -2",
    "bind with more behind",
    "function call without body",
    "function call with too few arguments",
]

MORE_BODIES = {
    "parse with 65535 types and room for 65534": message(
        "P", b"\0select 1\0" + int16(-1) + struct.pack("!65534I", *[23] * 65534)
    ),
    "describe with more behind": message("D", b"S\0x"),
    "close with more behind": message("C", b"P\0x"),
    "close without terminator": message("C", b"Pname"),
    "execute without terminator": message("E", b"portal"),
    "query of one byte": message("Q", b"x"),
}

AFTER_LOGIN = {
    **{
        f"{tag} of length {n}": tag.encode() + length(n) + b"select 1\0"
        for tag in FRONTEND_TAGS
        for n in IMPOSSIBLE_LENGTHS
    },
    **{f"tag {tag}": bytes([tag]) + length(8) + b"abcd" for tag in b"\0\1\xff @1AKRTZasvz"},
    **{name: body for name, body in BROKEN_BODIES.items() if name not in LEFT_TO_THE_SERVER},
    **MORE_BODIES,
    "a startup packet": startup({"user": "app"}),
    "a password": password("late"),
}


def counted(weir, name: str, do) -> tuple[list, int]:
    """What `do` gave, and by how much it moved a counter."""
    before = weir.metric(name)
    answer = do()
    return answer, int(weir.metric(name) - before)


@pytest.mark.parametrize("case", BEFORE_LOGIN)
def test_malformed_before_login(weir, case):
    answer, count = counted(weir, MALFORMED, lambda: BEFORE_LOGIN[case](weir.address))
    assert (errors(answer), count) == (["08P01"], 1)
    assert not set(tags(answer)) & set("KZ")


@pytest.mark.parametrize("case", AFTER_LOGIN)
def test_malformed_after_login(weir, case):
    """Behind a message that is well formed, and before others that must not run any more."""
    sent = [parse("select 1"), AFTER_LOGIN[case], SYNC, query("select 'run'")]
    answer, count = counted(weir, MALFORMED, lambda: after_login(weir.address, *sent))
    assert (errors(answer), count) == (["08P01"], 1)
    assert rows(answer) == [] and "Z" not in tags(answer)


@pytest.mark.parametrize("name", LEFT_TO_THE_SERVER)
def test_malformed_by_the_servers_own_judgment(weir, name):
    answer, count = counted(
        weir, MALFORMED, lambda: after_login(weir.address, parse("select 1"), BROKEN_BODIES[name], execute(), SYNC)
    )
    assert (errors(answer), tags(answer)[-1], count) == (["08P01"], "Z", 0)


def test_nothing_of_a_malformed_message_is_run(weir, schema):
    insert = f"insert into {schema.name}.t values (1)"
    with Connection.login(weir.address) as owner:
        owner.query(f"create table {schema.name}.t (id int)")
        for sent in (
            message("Q", insert.encode()),
            message("Q", cstring(insert) + b"x"),
            message("P", b"\0" + cstring(insert) + int16(0) + b"x") + bind() + execute() + SYNC,
            message("P", b"\0" + cstring(insert) + int16(7)) + bind() + execute() + SYNC,
            parse(insert) + bind() + message("E", b"\0" + length(0) + b"x") + SYNC,
            parse(insert) + bind() + execute() + message("S", b"x"),
            query(f"copy {schema.name}.t from stdin") + copy_data(b"1\n") + b"c" + length(3),
        ):
            answer, count = counted(weir, MALFORMED, lambda sent=sent: after_login(weir.address, sent))
            assert (errors(answer), count) == (["08P01"], 1), sent
        assert owner.value(f"select count(*) from {schema.name}.t") == "0"


@pytest.mark.parametrize("sent", [b"", startup({"user": "nobody_here"}), SSL_REQUEST], ids=["nothing", "nobody", "TLS"])
def test_what_is_well_formed_is_not_counted(weir, sent):
    _, count = counted(weir, MALFORMED, lambda: leave_in_the_middle(weir.address, sent))
    assert count == 0


def test_plain_text_behind_a_request_for_tls_is_counted(weir):
    """Closed without a word: whatever is said now, somebody in the middle may have asked for it."""
    answer, count = counted(weir, MALFORMED, lambda: answer_to(weir.address, SSL_REQUEST + startup_of(weir.address)))
    assert (answer, count) == ([], 1)


def test_wrong_cancel_requests_are_counted_and_right_ones_are_not(weir, direct):
    running = "select count(*) > 0 from pg_stat_activity where query = 'select pg_sleep(20)' and state = 'active'"
    with Connection.login(weir.address) as victim:
        for wrong in (bytes(4), victim.secret[:3], victim.secret + b"x"):
            _, count = counted(weir, WRONG_CANCELS, lambda wrong=wrong: cancel_statement(victim, wrong))
            assert count == 1
        victim.send(query("select pg_sleep(20)"))
        with Connection.login(direct) as watcher:
            # PostgreSQL ignores a cancel that comes before its statement.
            wait_until(lambda: watcher.value(running) == "t", "the statement runs")
        _, count = counted(weir, WRONG_CANCELS, lambda: cancel_statement(victim))
        assert (errors(victim.read_until_ready()), count) == (["57014"], 0)


HUGE = {
    "parse of 65535 types": parse("select 1", types=(23,) * 65535) + bind(values=[None] * 65535) + execute(),
    "bind of 65535 parameters to a statement of none": parse("select 1") + bind(values=[None] * 65535) + execute(),
    "bind of 32767 result formats": parse("select 1") + bind(result_formats=(0,) * 32767) + execute(),
    "bind to nothing": bind("nothing") + execute(),
    "execute of nothing": execute("nothing"),
    "execute of a negative limit": parse("select 1") + bind() + execute(rows_max=-1),
    "copy messages without a copy": copy_data(b"1\n") + message("c", b"abc") + message("f", b"no terminator"),
    "a name of 10,000 bytes": parse("select 1", "n" * 10_000) + bind("n" * 10_000, portal="p" * 10_000),
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_or_strange_and_well_formed(weir, direct, name):
    """As PostgreSQL answers it, and not counted."""
    directly = after_login(direct, HUGE[name], SYNC)
    answer, count = counted(weir, MALFORMED, lambda: after_login(weir.address, HUGE[name], SYNC))
    assert (tags(answer), errors(answer), count) == (tags(directly), errors(directly), 0)
