"""What a parent proxy is told of a session: always headers that can be sent, and bounded."""

from __future__ import annotations

from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st

from serai.gate.connections import upstream

TEXTS = st.text(st.characters(exclude_categories=[]), max_size=40)


@given(st.dictionaries(TEXTS, TEXTS, max_size=8))
def test_labels_come_back_as_they_were(labels: dict[str, str]) -> None:
    headers = dict(upstream.identity("blue", labels))
    assert headers[b"Serai-Session"] == b"blue"
    raw = headers.get(b"Serai-Labels", b"")
    assert all(0x20 <= byte < 0x7F for byte in raw)
    pairs = [each.split("=") for each in raw.decode().split(", ") if each]
    found = {
        unquote(k, errors="surrogatepass"): unquote(v, errors="surrogatepass") for k, v in pairs
    }
    assert found == labels


def test_labels_that_do_not_fit_are_left_out() -> None:
    labels = {f"l{number:02}": "ü" * 300 for number in range(64)}
    raw = dict(upstream.identity("blue", labels))[b"Serai-Labels"]
    assert raw.count(b",") == 1 and len(raw) <= upstream.MOST_LABELS
