"""Notebook 04: the quantizer, the loss with its discriminator, and the transformer on codes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.checking import Exercise, call_by_name, edit
from course_lib.lm import sampling
from course_lib.losses import adversarial
from course_lib.nn import attention
from course_lib.papers import vqgan
from course_lib.quantize import vq

# ---------------------------------------------------------------- nearest_code


def _nearest_cases(rng):
    """Codes of many lengths; ties; one vector with a gradient, as in the chapter's next section."""
    directions = torch.randn(6, 3, generator=rng)
    codebook = directions * (0.3 + 2 * torch.rand(6, 1, generator=rng))
    z = torch.randn(60, 3, generator=rng)
    nearest = torch.cdist(z, codebook).sort(dim=1).values
    in_doubt = (nearest[:, 1] - nearest[:, 0]).argsort()  # rounding may not decide
    cases = [{"z": z[in_doubt[20:]], "codebook": codebook}]

    # The first three vectors are as near to one code as to another, the fourth equals two codes.
    z = [[1, 0], [2, 2], [-2, 2], [7, 7], [3, 4], [6, 1], [-4, -1], [0, 0], [5, -3], [-1, 3]]
    codebook = [[7, 7], [0, 0], [2, 0], [4, 4], [7, 7], [-4, 4], [8, -1], [0, 0]]
    cases.append({"z": torch.tensor(z).float(), "codebook": torch.tensor(codebook).float()})

    fixed = torch.Generator().manual_seed(0)
    z = torch.tensor([[0.3, -0.2]], requires_grad=True)
    cases.append({"z": z, "codebook": 0.5 * torch.randn(60, 2, generator=fixed)})

    codebook = 0.5 * torch.randn(256, 16, generator=fixed)  # as many codes as the tokenizer's
    z = codebook[::37] + 0.2 * torch.randn(7, 16, generator=fixed)
    cases.append({"z": z.double(), "codebook": codebook.double()})
    return cases


def _distance_to_nearest(z, codebook):
    return (z[:, None] - codebook).square().sum(-1).amin(1)


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
            edit("torch.addmm(norms, part, codebook.T, alpha=-2)", "(-part @ codebook.T)"),
            "You took the code with the largest product, so long codes win. Eq. 2 wants the"
            " smallest distance, in which the code's own length counts too: ||e||^2 - 2 z e.",
        ),
        "cosine": (
            edit(
                "torch.addmm(norms, part, codebook.T, alpha=-2)",
                "(-F.normalize(part) @ F.normalize(codebook).T)",
            ),
            "You compared directions. Eq. 2 compares places: a code in the same direction may be"
            " far away.",
        ),
        "half_the_product": (
            edit("alpha=-2", "alpha=-1"),
            "The product counts twice: ||z - e||^2 = ||z||^2 - 2 z e + ||e||^2.",
        ),
        "manhattan": (
            edit(
                "torch.addmm(norms, part, codebook.T, alpha=-2)",
                "(part[:, None] - codebook).abs().sum(-1)",
            ),
            "You added up absolute differences. The norm of Eq. 2 is the Euclidean one: squares.",
        ),
        "farthest": (
            edit("argmin", "argmax"),
            "That is the farthest code. The distance should be smallest: `argmin`.",
        ),
        "vector_of_each_code": (
            edit(
                "torch.addmm(norms, part, codebook.T, alpha=-2).argmin(dim=1)",
                "torch.cdist(part, codebook).argmin(dim=0)",
            ),
            "You found the nearest vector of every code. Eq. 2 asks the other way round: for each"
            " of the n vectors one of the k codes.",
        ),
        "distances_returned": (
            _distance_to_nearest,
            "That is how far away the nearest code is. Eq. 2 has an arg min: which code it is, a"
            " whole number.",
        ),
        "codes_returned": (
            lambda z, codebook: codebook[vq.nearest_code(z, codebook)],
            "You looked the codes up already. Their numbers are wanted, (n,): they are the tokens"
            " that the transformer will predict.",
        ),
        "last_on_ties": (
            edit("[torch", "[len(codebook) - 1 - torch", ".argmin", ".flip(1).argmin"),
            "All right but a tie: where two codes are equally near, the lower number is wanted,"
            " which is what `argmin` gives.",
        ),
    },
)


# ---------------------------------------------------------------- straight_through


