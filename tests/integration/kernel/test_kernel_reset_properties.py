"""Whatever requests have done to a worker, the next one sees what it would see in a fresh one.

Two workers: one is used, the other is only told to import the same modules. After each example both
are looked at, as closely as users' code can (see `reset_probe`).
"""

from __future__ import annotations

import difflib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from integration.kernel.kernel_client import Answer, Worker, start_worker
from integration.kernel.reset_deeds import DEEDS, EFFECTS, LIBRARIES
from integration.kernel.reset_probe import PROBE

#: What the deeds import: both workers have it from the start, so that they may be compared.
MODULES = "import effects, colorsys, sqlite3, html.parser, resource, decimal"
LARGE = "import matplotlib.pyplot as plt, numpy, pandas, sklearn\nplt.plot([1]);"


class Arena:
    """A worker to be used, and one to compare it with."""

    def __init__(self, modules: str) -> None:
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="jpk-")))
        (self._folder / "effects.py").write_text(EFFECTS)
        self._modules = modules
        try:
            self._used = self._start()
            self._expected = self._look(self._start())
        except BaseException:
            self.close()
            raise

    def replace_used(self) -> Worker:
        """A new worker to be used, which has imported nothing yet."""
        self._used = self._start("")
        return self._used

    def _start(self, modules: str | None = None) -> Worker:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="jpk-")))
        worker = self._stack.enter_context(start_worker(folder))
        # Both at home in the same folder, with the same path.
        worker.run(
            "", cwd=str(self._folder), path=[str(self._folder), *_path_of(worker)], baseline=True
        )
        worker.run(self._modules if modules is None else modules)
        worker.be_patient()
        return worker

    def close(self) -> None:
        self._stack.close()

    def _look(self, worker: Worker) -> dict[str, str]:
        answer = worker.run(PROBE, outputs=["seen"])
        assert answer.content["status"] == "ok", answer.content
        assert answer.stdout == answer.stderr == ""
        assert answer.report["recycle"] is None
        seen: dict[str, str] = answer.values["seen"]
        return seen

    def use(self, code: str) -> Answer:
        """Run code in the used worker, which must not want to be replaced for it."""
        answer = self._used.run(code)
        if answer.report["recycle"] is not None:
            self._used = self._start()
        assert answer.report["recycle"] is None
        return answer

    def compare(self) -> None:
        """Both look the same. A used worker that does not is of no use any more."""
        try:
            seen = self._look(self._used)
            differing = {key for key in seen if seen[key] != self._expected.get(key)}
            differences = {
                key: _differences(self._expected.get(key, ""), seen[key]) for key in differing
            }
            assert differences == {}
        except BaseException:
            self._used = self._start()
            raise


def _differences(expected: str, seen: str) -> str:
    return "\n".join(
        line
        for line in difflib.ndiff(expected.split(", "), seen.split(", "))
        if not line.startswith(" ")
    )


def _path_of(worker: Worker) -> list[str]:
    path: list[str] = worker.run("import sys; path = sys.path[:]", outputs=["path"]).values["path"]
    return path


@pytest.fixture(scope="module")
def arena() -> Iterator[Arena]:
    arena = Arena(MODULES)
    yield arena
    arena.close()


@pytest.fixture(scope="module")
def large_arena() -> Iterator[Arena]:
    for name in ("matplotlib", "pandas", "sklearn"):
        pytest.importorskip(name)
    arena = Arena(LARGE)
    yield arena
    arena.close()


requests = st.lists(st.sampled_from(sorted(DEEDS)), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests, min_size=1, max_size=3))
def test_the_next_request_finds_a_worker_like_a_fresh_one(
    arena: Arena, deeds: list[list[str]]
) -> None:
    for request in deeds:
        arena.use("\n".join(DEEDS[deed] for deed in request))
    arena.compare()


@pytest.mark.parametrize("deed", DEEDS)
def test_each_deed_alone_is_undone(arena: Arena, deed: str) -> None:
    arena.use(DEEDS[deed])
    arena.compare()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(sorted(LIBRARIES)), min_size=1, max_size=4, unique=True))
def test_settings_of_libraries_are_as_in_a_fresh_worker(
    large_arena: Arena, deeds: list[str]
) -> None:
    answer = large_arena.use("\n".join(LIBRARIES[deed] for deed in deeds))
    assert answer.content["status"] == "ok", answer.content
    large_arena.compare()


def test_settings_are_undone_too_when_their_library_was_loaded_by_the_same_request(
    large_arena: Arena,
) -> None:
    worker = large_arena.replace_used()
    answer = worker.run("\n".join(LIBRARIES.values()))
    worker.run(LARGE)  # the rest of what the fresh one has imported
    assert answer.content["status"] == "ok", answer.content
    assert answer.report["recycle"] is None
    large_arena.compare()


def test_figures_are_shown_as_ever_after_another_backend_and_another_format(
    large_arena: Arena,
) -> None:
    for deed in ("backend", "inline"):
        large_arena.use(LIBRARIES[deed])
        shown = large_arena.use("import matplotlib.pyplot as plt\nplt.plot([1]);").messages
        data = [m["content"]["data"] for m in shown if m["msg_type"] == "display_data"]
        assert [sorted(kinds) for kinds in data] == [["image/png", "text/plain"]]
