"""Passages with a question at the end: prose of Python's own documentation, shuffled by a seed.

Each seed is another set of passages, so that nothing of a first pass is in any cache; a second pass over the same set
asks another question.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

QUESTIONS = (
    "In two sentences: which rule stated above matters most for a beginner, and why?",
    "List the three names that occur most often in the text above.",
)
#: A short answer of a known form, which a model of any quality can only give rightly when it is held to it.
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "verdict": {"type": "string", "enum": ["supported", "contradicted", "unrelated"]},
        "certainty": {"type": "integer", "enum": [1, 2, 3, 4, 5]},
        "quote_needed": {"type": "boolean"},
    },
    "required": ["verdict", "certainty", "quote_needed"],
    "additionalProperties": False,
}


def passages(seed: int, number: int, letters: int) -> list[str]:
    """``number`` passages of ``letters`` letters."""
    paragraphs = [part for topic in topics.values() for part in topic.split("\n\n") if 80 < len(part) < 1200]
    found = []
    for at in range(number):
        chance = random.Random(seed * 100003 + at)
        text = f"Document {seed}-{at}-{chance.getrandbits(64):x}\n\n"
        while len(text) < letters:
            text += chance.choice(paragraphs) + "\n\n"
        found.append(text[:letters])
    return found


def prompts(seed: int, number: int, letters: int, question: int) -> list[str]:
    """The passages of ``seed``, each with question number 0 or 1."""
    return [f"{text}\n\nQuestion: {QUESTIONS[question]}" for text in passages(seed, number, letters)]


def write_prompts(path: Path, texts: list[str]) -> Path:
    """A file of rows ``{"prompt": …}``, which ``gpuserve batch`` and ``vllm bench serve`` both read."""
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def write_requests(path: Path, texts: list[str], body: dict[str, Any]) -> Path:
    """A file of OpenAI batch rows, each with ``body`` around its prompt: for settings that no option sets."""
    with path.open("w", encoding="utf-8") as file:
        for at, text in enumerate(texts):
            whole = {"messages": [{"role": "user", "content": text}], **body}
            row = {"custom_id": f"row-{at}", "method": "POST", "url": "/v1/chat/completions", "body": whole}
            file.write(json.dumps(row) + "\n")
    return path