def _quantized_cases(rng):
    """Shapes of one to four axes; zeros, equal entries and the chapter's own numbers; float64."""
    cases = []
    for shape in [(5, 3), (2, 4, 3, 6)]:
        z = torch.randn(shape, generator=rng)
        z_q = torch.randn(shape, generator=rng)
        cases.append({"z": z, "z_q": z_q})
    cases.append({"z": torch.tensor([[0.3, -0.2]]), "z_q": torch.tensor([[0.5, 0.0]])})
    cases.append({"z": torch.tensor([1.5]), "z_q": torch.tensor([-0.5])})

    z = torch.tensor([[0.0, 1.0, -2.0], [4.0, 0.5, -1.0]])
    z_q = torch.tensor([[0.5, 1.0, -3.0], [1.0, 0.0, -1.0]])
    cases.append({"z": z.double(), "z_q": z_q.double()})
    return cases


STRAIGHT_THROUGH = Exercise(
    id="vqgan.straight_through",
    reference=vq.straight_through,
    cases=_quantized_cases,
    gradients=("z", "z_q"),
    equation="VQ-VAE, Section 3.2; VQGAN, Section 3.1",
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
            edit(" + (z - z.detach())", ""),
            "The value is right, but no gradient comes through at all: the decoder could teach the"
            " encoder nothing. Add z in such a way that only its gradient remains.",
        ),
        "both": (
            lambda z, z_q: z_q + z - z.detach(),
            "z gets its gradient, but so does z_q. Section 3.2 passes it to z only: the codes learn"
            " from the codebook loss.",
        ),
        "not_quantised": (
            lambda z, z_q: z,
            "You returned z. The decoder must see the codes: forward z_q, backward the gradient"
            " of z.",
        ),
        "places_swapped": (
            lambda z, z_q: z_q + (z - z_q).detach(),
            "You swapped z and z_q: the value must be z_q's, the gradient z's.",
        ),
        "gradient_turned": (
            edit("z_q.detach() + (", "z_q.detach() - ("),
            "The value is right, but the gradient has the wrong sign: training would drive the"
            " encoder uphill. Add z, and subtract it detached.",
        ),
        "difference": (
            lambda z, z_q: (z_q - z).detach(),
            "That is only the step from z to its code. Add z to it.",
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
    """Shapes of one to four axes, every beta another, VQGAN's 1 among them; float64."""
    random = [torch.randn(2, *shape, generator=rng) for shape in [(5, 3), (2, 4, 3, 6), (4,)]]
    z = torch.tensor([[0.0, 1.0, -2.0], [4.0, 0.5, -1.0]]).double()
    z_q = torch.tensor([[0.5, 1.0, -3.0], [1.0, 0.0, -1.0]]).double()
    pairs = [*random, (z, z_q)]
    return [
        {"z": z, "z_q": z_q, "beta": beta}
        for (z, z_q), beta in zip(pairs, (0.25, 2.0, 0.6, 1), strict=True)
    ]


def _summed_over_channels(z, z_q, beta):
    channels = min(1, z.ndim - 1)
    codebook = (z.detach() - z_q).square().sum(channels).mean()
    commitment = (z - z_q.detach()).square().sum(channels).mean()
    return codebook + beta * commitment


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
            edit("F.mse_loss(z_q", "beta * F.mse_loss(z_q", "+ beta * F", "+ F"),
            "The value is right, the gradients are not: your beta multiplies the term that moves"
            " the codes. It belongs to the commitment, ||z - sg[z_q]||^2. The published code had"
            " the same slip.",
        ),
        "no_stop_gradient": (
            lambda z, z_q, beta: (1 + beta) * F.mse_loss(z, z_q),
            "The value is right, but both terms pull at both sides. sg[.] is `.detach()`: the first"
            " term moves only the codes, the second only the encoder.",
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
            edit("+ beta *", "+"),
            "beta is missing: it weighs the commitment, the second term of Eq. 3.",
        ),
        "no_commitment": (
            edit("+ beta *", "+ 0 *"),
            "That is only the codebook's term. The second, beta ||z - sg[z_q]||^2, keeps the"
            " encoder near its codes.",
        ),
        "no_codebook_term": (
            edit("F.mse_loss(z_q", "0 * F.mse_loss(z_q"),
            "That is only the commitment. The first term, ||sg[z] - z_q||^2, moves the codes to"
            " the vectors.",
        ),
        "summed": (
            edit(
                "z.detach())",
                'z.detach(), reduction="sum")',
                "z_q.detach())",
                'z_q.detach(), reduction="sum")',
            ),
            "You summed over all entries. The course takes means, as the official code does: then"
            " beta means the same whatever the size of the grid.",
        ),
        "summed_over_channels": (
            _summed_over_channels,
            "You summed over the numbers of a vector and took the mean of the rest. The mean is"
            " over all entries, channels too.",
        ),
        "not_squared": (
            edit("F.mse_loss(z_q", "F.l1_loss(z_q", "F.mse_loss(z,", "F.l1_loss(z,"),
            "You took absolute differences. Eq. 4 squares them.",
        ),
    },
)


