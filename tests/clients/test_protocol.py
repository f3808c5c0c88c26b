"""The protocol itself, message by message: what no driver sends alike, and what drivers hide when it goes wrong."""

import socket
import struct
import threading

import pytest

import targets
import wire
from watcher import terminate_holder_of_lock, wait_until_running
from wire import (
    COPY_DONE,
    FLUSH,
    SYNC,
    Connection,
    bind,
    close_portal,
    close_statement,
    copy_data,
    copy_fail,
    describe_portal,
    describe_statement,
    errors,
    execute,
    extended,
    parse,
    query,
    rows,
    startup,
    status,
    tags,
)

INT4, TEXT, INT4PL = 23, 25, 177


@pytest.fixture
def connection(schema):
    with Connection.login(schema.base_url) as connection:
        connection.query(f"set search_path = {schema.name}")
        yield connection


def only(found):
    ((value,),) = rows(found)
    return value


# ---- simple query ------------------------------------------------------------------------------------------------------------


def test_simple_query_gives_description_rows_tag_and_status(connection):
    answer = connection.query("select 1 as one, null as nothing, 'text'::text as words")
    assert tags(answer) == "TDCZ"
    assert [column[0] for column in answer[0].columns] == ["one", "nothing", "words"]
    assert rows(answer) == [(b"1", None, b"text")]
    assert answer[2].text == "SELECT 1" and status(answer) == "I"


@pytest.mark.parametrize("text", ["", "  \n\t ", "-- only a comment", ";", "/* a /* nested */ comment */"])
def test_empty_query_has_its_own_answer(connection, text):
    assert tags(connection.query(text)) == "IZ"


def test_error_in_the_middle_of_a_multi_statement_string_undoes_all_of_it(connection):
    connection.query("create table t (id int)")
    answer = connection.query("insert into t values (1); select 1/0; insert into t values (2)")
    assert tags(answer) == "CEZ" and errors(answer) == ["22012"] and status(answer) == "I"
    assert connection.value("select count(*) from t") == "0"


def test_multi_statement_string_with_transaction_control_inside(connection):
    connection.query("create table t (id int)")
    answer = connection.query(
        "begin; insert into t values (1); commit; begin; insert into t values (2); select 1/0; commit"
    )
    assert tags(answer) == "CCCCCEZ" and status(answer) == "E"
    assert tags(connection.query("rollback")) == "CZ"
    assert connection.value("select string_agg(id::text, ',') from t") == "1"


def test_multi_statement_string_answers_each_statement(connection):
    answer = connection.query("select 1; ; select 2 where false; create temp table gone (a int); drop table gone")
    assert tags(answer) == "TDCTCCCZ"
    assert [m.text for m in answer if m.tag == "C"] == ["SELECT 1", "SELECT 0", "CREATE TABLE", "DROP TABLE"]


def test_text_after_the_terminating_zero_is_not_run(connection):
    """PostgreSQL refuses the message and goes on; Weir closes on whoever sends such."""
    connection.send(wire.message("Q", b"select 1\0select 2\0"), wire.message("X", b""))
    answer = connection.read_until_closed()
    assert errors(answer) == ["08P01"] and rows(answer) == []


# ---- status after each kind --------------------------------------------------------------------------------------------------

STATUS_AFTER = [
    ("select 1", "I"),
    ("begin", "T"),
    ("select 1", "T"),
    ("savepoint s", "T"),
    ("select 1/0", "E"),
    ("select 1", "E"),
    ("rollback to s", "T"),
    ("release s", "T"),
    ("commit", "I"),
    ("commit", "I"),
    ("start transaction read only", "T"),
    ("create table refused (a int)", "E"),
    ("commit", "I"),
    ("begin", "T"),
    ("begin", "T"),
    ("commit and chain", "T"),
    ("rollback and chain", "T"),
    ("abort", "I"),
    ("begin; commit", "I"),
    ("begin; select 1", "T"),
    ("", "T"),
    ("end", "I"),
    ("begin isolation level serializable; select 1/0", "E"),
    ("", "E"),
    ("rollback", "I"),
]


@pytest.mark.parametrize("way", ["simple", "extended"])
def test_ready_for_query_status_after_each_kind(connection, way):
    seen = []
    for sql, _ in STATUS_AFTER:
        if way == "simple" or ";" in sql:
            answer = connection.query(sql)
        else:
            answer = connection.ask(extended(sql), SYNC)
        seen.append((sql, status(answer)))
    assert seen == STATUS_AFTER


