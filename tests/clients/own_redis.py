"""A redis-server of a test's own, which can be killed, paused and emptied."""

import os
import signal
import socket
from pathlib import Path

from own_servers import Process, ReservedPort, accepts


class Redis:
    """Until the end of a `with` block."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.port = ReservedPort().release()
        self.process: Process | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", ""]
        self.process = Process(command, self.directory / "redis.log", lambda _: accepts(self.port), cwd=self.directory)

    def say(self, *command: str) -> bytes:
        """Gives the beginning of the answer, as it comes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall((" ".join(command) + "\r\n").encode())
            return connection.recv(1 << 16)

    def kill(self) -> None:
        self.process.stop(signal.SIGKILL)

    def pause(self) -> None:
        """It keeps its connections, and answers nothing."""
        os.kill(self.process.child.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.process.child.pid, signal.SIGCONT)

    def empty(self) -> None:
        assert self.say("flushall") == b"+OK\r\n"

    def __enter__(self) -> "Redis":
        return self

    def __exit__(self, *_) -> None:
        self.process.stop(signal.SIGKILL)
