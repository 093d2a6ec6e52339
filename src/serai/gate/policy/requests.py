"""What a rule says about requests: methods, a path, or what git asks for. Pure.

Behind its host a rule may have one of these; ``read`` reads them, ``text`` writes them::

    GET,HEAD            requests with these methods
    /repos/**           requests for these paths
    GET /repos/*/pulls  both
    git-fetch           what git asks to clone and to fetch, over "smart" HTTP
    git-push /org/**    what it asks to push, for these repositories

``*`` is any text within one segment of a path, and ``**`` any number of segments. Paths are
compared after percent-decoding, and queries are not looked at, but for git's.

Programs read paths differently, and the one behind the gate is not known. So a rule that allows
takes a path by its letter, a rule that denies also what might mean the same, and a path that leaves
doubt is allowed by no rule with a path and denied by each.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import normalize
from urllib.parse import unquote, unquote_to_bytes

GIT = {"git-fetch": "git-upload-pack", "git-push": "git-receive-pack"}
"""The words for what git asks, and the services of its protocol (gitprotocol-http(5))."""

_LONGEST = 1024
_MOST_SHOWN = 200
_METHOD = re.compile(r"[A-Z]{3,32}(?:-[A-Z]{1,32})*")
_ANY = "**"
_UNRESERVED = re.compile(r"[A-Za-z0-9._~-]")  # RFC 3986, 2.3
# What is not as it is in the one spelling: an encoded character, and one that has to be (3.3).
_SPELT = re.compile(r"%[0-9A-Fa-f]{2}|[^%A-Za-z0-9._~!$&'()*+,;=:@/-]")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_TWICE = re.compile(r"%[0-9A-Fa-f]{2}")


@dataclass(frozen=True)
class Asked:
    """A request, as rules look at it: ``path`` is in origin-form, with its query."""

    method: str
    path: str

    @functools.cached_property
    def doubt(self) -> str:
        """Why two programs may read the path differently; empty if they do not."""
        return doubtful(self.path.partition("?")[0])

    @functools.cached_property
    def exact(self) -> list[str]:
        # In a pattern a * is written so that is itself.
        return _spelling(self.path.partition("?")[0]).replace("*", "%2A")[1:].split("/")

    @property
    def rule(self) -> str:
        """What a rule says that allows just this, or what git is about to do with it. The session
        wrote the path: if it leaves doubt, no rule with a path would help, and a * in it is not to
        become a pattern."""
        if self.doubt:
            return self.method
        for word in GIT:
            if Requests(git=word.removeprefix("git-")).allows(self):
                repository = self.exact[: -2 if self.method == "GET" else -1]
                return f"{word} /{'/'.join(repository)}"
        return f"{self.method} /{'/'.join(self.exact)}"

    @functools.cached_property
    def loose(self) -> list[str]:
        return _loose(self.exact)

    @property
    def query(self) -> str:
        return self.path.partition("?")[2]

    def __str__(self) -> str:
        """For people, without the query, which may be nobody's business."""
        shown = f"{self.method} {self.path.partition('?')[0]}"
        return ascii(shown if len(shown) <= _MOST_SHOWN else f"{shown[:_MOST_SHOWN]}...")[1:-1]


@dataclass(frozen=True)
class Requests:
    """The requests that a rule is for: with ``methods``, none of which means any, and for ``path``,
    which is a pattern in its one spelling, or "" for any. ``git`` is "", "fetch" or "push".
    """

    methods: tuple[str, ...] = ()
    path: str = ""
    git: str = ""

    @property
    def text(self) -> str:
        word = f"git-{self.git}" if self.git else ",".join(self.methods)
        return " ".join(filter(None, (word, self.path)))

    def __str__(self) -> str:
        return self.text

    def allows(self, asked: Asked) -> bool:
        """Whether a rule that allows these requests allows this one: by the letter."""
        if not (self.path or self.git):
            return asked.method in self.methods
        if asked.doubt or (self.methods and asked.method not in self.methods):
            return False
        if not self.git:
            return _matches(self._pattern, asked.exact)
        service = GIT[f"git-{self.git}"]
        if (asked.method, asked.query) == ("GET", f"service={service}"):
            return asked.exact[-2:] == ["info", "refs"] and self._is_for(asked.exact[:-2])
        called = (asked.method, asked.query, asked.exact[-1]) == ("POST", "", service)
        return called and self._is_for(asked.exact[:-1])

    def denies(self, asked: Asked) -> bool:
        """Whether a rule that denies these requests denies this one: also what may be the same."""
        if self.methods and asked.method.upper() not in self.methods:
            return False
        if not (self.path or self.git) or asked.doubt:
            return True
        if not self.git:
            return _matches_loosely(self._loose_pattern, asked.loose)
        service = GIT[f"git-{self.git}"]
        path = asked.loose if asked.loose[-1] else asked.loose[:-1]
        if path[-1:] == [service]:
            return self._is_for(path[:-1], loose=True)
        if service not in unquote(asked.query).lower():
            return False
        # A gateway may have the rest of the path in its query (gitprotocol-http(5), URL format).
        return path[-2:] != ["info", "refs"] or self._is_for(path[:-2], loose=True)

    @functools.cached_property
    def _pattern(self) -> list[str]:
        return self.path[1:].split("/")

    @functools.cached_property
    def _loose_pattern(self) -> list[str]:
        return _loose(self._pattern)

    def _is_for(self, repository: list[str], *, loose: bool = False) -> bool:
        """Whether it is for a repository, whose name servers take with and without .git."""
        if not self.path:
            return True
        pattern = self._loose_pattern if loose else self._pattern
        if pattern[-1] == _ANY:
            return _matches(pattern, repository)
        *parents, name = repository or [""]
        bare = name.removesuffix(".git")
        return any(_matches(pattern, [*parents, each]) for each in (bare, f"{bare}.git"))


