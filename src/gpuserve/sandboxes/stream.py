"""An engine's log as it is written, over the platform's websocket. A faster copy; the log itself stays the truth.

What is known of that websocket (platform 0.190 to 0.204): it begins anew with every connection, may close at once or
after any byte, and may be answered with a 502. Its frames are the raw log, and the SDK calls back for stdout and for
stderr out of one loop in the order of the frames, each line whole in its stream. Callbacks put one behind another are
therefore the log in its own order. An invalid byte comes as U+FFFD, though not always as many as in a snapshot.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daytona import AsyncDaytona

#: Makes a client for the event loop that it is called in.
Connect = Callable[[], "AsyncDaytona"]
#: Pieces of text with the stream that brought them; None for a piece says that this stream has ended.
Inbox = SimpleQueue[tuple["LogStream | None", str | None]]


class LogStream:
    """One connection, in a thread and an event loop of its own. It ends by itself or by ``close``, and never raises.

    The asynchronous client is used because its connection can be given up at any moment; the synchronous one reads in
    a thread that would keep the program from ending.
    """

    def __init__(self, connect: Connect, sandbox_id: str, session: str, command_id: str, inbox: Inbox) -> None:
        self._connect = connect
        self._sandbox_id = sandbox_id
        self._session = session
        self._command_id = command_id
        self._inbox = inbox
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = threading.Event()
        self._quit: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="gpuserve-log-stream", daemon=True)
        self.problem = ""
        """Why it ended, where that was not a plain end."""
        self._thread.start()

    def close(self, *, within: float = 0.0) -> None:
        """Gives the connection up; waits at most ``within`` seconds for that. It may be called twice."""
        self._closed.set()
        loop, leave = self._loop, self._quit
        if loop is not None and leave is not None:
            with suppress(RuntimeError):  # the loop has ended already
                loop.call_soon_threadsafe(leave.set)
        if within:
            self._thread.join(within)

    def _run(self) -> None:
        try:
            asyncio.run(self._until_closed())
        except Exception as error:  # noqa: BLE001 - whatever ends the copy, the log itself can still be read
            self.problem = str(error) or type(error).__name__
        self._inbox.put((self, None))

    async def _until_closed(self) -> None:
        self._quit = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self._closed.is_set():
            return
        reading = asyncio.ensure_future(self._read())
        leaving = asyncio.ensure_future(self._quit.wait())
        await asyncio.wait({reading, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (reading, leaving):
            if not task.done():
                task.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        try:
            await reading
        except asyncio.CancelledError:
            return  # given up on purpose

    async def _read(self) -> None:
        async with self._connect() as client:
            sandbox = await client.get(self._sandbox_id)
            await sandbox.process.get_session_command_logs_async(
                self._session, self._command_id, self._take, self._take
            )

    def _take(self, text: str) -> None:
        if text:
            self._inbox.put((self, text))
