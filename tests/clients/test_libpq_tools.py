"""PostgreSQL's own programs: psql, pgbench, pg_dump, pg_restore, vacuumdb. What they print must be what they print directly."""

import glob
import os
import re
import signal
import subprocess
import threading

import psycopg
import pytest

from targets import as_role_of, with_parameters
from watcher import wait_until_running

BINARIES = os.environ.get("PG_BINDIR") or max(
    glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: int(p.split("/")[-2]), default=""
)
DEADLINE = 50

pytestmark = pytest.mark.skipif(
    not os.path.exists(f"{BINARIES}/psql"), reason="no PostgreSQL client programs here; set PG_BINDIR"
)


def start(program, *arguments, schema=None, **how):
    environment = {**os.environ, "PGAPPNAME": program, "PAGER": "cat", "LC_ALL": "C.UTF-8"}
    if schema:
        environment["PGOPTIONS"] = f"-c search_path={schema.name},public"
    return subprocess.Popen(
        [f"{BINARIES}/{program}", *arguments],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )


def run(program, *arguments, schema=None, given="", fails=False):
    """What the program prints."""
    process = start(program, *arguments, schema=schema)
    try:
        out, err = process.communicate(given, timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"{program} did not end; it printed {process.communicate()}") from None
    if not fails:
        assert process.returncode == 0, f"{program} ended with {process.returncode}: {out[-2000:]} {err[-2000:]}"
    return out + err if fails else out


def psql(schema, script, *arguments, url=None, fails=False):
    return run("psql", "-X", *arguments, "-d", url or schema.base_url, schema=schema, given=script, fails=fails)


def version():
    return int(re.search(r"(\d+)\.?", run("psql", "--version")).group(1))


@pytest.fixture
def filled(schema):
    psql(
        schema,
        """
        create type mood as enum ('sad', 'glad');
        create table t (id int primary key, name text not null default 'x', mood mood, doc jsonb, check (id < 100000));
        create table u (id serial primary key, t_id int references t on delete cascade, note text unique);
        create index on t (lower(name));
        create view v as select name from t where id < 5;
        create function f(int) returns int language sql immutable as 'select $1 + 1';
        create function note() returns trigger language plpgsql as $$ begin return new; end $$;
        create trigger noted before insert on u for each row execute function note();
        comment on table t is 'the table';
        insert into t select n, 'name ' || n, (array['sad', 'glad'])[n % 2 + 1]::mood, jsonb_build_object('n', n) from generate_series(1, 200) n;
        insert into u (t_id, note) select n, 'note ' || n from generate_series(1, 50) n;
        """,
        "-v",
        "ON_ERROR_STOP=1",
        "-q",
    )
    return schema


# ---- psql --------------------------------------------------------------------------------------------------------------------

