"""Two sessions share the only server connection of a pool, and each must see exactly its own world, as if it were alone.

A setting travels with its client, so neither session may wait for the other. What cannot travel (a temporary table, LISTEN, ...)
keeps the connection: there the other session must wait until the first is done, and then find nothing of it. Against PostgreSQL
itself nobody waits and all the same must hold.
"""

import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import wire
from sessions import DEADLINE, Session, as_message, texts
from targets import as_role_of, with_parameters
from wire import FLUSH, SYNC, bind, close_statement, copy_data, errors, execute, extended, parse, query, rows, tags

pytestmark = pytest.mark.small_pool


@pytest.fixture
def place(small_pool_schema):
    return small_pool_schema


@pytest.fixture
def session(place):
    """Makes sessions that live in the test's schema."""
    made = []

    def make(url=place.url, **startup):
        made.append(Session(url, **startup))
        return made[-1]

    yield make
    for each in made:
        each.end()


@pytest.fixture
def a(session):
    return session()


@pytest.fixture
def b(session):
    return session()


@pytest.fixture
def alone(place, direct):
    """What a session sees that has PostgreSQL for itself."""
    from_url = wire.Address.of(place.url).parameters
    with Session(with_parameters(direct, **from_url)) as undisturbed:
        yield undisturbed.value


# ---- settings ----------------------------------------------------------------------------------------------------------------

SETTINGS = [  # how it is set, how it is seen, what is seen then
    ("set work_mem = '5MB'", "show work_mem", "5MB"),
    ("set session work_mem to '6MB'", "select current_setting('work_mem')", "6MB"),
    ("set work_mem = 7168", "show work_mem", "7MB"),
    ("SET  /* odd */ Work_Mem\n=\t'8MB' ;", "show work_mem", "8MB"),
    ("select set_config('work_mem', '9MB', false)", "show work_mem", "9MB"),
    (
        "select pg_catalog.set_config('my.tenant', 'x', false)",
        "select coalesce(current_setting('my.tenant', true), '')",
        "x",
    ),
    ("set my.tenant = 'acme'", "select coalesce(current_setting('my.tenant', true), '')", "acme"),
    ("set \"My.Quoted\" to 'it''s'", "select coalesce(current_setting('My.Quoted', true), '')", "it's"),
    ("set search_path = pg_catalog, public", "show search_path", "pg_catalog, public"),
    (
        'set search_path to "odd, name", pg_catalog',
        "select current_schemas(false)::text || current_setting('search_path')",
        '{pg_catalog}"odd, name", pg_catalog',
    ),
    ("set schema 'pg_catalog'", "select current_schema()", "pg_catalog"),
    ("set time zone 'Europe/Rome'", "show timezone", "Europe/Rome"),
    (
        "set time zone interval '-03:30' hour to minute",
        "select timestamptz '2024-01-01 00:00Z'::text",
        "2023-12-31 20:30:00-03:30",
    ),
    ("set time zone 5", "select extract(timezone from now())::int::text", "18000"),
    ("set timezone to 'Asia/Tokyo'", "select timestamptz '2024-01-01 00:00Z'::text", "2024-01-01 09:00:00+09"),
    ("set datestyle = 'German'", "select (date '2024-02-01')::text", "01.02.2024"),
    ("set intervalstyle = 'iso_8601'", "select (interval '1 day 2 hours')::text", "P1DT2H"),
    ("set names 'LATIN1'", "show client_encoding", "LATIN1"),
    ("set client_encoding to 'SQL_ASCII'", "show client_encoding", "SQL_ASCII"),
    ("set statement_timeout = 12345", "show statement_timeout", "12345ms"),
    ("set lock_timeout = '3s'", "show lock_timeout", "3s"),
    ("set application_name = 'mine'", "show application_name", "mine"),
    (
        "set application_name = 'mine too'",
        "select application_name from pg_stat_activity where pid = pg_backend_pid()",
        "mine too",
    ),
    ("set default_transaction_isolation = 'serializable'", "show transaction_isolation", "serializable"),
    ("set default_transaction_read_only = on", "show transaction_read_only", "on"),
    (
        "set session characteristics as transaction isolation level repeatable read",
        "show transaction_isolation",
        "repeatable read",
    ),
    ("set session characteristics as transaction read only", "show transaction_read_only", "on"),
    ("set extra_float_digits = -10", "select (1.0::float8 / 3)::text", "0.33333"),
    ("set bytea_output = 'escape'", "select '\\xff'::bytea::text", "\\377"),
    ("set standard_conforming_strings = off", "select length('a\\nb')::text", "3"),
    ("set quote_all_identifiers = on", "select quote_ident('plain')", '"plain"'),
    ("set enable_seqscan = off", "show enable_seqscan", "off"),
    ("set row_security = off", "show row_security", "off"),
    ("set plan_cache_mode to force_custom_plan", "show plan_cache_mode", "force_custom_plan"),
    ("set default_text_search_config = 'pg_catalog.german'", "select to_tsvector('die Katzen')::text", "'katz':2"),
    ("set xmloption = document", "show xmloption", "document"),
    ("set transform_null_equals = on", "select (null = null)::text", "true"),
    ("set array_nulls = off", "select ('{null}'::text[])[1]", "null"),
    ("set role app", "show role", "app"),
    ("do $$ begin null; end $$; set work_mem = '11MB'; select 1", "show work_mem", "11MB"),
]


