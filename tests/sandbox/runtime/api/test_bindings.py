"""Secrets in a session's policy, by sessiond and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from serai.common import errors
from serai.common.errors import SeraiError
from tests.support.fake_vm import Vm

ANTHROPIC = {
    "secret": "anthropic",
    "hosts": ["api.anthropic.com"],
    "header": "x-api-key: {}",
    "variable": "ANTHROPIC_API_KEY",
}
NONE = {"profile": "default", "allow": [], "deny": [], "bind": []}


@pytest.fixture(autouse=True)
def kept(vm: Vm, one: object) -> Iterator[None]:
    """Two secrets; afterwards none, and a session without a policy of its own."""
    for name in ("anthropic", "mine"):
        vm.call("secret.set", name=name, value="sk-not-shown")
    yield
    vm.call("policy.set", name="one")
    for name in ("anthropic", "mine"):
        vm.call("secret.remove", name=name)


def show(vm: Vm) -> object:
    return vm.call("policy.show", name="one")


def test_a_service_is_bound_by_its_name_and_allowed(vm: Vm) -> None:
    done = vm.serai("policy", "bind", "one", "anthropic")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "profile: default",
        "allow: api.anthropic.com:443",
        "bind: anthropic for api.anthropic.com, in the header 'x-api-key: {}', "
        "placeholder in ANTHROPIC_API_KEY",
    ]
    assert show(vm) == {**NONE, "allow": ["api.anthropic.com:443"], "bind": [ANTHROPIC]}
    again = vm.call("policy.bind", name="one", secret="anthropic")
    assert again["bind"] == [ANTHROPIC]
    done = vm.serai("policy", "unbind", "one", "anthropic", "--json")
    assert json.loads(done.stdout) == {**NONE, "allow": ["api.anthropic.com:443"], "cut": 0}


def test_a_host_that_a_rule_names_is_not_allowed_again(vm: Vm) -> None:
    vm.call("policy.allow", name="one", rules=["*.anthropic.com GET /v1/**"])
    bound = vm.call("policy.bind", name="one", secret="anthropic")
    assert bound["allow"] == ["*.anthropic.com GET /v1/**"]


def test_a_place_of_ones_own_is_bound(vm: Vm) -> None:
    options = ("--host", "a.test:8443", "--host", "*.B.test", "--query", "key")
    done = vm.serai("policy", "bind", "one", "mine", *options, "--variable", "MINE", "--json")
    assert done.returncode == 0, done.stderr
    mine = {"hosts": ["a.test:8443", "*.b.test"], "query": "key", "variable": "MINE"}
    policy = json.loads(done.stdout)
    assert policy["bind"] == [{"secret": "mine", **mine}]
    assert policy["allow"] == ["a.test:8443", "*.b.test:443"]


def test_a_policy_is_set_with_its_bindings_and_without(vm: Vm) -> None:
    binding = {"secret": "anthropic", "hosts": ["API.anthropic.com:443"], "header": "x-api-key: {}"}
    found = vm.call("policy.set", name="one", bind=[binding])
    assert found["bind"] == [{**binding, "hosts": ["api.anthropic.com"]}]
    # What changes its rules leaves its bindings.
    assert vm.call("policy.deny", name="one", rules=["b.test"])["bind"] == found["bind"]
    assert vm.call("policy.set", name="one")["bind"] == []


def test_what_cannot_be_bound_changes_nothing(vm: Vm) -> None:
    vm.call("policy.bind", name="one", secret="anthropic")
    before = show(vm)
    for params in (
        {"secret": "mine"},
        {"secret": "mine", "service": "antropic"},
        {"secret": "mine", "service": "anthropic"},  # the same header for the same host
        {"secret": "mine", "hosts": ["10.0.0.1"], "query": "k"},
        {"secret": "mine", "hosts": ["a.test"], "header": "Host: {}"},
        {"secret": "none", "service": "openai"},
    ):
        with pytest.raises(SeraiError):
            vm.call("policy.bind", name="one", **params)
    assert show(vm) == before


def test_a_secret_that_is_not_set_is_told_with_what_helps(vm: Vm) -> None:
    done = vm.serai("policy", "bind", "one", "openai")
    assert done.returncode == 1
    assert "there is no secret 'openai'" in done.stderr
    assert "serai secret set openai" in done.stderr
    with pytest.raises(SeraiError, match="no binding of its own of 'mine'") as caught:
        vm.call("policy.unbind", name="one", secret="mine")
    assert caught.value.code == errors.NOT_FOUND


def test_bindings_live_as_long_as_the_policy(vm: Vm) -> None:
    vm.call("policy.bind", name="one", secret="anthropic")
    before = show(vm)
    vm.kill_gate()
    vm.start_gate()
    vm.kill()
    vm.start()
    assert show(vm) == before
    assert vm.call("policy.explain", name="one", target="api.anthropic.com")["tls"] == "ended"


def test_a_profile_binds_for_its_sessions(vm: Vm) -> None:
    profile = vm.paths.profiles / "bound.toml"
    profile.parent.mkdir(parents=True, exist_ok=True)
    profile.write_text(
        'allow = ["api.anthropic.com"]\n[[bind]]\nsecret = "anthropic"\n'
        'hosts = ["api.anthropic.com"]\nheader = "x-api-key: {}"\nvariable = "KEY"\n'
    )
    try:
        vm.kill_gate()
        vm.start_gate()
        assert vm.serai("create", "two", "--profile", "bound").returncode == 0
        shown = vm.call("policy.show", name="two")
        assert shown == {**NONE, "profile": "bound"}
        assert vm.call("policy.explain", name="two", target="api.anthropic.com")["tls"] == "ended"
        state = json.loads((vm.paths.gate_state / "two.json").read_text())
        assert state["environment"]["KEY"].startswith("serai-anthropic-")
        # The same header for the same host, by another secret.
        with pytest.raises(SeraiError, match="write the header x-api-key for the same host"):
            vm.call("policy.bind", name="two", secret="mine", service="anthropic")
    finally:
        vm.call("remove", name="two")
        profile.unlink()


def test_explain_says_of_a_request_what_the_gate_would(vm: Vm) -> None:
    vm.call("policy.bind", name="one", secret="anthropic")
    vm.call("policy.deny", name="one", rules=["api.anthropic.com DELETE"])

    def said(target: str, method: str = "") -> dict[str, object]:
        found = vm.call("policy.explain", name="one", target=target, method=method)
        return {key: found[key] for key in ("target", "request", "allowed", "tls", "secrets")}

    no = {"target": "api.anthropic.com:443", "allowed": False, "tls": "ended", "secrets": []}
    found = said("https://api.anthropic.com/v1/x?key=y", "DELETE")
    assert found == {**no, "request": "DELETE /v1/x"}
    assert said("other.test") == {
        **no,
        "target": "other.test:443",
        "request": None,
        "tls": "tunnel",
    }
    assert said("http://other.test:8080")["tls"] == "none"
    done = vm.serai("policy", "explain", "one", "https://other.test/a", "--method", "POST")
    assert done.stdout.startswith("other.test:443 POST /a: denied\n")
    with pytest.raises(SeraiError, match="begins with http"):
        said("ftp://other.test/")
