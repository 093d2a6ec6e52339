"""report.html as text: what it tells, that it is safe, and that it can be read in both schemes."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from serai.image.release.diff import Changes
from serai.image.release.report import report
from serai.image.release.report.report import Component, Inputs, Package
from tests.support.reports import BOOT, HOSTILE, an_inputs, hostile, some_changes

CSS = (Path(report.__file__).parent / "data/report.css").read_text()


class Page(HTMLParser):
    """The elements of a page with their attributes, and the texts by the element around them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.inside: list[str] = [""]
        self.rows: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append("")
        if tag not in ("meta", "link", "img", "input", "rect"):
            self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.inside[-1] == tag:
            self.inside.pop()

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.inside[-1], []).append(data)
        if self.inside[-1] in ("th", "td"):
            self.rows[-1] = f"{self.rows[-1]} {data}".lstrip()

    @property
    def all_text(self) -> str:
        shown = (tag for tag in self.texts if tag not in ("style", "script"))
        return " ".join(" ".join(" ".join(self.texts[tag]) for tag in shown).split())


def test_the_figures_that_matter_come_first() -> None:
    page = Page(report.render(an_inputs()))
    text = page.all_text
    verdict = "".join(page.texts["p"])
    assert "Verified: all 2 checks passed" in verdict
    for figure in ("738.6 MiB", "3 min 13 s", "2 min 05 s", "255.0 MiB"):
        assert figure in page.texts["dd"], figure
    assert "debian-12-arm64" in page.texts["h1"][0]
    assert "pkg:deb/debian/bash@5.2" in text
    assert "Install the packages" in text


def test_failed_checks_turn_the_verdict_and_come_first() -> None:
    given = an_inputs()
    checks = [*given.verify["checks"], {"name": "x", "ok": False, "detail": "", "seconds": 1.0}]
    page = Page(report.render(replace(given, verify={**given.verify, "checks": checks})))
    assert any("Not fit for use: 1 of 3 checks failed" in text for text in page.texts["p"])
    rows = [attrs["class"] for tag, attrs in page.elements if tag == "tr" and attrs.get("class")]
    assert rows == ["bad", "good", "good"]


def test_nothing_but_a_name_is_needed() -> None:
    manifest = {"image": "x", "version": "1"}
    text = Page(report.render(Inputs(manifest, {}, [], {}, "", None, []))).all_text
    for sentence in (
        "Not verified: no check was made",
        "No sizes were noted down",
        "The manifest tells of no stage",
        "No boot was noted down",
        "There is no previous release",
        "There is no bill of materials",
    ):
        assert sentence in text


def test_no_difference_is_said() -> None:
    changes = some_changes()
    changes = Changes(changes.old, changes.old, *[()] * 9)
    assert "Nothing differs." in Page(report.render(replace(an_inputs(), changes=changes))).all_text


def test_differences_are_told_what_matters_first() -> None:
    page = Page(report.render(an_inputs()))
    assert "Compared with debian-12-arm64 0.0.9." in page.texts["p"]
    assert page.texts["li"] == [
        "/usr/bin/su runs with more rights than who starts it",
        "ssh.socket listens",
    ]
    assert report.differences(some_changes()) == {
        "Figures": [
            ("Image", "190.0 MiB", "193.0 MiB"),
            ("Files, in all", "380.0 MiB", "386.0 MiB"),
            ("Files and directories", "190", "193"),
            ("Boot, power-on to ssh", "3 min 10 s", "3 min 13 s"),
        ],
        "Checks with another result": [("swap is off", "not made", "passed")],
    }
    rows = [
        *("Image 190.0 MiB 193.0 MiB", "swap is off not made passed"),
        *("bash added \N{EN DASH} 5.2", "bash upgraded 5.1 5.2"),
        *("/ 0 1 0", "/usr/lib/python3 1 0 1"),
    ]
    for row in rows:
        assert row in page.rows, row


def test_a_boot_that_was_not_timed_is_no_difference() -> None:
    changes = some_changes()
    changes = replace(changes, old=replace(changes.old, boot_seconds=None))
    figures = report.differences(changes)["Figures"]
    assert "Boot, power-on to ssh" not in [name for name, _, _ in figures]


def test_a_release_has_a_version_of_its_own() -> None:
    page = Page(report.render(replace(an_inputs(), version="1.2.0")))
    assert page.texts["title"] == ["debian-12-arm64 1.2.0: release report"]
    assert "0.1.0-abc" in page.texts["dd"]