@pytest.mark.parametrize("way", ["simple", "extended"])
@pytest.mark.parametrize("set_, see, seen", SETTINGS, ids=[s[0].split(";")[0][:50] for s in SETTINGS])
def test_setting_is_seen_by_its_own_session_only(session, a, b, alone, set_, see, seen, way):
    if set_ == "set role app":
        set_ = f"set role {a.connection.address.user}"
        seen = a.connection.address.user
    extended = way == "extended" and ";" not in set_.rstrip("; ")
    default = b.value(see)
    assert default == alone(see) != seen
    a.run(set_, extended)
    a.told.clear()
    for asks_extended in (False, True, False):
        assert b.value(see, asks_extended) == default
        assert a.value(see, asks_extended) == seen
    assert b.told == [], "another session's settings were told to this one"
    c = session()
    assert c.value(see) == default
    c.run(set_, extended)
    a.end()
    assert b.value(see) == default
    assert c.value(see) == seen
    c.run("reset all")
    if "role" not in set_:
        assert c.value(see) == default
    assert session().value(see) == default


def test_custom_setting_that_was_never_set_here_is_unknown_not_empty(session, a, b):
    """Row security often asks `current_setting('my.tenant', true) is null`."""
    see = "select current_setting('leak.tenant', true) is null"
    assert b.value(see) == "t"
    a.run("set leak.tenant = 'x'")
    assert b.value(see) == "t"
    a.end()
    assert b.value(see) == "t"
    assert session().error("show leak.tenant") == "42704"


def test_changes_are_told_to_the_session_that_made_them(a, b):
    a.run("set timezone = 'Europe/Rome'")
    b.run("set timezone = 'Asia/Tokyo'")
    a.run("select 1"), b.run("select 1")
    assert a.told == [("TimeZone", "Europe/Rome")] and b.told == [("TimeZone", "Asia/Tokyo")]
    a.run("reset timezone")
    b.run("set application_name = 'b'")
    assert a.told[1][0] == "TimeZone" and b.told[1:] == [("application_name", "b")]


def test_statement_timeout_acts_on_its_own_session_only(a, b):
    a.run("set statement_timeout = '60ms'")
    b.run("select pg_sleep(0.2)")
    assert a.error("select pg_sleep(5)") == "57014"
    b.run("select pg_sleep(0.1)")
    a.run("set statement_timeout = 0")
    a.run("select pg_sleep(0.1)")


def test_statement_timeout_that_strikes_while_the_connection_is_cleaned(place, b):
    """PostgreSQL may notice it when DISCARD ALL is over: it tells whoever comes next, unasked or in place of an answer."""
    for number in range(40):
        with wire.Connection.login(place.url) as leaver:
            tables = "; ".join(f"create temp table t{index} (id serial primary key, v text)" for index in range(number % 12 + 1))
            assert errors(leaver.query(f"set client_min_messages = error; {tables}")) == []
            leaver.query(f"set statement_timeout = '{1 + number % 4}ms'")
        assert b.value(f"select 'b{number}'") == f"b{number}"


def test_idle_session_timeout_of_one_session_does_not_end_another(session, a, b):
    a.run("set idle_session_timeout = '100ms'")
    assert b.value("select 1") == "1"
    a.connection.deadline = 0.5
    try:
        a.connection.read_until_closed()
    except TimeoutError:
        pass
    assert b.value("select 1") == "1"
    assert session().value("show idle_session_timeout") == "0"


def test_client_encoding_of_each(a, b):
    a.run("set client_encoding to latin1")
    for way in (False, True) * 3:
        (answer,) = rows(a.start(as_message("select chr(233)", way)).result(DEADLINE))
        assert answer == (b"\xe9",)
        (answer,) = rows(b.start(as_message("select chr(233)", extended)).result(DEADLINE))
        assert answer == (b"\xc3\xa9",)
    (answer,) = rows(a.start(wire.message("Q", b"select '\xe9' as \"\xe9\", length('\xe9')\0")).result(DEADLINE))
    assert answer == (b"\xe9", b"1")


def test_role_of_each(session, admin, place):
    """Two superuser sessions, one of which becomes an ordinary role in three ways."""
    url = as_role_of(place.url, admin)
    user = wire.Address.of(place.url).user
    a, b = session(url), session(url)
    see = "select current_user || ' ' || session_user || ' ' || current_setting('is_superuser')"
    itself = b.value(see)
    for set_, undo, seen in (
        (f"set role {user}", "reset role", f"{user} {wire.Address.of(url).user} on"),
        (f"set session authorization {user}", "reset session authorization", f"{user} {user} off"),
        (f"set role '{user}'", "set role none", f"{user} {wire.Address.of(url).user} on"),
        (f"set session authorization {user}", "set session authorization default", f"{user} {user} off"),
        (f"select set_config('role', '{user}', false)", "set role none", f"{user} {wire.Address.of(url).user} on"),
    ):
        a.run(set_)
        assert b.value(see) == itself
        assert a.value(see).split()[:2] == seen.split()[:2]
        assert a.error("select rolpassword from pg_authid limit 1") == "42501"
        b.run("select rolpassword from pg_authid limit 1")
        a.run(undo)
        assert a.value(see) == itself
    a.run(f"set session authorization {user}")
    a.vanish()
    assert b.value(see) == itself
    assert session(url).value(see) == itself


