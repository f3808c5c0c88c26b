"""Who is let in, how they prove who they are, and how Weir proves the same to the server."""

import base64
import contextlib
import hashlib
import hmac
import os
import socket
import stat
import struct
import time

import psycopg
import pytest

import wire
from certificates import Authority
from own_servers import Postgres, accepts, needs_weir, starting_weirs, unchecked, wait_until

pytestmark = [pytest.mark.xdist_group("authentication"), needs_weir]

# Each user, with how PostgreSQL wants it to log in; what PostgreSQL stores is a SCRAM verifier but for `hashed`.
HBA = [
    "local all by_socket scram-sha-256",
    "host all hashed all md5",
    "host all in_clear all password",
    "host all trusted all trust",
    "hostssl all certified all cert",
    "host all all all scram-sha-256",
]
USERS = ["named", "verified", "looked_up", "hashed", "in_clear", "trusted", "certified"]

PASSWORDS = {user: f"the password of {user}" for user in USERS}


@pytest.fixture(scope="module")
def directory(own_directory):
    path = own_directory / "authentication"
    path.mkdir()
    path.chmod(0o711)
    return path


@pytest.fixture(scope="module")
def authority(directory):
    return Authority(directory, "authority")


@pytest.fixture(scope="module")
def postgres(directory, authority):
    server = Postgres(directory / "postgres", HBA)
    try:
        server.execute("alter role postgres password 'super'", "create database app")
        for user in USERS:
            encryption = "md5" if user == "hashed" else "scram-sha-256"
            server.execute(
                f"set password_encryption = '{encryption}'", f"create role {user} login password '{PASSWORDS[user]}'"
            )
        server.show_certificate(authority.issue("localhost", "localhost", file="server"), authority.file)
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def weirs(directory):
    with starting_weirs(directory) as start:
        yield start


@pytest.fixture(scope="module")
def configuration(postgres, authority):
    """Of a Weir that knows each user in another way, and lets each in by another method."""
    own = authority.issue("weir", "localhost", "127.0.0.1", file="weir")
    # What Weir shows to PostgreSQL, where the method `cert` wants the role's name.
    shown = authority.issue("certified", file="certified")
    verifier = postgres.value("select rolpassword from pg_authid where rolname = 'verified'")
    parameters = f"sslmode=require&sslcert={shown.certificate}&sslkey={shown.key}"
    return f"""
        primary = "postgres://postgres:super@127.0.0.1:{postgres.port}/app?{parameters}"
        access = [
            "host    all hashed    all md5",
            "host    all in_clear  all password",
            "host    all trusted   all trust",
            "local   all verified      trust",
            "hostssl all certified all cert",
            "host    all rejected  all reject",
            "hostssl all postgres  all scram-sha-256",
            "host    all named,verified,looked_up,nobody_here,in_vain all scram-sha-256",
            "local   all named,looked_up   scram-sha-256",
        ]
        [clients.tls]
        certificate = "{own.certificate}"
        key = "{own.key}"
        client_ca = "{authority.file}"
        [users.named]
        password = "{PASSWORDS["named"]}"
        [users.verified]
        password = "{verifier}"
        [log]
        level = "info"
        """


@pytest.fixture(scope="module")
def weir(weirs, configuration):
    return weirs(configuration)


def who(connection: psycopg.Connection) -> str:
    with connection:
        return connection.execute("select current_user").fetchone()[0]


# ---- clients, and the same users to the server -------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["named", "verified", "looked_up"])
def test_scram(weir, postgres, user):
    """The server asks for SCRAM too: of `verified` and `looked_up` Weir has but a verifier, and passes the client's keys on."""
    assert who(weir.connect(user, PASSWORDS[user], require_auth="scram-sha-256")) == user
    assert postgres.authenticated(user, "scram-sha-256") >= 1
    if user != "named":
        assert PASSWORDS[user] not in weir.file.read_text()


def test_scram_with_channel_binding(weir):
    secure = {"sslmode": "require", "require_auth": "scram-sha-256", "channel_binding": "require"}
    assert who(weir.connect("looked_up", PASSWORDS["looked_up"], **secure)) == "looked_up"
    with pytest.raises(psycopg.OperationalError, match="channel binding"):
        weir.connect("looked_up", PASSWORDS["looked_up"], **{**secure, "sslmode": "disable"})


def test_md5(weir, postgres):
    assert who(weir.connect("hashed", PASSWORDS["hashed"], require_auth="md5")) == "hashed"
    assert postgres.authenticated("hashed", "md5") >= 1
    assert weir.refusal("hashed", "wrong")["C"] == "28P01"


