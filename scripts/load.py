"""Load for the Flask example, in rounds that take turns, and a table of the results. Standard library only.

    load.py [options] NAME=URL ...

Each client keeps one HTTP connection open and sends its next request when it has the answer. All sides get the same
requests. Meanwhile the server connections that belong to each side are counted on the primary: application_name NAME.
"""

import argparse
import http.client
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from urllib.parse import urlsplit

COUNT = "SELECT application_name, count(*) FROM pg_stat_activity WHERE usename = 'app' GROUP BY 1"
PAUSE_BETWEEN_COUNTS = 0.5  # seconds


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("sides", nargs="+", metavar="NAME=URL")
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--psql", default="psql")
    parser.add_argument("--database", required=True)
    options = parser.parse_args()
    sides = dict(side.split("=", 1) for side in options.sides)

    results = {name: Result() for name in sides}
    counter = ConnectionCounter(options.psql, options.database)
    for round_number in range(options.rounds):
        # Who goes first changes, so that neither always gets the warmer machine.
        order = list(sides) if round_number % 2 == 0 else list(reversed(sides))
        for name in order:
            drive(sides[name], options.clients, options.seconds, round_number, results[name])
            print(f"  round {round_number + 1}, {name}: {results[name].requests} requests so far", flush=True)
    held = counter.stop()
    print_table(results, held)
    return 0 if all(result.requests > result.errors for result in results.values()) else 1


class Result:
    def __init__(self):
        self.seconds = 0.0
        self.latencies: list[float] = []
        self.errors = 0

    @property
    def requests(self) -> int:
        return len(self.latencies)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")


def drive(url: str, clients: int, seconds: float, seed: int, result: Result) -> None:
    started = time.perf_counter()
    outcomes = [([], Counter()) for _ in range(clients)]
    threads = [
        threading.Thread(target=client, args=(url, started + seconds, random.Random(f"{seed}/{number}"), *outcome))
        for number, outcome in enumerate(outcomes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.seconds += time.perf_counter() - started
    for latencies, counts in outcomes:
        result.latencies += latencies
        result.errors += counts["errors"]


def client(url: str, until: float, choose: random.Random, latencies: list[float], counts: Counter) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    while (begun := time.perf_counter()) < until:
        method, path, body = request(choose)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            response = connection.getresponse()
            response.read()
            is_good = response.status < 400
        except (OSError, http.client.HTTPException):
            connection.close()
            is_good = False
        latencies.append(time.perf_counter() - begun)
        counts["errors"] += not is_good


def request(choose: random.Random) -> tuple[str, str, str | None]:
    """Mostly reads, as in most applications."""
    kind = choose.random()
    if kind < 0.4:
        return "GET", "/articles", None
    if kind < 0.75:
        return "GET", f"/articles/{choose.randint(1, 5000)}", None
    if kind < 0.9:
        return "GET", f"/authors/{choose.randint(1, 200)}", None
    if kind < 0.95:
        return "GET", f"/search?q={choose.choice(['locks', 'pools', 'joins'])}", None
    article = {"title": "On load", "body": "Measure.", "author_id": choose.randint(1, 200)}
    return "POST", "/articles", json.dumps(article)


class ConnectionCounter(threading.Thread):
    """Counts server connections by application_name, and keeps the highest counts."""

    def __init__(self, psql: str, database: str):
        super().__init__(daemon=True)
        self.command = [psql, "-X", "-A", "-t", "-F", "\t", "-d", database, "-c", COUNT]
        self.highest: defaultdict[str, int] = defaultdict(int)
        self.ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.wait(PAUSE_BETWEEN_COUNTS):
            counted = subprocess.run(self.command, capture_output=True, text=True, timeout=30)
            for line in counted.stdout.splitlines():
                name, count = line.rsplit("\t", 1)
                self.highest[name] = max(self.highest[name], int(count))

    def stop(self) -> dict[str, int]:
        self.ended.set()
        self.join()
        return self.highest


def print_table(results: dict[str, Result], held: dict[str, int]) -> None:
    rows = [("", *results)]
    rows.append(("requests/s", *(f"{result.requests / result.seconds:.0f}" for result in results.values())))
    for label, share in [("p50 (ms)", 0.5), ("p99 (ms)", 0.99)]:
        rows.append((label, *(f"{1000 * result.percentile(share):.1f}" for result in results.values())))
    rows.append(("errors", *(str(result.errors) for result in results.values())))
    rows.append(("server connections, most", *(str(held.get(name, 0)) for name in results)))
    print()
    for label, *cells in rows:
        print(f"{label:<26}" + "".join(f"{cell:>12}" for cell in cells))
    print("\nPostgreSQL, Weir, the application and the load share this machine: compare the columns, not the numbers.")


if __name__ == "__main__":
    sys.exit(main())