def test_failed_transaction_answers_25p02_until_it_ends(connection):
    connection.query("begin")
    connection.query("select nonsense")
    for message in (query("select 1"), extended("select 1") + SYNC, parse("insert into t values (1)") + SYNC):
        answer = connection.ask(message)
        assert errors(answer) == ["25P02"] and status(answer) == "E"
    answer = connection.query("commit")
    assert [m.text for m in answer if m.tag == "C"] == ["ROLLBACK"] and status(answer) == "I"


def test_warnings_about_transaction_control_out_of_place(connection):
    assert [m.sqlstate for m in connection.query("commit") if m.tag == "N"] == ["25P01"]
    connection.query("begin")
    assert [m.sqlstate for m in connection.query("begin") if m.tag == "N"] == ["25001"]
    connection.query("rollback")
    assert errors(connection.query("savepoint s")) == ["25P01"]


# ---- extended query ----------------------------------------------------------------------------------------------------------


def test_extended_query_answers_each_message(connection):
    answer = connection.ask(
        parse("select $1::int + 1 as next", "s"),
        describe_statement("s"),
        bind("s", ["41"], "p"),
        describe_portal("p"),
        execute("p"),
        close_portal("p"),
        close_statement("s"),
        SYNC,
    )
    assert tags(answer) == "1tT2TDC33Z"
    assert answer[1].parameter_types == (INT4,)
    assert only(answer) == b"42"


def test_describe_only(connection):
    answer = connection.ask(parse("select $1 as a, $2::bool as b", types=(INT4,)), describe_statement(), SYNC)
    assert tags(answer) == "1tTZ"
    assert answer[1].parameter_types == (INT4, 16)
    assert [(c[0], c[3]) for c in answer[2].columns] == [("a", INT4), ("b", 16)]
    answer = connection.ask(parse("begin"), describe_statement(), SYNC)
    assert tags(answer) == "1tnZ"


def test_empty_query_in_the_extended_protocol(connection):
    assert tags(connection.ask(parse(""), bind(), describe_portal(), execute(), SYNC)) == "12nIZ"


def test_binary_results_and_parameters(connection):
    answer = connection.ask(
        extended(
            "select $1::int4 * 2, $2::text", struct.pack("!i", 21), "words", formats=(1, 0), result_formats=(1, 0)
        ),
        SYNC,
    )
    assert rows(answer) == [(struct.pack("!i", 42), b"words")]
    assert [column[6] for column in answer[2].columns] == [1, 0]


def test_statement_is_kept_until_closed_and_portal_until_the_transaction_ends(connection):
    connection.ask(parse("select $1::int", "kept"), SYNC)
    for number in range(3):
        assert only(connection.ask(bind("kept", [str(number)]), execute(), SYNC)) == str(number).encode()
    connection.ask(bind("kept", ["7"], "portal"), SYNC)
    assert errors(connection.ask(execute("portal"), SYNC)) == ["34000"]
    assert tags(connection.ask(close_statement("kept"), SYNC)) == "3Z"
    assert errors(connection.ask(bind("kept", ["7"]), execute(), SYNC)) == ["26000"]


def test_named_statement_cannot_be_replaced_but_the_unnamed_can(connection):
    assert tags(connection.ask(parse("select 1", "taken"), SYNC)) == "1Z"
    assert errors(connection.ask(parse("select 2", "taken"), SYNC)) == ["42P05"]
    assert errors(connection.ask(parse("select 1", "taken"), SYNC)) == ["42P05"]
    assert only(connection.ask(bind("taken"), execute(), SYNC)) == b"1"
    for number in (b"3", b"4"):
        assert only(connection.ask(parse(b"select " + number), bind(), execute(), SYNC)) == number


def test_a_failed_parse_leaves_no_statement(connection):
    connection.ask(parse("select 1"), SYNC)
    assert errors(connection.ask(parse("selec 2"), SYNC)) == ["42601"]
    assert errors(connection.ask(bind(), execute(), SYNC)) == ["26000"]
    assert errors(connection.ask(parse("selec 2", "named"), SYNC)) == ["42601"]
    assert tags(connection.ask(parse("select 2", "named"), SYNC)) == "1Z"


def test_a_simple_query_drops_the_unnamed_statement(connection):
    connection.ask(parse("select 1"), SYNC)
    connection.query("select 2")
    assert errors(connection.ask(bind(), execute(), SYNC)) == ["26000"]


