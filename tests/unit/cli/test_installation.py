"""What `jupyter pool doctor` says of JupyterLab's panel: found, broken, of another version, disabled."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import jupyter_core.paths
import pytest

import jupyter_pool
from jupyter_pool.cli.installation import panel
from jupyter_pool.config import PoolConfig
from support import readme


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where JupyterLab looks for the panel, and for its configuration; there is nothing yet."""
    monkeypatch.setattr(jupyter_core.paths, "jupyter_path", lambda name: [str(tmp_path / name)])
    monkeypatch.setattr(jupyter_core.paths, "jupyter_config_path", lambda: [str(tmp_path)])
    return tmp_path / "labextensions" / "jupyter-pool"


def install(home: Path, **changes: Any) -> None:
    (home / "static").mkdir(parents=True)
    (home / "static" / "entry.js").touch()
    about = {
        "version": jupyter_pool.__version__,
        "jupyterlab": {"_build": {"load": "static/entry.js"}},
        **changes,
    }
    (home / "package.json").write_text(json.dumps(about))


def look() -> tuple[str, str]:
    found = panel(PoolConfig.build())
    return found.state, found.text


def test_a_whole_panel_is_fine(home: Path) -> None:
    install(home)
    assert look() == ("ok", f"{jupyter_pool.__version__} in {home}")


def test_a_panel_that_is_missing_or_incomplete_is_broken(home: Path) -> None:
    assert look() == ("bad", f"not in {home.parent}")
    install(home)
    (home / "static" / "entry.js").unlink()
    assert look() == ("bad", f"{home} has no static/entry.js")
    (home / "package.json").write_text("{}")
    state, text = look()
    assert (state, "package.json is missing or broken" in text) == ("bad", True)


def test_a_panel_of_another_version_is_broken(home: Path) -> None:
    install(home, version="0.0.1")
    assert look() == ("bad", f"{home} is of version 0.0.1, not {jupyter_pool.__version__}")


def test_a_panel_that_is_disabled_is_told(home: Path) -> None:
    install(home)
    config = home.parents[1] / "labconfig" / "page_config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"disabledExtensions": {"jupyter-pool": True}}))
    state, text = look()
    assert (state, text) == ("note", f"{home}, but it is disabled")


def test_there_is_one_version() -> None:
    about = json.loads(readme.ROOT.joinpath("labextension", "package.json").read_text())
    assert about["version"] == jupyter_pool.__version__ == metadata.version("jupyter-pool")
