"""Compares Weir's classification with PostgreSQL's own parser (libpg_query, by pglast).

    python3 -m venv /tmp/oracle && /tmp/oracle/bin/pip install pglast
    cargo build --release --example classify
    /tmp/oracle/bin/python tests/oracle/compare.py [--generate N] [--seed N] [FILE.sql ...]

Over statements from the files, and over N generated ones, it demands

* no statement that writes, locks or calls code is classed `read`;
* every relation that a `read` or `write` statement names is listed, reads and writes apart;
* every function that a `read` calls is listed;

and prints which share of the true reads is recognised, and why the others are not. Exits with 1 if a demand fails.
"""

import argparse
import collections
import json
import pathlib
import random
import subprocess
import sys

from pglast import ast, parser
from pglast.visitors import Visitor

ROOT = pathlib.Path(__file__).resolve().parents[2]
CLASSIFY = ROOT / "target/release/examples/classify"

# Functions that are syntax: they have no row in pg_proc, or the grammar gives them a name that nobody writes.
SYNTAX_FUNCTIONS = {
    "timezone", "like_escape", "similar_to_escape", "btrim", "ltrim", "rtrim", "overlay", "position", "is_normalized",
    "xmlexists", "normalize", "substring", "extract", "collation for", "pg_collation_for", "system_user", "overlaps",
}


VALUE_FUNCTIONS = {
    "CURRENT_DATE": "now", "CURRENT_TIME": "now", "CURRENT_TIMESTAMP": "now", "LOCALTIME": "now",
    "LOCALTIMESTAMP": "now", "CURRENT_ROLE": "current_user", "CURRENT_USER": "current_user", "USER": "current_user",
    "SESSION_USER": "session_user", "CURRENT_CATALOG": "current_database", "CURRENT_SCHEMA": "current_schema",
}


class Truth(Visitor):
    """What a statement does, by PostgreSQL's tree."""

    def __init__(self):
        self.read, self.written, self.functions = set(), set(), set()
        self.modifies = self.locks = self.into = False
        self.scopes = []

    def __call__(self, node):
        super().__call__(node)
        return self

    def visit_SelectStmt(self, _, node):
        self.locks |= bool(node.lockingClause)
        self.into |= node.intoClause is not None

    def visit_InsertStmt(self, _, node):
        self.modifies = True

    visit_UpdateStmt = visit_DeleteStmt = visit_MergeStmt = visit_InsertStmt

    def visit_FuncCall(self, _, node):
        names = [name.sval for name in node.funcname]
        self.functions.add(names[-1])

    def visit_SQLValueFunction(self, _, node):
        self.functions.add(VALUE_FUNCTIONS[node.op.name.removeprefix("SVFOP_").removesuffix("_N")])


def relations(node):
    """Names of the relations read and written, with the scopes of WITH."""
    read, written = set(), set()

    def name(var):
        return f"{var.schemaname}.{var.relname}" if var.schemaname else var.relname

    def walk(node, scope):
        if isinstance(node, (list, tuple)):
            for item in node:
                walk(item, scope)
            return
        if not isinstance(node, ast.Node):
            return
        if isinstance(node, ast.RangeVar):
            if node.schemaname or node.relname not in scope:
                read.add(name(node))
            return
        with_clause = getattr(node, "withClause", None)
        if with_clause is not None:
            scope = set(scope)
            ctes = with_clause.ctes
            if with_clause.recursive:
                scope |= {cte.ctename for cte in ctes}
            for cte in ctes:
                walk(cte.ctequery, scope)
                scope = scope | {cte.ctename}
        target = None
        if isinstance(node, (ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt)):
            target = node.relation
            written.add(name(target))
        for slot in node:
            if slot in ("withClause", "lockingClause"):
                continue
            value = getattr(node, slot)
            if value is not None and value is not target:
                walk(value, scope)

    walk(node, set())
    return read, written


def split(text):
    """The statements of a text that PostgreSQL's parser takes."""
    try:
        return list(parser.split(text, with_parser=True))
    except Exception:
        pass
    try:
        parts = parser.split(text, with_parser=False)
    except Exception:
        return []
    statements = []
    for part in parts:
        try:
            parser.parse_sql(part)
        except Exception:
            continue
        statements.append(part)
    return statements


