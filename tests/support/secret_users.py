"""Programs that use a secret, and what each says of its version, its place and its binding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class User:
    """A program that uses a secret. ``script`` prints HELLO when it got what it wanted, and has
    ``$d``, DIRECTORY; ``held`` is the request whose answer is held back, and ``bind`` what
    policy.bind is told."""

    name: str
    version: str
    script: str
    bind: dict[str, Any]
    place: str
    held: str


def python(package: str, code: str, host: str, place: str, held: str) -> User:
    """With an SDK of DIRECTORY, as it is when it is made: all it knows is in the environment."""
    run = "env PYTHONPATH=$d/py/new python3 -c"
    said = f"{run} 'import importlib.metadata as m; print(m.version(\"{package}\"))'"
    bind = {"secret": package, "hosts": [host]}
    return User(f"Python {package}", said, f"{run} '{code}'", bind, place, held)


ASKED = 'm = [{"role": "user", "content": "hi"}]\n'
NODE = (
    'const A = require("@anthropic-ai/sdk"), c = new (A.default || A)(), a = {model: "m",'
    ' max_tokens: 9, messages: [{role: "user", content: "hi"}]};'
    "(async () => { console.log((await c.messages.create(a)).content[0].text);"
    " for await (const e of c.messages.stream(a)) if (e.delta && e.delta.text)"
    " console.log(e.delta.text) })()"
)
GIT = "git -c user.name=x -c user.email=x@a.test"
USERS = (
    python(
        "anthropic",
        f"import anthropic\n{ASKED}c = anthropic.Anthropic()\n"
        'a = {"model": "m", "max_tokens": 9, "messages": m}\n'
        "print(c.messages.create(**a).content[0].text)\n"
        "with c.messages.stream(**a) as s:\n    print(*s.text_stream)\n",
        "api.anthropic.com",
        "`x-api-key`",
        "/v1/messages stream",
    ),
    python(
        "openai",
        f'import openai\n{ASKED}a = {{"model": "m", "messages": m}}\nc = openai.OpenAI()\n'
        "print(c.chat.completions.create(**a).choices[0].message.content)\n"
        "for e in c.chat.completions.create(**a, stream=True):\n"
        "    print(e.choices[0].delta.content)\n",
        "api.openai.com",
        "`Authorization: Bearer`",
        "/v1/chat/completions stream",
    ),
    User(
        "Node @anthropic-ai/sdk",
        'grep -o \'"version": *"[0-9.]*\' $d/js/sdk/node_modules/@anthropic-ai/sdk/package.json',
        f"env NODE_PATH=$d/js/sdk/node_modules $d/bin/node -e '{NODE}'",
        {"secret": "anthropic", "hosts": ["api.anthropic.com"]},
        "`x-api-key`",
        "/v1/messages stream",
    ),
    User(
        "git clone",
        "git --version",
        "git clone -q https://github.com/thing.git g && cat g/file",
        {"secret": "github"},
        "Basic",
        "POST /thing.git/git-upload-pack",
    ),
    User(
        "git push",
        "git --version",
        'url="https://oauth2:$GITLAB_TOKEN@gitlab.com/thing.git" && git clone -q "$url" g && cd g'
        f" && {GIT} commit -q --allow-empty -m more"
        " && git push -q origin HEAD:refs/heads/$RANDOM$RANDOM && cat file",
        {"secret": "gitlab"},
        "the placeholder, in Basic",
        "POST /thing.git/git-receive-pack",
    ),
    User(
        "npm",
        "npm --version",
        'echo "//npm.test/npm/:_authToken=\\${NPM_TOKEN}" >.npmrc && npm install'
        " --fetch-retries=0 --cache c --registry https://npm.test/npm/ thing"
        " && node -e 'require(\"thing\")'",
        {"secret": "npm", "hosts": ["npm.test"]},
        "`Authorization: Bearer`",
        "GET /npm/thing/thing-1.0.0.tgz",
    ),
    User(
        "pip",
        "python3 -m pip --version",
        "python3 -m pip install -q --retries 0 --no-cache-dir --disable-pip-version-check --target"
        ' t -i "https://__token__:$TWINE_PASSWORD@pypi.test/simple/" thing'
        " && PYTHONPATH=t python3 -m thing",
        {"secret": "pypi", "hosts": ["pypi.test"]},
        "Basic",
        "GET /simple/thing/thing-1.0-py3-none-any.whl",
    ),
)
URLLIB = User(
    "Python urllib",
    "python3 --version",
    'python3 -c "import os, urllib.request as u; k = os.environ[\\"API_KEY\\"]; r = u.Request('
    "\\\"https://api.openai.com/hello\\\", headers={'Authorization': 'Bearer ' + k});"
    ' print(u.urlopen(r).read())"',
    {
        "secret": "key",
        "hosts": ["api.openai.com"],
        "header": "Authorization: Bearer {}",
        "variable": "API_KEY",
    },
    "`Authorization: Bearer`",
    "GET /hello",
)
"""What every build host has: `make test` tries it."""
ECHO = User(
    "an origin that sends back what it got",
    "",
    "curl -sS --fail https://echo.test/hello",
    {"secret": "echo", "hosts": ["echo.test"], "header": "Authorization: Bearer {}"},
    "`Authorization: Bearer`",
    "GET /hello",
)
