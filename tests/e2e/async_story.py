"""A program on Daytona's asynchronous client: two sandboxes at once, commands, files, logs. Prints what it found."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from typing import Any

from daytona import (
    AsyncDaytona,
    AsyncSandbox,
    CreateSandboxFromImageParams,
    DaytonaConfig,
    DaytonaNotFoundError,
    Image,
    ListSandboxesQuery,
    SessionExecuteRequest,
)

LABELS = {"story": "async"}
CONTENT = bytes(range(256)) * 64
COMMAND = "for i in 1 2 3; do echo out $i; echo err $i >&2; sleep 0.1; done"


async def create(client: AsyncDaytona, word: str) -> AsyncSandbox:
    image = Image.base("debian:12")
    params = CreateSandboxFromImageParams(
        image=image, labels=LABELS, env_vars={"WORD": word}, ephemeral=True, ttl_minutes=10
    )
    return await client.create(params, timeout=60)


async def followed(sandbox: AsyncSandbox) -> dict[str, str]:
    """The log of a command as the websocket brings it, each stream by itself."""
    await sandbox.process.create_session("story")
    request = SessionExecuteRequest(command=COMMAND, run_async=True)
    command = (await sandbox.process.execute_session_command("story", request)).cmd_id
    out: list[str] = []
    err: list[str] = []
    await sandbox.process.get_session_command_logs_async("story", command, out.append, err.append)
    status = (await sandbox.process.get_session_command("story", command)).exit_code
    await sandbox.process.delete_session("story")
    return {"out": "".join(out), "err": "".join(err), "status": str(status)}


async def same_after_a_round_trip(sandbox: AsyncSandbox) -> bool:
    await sandbox.fs.upload_file(CONTENT, "place/content.bin")
    return await sandbox.fs.download_file("place/content.bin") == CONTENT


async def gone(client: AsyncDaytona, sandbox: AsyncSandbox) -> bool:
    await sandbox.delete(wait=True)
    try:
        await client.get(sandbox.id)
    except DaytonaNotFoundError:
        return True
    return False


async def listed(client: AsyncDaytona) -> list[str]:
    return sorted([one.id async for one in client.list(ListSandboxesQuery(labels=LABELS))])


async def story() -> dict[str, Any]:
    async with AsyncDaytona(DaytonaConfig(target="us-east-1")) as client:
        pair = await asyncio.gather(create(client, "one"), create(client, "two"))
        try:
            done = await asyncio.gather(*(each.process.exec('echo "$WORD"; exit 3') for each in pair))
            return {
                "exec": [[each.result, each.exit_code] for each in done],
                "followed": await followed(pair[0]),
                "files": await same_after_a_round_trip(pair[1]),
                "listed": await listed(client) == sorted(each.id for each in pair),
            }
        finally:
            ended = await asyncio.gather(*(gone(client, each) for each in pair))
            assert ended == [True, True]
            assert await listed(client) == []


if __name__ == "__main__":
    found = asyncio.run(story())
    found["sigint"] = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    sys.stdout.write(json.dumps(found))
