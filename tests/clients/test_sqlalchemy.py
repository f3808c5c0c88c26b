"""SQLAlchemy's Core and ORM on four drivers, each with its own habits: inlined literals, prepared statements, pipelines."""

import asyncio
import enum
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
    sessionmaker,
    subqueryload,
)
from sqlalchemy.orm.exc import StaleDataError

from databases import DRIVERS, SYNC_DRIVERS, on_drivers, on_every_driver
from watcher import terminate_holder_of_lock


class Mood(enum.Enum):
    sad = "sad"
    glad = "glad"


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    version: Mapped[int] = mapped_column(nullable=False)
    articles: Mapped[list["Article"]] = relationship(
        back_populates="author", cascade="all, delete-orphan", order_by="Article.id"
    )
    __mapper_args__ = {"version_id_col": version}


class Article(Base):
    __tablename__ = "article"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("author.id", ondelete="CASCADE"), index=True)
    title: Mapped[str]
    mood: Mapped[Mood] = mapped_column(sa.Enum(Mood, name="mood"), server_default="glad")
    tags: Mapped[list[str]] = mapped_column(pg.ARRAY(sa.Text), server_default="{}")
    doc: Mapped[dict | None] = mapped_column(pg.JSONB)
    created: Mapped[datetime] = mapped_column(sa.DateTime(timezone=True), server_default=sa.func.now())
    length: Mapped[int] = mapped_column(sa.Computed("char_length(title)", persisted=True))
    author: Mapped[Author] = relationship(back_populates="articles")


items = sa.Table(
    "items",
    sa.MetaData(),
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("n", sa.Integer, server_default="7"),
)


def made(db):
    Base.metadata.create_all(db.engine)
    with Session(db.engine) as session:
        for number in range(1, 4):
            articles = [Article(title=f"title {number}.{k}", tags=[f"t{k}"], doc={"k": k}) for k in range(number)]
            session.add(Author(name=f"author {number}", articles=articles))
        session.commit()
    return db.engine


# ---- Core --------------------------------------------------------------------------------------------------------------------


@on_every_driver
def test_insert_select_update_delete(db):
    items.metadata.create_all(db.engine)
    with db.engine.begin() as connection:
        inserted = connection.execute(items.insert().values(name="one"))
        assert inserted.inserted_primary_key == (1,)
        connection.execute(items.insert(), [{"name": "two"}, {"name": "three"}])
    with db.engine.connect() as connection:
        assert connection.execute(sa.select(items.c.id, items.c.name, items.c.n).order_by(items.c.id)).all() == [
            (1, "one", 7),
            (2, "two", 7),
            (3, "three", 7),
        ]
        updated = connection.execute(items.update().where(items.c.id > 1).values(n=items.c.n + 1).returning(items.c.n))
        assert updated.scalars().all() == [8, 8]
        connection.rollback()
        assert connection.scalar(sa.select(sa.func.sum(items.c.n))) == 21
        assert connection.execute(items.delete().where(items.c.id == 1)).rowcount == 1
        connection.commit()
        assert connection.scalar(sa.select(sa.func.count()).select_from(items)) == 2


@on_every_driver
def test_insertmanyvalues_with_returning_keeps_the_order(db):
    items.metadata.create_all(db.engine)
    with db.engine.begin() as connection:
        found = connection.execute(
            items.insert().returning(items.c.id, items.c.name, sort_by_parameter_order=True),
            [{"name": f"n{k}"} for k in range(2500)],
        ).all()
    assert [name for _, name in found] == [f"n{k}" for k in range(2500)]
    assert [id_ for id_, _ in found] == sorted(id_ for id_, _ in found)


@on_every_driver
def test_on_conflict(db):
    items.metadata.create_all(db.engine)
    for expected in ((1, 7), (1, 8), (1, 9)):
        statement = pg.insert(items).values(name="same")
        statement = statement.on_conflict_do_update(index_elements=["name"], set_={"n": items.c.n + 1}).returning(
            items.c.id, items.c.n
        )
        with db.engine.begin() as connection:
            assert connection.execute(statement).one() == expected
            nothing = pg.insert(items).values(name="same").on_conflict_do_nothing().returning(items.c.id)
            assert connection.execute(nothing).all() == []


