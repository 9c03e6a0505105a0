"""Looks at a health route again and again in a thread of its own, so that one slow look holds nothing else up."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from gpuserve.client.health import Health, Prober
from gpuserve.errors import GpuserveError
from gpuserve.records import Endpoint

#: Seconds between two looks at the health route: a first 200 is noticed within a quarter of a second.
PROBE_EVERY = 0.2
#: Seconds for one look. SGLang's generates a token before it answers.
PROBE_TIMEOUT = 20.0


class Looks:
    """The latest look in ``latest`` (None before the first), and ``news`` set after each, for the waiter to clear."""

    def __init__(self, endpoint: Endpoint, path: str) -> None:
        self._endpoint = endpoint
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpuserve-probe", daemon=True)
        self.news = threading.Event()
        self.latest: Health | None = None
        self.error: GpuserveError | None = None
        """What made looking impossible."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()

    def _run(self) -> None:
        try:
            with Prober(self._endpoint, self._path, timeout=PROBE_TIMEOUT) as prober:
                self._look(prober)
        except GpuserveError as error:
            self.error = error
            self.news.set()

    def _look(self, prober: Prober) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            self.latest = prober.probe()
            self.news.set()
            if self.latest.ready:
                return
            self._stop.wait(max(0.0, PROBE_EVERY - (time.monotonic() - began)))
