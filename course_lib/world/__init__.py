"""The little world: small three-dimensional scenes about which everything is known."""

from course_lib.world.batch import images, scenes, stills
from course_lib.world.sample import sample_scene
from course_lib.world.scene import VOCABULARY, Scene

__all__ = ["VOCABULARY", "Scene", "images", "sample_scene", "scenes", "stills"]
