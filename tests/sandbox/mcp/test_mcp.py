"""``serai mcp`` with the protocol's own client, over standard input and output."""

from __future__ import annotations

import asyncio
import json
import sys
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from mcp_types import TextContent

from tests.support.fake_vm import CHECKOUT, DEADLINE, Vm
from tests.support.waiting import wait_for

CODE = "import sys; from serai.runtime.cli.main import script; sys.exit(script())"
Ask = Callable[..., Awaitable[str]]


def served(vm: Vm, work: Callable[[Ask], Awaitable[None]], *options: str) -> None:
    """Start the server as pip's command would, connect, and do ``work`` with its tools."""
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-c", CODE, "--vm", f"unix://{vm.paths.control}", "mcp", *options],
        env={"PYTHONPATH": f"{CHECKOUT}/src"},
    )

    async def main() -> None:
        async with Client(parameters, read_timeout_seconds=DEADLINE) as client:

            async def ask(tool: str, **arguments: Any) -> str:
                result = await client.call_tool(tool, arguments)
                (content,) = result.content
                assert isinstance(content, TextContent)
                assert not result.is_error, content.text
                return content.text

            await work(ask)

    asyncio.run(asyncio.wait_for(main(), DEADLINE * 2))


def test_a_session_from_its_making_to_its_end(vm: Vm) -> None:
    async def work(ask: Ask) -> None:
        name = await ask("create_session")
        assert name in vm.sessions()
        await ask("write_file", session=name, role="outputs", path="a/f", content="ä 1\n")
        told = await ask("run", session=name, command=["cat", "mnt/outputs/a/f", "-"], input="2")
        assert "has ended (exit), exit status 0" in told
        assert "\nä 1\n2\n--- end " in told
        assert '"name": "f"' in await ask("list_files", session=name, role="outputs", path="a")
        assert "\nä 1\n" in await ask("read_file", session=name, role="outputs", path="a/f")
        job = await ask("start", session=name, command=["sleep", "999"])
        assert "still runs" in await ask("wait", job=job, seconds=0)
        assert job in await ask("jobs", session=name)
        await ask("kill", job=job)
        assert "has ended (signal), exit status 143" in await ask("wait", job=job)
        assert "\nä 1\n2\n" in await ask("logs", job=told.split()[1])
        said = json.loads(await ask("explain_policy", session=name, target="192.0.2.1"))
        assert said["allowed"] is False
        assert json.loads(await ask("show_session", session=name))["labels"] == {"made-by": "mcp"}
        await ask("remove_session", session=name)
        wait_for(lambda: name not in vm.sessions())

    served(vm, work)


def test_a_port_is_opened_and_closed(vm: Vm, name: str) -> None:
    async def work(ask: Ask) -> None:
        command = ["python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "3000"]
        await ask("start", session=name, command=command)
        url = await ask("open_port", session=name, port=3000)
        assert await ask("open_port", session=name, port=3000) == url

        def page() -> bytes:
            try:
                with urllib.request.urlopen(url, timeout=DEADLINE) as answer:  # noqa: S310  # ours
                    return bytes(answer.read())
            except OSError:
                return b""

        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, lambda: wait_for(lambda: b"Directory listing" in page()))
        opened = [{"port": 3000, "connections": 0}]
        await loop.run_in_executor(
            None, lambda: wait_for(lambda: vm.sessions()[name]["forwards"] == opened)
        )
        await ask("close_port", session=name, port=3000)
        assert await loop.run_in_executor(None, page) == b""
        with pytest.raises(AssertionError, match="not open here"):
            await ask("close_port", session=name, port=3000)

    served(vm, work)


def test_what_takes_long_delays_no_other_call(vm: Vm, name: str) -> None:
    """And a server for one session leaves the others alone."""
    other = vm.call("create")["name"]

    async def work(ask: Ask) -> None:
        job = await ask("start", session=name, command=["sleep", "999"])
        waiting = asyncio.ensure_future(ask("wait", job=job, seconds=DEADLINE))
        assert "hello" in await ask("run", session=name, command=["echo", "hello"])
        assert not waiting.done()
        await ask("kill", job=job, signal="KILL")
        assert "exit status 137" in await waiting
        with pytest.raises(AssertionError, match="does not work with session"):
            await ask("run", session=other, command=["true"])

    served(vm, work, "--session", name)
    vm.call("remove", name=other)


def test_the_vms_own_command_has_no_such_server(vm: Vm) -> None:
    """There it would be a program of root's that reads what models write."""
    done = vm.serai("mcp")
    assert (done.returncode, done.stdout) == (1, "")
    assert "pip install 'serai[mcp]'" in done.stderr
