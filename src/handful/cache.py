"""A bounded store of tensors by key, in memory and optionally in one SQLite file: frozen activations live here.

A key holds everything that decides the value (weights, preprocessing, input), so a change of any of them misses.
"""

from __future__ import annotations

import sqlite3
import time
from collections import OrderedDict
from pathlib import Path
from threading import Lock

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

MEMORY_BYTES = 512 << 20
DISK_BYTES = 1 << 30


class FeatureCache:
    """key -> tensor, least recently used out first.

    folder  where a file `features.sqlite` keeps them for later runs; None for memory only
    """

    def __init__(
        self, folder: Path | None = None, *, memory_bytes: int = MEMORY_BYTES, disk_bytes: int = DISK_BYTES
    ) -> None:
        self._memory: OrderedDict[str, Tensor] = OrderedDict()
        self._held, self._memory_bytes, self._disk_bytes = 0, memory_bytes, disk_bytes
        self._lock = Lock()
        self.hits = self.misses = 0
        self._file: Path | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = folder / "features.sqlite"
            with self._connect() as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS features (key TEXT PRIMARY KEY, value BLOB, used REAL)")

    def get(self, keys: list[str]) -> dict[str, Tensor]:
        """The tensors that are there, by key."""
        with self._lock:
            found = {key: self._memory[key] for key in keys if key in self._memory}
            for key in found:
                self._memory.move_to_end(key)
        missing = [key for key in dict.fromkeys(keys) if key not in found]
        if missing and self._file is not None:
            for key, tensor in self._read(missing).items():
                found[key] = tensor
                self._remember(key, tensor)
        self.hits += sum(key in found for key in keys)
        self.misses += sum(key not in found for key in keys)
        return found

    def put(self, values: dict[str, Tensor]) -> None:
        """Keeps tensors, and drops the least recently used ones over the bounds."""
        for key, tensor in values.items():
            self._remember(key, tensor)
        if self._file is not None:
            now = time.time()
            rows = [(key, to_bytes({"x": tensor.contiguous()}), now) for key, tensor in values.items()]
            with self._connect() as connection:
                connection.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?)", rows)
                self._trim(connection)

    def _remember(self, key: str, tensor: Tensor) -> None:
        with self._lock:
            old = self._memory.pop(key, None)
            self._held += tensor.nbytes - (old.nbytes if old is not None else 0)
            self._memory[key] = tensor
            while self._held > self._memory_bytes and self._memory:
                _, dropped = self._memory.popitem(last=False)
                self._held -= dropped.nbytes

    def _read(self, keys: list[str]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        with self._connect() as connection:
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                for key, value in connection.execute(f"SELECT key, value FROM features WHERE key IN ({marks})", part):
                    try:
                        found[key] = from_bytes(value)["x"]
                    except (SafetensorError, KeyError):
                        continue  # a damaged row is a miss
                connection.execute(f"UPDATE features SET used = ? WHERE key IN ({marks})", [time.time(), *part])
        return found

    def _trim(self, connection: sqlite3.Connection) -> None:
        held = connection.execute("SELECT COALESCE(SUM(LENGTH(value)), 0) FROM features").fetchone()[0]
        while held > self._disk_bytes:
            oldest = connection.execute("SELECT key, LENGTH(value) FROM features ORDER BY used LIMIT 100").fetchall()
            for key, size in oldest:
                connection.execute("DELETE FROM features WHERE key = ?", (key,))
                held -= size
                if held <= self._disk_bytes:
                    break

    def _connect(self) -> sqlite3.Connection:
        assert self._file is not None
        return sqlite3.connect(self._file, timeout=60)
