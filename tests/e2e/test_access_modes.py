"""The rows of both guides' access tables, each brought about by one command, and each way in closed again.

| row of the table               | brought about by                              | the client has                  |
|--------------------------------|-----------------------------------------------|---------------------------------|
| preview token header           | up; share --public off                        | base URL and header             |
| signed URL                     | up --access signed; share --expires           | URL only                        |
| public preview + engine's key  | up --access key                               | base URL and api_key            |
| public preview, no key         | up --access open --yes; share --public on     | base URL only                   |

The clients are the guides': curl, requests, the openai package. Each request is the guides' own. How fast an old way in
closes is measured by ``benchmarks/access.py``; here it must be closed within the issue's two seconds and some grace.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import openai
import pytest
import requests

from e2e.inside import inside
from e2e.usershell import QUICK, Shell, bring_up, eventually

HEADER = "x-daytona-preview-token"
QUERY = "DAYTONA_SANDBOX_AUTH_KEY"


@pytest.fixture(scope="module", name="shell")
def within(shell: Shell) -> Shell:
    """The same shell, its commands run here."""
    return inside(shell)


@pytest.fixture(scope="module")
def opened(shell: Shell) -> Iterator[dict[str, Any]]:
    """A deployment that was opened to everybody."""
    yield bring_up(shell, "--name", "acc-open", "--access", "open", "--yes")
    shell.ok("down", "acc-open")


@pytest.fixture(scope="module")
def keyed(shell: Shell) -> Iterator[dict[str, Any]]:
    """A public deployment whose engine checks a key of its own."""
    yield bring_up(shell, "--name", "acc-key", "--access", "key")
    shell.ok("down", "acc-key")


@pytest.fixture(scope="module")
def signed(shell: Shell) -> Iterator[dict[str, Any]]:
    """A deployment that is handed out by a signed URL."""
    yield bring_up(shell, "--name", "acc-signed", "--access", "signed")
    shell.ok("down", "acc-signed")


def token_of(shell: Shell, live: Mapping[str, Any]) -> str:
    """The sandbox's preview token, which only its administrator's own cache has."""
    known = json.loads((shell.home / "cache" / "gpuserve" / "deployments.json").read_text())
    token: str = known["deployments"][live["id"]]["endpoint"]["headers"][HEADER]
    return token


def by_curl(url: str, model: str, *headers: str) -> tuple[int, str]:
    """The guides' curl, with these headers; the status and the body."""
    body = {"model": model, "messages": [{"role": "user", "content": "Write a haiku."}], "max_tokens": 4}
    argv = ["curl", "-sS", "--connect-timeout", "30", "--max-time", "120", "-w", "\n%{http_code}"]
    for header in (*headers, "Content-Type: application/json"):
        argv += ["-H", header]
    done = subprocess.run(
        [*argv, "-d", json.dumps(body), f"{url}/v1/chat/completions"], capture_output=True, text=True, check=True
    )
    text, _, status = done.stdout.rpartition("\n")
    return int(status), text


def by_openai(base_url: str, model: str, *, api_key: str = "EMPTY", headers: Mapping[str, str] | None = None) -> str:
    """The guides' plain chat call."""
    with openai.OpenAI(base_url=base_url, api_key=api_key, default_headers=headers, max_retries=0, timeout=60) as one:
        reply = one.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Write a haiku."}], max_tokens=4
        )
    return reply.choices[0].message.content or ""


def statuses(url: str, token: str, key: str = "") -> dict[str, int]:
    """What a caller gets who has only the URL, and who brings ``token`` by header, query parameter or cookie."""
    path = f"{url}/v1/models"
    mark = url.rpartition("/")[2]
    own = {"Authorization": f"Bearer {key}"} if key else {}
    return {
        "bare": httpx.get(path, headers=own).status_code,
        "header": httpx.get(path, headers=own | {HEADER: token}).status_code,
        "query": httpx.get(f"{path}?{QUERY}={token}", headers=own).status_code,
        "cookie": httpx.get(path, headers=own | {"Cookie": f"daytona-sandbox-auth-{mark}={token}"}).status_code,
    }


