"""``python -m gpuserve``."""

from gpuserve.cli import main

main()