def test_unknown_statements_and_portals(connection):
    assert errors(connection.ask(bind("nobody"), SYNC)) == ["26000"]
    assert errors(connection.ask(describe_statement("nobody"), SYNC)) == ["26000"]
    assert errors(connection.ask(describe_portal("nobody"), SYNC)) == ["34000"]
    assert errors(connection.ask(execute("nobody"), SYNC)) == ["34000"]
    assert tags(connection.ask(close_statement("nobody"), close_portal("nobody"), SYNC)) == "33Z"


def test_duplicate_portal_name(connection):
    answer = connection.ask(parse("select 1", "s"), bind("s", portal="p"), bind("s", portal="p"), SYNC)
    assert tags(answer) == "12EZ" and errors(answer) == ["42P03"]


def test_wrong_number_of_parameters(connection):
    assert errors(connection.ask(parse("select $1::int"), bind(values=[]), SYNC)) == ["08P01"]
    assert errors(connection.ask(parse("select $1::int"), bind(values=["1", "2"]), SYNC)) == ["08P01"]
    assert connection.value("select 1") == "1"


def test_several_statements_in_one_parse_are_refused(connection):
    assert errors(connection.ask(parse("select 1; select 2"), SYNC)) == ["42601"]


def test_after_an_error_everything_is_skipped_up_to_sync(connection):
    answer = connection.ask(
        extended("select 1"),
        extended("select 1/0"),
        extended("select 2"),
        close_portal(),
        parse("select 3", "never"),
        SYNC,
    )
    assert tags(answer) == "12TDC1EZ", "the division is folded when Bind plans it"
    assert errors(connection.ask(bind("never"), SYNC)) == ["26000"]


def test_a_batch_is_one_implicit_transaction(connection):
    connection.query("create table t (id int)")
    answer = connection.ask(extended("insert into t values (1)"), extended("select 1/0"), SYNC)
    assert errors(answer) == ["22012"]
    assert connection.value("select count(*) from t") == "0"
    connection.ask(extended("insert into t values (1)"), SYNC, extended("select 1/0"), SYNC)
    connection.read_until_ready()
    assert connection.value("select count(*) from t") == "1"


def test_begin_and_first_statement_in_one_batch(connection):
    connection.query("create table t (id int)")
    answer = connection.ask(parse("begin"), bind(), execute(), extended("insert into t values ($1)", "5"), SYNC)
    assert tags(answer) == "12C12nCZ" and status(answer) == "T"
    assert status(connection.query("rollback")) == "I"
    assert connection.value("select count(*) from t") == "0"


def test_row_limit_suspends_the_portal(connection):
    connection.query("begin")
    connection.send(
        parse("select generate_series(1, 5)"), bind(portal="p"), execute("p", 2), execute("p", 2), execute("p", 2), SYNC
    )
    answer = connection.read_until_ready()
    assert tags(answer) == "12DDsDDsDCZ"
    assert [value for (value,) in rows(answer)] == [b"1", b"2", b"3", b"4", b"5"]
    assert tags(connection.ask(execute("p", 2), SYNC)) == "CZ", "an exhausted portal gives nothing more"
    connection.query("commit")
    assert errors(connection.ask(execute("p", 2), SYNC)) == ["34000"]


def test_a_suspended_portal_goes_on_after_other_statements(connection):
    connection.query("begin")
    answer = connection.ask(parse("select generate_series(1, 3)", "s"), bind("s", portal="p"), execute("p", 1), SYNC)
    assert tags(answer) == "12DsZ"
    assert connection.value("select 'between'") == "between"
    assert [v for (v,) in rows(connection.ask(execute("p", 0), SYNC))] == [b"2", b"3"]
    connection.ask(close_portal("p"), SYNC)
    assert errors(connection.ask(execute("p"), SYNC)) == ["34000"]


def test_row_limit_outside_a_transaction_ends_with_the_batch(connection):
    answer = connection.ask(parse("select generate_series(1, 3)"), bind(), execute(rows_max=1), SYNC)
    assert tags(answer) == "12DsZ"
    assert errors(connection.ask(execute(), SYNC)) == ["34000"]