@on_every_driver
def test_types_round_trip(db):
    metadata = sa.MetaData()
    table = sa.Table(
        "kinds",
        metadata,
        sa.Column("id", pg.UUID, primary_key=True),
        sa.Column("small", sa.SmallInteger),
        sa.Column("big", sa.BigInteger),
        sa.Column("exact", sa.Numeric(20, 5)),
        sa.Column("float", sa.Double),
        sa.Column("words", sa.Unicode),
        sa.Column("raw", sa.LargeBinary),
        sa.Column("yes", sa.Boolean),
        sa.Column("day", sa.Date),
        sa.Column("at", sa.DateTime(timezone=True)),
        sa.Column("span", sa.Interval),
        sa.Column("numbers", pg.ARRAY(sa.Integer)),
        sa.Column("grid", pg.ARRAY(sa.Integer, dimensions=2)),
        sa.Column("json", sa.JSON),
        sa.Column("doc", pg.JSONB),
        sa.Column("mood", sa.Enum(Mood, name="mood_of_kinds")),
        sa.Column("range", pg.INT4RANGE),
    )
    metadata.create_all(db.engine)
    row = dict(
        id=uuid.UUID(int=5),
        small=-3,
        big=2**40,
        exact=Decimal("12345.67890"),
        float=1.25,
        words="héllo € 'quoted'",
        raw=b"\x00\xff'\\",
        yes=True,
        day=date(2024, 2, 29),
        at=datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=timezone.utc),
        span=timedelta(days=2, seconds=3),
        numbers=[1, None, 3],
        grid=[[1, 2], [3, 4]],
        json={"a": [1, None, "x"]},
        doc={"b": {"c": "ü"}},
        mood=Mood.sad,
        range=pg.Range(1, 5),
    )
    with db.engine.begin() as connection:
        connection.execute(table.insert(), [row, {**dict.fromkeys(row), "id": uuid.UUID(int=6)}])
    with db.engine.connect() as connection:
        for _ in range(3):
            found = connection.execute(table.select().where(table.c.id == row["id"])).mappings().one()
            assert dict(found) == row
        assert connection.scalar(sa.select(table.c.doc["b"]["c"].astext).where(table.c.mood == Mood.sad)) == "ü"
        assert connection.scalar(sa.select(table.c.numbers[3]).where(table.c.numbers.contains([1]))) == 3


@on_every_driver
def test_errors_have_their_classes_and_end_the_transaction(db):
    items.metadata.create_all(db.engine)
    with db.engine.begin() as connection:
        connection.execute(items.insert().values(name="taken"))
    failing = [
        (items.insert().values(name="taken"), exc.IntegrityError, "23505"),
        (sa.text("select * from nowhere"), exc.ProgrammingError, "42P01"),
        (sa.text("select 'x'::text::int"), exc.DBAPIError, "22P02"),
        (sa.text("selec"), exc.ProgrammingError, "42601"),
        (sa.text("select 1/0"), exc.DBAPIError, "22012"),
    ]
    with db.engine.connect() as connection:
        for statement, error, sqlstate in failing:
            with pytest.raises(error) as raised:
                connection.execute(statement)
            assert sqlstate_of(raised.value.orig) == sqlstate
            assert not raised.value.connection_invalidated
            with pytest.raises(exc.DBAPIError) as raised:
                connection.execute(sa.text("select 1"))
            assert sqlstate_of(raised.value.orig) == "25P02"
            connection.rollback()
        assert connection.scalar(sa.text("select 1")) == 1


def sqlstate_of(error):
    for name in ("pgcode", "sqlstate"):
        if getattr(error, name, None):
            return getattr(error, name)
    return error.args[0]["C"]


@on_every_driver
def test_schema_translate_map(db):
    items.metadata.create_all(db.engine)
    second = db.place.name[:50] + "_2"
    with db.engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(second))
    try:
        elsewhere = db.engine.execution_options(schema_translate_map={None: second})
        items.metadata.create_all(elsewhere)
        with elsewhere.begin() as connection:
            connection.execute(items.insert().values(name="elsewhere"))
        for engine, count in ((db.engine, 0), (elsewhere, 1)) * 2:
            with engine.connect() as connection:
                assert connection.scalar(sa.select(sa.func.count()).select_from(items)) == count
    finally:
        with db.engine.begin() as connection:
            connection.execute(sa.schema.DropSchema(second, cascade=True))


