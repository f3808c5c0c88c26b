"""A Flask application with Flask-SQLAlchemy, asked by many threads at once: the setting that this proxy is made for."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask, abort, jsonify, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import ForeignKey, event, func, make_url, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, joinedload, mapped_column, relationship, selectinload
from werkzeug.exceptions import HTTPException


def create_app(url: str, schema: str, driver: str, **engine_options) -> tuple[Flask, SQLAlchemy]:
    app = Flask("weir-test")
    app.config["SQLALCHEMY_DATABASE_URI"] = make_url(url).set(drivername=f"postgresql+{driver}", query={})
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "connect_args": {"options": f"-c search_path={schema}"},
        "pool_size": 4,
        **engine_options,
    }
    db = SQLAlchemy(model_class=type("Model", (DeclarativeBase,), {}))

    class Author(db.Model):
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str] = mapped_column(unique=True)
        # In order: those of ten threads are on several pages of the table, and the last read is not the last made.
        articles: Mapped[list["Article"]] = relationship(
            back_populates="author", cascade="all, delete-orphan", order_by="Article.id"
        )

    class Article(db.Model):
        id: Mapped[int] = mapped_column(primary_key=True)
        author_id: Mapped[int] = mapped_column(ForeignKey("author.id"), index=True)
        title: Mapped[str]
        views: Mapped[int] = mapped_column(default=0)
        author: Mapped[Author] = relationship(back_populates="articles")

    db.init_app(app)

    @app.post("/authors")
    def add_author():
        author = Author(name=request.json["name"])
        db.session.add(author)
        try:
            db.session.commit()
        except IntegrityError:
            db.session.rollback()
            abort(409)
        return jsonify(id=author.id), 201

    @app.post("/authors/<int:author_id>/articles")
    def add_article(author_id):
        author = db.get_or_404(Author, author_id)
        author.articles.append(Article(title=request.json["title"]))
        db.session.commit()
        return jsonify(id=author.articles[-1].id), 201

    @app.get("/articles/<int:article_id>")
    def show_article(article_id):
        article = db.get_or_404(Article, article_id)
        return jsonify(title=article.title, author=article.author.name, views=article.views)

    @app.get("/articles")
    def list_articles():
        page = db.paginate(select(Article).options(joinedload(Article.author)).order_by(Article.id), per_page=5)
        return jsonify(total=page.total, pages=page.pages, items=[[a.title, a.author.name] for a in page.items])

    @app.get("/authors")
    def list_authors():
        authors = db.session.scalars(select(Author).options(selectinload(Author.articles)).order_by(Author.name))
        return jsonify([[author.name, len(author.articles)] for author in authors])

    @app.post("/articles/<int:article_id>/view")
    def view(article_id):
        article = db.session.scalars(select(Article).where(Article.id == article_id).with_for_update()).one()
        article.views = views = article.views + 1
        db.session.commit()
        return jsonify(views=views)

    @app.get("/tenant")
    def tenant():
        return jsonify(tenant=db.session.scalar(text("select current_setting('my.tenant', true)")))

    @app.get("/broken")
    def broken():
        db.session.execute(text("select 1/0"))

    @app.errorhandler(Exception)
    def failed(error):
        return jsonify(error=repr(error)), error.code if isinstance(error, HTTPException) else 500

    with app.app_context():
        db.create_all()
    return app, db


@pytest.fixture(params=["psycopg2", "psycopg"])
def application(request, schema):
    app, db = create_app(schema.base_url, schema.name, request.param)
    yield app, db
    with app.app_context():
        db.engine.dispose()


@pytest.fixture
def app(application):
    return application[0]


@pytest.fixture
def client(app):
    return app.test_client()


def post(client, path, **body):
    return client.post(path, json=body)


def made(client, path, **body) -> int:
    answer = post(client, path, **body)
    assert answer.status_code == 201, answer.json
    return answer.json["id"]


def test_requests_one_after_the_other(client):
    author = made(client, "/authors", name="Ada")
    assert post(client, "/authors", name="Ada").status_code == 409
    first = made(client, f"/authors/{author}/articles", title="One")
    assert client.get(f"/articles/{first}").json == {"title": "One", "author": "Ada", "views": 0}
    assert client.get("/articles/99999").status_code == 404
    assert client.get("/authors").json == [["Ada", 1]]


def test_pagination(client):
    author = made(client, "/authors", name="Ada")
    for number in range(12):
        post(client, f"/authors/{author}/articles", title=f"t{number}")
    page = client.get("/articles?page=3").json
    assert (page["total"], page["pages"], page["items"]) == (12, 3, [["t10", "Ada"], ["t11", "Ada"]])
    assert client.get("/articles?page=4").status_code == 404


def test_a_request_that_fails_does_not_fail_the_next(client):
    post(client, "/authors", name="Ada")
    for _ in range(10):
        assert client.get("/broken").status_code == 500
        assert client.get("/authors").json == [["Ada", 0]]


def test_each_request_reads_what_the_last_one_wrote(app):
    author = made(app.test_client(), "/authors", name="Ada")
    writer, reader = app.test_client(), app.test_client()
    for number in range(20):
        written = made(writer, f"/authors/{author}/articles", title=f"t{number}")
        assert reader.get(f"/articles/{written}").json["title"] == f"t{number}"
        assert reader.get("/authors").json == [["Ada", number + 1]]


def test_concurrent_requests(app):
    def visit(number):
        client = app.test_client()
        author = made(client, "/authors", name=f"author {number}")
        for round_ in range(6):
            article = made(client, f"/authors/{author}/articles", title=f"{number}.{round_}")
            assert client.get(f"/articles/{article}").json == {
                "title": f"{number}.{round_}",
                "author": f"author {number}",
                "views": 0,
            }
            if round_ % 3 == 0:
                assert client.get("/broken").status_code == 500
            assert [f"author {number}", round_ + 1] in client.get("/authors").json
        return author

    with ThreadPoolExecutor(10) as threads:
        authors = list(threads.map(visit, range(20)))
    assert len(set(authors)) == 20
    assert app.test_client().get("/articles").json["total"] == 120


def test_concurrent_increments_lose_nothing(app):
    client = app.test_client()
    author = made(client, "/authors", name="Ada")
    article = made(client, f"/authors/{author}/articles", title="Popular")
    with ThreadPoolExecutor(8) as threads:
        counts = list(
            threads.map(lambda _: post(app.test_client(), f"/articles/{article}/view").json["views"], range(80))
        )
    assert sorted(counts) == list(range(1, 81))
    assert client.get(f"/articles/{article}").json["views"] == 80


def test_tenant_set_for_each_request(application):
    """`SET LOCAL` at the begin of each transaction, as row security recipes say."""
    app, db = application

    with app.app_context():

        @event.listens_for(db.engine, "begin")
        def set_tenant(connection):
            connection.execute(select(func.set_config("my.tenant", request.args["tenant"], True)))

    def visit(number):
        return app.test_client().get(f"/tenant?tenant=t{number}").json["tenant"] == f"t{number}"

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(visit, range(100)))


def test_two_applications_with_different_settings(schema):
    """One schema, one user, other startup options: each keeps its own."""
    found = {}
    for zone in ("Asia/Tokyo", "America/Lima"):
        app, db = create_app(
            schema.base_url,
            schema.name,
            "psycopg2",
            connect_args={"options": f"-c search_path={schema.name} -c timezone={zone}"},
        )
        with app.app_context():
            found[zone] = db, app
    for _ in range(5):
        for zone, (db, app) in found.items():
            with app.app_context():
                assert db.session.scalar(text("show timezone")) == zone
    for db, app in found.values():
        with app.app_context():
            db.engine.dispose()
