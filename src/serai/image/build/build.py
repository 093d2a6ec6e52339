"""The build of an image, as a recipe: stage after stage, then a folder, whole or not at all."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from serai.common import files
from serai.image import cache, console, digest, layout, offline, sign
from serai.image.build import (
    age,
    base_bootstrap,
    base_cloudimage,
    builds,
    layer,
    plan,
    playbook,
    remote,
)
from serai.image.build.packer_build import LayerBuild
from serai.image.build.plan import Plan, Stage
from serai.image.definition import definition
from serai.image.errors import BuildError
from serai.image.progress import Note, TaskTiming
from serai.image.run import run
from serai.image.settings import Settings
from serai.image.vm import accelerator

# What a build may need at its peak: a bootstrapped root, its raw disk, and two compressed ones.
_HEADROOM_GIB = 6

_BASES: dict[str, Callable[..., None]] = {
    "bootstrap": base_bootstrap.make,
    "cloud-image": base_cloudimage.make,
}


def build(
    settings: Settings,
    name: str,
    *,
    overrides: tuple[str, ...] = (),
    keep: bool = False,
    fresh: bool = False,
) -> Path:
    """Build the image ``name`` and return its folder below ``dist/``, which is the latest then.

    Stages whose key is in the cache are not built again; an image that is there already is left
    alone, unless its base is too old. With ``keep``, a VM in which a layer failed stays up to
    be looked into; with ``fresh``, all is built again, from the base on.

    Raises BuildError; nothing half-made stays behind then, nor after Ctrl-C.
    """
    image = definition.load(settings, name, overrides)
    with ExitStack() as stack:
        stack.enter_context(cache.locked(settings.cache / "builds" / f".{image.name}.lock"))
        made = plan.make(settings, image, fresh=fresh)
        if made.folder.exists() and not _refusal(made) and _is_defined_as(made):
            console.say(f"{name} {made.version} is built already, nothing has changed")
            _point(made)
            return made.folder
        shared = remote.of(settings)
        _require_room(settings)
        started = datetime.now(timezone.utc)
        previous: Path | None = None
        for stages in _runs(made.stages):
            _ensure(settings, image, stages, previous, shared, keep=keep)
            previous = stages[-1].disk
        with console.step("publish"):
            _publish(settings, made, started)
    return made.folder


def base(settings: Settings, image: definition.Image) -> Path:
    """The disk that a build of ``image`` starts from; raises BuildError if it is not there."""
    stage = plan.make(settings, image).stages[0]
    if not stage.cached:
        raise BuildError(
            f"the base of {image.name} is not in the cache",
            hint=f"run 'invoke build-image --image {image.name}'",
        )
    return stage.disk


def _runs(stages: Sequence[Stage]) -> Iterator[Sequence[Stage]]:
    """The stages, in the order in which they are made: what one run of a VM makes, together.

    Booting costs more than most roles do. Two layers are the most that packer/image.pkr.hcl takes.
    """
    yield stages[:1]
    layers = list(stages[1:])
    while layers:
        count = 2 if not any(stage.cached for stage in layers[:2]) else 1
        yield layers[:count]
        del layers[:count]


def _ensure(
    settings: Settings,
    image: definition.Image,
    stages: Sequence[Stage],
    previous: Path | None,
    shared: remote.SharedCache | None,
    *,
    keep: bool,
) -> None:
    """Have the results of ``stages`` in the cache, marked as what the image needs."""
    with ExitStack() as stack:
        missing: list[Stage] = []
        for stage in stages:
            cache.sweep(stage.folder.parent)
            stack.enter_context(cache.making(stage.folder))
            if not _is_there(image, stage, previous, shared):
                missing.append(stage)
            elif not missing:
                previous = stage.disk
        if previous is None:
            _make_base(settings, image, missing[0])
        elif missing:
            _make_layers(settings, image, missing, previous, keep=keep)
        for stage in stages:
            if shared:
                shared.offer(image, stage, built=stage in missing)
            cache.use(stage.folder, image.name)
    for stage in stages:
        cache.prune(stage.folder.parent, keep=2)


def _is_there(
    image: definition.Image,
    stage: Stage,
    previous: Path | None,
    shared: remote.SharedCache | None,
) -> bool:
    """Whether the cache has the result of ``stage`` now, if need be from the shared one."""
    # Since the plan another image's build may have made it, or removed it as too old.
    if stage.is_there(previous):
        console.say(f"✓ {stage.name} (cached {stage.key[:8]})")
        return True
    return shared is not None and shared.fetch(image, stage, previous)


def _make_base(settings: Settings, image: definition.Image, stage: Stage) -> None:
    log, begin = _new_log(settings, image, stage), time.monotonic()
    made = datetime.now(timezone.utc)
    with console.step(_title(stage)), cache.whole(stage.folder, replace=True) as folder:
        _BASES[image.base.kind](image, settings, folder / plan.DISK, log=log)
        _record(stage, folder, log, base_made=made, seconds=time.monotonic() - begin)


def _make_layers(
    settings: Settings,
    image: definition.Image,
    stages: Sequence[Stage],
    previous: Path,
    *,
    keep: bool,
) -> None:
    """Make the layers in one run of a VM; each is in the cache before the next one fails."""
    layers = [
        LayerBuild(each.name, each.chosen, _new_log(settings, image, each)) for each in stages
    ]
    left, began = list(stages), time.monotonic()
    # Of the disk below as it is now: another build may replace that meanwhile.
    base_made = age.base_made(previous.with_name(plan.RECORD))
    with ExitStack() as step:

        def show() -> None:
            if left:
                step.enter_context(console.step(_title(left[0])))

        def made(what: LayerBuild, disk: Path, tasks: list[TaskTiming]) -> None:
            nonlocal began
            stage = left.pop(0)
            with cache.whole(stage.folder, replace=True) as folder:
                console.show_event(Note("compressing the disk"))
                layer.compress(disk, folder / plan.DISK, what.log)
                seconds = time.monotonic() - began
                _record(stage, folder, what.log, base_made=base_made, seconds=seconds, tasks=tasks)
            step.close()
            began = time.monotonic()
            show()

        show()
        layer.run_layers(
            image,
            settings,
            accelerator=accelerator.choose(image.arch, settings),
            disk=previous,
            layers=layers,
            made=made,
            keep=keep,
            on_event=console.show_event,
        )


def _title(stage: Stage) -> str:
    return f"{stage.name}: {stage.why or 'it is gone from the cache'}"


def _new_log(settings: Settings, image: definition.Image, stage: Stage) -> Path:
    log = settings.cache / "logs" / f"{image.name}-{stage.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    return log


def _record(
    stage: Stage,
    folder: Path,
    log: Path,
    *,
    base_made: datetime,
    seconds: float,
    tasks: Sequence[TaskTiming] = (),
) -> None:
    """Note in ``folder`` how the stage was made; it is finished then."""
    record = {
        "stage": stage.name,
        "key": stage.key,
        "inputs": stage.inputs,
        age.BASE_MADE: base_made.strftime(age.ISO),
        "seconds": round(seconds, 1),
        "tasks": [asdict(task) for task in tasks],
    }
    log.touch()
    shutil.copyfile(log, folder / plan.LOG)
    # The record is what marks a stage as finished, so it comes last.
    (folder / plan.RECORD).write_text(json.dumps(record, indent=2, default=str) + "\n")


def _refusal(made: Plan) -> str:
    """Why the image that is in dist/ already has to be built again; '' if it has not."""
    path = made.folder / layout.MANIFEST
    try:
        return made.limit.fault(path, None)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"{path} cannot be read"


def _is_defined_as(made: Plan) -> bool:
    """Whether the build that is there has this definition: its checks and budget are in no key."""
    try:
        manifest = json.loads((made.folder / layout.MANIFEST).read_text())
        return bool(manifest["definition"] == made.image.model_dump(mode="json"))
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _publish(settings: Settings, made: Plan, started: datetime) -> None:
    disk = made.stages[-1].disk
    with cache.whole(made.folder, replace=True) as folder:
        shipped = folder / layout.disk(made.image.name)
        shutil.copyfile(disk, shipped)
        with offline.opened(shipped, settings.cache) as root:
            _require_sealed(root, made)
            packages = offline.packages(root.read("/var/lib/dpkg/status"))
        (folder / layout.PACKAGES).write_text("\n".join(packages) + "\n")
        (folder / layout.LOG).write_text(_log(made), errors="replace")
        finished = datetime.now(timezone.utc)
        times = {"started": _iso(started), "finished": _iso(finished)}
        content = _manifest(settings, made, len(packages)) | times
        manifest = json.dumps(content, indent=2, default=str)
        (folder / layout.MANIFEST).write_text(manifest + "\n")
        (folder / layout.SUMS).write_text(sign.sums(sign.digests(folder)))
    _point(made)


def _point(made: Plan) -> None:
    """Make this build the latest: what is verified, booted and released if nobody says which."""
    files.link(made.folder.parent / builds.LATEST, made.version)


def _require_sealed(root: offline.RootFs, made: Plan) -> None:
    """Never publish a disk into which the build's own key still opens a way."""
    users = [line.split(":")[0] for line in root.read("/etc/passwd").splitlines()]
    if playbook.BUILD_USER in users:
        raise BuildError(
            f"{made.image.name} is not sealed: the user {playbook.BUILD_USER} is still in it",
            hint=f"see {made.stages[-1].folder / plan.LOG} and roles/seal",
        )


