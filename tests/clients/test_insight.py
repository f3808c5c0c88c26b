"""What Weir tells of statements: the slow-query log by its schema and read back, N+1 of a real ORM, advice, who holds what up."""

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import jsonschema
import psycopg
import pytest
from sqlalchemy import ForeignKey, create_engine, event, make_url, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, joinedload, mapped_column, relationship, selectinload

import targets
from own_cluster import Cluster
from own_servers import WEIR, needs_weir, wait_until
from watched_weir import WatchedWeir

pytestmark = needs_weir

SCHEMA = json.loads((Path(__file__).parents[1] / "insight" / "slow_log.schema.json").read_text())

HIT = 'cache_total{kind="hit",reason="hit"}'

REPETITIONS = {"n+1": "db.n_plus_one", "duplicate": "db.duplicate_query", "batchable-write": "db.batchable_write"}
COUNTERS = {
    "n+1": "insight_repeats_total",
    "duplicate": "insight_duplicates_total",
    "batchable-write": "insight_batchable_writes_total",
}
HEADLINES = {
    "n+1": "Possible N+1:",
    "duplicate": "The same again and again:",
    "batchable-write": "Rows written one by one:",
}

LOG = '[insight]\nexplain = "any"\nexplain_per_minute = 600\n[slow_log]\nfile = "slow.jsonl"\nthreshold = "{threshold}"\nper_shape = 0\n'


@pytest.fixture
def weir(own_directory, request):
    """A Weir that logs what takes longer than the test's parameter says."""
    threshold, more = getattr(request, "param", ("30ms", ""))
    directory = own_directory / "".join(c for c in request.node.name if c.isalnum())[-40:]
    with WatchedWeir(directory, LOG.format(threshold=threshold) + more) as started:
        started.wait_until_ready()
        started.log = directory / "slow.jsonl"
        yield started


def lines(weir, name="db.query.slow"):
    read = weir.log.read_text().splitlines() if weir.log.exists() else []
    return [line for line in map(json.loads, read) if line["event.name"] == name]


def some(weir, condition, name="db.query.slow"):
    return wait_until(lambda: [line for line in lines(weir, name) if condition(line)], f"a line of {name}")


def console(weir):
    admin = targets.as_role_of(weir.address, targets.ADMIN or targets.DIRECT)
    return psycopg.connect(admin.rsplit("/", 1)[0] + "/weir", autocommit=True)


def rows(weir, command):
    with console(weir) as connection:
        cursor = connection.execute(command)
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def api(weir, what):
    with urllib.request.urlopen(f"http://127.0.0.1:{weir.http_port}/api/v1/{what}", timeout=20) as answer:
        return json.load(answer)


def times(row):
    """How many times faster statements are with an index, as SHOW ADVICE says it."""
    return float(row["measured"].removeprefix("x").removesuffix(" measured"))


@pytest.fixture
def articles(weir):
    """Two tables, in a schema that goes with the test; 60,000 rows in the one without an index."""
    name = f"insight_{weir.port}"
    with psycopg.connect(weir.address, autocommit=True) as connection:
        connection.execute(f"create schema {name}")
        connection.execute(f"set search_path = {name}")
        connection.execute("create table author (id int primary key, name text)")
        connection.execute("create table article (id int primary key, author_id int references author, title text)")
        connection.execute("insert into author select n, 'author ' || n from generate_series(1, 3000) n")
        connection.execute(
            "insert into article select n, 1 + n % 3000, repeat('word ', 20) from generate_series(1, 60000) n"
        )
        connection.execute("analyze author, article")
    yield name
    with psycopg.connect(weir.address, autocommit=True) as connection:
        connection.execute(f"drop schema {name} cascade")


