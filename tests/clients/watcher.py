"""What a test must know or do at the server itself, beside the proxy."""

import time

from wire import Connection, rows


def wait_until_running(direct: str, name: str, deadline: float = 20) -> None:
    """Until some session runs a statement with the comment `/* name */`."""
    until = time.monotonic() + deadline
    running = f"state = 'active' and query like '%/* {name} */%' and pid <> pg_backend_pid()"
    with Connection.login(direct) as watcher:
        while watcher.value(f"select count(*) from pg_stat_activity where {running}") == "0":
            assert time.monotonic() < until, f"no statement with {name} came to run"


def terminate_holder_of_lock(direct: str, lock: int) -> None:
    """Ends the server's session that holds an advisory lock, as an administrator ends one by its process id.

    By its lock, because behind a proxy no process id that a client knows need be the server's."""
    holder = f"locktype = 'advisory' and (classid::bigint << 32 | objid::bigint) = {lock}"
    with Connection.login(direct) as watcher:
        assert rows(watcher.query(f"select pg_terminate_backend(pid, 10000) from pg_locks where {holder}")) == [(b"t",)]
