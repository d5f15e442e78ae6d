"""The keys and values that a causal transformer keeps when it samples token by token."""

from course_lib.shapes import Float, Tensor


class KVCache:
    """The keys and values of every layer for up to `length` tokens, in memory allocated once.

    A model asks for `len(cache)` at the top of a forward pass: the number of tokens it has seen,
    and so the position of the first new one.  In the pass each layer calls `extend` once, the last
    layer last; the length grows when it does.  Memory is allocated at a layer's first `extend`,
    with the dtype and on the device of its keys.  Only for sampling: no gradient flows through what
    is held.
    """

    def __init__(self, layers: int, length: int):
        self.length = length
        self.held = [0] * layers  # tokens per layer; layers differ only in the middle of a pass
        # The keys and values of each layer, both (b heads length d).
        self.buffers: list[tuple[Tensor, Tensor] | None] = [None] * layers

    def __len__(self) -> int:
        """Count the tokens that all layers hold; those of an unfinished pass do not count yet."""
        return self.held[-1]

    def extend(
        self, layer: int, k: Float[Tensor, "b heads m d"], v: Float[Tensor, "b heads m d_v"]
    ) -> tuple[Float[Tensor, "b heads n d"], Float[Tensor, "b heads n d_v"]]:
        """Add the keys and values of m tokens, and return all n of this layer so far.

        They are views, which later calls leave as they are.  Raises ValueError when the cache would
        overflow, when b or heads change, or when a layer comes out of turn.
        """
        if not 0 <= layer < len(self.held):
            raise ValueError(f"expected a layer from 0 to {len(self.held) - 1}, got {layer}")
        start = self.held[layer]
        end = start + k.shape[2]
        if start != len(self):
            raise ValueError(
                f"expected every layer once in a pass, the last of {len(self.held)} last: layer"
                f" {layer} has {start} tokens, the last one {len(self)}"
            )
        if end > self.length:
            raise ValueError(
                f"expected at most {self.length} tokens, got {k.shape[2]} more on top of {start}"
            )
        buffers = self.buffers[layer]
        if buffers is None:
            b, heads = k.shape[:2]
            buffers = (
                k.new_empty(b, heads, self.length, k.shape[3]),
                v.new_empty(b, heads, self.length, v.shape[3]),
            )
            self.buffers[layer] = buffers
        keys, values = buffers
        if not keys.shape[:2] == k.shape[:2] == v.shape[:2]:  # a batch of 1 would be copied
            raise ValueError(
                f"expected b and heads to be {tuple(keys.shape[:2])} as before, got"
                f" {tuple(k.shape[:2])} and {tuple(v.shape[:2])}"
            )

        keys[:, :, start:end] = k
        values[:, :, start:end] = v
        self.held[layer] = end
        return keys[:, :, :end], values[:, :, :end]