# ---- settings and transactions -----------------------------------------------------------------------------------------------

CONVERSATIONS = [  # what session A says; the work_mem it must have afterwards (None: the default)
    ("rolled back", ["begin", "set work_mem = '5MB'", "rollback"], None),
    ("committed", ["begin", "set work_mem = '5MB'", "commit"], "5MB"),
    ("local", ["begin", "set local work_mem = '5MB'", "commit"], None),
    ("local over session", ["set work_mem = '6MB'", "begin", "set local work_mem = '5MB'", "commit"], "6MB"),
    ("session after local", ["begin", "set local work_mem = '5MB'", "set work_mem = '6MB'", "commit"], "6MB"),
    ("local outside a transaction", ["set local work_mem = '5MB'"], None),
    ("set_config local", ["begin", "select set_config('work_mem', '5MB', true)", "commit"], None),
    ("set_config local outside", ["select set_config('work_mem', '5MB', true)"], None),
    ("set_config rolled back", ["begin", "select set_config('work_mem', '5MB', false)", "rollback"], None),
    (
        "rollback to",
        ["begin", "set work_mem = '5MB'", "savepoint s", "set work_mem = '6MB'", "rollback to s", "commit"],
        "5MB",
    ),
    ("first set behind a savepoint", ["begin", "savepoint s", "set work_mem = '6MB'", "rollback to s", "commit"], None),
    ("released", ["begin", "savepoint s", "set work_mem = '6MB'", "release s", "commit"], "6MB"),
    ("released, then rolled back", ["begin", "savepoint s", "set work_mem = '6MB'", "release s", "rollback"], None),
    (
        "nested",
        [
            "begin",
            "savepoint s",
            "set work_mem = '6MB'",
            "savepoint s2",
            "set work_mem = '7MB'",
            "rollback to s2",
            "commit",
        ],
        "6MB",
    ),
    ("error", ["begin", "set work_mem = '5MB'", "select 1/0", "commit"], None),
    ("error, then set", ["begin", "select 1/0", "set work_mem = '5MB'", "rollback"], None),
    (
        "error, then rollback to",
        ["begin", "set work_mem = '5MB'", "savepoint s", "select 1/0", "rollback to s", "commit"],
        "5MB",
    ),
    ("reset rolled back", ["set work_mem = '5MB'", "begin", "reset work_mem", "rollback"], "5MB"),
    ("reset all rolled back", ["set work_mem = '5MB'", "begin", "reset all", "rollback"], "5MB"),
    ("set to default", ["set work_mem = '5MB'", "set work_mem to default"], None),
    ("discard all", ["set work_mem = '5MB'", "discard all"], None),
    ("refused value", ["set work_mem = '5MB'", "set work_mem = 'much'"], "5MB"),
    ("refused name", ["set work_mem = '5MB'", "set no_such_setting = 1"], "5MB"),
    ("implicit transaction", ["set work_mem = '5MB'; select 1/0"], None),
    ("implicit transaction committed", ["set work_mem = '5MB'; select 1"], "5MB"),
    ("two blocks", ["begin; set work_mem = '5MB'; commit; begin; set work_mem = '6MB'; rollback"], "5MB"),
    (
        "commit and chain",
        ["begin", "set work_mem = '5MB'", "commit and chain", "set work_mem = '6MB'", "rollback"],
        "5MB",
    ),
    ("function with its own setting", ["select own_setting()"], None),
    ("function that sets", ["select sets('5MB')"], "5MB"),
    ("function that sets, rolled back", ["begin", "select sets('5MB')", "rollback"], None),
    ("do", ["do $$ begin perform set_config('work_mem', '5MB', false); end $$"], "5MB"),
    ("do that says set", ["do $$ begin set work_mem = '5MB'; end $$"], "5MB"),
    ("procedure that commits", ["call sets_and_commits()"], "5MB"),
    ("set in a cte", ["with x as (select set_config('work_mem', '5MB', false)) select * from x"], "5MB"),
    ("update of pg_settings", ["update pg_settings set setting = '5120' where name = 'work_mem'"], "5MB"),
    ("name computed", ["select set_config('work' || '_mem', '5MB', false)"], "5MB"),
    ("set from rows", ["select set_config(n, v, false) from (values ('work_mem', '5MB')) as x (n, v)"], "5MB"),
]


@pytest.mark.parametrize("said, expected", [c[1:] for c in CONVERSATIONS], ids=[c[0] for c in CONVERSATIONS])
def test_settings_follow_transactions(session, place, alone, said, expected):
    """Session B asks in between whenever A is outside of a transaction, so that A's connection is handed over and back."""
    with Session(place.url) as maker:
        maker.run(
            "create function own_setting() returns text language sql set work_mem = '5MB' as $$ select current_setting('work_mem') $$;"
            "create function sets(text) returns text language sql as $$ select set_config('work_mem', $1, false) $$;"
            "create procedure sets_and_commits() language plpgsql as $$ begin set work_mem = '5MB'; commit; end $$"
        )
    a, b = session(), session()
    default = b.value("show work_mem")
    assert default == alone("show work_mem")
    # What is set by names that are computed cannot be replayed: the client keeps its connection.
    computed = ("with x", "'work' ||", "set_config(n")
    may_pin = any(
        word in " ".join(said) for word in ("do $$", "call", "sets(", "own_setting", "update pg_settings", *computed)
    )
    for sql in said:
        a.start(query(sql)).result(DEADLINE)
        if a.status == "I" and not may_pin:
            assert b.value("show work_mem") == default
    assert a.value("show work_mem") == (expected or default)
    answer = b.start_value("show work_mem")
    assert a.value("show work_mem") == (expected or default)
    a.end()
    assert answer.result(DEADLINE) == default
    assert session().value("show work_mem") == default


