"""Conversations with PostgreSQL, made from a seed: the same number always gives the same bytes.

A conversation is a list of steps; a step is what the client sends before it waits, and how many ReadyForQuery then come. The
generator keeps to statements whose answers depend on nothing but the schema in `SETUP`, and guesses what state the session is
in, so that most statements succeed and enough of them fail.
"""

import struct
from dataclasses import dataclass
from random import Random

import wire
from wire import (
    COPY_DONE,
    FLUSH,
    SYNC,
    bind,
    close_portal,
    close_statement,
    copy_data,
    copy_fail,
    describe_portal,
    describe_statement,
    execute,
    parse,
    query,
)

SETUP = """
drop schema if exists {schema} cascade;
create schema {schema};
set search_path = {schema};
create type mood as enum ('sad', 'fine', 'glad');
create domain positive as int check (value > 0);
create type pair as (a int, b text);
create table t (id int primary key, name text not null, n numeric(10, 2), mood mood default 'fine', tags text[], doc jsonb, at timestamptz);
create table u (id serial primary key, t_id int references t on delete cascade, note text unique, quantity positive default 1);
create table log (id int generated always as identity, said text);
create table part (k int, v text) partition by range (k);
create table part_low partition of part for values from (0) to (10);
create table part_high partition of part for values from (10) to (100);
create sequence seq;
create view v as select t.id, t.name, count(u.id) as notes from t left join u on u.t_id = t.id group by t.id, t.name;
create function twice(int) returns int language sql immutable as 'select $1 * 2';
create function names() returns setof text language sql stable as 'select name from t order by id';
create function say(text) returns int language sql volatile as 'insert into log (said) values ($1) returning id';
create function shout() returns trigger language plpgsql as
    $$ begin raise notice 'trigger % on %', tg_op, tg_table_name; perform say(tg_op); return new; end $$;
create trigger loud after insert or update on u for each row execute function shout();
create procedure commits(int) language plpgsql as
    $$ begin insert into log (said) values ('one'); commit; insert into log (said) values ('two'); if $1 = 0 then rollback; end if; end $$;
insert into t select n, 'name ' || n, n * 1.5, (array['sad', 'fine', 'glad'])[n % 3 + 1]::mood, array['a', 'b' || n],
    jsonb_build_object('n', n, 'even', n % 2 = 0), timestamptz '2024-01-01 12:00Z' + n * interval '1 day' from generate_series(1, 12) n;
insert into part select n * 7, 'part ' || n from generate_series(0, 10) n;
set client_min_messages = warning;
insert into u (t_id, note) select n % 6 + 1, 'note ' || n from generate_series(1, 9) n;
"""


@dataclass(frozen=True)
class Part:
    text: str  # what a reader of a failure is shown
    sent: bytes
    answers: int = 0  # ReadyForQuery messages that end it


@dataclass(frozen=True)
class Step:
    kind: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return f"{self.kind}: {' | '.join(part.text for part in self.parts)}"

    @property
    def sent(self) -> bytes:
        return b"".join(part.sent for part in self.parts)

    @property
    def answers(self) -> int:
        return sum(part.answers for part in self.parts)


SYNC_PART = Part("Sync", SYNC, 1)


