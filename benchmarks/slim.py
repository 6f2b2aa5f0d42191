"""A small copy of stores for the repository: what the tables of docs/results.md need.

    python benchmarks/slim.py FROM.sqlite [FROM.sqlite ...] results/dev.sqlite

Of a place that several have, the last one's cell is kept. Left out: cells that did not end, tracebacks, and the
confusion of tasks with more than --labels classes.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from handful.cells import DONE, FAILED
from handful.store import Store

MOST_BYTES = 2_000_000
PLACE = ("recipe", "backbone", "suite", "task", "shots", "seed")
UNUSED = {"owner": "NULL", "renewed": "NULL"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--labels", type=int, default=0, help="keep the confusion of at most so many classes")
    asked = parser.parse_args()
    slim(asked.source, asked.target, most_labels=asked.labels)
    size = asked.target.stat().st_size
    print(f"{asked.target}: {size / 1e6:.2f} MB, {Store(asked.target, create=False).counts()[DONE]} cells")
    if size > MOST_BYTES:
        raise SystemExit(f"More than {MOST_BYTES / 1e6:.0f} MB: ask for fewer --labels.")


def slim(sources: Sequence[Path], target: Path, most_labels: int = 0) -> None:
    """Writes `target` anew, atomically."""
    draft, packed = (target.with_suffix(f".{os.getpid()}{end}") for end in (".draft", ".packed"))
    try:
        Store(draft)
        with closing(sqlite3.connect(draft)) as connection, connection:
            for source in sources:
                _take(connection, source)
            rows = connection.execute("SELECT key, outcome FROM cells").fetchall()
            smaller = [(_smaller(outcome, most_labels), key) for key, outcome in rows]
            connection.executemany("UPDATE cells SET outcome = ? WHERE key = ?", smaller)
        with closing(sqlite3.connect(draft)) as connection:
            connection.execute("VACUUM INTO ?", (str(packed),))
        packed.replace(target)
    finally:
        for left in (draft, packed):
            left.unlink(missing_ok=True)


def _take(connection: sqlite3.Connection, source: Path) -> None:
    """Copies what ended, column by column, so that a store of an earlier layout can be read."""
    rows = sqlite3.connect(f"file:{source.resolve()}?mode=ro", uri=True)
    with closing(rows):
        theirs = {name for _, name, *_ in rows.execute("PRAGMA table_info(cells)")}
        ours = [name for _, name, *_ in connection.execute("PRAGMA table_info(cells)")]
        said = [UNUSED.get(name) or (name if name in theirs else "ended") for name in ours]
        ended = rows.execute(
            f"SELECT {', '.join(said)} FROM cells WHERE status IN (?, ?) ORDER BY {', '.join(PLACE)}, ended",
            (DONE, FAILED),
        ).fetchall()
        choices = rows.execute("SELECT recipe, task, digest, command FROM choices").fetchall()
    if placed := next((command for *_, command in choices if " /" in command), None):
        raise SystemExit(f"{source} names a path of this machine, in a choice made by: {placed}")
    places = [ours.index(name) for name in PLACE]
    newest = {tuple(row[i] for i in places): row for row in ended}
    same = " AND ".join(f"{name} = ?" for name in PLACE)
    connection.executemany(f"DELETE FROM cells WHERE {same}", newest)
    connection.executemany(f"INSERT INTO cells VALUES ({', '.join('?' * len(ours))})", newest.values())
    connection.executemany("INSERT OR REPLACE INTO choices VALUES (?, ?, ?, ?)", choices)


def _smaller(outcome: str, most_labels: int) -> str:
    said = json.loads(outcome)
    said["trace"] = ""
    confusion = said["measures"].get("confusion")
    if confusion and len(confusion["labels"]) > most_labels:
        del said["measures"]["confusion"]
    return json.dumps(said, separators=(",", ":"), ensure_ascii=False)


if __name__ == "__main__":
    main()
