"""Who wrote this passage, and is it set indoors? 273 passages of thirteen books, two questions each.

    gpuserve up --model openai/gpt-oss-20b --engine sglang
    python classify.py

The same work as the last example of Daytona's SGLang guide. The books are fetched once, from Project Gutenberg, into
``books/``. Both passes can be stopped at any moment: the same command goes on where it stopped. With --in-sandbox the
requests are made beside the engine, and go on when this machine goes.
"""

from __future__ import annotations

import argparse
import urllib.request
from collections import Counter
from pathlib import Path

import gpuserve

BOOKS = {
    "Austen": 1342, "Bronte": 1260, "Dickens": 98, "Doyle": 1661, "Eliot": 145, "Hawthorne": 25344, "Melville": 2701,
    "Poe": 2148, "Shelley": 84, "Stoker": 345, "Twain": 76, "Wells": 36, "Wilde": 174,
}  # fmt: skip
# The passage leads and the question trails: the second question finds the passages in the engine's cache.
AUTHOR = f"{{text}}\n\nWhich of these authors wrote this passage: {', '.join(BOOKS)}? Reply as JSON."
SETTING = "{text}\n\nIs this scene set indoors or outdoors? Reply as JSON."


def book(number: int, mirror: str) -> str:
    """A book's text without what Project Gutenberg writes around it."""
    path = Path("books") / f"{number}.txt"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        with urllib.request.urlopen(f"{mirror}/{number}/pg{number}.txt") as answer:
            path.write_bytes(answer.read())
    text = path.read_text(encoding="utf-8-sig").partition("*** START OF")[2].partition("***")[2]
    return text.partition("*** END OF")[0].strip()


def passages(text: str, number: int, letters: int) -> list[str]:
    """Passages that lie evenly over a book."""
    step = max(letters, len(text) // number)
    return [text[at : at + letters] for at in range(0, len(text) - letters + 1, step)][:number]


def one_of(name: str, values: list[str]) -> dict[str, object]:
    """The schema that leaves a model no other answer."""
    return {"type": "object", "required": [name], "properties": {name: {"type": "string", "enum": values}}}


def report(title: str, done: gpuserve.Batch) -> None:
    """Throughput and cache share, as the engine counted."""
    told = done.summary
    print(f"{title}: {told['requests']} passages in {told['seconds']:.1f} s, {told['failed']} failed")
    for what, tokens in (("in", "prompt_tokens"), ("out", "completion_tokens")):
        hour = told[f"{tokens}_per_hour"] / 1e6
        print(f"  {what}: {told[tokens]:,} tokens ({told[f'{tokens}_per_second']:,.0f}/s, {hour:.1f}M/hour)")
    if told["cached_tokens"]:
        print(f"  from the cache: {told['cached_tokens'] / told['prompt_tokens']:.0%} of the tokens in")


def main() -> None:
    """Both passes, and what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--id", help="deployment; may be left out if only one is live")
    parser.add_argument("--effort", default="low", help='how much to reason, "" where the model doesn\'t')
    parser.add_argument("--in-sandbox", action="store_true")
    parser.add_argument("--passages", type=int, default=21, help="passages of a book")
    parser.add_argument("--letters", type=int, default=12_000, help="letters of a passage: 12,000 are 3,000 tokens")
    parser.add_argument("--mirror", default="https://www.gutenberg.org/cache/epub")
    asked = parser.parse_args()

    rows = [
        {"custom_id": f"{author}-{number}", "text": text}
        for author, key in BOOKS.items()
        for number, text in enumerate(passages(book(key, asked.mirror), asked.passages, asked.letters))
    ]
    options = gpuserve.BatchOptions(max_tokens=2048, in_sandbox=asked.in_sandbox)
    if asked.effort:
        options["reasoning_effort"] = asked.effort

    question = gpuserve.BatchOptions(template=AUTHOR, schema=one_of("author", list(BOOKS)))
    done = gpuserve.batch(rows, "authors.jsonl", asked.id, **options | question)
    report("author", done)
    total = Counter(row["custom_id"].split("-")[0] for row in rows)
    right = Counter(one.json["author"] for one in done if one.ok and one.custom_id.startswith(one.json["author"] + "-"))
    print(f"  right: {right.total()}/{len(rows)} ({right.total() / len(rows):.0%})")
    print("  " + ", ".join(f"{author} {right[author]}/{total[author]}" for author in BOOKS))

    question = gpuserve.BatchOptions(template=SETTING, schema=one_of("setting", ["indoors", "outdoors"]))
    done = gpuserve.batch(rows, "settings.jsonl", asked.id, **options | question)
    report("setting", done)
    indoors = Counter(one.custom_id.split("-")[0] for one in done if one.ok and one.json["setting"] == "indoors")
    print("  indoors: " + ", ".join(f"{author} {indoors[author]}/{total[author]}" for author in BOOKS))


if __name__ == "__main__":
    main()
