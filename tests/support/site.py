"""What clients are tried with: a site with something for each, over http and https.

It has the name origin.test, which the gate finds by a DNS server in a network of its own. The
session ``free`` may go there, ``walled`` may not. The session ``bound`` may go to ended.test, whose
TLS the gate ends. Sessions can also run the site themselves.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from serai.gate.tls import certificates
from tests.support.fake_vm import Vm, opened
from tests.support.network import Names, dns, outside
from tests.support.waiting import wait_for

HELLO = "hello from the site"
PROGRAM = Path(__file__).parent / "peers/site.py"
ADDRESS = "11.0.0.2"
NAMES = ("origin.test", "denied.test", "ended.test")
OWN_PORT = 8123
STORE = (
    "keytool -importcert -noprompt -alias serai -file $NODE_EXTRA_CA_CERTS -keystore ca.p12"
    " -storepass changeit"
)
"""Makes ca.p12, as docs/clients.md says."""


@dataclass(frozen=True)
class Site:
    """``folder`` is seen in sessions too, at the same path: www, ca.pem, site.py and ca.p12."""

    vm: Vm
    folder: Path

    def run(self, session: str, script: str, *, timeout: float = 120) -> tuple[int, str]:
        """Run a shell script in an empty directory of a session; its status and all it wrote."""
        start = 'w=$(mktemp -d) && cd "$w" && eval "$1"; s=$?; cd && rm -rf "$w"; exit $s'
        argv = self.vm.command("exec", "--timeout", str(timeout), session, "--")
        done = subprocess.run(
            [*argv, "bash", "-c", start, "bash", script],
            env=self.vm.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return done.returncode, done.stdout.decode(errors="replace")

    def own(self, script: str, *, timeout: float = 120) -> tuple[int, str]:
        """The same in ``free``, beside a server of the session's own at OWN_PORT."""
        serve = f"python3 {self.folder}/site.py {self.folder}/www :: {OWN_PORT} | (read; cat) &"
        wait = f"until (: </dev/tcp/127.0.0.1/{OWN_PORT}) 2>/dev/null; do sleep 0.05; done"
        return self.run("free", f"{serve}\n{wait}\n{script}", timeout=timeout)


