"""The native module in use.

Everything reaches the kernels through `core`, looked up at each call: the tests exchange it for
`onepass._core_simt`, which runs the CUDA kernels on host memory.
"""

from types import ModuleType

# The core takes its threads from the OpenMP runtime that torch has loaded, so torch comes first.
import torch  # noqa: F401

try:
    from onepass import _core
except ImportError as error:
    raise ImportError(
        f"onepass: the native module onepass._core could not be loaded ({error}); install the package "
        "with pip, which builds it, instead of importing its source folder"
    ) from error

core: ModuleType = _core
