"""The command line as tests run it: in this process, or as one of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import handful.console  # noqa: F401  # before `call` sets COLUMNS: a console made under it keeps that width
from handful import cli

OFTEN = ["-c", """
from handful.checkpoint import Checkpoint; Checkpoint.__init__.__defaults__ = (0.1,)
from handful.cli import main; main()
"""]  # fmt: skip
"""A program for `started`: the command line, keeping its progress every tenth of a second instead of every two."""


class Done(NamedTuple):
    """What a command left: its exit status, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def call(*arguments: object, stdin: bytes = b"", columns: int = 80) -> Done:
    """Runs the command line in this process, in the current folder."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):  # fmt: skip
        patch.setattr(sys, "argv", ["handful", *map(str, arguments)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        patch.delenv("HANDFUL_DEBUG", raising=False)
        patch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return Done(int(stopped.value.code or 0), out.getvalue(), err.getvalue())


def started(folder: Path, *arguments: object, program: Sequence[str] = ("-m", "handful")) -> subprocess.Popen[str]:
    """Starts the command line as a process, in `folder` and on one thread."""
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)], cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> Done:
    """What a process left, waited for."""
    out, err = process.communicate(timeout=300)
    return Done(process.returncode, out, err)
