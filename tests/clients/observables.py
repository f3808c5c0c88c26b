"""Things in a database that have a version, all ways to write the next one, and all ways to read it.

Each worker of `torture.py` owns row `{r}` of all of them; `{v}` is the version to be written. A write is one statement unless it
is a `Script`. Whatever writes what is not in its text is here: triggers, rules, cascades, views, partitions, functions that lie.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Script:
    """Several simple queries, each sent when the one before was answered; `data` goes behind the last, which is a COPY."""

    steps: tuple[str, ...]
    data: str = ""


@dataclass(frozen=True)
class Observable:
    name: str
    setup: str  # run once; for each worker if it has `{r}`
    writes: tuple[str | Script, ...]
    reads: tuple[str, ...]
    rare: bool = (
        False  # its writes may change the catalog, for all that can be known: no replica serves until it is looked at
    )
    own: bool = False  # only its owner reads it: it comes and goes
    weight: int = 10


def table(name: str) -> str:
    return f"create table {name} (id int primary key, v bigint not null); insert into {name} select n, 0 from generate_series(1, 64) n"


def plain(name: str) -> Observable:
    return Observable(
        name,
        table(name),
        (
            f"update {name} set v = {{v}} where id = {{r}}",
            f"insert into {name} (id, v) values ({{r}}, {{v}}) on conflict (id) do update set v = excluded.v",
            f"update {name} as t set v = s.v from (values ({{r}}, {{v}})) as s (id, v) where t.id = s.id returning t.v",
        ),
        (
            f"select v from {name} where id = {{r}}",
            f"select t.v, count(o.id) from {name} t left join {name} o on o.id > t.id where t.id = {{r}} group by t.v",
            f"with x as (select v from {name} where id = {{r}}) select v from x",
            f"select max(v) from only {name} where id in ({{r}}, {{r}})",
        ),
    )


ODD = Observable(
    "odd",
    table("odd")
    + """;
    create function odd_read(r int) returns bigint stable language sql as 'select v from odd where id = $1';
    create function odd_read_plpgsql(r int) returns bigint stable language plpgsql as
        $$ begin return (select v from odd where id = r); end $$;
    create view odd_view as select id, v from odd where id > 0;
    create view odd_view2 as select o.id, o.v from odd_view o;
    create view odd_by_function as select n as id, odd_read(n) as v from generate_series(1, 64) n;
    create operator ### (rightarg = int, procedure = odd_read)""",
    (
        "with w as (update odd set v = {v} where id = {r} returning v) select v from w",
        "with a as (select 1), b as (update odd set v = {v} where id = {r} returning id) select count(*) from a, b",
        "explain analyze update odd set v = {v} where id = {r}",
        "update odd_view2 set v = {v} where id = {r}",
        "merge into odd using (values ({r}, {v})) as s (id, v) on odd.id = s.id when matched then update set v = s.v",
        Script(("prepare p as update odd set v = $1 where id = {r}; execute p({v}); deallocate p",)),
        Script(
            (
                "begin",
                "declare c cursor for select * from odd where id = {r} for update",
                "fetch c",
                "update odd set v = {v} where current of c",
                "commit",
            )
        ),
        Script(
            (
                "begin",
                "update odd set v = {v} where id = {r}",
                "savepoint s",
                "delete from odd where id = {r}",
                "rollback to s",
                "commit",
            )
        ),
        Script(
            (
                "begin",
                "savepoint s",
                "update odd set v = {v} where id = {r}",
                "release s",
                "commit and chain",
                "rollback",
            )
        ),
        Script(
            (
                "begin isolation level serializable",
                "select v from odd where id = {r}",
                "update odd set v = {v} where id = {r}",
                "end",
            )
        ),
        Script(
            ("update odd set v = {v} where id = {r}; select 1 / 0", "update odd set v = {v} where id = {r}; select 1")
        ),
        Script(("begin; update odd set v = {v} where id = {r}; commit; select v - v from odd where id = {r}",)),
        Script(("begin", "delete from odd where id = {r}", "copy odd from stdin", "commit"), "{r}\t{v}\n"),
    ),
    (
        "select v from odd where id = {r}",
        "select odd_read({r})",
        "select odd_read_plpgsql({r})",
        "select v from odd_view2 where id = {r}",
        "select v from odd_by_function where id = {r}",
        "select ### {r}",
        "select v from odd_view natural join odd_view2 where id = {r}",
    ),
    weight=40,
)