def test_flush_without_sync(connection):
    connection.send(parse("select $1::int", "s"), describe_statement("s"), FLUSH)
    assert tags(connection.read_until("T")) == "1tT"
    connection.send(bind("s", ["1"]), execute(), FLUSH)
    assert tags(connection.read_until("C")) == "2DC"
    connection.send(bind("s", ["no number"]), execute(), FLUSH)
    assert tags(connection.read_until("E")) == "E"
    connection.send(bind("s", ["2"]), execute(), FLUSH, SYNC)
    answer = connection.read_until_ready()
    assert tags(answer) == "Z", "after the error everything up to Sync is skipped"


def test_flushed_write_is_not_committed_before_sync(connection, schema):
    connection.query("create table t (id int)")
    connection.send(extended("insert into t values (1)"), FLUSH)
    connection.read_until("C")
    with Connection.login(schema.base_url) as other:
        assert other.value(f"select count(*) from {schema.name}.t") == "0"
        connection.send(SYNC)
        connection.read_until_ready()
        assert other.value(f"select count(*) from {schema.name}.t") == "1"


def test_sync_alone_and_many_syncs(connection):
    assert tags(connection.ask(SYNC)) == "Z"
    connection.send(SYNC * 50)
    assert tags(connection.read_until_ready(50)) == "Z" * 50


def test_simple_query_behind_an_unsynced_batch(connection):
    connection.send(extended("select 1"), query("select 2"))
    answer = connection.read_until_ready()
    assert rows(answer) == [(b"1",), (b"2",)] and status(answer) == "I"


def test_extended_protocol_in_a_failed_transaction_only_ends_it(connection):
    connection.query("begin")
    connection.ask(parse("rollback", "end"), SYNC)
    connection.query("select 1/0")
    answer = connection.ask(bind("end"), execute(), SYNC)
    assert tags(answer) == "2CZ" and status(answer) == "I"


# ---- pipelines ---------------------------------------------------------------------------------------------------------------


def test_pipeline_of_many_batches_before_the_first_answer(connection):
    connection.send(b"".join(extended("select $1::int", str(n)) + SYNC for n in range(2000)))
    answer = connection.read_until_ready(2000)
    assert tags(answer) == "12TDCZ" * 2000
    assert [int(value) for (value,) in rows(answer)] == list(range(2000))


def test_pipeline_of_simple_queries(connection):
    connection.send(b"".join(query(f"select {n}") for n in range(1000)))
    assert [int(value) for (value,) in rows(connection.read_until_ready(1000))] == list(range(1000))


def test_pipeline_mixing_simple_extended_transactions_and_errors(connection):
    connection.query("create table t (id int primary key)")
    connection.send(
        query("begin"),
        extended("insert into t values (1)"),
        SYNC,
        query("select 1/0"),
        extended("select 1"),
        SYNC,
        query("rollback"),
        extended("insert into t values (2)"),
        SYNC,
        query("insert into t values (2)"),
        query("select id from t"),
    )
    answers = [connection.read_until_ready() for _ in range(8)]
    assert [status(a) for a in answers] == list("TTEEIIII")
    assert [errors(a) for a in answers] == [[], [], ["22012"], ["25P02"], [], [], ["23505"], []]
    assert rows(answers[-1]) == [(b"2",)]


def test_pipeline_of_writes_and_reads_sees_its_own_writes(connection):
    connection.query("create table t (id int)")
    connection.send(
        b"".join(
            extended(f"insert into t values ({n})") + SYNC + extended("select count(*) from t") + SYNC
            for n in range(200)
        )
    )
    assert [int(value) for (value,) in rows(connection.read_until_ready(400))] == list(range(1, 201))


def run_full_duplex(connection, sent, answers, pause_every=1 << 20):
    """Sends all of `sent` from a thread while the answers are read slowly. A deadlock ends at a deadline, as a failure."""
    failure = []

    def send():
        try:
            connection.socket.sendall(sent)
        except OSError as error:
            failure.append(error)

    connection.deadline = 40
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    size = next_pause = 0
    found = []
    for _ in range(answers):
        for message in connection.read_until("Z"):
            size += len(message.body)
            if message.tag in "EDZ":
                found.append((message.tag, len(message.body)))
            if size > next_pause:
                next_pause += pause_every
                threading.Event().wait(0.01)  # the slow reader: this is the load, not a wait for anything
    sender.join(40)
    assert not sender.is_alive() and not failure, failure
    return found, size


