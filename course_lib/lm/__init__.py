"""Language models on tokens: filters and draws, a cache of keys and values, masked tokens decoded
in parallel.
"""
