# %% [markdown]
# # 00 Start here
#
# This course takes you from adding noise to an image to the inside of a text-to-video model. Everything in it runs
# on this machine, offline, and every model in it is the real one, only smaller.
#
# The data comes from a little world of its own. Here is a second of work for your processor:

# %%
import course_lib.classroom as room

room.show_hero("start_here")

# %% [markdown]
# In this first notebook you learn how a chapter works, meet the one tool for moving axes that all the code uses, and get
# to know the little world. It takes about half an hour, and running all of it less than a minute.

# %% [markdown]
# ## 1 Can this machine run the course?
#
# The same report as `course doctor` on the command line. *Attention* means that something is missing that you can do
# without.

# %%
room.doctor()

# %% [markdown]
# ## 2 How a chapter works
#
# A chapter is a story with gaps. You read, you run cells, and where the story needs a function, you write it.
# Two habits will serve you well. **Predict before you run:** where a cell is about to show something, say first what you
# expect. And **read the shape:** most mistakes in this field are a wrong axis, and the shape says so.
#
# An image comes as *pixels*: whole numbers from 0 to 255, one triple of red, green and blue for each place.

# %%
from course_lib.classroom import exercise, show_images
from course_lib.world import images

rgb = images(5, size=32, seed=1)
print(tuple(rgb.shape), rgb.dtype, "from", int(rgb.min()), "to", int(rgb.max()))
show_images(
    rgb,
    columns=5,
    alt="Five images of the little world, each with coloured objects on a floor.",
)

# %% [markdown]
# The axes are `b h w c`: batch, height, width, channels. A model wants something else: floats from -1 to 1, and the
# channels before height and width, `b c h w`.
#
# ### Exercise: from pixels to floats
#
# Replace the line that raises with your own code and run the cell. It checks itself at once. **Fail first, on purpose:**
# return `rgb.float() / 255`, and read what the check says. Then fix it.
#
# <details><summary>Hint 1: the idea</summary>
# Three things: float, range, axes. 0 must become -1, and 255 must become 1.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>rgb.permute(0, 3, 1, 2)</code> moves the channels; einops' <code>rearrange(rgb, "b h w c -> b c h w")</code> says the same
# in words.
# </details>


# %% exercise: from pixels to floats
@exercise("start_here.to_model")
def pixels_to_float(rgb):
    """Pixels uint8 (b h w c), 0..255 -> float (b c h w) in [-1, 1]"""
    # SOLUTION
    return rgb.permute(0, 3, 1, 2).float() / 127.5 - 1
    # END


# %% [markdown]
# Whether or not you solved it, the notebook goes on: as long as your function is not right, its name refers to the
# course's own version. So you can always run everything, skip an exercise, and come back.

# %%
x = pixels_to_float(rgb)
print(tuple(x.shape), x.dtype, f"from {x.min():.2f} to {x.max():.2f}")

# %% [markdown]
# ### How to read what the check says
#
# Your function is called on several inputs, the *cases*, and each result is put beside the right one: first whether it
# raised an error, then its shape, its dtype, its values. The first difference hides those after it, so mend it and run
# the cell again. When your result is exactly what a known mistake gives, you are told the mistake; otherwise you get the
# facts, and the rest is detective work. Three rules hold in all chapters:
#
# - **Keep the parameters**, their order and their defaults: the notebook calls your function after you.
# - **Leave the inputs as they are.** `x += 1` or `x.sqrt_()` on an argument changes what the caller holds; build a new
#   tensor instead.
# - **Gradients are compared where the task says so**, and nowhere else. There they must flow through your code; elsewhere
#   write it as you like, with loops if that is clearer to you.
#
# To look into a case yourself, ask for its inputs by the number that the report gives. Here is one that holds the
# darkest, the brightest and the two middle values:

# %%
from course_lib.classroom import case

inputs = case("start_here.to_model", 3)
print(inputs["rgb"].unique().tolist())
print(pixels_to_float(**inputs).unique())

# %% [markdown]
# ## 3 Axes, in five pictures
#
# `einops` writes a change of axes as a sentence: what comes in, an arrow, what goes out. Letters that meet in a bracket
# become one axis. Five sentences are enough for the whole course.
#
# **One: move axes.** Swapping `h` and `w` mirrors an image along its diagonal.

# %%
from einops import rearrange

flipped = rearrange(rgb, "b h w c -> b w h c")
show_images(
    flipped,
    columns=5,
    alt="The five images with height and width exchanged: mirrored along the diagonal.",
)

# %% [markdown]
# **Two: join axes.** Bracket the batch with the width, and the images appear side by side. The order in the bracket
# matters: the left letter is the outer loop. **Predict first:** what would `(w b)` look like?

# %%
pair = rgb[:2]
side_by_side = rearrange(pair, "b h w c -> h (b w) c")
interleaved = rearrange(pair, "b h w c -> h (w b) c")
show_images(side_by_side[None], cell=640, alt="Two images joined side by side.")
show_images(
    interleaved[None],
    cell=640,
    alt="The columns of the two images in turn: two ghosts in one, each twice as wide.",
)

# %% [markdown]
# With `(w b)` the columns of the two images take turns: the batch is the inner loop.
#
# **Three: split axes.** A number says how long one of the parts is. Splitting height and width into four cuts the image
# into sixteen patches, which is how a vision transformer reads it (chapter 02).