# ---- transactions ------------------------------------------------------------------------------------------------------------


@on_every_driver
def test_savepoints(db):
    items.metadata.create_all(db.engine)
    with db.engine.begin() as connection:
        connection.execute(items.insert().values(name="outer"))
        with pytest.raises(exc.IntegrityError), connection.begin_nested():
            connection.execute(items.insert().values(name="outer"))
        with connection.begin_nested() as nested:
            connection.execute(items.insert().values(name="undone"))
            nested.rollback()
        with connection.begin_nested():
            with connection.begin_nested():
                connection.execute(items.insert().values(name="kept"))
    with db.engine.connect() as connection:
        assert connection.scalars(sa.select(items.c.name).order_by(items.c.id)).all() == ["outer", "kept"]


LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


@on_every_driver
def test_isolation_level_per_connection(db):
    with db.engine.connect() as connection:
        default = connection.get_isolation_level()
    for level in LEVELS:
        with db.engine.connect() as connection:
            connection = connection.execution_options(isolation_level=level)
            assert connection.scalar(sa.text("show transaction_isolation")).upper() == level
            assert connection.get_isolation_level() == level
    with db.engine.connect() as connection:
        assert connection.get_isolation_level() == default, "the pool hands out connections as they were"
        assert connection.scalar(sa.text("show transaction_isolation")).upper() == default


@on_every_driver
def test_isolation_level_per_engine_acts(db):
    items.metadata.create_all(db.engine)
    engine = db.make(isolation_level="REPEATABLE READ")
    with engine.connect() as snapshot, db.engine.connect() as writer:
        assert snapshot.scalar(sa.select(sa.func.count()).select_from(items)) == 0
        writer.execute(items.insert().values(name="later"))
        writer.commit()
        assert snapshot.scalar(sa.select(sa.func.count()).select_from(items)) == 0
        snapshot.rollback()
        assert snapshot.scalar(sa.select(sa.func.count()).select_from(items)) == 1


@on_every_driver
def test_autocommit(db):
    items.metadata.create_all(db.engine)
    with (
        db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        db.engine.connect() as other,
    ):
        connection.execute(items.insert().values(name="at once"))
        assert other.scalar(sa.select(sa.func.count()).select_from(items)) == 1
        connection.execute(sa.text("vacuum items"))
        connection.rollback()
        assert connection.scalar(sa.select(sa.func.count()).select_from(items)) == 1
    with db.engine.connect() as connection:
        connection.execute(items.insert().values(name="undone"))
        connection.rollback()
        assert connection.scalar(sa.select(sa.func.count()).select_from(items)) == 1
    autocommit = db.make(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as connection:
        connection.execute(items.insert().values(name="engine"))
    with autocommit.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(items)) == 2


@on_drivers("psycopg2", "psycopg")
def test_read_only_and_deferrable_options(db):
    items.metadata.create_all(db.engine)
    options = dict(isolation_level="SERIALIZABLE", postgresql_readonly=True, postgresql_deferrable=True)
    with db.engine.connect().execution_options(**options) as connection:
        assert connection.scalar(sa.text("show transaction_read_only")) == "on"
        assert connection.scalar(sa.text("show transaction_deferrable")) == "on"
        with pytest.raises(exc.DBAPIError) as raised:
            connection.execute(items.insert().values(name="refused"))
        assert sqlstate_of(raised.value.orig) == "25006"
    with db.engine.begin() as connection:
        connection.execute(items.insert().values(name="accepted"))


@on_every_driver
def test_two_phase_commit(db):
    items.metadata.create_all(db.engine)
    with db.engine.connect() as connection:
        for end, count in (("commit", 1), ("rollback", 1)):
            transaction = connection.begin_twophase(f"{db.place.name} {end}")
            connection.execute(items.insert().values(name=end))
            transaction.prepare()
            getattr(transaction, end)()
            with db.engine.connect() as other:
                assert other.scalar(sa.select(sa.func.count()).select_from(items)) == count
    with db.engine.connect() as connection:
        assert [xid for xid in connection.recover_twophase() if db.place.name in str(xid)] == []


@on_every_driver
def test_transaction_abandoned_without_commit_is_undone(db):
    items.metadata.create_all(db.engine)
    connection = db.engine.connect()
    connection.execute(items.insert().values(name="abandoned"))
    connection.close()
    with db.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(items)) == 0


