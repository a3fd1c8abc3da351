"""The kernels that run on a CPU, and running a module on one of them."""

from contextlib import contextmanager

from swindow import kernels

KERNELS = ["cpu", "reference", "sdpa"]


@contextmanager
def using(module, name):
    """Runs a module, or any that holds attention, on one kernel inside the ``with`` block."""
    chosen = [(m, m.kernel) for m in module.modules() if isinstance(getattr(m, "kernel", None), kernels.Kernel)]
    for m, _ in chosen:
        m.kernel = kernels.kernel(name)
    try:
        yield
    finally:
        for m, before in chosen:
            m.kernel = before
