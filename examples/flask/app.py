"""A small Flask application, as many are: SQLAlchemy, one database URL, a few pages as JSON."""

import os

from flask import Flask, abort, jsonify, request
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column, relationship

import tags  # noqa: F401: from here on each statement says which route it is for

db = SQLAlchemy()


class Author(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    email: Mapped[str] = mapped_column(unique=True)
    articles: Mapped[list["Article"]] = relationship(back_populates="author")


class Article(db.Model):
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    body: Mapped[str]
    published_at = mapped_column(db.DateTime(timezone=True), server_default=db.func.now(), index=True)
    author_id: Mapped[int] = mapped_column(db.ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="articles")

    def summary(self) -> dict:
        return {
            "id": self.id,
            "title": self.title,
            "author": self.author.name,
            "published_at": self.published_at.isoformat(),
        }


def create_app() -> Flask:
    app = Flask(__name__)
    # The one line that changes: it names the primary, or Weir.
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["SQLALCHEMY_DATABASE_URI"]
    app.config["SQLALCHEMY_ENGINE_OPTIONS"] = {
        "pool_size": int(os.environ.get("POOL_SIZE", "4")),
        "max_overflow": 0,
    }
    db.init_app(app)

    @app.get("/")
    def index():
        return jsonify(pages=["/articles", "/articles/<id>", "/authors/<id>", "/search?q=<words>", "POST /articles"])

    @app.get("/articles")
    def articles():
        newest = db.select(Article).order_by(Article.published_at.desc()).limit(20)
        return jsonify([article.summary() for article in db.session.scalars(newest)])

    @app.get("/articles/<int:article_id>")
    def article(article_id: int):
        found = db.get_or_404(Article, article_id)
        return jsonify(found.summary() | {"body": found.body})

    @app.get("/authors/<int:author_id>")
    def author(author_id: int):
        found = db.get_or_404(Author, author_id)
        theirs = db.select(Article.id, Article.title).where(Article.author_id == author_id).order_by(Article.id)
        return jsonify(
            id=found.id, name=found.name, articles=[row._asdict() for row in db.session.execute(theirs)]
        )

    @app.get("/search")
    def search():
        words = request.args.get("q", "")
        matching = db.select(Article).where(Article.title.icontains(words, autoescape=True)).limit(10)
        return jsonify([article.summary() for article in db.session.scalars(matching)])

    @app.post("/articles")
    def create():
        wanted = request.get_json()
        if not {"title", "body", "author_id"} <= wanted.keys():
            abort(400, "title, body and author_id are needed")
        made = Article(title=wanted["title"], body=wanted["body"], author_id=wanted["author_id"])
        db.session.add(made)
        db.session.commit()
        return jsonify(made.summary()), 201

    @app.get("/healthz")
    def healthz():
        return "", 204

    return app
