"""Where the suites connect to: what the runner put into the environment, with PostgreSQL itself wherever it put nothing."""

import os
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

DIRECT = os.environ.get("WEIR_DIRECT_URL") or os.environ.get("WEIR_TEST_URL", "")
TEST = os.environ.get("WEIR_TEST_URL") or DIRECT
SMALL_POOL = os.environ.get("WEIR_SMALL_POOL_URL") or TEST
ADMIN = os.environ.get("WEIR_ADMIN_URL")
NOISY = os.environ.get("WEIR_NOISY") == "1"

BEHIND_PROXY = TEST != DIRECT


def with_parameters(url: str, **parameters: str) -> str:
    """libpq understands %20 in a URL, not +."""
    parts = urlsplit(url)
    query = urlencode({**dict(parse_qsl(parts.query)), **parameters}, quote_via=quote)
    return urlunsplit(parts._replace(query=query))


def with_options(url: str, **settings: str) -> str:
    """Settings in the startup packet's `options`, as `psql "options=-c search_path=..."` sends them."""
    options = " ".join(f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in settings.items())
    return with_parameters(url, options=options)


def as_role_of(url: str, other: str) -> str:
    """`url`, with the user and password of `other`."""
    login = urlsplit(other).netloc.rpartition("@")[0]
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}"))


def at_port(url: str, port: int) -> str:
    """The same login at another port of this machine."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{port}"))


@dataclass(frozen=True)
class Place:
    """A schema that belongs to one test, and the URL whose sessions live in it from the startup packet on."""

    name: str
    url: str
    base_url: str

    @property
    def lock(self) -> int:
        """An advisory lock's number that no other test uses."""
        return int.from_bytes(self.name.encode()[-7:], "big")
