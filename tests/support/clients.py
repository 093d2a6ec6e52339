"""Clients, each with a command that prints HELLO from a site, and the table of what they do.

``python -m tests.support.clients DIRECTORY [NAME …]`` tries all, or those named, in sessions and
writes their rows of docs/clients.md; `invoke clients` installs them in DIRECTORY before. A command
has ``$site``, as http://host:port, ``$d``, DIRECTORY, and ``$trust``, what the client has to be
told to trust certificates; ``$store`` is a trust store of Java's.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support import site, table
from tests.support.site import HELLO, OWN_PORT, Site

OWN = ("localhost", "127.0.0.1", "127.0.1.1", "0.0.0.0", "serai", "[::1]")  # noqa: S104 - asked
PAGE = Path(__file__).resolve().parents[2] / "docs/clients.md"
DENIED = "Serai's gate denied"
FETCH = "fetch(process.argv[1]).then((a) => a.text()).then(console.log)"
AXIOS = "require('axios').get(process.argv[1]).then((a) => console.log(a.data))"
JVM = (
    "-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=3128 -Dhttps.proxyHost=127.0.0.1"
    " -Dhttps.proxyPort=3128 '-Dhttp.nonProxyHosts=localhost|127.*|0.0.0.0|[::1]|serai'"
)
STORE = "-Djavax.net.ssl.trustStore=$store -Djavax.net.ssl.trustStorePassword=changeit"
MAVEN = "mvn -B $trust -f $d/jvm/pom.xml -s $d/jvm/settings.xml -Dsite=$site"
MAVEN += " -Dmaven.repo.local=$PWD/r validate"
# It starts a JVM of its own for what the first one lacks: a size, and other certificates.
GRADLE = 'env GRADLE_OPTS="$trust" gradle -q --no-daemon -Dorg.gradle.jvmargs= -g $PWD/g'
GRADLE += " --project-cache-dir $PWD/c -b $d/jvm/build.gradle -Psite=$site show"


@dataclass(frozen=True)
class Client:
    """A client. ``version`` is a command; ``needs`` are the settings that are in ``command``.

    ``trust`` are those for certificates, if the variables that sessions have do not do.
    """

    name: str
    command: str
    version: str
    needs: str = ""
    trust: str = ""


def python(name: str, code: str, where: str = "new", needs: str = "") -> Client:
    """Code that prints what it gets from ``url``, with a package of DIRECTORY."""
    start = f"import sys; url = sys.argv[1] + '/hello'; {code}"
    module = re.sub(r"\W.*", "", name.removeprefix("Python "))
    path = f"env PYTHONPATH=$d/py/{where} python3 -c"
    said = f"{path} 'import importlib.metadata as m; print(m.version(\"{module}\"))'"
    return Client(name, f'{path} "{start}" $site', said, needs)


def node(name: str, code: str, where: str = "new", needs: str = "", program: str = "") -> Client:
    """Code for node, with a package of DIRECTORY."""
    run = f"env NODE_PATH=$d/js/{where}/node_modules {program or '$d/bin/node'}"
    package = re.sub(r"\W.*", "", name.removeprefix("Node "))
    said = f"{run} -p 'require(\"{package}/package.json\").version'"
    if package == "fetch":
        said = f"{run} --version"
    return Client(name, f'{run} -e "{code}" $site/hello', said, needs)


INSTALLED = (
    Client("curl", "curl -sS --fail-with-body $site/hello", "curl --version"),
    Client(
        "wget",
        "wget -nv $trust -O- $site/hello",
        "wget --version",
        trust="--ca-certificate=$SSL_CERT_FILE",
    ),
    Client("git", "git clone -q $site/git/thing.git g && cat g/file", "git --version"),
    Client(
        "pip",
        "python3 -m pip install --retries 1 --no-cache-dir --disable-pip-version-check"
        " --trusted-host origin.test --trusted-host serai --trusted-host 0.0.0.0"
        " --target t -i $site/simple/ thing && PYTHONPATH=t python3 -m thing",
        "python3 -m pip --version",
    ),
    Client(
        "Python urllib",
        'python3 -c "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read())"'
        " $site/hello",
        "python3 --version",
    ),
)
"""Those that every build host has: `make test` tries them."""

MORE = (
    Client(
        "uv",
        "$d/bin/uv pip install -q --no-cache --target t --index-url $site/simple/ thing"
        " && PYTHONPATH=t python3 -m thing",
        "$d/bin/uv --version",
    ),
    python("Python requests", "import requests as r; print(r.get(url).text)"),
    python("Python httpx", "import httpx; print(httpx.get(url).text)"),
    python("Python httpx of Debian 12", "import httpx; print(httpx.get(url).text)", "httpx-0.23"),
    python(
        "Python anthropic",
        "import anthropic as a; print(a.Anthropic(api_key='x')._client.get(url).text)",
    ),
    python(
        "Python openai", "import openai as o; print(o.OpenAI(api_key='x')._client.get(url).text)"
    ),
    python("Python urllib3", "import urllib3; print(urllib3.request('GET', url, retries=0).data)"),
    python(
        "Python urllib3, told",
        "import os, urllib3 as u;"
        "print(u.ProxyManager(os.environ['HTTPS_PROXY']).request('GET', url, retries=0).data)",
        needs="`ProxyManager(os.environ['HTTPS_PROXY'])`",
    ),
    *(
        python(
            f"Python aiohttp{', told' if trust else ''}",
            "import aiohttp, asyncio\n"
            "async def main():\n"
            f"    async with aiohttp.ClientSession(trust_env={trust}) as s, s.get(url) as r:\n"
            "        print(await r.text())\n"
            "asyncio.run(main())",
            needs="`ClientSession(trust_env=True)`" if trust else "",
        )
        for trust in (False, True)
    ),
    Client(
        "npm",
        "npm install --fetch-retries=0 --cache c"
        " --registry $site/npm/ thing"
        " && node -e 'require(\"thing\")'",
        "npm --version",
    ),
    Client(
        "pnpm",
        "npm_config_fetch_retries=0 $d/bin/pnpm add --store-dir s --registry $site/npm/ thing"
        " && node -e 'require(\"thing\")'",
        "$d/bin/pnpm --version",
    ),
    Client(
        "yarn",
        "$d/bin/yarn add --non-interactive --cache-folder c"
        " --registry $site/npm/ thing"
        " && node -e 'require(\"thing\")'",
        "$d/bin/yarn --version",
    ),
    node("Node fetch", FETCH),
    node("Node fetch before 22.21", FETCH, program="/usr/bin/node"),
    node(
        "Node undici",
        "const u = require('undici'); u.setGlobalDispatcher(new u.EnvHttpProxyAgent());"
        " u.fetch(process.argv[1]).then((a) => a.text()).then(console.log)",
        needs="`setGlobalDispatcher(new EnvHttpProxyAgent())`",
    ),
    node("Node axios", AXIOS),
    node("Node axios 1.7", AXIOS, "old"),
    node(
        "Node axios 1.7, told",
        "const { HttpsProxyAgent } = require('https-proxy-agent');"
        "const agent = new HttpsProxyAgent(process.env.HTTPS_PROXY);"
        f"{AXIOS.replace('.get(process.argv[1])', '.get(process.argv[1], SETTINGS)')}".replace(
            "SETTINGS", "{ proxy: false, httpAgent: agent, httpsAgent: agent }"
        ),
        "old",
        "`proxy: false`, and https-proxy-agent as `httpAgent` and `httpsAgent`",
    ),
    node(
        "Node got",
        "import('$d/js/new/node_modules/got/dist/source/index.js')"
        ".then((g) => g.default(process.argv[1]).text()).then(console.log)",
    ),
    Client(
        "deno",
        "$d/bin/deno eval \"console.log(await (await fetch('$site/hello')).text())\"",
        "$d/bin/deno --version",
    ),
    Client(
        "bun",
        "$d/bin/bun -e \"console.log(await (await fetch('$site/hello')).text())\"",
        "$d/bin/bun --version",
    ),
    Client("Go net/http", "$d/bin/gohello $site/hello", "$d/bin/gohello"),
    *(
        Client(
            f"JVM URL and HttpClient{', told' if told else ''}",
            f"java $trust {JVM if told else ''} $d/Fetch.java $site/hello",
            "java --version",
            "`-Dhttp.proxyHost` and so on, see below" if told else "",
            STORE,
        )
        for told in (False, True)
    ),
    *(
        Client(
            f"{name}{', told' if told else ''}",
            f"{command} {JVM if told else ''}",
            f"{program} --version 2>/dev/null",  # the JVM's own goes there
            "the same" if told else "",
            STORE,
        )
        for name, program, command in (("Maven", "mvn", MAVEN), ("Gradle", "gradle", GRADLE))
        for told in (False, True)
    ),
    Client(
        "cargo",
        'mkdir -p p/src .cargo && cd p && touch src/lib.rs && printf "[package]\\nname = \\"p\\"\\n'
        'version = \\"0.1.0\\"\\n[dependencies]\\n'
        'thing = { version = \\"1\\", registry = \\"x\\" }\\n"'
        " >Cargo.toml && export CARGO_HOME=$PWD/h CARGO_NET_RETRY=0"
        " CARGO_REGISTRIES_X_INDEX=sparse+$site/crates/"
        " && PATH=$d/rust/bin:$PATH cargo fetch && cat h/registry/src/*/thing-1.0.0/src/lib.rs",
        "$d/rust/bin/cargo --version",
    ),
    Client(
        "apt",
        'mkdir -p s/lists/partial c/archives/partial && echo "deb [trusted=yes] $site/apt ./" >l'
        " && o='-o Dir::State=s -o Dir::Cache=c -o Debug::NoLocking=1"
        " -o Dir::Etc::SourceParts=/none -o Acquire::Retries=0 -o APT::Sandbox::User='"
        ' && o="$o $trust -o Dir=$PWD -o Dir::Etc::SourceList=$PWD/l" && apt-get $o update'
        " && apt-cache $o show thing",
        "apt --version",
        trust="-o Acquire::https::CaInfo=$SSL_CERT_FILE",
    ),
    Client("gh", "GH_TOKEN=x $d/bin/gh api $site/hello.json", "$d/bin/gh --version"),
    Client(
        "aws",
        "env PYTHONPATH=$d/py/aws AWS_ACCESS_KEY_ID=x AWS_SECRET_ACCESS_KEY=x AWS_MAX_ATTEMPTS=1"
        " AWS_DEFAULT_REGION=x python3 -m awscli s3 cp --endpoint-url $site s3://bucket/hello -",
        "env PYTHONPATH=$d/py/aws python3 -m awscli --version",
    ),
    Client(
        "gcloud",
        "env CLOUDSDK_CONFIG=$PWD/c CLOUDSDK_CORE_DISABLE_PROMPTS=1"
        " CLOUDSDK_AUTH_DISABLE_CREDENTIALS=1"
        " CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE=$site/storage/v1/"
        " gcloud storage buckets describe gs://thing --raw --format='value(location)'",
        "gcloud --version",
    ),
)


@dataclass(frozen=True)
class Row:
    """What a client did: the answers to what was asked of it, "" for HELLO.

    ``told``: it had to be told of the certificates for ``ended``.
    """

    client: Client
    version: str
    http: str
    https: str
    ended: str
    own: dict[str, str]
    denied: str
    told: bool = False


def tried(where: Site, client: Client, directory: str = "", hosts: Sequence[str] = OWN) -> Row:
    """Try one client at everything; at ``hosts`` is the session's own server."""

    def with_store(path: str) -> str:
        return f'd={directory}; store={path}; trust="{client.trust}"; '

    start = with_store(f"{where.folder}/ca.p12")

    def free(scheme: str) -> str:
        return answer(*where.run("free", f"{start}site={scheme}://origin.test; {client.command}"))

    def ended(start: str) -> str:
        return answer(*where.run("bound", f"{start}site=https://ended.test; {client.command}"))

    untold = ended(f"{start}trust=; ")
    own_store = f"{site.STORE} && " if "$store" in client.trust else ""
    told = untold != "" and client.trust != ""
    command = f'{start}for h in {" ".join(hosts)}; do echo "=@=$h=@="; site=http://$h:{OWN_PORT}; '
    command += f"rm -rf o; mkdir o; (cd o; {client.command}); done"
    _, said = where.own(command, timeout=300)
    parts = said.split("=@=")
    own = {host: answer(0, parts[parts.index(host) + 1]) for host in hosts}
    _, denied = where.run("walled", f"{start}site=https://origin.test; {client.command}")
    _, version = where.run("free", f"{start}{client.version}")
    number = re.search(r"\d+(\.\d+)+", version)
    return Row(
        client,
        number[0] if number else "",
        free("http"),
        free("https"),
        ended(own_store + with_store("$PWD/ca.p12")) if told else untold,
        own,
        denied,
        told,
    )