READS = [
    "select * from t order by id",
    "select id, name from t where id = {i}",
    "select name, n from t where n > {i} order by n desc limit 3",
    "select count(*), sum(n), min(name) from t",
    "select t.name, u.note from t join u on u.t_id = t.id where t.id < {i} order by 1, 2",
    "select mood, count(*) from t group by mood order by mood",
    "select * from v order by id limit {i}",
    "table part_low",
    "select k, v from part where k between {i} and 40 order by k",
    "values ({i}, 'a'), (2, null)",
    "select",
    "select id, row_number() over (partition by mood order by id) from t order by id",
    "select twice({i}), twice(id) from t where id <= 2 order by id",
    "select * from names() with ordinality limit 4",
    "select tags[1], array_length(tags, 1), doc->>'n', doc from t where id = {i}",
    "with x as (select id from t where id < {i}) select count(*) from x",
    "select id from t where id in (1, {i}, 99) union all select {i} order by 1",
    "select exists (select from u where t_id = {i})",
    "select coalesce(max(id), 0) from log",
    "select said from log order by id",
    "select at from t where id = {i}",
    "select at::date, extract(year from at), at - timestamptz '2024-01-01Z' from t where id = {i}",
    "select '{i}'::int, 'x'::\"char\", null::text, true, 1.5::float4, 'NaN'::float8, '\\x00ff'::bytea, '1 day'::interval",
    "select row({i}, 'x')::pair, array[[1,2],[3,{i}]], '[1,5)'::int4range, '{{\"a\": {i}}}'::json",
    'select 1 as a, 2 as a, 3 as "Odd "" Name"',
    "select relname from pg_class where relnamespace = current_schema()::regnamespace and relkind = 'r' order by 1",
    "select column_name, data_type from information_schema.columns where table_schema = current_schema and table_name = 't' order by ordinal_position",
    "select current_schema(), current_user, session_user",
    "select now() = transaction_timestamp(), current_date - now()::date",
    "select 't'::regclass::text, 'mood'::regtype::text, to_regclass('nowhere') is null",
    "explain (costs off) select * from t where id = {i}",
    "select set_config('my.read', '{i}', true)",
    "select coalesce(current_setting('my.name', true), '')",
    "show search_path",
    "show transaction_isolation",
    "select current_setting('transaction_read_only')",
    "show server_version_num",
    "select string_agg(name, ',' order by id) from t",
    "/* a comment */ select {i} -- and another",
    "select $$dollar ; 'quoted'$$, E'tab\\t', U&'\\0041', 'it''s'",
    "select generate_series(1, {i}) as g",
    "select t::text from t where id = {i}",
    "select (t).* from t where id = {i}",
    "select repeat('x', {i} * 1000)",
    "select 'ü €', length('ü €')",
    "select not pg_is_in_recovery()",
    "select * from t where false",
    "select * from only part",
    "select lower(n) from (values ('A')) as x (n)",
    "with recursive r(n) as (select 1 union all select n + 1 from r where n < {i}) select sum(n) from r",
]

ROW_WRITES = [
    "insert into t (id, name) values ({j}, 'new {j}')",
    "insert into t (id, name) values ({j}, 'new') returning *",
    "update t set n = n + 1 where id = {i}",
    "insert into t (id, name) values ({i}, 'again') on conflict (id) do update set name = excluded.name returning id, name",
    "insert into t (id, name) values ({i}, 'again') on conflict do nothing",
    "delete from t where id = {i} returning name",
    "delete from u where id = {i}",
    "update t set tags = tags || 'z' where id <= {i} returning id, tags",
    "insert into u (t_id, note) values ({i}, 'by {j}') returning id",
    "insert into u (t_id, note) values (1, 'note {i}')",
    "insert into u (t_id, quantity) values (1, {i} - 3)",
    "insert into u (t_id) values ({j})",
    "with x as (delete from u where t_id = {i} returning id) select count(*) from x",
    "select say('said {i}')",
    "select nextval('seq'), nextval('seq')",
    "insert into part values ({i} * 10, 'p') returning tableoid::regclass::text, k",
    "update part set k = 99 - k where k = {i}",
    "select setval('seq', {i} * 100)",
    "truncate log",
    "truncate u restart identity",
    "select * from t where id = {i} for update",
    "select id from t where id < 3 for share skip locked",
    "merge into t using (values ({i}, 'merged')) as s (id, name) on t.id = s.id when matched then update set name = s.name"
    " when not matched then insert (id, name) values (s.id, s.name)",
    "insert into log (said) select name from t where id < {i}",
]