@on_every_driver
def test_transaction_time_stands_still(db):
    with db.engine.connect() as connection:
        first = connection.scalar(sa.select(sa.func.now()))
        assert connection.scalar(sa.select(sa.func.now())) == first
        assert connection.scalar(sa.text("select current_timestamp")) == first
        connection.commit()
        assert connection.scalar(sa.select(sa.func.now())) > first


@on_every_driver
def test_another_engine_reads_what_was_just_committed(db):
    """The promise that no client reads older rows than what was acknowledged, on tables, joins and counts."""
    engine, other = made(db), db.make()
    with Session(engine) as writer, Session(other) as reader:
        author = writer.get(Author, 1)
        for round_ in range(40):
            author.articles.append(Article(title=f"round {round_}"))
            writer.commit()
            newest = sa.select(Article.title).join(Author).where(Author.id == 1).order_by(Article.id.desc()).limit(1)
            assert reader.scalar(newest) == f"round {round_}"
            reader.rollback()
            assert (
                reader.scalar(sa.select(sa.func.count()).select_from(Article).where(Article.author_id == 1))
                == round_ + 2
            )
            reader.rollback()


# ---- the ORM -----------------------------------------------------------------------------------------------------------------


@on_every_driver
def test_orm_unit_of_work(db):
    engine = made(db)
    with Session(engine) as session:
        author = session.scalars(sa.select(Author).where(Author.name == "author 2")).one()
        assert [article.title for article in author.articles] == ["title 2.0", "title 2.1"]
        author.articles[0].title = "changed"
        author.articles.append(Article(title="new"))
        del author.articles[1]
        assert session.scalar(sa.select(sa.func.count()).select_from(Article)) == 6, "autoflush has sent it"
        session.rollback()
        assert author.articles[0].title == "title 2.0"
        session.delete(author)
        session.commit()
        assert session.scalars(sa.select(Author.name).order_by(Author.id)).all() == ["author 1", "author 3"]
        assert session.scalar(sa.select(sa.func.count()).select_from(Article)) == 4


@on_every_driver
def test_orm_fetches_what_the_server_fills_in(db):
    engine = made(db)
    with Session(engine) as session:
        article = Article(title="five!", author_id=1)
        session.add(article)
        session.commit()
        assert (article.length, article.mood, article.tags, article.doc) == (5, Mood.glad, [], None)
        assert abs(article.created - datetime.now(timezone.utc)) < timedelta(minutes=1)


@on_every_driver
def test_orm_eager_loading(db):
    engine = made(db)
    for option in (joinedload, selectinload, subqueryload):
        with Session(engine) as session:
            authors = (
                session.scalars(sa.select(Author).options(option(Author.articles)).order_by(Author.id)).unique().all()
            )
            session.expunge_all()
            assert [[article.title for article in author.articles] for author in authors] == [
                [f"title {n}.{k}" for k in range(n)] for n in range(1, 4)
            ]


@on_every_driver
def test_orm_bulk_operations(db):
    engine = made(db)
    with Session(engine) as session:
        session.add_all(Article(author_id=1, title=f"bulk {k}") for k in range(1200))
        session.flush()
        assert (
            session.execute(sa.update(Article).where(Article.title.like("bulk 1%")).values(doc={"bulk": True})).rowcount
            == 311
        )
        found = session.scalars(sa.delete(Article).where(Article.title.like("bulk %")).returning(Article.id)).all()
        assert len(found) == 1200
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).select_from(Article)) == 6


@on_every_driver
def test_orm_version_counter_notices_a_lost_update(db):
    engine = made(db)
    with Session(engine) as one, Session(engine) as two:
        first, second = one.get(Author, 1), two.get(Author, 1)
        first.name = "first"
        one.commit()
        second.name = "second"
        with pytest.raises(StaleDataError):
            two.commit()
        two.rollback()
        assert two.get(Author, 1).name == "first"


