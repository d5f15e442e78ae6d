"""Folders of weights as others publish them, run by the course's own code."""