WRITES = [
    *ROW_WRITES,
    "call commits({i})",
    "call commits(0)",
    "create table extra_{i} (a int, b text)",
    "insert into extra_{i} values (1, 'x') returning *",
    "select * from extra_{i}",
    "drop table extra_{i}",
    "drop table if exists extra_{i}",
    "create table extra_{i} as select id from t",
    "alter table extra_{i} add column c int default 7",
    "alter table t add column if not exists more int default {i}",
    "alter table t drop column if exists more",
    "create index on t (name)",
    "create or replace view w as select {i} as w",
    "select * from w",
    "create or replace function twice(int) returns int language sql immutable as 'select $1 * 2'",
    "comment on table t is 'about {i}'",
    "select obj_description('t'::regclass)",
    "analyze t",
    "lock table t in share mode",
    "create temp table tmp (id int)",
    "insert into tmp values ({i})",
    "select * from tmp",
    "drop table if exists tmp",
    "create temp table t (id int, name text)",
    "drop table t",
    "select id into temp tmp2 from t where id < {i}",
    "select count(*) from tmp2",
    "update t set mood = 'glad' where id = {i} returning mood",
]

ERRORS = [
    "select 1/0",
    "select {i}/(id - id) from t",
    "select * from nowhere",
    "select nobody from t",
    "selec 1",
    "select 'x'::int",
    "insert into t (id) values ({j})",
    "insert into t (id, name) values (1, 'twice')",
    "insert into u (t_id) values (7777)",
    "select 'odd'::mood",
    "select no_function({i})",
    "select id, count(*) from t",
    "update t set id = 1",
    "drop table v",
    "insert into part values (500, 'nowhere')",
    "select (select id from t)",
    "select 'unterminated",
    "select $1",
    "set no_such_setting = 1",
    "set work_mem = 'much'",
    "select current_setting('no.such')",
    "select cast('2024-13-01' as date)",
    "select array[1, 'x']",
    "do $$ begin raise exception 'mine %', {i} using errcode = 'P0042', hint = 'a hint', detail = 'a detail'; end $$",
    "select set_config('no_such', 'x', false)",
    "insert into v values (1)",
    "create table t (id int)",
    "execute nobody",
    "fetch nobody",
    "deallocate nobody",
    "close nobody",
    "select * from t limit -1",
    "vacuum nowhere",
    "alter table nowhere add x int",
    "select currval('seq')",
    "release nobody",
    "copy nowhere to stdout",
    "begin isolation level odd",
    "lock table nowhere",
]

NOTICES = [
    "do $$ begin raise notice 'notice %', {i}; end $$",
    "drop table if exists nowhere_{i}",
    "do $$ begin raise warning 'w' using hint = 'h', errcode = '01004'; end $$",
    "do $$ begin raise info 'info'; raise notice 'two'; end $$",
    "create schema if not exists {schema}",
    "set local work_mem = '5MB'",
    "create table if not exists t (x int)",
    "do $$ begin for k in 1..{i} loop raise notice 'n %', k; end loop; end $$",
    "select id from t where id = -1; drop view if exists nowhere",
    "set client_min_messages = warning",
    "reset client_min_messages",
]

SETTINGS = [
    "set work_mem = '{i}MB'",
    "show work_mem",
    "reset work_mem",
    "set local work_mem = '{i}MB'",
    "select set_config('work_mem', '{i}MB', false)",
    "set timezone = 'Europe/Rome'",
    "set time zone 'Asia/Tokyo'",
    "set time zone local",
    "reset timezone",
    "show timezone",
    "set datestyle = 'German'",
    "set datestyle to iso, dmy",
    "show datestyle",
    "set intervalstyle = 'iso_8601'",
    "set application_name = 'app {i}'",
    "show application_name",
    "set my.name = 'v{i}'",
    "select coalesce(current_setting('my.name', true), '')",
    "set my.name to default",
    "set search_path = {schema}, public",
    "set search_path = pg_catalog",
    "set extra_float_digits = 0",
    "select 0.1::float8 + 0.2::float8",
    "set client_encoding = 'LATIN1'",
    "set names 'UTF8'",
    "reset client_encoding",
    "show client_encoding",
    "set statement_timeout = '{i}min'",
    "show statement_timeout",
    # RESET ALL, RESET search_path and DISCARD ALL return to the startup packet with the next message only: they are in
    # test_state_leaks, a statement a message.
    "set bytea_output = 'escape'",
    "select '\\xffee'::bytea",
    "set standard_conforming_strings = off",
    "reset standard_conforming_strings",
    "select 'a\\\\b'",
    "set role none",
    "reset role",
    "set session characteristics as transaction isolation level repeatable read",
    "reset default_transaction_isolation",
    "set default_transaction_read_only = on",
    "reset default_transaction_read_only",
    "select at from t where id = {i}",
    "set transaction read only",
    "set constraints all deferred",
    "set enable_seqscan = off",
    "show enable_seqscan",
    "set session authorization default",
    "begin; set work_mem = '{i}MB'; rollback",
    "set work_mem = '{i}MB'; select 1/0",
    "set work_mem = '9MB'; set timezone = 'UTC'; show work_mem",
]

