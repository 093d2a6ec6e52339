from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serai.gate.policy.requests import Asked, Requests, doubtful, read

PLAIN = "abcXYZ019-._~"
SEGMENT = st.text(PLAIN, min_size=1, max_size=6).filter(lambda text: text.strip(".") != "")
PATHS = st.lists(SEGMENT, min_size=1, max_size=4).map(lambda each: "/" + "/".join(each))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("GET", "GET"),
        ("get,Head", "GET,HEAD"),
        ("HEAD,GET,HEAD", "GET,HEAD"),
        ("version-control", "VERSION-CONTROL"),
        ("/", "/"),
        ("/**", "/**"),
        ("GET /repos/*/pulls/**", "GET /repos/*/pulls/**"),
        ("GET  /%7euser/%2a", "GET /~user/%2A"),
        ("/m\u00fcnchen", "/m%C3%BCnchen"),
        ("/a[b]|c", "/a%5Bb%5D%7Cc"),
        ("/repos/", "/repos/"),
        ("git-fetch", "git-fetch"),
        ("Git-Push /Org/**", "git-push /Org/**"),
    ],
)
def test_what_is_said_of_requests_has_one_spelling(text: str, canonical: str) -> None:
    found = read(text)
    assert found.text == str(found) == canonical
    assert read(canonical) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "behind the host stand"),
        ("GET POST", "does not begin with a slash"),
        ("GET /a /b", "behind the host stand"),
        ("/a GET", "behind the host stand"),
        ("ab", "is not a method"),
        ("GET,", "is not a method"),
        ("GET, POST", "does not begin with a slash"),
        ("G\u00cbT", "is not a method"),
        ("api.example.com", "is not a method"),
        ("git-pull", "is not a word for git"),
        ("GET,git-fetch", "is not a word for git"),
        ("/a?b=1", "a rule is not about the query"),
        ("/a**", "a segment of its own"),
        ("/***", "a segment of its own"),
        ("/" + "a" * 1024, "at most 1024"),
        ("/a//b", "an empty segment"),
        ("//", "an empty segment"),
        ("/a/../b", "a segment . or .."),
        ("/a/%2E%2e/b", "a segment . or .."),
        ("/.", "a segment . or .."),
        ("/a%2Fb", "a slash in it is encoded"),
        ("/a;b", "one of"),
        ("/a%3bb", "one of"),
        ("/a\\b", "one of"),
        ("/a%5Cb", "one of"),
        ("/a#b", "one of"),
        ("/a%3Fb", "one of"),
        ("/a%00", "control character"),
        ("/a%0a", "control character"),
        ("/%", "two hexadecimal digits"),
        ("/%u0061", "two hexadecimal digits"),
        ("/%2561", "encoded twice"),
        ("/%25%36%31", "encoded twice"),
        ("/%ff", "not UTF-8"),
        ("/%c0%ae", "not UTF-8"),
        ("/\uff0f", "a slash in it is encoded"),
        ("/\u2025", "a segment . or .."),
        ("/%E2%80%A5", "a segment . or .."),
    ],
)
def test_what_says_nothing_clear_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read(text)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("/", ["/", "/?a=1"], ["/a"]),
        ("/a", ["/a", "/a?b", "/%61"], ["/a/", "/A", "/a/b", "/", "/ab"]),
        ("/a/", ["/a/"], ["/a"]),
        ("/**", ["/", "/a", "/a/b/", "/a/b/c"], []),
        ("/a/**", ["/a", "/a/", "/a/b", "/a/b/c"], ["/", "/ab", "/b/a"]),
        ("/**/z", ["/z", "/a/z", "/a/b/z"], ["/", "/a", "/z/a", "/az"]),
        ("/a/**/m/**/z", ["/a/m/z", "/a/b/m/c/d/z", "/a/m/m/z"], ["/a/z", "/a/z/m", "/a/mm/z"]),
        ("/a/**/b/c/**/c/d", ["/a/b/b/c/c/d", "/a/b/c/x/c/d"], ["/a/b/c/d", "/a/b/x/c/d"]),
        ("/a/*/c", ["/a/b/c", "/a/bbb/c"], ["/a/c", "/a/b/b/c"]),
        ("/a*c", ["/ac", "/abc", "/acc"], ["/a/c", "/ab", "/a"]),
        ("/*a*b*", ["/ab", "/xaxbx", "/abab"], ["/ba", "/a", "/a/b"]),
        ("/ab*ba", ["/abba", "/abxba"], ["/aba", "/ab"]),
        ("/x%20y", ["/x%20y"], ["/xy", "/x+y"]),
    ],
)
def test_a_path_is_as_a_pattern_says(pattern: str, yes: list[str], no: list[str]) -> None:
    said = read(pattern)
    assert [path for path in yes if not said.allows(Asked("GET", path))] == []
    assert [path for path in no if said.allows(Asked("GET", path))] == []
    assert [path for path in yes if not said.denies(Asked("GET", path))] == []


