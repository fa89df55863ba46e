"""The provisioner's contract, held by jupyter_client's own LocalProvisioner and by ours alike."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from jupyter_pool import kernel
from jupyter_pool.provisioning import fork
from jupyter_pool.provisioning.templates import (
    ForkedProcess,
    Templates,
    UnknownExitCode,
    is_supported,
)
from support.cells import DEADLINE
from support.templates import own_templates

pytestmark = pytest.mark.skipif(is_supported() is not None, reason=f"platform: {is_supported()}")


@pytest.fixture(scope="module")
def templates() -> Iterator[Templates]:
    with own_templates() as templates:
        yield templates


class Manager(AsyncKernelManager):
    templates: Templates | None = None

    def _connect_control_socket(self) -> None:
        """Not wanted: nobody here shuts down by message."""


@asynccontextmanager
async def kernel_of(
    folder: Path, templates: Templates, provisioner: str, **options: Any
) -> AsyncIterator[Manager]:
    """A kernel that is ready, started by a provisioner of that name."""
    context = zmq.asyncio.Context()
    manager = Manager(
        context=context,
        transport="ipc",
        ip=str(folder / "k"),
        connection_file=str(folder / "c.json"),
        autorestart=False,
    )
    manager.templates = templates
    manager._kernel_spec = KernelSpec(
        argv=kernel.command(),
        display_name="test",
        language="python",
        metadata={"kernel_provisioner": {"provisioner_name": provisioner}},
    )
    await manager.start_kernel(**{"cwd": str(folder), **options})
    try:
        yield manager
    finally:
        if manager.has_kernel:
            await manager.shutdown_kernel(now=True)
        context.term()


@pytest.fixture(params=["local-provisioner", fork.NAME])
def provisioner(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="jpf-") as name:  # a socket's path must be short
        yield Path(name)


async def run(manager: Manager, code: str) -> dict[str, Any]:
    client = manager.client()
    client.start_channels(hb=False)
    try:
        await client.wait_for_ready(timeout=DEADLINE)
        reply: dict[str, Any] = await client._async_execute_interactive(
            code, timeout=DEADLINE, output_hook=lambda message: None, user_expressions={"r": "r"}
        )
        return reply["content"]  # type: ignore[no-any-return]
    finally:
        client.stop_channels()


async def value(manager: Manager, code: str) -> str:
    content = await run(manager, code)
    return str(content["user_expressions"]["r"]["data"]["text/plain"])


async def ended(manager: Manager) -> int | None:
    provisioner = manager.provisioner
    assert provisioner is not None
    return await asyncio.wait_for(provisioner.wait(), DEADLINE)


async def test_it_runs_in_a_session_of_its_own(
    folder: Path, templates: Templates, provisioner: str
) -> None:
    async with kernel_of(folder, templates, provisioner) as manager:
        info = await manager.provisioner.get_provisioner_info()  # type: ignore[union-attr]
        assert await manager.provisioner.poll() is None  # type: ignore[union-attr]
        assert manager.provisioner.has_process  # type: ignore[union-attr]
        code = "import os; r = os.getpid(), os.getpgid(0), os.getsid(0)"
        assert await value(manager, code) == str((info["pid"],) * 3)
        assert info["pgid"] == info["pid"]
        forked = isinstance(manager.provisioner.process, ForkedProcess)  # type: ignore[union-attr]
        assert forked is (provisioner == fork.NAME)


@pytest.mark.parametrize(
    ("end", "code"),
    [("import os; os._exit(7)", 7), ("import os; os.kill(os.getpid(), 9)", -9)],
    ids=["exit", "SIGKILL"],
)
async def test_the_exit_code_is_told(
    folder: Path, templates: Templates, provisioner: str, end: str, code: int
) -> None:
    async with kernel_of(folder, templates, provisioner) as manager:
        assert await value(manager, "r = 1") == "1"
        client = manager.client()
        client.start_channels(hb=False)
        client.execute(end)
        assert await ended(manager) == code
        assert not manager.provisioner.has_process  # type: ignore[union-attr]
        client.stop_channels()


@pytest.mark.parametrize(
    ("name", "code"), [("kill", -signal.SIGKILL), ("terminate", -signal.SIGTERM)]
)
async def test_it_can_be_ended(
    folder: Path, templates: Templates, provisioner: str, name: str, code: int
) -> None:
    async with kernel_of(folder, templates, provisioner) as manager:
        assert await value(manager, "r = 1") == "1"
        await getattr(manager.provisioner, name)()
        assert await ended(manager) == code


async def test_a_signal_reaches_the_kernel_and_its_children(
    folder: Path, templates: Templates, provisioner: str
) -> None:
    async with kernel_of(folder, templates, provisioner) as manager:
        code = "import subprocess; c = subprocess.Popen(['sleep', '1000']); r = c.pid"
        child = psutil.Process(int(await value(manager, code)))
        await manager.provisioner.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
        assert await ended(manager) == -signal.SIGTERM
        psutil.wait_procs([child], timeout=DEADLINE)
        assert not child.is_running()


async def test_it_can_be_restarted(folder: Path, templates: Templates, provisioner: str) -> None:
    async with kernel_of(folder, templates, provisioner) as manager:
        code = "import os; r = os.getpid(), 'mark' in globals(); mark = 1"
        first = await value(manager, code)
        await manager.restart_kernel(now=True)
        second = await value(manager, code)
        assert (first.endswith("False)"), second.endswith("False)")) == (True, True)
        assert first != second


async def test_an_interrupt_ends_the_cell_and_no_more(
    folder: Path, templates: Templates, provisioner: str
) -> None:
    async with kernel_of(folder, templates, provisioner) as manager:
        client = manager.client()
        client.start_channels(hb=False)
        await client.wait_for_ready(timeout=DEADLINE)
        request = client.execute("print('on', flush=True)\nwhile True: pass")
        while True:
            message = await client.get_iopub_msg(timeout=DEADLINE)
            if message["msg_type"] == "stream":
                break
        await manager.interrupt_kernel()
        while True:
            reply = await client.get_shell_msg(timeout=DEADLINE)
            if reply["parent_header"]["msg_id"] == request:
                break
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        client.stop_channels()
        assert await value(manager, "r = 'alive'") == "'alive'"


async def test_its_real_standard_streams_are_those_given(
    folder: Path, templates: Templates, provisioner: str
) -> None:
    with open(folder / "err", "wb") as err:
        options = {"stdout": subprocess.PIPE, "stderr": err}
        async with kernel_of(folder, templates, provisioner, **options) as manager:
            await value(
                manager,
                "import os, sys\n"
                "os.write(sys.stdout._original_stdstream_copy, b'to the pipe')\n"
                "r = os.write(sys.stderr._original_stdstream_copy, b'to the file')",
            )
            stdout = manager.provisioner.process.stdout  # type: ignore[union-attr]
            assert os.read(stdout.fileno(), 100) == b"to the pipe"
        assert b"to the file" in (folder / "err").read_bytes()


async def test_folder_and_environment_are_those_given(
    folder: Path, templates: Templates, provisioner: str
) -> None:
    env = {**os.environ, "MARK": "is here", "TZ": "Asia/Tokyo"}
    env.pop("HOME", None)
    async with kernel_of(folder, templates, provisioner, env=env) as manager:
        code = (
            "import os, time; r = (os.getcwd(), os.environ['MARK'], 'HOME' in os.environ,"
            " time.tzname[0], os.environ.get('OPENBLAS_NUM_THREADS'), os.environ['JPY_PARENT_PID'])"
        )
        assert await value(manager, code) == repr(
            (str(folder), "is here", False, "JST", None, str(os.getpid()))
        )


async def test_another_kernel_is_started_plainly(folder: Path, templates: Templates) -> None:
    async with kernel_of(folder, templates, fork.NAME) as manager:
        await manager.shutdown_kernel(now=True)
        manager._kernel_spec = KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            metadata={"kernel_provisioner": {"provisioner_name": fork.NAME}},
        )
        await manager.start_kernel(cwd=str(folder))
        assert isinstance(manager.provisioner.process, subprocess.Popen)  # type: ignore[union-attr]
        assert await value(manager, "r = 1") == "1"


async def test_without_its_template_a_kernel_goes_on_and_its_exit_code_is_unknown(
    folder: Path,
) -> None:
    with own_templates() as templates:
        async with kernel_of(folder, templates, fork.NAME) as manager:
            (template,) = templates._templates.values()
            os.kill(template.pid, signal.SIGKILL)
            template._process.wait(DEADLINE)
            assert await value(manager, "r = 1") == "1"
            await manager.provisioner.kill()  # type: ignore[union-attr]
            code = await ended(manager)
            assert isinstance(code, UnknownExitCode)
            # And the next kernel has a new template.
            await manager.start_kernel(cwd=str(folder))
            assert isinstance(manager.provisioner.process, ForkedProcess)  # type: ignore[union-attr]
            assert await value(manager, "r = 1") == "1"
