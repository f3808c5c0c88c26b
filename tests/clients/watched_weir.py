"""A Weir of a test's own in front of WEIR_DIRECT_URL's server, whose counters nobody else moves and whose memory can be watched."""

import re
import time
import urllib.request
from collections import Counter
from pathlib import Path

import targets
from own_servers import ReservedPort, Weir, wait_until

MIB = 1 << 20
DEADLINE = 20.0  # seconds


class WatchedWeir(Weir):
    """Stopped at the end of a `with` block, where it must have ended well. Its login is that of WEIR_DIRECT_URL."""

    def __init__(self, directory: Path, configuration: str = "", primary: str = ""):
        # As a superuser if there is one, so that all roles may log in.
        primary = primary or targets.as_role_of(targets.DIRECT, targets.ADMIN or targets.DIRECT)
        self.http_port = ReservedPort().release()
        super().__init__(
            directory, configuration, "--primary", primary, "--http", f"127.0.0.1:{self.http_port}", "--log", "info"
        )
        self.address = targets.at_port(targets.DIRECT, self.port)

    def __enter__(self) -> "WatchedWeir":
        return self

    def __exit__(self, kind, *_) -> None:
        self.stop()
        if kind is None:
            assert self.process.child.returncode == 0, self.said()[-2000:]
            assert "panicked" not in self.said(), self.said()[-2000:]

    def wait_until_ready(self) -> "WatchedWeir":
        """Until it has found its primary."""
        wait_until(lambda: self.metric("ready") == 1, "Weir is ready")
        return self

    # ---- counters ------------------------------------------------------------------------------------------------------------

    def metrics(self) -> dict[str, float]:
        """Each series by its name and labels as they stand in the text, without the prefix."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/metrics", timeout=DEADLINE) as answer:
            lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
        return {name.removeprefix("weir_"): float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def metric(self, name: str) -> float:
        return self.metrics()[name]

    def routes(self) -> Counter:
        """How many decisions so far, by target and reason: `replica read`."""
        series = (
            (re.match(r'route_total\{reason="(.*)",target="(.*)"\}', name), n) for name, n in self.metrics().items()
        )
        return Counter({f"{match[2]} {match[1]}": int(n) for match, n in series if match})

    def replica_reads(self) -> int:
        """How many reads went to replicas so far."""
        return sum(count for route, count in self.routes().items() if route.startswith("replica "))

    def wait_for_metric(self, name: str, wanted, within: float = DEADLINE) -> None:
        """Until `wanted` is true of the value."""
        until = time.monotonic() + within
        while not wanted(value := self.metric(name)):
            assert time.monotonic() < until, f"{name} is still {value}"
            time.sleep(0.02)

    # ---- memory --------------------------------------------------------------------------------------------------------------

    def resident(self) -> int:
        """Bytes of memory that the process holds now."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """The most that it ever held since it started, or since `forget_peak`: the kernel misses no moment."""
        return self._status("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.child.pid}/clear_refs").write_text("5")

    def _status(self, field: str) -> int:
        for line in Path(f"/proc/{self.process.child.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {field} in /proc")