@on_every_driver
def test_row_locks(db):
    engine = made(db)
    with Session(engine) as one, Session(engine) as two:
        assert one.scalars(sa.select(Author).where(Author.id == 1).with_for_update()).one().id == 1
        assert two.scalars(sa.select(Author.id).order_by(Author.id).with_for_update(skip_locked=True)).all() == [2, 3]
        with pytest.raises(exc.DBAPIError) as raised:
            two.scalars(sa.select(Author.id).where(Author.id == 1).with_for_update(nowait=True)).all()
        assert sqlstate_of(raised.value.orig) == "55P03"
        two.rollback()
        one.rollback()
        assert two.scalars(sa.select(Author.id).where(Author.id == 1).with_for_update(nowait=True)).all() == [1]


@on_drivers("psycopg2", "psycopg")
def test_orm_session_with_two_phase(db):
    engine = made(db)
    with sessionmaker(engine, twophase=True)() as session:
        session.add(Author(name="two-phase"))
        session.commit()
        session.add(Author(name="undone"))
        session.flush()
        session.rollback()
        assert session.scalars(sa.select(Author.name).where(Author.id > 3)).all() == ["two-phase"]


# ---- streaming ---------------------------------------------------------------------------------------------------------------


@on_every_driver
def test_stream_results_and_yield_per(db):
    rows = sa.select(sa.column("n")).select_from(sa.func.generate_series(1, 25000).alias("n"))
    with db.engine.connect() as connection:
        result = connection.execution_options(stream_results=True, max_row_buffer=500).execute(rows)
        assert sum(n for (n,) in result) == 25000 * 25001 // 2
        pages = connection.execution_options(yield_per=1000).execute(rows).partitions()
        assert [len(page) for page in pages] == [1000] * 25
        half_read = connection.execution_options(stream_results=True).execute(rows)
        assert half_read.fetchmany(10)[-1] == (10,)
        half_read.close()
        assert connection.scalar(sa.text("select 1")) == 1


@on_every_driver
def test_orm_yield_per(db):
    engine = made(db)
    with Session(engine) as session:
        session.execute(sa.insert(Article), [{"author_id": 1, "title": f"t{k}"} for k in range(900)])
        session.commit()
        seen = 0
        for page in session.scalars(
            sa.select(Article).order_by(Article.id).execution_options(yield_per=100)
        ).partitions():
            seen += len(page)
            for article in page[:1]:
                assert article.author.id
        assert seen == 906


# ---- events that set the session up ------------------------------------------------------------------------------------------


@on_every_driver
def test_settings_made_by_events(db):
    """On connect, on every checkout and on every begin: three ways that applications set time zones and tenants."""
    engine = db.make(pool_size=1, max_overflow=0)

    def execute(dbapi_connection, sql):
        cursor = dbapi_connection.cursor()
        cursor.execute(sql)
        cursor.close()
        dbapi_connection.commit()

    tenants = iter(("acme", "umbrella", "initech"))
    sa.event.listen(engine, "connect", lambda c, _: execute(c, "set time zone 'Asia/Tokyo'"))
    sa.event.listen(engine, "checkout", lambda c, *_: execute(c, f"set my.tenant = '{next(tenants)}'"))
    sa.event.listen(engine, "begin", lambda c: c.exec_driver_sql("set local my.block = 'inside'"))
    for tenant in ("acme", "umbrella"):
        with engine.connect() as connection:
            for _ in range(2):
                assert connection.scalar(sa.text("show timezone")) == "Asia/Tokyo"
                assert connection.scalar(sa.text("select current_setting('my.tenant')")) == tenant
                assert connection.scalar(sa.text("select current_setting('my.block')")) == "inside"
                connection.rollback()
    with db.engine.connect() as other:
        assert other.scalar(sa.text("select coalesce(current_setting('my.tenant', true), '')")) == ""
        assert other.scalar(sa.text("show timezone")) != "Asia/Tokyo"


@on_every_driver
def test_set_in_a_transaction_that_rolls_back(db):
    with db.engine.connect() as connection:
        before = connection.scalar(sa.text("show work_mem"))
        connection.execute(sa.text("set work_mem = '7MB'"))
        assert connection.scalar(sa.text("show work_mem")) == "7MB"
        connection.rollback()
        assert connection.scalar(sa.text("show work_mem")) == before
        connection.execute(sa.text("set work_mem = '7MB'"))
        connection.commit()
        assert connection.scalar(sa.text("show work_mem")) == "7MB"


