"""Losses that several papers share."""