# ---------------------------------------------------------------- ema_update


def _ema_cases(rng):
    """In each case a code with neither a past nor vectors, the last one.

    Others have no vectors this time: one with a past, and one whose count is nearly forgotten.  The
    first case starts from nothing, with most codes out of reach, as the chapter's figure does.
    """
    fixed = torch.Generator().manual_seed(0)
    cases = [_ema_case(fixed, 16, 2, 5 * [0, 3, 3, 7, 0, 12, 3], 0.9, 1e-5)]
    cases[0]["counts"] = torch.zeros(16)
    cases[0]["sums"] = torch.zeros(16, 2)
    cases.append(_ema_case(rng, 5, 3, [0, 0, 1, 3, 0, 1, 0, 3], 0.8, 0.05))
    cases.append(_ema_case(rng, 6, 4, [0, 2, 0], 0.6, 0.01))
    cases.append(_ema_case(fixed, 4, 2, [2], 0.99, 1e-5))
    return cases


def _ema_case(rng, k, d, indices, decay, eps):
    codebook = torch.randn(k, d, generator=rng)
    counts = 1 + 4 * torch.rand(k, generator=rng)
    counts[1] = eps / 100  # nearly forgotten, but not 0
    counts[-1] = 0
    return {
        "codebook": codebook,
        "counts": counts,
        "sums": counts[:, None] * (codebook + 0.2 * torch.randn(k, d, generator=rng)),
        "z": torch.randn(len(indices), d, generator=rng),
        "indices": torch.tensor(indices),
        "decay": decay,
        "eps": eps,
    }


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
            edit(
                "counts * decay + (1 - decay) * n",
                "counts * (1 - decay) + decay * n",
                "sums * decay + (1 - decay) * added",
                "sums * (1 - decay) + decay * added",
            ),
            "Your decay multiplies the new batch. It says how much of the past stays: decay * old +"
            " (1 - decay) * new.",
        ),
        "counts_not_decayed": (
            edit("counts * decay + (1 - decay) * n", "counts + n"),
            "Your counts only grow, while the sums forget. Both are moving averages (appendix A.1),"
            " or the codes shrink towards 0.",
        ),
        "sums_not_decayed": (
            edit("sums * decay + (1 - decay) * added", "sums + added"),
            "Your sums only grow, while the counts forget. Both are moving averages (appendix A.1),"
            " with one decay.",
        ),
        "not_smoothed": (
            edit("(counts + eps) / (total + len(counts) * eps) * total", "counts"),
            "Counts and sums are right, but you divided before smoothing. Divide by (count + eps) /"
            " (total + k eps) * total, so that a code with next to no count does not fly away.",
        ),
        "eps_alone": (
            edit(" / (total + len(counts) * eps) * total", ""),
            "You added eps and stopped there. The smoothed counts must still add up to the same"
            " total: divide by (total + k eps), multiply by the total.",
        ),
        "total_forgotten": (
            edit("smooth[:, None]", "(smooth / total)[:, None]"),
            "You divided by shares that add up to 1. Multiply them by the total: a sum is divided"
            " by a count.",
        ),
        "smoothed_kept": (
            edit("return codebook, counts", "return codebook, smooth"),
            "The codes are right, but you return the smoothed counts, which would be smoothed again"
            " next time. The smoothing is only for the division.",
        ),
        "unused_to_zero": (
            edit(
                "torch.where(counts[:, None] > 0, sums / smooth[:, None], codebook)",
                "sums / smooth[:, None]",
            ),
            "A code that never got a vector has sum 0 and count 0, and you moved it to 0. It stays"
            " where it is: look at the last row of the codebook.",
        ),
        "only_where_used": (
            edit(
                "counts * decay + (1 - decay) * n",
                "torch.where(n > 0, counts * decay + (1 - decay) * n, counts)",
                "sums * decay + (1 - decay) * added",
                "torch.where(n[:, None] > 0, sums * decay + (1 - decay) * added, sums)",
            ),
            "You left codes as they were that got no vector this time. Their counts and sums decay"
            " as well: they got n = 0.",
        ),
        "codes_averaged": (
            edit(
                "torch.where(counts[:, None] > 0, sums / smooth[:, None], codebook)",
                "torch.where(n[:, None] > 0, decay * codebook"
                " + (1 - decay) * (added / n.clamp(min=1)[:, None]), codebook)",
            ),
            "You averaged the codes themselves. Appendix A.1 averages counts and sums and divides"
            " afterwards, so that a batch with many vectors counts more than one with few.",
        ),
        "batch_means": (
            edit(
                "torch.where(counts[:, None] > 0, sums / smooth[:, None], codebook)",
                "torch.where(n[:, None] > 0, added / n.clamp(min=1)[:, None], codebook)",
            ),
            "Your codes are the means of only this batch; the next one would throw them elsewhere."
            " Divide the averaged sums by the averaged counts.",
        ),
        "means_added": (
            edit("(1 - decay) * added", "(1 - decay) * (added / n.clamp(min=1)[:, None])"),
            "You averaged means. Appendix A.1 averages the sum of a code's vectors; the counts"
            " divide it later.",
        ),
        "old_counts": (
            edit(
                "    counts = counts",
                "    old = counts\n    counts = counts",
                "total = counts.sum()",
                "total = old.sum()",
                "(counts + eps)",
                "(old + eps)",
            ),
            "You divided the new sums by the old counts. Appendix A.1 takes both of this step.",
        ),
    },
)