def test_a_slow_statement_is_a_line_by_the_schema(weir):
    comment = "/*route='%2Fsleepers',traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'*/"
    with psycopg.connect(weir.address, autocommit=True, application_name="sleeper") as connection:
        connection.execute(f"select pg_sleep(0.05), 'a secret' {comment}")
        connection.execute("select pg_sleep(%s), %s", (0.04, "another secret"))
        connection.execute("/* weir: slow=1ms */ select pg_sleep(0.005)")
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("select 1 / (n - 1) from (select 1 n, pg_sleep(0.05)) t")
    found = some(weir, lambda line: line["severity"] == "ERROR")
    assert found[0]["error.type"] == "22012"
    for line in lines(weir):
        jsonschema.validate(line, SCHEMA)
    traced = some(weir, lambda line: "trace_id" in line)[0]
    assert traced["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert traced["weir.tags"] == {"route": "/sleepers"}
    assert traced["db.query.text"] == "select pg_sleep(?), ?"
    assert traced["weir.application_name"] == "sleeper"
    assert 0.05 <= traced["db.client.operation.duration"] < 5
    assert traced["db.response.returned_rows"] == 1
    assert some(weir, lambda line: line["weir.threshold_ms"] == 1.0)
    # The log has no value of the client's, nor has anything else that is shown without being asked for values.
    assert "secret" not in weir.log.read_text()
    assert "secret" not in weir.said()
    assert "secret" not in str(rows(weir, "show slow"))
    mode = stat.S_IMODE(weir.log.stat().st_mode)
    assert mode & ~0o640 == 0, oct(mode)


@pytest.mark.parametrize("weir", [("20ms", 'log_parameters = "full"\n')], indirect=True)
def test_values_are_shown_where_that_is_allowed(weir):
    with psycopg.connect(weir.address, autocommit=True) as connection:
        connection.execute("select pg_sleep(%s), %s::text", (0.05, "seen"))
        connection.execute("select pg_sleep(0.05), 'seen, too'")
    bound = some(weir, lambda line: "weir.params" in line)[0]
    jsonschema.validate(bound, SCHEMA)
    assert "seen" in [one["value"] for one in bound["weir.params"]]
    assert some(weir, lambda line: "'seen, too'" in line["db.query.text"])


@pytest.mark.parametrize("weir", [("20ms", 'log_parameters = "redacted"\n')], indirect=True)
def test_redacted_parameters_have_kinds_and_lengths(weir):
    with psycopg.connect(weir.address, autocommit=True) as connection:
        connection.execute("select pg_sleep(0.05), %s::text", ("seen",))
    bound = some(weir, lambda line: "weir.params" in line)[0]
    jsonschema.validate(bound, SCHEMA)
    assert [one["bytes"] for one in bound["weir.params"]] == [4]
    assert "seen" not in weir.log.read_text()


@pytest.mark.parametrize("weir", [("10ms", 'per_second_max = 5\n[slow_log.users.nobody]\nthreshold = "0s"\n')], indirect=True)
def test_a_storm_writes_few_lines_and_counts_the_rest(weir):
    with psycopg.connect(weir.address, autocommit=True) as connection:
        began = time.monotonic()
        for number in range(30):
            connection.execute(f"select pg_sleep(0.011) as c{number}")
        took = time.monotonic() - began
    wait_until(lambda: weir.metric("insight_slow_total") >= 30, "all are counted")
    written = len(lines(weir))
    assert written <= 5 * (took + 1)
    assert written + weir.metric("slow_log_suppressed_total") == weir.metric("insight_slow_total")


def test_the_log_is_opened_anew_at_sighup(weir):
    with psycopg.connect(weir.address, autocommit=True) as connection:
        connection.execute("select pg_sleep(0.05) as uno")
        some(weir, lambda line: "uno" in line["db.query.text"])
        moved = weir.log.with_name("moved.jsonl")
        weir.log.rename(moved)
        before = len(weir.said())
        weir.process.child.send_signal(signal.SIGHUP)
        weir.process.says("settings reloaded", after=before)
        wait_until(
            lambda: connection.execute("select pg_sleep(0.05) as due") and weir.log.exists(), "there is a new file"
        )
    assert " uno" in moved.read_text() and " uno" not in weir.log.read_text()


def test_weir_slow_reads_the_log_back(weir, tmp_path):
    with psycopg.connect(weir.address, autocommit=True) as connection:
        for _ in range(3):
            connection.execute("select pg_sleep(0.06), 'x' as often")
        connection.execute("select pg_sleep(0.3) as once")
    some(weir, lambda line: "once" in line["db.query.text"])

    def slow(*arguments, **how):
        return subprocess.run([WEIR, "slow", *arguments], capture_output=True, text=True, check=True, timeout=30, **how).stdout

    table = slow(weir.log)
    assert table.index("as once") < table.index("as often"), table
    assert table.startswith("4 lines of 2 shapes"), table
    by_calls = slow("--top", "calls", input=weir.log.read_text())
    assert by_calls.index("as often") < by_calls.index("as once")
    assert slow("--until", "2020-01-01", weir.log).startswith("no line")
    page = tmp_path / "report.html"
    slow("--html", page, weir.log)
    assert "<svg" in page.read_text() and "as once" in page.read_text() and "http" not in page.read_text()
    following = subprocess.Popen([WEIR, "slow", "--follow", weir.log], stdout=subprocess.PIPE, text=True)
    try:
        seen = [following.stdout.readline() for _ in range(4)]
        assert all("SELECT" in line for line in seen), seen
        weir.log.rename(weir.log.with_name("old.jsonl"))
        weir.log.write_text(json.dumps(lines_of(weir.log.with_name("old.jsonl"))[0]) + "\n")
        assert "SELECT" in following.stdout.readline()
    finally:
        following.kill()
        following.wait()


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    articles: Mapped[list["Article"]] = relationship(back_populates="author")


class Article(Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    title: Mapped[str]
    author: Mapped[Author] = relationship(back_populates="articles")


@pytest.fixture(params=["psycopg", "psycopg2", "asyncpg"] if os.environ.get("WEIR_ALL_DRIVERS") else ["psycopg", "psycopg2"])
def engine(request, weir, articles):
    options = {"options": f"-c search_path={articles}"}
    engine = create_engine(
        make_url(weir.address).set(drivername=f"postgresql+{request.param}", query={}), connect_args=options, pool_size=1
    )

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def tag(_, __, statement, parameters, *___):
        return f"{statement} /*route='%%2Farticles'*/", parameters

    yield engine
    engine.dispose()


def lazy_authors(session):
    for article in session.scalars(select(Article).order_by(Article.id).limit(20)):
        _ = article.author.name


def lazy_articles(session):
    for author in session.scalars(select(Author).order_by(Author.id).limit(8)):
        _ = len(author.articles)


def eager(session):
    for article in session.scalars(select(Article).options(joinedload(Article.author)).order_by(Article.id).limit(20)):
        _ = article.author.name
    session.expunge_all()
    for author in session.scalars(select(Author).options(selectinload(Author.articles)).order_by(Author.id).limit(8)):
        _ = len(author.articles)


def inserts(session):
    session.scalars(select(Author).order_by(Author.id).limit(20)).all()
    for number in range(20):
        session.add(Article(id=100_000 + number, author_id=1, title="new"))
        session.flush()
    session.rollback()


def inserts_at_once(session):
    session.add_all(Article(id=100_000 + number, author_id=1, title="new") for number in range(20))
    session.flush()
    session.rollback()


def updates(session):
    for number, author in enumerate(session.scalars(select(Author).order_by(Author.id).limit(20)).all()):
        author.name = f"changed {number}"
        session.flush()
    session.rollback()


def the_same(session):
    for _ in range(8):
        session.execute(select(Author.name).where(Author.id == 3)).one()


def health_checks(session):
    for _ in range(20):
        session.execute(text("select 1 as alive")).one()


def pages(session):
    for page in range(12):
        session.scalars(select(Article.title).order_by(Article.id).limit(20).offset(20 * page)).all()


@pytest.mark.parametrize(
    "work, expected",
    [
        (lazy_authors, [("n+1", "SELECT author", "joinedload")]),
        (lazy_articles, [("n+1", "SELECT article", "selectinload")]),
        (eager, []),
        (inserts, [("batchable-write", "INSERT article", "insert_many")]),
        (inserts_at_once, []),
        (updates, [("batchable-write", "UPDATE author", "update_many")]),
        (the_same, [("duplicate", "SELECT author", "cache")]),
        (health_checks, []),
        (pages, []),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_repetitions_of_sqlalchemy(weir, engine, work, expected):
    with Session(engine) as session:
        work(session)
    with Session(engine) as session:  # another request on the same connection ends the scope
        session.execute(text("select 1"))
    wait_until(lambda: any("select ?" == row["query"] for row in rows(weir, "show slow")), "all is counted")
    found = rows(weir, "show repeats")
    assert [(row["kind"], row["child"], row["remedy"]) for row in found] == expected
    for row in found:
        assert row["route"] == "/articles"
    told = [line for event in REPETITIONS.values() for line in lines(weir, event)]
    for line in told:
        jsonschema.validate(line, SCHEMA)
    assert [line["event.name"] for line in told] == [REPETITIONS[kind] for kind, _, _ in expected]
    for kind, counter in COUNTERS.items():
        assert weir.metric(counter) == sum(of == kind for of, _, _ in expected), counter
    [route] = [one for one in api(weir, "routes")["routes"] if one["route"] == "/articles"]
    assert route["requests"] == 2 and route["repeats"] == [kind for kind, _, _ in expected]
    assert route["statements_per_request"] * 2 == route["statements"] >= 2
    report = subprocess.run([WEIR, "slow", weir.log], capture_output=True, text=True, timeout=60, check=True).stdout
    for kind, child, _ in expected:
        assert HEADLINES[kind] in report and f"{child} /articles: up to" in report


def test_25_requests_on_one_connection_are_none(weir, engine):
    for number in range(1, 26):
        with Session(engine) as session:
            session.get(Author, number)
            session.scalars(select(Article).order_by(Article.id).limit(20)).all()
    wait_until(lambda: any(row["calls"] >= 25 for row in rows(weir, "show slow")), "all is counted")
    assert rows(weir, "show repeats") == []


@pytest.mark.parametrize("weir", [("1ms", "")], indirect=True)
def test_advice_comes_by_itself(weir, articles):
    with psycopg.connect(weir.address, autocommit=True, options=f"-c search_path={articles}") as connection:
        for number in range(1, 30):
            connection.execute("select title from article where author_id = %s", (number * 7,)).fetchall()
        advised = some(weir, lambda line: "article" in line["db.query.text"], "db.index_advice")[0]
        jsonschema.validate(advised, SCHEMA)
        assert advised["weir.advice"]["ddl"].endswith(f"ON {articles}.article (author_id)")
        [row] = rows(weir, "show advice")
        assert row["ddl"] == advised["weir.advice"]["ddl"]
        connection.execute("select title from article where author_id = %s", (5,)).fetchall()
        told = some(weir, lambda line: line["weir.advice_ids"] == [row["id"]])[0]
        assert told["weir.explain"]["rows_read"] >= 50_000
        plan = {one["name"]: one["value"] for one in rows(weir, f"explain '{advised['weir.fingerprint']}'")}
        assert json.loads(plan["plan"])[0]["Plan"]["Node Type"]
        # On the page it stands as EXPLAIN writes it, but for the values.
        [shown] = [one for one in api(weir, "queries")["queries"] if one["fingerprint"] == advised["weir.fingerprint"]]
        assert f"Seq Scan on {articles}.article" in shown["explained"]["plan"]
        assert "Filter: (article.author_id = ?" in shown["explained"]["plan"]
        # What was advised is built, and dropped again.
        connection.execute(row["ddl"])
        built = wait_until(
            lambda: [one for one in api(weir, "queries")["markers"] if one["what"].startswith("create index concurrently")],
            "the page shows when it was built",
        )
        assert len(built) == 1 and built[0]["seconds_ago"] < 60
        wait_until(lambda: rows(weir, "show advice")[0]["state"] == "built", "it is seen that the index is there")
        connection.execute(f"drop index {articles}.article_author_id_idx")
        wait_until(lambda: [one["state"] for one in rows(weir, "show advice")] == ["open"], "it is advised again")
        with console(weir) as admin:
            admin.execute(f"dismiss '{row['id']}'")
        assert rows(weir, "show advice")[0]["state"] == "dismissed"


@pytest.mark.parametrize("weir", [("1ms", "")], indirect=True)
@pytest.mark.parametrize("how", ["through Weir", "past Weir"])
def test_what_an_index_brings_is_measured(weir, articles, how):
    lookup = "select title from article where author_id = %s"
    with psycopg.connect(weir.address, autocommit=True, options=f"-c search_path={articles}") as connection:
        for number in range(1, 30):
            connection.execute(lookup, (number * 7,)).fetchall()
        [row] = wait_until(lambda: rows(weir, "show advice"), "an index is advised")
        assert (row["state"], row["measured"]) == ("open", "")
        # A statement names its advice as long as it lacks the index, and `weir slow` goes by that.
        connection.execute(lookup, (5,)).fetchall()
        some(weir, lambda line: line["weir.advice_ids"] == [row["id"]])
        with psycopg.connect(targets.DIRECT, autocommit=True) as direct:
            (connection if how == "through Weir" else direct).execute(row["ddl"])

        def verified():
            connection.execute(lookup, (5,)).fetchall()
            [row] = rows(weir, "show advice")
            return row if row["state"] == "verified" and times(row) > 2 else None

        # 60,000 rows in order against 20 by the index. On a busy machine it takes some more to show in the mean.
        row = wait_until(verified, "it is measured")
        assert row["confidence"] == "verified"
        told = some(weir, lambda line: "measured" in line["weir.advice"], "db.index_advice")
        assert len(told) == 1
        jsonschema.validate(told[0], SCHEMA)
        assert told[0]["weir.advice"]["drop_ddl"] is None
        report = subprocess.run([WEIR, "slow", weir.log], capture_output=True, text=True, timeout=60, check=True).stdout
        assert f"{row['ddl']};  -- x" in report and " measured\n" in report, report
        # Through Weir, it is seen that it goes; and nobody needs it then, since the table goes too.
        connection.execute("drop table article")
        wait_until(lambda: rows(weir, "show advice") == [], "the advice went with the table")


@pytest.mark.parametrize("weir", [("1ms", "")], indirect=True)
def test_an_index_that_brings_nothing_may_be_dropped(weir, articles):
    lookup = "select title from article, pg_sleep(0.5) where author_id = %s"
    with psycopg.connect(weir.address, autocommit=True, options=f"-c search_path={articles}") as connection:
        for number in range(1, 8):
            connection.execute(lookup, (number * 7,)).fetchall()
        [row] = wait_until(lambda: rows(weir, "show advice"), "an index is advised")
        connection.execute(row["ddl"])

        def useless():
            connection.execute(lookup, (5,)).fetchall()
            [row] = rows(weir, "show advice")
            return row if row["state"] == "no_gain" else None

        row = wait_until(useless, "it is measured")
        assert row["measured"] == "no gain: drop it?"
        assert row["ddl"] == f"DROP INDEX CONCURRENTLY {articles}.article_author_id_idx"
        told = some(weir, lambda line: "measured" in line["weir.advice"], "db.index_advice")
        jsonschema.validate(told[0], SCHEMA)
        assert told[0]["weir.advice"]["drop_ddl"] == row["ddl"]


@pytest.mark.parametrize("weir", [("1ms", "")], indirect=True)
def test_indexes_that_should_not_be_are_told(weir, articles):
    with psycopg.connect(weir.address, autocommit=True, options=f"-c search_path={articles}") as connection:
        connection.execute("create index article_author_id_idx on article (author_id)")
        connection.execute("create index article_author_id_id_idx on article (author_id, id)")
        connection.execute("create index article_author_id_desc_idx on article (author_id desc)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.execute("create unique index concurrently article_title_key on article (title)")
        for number in range(1, 30):
            connection.execute("select count(*) from article where title like %s", (f"%no {number}%",)).fetchall()

        def told():
            return {row["index"]: row for row in rows(weir, "show indexes")}

        found = wait_until(told, "indexes are told")
        assert {name: row["kind"] for name, row in found.items()} == {
            "article_author_id_idx": "drop_redundant",
            "article_title_key": "repair_invalid",
        }
        redundant, invalid = found["article_author_id_idx"], found["article_title_key"]
        assert redundant["reason"] == "article_author_id_id_idx begins with the same keys"
        assert redundant["ddl"] == f"DROP INDEX CONCURRENTLY {articles}.article_author_id_idx"
        assert redundant["table"] == f"{articles}.article" and redundant["bytes"] > 100_000
        assert invalid["ddl"] == f"REINDEX INDEX CONCURRENTLY {articles}.article_title_key"
        assert invalid["alternative"] == f"DROP INDEX CONCURRENTLY {articles}.article_title_key"
        seen = api(weir, "indexes")
        assert {one["index"]: one["ddl"] for one in seen["indexes"]} == {name: row["ddl"] for name, row in found.items()}
        [database] = seen["databases"]
        assert database["tables"] == 1 and database["unused_unknown"] is None, "all servers' counters are known"
        # Once: what is invalid is advised nowhere else.
        assert not any(row["ddl"] == invalid["ddl"] for row in rows(weir, "show advice"))
        # What was said is done, past Weir and through it.
        with psycopg.connect(targets.DIRECT, autocommit=True) as direct:
            direct.execute(redundant["ddl"])
        connection.execute("update article set title = 'word ' || id")
        connection.execute(invalid["ddl"])
        wait_until(lambda: told() == {}, "all is well")


@pytest.mark.parametrize("weir", [("1ms", "")], indirect=True)
def test_an_index_that_would_do_and_is_invalid_is_repaired(weir, articles):
    with psycopg.connect(weir.address, autocommit=True, options=f"-c search_path={articles}") as connection:
        with psycopg.connect(targets.DIRECT) as holder:
            holder.execute(f"lock table {articles}.article in row exclusive mode")
            connection.execute("set statement_timeout = '300ms'")
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute("create index concurrently article_author_id_idx on article (author_id)")
            connection.execute("reset statement_timeout")
        for number in range(1, 30):
            connection.execute("select title from article where author_id = %s", (number * 7,)).fetchall()
        [row] = wait_until(lambda: rows(weir, "show advice"), "it is advised")
        assert row["kind"] == "repair_invalid"
        assert row["ddl"] == f"REINDEX INDEX CONCURRENTLY {articles}.article_author_id_idx"
        wait_until(lambda: api(weir, "indexes")["databases"][0]["looked_seconds_ago"], "the indexes were looked at")
        assert rows(weir, "show indexes") == [], "it is told once"
        connection.execute(row["ddl"])
        wait_until(lambda: rows(weir, "show advice")[0]["state"] == "built", "it is seen that the index is there")


def test_unused_is_said_only_where_all_servers_can_be_asked(tmp_path):
    with Cluster(tmp_path) as cluster:
        settings = LOG.format(threshold="1ms")
        one = f'replicas = ["{cluster.replicas[0].url}"]\n[splitting]\nenabled = "auto"\n'
        with (
            WatchedWeir(tmp_path / "all", cluster.configuration() + settings, cluster.primary) as weir,
            WatchedWeir(tmp_path / "one", one + settings, cluster.primary) as short,
        ):
            with psycopg.connect(cluster.app, autocommit=True) as connection:
                connection.execute("create table told as select n, repeat('x', 100) x from generate_series(1, 60000) n")
                connection.execute("create index told_n on told (n)")
            cluster.wait_for_replicas()

            def unknown(of):
                with psycopg.connect(cluster.through(of.port), autocommit=True) as connection:
                    connection.execute("select count(*) from told where x like '%y%'").fetchall()
                databases = [one for one in api(of, "indexes")["databases"] if one["looked_seconds_ago"] is not None]
                return databases and (databases[0]["unused_unknown"] or "nothing")

            assert wait_until(lambda: unknown(weir), "all servers were asked") == "nothing"
            assert wait_until(lambda: unknown(short), "two were asked") == "a standby that Weir does not know may use them"
            cluster.replicas[1].kill()
            with psycopg.connect(cluster.through(weir.port), autocommit=True) as connection:
                connection.execute("create index told_x on told (x)")
            wait_until(lambda: "cannot be asked what it has used" in unknown(weir), "one is away")


@pytest.mark.parametrize("weir", [("1s", '[stream]\nenabled = false\n[cache]\nenabled = true\nfreshness = "proxy"\n')], indirect=True)
def test_what_memory_answers_has_its_route(weir, articles):
    with psycopg.connect(weir.address, autocommit=True, options=f"-c search_path={articles}") as connection:

        def asked(route):
            before = weir.metric(HIT)
            connection.execute(f"select name from author where id = 7 /*route='%2F{route}'*/").fetchall()
            return weir.metric(HIT) > before

        wait_until(lambda: asked("first"), "memory answers")
        assert all(asked("second") for _ in range(3))

        def route():
            return [row["route"] for row in rows(weir, "show slow") if row["query"].endswith("from author where id = ?")]

        wait_until(lambda: route() == ["/second"], "the tags of hits are counted")


def test_who_waits_for_whom(weir, articles):
    options = f"-c search_path={articles}"
    with (
        psycopg.connect(weir.address, options=options, application_name="holder") as holder,
        psycopg.connect(weir.address, options=options, application_name="waiter") as waiter,
    ):
        holder.execute("update author set name = 'held' where id = 1")
        waiting = threading.Thread(target=waiter.execute, args=("update author set name = 'late' where id = 1",))
        waiting.start()

        def seen():
            by_name = {row["application_name"]: row for row in rows(weir, "show transactions")}
            return by_name if "waiter" in by_name and by_name["waiter"]["waits_for"] else None

        by_name = wait_until(seen, "who waits is told")
        assert by_name["holder"]["state"] == "idle_in_transaction"
        assert by_name["holder"]["last_statement"] == "update author set name = ? where id = ?"
        assert by_name["waiter"]["last_statement"] == by_name["holder"]["last_statement"]
        assert by_name["waiter"]["blocked_by"] == f"client {by_name['holder']['id']}"
        assert float(by_name["holder"]["transaction_s"]) > 0
        holder.rollback()
        waiting.join()
        waiter.rollback()


def test_reset_begins_anew(weir):
    with psycopg.connect(weir.address, autocommit=True) as connection:
        connection.execute("select 1 as counted")
        wait_until(lambda: any("counted" in row["query"] for row in rows(weir, "show slow")), "it is counted")
        with console(weir) as admin:
            admin.execute("reset statistics")
        assert not any("counted" in row["query"] for row in rows(weir, "show slow"))


@pytest.mark.parametrize(
    "code, fail_on, ends, says",
    [
        ("for i in range(9): c.execute('select name from author where id = %s', (i,))", "n+1", 1, "FAIL n+1: SELECT author"),
        ("for i in range(9): c.execute('select name from author where id = 7')", "n+1,duplicate", 1, "FAIL duplicate: SELECT author"),
        ("for i in range(9): c.execute('update author set name = %s where id = %s', ('x', i))", "batchable-write", 1, "FAIL batchable-write: UPDATE author runs 9 times for a row each"),
        ("c.cursor().executemany('update author set name = %s where id = %s', [('x', i) for i in range(50)])", "batchable-write", 0, "findings"),
        ("c.execute('select id from article where title = %s', ('x',))", "seq-scan", 1, "no index of {schema}.article serves (title = ?::text)"),
        ("c.execute('select id from article where id = %s', (1,))", "seq-scan,n+1", 0, "0 findings"),
        ("import sys; sys.exit(7)", "n+1", 7, "findings"),
    ],
    ids=["n+1", "duplicate", "batchable-write", "executemany", "seq-scan", "nothing", "the command fails"],
)
def test_weir_watch_fails_on_what_it_is_told_to(weir, articles, code, fail_on, ends, says):
    program = (
        "import os, psycopg, time\n"
        f"with psycopg.connect(os.environ['DATABASE_URL'], options='-c search_path={articles}') as c:\n"
        "    c.execute('select id, author_id from article order by id limit 9').fetchall()\n"
        f"    {code}\n"
    )
    environment = {**os.environ, "DATABASE_URL": targets.as_role_of(targets.DIRECT, targets.ADMIN or targets.DIRECT)}
    for name in list(environment):
        if name.startswith("WEIR_"):
            del environment[name]
    ended = subprocess.run(
        [WEIR, "watch", "--fail-on", fail_on, "--", sys.executable, "-c", program],
        env=environment, capture_output=True, text=True, timeout=60,
    )
    assert ended.returncode == ends, ended.stderr
    assert says.format(schema=articles) in ended.stderr, ended.stderr


def test_what_became_of_advice_outlives_a_restart(own_directory):
    kept = own_directory / "advice.json"
    settings = LOG.format(threshold="1ms").replace("[insight]", f'[insight]\nadvice_file = "{kept}"')
    schema = "advice_kept"
    lookups = [f"select title from {schema}.article where {column} = %s" for column in ("author_id", "editor_id")]
    with psycopg.connect(targets.DIRECT, autocommit=True) as direct:
        direct.execute(f"drop schema if exists {schema} cascade")
        direct.execute(f"create schema {schema}")
        direct.execute(
            f"create table {schema}.article as select n id, 1 + n % 3000 author_id, 1 + n % 2999 editor_id,"
            " repeat('word ', 20) title from generate_series(1, 60000) n"
        )
        direct.execute(f"analyze {schema}.article")

    def by_column(weir):
        advice = {"author_id" if "author_id" in row["ddl"] else "editor_id": row for row in rows(weir, "show advice")}
        return advice if len(advice) == 2 else None

    def run(weir, lookup, times):
        with psycopg.connect(weir.address, autocommit=True) as connection:
            for number in range(times):
                connection.execute(lookup, (number * 7,)).fetchall()

    try:
        with WatchedWeir(own_directory / "first", settings) as weir:
            weir.wait_until_ready()
            for lookup in lookups:
                run(weir, lookup, 20)
            advice = wait_until(lambda: by_column(weir), "both indexes are advised")
            assert not kept.exists(), "there is nothing to keep yet"
            with console(weir) as admin:
                admin.execute(f"snooze '{advice['editor_id']['id']}' for 30 days")
            with psycopg.connect(targets.DIRECT, autocommit=True) as direct:
                direct.execute(advice["author_id"]["ddl"])

            def verified():
                run(weir, lookups[0], 5)
                row = by_column(weir)["author_id"]
                return row["state"] == "verified" and times(row) > 2

            wait_until(verified, "it is measured")
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert [path.name for path in own_directory.glob("advice.json*")] == ["advice.json"]
        with WatchedWeir(own_directory / "second", settings) as weir:
            weir.wait_until_ready()
            restored = by_column(weir)
            assert {column: row["state"] for column, row in restored.items()} == {
                "author_id": "verified",
                "editor_id": "snoozed",
            }
            assert times(restored["author_id"]) > 2
            # It is advised anew, and stays put off until somebody wants it.
            run(weir, lookups[1], 20)
            wait_until(lambda: api(weir, "advice")["explained"] >= 1, "it is explained again")
            assert by_column(weir)["editor_id"]["state"] == "snoozed"
            with console(weir) as admin:
                admin.execute(f"reopen '{advice['editor_id']['id']}'")
            assert by_column(weir)["editor_id"]["state"] == "open"
        kept.write_text("{")
        with WatchedWeir(own_directory / "third", settings) as weir:
            weir.wait_until_ready()
            assert rows(weir, "show advice") == []
            assert "kept advice is not understood" in weir.said()
        assert (own_directory / "advice.json.unread").read_text() == "{"
    finally:
        with psycopg.connect(targets.DIRECT, autocommit=True) as direct:
            direct.execute(f"drop schema {schema} cascade")