def refused_soon(url: str, headers: Mapping[str, str] | None = None) -> None:
    """Fails unless the proxy or the engine refuses within two seconds of now (and some grace on a busy machine)."""
    eventually(lambda: httpx.get(f"{url}/v1/models", headers=headers).status_code == 401, within=2 + 3, every=0.05)


# ---- the rows


def test_open_needs_the_url_only_and_closes_again(shell: Shell, opened: dict[str, Any]) -> None:
    url, model, token = opened["endpoint"], opened["served_model"], token_of(shell, opened)
    assert (opened["access"], opened["token"], opened["headers"], opened["api_key"]) == ("open", "", {}, "EMPTY")
    assert by_curl(url, model)[0] == 200
    assert by_openai(opened["base_url"], model)
    assert set(statuses(url, "wrong").values()) == {200}

    closed = shell.ok("share", "acc-open", "--public", "off", "--json").data
    refused_soon(url)
    assert (closed["public"], closed["access"]) == (False, "token")
    assert statuses(url, "wrong") == {"bare": 401, "header": 401, "query": 401, "cookie": 401}
    # row 1: the token header, as in every other sample of the guides
    assert by_curl(url, model, f"{HEADER}: {token}")[0] == 200
    assert by_openai(opened["base_url"], model, headers={HEADER: token})
    assert requests.get(f"{url}/health", headers={HEADER: token}, timeout=10).status_code == 200
    assert statuses(url, token) == {"bare": 401, "header": 200, "query": 200, "cookie": 401}

    assert shell.run("share", "acc-open", "--public", "on", "--json").status == 2  # nobody here to ask
    assert statuses(url, "")["bare"] == 401
    again = shell.ok("share", "acc-open", "--public", "on", "--yes", "--json").data
    assert (again["public"], again["access"], again["url"]) == (True, "open", url)
    assert statuses(url, "")["bare"] == 200
    assert token not in json.dumps(again)


def test_a_signed_url_is_all_that_it_takes(shell: Shell, signed: dict[str, Any]) -> None:
    url, model = signed["endpoint"], signed["served_model"]
    assert (signed["access"], signed["token"], signed["headers"]) == ("signed", "", {})
    assert signed["shared_until"] <= signed["expires_at"]
    assert by_curl(url, model)[0] == 200
    assert by_openai(signed["base_url"], model)
    token = token_of(shell, signed)
    assert token not in json.dumps(signed)
    assert shell.ok("query", "hi", "--id", "acc-signed", "--max-tokens", "2").out  # the administrator's own way
    (link,) = shell.ok("share", "list", "acc-signed", "--json").data
    assert (link["state"], link["name"]) == ("live", "acc-signed")


def test_a_client_that_keeps_cookies_is_shut_out_too(shell: Shell, signed: dict[str, Any]) -> None:
    """By revocation; the platform's proxy would have left it a cookie that lives on (facts of v0.190)."""
    url = shell.ok("share", "acc-signed", "--expires", "10m", "-q").out.strip()
    with requests.Session() as session:
        assert session.get(f"{url}/v1/models", timeout=30).status_code == 200
        shell.ok("share", "acc-signed", "--revoke", "--url", url)
        eventually(lambda: session.get(f"{url}/v1/models", timeout=30).status_code == 401, within=5, every=0.05)
    mark = url.rpartition("-")[2]
    assert statuses(url, mark) == {"bare": 401, "header": 401, "query": 401, "cookie": 401}
    assert by_curl(signed["endpoint"], signed["served_model"])[0] == 200  # the other URL was not meant


def test_an_expired_url_is_refused_in_every_form(shell: Shell, signed: dict[str, Any]) -> None:
    shared = shell.ok("share", "acc-signed", "--expires", "3s", "--json").data
    assert httpx.get(f"{shared['url']}/v1/models").status_code == 200
    eventually(lambda: httpx.get(f"{shared['url']}/v1/models").status_code == 401, within=3 + 2 + 3)
    assert set(statuses(shared["url"], shared["url"].rpartition("-")[2]).values()) == {401}