def test_password_in_clear_over_tls_only(weir, postgres):
    secure = {"sslmode": "require", "require_auth": "password"}
    assert who(weir.connect("in_clear", PASSWORDS["in_clear"], **secure)) == "in_clear"
    assert postgres.authenticated("in_clear", "password") >= 1
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        weir.connect("in_clear", "wrong", **secure)

    connection = wire.Connection(weir.url("in_clear"))
    connection.send(wire.startup(connection.startup_parameters()))
    (answer,) = connection.read_until_closed()
    assert (answer.tag, answer.sqlstate) == ("E", "28000"), "the password must not even be asked for"


def test_trust_is_explicit(weir, postgres):
    assert who(weir.connect("trusted", require_auth="none")) == "trusted"
    assert postgres.authenticated("trusted", "trust") == 0, "PostgreSQL 15 tells of no identity where it asked for none"
    assert weir.refusal("rejected")["C"] == "28000"
    assert weir.refusal("somebody_else")["C"] == "28000", "whom no rule speaks of is not let in"


def test_client_certificates(weir, postgres, directory, authority):
    def connect(user, pair):
        shown = {"sslcert": str(pair.certificate), "sslkey": str(pair.key), "sslcertmode": "require"} if pair else {}
        return weir.connect(user, sslmode="require", require_auth="none", **shown)

    own = authority.issue("certified", file="client")
    assert who(connect("certified", own)) == "certified"
    assert postgres.authenticated("CN=certified", "cert") >= 1
    for pair in (authority.issue("named", file="other-client"), None):
        with pytest.raises(psycopg.OperationalError, match='certificate authentication failed for user "certified"'):
            connect("certified", pair)
    stranger = Authority(directory, "stranger").issue("certified", file="forged")
    with pytest.raises(psycopg.OperationalError, match="unknown ca|decrypt error"):
        connect("certified", stranger)
    assert weir.refusal("certified")["C"] == "28000", "without TLS"


def test_trusted_logins_leave_the_proven_keys_alone(weir, postgres, weirs):
    """`verified` is trusted by Unix socket, where nothing is proven: the keys of an earlier login still open connections."""
    assert who(weir.connect("verified", PASSWORDS["verified"])) == "verified"
    with contextlib.ExitStack() as stack:
        by_socket = [
            stack.enter_context(weir.connect("verified", host=str(weir.directory), require_auth="none"))
            for _ in range(2)
        ]
        for connection in by_socket:
            # In a block, so that each needs a server connection of its own.
            connection.execute("begin")
            assert connection.execute("select current_user").fetchone() == ("verified",)


def test_keys_that_no_longer_fit_are_refused_by_the_server(weirs, postgres):
    """The verifier in the configuration is good for Weir's clients; the server has another by now."""
    postgres.execute("create role moved login password 'before'")
    verifier = postgres.value("select rolpassword from pg_authid where rolname = 'moved'")
    postgres.execute("alter role moved password 'after'")
    weir = weirs(f"""
        primary = "postgres://postgres:super@127.0.0.1:{postgres.port}/app"
        [users.moved]
        password = "{verifier}"
        """)
    assert weir.refusal("moved", "before")["C"] == "28P01"
    assert weir.refusal("moved", "after")["C"] == "28P01"


def test_server_asks_for_what_cannot_be_passed_on(weirs, postgres):
    """Of a SCRAM login Weir learns keys, and they answer neither md5 nor a question for the password."""
    weir = weirs(f'primary = "postgres://postgres:super@127.0.0.1:{postgres.port}/app"')
    began = time.monotonic()
    refused = weir.refusal("in_clear", PASSWORDS["in_clear"])
    assert refused["C"] == "08006" and time.monotonic() - began < 5
    assert PASSWORDS["in_clear"] not in weir.said()
    weir.process.says("a password, for which there is no")


# ---- where users come from ---------------------------------------------------------------------------------------------------


def test_one_url_on_the_command_line(weirs, postgres):
    """Its user logs in with its password, and so does every role of the server."""
    url = f"postgres://postgres:super@127.0.0.1:{postgres.port}/app"
    weir = weirs("", "--primary", url)
    assert who(weir.connect("postgres", "super")) == "postgres"
    assert who(weir.connect("looked_up", PASSWORDS["looked_up"])) == "looked_up"
    assert weir.refusal("postgres", "wrong")["C"] == "28P01"