@pytest.mark.parametrize(
    "path",
    [
        *("/secret", "/SECRET", "/%73ecret", "/s%45cret", "/secret/", "/secret?x", "/secre%74/?"),
        *("//secret", "/./secret", "/a/../secret", "/%2e/secret", "/a/%2e%2e/secret", "/a%2f../b"),
        *("/secret;a=b", "/secret%3ba", "/secret\\", "/%5csecret", "/secret%00", "/secret%23"),
        *(
            "/%2573ecret",
            "/%25%37%33ecret",
            "/secret%3f",
            "/x\\..\\secret",
            "/sec\u212aet",
            "*",
            "",
        ),
        *("/%ef%bd%93ecret", "/secret#", "/%ff", "/%", "/..;/secret"),
    ],
)
def test_no_spelling_of_a_path_evades_a_rule_that_denies(path: str) -> None:
    assert read("/secret").denies(Asked("GET", path))
    assert read("GET /secret").denies(Asked("get", path))
    assert not read("POST /secret").denies(Asked("GET", path))


@pytest.mark.parametrize(
    "path",
    [
        *("/open/../secret", "/open/%2e%2e/secret", "/open/..%2fsecret", "/open/%2e./secret"),
        *("/open//secret", "/open/..;/secret", "/open;/../secret", "/open\\..\\secret", "//open"),
        *("/open/%00", "/open/%5c..%5csecret", "/open/%252e%252e/secret", "/open/%3f", "/open/#"),
        *("/open/\u2025/secret", "/open/%e2%80%a5/secret", "/open/.", "/open/%c0%ae%c0%ae/a"),
        *("/OPEN/a", "/open%2fa", "open/a", "*", "", "/open/%", "/open/ .. /secret", "/open/a%0ab"),
    ],
)
def test_no_spelling_of_a_path_widens_a_rule_that_allows(path: str) -> None:
    assert not read("/open/**").allows(Asked("GET", path))


@given(PATHS, st.data())
def test_a_path_means_the_same_however_it_is_encoded(path: str, data: st.DataObject) -> None:
    encoded = "".join(
        f"%{ord(each):02{data.draw(st.sampled_from('xX'))}}"
        if each != "/" and data.draw(st.booleans())
        else each
        for each in path
    )
    said = read(path)
    assert read(said.text) == said == read(encoded)
    assert said.allows(Asked("GET", encoded))
    assert said.denies(Asked("GET", encoded))
    assert not doubtful(encoded)
    other = path + "x"
    assert not said.allows(Asked("GET", other))
    assert not said.denies(Asked("GET", other))


@given(st.text(st.sampled_from("/.%2eEfF5cC;\\aA?#*0 "), max_size=14))
def test_what_is_allowed_by_the_letter_is_denied_as_well(text: str) -> None:
    asked = Asked("GET", f"/{text}")
    for pattern in ("/**", "/a/**", "/*", "/a", "/A*", "/**/a", "git-fetch", "GET", "GET /a/*"):
        said = read(pattern)
        assert said.denies(asked) or not said.allows(asked)
        if asked.doubt and (said.path or said.git):
            assert said.denies(asked)
            assert not said.allows(asked)


def test_methods_are_those_that_are_said() -> None:
    said = read("get,HEAD")
    assert said == Requests(("GET", "HEAD"))
    assert said.allows(Asked("GET", "/a/../b"))  # without a path there is nothing to doubt
    assert not said.allows(Asked("get", "/"))  # to a server it may be another method, or the same
    assert said.denies(Asked("get", "/"))
    assert not said.denies(Asked("POST", "/"))


FETCH = [
    ("GET", "/o/r.git/info/refs?service=git-upload-pack"),
    ("POST", "/o/r.git/git-upload-pack"),
    ("GET", "/o/r/info/refs?service=git-upload-pack"),
]
PUSH = [
    ("GET", "/o/r.git/info/refs?service=git-receive-pack"),
    ("POST", "/o/r.git/git-receive-pack"),
]


@pytest.mark.parametrize("path", ["", " /o/**", " /o/r", " /o/r.git", " /o/*", " /*/r*", " /**"])
def test_git_fetch_and_git_push_are_what_git_asks(path: str) -> None:
    fetch, push = read(f"git-fetch{path}"), read(f"git-push{path}")
    for own, others, asked in ((fetch, push, FETCH), (push, fetch, PUSH)):
        for each in (Asked(*pair) for pair in asked):
            assert own.allows(each)
            assert own.denies(each)
            assert not others.allows(each)
            assert not others.denies(each)


