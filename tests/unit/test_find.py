from dataclasses import replace

import pytest

from fakes.deployments import DEPLOYMENT
from gpuserve.errors import Conflict, NotFound, UsageError
from gpuserve.records import Deployment
from gpuserve.serving.find import resolve


def named(name: str, sandbox_id: str) -> Deployment:
    return replace(DEPLOYMENT, name=name, sandbox_id=sandbox_id)


A, B, C = named("gpt-oss-20b-7f3c", "1111-aaaa"), named("gpt-oss-20b-7f3c2", "1122-bbbb"), named("qwen-1a2b", "3333")
ALL = [A, B, C]


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [("gpt-oss-20b-7f3c", A), ("gpt-oss-20b-7f3c2", B), ("qw", C), ("1122", B), ("3333", C), ("1111-aaaa", A)],
)
def test_a_name_an_id_or_a_unique_prefix(wanted: str, meant: Deployment) -> None:
    assert resolve(wanted, ALL) is meant


def test_an_ambiguous_prefix_lists_what_it_could_be() -> None:
    with pytest.raises(Conflict, match="gpt-oss-20b-7f3c, gpt-oss-20b-7f3c2"):
        resolve("gpt", ALL)
    with pytest.raises(Conflict):
        resolve("11", ALL)


def test_nothing_named_means_the_only_one() -> None:
    assert resolve(None, [C]) is C
    with pytest.raises(Conflict, match="several deployments are live: gpt-oss"):
        resolve(None, ALL)
    with pytest.raises(NotFound, match="no deployment is live"):
        resolve(None, [])


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(NotFound, match="no deployment 'qwen-1a2c'") as caught:
        resolve("qwen-1a2c", ALL)
    assert caught.value.hint == "did you mean qwen-1a2b?"


@pytest.mark.parametrize("wanted", ["", "../etc", "a b", "a\n", "-rf", "é", "x" * 200, "a/b", "a?b"])
def test_what_cannot_be_a_name_is_refused(wanted: str) -> None:
    with pytest.raises(UsageError, match="no deployment's name"):
        resolve(wanted, ALL)
