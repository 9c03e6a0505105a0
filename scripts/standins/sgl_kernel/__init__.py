"""Stands in for SGLang's compiled kernels, which have no CPU build on PyPI: a name to import, and nothing behind it.

``scripts/sglang_env.py`` puts it beside a real SGLang, so that its imports succeed. What runs on a CPU goes by
PyTorch alone (``--attention-backend torch_native --sampling-backend pytorch``); whatever calls a kernel after all
gets an error that names it. No result ever comes from here.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import NoReturn

#: What SGLang 0.5.12.post1 asks for.
__version__ = "0.4.2.post2"


class Kernel:
    """A kernel that isn't there, or a namespace of such."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *_: object, **__: object) -> NoReturn:
        raise NotImplementedError(f"{self._name} has no CPU build: sgl_kernel is a stand-in here")

    def __getattr__(self, name: str) -> Kernel:
        return _missing(self._name, name)


def _missing(place: str, name: str) -> Kernel:
    if name.startswith("__"):
        raise AttributeError(name)
    return Kernel(f"{place}.{name}")


def __getattr__(name: str) -> Kernel:
    return _missing(__name__, name)


class _Submodules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every submodule, each as empty as this one."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 - the protocol's
        target: types.ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith(f"{__name__}."):
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: _missing(spec.name, name)  # type: ignore[method-assign]  # PEP 562
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """There is nothing to run."""


sys.meta_path.append(_Submodules())
