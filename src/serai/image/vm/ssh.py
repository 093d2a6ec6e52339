"""OpenSSH into a guest, through a port on 127.0.0.1."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serai.image.errors import BuildError
from serai.image.run import last_lines, run, run_visibly

_NO_CONNECTION = 255  # ssh(1): its own errors; a remote command may end with it, too
_POLL = 0.5  # seconds between looks
_ATTEMPT = 20  # seconds for one connection; an emulated VM under load takes 5
_LOGIN = 60.0  # seconds for a whole login, pam_systemd's part of it included


@dataclass(frozen=True)
class Ssh:
    """A login at 127.0.0.1:``port`` as ``user`` with the private key ``key``.

    ``control`` is the path of the socket over which further commands share the first one's
    connection ('' is not to share): an emulated guest needs seconds for a key exchange. A Unix
    socket's path has to stay below 90 bytes, as ssh adds to it.
    """

    port: int
    user: str
    key: Path
    control: str = ""

    def options(self) -> list[str]:
        """ssh(1)'s options without the port, which ssh and scp spell differently."""
        pairs = {
            "IdentityFile": _quoted(self.key),
            "IdentitiesOnly": "yes",
            "BatchMode": "yes",
            "ConnectTimeout": str(_ATTEMPT),
            "ServerAliveInterval": "15",
            "ServerAliveCountMax": "8",
            # The guest makes its host keys at its first boot, so nobody can know them before, and
            # the other end of the port is our own QEMU. The first key is taken and kept beside the
            # throwaway key; the person's own known_hosts is never touched.
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": _quoted(self.key.with_name("known_hosts")),
            "GlobalKnownHostsFile": "/dev/null",
        }
        if self.control:
            pairs |= {
                "ControlMaster": "auto",
                "ControlPath": _quoted(self.control),
                "ControlPersist": "60",
            }
        # -F none: neither the person's nor the host's configuration has a say.
        return ["-F", "none", *(word for item in pairs.items() for word in ("-o", "=".join(item)))]

    def argv(self, *command: str) -> list[str]:
        """The command line that runs ``command`` there, or a shell for a person."""
        return ["ssh", *self.options(), "-p", str(self.port), self._target(), *command]

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        timeout: float | None = 300,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run ``command`` in the user's shell there; ``timeout`` is in seconds.

        Raises BuildError when it takes too long or (with ``check``) fails, with what it said.
        """
        done = run(self.argv("--", command), check=False, timeout=timeout, stdin=stdin)
        if check and done.returncode != 0:
            said = last_lines(done.stderr or done.stdout)
            if done.returncode == _NO_CONNECTION:
                raise BuildError(f"no ssh into the guest on port {self.port}: {said}")
            raise BuildError(f"in the guest, {command!r} ended with {done.returncode}: {said}")
        return done

    def stream(self, command: str) -> int:
        """Run ``command`` with our own stdout and stderr and no stdin; returns its status."""
        return run_visibly(["ssh", "-n", *self.argv("--", command)[1:]])

    def copy(self, paths: Path | Sequence[Path], target: str) -> None:
        """Copy files or folders into the folder ``target`` there; raises BuildError."""
        sources = [paths] if isinstance(paths, Path) else list(paths)
        for source in sources:
            if not source.exists():
                raise BuildError(f"there is no {source} to copy into the guest")
        # Absolute, because scp takes a colon in a relative name for a host's.
        absolute = [str(source.absolute()) for source in sources]
        ends = [*absolute, f"{self._target()}:{target}"]
        run(["scp", "-q", "-r", "-p", *self.options(), "-P", str(self.port), "--", *ends])

    def disconnect(self) -> None:
        """End the shared connection, if there is one."""
        if self.control:
            run(self.argv("-O", "exit"), check=False, timeout=_ATTEMPT)

    def wait_until_up(self, deadline: float, still_there: Callable[[], None] | None = None) -> None:
        """Wait until a login works. ``deadline`` is a time.monotonic() value.

        ``still_there`` is called now and then and raises when there is no use in waiting. Raises
        BuildError when the deadline passes.
        """
        said = "no answer"
        while time.monotonic() < deadline:
            if still_there is not None:
                still_there()
            # A look at the banner costs nothing; an ssh in vain costs the emulated guest seconds.
            if answers(self.port):
                try:
                    self.run("true", timeout=_LOGIN)
                    return
                except BuildError as error:  # a guest may hang up or fall silent as it comes up
                    said = error.message
            time.sleep(_POLL)
        raise BuildError(f"the guest did not let {self.user} in by ssh in time: {said}")

    def _target(self) -> str:
        return f"{self.user}@127.0.0.1"


def answers(port: int, timeout: float = 3) -> bool:
    """Whether an ssh server greets on 127.0.0.1:``port`` within ``timeout`` seconds.

    A connection alone says nothing: QEMU's user network accepts it before the guest does.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _quoted(path: Path | str) -> str:
    """A path as ssh_config(5) reads it: '%' starts a token, a blank would end the name."""
    return '"' + str(path).replace("%", "%%") + '"'
