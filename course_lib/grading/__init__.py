"""Submissions in, grades out: ``course grade``."""
