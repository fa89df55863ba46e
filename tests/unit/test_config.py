"""Options: defaults, what is allowed, where they come from, and errors that name them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from traitlets.config import Application, Config

from jupyter_pool._cpus import cgroup_quota, cpus_within
from jupyter_pool.config import PoolConfig, default_size
from jupyter_pool.errors import InvalidRequest

COUNTS = {
    "size": 1,
    "overflow": 0,
    "reserve": 0,
    "max_waiting": 0,
    "max_tasks": 1,
    "max_sessions": 1,
}
TIMES = [
    "checkout_timeout",
    "operation_timeout",
    "max_lifetime",
    "max_idle",
    "interrupt_grace",
    "start_timeout",
    "health_check_interval",
    "session_ttl",
]
FINITE = ["interrupt_grace", "start_timeout"]
ZERO = ["checkout_timeout", "interrupt_grace"]


@pytest.fixture
def application() -> Iterator[Application]:
    """A running Jupyter application, as far as its configuration goes."""
    app = Application.instance()
    yield app
    Application.clear_instance()


def refusal(options: dict[str, Any]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        PoolConfig.build(options)
    return str(caught.value)


def test_defaults() -> None:
    values = PoolConfig.build().as_dict()
    assert values.pop("size") == default_size()
    assert values == {
        "name": None,
        "overflow": 0,
        "lazy": False,
        "reserve": 0,
        "kernel_name": None,
        "isolation": "namespace",
        "checkout_timeout": 30.0,
        "operation_timeout": 120.0,
        "max_waiting": 0,
        "max_tasks": None,
        "max_lifetime": None,
        "max_idle": 60.0,
        "preload": (),
        "setup": (),
        "threads_per_worker": "auto",
        "output_limit": 20_000_000,
        "memory_limit": None,
        "env": {},
        "cwd": None,
        "interrupt_grace": 2.0,
        "start_timeout": 30.0,
        "health_check_interval": 30.0,
        "session_ttl": 3600.0,
        "max_sessions": 10_000,
    }


def test_every_option_has_a_help_text() -> None:
    config = PoolConfig.build()
    for name in PoolConfig.option_names():
        assert len(config.trait_metadata(name, "help")) > 20
    assert "--KernelPool.size" in PoolConfig.class_get_help().replace("PoolConfig.", "KernelPool.")


def test_options_are_kept() -> None:
    options = {"name": "mine", "size": 3, "lazy": True, "isolation": "process", "max_tasks": 9}
    values = PoolConfig.build(options).as_dict()
    assert {name: values[name] for name in options} == options


def test_configurations_share_no_environment() -> None:
    PoolConfig.build().env["A"] = "1"
    assert PoolConfig.build().env == {}
    given = {"A": "1", "B": None}
    kept = PoolConfig.build({"env": given}).env
    given.clear()
    assert kept == {"A": "1", "B": None}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_are_whole_numbers_from_their_least_on(name: str) -> None:
    least = COUNTS[name]
    assert getattr(PoolConfig.build({name: least}), name) == least
    number = getattr(PoolConfig.build({name: np.int64(5)}), name)
    assert type(number) is int
    for wrong in [least - 1, 2.0, "2", True, [2]]:
        message = refusal({name: wrong})
        assert message.startswith(f"{name}={wrong!r} is not possible: it takes a whole number")
        assert f"at least {least}" in message
    if name == "max_tasks":
        assert PoolConfig.build({name: None}).max_tasks is None
    else:
        refusal({name: None})


@pytest.mark.parametrize("name", TIMES)
def test_times_are_seconds_or_texts(name: str) -> None:
    for given, seconds in [(1, 1.0), (0.25, 0.25), ("90", 90.0), ("10m", 600.0)]:
        assert getattr(PoolConfig.build({name: given}), name) == seconds
    for wrong in [-1, "soon", float("nan"), float("inf"), True, [1]]:
        assert refusal({name: wrong}).startswith(
            f"{name}={wrong!r} is not possible: it takes a time"
        )
    for none in [None, "none"]:
        if name in FINITE:
            refusal({name: none})
        else:
            assert getattr(PoolConfig.build({name: none}), name) is None
    if name in ZERO:
        assert getattr(PoolConfig.build({name: 0}), name) == 0
    else:
        assert "more than 0" in refusal({name: 0})


def test_isolation_is_one_of_three() -> None:
    assert refusal({"isolation": "sandbox"}) == (
        "isolation='sandbox' is not possible: it takes 'namespace' or 'process' or 'none'"
    )
    refusal({"isolation": None})


def test_lazy_is_true_or_false() -> None:
    assert refusal({"lazy": "yes"}) == "lazy='yes' is not possible: it takes True or False"


@pytest.mark.parametrize("option", ["name", "kernel_name"])
@pytest.mark.parametrize("wrong", ["", " ", " a", "a\nb", 3, b"a"])
def test_names_are_one_line_of_text(option: str, wrong: Any) -> None:
    assert option in refusal({option: wrong})


@pytest.mark.parametrize(
    "wrong", [3, ["A"], {"A": 1}, {1: "a"}, {"": "a"}, {"A=B": "a"}, {"A": "a\0"}]
)
def test_environment_is_texts_by_name(wrong: Any) -> None:
    assert refusal({"env": wrong}).startswith("env is not possible: it takes a dict of texts")


def test_environment_values_are_never_shown() -> None:
    message = refusal({"env": {"PASSWORD": "hunter2", "PORT": 12345}})
    assert "hunter2" not in message
    assert "12345" not in message
    assert "'PORT' with a value of type int" in message


def test_folder_must_exist_and_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ["work", tmp_path / "work", "~/work", b"work"]:
        assert PoolConfig.build({"cwd": given}).cwd == str(tmp_path / "work")
    for wrong in ["", "missing", "file", 3, "a\0"]:
        assert "existing folder" in refusal({"cwd": wrong})


def test_unknown_option_is_named_with_what_is_close_and_what_there_is() -> None:
    with pytest.raises(InvalidRequest) as caught:
        PoolConfig.build({"checkout_timout": 3})
    message = str(caught.value)
    assert message.startswith("there is no option checkout_timout. Did you mean checkout_timeout")
    for name in PoolConfig.option_names():
        assert name in message
    assert caught.value.context["option"] == "checkout_timout"
    assert refusal({"xyzzy": 1}).startswith("there is no option xyzzy.\nOptions: name, size,")


@pytest.mark.parametrize("name", ["config", "parent", "log", "traits"])
def test_what_traitlets_adds_is_no_option(name: str) -> None:
    assert f"there is no option {name}" in refusal({name: 1})


# --- the application's configuration ------------------------------------------------------------


def test_application_configuration_replaces_defaults(application: Application) -> None:
    application.config = Config({"KernelPool": {"size": 3, "operation_timeout": "10m"}})
    config = PoolConfig.build()
    assert (config.size, config.operation_timeout, config.overflow) == (3, 600.0, 0)


def test_what_a_call_says_wins_over_the_application_configuration(
    application: Application,
) -> None:
    # Even where the configuration is wrong about it.
    application.config = Config({"KernelPool": {"size": "wrong", "max_tasks": 5}})
    config = PoolConfig.build({"size": 2, "max_tasks": None})
    assert (config.size, config.max_tasks) == (2, None)


def test_wrong_configuration_is_named_as_it_is_written_there(application: Application) -> None:
    application.config = Config({"KernelPool": {"size": 0}})
    assert refusal({}).startswith("c.KernelPool.size=0 is not possible")
    application.config = Config({"KernelPool": {"sise": 4}})
    assert refusal({}).startswith("there is no option c.KernelPool.sise. Did you mean size")


def test_configuration_may_update_a_default_in_place(application: Application) -> None:
    config = Config()
    config.KernelPool.env.update({"A": "1"})
    application.config = config
    assert PoolConfig.build().env == {"A": "1"}


def test_configuration_may_come_from_a_command_line(application: Application) -> None:
    arguments = [f"--KernelPool.{option}" for option in ("size=3", "max_idle=none", "lazy=True")]
    application.parse_command_line(arguments)
    config = PoolConfig.build()
    assert (config.size, config.max_idle, config.lazy) == (3, None, True)
    application.parse_command_line(["--KernelPool.size=many"])
    assert "size" in refusal({})


def test_other_sections_and_applications_do_not_matter(application: Application) -> None:
    application.config = Config({"PoolConfig": {"size": 3}, "PoolMagics": {"pool": "x"}})
    assert PoolConfig.build().size == default_size()


def test_the_memory_limit_is_a_size_that_a_new_worker_fits_in() -> None:
    for given, size in [(50_000_000, 50_000_000), ("1.5GB", 1_500_000_000), ("none", None)]:
        assert PoolConfig.build({"memory_limit": given}).memory_limit == size
    for wrong in [49_999_999, "40MB", 0, -1, "plenty", True]:
        message = refusal({"memory_limit": wrong})
        assert message.startswith(f"memory_limit={wrong!r} is not possible: it takes a size")
        assert "at least 50 MB" in message


def test_setup_is_code_a_function_or_a_list_of_these_for_the_pools_own_kernel() -> None:
    for given, kept in (
        ("x = 1", ("x = 1",)),
        (print, (print,)),
        (["x = 1", print], ("x = 1", print)),
        ((), ()),
    ):
        assert PoolConfig.build({"setup": given}).setup == kept
    for wrong in (3, [3], " ", [None]):
        assert "code as a text, a function" in refusal({"setup": wrong})
    message = refusal({"setup": "x = 1", "kernel_name": "python3"})
    assert "setup is for the pool's own kernel" in message


def test_preload_is_a_list_of_modules_for_the_pools_own_kernel() -> None:
    for given in [["json", "os.path"], ("json", "os.path"), "json, os.path"]:
        if isinstance(given, str):
            assert "a list of module names" in refusal({"preload": given})
        else:
            assert PoolConfig.build({"preload": given}).preload == ("json", "os.path")
    for wrong in [["no module"], [1], 5, [""]]:
        assert "a list of module names" in refusal({"preload": wrong})
    message = refusal({"preload": ["json"], "kernel_name": "python3"})
    assert "preload=['json'] is for the pool's own kernel" in message
    assert "kernel_name='python3'" in message


def test_threads_are_a_number_auto_or_none() -> None:
    for given in (1, np.int64(4), "auto", None):
        assert PoolConfig.build({"threads_per_worker": given}).threads_per_worker == given
    for wrong in (0, -1, 1.5, True, "two", "2"):
        message = refusal({"threads_per_worker": wrong})
        assert message.startswith(f"threads_per_worker={wrong!r} is not possible")
        assert "'auto'" in message


def test_the_output_limit_is_a_size_with_room_for_some_messages() -> None:
    for given, size in [(10_000, 10_000), ("200kB", 200_000), ("none", None), (None, None)]:
        assert PoolConfig.build({"output_limit": given}).output_limit == size
    for wrong in [9_999, 0, -1, "much", True]:
        message = refusal({"output_limit": wrong})
        assert message.startswith(f"output_limit={wrong!r} is not possible: it takes a size")
        assert "at least 10 kB" in message


# --- the default size ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpus", "quota", "size"),
    [
        (4, None, 4),
        (64, None, 64),
        (64, 2.0, 2),
        (4, 0.5, 1),
        (8, 2.5, 3),
        (2, 6.0, 2),
        (0, None, 1),
    ],
)
def test_the_usable_cpus_are_what_affinity_and_quota_leave(
    cpus: int, quota: float | None, size: int
) -> None:
    assert cpus_within(cpus, quota) == size


def test_the_default_size_is_at_most_eight() -> None:
    with patch("jupyter_pool._cpus.usable_cpus", lambda: 64):
        assert default_size() == 8


def test_default_size_here_is_possible() -> None:
    assert 1 <= default_size() <= 8


V1 = "11:memory:/user\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n"


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("", {}, None),
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 100000\n", "a/cpu.max": "max 100000\n"}, 1.0),
        # In a container without a namespace of its own, the path is the host's.
        ("0::/system.slice/docker-abc\n", {"cpu.max": "300000 100000\n"}, 3.0),
        ("0::/../../b\n", {"b/cpu.max": "100000 100000\n"}, 1.0),
        ("0::/a:b\n", {"a:b/cpu.max": "100000 100000\n"}, 1.0),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        ("0::/\n", {"cpu.max": "100000 0"}, None),
        (V1, {}, None),
        (
            V1,
            {
                "cpu/docker/abc/cpu.cfs_quota_us": "50000\n",
                "cpu/docker/abc/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            V1,
            {
                "cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        (V1 + "0::/u\n", {"unified/u/cpu.max": "100000 100000\n"}, 1.0),
    ],
)
def test_quota_is_read_from_either_version_of_cgroups(
    tmp_path: Path, membership: str, files: dict[str, str], quota: float | None
) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert cgroup_quota(membership, tmp_path) == quota
