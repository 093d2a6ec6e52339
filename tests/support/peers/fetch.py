"""Python's two ways to get a URL: fetch.py requests|urllib URL."""

from __future__ import annotations

import sys
import urllib.request

import requests  # type: ignore[import-untyped,unused-ignore]

how, url = sys.argv[1:]
if how == "requests":
    response = requests.get(url, timeout=30)
    print(response.text)
    response.raise_for_status()
else:
    with urllib.request.urlopen(url, timeout=30) as stream:  # noqa: S310
        print(stream.read().decode())
