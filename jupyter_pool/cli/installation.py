"""The checks of `jupyter pool doctor` that start nothing: packages, kernelspecs, folders, limits."""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import jupyter_core.paths
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import jupyter_pool
from jupyter_pool import _reprs
from jupyter_pool.config import PoolConfig
from jupyter_pool.errors import PoolError

from .findings import Finding, bad, note, ok

__all__ = ["CHECKS"]

#: Descriptors that the owner of a pool has open for each worker, and for everything else.
EACH, OTHERS = 16, 120
#: Less shared memory than this, in bytes, is that of a container that nobody has configured.
LITTLE_SHM = 128 << 20


def python(_config: PoolConfig) -> Finding:
    """The interpreter, which workers run in too."""
    about = f"{platform.python_version()} on {platform.system()} ({sys.executable})"
    wanted = metadata.metadata("jupyter-pool")["Requires-Python"]
    if platform.python_version() not in SpecifierSet(wanted, prereleases=True):
        return bad("Python", f"{about}; {wanted} is wanted", "make an environment with another one")
    return ok("Python", about)


def packages(_config: PoolConfig) -> Finding:
    """What the package requires is installed, in a version that it knows."""
    found, wrong = [], []
    for line in metadata.requires("jupyter-pool") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(wanted.name)
        except metadata.PackageNotFoundError:
            wrong.append((wanted, "missing"))
            continue
        if not wanted.specifier.contains(version, prereleases=True):
            wrong.append((wanted, version))
        found.append(f"{wanted.name} {version}")
    if wrong:
        texts = [f"{wanted.name} is {what}, {wanted.specifier} is wanted" for wanted, what in wrong]
        names = " ".join(f'"{wanted.name}{wanted.specifier}"' for wanted, _ in wrong)
        return bad("packages", "; ".join(texts), f'"{sys.executable}" -m pip install {names}')
    return ok("packages", f"jupyter_pool {jupyter_pool.__version__}; {', '.join(sorted(found))}")


def kernelspecs(config: PoolConfig) -> Finding:
    """The kernel that workers run is installed; of the others, which cannot be started."""
    specs = KernelSpecManager().get_all_specs()
    broken = {
        name: one["spec"]["argv"][0]
        for name, one in sorted(specs.items())
        if one["spec"].get("argv") and shutil.which(one["spec"]["argv"][0]) is None
    }
    wanted = config.kernel_name
    if wanted is not None:
        try:
            KernelSpecManager().get_kernel_spec(wanted)
        except NoSuchKernel:
            names = ", ".join(sorted(specs)) or "none"
            return bad("kernelspecs", f"kernel_name={wanted!r}: no such kernel", f"choose: {names}")
        if wanted in broken:
            return bad(
                "kernelspecs",
                f"kernel_name={wanted!r} wants {broken[wanted]}, which is not there",
                f"install it again, or remove it: jupyter kernelspec remove {wanted}",
            )
    text = f"{wanted or 'the pool’s own Python kernel'}; installed: {', '.join(sorted(specs)) or 'none'}"
    if broken:
        gone = ", ".join(f"{name} ({command})" for name, command in broken.items())
        return note("kernelspecs", f"{text}; of these the program is missing: {gone}")
    return ok("kernelspecs", text)


def runtime_folder(_config: PoolConfig) -> Finding:
    """Sockets and connection files, which hold the workers' keys, can be put there, and are safe."""
    from jupyter_pool.engine.loop import _private_folder
    from jupyter_pool.provisioning.launcher import MAX_IPC_PATH

    runtime = jupyter_core.paths.jupyter_runtime_dir()
    mend = "set JUPYTER_RUNTIME_DIR to a folder of your own that can be written to"
    try:
        folder = _private_folder()
    except (OSError, PoolError) as error:
        return bad("runtime folder", f"{runtime}: {str(error).splitlines()[0]}", mend)
    try:
        about = os.stat(folder)
        mode = stat.S_IMODE(about.st_mode)
        Path(folder, "try").write_bytes(b"\0" * 4096)
    except OSError as error:
        return bad("runtime folder", f"{folder}: {error.strerror or error}", mend)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if about.st_uid != os.geteuid() or mode & 0o077:
        return bad(
            "runtime folder",
            f"folders made in {os.path.dirname(folder)} have mode {mode:04o}: others may enter",
            f"{mend}, on a file system with permissions",
        )
    length = len(os.fsencode(folder)) + len("/w1000000-1")
    if os.path.dirname(folder) != os.path.abspath(runtime):
        return note(
            "runtime folder",
            f"{runtime} is too long for sockets ({MAX_IPC_PATH} bytes at most); "
            f"{os.path.dirname(folder)} is used",
        )
    return ok(
        "runtime folder", f"{runtime}; paths of sockets have {length} of {MAX_IPC_PATH} bytes"
    )


