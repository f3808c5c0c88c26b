#!/usr/bin/env python3
"""Finds the truth of the labelled set: creates each index that a person or Weir thought of, and times the statement.

    tests/advice/prove.py shop postgres://postgres@127.0.0.1:5432/shop [ADVICE.json ...]

The database is one that `data.sql` has filled. Times are the best of several runs, on one backend without parallel workers.
Two traps are seen to: a scan starts at the table's first page and not where the last one stopped (synchronize_seqscans
would make LIMIT 1 a matter of luck), and statistics of an index's expression are there before it is timed. What
`truths.json` has already is not measured again, unless its statement changed.
"""

import json
import re
import sys
import time

import psycopg
from labelled import definition, key, shapes, truths_path

RUNS = 7
SECONDS_MAX = 1.5
SETTINGS = """SET statement_timeout = '20s'; SET synchronize_seqscans = off; SET max_parallel_workers_per_gather = 0; SET jit = off;
SET plan_cache_mode = force_custom_plan; SET maintenance_work_mem = '512MB'; SET max_parallel_maintenance_workers = 0"""


def timed(connection, shape) -> float:
    """The best time in milliseconds; what a write did is undone."""
    best, began = float("inf"), time.perf_counter()
    for run in range(RUNS + 1):
        with connection.transaction(force_rollback=True):
            cursor = psycopg.RawCursor(connection)
            start = time.perf_counter()
            try:
                cursor.execute(shape.text, shape.values, prepare=False)
                if cursor.description:
                    cursor.fetchall()
            except psycopg.errors.QueryCanceled:
                # That is long enough to know.
                return round((time.perf_counter() - start) * 1000, 3)
            took = (time.perf_counter() - start) * 1000
        # The first run warms up.
        if run or took > 1000 * SECONDS_MAX:
            best = min(best, took)
        if run and time.perf_counter() - began > SECONDS_MAX:
            break
    return round(best, 3)


def with_indexes(connection, shape, indexes) -> float:
    """The same while these indexes are there."""
    names = []
    try:
        for index in indexes:
            names.append(f"truth_{len(names)}")
            connection.execute("SET statement_timeout = 0")
            connection.execute(f"CREATE INDEX {names[-1]} ON {definition(index)}")
            # With an expression in it: its statistics come from ANALYZE.
            if re.search(r"\(\(|\w+\(", index) and "gin" not in index:
                connection.execute(f"ANALYZE {definition(index).split()[0]}")
        connection.execute("SET statement_timeout = '20s'")
        return timed(connection, shape)
    finally:
        for name in names:
            connection.execute(f"DROP INDEX IF EXISTS {name}")


def main() -> None:
    name, url, *advised = sys.argv[1:]
    truths = truths_path(name)
    known = json.loads(truths.read_text())["shapes"] if truths.exists() else {}
    extra = {}
    for path in advised:
        with open(path) as file:
            for statement in json.load(file)["statements"]:
                indexes = [advice["ddl"] for advice in statement["advice"] if advice["kind"] in ("create_index", "fk_index")]
                if indexes:
                    extra.setdefault(statement["name"], []).append(indexes)
    connection = psycopg.connect(url, autocommit=True)
    connection.execute(SETTINGS)
    for shape in shapes(name):
        entry = known.get(shape.name, {})
        if entry.get("text") != shape.text or entry.get("values") != shape.values:
            entry = {"text": shape.text, "values": shape.values, "baseline_ms": timed(connection, shape),
                     "with_indexes_ms": {}}
        for indexes in [tried.split(" & ") for tried in shape.tries] + extra.get(shape.name, []):
            if key(indexes) not in entry["with_indexes_ms"]:
                entry["with_indexes_ms"][key(indexes)] = with_indexes(connection, shape, indexes)
        known[shape.name] = entry
        print(shape.name, entry["baseline_ms"], entry["with_indexes_ms"], flush=True)
        how = f"tests/advice/prove.py {name} URL ADVICE.json, PostgreSQL " + connection.info.parameter_status("server_version")
        truths.write_text(json.dumps({"made_by": how, "shapes": known}, indent=1) + "\n")


if __name__ == "__main__":
    main()