# ---------------------------------------------------------------- hinge_loss


def _hinge_cases(rng):
    """Logits on both sides of the margins; unequal numbers; a single one; PatchGAN's own shape.

    Real ones are above the margin on average.
    """
    real, fake = (1.5 * torch.randn(2, 1, 3, 4, generator=rng) + shift for shift in (2, -0.2))
    few = torch.tensor([2.7, 0.2, 1.4]).double()
    more = torch.tensor([-0.5, -2.0, 0.3, 1.6, -1.1]).double()
    patches, others = (torch.randn(16, 1, 6, 6, generator=rng) + shift for shift in (2, -0.5))
    return [
        {"real": real, "fake": fake},
        {"real": few, "fake": more},
        {"real": torch.tensor(-0.25), "fake": torch.tensor(-3.0)},
        {"real": patches, "fake": others},
    ]


def _one_mean(real, fake):
    return torch.cat([F.relu(1 - real).flatten(), F.relu(1 + fake).flatten()]).mean()


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
            edit(".mean()) / 2", ".mean())"),
            "Your loss is twice too large: the official code halves the sum of the two means.",
        ),
        "sign_swapped": (
            edit("1 - real", "1 + real", "1 + fake", "1 - fake"),
            "The signs are swapped: that rewards low logits for real images. Real ones should be"
            " above 1, max(0, 1 - D(x)), fakes below -1.",
        ),
        "same_sign": (
            edit("1 + fake", "1 - fake"),
            "You treat real and fake alike. A fake should be below -1: max(0, 1 + D(x^)).",
        ),
        "non_saturating": (
            adversarial.non_saturating_discriminator_loss,
            "That is Eq. 5 with logarithms, as in the paper. Training uses the hinge: a straight"
            " line that ends at the margin, max(0, 1 - D(x)) and max(0, 1 + D(x^)).",
        ),
        "no_margin": (
            edit("1 - real", "-real", "1 + fake", "fake"),
            "The margin is missing: a logit barely on the right side is not enough yet. 1 - D(x)"
            " and 1 + D(x^).",
        ),
        "no_maximum": (
            edit("F.relu(1 - real)", "(1 - real)", "F.relu(1 + fake)", "(1 + fake)"),
            "The maximum with 0 is missing. Beyond the margin there is nothing more to gain;"
            " without it the logits run off to infinity.",
        ),
        "mean_first": (
            edit(
                "F.relu(1 - real).mean()",
                "F.relu(1 - real.mean())",
                "F.relu(1 + fake).mean()",
                "F.relu(1 + fake.mean())",
            ),
            "You averaged the logits and then cut them off. Every patch has a margin of its own:"
            " cut first, then take the mean.",
        ),
        "least_squares": (
            edit(
                "F.relu(1 - real)",
                "(1 - real).square()",
                "F.relu(1 + fake)",
                "(1 + fake).square()",
            ),
            "You squared the distance from the targets, which punishes logits that are better than"
            " asked for. The hinge is max(0, 1 - D(x)).",
        ),
        "one_mean": (
            _one_mean,
            "You put real and fake logits together. With different numbers of them one side would"
            " count more: take a mean of each, then half their sum.",
        ),
        "generators": (
            lambda real, fake: -fake.mean() + 0 * real.mean(),
            "That is the generator's loss. The discriminator's is asked for: it looks at real"
            " images as well.",
        ),
    },
)


# ---------------------------------------------------------------- adaptive_weight