@on_every_driver
def test_startup_settings(db):
    engine = db.make(settings={"statement_timeout": "700", "application_name": "events"})
    with engine.connect() as connection:
        assert connection.scalar(sa.text("show application_name")) == "events"
        with pytest.raises(exc.DBAPIError) as raised:
            connection.execute(sa.text("select pg_sleep(10)"))
        assert sqlstate_of(raised.value.orig) == "57014"
        connection.rollback()
        assert connection.scalar(sa.text("show statement_timeout")) == "700ms"


# ---- schema ------------------------------------------------------------------------------------------------------------------


@on_every_driver
def test_inspector(db):
    engine = made(db)
    with engine.begin() as connection:
        connection.execute(sa.text("create view titles as select id, title from article"))
        connection.execute(sa.text("comment on table author is 'who writes'"))
        connection.execute(sa.text("alter table article add constraint short check (char_length(title) < 1000)"))
        connection.execute(sa.text("create sequence counter"))
    for _ in range(2):
        inspector = sa.inspect(engine)
        assert sorted(inspector.get_table_names()) == ["article", "author"]
        assert inspector.get_view_names() == ["titles"]
        assert "counter" in inspector.get_sequence_names()
        columns = {column["name"]: column for column in inspector.get_columns("article")}
        assert list(columns) == ["id", "author_id", "title", "mood", "tags", "doc", "created", "length"]
        assert isinstance(columns["tags"]["type"], pg.ARRAY) and columns["mood"]["type"].enums == ["sad", "glad"]
        assert columns["length"]["computed"]["persisted"]
        (key,) = inspector.get_foreign_keys("article")
        assert (key["referred_table"], key["options"]) == ("author", {"ondelete": "CASCADE"})
        assert inspector.get_pk_constraint("article")["constrained_columns"] == ["id"]
        assert [index["column_names"] for index in inspector.get_indexes("article")] == [["author_id"]]
        assert [c["name"] for c in inspector.get_check_constraints("article")] == ["short"]
        assert [c["column_names"] for c in inspector.get_unique_constraints("author")] == [["name"]]
        assert inspector.get_table_comment("author")["text"] == "who writes"
        assert inspector.default_schema_name == db.place.name


@on_every_driver
def test_reflected_tables_can_be_used(db):
    engine = made(db)
    metadata = sa.MetaData()
    metadata.reflect(engine)
    author, article = metadata.tables["author"], metadata.tables["article"]
    assert metadata.sorted_tables == [author, article]
    with engine.connect() as connection:
        found = connection.execute(
            sa.select(author.c.name, sa.func.count())
            .join_from(author, article)
            .group_by(author.c.name)
            .order_by(author.c.name)
        ).all()
    assert found == [("author 1", 1), ("author 2", 2), ("author 3", 3)]


@on_every_driver
def test_same_table_names_with_other_columns_again_and_again(db):
    """What test suites of applications do all day: whatever a proxy remembers of a table is wrong a moment later."""
    kinds = [sa.Integer, sa.Text, sa.Date, sa.Boolean, pg.ARRAY(sa.Integer)]
    values = [5, "five", date(2024, 5, 5), True, [5]]
    for round_ in range(10):
        metadata = sa.MetaData()
        columns = [sa.Column(f"c{k}", kinds[(round_ + k) % 5]) for k in range(1 + round_ % 4)]
        thing = sa.Table("thing", metadata, sa.Column("id", sa.Integer, primary_key=True), *columns)
        part = sa.Table(
            "part",
            metadata,
            sa.Column("thing_id", sa.ForeignKey("thing.id"), primary_key=True),
            sa.Column(f"p{round_}", sa.Text),
        )
        metadata.create_all(db.engine)
        row = {"id": round_, **{f"c{k}": values[(round_ + k) % 5] for k in range(len(columns))}}
        with db.engine.begin() as connection:
            connection.execute(thing.insert(), row)
            connection.execute(part.insert(), {"thing_id": round_, f"p{round_}": "x"})
        with db.engine.connect() as connection:
            for _ in range(3):
                assert dict(connection.execute(thing.select().join(part)).mappings().one()) == row
            assert len(sa.inspect(connection).get_columns("thing")) == len(columns) + 1
        metadata.drop_all(db.engine)
        with db.engine.connect() as connection:
            with pytest.raises(exc.ProgrammingError):
                connection.execute(sa.select(thing.c.id))


