"""What every test gets: folders of its own, a leak check, and skips that CI does not forgive.

Nothing here sleeps for luck: each wait is for a condition and has a deadline.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from support.isolation import Isolation
from support.leaks import LeakCheck
from support.optional import CI, PLATFORM, find_missing

HERE = Path(__file__).parent

_isolation = pytest.StashKey[Isolation]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_isolation] = Isolation()
    # How long an example takes says how busy the machine is; tests that hang are ended anyway.
    settings.register_profile("jupyter_pool", deadline=None)
    settings.load_profile("jupyter_pool")


def pytest_unconfigure(config: pytest.Config) -> None:
    isolation = config.stash.get(_isolation, None)
    if isolation is not None:
        isolation.close()


# --- what is collected --------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(HERE).parts[0] if HERE in item.path.parents else ""
        if folder == "benchmarks":
            item.add_marker("benchmark")
        elif folder == "browser":
            item.add_marker("browser")
    if "benchmark" in config.option.markexpr or _asked_for_benchmarks(config):
        return
    benchmarks = [item for item in items if item.get_closest_marker("benchmark")]
    if benchmarks:
        config.hook.pytest_deselected(items=benchmarks)
        items[:] = [item for item in items if not item.get_closest_marker("benchmark")]


def _asked_for_benchmarks(config: pytest.Config) -> bool:
    for argument in config.invocation_params.args:
        path = Path(config.invocation_params.dir, str(argument).split("::")[0])
        if "benchmarks" in path.parts[-2:]:
            return True
    return False


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("requires"):
        for thing in marker.args:
            reason = find_missing(thing)
            if reason is not None:
                pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Generator[None, Any, Any]:
    return _forbid_skips((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    return _forbid_skips((yield))


def _forbid_skips(report: Any) -> Any:
    """Under CI everything runs: a skip that is not about the platform becomes a failure."""
    if CI and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(PLATFORM):
            report.outcome = "failed"
            report.longrepr = f"skipped, which CI=true does not allow: {reason}"
    return report


@pytest.fixture(scope="session")
def bash_kernel(pytestconfig: pytest.Config) -> str:
    """The name of a kernelspec for a kernel that is not Python's; skips where it cannot be had."""
    reason = find_missing("kernel:bash")
    if reason is not None:
        pytest.skip(reason)
    folder = pytestconfig.stash[_isolation].data / "kernels" / "bash"
    folder.mkdir(parents=True)
    spec = {
        "argv": [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"],
        "display_name": "Bash",
        "language": "bash",
        # Not the developer's own start-up files: what they do takes its time, and a kernel that is
        # killed in the middle of it may leave a lock behind that the next one waits for.
        "env": {"PS1": "$", "HOME": str(folder)},
    }
    (folder / "kernel.json").write_text(json.dumps(spec))
    return "bash"


# --- the leak check -----------------------------------------------------------------------------


def pytest_sessionstart(session: pytest.Session) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Started in the background of a script, all of us would be deaf to the tests' own Ctrl-Cs.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    session.config.pluginmanager.register(LeakCheck(session.config.stash[_isolation]), "leak-check")
