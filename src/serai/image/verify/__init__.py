"""Boots a finished image, collects facts, and judges them."""