def test_error_in_a_batch_undoes_its_settings(a, b, alone):
    default = alone("show work_mem")
    batch = parse("set work_mem = '5MB'") + bind() + execute()
    a.start(batch, parse("select 1/0"), bind(), execute(), SYNC).result(DEADLINE)
    assert a.value("show work_mem") == default
    a.start(batch, parse("select 1"), bind(), execute(), SYNC).result(DEADLINE)
    assert b.value("show work_mem") == default and a.value("show work_mem") == "5MB"


def test_prepared_set_statement(a, b, alone):
    default = alone("show work_mem")
    a.start(parse("set work_mem = '5MB'", "s"), parse("select set_config('work_mem', $1, false)", "c"), SYNC).result(
        DEADLINE
    )
    a.start(bind("s"), execute(), SYNC).result(DEADLINE)
    assert b.value("show work_mem") == default and a.value("show work_mem") == "5MB"
    a.start(bind("c", ["6MB"]), execute(), SYNC).result(DEADLINE)
    assert b.value("show work_mem") == default and a.value("show work_mem") == "6MB"


# ---- startup packet ----------------------------------------------------------------------------------------------------------


def test_startup_settings_of_each(session, place):
    a = session(
        place.base_url, options="-c work_mem=5MB -c my.tenant=a --search-path=pg_catalog", TimeZone="Europe/Rome"
    )
    b = session(
        place.base_url, options="-cwork_mem=6MB", DateStyle="German", application_name="b", search_path="public"
    )
    see = "select concat_ws(' ', current_setting('work_mem'), current_setting('search_path'), current_setting('timezone'), (date '2024-02-01'))"
    mine, other = a.value(see), b.value(see)
    assert (
        mine.startswith("5MB pg_catalog Europe/Rome")
        and other.startswith("6MB public ")
        and other.endswith("01.02.2024")
    )
    for _ in range(3):
        assert (a.value(see), b.value(see, extended=True)) == (mine, other)
    a.run("set work_mem = '7MB'; set timezone = 'UTC'; set my.tenant = 'changed'")
    b.run("set datestyle = 'ISO'; set search_path = pg_catalog")
    a.run("reset all")
    b.run("discard all")
    assert (a.value(see), b.value(see)) == (mine, other)
    assert a.value("select current_setting('my.tenant')") == "a"
    assert b.value("show application_name") == "b"
    with session(place.base_url) as plain:
        assert plain.value("show work_mem") not in ("5MB", "6MB", "7MB")


# ---- what cannot travel ------------------------------------------------------------------------------------------------------

PINS = {  # setup by A; what A sees; what B sees (or its SQLSTATE); how the pin ends; what A sees then
    "temporary table": (
        "create temp table t (id int); insert into t values (1)",
        "select id from t",
        "1",
        "99",
        "drop table pg_temp.t",
    ),
    "temporary table, qualified": (
        "create table pg_temp.t as select 1 as id",
        "select id from t",
        "1",
        "99",
        "drop table pg_temp.t",
    ),
    "select into temporary": ("select 1 as id into temporary t", "select id from t", "1", "99", "drop table pg_temp.t"),
    "temporary view": ("create temp view t as select 1 as id", "select id from t", "1", "99", "drop view pg_temp.t"),
    "temporary sequence": ("create temp sequence s start 500", "select nextval('s')", "500", "1", None),
    "temporary function": (
        "create function pg_temp.f() returns int language sql as 'select 1'",
        "select count(*) from pg_proc where proname = 'f' and pronamespace = pg_my_temp_schema()",
        "1",
        "0",
        "drop function pg_temp.f()",
    ),
    "listen": ("listen {name}", "select count(*) from pg_listening_channels()", "1", "0", "unlisten *"),
    "advisory lock": ("select pg_advisory_lock({lock})", "{own_locks}", "1", "0", "select pg_advisory_unlock({lock})"),
    "shared advisory lock": (
        "select pg_advisory_lock_shared({lock})",
        "{own_locks}",
        "1",
        "0",
        "select pg_advisory_unlock_all()",
    ),
    "tried advisory lock": (
        "select pg_try_advisory_lock({lock})",
        "{own_locks}",
        "1",
        "0",
        "select pg_advisory_unlock_all()",
    ),
    "cursor with hold": (
        "declare c cursor with hold for select 7 from generate_series(1, 9)",
        "fetch c",
        "7",
        "34000",
        "close c",
    ),
    "prepare": ("prepare p as select 7", "execute p", "7", "26000", "deallocate p"),
    "currval": ("select nextval('s')", "select currval('s')", "1", "55000", None),
    "lastval": ("insert into serial default values", "select lastval()", "1", "55000", None),
    "setval": ("select setval('s', 70)", "select currval('s')", "70", "55000", None),
    "do that listens": (
        "do $$ begin execute 'listen {name}'; end $$",
        "select count(*) from pg_listening_channels()",
        "1",
        "0",
        "unlisten *",
    ),
    "function that makes a temporary table": (
        "select makes_temp()",
        "select id from t",
        "1",
        "99",
        "drop table pg_temp.t",
    ),
}