@contextmanager
def placed(names: Sequence[str]) -> Iterator[tuple[Path, int, Vm]]:
    """A folder with files and a certificate of these names, the process whose network they are in,
    and a VM whose gate finds and trusts them; its sessiond is still to be started."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="site-", dir="/srv")))
        folder.chmod(0o755)
        certify(folder, names)
        fill(folder / "www")
        pid, prefix = stack.enter_context(outside(folder))
        vm = stack.enter_context(opened(prefix, f'[tls]\nroots = "{folder}/ca.pem"\n'))
        wait_for(vm.paths.gate_control.exists)
        assert vm.gate is not None
        found = Names(dns(vm.gate.pid))
        stack.callback(found.close)
        found.answers.update({name: [[ADDRESS]] for name in names})
        yield folder, pid, vm


@contextmanager
def serving(visible: Sequence[str] = ()) -> Iterator[Site]:
    """The site, and a VM whose sessions see ``visible`` too."""
    with ExitStack() as stack:
        folder, pid, vm = stack.enter_context(placed(NAMES))
        (folder / "site.py").write_text(PROGRAM.read_text())
        for port, pem in ((80, []), (443, [str(folder / "site.pem")])):
            argv = [
                sys.executable,
                str(PROGRAM),
                str(folder / "www"),
                f"::ffff:{ADDRESS}",
                str(port),
            ]
            server = subprocess.Popen(
                ["/usr/bin/nsenter", "--target", str(pid), "--net", *argv, *pem],
                stdout=subprocess.PIPE,
            )
            stack.callback(server.wait)
            stack.callback(server.kill)
            assert server.stdout is not None
            assert server.stdout.readline() == b"serves\n"
        configure(vm, folder, visible)
        vm.start()
        for name in ("free", "walled", "bound"):
            vm.call("create", name=name)
        vm.call("policy.allow", name="free", rules=["origin.test"])
        vm.call("policy.allow", name="bound", rules=["ended.test GET,HEAD,POST"])
        yield Site(vm, folder)


def configure(vm: Vm, folder: Path, visible: Sequence[str]) -> None:
    ca = folder / "ca.pem"
    paths = ["/usr", "/etc", "/opt", str(folder), *visible]
    lines = [f"visible = {json.dumps(paths)}", "[environment]"]
    lines += [f'{name} = "{ca}"' for name in certificates.environment()]
    text = vm.paths.settings.read_text().partition("[limits]")
    vm.paths.settings.write_text(
        "\n".join([text[0] + lines[0], "[limits]" + text[2], *lines[1:]]) + "\n"
    )


def certify(folder: Path, names: Sequence[str]) -> None:
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "2"]
    for argv in (
        ["-subj", "/CN=Test CA", "-keyout", "ca.key", "-out", "ca.pem"],
        [
            *("-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=origin.test"),
            *("-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)),
            *("-addext", "basicConstraints=critical,CA:FALSE"),
            *("-keyout", "site.key", "-out", "site.crt"),
        ],
    ):
        subprocess.run(
            ["/usr/bin/openssl", "req", "-x509", *new, *argv],
            cwd=folder,
            check=True,
            capture_output=True,
        )
    if shutil.which("keytool"):
        store = ["-alias", "test", "-keystore", "ca.p12", "-storepass", "changeit"]
        argv = ["keytool", "-importcert", "-noprompt", "-file", "ca.pem", *store]
        subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    pem = (folder / "site.key").read_text() + (folder / "site.crt").read_text()
    (folder / "site.pem").write_text(pem)
    for name in ("site.pem", "site.key", "ca.key"):
        (folder / name).chmod(0o600)


def fill(www: Path) -> None:
    """A page, a repository, buckets, and a package for each of pip, npm, cargo, apt, JVM and Go."""
    www.mkdir()
    (www / "hello").write_text(f"{HELLO}\n")
    (www / "hello.json").write_text(json.dumps(HELLO))
    _repository(www)
    _wheel(www / "simple/thing")
    _npm(www / "npm/thing")
    _crate(www)
    _apt(www / "apt")
    _maven(www / "maven/thing/thing/1")
    _go(www / "go/origin.test/thing/@v")
    (www / "bucket").mkdir()
    (www / "bucket/hello").write_text(f"{HELLO}\n")
    (www / "storage/v1/b/thing").mkdir(parents=True)
    (www / "storage/v1/b/thing/index.json").write_text(json.dumps({"location": HELLO}))


def _repository(www: Path) -> None:
    work = www.parent / "work"
    script = (
        'git init -q "$1" && cd "$1" && cp "$2/hello" file && git add file && '
        "git -c user.name=o -c user.email=o@origin.test commit -qm first && "
        'git clone -q --bare . "$2/git/thing.git" && git -C "$2/git/thing.git" update-server-info'
    )
    subprocess.run(["/bin/sh", "-ec", script, "sh", work, www], check=True, capture_output=True)


def _wheel(folder: Path) -> None:
    folder.mkdir(parents=True)
    info, name = "thing-1.0.dist-info", "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr("thing.py", f"print('{HELLO}')\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    (folder / "index.html").write_text(f'<a href="{name}">{name}</a>\n')


def _npm(folder: Path) -> None:
    folder.mkdir(parents=True)
    manifest = {"name": "thing", "version": "1.0.0"}
    files = {"package.json": json.dumps(manifest), "index.js": f"console.log('{HELLO}')\n"}
    data = _tarball("package", files)
    (folder / "thing-1.0.0.tgz").write_bytes(data)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    dist = {"integrity": integrity, "tarball": "@SITE@/npm/thing/thing-1.0.0.tgz"}
    versions = {"1.0.0": {**manifest, "dist": dist}}
    index = {"name": "thing", "dist-tags": {"latest": "1.0.0"}, "versions": versions}
    (folder / "index.json").write_text(json.dumps(index))


def _crate(www: Path) -> None:
    index, crates = www / "crates/th/in", www / "crate"
    for folder in (index, crates):
        folder.mkdir(parents=True)
    files = {
        "Cargo.toml": '[package]\nname = "thing"\nversion = "1.0.0"\n',
        "src/lib.rs": f"// {HELLO}\n",
    }
    data = _tarball("thing-1.0.0", files)
    (crates / "thing").write_bytes(data)
    (www / "crates/config.json").write_text('{"dl": "@SITE@/crate/{crate}"}')
    entry = {"name": "thing", "vers": "1.0.0", "deps": [], "features": {}, "yanked": False}
    entry["cksum"] = hashlib.sha256(data).hexdigest()
    (index / "thing").write_text(json.dumps(entry) + "\n")


def _apt(folder: Path) -> None:
    folder.mkdir()
    text = f"Package: thing\nVersion: 1\nArchitecture: all\nDescription: {HELLO}\n"
    text += f"Filename: ./thing.deb\nSize: 1\nSHA256: {'0' * 64}\n"
    (folder / "Packages.gz").write_bytes(gzip.compress(text.encode()))


def _maven(folder: Path) -> None:
    """A parent for a project, and a file."""
    folder.mkdir(parents=True)
    names = "<groupId>thing</groupId><artifactId>thing</artifactId><version>1</version>"
    more = f"<packaging>pom</packaging><properties><hello>{HELLO}</hello></properties>"
    (folder / "thing-1.pom").write_text(
        f"<project><modelVersion>4.0.0</modelVersion>{names}{more}</project>\n"
    )
    (folder / "thing-1.txt").write_text(f"{HELLO}\n")


def _go(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "list").write_text("v1.0.0\n")
    (folder / "v1.0.0.info").write_text('{"Version": "v1.0.0"}')
    (folder / "v1.0.0.mod").write_text("module origin.test/thing\n")
    with zipfile.ZipFile(folder / "v1.0.0.zip", "w") as module:
        module.writestr("origin.test/thing@v1.0.0/go.mod", "module origin.test/thing\n")
        module.writestr("origin.test/thing@v1.0.0/thing.go", "package thing\n\nconst N = 42\n")


def _tarball(top: str, files: dict[str, str]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"{top}/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return written.getvalue()