@on_every_driver
def test_ddl_in_a_transaction_is_undone(db):
    with db.engine.connect() as connection:
        items.metadata.create_all(connection)
        connection.execute(items.insert().values(name="x"))
        assert connection.scalar(sa.select(sa.func.count()).select_from(items)) == 1
        connection.rollback()
        assert not sa.inspect(connection).has_table("items")
    assert not sa.inspect(db.engine).has_table("items")


# ---- pools and disconnects ---------------------------------------------------------------------------------------------------


@on_every_driver
def test_terminated_server_session_is_a_disconnect_and_the_pool_recovers(db):
    engine = db.make(pool_size=2)
    with pytest.raises(exc.DBAPIError) as raised, engine.connect() as connection:
        db.terminate_server_session_of(connection)
        connection.execute(sa.text("select 1"))
    assert raised.value.connection_invalidated, f"not seen as a disconnect: {raised.value!r}"
    with engine.connect() as connection:
        assert connection.scalar(sa.text("select 1")) == 1


@on_every_driver
def test_terminated_transaction_is_not_committed(db):
    items.metadata.create_all(db.engine)
    with pytest.raises(exc.DBAPIError), db.engine.connect() as connection:
        connection.execute(items.insert().values(name="lost"))
        db.terminate_server_session_of(connection)
        connection.commit()
        connection.execute(sa.text("select 1"))
    with db.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(items)) == 0


@on_every_driver
def test_pre_ping(db):
    """A session that died in the pool is replaced, unseen by the application."""
    engine = db.make(pool_pre_ping=True, pool_size=1, max_overflow=0)
    for _ in range(2):
        pooled = engine.raw_connection()
        cursor = pooled.cursor()
        cursor.execute(f"select pg_advisory_lock({db.place.lock})")
        cursor.close()
        pooled.commit()
        terminate_holder_of_lock(db.direct, db.place.lock)
        pooled.close()
        with engine.connect() as connection:
            assert connection.scalar(sa.text("select 1")) == 1


@on_drivers(*SYNC_DRIVERS)
def test_many_threads_share_a_pool(db):
    engine = made(db)

    def work(number):
        for round_ in range(12):
            with Session(engine) as session:
                author = session.scalars(sa.select(Author).where(Author.id == number % 3 + 1)).one()
                assert author.name == f"author {number % 3 + 1}"
                session.add(Article(author_id=author.id, title=f"thread {number} {round_}"))
                session.commit()
                count = sa.select(sa.func.count()).select_from(Article).where(Article.title.like(f"thread {number} %"))
                assert session.scalar(count) == round_ + 1
                session.execute(sa.text(f"set local my.thread = '{number}'"))
                assert session.scalar(sa.text("select current_setting('my.thread')")) == str(number)
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_many_tasks_share_an_async_pool(schema, driver):
    arguments = (
        {"server_settings": {"search_path": schema.name}}
        if driver == "asyncpg"
        else {"options": f"-c search_path={schema.name}"}
    )
    address = sa.make_url(schema.base_url).set(drivername=f"postgresql+{driver}", query={})
    engine = create_async_engine(address, connect_args=arguments, pool_size=6)
    sessions = async_sessionmaker(engine)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with sessions.begin() as session:
        session.add(Author(name="async"))

    async def work(number):
        for round_ in range(8):
            async with sessions() as session:
                author = (await session.scalars(sa.select(Author).options(selectinload(Author.articles)))).one()
                session.add(Article(author_id=author.id, title=f"task {number} {round_}"))
                await session.commit()
                count = sa.select(sa.func.count()).select_from(Article).where(Article.title.like(f"task {number} %"))
                assert await session.scalar(count) == round_ + 1
                result = await session.stream(sa.select(Article.id))
                assert len([row async for row in result]) > round_

    await asyncio.gather(*(work(number) for number in range(12)))
    async with AsyncSession(engine) as session:
        assert await session.scalar(sa.select(sa.func.count()).select_from(Article)) == 96
    await engine.dispose()


@on_drivers(*DRIVERS)
def test_null_pool_connects_for_each_use(db):
    items.metadata.create_all(db.engine)
    engine = db.make(poolclass=sa.NullPool)
    for number in range(15):
        with engine.begin() as connection:
            connection.execute(items.insert().values(name=f"n{number}"))
            assert connection.scalar(sa.select(sa.func.count()).select_from(items)) == number + 1