@pytest.fixture
def pin(request, place):
    setup, see, mine, others, end = PINS[request.param]
    with Session(place.url) as maker:
        maker.run(
            "create table t (id int); insert into t values (99); create sequence s; create table serial (id serial);"
            "create function makes_temp() returns void language plpgsql as"
            " $$ begin create temp table t (id int); insert into t values (1); end $$"
        )
    known = {
        "name": place.name,
        "lock": place.lock,
        "own_locks": "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    }
    return [text and text.format(**known) for text in (setup, see, mine, others, end)]


@pytest.mark.parametrize("pin", PINS, indirect=True)
@pytest.mark.parametrize("leaves", ["ends", "vanishes"])
def test_what_cannot_travel_is_kept_and_gone_with_its_session(session, pin, leaves):
    setup, see, mine, others, _ = pin
    a, b = session(), session()
    a.run(setup)
    if re.search("currval|lastval", see):
        # Drawing alone pins nothing: what a session drew is lost if another used the connection before it asked for the first time.
        mine = a.start_outcome(see).result(DEADLINE)
        assert mine in (pin[2], others)
    else:
        assert a.value(see) == mine
    answer = b.start_outcome(see)
    if "nextval" not in see and mine != others:
        assert a.value(see, extended=True) == mine
    a.end() if leaves == "ends" else a.vanish()
    # B may run before A or after it, but never in A's world. A sequence that B itself has used has a value for B.
    assert answer.result(DEADLINE) == others
    assert session().start_outcome(see).result(DEADLINE) in (others, "2")


@pytest.mark.parametrize("pin", [name for name, spec in PINS.items() if spec[4]], indirect=True)
def test_the_connection_is_given_back_when_what_held_it_ends(session, pin):
    setup, see, mine, others, end = pin
    a, b = session(), session()
    a.run(setup)
    assert a.value(see) == mine
    answer = b.start_outcome(see)
    a.run(end)
    assert answer.result(DEADLINE) == others, "A is still connected, but has nothing to keep any more"
    assert a.start_outcome(see).result(DEADLINE) == others


@pytest.mark.parametrize("pin", PINS, indirect=True)
def test_discard_all_ends_everything(session, pin):
    setup, see, _, others, _ = pin
    a, b = session(), session()
    a.run(setup)
    answer = b.start_outcome(see)
    a.run("discard all")
    assert answer.result(DEADLINE) == others
    assert a.start_outcome(see).result(DEADLINE) in (others, "2")


def test_temporary_table_of_one_transaction(session, place, a, b):
    a.run("create table t (id int); insert into t values (99)")
    for end in ("commit", "rollback"):
        a.run("begin; create temp table t (id int) on commit drop; insert into t values (1)")
        answer = b.start_value("select id from t")
        assert a.value("select id from t") == "1"
        a.run(end)
        assert answer.result(DEADLINE) == "99"
        assert a.value("select id from t") == "99"


def test_both_sessions_with_temporary_tables_of_the_same_name(session):
    """B waits for A, or has a connection of its own; either way each has its own rows."""

    def live(number):
        with session() as mine:
            mine.run("create temp table t (id int)")
            for n in range(5):
                mine.run(f"insert into t values ({number * 100 + n})")
            return [int(row[0]) for row in mine.run("select id from t order by id")]

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(live, range(3)))
    assert found == [[number * 100 + n for n in range(5)] for number in range(3)]


def test_listener_hears_and_the_other_does_not(session, place, direct, a, b):
    a.run(f"listen {place.name}")
    answer = b.start_value("select 1")
    with Session(direct) as elsewhere:
        elsewhere.run(f"notify {place.name}, 'hello'")
    (heard,) = a.connection.read_until("A")
    assert heard.body.endswith(place.name.encode() + b"\0hello\0")
    a.end()
    assert answer.result(DEADLINE) == "1"
    with Session(direct) as elsewhere:
        elsewhere.run(f"notify {place.name}, 'nobody'")
    late = b.start(query("select 2")).result(DEADLINE)
    assert "A" not in tags(late)


def test_advisory_lock_of_a_transaction(a, b, place):
    a.run(f"begin; select pg_advisory_xact_lock({place.lock})")
    answer = b.start_value("select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()")
    a.run("commit")
    assert answer.result(DEADLINE) == "0"
    assert b.value(f"select pg_try_advisory_xact_lock({place.lock})") == "t"


@pytest.mark.parametrize("asked", ["lastval()", "currval('s')"])
@pytest.mark.parametrize(
    "before", [(), (extended("select 1"),), (extended("select 1"), SYNC)], ids=["first", "in a batch", "in a pipeline"]
)
def test_what_another_session_drew_from_a_sequence_is_unknown(a, b, asked, before):
    a.run("create sequence s start 4000")
    a.run("select nextval('s')")
    b.connection.send(*before, extended(f"select {asked}"), SYNC)
    answers = [b.connection.read_until_ready() for _ in range(before.count(SYNC) + 1)]
    assert [errors(answer) for answer in answers] == [[]] * before.count(SYNC) + [["55000"]]


