"""Django's ORM on its PostgreSQL backend (psycopg 3), without a project on disk."""

import datetime
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import django
import pytest
from django.apps import AppConfig
from django.conf import settings

import targets
from watcher import terminate_holder_of_lock
from wire import Address


def database(**options):
    address = Address.of(targets.TEST)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": address.database,
        "USER": address.user,
        "PASSWORD": address.password,
        "HOST": address.host,
        "PORT": address.port,
        "CONN_MAX_AGE": None,
        "TIME_ZONE": None,
        **options,
    }


DATABASES = {
    "default": database(),
    "each_request": database(CONN_MAX_AGE=0, CONN_HEALTH_CHECKS=True),
    "server_side_binding": database(OPTIONS={"server_side_binding": True}),
    "lima": database(TIME_ZONE="America/Lima"),
}


class Library(AppConfig):
    """The application that this file is: only models of an installed one know who refers to them."""

    name = __name__
    label = "library"
    path = os.path.dirname(__file__)


settings.configure(
    DATABASES=DATABASES,
    USE_TZ=True,
    TIME_ZONE="Europe/Rome",
    INSTALLED_APPS=["django.contrib.postgres", f"{__name__}.Library"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()

from django.contrib.postgres.fields import ArrayField  # noqa: E402
from django.contrib.postgres.search import SearchVector  # noqa: E402
from django.db import (  # noqa: E402
    DatabaseError,
    IntegrityError,
    OperationalError,
    close_old_connections,
    connection,
    connections,
    models,
    transaction,
)
from django.db.models import Count, F, Prefetch, Q, Sum, Window  # noqa: E402
from django.db.models.functions import Now, RowNumber, TruncDate  # noqa: E402


class Author(models.Model):
    name = models.CharField(max_length=100, unique=True)

    class Meta:
        app_label = "library"


class Article(models.Model):
    author = models.ForeignKey(Author, models.CASCADE, related_name="articles")
    title = models.CharField(max_length=200)
    tags = ArrayField(models.TextField(), default=list)
    doc = models.JSONField(null=True)
    price = models.DecimalField(max_digits=8, decimal_places=2, default=1)
    published = models.DateTimeField(db_default=Now())
    views = models.IntegerField(default=0)

    class Meta:
        app_label = "library"
        constraints = [models.CheckConstraint(condition=Q(views__gte=0), name="views_not_negative")]
        indexes = [models.Index(fields=["title"])]


@pytest.fixture(autouse=True)
def library(schema):
    """Connections of this test live in its schema; Django reads OPTIONS each time it connects."""
    for alias in DATABASES:
        connections[alias].close()
        options = connections[alias].settings_dict["OPTIONS"]
        connections[alias].settings_dict["OPTIONS"] = {**options, "options": f"-c search_path={schema.name},public"}
    with connection.schema_editor() as editor:
        editor.create_model(Author)
        editor.create_model(Article)
    yield
    for alias in DATABASES:
        connections[alias].close()


def in_threads(count, work):
    """Django keeps one connection for each thread, and closes it only when told to."""

    def visit(number):
        try:
            return work(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(visit, range(count)))


def filled(articles=6):
    authors = [Author.objects.create(name=f"author {n}") for n in range(3)]
    Article.objects.bulk_create(
        Article(author=authors[n % 3], title=f"title {n}", tags=["t", str(n)], doc={"n": n}, views=n)
        for n in range(articles)
    )
    return authors


# ---- queries -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["default", "server_side_binding"])
def test_queries(alias):
    filled()
    articles = Article.objects.using(alias)
    assert [a.title for a in articles.filter(author__name="author 1").order_by("id")] == ["title 1", "title 4"]
    assert articles.filter(tags__contains=["3"]).get().doc == {"n": 3}
    assert articles.filter(doc__n__gte=4).count() == 2
    assert articles.exclude(Q(views=0) | Q(title__icontains="5")).aggregate(Sum("views"), Count("id")) == {
        "views__sum": 10,
        "id__count": 4,
    }
    counted = Author.objects.using(alias).annotate(n=Count("articles")).values_list("name", "n").order_by("name")
    assert list(counted) == [("author 0", 2), ("author 1", 2), ("author 2", 2)]
    assert [a.author.name for a in articles.select_related("author").order_by("-id")[:2]] == ["author 2", "author 1"]
    prefetched = (
        Author.objects.using(alias)
        .prefetch_related(Prefetch("articles", Article.objects.using(alias).order_by("-id")))
        .get(name="author 2")
    )
    assert [a.title for a in prefetched.articles.all()] == ["title 5", "title 2"]
    numbered = (
        articles.annotate(row=Window(RowNumber(), partition_by="author", order_by="id")).filter(row=2).order_by("id")
    )
    assert [a.title for a in numbered] == ["title 3", "title 4", "title 5"]
    assert articles.annotate(found=SearchVector("title")).filter(found="title").exists()
    with pytest.raises(Article.DoesNotExist):
        articles.get(title="none")


def test_writes():
    authors = filled()
    assert Article.objects.filter(author=authors[0]).update(views=F("views") + 10) == 2
    assert Article.objects.get(title="title 3").views == 13
    article = Article.objects.get(title="title 1")
    article.price = "9.99"
    article.save(update_fields=["price"])
    article.refresh_from_db()
    assert str(article.price) == "9.99" and article.published is not None
    author, created = Author.objects.get_or_create(name="author 0")
    assert not created and Author.objects.update_or_create(name="new")[1]
    assert authors[0].delete()[0] == 3
    assert Article.objects.count() == 4


def test_bulk_operations():
    authors = filled(0)
    made = Article.objects.bulk_create(
        [Article(author=authors[n % 3], title=f"b{n}") for n in range(2500)], batch_size=700
    )
    assert len({a.pk for a in made}) == 2500
    for article in made[:500]:
        article.views = article.pk
    assert Article.objects.bulk_update(made[:500], ["views"], batch_size=200) == 500
    assert Article.objects.filter(views=F("id")).count() == 500
    upserted = [Author(name="author 0"), Author(name="fresh")]
    Author.objects.bulk_create(upserted, update_conflicts=True, unique_fields=["name"], update_fields=["name"])
    Author.objects.bulk_create([Author(name="author 1")], ignore_conflicts=True)
    assert Author.objects.count() == 4
    assert Article.objects.in_bulk([made[0].pk, made[1].pk])[made[1].pk].title == "b1"


def test_server_side_cursors():
    filled(0)
    author = Author.objects.first()
    Article.objects.bulk_create(Article(author=author, title=f"i{n}") for n in range(3000))
    seen = 0
    for _article in Article.objects.order_by("id").iterator(chunk_size=200):
        seen += 1
        if seen == 500:
            assert Article.objects.count() == 3000, "another statement between two fetches"
            Author.objects.create(name="between")
    assert seen == 3000
    with transaction.atomic():
        assert sum(1 for _ in Article.objects.iterator(chunk_size=1000)) == 3000
    half_read = Article.objects.iterator(chunk_size=100)
    next(half_read)
    half_read.close()
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_cursors where name <> ''")
        assert cursor.fetchone() == (0,)


def test_two_iterators_side_by_side():
    filled(0)
    author = Author.objects.first()
    Article.objects.bulk_create(Article(author=author, title=f"i{n}") for n in range(900))
    pairs = zip(
        Article.objects.order_by("id").iterator(chunk_size=100),
        Article.objects.order_by("-id").iterator(chunk_size=150),
    )
    assert [a.title[1:] for pair in list(pairs)[:2] for a in pair] == ["0", "899", "1", "898"]


# ---- transactions ------------------------------------------------------------------------------------------------------------


def test_atomic_and_savepoints():
    with transaction.atomic():
        Author.objects.create(name="outer")
        with pytest.raises(IntegrityError), transaction.atomic():
            Author.objects.create(name="undone")
            Author.objects.create(name="outer")
        with transaction.atomic():
            Author.objects.create(name="kept")
        assert in_threads(1, lambda _: Author.objects.count()) == [0]
    assert list(Author.objects.order_by("name").values_list("name", flat=True)) == ["kept", "outer"]
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        Author.objects.create(name="lost")
        raise ZeroDivisionError
    assert Author.objects.count() == 2


def test_error_without_a_savepoint_breaks_the_block():
    with pytest.raises(transaction.TransactionManagementError), transaction.atomic():
        Author.objects.create(name="a")
        try:
            Author.objects.create(name="a")
        except IntegrityError:
            pass
        Author.objects.count()
    assert Author.objects.count() == 0


def test_on_commit_sees_the_committed_rows():
    seen = []
    with transaction.atomic():
        Author.objects.create(name="a")
        transaction.on_commit(lambda: seen.extend(in_threads(1, lambda _: Author.objects.count())))
        assert seen == []
    assert seen == [1]


def test_select_for_update():
    filled()
    locked, done = threading.Event(), threading.Event()

    def hold(_):
        with transaction.atomic():
            Article.objects.select_for_update().get(title="title 0")
            locked.set()
            assert done.wait(20)
            Article.objects.filter(title="title 0").update(views=100)

    holder = threading.Thread(target=lambda: in_threads(1, hold))
    holder.start()
    assert locked.wait(20)
    try:
        with transaction.atomic():
            assert Article.objects.select_for_update(skip_locked=True).count() == 6
            assert len(Article.objects.select_for_update(skip_locked=True)) == 5
        with pytest.raises(OperationalError), transaction.atomic():
            Article.objects.select_for_update(nowait=True).get(title="title 0")
    finally:
        done.set()
    with transaction.atomic():
        assert Article.objects.select_for_update(of=("self",)).select_related("author").get(title="title 0").views in (
            0,
            100,
        )
    holder.join(20)
    assert Article.objects.get(title="title 0").views == 100


def test_concurrent_increments_lose_nothing():
    filled()

    def count(number):
        for _ in range(10):
            if number % 2:
                Article.objects.filter(title="title 0").update(views=F("views") + 1)
                continue
            with transaction.atomic():
                article = Article.objects.select_for_update().get(title="title 0")
                article.views += 1
                article.save()

    in_threads(6, count)
    assert Article.objects.get(title="title 0").views == 60


def test_each_thread_reads_what_was_just_committed():
    author = Author.objects.create(name="a")

    def read_back(number):
        for round_ in range(10):
            made = Article.objects.create(author=author, title=f"{number}.{round_}")
            assert Article.objects.get(pk=made.pk).title == f"{number}.{round_}"
            assert Article.objects.filter(title__startswith=f"{number}.").count() == round_ + 1

    in_threads(6, read_back)
    assert Article.objects.count() == 60


def test_constraints():
    filled()
    with pytest.raises(IntegrityError), transaction.atomic():
        Article.objects.filter(title="title 0").update(views=-1)
    with pytest.raises(IntegrityError), transaction.atomic():
        Article.objects.create(author_id=99999, title="orphan")
        connection.check_constraints()
    with pytest.raises(DatabaseError), connection.cursor() as cursor:
        cursor.execute("select nothing from nowhere")
    assert Article.objects.count() == 6


# ---- settings and connections ------------------------------------------------------------------------------------------------


def shown(alias, name):
    with connections[alias].cursor() as cursor:
        cursor.execute(f"show {name}")
        return cursor.fetchone()[0]


def test_time_zones():
    """Django sets the time zone once for each connection, and only where it is not there already."""
    author = Author.objects.create(name="a")
    late = datetime.datetime(2024, 2, 29, 23, 30, tzinfo=datetime.timezone.utc)
    Article.objects.create(author=author, title="late", published=late)
    for _ in range(3):
        assert shown("default", "timezone") == "UTC" and shown("lima", "timezone") == "America/Lima"
        assert Article.objects.get(title="late").published == late
        found = Article.objects.using("lima").get(title="late").published
        assert found == late and found.utcoffset() == datetime.timedelta(hours=-5)
        with connections["lima"].cursor() as cursor:
            cursor.execute("select published::date from library_article")
            assert cursor.fetchone()[0] == datetime.date(2024, 2, 29)
            cursor.execute("select (published + interval '6 hours')::date, published::text from library_article")
            assert cursor.fetchone() == (datetime.date(2024, 3, 1), "2024-02-29 18:30:00-05")
    assert Article.objects.annotate(
        day=TruncDate("published", tzinfo=datetime.timezone.utc)
    ).get().day == datetime.date(2024, 2, 29)


def test_time_zones_in_threads():
    def ask(number):
        alias = ("default", "lima")[number % 2]
        for _ in range(15):
            assert shown(alias, "timezone") == ("UTC", "America/Lima")[number % 2]
            with transaction.atomic(using=alias):
                assert shown(alias, "timezone") == ("UTC", "America/Lima")[number % 2]

    in_threads(6, ask)


def test_connections_of_one_request():
    """CONN_MAX_AGE = 0: each request opens and closes a connection. None: it stays and must stay good."""
    filled()
    for _ in range(10):
        assert Article.objects.using("each_request").count() == 6
        assert Article.objects.count() == 6
        kept = connections["default"].connection
        close_old_connections()
        assert connections["each_request"].connection is None
        assert connections["default"].connection is kept


def test_health_check_replaces_a_dead_connection(schema, direct):
    alias = "each_request"
    connections[alias].settings_dict["CONN_MAX_AGE"] = None
    try:
        with connections[alias].cursor() as cursor:
            cursor.execute("select pg_advisory_lock(%s)", [schema.lock])
        terminate_holder_of_lock(direct, schema.lock)
        close_old_connections()
        connections[alias].health_check_done = False
        assert Author.objects.using(alias).count() == 0
    finally:
        connections[alias].settings_dict["CONN_MAX_AGE"] = 0


def test_introspection_and_schema_changes():
    """What `migrate` does: tables made, altered and dropped between queries of the same models."""
    filled()
    with connection.cursor() as cursor:
        assert sorted(t.name for t in connection.introspection.get_table_list(cursor)) == [
            "library_article",
            "library_author",
        ]
        assert "title" in [c.name for c in connection.introspection.get_table_description(cursor, "library_article")]
        assert "views_not_negative" in connection.introspection.get_constraints(cursor, "library_article")
    field = models.IntegerField(default=3)
    field.set_attributes_from_name("pages")
    for _ in range(3):
        with connection.schema_editor() as editor:
            editor.add_field(Article, field)
        with connection.cursor() as cursor:
            cursor.execute("select distinct pages from library_article")
            assert cursor.fetchall() == [(3,)]
        with connection.schema_editor() as editor:
            editor.remove_field(Article, field)
        assert Article.objects.count() == 6
        with connection.schema_editor() as editor:
            editor.delete_model(Article)
            editor.create_model(Article)
        assert Article.objects.count() == 0
        Article.objects.bulk_create(Article(author=Author.objects.first(), title=f"again {n}") for n in range(6))
