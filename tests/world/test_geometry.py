"""Depth, normal, segmentation and flow against a slow scalar oracle that marches along rays."""

import math

import pytest
import torch
import torch.nn.functional as F

from course_lib.world import DURATION_SECONDS, render, sample_scene
from course_lib.world.motion import poses, view
from course_lib.world.rays import DOME_RADIUS
from course_lib.world.scene import CAMERAS, MOTIONS

SIZE, FRAMES = (24, 40), 5
CASES = [(motion, camera) for motion in MOTIONS for camera in CAMERAS]


def signed_distance(shape, x, y, z):
    """Return a number below 0 inside the unit solid, 0 on its surface, above 0 outside."""
    if shape == "sphere":
        return math.hypot(x, y, z - 1) - 1
    if shape == "cube":
        return max(abs(x), abs(y), abs(z - 0.82)) - 0.82
    if shape == "cylinder":
        return max(math.hypot(x, y) - 0.8, abs(z - 0.9) - 0.9)
    return max(math.hypot(x, y) - (2 - z) / 2, -z)


def inside(point, thing, pose):
    dx, dy = point[0] - pose.x, point[1] - pose.y
    c, s = math.cos(pose.yaw), math.sin(pose.yaw)
    local = (dx * c + dy * s, dy * c - dx * s, point[2] - pose.z)
    return signed_distance(thing.shape, *(each / pose.scale for each in local)) <= 0


def march(scene, time, row, column):
    """Follow the ray through a pixel's centre, in float64; return where it ends: (depth, id).

    Small steps first, then bisection.
    """
    camera, now = view(scene.camera, time), poses(scene, time)
    pixels = camera.focal * min(SIZE)
    a, b = (column + 0.5 - SIZE[1] / 2) / pixels, (SIZE[0] / 2 - row - 0.5) / pixels
    ray = [
        f + a * r + b * u for f, r, u in zip(camera.forward, camera.right, camera.up, strict=True)
    ]

    def where(depth):
        point = [e + depth * d for e, d in zip(camera.eye, ray, strict=True)]
        for number, (thing, pose) in enumerate(zip(scene.things, now, strict=True)):
            if inside(point, thing, pose):
                return 2 + number
        return 1 if point[2] <= 0 else 0 if math.hypot(*point) >= DOME_RADIUS else None

    depth, step = 1.0, 0.02
    while where(depth) is None:
        depth += step
    low, high = depth - step, depth
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if where(middle) is None else (low, middle)
    return high, where(high)


@pytest.mark.parametrize("seed", range(4))
def test_depth_and_segmentation_agree_with_a_marching_oracle(seed):
    motion = ("fall", "bounce", "orbit", "collide")[seed]
    scene = sample_scene(
        seed, motion=motion, count=2, camera=("orbit", "still", "zoom", "orbit")[seed]
    )
    clip = render(scene, SIZE, FRAMES)
    wrong = 0
    for frame in (0, 3):
        for row in range(1, SIZE[0], 3):
            for column in range(frame % 2, SIZE[1], 3):
                depth, number = march(scene, DURATION_SECONDS * frame / (FRAMES - 1), row, column)
                if (
                    number != clip.segmentation[frame, row, column]
                    or abs(depth - clip.depth[frame, row, column]) > 1e-3
                ):
                    wrong += 1
    assert wrong <= 2  # A marching step may jump over a sliver at an edge.


def points_in_camera(clip, focal, size):
    """Return every pixel's surface point (t h w 3) in the camera's frame.

    x points right, y up and z towards the viewer.
    """
    height, width = size
    pixels = focal * min(size)
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - width / 2) / pixels
    y = (height / 2 - torch.arange(height, dtype=torch.float64) - 0.5)[:, None] / pixels
    depth = clip.depth.double()
    return torch.stack([x * depth, y * depth, -depth], dim=-1)


@pytest.mark.parametrize("shape", ("sphere", "cube", "cylinder", "cone"))
def test_normals_are_the_gradient_of_the_depth(shape):
    size = (96, 120)
    scene = sample_scene(3, shape=shape, count=2, motion="rest", camera="still")
    clip = render(scene, size, 1)
    p = points_in_camera(clip, view(scene.camera, 0.0).focal, size)[0]
    across, down = p[1:-1, 2:] - p[1:-1, :-2], p[2:, 1:-1] - p[:-2, 1:-1]
    numeric = F.normalize(torch.linalg.cross(down, across), dim=-1)
    analytic = clip.normal[0, 1:-1, 1:-1].double()
    torch.testing.assert_close(clip.normal.norm(dim=-1), torch.ones(1, *size), atol=1e-5, rtol=0)
    agree = (numeric * analytic).sum(-1) > 0.99
    for number in (0, 1, 2, 3):
        of_number = clip.segmentation[0, 1:-1, 1:-1] == number
        assert of_number.sum() > 50
        # The others are at creases and edges.
        assert agree[of_number].double().mean() > (0.9 if number < 2 else 0.7)
    # Every surface faces the camera.
    assert (analytic * -p[1:-1, 1:-1]).sum(-1).min() > -1e-4