@pytest.mark.parametrize("set_", ["select setseed(0.42)", "set seed = 0.42"])
def test_seeded_random_numbers(session, a, b, set_):
    draw = "select string_agg(random()::text, ' ') from generate_series(1, 3)"
    with session() as alone:
        alone.run(set_)
        expected = [alone.value(draw) for _ in range(3)]
    a.run(set_)
    waiting, found = b.start_value("select random()"), []
    for _ in range(3):
        found.append(a.value(draw))
    a.end()
    assert found == expected
    assert float(waiting.result(DEADLINE)) < 1


# ---- prepared statements -----------------------------------------------------------------------------------------------------


def outcome(session, *messages):
    return texts(session.start(*messages, SYNC).result(DEADLINE))


@pytest.mark.parametrize("name", ["", "s", "_pg3_0", "__asyncpg_stmt_1__"])
def test_prepared_statements_of_one_name_and_different_texts(a, b, name):
    outcome(a, parse("select 'a' || $1::text", name))
    outcome(b, parse("select $1::int + 1000", name))
    for n in range(6):
        assert outcome(a, bind(name, [str(n)]), execute()) == [(f"a{n}",)]
        assert outcome(b, bind(name, [str(n)]), execute()) == [(str(1000 + n),)]


def test_same_text_with_other_parameter_types(a, b):
    outcome(a, parse("select pg_typeof($1)::text", "s", types=(23,)))
    outcome(b, parse("select pg_typeof($1)::text", "s", types=(25,)))
    for _ in range(3):
        assert outcome(a, bind("s", ["1"]), execute()) == [("integer",)]
        assert outcome(b, bind("s", ["1"]), execute()) == [("text",)]


def test_same_text_in_other_worlds(a, b, place):
    """One text, prepared by both: it means another table, and another spelling of dates, for each."""
    a.run(f"create schema {place.name}_2; create table t (v text); create table {place.name}_2.t (v int)")
    a.run(f"insert into t values ('text'); insert into {place.name}_2.t values (7)")
    try:
        b.run(f"set search_path = {place.name}_2; set datestyle = 'German'")
        text = "select v, date '2024-02-01' from t"
        for session in (a, b):
            outcome(session, parse(text, "s"))
        for _ in range(3):
            assert outcome(a, bind("s"), execute()) == [("text", "2024-02-01")]
            assert outcome(b, bind("s"), execute()) == [("7", "01.02.2024")]
            assert [c[3] for c in a.start(wire.describe_statement("s"), SYNC).result(DEADLINE)[1].columns] == [25, 1082]
            assert [c[3] for c in b.start(wire.describe_statement("s"), SYNC).result(DEADLINE)[1].columns] == [23, 1082]
    finally:
        a.run(f"drop schema {place.name}_2 cascade")


@pytest.mark.parametrize(
    "name, one, other, text, wanted",
    [
        ("timezone", "UTC", "Asia/Tokyo", "extract(epoch from timestamptz '2024-01-01')", ("1704067200.000000", "1704034800.000000")),
        ("datestyle", "MDY", "DMY", "extract(month from date '01/02/2024')", ("1", "2")),
        ("intervalstyle", "postgres", "sql_standard", "extract(epoch from interval '-1 1:00:00')", ("-82800.000000", "-90000.000000")),
        ("array_nulls", "on", "off", "('{null}'::text[])[1] is null", ("t", "f")),
        ("transform_null_equals", "off", "on", "coalesce(1 = null, true)", ("t", "f")),
    ],
)
@pytest.mark.parametrize("statement", ["", "s"])
def test_same_text_by_other_settings(a, b, name, one, other, text, wanted, statement):
    """Constants are read when a text is parsed: what one client has prepared is not what the other means."""
    a.run(f"set {name} = '{one}'")
    b.run(f"set {name} = '{other}'")
    for _ in range(3):
        for session, value in zip((a, b), wanted, strict=True):
            if statement:
                session.start(close_statement(statement), SYNC).result(DEADLINE)
            assert outcome(session, parse(f"select ({text})::text", statement), bind(statement), execute()) == [
                (value.replace("t", "true").replace("f", "false") if value in "tf" else value,)
            ]
    b.run(f"set {name} = '{one}'")
    assert outcome(b, parse(f"select ({text})::text"), bind(), execute())[0][0][0] == wanted[0][0]


def test_now_is_the_time_of_parse(a):
    text = "select 'now'::timestamptz::text"
    seen = [outcome(a, parse(text), bind(), execute()) for _ in range(5)]
    assert len({str(rows) for rows in seen}) == 5


@pytest.mark.parametrize("forget", ["deallocate all", "discard all", "discard plans", "deallocate s"])
def test_one_session_forgets_and_the_other_does_not(a, b, forget):
    outcome(a, parse("select 'a'", "s"))
    if forget == "deallocate s":
        assert b.error(forget) == "26000"
    else:
        b.run(forget)
    assert outcome(a, bind("s"), execute()) == [("a",)]
    outcome(b, parse("select 'b'", "s"))
    b.run(forget)
    answer = b.start(bind("s"), execute(), SYNC).result(DEADLINE)
    assert errors(answer) == ([] if forget == "discard plans" else ["26000"])
    assert outcome(a, bind("s"), execute()) == [("a",)]


def test_unknown_name_of_another_session(a, b):
    outcome(a, parse("select 'a'", "s"))
    for _ in range(2):
        assert errors(b.start(bind("s"), execute(), SYNC).result(DEADLINE)) == ["26000"]
        assert b.error("execute s") == "26000"
    a.start(close_statement("s"), SYNC).result(DEADLINE)
    assert errors(a.start(bind("s"), execute(), SYNC).result(DEADLINE)) == ["26000"]


