"""Fixtures: where to connect, and a schema of its own for each test."""

import re
import subprocess
import sys
import tempfile
from base64 import b64encode
from pathlib import Path

import psycopg
import psycopg.sql
import pytest

import targets
from targets import Place

# These have servers of their own, which no neighbor gets at: one run is enough.
collect_ignore = ["test_authentication.py", "test_tls.py", "test_replication.py"] if targets.NOISY else []


def pytest_configure(config):
    config.addinivalue_line("markers", "small_pool: uses WEIR_SMALL_POOL_URL, so never beside another such test")
    if not targets.DIRECT:
        pytest.exit("set WEIR_DIRECT_URL (and WEIR_TEST_URL for the proxy), or run against_postgres.sh", returncode=4)
    if hasattr(config, "workerinput"):
        return
    check_cluster()
    config.neighbors = start_neighbors() if targets.NOISY else None


def check_cluster():
    with psycopg.connect(targets.DIRECT) as connection:
        two_phase, encoding = connection.execute(
            "select current_setting('max_prepared_transactions')::int, current_setting('server_encoding')"
        ).fetchone()
        if two_phase < 10 or encoding != "UTF8":
            pytest.exit("the cluster needs max_prepared_transactions >= 10 and a UTF8 database", returncode=4)


def start_neighbors():
    command = [sys.executable, str(Path(__file__).with_name("noisy.py")), targets.TEST, targets.SMALL_POOL]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    neighbors = getattr(session.config, "neighbors", None)
    if neighbors is None:
        return
    summary, _ = neighbors.communicate(timeout=60)
    print(f"\nnoisy neighbors: {summary.strip()}")
    if neighbors.returncode != 0 and session.exitstatus == 0:
        session.exitstatus = 1


def pytest_report_header():
    through = re.sub(r"//[^@]*@", "//", targets.TEST) if targets.BEHIND_PROXY else "no proxy: PostgreSQL itself"
    return f"through: {through}; noisy neighbors: {'on' if targets.NOISY else 'off'}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """First, since pytest-xdist reads the groups at its own turn."""
    for item in items:
        if item.get_closest_marker("small_pool"):
            item.add_marker(pytest.mark.xdist_group("small_pool"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(ids):
    """With a pytest and a pytest-xdist that do not fit, groups are ignored without a word. Asked where an exit is shown as such."""
    if any(name.startswith("test_hostile.py") and "@hostile" not in name for name in ids):
        pytest.exit("pytest-xdist does not keep the tests of a group together", returncode=4)


@pytest.fixture(scope="session")
def url() -> str:
    return targets.TEST


@pytest.fixture(scope="session")
def direct() -> str:
    return targets.DIRECT


@pytest.fixture(scope="session")
def small_pool() -> str:
    return targets.SMALL_POOL


@pytest.fixture(scope="session")
def admin() -> str:
    if not targets.ADMIN:
        pytest.skip("WEIR_ADMIN_URL is not set")
    return targets.ADMIN


@pytest.fixture(scope="session")
def own_directory():
    """For servers of a test's own: other accounts can pass through it, and paths of sockets stay short."""
    with tempfile.TemporaryDirectory(prefix="weir-own-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def schema(request, url):
    yield from own_schema(request, url)


@pytest.fixture
def small_pool_schema(request, small_pool):
    yield from own_schema(request, small_pool)


def own_schema(request, url):
    """Made and dropped through the proxy under test: a proxy need not know of DDL that never passed it."""
    worker = getattr(request.config, "workerinput", {}).get("workerid", "main")
    name = re.sub(r"\W+", "_", f"{request.node.name}"[-40:]).strip("_").lower() + f"_{worker}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set client_min_messages = warning")
        connection.execute(f'drop schema if exists "{name}" cascade')
        connection.execute(f'create schema "{name}"')
    yield Place(name, targets.with_options(url, search_path=f"{name},public"), url)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("set client_min_messages = warning; set lock_timeout = '10s'")
        prepared = "select gid from pg_prepared_xacts where strpos(gid, %s) > 0 or strpos(gid, %s) > 0"
        for (gid,) in connection.execute(prepared, [name, b64encode(name.encode()).decode()]).fetchall():
            connection.execute(psycopg.sql.SQL("rollback prepared {}").format(gid))
        connection.execute(f'drop schema if exists "{name}" cascade')