def test_packages_come_from_dpkg_and_components_from_the_bill_of_materials() -> None:
    status = "Package: bash\nStatus: install ok installed\nInstalled-Size: 7\n"
    status += "Architecture: arm64\nVersion: 5.2\n"
    assert report.packages(status) == [Package("bash", "5.2", "arm64", 7168)]
    bill = {
        "components": [
            {
                "type": "library",
                "group": "@types",
                "name": "node",
                "version": "22",
                "purl": "pkg:npm/%40types/node@22",
                "licenses": [{"license": {"id": "MIT"}}, {"license": {"name": "own"}}],
            },
            {"type": "application", "name": "x", "licenses": [{"expression": "MIT OR ISC"}]},
        ]
    }
    assert report.components(bill) == [
        Component("@types/node", "22", "npm", "MIT, own", "pkg:npm/%40types/node@22"),
        Component("x", "", "application", "MIT OR ISC", ""),
    ]
    assert report.components({}) == []


def test_the_same_inputs_give_the_same_page() -> None:
    assert report.render(an_inputs()) == report.render(an_inputs())


def test_hostile_texts_add_no_element_and_no_attribute() -> None:
    plain, attacked = (
        Page(report.render(hostile("harmless"))),
        Page(report.render(hostile(HOSTILE))),
    )
    assert [tag for tag, _ in attacked.elements] == [tag for tag, _ in plain.elements]
    for (tag, attributes), (_, known) in zip(attacked.elements, plain.elements, strict=True):
        assert attributes.keys() == known.keys(), tag
    assert not any(name.startswith("on") for _, found in attacked.elements for name in found)
    assert attacked.texts["style"] == plain.texts["style"]
    assert attacked.texts["script"] == plain.texts["script"]
    visible = HOSTILE.replace("\u202e", "\ufffd").replace("\x00", "\ufffd")
    assert attacked.all_text.count(" ".join(visible.split())) > 10


def test_bytes_that_are_no_text_can_be_written() -> None:
    given = replace(an_inputs(), folders={".": 10, "etc": 10, "etc/\udcff\x1b[31m": 9})
    text = report.render(given)
    assert "/etc/\ufffd\ufffd[31m" in text
    text.encode()


def test_every_hash_of_the_policy_is_that_of_an_element() -> None:
    text = report.render(hostile(HOSTILE))
    page = Page(text)
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv")) or ""
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    names = [tag for tag, _ in page.elements]
    assert names.index("meta") < names.index("style")


def test_nothing_is_asked_of_anybody() -> None:
    page = Page(report.render(an_inputs()))
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "form", "base"), tag
        assert "style" not in attributes  # the policy would drop it
        for name in ("src", "href", "action", "srcset", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    assert "url(" not in CSS
    assert "@import" not in CSS


def test_the_boot_chart_is_an_image_whatever_it_holds() -> None:
    svg = BOOT.replace("</svg>", "<script>alert(1)</script></svg>")
    text = report.render(replace(an_inputs(), boot_chart=svg))
    assert "alert(1)" not in text
    assert report.data_url("<p>no drawing</p>") == ""
    source = report.data_url(svg)
    assert base64.b64decode(source.partition(",")[2]).decode() == svg


def test_a_package_of_two_architectures_is_one_tile() -> None:
    packages = [Package("libc6", "2.36", "amd64", 1024), Package("libc6", "2.36", "i386", 1024)]
    text = report.render(replace(an_inputs(), packages=packages))
    assert 'aria-label="libc6, 2.0 KiB, 100.0&nbsp;%"' in text


def test_a_licence_that_is_not_known_is_said_so() -> None:
    given = replace(an_inputs(), components=[Component("x", "1", "npm", "", "")])
    assert "not stated" in Page(report.render(given)).all_text


# --- colours


def schemes() -> dict[str, dict[str, str]]:
    """The colours of the style sheet by scheme."""
    light, dark, paper = re.findall(r":root \{(.*?)\n? *\}", CSS, re.DOTALL)[:3]
    found = {
        name: dict(re.findall(r"--(\w[\w-]*): (#[0-9a-f]{6})", text))
        for name, text in (("light", light), ("dark", dark), ("print", paper))
    }
    assert found["light"].keys() == found["dark"].keys() == found["print"].keys()
    return found


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


TEXTS = [
    *(
        ("ink", ground)
        for ground in ("paper", "shade", "bad-shade", "tile0", "tile1", "tile2", "tile3")
    ),
    *(("soft", ground) for ground in ("paper", "shade")),
    ("accent", "paper"),
    ("paper", "accent"),
    ("good", "paper"),
    ("good", "shade"),
    ("good", "good-shade"),
    ("bad", "paper"),
    ("bad", "bad-shade"),
]
SHAPES = [("accent", "paper"), ("soft", "paper"), ("accent", "shade")]


@pytest.mark.parametrize("scheme", ["light", "dark", "print"])
def test_texts_can_be_read_and_shapes_be_seen(scheme: str) -> None:
    colours = schemes()[scheme]
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for text, ground in TEXTS:
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for shape, ground in SHAPES:
        assert contrast(colours[shape], colours[ground]) >= 3, (shape, ground)