def test_full_duplex_large_batches(url):
    """50 MB of pipelined queries go in while 50 MB of answers come out and the client reads slowly."""
    connection = Connection(url, receive_buffer=1 << 16)
    with connection:
        connection.send(startup(connection.startup_parameters()))
        connection.authenticate()
        batch = extended("select $1::text", "x" * (1 << 20)) + SYNC
        found, size = run_full_duplex(connection, batch * 50, 50)
        assert size > 50 << 20
        assert [tag for tag, _ in found] == ["D", "Z"] * 50
        assert {length for tag, length in found if tag == "D"} == {(1 << 20) + 6}


def test_full_duplex_small_batches(url):
    """The same with many small ones: 20,000 batches in flight fill every buffer on the way with queries and answers."""
    connection = Connection(url, receive_buffer=1 << 14)
    with connection:
        connection.send(startup(connection.startup_parameters()))
        connection.authenticate()
        connection.ask(parse("select repeat($1, 100)", "s"), SYNC)
        batch = bind("s", ["0123456789"]) + execute() + SYNC
        found, _ = run_full_duplex(connection, batch * 20000, 20000)
        assert found == [("D", 1006), ("Z", 1)] * 20000


def test_two_byte_drip_feeding_of_all_messages(schema):
    with Connection.login(schema.base_url, drip=2) as connection:
        connection.query(f"set search_path = {schema.name}")
        assert tags(connection.query("create table t (id int, name text)")) == "CZ"
        connection.send(
            extended("insert into t values ($1, $2)", "1", "one"), SYNC, extended("select id, name from t"), SYNC
        )
        answer = connection.read_until_ready(2)
        assert tags(answer) == "12nCZ12TDCZ" and rows(answer) == [(b"1", b"one")]
        connection.send(query("copy t from stdin"), copy_data(b"2\ttw"), copy_data(b"o\n"), COPY_DONE)
        assert tags(connection.read_until_ready()) == "GCZ"
        assert connection.value("select name from t where id = 2") == "two"


# ---- function call -----------------------------------------------------------------------------------------------------------


def test_function_call(connection):
    answer = connection.ask(wire.function_call(INT4PL, (struct.pack("!i", 40), struct.pack("!i", 2))))
    assert tags(answer) == "VZ"
    assert answer[0].body == struct.pack("!ii", 4, 42)
    answer = connection.ask(wire.function_call(INT4PL, (b"40", b"2"), binary=False))
    assert answer[0].body[4:] == b"42"
    answer = connection.ask(wire.function_call(INT4PL, (None, struct.pack("!i", 2))))
    assert answer[0].body == struct.pack("!i", -1), "a strict function of null is null"


def test_function_call_error_and_in_a_transaction(connection):
    assert errors(connection.ask(wire.function_call(3999999999, ()))) == ["42883"]
    connection.query("begin")
    answer = connection.ask(wire.function_call(INT4PL, (struct.pack("!i", 2**31 - 1), struct.pack("!i", 1))))
    assert errors(answer) == ["22003"] and status(answer) == "E"
    connection.query("rollback")


# ---- COPY --------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(connection):
    connection.query("create table t (id int primary key, name text)")
    return connection


def test_copy_in_and_out(table):
    table.send(query("copy t from stdin"))
    assert [m.tag for m in table.read_until("G")] == ["G"]
    table.send(copy_data(b"1\tone\n2\t"), copy_data(b"two\n3\t\\N\n"), COPY_DONE)
    answer = table.read_until_ready()
    assert tags(answer) == "CZ" and answer[0].text == "COPY 3"
    answer = table.query("copy (select * from t order by id) to stdout")
    assert tags(answer) == "HdddcCZ"
    assert b"".join(m.body for m in answer if m.tag == "d") == b"1\tone\n2\ttwo\n3\t\\N\n"


def test_copy_fail_from_the_client(table):
    table.send(query("copy t from stdin"), copy_data(b"1\tone\n"), copy_fail("changed my mind"))
    answer = table.read_until_ready()
    assert tags(answer) == "GEZ" and errors(answer) == ["57014"] and "changed my mind" in answer[1].fields["M"]
    assert table.value("select count(*) from t") == "0"


def test_copy_error_from_the_server_while_the_client_still_sends(table):
    table.send(query("copy t from stdin"), copy_data(b"1\tone\n1\ttwice\n"))
    table.send(copy_data(b"3\tmore\n") * 1000, COPY_DONE)
    answer = table.read_until_ready()
    assert tags(answer) == "GEZ" and errors(answer) == ["23505"]
    assert table.value("select count(*) from t") == "0"


