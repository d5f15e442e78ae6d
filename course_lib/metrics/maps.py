"""How right a predicted map is: of classes, depth, normals and edges, and of places of things.

One value per image, so that models can be compared on the same images; the frames of a clip are
images.  `mean_iou` is of a whole set, as tables in papers have it.
"""

import torch
import torch.nn.functional as F

from course_lib.shapes import Bool, Float, Int, PerSample, Tensor

# ---------------------------------------------------------------- classes


def overlaps(
    predicted: Int[Tensor, "b h w"], true: Int[Tensor, "..."], classes: int
) -> tuple[Int[Tensor, "b k"], Int[Tensor, "b k"]]:
    """Return how many pixels of each class are in both maps, and in either.

    Raises ValueError for maps of two shapes, and for numbers that are of no class.
    """
    _check_shapes(predicted, true)
    for name, numbers in (("predicted", predicted), ("true", true)):
        if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < classes:
            raise ValueError(
                f"{name}: expected numbers from 0 to {classes - 1}, got some from"
                f" {int(numbers.min())} to {int(numbers.max())}"
            )
    image = torch.arange(len(true), device=true.device)[:, None]
    pair = ((image * classes + true.flatten(1)) * classes + predicted.flatten(1)).flatten()
    counts = torch.bincount(pair, minlength=len(true) * classes**2)
    counts = counts.view(-1, classes, classes)  # b true predicted
    both = counts.diagonal(dim1=1, dim2=2)
    return both, counts.sum(1) + counts.sum(2) - both


def mean_iou(predicted: Int[Tensor, "b h w"], true: Int[Tensor, "..."], classes: int) -> float:
    """Return the mean over classes of intersection over union, counted over all images at once.

    A class that is in neither map of any image does not count.
    """
    both, either = (counts.sum(0).double() for counts in overlaps(predicted, true, classes))
    return float((both / either)[either > 0].mean())


def image_iou(predicted: Int[Tensor, "b h w"], true: Int[Tensor, "..."], classes: int) -> PerSample:
    """Return each image's own mean, over the classes that are in one of its two maps."""
    both, either = (counts.double() for counts in overlaps(predicted, true, classes))
    ratio = torch.where(either > 0, both / either, 0)
    return ratio.sum(1) / (either > 0).sum(1)


# ---------------------------------------------------------------- depth, normals, edges


def depth_error(predicted: Float[Tensor, "b h w"], true: Float[Tensor, "..."]) -> PerSample:
    """Return the mean of |predicted - true| / true, the absolute relative error.

    Raises ValueError for maps of two shapes, and for true depths that are not above 0.
    """
    _check_shapes(predicted, true)
    if not bool((true > 0).all()):
        raise ValueError(f"true: expected depths above 0, got one of {float(true.min()):g}")
    return ((predicted.double() - true) / true).abs().mean((1, 2))


def normal_angle(predicted: Float[Tensor, "b h w 3"], true: Float[Tensor, "..."]) -> PerSample:
    """Return the mean angle, in degrees, between predicted and true normals of any length above 0.

    The arc tangent is exact for small angles, too, where the arc cosine is not.
    """
    _check_shapes(predicted, true)
    a = F.normalize(predicted.double(), dim=-1)
    b = F.normalize(true.double(), dim=-1)
    half = torch.atan2((a - b).norm(dim=-1), (a + b).norm(dim=-1))
    return (2 * half).rad2deg().mean((1, 2))


def edge_f1(predicted: Bool[Tensor, "b h w"], true: Bool[Tensor, "..."]) -> PerSample:
    """Return the harmonic mean of precision and recall of edge pixels, each in its exact place.

    It is 1 where there is no edge in either map.
    """
    _check_shapes(predicted, true)
    both = (predicted & true).sum((1, 2)).double()
    marked = (predicted.sum((1, 2)) + true.sum((1, 2))).double()
    return torch.where(marked > 0, 2 * both / marked, 1.0)


# ---------------------------------------------------------------- places


def pck(
    predicted: Float[Tensor, "b n 2"],
    true: Float[Tensor, "..."],
    size: Float[Tensor, " b"],
    alpha: int | float = 0.1,
) -> PerSample:
    """Return the percentage of correct keypoints, as a share in [0, 1] of each image's n points.

    A point is correct no farther than alpha * size from the true one; size is that of the thing in
    the image, such as the longer side of its box (Yang and Ramanan 2013).  A true point of NaN is
    not there to be found and does not count; a predicted one of NaN is wrong.  An image without
    points is NaN.
    """
    _check_shapes(predicted, true)
    distance = (predicted.double() - true.double()).norm(dim=-1)  # b n
    counts = ~true.isnan().any(-1)
    correct = distance <= alpha * size.double()[:, None]  # False where either point is NaN
    return correct.sum(1) / counts.sum(1)


def centre_error(predicted: Float[Tensor, "b n 2"], true: Float[Tensor, "..."]) -> PerSample:
    """Return the mean distance of n predicted points from the true ones; NaN where one is NaN."""
    _check_shapes(predicted, true)
    return (predicted.double() - true.double()).norm(dim=-1).mean(1)


def _check_shapes(predicted: Tensor, true: Tensor) -> None:
    if predicted.shape != true.shape:
        raise ValueError(
            f"expected maps of one shape, got {tuple(predicted.shape)} and {tuple(true.shape)}"
        )