def test_sql_and_protocol_share_their_names(a):
    outcome(a, parse("select 'protocol'", "s"))
    assert a.value("execute s") == "protocol"
    assert a.error("prepare s as select 1") == "42P05"
    a.run("deallocate s")
    assert errors(a.start(bind("s"), execute(), SYNC).result(DEADLINE)) == ["26000"]
    a.run("prepare s as select 'sql'")
    assert outcome(a, bind("s"), execute()) == [("sql",)]
    assert errors(a.start(parse("select 1", "s"), SYNC).result(DEADLINE)) == ["42P05"]


def test_name_that_sql_gave_and_the_protocol_takes(session, a, b):
    see = "select coalesce(current_setting('leak.closed', true), 'unset')"
    a.run("prepare s as select 'sql'")
    assert outcome(a, close_statement("s"), parse("set leak.closed = 'x'", "s"), bind("s"), execute()) == []
    assert (a.value(see), b.value(see)) == ("x", "unset")
    assert outcome(a, bind("s"), execute()) == []
    a.end()
    assert (b.value(see), session().value(see)) == ("unset", "unset")


def test_what_sql_prepared_and_the_protocol_ran_stays_with_its_session(session, a, b):
    see = "select coalesce(current_setting('leak.bound', true), 'unset')"
    a.run("prepare s as select set_config('leak.bound', 'x', false)")
    assert outcome(a, bind("s"), execute()) == [("x",)]
    a.run("deallocate s")
    assert a.value(see) == "x"
    seen = b.start_value(see)
    a.end()
    assert (seen.result(DEADLINE), session().value(see)) == ("unset", "unset")


def test_failed_transaction_forgets_no_prepared_statement(a, b):
    outcome(a, parse("select 1/$1::int", "s"))
    a.run("begin")
    assert errors(a.start(bind("s", ["0"]), execute(), SYNC).result(DEADLINE)) == ["22012"]
    a.run("rollback")
    assert b.value("select 1") == "1"
    assert outcome(a, bind("s", ["1"]), execute()) == [("1",)]


def test_statement_prepared_in_a_transaction_that_fails_stays(a, b):
    a.run("begin")
    outcome(a, parse("select 'kept'", "s"))
    a.error("select 1/0")
    a.run("rollback")
    assert b.value("select 1") == "1"
    assert outcome(a, bind("s"), execute()) == [("kept",)]


# ---- transactions ------------------------------------------------------------------------------------------------------------


def test_a_transaction_is_never_shared(a, b):
    a.run("create table t (id int)")
    a.run("begin; insert into t values (1)")
    answer = b.start(query("insert into t values (2) returning (select count(*) from t)"))
    for n in range(5):
        a.run(f"insert into t values ({10 + n})")
    assert a.value("select count(*) from t where id <> 2") == "6"
    a.run("rollback")
    assert texts(answer.result(DEADLINE)) == [("0",)]
    assert a.value("select count(*) from t") == "1"


def test_failed_transaction_fails_its_own_session_only(a, b):
    a.run("begin")
    assert a.error("insert into nowhere values (1)") == "42P01"
    answer = b.start_value("select 1")
    assert a.error("select 1") == "25P02" and a.status == "E"
    a.run("rollback")
    assert answer.result(DEADLINE) == "1" and b.status == "I"
    assert a.value("select 1") == "1" and a.status == "I"


@pytest.mark.parametrize(
    "mode", ["read only", "isolation level serializable", "isolation level repeatable read, read only, deferrable"]
)
def test_transaction_modes_end_with_the_transaction(a, b, alone, mode):
    a.run("create table t (id int)")
    see = "select current_setting('transaction_read_only') || ' ' || current_setting('transaction_isolation')"
    default = alone(see)
    a.run(f"begin {mode}")
    assert a.value(see) != default
    answer = b.start_value(see)
    a.run("commit")
    assert answer.result(DEADLINE) == default == a.value(see)
    b.run("insert into t values (1)")


def test_waiting_clients_are_all_served(session, a):
    """More clients than any queue of one: each has its answer once the transaction ends."""
    a.run("begin; create table held (id int)")
    others = [session() for _ in range(12)]
    answers = [each.start_value(f"select {n}") for n, each in enumerate(others)]
    a.run("commit")
    assert [answer.result(DEADLINE) for answer in answers] == [str(n) for n in range(12)]


# ---- clients that vanish -----------------------------------------------------------------------------------------------------

LAST_WORDS = {
    "in a transaction": [query("begin; insert into t values (2)")],
    "in a failed transaction": [query("begin; insert into t values (2); select 1/0")],
    "in a statement": [query("begin; insert into t values (2); select pg_sleep(2)")],
    "in COPY FROM": [query("copy t from stdin"), copy_data(b"2\n3\n")],
    "in COPY FROM with half a message": [query("copy t from stdin"), copy_data(b"2\n3\n")[:-1]],
    "in COPY TO": [query("copy (select generate_series(1, 3000000)) to stdout")],
    "in a large result": [
        query("insert into t values (2); select repeat('x', 1000) from generate_series(1, 50000)")[:-1]
    ],
    "in a large result unread": [query("select repeat('x', 1000) from generate_series(1, 50000)")],
    "in a batch without Sync": [parse("insert into t values (2)"), bind(), execute(), FLUSH],
    "in half a message": [parse("insert into t values (2)"), bind(), execute(), SYNC[:-2]],
    "with a portal open": [
        query("begin"),
        parse("select generate_series(1, 100)"),
        bind(portal="p"),
        execute("p", 3),
        FLUSH,
    ],
    "with settings": [
        query(
            "set work_mem = '5MB'; set search_path = pg_catalog; set my.tenant = 'gone'; begin; set timezone = 'Asia/Tokyo'"
        )
    ],
}