def test_copy_in_a_transaction_fails_the_transaction(table):
    table.query("begin")
    table.send(query("copy t from stdin"), copy_data(b"not a number\tx\n"), COPY_DONE)
    answer = table.read_until_ready()
    assert errors(answer) == ["22P02"] and status(answer) == "E"
    assert status(table.query("rollback")) == "I"


def test_copy_of_nothing(table):
    table.send(query("copy t from stdin"), COPY_DONE)
    answer = table.read_until_ready()
    assert tags(answer) == "GCZ" and answer[1].text == "COPY 0"
    assert tags(table.query("copy t to stdout")) == "HcCZ"


def test_copy_messages_outside_of_copy_are_ignored(table):
    table.send(copy_data(b"1\tlate\n"), COPY_DONE, copy_fail("late"))
    assert table.value("select count(*) from t") == "0"


def test_copy_in_by_the_extended_protocol_with_sync_in_the_middle(table):
    """Flush and Sync are ignored while COPY reads; so the Sync that drivers send behind Execute does not end the batch."""
    table.send(parse("copy t from stdin"), bind(), describe_portal(), execute(), SYNC)
    assert tags(table.read_until("G")) == "12nG"
    table.send(copy_data(b"1\tone\n"), SYNC, FLUSH, copy_data(b"2\ttwo\n"), COPY_DONE, SYNC)
    answer = table.read_until_ready()
    assert tags(answer) == "CZ" and answer[0].text == "COPY 2"
    assert table.value("select count(*) from t") == "2", "exactly one ReadyForQuery came"


def test_copy_in_by_the_extended_protocol_failing(table):
    table.send(parse("copy t from stdin"), bind(), execute(), copy_data(b"1\tone\nbad\n"), COPY_DONE, SYNC)
    answer = table.read_until_ready()
    assert errors(answer) == ["22P02"] and status(answer) == "I"
    table.send(parse("copy t from stdin"), bind(), execute(), copy_fail("no"), extended("select 1"), SYNC)
    answer = table.read_until_ready()
    assert tags(answer) == "12GEZ", "the batch is skipped up to Sync"


def test_copy_out_by_the_extended_protocol(table):
    table.query("insert into t select n, 'n' || n from generate_series(1, 3) n")
    answer = table.ask(parse("copy t to stdout"), bind(), execute(), SYNC)
    assert tags(answer) == "12HdddcCZ"


def test_two_copies_in_one_multi_statement_string(table):
    table.send(query("copy t from stdin; copy t from stdin; select count(*) from t"))
    table.read_until("G")
    table.send(copy_data(b"1\tone\n"), COPY_DONE)
    assert tags(table.read_until("G")) == "CG"
    table.send(copy_data(b"2\ttwo\n"), COPY_DONE)
    answer = table.read_until_ready()
    assert tags(answer) == "CTDCZ" and only(answer) == b"2"


def test_binary_copy_round_trip(table):
    table.query("insert into t select n, repeat('x', n) from generate_series(1, 500) n")
    data = b"".join(m.body for m in table.query("copy t to stdout (format binary)") if m.tag == "d")
    table.query("create table copied (like t)")
    table.send(query("copy copied from stdin (format binary)"))
    for at in range(0, len(data), 777):
        table.send(copy_data(data[at : at + 777]))
    table.send(COPY_DONE)
    assert errors(table.read_until_ready()) == []
    assert table.value("select count(*) from t natural join copied") == "500"


def test_query_in_the_middle_of_copy_is_a_protocol_violation(table):
    table.send(query("copy t from stdin"), copy_data(b"1\tone\n"), query("select 1"))
    answer = table.read_until_closed()
    assert errors(answer)[0] == "08P01" and rows(answer) == []


# ---- startup -----------------------------------------------------------------------------------------------------------------


def test_startup_reports_what_drivers_read(url):
    with Connection.login(
        url, application_name="weir clients", client_encoding="LATIN1", DateStyle="German"
    ) as connection:
        told = connection.parameters
        assert told["application_name"] == "weir clients"
        assert told["client_encoding"] == "LATIN1"
        assert told["DateStyle"] == "German, DMY"
        assert {
            "server_version",
            "server_encoding",
            "integer_datetimes",
            "IntervalStyle",
            "is_superuser",
            "TimeZone",
            "session_authorization",
            "standard_conforming_strings",
        } <= told.keys()
        assert connection.value("show server_version") == told["server_version"]
        assert connection.value("select pg_backend_pid()") == str(connection.process_id)


