"""jupyter_kernel_test's suite for the worker kernel.

CONFORMANCE_KERNEL=NAME python -m unittest support.conformance
"""

from __future__ import annotations

import os

from jupyter_kernel_test import KernelTests  # type: ignore[import-untyped]


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
