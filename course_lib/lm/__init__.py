"""Sampling from models of tokens: one by one, with a cache of keys and values, or in parallel."""