def _weight_cases(rng):
    """Two losses that share the decoder's last layer, the adversary from loud to without gradient.

    The last case has the shape, losses and delta of the chapter's training.
    """
    fixed = torch.Generator().manual_seed(0)
    return [
        _weight_case(rng, (2, 4, 5), (3, 4, 3, 2), 0.02, loudness=1),
        _weight_case(rng, (3, 2, 6), (1, 2, 3, 2), 0.1, loudness=0.5),
        _weight_case(fixed, (1, 3, 4), (2, 3, 1, 1), 1e-3, loudness=100),
        _weight_case(fixed, (2, 3, 4), (1, 3, 3, 2), 1e-6, loudness=0),
        _weight_case(fixed, (2, 3, 4), (1, 3, 3, 2), 1e-3, loudness=0.02),
        _weight_case(fixed, (2, 8, 6), (3, 8, 3, 3), 1e-4, loudness=1e-3, power=1),
    ]


@torch.enable_grad()
def _weight_case(rng, features, last_layer, delta, loudness, power=2):
    b, d, side = features
    x = torch.randn(b, d, side, side + 1, generator=rng)
    weight = (0.3 * torch.randn(last_layer, generator=rng)).requires_grad_()
    rebuilt = F.conv2d(x, weight)
    image, taste = (torch.randn(rebuilt.shape, generator=rng) for _ in range(2))
    return {
        "reconstruction_loss": (image - rebuilt).abs().pow(power).mean(),
        "generator_loss": -(loudness * taste * rebuilt.tanh()).mean(),
        "last_layer": weight,
        "delta": delta,
    }


def _training_step(answer, case):
    """Return the weight, and the gradient of a training step with it.

    The gradient finds an answer that spoils the graph.
    """
    weight = call_by_name(answer, case)
    gradient = None
    if isinstance(weight, Tensor) and weight.ndim == 0:
        (case["reconstruction_loss"] + weight * case["generator_loss"]).backward()
        gradient = case["last_layer"].grad
    return {"weight": weight, "gradient of the training step": gradient}


def _losses_compared(reconstruction_loss, generator_loss, last_layer, delta):
    weight = reconstruction_loss / (generator_loss.abs() + delta)
    return weight.clamp(max=1e4).detach()


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
            edit("r.norm() / (g.norm() + delta)", "g.norm() / (r.norm() + delta)"),
            "The fraction is upside down. Eq. 7 has the reconstruction's gradient on top: the"
            " weaker the discriminator's, the more it must be raised to be as strong.",
        ),
        "delta_in_the_norm": (
            edit("(g.norm() + delta)", "(g + delta).norm()"),
            "You added delta to the gradient. In Eq. 7 it is added to its norm, one number.",
        ),
        "no_delta": (
            edit("(g.norm() + delta)", "g.norm()"),
            "delta is missing below the line: Eq. 7 divides by the norm plus delta.",
        ),
        "delta_outside": (
            edit("(g.norm() + delta)", "g.norm().clamp(min=1e-12) + delta"),
            "You added delta to the fraction. It belongs below the line, where it keeps Eq. 7 from"
            " dividing by 0.",
        ),
        "losses_compared": (
            _losses_compared,
            "You compared the losses. Eq. 7 compares how hard they pull: the norms of their"
            " gradients on the decoder's last layer.",
        ),
        "not_detached": (
            edit(
                "reconstruction_loss, last_layer, retain",
                "reconstruction_loss, last_layer, create",
                "generator_loss, last_layer, retain",
                "generator_loss, last_layer, create",
                ".detach()",
                "",
            ),
            "The weight is right, the training step with it is not: a gradient flows through the"
            " weight itself. It is a number, so detach it and leave out `create_graph`.",
        ),
        "graph_freed": (
            edit(
                "reconstruction_loss, last_layer, retain_graph=True",
                "reconstruction_loss, last_layer",
                "generator_loss, last_layer, retain_graph=True",
                "generator_loss, last_layer",
            ),
            "`autograd.grad` frees the graph afterwards, and both the second loss and the training"
            " step still need it: `retain_graph=True`.",
        ),
        "not_clamped": (
            edit(".clamp(0, 1e4)", ""),
            "Right until the discriminator has no gradient: then the weight is |grad| / delta,"
            " which is huge. Hold it at 1e4 at most, as the official code does.",
        ),
        "squared_norms": (
            edit(
                "r.norm() / (g.norm() + delta)",
                "r.square().sum() / (g.square().sum() + delta)",
            ),
            "You divided squared norms. Take the roots: Eq. 7 compares lengths.",
        ),
        "absolute_norms": (
            edit("r.norm() / (g.norm() + delta)", "r.abs().sum() / (g.abs().sum() + delta)"),
            "You summed absolute values. The length of a gradient is the root of the sum of"
            " squares, `.norm()`.",
        ),
        "mean_gradients": (
            edit(
                "r.norm() / (g.norm() + delta)",
                "r.square().mean().sqrt() / (g.square().mean().sqrt() + delta)",
            ),
            "You averaged over the weights before the root. The scale would cancel if delta were"
            " not added to it: sum the squares, `.norm()`.",
        ),
    },
)


