"""What an engine's exit code says of its end, for an end that its log doesn't explain."""

from __future__ import annotations

import re

from gpuserve.records import Diagnosis

#: What the kernel or the shell writes of a process that was killed for its memory.
_OOM_KILLED = re.compile(
    r"oom-kill|Out of memory: Killed process|^(?:/bin/)?(?:ba|da)?sh: .*Killed$|^Killed$", re.MULTILINE
)
#: What a program writes that ends by itself: then its words are the cause, and not the code.
_ERROR = re.compile(r"Traceback \(most recent call last\)|\b[Ee]rror\b|\bERROR\b|\w(?:Error|Exception)\b|\bE \w+ ")
#: What lines say that speak of an error and tell of none: SGLang's, of each model whose libraries the image lacks;
#: and warnings of what newer versions won't take.
_HARMLESS = ("Ignore import error when loading", "will be an error in a future release")

_MEMORY = "Give the sandbox more main memory with --memory, in GiB."
_CODES = {
    126: Diagnosis(
        "The engine's program can't be run in this image.", "Take an image that holds the engine with --image."
    ),
    127: Diagnosis(
        "The image doesn't hold the engine's program.", "Take an image that does with --image, or another --engine."
    ),
    132: Diagnosis(
        "The engine ended at an instruction that this CPU doesn't have (signal 4).",
        "Take an image that was built for older CPUs with --image, or another GPU, and so another host, with --gpu.",
    ),
    134: Diagnosis("The engine gave itself up (signal 6).", "Take another version of the image with --image."),
    139: Diagnosis("The engine crashed (signal 11).", "Take another version of the image with --image."),
    143: Diagnosis("The engine was told to stop from outside (signal 15).", "Run the same command again."),
}


def telling(log: str) -> str:
    """``log`` without the lines that read like an error and are none."""
    return "\n".join(line for line in log.splitlines() if not any(words in line for words in _HARMLESS))


def by_exit_code(code: int, log: str) -> Diagnosis | None:
    """Why an engine ended with ``code``, where its ``diagnose`` found nothing in ``log``.

    ``code`` is as a shell gives it, 128 and the signal's number for a death by signal, or as Python does, the
    number below zero. None where the code says nothing, or where the log holds an error that would be the cause.
    """
    code = 128 - code if code < 0 else code
    log = telling(log)
    if code == 137:
        return _killed(log)
    return None if _ERROR.search(log) and code not in (126, 127) else _CODES.get(code)


def _killed(log: str) -> Diagnosis | None:
    """A log that just stops is one of a process that had no time to write: Linux kills so when memory runs out."""
    if _OOM_KILLED.search(log):
        return Diagnosis("The engine was killed, because main memory ran out.", _MEMORY)
    if _ERROR.search(log):
        return None
    return Diagnosis(
        "The engine was killed in the middle (signal 9), as Linux does where main memory runs out.", _MEMORY
    )
