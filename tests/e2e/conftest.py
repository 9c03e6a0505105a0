"""The shell that these tests type into."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.usershell import Shell, make_shell


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """One home with one host for all of these tests; at the end nothing of it may be left."""
    home = tmp_path_factory.mktemp("home")
    made = make_shell(home, tmp_path_factory.mktemp("weights"))
    made.ok("host", "start")
    yield made
    made.ok("host", "stop")
    assert made.processes() == []
    sandboxes = home / "state" / "gpuserve" / "host" / "sandboxes"
    assert not sandboxes.exists() or list(sandboxes.iterdir()) == []


@pytest.fixture(autouse=True)
def _commands_end_with_their_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """A command that a test started and did not wait for ends with it."""
    yield
    if "shell" in request.fixturenames:
        request.getfixturevalue("shell").end_started()