def generate(count, seed):
    """Statements of the kinds that ORMs and people write, with what is hard mixed in."""
    choose = random.Random(seed)
    pick = choose.choice

    def maybe(share, text):
        return text if choose.random() < share else ""

    tables = ["t", "users", "public.users", '"Order"', 'app."User"', "only_t", "intervals", "u"]
    columns = ["a", "b", "id", "name", '"Name"', "t.a", "x.id", "update_time", "created", "value", "key", "type"]
    functions = ["count", "max", "lower", "coalesce", "now", "nextval", "pg_sleep", "f", "app.f", "length", "floor",
                 "ceil", "greatest", "left", "date_trunc", "jsonb_build_object", "array_agg", "random", '"F"', "cube",
                 "set_config", "replace", "insert", "over"]

    def literal():
        return pick(["1", "-1", "1.5", "'x'", "'it''s'", "NULL", "TRUE", "$1", "E'a\\'b'", "$$x;y$$", "'2020-01-01'",
                     "'a; delete from t'", "interval '1 day'", "date '2020-01-01'", "ARRAY[1, 2]", "'{}'::jsonb",
                     "current_date", "current_timestamp", "(1)", "B'1'", "0x1F", "1_000"])

    def expr(depth=0):
        if depth > 2 or choose.random() < 0.45:
            return pick([literal(), pick(columns), pick(columns)])
        more = depth + 1
        return pick([
            lambda: f"{expr(more)} {pick(['=', '<>', '+', '-', '*', '||', '->>', '@>', '&&', '~', '~~*', '?', '<->'])} {expr(more)}",
            lambda: f"{pick(functions)}({expr(more)})",
            lambda: f"{pick(functions)}({expr(more)}, {expr(more)})",
            lambda: "count(*)",
            lambda: f"count(DISTINCT {expr(more)})",
            lambda: f"({expr(more)})",
            lambda: f"{expr(more)} IN ({', '.join(literal() for _ in range(choose.randint(1, 5)))})",
            lambda: f"{pick(columns)} {maybe(0.3, 'NOT ')}IN ({select(more)})",
            lambda: f"{maybe(0.3, 'NOT ')}EXISTS ({select(more)})",
            lambda: f"({select(more)})",
            lambda: f"ARRAY({select(more)})",
            lambda: f"{pick(columns)} IS {maybe(0.5, 'NOT ')}NULL",
            lambda: f"{pick(columns)} IS {maybe(0.5, 'NOT ')}DISTINCT FROM {expr(more)}",
            lambda: f"{pick(columns)} {maybe(0.3, 'NOT ')}BETWEEN {literal()} AND {literal()}",
            lambda: f"{pick(columns)} {maybe(0.3, 'NOT ')}{pick(['LIKE', 'ILIKE', 'SIMILAR TO'])} {literal()}",
            lambda: f"CASE WHEN {expr(more)} THEN {expr(more)} ELSE {expr(more)} END",
            lambda: f"CASE {pick(columns)} WHEN 1 THEN {expr(more)} END",
            lambda: f"CAST({expr(more)} AS {pick(['integer', 'text', 'numeric(10, 2)', 'varchar(5)', 'app.kind'])})",
            lambda: f"{pick(columns)}::{pick(['int', 'text[]', 'regclass', 'numeric(4,1)', 'app.kind', 'double precision'])}",
            lambda: f"extract({pick(['epoch', 'year'])} FROM {pick(columns)})",
            lambda: f"substring({pick(columns)} FROM 1 FOR 2)",
            lambda: f"trim(both 'x' from {pick(columns)})",
            lambda: f"position('x' in {pick(columns)})",
            lambda: f"{pick(columns)} = ANY({pick(['$1', 'ARRAY[1,2]', '(' + select(more) + ')'])})",
            lambda: f"row_number() OVER (PARTITION BY {pick(columns)} ORDER BY {expr(more)})",
            lambda: f"sum({pick(columns)}) FILTER (WHERE {expr(more)})",
            lambda: f"{pick(columns)} AT TIME ZONE 'utc'",
            lambda: f"NOT {expr(more)}",
            lambda: f"ROW({expr(more)}, {expr(more)})",
            lambda: f"{pick(columns)}[1]",
            lambda: f"{pick(columns)} COLLATE \"C\"",
        ])()

    def item(depth):
        return pick([
            lambda: pick(tables),
            lambda: pick(tables),
            lambda: f"{pick(tables)} AS x",
            lambda: f"{pick(tables)} x",
            lambda: f"ONLY {pick(tables)}",
            lambda: f"({select(depth + 1)}) AS s{maybe(0.3, ' (a, b)')}",
            lambda: f"LATERAL ({select(depth + 1)}) l",
            lambda: f"generate_series(1, 3) AS g{maybe(0.5, '(n)')}",
            lambda: f"unnest({expr(2)}) WITH ORDINALITY AS n(v, i)",
            lambda: "(VALUES (1, 2), (3, 4)) v(a, b)",
            lambda: f"({pick(tables)} JOIN {pick(tables)} y ON true)",
            lambda: f"{pick(tables)} TABLESAMPLE bernoulli (10)",
        ])()

    def source(depth):
        text = item(depth)
        for _ in range(choose.choice([0, 0, 0, 1, 1, 2])):
            text += pick([
                lambda: f", {item(depth)}",
                lambda: f" JOIN {item(depth)} ON {expr(1)}",
                lambda: f" LEFT OUTER JOIN {item(depth)} ON {expr(1)}",
                lambda: f" CROSS JOIN {item(depth)}",
                lambda: f" JOIN {item(depth)} USING (id)",
                lambda: f" NATURAL JOIN {item(depth)}",
            ])()
        return text

    def lock():
        return pick([" FOR UPDATE", " FOR SHARE", " FOR NO KEY UPDATE", " FOR KEY SHARE SKIP LOCKED",
                     " FOR UPDATE OF x NOWAIT", " FOR UPDATE FOR SHARE"])

    def select(depth=0):
        if depth > 3:
            return "SELECT 1"
        text = f"SELECT {maybe(0.1, 'DISTINCT ')}{maybe(0.04, 'ON_MARK ')}"
        text = text.replace("DISTINCT ON_MARK", "DISTINCT ON (a)").replace("ON_MARK ", "")
        text += pick(["*", "t.*", "1", ", ".join(expr(depth) + maybe(0.3, pick([" AS x", ' AS "X y"', " z"]))
                                               for _ in range(choose.randint(1, 3)))])
        if choose.random() < 0.03:
            text += f" INTO {maybe(0.5, 'TEMP ')}{pick(['n', 'app.n'])}"
        if choose.random() < 0.9:
            text += f" FROM {source(depth)}"
        text += maybe(0.5, f" WHERE {expr(depth)}{maybe(0.4, ' AND ' + expr(depth))}")
        text += maybe(0.15, f" GROUP BY {pick(['a', '1', 'a, b', 'ROLLUP (a, b)', 'GROUPING SETS ((a), ())'])}")
        text += maybe(0.05, f" HAVING {expr(depth)}")
        text += maybe(0.05, " WINDOW w AS (PARTITION BY a)")
        if choose.random() < 0.1:
            text += f" {pick(['UNION', 'UNION ALL', 'EXCEPT', 'INTERSECT'])} {pick(['SELECT 1', 'VALUES (1)', 'TABLE t', '(' + select(depth + 1) + ')'])}"
        text += maybe(0.3, f" ORDER BY {expr(depth)}{pick(['', ' DESC', ' NULLS LAST'])}")
        text += maybe(0.2, pick([" LIMIT 10", " LIMIT $1 OFFSET 5", " OFFSET 3 ROWS FETCH FIRST 5 ROWS ONLY"]))
        if choose.random() < 0.05:
            text += lock()
        return text

    def modify(depth=1):
        return pick([
            lambda: f"INSERT INTO {pick(tables)} (a, b) VALUES ({expr(depth)}, {expr(depth)})"
                    + maybe(0.3, " ON CONFLICT (id) DO UPDATE SET a = excluded.a, b = 1 WHERE t.a > 1")
                    + maybe(0.1, " ON CONFLICT DO NOTHING"),
            lambda: f"INSERT INTO {pick(tables)} {select(depth)}",
            lambda: f"INSERT INTO {pick(tables)} DEFAULT VALUES",
            lambda: f"UPDATE {maybe(0.2, 'ONLY ')}{pick(tables)} SET a = {expr(depth)}, b = 2"
                    + maybe(0.4, f" FROM {source(depth)}") + maybe(0.8, f" WHERE {expr(depth)}"),
            lambda: f"DELETE FROM {maybe(0.2, 'ONLY ')}{pick(tables)}" + maybe(0.3, f" USING {source(depth)}")
                    + maybe(0.8, f" WHERE {expr(depth)}"),
            lambda: f"MERGE INTO {pick(tables)} m USING {pick(tables)} s ON m.id = s.id WHEN MATCHED THEN UPDATE SET a = "
                    f"{expr(2)} WHEN NOT MATCHED THEN INSERT (a, b) VALUES (s.a, 2)",
        ])() + maybe(0.2, " RETURNING *")

    def statement():
        with_clause = ""
        if choose.random() < 0.2:
            ctes = []
            for cte in ["w", "t", "v"][: choose.randint(1, 3)]:
                body = modify() if choose.random() < 0.15 else select(1)
                ctes.append(f"{cte}{maybe(0.2, ' (a, b)')} AS {maybe(0.1, 'MATERIALIZED ')}({body})")
            with_clause = f"WITH {maybe(0.2, 'RECURSIVE ')}{', '.join(ctes)} "
        text = with_clause + (select() if choose.random() < 0.8 else modify())
        if choose.random() < 0.03:
            text = pick(["TABLE users", "VALUES (1, 2), (3, 4)", f"({select()})", f"({select()}) UNION ({select()})"])
        if choose.random() < 0.1:
            text = text.replace(" FROM ", pick([" /* from u */ FROM ", " FROM -- u\n", "\n FROM\t"]), 1)
        return text

    made = 0
    while made < count:
        text = statement()
        try:
            parser.parse_sql(text)
        except Exception:
            continue
        made += 1
        yield text


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--generate", type=int, default=20000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--show", type=int, default=15)
    arguments.add_argument("files", nargs="*")
    options = arguments.parse_args()

    corpora = {"generated": list(generate(options.generate, options.seed))}
    if options.files:
        texts = []
        for file in options.files:
            texts += split(pathlib.Path(file).read_text(encoding="utf-8", errors="replace"))
        corpora["files"] = texts

    failed = False
    for corpus, texts in corpora.items():
        lines = "\n".join(json.dumps(text) for text in texts) + "\n"
        answers = subprocess.run([CLASSIFY], input=lines.encode(), stdout=subprocess.PIPE, check=True).stdout
        failed |= judge(corpus, texts, [json.loads(line) for line in answers.splitlines()], options.show)
    sys.exit(failed)


