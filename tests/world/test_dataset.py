"""The data set: items, batches, loaders, and streams of seeds that never meet."""

import pytest
import torch

from course_lib.world import LittleWorld, image_scenes


def test_dataset_of_images():
    world = LittleWorld("train", size=(12, 16), length=20, count=1)
    assert len(world) == 20
    item, batch = world[3], world.batch([1, 3])
    assert item["pixels"].shape == (3, 12, 16)
    assert torch.equal(item["pixels"], batch["pixels"][1])
    assert item["caption"] == batch["caption"][1]
    assert item["labels"]["colour"] == batch["labels"]["colour"][1]
    with pytest.raises(IndexError, match="19"):
        world[20]


def test_dataset_of_clips_in_a_loader():
    world = LittleWorld("test", size=(12, 16), frames=3, length=5, motion="slide")
    (batch,) = torch.utils.data.DataLoader(world, batch_size=5)
    assert batch["pixels"].shape == (5, 3, 3, 12, 16)
    assert len(batch["caption"]) == 5
    assert torch.equal(batch["pixels"][4], world[4]["pixels"])
    assert batch["labels"]["motion"].tolist() == [1] * 5


def test_train_and_test_never_meet():
    train, test = (LittleWorld(split, length=200, seed=0) for split in ("train", "test"))
    seen = {train.scene(index) for index in range(200)}
    assert not seen & {test.scene(index) for index in range(200)}
    assert not seen & set(image_scenes(200, 0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "valid"}, "'train' or 'test'"),
        ({"length": 0}, "length"),
        ({"size": 2}, "size"),
        ({"frames": 0}, "frames"),
        ({"colour": "mauve"}, "purple"),
    ],
)
def test_bad_datasets(arguments, message):
    with pytest.raises(ValueError, match=message):
        LittleWorld(**arguments)
