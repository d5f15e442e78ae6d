"""`LittleWorld`: the little world as a torch Dataset of any length."""

from collections.abc import Sequence

from torch.utils.data import Dataset

from course_lib.world.batch import scene_seed, still_constraints
from course_lib.world.caption import caption, labels, stack_labels
from course_lib.world.pixels import pixels_to_float
from course_lib.world.rays import check_size
from course_lib.world.sample import sample_scene
from course_lib.world.shading import render_rgb
from course_lib.world.tables import tabulate


class LittleWorld(Dataset):
    """Images (``frames=None``) or clips, rendered when asked for.

    An item is a dict of `pixels`, floats in [-1, 1] of shape (c h w) or (t c h w), its `caption`
    and its `labels`.  Train and test scenes come from streams of seeds that have no number in
    common, whatever the seed and the length.
    """

    def __init__(
        self,
        split: str = "train",
        size: int | tuple[int, int] = 32,
        frames: int | None = None,
        length: int = 10_000,
        seed: int = 0,
        **constraints,
    ):
        if split not in ("train", "test"):
            raise ValueError(f"split: expected 'train' or 'test', got {split!r}")
        if not 1 <= length < 2**32:
            raise ValueError(f"length: expected 1 to 2**32 - 1, got {length}")
        if frames is not None and frames < 1:
            raise ValueError(f"frames: expected None or at least 1, got {frames}")
        self.split = split
        self.size = check_size(size)
        self.frames = frames
        self.length = length
        self.seed = seed
        self.constraints = still_constraints(constraints) if frames is None else constraints
        # Impossible constraints raise here rather than in a worker.
        sample_scene(0, **self.constraints)

    def __len__(self) -> int:
        return self.length

    def scene(self, index: int):
        """Draw the scene of an item."""
        if not 0 <= index < self.length:
            raise IndexError(f"index: expected 0 to {self.length - 1}, got {index}")
        return sample_scene(scene_seed(self.seed, index, self.split), **self.constraints)

    def batch(self, indices: Sequence[int]) -> dict:
        """Return the items of these indices as one batch; together they render much faster."""
        scenes = [self.scene(int(index)) for index in indices]
        captions = [caption(scene) for scene in scenes]
        return {"pixels": self._pixels(scenes), "caption": captions, "labels": stack_labels(scenes)}

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """Return several items; a DataLoader calls this for each of its batches."""
        scenes = [self.scene(int(index)) for index in indices]
        return [
            {"pixels": pixels, "caption": caption(scene), "labels": labels(scene)}
            for pixels, scene in zip(self._pixels(scenes), scenes, strict=True)
        ]

    def __getitem__(self, index: int) -> dict:
        return self.__getitems__([index])[0]

    def _pixels(self, scenes):
        height, width = self.size
        rgb = render_rgb(tabulate(scenes, self.frames or 1), height, width)
        pixels = pixels_to_float(rgb)
        return pixels if self.frames is None else pixels.unflatten(0, (len(scenes), self.frames))
