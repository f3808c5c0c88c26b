"""Nobody reads an old row: many writers and readers, whose every acknowledged commit another connection reads at once, while replicas
stand still, go on, are killed and come back.

WEIR_STALENESS_READS=1000000 makes it so many reads; by default it is as many as fit into half a minute.
"""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from random import Random

import psycopg
import pytest

import targets
from observables import ALL
from own_cluster import Cluster, Replica, wait_for_reads
from own_servers import needs_weir
from torture import Versions
from watched_weir import WatchedWeir

READS = int(os.environ.get("WEIR_STALENESS_READS", "0"))
PROCESSES, THREADS = 3, 4
WORKERS = PROCESSES * THREADS
SECONDS = 3.0  # of each round, unless its reads are counted
SHARES = (0.01, 0.1, 0.5)  # of writes among all statements
ROUNDS = 2 * len(SHARES) + 1

pytestmark = [
    needs_weir,
    pytest.mark.skipif(targets.NOISY, reason="its servers have no neighbors; once is enough"),
    pytest.mark.xdist_group("staleness"),
    pytest.mark.timeout(120 if not READS else 120 + READS / 100),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        with psycopg.connect(cluster.app, autocommit=True) as maker:
            maker.execute("create extension if not exists plpgsql")
            for observable in ALL:
                for row in range(1, WORKERS + 1) if "{r}" in observable.setup else [0]:
                    maker.execute(observable.setup.replace("{r}", str(row)))
        yield cluster


@pytest.fixture(scope="module")
def versions(tmp_path_factory) -> Path:
    """What all rows were last brought to."""
    path = tmp_path_factory.mktemp("versions") / "versions"
    Versions.make(path, WORKERS)
    return path


class Chaos(threading.Thread):
    """Holds replicas up for moments, and kills one now and then; all are well when it has ended."""

    def __init__(self, replicas: list[Replica], seed: int, kills: bool):
        super().__init__()
        self.replicas, self.kills, self.chance = replicas, kills, Random(seed)
        self.ended = threading.Event()
        self.pauses = self.killed = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            next_kill = time.monotonic() + 1
            while not self.ended.is_set():
                replica = self.chance.choice(self.replicas)
                if self.kills and time.monotonic() > next_kill:
                    replica.kill()
                    self.ended.wait(0.3)
                    replica.restart()
                    self.killed += 1
                    next_kill = time.monotonic() + self.chance.uniform(2, 4)
                else:
                    replica.pause()
                    self.ended.wait(self.chance.choice([0.005, 0.02, 0.1, 0.4]))
                    replica.resume()
                    self.pauses += 1
                self.ended.wait(self.chance.uniform(0, 0.3))
        except Exception as failure:
            self.failure = failure

    def end(self) -> None:
        self.ended.set()
        self.join()
        assert self.failure is None, repr(self.failure)


def torture(
    url: str, versions: Path, writes: float, *, seconds: float = 1e9, reads: float = 1e18, kinds: str = "common"
) -> dict:
    """Lets the processes loose and adds up what they say."""
    processes = []
    for number in range(PROCESSES):
        rows = ",".join(str(number * THREADS + thread + 1) for thread in range(THREADS))
        command = [
            sys.executable,
            Path(__file__).with_name("torture.py"),
            "--url",
            url,
            "--shared",
            versions,
            "--workers",
            rows,
        ]
        command += [
            "--of",
            WORKERS,
            "--writes",
            writes,
            "--kinds",
            kinds,
            "--seconds",
            seconds,
            "--reads",
            reads / WORKERS,
        ]
        processes.append(subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True))
    results = [json.loads(process.communicate()[0]) for process in processes]
    return {key: sum((result[key] for result in results), type(results[0][key])()) for key in results[0]}


def start(cluster: Cluster, directory: Path, splitting: str = "") -> WatchedWeir:
    return WatchedWeir(directory, cluster.configuration(splitting) + "[pool]\nmax = 60\n", cluster.primary)


def round_of(weir: WatchedWeir, url: str, versions: Path, what: str, **options) -> tuple[dict, float]:
    """What came of it, and the share of reads that replicas served."""
    before = weir.routes()
    started = time.monotonic()
    total = torture(url, versions, **options)
    took = time.monotonic() - started
    routes = weir.routes() - before
    served = sum(count for route, count in routes.items() if route.startswith("replica "))
    share = served / max(total["selects"], 1)
    why = ", ".join(f"{route} {count}" for route, count in routes.most_common(6))
    print(
        f"{what}: {total['reads']} reads, {total['writes']} writes in {took:.0f} s: {total['stale']} stale, "
        f"{total['broken']} failed, {share:.1%} by replicas ({why})"
    )
    if total["stale"] or total["broken"]:
        complaints = [line for line in weir.said().splitlines() if "session ends" in line]
        pytest.fail("\n".join([*total["examples"], *complaints[-20:]]), pytrace=False)
    return total, share


@pytest.mark.parametrize("writes, kinds", [*((share, "common") for share in SHARES), (0.1, "all")])
def test_no_read_is_stale(cluster, versions, tmp_path, writes, kinds):
    with start(cluster, tmp_path / "weir") as weir:
        weir.wait_until_ready()
        url = cluster.through(weir.port)
        wait_for_reads(weir, url)
        length = {"reads": READS / ROUNDS} if READS else {"seconds": SECONDS}
        print()
        if kinds == "common":
            # For the share of reads that replicas serve where applications do what they do all day.
            what = f"{writes:.0%} writes of plain tables, replicas healthy"
            _, share = round_of(weir, url, versions, what, writes=writes, kinds="plain", **length)
            assert share > 0.05 or writes > 0.1, "the replicas served next to nothing, so little was proven"
        chaos = Chaos(cluster.replicas, seed=int(writes * 100), kills=True)
        chaos.start()
        try:
            what = f"{writes:.0%} writes, {kinds} kinds, replicas held up and killed"
            round_of(weir, url, versions, what, writes=writes, kinds=kinds, **length)
        finally:
            chaos.end()
        print(f"replicas were held up {chaos.pauses} times and killed {chaos.killed} times")


def test_torture_would_find_stale_reads(cluster, versions, tmp_path):
    """The same, of a Weir that was told to be content with old rows."""
    with start(cluster, tmp_path / "weir", 'consistency = "bounded"') as weir:
        weir.wait_until_ready()
        url = cluster.through(weir.port)
        wait_for_reads(weir, url)
        for replica in cluster.replicas:
            replica.pause()
        try:
            total = torture(url, versions, 0.1, seconds=1)
        finally:
            for replica in cluster.replicas:
                replica.resume()
        assert total["stale"] > 0