def encryption(_config: PoolConfig) -> Finding:
    """Sockets in a private folder need none; what goes over TCP does."""
    import zmq

    version = f"libzmq {zmq.zmq_version()}"
    if not zmq.has("ipc"):
        return bad(
            "sockets",
            f"{version} has no ipc transport, over which workers are reached",
            f'"{sys.executable}" -m pip install --force-reinstall pyzmq',
        )
    if not zmq.has("curve"):
        return note("sockets", f"{version}: ipc, but no CURVE encryption for kernels on TCP")
    return ok("sockets", f"{version}: ipc in a private folder, CURVE encryption for kernels on TCP")


def shared_memory(_config: PoolConfig) -> Finding | None:
    """Large values go through it, where there is room."""
    from jupyter_pool import shared

    if not sys.platform.startswith("linux"):
        return note("shared memory", f"not used on {sys.platform}: large values are copied")
    if (made := shared.SharedMemory.make()) is None:
        return note("shared memory", f"{shared.ROOT} cannot be used: large values are copied")
    made.close()
    disk = shutil.disk_usage(shared.ROOT)
    text = f"{shared.ROOT} has {_reprs.size(disk.total)}, {_reprs.size(disk.free)} free"
    if disk.total < LITTLE_SHM:
        mend = "in a container: docker run --shm-size=2g"
        return note("shared memory", f"{text}: larger values are copied", mend)
    return ok("shared memory", text)


def descriptors(config: PoolConfig) -> Finding:
    """As many files may be open as the workers need."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    workers = config.size + config.overflow + config.reserve
    needed = OTHERS + EACH * workers
    if soft == resource.RLIM_INFINITY:
        return ok("open files", "no limit")
    text = f"at most {soft} (ulimit -n); {workers} workers take some {needed}"
    if soft >= needed:
        return ok("open files", text)
    room = hard == resource.RLIM_INFINITY or hard >= needed
    mend = f"ulimit -n {needed}" if room else "raise the hard limit, or fewer workers"
    return bad("open files", text, mend)


def panel(_config: PoolConfig) -> Finding:
    """JupyterLab finds the panel, whole and of this version."""
    name = "JupyterLab panel"
    mend = f'"{sys.executable}" -m pip install --force-reinstall --no-deps jupyter-pool'
    places = jupyter_core.paths.jupyter_path("labextensions")
    # The first one is the one that JupyterLab takes.
    found = next((home for place in places if (home := Path(place, "jupyter-pool")).is_dir()), None)
    if found is None:
        return bad(name, f"not in {', '.join(places)}", mend)
    try:
        about = json.loads((found / "package.json").read_text(encoding="utf-8"))
        version, entry = about["version"], about["jupyterlab"]["_build"]["load"]
    except (OSError, ValueError, KeyError) as error:
        return bad(name, f"{found}: package.json is missing or broken ({error})", mend)
    if not (found / entry).is_file():
        return bad(name, f"{found} has no {entry}", mend)
    if version != jupyter_pool.__version__:
        return bad(name, f"{found} is of version {version}, not {jupyter_pool.__version__}", mend)
    if _is_disabled():
        return note(
            name, f"{found}, but it is disabled", "jupyter labextension enable jupyter-pool"
        )
    return ok(name, f"{version} in {found}")


def _is_disabled() -> bool:
    """Whether somebody has told JupyterLab to leave it out."""
    for place in jupyter_core.paths.jupyter_config_path():
        try:
            text = Path(place, "labconfig", "page_config.json").read_text(encoding="utf-8")
            disabled = json.loads(text).get("disabledExtensions", {})
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(disabled, list):
            disabled = dict.fromkeys(disabled, True)
        if any(disabled.get(name) for name in ("jupyter-pool", "jupyter-pool:panel")):
            return True
    return False


#: Name and function of each; None as finding: nothing to tell.
CHECKS: list[tuple[str, Callable[[PoolConfig], Finding | None]]] = [
    ("Python", python),
    ("packages", packages),
    ("kernelspecs", kernelspecs),
    ("runtime folder", runtime_folder),
    ("sockets", encryption),
    ("shared memory", shared_memory),
    ("open files", descriptors),
    ("JupyterLab panel", panel),
]