def _manifest(settings: Settings, made: Plan, packages: int) -> dict[str, object]:
    records = [stage.record() for stage in made.stages]
    return {
        "image": made.image.name,
        "version": made.version,
        "definition": made.image.model_dump(mode="json"),
        "base": {"key": made.stages[0].key, "sha256": digest.of_file(made.stages[0].disk)},
        "tools": plan.tool_versions(made.image),
        "roles": digest.of_tree(settings.root / "roles"),
        "revision": revision(settings.root),
        **({"project": revision(settings.project.directory)} if settings.project else {}),
        "packages": packages,
        "stages": records,
    }


def _iso(when: datetime) -> str:
    """RFC 3339, in UTC, to the second."""
    return when.strftime(age.ISO)


def time_of(text: str) -> float:
    """A manifest's time in seconds since 1970."""
    return datetime.strptime(text, age.ISO).replace(tzinfo=timezone.utc).timestamp()


def revision(root: Path) -> str:
    """The git revision of the checkout, with '-dirty' where files differ from it or are new."""
    git = ["git", "--no-optional-locks"]  # as root, it would leave an index that is root's
    verify = [*git, "rev-parse", "--verify", "--quiet", "HEAD"]
    found = run(verify, cwd=root, check=False).stdout.strip()
    if not found:
        return "unknown"
    status = [*git, "status", "--porcelain", "--untracked-files=normal"]
    return f"{found}-dirty" if run(status, cwd=root).stdout else found


def _log(made: Plan) -> str:
    parts = []
    for stage in made.stages:
        parts.append(f"==> {stage.name} {stage.key}\n")
        parts.append((stage.folder / plan.LOG).read_text(errors="replace"))
    return "".join(parts)


def _require_room(settings: Settings) -> None:
    for folder in (settings.cache, settings.dist):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free / 2**30
        if free < _HEADROOM_GIB:
            raise BuildError(
                f"{folder} has {free:.1f} GiB free, a build needs {_HEADROOM_GIB}",
                hint="free some room ('invoke clean --cache'), or set SERAI_CACHE or SERAI_DIST",
            )
