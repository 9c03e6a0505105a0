"""One run of a batch: from where the last one ended to the end, or as far as it gets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from gpuserve.bulk.events import Draining, Emit, Progress, ignore
from gpuserve.bulk.index import Index
from gpuserve.bulk.job import MOST, Job
from gpuserve.bulk.output import OutputFile, answer_line, error_line, with_fault
from gpuserve.bulk.pace import Limiter, pause
from gpuserve.bulk.prepare import prepare, put_in_order
from gpuserve.bulk.process import STOPPING, most_connections, rare_collection, same_handlers
from gpuserve.bulk.rows import BadRow, Place, Request, Source
from gpuserve.bulk.send import Answer, Sender, error_words
from gpuserve.bulk.tally import Tally, was_cut_short
from gpuserve.errors import Conflict, GpuserveError, Interrupted, NetworkError, NotAuthenticated, TimedOut

#: Seconds between two reports, between two looks at how late the event loop is, and over which rates are taken.
REPORT_EVERY, BEAT, LATELY = 1.0, 0.1, 30.0
#: What no row can help: a judge turns a status and the server's words into the error that ends the run, or None.
Judge = Callable[[int, bytes], GpuserveError | None]
#: From a request's body and its answer to what is wrong with the answer; "" for nothing, None if no form was asked for.
Check = Callable[[bytes, Mapping[str, Any]], str | None]
#: Rows without an answer that wait for the others while nobody has been answered yet; one more, and nobody is.
ASIDE = 3


def refused(status: int, _: bytes) -> GpuserveError | None:
    """The judge for an endpoint of which nothing is known: a refused credential helps no row."""
    if status in (401, 403) or 300 <= status < 400:
        return NotAuthenticated(f"the endpoint refuses the credential (HTTP {status})", hint="gpuserve status")
    return None


def anything(_body: bytes, _answer: Mapping[str, Any]) -> None:
    """The check where no form of answer was asked for."""


def run(job: Job, *, emit: Emit = ignore, judge: Judge = refused, check: Check = anything) -> dict[str, Any]:
    """Runs ``job`` from where it stands to its end; returns the summary (``Tally.summary`` and ``output``).

    An answer that ``check`` finds a fault with is a failed row.

    SIGINT and SIGTERM, in the main thread, stop the sending and wait for what is in flight; a second one ends at once.
    Where a loop of asyncio runs already, as in a notebook, the run has a thread of its own, and Ctrl-C does the same.

    Raises:
        UsageError: the input isn't valid; nothing was sent.
        Conflict: the output is another batch's or another run holds it, or it can't be written.
        Interrupted: by a signal; all answers that came are kept.
        NetworkError, TimedOut, NotAuthenticated: the endpoint is gone for all rows; they stay unanswered.
    """
    halt = threading.Event()
    if not _loop_runs_here():
        return _run(job, (emit, judge, check), halt)
    with ThreadPoolExecutor(1, "gpuserve-batch") as pool:  # a notebook's loop has this thread, and can't wait for ours
        running = pool.submit(_run, job, (emit, judge, check), halt)
        try:
            return running.result()
        except KeyboardInterrupt:
            halt.set()
            return running.result()


def _loop_runs_here() -> bool:
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        return True
    return False


def _run(job: Job, calls: tuple[Emit, Judge, Check], halt: threading.Event) -> dict[str, Any]:
    """The run in the thread in which it is called; ``halt`` is for others what SIGINT is for the main one."""
    emit = calls[0]
    with closing(Source(job)) as source:
        with closing(OutputFile(Path(job.output))) as output, closing(Index()) as index:
            tally = prepare(job, source, output, index, emit)
            if tally.left:
                _Run(job, source, output, index, tally, calls, halt).go()
        if job.output_order == "input":
            put_in_order(job, source, emit)
    return {"output": job.output, **tally.summary()}


class _Run:
    """The part of a run that sends."""

    def __init__(
        self,
        job: Job,
        source: Source,
        output: OutputFile,
        index: Index,
        tally: Tally,
        calls: tuple[Emit, Judge, Check],
        halt: threading.Event,
    ) -> None:
        self._job, self._source, self._output, self._index, self._tally = job, source, output, index, tally
        self._halt = halt
        self._emit, self._judge, self._check = calls
        self._places: Iterator[Place] = index.pending(by_prefix=job.order == "prefix")
        most = most_connections(job.concurrency or MOST)
        self._limiter = Limiter(start=job.start, most=most, fixed=min(job.concurrency, most))
        self._workers = 0
        self._last_success = 0.0
        self._witness: Place | None = None
        self._aside: deque[Place] = deque()
        self._doubted: set[Place] = set()
        self._recent: deque[tuple[float, int, int, int]] = deque()
        self._signals = 0

    def go(self) -> None:
        """Sends what is left."""
        self._tally.start()
        try:
            with rare_collection(), same_handlers():
                asyncio.run(self._all())
        except BaseExceptionGroup as group:
            raise _first(group) from group
        except asyncio.CancelledError:
            if not self._signals:
                raise
        finally:
            self._tally.stop()
            self._emit(self._progress())
        if self._signals and self._tally.left:
            raise Interrupted(
                f"stopped: {self._tally.answered + self._tally.failed} rows are done, {self._tally.left} are left",
                hint="the same command goes on where it stopped",
            )

    async def _all(self) -> None:
        self._stop = asyncio.Event()
        self._watch_signals()
        beat = asyncio.create_task(self._beat())
        try:
            async with Sender(self._job) as self._sender, asyncio.TaskGroup() as self._group:
                self._staff()
        finally:
            beat.cancel()

    def _watch_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop() -> None:
            if self._signals:
                task.cancel()
            self._drain()

        for number in STOPPING:
            loop.add_signal_handler(number, stop)

    def _drain(self) -> None:
        self._signals += 1
        if self._signals == 1:
            self._stop.set()
            self._emit(Draining(self._tally.in_flight))

    def _staff(self) -> None:
        """Brings the number of workers up to the limit; those that are too many end by themselves."""
        while self._workers < self._limiter.limit and not self._stop.is_set():
            place = self._next()
            if place is None:
                return
            self._workers += 1
            self._group.create_task(self._work(place))

    async def _work(self, place: Place | None) -> None:
        try:
            while place is not None:
                await self._answer(place)
                over = self._stop.is_set() or self._workers > self._limiter.limit
                place = None if over else self._next()
                self._staff()
        finally:
            self._workers -= 1

    def _next(self) -> Place | None:
        """The next row; those that were set aside come last."""
        place = next(self._places, None)
        return self._aside.popleft() if place is None and self._aside else place

    async def _answer(self, place: Place) -> None:
        """Sees one row through all its attempts."""
        request = self._read(place)
        answer = await self._attempts(request)
        if answer is not None and self._in_doubt(answer):
            answer = await self._cleared(place, request, answer)
        if answer is not None:
            self._finish(place, request, answer)

    async def _attempts(self, request: Request) -> Answer | None:
        """What the last attempt brought; None if the run was stopped: then the row is the next run's."""
        attempt = 0
        while True:
            attempt += 1
            answer = await self._once(request)
            if not answer.again or attempt > self._job.retries:
                return answer
            self._tally.retries += 1
            if await self._stopped_within(pause(attempt, answer.wait)):
                return None

    async def _once(self, request: Request) -> Answer:
        tally = self._tally
        tally.in_flight += 1
        tally.most_in_flight = max(tally.most_in_flight, tally.in_flight)
        asked = time.perf_counter()
        try:
            answer = await self._sender.ask(request)
        finally:
            tally.in_flight -= 1
        self._time(asked, answer)
        if answer.too_much:
            self._limiter.refused(answer.sent, answer.done)
        return answer

    def _read(self, place: Place) -> Request:
        with suppress(BadRow):
            request = self._source.read(place)
            if request.ask == place.ask:
                return request
        raise Conflict(
            f"line {place.line} of {self._job.source} was changed while the batch ran",
            hint="what was answered is kept; an input that asks the same goes on with the same command",
        )

    def _time(self, asked: float, answer: Answer) -> None:
        self._tally.queued.add(answer.sent - asked)
        self._tally.served.add(answer.done - answer.sent)
        self._tally.whole.add(answer.done - asked)

    async def _stopped_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)
        return self._stop.is_set()

    def _finish(self, place: Place, request: Request, answer: Answer) -> None:
        """Writes a row's line."""
        ask, tally = place.ask.hex(), self._tally
        if answer.status == 200:
            line = answer_line(ask, request.custom_id, 200, answer.request_id, answer.body)
            fault = self._check(request.body, answer.content)
            self._output.append(with_fault(line, fault) if fault else line)
            tally.answered += not fault
            tally.failed += bool(fault)
            tally.count_usage(answer.content.get("usage"))
            tally.cut_short += fault != "" and was_cut_short(answer.content)
            self._last_success, self._witness = answer.done, place
            self._limiter.answered(answer.done)
            return
        self._refuse(answer)
        if answer.status:
            body = error_words(answer.body)
            line = answer_line(ask, request.custom_id, answer.status, answer.request_id, body)
        else:
            line = error_line(ask, request.custom_id, answer.code, answer.message)
        self._output.append(line)
        tally.failed += 1

    def _in_doubt(self, answer: Answer) -> bool:
        """Whether the endpoint, and not this row, may be what failed: nobody was answered since this was asked."""
        gone = answer.code == "no_connection" or answer.status in (502, 503, 504)
        lost = answer.code in ("timed_out", "connection_lost")
        self._refuse(answer)
        return (gone or lost) and self._last_success <= answer.sent

    def _refuse(self, answer: Answer) -> None:
        """Raises what no row can help."""
        if answer.status not in (0, 200) and (error := self._judge(answer.status, answer.body)) is not None:
            raise error

    async def _cleared(self, place: Place, request: Request, answer: Answer) -> Answer | None:
        """The row's answer once the endpoint is known to be well; None if the row waits for that.

        A row that was answered before is asked again: only if it still is, and then this row still isn't, is the row
        what fails. Raises where nobody is answered: all the others would only follow this one.
        """
        witness = self._witness or self._index.answered()
        if answer.code == "no_connection":
            raise self._lost(answer)
        if witness is None and place not in self._doubted and len(self._doubted) < ASIDE:
            self._doubted.add(place)
            self._aside.append(place)
            return None
        if witness is None or (await self._once(self._read(witness))).status != 200:
            raise self._lost(answer)
        self._tally.retries += 1
        return await self._once(request)

    def _lost(self, answer: Answer) -> GpuserveError:
        left, what = self._tally.left, answer.message or f"it answers HTTP {answer.status}"
        kind = TimedOut if answer.code == "timed_out" else NetworkError
        return kind(
            f"the endpoint answers no more ({what}); {left} rows are left",
            hint="see what lives with gpuserve status; the same command goes on where this one stopped",
        )

    async def _beat(self) -> None:
        """Reports every second, and measures how late the event loop is: that late every answer is noticed."""
        reported = due = time.perf_counter()
        while True:
            due = max(due + BEAT, time.perf_counter())
            await asyncio.sleep(due - time.perf_counter())
            now = time.perf_counter()
            self._tally.lag.add(now - due)
            if self._halt.is_set() and not self._signals:
                self._drain()
            if now - reported >= REPORT_EVERY:
                reported = now
                self._emit(self._progress())

    def _progress(self) -> Progress:
        tally = self._tally
        now, done = tally.seconds, tally.answered + tally.failed
        self._recent.append((now, done, tally.prompt, tally.completion))
        while len(self._recent) > 2 and self._recent[0][0] < now - LATELY:
            self._recent.popleft()
        then, *before = self._recent[0]
        span = now - then
        if span < REPORT_EVERY / 2:
            span, before = now, [0, 0, 0]
        rate, prompt, completion = (
            (current - earlier) / span if span > 0 else 0.0
            for current, earlier in zip((done, tally.prompt, tally.completion), before, strict=True)
        )
        return Progress(
            rows=tally.rows,
            done=tally.before + done,
            failed=tally.before_failed + tally.failed,
            in_flight=tally.in_flight,
            retries=tally.retries,
            seconds=now,
            eta=tally.left / rate if rate > 0 else None,
            requests_per_second=rate,
            prompt_tokens_per_second=prompt,
            completion_tokens_per_second=completion,
        )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the run: the others only followed it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first(error)
        return error
    return group
