"""jupyter_kernel_test's suite for the worker kernel.

CONFORMANCE_KERNEL=NAME python -m unittest support.conformance
"""

from __future__ import annotations

import os
from typing import Any

from jupyter_kernel_test import (  # type: ignore[import-untyped]
    TIMEOUT,
    KernelTests,
    validate_message,
)


def is_reply(message: dict[str, Any]) -> bool:
    return bool(message["msg_type"] == "kernel_info_reply")


def is_idle(message: dict[str, Any]) -> bool:
    return bool(message["content"].get("execution_state") == "idle")


class Conformance(KernelTests):  # type: ignore[misc]
    """What the worker kernel has to show; the kernel's name comes from the environment."""

    kernel_name = os.environ["CONFORMANCE_KERNEL"]
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('test', file=sys.stderr)"
    code_page_something = "zip?"
    code_generate_error = "raise ValueError"
    code_clear_output = "from IPython.display import clear_output; clear_output()"
    code_inspect_sample = "zip"
    complete_code_samples = ["1", "print('hello, world')", "def f(x):\n    return 2 * x\n\n"]  # noqa: RUF012
    incomplete_code_samples = ["print('''hello", "def f(x):\n    x * 2"]  # noqa: RUF012
    invalid_code_samples = ["import = 7q"]  # noqa: RUF012
    completion_samples = [{"text": "zi", "matches": {"zip"}}]  # noqa: RUF012
    code_execute_result = [  # noqa: RUF012
        {"code": "1 + 2 + 3", "result": "6"},
        {"code": "[n * n for n in range(1, 4)]", "result": "[1, 4, 9]"},
    ]
    code_display_data = [  # noqa: RUF012
        {
            "code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))",
            "mime": "text/html",
        },
        {
            "code": "from IPython.display import Math, display; display(Math('\\\\frac{1}{2}'))",
            "mime": "text/latex",
        },
    ]

    # The suite waits for 0.1 s where it does not wait for replies, which is too short on a busy
    # machine with any kernel. These two wait for the messages themselves.

    def flush_channels(self) -> None:
        """Drops what came before a request of its own, that request's messages included."""
        asked = self.kc.kernel_info()
        for channel, last in (
            (self.kc.shell_channel, is_reply),
            (self.kc.iopub_channel, is_idle),
        ):
            while True:
                message = channel.get_msg(timeout=TIMEOUT)
                validate_message(message)
                if message["parent_header"].get("msg_id") == asked and last(message):
                    break

    def execute_helper(self, *args: Any, **kwargs: Any) -> Any:
        """An output may come long after the reply, which comes by another socket."""
        channel = self.kc.iopub_channel
        get = channel.get_msg
        channel.get_msg = lambda timeout: get(timeout=max(timeout, TIMEOUT))
        try:
            return super().execute_helper(*args, **kwargs)
        finally:
            channel.get_msg = get
