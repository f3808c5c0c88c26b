"""The same conversation with PostgreSQL and through the proxy: every backend message must be the same, byte for byte.

Not compared, because they differ between two runs against PostgreSQL itself: process ids and cancel keys, oids of objects made
for the run, and the source line that raised an error (file, line, routine). The name of a prepared statement in an error's text
may differ too.

WEIR_SEED=n makes other conversations, WEIR_CONVERSATIONS=n more of them; a failure prints how to run it alone.
"""

import os
import re
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile, zip_longest

import pytest

import targets
from conversations import SETUP, Conversation, Step
from wire import Closed, Connection, Message, errors, status

SEED = int(os.environ.get("WEIR_SEED", "1"))
COUNT = int(os.environ.get("WEIR_CONVERSATIONS", "320"))
FIRST_USER_OID = 16384
SECONDS_FOR_SHRINKING = 15


def run(url: str, steps: list[Step], schema: str) -> list[list[Message]]:
    set_up(url, schema)
    return converse(url, steps, schema)


def set_up(url: str, schema: str) -> None:
    with Connection.login(url) as maker:
        assert not errors(made := maker.query(SETUP.format(schema=schema))), [str(m) for m in made]


def converse(url: str, steps: list[Step], schema: str) -> list[list[Message]]:
    """The answers: to the login, then to each step. A conversation that breaks off ends with a message of tag `!`."""
    with Connection.login(url, options=f"-c search_path={schema}") as connection:
        connection.deadline = 10
        answers = [[Message("S", f"{k}\0{v}\0".encode()) for k, v in sorted(connection.parameters.items())]]
        for step in steps:
            answers.append([])
            try:
                connection.send(step.sent)
                left = step.answers
                while left:
                    answers[-1].append(normalized(connection.read()))
                    left -= answers[-1][-1].tag == "Z"
            except (Closed, TimeoutError, OSError) as broken:
                answers[-1].append(Message("!", type(broken).__name__.encode()))
                break
        return answers


def normalized(message: Message) -> Message:
    body = message.body
    match message.tag:
        case "A":
            body = b"\0\0\0\0" + body[4:]
        case "T":
            at = 2
            changed = bytearray(body)
            for name, table, _, type_oid, *_ in message.columns:
                at += len(name.encode(errors="surrogateescape")) + 1
                struct.pack_into("!I", changed, at, min(table, 1))
                struct.pack_into("!I", changed, at + 6, known_oid(type_oid))
                at += 18
            body = bytes(changed)
        case "t":
            types = [known_oid(oid) for oid in message.parameter_types]
            body = struct.pack(f"!H{len(types)}I", len(types), *types)
        case "E" | "N":
            kept = [part for part in body.rstrip(b"\0").split(b"\0") if part[:1] not in (b"F", b"L", b"R")]
            body = re.sub(rb'(prepared statement) "[^"]*"', rb'\1 "..."', b"\0".join(kept)) + b"\0\0"
            body = re.sub(rb"OID \d{5,}", b"OID ...", body)
    return Message(message.tag, body)


def known_oid(oid: int) -> int:
    return oid if oid < FIRST_USER_OID else FIRST_USER_OID


class NoConversation(Exception):
    pass


@dataclass(frozen=True)
class Ways:
    """Two ways to have a conversation: each gives the answers."""

    directly: Callable[[list[Step], str], list[list[Message]]]
    through: Callable[[list[Step], str], list[list[Message]]]


SHARED = Ways(partial(run, targets.DIRECT), partial(run, targets.TEST))


def differ(steps: list[Step], schema: str, ways: Ways = SHARED) -> tuple | None:
    """Both runs' answers if they are not the same."""
    directly = ways.directly(steps, schema)
    if directly[-1][-1].tag == "!":
        raise NoConversation(f"PostgreSQL itself does not answer: {directly[-1][-1]}")
    through = ways.through(steps, schema)
    return None if len(directly) == len(through) and all(map(equal, directly, through)) else (directly, through)


def equal(directly: list[Message], through: list[Message]) -> bool:
    ours, theirs = batches(through), batches(directly)
    return len(ours) == len(theirs) and all(map(same, theirs, ours))


def batches(answer: list[Message]) -> list[list[Message]]:
    """Each up to its ReadyForQuery."""
    found = [[]]
    for message in answer:
        found[-1].append(message)
        if message.tag == "Z":
            found.append([])
    return found


