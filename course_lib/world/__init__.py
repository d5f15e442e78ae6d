"""The little world: small three-dimensional scenes about which everything is known.

scene.py        the vocabulary and the parts of a scene
sample.py       draws a scene from a seed
motion.py       where everything is at a time
solids.py       the four shapes
tables.py       frames and things as tensors
windows.py      where in a frame a thing and its shadow are
rays.py         what a ray hits
shading.py      colour: light, shadow and the floor's patterns
geometry.py     depth, normal, segmentation, flow
annotations.py  every map of an image, exact: depth, normals, segmentation, edges
map_colours.py  the colour code of each map, and back to numbers
caption.py      captions and labels
audio.py        sound
clip.py         one scene rendered, with everything that is known about it
batch.py        many scenes at once
dataset.py      the little world as a torch Dataset
pixels.py       bytes to the floats that networks take, and back
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
from course_lib.world.caption import CAPTION_WORDS, caption, label_names, labels, stack_labels
from course_lib.world.clip import Clip, render, render_scenes
from course_lib.world.dataset import LittleWorld
from course_lib.world.motion import DURATION_SECONDS, Contact, contacts
from course_lib.world.pixels import float_to_pixels, pixels_to_float
from course_lib.world.sample import sample_scene
from course_lib.world.scene import VOCABULARY, Camera, Floor, Motion, Scene, Thing

__all__ = [
    "CAPTION_WORDS",
    "DURATION_SECONDS",
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
