from __future__ import annotations

import pytest

from serai.common import tables
from serai.common.errors import SeraiError
from serai.gate.policy.bindings import Binding, clash
from serai.gate.policy.rules import Rules, rule
from serai.gate.profiles import Policy
from serai.gate.services import Wish, added, bindings, known
from tests.conftest import ROOT


def test_each_service_can_be_bound() -> None:
    for name, found in known().items():
        wish = Wish("key", service=name, hosts=[] if found[0].get("hosts") else ["api.test"])
        made = bindings(wish)
        assert len(made) == len(found)
        assert clash(made) == "", name
        for each, table in zip(made, found, strict=True):
            expected = {"secret": "key", "hosts": wish.hosts, **table}
            assert each.as_dict() == expected, f"{name} is not written as it is understood"
            assert not any(host.startswith("*") for host in each.hosts)
        # Without a variable, programs do not begin; without a place, the secret goes nowhere.
        assert any(each.variable for each in made), name


def test_the_page_names_each_service() -> None:
    page = (ROOT / "docs/gate.md").read_text().partition("that of `--as`:")[2].partition(".")[0]
    assert page.replace("\n", " ").strip().split(", ") == sorted(known())


def test_services_do_not_write_the_same_for_a_host_that_they_share() -> None:
    many = [
        tables.read(Binding, {"secret": name, **table})
        for name, found in known().items()
        for table in found
        if "hosts" in table
    ]
    assert clash(many) == ""


def test_a_service_is_that_of_the_secrets_name_or_of_another() -> None:
    [made] = bindings(Wish("anthropic"))
    assert (made.secret, made.hosts) == ("anthropic", ("api.anthropic.com",))
    assert made.header == "x-api-key: {}"
    assert bindings(Wish("work", service="anthropic"))[0].as_dict() == {
        **made.as_dict(),
        "secret": "work",
    }
    assert [each.basic for each in bindings(Wish("github"))] == ["x-access-token", ""]


def test_what_is_said_goes_before_what_the_service_wants() -> None:
    [npm] = bindings(Wish("npm", hosts=["Packages.Corp.test:8443"]))
    assert npm.as_dict() == {
        "secret": "npm",
        "hosts": ["packages.corp.test:8443"],
        "header": "Authorization: Bearer {}",
        "variable": "NPM_TOKEN",
    }
    [own] = bindings(Wish("openai", hosts=["llm.corp.test"], basic="me"))
    assert own.as_dict() == {"secret": "openai", "hosts": ["llm.corp.test"], "basic": "me"}
    git, api = bindings(Wish("github", variable="GH_TOKEN"))
    assert (git.variable, api.variable) == ("", "GH_TOKEN")
    [loose] = bindings(Wish("mine", hosts=["a.test"], variable="MINE"))
    assert loose.as_dict() == {"secret": "mine", "hosts": ["a.test"], "variable": "MINE"}


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish("mine"), "for which host is mine"),
        (Wish("npm"), "for which host is npm"),
        (Wish("mine", header="x: {}"), "for which host is mine"),
        (Wish("mine", service="antropic"), "there is no service 'antropic'"),
        (Wish("mine", hosts=["a.test"]), "where does mine go"),
        (Wish("github", hosts=["git.corp.test"]), "more than one place"),
        (Wish("Mine", hosts=["a.test"], query="k"), "this cannot be bound: secret"),
        (Wish("mine", hosts=["10.0.0.1"], query="k"), "not for addresses"),
        (Wish("mine", hosts=["a.test"], query="k", basic="me"), "one place"),
    ],
)
def test_what_cannot_be_bound_is_told(wish: Wish, message: str) -> None:
    with pytest.raises(SeraiError) as caught:
        bindings(wish)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("said", "more"),
    [
        (Rules(), ("a.test:443", "*.b.test:8443")),
        (Rules((rule("a.test"),)), ("*.b.test:8443",)),
        (Rules((rule("a.test:80"), rule("x.b.test"))), ("a.test:443", "*.b.test:8443")),
        (Rules((rule("*:443"),), (rule("*.test:8443"),)), ()),
        (Rules((rule("a.test GET /v1/**"), rule("*.b.test"))), ()),
        (Rules(deny=(rule("a.test"), rule("*.b.test"))), ()),
    ],
)
def test_a_host_that_no_rule_names_is_allowed(said: Rules, more: tuple[str, ...]) -> None:
    new = bindings(Wish("mine", hosts=["a.test", "*.b.test:8443"], query="k"))
    policy = added(Policy("web", ("c.test",), ("d.test",)), said, new)
    assert policy == Policy("web", ("c.test", *more), ("d.test",), new)
    assert added(policy, said, new) == policy