# %%
patches = rearrange(rgb[0], "(h p1) (w p2) c -> (h w) p1 p2 c", p1=8, p2=8)
print(tuple(patches.shape))
show_images(
    patches,
    columns=4,
    cell=48,
    alt="Sixteen square patches of one image in reading order.",
)

# %% [markdown]
# **Four: reduce.** An axis that is missing on the right is reduced, here to its mean: this shrinks the image.

# %%
from einops import reduce

small = reduce(rgb.float(), "b (h p1) (w p2) c -> b h w c", "mean", p1=4, p2=4)
show_images(
    small.round().byte(),
    columns=5,
    alt="The five images at a quarter of their width, as coarse mosaics.",
)

# %% [markdown]
# **Five: repeat.** An axis that is new on the right is copied. Repeating along a time axis turns an image into a clip in
# which nothing happens: the simplest video, and one that a video model has to get right.

# %%
from einops import repeat

from course_lib.classroom import show_clip

still_clip = repeat(rgb[0], "h w c -> t h w c", t=6)
show_clip(still_clip, frames=6, alt="Six identical frames.")

# %% [markdown]
# ### Exercise: patches as tokens
#
# A transformer reads a sequence of tokens, `b n d`. Cut each image into square patches of `patch` pixels, in reading
# order, and flatten each patch: first its rows, then its columns, then the channels.
#
# <details><summary>Hint 1: the idea</summary>
# Split both sides as in sentence three, then join: the grid of patches becomes n, the inside of a patch becomes d.
# </details>
# <details><summary>Hint 2: the line</summary>
# The right side of the sentence is <code>b (h w) (p1 p2 c)</code>.
# </details>


# %% exercise: patches as tokens
@exercise("start_here.patchify")
def patchify(image, patch):
    """Image (b c h w) -> tokens (b n d): patches in reading order

    Each is flattened as (p1 p2 c): its rows, its columns, its channels.
    """
    # SOLUTION
    return rearrange(
        image, "b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=patch, p2=patch
    )
    # END


# %%
tokens = patchify(x, 8)
print(tuple(x.shape), "->", tuple(tokens.shape))

# %% [markdown]
# ## 4 The little world
#
# A scene is drawn from a seed, and rendered by following a ray of light through every pixel. Because the scene is
# known, so is everything else: how far away each pixel is, which way its surface faces, what it belongs to, where it
# moves.

# %%
from course_lib.world import render, sample_scene

scene = sample_scene(8, count=3, motion="bounce", camera="orbit")
views = room.clip_views(render(scene, 72, frames=9))
show_clip(
    list(views.values()),
    frames=7,
    labels=list(views),
    alt="Five strips of one clip: colour, depth, surface normals, objects, motion.",
)

# %% [markdown]
# Depth: bright is near. Normals: the three directions of a surface are red, green and blue. Objects: one colour each.
# Motion (*flow*): the hue says where to, the strength how fast, and what stays is white. It leads from a frame to the
# next, so the last frame has none and is all white.
#
# Every chapter uses this world, and can *measure* what a model makes, because the truth is known. You choose what is in
# it:

# %%
import numpy as np

from course_lib.classroom import explore, slider


def one_frame(shape, motion, camera, frame):
    scene = sample_scene(3, shape=shape, motion=motion, camera=camera, count=2)
    clip = render(scene, size=48, frames=9)
    frames = np.stack([view[frame] for view in room.clip_views(clip).values()])
    return room.image_grid(frames, list(views), columns=5, title=clip.caption)


shapes = ["cube", "sphere", "cylinder", "cone"]
cameras = ["still", "orbit", "zoom"]
motions = ["bounce", "slide", "spin", "orbit", "rise", "grow", "collide"]
frame = slider(0, 8, 0, label="frame")
explore(one_frame, shape=shapes, motion=motions, camera=cameras, frame=frame)

# %% [markdown]
# Such a figure is drawn anew at each move, by the kernel: the process that runs your cells. Without one, on a web page or
# before you have run the cell, you see one stored figure and a note, and moving a control changes nothing. After a
# restart of the kernel, run the cell again.
#
# The caption is part of the data, and it is true: a text-to-video model will be given exactly such sentences.

# %%
from course_lib.world import image_captions

show_images(
    images(8, 48, seed=6),
    columns=8,
    cell=72,
    alt="Eight images; their captions are below.",
)
print(*image_captions(8, seed=6), sep="\n")

# %% [markdown]
# Ask for something that does not exist, and you are told what does. The whole library answers like this: read the last
# line.

# %%
try:
    sample_scene(0, colour="beige")
except ValueError as error:
    print(error)

# %% [markdown]
# ## 5 The quiz
#
# Every chapter ends with one. Answers are kept between sessions; use the mouse, or Tab, arrows, Space and Enter.

# %%
room.quiz("start_here")

# %% [markdown]
# And here is a deck of flashcards, for the week after:

# %%
room.flashcards("start_here")

# %% [markdown]
# What you have done so far, in all chapters:

# %%
room.progress()

# %% [markdown]
# **What comes next:** chapter 01, where you turn noise into images of this world.
