"""What a transformer encoder costs, in closed form."""


def encoder_parameters(width: int, mlp: int, depth: int) -> int:
    """Weights and biases of `depth` layers of attention and MLP, each behind a norm, and the norm
    after them.
    """
    attention = 4 * (width * width + width)
    return depth * (attention + 2 * width * mlp + mlp + width + 2 * 2 * width) + 2 * width


def encoder_macs(tokens: int, attended: int | float, width: int, mlp: int, depth: int) -> int:
    """Multiply-adds of `depth` layers on `tokens` tokens, each of which attends to `attended`
    tokens.

    Matrix products alone, as papers count: four projections, q k^T and A v, two layers of the MLP.
    """
    return int(depth * tokens * (4 * width * width + 2 * width * attended + 2 * width * mlp))
