from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from serai.common.errors import SeraiError
from serai.gate.policy.rules import Rules, rule
from serai.gate.profiles import Policy, effective, load, policy


def test_profiles_are_read_by_the_names_of_their_files(tmp_path: Path) -> None:
    (tmp_path / "web.toml").write_text(
        'summary = "The web"\nallow = ["*:443", "M\u00fcnchen.example."]\ndeny = ["10.0.0.0/8"]\n',
        "utf-8",
    )
    (tmp_path / "empty.toml").write_text("")
    (tmp_path / "web.toml~").write_text("not TOML at all")
    (tmp_path / ".#web.toml").symlink_to("nobody@nowhere:1")
    (tmp_path / "README").write_text("Profiles")
    assert load(tmp_path) == {
        "default": Rules(),
        "empty": Rules(),
        "web": Rules((rule("*:443"), rule("xn--mnchen-3ya.example")), (rule("10.0.0.0/8"),)),
    }


def test_a_folder_may_have_a_default_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "default.toml").write_text('allow = ["example.com", "EXAMPLE.com"]')
    assert load(tmp_path) == {"default": Rules((rule("example.com"),))}


def test_without_a_folder_there_is_no_profile_and_everything_is_denied(tmp_path: Path) -> None:
    assert load(tmp_path / "none") == {}
    assert effective(Policy(), {}) == Rules()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("allow = 'a'", "allow must be a list"),
        ("allow = [1]", "allow must be a list of texts"),
        ("allow = [['a']]", "allow must be a list of texts"),
        ("deny = true", "deny must be a list"),
        ("[allow]", "allow must be a list"),
        ("summary = 1", "summary must be a text"),
        ("alow = ['a']", "unknown key alow; known are allow, deny, bind, summary"),
        ("profile = 'web'", "unknown key profile"),
        ("allow = ['a..b']", "allow: 'a..b' is not a rule"),
        ("deny = ['10.0.0.1/8']", "deny: '10.0.0.1/8' is not a rule"),
        ("allow = [", "cannot read"),
        ("\xff", "cannot read"),
        ("allow = ['a']\nallow = ['b']", "cannot read"),
    ],
)
def test_a_bad_profile_is_told_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "web.toml").write_text(text, "latin-1")
    with pytest.raises(SeraiError) as caught:
        load(tmp_path)
    assert str(tmp_path / "web.toml") in caught.value.message
    assert message in caught.value.message
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["Web", "a b", "a_b", "x" * 64, "\u00e4", "a.b", "a\n"])
def test_a_file_that_has_no_profiles_name(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.toml").write_text("")
    with pytest.raises(SeraiError, match="cannot be a profile's name") as caught:
        load(tmp_path)
    assert str(caught.value.hint).startswith("a name has")


def test_what_cannot_be_read_is_an_error_and_not_an_empty_profile(tmp_path: Path) -> None:
    (tmp_path / "web.toml").mkdir()
    with pytest.raises(SeraiError, match="cannot read the profile"):
        load(tmp_path)
    with pytest.raises(SeraiError, match="cannot read the profiles in"):
        load(Path(os.devnull))


def test_a_policy_is_canonical_and_reads_back() -> None:
    found = policy(
        {
            "profile": "web",
            "allow": ["Example.com.", "127.1:80", "example.com"],
            "deny": ("*.B.test",),
        }
    )
    assert found == Policy("web", ("example.com", "127.0.0.1:80"), ("*.b.test",))
    assert found.as_dict() == {
        "profile": "web",
        "allow": ["example.com", "127.0.0.1:80"],
        "deny": ["*.b.test"],
        "bind": [],
    }
    assert policy(json.loads(json.dumps(found.as_dict()))) == found
    assert policy({}) == Policy() == policy(Policy().as_dict())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"profile": 1}, "profile must be a text, not 1"),
        ({"profile": ""}, "profile: '' is not a name of a-z, 0-9 and hyphens"),
        ({"profile": "../web"}, "profile: '../web' is not a name"),
        ({"profile": "web\n"}, "profile: 'web\\n' is not a name"),
        ({"profile": None}, "profile must be"),
        ({"allow": "example.com"}, "allow must be a list"),
        ({"allow": None}, "allow must be a list"),
        ({"allow": {"a": 1}}, "allow must be a list"),
        ({"deny": [None]}, "deny must be a list of texts"),
        ({"deny": ["a b"]}, "deny: 'a b' is not a rule"),
        ({"summary": "x"}, "unknown key summary"),
        ({1: []}, "unknown key 1"),
        ([], "must be a table"),
        (None, "must be a table"),
    ],
)
def test_a_bad_policy_is_told_with_its_key(data: Any, message: str) -> None:
    with pytest.raises(SeraiError) as caught:
        policy(data)
    assert message in caught.value.message
    assert len(str(caught.value).splitlines()) == 1