# ---------------------------------------------------------------- causal_mask


def _mask_cases(rng):
    """No past, a past of several lengths, a single query, and the chapter's 64 codes."""
    sizes = [(5, 5), (3, 7), (4, 6), (3, 9), (1, 4), (6, 6), (64, 64), (8, 64)]
    return [{"m": m, "n": n} for m, n in sizes]


CAUSAL_MASK = Exercise(
    id="vqgan.causal_mask",
    reference=attention.causal_mask,
    cases=_mask_cases,
    equation="VQGAN, Section 3.2 and Eq. 8",
    points=1,
    stars=2,
    minutes=6,
    misconceptions={
        "from_the_first_key": (
            edit(".tril(n - m)", ".tril()"),
            "Right without a past. The rows are the last m of n tokens: row i is token n - m + i,"
            " and sees all before it too. Shift the diagonal by n - m.",
        ),
        "strict": (
            edit(".tril(n - m)", ".tril(n - m - 1)"),
            "Your tokens do not see themselves. The prediction of the next one must know the"
            " present one: the diagonal is True.",
        ),
        "future": (
            edit("tril", "triu"),
            "Your tokens see what comes and not what was. In p(s_i | s_<i) the lower triangle is"
            " seen: `tril`.",
        ),
        "hidden_is_true": (
            edit("return torch", "return ~torch"),
            "True marks what is hidden in your mask. Here, and in `scaled_dot_product_attention`,"
            " True is what may be looked at.",
        ),
        "additive": (
            lambda m, n: torch.full((m, n), -torch.inf).triu(n - m + 1),
            "That is the mask in its additive form, 0 and minus infinity. True and False are"
            " wanted, True where a token may look.",
        ),
        "numbers": (
            edit(", dtype=torch.bool", ""),
            "Your mask holds the numbers 1 and 0. Attention would add those to the logits and hide"
            " nothing: make it boolean.",
        ),
        "square": (
            edit("torch.ones(m, n", "torch.ones(n, n", ".tril(n - m)", ".tril()"),
            "You made a row for each of the n tokens. Only the last m ask; those before them are in"
            " the cache: take the last m rows.",
        ),
        "keys_first": (
            edit(".tril(n - m)", ".tril(n - m).T"),
            "Your mask is transposed: rows are queries (m), columns are keys (n).",
        ),
        "no_mask": (
            edit(".tril(n - m)", ""),
            "Every token sees every other. In p(s_i | s_<i) a token sees none that comes after it.",
        ),
    },
)


# ---------------------------------------------------------------- top_k_sample


def _top_k_cases(rng):
    """Vocabularies of many sizes, the chapter's among them; k = 1 and k = all; ties; u at its ends.

    Where u is drawn it is kept away from the sums: rounding may not decide.
    """
    fixed = torch.Generator().manual_seed(0)
    cases = []
    for source, b, v, k, temperature in [
        (rng, 40, 11, 4, 0.7),
        (rng, 30, 9, 3, 2.5),
        (rng, 25, 6, 6, 1.6),
        (fixed, 20, 8, 1, 1.0),
        (fixed, 8, 256, 64, 1.0),
    ]:
        logits = 2 * torch.randn(b, v, generator=source)
        p = sampling.next_token_probabilities(logits, temperature, k)
        token = p.multinomial(1, generator=source)
        within = 0.1 + 0.8 * torch.rand(b, 1, generator=source)  # its share of the token
        uniform = (p.cumsum(-1) - within * p).gather(1, token)[:, 0]
        cases.append({"logits": logits, "k": k, "temperature": temperature, "uniform": uniform})
    return [*cases, *_ties(), _first_tokens_out(), _last_tokens_out()]


def _ties():
    """Make rows in which more than k tokens stay, and a single row with k = 1."""
    logits = torch.tensor(
        [[2.0, 1, 1, -1, 1], [1, 2, 0, 1, 1], [0, 0, 0, 0, 0], [3, -2, 3, 1, 3], [1, 2, 0, 0, 2]]
    )
    uniform = torch.tensor([0.8, 0.52, 0.5, 0.9, 0.97])
    one = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0]])
    return [
        {"logits": logits, "k": 2, "temperature": 0.5, "uniform": uniform},
        {"logits": one, "k": 1, "temperature": 2.0, "uniform": torch.tensor([0.5])},
    ]


