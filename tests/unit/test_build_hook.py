"""When the build makes what the browser shows, and when it leaves that as it is."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from support import readme

#: Stands for npm: notes what it is asked for, and builds.
NPM = """\
import pathlib, sys
root = pathlib.Path.cwd().parent
with open(root / "asked", "a") as asked:
    print(*sys.argv[1:], file=asked)
if (root / "broken").exists():
    sys.exit("npm has no network")
if sys.argv[1] == "ci":
    done = pathlib.Path("node_modules/.package-lock.json")
    done.parent.mkdir(exist_ok=True)
    done.write_text("{}")
else:
    for name in %r:
        file = root / "jupyter_pool" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("built")
"""

pytestmark = pytest.mark.requires("module:hatchling")


@pytest.fixture
def module() -> Any:
    path = readme.ROOT / "labextension" / "hatch_build.py"
    spec = importlib.util.spec_from_file_location("hatch_build", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


class Tree:
    """A source tree, and what npm was asked for in it."""

    def __init__(self, root: Path, module: Any) -> None:
        self.root = root
        self._module = module
        for name in ("src/view.ts", "package.json", "package-lock.json"):
            self.touch(f"labextension/{name}", 1000)

    def touch(self, name: str, time: float) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
        os.utime(path, (time, time))

    def have(self, time: float) -> None:
        """Everything was built at that time."""
        for name in self._module._BUILT:
            self.touch(f"jupyter_pool/{name}", time)

    def build(self) -> list[str]:
        """Run the hook; what it asked npm for."""
        asked = self.root / "asked"
        asked.unlink(missing_ok=True)
        hook = self._module.BrowserBuildHook(str(self.root), {}, None, None, "", "wheel")
        hook.initialize("standard", {})
        return asked.read_text().splitlines() if asked.exists() else []


@pytest.fixture
def tree(tmp_path: Path, module: Any, monkeypatch: pytest.MonkeyPatch) -> Tree:
    npm = tmp_path / "npm.py"
    npm.write_text(NPM % (module._BUILT,))
    monkeypatch.setattr(module, "_npm", lambda: [sys.executable, str(npm)])
    return Tree(tmp_path, module)


def test_what_is_there_and_up_to_date_is_not_built_again(tree: Tree) -> None:
    tree.have(2000)
    assert tree.build() == []
    tree.have(1000)  # an sdist's files are all of one time
    assert tree.build() == []


def test_what_is_missing_is_built_with_what_builds_alone(tree: Tree) -> None:
    assert tree.build() == ["ci --omit=dev --no-audit --no-fund", "run build"]
    assert tree.build() == []


@pytest.mark.parametrize("name", ["src/view.ts", "style/monitor.css", "settings/panel.json"])
def test_what_is_older_than_a_source_is_built_again(tree: Tree, name: str) -> None:
    tree.have(2000)
    tree.touch(f"labextension/{name}", 2001)
    assert tree.build()[-1] == "run build"


def test_what_a_developer_has_installed_is_used(tree: Tree) -> None:
    tree.touch("labextension/node_modules/.package-lock.json", 1000)
    assert tree.build() == ["run build"]
    tree.touch("labextension/package-lock.json", 3e9)
    assert tree.build() == ["ci --omit=dev --no-audit --no-fund", "run build"]


def test_old_files_are_better_than_none(tree: Tree, capfd: pytest.CaptureFixture[str]) -> None:
    tree.have(500)
    tree.touch("broken", 0)
    assert len(tree.build()) == 1
    told = capfd.readouterr()
    assert "the browser's files are not built anew" in told.out + told.err


def test_where_nothing_can_be_built_the_error_says_what_it_takes(tree: Tree) -> None:
    tree.touch("broken", 0)
    with pytest.raises(
        SystemExit, match=r"could not be built: .*\n.*needs Node, which pip fetches"
    ):
        tree.build()
