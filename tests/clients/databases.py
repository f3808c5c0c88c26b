"""SQLAlchemy engines on each driver, in the schema of one test."""

import asyncio
import functools
import inspect

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

from targets import Place
from watcher import terminate_holder_of_lock

DRIVERS = ["psycopg2", "psycopg", "asyncpg", "pg8000"]
SYNC_DRIVERS = ["psycopg2", "psycopg", "pg8000"]


class Database:
    def __init__(self, driver: str, place: Place, direct: str):
        self.driver, self.place, self.direct = driver, place, direct
        self.made = []

    @functools.cached_property
    def engine(self):
        return self.make()

    def make(self, url: str | None = None, settings: dict | None = None, **how):
        """Another engine. `settings` go into the startup packet, beside the search_path."""
        settings = {"search_path": f"{self.place.name},public", **(settings or {})}
        address = make_url(url or self.place.base_url).set(drivername=f"postgresql+{self.driver}", query={})
        arguments = dict(how.pop("connect_args", {}))
        match self.driver:
            case "asyncpg":
                arguments["server_settings"] = settings
                engine = create_async_engine(address, connect_args=arguments, **how).sync_engine
            case "pg8000":
                if "application_name" in settings:
                    arguments["application_name"] = settings.pop("application_name")
                arguments["startup_params"] = settings
                engine = create_engine(address, connect_args=arguments, **how)
            case _:
                arguments["options"] = " ".join(f"-c {name}={value}" for name, value in settings.items())
                engine = create_engine(address, connect_args=arguments, **how)
        self.made.append(engine)
        return engine

    def terminate_server_session_of(self, connection) -> None:
        connection.execute(text(f"select pg_advisory_xact_lock({self.place.lock})"))
        terminate_holder_of_lock(self.direct, self.place.lock)

    def dispose(self) -> None:
        for engine in self.made:
            engine.dispose()


def on_drivers(*drivers: str):
    """The test runs once for each driver, with a `Database` as its first argument; asyncpg's run inside of an event loop."""

    def decorate(test):
        wanted = list(inspect.signature(test).parameters.values())[1:]

        def body(database, arguments):
            try:
                test(database, **arguments)
            finally:
                database.dispose()

        @pytest.mark.parametrize("driver", drivers)
        @functools.wraps(test)
        def run(driver, schema, direct, **arguments):
            database = Database(driver, schema, direct)
            if driver == "asyncpg":
                asyncio.run(greenlet_spawn(body, database, arguments))
            else:
                body(database, arguments)

        first = [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("driver", "schema", "direct")
        ]
        run.__signature__ = inspect.Signature(first + wanted)
        return run

    return decorate


on_every_driver = on_drivers(*DRIVERS)