@pytest.mark.parametrize("last_words", LAST_WORDS)
@pytest.mark.parametrize("seen_by_the_server", [True, False], ids=["answered", "at once"])
def test_a_client_that_vanishes_leaves_nothing(session, a, b, alone, last_words, seen_by_the_server):
    a.run("create table t (id int); insert into t values (1)")
    see = "select concat_ws(' ', current_setting('work_mem'), current_setting('timezone'), current_setting('search_path'))"
    default = alone(see)
    a.connection.send(*LAST_WORDS[last_words])
    if (
        seen_by_the_server
        and "half a message" not in last_words
        and "large result" not in last_words
        and "statement" not in last_words
    ):
        a.connection.read()
    a.vanish()
    assert b.value("select count(*) from t") == "1"
    assert b.status == "I"
    b.run("begin; set local lock_timeout = '10s'; lock table t; commit")
    assert b.value(see) == default
    assert session().value(see) == default


@pytest.mark.parametrize(
    "last_words",
    ["select pg_sleep(0.1)", "rollback", "begin; set local datestyle = 'SQL'; rollback; select pg_sleep(0.1)"],
)
def test_what_a_server_said_to_one_who_vanished_is_not_lost(session, a, b, last_words):
    """A ParameterStatus that came too late for its client still tells what the server connection now is."""
    for _ in range(8):
        a.run("set timezone = 'Asia/Tokyo'; set datestyle = 'German'")
        gone = session()
        gone.connection.send(query(last_words))
        gone.vanish()
        b.told.clear()
        assert (b.value("show timezone"), b.value("show datestyle")) == (
            b.connection.parameters["TimeZone"],
            b.connection.parameters["DateStyle"],
        )
        assert b.told == [], "another session's settings were told to this one"


def test_terminate_in_a_transaction_leaves_nothing(a, b):
    a.run("create table t (id int)")
    a.run("begin; insert into t values (1); lock table t")
    a.end()
    assert b.value("select count(*) from t") == "0"


def test_many_clients_vanish_at_once(session, b):
    b.run("create table t (id int)")
    doomed = [session() for _ in range(15)]
    for each in doomed:
        each.connection.send(query("begin; insert into t values (1); set work_mem = '5MB'"))
    for each in doomed:
        each.vanish()
    assert b.value("select count(*) from t") == "0"
    assert b.value("show work_mem") != "5MB"


# ---- all of it at once -------------------------------------------------------------------------------------------------------


def test_row_security_by_a_custom_setting(session, a):
    """The multi-tenant pattern: a leak shows other tenants' rows."""
    a.run(
        "create table docs (tenant text, body text); alter table docs enable row level security;"
        "alter table docs force row level security;"
        "create policy own on docs using (tenant = current_setting('app.tenant', true));"
        "create policy any_insert on docs for insert with check (true)"
    )
    a.run("insert into docs select 'tenant' || n % 4, n::text from generate_series(1, 400) n")

    def live(number):
        tenant = f"tenant{number % 4}"
        with session() as mine:
            for round_ in range(15):
                if number < 4:
                    mine.run(f"set app.tenant = '{tenant}'")
                    found = mine.run("select distinct tenant, count(*) over () > 0 from docs", extended=round_ % 2 == 0)
                else:
                    mine.run("begin")
                    mine.run(f"set local app.tenant = '{tenant}'")
                    found = mine.run("select distinct tenant, count(*) over () > 0 from docs", extended=round_ % 2 == 0)
                    mine.run("commit")
                    assert mine.run("select distinct tenant from docs") == []
                assert found == [(tenant, "t")]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(live, range(8)))


def test_many_sessions_each_in_its_own_world(session, a):
    a.run("create table t (owner int, n int)")
    barrier = threading.Barrier(8)

    def live(number):
        mine = session(application_name=f"app {number}")
        mine.run(f"set timezone = '{number}'; set my.tenant = 't{number}'; set work_mem = '{number + 1}MB'")
        outcome(mine, parse(f"select {number} * $1::int", "s"))
        see = "select concat_ws(' ', current_setting('my.tenant'), current_setting('work_mem'), current_setting('application_name'))"
        barrier.wait(DEADLINE)
        for n in range(25):
            assert outcome(mine, bind("s", [str(n)]), execute()) == [(str(number * n),)]
            assert mine.value(see) == f"t{number} {number + 1}MB app {number}"
            mine.run("begin")
            mine.run(f"set local my.tenant = 'local'; insert into t values ({number}, {n})")
            if n % 5 == 0:
                assert mine.error("select 1/0") == "22012"
            mine.run("commit")
            assert mine.value(see, extended=True) == f"t{number} {number + 1}MB app {number}"
        return mine.value(f"select count(*) from t where owner = {number}")

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(live, range(8))) == ["20"] * 8
