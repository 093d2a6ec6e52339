"""What ``verify`` knows of an image before it judges: the shapes of the facts.

``ProbeFacts`` is what ``probe`` prints in one boot, ``BootFacts`` what of it each boot must show
anew, ``ExerciseFacts`` what ``exercise`` prints, and
``Shipped`` what the bytes of the finished disk hold when nothing runs. Sizes are in bytes, times in
seconds since 1970 UTC.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from serai.image.definition.definition import Image


class _Facts(BaseModel):
    """Nothing is guessed: a key too many or too few means that probe and facts disagree."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Boot(_Facts):
    """systemd's view of the boot, once all its jobs have ended."""

    state: str
    multi_user: str
    failed: list[str]


class System(_Facts):
    """Distribution, kernel, clock, swap and what the root file system holds.

    ``image`` and ``version`` are what os-release(5) says of the image.
    """

    distribution: str
    release: str
    image: str
    version: str
    machine: str
    kernel: str
    now: float
    timezone: str
    swaps: list[str]
    packages: int
    root_bytes: int
    root_used: int


class Identity(_Facts):
    """What must differ from VM to VM; ``host_keys`` are digests by kind of key."""

    machine_id: str
    host_keys: dict[str, str]
    hostname: str
    hostname_file: str
    address: str  # what the own name resolves to


class Apt(_Facts):
    """``sources`` are sites, suites and components that apt would fetch lists of.

    ``usual`` are the hosts of the distribution's own servers.
    """

    codename: str
    sources: list[str]
    usual: list[str]


class Partition(_Facts):
    """``type`` is the GUID of the GPT entry."""

    number: int
    start: int
    bytes: int
    fstype: str
    type: str


class Disk(_Facts):
    """A whole disk; ``table`` is 'gpt', 'dos' or ''."""

    name: str
    bytes: int
    table: str
    fstype: str
    partitions: list[Partition]


class Ext4(_Facts):
    """From the superblock: ``made`` is when it was formatted."""

    bytes: int
    made: int
    uuid: str
    label: str


class MountFacts(_Facts):
    """A mounted file system; ``partition`` is 0 where it fills ``disk`` itself."""

    device: str
    disk: str
    partition: int
    device_bytes: int
    fstype: str
    source: str
    options: list[str]
    mode: int
    owner: str  # uid:gid
    ext4: Ext4 | None


class Sessions(_Facts):
    """``mark`` is what verify wrote there, ``journal`` the lines of this boot that speak of it."""

    mount: MountFacts | None
    mark: str
    journal: list[str]


class Accounts(_Facts):
    """``authorized_keys`` are the keys by file; ``passwords`` the accounts one can log in to."""

    people: list[str]
    authorized_keys: dict[str, list[str]]
    passwords: list[str]


class Login(_Facts):
    """What an ordinary user's login gets; ``limits`` by name, as bash's ulimit tells them."""

    limits: dict[str, str]
    locale: str


class Bwrap(_Facts):
    """bubblewrap, run as the user ``uid`` without rights; ``mode`` is its file's, 0 if absent."""

    status: int
    output: str
    uid: int
    version: str
    mode: int
    capabilities: bool


class Socat(_Facts):
    """socat carrying one line."""

    status: int
    output: str
    version: str


class BootFacts(_Facts):
    """What may differ from boot to boot. ``took`` is seconds by part."""

    boot: Boot
    identity: Identity
    root: MountFacts
    sessions: Sessions
    took: dict[str, float]


class ProbeFacts(BootFacts):
    """All that ``probe`` prints.

    ``listening`` are protocol and address of sockets that can be reached from outside.
    """

    system: System
    apt: Apt
    listening: list[str]
    disks: list[Disk]
    accounts: Accounts
    journal_boots: int
    login: Login
    bwrap: Bwrap
    socat: Socat


class ObservedBoot(_Facts):
    """One boot: what it tells from within, and the seconds from power-on to ssh."""

    facts: BootFacts
    seconds: float


class FirstBoot(ObservedBoot):
    """The boot of which all is asked, as seen from both sides.

    ``clock`` is the build host's time when the facts were gathered, ``key`` the public key that
    the seed brought.
    """

    facts: ProbeFacts
    clock: float
    key: str


class Shipped(_Facts):
    """The finished disk at rest: paths of files that hold something, and two files' contents."""

    machine_id: str
    dbus_machine_id: str
    host_keys: list[str]
    logs: list[str]
    homes: list[str]
    apt: list[str]
    cloud_init: list[str]
    temporary: list[str]
    random_seeds: list[str]
    mentions: list[str]  # files that name the user that the build logs in as
    sudoers: list[str]


class Digests(_Facts):
    """SHA-256 of the shipped file: promised in SHA256SUMS, before and after all boots."""

    promised: str
    before: str
    after: str


class ExerciseFacts(_Facts):
    """What ``exercise`` prints: a session that misbehaves and one that looks on.

    ``versions`` are those of the tools that a session finds, by the tool's command. ``busy_usec``
    and ``frozen_usec`` are microseconds of CPU within a second, ``attached`` and ``thawed`` are
    seconds. ``light_usec`` and ``heavy_usec`` are the CPU time of the misbehaving one, made light,
    and of the other one while both wanted all of it, and ``busy_seconds`` is how long the answers
    took meanwhile. ``hog`` is a status as a shell gives it, -1 if the session ended with it.
    ``bomb_refused`` counts forks that the limit refused.
    """

    versions: dict[str, str]
    uninvited: list[str]  # commands that are in no profile, and yet there
    documents: list[str]  # what is read in documents that went through all tools
    compiled: str  # what a program in C prints that was compiled in the session
    quota: int  # bytes that `show` says the misbehaving one may use; 0 where none is kept
    full: str  # what writing more than that fails with
    while_full: str  # what the other one reads of what it wrote meanwhile
    attached: float
    mount: str  # how the folder is attached
    inside_owners: list[str]  # of a file that was in the folder, and of one made in the session
    outside_owner: int
    busy_usec: int
    frozen: str
    frozen_usec: int
    thawed: float
    light_usec: int
    heavy_usec: int
    busy_answer: str
    busy_sessions: list[str]  # those that the daemon told of
    busy_seconds: float
    hog: int
    hog_told: bool  # its caller was told that memory was the reason
    hog_spared: bool  # what ran beside it in its session went on
    after_hog: str
    bomb_refused: int
    after_bomb: str
    processes_left: int
    sessions_left: list[str]
    doctor_passed: int
    doctor_failed: list[str]  # "CHECK: why"
    same_daemon: bool


class Foreign(_Facts):
    """SHA-256 of the second disk that held something else, before and after the boot."""

    before: str
    after: str


class Ran(_Facts):
    """What a command of a project's own did; ``output`` has both streams."""

    status: int
    output: str


class Evidence(_Facts):
    """All that is judged. A part that could not be gathered is the reason why, as text.

    ``first`` is a fresh overlay with a blank second disk, ``second`` the same after a reboot,
    ``foreign`` another fresh overlay on the other bus whose second disk holds something else, and
    ``alone`` a VM without a second disk.
    """

    image: Image
    promised: dict[str, str]  # by tool, what its version begins with
    first: FirstBoot | str
    second: ObservedBoot | str
    foreign: ObservedBoot | str
    alone: ObservedBoot | str
    exercise: ExerciseFacts | str
    own: list[Ran] | str  # of the image's own checks, in their order
    shipped: Shipped | str
    digests: Digests | str
    foreign_disk: Foreign | str
