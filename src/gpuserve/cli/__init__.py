"""The command line: a thin face over ``gpuserve.serving``. Nothing else in the package prints."""

from gpuserve.cli.main import main

__all__ = ["main"]
