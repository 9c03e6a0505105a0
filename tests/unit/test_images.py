"""Images: what is sent for a file and for an address, and what is refused."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest

from gpuserve.client import images
from gpuserve.client.chat import ChatRequest
from gpuserve.client.images import image_url
from gpuserve.errors import UsageError
from gpuserve.serving.ask import check_vision

STARTS = {
    "image/png": b"\x89PNG\r\n\x1a\n rest",
    "image/jpeg": b"\xff\xd8\xff\xe0 rest",
    "image/gif": b"GIF89a rest",
    "image/webp": b"RIFF\x00\x00\x00\x00WEBPVP8 ",
}


@pytest.mark.parametrize("kind", STARTS)
def test_the_type_is_read_from_the_content_not_from_the_name(kind: str, tmp_path: Path) -> None:
    (tmp_path / "picture.txt").write_bytes(STARTS[kind])
    sent = image_url("picture.txt")
    head, _, body = sent.partition(",")
    assert head == f"data:{kind};base64"
    assert base64.b64decode(body) == STARTS[kind]
    assert image_url(sent) == sent


def test_an_address_goes_as_it_is() -> None:
    assert image_url("https://example.com/a.png?size=2") == "https://example.com/a.png?size=2"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("missing.png", "can't be read: No such file"),
        ("text.png", "is no image of a kind"),
        ("folder", "is no file"),
        ("pipe", "is no file"),
        ("file:///etc/passwd", "is no address of an image"),
        ("https://", "is no address of an image"),
        ("https://a/b c", "is no address of an image"),
        ("http://[", "is no address of an image"),
        ("data:image/png,abc", "not in base64"),
        ("data:image/png;base64,%%%", "is broken"),
        ("data:image/png;base64,aGVsbG8=", "holds no image"),
    ],
)
def test_what_is_none_is_refused(given: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError) as caught:
        image_url(given)
    assert words in caught.value.message


def test_a_file_that_is_too_large_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.write(STARTS["image/png"])
        file.truncate(images.LARGEST + 1)
    with pytest.raises(UsageError, match=r"20\.0 MiB; an image may have 20 MiB"):
        image_url("huge.png")


def test_images_go_before_the_words() -> None:
    body = ChatRequest(prompt="What is it?", system="Be brief", images=("data:x", "https://y/z")).body("m")
    assert body["messages"] == [
        {"role": "system", "content": "Be brief"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:x"}},
                {"type": "image_url", "image_url": {"url": "https://y/z"}},
                {"type": "text", "text": "What is it?"},
            ],
        },
    ]


def test_a_model_that_is_known_to_be_blind_is_not_asked() -> None:
    check_vision("google/gemma-4-26B-A4B-it")
    check_vision("nobody/knows-this")
    for model in ("openai/gpt-oss-20b", "someone/gpt-oss-20b-tuned"):
        with pytest.raises(UsageError, match="takes no images"):
            check_vision(model)
