"""`jupyter pool exec`, run as a user runs it."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import nbformat.v4
import pytest

from support.commands import DEADLINE, Running, run
from support.conditions import eventually, gone

LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="platform: processes are found through /proc"
)


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


def write_notebook(path: Path, *cells: str, tags: dict[int, str] | None = None) -> None:
    made = [nbformat.v4.new_code_cell(code) for code in cells]
    for index, tag in (tags or {}).items():
        made[index].metadata["tags"] = [tag]
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)


# -- scripts -------------------------------------------------------------------------------------

PRINT_SURROUNDINGS = """
import json, os, sys
print(json.dumps([__name__, __file__, sys.argv, os.getcwd(), sys.path[0]]))
print(json.dumps(sorted(name for name in globals() if "pool" in name.lower())))
"""


def test_a_script_finds_what_python_would_give_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", a=PRINT_SURROUNDINGS)
    arguments = ["sub/a.py", "--epochs", "3"]
    plain = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    done = run("exec", arguments[0], "--", *arguments[1:], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, plain.stdout)
    assert done.stderr.startswith("1 file done in ")


def test_a_single_script_prints_as_python_prints_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        a=(
            "import sys\n"
            "def f():\n"
            "    raise ValueError('no')\n"
            "print('out', end='')\n"
            "print('err', file=sys.stderr)\n"
            "f()\n"
        ),
    )
    plain = subprocess.run(
        [sys.executable, "a.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    done = run("exec", "a.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.rstrip("\n") == plain.stdout
    told, summary = done.stderr.rstrip("\n").rsplit("\n", 1)
    assert told == plain.stderr.rstrip("\n")
    assert summary.startswith("0 of 1 file done in ")
    assert summary.endswith(", 1 failed: a.py (ValueError: no)")


def test_lines_of_several_files_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, a="print('one')\nprint('two', end='')", longer="import sys\nprint(3)\n1/0")
    done = run("exec", "a.py", "longer.py", cwd=tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("a")] == [
        "a.py      | one",
        "a.py      | two",
    ]
    assert [line for line in lines if line.startswith("l")] == ["longer.py | 3"]
    assert f'longer.py |   File "{tmp_path / "longer.py"}", line 3, in <module>' in done.stderr
    assert "\x1b" not in done.stdout + done.stderr  # not a terminal
    assert "1 of 2 files done in" in done.stderr
    assert "1 failed: longer.py (ZeroDivisionError: division by zero)" in done.stderr


def test_no_file_finds_what_another_one_left(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        write(tmp_path / name, helper=f"WHO = {name!r}")
        write(
            tmp_path / name,
            main="import helper, os\nprint(helper.WHO, 'LEFT' in os.environ)\nos.environ['LEFT'] = '1'",
        )
    done = run("exec", "--workers=1", "a/main.py", "b/main.py", cwd=tmp_path)
    assert sorted(done.stdout.splitlines()) == ["a/main.py | a False", "b/main.py | b False"]


def test_output_arrives_while_the_script_still_runs(tmp_path: Path) -> None:
    write(
        tmp_path,
        a=(
            "import pathlib, time\n"
            "print('waiting')\n"
            "while not pathlib.Path('go').exists():\n"
            "    time.sleep(0.01)\n"
            "print('went on')\n"
        ),
        b="print('b')",
    )
    for files in (["a.py"], ["a.py", "b.py"]):
        with Running("exec", *files, cwd=tmp_path) as command:
            seen = [command.line() for _ in files]
            assert any("waiting" in line for line in seen)
            (tmp_path / "go").touch()
            assert command.line().endswith("went on\n")
            assert command.end()[0] == 0
        (tmp_path / "go").unlink()


def test_standard_input_is_a_script(tmp_path: Path) -> None:
    done = run("exec", "-", "--", "x", cwd=tmp_path, stdin="import sys\nprint(sys.argv)\nf(1)\n")
    assert done.returncode == 1
    assert done.stdout == "['-', 'x']\n"
    assert 'File "<stdin>", line 3, in <module>\n    f(1)\n' in done.stderr
    assert "failed: - (NameError: name 'f' is not defined)" in done.stderr


@pytest.mark.parametrize(
    ("end", "code", "told"),
    [
        ("sys.exit()", 0, "1 file done"),
        ("sys.exit(0)", 0, "1 file done"),
        ("sys.exit(3)", 1, "failed: a.py (exit status 3)"),
        ("sys.exit('no data')", 1, "no data\n0 of 1 file done"),
    ],
)
def test_how_a_script_ends_itself_is_how_it_ended(
    tmp_path: Path, end: str, code: int, told: str
) -> None:
    write(tmp_path, a=f"import sys\n{end}\n")
    done = run("exec", "a.py", cwd=tmp_path)
    assert done.returncode == code
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_script_with_a_syntax_error_fails_alone_and_shows_where(tmp_path: Path) -> None:
    write(tmp_path, a="x = (\n", b="print('b ran')")
    done = run("exec", "a.py", "b.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "b.py | b ran\n"
    assert f'File "{tmp_path / "a.py"}", line 1' in done.stderr
    assert "failed: a.py (SyntaxError:" in done.stderr


def test_pickling_classes_and_reading_ones_own_source_work_as_in_a_script(tmp_path: Path) -> None:
    text = (
        "# -*- coding: latin-1 -*-\n"
        "import inspect, pickle\n"
        "class A: pass\n"
        "assert type(pickle.loads(pickle.dumps(A()))) is A\n"
        "print(inspect.getsource(A).strip(), 'ä')\n"
    )
    (tmp_path / "a.py").write_bytes(text.encode("latin-1"))
    done = run("exec", "a.py", cwd=tmp_path, env={"PYTHONIOENCODING": "utf-8"})
    assert (done.returncode, done.stdout) == (0, "class A: pass ä\n")


def test_a_crash_is_told_with_its_line_and_retried_as_often_as_asked(tmp_path: Path) -> None:
    write(
        tmp_path,
        a=(
            "import os, pathlib, signal\n"
            "log = pathlib.Path('runs')\n"
            "log.write_text((log.read_text() if log.exists() else '') + 'x')\n"
            "os.kill(os.getpid(), signal.SIGSEGV)\n"
        ),
    )
    done = run("exec", "a.py", "--retries=2", cwd=tmp_path)
    assert done.returncode == 1
    assert (tmp_path / "runs").read_text() == "xxx"
    assert "WorkerDied: worker" in done.stderr
    assert "It was at a.py, line 4." in done.stderr
    assert "__jupyter_pool_run" not in done.stderr  # the cell around it is nobody's business


def test_the_time_limit_ends_one_file_and_says_where_it_was(tmp_path: Path) -> None:
    write(tmp_path, a="import time\ntime.sleep(600)\n", b="print('b ran')")
    # Nothing is killed: on a busy machine a script takes its time to end.
    grace = "--KernelPool.interrupt_grace=60"
    done = run("exec", "a.py", "b.py", "--timeout=3s", grace, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == "b.py | b ran\n"
    trace = [line.removeprefix("a.py | ") for line in done.stderr.splitlines()]
    trace = [line for line in trace if line.strip(" ~^")]  # Python 3.13 underlines the call
    at = trace.index(f'  File "{tmp_path / "a.py"}", line 2, in <module>')
    assert trace[at + 1 : at + 3] == ["    time.sleep(600)", "KeyboardInterrupt"]
    assert trace[-1].endswith(
        "1 failed: a.py (OperationTimeout: stopped after 3 s (limit: timeout))"
    )


def test_quiet_shows_errors_and_the_summary_only(tmp_path: Path) -> None:
    write(tmp_path, a="print('seen by nobody')", b="raise SystemExit('b is ill')")
    done = run("exec", "--quiet", "a.py", "b.py", cwd=tmp_path)
    assert done.stdout == ""
    assert "b.py | b is ill" in done.stderr
    assert "seen by nobody" not in done.stderr


def test_a_progress_bar_among_others_shows_its_last_state(tmp_path: Path) -> None:
    write(tmp_path, a="for n in range(3): print(f'\\r{n} of 3', end='')\nprint('\\rdone  ')", b="")
    done = run("exec", "a.py", "b.py", cwd=tmp_path)
    assert done.stdout == "a.py | done  \n"


def test_names_are_coloured_on_a_terminal_only(tmp_path: Path) -> None:
    write(tmp_path, a="print('a')", b="print('b')")
    for variables, expected in (
        ({"NO_COLOR": ""}, {"\x1b[36ma.py\x1b[0m | a", "\x1b[33mb.py\x1b[0m | b"}),
        ({"NO_COLOR": "1"}, {"a.py | a", "b.py | b"}),
    ):
        ours, its = pty.openpty()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "jupyter_pool.cli", "exec", "a.py", "b.py"],
                cwd=tmp_path,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=its,
                stderr=subprocess.PIPE,
            )
            _, told = process.communicate(timeout=DEADLINE)
            assert process.returncode == 0, told
            # The terminal may hand over one line after the other.
            shown = ""
            while shown.count("\n") < len(expected):
                shown += os.read(ours, 65536).decode()
        finally:
            os.close(its)
            os.close(ours)
        assert set(shown.splitlines()) == expected
        assert b"\x1b" not in told


# -- notebooks -----------------------------------------------------------------------------------


def test_a_notebook_runs_in_its_folder_cell_by_cell_until_one_raises(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", helper="X = 20")
    write_notebook(
        tmp_path / "sub" / "n.ipynb",
        "import os, helper\nprint(os.getcwd())",
        "helper.X + 1",
        "1/0",
        "",
        "%time\nraise KeyError('k')",
        "print('never')",
        tags={2: "raises-exception"},
    )
    before = (tmp_path / "sub" / "n.ipynb").read_bytes()
    done = run("exec", "sub/n.ipynb", "--write=done", cwd=tmp_path)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[:2] == [str(tmp_path / "sub"), "21"]
    assert "never" not in done.stdout
    assert "ZeroDivisionError" in done.stderr
    assert "Cell In[4], line 2" in done.stderr
    assert "failed: sub/n.ipynb (KeyError: 'k')" in done.stderr
    assert (tmp_path / "sub" / "n.ipynb").read_bytes() == before

    saved = nbformat.read(tmp_path / "done" / "n.ipynb", as_version=4)
    nbformat.validate(saved)
    assert [cell.execution_count for cell in saved.cells] == [1, 2, 3, None, 4, None]
    assert saved.cells[1].outputs[0].data["text/plain"] == "21"
    assert saved.cells[4].outputs[-1].ename == "KeyError"
    assert saved.cells[5].outputs == []


def test_the_time_limit_of_a_notebook_is_for_all_of_it(tmp_path: Path) -> None:
    write_notebook(tmp_path / "n.ipynb", "import time; time.sleep(0.1)", "time.sleep(600)")
    done = run("exec", "n.ipynb", "--timeout=6", cwd=tmp_path)
    assert done.returncode == 1
    left = re.search(r"OperationTimeout: stopped after ([\d.]+) s", done.stderr)
    assert left
    assert float(left[1]) < 6
    assert "was at line 1: time.sleep(600)" in done.stderr


def test_a_notebook_whose_worker_dies_starts_again(tmp_path: Path) -> None:
    write_notebook(
        tmp_path / "n.ipynb",
        "import os, pathlib\nfirst = not pathlib.Path('seen').exists()",
        "if first:\n    pathlib.Path('seen').touch()\n    os._exit(1)\nprint('second time')",
    )
    done = run("exec", "n.ipynb", "--retries=1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "second time\n"), done.stderr
    assert "running it again" in done.stderr


# -- what cannot be run ----------------------------------------------------------------------------


def test_nothing_runs_if_anything_is_wrong_and_all_that_is_wrong_is_said(tmp_path: Path) -> None:
    write(tmp_path, good="import pathlib; pathlib.Path('ran').touch()")
    (tmp_path / "bad.ipynb").write_text("{'no': json}")
    (tmp_path / "old.ipynb").write_text(json.dumps({"nbformat": 3, "worksheets": []}))
    (tmp_path / "odd.ipynb").write_text(json.dumps({"nbformat": 4, "cells": [{}]}))
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe\x00")
    metadata = {"kernelspec": {"language": "R", "name": "ir"}}
    (tmp_path / "r.ipynb").write_text(
        json.dumps({"nbformat": 4, "cells": [], "metadata": metadata})
    )
    names = ["nope.py", ".", "bad.ipynb", "old.ipynb", "odd.ipynb", "binary.py", "r.ipynb"]
    done = run("exec", "good.py", *names, cwd=tmp_path)
    assert done.returncode == 2
    for line in (
        "nope.py: No such file or directory",
        ".: is a folder, not a file",
        "bad.ipynb: not a notebook (",
        "old.ipynb: has notebook format 3; only 4 can be run",
        "odd.ipynb: a damaged notebook (KeyError: 'cell_type')",
        "binary.py: not a text that can be read (",
        "r.ipynb: is written in R, the kernel's language is python",
    ):
        assert f"jupyter pool exec: {line}" in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="platform: root may read anything"
)
def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, a="")
    (tmp_path / "a.py").chmod(0)
    done = run("exec", "a.py", cwd=tmp_path)
    assert (done.returncode, "a.py: Permission denied" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--kernel=nope"], "no such kernel is installed"),
        (["--timeout=soon"], "--timeout=soon: 'soon' is not a time"),
        (["--timeout=0"], "--timeout takes a time of more than 0"),
        (["--timeout"], "--timeout: expected one argument"),
        (["--retries=-1"], "--retries=-1: it takes a whole number of at least 0"),
        (
            ["--workers=0"],
            "KernelPool.size=0 is not possible: it takes a whole number of at least 1",
        ),
        (["--isolation=full"], "'namespace' or 'process' or 'none'"),
        (["--tiemout=3"], "there is no option --tiemout. Did you mean --timeout?"),
        (["--time=3"], "there is no option --time. Did you mean --timeout?"),
        (["-z"], "there is no option -z"),
        (["--KernelPool.sise=2"], "no option --KernelPool.sise. Did you mean --KernelPool.size?"),
        (["--KernelPol.size=2"], "no option --KernelPol.…. Did you mean --KernelPool?"),
    ],
)
def test_an_impossible_option_is_named_with_what_is_possible(
    tmp_path: Path, options: list[str], told: str
) -> None:
    write(tmp_path, a="import pathlib; pathlib.Path('ran').touch()")
    done = run("exec", "a.py", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ran").exists()


def test_no_file_and_standard_input_twice_are_misuse(tmp_path: Path) -> None:
    assert "which file?" in run("exec", cwd=tmp_path).stderr
    assert "only once" in run("exec", "-", "-", cwd=tmp_path).stderr


@pytest.mark.parametrize("names", [("n.ipynb", "sub/n.ipynb"), ("n.ipynb",)])
def test_written_notebooks_overwrite_neither_each_other_nor_their_originals(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    (tmp_path / "sub").mkdir()
    for name in names:
        write_notebook(tmp_path / name, "1")
    before = [(tmp_path / name).read_bytes() for name in names]
    done = run("exec", *names, f"--write={'out' if len(names) > 1 else '.'}", cwd=tmp_path)
    assert done.returncode == 2
    assert ("have the same name" if len(names) > 1 else "itself is there") in done.stderr
    assert [(tmp_path / name).read_bytes() for name in names] == before


def test_a_folder_for_notebooks_is_misuse_where_there_are_none(tmp_path: Path) -> None:
    write(tmp_path, a="")
    done = run("exec", "a.py", "--write=out", cwd=tmp_path)
    assert (done.returncode, (tmp_path / "out").exists()) == (2, False)
    assert "--write=out: there is no notebook among the files" in done.stderr


# -- pool and kernel -------------------------------------------------------------------------------


def configure(folder: Path, text: str) -> dict[str, str]:
    """An environment in which this is the configuration of `jupyter pool`."""
    (folder / "config").mkdir()
    (folder / "config" / "jupyter_pool_config.py").write_text(text)
    return {"JUPYTER_CONFIG_DIR": str(folder / "config")}


TELL_PID = "import os\nprint(os.getpid())\n"


def pids_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.returncode == 0, done.stderr
    return [line.split(" | ")[1] for line in done.stdout.splitlines()]


def test_the_number_of_workers_comes_from_the_command_line_or_the_configuration(
    tmp_path: Path,
) -> None:
    meet = (
        "import os, pathlib, sys, time\n"
        "pathlib.Path(f'here-{os.getpid()}').touch()\n"
        "while len(list(pathlib.Path('.').glob('here-*'))) < 3: time.sleep(0.01)\n"
    )
    write(tmp_path, **dict.fromkeys("abc", meet))
    files = ["a.py", "b.py", "c.py"]
    assert run("exec", "-n", "3", *files, cwd=tmp_path).returncode == 0
    write(tmp_path, **dict.fromkeys("abc", TELL_PID))
    env = configure(tmp_path, "c.KernelPool.size = 1\n")
    assert len(set(pids_of(run("exec", *files, cwd=tmp_path, env=env)))) == 1
    for path in tmp_path.glob("here-*"):
        path.unlink()
    write(tmp_path, **dict.fromkeys("abc", meet))
    # What the command line says goes before the file.
    assert run("exec", "--KernelPool.size=3", *files, cwd=tmp_path, env=env).returncode == 0


def test_process_isolation_gives_each_file_a_process_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, **dict.fromkeys("abc", TELL_PID))
    done = run("exec", "-n", "1", "--isolation=process", "a.py", "b.py", "c.py", cwd=tmp_path)
    assert len(set(pids_of(done))) == 3


def test_an_operation_timeout_of_the_configuration_is_the_default_limit(tmp_path: Path) -> None:
    write(tmp_path, a="import time\ntime.sleep(600)\n")
    done = run("exec", "a.py", "--KernelPool.operation_timeout=1", cwd=tmp_path)
    assert done.returncode == 1
    assert "OperationTimeout" in done.stderr


def test_a_mistake_in_the_configuration_file_is_not_overlooked(tmp_path: Path) -> None:
    write(tmp_path, a="")
    env = configure(tmp_path, "c.KernelPool.size = 'many'\n")
    done = run("exec", "a.py", cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert "c.KernelPool.size='many' is not possible" in done.stderr


def test_a_kernel_that_is_not_pythons_gets_the_file_as_a_cell(
    tmp_path: Path, bash_kernel: str
) -> None:
    (tmp_path / "a.sh").write_text('echo "from $((20 + 1)) bash"\n')
    done = run("exec", f"--kernel={bash_kernel}", "a.sh", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "from 21 bash" in done.stdout


def test_a_stock_python_kernel_runs_scripts_the_same_way(tmp_path: Path) -> None:
    write(tmp_path, a="print(__file__)\nraise ValueError('no')\n")
    done = run("exec", "--kernel=python3", "a.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout == f"{tmp_path / 'a.py'}\n"
    assert f'File "{tmp_path / "a.py"}", line 2, in <module>' in done.stderr


# -- ends ------------------------------------------------------------------------------------------

WAIT = "print('begun')\nimport time\ntime.sleep(600)\n"


@LINUX
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_says_how_far_it_came_and_leaves_no_process(
    tmp_path: Path, signum: signal.Signals
) -> None:
    write(tmp_path, a=WAIT, b=WAIT.replace("begun", "B begun"), c="print('c')")
    with Running("exec", "-n2", "a.py", "b.py", "c.py", cwd=tmp_path) as command:
        command.line()
        command.line()
        started = command.started()
        assert len(started) > 2
        command.send(signum)
        code, told = command.end()
    assert code == 128 + signum
    assert "Interrupted: 0 of 3 files done in" in told
    assert told.rstrip().endswith("not finished: a.py, b.py, c.py")
    assert "asyncio" not in told
    eventually(gone(started), "no process is left")


@LINUX
def test_a_second_ctrl_c_waits_for_nobody(tmp_path: Path) -> None:
    stubborn = (
        "import pathlib, time\n"
        "while True:\n"
        "    try:\n"
        "        print('begun', flush=True)\n"
        "        time.sleep(600)\n"
        "    except BaseException:\n"
        "        pathlib.Path('interrupted').touch()\n"
    )
    write(tmp_path, a=stubborn)
    with Running("exec", "a.py", "--KernelPool.interrupt_grace=600", cwd=tmp_path) as command:
        assert command.line() == "begun\n"
        command.send(signal.SIGINT)
        eventually((tmp_path / "interrupted").exists, "it goes on regardless")
        started = command.started()
        command.send(signal.SIGINT)
        assert command.end()[0] == 130
    eventually(gone(started), "the guardian has ended the worker")


@LINUX
def test_when_nobody_reads_any_more_it_ends_without_a_word(tmp_path: Path) -> None:
    write(tmp_path, a="print('begun', flush=True)\nwhile True: print('and on')\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "jupyter_pool.cli", "exec", "a.py"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.stdout.close()
    _, told = process.communicate(timeout=DEADLINE)
    assert (process.returncode, told) == (128 + signal.SIGPIPE, "")


def test_help_says_what_it_takes(tmp_path: Path) -> None:
    done = run("exec", "--help", cwd=tmp_path)
    assert done.returncode == 0
    for text in (
        "-n, --workers=VALUE",
        "-t, --timeout=TIME",
        "--retries=N",
        "Exit code:",
        "--help-all",
    ):
        assert text in done.stdout
    everything = run("exec", "--help-all", cwd=tmp_path).stdout
    for text in ("--KernelPool.memory_limit=VALUE", "Default: 'namespace'"):
        assert text in everything
