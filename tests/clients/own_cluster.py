"""A primary with two streaming replicas of a test's own, from `weir demo --only-cluster`: replicas that can be held up, and killed."""

import contextlib
import os
import pwd
import re
import signal
import time
from pathlib import Path

import targets
from own_servers import WEIR, Process, wait_until
from wire import Closed, Connection, Refused, errors


class Replica:
    """One of them. After `kill` and `restart` it is a child of this process, not of `weir demo`."""

    def __init__(self, name: str, url: str, cluster: dict[str, str]):
        self.name = name
        self.url = url
        self.binaries = cluster["PG_BINDIR"]
        self.sockets = cluster["WEIR_CLUSTER_DIR"]
        self.port = cluster[f"{name.upper()}_PORT"]
        self.process: Process | None = None
        with Connection.login(url) as connection:
            self.data = Path(connection.value("show data_directory"))

    def ask(self, sql: str) -> str | None:
        with Connection.login(self.url) as connection:
            return connection.value(sql)

    def pause(self) -> None:
        self.ask("select pg_wal_replay_pause()")

    def resume(self) -> None:
        self.ask("select pg_wal_replay_resume()")

    def delay(self, setting: str) -> None:
        """`recovery_min_apply_delay`: every commit is held back by that."""
        with Connection.login(self.url) as connection:
            assert not errors(connection.query(f"alter system set recovery_min_apply_delay = '{setting}'"))
            assert connection.value("select pg_reload_conf()") == "t"

    def is_up(self) -> bool:
        try:
            return self.ask("select pg_is_in_recovery()") == "t"
        except (OSError, Closed, Refused, TimeoutError):
            return False

    def kill(self) -> None:
        """By SIGKILL, as a crash of its machine would; gone when this returns, with its processes."""
        postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        family = [postmaster, *children(postmaster)]
        os.kill(postmaster, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, family)), f"{self.name} is gone")
        if self.process:
            self.process.child.wait()

    def restart(self) -> None:
        """Serves again when this returns. The pid files name a process that its parent may not have waited for."""
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        for lock in Path(self.sockets).glob(f".s.PGSQL.{self.port}*"):
            lock.unlink(missing_ok=True)
        command = [f"{self.binaries}/postgres", "-D", self.data, "-k", self.sockets, "-p", self.port]
        identity = {}
        if os.getuid() == 0:
            owner = pwd.getpwuid(self.data.stat().st_uid)
            identity = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        log = Path(self.sockets) / f"{self.name}-again.log"
        self.process = Process(
            [*command, "-c", f"cluster_name={self.name}"], log, lambda _: self.is_up(), within=120, cwd="/", **identity
        )

    def stop(self) -> None:
        if self.process:
            self.process.stop(signal.SIGQUIT)


def children(process: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(stat.parent.name))
    return found


def is_alive(process: int) -> bool:
    """One that has ended and was not waited for is not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Cluster:
    """All of them, until the end of a `with` block."""

    def __init__(self, directory: Path):
        # It makes a directory that the servers' user may enter, and says where its variables stand.
        def said_where(process: Process) -> bool:
            return process.said().endswith("/env\n")

        self.process = Process([WEIR, "demo", "--only-cluster"], directory / "cluster.log", said_where, cwd="/")
        self.replicas: list[Replica] = []
        try:
            variables = Path(self.process.said().split()[-1]).read_text()
            self.variables = dict(re.findall(r"^export (\w+)='(.*)'$", variables, re.MULTILINE))
            for number in (1, 2):
                self.replicas.append(
                    Replica(f"replica{number}", self.variables[f"REPLICA{number}_URL"], self.variables)
                )
        except BaseException:
            self.stop()
            raise

    @property
    def primary(self) -> str:
        """The superuser's URL."""
        return self.variables["PRIMARY_URL"]

    @property
    def app(self) -> str:
        """The URL of an ordinary role that owns its database, on the primary."""
        return self.variables["APP_URL"]

    def configuration(self, splitting: str = "") -> str:
        """For a Weir in front, whose primary is `self.primary`."""
        urls = ", ".join(f'"{replica.url}"' for replica in self.replicas)
        return f'replicas = [{urls}]\n[splitting]\nenabled = "auto"\n{splitting}\n'

    def through(self, port: int) -> str:
        """`app`, through the Weir at that port."""
        return targets.at_port(self.app, port)

    def wait_for_replicas(self) -> None:
        """Until each has replayed what the primary has flushed by now."""
        with Connection.login(self.primary) as connection:
            flushed = connection.value("select pg_current_wal_flush_lsn()")
        for replica in self.replicas:
            wait_until(
                lambda replica=replica: replica.ask(f"select pg_last_wal_replay_lsn() >= '{flushed}'") == "t",
                f"{replica.name} has caught up",
            )

    def stop(self) -> None:
        for replica in self.replicas:
            replica.stop()
        self.process.stop(signal.SIGINT)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_) -> None:
        self.stop()


def wait_for_reads(weir, url: str, sql: str = "select count(*) from pg_class", within: float = 20.0) -> None:
    """Until a replica serves this read of a Weir that has just started, or whose replicas were held up."""
    until = time.monotonic() + within
    with Connection.login(url) as client:
        while True:
            before = weir.replica_reads()
            assert not errors(client.query(sql))
            if weir.replica_reads() > before:
                return
            assert time.monotonic() < until, "no read has reached a replica"