CALLED = Observable(
    "called",
    table("called")
    + """;
    create function called_sql(r int, n bigint) returns bigint language sql as 'update called set v = $2 where id = $1 returning v';
    create function called_plpgsql(r int, n bigint) returns bigint language plpgsql as
        $$ begin execute format('update called set v = %s where id = %s', n, r); return n; end $$;
    create function called_liar(r int, n bigint) returns bigint stable language plpgsql as
        $$ begin perform called_sql(r, n); return n; end $$;
    create function called_definer(r int, n bigint) returns bigint security definer language sql as 'select called_sql($1, $2)';
    create procedure called_procedure(r int, n bigint) language plpgsql as
        $$ begin update called set v = n - 1 where id = r; commit; update called set v = n where id = r; end $$""",
    (
        "do $$ begin update called set v = {v} where id = {r}; end $$",
        "select called_sql({r}, {v})",
        "select called_plpgsql({r}, {v})",
        "select called_liar({r}, {v})",
        "select called_definer({r}, {v})",
        "select x from (select 1) s, lateral called_sql({r}, {v}) x",
        Script(("begin", "set local synchronous_commit = off", "update called set v = {v} where id = {r}", "commit")),
        Script(("call called_procedure({r}, {v})",)),
        Script(
            (
                "begin",
                "update called set v = {v} where id = {r}",
                "prepare transaction 'called {r}'",
                "commit prepared 'called {r}'",
            )
        ),
    ),
    ("select v from called where id = {r}",),
    rare=True,
    weight=5,
)

TRIGGER = Observable(
    "triggered",
    table("triggered")
    + ";"
    + table("triggering")
    + """;
    create function pass_on() returns trigger language plpgsql as
        $$ begin update triggered set v = new.v where id = new.id; return new; end $$;
    create trigger pass_on after insert or update on triggering for each row execute function pass_on();
    create view instead as select id, v from triggered;
    create function instead_of() returns trigger language plpgsql as
        $$ begin update triggered set v = new.v where id = old.id; return new; end $$;
    create trigger instead_of instead of update on instead for each row execute function instead_of();
    create table ruled (id int, v bigint);
    create rule ruled as on insert to ruled do instead update triggered set v = new.v where id = new.id""",
    (
        "update triggering set v = {v} where id = {r}",
        "insert into triggering values ({r}, {v}) on conflict (id) do update set v = excluded.v",
        "update instead set v = {v} where id = {r}",
        "insert into ruled values ({r}, {v})",
    ),
    ("select v from triggered where id = {r}", "select v from instead where id = {r}"),
    weight=20,
)

CASCADE = Observable(
    "cascaded",
    """create table parents (id int primary key, key bigint unique);
    create table children (id int primary key, key bigint references parents (key) on update cascade on delete cascade);
    create table grandchildren (id int primary key references children on delete cascade, v bigint);
    create table leaves (id int primary key references parents, v bigint);
    insert into parents select n, n * 10000000000 from generate_series(1, 64) n;
    insert into children select id, key from parents;""",
    ("update parents set key = {r} * 10000000000 + {v} where id = {r}",),
    (
        "select key - {r} * 10000000000 from children where id = {r}",
        "select key - {r} * 10000000000 from parents join children using (key) where children.id = {r}",
    ),
    weight=15,
)

PARTITIONS = Observable(
    "partitioned",
    """create table partitioned (id int, v bigint, primary key (id)) partition by range (id);
    create table partition_low partition of partitioned for values from (0) to (6);
    create table partition_high partition of partitioned for values from (6) to (100) partition by hash (id);
    create table partition_leaf0 partition of partition_high for values with (modulus 2, remainder 0);
    create table partition_leaf1 partition of partition_high for values with (modulus 2, remainder 1);
    insert into partitioned select n, 0 from generate_series(1, 64) n;
    create table ancestor (id int, v bigint);
    create table heir (more int) inherits (ancestor);
    insert into heir select n, 0, n from generate_series(1, 64) n""",
    (
        "with p as (update partitioned set v = {v} where id = {r}) update heir set v = {v} where id = {r}",
        "with p as (update partition_low set v = {v} where id = {r}), q as (update partition_high set v = {v} where id = {r}) "
        "update ancestor set v = {v} where id = {r}",
        Script(
            (
                "begin",
                "delete from partitioned where id = {r}",
                "update heir set v = {v} where id = {r}",
                "insert into partitioned values ({r}, {v})",
                "commit",
            )
        ),
    ),
    (
        "select v from partitioned where id = {r}",
        "select max(v) from (select v from partition_low where id = {r} union all select v from partition_high where id = {r}) x",
        "select max(v) from (select id, v from partition_low union all select id, v from partition_leaf0 union all table partition_leaf1) x"
        " where id = {r}",
        "select v from ancestor where id = {r}",
        "select v from heir where id = {r}",
    ),
    weight=15,
)

