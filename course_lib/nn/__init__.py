"""Leaf maths that several papers share."""
