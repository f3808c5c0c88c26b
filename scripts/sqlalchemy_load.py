"""What a SQLAlchemy application does all day, straight to the primary and through Weir, in rounds that take turns; then a table.

    sqlalchemy_load.py --server URL [--server URL ...] DATABASE=URL DATABASE=URL

A request is a session: BEGIN, three SELECTs, ROLLBACK; one in twenty also inserts and commits. Each side has a database of its
own on the servers (the primary first), so that their statistics tell whose reads went where. The tables are the Flask example's.
"""

import argparse
import itertools
import multiprocessing
import random
import sys
import threading
import time
from collections import defaultdict
from urllib.parse import urlsplit, urlunsplit

from sqlalchemy import DateTime, create_engine, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

PROCESSES, THREADS = 2, 4
WRITES = 0.05
DRIVERS = ("psycopg2", "psycopg")
# Idle server processes tell their statistics so much later at the most (PostgreSQL: PGSTAT_IDLE_INTERVAL).
STATISTICS_WITHIN = 11.0  # seconds


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Article(Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    body: Mapped[str]
    published_at = mapped_column(DateTime(timezone=True), server_default=text("now()"))
    author_id: Mapped[int]


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("sides", nargs="+", metavar="DATABASE=URL")
    parser.add_argument("--server", action="append", required=True, dest="servers")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    sides = dict(side.split("=", 1) for side in options.sides)
    servers = [Server(url) for url in options.servers]

    results = {key: Result() for key in itertools.product(DRIVERS, sides)}
    # Of what was done before.
    settle(servers, sides)
    for driver in DRIVERS:
        before = {name: counters(servers, name) for name in sides}
        for number in range(options.rounds):
            # Who goes first changes, so that neither always gets the warmer machine.
            for name in sorted(sides, reverse=number % 2 == 1):
                drive(driver, sides[name], options.seconds, number, results[driver, name], servers, name)
        settle(servers, sides)
        for name in sides:
            fetched = [after - was for after, was in zip(counters(servers, name), before[name], strict=True)]
            results[driver, name].on_replicas = sum(fetched[1:]) / max(1, sum(fetched))
    print_table(results)
    return 0 if all(result.latencies and not result.errors for result in results.values()) else 1


class Result:
    def __init__(self):
        self.seconds = 0.0
        self.latencies: list[float] = []
        self.errors: list[str] = []
        self.held = 0
        self.on_replicas = 0.0

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


class Server:
    """Reads the statistics of one PostgreSQL server; `url` names another database than those that are measured."""

    def __init__(self, url: str):
        self.engine = create_engine(with_driver(url, "psycopg"), isolation_level="AUTOCOMMIT")

    def value(self, sql: str, database: str) -> int:
        with self.engine.connect() as connection:
            return connection.execute(text(sql), {"database": database}).scalar_one()

    def fetched(self, database: str) -> int:
        return self.value("select tup_fetched from pg_stat_database where datname = :database", database)

    def connections(self, database: str) -> int:
        held = "select count(*) from pg_stat_activity where datname = :database and usename = 'app'"
        return self.value(held, database)


def counters(servers: list[Server], database: str) -> list[int]:
    return [server.fetched(database) for server in servers]


def settle(servers: list[Server], databases) -> None:
    """Until nothing more is told of what was done."""
    until, seen, since = time.monotonic() + STATISTICS_WITHIN, None, 0.0
    while (now := time.monotonic()) < until and now - since < STATISTICS_WITHIN / 2:
        if (told := [counters(servers, name) for name in databases]) != seen:
            seen, since = told, now
        time.sleep(0.2)


def with_driver(url: str, driver: str) -> str:
    return urlunsplit(urlsplit(url)._replace(scheme=f"postgresql+{driver}"))


def drive(driver: str, url: str, seconds: float, seed: int, result: Result, servers: list[Server], name: str) -> None:
    context = multiprocessing.get_context("fork")
    gate, answers = context.Barrier(PROCESSES + 1), context.Queue()
    crew = [
        context.Process(target=work, args=(driver, url, seconds, f"{seed}/{number}", gate, answers))
        for number in range(PROCESSES)
    ]
    for process in crew:
        process.start()
    gate.wait(60)
    begun = time.perf_counter()
    time.sleep(seconds / 2)
    result.held = max(result.held, sum(server.connections(name) for server in servers))
    for _ in crew:
        latencies, errors = answers.get(timeout=seconds + 60)
        result.latencies += latencies
        result.errors += errors
    result.seconds += time.perf_counter() - begun
    for process in crew:
        process.join(20)


def work(driver: str, url: str, seconds: float, seed: str, gate, answers) -> None:
    engine = create_engine(with_driver(url, driver), pool_size=THREADS, max_overflow=0)
    latencies: list[float] = []
    errors: list[str] = []
    ready = threading.Barrier(THREADS + 1)
    until = [0.0]

    def loop(number: int) -> None:
        choose = random.Random(f"{seed}/{number}")
        request(engine, choose, writes=False)
        ready.wait()
        ready.wait()
        while (begun := time.perf_counter()) < until[0]:
            try:
                request(engine, choose, choose.random() < WRITES)
            except Exception as error:  # counted, and shown
                errors.append(f"{type(error).__name__}: {error}")
                continue
            latencies.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=loop, args=(number,), daemon=True) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    ready.wait()
    gate.wait()
    until[0] = time.perf_counter() + seconds
    ready.wait()
    for thread in threads:
        thread.join(seconds + 30)
    engine.dispose()
    answers.put((latencies, errors))


def request(engine, choose: random.Random, writes: bool) -> None:
    with Session(engine) as session:
        author = session.get(Author, choose.randint(1, 200))
        session.get(Article, choose.randint(1, 5000))
        newest = select(Article.title, Author.name).join(Author, Author.id == Article.author_id)
        session.execute(newest.order_by(Article.published_at.desc()).limit(10)).all()
        if writes:
            session.add(Article(title="On load", body="Measure.", author_id=author.id))
            session.commit()


def print_table(results: dict[tuple[str, str], Result]) -> None:
    columns = defaultdict(list)
    for (driver, name), result in results.items():
        columns[""].append(f"{driver}, {'direct' if name == 'direct' else 'Weir'}")
        columns["requests/s"].append(f"{len(result.latencies) / result.seconds:.0f}")
        columns["p50 (ms)"].append(f"{1000 * result.percentile(0.5):.1f}")
        columns["p99 (ms)"].append(f"{1000 * result.percentile(0.99):.1f}")
        columns["errors"].append(str(len(result.errors)))
        columns["rows read on replicas"].append(f"{result.on_replicas:.1%}")
        columns["server connections, all"].append(str(result.held))
    print()
    for label, cells in columns.items():
        print(f"{label:<26}" + "".join(f"{cell:>18}" for cell in cells))
    for key, result in results.items():
        if result.errors:
            print(f"{' '.join(key)}: {result.errors[0]}")


if __name__ == "__main__":
    sys.exit(main())
