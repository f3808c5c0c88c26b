#!/usr/bin/env python3
"""Scores `weir advise` on a labelled set.

    tests/advice/score.py target/debug/weir shop postgres://postgres@127.0.0.1:5432/shop [DIRECTORY for the advice]

Four runs: with and without HypoPG, with values and with `$n`. precision: of the statements for which an index is advised, those
that it makes at least five times faster; effective recall: of the statements that some index makes five times faster, those for
which Weir advises one that does; near best: of these, those whose time is that of the best index that anybody thought of
(within half of it). Rewrites and ANALYZE count where they are what is expected. Ends with 1 if a bar is missed.
"""

import json
import subprocess
import sys
from pathlib import Path

from labelled import key, shapes, truths

INDEX_KINDS = ("create_index", "fk_index")
# What must be reached: precision, effective recall, F1, near best.
BARS = {
    "hypopg, values": (0.97, 0.92, 0.0, 0.88),
    "statistics, values": (0.0, 0.0, 0.92, 0.0),
    "hypopg, $n": (0.0, 0.0, 0.90, 0.0),
    "statistics, $n": (0.0, 0.0, 0.0, 0.0),
}


def advise(weir: str, name: str, url: str, flags: list[str]) -> dict:
    """What Weir says of all statements, by name."""
    lines = [json.dumps({"name": shape.name, "text": shape.text, "values": shape.values}) for shape in shapes(name)]
    run = subprocess.run([weir, "advise", "--primary", url, "--statements", "-", "--json", *flags],
                         input="\n".join(lines), capture_output=True, text=True, check=False, timeout=300)
    if run.returncode:
        sys.exit(run.stderr)
    return json.loads(run.stdout)


def judge(shape, truth, statement) -> str:
    """tp, fp, fn or tn, `unmeasured`, and whether it is near the best."""
    indexes = [advice["ddl"] for advice in statement["advice"] if advice["kind"] in INDEX_KINDS]
    kinds = {advice["kind"] for advice in statement["advice"]}
    if shape.expect and shape.expect in kinds and (not indexes or shape.expect == "analyze"):
        return "tp near"
    if not indexes:
        return "fn" if truth.is_positive and not shape.expect else "fn" if shape.expect else "tn"
    if key(indexes) not in truth.with_indexes_ms:
        return "unmeasured"
    if not truth.is_effective(key(indexes)):
        return "fp"
    return "tp near" if truth.is_near_best(key(indexes)) else "tp"


def existing(url: str) -> set[str]:
    """Definitions of the indexes that are there."""
    import psycopg

    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'").fetchall()
    return {key([row[0].replace("UNIQUE ", "")]) for row in rows}


def main() -> None:
    weir, labelled, url, *directory = sys.argv[1:]
    known, all_shapes, failed = truths(labelled), shapes(labelled), False
    unproven = [shape.name for shape in all_shapes if shape.name not in known]
    if unproven:
        sys.exit(f"not measured yet, run prove.py: {', '.join(unproven)}")
    there = existing(url)
    for name, bars in BARS.items():
        flags = (["--without-hypopg"] if "statistics" in name else []) + (["--without-values"] if "$n" in name else [])
        advice = advise(weir, labelled, url, flags)
        if directory:
            Path(directory[0], name.replace(", ", "_").replace("$", "") + ".json").write_text(json.dumps(advice, indent=1))
        by_name = {statement["name"]: statement for statement in advice["statements"]}
        outcome = {shape.name: judge(shape, known[shape.name], by_name[shape.name]) for shape in all_shapes}
        count = {kind: sum(value.startswith(kind) for value in outcome.values()) for kind in ("tp", "fp", "fn", "tn", "unm")}
        near = sum(value == "tp near" for value in outcome.values())
        precision = count["tp"] / max(1, count["tp"] + count["fp"] + count["unm"])
        positives = sum(known[shape.name].is_positive or bool(shape.expect) for shape in all_shapes)
        recall = count["tp"] / positives
        f1 = 2 * precision * recall / max(1e-9, precision + recall)
        figures = (precision, recall, f1, near / max(1, count["tp"]))
        duplicates = [ddl for statement in advice["statements"] for ddl in
                      (one["ddl"] for one in statement["advice"] if one["kind"] in INDEX_KINDS) if key([ddl]) in there]
        missed = any(figure < bar for figure, bar in zip(figures, bars)) or bool(duplicates)
        failed |= missed
        print(f"{name:20} precision {precision:.2f}  effective recall {recall:.2f}  F1 {f1:.2f}  near best {figures[3]:.2f}"
              f"  ({count['tp']} right, {count['fp']} wrong, {count['fn']} missing, {count['tn']} rightly none, of {len(all_shapes)};"
              f" {len(duplicates)} duplicate{'' if len(duplicates) == 1 else 's'}){'  MISSES ITS BAR' if missed else ''}")
        for shape in all_shapes:
            if outcome[shape.name] not in ("tp near", "tn"):
                statement = by_name[shape.name]
                said = [one["ddl"].split(" ON ")[-1] for one in statement["advice"]] or statement["no_index"]
                truth = known[shape.name]
                print(f"    {outcome[shape.name]:10} {shape.name}: {said}; {truth.baseline_ms} ms, {truth.with_indexes_ms}")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()
