"""The programs that are tried through the gate."""

from __future__ import annotations

from dataclasses import dataclass

THERE = "/opt/peers"
HELLO = "hello from the origin"


@dataclass(frozen=True)
class Client:
    """A client's command, what it prints when it got through, and when it did not."""

    name: str
    command: str
    port: int = 443
    host: str = "origin.test"
    prints: str = HELLO
    denied: str = "Serai's gate denied"


JAVA = "java -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=3128 -Dhttps.proxyHost=127.0.0.1"
JAVA += f" -Dhttps.proxyPort=3128 -Djavax.net.ssl.trustStore={THERE}/ca.p12"
JAVA += f" -Djavax.net.ssl.trustStorePassword=changeit {THERE}/Fetch.java"
ECHO = {"host": "echo.test", "prints": "there and back"}
CONNECT_FAILED = "CONNECT tunnel failed, response 403"
CLIENTS = [
    Client("curl http", "curl -sSf http://origin.test/hello", 80, denied="error: 403"),
    Client("curl https", "curl -sS https://origin.test/hello", denied=CONNECT_FAILED),
    Client(
        "curl socks5h",
        "curl -sSf --proxy socks5h://127.0.0.1:1080 https://origin.test/hello",
        denied="SOCKS5 connection to origin.test. (2)",
    ),
    Client("wget http", "wget -nv -O- http://origin.test/hello", 80),
    Client("wget https", f"wget -nv --ca-certificate={THERE}/ca.pem -O- https://origin.test/hello"),
    Client(
        "git over https",
        "git clone -q https://origin.test/git/thing.git secure && cat secure/file",
        prints="kept",
        denied=CONNECT_FAILED,
    ),
    Client(
        "git over http, pushing what is chunked",
        """
        git clone -q http://git.test/git/thing.git plain && cd plain
        head -c 3000000 /dev/urandom >more && git add more
        git -c user.name=me -c user.email=me@git.test commit -qm more
        git -c http.postBuffer=65536 push -q origin HEAD:more && git ls-remote origin more
        """,
        80,
        host="git.test",
        prints="refs/heads/more",
    ),
    Client(
        "git over ssh",
        "git clone -q git@git.test:/srv/git/thing.git ssh && cat ssh/file",
        22,
        host="git.test",
        prints="kept",
    ),
    Client(
        "pip",
        "pip install --retries 1 --disable-pip-version-check --target site"
        " --index-url https://origin.test/simple/ thing && PYTHONPATH=site python3 -m thing",
        prints="a thing of python",
    ),
    Client(
        "npm",
        "mkdir app && cd app && npm install --fetch-retries=0 --no-update-notifier"
        " --registry https://origin.test/npm/ thing && node -e 'require(\"thing\")'",
        prints="a thing of node",
    ),
    Client("requests http", f"python3 {THERE}/fetch.py requests http://origin.test/hello", 80),
    Client("requests https", f"python3 {THERE}/fetch.py requests https://origin.test/hello"),
    Client(
        "urllib http",
        f"python3 {THERE}/fetch.py urllib http://origin.test/hello",
        80,
        denied="HTTP Error 403",
    ),
    Client("urllib https", f"python3 {THERE}/fetch.py urllib https://origin.test/hello"),
    # undici 5 says no more than this when a tunnel is refused.
    Client("node fetch", f"node {THERE}/fetch.cjs https://origin.test/hello", denied="cancelled"),
    Client("node https", f"node {THERE}/tunnel.cjs https://origin.test/hello"),
    Client("ws by CONNECT", f"{THERE}/websocket.py tunnel ws://echo.test:8080/", 8080, **ECHO),
    Client("wss by CONNECT", f"{THERE}/websocket.py tunnel wss://echo.test:8443/", 8443, **ECHO),
    Client("ws by Upgrade", f"{THERE}/websocket.py upgrade ws://echo.test:8080/", 8080, **ECHO),
    Client("JVM http", f"{JAVA} http://origin.test/hello", 80, denied="response code: 403"),
    Client("JVM https", f"{JAVA} https://origin.test/hello"),
]