def test_changes_of_reported_settings_are_told_before_ready_for_query(connection):
    answer = connection.query("set timezone = 'Europe/Rome'; set application_name = 'renamed'")
    assert tags(answer) == "CCSSZ"
    assert {m.pair for m in answer if m.tag == "S"} == {("TimeZone", "Europe/Rome"), ("application_name", "renamed")}
    connection.query("begin")
    assert [m.pair for m in connection.query("set timezone = 'Asia/Tokyo'") if m.tag == "S"] == [
        ("TimeZone", "Asia/Tokyo")
    ]
    assert [m.pair for m in connection.query("rollback") if m.tag == "S"] == [("TimeZone", "Europe/Rome")]


def test_database_defaults_to_the_user_name(url):
    connection = Connection(url)
    if connection.address.user != connection.address.database:
        pytest.skip("the database is not named after the user")
    connection.send(startup({"user": connection.address.user}))
    connection.authenticate()
    assert connection.value("select current_database()") == connection.address.user
    connection.terminate()


def test_newer_minor_protocol_is_negotiated(url):
    """Manual: a server that does not know the minor version answers with NegotiateProtocolVersion and goes on."""
    connection = Connection(url)
    connection.send(startup(connection.startup_parameters(), wire.PROTOCOL_3_0 | 9))
    answer = connection.authenticate()
    (negotiated,) = [m for m in answer if m.tag == "v"]
    version, unknown_options = struct.unpack_from("!ii", negotiated.body)
    assert version >> 16 in (0, 3) and version & 0xFFFF < 9 and unknown_options == 0
    assert connection.value("select 1") == "1"
    connection.terminate()


def test_protocol_3_2_is_spoken_or_negotiated_down(url):
    connection = Connection(url)
    connection.send(startup(connection.startup_parameters(), wire.PROTOCOL_3_0 | 2))
    answer = connection.authenticate()
    if "v" in tags(answer):
        assert len(connection.secret) == 4, "protocol 3.0 has cancel keys of four bytes"
    else:
        assert 4 <= len(connection.secret) <= 256
    assert connection.value("select 1") == "1"
    connection.terminate()


def test_unknown_protocol_options_are_listed(url):
    connection = Connection(url)
    connection.send(startup({**connection.startup_parameters(), "_pq_.weir_unknown": "1", "_pq_.another": "x"}))
    answer = connection.authenticate()
    (negotiated,) = [m for m in answer if m.tag == "v"]
    assert struct.unpack_from("!i", negotiated.body, 4) == (2,)
    assert negotiated.body[8:].rstrip(b"\0").split(b"\0") == [b"_pq_.weir_unknown", b"_pq_.another"]
    assert connection.value("select 1") == "1"
    connection.terminate()


def test_gss_encryption_request(url):
    connection = Connection(url)
    connection.send(wire.GSSENC_REQUEST)
    answer = connection.read_exactly(1)
    if not targets.BEHIND_PROXY and answer == b"G":
        connection.close()
        pytest.skip("this PostgreSQL speaks GSSAPI")
    assert answer == b"N"
    connection.send(startup(connection.startup_parameters()))
    connection.authenticate()
    assert connection.value("select 1") == "1"
    connection.terminate()


def test_ssl_request_refused_then_plain_startup(url):
    connection = Connection(url)
    connection.send(wire.SSL_REQUEST)
    answer = connection.read_exactly(1)
    assert answer in (b"S", b"N")
    if answer == b"N":
        connection.send(startup(connection.startup_parameters()))
        connection.authenticate()
        assert connection.value("select 1") == "1"
        connection.terminate()
    connection.close()


@pytest.mark.parametrize("request_", [wire.SSL_REQUEST, wire.GSSENC_REQUEST], ids=["ssl", "gss"])
def test_plain_text_right_behind_an_encryption_request_is_never_served(url, request_):
    """CVE-2021-23214: what an attacker put in front of the handshake must not count as said inside of it."""
    if request_ == wire.GSSENC_REQUEST and not targets.BEHIND_PROXY:
        pytest.skip("a PostgreSQL that speaks GSSAPI waits for the rest of a token instead")
    connection = Connection(url)
    connection.send(request_ + startup(connection.startup_parameters()))
    answer = b""
    try:
        while piece := connection.socket.recv(4096):
            answer += piece
    except ConnectionError:
        pass
    assert b"R" not in answer[:2] and b"SCRAM" not in answer, f"served: {answer!r}"
    connection.close()