def _first_tokens_out():
    """Make rows with u = 0 where the first tokens are out, and one with very small logits."""
    logits = torch.tensor(
        [
            [-20.0, -9.0, 1.0, 0.5, -3.0, 2.0],
            [-220, -202, -203, -201, -240, -250],
            [0.3, 0.1, -1, 2, -3, -4],
            [0.7, 1, 0.5, 0.9, 0.2, 0],
            [-1, 2, 3, 2.5, 0, 1],
            [1, 0, 0.5, 0.2, 0.9, 1.1],
            [4, 1, 0, 0.5, -1, 2],
        ]
    )
    uniform = torch.tensor([0.0, 0.1, 0.0, 0.5, 0.9, 0.85, 0.99])
    return {"logits": logits, "k": 3, "temperature": 0.8, "uniform": uniform}


def _last_tokens_out():
    """Make rows with the largest u below 1 where the last tokens are out, and a usual one.

    In the first row the sums end below this u: 41 times the float 1/41 is a little less than 1.
    """
    logits = torch.full((3, 44), -5.0)
    logits[0, 1:42] = 1.25
    logits[1, :40] = torch.linspace(0, 1, 40)
    logits[1, 40] = 2
    logits[2, :3] = 0.9
    logits[2, 3:] = torch.linspace(1, 3, 41)
    uniform = torch.tensor([1 - 2**-24, 1 - 2**-24, 0.2])
    return {"logits": logits, "k": 41, "temperature": 0.8, "uniform": uniform}


def _ties_dropped(logits, k, temperature, uniform):
    best = logits.topk(k)
    kept = torch.full_like(logits, -torch.inf).scatter(1, best.indices, best.values)
    return sampling.top_k_sample(kept, k, temperature, uniform)


def _sums_short_of_one(logits, k, temperature, uniform):
    return _first_above(sampling.next_token_probabilities(logits, temperature, k), uniform)


def _last_token_then(logits, k, temperature, uniform):
    token = _sums_short_of_one(logits, k, temperature, uniform)
    return token.clamp(max=logits.shape[1] - 1)


def _first_above(p, uniform):
    """Return the first token whose cumulative probability exceeds u; v where none does."""
    return (p.cumsum(-1) <= uniform[:, None]).sum(-1)


def _not_renormalized(logits, k, temperature, uniform):
    kept = logits >= logits.topk(k).values[:, -1:]
    return _first_above((logits / temperature).softmax(-1) * kept, uniform)


def _least_probable(logits, k, temperature, uniform):
    kept = logits.masked_fill(logits > logits.sort().values[:, k - 1 : k], -torch.inf)
    return _first_above((kept / temperature).softmax(-1), uniform)


def _one_too_few(logits, k, temperature, uniform):
    kept = logits.masked_fill(logits <= logits.topk(k).values[:, -1:], -torch.inf)
    return _first_above((kept / temperature).softmax(-1), uniform)


def _temperature_after_softmax(logits, k, temperature, uniform):
    p = sampling.top_k_filter(logits, k).softmax(-1)
    return _first_above(p / temperature, uniform)


def _rank_returned(logits, k, temperature, uniform):
    best = logits.topk(k).values
    return _first_above((best / temperature).softmax(-1), uniform)


def _order_of_probability(logits, k, temperature, uniform):
    ranks = _rank_returned(logits, k, temperature, uniform)
    return logits.topk(k).indices.gather(1, ranks[:, None])[:, 0]