def test_url_of_a_user_who_may_not_look_others_up(weirs, postgres):
    url = f"postgres://named:{PASSWORDS['named'].replace(' ', '%20')}@127.0.0.1:{postgres.port}/app"
    weir = weirs("", "--primary", url)
    assert who(weir.connect("named", PASSWORDS["named"])) == "named"
    assert weir.refusal("looked_up", PASSWORDS["looked_up"])["C"] == "28P01"


def test_auth_query_of_ones_own(weirs, postgres):
    """By a function with the rights of its owner, as the manual of PgBouncer has it."""
    postgres.execute("create role asker login password 'asking'")
    with psycopg.connect(
        host=str(postgres.directory), port=postgres.port, user="postgres", dbname="app", autocommit=True
    ) as connection:
        connection.execute("""
            create function lookup(name text) returns table (usename text, passwd text) language sql security definer as
            $$ select rolname::text, rolpassword from pg_catalog.pg_authid where rolname = name and rolname = 'looked_up' $$
            """)
    weir = weirs(f"""
        primary = "postgres://asker:asking@127.0.0.1:{postgres.port}/app"
        [auth_query]
        query = "select * from lookup($1)"
        """)
    assert who(weir.connect("looked_up", PASSWORDS["looked_up"])) == "looked_up"
    assert weir.refusal("verified", PASSWORDS["verified"])["C"] == "28P01"


def test_roles_that_may_not_log_in(weirs, postgres):
    postgres.execute(
        "create role no_login password 'x'", "create role expired login password 'x' valid until '2001-01-01'"
    )
    weir = weirs(f'primary = "postgres://postgres:super@127.0.0.1:{postgres.port}/app"')
    assert weir.refusal("no_login", "x")["C"] == weir.refusal("expired", "x")["C"] == "28P01"


def test_failed_login_asks_for_the_secret_again(weirs, postgres):
    postgres.execute("create role changing login password 'first'")
    weir = weirs(f"""
        primary = "postgres://postgres:super@127.0.0.1:{postgres.port}/app"
        [auth_query]
        ttl = "1h"
        """)
    assert who(weir.connect("changing", "first")) == "changing"
    assert weir.refusal("appearing", "new")["C"] == "28P01"
    postgres.execute("alter role changing password 'second'", "create role appearing login password 'new'")
    assert weir.refusal("changing", "second")["C"] == "28P01", "the secret is known for an hour"
    assert who(weir.connect("changing", "second")) == "changing"
    assert who(weir.connect("appearing", "new")) == "appearing"
    assert weir.refusal("changing", "first")["C"] == "28P01"


# ---- refusals ----------------------------------------------------------------------------------------------------------------


def conversation(weir, user: str, password: str) -> list[str]:
    """What a client sees of a login that fails: kinds of messages, sizes where they could tell, and the error."""
    connection = wire.Connection(weir.url(user, password))
    connection.send(wire.startup(connection.startup_parameters()))
    seen = []
    while (got := connection.read()).tag == "R":
        (kind,) = struct.unpack_from("!i", got.body)
        seen.append(f"R {kind} {len(got.body)}")
        connection._answer_authentication(got.body)
    connection.close()
    return [*seen, str(got).replace(user, "USER")]


@pytest.mark.parametrize("known", ["named", "verified", "looked_up"])
def test_wrong_password_and_unknown_user_look_the_same(weir, known):
    wrong, unknown = conversation(weir, known, "wrong"), conversation(weir, "nobody_here", "wrong")
    assert wrong == unknown
    assert wrong[-1] == "E FATAL 28P01 'password authentication failed for user \"USER\"'"


def scram_verifier(password: str, rounds: int) -> str:
    salt = os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    shown = [base64.b64encode(part).decode() for part in (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))]
    return f"SCRAM-SHA-256${rounds}:{shown[0]}${shown[1]}:{shown[2]}"


@pytest.mark.parametrize("method", ["md5", "scram-sha-256"])
def test_unknown_user_is_asked_as_the_others_are(weirs, postgres, method):
    """By the method md5, for SCRAM where that is what is stored, as PostgreSQL does; and for as many rounds."""
    name = f"rounds_{method[:3]}"
    postgres.execute(f"create role {name} login password '{scram_verifier('right', 10_000)}'")
    weir = weirs(f"""
        primary = "postgres://postgres:super@127.0.0.1:{postgres.port}/app"
        access = ["host all all all {method}"]
        """)
    wrong = conversation(weir, name, "wrong")
    assert conversation(weir, "nobody_here", "wrong") == wrong
    assert wrong[0].startswith("R 10 "), "SCRAM"


