"""Kinds of arguments that several commands of ``serai`` take."""

from __future__ import annotations

import argparse


def pair(text: str) -> tuple[str, str]:
    """``K=V``, for argparse."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not K=V")
    return key, value


def change(text: str) -> tuple[str, str | None]:
    """``K=V``, or ``K`` for what is to go, for argparse."""
    key, equals, value = text.partition("=")
    if not key:
        raise argparse.ArgumentTypeError(f"{text!r} is neither K=V nor K")
    return key, value if equals else None