BEGINS = [
    "begin",
    "begin",
    "begin",
    "BEGIN",
    "start transaction",
    "begin isolation level read committed",
    "begin isolation level repeatable read",
    "begin isolation level serializable",
    "begin read only",
    "begin isolation level repeatable read read only",
    "begin transaction isolation level serializable, read only, deferrable",
    "begin work",
    "begin;",
    " begin ;; ",
    "begin isolation level read committed read write",
    "/* c */ begin -- c",
]
ENDS = [
    "commit",
    "commit",
    "commit",
    "rollback",
    "rollback",
    "end",
    "abort",
    "commit work",
    "commit and chain",
    "rollback and chain",
    "commit and no chain",
    "COMMIT;",
]
SAVEPOINTS = [
    "savepoint s1",
    "savepoint s2",
    "release s1",
    "release savepoint s2",
    "rollback to s1",
    "rollback to savepoint s2",
    "rollback work to s1",
]
CURSORS = [
    "declare c cursor for select id, name from t order by id",
    "declare c2 scroll cursor with hold for select generate_series(1, {i})",
    "fetch 3 from c",
    "fetch c",
    "fetch all c",
    "move 2 in c",
    "fetch backward 2 from c2",
    "fetch last c2",
    "close c",
    "close c2",
    "close all",
    "fetch next from c2",
    "fetch absolute 2 from c2",
    "select name, is_holdable from pg_cursors where name like 'c%' order by 1",
]
SQL_PREPARED = [
    "prepare p1 as select name from t where id = $1",
    "execute p1({i})",
    "prepare p2 (int, text) as insert into log (said) values ($2 || $1) returning id",
    "execute p2({i}, 'x')",
    "deallocate p1",
    "deallocate prepare p2",
    "deallocate all",
    "execute n1",
    "deallocate n1",
    "prepare n2 as select 'sql'",
    "explain (costs off) execute p1({i})",
]
LISTENS = [
    "listen {schema}",
    "listen {schema}",
    "listen {schema}",
    "unlisten {schema}",
    "unlisten *",
    "notify {schema}, 'said {i}'",
    "select pg_notify('{schema}', 'by function')",
    "select * from pg_listening_channels() order by 1",
]

PREPARED = [  # text, parameter types given, values to choose from
    ("select id, name from t where id = $1", (), ["1", "5", "77", "x", None]),
    ("select $1::int + 1", (), ["1", "41", "no"]),
    ("select name from t where name like $1 order by id", (), ["name 1%", "%", "zzz"]),
    ("select pg_typeof($1), $1", (25,), ["text", None]),
    ("select pg_typeof($1), $1", (23,), ["7"]),
    ("insert into log (said) values ($1) returning id, said", (), ["said", "more"]),
    ("update t set n = n + $1::numeric where id = 3 returning n", (), ["1", "0.25"]),
    ("insert into t (id, name) values ($1, 'prepared')", (), ["1", "200", "201", "202"]),
    ("delete from u where id = $1", (), ["1", "2", "99"]),
    ("select generate_series(1, $1::int)", (), ["0", "3", "10"]),
    ("select n from t where id = $1", (20,), ["2", "4"]),
    ("select count(*) from v where notes >= $1", (), ["0", "1", "2"]),
    ("select $1::mood, $1::text", (), ["glad", "odd"]),
    ("select 1/$1::int", (), ["1", "0"]),
    ("select twice($1)", (), ["4"]),
    ("select said from log order by id limit $1", (), ["2", "5"]),
]
PREPARED_PLAIN = [
    "select * from t where id < 4 order by id",
    "begin",
    "commit",
    "rollback",
    "select 1/0",
    "insert into log (said) values ('plain')",
    "show work_mem",
    "set work_mem = '6MB'",
    "select doc, tags, at, n from t where id = 2",
    "select * from nowhere",
    "select * from u order by id",
    "",
    "savepoint s1",
    "rollback to s1",
    "update t set name = name",
    "select set_config('my.name', 'ext', false)",
    "create table extra_1 (a int)",
    "drop table extra_1",
    "listen nobody_speaks",
    "copy (select id from t order by id limit 3) to stdout",
    "declare c cursor for select id from t order by id",
    "fetch 2 from c",
    "lock table t",
    "selec",
    "table log",
    "select now() = now()",
]

