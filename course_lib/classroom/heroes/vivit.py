"""Chapter 03 opens with four clips and what the clip judge reads in them."""

from course_lib import data
from course_lib.classroom.clips import show_clip
from course_lib.training import load_checkpoint
from course_lib.world import VOCABULARY, pixels_to_float


def show() -> None:
    """Show four test clips with the motion and the camera that the judge read in each."""
    judge, provenance = load_checkpoint("vivit-judge")
    clips = data.free_clips("test", 4, frames=16, seed=2)["pixels"]
    read = judge.read(pixels_to_float(clips))
    motions = [VOCABULARY["motion"][number] for number in read["motion"]]
    cameras = [VOCABULARY["camera"][number] for number in read["camera"]]
    labels = [f"{motion}, camera {camera}" for motion, camera in zip(motions, cameras, strict=True)]
    alt = (
        "Four clips as strips of eight frames; beside each, the motion and the camera that the"
        " network read."
    )
    show_clip(list(clips), labels=labels, frames=8, alt=alt)
    minutes = provenance["seconds"] / 60
    print(f"after {provenance['steps']:,} steps, {minutes:.0f} minutes on {provenance['device']}")
