"""The entry point of `jupyter pool`."""

from __future__ import annotations

import pytest

from jupyter_pool import cli
from jupyter_pool.cli.app import PoolApp


def test_ctrl_c_before_anything_runs_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(argv: object = None) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PoolApp, "launch_instance", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main([])
    assert ended.value.code == 130
