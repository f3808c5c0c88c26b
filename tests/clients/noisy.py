"""Noisy neighbors: other clients of the same database and role, which leave as much as they can behind them.

    python noisy.py URL SMALL_POOL_URL     runs until its standard input ends, then prints what it did as JSON

What a pooler fails to clean up of them reaches the tests: another search_path or role, a temporary table in front of a real one, a
prepared statement of the same name, a listener, a failed transaction. The neighbors are bounded: `NEIGHBORS` clients, each pausing
between two deeds, and one that comes and goes on the small pool. Everything they make is theirs alone, except names.
"""

import contextlib
import json
import random
import sys
import threading
from collections import Counter

import wire
from wire import FLUSH, SYNC, Closed, Connection, Refused, bind, copy_data, execute, parse, query

NEIGHBORS = 3
PAUSE = 0.04  # seconds between two deeds of a neighbor
PAUSE_ON_SMALL_POOL = 0.25
SEED = 1

TABLES = [
    "t",
    "u",
    "v",
    "items",
    "author",
    "article",
    "thing",
    "part",
    "docs",
    "log",
    "library_author",
    "library_article",
]
STATEMENT_NAMES = [
    "_pg3_0",
    "_pg3_1",
    "__asyncpg_stmt_1__",
    "__asyncpg_stmt_2__",
    "S_1",
    "S_2",
    "s",
    "n1",
    "n2",
    "p1",
    "pg8000_statement_0",
    "P0_1",
]
SETTINGS = [
    "set search_path = pg_catalog",
    "set search_path = noise, pg_temp",
    "set timezone = 'Pacific/Kiritimati'",
    "set datestyle = 'SQL, DMY'",
    "set intervalstyle = 'sql_standard'",
    "set work_mem = '3MB'",
    "set client_encoding = 'LATIN1'",
    "set my.tenant = 'neighbor'",
    "set app.tenant = 'neighbor'",
    "set statement_timeout = '1ms'",
    "set lock_timeout = '1ms'",
    "set default_transaction_read_only = on",
    "set default_transaction_isolation = 'serializable'",
    "set application_name = 'neighbor'",
    "set standard_conforming_strings = off",
    "set bytea_output = 'escape'",
    "set extra_float_digits = -15",
    "set row_security = off",
    "set client_min_messages = error",
    "set session characteristics as transaction read only",
    "select set_config('search_path', 'pg_catalog', false)",
]


class Neighbor(threading.Thread):
    def __init__(self, url: str, number: int, done: Counter, stop: threading.Event, pause: float):
        super().__init__(daemon=True)
        self.url, self.number, self.done, self.stopping, self.pause = url, number, done, stop, pause
        self.random = random.Random(f"{SEED}/{number}")
        self.deeds = [getattr(self, name) for name in sorted(vars(Neighbor)) if name.startswith("deed_")]

    def run(self) -> None:
        while not self.stopping.is_set():
            with contextlib.suppress(Closed, Refused, OSError, TimeoutError):
                connection = Connection.login(self.url)
                connection.deadline = 60
                try:
                    self.live_with(connection)
                finally:
                    connection.close()
            self.stopping.wait(self.pause)

    def live_with(self, connection: Connection) -> None:
        """A few deeds, then away: with a good-bye, or without."""
        for deed in self.random.choices(self.deeds, k=self.random.randint(1, 4)):
            if self.stopping.is_set():
                break
            deed(connection)
            self.done[deed.__name__.removeprefix("deed_")] += 1
            if connection.socket.fileno() < 0:
                return
            self.stopping.wait(self.pause)
        connection.terminate() if self.random.random() < 0.5 else connection.vanish()

    def deed_settings(self, connection: Connection) -> None:
        for sql in self.random.choices(SETTINGS, k=3):
            connection.query(sql)

    def deed_role(self, connection: Connection) -> None:
        connection.query(f"set role {connection.address.user}")
        connection.query(f"set session authorization {connection.address.user}")

    def deed_temporary_tables(self, connection: Connection) -> None:
        for name in self.random.sample(TABLES, 2):
            connection.query(f"create temp table {name} (neighbor text); insert into {name} values ('not yours')")

    def deed_prepared_statements(self, connection: Connection) -> None:
        for name in self.random.sample(STATEMENT_NAMES, 3):
            connection.ask(parse("select 'neighbor', $1::text", name), bind(name, ["x"]), execute(), SYNC)
        connection.ask(parse("select 'unnamed neighbor'"), SYNC)
        connection.query(f"prepare {self.random.choice(STATEMENT_NAMES)} as select 'neighbor'")

    def deed_listen(self, connection: Connection) -> None:
        connection.query("listen noise")
        connection.query("notify noise, 'for neighbors only'")

    def deed_failed_transaction(self, connection: Connection) -> None:
        connection.query("begin")
        connection.query("select 1/0")
        connection.query("select 'refused'")

    def deed_advisory_locks(self, connection: Connection) -> None:
        connection.query(f"set lock_timeout = '100ms'; select pg_advisory_lock(-{self.number + 1})")

    def deed_cursor_with_hold(self, connection: Connection) -> None:
        connection.query(
            "declare c cursor with hold for select 'neighbor'; declare held cursor with hold for select 'neighbor'"
        )

    def deed_sequence(self, connection: Connection) -> None:
        connection.query("create temp sequence seq start 4000; select nextval('seq')")

    def deed_random_seed(self, connection: Connection) -> None:
        connection.query("select setseed(0.1)")

    def deed_cancel(self, connection: Connection) -> None:
        connection.send(query("select pg_sleep(0.05)"))
        wire.cancel(connection)
        connection.read_until_ready()
        wire.cancel(connection)

    def deed_vanish_in_a_transaction(self, connection: Connection) -> None:
        connection.send(query("begin; set local search_path = pg_catalog; create temp table t (neighbor text)"))
        connection.read()
        connection.vanish()

    def deed_vanish_in_copy(self, connection: Connection) -> None:
        connection.query("create temp table log (said text)")
        connection.send(query("copy log from stdin"), copy_data(b"half a li"))
        connection.read()
        connection.vanish()

    def deed_vanish_in_a_statement(self, connection: Connection) -> None:
        connection.send(query("select pg_sleep(0.002), repeat('x', 100000) from generate_series(1, 50)"))
        connection.vanish()

    def deed_vanish_in_a_batch(self, connection: Connection) -> None:
        connection.send(parse("select 'neighbor'", "s"), bind("s"), execute(), FLUSH, SYNC[:2])
        connection.read()
        connection.vanish()


def main(url: str, small_pool_url: str) -> None:
    done, stop = Counter(), threading.Event()
    neighbors = [Neighbor(url, number, done, stop, PAUSE) for number in range(NEIGHBORS)]
    neighbors.append(Neighbor(small_pool_url, NEIGHBORS, done, stop, PAUSE_ON_SMALL_POOL))
    for neighbor in neighbors:
        neighbor.start()
    sys.stdin.read()
    stop.set()
    for neighbor in neighbors:
        neighbor.join(30)
    deeds = {deed.__name__.removeprefix("deed_") for deed in neighbors[0].deeds}
    print(json.dumps(dict(sorted(done.items()))))
    if missing := deeds - done.keys():
        sys.exit(f"never done, so nothing was proven of it: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
