"""Notebook 04: the quantiser, the loss with its discriminator, and the transformer on codes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.checking import Exercise, call_by_name
from course_lib.lm import sampling
from course_lib.losses import adversarial
from course_lib.nn import attention
from course_lib.papers import vqgan
from course_lib.quantize import vq

# ---------------------------------------------------------------- nearest_code


def _nearest_cases(rng):
    cases = [
        {
            "z": torch.randn(n, d, generator=rng),
            "codebook": torch.randn(k, d, generator=rng) * _lengths(rng, k),
        }
        for n, d, k in [(40, 3, 6), (31, 2, 9)]
    ]
    # the first lies halfway between two codes
    between = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    codes = torch.tensor([[7.0, 7.0], [0.0, 0.0], [2.0, 0.0], [3.0, 3.0]])
    return [*cases, {"z": between, "codebook": codes}]


def _lengths(rng, k):
    """Factors that make some codes long and some short."""
    return 0.3 + 2 * torch.rand(k, 1, generator=rng)


def _picked(distances, pick=lambda distances: distances.argmin(1)):
    """nearest_code by other distances (n k), or picking another one of them."""
    return lambda z, codebook: pick(distances(z, codebook))


def _squared_distances(z, codebook):
    return (z[:, None] - codebook).square().sum(-1)


NEAREST_CODE = Exercise(
    id="vqgan.nearest_code",
    reference=vq.nearest_code,
    cases=_nearest_cases,
    equation="VQGAN, Eq. 2",
    points=2,
    stars=2,
    minutes=7,
    misconceptions={
        "product": (
            _picked(lambda z, codebook: -z @ codebook.T),
            "You took the code with the largest product, so long codes win. Eq. 2 wants the"
            " smallest distance, in which the code's own length counts too: ||e||^2 - 2 z e.",
        ),
        "cosine": (
            _picked(lambda z, codebook: -F.normalize(z) @ F.normalize(codebook).T),
            "You compared directions. Eq. 2 compares places: a code in the same direction may be"
            " far away.",
        ),
        "half_the_product": (
            _picked(lambda z, codebook: codebook.square().sum(1) - z @ codebook.T),
            "The product counts twice: ||z - e||^2 = ||z||^2 - 2 z e + ||e||^2.",
        ),
        "manhattan": (
            _picked(lambda z, codebook: (z[:, None] - codebook).abs().sum(-1)),
            "You added up absolute differences. The norm of Eq. 2 is the Euclidean one: squares.",
        ),
        "farthest": (
            _picked(_squared_distances, lambda distances: distances.argmax(1)),
            "That is the farthest code: the distance is to be smallest, `argmin`.",
        ),
        "vector_of_each_code": (
            _picked(_squared_distances, lambda distances: distances.argmin(0)),
            "You found the nearest vector of every code. Eq. 2 asks the other way round: for each"
            " of the n vectors one of the k codes.",
        ),
        "distances_returned": (
            _picked(_squared_distances, lambda distances: distances.amin(1)),
            "That is how far the nearest code is. Eq. 2 has an arg min: which one it is, a whole"
            " number.",
        ),
        "codes_returned": (
            lambda z, codebook: codebook[_squared_distances(z, codebook).argmin(1)],
            "You looked the codes up already. Their numbers are wanted, (n,): they are the tokens"
            " that the transformer will predict.",
        ),
        "last_on_ties": (
            _picked(
                _squared_distances,
                lambda distances: distances.shape[1] - 1 - distances.flip(1).argmin(1),
            ),
            "All right but a tie: where two codes are equally near, the lower number is wanted,"
            " which is what `argmin` gives.",
        ),
    },
)


# ---------------------------------------------------------------- straight_through


def _quantised_cases(rng):
    return [
        {"z": torch.randn(shape, generator=rng), "z_q": torch.randn(shape, generator=rng)}
        for shape in [(5, 3), (2, 4, 3, 6), (1,)]
    ]


STRAIGHT_THROUGH = Exercise(
    id="vqgan.straight_through",
    reference=vq.straight_through,
    cases=_quantised_cases,
    gradients=("z", "z_q"),
    equation="VQ-VAE, section 3.2; VQGAN, section 3.1",
    points=2,
    stars=2,
    minutes=6,
    misconceptions={
        "codes_alone": (
            lambda z, z_q: z + (z_q - z),
            "The value is right, but the gradient goes to z_q: in `z + (z_q - z)`, as in plain z_q,"
            " nothing of z is left. Detach the difference.",
        ),
        "no_gradient": (
            lambda z, z_q: z_q.detach(),
            "The value is right, but no gradient comes through at all: the decoder could teach the"
            " encoder nothing. Add z in such a way that only its gradient remains.",
        ),
        "both": (
            lambda z, z_q: z_q + z - z.detach(),
            "z gets its gradient, but so does z_q. Section 3.2 hands it to z alone: the codes learn"
            " from the codebook loss.",
        ),
        "not_quantised": (
            lambda z, z_q: z,
            "You returned z. The decoder must see the codes: forward z_q, backward the gradient"
            " of z.",
        ),
        "places_swapped": (
            lambda z, z_q: z_q + (z - z_q).detach(),
            "z and z_q have changed places: the value must be z_q's, the gradient z's.",
        ),
        "gradient_turned": (
            lambda z, z_q: z_q.detach() - (z - z.detach()),
            "The value is right, the gradient has the wrong sign: training would drive the encoder"
            " uphill. Add z, and subtract it detached.",
        ),
        "difference": (
            lambda z, z_q: (z_q - z).detach(),
            "That is the step from z to its code alone. Add z to it.",
        ),
        "halfway": (
            lambda z, z_q: (z + z_q.detach()) / 2,
            "You mixed the two. Forward it is z_q, to the last digit; only the gradient is"
            " borrowed.",
        ),
    },
)


# ---------------------------------------------------------------- vq_loss


def _vq_loss_cases(rng):
    return [
        {**case, "beta": beta}
        for case, beta in zip(_quantised_cases(rng), (0.25, 2.0, 0.6), strict=True)
    ]


def _two_terms(codebook=1, commitment=1, distance=F.mse_loss):
    """vq_loss with terms left out or multiplied, or another distance."""

    def answer(z, z_q, beta):
        return codebook * distance(z.detach(), z_q) + commitment * beta * distance(z, z_q.detach())

    return answer


VQ_LOSS = Exercise(
    id="vqgan.vq_loss",
    reference=vq.vq_loss,
    cases=_vq_loss_cases,
    gradients=("z", "z_q"),
    equation="VQ-VAE, Eq. 3; VQGAN, Eq. 4",
    points=3,
    stars=2,
    minutes=8,
    misconceptions={
        "beta_on_the_codes": (
            lambda z, z_q, beta: F.mse_loss(z, z_q.detach()) + beta * F.mse_loss(z.detach(), z_q),
            "The value is right, the gradients are not: your beta stands on the term that moves the"
            " codes. It belongs to the commitment, ||z - sg[z_q]||^2. The published code had the"
            " same slip.",
        ),
        "no_stop_gradient": (
            lambda z, z_q, beta: (1 + beta) * F.mse_loss(z, z_q),
            "The value is right, but both terms pull at both sides. sg[.] is `.detach()`: the first"
            " term moves the codes alone, the second the encoder alone.",
        ),
        "always_z_stopped": (
            lambda z, z_q, beta: (1 + beta) * F.mse_loss(z.detach(), z_q),
            "You detached z in both terms, so nothing commits the encoder to its codes. In the"
            " second term of Eq. 4 z_q is the one that is held.",
        ),
        "always_codes_stopped": (
            lambda z, z_q, beta: (1 + beta) * F.mse_loss(z, z_q.detach()),
            "You detached z_q in both terms, so the codes never move. In the first term of Eq. 4 z"
            " is the one that is held.",
        ),
        "no_beta": (
            lambda z, z_q, beta: vq.vq_loss(z, z_q, 1.0),
            "beta is missing: it weighs the commitment, the second term of Eq. 3.",
        ),
        "no_commitment": (
            _two_terms(commitment=0),
            "That is the codebook's term alone. The second, beta ||z - sg[z_q]||^2, keeps the"
            " encoder near its codes.",
        ),
        "no_codebook_term": (
            _two_terms(codebook=0),
            "That is the commitment alone. The first term, ||sg[z] - z_q||^2, moves the codes to"
            " the vectors.",
        ),
        "summed": (
            _two_terms(distance=lambda a, b: (a - b).square().sum()),
            "You summed over all entries. The course takes means, as the official code does: then"
            " beta means the same whatever the size of the grid.",
        ),
        "summed_over_channels": (
            _two_terms(distance=lambda a, b: (a - b).square().sum(min(1, a.ndim - 1)).mean()),
            "You summed over the numbers of a vector and took the mean of the rest. The mean is"
            " over all entries, channels too.",
        ),
        "not_squared": (
            _two_terms(distance=F.l1_loss),
            "You took absolute differences. Eq. 4 squares them.",
        ),
    },
)


# ---------------------------------------------------------------- ema_update


def _ema_cases(rng):
    """A code without past and without vectors; a start from nothing; codes that get none this time."""
    cases = []
    for k, d, n, decay, eps in [(5, 3, 8, 0.8, 0.05), (4, 2, 7, 0.99, 1e-5), (6, 4, 3, 0.6, 0.01)]:
        codebook = torch.randn(k, d, generator=rng)
        counts = torch.zeros(k) if eps == 1e-5 else 1 + 4 * torch.rand(k, generator=rng)
        counts[-1] = 0
        case = {"codebook": codebook, "counts": counts, "z": torch.randn(n, d, generator=rng)}
        case["sums"] = counts[:, None] * (codebook + 0.2 * torch.randn(k, d, generator=rng))
        case["indices"] = torch.randint(0, k - 1, (n,), generator=rng)
        case["indices"][:2] = 0  # two vectors of one code, in every case
        cases.append({**case, "decay": decay, "eps": eps})
    return cases


def _found(indices, z, k):
    """How many vectors each code got, and their sums."""
    given = F.one_hot(indices, k).to(z)
    return given.sum(0), given.T @ z


def _smoothed(counts, eps):
    return (counts + eps) / (counts.sum() + len(counts) * eps) * counts.sum()


def _decayed(old, new, decay):
    return decay * old + (1 - decay) * new


def _averaged(count=_decayed, add=_decayed, smooth=_smoothed, keep=True):
    """ema_update with other averages of counts and sums (old, new, decay), or other counts to
    divide by.
    """

    def answer(codebook, counts, sums, z, indices, decay, eps):
        n, total = _found(indices, z, len(codebook))
        counts, sums = count(counts, n, decay), add(sums, total, decay)
        moved = sums / smooth(counts, eps)[:, None]
        return torch.where(counts[:, None] > 0, moved, codebook) if keep else moved, counts, sums

    return answer


def _other_side(old, new, decay):
    return (1 - decay) * old + decay * new


def _only_where_used(codebook, counts, sums, z, indices, decay, eps):
    used = _found(indices, z, len(codebook))[0][:, None] > 0
    _, new_counts, new_sums = vq.ema_update(codebook, counts, sums, z, indices, decay, eps)
    counts, sums = torch.where(used[:, 0], new_counts, counts), torch.where(used, new_sums, sums)
    return (
        torch.where(counts[:, None] > 0, sums / _smoothed(counts, eps)[:, None], codebook),
        counts,
        sums,
    )


def _codes_averaged(codebook, counts, sums, z, indices, decay, eps):
    n, total = _found(indices, z, len(codebook))
    _, counts, sums = vq.ema_update(codebook, counts, sums, z, indices, decay, eps)
    mean = total / n.clamp(min=1)[:, None]
    return torch.where(n[:, None] > 0, _decayed(codebook, mean, decay), codebook), counts, sums


def _batch_means(codebook, counts, sums, z, indices, decay, eps):
    n, total = _found(indices, z, len(codebook))
    _, counts, sums = vq.ema_update(codebook, counts, sums, z, indices, decay, eps)
    return torch.where(n[:, None] > 0, total / n.clamp(min=1)[:, None], codebook), counts, sums


def _means_added(codebook, counts, sums, z, indices, decay, eps):
    n, total = _found(indices, z, len(codebook))
    means = total / n.clamp(min=1)[:, None]
    return _averaged(add=lambda sums, _, decay: _decayed(sums, means, decay))(
        codebook, counts, sums, z, indices, decay, eps
    )


def _old_counts(codebook, counts, sums, z, indices, decay, eps):
    _, new_counts, new_sums = vq.ema_update(codebook, counts, sums, z, indices, decay, eps)
    moved = new_sums / _smoothed(counts, eps)[:, None]
    return torch.where(new_counts[:, None] > 0, moved, codebook), new_counts, new_sums


def _smoothed_kept(codebook, counts, sums, z, indices, decay, eps):
    codebook, counts, sums = vq.ema_update(codebook, counts, sums, z, indices, decay, eps)
    return codebook, _smoothed(counts, eps), sums


EMA_UPDATE = Exercise(
    id="vqgan.ema_update",
    reference=vq.ema_update,
    cases=_ema_cases,
    equation="VQ-VAE, appendix A.1",
    points=3,
    stars=3,
    minutes=12,
    misconceptions={
        "other_side": (
            _averaged(count=_other_side, add=_other_side),
            "decay stands on the new batch. It says how much of the past stays: decay * old + (1 -"
            " decay) * new.",
        ),
        "counts_not_decayed": (
            _averaged(count=lambda old, new, decay: old + new),
            "Your counts only grow, while the sums forget. Both are moving averages (appendix A.1),"
            " or the codes shrink towards 0.",
        ),
        "sums_not_decayed": (
            _averaged(add=lambda old, new, decay: old + new),
            "Your sums only grow, while the counts forget. Both are moving averages (appendix A.1),"
            " with one decay.",
        ),
        "not_smoothed": (
            _averaged(smooth=lambda counts, eps: counts),
            "Counts and sums are right, but you divided before smoothing. Divide by (count + eps) /"
            " (total + k eps) * total, so that a code with next to no count does not fly away.",
        ),
        "eps_alone": (
            _averaged(smooth=lambda counts, eps: counts + eps),
            "You added eps and stopped there. The smoothed counts must still add up to the same"
            " total: divide by (total + k eps), multiply with the total.",
        ),
        "total_forgotten": (
            _averaged(smooth=lambda counts, eps: _smoothed(counts, eps) / counts.sum()),
            "You divided by shares that add up to 1. Multiply them with the total: a sum is divided"
            " by a count.",
        ),
        "smoothed_kept": (
            _smoothed_kept,
            "The codes are right, but you return the smoothed counts, which would be smoothed again"
            " next time. The smoothing is for the division alone.",
        ),
        "unused_to_zero": (
            _averaged(keep=False),
            "A code that never got a vector has sum 0 and count 0, and you moved it to 0. It stays"
            " where it is: look at the last row of the codebook.",
        ),
        "only_where_used": (
            _only_where_used,
            "You left codes alone that got no vector this time. Their counts and sums decay as"
            " well: they got n = 0.",
        ),
        "codes_averaged": (
            _codes_averaged,
            "You averaged the codes themselves. Appendix A.1 averages counts and sums and divides"
            " afterwards, so that a batch with many vectors counts more than one with few.",
        ),
        "batch_means": (
            _batch_means,
            "Your codes are the means of this batch alone; the next one would throw them elsewhere."
            " Divide the averaged sums by the averaged counts.",
        ),
        "means_added": (
            _means_added,
            "You averaged means. Appendix A.1 averages the sum of a code's vectors; the counts"
            " divide it later.",
        ),
        "old_counts": (
            _old_counts,
            "You divided the new sums by the old counts. Appendix A.1 takes both of this step.",
        ),
    },
)


# ---------------------------------------------------------------- hinge_loss


def _hinge_cases(rng):
    """Logits of patches on both sides of the margins; other numbers of real and fake ones; a
    perfect discriminator.
    """
    real, fake = (1.5 * torch.randn(2, 1, 3, 4, generator=rng) + shift for shift in (0.4, -0.2))
    more, fewer = (1.5 * torch.randn(n, generator=rng) for n in (7, 5))
    sure, surely = (1.2 + torch.rand(3, 2, generator=rng) for _ in range(2))
    return [
        {"real": real, "fake": fake},
        {"real": more, "fake": fewer},
        {"real": sure, "fake": -surely},
    ]


def _margins(on_real, on_fake=None, share=0.5):
    """hinge_loss with other penalties of real and of fake logits."""
    on_fake = on_fake or (lambda fake: on_real(-fake))
    return lambda real, fake: share * (on_real(real).mean() + on_fake(fake).mean())


def _hinge(logits):
    return F.relu(1 - logits)


HINGE_LOSS = Exercise(
    id="vqgan.hinge_loss",
    reference=adversarial.hinge_discriminator_loss,
    cases=_hinge_cases,
    gradients=("real", "fake"),
    equation="the hinge form of VQGAN, Eq. 5",
    points=2,
    stars=1,
    minutes=5,
    misconceptions={
        "no_half": (
            _margins(_hinge, share=1),
            "Your loss is twice too large: the official code halves the sum of the two means.",
        ),
        "sign_swapped": (
            _margins(lambda real: F.relu(1 + real)),
            "The signs are swapped: that rewards low logits for real pictures. Real ones should be"
            " above 1, max(0, 1 - D(x)), fakes below -1.",
        ),
        "same_sign": (
            _margins(_hinge, _hinge),
            "You treat real and fake alike. A fake should be below -1: max(0, 1 + D(x^)).",
        ),
        "non_saturating": (
            _margins(lambda real: F.softplus(-real), share=1),
            "That is Eq. 5 with logarithms, as it stands in the paper. Training uses the hinge: a"
            " straight line that ends at the margin, max(0, 1 - D(x)) and max(0, 1 + D(x^)).",
        ),
        "no_margin": (
            _margins(lambda real: F.relu(-real)),
            "The margin is missing: a logit barely on the right side is not enough yet. 1 - D(x)"
            " and 1 + D(x^).",
        ),
        "no_maximum": (
            _margins(lambda real: 1 - real),
            "The maximum with 0 is missing. Behind the margin nothing more is to be gained; without"
            " it the logits run off to infinity.",
        ),
        "mean_first": (
            lambda real, fake: (_hinge(real.mean()) + _hinge(-fake.mean())) / 2,
            "You averaged the logits and then cut them off. Every patch has a margin of its own:"
            " cut first, then the mean.",
        ),
        "least_squares": (
            _margins(lambda real: (1 - real).square()),
            "You squared the distance from the targets, which punishes logits that are better than"
            " asked for. The hinge is max(0, 1 - D(x)).",
        ),
        "one_mean": (
            lambda real, fake: torch.cat([_hinge(real).flatten(), _hinge(-fake).flatten()]).mean(),
            "You threw real and fake logits together. With different numbers of them one side would"
            " count more: a mean of each, then half their sum.",
        ),
        "generators": (
            lambda real, fake: -fake.mean() + 0 * real.mean(),
            "That is the generator's loss. The discriminator's is asked for: it looks at real"
            " pictures as well.",
        ),
    },
)


# ---------------------------------------------------------------- adaptive_weight


def _weight_cases(rng):
    """Two losses that share the decoder's last layer; in the last case nothing fools the
    discriminator more or less.
    """
    cases = []
    for b, d, c, side, delta, taste in [
        (2, 4, 3, 5, 0.02, 1.0),
        (3, 2, 1, 6, 0.1, 0.5),
        (2, 3, 1, 4, 1e-6, 0.0),
    ]:
        with torch.enable_grad():
            features = torch.randn(b, d, side, side + 1, generator=rng)
            last_layer = (0.3 * torch.randn(c, d, 3, 2, generator=rng)).requires_grad_()
            reconstruction = F.conv2d(features, last_layer)
            image, discriminator = (
                torch.randn(reconstruction.shape, generator=rng) for _ in range(2)
            )
            case = {
                "reconstruction_loss": (image - reconstruction).square().mean(),
                "generator_loss": -(taste * discriminator * reconstruction.tanh()).mean(),
                "last_layer": last_layer,
                "delta": delta,
            }
        cases.append(case)
    return cases


def _training_step(answer, case):
    """The weight, and the gradient of a training step with it, which finds an answer that spoils
    the graph.
    """
    weight = call_by_name(answer, case)
    gradient = None
    if isinstance(weight, Tensor) and weight.ndim == 0:
        (case["reconstruction_loss"] + weight * case["generator_loss"]).backward()
        gradient = case["last_layer"].grad
    return {"weight": weight, "gradient of the training step": gradient}


def _weighed(weigh=lambda r, g, delta: r.norm() / (g.norm() + delta), limit=1e4, **how):
    """adaptive_weight by another formula of (gradient of reconstruction, of the generator's loss,
    delta).
    """
    how = {"retain_graph": True, **how}

    def answer(reconstruction_loss, generator_loss, last_layer, delta):
        losses = (reconstruction_loss, generator_loss)
        r, g = (torch.autograd.grad(loss, last_layer, **how)[0] for loss in losses)
        return weigh(r, g, delta).clamp(max=limit)

    return answer


ADAPTIVE_WEIGHT = Exercise(
    id="vqgan.adaptive_weight",
    reference=adversarial.adaptive_weight,
    cases=_weight_cases,
    probe=_training_step,
    equation="VQGAN, Eq. 7",
    points=3,
    stars=3,
    minutes=12,
    misconceptions={
        "upside_down": (
            _weighed(lambda r, g, delta: g.norm() / (r.norm() + delta)),
            "The fraction is upside down. Eq. 7 has the reconstruction's gradient on top: the"
            " weaker the discriminator's, the more it must be raised to be as strong.",
        ),
        "delta_in_the_norm": (
            _weighed(lambda r, g, delta: r.norm() / (g + delta).norm()),
            "You added delta to the gradient. In Eq. 7 it is added to its norm, one number.",
        ),
        "no_delta": (
            _weighed(lambda r, g, delta: r.norm() / g.norm()),
            "delta is missing below the line: Eq. 7 divides by the norm plus delta.",
        ),
        "delta_outside": (
            _weighed(lambda r, g, delta: r.norm() / g.norm().clamp(min=1e-12) + delta),
            "You added delta to the fraction. It belongs below the line, where it keeps Eq. 7 from"
            " dividing by 0.",
        ),
        "losses_compared": (
            lambda reconstruction_loss, generator_loss, last_layer, delta: (
                (reconstruction_loss / (generator_loss.abs() + delta)).clamp(max=1e4).detach()
            ),
            "You compared the losses. Eq. 7 compares how hard they pull: the norms of their"
            " gradients on the decoder's last layer.",
        ),
        "not_detached": (
            _weighed(create_graph=True),
            "The weight is right, the training step with it is not: a gradient flows through the"
            " weight itself. It is a number, so detach it and do without `create_graph`.",
        ),
        "graph_freed": (
            _weighed(retain_graph=False),
            "`autograd.grad` throws the graph away behind it, and both the second loss and the"
            " training step still need it: `retain_graph=True`.",
        ),
        "not_clamped": (
            _weighed(limit=float("inf")),
            "Right until the discriminator has no gradient: then the weight is |grad| / delta,"
            " which is huge. Hold it at 1e4 at most, as the official code does.",
        ),
        "squared_norms": (
            _weighed(lambda r, g, delta: r.square().sum() / (g.square().sum() + delta)),
            "You divided squared norms. Take the roots: Eq. 7 compares lengths.",
        ),
        "absolute_norms": (
            _weighed(lambda r, g, delta: r.abs().sum() / (g.abs().sum() + delta)),
            "You summed absolute values. The length of a gradient is the root of the sum of"
            " squares, `.norm()`.",
        ),
        "mean_gradients": (
            _weighed(
                lambda r, g, delta: r.square().mean().sqrt() / (g.square().mean().sqrt() + delta)
            ),
            "You averaged over the weights before the root. The scale would cancel, if delta did"
            " not stand beside it: sum the squares, `.norm()`.",
        ),
    },
)


# ---------------------------------------------------------------- causal_mask


def _mask_cases(rng):
    past = int(torch.randint(1, 6, (), generator=rng))
    return [{"m": m, "n": n} for m, n in [(5, 5), (3, 7), (1, 4), (4, 4 + past), (1, 1)]]


def _masked(cut):
    """causal_mask from a full one (m n)."""
    return lambda m, n: cut(torch.ones(m, n, dtype=torch.bool), n - m)


CAUSAL_MASK = Exercise(
    id="vqgan.causal_mask",
    reference=attention.causal_mask,
    cases=_mask_cases,
    equation="VQGAN, section 3.2 and Eq. 8",
    points=1,
    stars=2,
    minutes=6,
    misconceptions={
        "from_the_first_key": (
            _masked(lambda full, past: full.tril()),
            "Right without a past. The rows are the last m of n tokens: row i is token n - m + i,"
            " and sees all before it too. Shift the diagonal by n - m.",
        ),
        "strict": (
            _masked(lambda full, past: full.tril(past - 1)),
            "Your tokens do not see themselves. The prediction of the next one must know the"
            " present one: the diagonal is True.",
        ),
        "future": (
            _masked(lambda full, past: full.triu(past)),
            "Your tokens see what comes and not what was. In p(s_i | s_<i) the lower triangle is"
            " seen: `tril`.",
        ),
        "hidden_is_true": (
            _masked(lambda full, past: ~full.tril(past)),
            "True marks what is hidden in your mask. Here, and in `scaled_dot_product_attention`,"
            " True is what may be looked at.",
        ),
        "additive": (
            _masked(
                lambda full, past: torch.zeros(full.shape).masked_fill(~full.tril(past), -torch.inf)
            ),
            "That is the mask in its additive form, 0 and minus infinity. True and False are"
            " wanted, True where a token may look.",
        ),
        "numbers": (
            _masked(lambda full, past: full.tril(past).float()),
            "Your mask holds the numbers 1 and 0. Attention would add those to the logits and hide"
            " nothing: make it boolean.",
        ),
        "square": (
            lambda m, n: torch.ones(n, n, dtype=torch.bool).tril(),
            "You made a row for each of the n tokens. Only the last m ask; those before them are in"
            " the cache: take the last m rows.",
        ),
        "keys_first": (
            lambda m, n: torch.ones(m, n, dtype=torch.bool).tril(n - m).T,
            "Your mask lies on its side: rows are queries (m), columns are keys (n).",
        ),
        "no_mask": (
            _masked(lambda full, past: full),
            "Every token sees every other. In p(s_i | s_<i) a token sees none that comes after it.",
        ),
    },
)


# ---------------------------------------------------------------- top_k_sample


def _top_k_cases(rng):
    """Vocabularies of other sizes; one token, and all of them; u = 0 where the first tokens are not
    among the k.
    """
    cases = [
        {
            "logits": 2 * torch.randn(b, v, generator=rng),
            "k": k,
            "temperature": temperature,
            "uniform": 0.999 * torch.rand(b, generator=rng),
        }
        for b, v, k, temperature in [
            (40, 11, 4, 0.7),
            (30, 9, 3, 2.5),
            (25, 6, 6, 1.6),
            (7, 8, 1, 1.0),
        ]
    ]
    start = 2 * torch.randn(5, 10, generator=rng)
    start[:, :2] -= 20
    uniform = torch.tensor([0.0, 0.0, 0.3, 0.6, 0.0])
    return [*cases, {"logits": start, "k": 5, "temperature": 0.8, "uniform": uniform}]


def _keep(logits, k):
    return logits.masked_fill(logits < logits.topk(k).values[:, -1:], -torch.inf)


def _draw(p, uniform):
    """The first token whose cumulative probability exceeds u, in the order of the vocabulary."""
    return (p.cumsum(-1) <= uniform[:, None]).sum(-1)


def _drawn(
    probabilities=lambda logits, k, temperature: (_keep(logits, k) / temperature).softmax(-1),
    draw=_draw,
):
    """top_k_sample with other probabilities, or another draw from them."""
    return lambda logits, k, temperature, uniform: draw(
        probabilities(logits, k, temperature), uniform
    )


def _not_renormalised(logits, k, temperature):
    p = (logits / temperature).softmax(-1)
    return p * (_keep(logits, k) > -torch.inf)


def _without(dropped):
    """The softmax after another choice of what to drop."""
    return lambda logits, k, temperature: (
        logits.masked_fill(dropped(logits, k), -torch.inf) / temperature
    ).softmax(-1)


def _sorted_draw(logits, k, temperature, uniform):
    """Ranks, in the order from the most probable token on, and the tokens in this order."""
    best = logits.topk(k)
    return _draw((best.values / temperature).softmax(-1), uniform), best.indices


def _drawn_in_order(logits, k, temperature, uniform):
    ranks, tokens = _sorted_draw(logits, k, temperature, uniform)
    return tokens.gather(1, ranks[:, None])[:, 0]


TOP_K_SAMPLE = Exercise(
    id="vqgan.top_k_sample",
    reference=sampling.top_k_sample,
    cases=_top_k_cases,
    equation="VQGAN, Table 4 (top-k sampling)",
    points=3,
    stars=3,
    minutes=12,
    misconceptions={
        "most_probable": (
            lambda logits, k, temperature, uniform: logits.argmax(-1),
            "You always take the most probable token. Draw one: `uniform` decides which.",
        ),
        "not_filtered": (
            _drawn(lambda logits, k, temperature: (logits / temperature).softmax(-1)),
            "All tokens can be drawn. Only the k with the greatest logits stay; the others get"
            " minus infinity.",
        ),
        "not_renormalised": (
            _drawn(_not_renormalised),
            "You threw tokens out after the softmax and left the rest short of 1, so that a large u"
            " finds no token. Put the filter before the softmax, or divide by the new sum.",
        ),
        "least_probable": (
            _drawn(_without(lambda logits, k: logits > logits.sort().values[:, k - 1 : k])),
            "You kept the k smallest logits: `sort` and `argsort` begin with the smallest. `topk`"
            " gives the greatest.",
        ),
        "one_too_few": (
            _drawn(_without(lambda logits, k: logits <= logits.topk(k).values[:, -1:])),
            "You threw the k-th token out with the rest: keep what equals the k-th logit, remove"
            " what is below it.",
        ),
        "temperature_ignored": (
            _drawn(lambda logits, k, temperature: _keep(logits, k).softmax(-1)),
            "The temperature is missing: divide the logits by it before the softmax.",
        ),
        "temperature_multiplied": (
            _drawn(lambda logits, k, temperature: (_keep(logits, k) * temperature).softmax(-1)),
            "You multiplied with the temperature. Divide: a low temperature makes the differences"
            " larger, the draw surer.",
        ),
        "temperature_after_softmax": (
            _drawn(lambda logits, k, temperature: _keep(logits, k).softmax(-1) / temperature),
            "You divided probabilities by the temperature. It belongs to the logits, before the"
            " softmax.",
        ),
        "rank_returned": (
            lambda logits, k, temperature, uniform: _sorted_draw(logits, k, temperature, uniform)[
                0
            ],
            "You return a place in the sorted list, from 0 to k - 1. Look up which token stands"
            " there.",
        ),
        "order_of_probability": (
            _drawn_in_order,
            "Your probabilities are right, but you walk from the most probable token down. The task"
            " says in the order of the vocabulary, so that one u gives everyone the same token.",
        ),
        "zero_drawn": (
            _drawn(draw=lambda p, uniform: (p.cumsum(-1) < uniform[:, None]).sum(-1)),
            "At u = 0 you draw the very first token, though its probability may be 0. The"
            " cumulative probability must exceed u, not reach it.",
        ),
        "one_number_for_all": (
            _drawn(draw=lambda p, uniform: _draw(p, uniform[:1].expand(len(p)))),
            "All rows used the first number. Every row has its own: `uniform[:, None]`.",
        ),
        "from_above": (
            _drawn(draw=lambda p, uniform: _draw(p, 1 - uniform)),
            "You compared with 1 - u. The token is the first whose cumulative probability"
            " exceeds u.",
        ),
    },
)


# ---------------------------------------------------------------- sliding_window


def _window_cases(rng):
    places = [(0, 0), (8, 11), (4, 6), (1, 10), (7, 1)]
    drawn = [tuple(int(torch.randint(0, n, (), generator=rng)) for n in (7, 13)) for _ in range(2)]
    asked = [
        *((place, (9, 12), (4, 5)) for place in places),
        *((place, (7, 13), (5, 4)) for place in drawn),
        ((2, 1), (3, 5), (3, 5)),  # the window is the grid
        ((3, 0), (6, 4), (1, 1)),
    ]
    return [
        {"row": r, "column": c, "grid": grid, "window": window} for (r, c), grid, window in asked
    ]


def _placed(edge):
    """sliding_window by another rule of (place, side of the grid, side of the window) for each of
    the two axes.
    """

    def answer(row, column, grid, window):
        return edge(row, grid[0], window[0]), edge(column, grid[1], window[1])

    return answer


def _inside(start, whole, size):
    return max(0, min(start, whole - size))


SLIDING_WINDOW = Exercise(
    id="vqgan.sliding_window",
    reference=vqgan.sliding_window,
    cases=_window_cases,
    equation="VQGAN, Figure 3",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "not_held": (
            _placed(lambda place, whole, size: place - size // 2),
            "Right in the middle of the grid. Near its border your window hangs over: all of it"
            " must fit, so hold top and left between 0 and grid - window.",
        ),
        "start_alone": (
            _placed(lambda place, whole, size: max(place - size // 2, 0)),
            "Your window hangs over the bottom and the right of the grid: top is grid[0] -"
            " window[0] at most, and left likewise.",
        ),
        "end_alone": (
            _placed(lambda place, whole, size: min(place - size // 2, whole - size)),
            "Your window begins before the grid, at a negative place: top and left are 0 at least.",
        ),
        "code_in_the_corner": (
            _placed(lambda place, whole, size: _inside(place, whole, size)),
            "The code stands in the window's upper left corner, with nothing before it to go by."
            " Figure 3 puts it in the middle: start half a window earlier.",
        ),
        "code_at_the_end": (
            _placed(lambda place, whole, size: _inside(place - size + 1, whole, size)),
            "The code stands in the window's last place. Figure 3 puts it in the middle: start half"
            " a window earlier.",
        ),
        "half_a_place_off": (
            _placed(lambda place, whole, size: _inside(place - (size - 1) // 2, whole, size)),
            "A window of even size has no middle place. Take the later one: place - size // 2, so"
            " that the code has as much behind it as there can be.",
        ),
        "row_and_column_swapped": (
            lambda row, column, grid, window: vqgan.sliding_window(row, column, grid, window)[::-1],
            "You return (left, top). Rows come first: (top, left).",
        ),
        "sides_swapped": (
            lambda row, column, grid, window: vqgan.sliding_window(
                row, column, grid[::-1], window[::-1]
            ),
            "You measured rows with widths. `grid` and `window` are (rows, columns): the row goes"
            " with [0], the column with [1].",
        ),
        "in_blocks": (
            _placed(lambda place, whole, size: _inside(place // size * size, whole, size)),
            "Your windows are laid side by side, so a code at the edge of one sees nothing beyond."
            " Figure 3 moves the window along with the code.",
        ),
    },
)

EXERCISES = [
    NEAREST_CODE,
    STRAIGHT_THROUGH,
    VQ_LOSS,
    EMA_UPDATE,
    HINGE_LOSS,
    ADAPTIVE_WEIGHT,
    CAUSAL_MASK,
    TOP_K_SAMPLE,
    SLIDING_WINDOW,
]