PORTALS = [
    "select generate_series(1, 4)",
    "select id, name from t order by id",
    "insert into log (said) values ('portal') returning id",
    "select id from t where false",
    "select 1/(2 - id) from t order by id",
]
COPIES_IN = [
    "copy t (id, name) from stdin",
    "copy log (said) from stdin",
    "copy part from stdin",
    "copy nowhere from stdin",
]
COPIES_OUT = [
    "copy t (id, name) to stdout",
    "copy (select id, tags from t order by id) to stdout (format csv, header)",
    "copy log to stdout",
    "copy (select 1/0) to stdout",
    "copy t (id, n) to stdout (format binary)",
    "copy v to stdout",
]

THEMES = {  # how likely each kind of step is
    "reads": dict(read=8, transaction=3, unnamed=4, error=1, write=1),
    "transactions": dict(transaction=8, read=4, write=5, error=2, savepoint=4, unnamed=3, setting=1),
    "prepared": dict(named=10, unnamed=4, transaction=2, write=2, error=1, sql_prepared=2, setting=1),
    "pipelines": dict(pipeline=8, named=2, transaction=2, write=1),
    "portals": dict(portal=8, transaction=3, cursor=4, read=1),
    "settings": dict(setting=10, transaction=3, read=3, savepoint=2, unnamed=2, error=1),
    "strings": dict(strings=8, transaction=2, write=1, setting=1),
    "copy": dict(copy=8, transaction=3, write=2, read=1),
    "pinned": dict(cursor=3, sql_prepared=3, listen=5, write=4, transaction=2, read=2, notice=1, function=1),
    "everything": dict(
        read=3,
        write=4,
        error=2,
        transaction=4,
        savepoint=2,
        setting=3,
        notice=2,
        unnamed=4,
        named=4,
        pipeline=3,
        portal=2,
        strings=2,
        copy=2,
        cursor=2,
        sql_prepared=1,
        listen=1,
        function=1,
    ),
}


# Those in which a proxy that splits reads off has something to split: not much else, and no DDL.
READING_THEMES = {
    "reading": dict(read=8, row_write=2, error=1),
    "reading in blocks": dict(read=8, transaction=5, row_write=1, savepoint=1, error=1),
    "reading, extended": dict(read=3, unnamed=3, named=6, row_write=2, transaction=3),
    "reading with settings": dict(read=8, setting=3, transaction=3, row_write=2),
}