def test_unsupported_major_protocol_is_refused(url):
    connection = Connection(url)
    connection.send(startup(connection.startup_parameters(), 4 << 16))
    answer = connection.read_until_closed()
    assert errors(answer) == ["0A000"]


def test_unknown_setting_in_the_startup_packet_is_refused(url):
    with pytest.raises(wire.Refused) as refused:
        Connection.login(url, no_such_setting="1")
    assert refused.value.sqlstate == "42704"


def test_invalid_value_in_the_startup_packet_is_refused(url):
    with pytest.raises(wire.Refused) as refused:
        Connection.login(url, options="-c statement_timeout=soon")
    assert refused.value.sqlstate == "22023"


# ---- cancel ------------------------------------------------------------------------------------------------------------------


def test_cancel_with_the_right_key(connection, schema, direct):
    connection.send(query(f"select pg_sleep(30) /* {schema.name} */"))
    wait_until_running(direct, schema.name)
    wire.cancel(connection)
    answer = connection.read_until_ready()
    assert errors(answer) == ["57014"] and status(answer) == "I"
    assert connection.value("select 1") == "1"


def test_cancel_in_a_transaction_fails_the_transaction(connection, schema, direct):
    connection.query("begin; create table t (id int)")
    connection.send(extended(f"select pg_sleep(30) /* {schema.name} */"), SYNC)
    wait_until_running(direct, schema.name)
    wire.cancel(connection)
    answer = connection.read_until_ready()
    assert errors(answer) == ["57014"] and status(answer) == "E"
    connection.query("rollback")


def test_cancel_with_a_wrong_key_or_while_idle_does_nothing(connection, schema, direct):
    connection.send(query(f"select pg_sleep(0.7) /* {schema.name} */"))
    wait_until_running(direct, schema.name)
    wrong = bytes(byte ^ 0xFF for byte in connection.secret)
    wire.cancel(connection, secret=wrong)
    assert errors(connection.read_until_ready()) == []
    wire.cancel(connection)
    assert connection.value("select 1") == "1"


def test_cancel_key_of_one_client_does_not_reach_another(schema, direct):
    """Two clients may be served by the same server connection one after the other."""
    with Connection.login(schema.base_url) as idle, Connection.login(schema.base_url) as busy:
        idle.query("select 1")
        busy.send(query(f"select pg_sleep(0.5) /* {schema.name} */"))
        wait_until_running(direct, schema.name)
        wire.cancel(idle)
        assert errors(busy.read_until_ready()) == []


# ---- end of a session --------------------------------------------------------------------------------------------------------


def test_terminate_closes(url):
    connection = Connection.login(url)
    connection.send(wire.TERMINATE)
    assert connection.read_until_closed() == []
    connection.close()


def test_terminate_in_an_open_batch_closes(url):
    """asyncpg describes with Flush, and leaves without ever sending the Sync."""
    connection = Connection.login(url)
    connection.send(parse("select 1", "s"), describe_statement("s"), FLUSH)
    assert tags(connection.read_until("T")) == "1tT"
    connection.send(wire.TERMINATE)
    assert connection.read_until_closed() == []
    connection.close()


def test_terminate_behind_a_write_still_commits_it(connection, schema):
    connection.query("create table t (id int)")
    with Connection.login(schema.base_url) as other:
        other.send(query(f"insert into {schema.name}.t values (1)"), wire.TERMINATE)
        assert "C" in tags(other.read_until_closed())
    assert connection.value("select count(*) from t") == "1"


@pytest.mark.skipif(
    targets.NOISY and targets.BEHIND_PROXY,
    reason="who closes its side while it has to wait for a server connection, as among neighbors, is taken to have left",
)
def test_half_closed_client_still_gets_its_answers(schema):
    """`psql` in a pipe and netcat shut down their sending side and then read."""
    connection = Connection.login(schema.base_url)
    connection.send(query("select 1"), query("select 2"))
    connection.socket.shutdown(socket.SHUT_WR)
    assert rows(connection.read_until_closed()) == [(b"1",), (b"2",)]
    connection.close()


def test_message_with_which_the_server_ends_a_session_reaches_the_client(connection, schema, direct):
    """57P01 while the client sits in a transaction, as an administrator's pg_terminate_backend or a restart sends it."""
    connection.query(f"begin; create table t (id int); select pg_advisory_xact_lock({schema.lock})")
    terminate_holder_of_lock(direct, schema.lock)
    assert errors(connection.read_until_closed()) == ["57P01"]