def test_key_needs_base_url_and_api_key(keyed: dict[str, Any]) -> None:
    url, model, key = keyed["endpoint"], keyed["served_model"], keyed["api_key"]
    assert (keyed["access"], keyed["token"], keyed["headers"]) == ("key", "", {})
    assert len(key) >= 43
    assert by_curl(url, model, f"Authorization: Bearer {key}")[0] == 200
    assert by_openai(keyed["base_url"], model, api_key=key)
    assert by_curl(url, model)[0] == 401
    with pytest.raises(openai.AuthenticationError):
        by_openai(keyed["base_url"], model)
    assert httpx.get(f"{url}/health").status_code == 200  # what the key leaves open, as up says


def test_the_key_is_in_no_list_of_processes_no_label_and_no_log(shell: Shell, keyed: dict[str, Any]) -> None:
    key = keyed["api_key"]
    processes = shell.processes(keyed["id"])
    assert any("llama" in one for one in processes)
    told = [
        *processes,
        json.dumps(shell.live()),
        shell.ok("status", "acc-key", "-v").out,
        shell.ok("logs", "acc-key").out,
        shell.ok("up", *QUICK, "--access", "key", "--dry-run", "--no-check", "--json").out,
    ]
    assert not any(key in one for one in told)
    host = shell.home / "state" / "gpuserve" / "host"
    assert not any(key in path.read_text() for path in host.glob("*.json"))  # all that its API could show
    (file,) = (host / "sandboxes" / keyed["id"]).rglob(".gpuserve-key")
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_picked_up_deployment_keeps_its_key(shell: Shell, keyed: dict[str, Any]) -> None:
    cache = shell.home / "cache" / "gpuserve" / "deployments.json"
    cache.write_text(json.dumps(json.loads(cache.read_text()) | {"deployments": {}}))
    again = bring_up(shell, "--name", "acc-key")
    assert (again["id"], again["api_key"], again["access"]) == (keyed["id"], keyed["api_key"], "key")
    assert shell.ok("query", "hi", "--id", "acc-key", "--max-tokens", "2").out


def test_with_its_key_it_may_be_closed_and_is_guarded_twice(shell: Shell, keyed: dict[str, Any]) -> None:
    url, key, token = keyed["endpoint"], keyed["api_key"], token_of(shell, keyed)
    shell.ok("share", "acc-key", "--public", "off")
    refused_soon(url, {"Authorization": f"Bearer {key}"})
    assert statuses(url, token, key) == {"bare": 401, "header": 200, "query": 200, "cookie": 401}
    assert statuses(url, token) == {"bare": 401, "header": 401, "query": 401, "cookie": 401}
    shared = shell.ok("share", "acc-key", "-q").out.strip()
    assert statuses(shared, "")["bare"] == 401
    assert statuses(shared, "", key)["bare"] == 200
    shell.ok("share", "acc-key", "--public", "on")  # no question: the key still guards it
    assert statuses(url, "", key)["bare"] == 200


def test_a_changed_key_shuts_out_the_old_one(shell: Shell, keyed: dict[str, Any]) -> None:
    url, old, token = keyed["endpoint"], keyed["api_key"], token_of(shell, keyed)
    refused = shell.run("share", "acc-key", "--rotate-key", "--json")
    assert (refused.status, "loads the model anew" in refused.error["message"]) == (2, True)
    assert by_openai(keyed["base_url"], keyed["served_model"], api_key=old)
    began = shell.processes(keyed["id"])
    changed = shell.ok("share", "acc-key", "--rotate-key", "--yes", "--json").data
    refused_soon(url, {"Authorization": f"Bearer {old}"})
    assert statuses(url, token, old) == {"bare": 401, "header": 401, "query": 401, "cookie": 401}
    assert changed["api_key"] != old
    assert by_openai(keyed["base_url"], keyed["served_model"], api_key=changed["api_key"])
    assert len(shell.processes(keyed["id"])) == len(began)
    assert shell.ok("query", "hi", "--id", "acc-key", "--max-tokens", "2").out
    keyed["api_key"] = changed["api_key"]