def read(text: str) -> Requests:
    """What ``text`` says, which stands behind the host in a rule. Raises ValueError."""
    words = text.split()
    word = words.pop(0) if words and not words[0].startswith("/") else ""
    path = words.pop(0) if words else ""
    if words or not (word or path):
        raise ValueError("behind the host stand methods, a path or both, as in GET,HEAD /repos/**")
    pattern = _pattern(path) if path else ""
    if word.lower() in GIT:
        return Requests(path=pattern, git=word.lower().removeprefix("git-"))
    methods = word.upper().split(",") if word else []
    for method in methods:
        if method.startswith("GIT-"):
            raise ValueError(f"{word!a} is not a word for git; there are git-fetch and git-push")
        if not _METHOD.fullmatch(method):
            raise ValueError(f"{method!a} is not a method, nor a path: a path begins with a slash")
    return Requests(tuple(sorted(set(methods))), pattern)


def doubtful(path: str) -> str:
    """Why two programs may read ``path`` differently; empty if they do not."""
    # Some programs also take other letters for those of ASCII that look like them.
    decoded = normalize("NFKC", unquote_to_bytes(path).decode("utf-8", "replace"))
    segments = decoded[1:].split("/")
    reasons = (
        (not path.startswith("/"), "it does not begin with a slash"),
        (not path.isascii(), "it has a character that must be percent-encoded"),
        (_ESCAPE.search(path), "a % in it is not followed by two hexadecimal digits"),
        ("\N{REPLACEMENT CHARACTER}" in decoded, "what is encoded in it is not UTF-8"),
        (_TWICE.search(decoded), "it is encoded twice"),
        (decoded.count("/") != path.count("/"), "a slash in it is encoded"),
        (any(each in decoded for each in "\\;?#"), r"it has one of \ ; ? # in it, encoded or not"),
        (not decoded.isprintable(), "it has a control character in it, encoded or not"),
        ("" in segments[:-1], "it has an empty segment"),
        (any(each.strip() in (".", "..") for each in segments), "it has a segment . or .."),
    )
    return next((why for holds, why in reasons if holds), "")


def _pattern(path: str) -> str:
    """The one spelling of a rule's path."""
    if not path.startswith("/"):
        raise ValueError(f"the path {path!a} does not begin with a slash")
    if len(path) > _LONGEST:
        raise ValueError(f"a path has at most {_LONGEST} characters")
    if "?" in path:
        raise ValueError("a rule is not about the query: a path ends before the ?")
    spelling = _spelling(path)
    if why := doubtful(spelling):
        raise ValueError(f"the path {path!a} may be read in two ways: {why}")
    if any(_ANY in segment and segment != _ANY for segment in spelling.split("/")):
        raise ValueError("** is a segment of its own, as in /repos/**")
    return spelling


def _spelling(path: str) -> str:
    """``path`` with just those characters percent-encoded that must be, or that were and may be."""
    return _SPELT.sub(_spelt, path)


def _spelt(match: re.Match[str]) -> str:
    part = match[0]
    if len(part) == 1:
        return "".join(f"%{byte:02X}" for byte in part.encode("utf-8", "surrogateescape"))
    decoded = chr(int(part[1:], 16))
    return decoded if _UNRESERVED.fullmatch(decoded) else part.upper()


def _loose(segments: Sequence[str]) -> list[str]:
    """``segments`` without what servers may not tell apart: case, encoding, how a letter looks."""
    return [normalize("NFKC", unquote(segment)).casefold() for segment in segments]


def _matches_loosely(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    """Whether a pattern matches with or without a slash at the end."""
    bare = segments if segments[-1] else segments[:-1]
    return _matches(pattern, bare) or _matches(pattern, [*bare, ""])


def _matches(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    """Whether a pattern matches as a whole. Leftmost matches do, so the time is bounded."""
    groups: list[list[str]] = [[]]
    for each in pattern:
        if each == _ANY:
            groups.append([])
        else:
            groups[-1].append(each)
    first, *others = groups
    if not others:
        return len(first) == len(segments) and _begins(first, segments)
    *middle, last = others
    if len(first) + len(last) > len(segments) or not _begins(first, segments):
        return False
    at, end = len(first), len(segments) - len(last)
    if not _begins(last, segments[end:]):
        return False
    for group in middle:
        found = range(at, end - len(group) + 1)
        size = len(group)
        at = next((i for i in found if _begins(group, segments[i : i + size])), end) + size
        if at > end:
            return False
    return True


def _begins(pattern: Sequence[str], segments: Sequence[str]) -> bool:
    return all(_is_like(*pair) for pair in zip(pattern, segments, strict=False))


def _is_like(pattern: str, segment: str) -> bool:
    """Whether a segment is as its pattern says, where ``*`` is any text."""
    first, *others = pattern.split("*")
    if not others:
        return pattern == segment
    *middle, last = others
    if len(first) + len(last) > len(segment):
        return False
    if not segment.startswith(first) or not segment.endswith(last):
        return False
    at, end = len(first), len(segment) - len(last)
    for piece in middle:
        found = segment.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True