SCRIPTS = {
    "describe": r"\d t \d u \d+ v \dt \di \dv \ds \dT mood \df \sf f \dp t \d \dn+ :schema",
    "describe all": '\\dS pg_cl*\n\\dtvs *.*pg_stat_act*\n\\do ~~*\n\\dC text\n\\du app\n\\dRp\n\\dx\n\\dO pg_catalog."C"\n\\db',
    "formats": "\\pset format csv\ntable v;\n\\pset format aligned\n\\x on\nselect * from t where id = 1;\n\\x off\n\\a\ntable v;\n\\t\ntable v;\n\\H\ntable v;",
    "variables": "select count(*) as n, 'a' as b from t \\gset pre_\n\\echo :pre_n :'pre_b'\nselect :pre_n + 1;\n\\set ECHO all\nselect 2;\n\\if :pre_n\nselect 'yes';\n\\else\nselect 'no';\n\\endif",
    "gdesc": "select id, name, mood, doc from t \\gdesc\nselect 1 as a, null::numeric(5,2) \\gdesc\ninsert into t (id) values (1) \\gdesc",
    "gexec": "select format('select %s as n', n) from generate_series(1, 3) n \\gexec",
    "crosstab": "select id % 3 as a, mood as b, count(*) from t group by 1, 2 order by 1, 2 \\crosstabview",
    "errors": "select 1/0;\n\\errverbose\nselect * from nowhere;\nselect 'still here';\n\\echo :LAST_ERROR_SQLSTATE :ROW_COUNT",
    "transactions": "begin;\n\\echo -n\nselect 1/0;\nselect 2;\nrollback;\n\\set ON_ERROR_ROLLBACK on\nbegin;\nselect 1/0;\nselect 3;\ncommit;\n\\set AUTOCOMMIT off\nselect 4;\nrollback;",
    "cursor": "\\set FETCH_COUNT 30\nselect id, name from t order by id;\nselect id / (id - 60) from t order by id;\nselect 'after';",
    "copy out": "\\copy (select id, name from t order by id limit 5) to stdout\n\\copy t to stdout csv header\ncopy v to stdout;",
    "copy in": "create temp table c (id int, name text);\n\\copy c from stdin\n1\tone\n2\ttwo\n\\.\ncopy c from stdin csv;\n3,three\n\\.\ntable c;\n\\copy c from stdin\nbad\n\\.\nselect count(*) from c;",
    "notices": "do $$ begin raise notice 'n'; raise warning 'w'; end $$;\ndrop table if exists nowhere;\n\\set VERBOSITY verbose\ndo $$ begin raise notice 'n'; end $$;\n\\set VERBOSITY sqlstate\nselect 1/0;",
    "encoding": "select 'Zoë €';\n\\encoding LATIN1\n\\encoding\nselect octet_length('x');\n\\encoding UTF8\nselect 'ü';",
    "multi": "select 1\\; select 2\\; select 3;\nbegin\\; select 4\\; commit;\nselect 5\\; select 1/0\\; select 6;",
    "settings": "set timezone = 'Asia/Tokyo';\nshow timezone;\nreset timezone;\nbegin;\nset local work_mem = '5MB';\nshow work_mem;\ncommit;\nshow search_path;",
    "prepared": "prepare p as select name from t where id = $1;\nexecute p(3);\nselect count(*) from t;\ndeallocate p;\nexecute p(3);",
    "explain": "explain (costs off) select * from t where id = 5;\nexplain (costs off, verbose) select count(*) from t join u on t.id = t_id;",
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_psql_prints_what_it_prints_directly(filled, direct, name):
    script = SCRIPTS[name].replace(":schema", filled.name).replace(" \\d", "\n\\d").replace(" \\s", "\n\\s")
    directly = psql(filled, script, url=direct, fails=True)
    assert psql(filled, script, fails=True) == directly
    assert len(directly) > 20


def test_psql_conninfo(schema):
    assert re.search(r'connected to database "\w+" as user "\w+"|Database .* \w+', psql(schema, r"\conninfo"))


@pytest.mark.skipif(BINARIES and version() < 16, reason="\\bind came with psql 16")
def test_psql_bind(filled):
    assert "name 7" in psql(filled, "select name from t where id = $1 \\bind 7 \\g")


def test_psql_single_transaction_and_exit_code(filled):
    out = psql(filled, "insert into t (id) values (900); select 1/0;", "-1", "-v", "ON_ERROR_STOP=1", fails=True)
    assert "division by zero" in out
    assert psql(filled, "select count(*) from t where id = 900", "-At").strip() == "0"


def test_ctrl_c_cancels_the_running_statement(schema, direct):
    """psql sends a CancelRequest on a connection of its own."""
    process = start(
        "psql",
        "-X",
        "-d",
        schema.base_url,
        "-c",
        f"select pg_sleep(40) /* {schema.name} */",
        "-c",
        "select 'went on'",
        schema=schema,
    )
    wait_until_running(direct, schema.name)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert "canceling statement due to user request" in err
    assert "went on" in out or process.returncode != 0


def test_watch_until_ctrl_c(schema):
    process = start("psql", "-X", "-At", "-d", schema.base_url, schema=schema)
    timer = threading.Timer(DEADLINE, process.kill)
    timer.start()
    process.stdin.write("select 'tick' \\watch 0.05\nselect 'done';\n")
    process.stdin.close()
    ticks = 0
    for line in process.stdout:
        if line.strip() == "tick":
            ticks += 1
            if ticks == 4:
                process.send_signal(signal.SIGINT)
        if line.strip() == "done":
            break
    timer.cancel()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(20) is not None
    assert ticks >= 4


# ---- pgbench -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(schema):
    run("pgbench", "-i", "-s", "1", "-q", schema.base_url, schema=schema)
    return schema


def transactions(text):
    assert "number of failed transactions: 0" in text, text
    done, wanted = re.search(r"actually processed: (\d+)/(\d+)", text).groups()
    assert done == wanted
    return int(done)


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench_keeps_its_books(bench, mode):
    done = transactions(
        run("pgbench", "-n", "-M", mode, "-c", "4", "-j", "2", "-t", "60", bench.base_url, schema=bench)
    )
    done += transactions(run("pgbench", "-n", "-M", mode, "-C", "-c", "3", "-t", "10", bench.base_url, schema=bench))
    done += transactions(run("pgbench", "-n", "-N", "-M", mode, "-c", "2", "-t", "30", bench.base_url, schema=bench))
    transactions(run("pgbench", "-n", "-S", "-M", mode, "-c", "4", "-t", "200", bench.base_url, schema=bench))
    with psycopg.connect(bench.url) as connection:
        moved, history, rows = connection.execute(
            "select (select sum(abalance) from pgbench_accounts), (select sum(delta) from pgbench_history), (select count(*) from pgbench_history)"
        ).fetchone()
        assert moved == history and rows == done
        assert connection.execute(
            "select (select sum(tbalance) from pgbench_tellers) = (select sum(bbalance) from pgbench_branches)"
        ).fetchone() == (True,)


@pytest.mark.parametrize("mode", ["extended", "prepared"])
def test_pgbench_pipelines(bench, mode, tmp_path):
    script = tmp_path / "pipeline.sql"
    script.write_text(
        "\\set a random(1, 100000)\n\\startpipeline\nbegin;\nupdate pgbench_accounts set abalance = abalance + 1 where aid = :a;\n"
        "select abalance from pgbench_accounts where aid = :a;\ninsert into pgbench_history (tid, bid, aid, delta, mtime) values (1, 1, :a, 1, now());\nend;\n"
        "\\endpipeline\n"
    )
    done = transactions(
        run("pgbench", "-n", "-M", mode, "-f", str(script), "-c", "3", "-t", "60", bench.base_url, schema=bench)
    )
    with psycopg.connect(bench.url) as connection:
        counted = "select (select sum(abalance) from pgbench_accounts), (select count(*) from pgbench_history)"
        assert connection.execute(counted).fetchone() == (done, done)


# ---- dumps -------------------------------------------------------------------------------------------------------------------


def comparable(dump):
    """Newer pg_dump writes a random key into \\restrict lines."""
    return "\n".join(line for line in dump.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


def test_dump_is_what_it_is_directly(filled, direct):
    dumps = [comparable(run("pg_dump", "-n", filled.name, "-d", url)) for url in (filled.base_url, direct)]
    assert dumps[0] == dumps[1] and "CREATE TRIGGER noted" in dumps[0] and "name 200" in dumps[0]


@pytest.mark.parametrize("form", ["custom", "directory"])
def test_dump_and_restore_round_trip(filled, form, tmp_path):
    """In the directory form two jobs share an exported snapshot: all of its connections must be to one server."""
    before = comparable(run("pg_dump", "-n", filled.name, "-d", filled.base_url))
    jobs = ["-j", "2"] if form == "directory" else []
    archive = str(tmp_path / "archive")
    run("pg_dump", "-F", form[0], *jobs, "-n", filled.name, "-f", archive, "-d", filled.base_url)
    with psycopg.connect(filled.base_url, autocommit=True) as connection:
        connection.execute(f"drop schema {filled.name} cascade")
    run("pg_restore", *jobs, "-d", filled.base_url, "--exit-on-error", archive)
    assert comparable(run("pg_dump", "-n", filled.name, "-d", filled.base_url)) == before


def test_dump_as_inserts_through_psql(filled):
    text = run("pg_dump", "--inserts", "-n", filled.name, "-d", filled.base_url)
    with psycopg.connect(filled.base_url, autocommit=True) as connection:
        connection.execute(f"drop schema {filled.name} cascade")
    psql(filled, text, "-q", "-1", "-v", "ON_ERROR_STOP=1")
    assert psql(filled, "select count(*), sum(id) from t", "-At").strip() == "200|20100"


# ---- the others --------------------------------------------------------------------------------------------------------------


def test_maintenance_programs(filled):
    run("vacuumdb", "-z", "-t", f"{filled.name}.t", "-d", filled.base_url)
    run("vacuumdb", "-Z", "-j", "2", "-t", f"{filled.name}.t", "-t", f"{filled.name}.u", "-d", filled.base_url)
    run("reindexdb", "-t", f"{filled.name}.t", "-d", filled.base_url)
    run("clusterdb", "-d", filled.base_url)
    assert "accepting connections" in run("pg_isready", "-d", filled.base_url)


def test_a_database_made_used_and_dropped(schema, admin):
    """Server connections that idle in a pool must not keep a database from being dropped."""
    name = f"made_{schema.name}"[:60]
    maintenance = as_role_of(schema.base_url, admin)
    run("dropdb", "--if-exists", "--maintenance-db", maintenance, name)
    for _ in range(2):
        run("createdb", "--maintenance-db", maintenance, name)
        inside = with_parameters(maintenance, dbname=name)
        assert (
            run(
                "psql",
                "-X",
                "-At",
                "-d",
                inside,
                "-c",
                "create table t as select 1 as a",
                "-c",
                "select current_database()",
            ).split()[-1]
            == name
        )
        with psycopg.connect(inside) as connection:
            assert connection.execute("select a from t").fetchone() == (1,)
        run("dropdb", "--maintenance-db", maintenance, name)
    assert "does not exist" in run("psql", "-X", "-d", inside, "-c", "select 1", fails=True)
