"""What a causal transformer need not compute twice when it samples token by token: keys and values."""

from course_lib.shapes import Float, Tensor


class KVCache:
    """The keys and values of every layer for up to `length` tokens, in memory that is set aside
    once.

    A model asks `len(cache)` at the top of a forward pass: the number of tokens it has seen, and so
    the position of the first that comes.  In the pass each layer calls `extend` once, the last
    layer last: with it the length moves on. Memory is taken at a layer's first `extend`, in the
    dtype and on the device of what comes.  For sampling alone: no gradient flows through what is
    held.
    """

    def __init__(self, layers: int, length: int):
        self.length = length
        self.held = [0] * layers  # tokens per layer; layers differ only in the middle of a pass
        self.buffers = [None] * layers  # keys and values of a layer, each (b heads length d)

    def __len__(self) -> int:
        """Tokens held by all layers, those of a pass under way not counted."""
        return self.held[-1]

    def extend(
        self, layer: int, k: Float[Tensor, "b heads m d"], v: Float[Tensor, "b heads m d_v"]
    ) -> tuple[Float[Tensor, "b heads n d"], Float[Tensor, "b heads n d_v"]]:
        """Add the keys and values of m tokens; all n of this layer so far, as views that later
        calls leave as they are.

        Raises ValueError when the cache would overflow, when b or heads change, or when a layer
        comes out of turn.
        """
        start, end = self.held[layer], self.held[layer] + k.shape[2]
        if start != len(self):
            raise ValueError(
                f"expected every layer once in a pass, the last of {len(self.held)} last: layer"
                f" {layer} has {start} tokens, the last one {len(self)}"
            )
        if end > self.length:
            raise ValueError(
                f"expected at most {self.length} tokens, got {k.shape[2]} more on top of {start}"
            )
        if self.buffers[layer] is None:
            self.buffers[layer] = tuple(
                x.new_empty(*x.shape[:2], self.length, x.shape[3]) for x in (k, v)
            )
        keys, values = self.buffers[layer]
        if keys.shape[:2] != k.shape[:2]:  # a batch of 1 would be copied to all
            raise ValueError(
                f"expected b and heads to be {tuple(keys.shape[:2])} as before, got"
                f" {tuple(k.shape[:2])}"
            )
        keys[:, :, start:end], values[:, :, start:end] = k, v
        self.held[layer] = end
        return keys[:, :, :end], values[:, :, :end]
