"""Says in each statement which route and function it comes from: a comment as sqlcommenter writes it, for Weir's SHOW SLOW,
SHOW REPEATS and slow-query log. Copy it into an application; it needs nothing but Flask and SQLAlchemy.

With OpenTelemetry, `SQLAlchemyInstrumentor().instrument(enable_commenter=True)` writes its traceparent, too.
"""

from urllib.parse import quote

from flask import has_request_context, request
from sqlalchemy import Engine, event


@event.listens_for(Engine, "before_cursor_execute", retval=True)
def tag(connection, cursor, statement, parameters, context, executemany):
    if has_request_context() and request.url_rule:
        tags = {"framework": "flask", "function": request.endpoint, "route": request.url_rule.rule}
        comment = ",".join(f"{name}='{quote(value, safe='')}'" for name, value in tags.items())
        if connection.dialect.paramstyle in ("format", "pyformat"):
            comment = comment.replace("%", "%%")  # else the driver would take it for a parameter
        statement = f"{statement} /*{comment}*/"
    return statement, parameters