def sampled(image, flow):
    """Sample images (t h w c) bilinearly at pixel + flow: t h w c, and what is inside the image."""
    _, height, width, _ = image.shape
    x = torch.arange(width) + 0.5 + flow[..., 0]
    y = torch.arange(height)[:, None] + 0.5 + flow[..., 1]
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=-1)
    warped = F.grid_sample(image.movedim(-1, 1), grid, align_corners=False, padding_mode="zeros")
    return warped.movedim(1, -1), (grid.abs() < 1).all(-1)


@pytest.mark.parametrize(("motion", "camera"), CASES)
def test_the_next_frame_sampled_at_the_flow_is_this_frame(motion, camera):
    """Compare what moves and can be seen in both frames; wrong signs, axes and lengths do worse."""
    scene = sample_scene(
        11,
        motion=motion,
        camera=camera,
        material="matte",
        shape="cube",
        scale="large",
        floor="checker",
    )
    clip = render(scene, SIZE, 9)
    rgb, depth, flow = clip.rgb.float() / 255, clip.depth[..., None], clip.flow[:-1]
    number_there, in_view = sampled(clip.segmentation[1:, ..., None].float(), flow)
    same_thing = (number_there[..., 0] - clip.segmentation[:-1]).abs() < 1e-4
    # At a similar depth it is no other part of the same thing.
    near = (sampled(depth[1:], flow)[0] - depth[:-1]).abs()[..., 0] < 0.7
    number = clip.segmentation[:-1, None].double()
    # Whole neighbourhoods contain no edge.
    whole = (F.max_pool2d(number, 3, 1, 1) == -F.max_pool2d(-number, 3, 1, 1))[:, 0]
    visible = in_view & same_thing & near & whole
    assert visible.double().mean() > 0.5
    assert clip.flow[-1].abs().max() == 0
    moving = visible & (flow.norm(dim=-1) > 0.3)
    if motion == "rest" and camera == "still":
        assert clip.flow.abs().max() == 0
        assert torch.equal(rgb[1:], rgb[:-1])
        return

    def error(candidate):
        return (sampled(rgb[1:], candidate)[0] - rgb[:-1]).abs().mean(-1)[moving].mean()

    assert moving.sum() > 20
    assert error(flow) < 0.09
    for wrong in (-flow, flow * 0, flow * 2, flow.flip(-1)):
        assert error(flow) < 0.85 * error(wrong)


@pytest.mark.parametrize(("motion", "camera"), CASES)
def test_flow_agrees_with_the_poses(motion, camera):
    """Follow the surface point of a pixel's centre through the poses by hand, in float64."""
    scene = sample_scene(5, motion=motion, camera=camera)
    clip = render(scene, SIZE, FRAMES)
    for frame in range(FRAMES - 1):
        before, after = (DURATION_SECONDS * (frame + step) / (FRAMES - 1) for step in (0, 1))
        cameras = view(scene.camera, before), view(scene.camera, after)
        places = poses(scene, before), poses(scene, after)
        for row, column in ((2, 3), (8, 30), (11, 20), (13, 17), (14, 24), (20, 9)):
            depth = clip.depth[frame, row, column].item()
            number = clip.segmentation[frame, row, column].item()
            pixels = cameras[0].focal * min(SIZE)
            a, b = (column + 0.5 - SIZE[1] / 2) / pixels, (SIZE[0] / 2 - row - 0.5) / pixels
            axes = zip(
                cameras[0].eye, cameras[0].forward, cameras[0].right, cameras[0].up, strict=True
            )
            x, y, z = (e + depth * (f + a * r + b * u) for e, f, r, u in axes)
            if number >= 2:
                old, new = (each[number - 2] for each in places)
                turn, grow = new.yaw - old.yaw, new.scale / old.scale
                dx, dy, dz = (
                    (p - q) * grow for p, q in zip((x, y, z), (old.x, old.y, old.z), strict=True)
                )
                x = new.x + dx * math.cos(turn) - dy * math.sin(turn)
                y = new.y + dx * math.sin(turn) + dy * math.cos(turn)
                z = new.z + dz
            seen = [p - e for p, e in zip((x, y, z), cameras[1].eye, strict=True)]
            right, up, forward = (
                sum(p * q for p, q in zip(seen, axis, strict=True))
                for axis in (cameras[1].right, cameras[1].up, cameras[1].forward)
            )
            pixels = cameras[1].focal * min(SIZE) / forward
            expected = (
                SIZE[1] / 2 + right * pixels - column - 0.5,
                SIZE[0] / 2 - up * pixels - row - 0.5,
            )
            assert clip.flow[frame, row, column].tolist() == pytest.approx(expected, abs=2e-3)
