"""What a fork could break: sessions, random states, threads of libraries, variables read at import."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from jupyter_pool import KernelPool, kernel
from jupyter_pool.provisioning import fork
from jupyter_pool.provisioning.templates import ForkedProcess, Templates, is_supported
from support.cells import DEADLINE, value
from support.templates import own_templates

pytestmark = pytest.mark.skipif(is_supported() is not None, reason=f"platform: {is_supported()}")


# --- kernels as a front end has them: no request of a pool's reseeds anything ---------------------


class Manager(AsyncKernelManager):
    templates: Templates | None = None

    def _connect_control_socket(self) -> None:
        """Not wanted: nobody here shuts down by message."""


@pytest.fixture(scope="module")
def templates() -> Iterator[Templates]:
    with own_templates() as templates:
        yield templates


@asynccontextmanager
async def kernels(
    templates: Templates, *preload: str, count: int = 2, env: Mapping[str, str | None] | None = None
) -> AsyncIterator[list[Manager]]:
    """Forked siblings."""
    context = zmq.asyncio.Context()
    variables = {**os.environ, **(env or {})}
    managers = []
    with tempfile.TemporaryDirectory(prefix="jpf-") as folder:  # a socket's path must be short
        try:
            for number in range(count):
                manager = Manager(
                    context=context,
                    transport="ipc",
                    ip=f"{folder}/{number}",
                    connection_file=f"{folder}/{number}.json",
                    autorestart=False,
                )
                manager.templates = templates
                manager._kernel_spec = KernelSpec(
                    argv=kernel.command(preload),
                    metadata={"kernel_provisioner": {"provisioner_name": fork.NAME}},
                )
                given = {name: text for name, text in variables.items() if text is not None}
                await manager.start_kernel(cwd=folder, env=given)
                managers.append(manager)
                process = manager.provisioner.process  # type: ignore[union-attr]
                assert isinstance(process, ForkedProcess)
            yield managers
        finally:
            for manager in managers:
                await manager.shutdown_kernel(now=True)
            context.term()


async def run(manager: Manager, code: str) -> Any:
    """The value of `r`, which the code sets, by way of JSON; and who has said it."""
    client = manager.client()
    client.start_channels(hb=False)
    try:
        await client.wait_for_ready(timeout=DEADLINE)
        said: list[str] = []

        def listen(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                said.append(message["content"]["text"])

        reply = await client._async_execute_interactive(
            f"{code}\nimport json; print(json.dumps(r))", timeout=DEADLINE, output_hook=listen
        )
        assert reply["content"]["status"] == "ok", reply["content"]
        return json.loads("".join(said))
    finally:
        client.stop_channels()


async def test_siblings_draw_different_numbers(templates: Templates) -> None:
    code = (
        "import os, random, secrets, tempfile, uuid, numpy\n"
        "r = [random.getrandbits(64), int(numpy.random.randint(2**62)), secrets.token_hex(),\n"
        "     uuid.uuid4().hex, uuid.uuid1().hex, next(tempfile._get_candidate_names()),\n"
        "     os.urandom(8).hex(), numpy.random.default_rng().random()]"
    )
    modules = ("numpy.random", "secrets", "tempfile", "uuid")
    async with kernels(templates, *modules) as managers:
        one, other = [await run(manager, code) for manager in managers]
        assert [a == b for a, b in zip(one, other, strict=True)] == [False] * len(one)


async def test_each_has_a_session_of_its_own_which_sends(templates: Templates) -> None:
    async with kernels(templates) as managers:
        code = "s = get_ipython().kernel.session; import os; r = [s.session, s.pid == os.getpid()]"
        found = [await run(manager, code) for manager in managers]
        assert found[0][0] != found[1][0]
        assert [sends for _, sends in found] == [True, True]


async def test_what_an_application_says_to_one_kernel_is_that_kernels(templates: Templates) -> None:
    code = (
        "import os; r = [os.environ['JPY_PARENT_PID'], os.environ['JPY_SESSION_NAME'], __session__,"
        " get_ipython().kernel.parent.parent_handle]"
    )
    others = set(templates._templates)
    for name in ("/one.ipynb", "/other.ipynb"):
        async with kernels(templates, count=1, env={"JPY_SESSION_NAME": name}) as (manager,):
            assert await run(manager, code) == [str(os.getpid()), name, name, os.getpid()]
    assert len(templates._templates.keys() - others) <= 1


async def test_the_time_zone_is_that_of_the_environment(templates: Templates) -> None:
    async with kernels(templates, count=1, env={"TZ": "Asia/Tokyo"}) as (manager,):
        assert await run(manager, "import time; r = [time.tzname[0], time.timezone]") == [
            "JST",
            -9 * 3600,
        ]


# --- libraries ----------------------------------------------------------------------------------

THREADS = """
import numpy
from threadpoolctl import threadpool_info
r = sorted([library["user_api"], library["num_threads"]] for library in threadpool_info())
"""


@pytest.mark.parametrize("count", ["1", "3", None])
async def test_blas_has_the_threads_that_the_environment_says(
    count: str | None, templates: Templates
) -> None:
    variables = {"OPENBLAS_NUM_THREADS": count, "OMP_NUM_THREADS": None}
    async with kernels(templates, "numpy", count=1, env=variables) as (manager,):
        expected = len(os.sched_getaffinity(0)) if count is None else int(count)
        assert await run(manager, THREADS) == [["blas", expected]]
        found = await run(manager, "import os; r = os.environ.get('OPENBLAS_NUM_THREADS')")
        assert found == count


async def test_siblings_multiply_matrices_at_the_same_time(templates: Templates) -> None:
    code = (
        "import numpy, threading\n"
        "a = numpy.ones((400, 400))\n"
        "done = []\n"
        "threads = [threading.Thread(target=lambda: done.append(float((a @ a).sum()))) for _ in range(4)]\n"
        "for thread in threads: thread.start()\n"
        "for thread in threads: thread.join()\n"
        "r = done"
    )
    env = {"OPENBLAS_NUM_THREADS": "3"}
    async with kernels(templates, "numpy", env=env) as managers:
        products = await asyncio.gather(*(run(manager, code) for manager in managers))
        assert products == [[400.0**3] * 4] * 2


def assert_forked(pool: KernelPool) -> None:
    assert value(pool.execute("import os; os.getppid()")) != str(os.getpid())


@pytest.mark.requires("module:matplotlib")
def test_a_preloaded_matplotlib_draws() -> None:
    code = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.show()"
    with KernelPool(size=1, preload=["matplotlib.pyplot"]) as pool:
        for _ in range(2):
            assert_forked(pool)
            result = pool.execute(code, isolation="process")
            assert "image/png" in str(result.display_outputs)


@pytest.mark.requires("module:pyarrow")
def test_a_preloaded_pyarrow_computes_in_its_threads() -> None:
    code = (
        "import pyarrow, pyarrow.compute\n"
        "table = pyarrow.table({'a': list(range(100_000))})\n"
        "pyarrow.compute.sum(table['a']).as_py(), table.group_by('a').aggregate([]).num_rows"
    )
    with KernelPool(size=1, preload=["pyarrow", "pyarrow.compute"]) as pool:
        for _ in range(2):
            assert_forked(pool)
            assert value(pool.execute(code, isolation="process")) == "(4999950000, 100000)"


def test_a_request_in_a_forked_worker_has_its_own_environment(tmp_path: Path) -> None:
    code = "import os, subprocess; subprocess.check_output(['printenv', 'MARK'], text=True).strip()"
    with KernelPool(size=1, env={"MARK": "pool"}, cwd=str(tmp_path)) as pool:
        assert value(pool.execute(code)) == "'pool'"
        assert value(pool.execute("import os; os.getcwd()")) == repr(str(tmp_path))
