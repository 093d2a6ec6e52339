"""The files of the wheel that belong somewhere else, and are not modules."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """A file of the wheel's ``serai/install`` that belongs somewhere else, and is not a module."""

    source: str
    target: str
    mode: int


FILES = (
    File("programs/serai", "usr/bin/serai", 0o755),
    File("programs/session-start", "usr/lib/serai/session-start", 0o755),
    File("programs/bridge", "usr/lib/serai/bridge", 0o755),
    File("programs/sessiond", "usr/lib/serai/sessiond", 0o755),
    File("programs/gate", "usr/lib/serai/gate", 0o755),
    File("programs/gate-key", "usr/lib/serai/gate-key", 0o755),
    File("programs/share", "usr/lib/serai/share", 0o755),
    File("programs/audit-syslog", "usr/lib/serai/audit-syslog", 0o755),
    File("programs/session-disk", "usr/lib/serai/session-disk", 0o755),
    File("programs/install", "usr/lib/serai/install", 0o755),
    File("units/serai.slice", "etc/systemd/system/serai.slice", 0o644),
    File("units/serai-session@.service", "etc/systemd/system/serai-session@.service", 0o644),
    File("units/serai-sessiond.service", "etc/systemd/system/serai-sessiond.service", 0o644),
    File("units/serai-gate.service", "etc/systemd/system/serai-gate.service", 0o644),
    File(
        "units/serai-audit-syslog.service", "etc/systemd/system/serai-audit-syslog.service", 0o644
    ),
    File("units/serai-metrics.socket", "etc/systemd/system/serai-metrics.socket", 0o644),
    File("units/serai-metrics@.service", "etc/systemd/system/serai-metrics@.service", 0o644),
    File("units/serai-vsock.socket", "etc/systemd/system/serai-vsock.socket", 0o644),
    File("units/serai-vsock@.service", "etc/systemd/system/serai-vsock@.service", 0o644),
    File("units/serai-share@.service", "etc/systemd/system/serai-share@.service", 0o644),
    *(
        File(f"units/{name}.service", f"etc/systemd/system/{name}.service", 0o644)
        for name in ("serai-session-disk", "serai-session-disk-grow")
    ),
    # Which of the two a VM has is decided when it is provisioned: the role session_disk.
    *(
        File(f"units/{kind}/sessions.mount", f"usr/lib/serai/{kind}/sessions.mount", 0o644)
        for kind in ("disk", "folder")
    ),
)
