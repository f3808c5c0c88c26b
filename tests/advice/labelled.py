"""The labelled sets: their statements, and what each index really brought (`truths.json`, written by `prove.py`)."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
# `shop` was there while the advice was made, `tenants` was written afterwards.
SETS = ("shop", "tenants")

# An index is effective if the statement is at least this much faster with it.
EFFECTIVE = 5.0


@dataclass
class Shape:
    """One statement with the values that a client would bind."""

    name: str
    text: str
    values: list
    tries: list = field(default_factory=list)
    expect: str = ""


def truths_path(name: str) -> Path:
    """Where the truths of a set are kept."""
    return HERE / name / "truths.json"


def shapes(name: str) -> list[Shape]:
    """All statements of a set."""
    found = []
    for block in (HERE / name / "shapes.sql").read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if line]
        notes = [re.match(r"-- (name|values|try|expect): (.*)", line) for line in lines]
        notes = [note.groups() for note in notes if note]
        text = "\n".join(line for line in lines if not line.startswith("--"))
        if not text:
            continue
        said = dict(notes)
        tries = [value for key, value in notes if key == "try"]
        found.append(Shape(said["name"], text, json.loads(said["values"]), tries, said.get("expect", "")))
    # What no statement of `$n` uses is no value of it.
    for shape in found:
        shape.values = shape.values[: len(set(re.findall(r"\$\d+", shape.text)))]
    return found


def key(indexes: list[str]) -> str:
    """One spelling for a set of indexes, from `table (columns)` or from CREATE INDEX."""
    return " & ".join(sorted(definition(index) for index in indexes))


def definition(index: str) -> str:
    """`table USING method (columns)`, without a name."""
    index = re.sub(r"\s+", " ", index.strip().rstrip(";"))
    index = re.sub(r"(?i)^CREATE INDEX (CONCURRENTLY )?(IF NOT EXISTS )?(\S+ )?ON ", "", index)
    index = re.sub(r"^public\.", "", index)
    # What PostgreSQL takes for a text anyway.
    return index.replace(" USING btree", "").replace("::text", "")


@dataclass
class Truth:
    """What was measured for a statement."""

    baseline_ms: float
    with_indexes_ms: dict

    @property
    def best_ms(self) -> float:
        return min([self.baseline_ms, *self.with_indexes_ms.values()])

    @property
    def is_positive(self) -> bool:
        """Some index makes it at least five times faster."""
        return self.baseline_ms >= EFFECTIVE * self.best_ms

    def is_effective(self, indexes: str) -> bool:
        return self.baseline_ms >= EFFECTIVE * self.with_indexes_ms[indexes]

    def is_near_best(self, indexes: str) -> bool:
        """Half as slow again as the best at most; below a fifth of a millisecond the clock decides."""
        return self.with_indexes_ms[indexes] <= 1.5 * self.best_ms + 0.2


def truths(name: str) -> dict[str, Truth]:
    """By the statements' names."""
    return {shape: Truth(entry["baseline_ms"], entry["with_indexes_ms"]) for shape, entry in
            json.loads(truths_path(name).read_text())["shapes"].items()}
