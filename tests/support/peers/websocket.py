#!/usr/bin/python3
"""A WebSocket client: websocket.py tunnel|upgrade URL. Prints what the server says back.

The library is without support for proxies, as it was before version 15. So a tunnel is asked for
by hand, and a plain upgrade is the library's own request with the whole URI in it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from urllib.parse import urlsplit

import websockets  # type: ignore[import-not-found]
from websockets.client import ClientConnection  # type: ignore[import-not-found]
from websockets.uri import parse_uri  # type: ignore[import-not-found]

WORDS = "there and back"


def proxy() -> socket.socket:
    host, port = urlsplit(os.environ["HTTP_PROXY"]).netloc.split(":")
    return socket.create_connection((host, int(port)))


def head(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += sock.recv(1)
        assert data, "hung up"
    return data


async def tunnel(url: str) -> str:
    sock = proxy()
    place, tls = urlsplit(url).netloc, url.startswith("wss:")
    sock.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n\r\n".encode())
    answer = head(sock)
    if b" 200 " not in answer.split(b"\r\n")[0]:
        raise SystemExit(answer.decode())
    options = {"server_hostname": urlsplit(url).hostname} if tls else {}
    async with websockets.connect(url, sock=sock, **options) as connection:
        await connection.send(WORDS)
        return str(await connection.recv())


def upgrade(url: str) -> str:
    sock = proxy()
    connection = ClientConnection(parse_uri(url))
    request = connection.connect()
    request.path = url.replace("ws:", "http:", 1)
    connection.send_request(request)
    sent = False
    while True:
        for data in connection.data_to_send():
            sock.sendall(data)
        data = sock.recv(4096)
        assert data, "hung up"
        connection.receive_data(data)
        for event in connection.events_received():
            if hasattr(event, "opcode"):
                return str(event.data.decode())
        if connection.handshake_exc:
            raise SystemExit(f"{connection.handshake_exc}: {data.decode(errors='replace')}")
        if not sent:
            connection.send_text(WORDS.encode())
            sent = True


how, where = sys.argv[1:]
print(asyncio.run(tunnel(where)) if how == "tunnel" else upgrade(where))