def test_salt_of_an_unknown_user_stays(weir):
    """One that changes would say that there is no such user."""

    def salt(user):
        connection = wire.Connection(weir.url(user))
        connection.send(wire.startup(connection.startup_parameters()))
        connection.read()
        connection._answer_authentication(struct.pack("!i", 10))
        answer = connection.read().body[4:]
        connection.close()
        return answer.split(b",")[1:]

    assert salt("nobody_here") == salt("nobody_here") != salt("in_vain")


def test_unknown_database_is_told_to_those_with_a_password_only(weir, weirs, postgres):
    assert weir.refusal("named", PASSWORDS["named"], dbname="nowhere")["C"] == "3D000"
    assert weir.refusal("named", "wrong", dbname="nowhere")["C"] == "28P01"
    listed = weirs(f"""
        primary = "postgres://postgres:super@127.0.0.1:{postgres.port}/app"
        [databases.app]
        """)
    unlisted = listed.refusal("looked_up", PASSWORDS["looked_up"], dbname="postgres")
    assert (unlisted["C"], unlisted["M"]) == ("3D000", 'database "postgres" does not exist')
    assert listed.refusal("looked_up", "wrong", dbname="postgres")["C"] == "28P01"


def test_no_user_name(weir):
    connection = wire.Connection(weir.url("named"))
    connection.send(wire.startup({"database": "app"}))
    (answer,) = connection.read_until_closed()
    assert answer.sqlstate == "28000"


def test_passwords_are_in_no_log(weir):
    weir.refusal("named", "a wrong and secret password")
    said = weir.said()
    assert "password authentication failed" in said
    assert not [secret for secret in [*PASSWORDS.values(), "super", "a wrong and secret"] if secret in said]


def test_silent_clients_are_closed_at_the_login_timeout(weirs, postgres, authority):
    own = authority.issue("weir", "localhost", file="weir-timeout")
    weir = weirs(f"""
        primary = "postgres://postgres:super@127.0.0.1:{postgres.port}/app"
        [clients]
        login_timeout = "400ms"
        [clients.tls]
        certificate = "{own.certificate}"
        key = "{own.key}"
        """)
    packet = wire.startup({"user": "named", "database": "app"})
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        waiting = []
        for said in (b"", packet[:6], packet, wire.SSL_REQUEST):
            connection = wire.Connection(weir.url("named"), deadline=10)
            stack.callback(connection.close)
            connection.send(said)
            waiting.append(connection)
        inside = stack.enter_context(weir.tls_socket())
        waiting.append(wire.Connection(weir.url("named"), deadline=10, sock=inside))
        for connection in waiting:
            with contextlib.suppress(wire.Closed, OSError):
                while connection.socket.recv(4096):
                    pass
    assert 0.3 < time.monotonic() - began < 5
    # Whoever has logged in has all the time in the world.
    with weir.connect("looked_up", PASSWORDS["looked_up"]) as connection:
        time.sleep(0.6)
        assert connection.execute("select 1").fetchone() == (1,)


# ---- where clients come from -------------------------------------------------------------------------------------------------


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
        return True
    except OSError:
        return False


def test_rules_by_network(weirs, postgres):
    ipv6 = has_ipv6()
    listen = '"127.0.0.1:PORT", "[::1]:PORT"' if ipv6 else '"127.0.0.1:PORT"'
    weir = weirs(f"""
        listen = [{listen}]
        primary = "postgres://postgres:super@127.0.0.1:{postgres.port}/app"
        access = [
            "host all all 127.0.0.2 reject",
            "host app trusted 127.0.0.0/30 trust",
            "host all looked_up ::1/128 scram-sha-256",
        ]
        """)

    def connected(source: str, host: str = "127.0.0.1"):
        return socket.create_connection((host, weir.port), timeout=5, source_address=(source, 0))

    def let_in(user, source, host="127.0.0.1", dbname="app"):
        url = weir.url(user, PASSWORDS[user], dbname=dbname)
        wire.Connection.login(url, sock=connected(source, host)).terminate()

    def refused(user, source, host="127.0.0.1", dbname="app"):
        refusal = weir.refusal(user, PASSWORDS[user], dbname=dbname, sock=connected(source, host))
        assert refusal["C"] == "28000", refusal
        return refusal["M"]

    let_in("trusted", "127.0.0.1")
    let_in("trusted", "127.0.0.3")
    assert "rejects" in refused("trusted", "127.0.0.2")
    assert "no access rule" in refused("trusted", "127.0.0.4")
    assert "no access rule" in refused("trusted", "127.0.0.1", dbname="postgres")
    assert "no access rule" in refused("looked_up", "127.0.0.1")
    if ipv6:
        let_in("looked_up", "::1", "::1")
        assert "no access rule" in refused("trusted", "::1", "::1")


