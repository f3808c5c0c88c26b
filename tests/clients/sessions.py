"""A client session with a thread of its own, so that a test can let one session wait for another, and give up at a deadline."""

from concurrent.futures import Future, ThreadPoolExecutor

from wire import SYNC, Connection, Message, bind, errors, execute, parse, query, rows, status

DEADLINE = 15.0  # seconds in which a session that nothing holds up must have its answer


class ServerError(Exception):
    def __init__(self, message: Message):
        super().__init__(str(message))
        self.sqlstate = message.sqlstate


class Session:
    def __init__(self, url: str, **startup: str):
        self.connection = Connection.login(url, **startup)
        self.connection.deadline = 3 * DEADLINE
        self.thread = ThreadPoolExecutor(1)
        self.told: list[tuple[str, str]] = []  # ParameterStatus after login
        self.status = "I"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def start(self, *messages: bytes) -> "Future[list[Message]]":
        return self.thread.submit(self._converse, *messages)

    def _converse(self, *messages: bytes) -> list[Message]:
        answer = self.connection.ask(*messages)
        self.told += [m.pair for m in answer if m.tag == "S"]
        self.status = status(answer)
        return answer

    def run(self, sql: str, extended: bool = False) -> list[tuple]:
        """All rows, as text; an error is raised."""
        return texts(self.start(as_message(sql, extended)).result(DEADLINE))

    def value(self, sql: str, extended: bool = False) -> str | None:
        ((value,),) = self.run(sql, extended)
        return value

    def error(self, sql: str, extended: bool = False) -> str:
        (sqlstate,) = errors(self.start(as_message(sql, extended)).result(DEADLINE))
        return sqlstate

    def start_value(self, sql: str) -> "Future[str | None]":
        return self.thread.submit(lambda: texts(self._converse(query(sql)))[0][0])

    def start_outcome(self, sql: str) -> "Future[str | None]":
        """The only value, or the SQLSTATE of the error."""

        def outcome():
            answer = self._converse(query(sql))
            return errors(answer)[0] if errors(answer) else texts(answer)[0][0]

        return self.thread.submit(outcome)

    def end(self) -> None:
        self.connection.terminate()
        self.thread.shutdown(wait=False)

    def vanish(self) -> None:
        self.connection.vanish()
        self.thread.shutdown(wait=False)


def as_message(sql: str, extended: bool) -> bytes:
    return parse(sql) + bind() + execute() + SYNC if extended else query(sql)


def texts(answer: list[Message]) -> list[tuple]:
    for message in answer:
        if message.tag == "E":
            raise ServerError(message)
    return [tuple(None if v is None else v.decode() for v in row) for row in rows(answer)]
