"""Times and tokens of answers, as lines for people and as JSON."""

from __future__ import annotations

from gpuserve.client.reply import ChatReply, Timing


def stats_line(reply: ChatReply) -> str:
    """Times and tokens of one answer, for a person."""
    parts = []
    if reply.timing.ttft is not None:
        parts.append(f"TTFT {reply.timing.ttft:.2f} s")
    if reply.timing.tokens_per_second is not None:
        parts.append(
            f"{reply.timing.tokens_per_second:.1f} tokens/s (ITL {1000 / reply.timing.tokens_per_second:.1f} ms)"
        )
    if usage := reply.usage:
        cached = "" if usage.cached_tokens is None else f" ({usage.cached_tokens} cached)"
        thought = "" if not usage.reasoning_tokens else f" ({usage.reasoning_tokens} of them reasoning)"
        parts.append(f"{usage.prompt_tokens}{cached} in, {usage.completion_tokens}{thought} out")
    parts.append(f"{reply.timing.total:.2f} s in all")
    return ", ".join(parts)


def usage_dict(reply: ChatReply) -> dict[str, object] | None:
    """The tokens of an answer as ``--json`` prints them; None where the engine didn't tell them."""
    usage = reply.usage
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def timing_dict(timing: Timing) -> dict[str, object]:
    """Times as ``--json`` prints them, in seconds."""
    speed = timing.tokens_per_second
    return {
        "ttft_seconds": timing.ttft,
        "total_seconds": timing.total,
        "tokens_per_second": speed,
        "itl_seconds": 1 / speed if speed else None,
    }
