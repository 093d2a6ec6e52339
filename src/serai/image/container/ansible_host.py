"""A container that Ansible logs in to, as it logs in to a VM."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from serai.image import ansible, ports
from serai.image.build.playbook import BUILD_USER
from serai.image.container.container import DEADLINE, Container, booted
from serai.image.errors import BuildError
from serai.image.run import Argument, last_lines, run, search_path
from serai.image.vm import seed

PLAYBOOK = Path("playbooks/image.yml")


class AnsibleHost:
    """A root directory that is changed by booting it: ssh on a port of 127.0.0.1, and Ansible."""

    def __init__(self, root: Path, work: Path, checkout: Path) -> None:
        self.root, self.work, self.checkout = root, work, checkout
        (self.port,) = ports.unused(1)
        self.key = seed.new_key(work)
        self.console = work / "console.log"

    @property
    def _sshd(self) -> Path:
        return self.root / "etc/ssh/sshd_config.d/machine.conf"

    def prepare(self) -> None:
        """Let the build user in."""
        self._sshd.write_text(f"Port {self.port}\nListenAddress 127.0.0.1\n")
        self.allow(BUILD_USER, self.root / "home" / BUILD_USER)

    def allow(self, user: str, home: Path) -> None:
        """Let ``user`` in, whose home is ``home``."""
        login = home / ".ssh"
        login.mkdir(mode=0o700, exist_ok=True)
        (login / "authorized_keys").write_text(self.key.public + "\n")
        run(["chroot", self.root, "chown", "-R", f"{user}:", f"/{login.relative_to(self.root)}"])

    def forget(self) -> None:
        """Take away what ``prepare`` put there."""
        self._sshd.unlink()
        shutil.rmtree(self.root / "home" / BUILD_USER / ".ssh")

    @contextmanager
    def booted(
        self, user: str = BUILD_USER, *, settled: bool = True, sessions: bool = False
    ) -> Iterator[Container]:
        """The container runs, and ``user`` can log in; see ``container.booted``."""
        options = {"keep_changes": True, "sessions": sessions, "settled": settled}
        with booted(self.root, self.work, **options) as container:
            deadline = time.monotonic() + DEADLINE
            while (said := self.ssh(user, "true", check=False)).returncode != 0:
                if container.process.poll() is not None or time.monotonic() > deadline:
                    raise BuildError(f"nobody can log in: {said.stderr}", log=self.console)
                time.sleep(0.2)
            yield container

    def ssh(
        self, user: str, command: str, *, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command over ssh."""
        argv = ["ssh", *self._options(), "-p", str(self.port), f"{user}@127.0.0.1", command]
        return run(argv, check=check, timeout=DEADLINE)

    def play(
        self, *arguments: str, playbook: Path = PLAYBOOK, variables: Mapping[str, str] | None = None
    ) -> dict[str, int]:
        """Run the playbook; the sums of its recap. Raises BuildError if a task fails.

        ``variables`` are added to what Ansible finds in its environment.
        """
        inventory = self.work / "inventory"
        inventory.write_text(
            f"guest ansible_host=127.0.0.1 ansible_port={self.port} ansible_user={BUILD_USER} "
            f"ansible_ssh_common_args='{' '.join(self._options())}'\n"
        )
        argv: list[Argument] = [
            "ansible-playbook",
            "--inventory",
            inventory,
            self.checkout / playbook,
            *arguments,
        ]
        environment = {**ansible.build_environment(self.checkout), "PATH": search_path()}
        environment |= variables or {}
        done = run(argv, env=environment, check=False)
        recap = re.search(r"^guest +: (.*)$", done.stdout, re.MULTILINE)
        if done.returncode != 0 or not recap:
            raise BuildError(f"the playbook failed: {last_lines(done.stdout + done.stderr, 12)}")
        return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", recap[1])}

    def _options(self) -> list[str]:
        settings = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"]
        settings += ["IdentitiesOnly=yes", "ConnectTimeout=60", "LogLevel=ERROR", "BatchMode=yes"]
        words = (word for setting in settings for word in ("-o", setting))
        return ["-i", str(self.key.private), *words]
