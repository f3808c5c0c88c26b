"""Conversations as in `test_differential.py`, half of them its own and half with more reads, through a Weir with splitting on whose replicas are held up: one applies each
commit late, and before each conversation both are left alone, or one or both stop replaying. The rows are always the primary's.

WEIR_DELAYED_CONVERSATIONS=n makes more of them.
"""

import os
from functools import partial
from random import Random

import pytest

import targets
import test_differential
from conversations import READING_THEMES, THEMES, Conversation
from own_cluster import Cluster, wait_for_reads
from own_servers import needs_weir
from test_differential import SEED, Ways, converse, run, set_up
from watched_weir import WatchedWeir

COUNT = int(os.environ.get("WEIR_DELAYED_CONVERSATIONS", "96"))
SCHEMA = "delayed"

pytestmark = [
    needs_weir,
    pytest.mark.skipif(targets.NOISY, reason="its servers have no neighbors; once is enough"),
    pytest.mark.xdist_group("delayed"),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        cluster.replicas[1].delay("30ms")
        yield cluster


@pytest.fixture(scope="module")
def weir(cluster, tmp_path_factory):
    configuration = cluster.configuration() + "[pool]\nmax = 10\n"
    with WatchedWeir(tmp_path_factory.mktemp("weir"), configuration, cluster.primary) as weir:
        yield weir.wait_until_ready()


@pytest.fixture(scope="module")
def ways(cluster, weir):
    served = []

    def through(steps, schema):
        url = cluster.through(weir.port)
        set_up(url, schema)
        wait_for_reads(weir, url, f"select count(*) from {schema}.t, {schema}.v")
        before = weir.replica_reads()
        held_up = Random(len(served)).choice([[], cluster.replicas[:1], cluster.replicas[1:], cluster.replicas])
        for replica in held_up:
            replica.pause()
        try:
            return converse(url, steps, schema)
        finally:
            served.append(weir.replica_reads() - before)
            for replica in held_up:
                replica.resume()

    yield Ways(partial(run, cluster.app), through)
    print(f"\nreplicas served {sum(served)} reads of {len(served)} conversations")
    assert sum(served) > 2 * COUNT, "the replicas served next to nothing, so little was proven"


@pytest.mark.parametrize("number", range(COUNT))
def test_conversation(number, ways):
    conversation = Conversation(SEED, number // 2, SCHEMA, [THEMES, READING_THEMES][number % 2])
    test_differential.check(conversation, ways, f"test_differential_delayed.py::test_conversation[{number}]")