def judge(corpus, texts, answers, show):
    reads = recognised = 0
    why, missed, wrong = collections.Counter(), collections.defaultdict(list), []
    for text, answer in zip(texts, answers):
        (raw,) = parser_tree(text)
        truth = raw.stmt
        if len(answer["statements"]) != 1:
            wrong.append(("split", text, answer))
            continue
        (given,) = answer["statements"]
        facts = Truth()(truth)
        is_query = isinstance(truth, ast.SelectStmt)
        is_read = is_query and not (facts.modifies or facts.locks or facts.into)
        if given["class"] == "read" and not is_read:
            wrong.append(("no read", text, given))
            continue
        if is_read:
            reads += 1
            if given["class"] == "read":
                recognised += 1
            else:
                why[given["reason"]] += 1
                missed[given["reason"]].append(text)
        modification = isinstance(truth, (ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt))
        if given["class"] in ("read", "write", "primary_read") and modification:
            read, written = relations(truth)
            if set(given["written"]) != written:
                wrong.append((f"written {written}", text, given))
            elif set(given["read"]) != read:
                # With RECURSIVE, a name in front of its query counts as a relation here.
                if not ("RECURSIVE" in text.upper() and set(given["read"]) > read):
                    wrong.append((f"read {read}", text, given))
        if given["class"] == "read":
            names = {name.rsplit(".", 1)[-1] for name, _ in given["functions"]}
            missing = {name for name in facts.functions if name} - names - SYNTAX_FUNCTIONS
            if missing:
                wrong.append((f"functions {missing}", text, given))
    share = 100 * recognised / max(reads, 1)
    print(f"{corpus}: {len(texts)} statements, {reads} true reads, {recognised} recognised ({share:.2f} %)")
    for reason, count in why.most_common():
        print(f"  {count:6} {reason}")
        for text in random.Random(1).sample(missed[reason], min(show, len(missed[reason]))):
            print("         ", text.replace("\n", " ")[:150])
    print(f"  wrong: {len(wrong)}")
    for what, text, given in sorted(wrong, key=lambda case: len(case[1]))[:show]:
        print("   ", what, "|", text.replace("\n", " ")[:300], "|", json.dumps(given)[:400])
    return bool(wrong)


def parser_tree(text):
    from pglast import parse_sql

    return parse_sql(text)


main()