COPIED = Observable(
    "copied",
    "create table copied (id int, v bigint); create index on copied (id, v); insert into copied select n, 0 from generate_series(1, 64) n",
    (Script(("copy copied from stdin",), "{r}\t{v}\n"), "insert into copied select {r}, {v}"),
    ("select max(v) from copied where id = {r}", "select v from copied where id = {r} order by v desc limit 1"),
    weight=10,
)

OWN = Observable(
    "own",
    """create table own_{r} (v bigint); insert into own_{r} values (0); create unlogged table unlogged_{r} (v bigint);
    insert into unlogged_{r} values (0); create materialized view stored_{r} as select v from own_{r}""",
    (
        Script(
            (
                "truncate own_{r}; insert into own_{r} values ({v}); update unlogged_{r} set v = {v}; refresh materialized view stored_{r}",
            )
        ),
        Script(
            (
                "begin",
                "truncate own_{r}",
                "insert into own_{r} values ({v})",
                "update unlogged_{r} set v = {v}",
                "refresh materialized view stored_{r}",
                "commit",
            )
        ),
    ),
    ("select v from own_{r}", "select v from unlogged_{r}", "select v from stored_{r}"),
    own=True,
    weight=5,
)

SEQUENCE = Observable(
    "sequence",
    "create sequence seq_{r} minvalue 0 start 0; select setval('seq_{r}', 0)",
    (
        "select setval('seq_{r}', {v})",
        Script(("begin", "select nextval('seq_{r}')", "select setval('seq_{r}', {v})", "commit")),
    ),
    ("select last_value from seq_{r}", "select last_value from pg_sequences where sequencename = 'seq_{r}'"),
    own=True,
    weight=4,
)

DEFINITION = Observable(
    "definition",
    """create view defined_{r} as select 0::bigint as v; create table remade_{r} as select 0::bigint as v;
    create function told_{r}() returns bigint stable language sql as 'select 0::bigint';
    create function immutably_{r}() returns bigint immutable language sql as 'select 0::bigint'""",
    (
        Script(
            (
                "create or replace view defined_{r} as select {v}::bigint as v;"
                "drop table remade_{r}; create table remade_{r} as select {v}::bigint as v;"
                "create or replace function told_{r}() returns bigint stable language sql as 'select {v}::bigint';"
                "create or replace function immutably_{r}() returns bigint immutable language sql as 'select {v}::bigint';"
                "comment on table remade_{r} is '{v}'",
            )
        ),
        Script(
            (
                "begin",
                "create or replace view defined_{r} as select {v}::bigint as v",
                "alter table remade_{r} drop column v, add column v bigint default {v}",
                "create or replace function told_{r}() returns bigint stable language sql as 'select {v}::bigint'",
                "create or replace function immutably_{r}() returns bigint immutable language sql as 'select {v}::bigint'",
                "comment on table remade_{r} is '{v}'",
                "commit",
            )
        ),
        Script(
            (
                "do $$ begin create or replace view defined_{r} as select {v}::bigint as v;"
                "alter table remade_{r} rename to remade; drop table remade; create table remade_{r} as select {v}::bigint as v;"
                "create or replace function told_{r}() returns bigint stable language sql as 'select {v}::bigint';"
                "create or replace function immutably_{r}() returns bigint immutable language sql as 'select {v}::bigint';"
                "comment on table remade_{r} is '{v}'; end $$",
            )
        ),
    ),
    (
        "select v from defined_{r}",
        "select v from remade_{r}",
        "select told_{r}()",
        "select immutably_{r}()",
        "select coalesce(obj_description('remade_{r}'::regclass), '0')::bigint",
    ),
    rare=True,
    own=True,
    weight=5,
)

PLAIN = tuple(plain(f"plain{n}") for n in range(8))
ALL = (*PLAIN, ODD, CALLED, TRIGGER, CASCADE, PARTITIONS, COPIED, OWN, SEQUENCE, DEFINITION)
COMMON = tuple(observable for observable in ALL if not observable.rare)
KINDS = {"plain": PLAIN, "common": COMMON, "all": ALL}
