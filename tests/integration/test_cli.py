"""`jupyter pool …`, run as a user runs it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from importlib.metadata import requires
from pathlib import Path

import pytest

from jupyter_pool import __version__
from jupyter_pool.cli import quickstart
from support.commands import run
from support.lab import QuickstartServer


def test_jupyter_finds_the_command(tmp_path: Path) -> None:
    jupyter = shutil.which("jupyter", path=str(Path(sys.executable).parent))
    assert jupyter, "jupyter_core installs it beside the interpreter"
    done = subprocess.run(
        [jupyter, "pool", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, __version__), done.stderr


def test_help_names_the_commands_and_no_command_is_a_misuse(tmp_path: Path) -> None:
    asked = run("--help", cwd=tmp_path)
    assert asked.returncode == 0
    bare = run(cwd=tmp_path)
    assert bare.returncode == 2
    assert bare.stdout == asked.stdout
    for command in ("quickstart", "exec", "doctor", "kernelspec"):
        assert f"\n{command}\n    " in asked.stdout


@pytest.mark.parametrize("command", [["quickstart"], ["kernelspec", "install"]])
def test_an_unknown_option_is_named_and_nothing_is_done(tmp_path: Path, command: list[str]) -> None:
    done = run(*command, "--prot=9999", cwd=tmp_path)
    assert done.returncode == 2
    assert f"jupyter pool {' '.join(command)}: there is no option --prot" in done.stderr
    assert not list(tmp_path.iterdir())


def test_an_unknown_command_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    done = run("quikstart", cwd=tmp_path)
    assert done.returncode == 2
    assert "no command 'quikstart'" in done.stderr
    assert (
        "it has: quickstart, exec, doctor, bench, kernelspec. Did you mean quickstart?"
        in done.stderr
    )


def test_help_of_quickstart_says_what_it_does_and_takes(tmp_path: Path) -> None:
    done = run("quickstart", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for text in ("Copies quickstart.ipynb into the current folder", "--no-browser", "--port"):
        assert text in done.stdout
    assert not list(tmp_path.iterdir())


def test_quickstart_copies_the_notebook_and_serves_it(tmp_path: Path) -> None:
    with QuickstartServer(tmp_path) as server:
        assert server.report.startswith("Copied quickstart.ipynb to")
        address = server.url.split("/lab/tree/")[0] + "/api/contents/quickstart.ipynb"
        asked = urllib.request.Request(address, headers={"Authorization": f"token {server.token}"})
        with urllib.request.urlopen(asked, timeout=30) as answer:
            served = json.load(answer)
    shipped = quickstart.find_notebook()
    assert (tmp_path / "quickstart.ipynb").read_bytes() == shipped.read_bytes()
    assert len(served["content"]["cells"]) == len(json.loads(shipped.read_text())["cells"])


def test_an_untouched_copy_is_opened_again(tmp_path: Path) -> None:
    quickstart.copy_notebook(tmp_path)
    assert "already" in quickstart.copy_notebook(tmp_path)


def test_a_changed_copy_is_kept_and_said_to_differ(tmp_path: Path) -> None:
    mine = tmp_path / "quickstart.ipynb"
    mine.write_text("my own work")
    report = quickstart.copy_notebook(tmp_path)
    assert "differs" in report
    assert "nothing was overwritten" in report
    assert mine.read_text() == "my own work"


def test_without_jupyterlab_it_says_how_to_get_it(tmp_path: Path) -> None:
    # A finder that hides it: what an environment without the extra looks like to the command.
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find_spec = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, package=None: (\n"
        "    None if name == 'jupyterlab' else find_spec(name, package))\n"
    )
    done = run("quickstart", cwd=tmp_path, env={"PYTHONPATH": str(hide)})
    assert done.returncode == 1
    assert "needs jupyterlab, not installed here" in done.stderr
    assert f'"{sys.executable}" -m pip install "jupyter-pool[lab]"' in done.stderr
    assert not (tmp_path / "quickstart.ipynb").exists()


def test_what_quickstart_needs_is_what_the_extra_brings() -> None:
    needs = requires("jupyter-pool") or []
    extra = [line for line in needs if re.search(r"""extra == ['"]lab['"]""", line)]
    names = {re.split(r"[^\w-]", line, maxsplit=1)[0] for line in extra}
    assert names == set(quickstart.NEEDED.values())


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="platform: root may write anywhere"
)
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        done = run("quickstart", cwd=tmp_path)
    finally:
        tmp_path.chmod(0o700)
    assert done.returncode == 1
    assert f"Cannot put quickstart.ipynb into {tmp_path}" in done.stderr


def test_options_after_the_dashes_reach_jupyterlab() -> None:
    app = quickstart.QuickstartApp()
    app.parse_command_line(["--no-browser", "--port=0", "--", "--ServerApp.ip=0.0.0.0"])
    command = app.lab_command()
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert "--no-browser" in command
    assert "--ServerApp.port=0" in command
    assert command[-1] == "--ServerApp.ip=0.0.0.0"