class Conversation:
    def __init__(self, seed: int, number: int, schema: str, themes: dict[str, dict] = THEMES):
        self.random = Random(f"{seed}/{number}")
        self.schema = schema
        self.theme = list(themes)[number % len(themes)]
        self.in_block = False
        self.known: dict[str, tuple[str, list]] = {}  # statements that are probably prepared
        kinds, weights = zip(*themes[self.theme].items())
        self.steps = [
            getattr(self, kind)() for kind in self.random.choices(kinds, weights, k=self.random.randint(6, 18))
        ]
        self.steps += [
            self.simple("rollback"),
            self.simple("select count(*), coalesce(sum(n), 0) from t"),
            self.simple("select said from log order by id"),
        ]

    # ---- steps: one method for each kind in THEMES

    def read(self) -> Step:
        return self.either(self.fill(READS))

    def write(self) -> Step:
        return self.either(self.fill(WRITES))

    def row_write(self) -> Step:
        return self.either(self.fill(ROW_WRITES))

    def error(self) -> Step:
        return self.either(self.fill(ERRORS))

    def notice(self) -> Step:
        return self.simple(self.fill(NOTICES))

    def setting(self) -> Step:
        return self.either(self.fill(SETTINGS))

    def savepoint(self) -> Step:
        return self.either(self.fill(SAVEPOINTS))

    def cursor(self) -> Step:
        return self.either(self.fill(CURSORS))

    def sql_prepared(self) -> Step:
        return self.either(self.fill(SQL_PREPARED))

    def listen(self) -> Step:
        return self.either(self.fill(LISTENS))

    def transaction(self) -> Step:
        return self.either(self.transaction_text())

    def transaction_text(self) -> str:
        out_of_place = self.random.random() < 0.1
        text = self.fill(ENDS if self.in_block != out_of_place else BEGINS)
        self.in_block = text in BEGINS or ("chain" in text and "no chain" not in text)
        return text

    def strings(self) -> Step:
        parts = [self.any_text() for _ in range(self.random.randint(2, 5))]
        return self.simple("; ".join(parts) + self.random.choice(["", ";", " ; "]))

    def function(self) -> Step:
        a, b = self.random.choice([(1, 2), (2**31 - 1, 1), (-5, 5)])
        call = wire.function_call(177, (struct.pack("!i", a), struct.pack("!i", b)))
        return Step("function call", (Part(f"int4pl({a}, {b})", call, 1),))

    def unnamed(self) -> Step:
        return Step("extended", (self.one_shot(), SYNC_PART))

    def named(self) -> Step:
        return Step("extended", (*(self.named_message() for _ in range(self.random.randint(1, 4))), SYNC_PART))

    def pipeline(self) -> Step:
        parts = []
        for _ in range(self.random.randint(2, 9)):
            part = self.random.choice([self.one_shot, self.named_message, self.named_message])()
            if "isolation level" in part.text and parts and parts[-1] != SYNC_PART:
                # Whether the batch has taken a snapshot by now depends on which of its statements Weir had to prepare first.
                parts.append(SYNC_PART)
            parts.append(part)
            if self.random.random() < 0.45:
                parts.append(SYNC_PART)
                if self.random.random() < 0.2:
                    sql = self.any_text()
                    parts.append(Part(f"simple: {sql}", query(sql), 1))
            elif self.random.random() < 0.2:
                parts.append(Part("Flush", FLUSH))
        return Step("pipeline", (*parts, SYNC_PART))

    def portal(self) -> Step:
        name, limit = self.random.choice(["", "o1", "o2"]), self.random.choice([0, 1, 2, 5])
        sql = self.random.choice(PORTALS)
        # The unnamed portal is never run again: where `begin` was bound to it and the block then failed, PostgreSQL 15
        # reads memory that it has freed, and once in some hundred conversations the server crashed.
        match self.random.randint(0, 3) if name else 0:
            case 0:
                sent = parse(sql) + bind(portal=name) + describe_portal(name) + execute(name, limit)
                text = f"open portal {name!r} of {sql}, {limit} rows"
            case 1:
                sent, text = execute(name, limit), f"{limit} rows of portal {name!r}"
            case 2:
                sent = execute(name, 1) + execute(name, limit) + describe_portal(name)
                text = f"1 and {limit} rows of portal {name!r}, describe"
            case _:
                sent, text = close_portal(name) + execute(name), f"close portal {name!r} and execute it"
        return Step("extended", (Part(text, sent), SYNC_PART))

    def copy(self) -> Step:
        rows = [f"{self.random.randint(50, 90)}\tcopied {n}\n".encode() for n in range(self.random.randint(0, 5))]
        if self.random.random() < 0.2:
            rows.append(self.random.choice([b"x\tbad\n", b"60\n", b"1\ttwice\n", b"61\ta\tb\n", b"\\.\n"]))
        data = b"".join(rows)
        cut = self.random.randint(0, len(data))
        end = copy_fail("given up") if self.random.random() < 0.15 else COPY_DONE
        into, out = self.random.choice(COPIES_IN), self.random.choice(COPIES_OUT)
        text = f"{into} < {data!r} {'CopyDone' if end == COPY_DONE else 'CopyFail'}"
        match self.random.randint(0, 3):
            case 0 | 1:
                sent = query(into) + copy_data(data[:cut]) + copy_data(data[cut:]) + end
                return Step("simple", (Part(text, sent, 1),))
            case 2:
                return Step(
                    "extended", (Part(text, parse(into) + bind() + execute() + copy_data(data) + end), SYNC_PART)
                )
            case _:
                return self.either(out)

    # ---- parts of steps

    def fill(self, texts: list[str]) -> str:
        text = self.random.choice(texts)
        i, j = self.random.randint(1, 9), self.random.randint(100, 140)
        return (
            text.replace("{i}", str(i))
            .replace("{j}", str(j))
            .replace("{schema}", self.schema)
            .replace("{{", "{")
            .replace("}}", "}")
        )

    def any_text(self) -> str:
        """For a multi-statement string or a pipeline. COPY would need data, and LISTEN's answers are not ordered there."""
        if self.random.random() < 0.25:
            return self.transaction_text()
        return self.fill(
            self.random.choices([READS, WRITES, ERRORS, SETTINGS, NOTICES, SAVEPOINTS], [6, 5, 1, 2, 1, 1])[0]
        )

    def simple(self, sql: str) -> Step:
        return Step("simple", (Part(sql, query(sql), 1),))

    def either(self, sql: str) -> Step:
        if self.random.random() < 0.6:
            return self.simple(sql)
        form = self.result_format()
        sent = parse(sql) + bind(result_formats=form) + describe_portal() + execute() + SYNC
        return Step("extended, binary" if form == (1,) else "extended", (Part(sql, sent, 1),))

    def result_format(self) -> tuple:
        return self.random.choice([(), (), (0,), (1,)])

    def one_shot(self) -> Part:
        form = self.result_format()
        if self.random.random() < 0.4:
            sql = self.transaction_text() if self.random.random() < 0.3 else self.random.choice(PREPARED_PLAIN)
            described = describe_portal() if self.random.random() < 0.5 else b""
            return Part(sql, parse(sql) + bind(result_formats=form) + described + execute())
        sql, types, values = self.random.choice(PREPARED)
        value = self.random.choice(values)
        if self.random.random() < 0.3:
            sent = parse(sql, types=types) + describe_statement() + bind(values=[value]) + execute()
            return Part(f"{sql} {value!r} (statement described)", sent)
        sent = parse(sql, types=types) + bind(values=[value], result_formats=form) + describe_portal() + execute()
        return Part(f"{sql} {value!r}", sent)

    def named_message(self) -> Part:
        name = self.random.choice(["n1", "n2", "n3", "n4"])
        chance = self.random.random()
        if (name not in self.known and chance < 0.9) or chance < 0.08:
            sql, types, values = self.random.choice(PREPARED)
            if self.random.random() < 0.3:
                sql, types, values = self.random.choice(PREPARED_PLAIN), (), None
            self.known.setdefault(name, (sql, values))
            return Part(f"parse {name}: {sql}", parse(sql, name, types))
        if chance < 0.2:
            self.known.pop(name, None)
            return Part(f"close {name}", close_statement(name))
        if chance < 0.35:
            return Part(f"describe {name}", describe_statement(name))
        _, values = self.known.get(name, ("", None))
        given = [self.random.choice(values)] if values else []
        if self.random.random() < 0.05:
            given = [*given, "one too many"]
        described = describe_portal() if self.random.random() < 0.4 else b""
        return Part(
            f"run {name} {given}", bind(name, given, result_formats=self.result_format()) + described + execute()
        )