def same(directly: list[Message], through: list[Message]) -> bool:
    """Equal, but for a failed block, in which all is refused: PostgreSQL still describes a statement that it has, and counts the
    parameters of its Bind. The connection that Weir took for the block may not have it, and can no longer get it."""
    equal_so_far = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(directly, through)))
    directly, through = directly[equal_so_far:], through[equal_so_far:]
    if not directly and not through:
        return True
    refused = [message.tag for message in through] == ["E", "Z"] and through[0].fields["C"] == "25P02"
    if not refused or not directly or through[1] != directly[-1]:
        return False
    return all(m.tag in "tnT13Z" or (m.tag == "E" and m.fields["C"] in ("25P02", "08P01")) for m in directly)


def shrunk(steps: list[Step], schema: str, ways: Ways) -> list[Step]:
    """Leaves out every step, and every part of a pipeline, without which the answers still differ."""
    until = time.monotonic() + SECONDS_FOR_SHRINKING

    def without(removals):
        nonlocal steps
        at = 0
        while time.monotonic() < until:
            fewer = removals(steps, at)
            if fewer is None:
                return
            try:
                differs = bool(fewer) and differ(fewer, schema, ways)
            except NoConversation:
                differs = False
            if differs:
                steps = fewer
            else:
                at += 1

    without(without_a_step)
    without(without_a_part)
    return steps


def without_a_step(steps: list[Step], at: int) -> list[Step] | None:
    """Counted from the end, where most can go. None: there are no more."""
    at = len(steps) - 1 - at
    return steps[:at] + steps[at + 1 :] if at >= 0 else None


def without_a_part(steps: list[Step], at: int) -> list[Step] | None:
    """Whatever makes the server answer stays: behind an error it skips everything up to Sync, simple queries too."""
    for number, step in enumerate(steps):
        removable = [k for k, part in enumerate(step.parts) if not part.answers]
        if at < len(removable):
            k = removable[at]
            fewer = Step(step.kind, step.parts[:k] + step.parts[k + 1 :])
            return [*steps[:number], fewer, *steps[number + 1 :]]
        at -= len(removable)
    return None


def told(steps: list[Step], directly: list, through: list) -> str:
    """The conversation up to the first step whose answers differ, and there both answers, message by message."""
    lines = []
    for text, ours, theirs in zip_longest(["login", *(s.text for s in steps)], through, directly, fillvalue=[]):
        lines.append(f"  {text}")
        if equal(theirs, ours):
            lines.append(f"      {' '.join(shortened(m) for m in ours if m.tag in 'CZE')}")
            continue
        for mine, yours in zip_longest(ours, theirs):
            if mine == yours:
                lines.append(f"      both       {shortened(mine)}")
            else:
                lines.append(f"    > PostgreSQL {shortened(yours)}")
                lines.append(f"    > proxy      {shortened(mine)}")
        break
    return "\n".join(lines)


def shortened(what) -> str:
    text = "(nothing)" if what is None else str(what)
    return text if len(text) < 300 else f"{text[:200]} ... {text[-60:]}"


@pytest.mark.parametrize("number", range(COUNT))
def test_conversation(number, request):
    schema = f"differential_{getattr(request.config, 'workerinput', {}).get('workerid', 'main')}"
    check(Conversation(SEED, number, schema), SHARED, f"test_differential.py::test_conversation[{number}]")


def check(conversation: Conversation, ways: Ways, test: str) -> None:
    schema = conversation.schema
    first = differ(conversation.steps, schema, ways)
    if not first:
        return
    steps = shrunk(conversation.steps, schema, ways)
    if found := differ(steps, schema, ways):
        shown = told(steps, *found)
    else:
        shown = told(conversation.steps, *first) + "\n  it did not differ each time: look for a race"
    again = f"WEIR_SEED={SEED} pytest -n 0 '{test}'"
    pytest.fail(f"{conversation.theme}, of seed {SEED}, differs\n{shown}\n  again: {again}", pytrace=False)


def test_conversations_are_worth_having(request):
    """A generator of errors only, or of empty answers, would prove nothing."""
    schema = f"differential_{getattr(request.config, 'workerinput', {}).get('workerid', 'main')}"
    counted = dict.fromkeys("CDEGHNSTZAtnsI123V", 0)
    statuses = dict.fromkeys("ITE", 0)
    sqlstates = set()
    for number in range(100):
        for answer in run(targets.DIRECT, Conversation(1, number, schema).steps, schema)[1:]:
            assert answer[-1].tag == "Z", (number, [str(m) for m in answer])
            statuses[status(answer)] += 1
            for message in answer:
                counted[message.tag] = counted.get(message.tag, 0) + 1
                if message.tag == "E":
                    sqlstates.add(message.fields["C"])
    assert min(counted.values()) > 0, counted
    assert counted["E"] < 0.6 * counted["C"] and statuses["T"] > 100 and statuses["E"] > 30 and len(sqlstates) > 20