# ---- Unix sockets ------------------------------------------------------------------------------------------------------------


def test_unix_sockets_on_both_sides(weirs, postgres, directory, authority):
    own = authority.issue("weir", "localhost", file="weir-unix")
    weir = weirs(f"""
        listen = ["SOCKETS:PORT"]
        primary = "postgres://postgres:super@/app?host={postgres.directory}&port={postgres.port}&sslmode=verify-full&sslrootcert={authority.file}"
        access = ["local all all scram-sha-256"]
        [clients.tls]
        certificate = "{own.certificate}"
        key = "{own.key}"
        """)
    postgres.execute("create role by_socket login password 'socket'")
    with weir.connect("by_socket", "socket", host=str(weir.directory), sslmode="prefer") as connection:
        assert connection.execute("select inet_client_addr(), current_user").fetchone() == (None, "by_socket")
        assert not connection.pgconn.ssl_in_use, "as PostgreSQL: no TLS by Unix socket"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        weir.connect("by_socket", "wrong", host=str(weir.directory))
    assert not accepts(weir.port), "nothing listens on TCP"


def test_every_account_of_the_machine_may_knock(weir):
    """As with PostgreSQL's default of unix_socket_permissions: who gets in is for the access rules to say."""
    mode = os.stat(weir.directory / f".s.PGSQL.{weir.port}").st_mode
    assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o777


def test_socket_file_left_behind_is_no_obstacle(weirs, postgres):
    configuration = f'primary = "postgres://postgres:super@127.0.0.1:{postgres.port}/app"'
    first = weirs(configuration)
    path = first.directory / f".s.PGSQL.{first.port}"
    first.process.child.kill()
    first.process.child.wait()
    assert path.exists()
    configuration = f'listen = ["{first.directory}:{first.port}"]\n{configuration}'
    second = weirs(configuration)
    with second.connect("looked_up", PASSWORDS["looked_up"], host=str(first.directory), port=first.port) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    second.stop()
    wait_until(lambda: not path.exists(), "the socket file is gone with its Weir", 5)


# ---- reload ------------------------------------------------------------------------------------------------------------------


def test_reload_takes_users_rules_and_certificates(weirs, postgres, authority):
    before, after = (authority.issue("weir", "localhost", file=f"weir-{when}") for when in ("before", "after"))

    def settings(pair, password, more=""):
        return f"""
            primary = "postgres://postgres:super@127.0.0.1:{postgres.port}/app"
            access = ["host all trusted,looked_up all scram-sha-256" {more}]
            [clients.tls]
            certificate = "{pair.certificate}"
            key = "{pair.key}"
            [users.trusted]
            password = "{password}"
            """

    def shown(weir):
        with weir.tls_socket(unchecked()) as tls:
            return tls.getpeercert(binary_form=True)

    weir = weirs(settings(before, "old"))
    old = shown(weir)
    assert who(weir.connect("trusted", "old")) == "trusted"
    # Known to auth_query from now on, as it is.
    assert who(weir.connect("looked_up", PASSWORDS["looked_up"])) == "looked_up"
    assert "no access rule" in weir.refusal("certified")["M"]
    with weir.connect("trusted", "old", sslmode="require", channel_binding="require") as connected:
        weir.reload(settings(after, "new", ', "host all certified all trust"'))
        assert shown(weir) != old
        assert weir.refusal("trusted", "old")["C"] == "28P01"
        assert who(weir.connect("trusted", "new", sslmode="require", channel_binding="require")) == "trusted"
        assert "no access rule" not in weir.refusal("certified")["M"], "Weir lets it in; the server does not"
        assert connected.execute("select 1").fetchone() == (1,), "who was in stays in"

        # A reload with a mistake in it changes nothing.
        before.key.unlink()
        weir.reload(settings(before, "newest"))
        weir.process.says("reload refused")
        assert who(weir.connect("trusted", "new")) == "trusted"


def test_reload_forgets_what_auth_query_said(weirs, postgres):
    postgres.execute("create role forgotten login password 'first'")
    configuration = f"""
        primary = "postgres://postgres:super@127.0.0.1:{postgres.port}/app"
        [auth_query]
        ttl = "1h"
        """
    weir = weirs(configuration)
    assert who(weir.connect("forgotten", "first")) == "forgotten"
    postgres.execute("alter role forgotten password 'second'")
    weir.reload(configuration)
    assert who(weir.connect("forgotten", "second")) == "forgotten"
