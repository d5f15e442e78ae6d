"""Quantizers: from vectors to whole numbers, and back."""