def test_profile_and_session_hold_together() -> None:
    profiles = {"web": Rules((rule("a.test"),), (rule("b.test"),))}
    assert effective(Policy("web", ("c.test", "a.test"), ("a.test",)), profiles) == Rules(
        (rule("a.test"), rule("c.test")), (rule("b.test"), rule("a.test"))
    )
    assert effective(Policy(), profiles) == Rules()
    assert effective(Policy(allow=("*",)), profiles) == Rules((rule("*"),))


def test_an_unknown_profile_and_a_bad_rule_are_errors() -> None:
    with pytest.raises(SeraiError, match=r"no profile 'wep'; there are: default, web") as caught:
        effective(Policy("wep"), {"web": Rules()})
    assert caught.value.hint == "there are: default, web"
    with pytest.raises(SeraiError, match="is not a rule"):
        effective(Policy(allow=("a b",)), {})


BOUND = {"secret": "one", "hosts": ["api.test"], "header": "X-Key: {}", "variable": "KEY"}


def test_a_profile_has_bindings(tmp_path: Path) -> None:
    (tmp_path / "web.toml").write_text(
        'allow = ["api.test GET /v1/**"]\n[[bind]]\nsecret = "one"\nhosts = ["API.test"]\n'
        'header = "X-Key: {}"\nvariable = "KEY"\n'
    )
    found = load(tmp_path)["web"]
    assert [each.as_dict() for each in found.bind] == [BOUND]
    assert [each.text for each in found.allow] == ["api.test GET /v1/**"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bind = 1", "bind must be a list of tables"),
        ("bind = ['a']", "bind[0] must be a table"),
        ("[[bind]]\nsecret = 'one'", "a binding has a secret and hosts"),
        ("[[bind]]\nsecret = 'one'\nhost = 'a'", "unknown key bind[0].host"),
        ("[[bind]]\nsecret = 'one'\nhosts = ['10.0.0.1']", "bind[0].hosts: '10.0.0.1'"),
        (
            "[[bind]]\nsecret='a'\nhosts=['x.test']\nbasic='a'\n"
            "[[bind]]\nsecret='b'\nhosts=['x.test']\nbasic='a'",
            "a for x.test and b for x.test write the header authorization for the same host",
        ),
    ],
)
def test_a_bad_binding_is_told_with_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "web.toml").write_text(text)
    with pytest.raises(SeraiError) as caught:
        load(tmp_path)
    assert str(tmp_path / "web.toml") in caught.value.message
    assert message in caught.value.message


def test_a_policys_bindings_read_back_and_hold_with_those_of_its_profile() -> None:
    found = policy({"bind": [{**BOUND, "hosts": ["API.TEST:443"]}, BOUND]})
    assert found.as_dict()["bind"] == [BOUND]
    assert policy(json.loads(json.dumps(found.as_dict()))) == found
    other = policy({"bind": [{"secret": "two", "hosts": ["b.test"], "query": "k"}]})
    profiles = {"default": Rules(bind=other.bind)}
    assert effective(found, profiles).bind == (*other.bind, *found.bind)
    clashing = policy({"bind": [{**BOUND, "secret": "two"}]})
    with pytest.raises(SeraiError, match=r"one for api.test and two for api.test have the same"):
        effective(clashing, {"default": Rules(bind=found.bind)})


@pytest.mark.parametrize("bind", [1, {}, [1], [{}], ["one"], [{"secret": "one"}], None])
def test_what_is_no_binding_in_a_policy_is_told(bind: Any) -> None:
    with pytest.raises(SeraiError, match="the session's policy cannot be used"):
        policy({"bind": bind})