def _from_above(logits, k, temperature, uniform):
    p = sampling.next_token_probabilities(logits, temperature, k)
    return _first_above(p, 1 - uniform)


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
            edit("temperature, k)", "temperature)"),
            "All tokens can be drawn. Only the k with the greatest logits stay; the others get"
            " minus infinity.",
        ),
        "not_renormalised": (
            _not_renormalized,
            "You threw tokens out after the softmax and left the rest short of 1, so that a large u"
            " finds no token. Put the filter before the softmax, or divide by the new sum.",
        ),
        "least_probable": (
            _least_probable,
            "You kept the k smallest logits: `sort` and `argsort` begin with the smallest. `topk`"
            " gives the greatest.",
        ),
        "one_too_few": (
            _one_too_few,
            "You threw the k-th token out with the rest: keep what equals the k-th logit, remove"
            " what is below it.",
        ),
        "ties_dropped": (
            _ties_dropped,
            "All right but for ties. Tokens that tie with the k-th stay in: which of them `topk`"
            " lists first is chance. Remove what is below the k-th logit.",
        ),
        "temperature_ignored": (
            edit("logits, temperature, k)", "logits, 1.0, k)"),
            "The temperature is missing: divide the logits by it before the softmax.",
        ),
        "temperature_multiplied": (
            edit("logits, temperature, k)", "logits, 1 / temperature, k)"),
            "You multiplied by the temperature. Divide: a low temperature makes the differences"
            " larger, the draw surer.",
        ),
        "temperature_after_softmax": (
            _temperature_after_softmax,
            "You divided probabilities by the temperature. It belongs to the logits, before the"
            " softmax.",
        ),
        "rank_returned": (
            _rank_returned,
            "You return a place in the sorted list, from 0 to k - 1. Look up which token is there.",
        ),
        "order_of_probability": (
            _order_of_probability,
            "Your probabilities are right, but you walk from the most probable token down. The task"
            " says in the order of the vocabulary, so that one u gives everyone the same token.",
        ),
        "zero_drawn": (
            edit("cumulative > u", "cumulative >= u", of=sampling.draw_tokens),
            "At u = 0 you draw the very first token, though its probability may be 0. The"
            " cumulative probability must exceed u, not reach it.",
        ),
        "sums_short_of_1": (
            _sums_short_of_one,
            "All right but for rounding: the sums may end a little below 1, and then none exceeds a"
            " u close to 1. Compare them with u times the last of them.",
        ),
        "last_token_then": (
            _last_token_then,
            "All right but for rounding: where no sum exceeds u you take the vocabulary's last"
            " token, which may be one that you removed. Compare with u times the last sum.",
        ),
        "one_number_for_all": (
            edit("u = uniform[:, None]", "u = uniform[:1, None]", of=sampling.draw_tokens),
            "All rows used the first number. Every row has its own: `uniform[:, None]`.",
        ),
        "from_above": (
            _from_above,
            "You compared with 1 - u. The token is the first whose cumulative probability"
            " exceeds u.",
        ),
    },
)


# ---------------------------------------------------------------- sliding_window


def _window_cases(rng):
    """Codes in the middle and at all borders; odd and even windows; one of the chapter's.

    In the last the window is as large as the grid.
    """
    asked = [
        ((23, 31), (50, 64), (10, 13)),
        ((1, 33), (50, 64), (10, 13)),
        ((23, 3), (50, 64), (10, 13)),
        ((48, 31), (50, 64), (10, 13)),
        ((23, 62), (50, 64), (10, 13)),
        ((0, 63), (50, 64), (10, 13)),
        ((49, 0), (50, 64), (10, 13)),
        ((7, 26), (19, 33), (5, 8)),
        ((15, 3), (19, 33), (5, 8)),
        ((9, 17), (19, 33), (7, 3)),
        ((6, 14), (8, 20), (8, 8)),
        ((2, 1), (3, 5), (3, 5)),
    ]
    return [
        {"row": row, "column": column, "grid": grid, "window": window}
        for (row, column), grid, window in asked
    ]


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
            edit(
                "min(max(place - size // 2, 0), whole - size)",
                "place - size // 2",
                of=vqgan.window_start,
            ),
            "Right in the middle of the grid. Near its border your window extends past it: all of"
            " it must fit, so hold top and left between 0 and grid - window.",
        ),
        "start_alone": (
            edit(
                "min(max(place - size // 2, 0), whole - size)",
                "max(place - size // 2, 0)",
                of=vqgan.window_start,
            ),
            "Your window extends past the bottom and the right of the grid: top is grid[0] -"
            " window[0] at most, and left likewise.",
        ),
        "end_alone": (
            edit("max(place - size // 2, 0)", "place - size // 2", of=vqgan.window_start),
            "Your window begins before the grid, at a negative place: top and left are 0 at least.",
        ),
        "code_in_the_corner": (
            edit("place - size // 2", "place", of=vqgan.window_start),
            "The code is in the window's upper left corner, with nothing before it to go by."
            " Figure 3 puts it in the middle: start half a window earlier.",
        ),
        "code_at_the_end": (
            edit("place - size // 2", "place - size + 1", of=vqgan.window_start),
            "The code is in the window's last place. Figure 3 puts it in the middle: start half"
            " a window earlier.",
        ),
        "half_a_place_off": (
            edit("size // 2", "(size - 1) // 2", of=vqgan.window_start),
            "A window of even size has no middle place. Take the later one: place - size // 2, so"
            " that the code has as much before it as there can be.",
        ),
        "row_and_column_swapped": (
            edit("return top, left", "return left, top"),
            "You return (left, top). Rows come first: (top, left).",
        ),
        "sides_swapped": (
            edit(
                "grid[0], window[0]",
                "grid[1], window[1]",
                "grid[1], window[1]",
                "grid[0], window[0]",
            ),
            "You measured rows with widths. `grid` and `window` are (rows, columns): the row goes"
            " with [0], the column with [1].",
        ),
        "in_blocks": (
            edit("place - size // 2", "place // size * size", of=vqgan.window_start),
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
