"""The little world: small three-dimensional scenes about which everything is known.

scene.py   what there is               rays.py      what a ray meets
motion.py  where it is at a time       shading.py  the light
sample.py  a scene from a seed         geometry.py  depth, normal, segmentation, flow
solids.py  the four shapes             caption.py, audio.py   what is said and heard
clip.py, batch.py, dataset.py, pixels.py                      one scene, many, and what models take
"""

from course_lib.world.audio import SAMPLE_RATE, sound
from course_lib.world.batch import (
    clips,
    image_captions,
    image_labels,
    image_scenes,
    images,
    scenes,
    videos,
)
from course_lib.world.caption import caption, label_names, labels, stack_labels
from course_lib.world.clip import Clip, render, render_scenes
from course_lib.world.dataset import LittleWorld
from course_lib.world.motion import DURATION, Contact, contacts
from course_lib.world.pixels import float_to_pixels, pixels_to_float
from course_lib.world.sample import sample_scene
from course_lib.world.scene import VOCABULARY, Camera, Floor, Motion, Scene, Thing

__all__ = [
    "DURATION",
    "SAMPLE_RATE",
    "VOCABULARY",
    "Camera",
    "Clip",
    "Contact",
    "Floor",
    "LittleWorld",
    "Motion",
    "Scene",
    "Thing",
    "caption",
    "clips",
    "contacts",
    "float_to_pixels",
    "image_captions",
    "image_labels",
    "image_scenes",
    "images",
    "label_names",
    "labels",
    "pixels_to_float",
    "render",
    "render_scenes",
    "sample_scene",
    "scenes",
    "sound",
    "stack_labels",
    "videos",
]