def test_a_key_of_ones_own_by_either_old_road(shell: Shell, opened: dict[str, Any]) -> None:
    """As the guides give one to the engine: by variable, or as an argument; neither reaches the argument list."""
    for given in (("--env", "LLAMA_API_KEY=my-own-key-1"), ("--engine-arg=--api-key", "--engine-arg=my-own-key-1")):
        plan = shell.ok("up", *QUICK, *given, "--public", "--dry-run", "--no-check", "--json").data
        assert (plan["access"], plan["public"], plan["engine_key"]) == ("key", True, True)
        assert "my-own-key-1" not in json.dumps(plan)
        assert "cat " in plan["command_line"]
    refused = shell.run("share", "acc-open", "--rotate-key", "--yes", "--json")
    assert (refused.status, refused.error["code"]) == (5, "conflict")
    assert "without a key" in refused.error["message"]


# ---- what is told


@pytest.mark.parametrize(("form", "line"), [("env", "export API_KEY="), ("dotenv", "API_KEY="), ("fish", "API_KEY ")])
def test_the_hand_off_holds_what_the_way_in_needs(shell: Shell, keyed: dict[str, Any], form: str, line: str) -> None:
    done = shell.ok("up", *QUICK, "--name", "acc-key", "--access", "key", "-o", form)
    assert line in done.out
    assert keyed["api_key"] in done.out
    assert "asks for its API key" in done.err
    assert "every route but /health" in done.err
    assert shell.ok("env", "acc-key", "--format", form).out == done.out


def test_env_hands_over_by_the_way_in_too(shell: Shell, opened: dict[str, Any], signed: dict[str, Any]) -> None:
    plain = shell.ok("env", "acc-open", "--json").data
    assert (plain["access"], plain["headers"], plain["token"], plain["shared_until"]) == ("open", {}, "", None)
    link = shell.ok("env", "acc-signed", "--json").data
    assert (link["access"], link["headers"], link["token"]) == ("signed", {}, "")
    assert link["shared_until"]
    assert by_openai(link["base_url"], link["served_model"], api_key=link["api_key"])


def test_status_says_in_words_who_can_reach_what(
    shell: Shell, opened: dict[str, Any], keyed: dict[str, Any], signed: dict[str, Any]
) -> None:
    rows = {row["name"]: row for row in shell.live()}
    assert {name: row["access"] for name, row in rows.items()} == {
        "acc-open": "open",
        "acc-key": "key",
        "acc-signed": "signed",
    }
    assert any("without a credential" in one for one in rows["acc-open"]["who"])
    assert any("asks for its API key" in one for one in rows["acc-key"]["who"])
    assert any("A signed URL opens port" in one for one in rows["acc-signed"]["who"])
    assert rows["acc-signed"]["live_links"] >= 1
    assert "signed (" in next(line for line in shell.ok("status").out.splitlines() if line.startswith("acc-signed"))


def test_open_asks_first(shell: Shell) -> None:
    for flags in (("--access", "open"), ("--public",)):
        done = shell.run("up", *QUICK, "--name", "acc-asked", *flags, "--json")
        assert (done.status, done.error["hint"]) == (2, "say so with --yes")
        assert "anybody" in done.error["message"]
    assert "acc-asked" not in {row["name"] for row in shell.live()}


def test_the_list_of_links_shows_no_credential_unasked(shell: Shell, signed: dict[str, Any]) -> None:
    url = shell.ok("share", "acc-signed", "--expires", "5m", "-q").out.strip()
    shell.ok("share", "acc-signed", "--expires", "1s", "-q")
    time.sleep(1.1)  # its whole life
    mark = url.rpartition("-")[2]
    listed, table = shell.ok("share", "list", "acc-signed", "--json"), shell.ok("share", "list")
    assert mark not in listed.out + table.out + table.err
    assert "the platform lists none" in table.err
    assert {"live", "expired", "revoked"} == {one["state"] for one in listed.data}
    revealed = shell.ok("share", "list", "acc-signed", "--reveal", "--json").data
    assert url in {one["url"] for one in revealed}
    assert shell.ok("share", "acc-signed", "--revoke", "--json").data["revoked"] >= 2
    assert {one["state"] for one in shell.ok("share", "list", "acc-signed", "--json").data} == {"expired", "revoked"}
