"""jupyter_kernel_test's suite on the worker kernel, started plainly and by a fork server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jupyter_pool import kernel
from jupyter_pool.provisioning.kernelspecs import PROVISIONER
from jupyter_pool.provisioning.templates import is_supported

TESTS = Path(__file__).parents[1]
FORKED = {"kernel_provisioner": {"provisioner_name": PROVISIONER}}


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param({}, id="plain"),
        pytest.param(
            FORKED,
            id="forked",
            marks=pytest.mark.skipif(
                is_supported() is not None, reason=f"platform: {is_supported()}"
            ),
        ),
    ],
)
def test_the_worker_kernel_is_a_conforming_kernel(tmp_path: Path, metadata: dict[str, Any]) -> None:
    folder = tmp_path / "kernels" / "pool-worker"
    folder.mkdir(parents=True)
    spec = {
        "argv": kernel.command(),
        "display_name": "worker",
        "language": "python",
        "metadata": metadata,
    }
    (folder / "kernel.json").write_text(json.dumps(spec))
    done = subprocess.run(
        [sys.executable, "-m", "unittest", "support.conformance"],
        env={**os.environ, "JUPYTER_PATH": str(tmp_path), "CONFORMANCE_KERNEL": "pool-worker"},
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    ran = re.search(r"Ran (\d+) tests", done.stderr)
    assert ran, done.stderr
    assert int(ran[1]) >= 15
