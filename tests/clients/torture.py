"""One process of the staleness torture: each of its threads writes versions by some way on one connection and, once that is
acknowledged, reads them by some way on another; and it reads what all the others have written.

    python torture.py --url URL --shared FILE --workers 1,2,3 --of 12 --seconds 5 --writes 0.1

FILE holds the version of every row that was acknowledged last, for all processes. Prints what came of it as JSON.
"""

import argparse
import json
import mmap
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

from observables import ALL, KINDS, Observable, Script
from wire import (
    COPY_DONE,
    SYNC,
    Closed,
    Connection,
    Message,
    bind,
    copy_data,
    describe_portal,
    errors,
    execute,
    extended,
    parse,
    query,
)

EXAMPLES = 20  # of what went wrong, for each process
BURST = (
    10  # reads that are made from one look at the versions, and now and then sent before the first answer is waited for
)
EXPECTED_ERRORS = {"22012", "40001"}  # a script divides by zero, another is serializable


class Versions:
    """The version of each row of each observable that its writer was told of: a write of eight bytes is seen whole."""

    def __init__(self, path: str, workers: int):
        self.workers = workers
        with open(path, "r+b") as file:
            self.cells = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")

    @staticmethod
    def make(path: Path, workers: int) -> None:
        path.write_bytes(bytes(8 * len(ALL) * (workers + 1)))

    def place(self, observable: int, row: int) -> int:
        return observable * (self.workers + 1) + row


@dataclass
class Read:
    """What is sent, how many ReadyForQuery come back, and the least and greatest version that each row may show."""

    sent: bytes
    answers: int
    selects: int  # reads of it that may go to a replica
    least: int
    most: int
    text: str
    may_break: bool = False