@pytest.mark.parametrize("path", [" /p/**", " /o/r2", " /o", " /o/r/x", " /O/R"])
def test_a_word_of_git_is_for_its_repositories(path: str) -> None:
    for asked in (Asked(*pair) for pair in FETCH):
        assert not read(f"git-fetch{path}").allows(asked)
        assert read(f"git-fetch{path}").denies(asked) == (path == " /O/R")


def test_a_group_with_git_at_its_end_is_not_the_group() -> None:
    assert not read("git-fetch /o/**").allows(Asked("POST", "/o.git/git-upload-pack"))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/o/r/info/refs"),
        ("GET", "/o/r/info/refs?service=git-upload-pack&x=1"),
        ("GET", "/o/r/info/refs?x=1&service=git-upload-pack"),
        ("GET", "/o/r/info/refs?service=git-receive-pack&service=git-upload-pack"),
        ("HEAD", "/o/r/info/refs?service=git-upload-pack"),
        ("PUT", "/o/r/git-upload-pack"),
        ("GET", "/o/r/git-upload-pack"),
        ("POST", "/o/r/git-upload-pack?service=git-receive-pack"),
        ("POST", "/o/r/git-upload-pack/"),
        ("POST", "/o/../r/git-upload-pack"),
        ("POST", "/o/r.git/info/lfs/objects/batch"),
        ("GET", "/o/r/objects/info/packs"),
        ("GET", "/o/r/archive/main.zip"),
    ],
)
def test_git_fetch_allows_nothing_else(method: str, path: str) -> None:
    assert not read("git-fetch").allows(Asked(method, path))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/o/r/info/refs?x=1&service=git-receive-pack"),
        ("GET", "/o/r/info/refs?service=git%2Dreceive%2Dpack"),
        ("GET", "/o/r/INFO/refs/?service=GIT-receive-pack"),
        ("POST", "/o/r/git%2dreceive-pack"),
        ("POST", "/o/r/Git-Receive-Pack/?x"),
        ("PUT", "/o/r/git-receive-pack"),
        ("POST", "/o/./r/git-receive-pack"),
        ("POST", "/O/R.git/git-receive-pack"),
        ("POST", "/daemon.cgi?svc=git&q=/git-receive-pack"),
    ],
)
def test_what_may_be_a_push_does_not_evade_its_rule(method: str, path: str) -> None:
    assert read("git-push").denies(Asked(method, path))
    assert read("git-push /o/r").denies(Asked(method, path))


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("GET", "/a/b?c", "GET /a/b"),
        ("GET", "/", "GET /"),
        ("GET", "/**", "GET /%2A%2A"),
        ("GET", "/a*/%2a", "GET /a%2A/%2A"),
        ("GET", "/a'b c", "GET /a'b%20c"),
        ("POST", "/a/../b", "POST"),
        ("GET", "*", "GET"),
    ],
)
def test_the_rule_for_a_request_allows_just_that(method: str, path: str, said: str) -> None:
    asked = Asked(method, path)
    assert asked.rule == said
    found = read(said)
    assert found.text == said
    assert found.allows(asked)
    assert not found.allows(Asked(method, "/other")) or not found.path


def test_a_long_path_is_matched_in_time_that_is_bounded() -> None:
    said = read("/" + "/".join(["**/a*a*a*a*a*b"] * 40))
    assert not said.allows(Asked("GET", "/a" * 4000))
    assert not said.denies(Asked("GET", "/" + "a" * 8000))


def test_a_request_is_shown_without_its_query_and_not_at_length() -> None:
    assert str(Asked("GET", "/a?key=secret")) == "GET /a"
    assert len(str(Asked("GET", "/" + "\n" * 5000))) < 500


@pytest.mark.parametrize(
    ("method", "path", "advised"),
    [
        ("GET", "/org/a/info/refs?service=git-upload-pack", "git-fetch /org/a"),
        ("POST", "/org/a.git/git-receive-pack", "git-push /org/a.git"),
        ("GET", "/org/a/info/refs", "GET /org/a/info/refs"),
        ("PUT", "/a*b", "PUT /a%2Ab"),
        ("PUT", "/a/../b", "PUT"),
    ],
)
def test_the_rule_that_is_advised_means_that_and_no_more(
    method: str, path: str, advised: str
) -> None:
    assert Asked(method, path).rule == advised
