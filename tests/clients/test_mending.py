"""What Weir's own prepared statements break, it mends: a client whose statement runs prepared under a name of Weir's sees no error
that its own statement would not have given. Tables are changed past the proxy, which therefore cannot know of it."""

import pytest

import targets
from sessions import DEADLINE, Session, texts
from wire import SYNC, bind, describe_portal, errors, execute, extended, parse, tags

pytestmark = [
    pytest.mark.small_pool,
    pytest.mark.skipif(not targets.BEHIND_PROXY, reason="PostgreSQL itself tells its clients of plans that changed"),
]


@pytest.fixture
def place(small_pool_schema):
    return small_pool_schema


@pytest.fixture
def behind_the_back(place, direct):
    """A session that does not pass the proxy."""
    with Session(targets.with_options(direct, search_path=place.name)) as session:
        yield session


@pytest.fixture
def client(place, behind_the_back):
    behind_the_back.run("create table t (id int); insert into t values (1)")
    with Session(place.url) as session:
        yield session


def ask(session, *messages):
    return session.start(*messages, SYNC).result(DEADLINE)


def change_result_type(session):
    session.run("alter table t add column name text default 'new'")


def test_statement_without_a_name_sees_the_new_column(client, behind_the_back):
    for _ in range(3):
        assert texts(ask(client, extended("select * from t"))) == [("1",)]
    change_result_type(behind_the_back)
    answer = ask(client, extended("select * from t"))
    assert tags(answer) == "12TDCZ" and texts(answer) == [("1", "new")]
    assert texts(ask(client, extended("select * from t"))) == [("1", "new")]


def test_named_statement_is_prepared_anew(client, behind_the_back):
    ask(client, parse("select * from t where id = $1", "s"))
    run = bind("s", ["1"]), describe_portal(), execute()
    assert texts(ask(client, *run)) == [("1",)]
    change_result_type(behind_the_back)
    answer = ask(client, *run)
    assert tags(answer) == "2TDCZ" and texts(answer) == [("1", "new")]


def test_what_was_sent_meanwhile_comes_behind(client, behind_the_back):
    ask(client, parse("select * from t", "s"))
    ask(client, bind("s"), execute())
    change_result_type(behind_the_back)
    client.connection.send(bind("s"), describe_portal(), execute(), SYNC)
    client.connection.send(*(part for n in range(20) for part in (extended(f"select {n}"), SYNC)))
    first, *others = (client.connection.read_until_ready() for _ in range(21))
    # If the next batch was on its way already, the error stands as PostgreSQL gave it.
    assert errors(first) == ["0A000"] or texts(first) == [("1", "new")]
    assert [texts(answer) for answer in others] == [[(str(n),)] for n in range(20)]


def test_client_that_asks_for_no_description_is_told(client, behind_the_back):
    """asyncpg knows the columns from before; it prepares anew by itself."""
    ask(client, parse("select * from t", "s"))
    ask(client, bind("s"), execute())
    change_result_type(behind_the_back)
    assert errors(ask(client, bind("s"), execute())) == ["0A000"]


def test_in_a_block_the_error_is_the_clients(client, behind_the_back):
    ask(client, parse("select * from t", "s"))
    ask(client, bind("s"), execute())
    change_result_type(behind_the_back)
    client.run("begin")
    assert errors(ask(client, bind("s"), execute())) == ["0A000"]
    assert errors(ask(client, bind("s"), execute())) == ["25P02"]
    client.run("rollback")


def test_statement_that_the_server_forgot(client, place):
    ask(client, parse("select 'here'", "s"))
    assert texts(ask(client, bind("s"), execute())) == [("here",)]
    client.run("do $$ begin execute 'deallocate all'; end $$")
    for _ in range(2):
        assert texts(ask(client, bind("s"), execute())) == [("here",)]


def test_error_that_stays_is_told_once(client, behind_the_back):
    """Prepared anew it fails again: the table is gone."""
    ask(client, parse("select * from t", "s"))
    ask(client, bind("s"), execute())
    behind_the_back.run("drop table t")
    for _ in range(2):
        answer = ask(client, bind("s"), execute())
        assert errors(answer) == ["42P01"] and tags(answer) == "EZ"
    assert client.value("select 1") == "1"