class Worker(threading.Thread):
    def __init__(self, row: int, options: argparse.Namespace, versions: Versions):
        super().__init__()
        self.row, self.options, self.versions = row, options, versions
        self.chance = Random(options.seed * 1000 + row)
        self.observables = KINDS[options.kinds]
        self.weights = [observable.weight for observable in self.observables]
        self.reads, self.selects, self.writes = 0, 0, Counter()
        self.stale, self.broken = [], []
        self.named: dict[str, str] = {}

    def run(self) -> None:
        try:
            self.writer, self.reader = self.login(), self.login()
            until = time.monotonic() + self.options.seconds
            while time.monotonic() < until and self.reads < self.options.reads and len(self.stale) < EXAMPLES:
                self.turn()
            self.writer.terminate()
            self.reader.terminate()
        except Exception as failure:
            self.broken.append(f"{type(failure).__name__}: {failure}")

    def login(self) -> Connection:
        self.named.clear()
        return Connection.login(self.options.url)

    # ---- a turn: one write, and as many reads as make it that share of all -----------------------------------------------------

    def turn(self) -> None:
        (observable,) = self.chance.choices(self.observables, self.weights)
        self.write(observable)
        left = (1 - self.options.writes) / self.options.writes
        left = int(left) + (self.chance.random() < left % 1)
        burst = [self.read_of(observable, self.row) for _ in range(min(left, self.chance.randint(1, 4)))]
        while left > 0:
            burst += [self.any_read() for _ in range(min(BURST, left) - len(burst))]
            left -= len(burst)
            self.ask(burst)
            burst = []

    def any_read(self) -> Read:
        (observable,) = self.chance.choices(self.observables, self.weights)
        return self.read_of(observable, self.row if observable.own else self.chance.randint(1, self.options.of))

    # ---- writes ----------------------------------------------------------------------------------------------------------------

    def write(self, observable: Observable) -> None:
        place = self.versions.place(ALL.index(observable), self.row)
        version = self.versions.cells[place] + 1
        chosen = self.chance.choice(observable.writes)
        if isinstance(chosen, Script):
            way, answer = "script", self.run_script(chosen, version)
        else:
            way, answer = self.send_write(chosen, version)
        said = [m for m in answer if m.tag == "E"]
        if any(m.sqlstate not in EXPECTED_ERRORS for m in said):
            self.broken.append(f"write of {observable.name}, {way}: {chosen}: {list(map(str, said))}")
        if any(m.sqlstate != "22012" for m in said):
            if answer[-1].tag == "Z" and answer[-1].text != "I":
                self.writer.query("rollback")
            return
        self.versions.cells[place] = version
        self.writes[observable.name] += 1
        if self.chance.random() < 0.03:
            # What pins (PREPARE, nextval) would keep this client on a connection of its own for good.
            self.writer.query("discard all")

    def run_script(self, script: Script, version: int) -> list[Message]:
        answer = []
        for text in script.steps:
            self.writer.send(query(text.format(r=self.row, v=version)))
            if text.startswith("copy "):
                self.writer.send(copy_data(script.data.format(r=self.row, v=version).encode()), COPY_DONE)
            answer += self.writer.read_until_ready()
        return answer

    def send_write(self, sql: str, version: int) -> tuple[str, list[Message]]:
        text, older = sql.format(r=self.row, v=version), sql.format(r=self.row, v=version - 1)
        writer = self.writer
        match self.chance.randint(0, 9):
            case 0:
                return "simple", writer.query(text)
            case 1:
                return "extended", writer.ask(extended(text), SYNC)
            case 2:
                messages = [writer.query("begin"), writer.query(text), writer.query("commit")]
                return "block", [m for answer in messages for m in answer]
            case 3:
                messages = [writer.query("begin"), writer.query("select count(*) from plain0"), writer.query(text)]
                messages.append(writer.query("commit"))
                return "block that reads first", [m for answer in messages for m in answer]
            case 4:
                parts = [writer.ask(extended(sql), SYNC) for sql in ("begin", text, "commit")]
                return "block, extended", [m for answer in parts for m in answer]
            case 5:
                return "block in one batch", writer.ask(extended("begin"), extended(text), extended("commit"), SYNC)
            case 6:
                writer.send(query("begin"), query(older), query("commit"), query(text))
                return "pipelined block", writer.read_until_ready(4)
            case 7:
                writer.send(extended(older), SYNC, extended(text), SYNC)
                return "pipelined", writer.read_until_ready(2)
            case 8:
                return "several in one", writer.query(f"begin; {older}; commit; {text}")
            case _:
                return "behind a read", writer.query(f"select 1; {text}")

    # ---- reads -----------------------------------------------------------------------------------------------------------------

    def read_of(self, observable: Observable, row: int) -> Read:
        least = self.versions.cells[self.versions.place(ALL.index(observable), row)]
        # Only its owner knows that nothing newer is under way.
        most = least if row == self.row else sys.maxsize
        template = self.chance.choice(observable.reads)
        text = template.format(r=row)
        may_break, selects = False, 1
        match self.chance.randint(0, 11):
            case 0 | 1:
                sent, answers = query(text), 1
            case 2:
                sent, answers = extended(text) + SYNC, 1
            case 3 if not observable.own:
                sent, answers = extended(template.format(r="$1"), str(row)) + SYNC, 1
            case 3 | 4:
                sent, answers = self.by_name(template, row, observable.own) + SYNC, 1
            case 5:
                sent, answers = query("begin") + query(text) + query(text) + query("rollback"), 4
                selects = 2
            case 6:
                sent = extended("begin") + SYNC + extended(text) + SYNC + extended("commit") + SYNC
                answers = 3
            case 7:
                sent, answers = extended("begin") + extended(text) + extended("commit") + SYNC, 1
            case 8:
                sent, answers = query("begin isolation level repeatable read read only") + query(text), 3
                sent += query("commit")
                may_break = True  # its replica may be killed between the two
            case 9:
                sent, answers = query(f"select now(), 1 where false; {text}"), 1
            case 10:
                sent, answers = query(f"copy ({text}) to stdout"), 1
            case _:
                sent = query("begin") + query("select 1 where now() is null") + query(text) + query("commit")
                answers, selects = 4, 2
        return Read(sent, answers, selects, least, most, text, may_break)

    def by_name(self, template: str, row: int, own: bool) -> bytes:
        text = template.format(r=row if own else "$1")
        values = () if own else (str(row),)
        prepare = b""
        if text not in self.named:
            self.named[text] = f"n{len(self.named)}"
            prepare = parse(text, self.named[text])
        return prepare + bind(self.named[text], values) + describe_portal() + execute()

    def ask(self, burst: list[Read]) -> None:
        started = time.monotonic()
        pipelined = self.chance.random() < 0.1
        try:
            if pipelined:
                self.reader.send(*(read.sent for read in burst))
            for read in burst:
                if not pipelined:
                    self.reader.send(read.sent)
                answer = []
                while sum(message.tag == "Z" for message in answer) < read.answers:
                    answer.append(self.reader.read())
                self.check(read, answer, started)
        except (Closed, OSError) as failure:
            if not read.may_break:
                came = list(map(str, answer))
                self.broken.append(f"{failure!r} behind {came} of {read.sent!r}; pipelined: {pipelined}")
            self.reader.close()
            self.reader = self.login()

    def check(self, read: Read, answer: list[Message], started: float) -> None:
        seen = []
        for message in answer:
            if message.tag == "D":
                seen.append(int(message.values[0] or -1))
            elif message.tag == "d":
                seen.append(int(message.body.split()[0]))
            elif message.tag == "E" and not read.may_break:
                self.broken.append(f"{read.text}: {message}; {read.sent!r}")
        self.reads += 1
        self.selects += read.selects
        if not seen and not errors(answer):
            self.broken.append(f"no row: {read.text}; {read.sent!r}")
        if any(not read.least <= version <= read.most for version in seen):
            took = 1000 * (time.monotonic() - started)
            self.stale.append(f"{seen} instead of {read.least}: {read.text}; sent {read.sent!r}, {took:.1f} ms ago")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--url", required=True)
    arguments.add_argument("--shared", required=True)
    arguments.add_argument("--workers", required=True, type=lambda text: [int(row) for row in text.split(",")])
    arguments.add_argument("--of", required=True, type=int)
    arguments.add_argument("--seconds", type=float, default=1e9)
    arguments.add_argument("--reads", type=float, default=1e18, help="for each worker")
    arguments.add_argument("--writes", type=float, default=0.1, help="their share of all statements")
    arguments.add_argument("--kinds", choices=KINDS, default="all", help="of observables")
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    versions = Versions(options.shared, options.of)
    workers = [Worker(row, options, versions) for row in options.workers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    writes = sum((worker.writes for worker in workers), Counter())
    stale = [text for worker in workers for text in worker.stale]
    broken = [text for worker in workers for text in worker.broken]
    result = {name: sum(getattr(worker, name) for worker in workers) for name in ("reads", "selects")}
    result |= {"writes": writes.total(), "stale": len(stale), "broken": len(broken)}
    print(json.dumps({**result, "examples": stale[:EXAMPLES] + broken[:EXAMPLES]}))


if __name__ == "__main__":
    main()
