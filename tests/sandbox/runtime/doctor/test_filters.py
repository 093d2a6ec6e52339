"""Without a rule of a filter its check is red, alone."""

from __future__ import annotations

import os
import re

import pytest

from serai.runtime.doctor import calls
from tests.support.sandbox import Room, build_filters, open_room
from tests.support.weak_sandbox import Vm, edited, red


def leave_out(*names: str, group: str = "", where: str = "baseline") -> str:
    """Code that takes system calls out of one group of rules, or of all."""
    return (
        f"keep({where!r}, lambda rule, call: call in {names!r} "
        f"and rule.group in ({group!r} or rule.group,))"
    )


# What to take out, to the check that goes red. The whole group, then.
UNIX = "payloads cannot make Unix sockets"
FILTERS: dict[str, str] = {
    "mounting is refused": "groups = ['mount']",
    "unshare makes no namespace": leave_out("unshare", group="namespaces"),
    "clone makes no namespace": leave_out("clone", group="namespaces"),
    "setns is refused": leave_out("setns"),
    "clone3 does not exist": "groups = ['clone3']",
    "system calls that are newer than the filter do not exist": "groups = ['newer']",
    "io_uring does not exist": "groups = ['io_uring']",
    "bpf is refused": "groups = ['bpf']",
    "kernel keyrings are refused": "groups = ['keyring']",
    "perf_event_open is refused": "groups = ['perf']",
    "userfaultfd is refused": "groups = ['userfaultfd']",
    "no payload is asked about calls": "groups = ['listener']",
    "attaching to a process is refused": leave_out("ptrace"),
    "other processes' memory and descriptors are refused": leave_out(
        "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp"
    ),
    "limits of another process are refused": "groups = ['prlimit']",
    "typing into a terminal is refused": "groups = ['terminal']",
    "file handles are refused": "groups = ['handles']",
    "set-user-ID bits and devices are refused": (
        "keep('baseline', lambda rule, call: "
        "rule.group in ('set-id', 'devices') and call != 'openat2')"
    ),
    "openat2 does not exist": leave_out("openat2"),
    "io_setup does not exist": "groups = ['aio']",
    "no times or errors of sent packets are kept": "groups = ['error-queue']",
    "moving memory between nodes is refused": "groups = ['memory']",
    "old calls about file systems are refused": leave_out("sysfs", "ustat"),
    "no process is made for its maker's parent": "groups = ['clone-parent']",
    "of IP's protocols there are TCP, UDP and ICMP only": "groups = ['protocol']",
    "loading kernel modules is refused": leave_out("init_module", "finit_module", "delete_module"),
    "restarting the VM or its kernel is refused": leave_out(
        "reboot", "kexec_load", "kexec_file_load"
    ),
    "the VM's swap, quotas and accounting are refused": leave_out(
        "swapon", "swapoff", "quotactl", "quotactl_fd", "acct"
    ),
    "the kernel's log is refused": leave_out("syslog", "lookup_dcookie"),
    "setting the clock is refused": leave_out("settimeofday", "clock_settime"),
    "ports and segments of the processor are refused": leave_out("iopl", "ioperm", "modify_ldt"),
    "netlink is limited to routing": "groups = ['netlink']",
    # Only families of 32 bits and less are compared: as the kernel sees them.
    "a socket's family cannot hide in high bits": (
        "seccomp.FILTERS['baseline'] = tuple("
        "replace(rule, args=(seccomp.low(0, 40),)) if rule.args and rule.args[0].test == 'gt' "
        "and rule.group == 'family' else rule for rule in seccomp.FILTERS['baseline']) + tuple("
        "seccomp.Rule('family', ('socket', 'socketpair'), (seccomp.Arg(0, 'eq', family),), 97) "
        "for family in (17, 38, 40))\n"
        "keep('baseline', lambda rule, call: rule.args == (seccomp.low(0, 40),))"
    ),
    "only IP, Unix and routing sockets exist": (
        "seccomp.FILTERS['baseline'] = tuple(rule for rule in seccomp.FILTERS['baseline'] "
        "if rule.group != 'family') + (seccomp.Rule('family', ('socket', 'socketpair'), "
        "(seccomp.Arg(0, 'gt', 1 << 31),), 97),)"
    ),
    UNIX: leave_out("socket", where="unix-block"),
    "payloads cannot make Unix datagram pairs": leave_out("socketpair", where="unix-block"),
    "another ABI's system calls kill the process": "library.KILL_PROCESS = library.ALLOW",
}


@pytest.mark.parametrize("name", FILTERS)
def test_without_a_rule_its_check_alone_is_red(vm: Vm, room: Room, name: str) -> None:
    # A payload that can make a socket can try the gate's.
    more = {"payloads cannot speak to the gate's own sockets"} if name == UNIX else set()
    assert set(red(vm, room, filters=edited(FILTERS[name]))) == {name} | more


SINGLE = [
    (group.name, call.name)
    for group in calls.GROUPS
    for call in group.calls
    if " " not in call.name and len(group.calls) > 1 and call.number(os.uname().machine)
    and not call.name.startswith(("TIOC", "PTRACE"))
]  # fmt: skip


@pytest.mark.parametrize(("group", "call"), SINGLE)
def test_a_single_call_that_is_let_through_is_named(
    vm: Vm, room: Room, group: str, call: str
) -> None:
    found = red(vm, room, filters=edited(leave_out(call)))
    assert set(found) == {group}
    # The doctor's own filter catches it, unless it does not exist either: then it is really made.
    real = group.endswith("not exist")
    assert re.fullmatch(f"{call}: {'E(FAULT|BADF|INVAL)' if real else 'ENOSYS'}", found[group])


def test_one_filter_with_the_rules_of_both_is_one_too_few(vm: Vm, room: Room) -> None:
    both = edited(
        "seccomp.FILTERS['baseline'] += "
        "tuple(replace(rule, errno=1) for rule in seccomp.FILTERS['unix-block'])"
    )
    assert set(red(vm, room, filters=both[:1])) == {"a payload has its sandbox's filters"}


def test_a_bridge_without_a_filter_is_red(vm: Vm) -> None:
    with open_room(vm.session, filters=(b"", build_filters()[1])) as weak:
        found = red(vm, weak, filters=build_filters()[1:])
        assert "the bridge has the baseline filter" in found
        both = edited(
            "seccomp.FILTERS['baseline'] += "
            "tuple(replace(rule, errno=1) for rule in seccomp.FILTERS['unix-block'])"
        )
        assert set(red(vm, weak, filters=both[:1])) == {"the bridge has the baseline filter"}