def answer(status: int, said: str) -> str:
    """Nothing if a client got through, or the last of what it said."""
    if status == 0 and HELLO in said:
        return ""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else f"status {status}"


def shown(denied: str) -> str:
    """How much of a denial a client shows."""
    if HELLO in denied:
        return "**nothing: it got through**"
    if "serai policy allow" in denied:
        return "all of it"
    if DENIED in denied:
        return "the first line"
    return "403" if "403" in denied else "nothing of it"


def cells(row: Row) -> Iterator[str]:
    yield f"{row.client.name} {row.version}".strip()
    yield row.client.needs or "none"
    yield "no" if row.http else "yes"
    yield "no" if row.https else "yes"
    yield "no" if row.ended else "yes, told" if row.told else "yes"
    missing = [f"`{host}`" for host, said in row.own.items() if said]
    yield (
        "no" if len(missing) == len(OWN) else "yes, but " + ", ".join(missing) if missing else "yes"
    )
    yield shown(row.denied)


def main(directory: str, *names: str) -> int:
    """Try all, or those of these names, and write the table into the page."""
    clients, rows = (*INSTALLED, *MORE), {}
    with site.serving([directory]) as where:
        for client in clients:
            if not names or client.name in names:
                row = tried(where, client, directory)
                rows[client.name] = f"| {' | '.join(cells(row))} |"
                said = {"http": row.http, "https": row.https, "ended": row.ended, **row.own}
                print(rows[client.name], said, flush=True)
    start = "<!-- The table: `invoke clients` writes it. -->\n"
    head = (
        "| client | settings it needs | http | https | ended | own server | shows of a denial |\n"
    )
    head += "|---|---|---|---|---|---|---|\n"
    table.write(PAGE, start, head, rows, [each.name for each in clients])
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
