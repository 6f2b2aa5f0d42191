"""Progress on disk: whole or not there, and only for the very run that it belongs to."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from handful import checkpoint as checkpoints
from handful.checkpoint import Checkpoint, digest
from handful.errors import HandfulWarning

TENSORS = {"flat": torch.arange(6.0).reshape(2, 3), "step": torch.tensor(3), "mask": torch.tensor([True, False])}


def kept() -> dict[str, Tensor]:
    return TENSORS


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "tune.safetensors"
    assert Checkpoint(file, ["a"]).load() is None
    Checkpoint(file, ["a"]).save(kept, last=True)
    found = Checkpoint(file, ["a"]).load()
    assert found is not None
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in TENSORS.items())
    assert [each.name for each in file.parent.iterdir()] == ["tune.safetensors"]


def test_another_run_does_not_continue_it(tmp_path: Path) -> None:
    file = tmp_path / "tune.safetensors"
    Checkpoint(file, ["a", torch.zeros(2)]).save(kept, last=True)
    for identity in (["b", torch.zeros(2)], ["a", torch.ones(2)], ["a", torch.zeros(2, 1)], ["a"]):
        assert Checkpoint(file, identity).load() is None


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"{}", bytes(range(64))])
def test_a_damaged_file_is_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "tune.safetensors"
    file.write_bytes(content)
    assert Checkpoint(file, ["a"]).load() is None
    Checkpoint(file, ["a"]).save(kept, last=True)
    whole = file.read_bytes()
    file.write_bytes(whole[:-5])
    assert Checkpoint(file, ["a"]).load() is None


def test_it_is_kept_when_it_is_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    file = tmp_path / "tune.safetensors"
    each = Checkpoint(file, ["a"], seconds=2)
    each.save(kept)
    assert not file.exists()
    now[0] += 2
    each.save(kept)
    assert file.exists()
    file.unlink()
    now[0] += 1.9
    each.save(kept)
    assert not file.exists()
    each.save(kept, last=True)
    assert file.exists()


@pytest.mark.parametrize("size", [0, 4000])
def test_a_full_disk_costs_the_progress_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    def full(_: object, file: Path, **__: object) -> None:
        Path(file).write_bytes(b"\0" * size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "save_file", full)
    each = Checkpoint(tmp_path / "tune.safetensors", ["a"], seconds=0)
    with pytest.warns(HandfulWarning, match="No space left on device"):
        each.save(kept)
    each.save(kept, last=True)  # said once
    assert list(tmp_path.iterdir()) == []


def test_the_digest_is_the_same_in_another_process() -> None:
    parts = "['x', 3, (1.5, None), torch.arange(4).half(), torch.zeros(0, 2), torch.ones(2, dtype=torch.bfloat16)]"
    code = f"import torch; from handful.checkpoint import digest; print(digest({parts}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert done.stdout.strip() == digest(eval(parts))


def test_the_digest_sees_shape_type_and_content() -> None:
    same = [torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(6), torch.zeros(2, 3).double(), torch.zeros(2, 3).int()]
    assert len({digest([x]) for x in same}) == len(same)
    assert digest([torch.arange(6).reshape(2, 3).mT]) == digest([torch.arange(6).reshape(2, 3).mT.contiguous()])


def test_what_takes_long_to_write_is_written_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    each = Checkpoint(tmp_path / "tune.safetensors", ["a"], seconds=2)

    def slow() -> dict[str, Tensor]:
        now[0] += 5
        return TENSORS

    now[0] += 2
    assert each.due
    each.save(slow)
    now[0] += 44
    assert not each.due
    now[0] += 1
    assert each.due
