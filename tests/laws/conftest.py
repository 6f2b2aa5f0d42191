"""The laws run on one thread, since their models are tiny, and end with a count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:  # WavLM masks its attention with a boolean beside a float bias
        if "/laws/" in item.nodeid or item.nodeid.startswith("laws/"):
            item.add_marker(pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask:UserWarning"))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        if "laws/" in report.nodeid:
            counts[report.nodeid.split("::")[1].partition("[")[0].removeprefix("test_")] += 1
    if counts:
        terminalreporter.section("laws that hold: law x method x architecture x dtype")
        for law, count in sorted(counts.items()):
            terminalreporter.write_line(f"{count:6,}  {law}")
        terminalreporter.write_line(f"{sum(counts.values()):6,}  in all")
