# Sections 10 to 22 of notebook 07, to be joined to part 1, whose imports and names they use: room, torch, F, rearrange,
# zoo, exercise, explore, slider, paired, single, value, load_checkpoint, results, lvm_tasks; rotary, analogy_prompt.

# %% [markdown]
# ## 10 Build a prompt
#
# Now the model that section 8 borrowed: the same code as yours, with a larger network, every sort of sentence, and
# time. No row of its training data was read twice.

# %%
from course_lib.training import find_recipe

model, made = load_checkpoint("lvm-tiny")
tokenizer, _ = load_checkpoint("lvm-tokenizer")
BOS = model.config.bos
recipe = find_recipe("lvm-tiny")
read = recipe.steps * recipe.batch_size * model.config.context
print(f"{room.parameters(model):,} parameters, {read:,} tokens")
print(f"{made['seconds'] / 60:.0f} minutes on {made['device']}")

# %% [markdown]
# Everything it is asked from here on is about scenes of the test split. An *example* of a task is a scene in two or
# three kinds of images; a prompt is some examples, and the first image of another. The answer takes the most probable
# code at every place: nothing is left to chance.

# %%
from course_lib.papers.lvm import decode_images
from course_lib.training.recipes.lvm_tasks import FEW, TASKS
from course_lib.training.recipes.lvm_tokenizer import decode


def prompt_images(asked, p):
    """A question after p examples: q rows of images (q*(p+2) h w 3), and the answer"""
    codes = asked.codes.long()  # 1 examples q 8 8; the last one is the question
    prompt = analogy_prompt(codes[:, -1 - p : -1], codes[:, -1, :1], BOS)
    drawn = decode_images(model, prompt, codes.shape[2] - 1, top_k=1)
    answers = decode(tokenizer, drawn[0])
    seen = decode(tokenizer, codes[0, -1 - p :].flatten(0, 1))
    seen = seen.unflatten(0, (p + 1, -1))  # p+1 q h w 3, as their codes have them
    own = torch.cat([asked.asked, answers])
    truth = torch.cat([seen[-1, -1:], seen[-1, 1:-1], asked.answer])
    columns = torch.cat([seen[:-1], own[None], truth[None]])
    return rearrange(columns, "p q h w c -> (q p) h w c"), answers[-1:]


# %% [markdown]
# Build a prompt. The examples are on the left, each in a column, as their codes show them. Then comes the query with
# the model's answer below it, and then the truth: at the top what is left of it in codes, which is the best that any
# answer can be expected to be, at the bottom the map itself. The title says how right the answer is (section 11 says in
# which measure).
#
# **Predict first:** what will it do with *no* example at all? And which of the tasks cannot be guessed from the query?

# %%
UNIT_OF = {
    "segmentation": "IoU",
    "depth": "relative error",
    "normal": "degrees",
    "edges": "F1",
    "image": "dB",
}


def build_prompt(task, examples, query):
    asked = lvm_tasks.queries(task, 8, FEW)[query : query + 1]
    p = min(examples, asked.codes.shape[1] - 1)
    images, answer = prompt_images(asked, p)
    above = [f"example {i + 1}" for i in range(p)] + ["query", "truth in codes"]
    below = [""] * p + ["answer", "truth"]
    titles = above + below * (asked.codes.shape[2] - 1)
    right = lvm_tasks.score(asked, answer).item()
    title = f"{task}, {p} examples: {right:.2f} {UNIT_OF[asked.kind]}"
    return room.image_grid(images, titles, p + 2, title=title, cell=96)


# %%
explore(
    build_prompt,
    task=room.choices([*TASKS, *lvm_tasks.COMBINED]),
    examples=slider(0, 7, 2),
    query=slider(0, 7, 1),
    alt="Examples of a task in columns, a query with the model's answer, and the truth",
)

# %% [markdown]
# (Where an example has three images, there is room for four examples.) Compare an answer with its truth in codes before
# you blame the model: what is missing there it cannot say.
#
# **And your own images?** Choose two photos. The examples still come from the little world; the queries are yours.
# Neither the tokenizer nor the model has ever seen anything but the little world, so look at the third column first:
# how much of your photo is left in 64 codes of 512?

# %%
from functools import partial

from course_lib.world import float_to_pixels, pixels_to_float
from course_lib.world.map_colours import cut_holes, grey_to_pixels, to_grey

hole = torch.zeros(2, 32, 32, dtype=torch.bool)
hole[:, 10:22, 10:22] = True


def ask_of_photos(first, second, task, examples):
    photos = float_to_pixels(torch.stack([first, second]))  # 2 h w 3
    changed = {
        "grey": grey_to_pixels(to_grey(photos)),
        "holes": cut_holes(photos, hole),
    }
    asked = changed.get(TASKS[task][0], photos)
    codes = lvm_tasks.encode(asked).long()  # 2 8 8
    known = lvm_tasks.queries(task, 8, FEW).codes[:1].long().expand(2, -1, -1, -1, -1)
    shown = known[:, known.shape[1] - 1 - examples : -1]
    prompt = analogy_prompt(shown, codes[:, None], BOS)
    answer = decode(tokenizer, decode_images(model, prompt, 1, top_k=1)[:, 0])
    columns = torch.stack([photos, asked, decode(tokenizer, codes), answer], dim=1)
    titles = ["photo", "query", "its codes", "answer"] * 2
    return room.image_grid(columns.flatten(0, 1), titles, 4, title=task, cell=150)


# %%
of_world = pixels_to_float(lvm_tasks.queries("depth", 8, FEW).asked[:1])[0]
explore(
    ask_of_photos,
    first=room.upload(partial(room.read_photo, size=32), room.example_photo(32)),
    second=room.upload(partial(room.read_photo, size=32), of_world, "another photo"),
    task=list(TASKS),
    examples=slider(0, 7, 4),
    alt="Two photos, what is asked of them, their codes, and the model's answers",
)

# %% [markdown]
# The answer to a photo is an image of the little world's kind: there is no other kind that its codes could draw. The
# paper's tokenizer was trained on photographs of everything, with 8,192 codes, and its model read 420 billion tokens.

# %% [markdown]
# ## 11 How right is it?
#
# An answer is an image; its colours are read back as numbers (section 2), and these are measured, pixel by pixel, in
# the task's own unit:
#
# | answer | measure | |
# |---|---|---|
# | segmentation, palette | intersection over union, averaged over the classes of an image | more is better |
# | depth | mean of $\lvert \hat d - d \rvert / d$ | less is better |
# | normals | mean angle between the two, in degrees | less is better |
# | edges | F1: the harmonic mean of precision and recall | more is better |
# | colour, turn | PSNR, in decibels | more is better |
# | inpainting | PSNR within the hole | more is better |
#
# A number by itself says little. Beside it come seven yardsticks, all on the same 64 queries:
#
# - **nothing done:** the query *copied*; the *mean* answer to 500 training scenes (of classes, the most frequent);
# - **is it the examples?** 0 examples; 4 examples of *another task*;
# - **is it the query?** 4 right examples, but the query of *another* scene;
# - **what is possible?** a *specialist*: the tokenizer's encoder and decoder without its codebook, trained on this task
#   only; and the *codes* of the true answer, the ceiling.
#
# Two tasks have no specialist: a network that is told nothing cannot know by how many quarters to turn, or which
# colours a palette has.
#
# A difference counts from two standard errors on, query by query. By chance alone that happens once in some twenty
# comparisons: one task of eight is weak evidence.
#
# **Predict first:** what will four examples of *depth* do to a query for segmentation?

# %%
from course_lib.metrics import evidence

run = results("lvm-tiny")
AT_LEAST = ("segmentation", "edges", "image")  # measures of which more is better
DIGITS = {"segmentation": 2, "depth": 3, "normal": 1, "edges": 2, "image": 1}


def kind(task):
    """What the answer of a task shows, and so its measure"""
    name = lvm_tasks.ALL_TASKS[task][-1].removeprefix("turned ")
    return "segmentation" if name == "palette" else name


def each(task, name, of=run):
    """The scores of 64 answers"""
    if name == "specialist":
        found = results(f"lvm-specialist-{task}")["details"]["each of answers"]
    else:
        found = of["details"][f"each of {task}, {name}"]
    return torch.tensor(found)


# %%
def shown_score(task, name, of=run, error=False):
    scores, digits = each(task, name, of), DIGITS[kind(task)]
    spread = f" ± {scores.std() / len(scores) ** 0.5:.{digits}f}" if error else ""
    return f"{scores.mean():.{digits}f}{spread}"


# %%
SPECIALISTS = [task for task in TASKS if task not in ("turn", "palette")]
rows = [
    {
        "task": f"{task}, {UNIT_OF[kind(task)]}",
        "copied": shown_score(task, "query"),
        "mean": shown_score(task, "mean"),
        "0": shown_score(task, "0 examples"),
        "4 examples": shown_score(task, "4 examples", error=True),
        "4 of another task": shown_score(task, "other"),
        "4, another query": shown_score(task, "shuffled"),
        "specialist": shown_score(task, "specialist") if task in SPECIALISTS else None,
        "codes": shown_score(task, "codes"),
    }
    for task in TASKS
]
room.table(rows, "64 test queries each; ± one standard error")


# %%
def better(task, one, other, of=run):
    """How much better answers of one kind are than of another, query by query"""
    a, b = each(task, one, of), each(task, other, of)
    return paired(a, b) if kind(task) in AT_LEAST else paired(b, a)


def where_better(one, other, tasks=TASKS, of=run):
    """In how many tasks they are, by more than two standard errors, and in which"""
    found = [task for task in tasks if better(task, one, other, of) > 0]
    names = ", ".join(found) or "none"
    return value(len(found), f"of {len(tasks)} tasks: {names}")


room.reading(
    where_better("4 examples", "query") >= len(TASKS),
    "In every task four examples give better answers than the query copied.",
    "The query copied is not beaten in every task.",
)
room.reading(
    where_better("4 examples", "mean") >= len(TASKS),
    "In every task they are better than the mean answer of training scenes.",
    "The mean answer of training scenes is not beaten in every task.",
)

# %%
room.reading(
    where_better("4 examples", "other") >= len(TASKS),
    "It reads the examples: after four of another task the answers are worse, in every"
    " task.",
    "After four examples of another task the answers are not worse in every task.",
)
room.reading(
    where_better("4 examples", "shuffled") >= len(TASKS),
    "It reads the query: answers to another scene's query are worse, in every task.",
    "Answers to another scene's query are not worse in every task.",
)
room.reading(
    where_better("codes", "4 examples") >= len(TASKS),
    "Nowhere does it reach the ceiling of its codes.",
    "In some tasks no distance to the ceiling of its codes is seen.",
)

# %%
specialists_ahead = where_better("specialist", "4 examples", SPECIALISTS)
room.reading(
    specialists_ahead >= len(SPECIALISTS),
    "Each specialist is better at its own task.",
    "Not every specialist is better at its own task.",
)
ahead = where_better("4 examples", "specialist", SPECIALISTS)
room.reading(
    ahead >= 1,
    "There are tasks in which the one model is better than the network that was trained"
    " on them only.",
    "In no task is the one model better than the network that was trained on it only.",
)

# %% [markdown]
# See for yourself. Where do the two differ, in what they get right or in how they look when they are wrong?

# %%
from course_lib.training.recipes import lvm as lvm_recipes


@torch.no_grad()
def side_by_side(task):
    asked = lvm_tasks.queries(task, 8, FEW)
    shown = {"query": asked.asked}
    shown["four examples"] = lvm_recipes.answers(model, asked.codes, 4)
    if task in SPECIALISTS:
        network, _ = load_checkpoint(f"lvm-specialist-{task}")
        drawn = network(pixels_to_float(asked.asked)).clamp(-1, 1)
        shown["specialist"] = float_to_pixels(drawn)
    shown["truth in codes"] = decode(tokenizer, asked.codes[:, -1, -1])
    shown["truth"] = asked.answer
    return room.row_grid(shown, title=f"Eight queries of {task}", cell=60)


explore(
    side_by_side,
    task=list(TASKS),
    alt="Eight queries, the answers of the model and of the specialist, and the truth",
)

# %% [markdown]
# How much did a specialist cost, and how much the one model? The specialist minimizes the squared error of pixels on
# 6,000 pairs and draws all pixels at once; the LVM minimizes the surprise of codes. It has met each task among twenty
# others.

# %%
rows = []
for name in ("lvm-tiny", *(f"lvm-specialist-{task}" for task in SPECIALISTS)):
    provenance = results(name)["provenance"]
    network = find_recipe(name).untrained()
    rows.append(
        {
            "network": name,
            "parameters": room.parameters(network),
            "steps": provenance["steps"],
            "minutes": f"{provenance['seconds'] / 60:.0f}",
            "device": provenance["device"],
        }
    )
room.table(rows, "What the networks cost")

# %% [markdown]
# Does a segmentation say *what* a thing is? Let the pixels of the scene's first thing vote for a class. In how many
# queries does its own shape win?

# %%
rows = []
for task in ("segmentation", "palette"):
    rows.append({"task": task})
    for name in ("mean", "0 examples", "4 examples", "other", "shuffled", "codes"):
        rows[-1][name] = f"{run['metrics'][f'shape of {task}, {name}']:.0%}"
room.table(rows, "The shape of the first thing, of 64 queries")

# %%
shape_hits = sum(run["details"]["shapes of segmentation, 4 examples"])
room.reading(
    evidence.shares(round(shape_hits), 64) > 0.5,
    "After four examples the shape is read in more than half of the queries.",
    "That the shape is read in more than half of the queries is not shown.",
)

# %% [markdown]
# ## 12 How many examples?
#
# In *language* models, examples in a prompt are said to teach a task "in context". There are two ways in which they can
# help, and they are easily mixed up:
#
# - **Recognition.** The model can do the task already, since training was full of it, and the examples only say *which*
#   of its tasks is meant. One is then as good as seven.
# - **Learning from the prompt.** The answer depends on something that is nowhere but in the examples.
#
# Three of our tasks are built to need their examples. *turn* turns the images of a sentence by one, two or three
# quarters. *palette* draws a colour for each class anew for every sentence: which six of 27, in which order, there are
# 213,127,200 possibilities. And in *colour* all scenes of a sentence have the same floor and sky, so that the examples
# tell what colours these have in a grey query.
#
# **Predict first:** draw the curves for *turn*, *palette* and *depth* over 0, 1, 2, 4 and 7 examples. What can a second
# example of *turn* add to the first? And a second one of *palette*? (For depth and normals down is better, for the
# others up.)

# %%
SHOWN = (0, 1, 2, 4, 7)


def draw_curve(ax, task, of=run):
    scores = torch.stack([each(task, f"{p} examples", of) for p in SHOWN])
    error = 2 * scores.std(1) / scores.shape[1] ** 0.5
    ax.errorbar(range(len(SHOWN)), scores.mean(1), error, marker="o", capsize=2)
    ceiling, blind = (each(task, name, of).mean() for name in ("codes", "mean"))
    ax.axhline(ceiling, color="#009E73", linestyle="--", linewidth=1, label="codes")
    ax.axhline(blind, color="#D55E00", linestyle=":", linewidth=1, label="mean answer")
    ax.set_xticks(range(len(SHOWN)), SHOWN)
    ax.set_title(f"{task}, {UNIT_OF[kind(task)]}", fontsize=9)


# %%
fig, axes = room.figure(
    "Answers by the number of examples (± 2 standard errors)",
    "examples",
    rows=2,
    columns=4,
    height=4.3,
    width=7.2,
)
for ax, task in zip(axes.flat, TASKS, strict=True):
    draw_curve(ax, task)
axes[0, 0].legend(fontsize=7)
room.show(
    fig,
    "Eight panels, one for each task: the score over 0, 1, 2, 4 and 7 examples, and"
    " dashed the ceiling of the codes, dotted the mean answer.",
)

# %%
room.reading(
    where_better("1 examples", "0 examples") >= len(TASKS),
    "The first example helps in every task.",
    "The first example does not help in every task.",
)
NEED = ("colour", "turn", "palette")
OTHERS = [task for task in TASKS if task not in NEED]
room.reading(
    where_better("7 examples", "1 examples", ["palette"]) >= 1,
    "With seven examples of a palette the answers are better than with one: they are"
    " learnt from.",
    "That seven examples of a palette are better than one is not shown.",
)
room.reading(
    where_better("7 examples", "1 examples", ["colour"]) >= 1,
    "Grey scenes are coloured better after seven examples than after one.",
    "That grey scenes are coloured better after seven examples than after one is not"
    " shown.",
)

# %%
room.reading(
    where_better("7 examples", "1 examples", OTHERS) <= 0,
    "In tasks that the query does not leave open, seven examples are no better than"
    " one, as far as 64 queries show: they are recognized.",
    "Even among the tasks that the query does not leave open there are some in which"
    " seven examples are better than one.",
)
room.reading(
    where_better("1 examples", "7 examples", TASKS) >= 1,
    "There are tasks in which seven examples are worse than one.",
    "In no task are seven examples worse than one.",
)

# %% [markdown]
# And the answers themselves. Choose a task, and read each column from top to bottom.

# %%
def by_examples(task):
    asked = lvm_tasks.queries(task, 8, FEW)
    shown = {"query": asked.asked}
    for p in SHOWN:
        label = f"{p} example{'s' * (p != 1)}"
        shown[label] = lvm_recipes.answers(model, asked.codes, p)
    shown["truth"] = asked.answer
    return room.row_grid(shown, title=f"Eight queries of {task}", cell=60)


explore(
    by_examples,
    task=[*NEED[::-1], *OTHERS],
    alt="Eight queries, answers after 0, 1, 2, 4 and 7 examples, and the truth",
)

# %% [markdown]
# One example of *turn* says all there is to say. One of *palette* shows the colours of those classes that happen to be
# in it, and is silent about the rest. A question for section 21: what would you have to show before you call this
# *learning*?

# %% [markdown]
# ## 13 What happens next
#
# A clip is a sentence, too. Left unfinished, it is the prompt of a new task: *what happens next?* The paper shows seven
# frames and asks for more; we show eight of sixteen. Nothing tells the model where a thing is, how fast it moves, or
# that it has weight.
#
# How do you measure a clip that may go on in more than one way? In the little world it may not, or hardly: eight frames
# settle where a thing is and how it moves. So find the moving thing in every drawn frame, by the colours that it has in
# the frames that were given, and compare its centre with the true one.
#
# The mean distance has a weakness: one lost thing outweighs many good ones, and a pixel means more to a small thing
# than to a large one. *PCK*, the percentage of correct keypoints (Yang and Ramanan 2013), counts the points that are
# near enough, and measures by the thing: a point is correct within $\alpha$ times the longer side of the thing's box.

# %% [markdown]
# ### Exercise: the share of correct keypoints
#
# `predicted` and `true` (b n 2) are n points of each of b images or clips, x and y in pixels; `size` (b,) is the longer
# side of the box around the thing, in pixels. A point is correct if its distance from the true one, along the straight
# line, is no farther than `alpha * size`. Return the share of correct points of each image, (b,), from 0 to 1:
#
# - A true point with a NaN is not there to be found, such as a thing that is out of view. It does not count at all.
# - A predicted point with a NaN was not found. It counts, and is wrong.
# - An image without any true point is NaN.
#
# <details><summary>Hint 1: the idea</summary>
# Two masks: which points are correct, and which are there to be found; their sums over the points, divided. Any
# comparison with NaN is False, and 0 / 0 is NaN: two of the three rules hold by themselves.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>there = ~true.isnan().any(-1)</code>, and <code>distance &lt;= alpha * size[:, None]</code>
# </details>


# %% exercise: the share of correct keypoints
@exercise("lvm.pck")
def pck(predicted, true, size, alpha=0.1):
    """Section 5: points (b n 2), sizes (b,) -> share (b,) of those near enough"""
    # SOLUTION
    distance = (predicted - true).norm(dim=-1)  # b n
    correct = distance <= alpha * size[:, None]  # False where either point is NaN
    there = ~true.isnan().any(-1)
    return correct.sum(1) / there.sum(1)
    # END


# %% [markdown]
# Continue eight clips. (A prompt is BOS and the codes of the frames; eight frames are drawn, 512 codes.)

# %%
from course_lib.papers.lvm import continue_sentence
from course_lib.papers.lvm_sentences import sequential_prompt

GIVEN = 8
clips = lvm_tasks.moving("test", 8)
clip_codes = lvm_tasks.bank("test", FEW).clips["image"][:8].long()  # 8 16 8 8
with room.busy("Drawing eight clips, frame by frame"):
    prompt = sequential_prompt(clip_codes[:, :GIVEN], BOS)
    drawn = decode_images(model, prompt, 16 - GIVEN, top_k=1)  # 8 8 8 8


def frames_of(codes):
    """Clips of codes (b t 8 8) as pixels (b t h w 3)"""
    return decode(tokenizer, codes.flatten(0, 1)).unflatten(0, codes.shape[:2])


new = {"drawn": frames_of(drawn), "true, in codes": frames_of(clip_codes[:, GIVEN:])}
continued = torch.cat([clips.rgb[:, :GIVEN], new["drawn"]], dim=1)

# %%
chosen = (0, 3, 5)
room.show_clip(
    [of[i] for i in chosen for of in (clips.rgb, continued)],
    labels=[name for i in chosen for name in ("true", "continued")],
    frames=8,
    title="Frames 8 to 15 of the second of each pair are drawn by the model",
    alt="Three clips, each above a version whose second half the model has drawn.",
)

# %% [markdown]
# Watch one thing at a time. Does it go on in the same direction? At the same speed? Does it keep its shape, and do the
# things that stood still stay where they were?
#
# Now count. The yardsticks are the *last* given frame held, so that nothing moves any more, and the true frames sent
# through their codes. (Colours are those of the last two frames given. Where a thing is not found in a frame, it counts
# as where it was last.)

# %%
from course_lib.training.recipes.lvm import read_centres
from course_lib.world.annotations import centres, reach
from course_lib.world.geometry import FIRST_THING

thing = clips.things == FIRST_THING  # b t h w: the pixels of the thing that moves
true = centres(thing)[:, GIVEN:]  # b 8 2
size = reach(thing[:, GIVEN - 1]).clamp(min=1)
last = centres(thing)[:, GIVEN - 1 : GIVEN].expand_as(true)
seen = clips.rgb[:, GIVEN - 2 : GIVEN], thing[:, GIVEN - 2 : GIVEN]
found = {"the last frame held": last}
found |= {name: read_centres(frames, *seen, last) for name, frames in new.items()}
alphas = torch.linspace(0.02, 1, 50)
room.show_lines(
    alphas,
    {
        name: [pck(places, true, size, float(a)).nanmean() for a in alphas]
        for name, places in found.items()
    },
    "Centres that are near enough, in eight frames of eight clips",
    "alpha: the distance allowed, in sizes of the thing",
    "PCK",
    height=2.8,
    ylim=(0, 1.03),
    alt="Three rising curves: the last frame held, drawn frames, true frames in codes.",
)

# %% [markdown]
# Eight clips are few. The same for 64 test clips, with $\alpha = 0.1$ as in the paper:

# %%
rows = [
    {
        "frames": words,
        "distance of centres, pixels": f"{run['metrics'][f'clip, {name}']:.2f}",
        "PCK at 0.1": f"{run['metrics'][f'pck of clip, {name}']:.0%}",
    }
    for words, name in (
        ("the last frame held", "last"),
        ("drawn", "drawn"),
        ("true, in codes", "codes"),
    )
]
room.table(rows, "The moving thing's centre in frames 8 to 15 of 64 test clips")

# %%
far = {
    name: torch.tensor(run["details"][f"each of clip, {name}"])
    for name in ("last", "drawn", "codes")
}
room.reading(
    paired(far["drawn"], far["last"], "pixels") < 0,
    "The drawn centres are nearer to the true ones than those of the last frame held:"
    " things go on moving where they should.",
    "That the drawn centres are nearer to the true ones than those of the last frame"
    " held is not shown.",
)
room.reading(
    paired(far["drawn"], 2 / 3 * far["last"], "pixels") < 0,
    "They are nearer by more than a third.",
    "Nearer by more than a third they are not shown to be.",
)

# %% [markdown]
# The paper's figure is for another task: keypoints, such as the wheels of a car, on Pascal3D+, which is not in its
# data. PCK at 0.1 is 81.2 for LVM, and 68.0, 68.9 and 78.6 for three networks built for keypoints (Stacked Hourglass,
# MSS-Net, StarMap).
#
# **Around a thing, and on.** Sixteen views go all the way round a thing. Show eight of them, and let the model go on
# for sixteen. After eight of these it is back at the start, which is still in its context; but now the context is full.
# From there on each new image is drawn given the last 15, with BOS in front, and what was shown first begins to leave.
# The released code generates long sequences in this way.
#
# In training a sentence ended after 16 images. But here the truth is known for ever: view 16 is view 0.
#
# **Predict first:** where will the errors begin to grow, and will they ever shrink?

# %%
views = lvm_tasks.bank("test", FEW).views[:2].long()  # 2 16 8 8
with room.busy("Going round two things"):
    start = sequential_prompt(views[:, :8], BOS)
    onward = continue_sentence(model, start, 16, top_k=1)  # 2 16 8 8
around = lvm_tasks.around("test", 2)  # 2 16 h w 3
turning = torch.cat([around, around[:, :8]], dim=1)  # 2 24 h w 3
in_codes = frames_of(torch.cat([views, views[:, :8]], dim=1))
went_on = torch.cat([turning[:, :8], frames_of(onward)], dim=1)
room.show_clip(
    [clip for pair in zip(turning, went_on, strict=True) for clip in pair],
    labels=["true", "continued"] * 2,
    frames=12,
    title="Once and a half around two things, drawn from view 8 on",
    alt="Two things seen from all around, each above what the model has drawn.",
)

# %%
from course_lib.metrics import psnr


def nearness(made):
    """PSNR of each view to the true one, averaged over the two things"""
    pixels = (pixels_to_float(x.flatten(0, 1)) for x in (made, turning))
    return psnr(*pixels).unflatten(0, (2, 24))[:, 8:].mean(0)


held = turning[:, 7:8].expand_as(turning)
room.show_lines(
    range(8, 24),
    {
        "drawn": nearness(went_on),
        "view 7 held": nearness(held),
        "true, in codes": nearness(in_codes),
    },
    "How near to the true views (from view 16 on, what was shown first leaves)",
    "view",
    "PSNR, dB",
    height=2.8,
    alt="Three curves over views 8 to 23: drawn, view 7 held, and true views in codes.",
)

# %% [markdown]
# The held view is nearest to the truth where the thing shows the same side again. Does the drawn curve do anything at
# view 16? What would you change so that a long sequence does not drift: the window, the training, or the tokenizer?

# %% [markdown]
# ## 14 Perplexity
#
# What a model draws is one thing, what it *expected* another. The paper compares models by the latter. For an answer
# of $m$ codes,
#
# $$\mathrm{perplexity} = \exp\Bigl(\frac1m \sum_{i=1}^m -\ln p_i\Bigr)$$
#
# is the number of equally likely codes among which one would have to guess, at every place, to be as uncertain as the
# model is: 512 for a model that knows no more than that a code of ours is coming, 1 for one that knows all. (All tokens
# of the vocabulary compete, special ones too.) The mean is taken *before* the exponential, over one image. For a data
# set the paper's code then averages these perplexities over examples, which is not the exponential of the mean of all
# losses: a hard example counts more.

# %% [markdown]
# ### Exercise: perplexity, image by image
#
# `losses` (b n) are $-\ln p$ of every code of a row, in nats; a row holds one image after another, of `image_tokens`
# codes each, and nothing else. Return the perplexity of each image (b images):
#
# $$\exp\Big(\frac{1}{m} \sum_{i=1}^{m} -\ln p_i\Big)$$
#
# over its own m = `image_tokens` codes. An image with a code that was held impossible, $-\ln p = \infty$, has infinite
# perplexity, and the others of its row have not. The dtype of the losses stays.
#
# <details><summary>Hint 1: the idea</summary>
# Split the axis of tokens into images and the tokens of each. Average over the second of the two, then take exp.
# </details>
# <details><summary>Hint 2: the line</summary>
# <code>rearrange(losses, "b (images m) -> b images m", m=image_tokens)</code>
# </details>


# %% exercise: perplexity, image by image
@exercise("lvm.perplexity_by_picture")
def perplexity_by_picture(losses, image_tokens):
    """Section 5.1: losses (b n) of whole images -> perplexities (b images)"""
    # SOLUTION
    images = rearrange(losses, "b (images m) -> b images m", m=image_tokens)
    return images.mean(-1).exp()
    # END


# %%
from course_lib.papers.lvm import sentence_losses

with torch.no_grad():
    losses = sentence_losses(model, sequential_prompt(clip_codes, BOS))  # 8 1024
by_image = perplexity_by_picture(losses, 64)  # 8 16
print("one clip:", " ".join(f"{x:.1f}" for x in by_image[0].tolist()))
print(
    f"exp of the mean of all losses {losses.mean().exp():.2f}, mean of the perplexities"
    f" {by_image.mean():.2f}"
)

# %% [markdown]
# **More context, less surprise.** The paper's claim: the more frames a prompt shows, from 1 to 15, the lower the
# perplexity of the next. Here are sentences of five sorts, 64 each. *Images of a category* are a control: the first
# thing in each of them has the same shape and the same colour, and nothing else is shared.
#
# **Predict first:** which of the curves falls fastest, and which goes on falling to the end?

# %%
places = {
    "frames of a clip": ("clip", range(16)),
    "views around a thing": ("views", range(16)),
    "images of a category": ("category", range(16)),
    "segmentations": ("segmentation", range(1, 16, 2)),
    "maps in a palette": ("palette", range(1, 16, 2)),
}


def curve(name, at):
    return [run["details"][f"perplexities of {name}"][i] for i in at]


room.show_lines(
    {words: at for words, (_, at) in places.items()},
    {words: curve(name, at) for words, (name, at) in places.items()},
    "Perplexity of an image, by how many images are before it",
    "images before it",
    "perplexity",
    height=3.2,
    yscale="log",
    alt="Five curves over the number of images before: clips, views, categories, and"
    " maps of two tasks.",
)

# %%
def falls(name, at):
    """The perplexity at the end is below that of the second image of its kind"""
    values = curve(name, at)
    return single(values[-1], values[1]) < 0


room.reading(
    falls("clip", range(16)) & falls("views", range(16)),
    "In clips and views the last image is less of a surprise than the second: context"
    " helps.",
    "That the last image of clips and of views is less of a surprise than the second"
    " is not shown.",
)
room.reading(
    falls("palette", range(1, 16, 2)),
    "The last map in a palette is less of a surprise than the second.",
    "That the last map in a palette is less of a surprise than the second is not"
    " shown.",
)
room.reading(
    falls("category", range(16)),
    "Even images that have only a shape and a colour in common tell of one another.",
    "Images that have only a shape and a colour in common do not show such a fall.",
)

# %% [markdown]
# Those curves compare different images at different places. Now hold the image and change the context: the last image
# of a sentence, given the k images before it. Bright places are those whose codes surprised the model; all maps of one
# sentence share one scale.

# %%
LOOKED_AT = ("clip", "views", "category", "segmentation", "palette")


@torch.no_grad()
def surprise(codes, k):
    """-ln p of the last image's codes (64,), given BOS and the k images before it"""
    tokens = sequential_prompt(codes[None, 15 - k :], BOS)
    return sentence_losses(model, tokens)[0, -64:]


def context_length(sentence, number, images):
    generator = torch.Generator().manual_seed(number)
    of = lvm_tasks.bank("test", FEW)
    codes = lvm_tasks.sentences(of, sentence, 1, generator)[0].long()  # 16 8 8
    counts = sorted({0, 1, images, 15})
    losses = torch.stack([surprise(codes, k) for k in counts])
    target = decode(tokenizer, codes[-1:]).expand(len(counts), -1, -1, -1)
    words = perplexity_by_picture(losses, 64)[:, 0].tolist()
    titles = [f"{k} before: {x:.1f}" for k, x in zip(counts, words, strict=True)]
    lit = room.shade_by_map(target, losses.unflatten(1, (8, 8)))
    title = "Perplexity of the last image"
    return room.image_grid(lit, titles, len(counts), title=title)


# %%
explore(
    context_length,
    sentence=list(LOOKED_AT),
    number=slider(0, 9, 0, label="sentence number"),
    images=slider(2, 14, 4, label="images before it"),
    alt="The last image of a sentence, bright where its codes surprise the model, for"
    " several lengths of context",
)

# %% [markdown]
# Where is the surprise with no context at all, and where is some left with 15 images? Look at edges, and at the codes
# at the top left: the first code of an image has no neighbour to lean on.

# %% [markdown]
# ## 15 Size and diet
#
# **Three sizes.** The paper trains LVMs of 300 million to 3 billion parameters, on the same data, and finds that the
# larger ones have the lower perplexity, throughout training and on answers to prompts as well (its Section 5.1). Ours
# are about a thousand times smaller. They read the same rows in the same order.

# %%
SIZES = {
    name: results(f"lvm-{name}") for name in ("nano", "micro", "tiny")
}  # from small to large
SORTS = ("clip", "views", "category", *TASKS)
rows = [
    {
        "model": f"LVM-{name}",
        "parameters": f"{room.parameters(f'lvm/LVM-{name}'):,}",
        "minutes": f"{of['provenance']['seconds'] / 60:.0f}",
        **{
            sort: f"{of['metrics'][f'perplexity of {sort}']:.1f}"
            for sort in ("clip", "views", "category", "segmentation", "turn", "palette")
        },
    }
    for name, of in SIZES.items()
]
room.table(rows, "Perplexity of the last image, or of the answer after five pairs")

# %%
curves = {f"LVM-{name}": of["curve"]["model"] for name, of in SIZES.items()}
room.show_lines(
    SIZES["tiny"]["curve"]["step"],
    curves,
    "Loss while training: of tokens that no model has read before",
    "step",
    "nats",
    height=2.8,
    alt="Three falling curves, one for each size.",
)

# %%
in_order = [
    sort
    for sort in SORTS
    if evidence.ordered(
        {
            name: SIZES[name]["metrics"][f"perplexity of {sort}"]
            for name in ("tiny", "micro", "nano")
        }
    )
]
room.reading(
    value(len(in_order), f"of {len(SORTS)} sorts") >= len(SORTS),
    "For every sort of sentence the larger model has the lower perplexity, one run of"
    " each size.",
    "Not for every sort of sentence is the larger model the one with the lower"
    " perplexity.",
)

# %% [markdown]
# Perplexity is about codes. What of it reaches the answers?

# %%
rows = [
    {
        "task": f"{task}, {UNIT_OF[kind(task)]}",
        **{
            f"LVM-{name}": shown_score(task, "4 examples", of, error=True)
            for name, of in SIZES.items()
        },
        "codes": shown_score(task, "codes"),
    }
    for task in TASKS
]
room.table(rows, "Answers after four examples, 64 queries; ± one standard error")


# %%
def gain(task, one, other):
    """How much better one run's answers after four examples are than another's"""
    a, b = each(task, "4 examples", one), each(task, "4 examples", other)
    return paired(a, b) if kind(task) in AT_LEAST else paired(b, a)


gained = [t for t in TASKS if gain(t, SIZES["tiny"], SIZES["nano"]) > 0]
room.reading(
    value(len(gained), f"of {len(TASKS)} tasks") >= len(TASKS),
    "In every task the largest model's answers are better than the smallest's.",
    "Not in every task are the largest model's answers better than the smallest's.",
)

# %%
networks = {name: load_checkpoint(f"lvm-{name}")[0] for name in SIZES}


def by_size(task):
    asked = lvm_tasks.queries(task, 8, FEW)
    shown = {"query": asked.asked}
    for name, network in networks.items():
        shown[f"LVM-{name}"] = lvm_recipes.answers(network, asked.codes, 4)
    shown["truth"] = asked.answer
    return room.row_grid(shown, title=f"{task}, four examples", cell=60)


explore(
    by_size,
    task=["palette", *(task for task in TASKS if task != "palette")],
    alt="Eight queries, the answers of models of three sizes, and the truth",
)

# %% [markdown]
# **The diet.** Nearly nine tenths of the paper's data are single images, which teach nothing about prompts. Does one
# need anything else? And do clips help with maps? The paper trains on single images only, adds clips, then annotated
# images, and reports that perplexity falls with each addition. Here are four diets, each with two seeds:
#
# | diet | sentences |
# |---|---|
# | images | single images, images of a category |
# | clips | ... and clips, and views around things |
# | annotated | ... and the eight tasks |
# | everything | ... and combined tasks, and annotated clips |
#
# All read equally many tokens. So whatever is added *displaces* something: the question is about the *kinds* of data,
# not about their amount.
#
# **Predict first:** since "everything" leaves fewer sentences for the eight tasks than "annotated" does, will it be
# worse at them, or better?

# %%
DIETS = ("images", "clips", "annotated", "everything")
SEEDS = (0, 1)
runs = {
    diet: [results(f"lvm-{diet}-{seed}") for seed in SEEDS] for diet in DIETS
}


def of_seeds(diet, key):
    return [of["metrics"][key] for of in runs[diet]]


def both(numbers, digits=1):
    return " and ".join(f"{x:.{digits}f}" for x in numbers)


# %%
rows = [
    {
        "diet": diet,
        **{
            sort: both(of_seeds(diet, f"perplexity of {sort}"))
            for sort in ("category", "clip", "views", "segmentation", "palette")
        },
    }
    for diet in DIETS
]
short = find_recipe("lvm-everything-0")
read = short.steps * short.batch_size * short.config.context
room.table(rows, f"Perplexity, two seeds each; {read / 1e6:.1f} million tokens")

# %%
rows = [
    {
        "task": f"{task}, {UNIT_OF[kind(task)]}",
        **{
            diet: both(of_seeds(diet, f"{task}, 4 examples"), DIGITS[kind(task)])
            for diet in DIETS
        },
        "copied": shown_score(task, "query"),
        "mean": shown_score(task, "mean"),
    }
    for task in TASKS
]
room.table(rows, "Answers after four examples, by diet, two seeds each")


# %%
def lower(sort, one, other):
    """A sort's perplexity is lower with one diet than with another, in both seeds"""
    a, b = (of_seeds(diet, f"perplexity of {sort}") for diet in (one, other))
    return (single(a[0], b[0]) < 0) & (single(a[1], b[1]) < 0)


room.reading(
    lower("clip", "clips", "images") & lower("views", "clips", "images"),
    "With clips and views in the diet, clips and views are less of a surprise.",
    "That clips and views in the diet make clips and views less of a surprise is not"
    " shown in both seeds.",
)
room.reading(
    lower("segmentation", "clips", "images"),
    "Clips help with maps that neither diet contains: the perplexity of segmentations"
    " is lower.",
    "That clips help with maps that neither diet contains is not shown.",
)
room.reading(
    lower("segmentation", "annotated", "clips"),
    "Annotated images lower the perplexity of segmentations.",
    "That annotated images lower the perplexity of segmentations is not shown.",
)

# %%
def task_gain(one, other):
    """In how many tasks one diet's answers are better, in both seeds"""
    found = [
        task
        for task in TASKS
        if all(gain(task, runs[one][s], runs[other][s]) > 0 for s in SEEDS)
    ]
    return value(len(found), f"of {len(TASKS)} tasks: {', '.join(found) or 'none'}")


room.reading(
    task_gain("annotated", "everything") <= 0,
    "In none of the eight tasks is the diet without combined tasks better, though it"
    " reads more of the eight.",
    "In some of the eight tasks the diet without combined tasks, which reads more of"
    " them, is better.",
)
room.reading(
    task_gain("everything", "annotated") >= 1,
    "There are tasks in which variety pays: everything is better than annotated images"
    " only.",
    "That variety pays in any of the eight tasks is not shown.",
)

# %% [markdown]
# ## 16 Tasks it never saw
#
# A list of tasks in the training data is a list of things that a model can recognize. The interesting prompts are those
# that no training sentence ever posed. Four were held out:
#
# | | in training | never in training |
# |---|---|---|
# | a relation | normals to depth, depth to normals, depth to segmentation, ... | *normals to segmentation* |
# | two maps in a row | depth and segmentation; normals and edges | *edges and depth* |
# | two tasks at once | the image turned; turned depth, turned normals | *turned segmentation* |
# | the same in two steps | turn, then depth; turn, then normals | *turn, then segmentation* |
#
# Every kind of image in them is known: turned segmentations are in no sentence, but segmentations are, and turned maps.
#
# **Predict first:** which is easier, to turn and segment at once, or to be shown the step between?

# %%
UNSEEN = lvm_tasks.UNSEEN
explore(
    build_prompt,
    task=list(UNSEEN),
    examples=slider(0, 7, 4),
    query=slider(0, 7, 2),
    alt="A prompt for a task that was in no training sentence, with answer and truth",
)

# %%
rows = [
    {
        "task": f"{task}, {UNIT_OF[kind(task)]}",
        "copied": shown_score(task, "query"),
        "mean": shown_score(task, "mean"),
        "4 examples": shown_score(task, "4 examples", error=True),
        "the same map, trained on": shown_score(kind(task), "4 examples"),
        "codes": shown_score(task, "codes"),
    }
    for task in UNSEEN
]
room.table(rows, "Tasks of no training sentence, 64 queries; ± one standard error")

# %% [markdown]
# The last column but one is the plain task, image to depth or image to segmentation, which the model was trained on.

# %%
room.reading(
    (where_better("4 examples", "query", UNSEEN) >= len(UNSEEN))
    & (where_better("4 examples", "mean", UNSEEN) >= len(UNSEEN)),
    "In all four the answers are better than the query copied and than the mean"
    " answer.",
    "Not in all four are the answers better than the query copied and than the mean"
    " answer.",
)
at_once = each("turned segmentation", "4 examples")
steps = each("turn, then segmentation", "4 examples")
room.reading(
    evidence.unpaired(steps, at_once, "IoU") > 0,
    "Step by step the answers are better than at once.",
    "That answers step by step are better than at once is not shown.",
)
room.reading(
    evidence.unpaired(each("segmentation", "4 examples"), at_once, "IoU") > 0,
    "Turning a segmentation that it has never seen turned costs quality.",
    "That turning a segmentation that it has never seen turned costs quality is not"
    " shown.",
)

# %% [markdown]
# ## 17 Four failures
#
# The paper names four ways in which prompting fails: *task confusion*, *task entanglement*, the *wrong instance*, and
# the limits of the *tokenizer*. A failure that one can bring about can be measured, and then a remedy can be tried.
#
# **Task confusion:** the prompt is taken for that of another task. Write examples of two tasks into one prompt, some of
# segmentation (s) and some of depth (d), and ask. Which will it be?

# %%
of_letter = {
    letter: lvm_tasks.queries(task, 8, FEW)
    for letter, task in {"s": "segmentation", "d": "depth"}.items()
}


def mix_tasks(order, query):
    codes = [of_letter[x].codes[query, i] for i, x in enumerate(order)]
    codes.append(of_letter["s"].codes[query, -1])  # the same query in both
    answer = lvm_recipes.answers(model, torch.stack(codes)[None], len(order))
    shown = decode(tokenizer, torch.stack(codes[:-1]).flatten(0, 1))
    shown = shown.unflatten(0, (-1, 2))
    asked = of_letter["s"].asked[query : query + 1]
    columns = torch.cat([shown, torch.stack([asked, answer], dim=1)])
    titles = [*order, "query"] + [""] * len(order) + ["answer"]
    images = rearrange(columns, "p q h w c -> (q p) h w c")
    title = f"{order} (s: segmentation, d: depth)"
    return room.image_grid(images, titles, len(order) + 1, title=title, cell=110)


# %%
explore(
    mix_tasks,
    order=["ssdd", "ddss", "sd", "ds", "sdsd", "sssd", "dsss", "ssss"],
    query=slider(0, 7, 3),
    alt="Examples of two tasks in one prompt, a query, and the model's answer",
)


# %% [markdown]
# **Task entanglement:** two tasks get mixed, or one of two is left out. Ask for *turned segmentation* (section 16) and
# see which of four images the answer is nearest to: both done, turned only, segmented only, neither. The remedy: the
# same, step by step.
#
# **The wrong instance:** the right task, done to another thing. In scenes of two or three things, no two of one shape,
# read which shape the first thing has in the answer: its own, or that of *another* thing in the scene? The remedy: draw
# eight answers at random, and let each pixel take the most frequent class.
#
# **The tokenizer's limit:** what the codes of an image cannot say. Encode and decode the *true* maps. The remedy:
# scenes drawn twice as large, in 16 x 16 codes by the same tokenizer; a sentence then has four times the tokens.
#
# All four, on 64 queries or scenes (instances: as many as have several things):

# %%
failed = run["metrics"]
several = int(failed["several things"])
FAILURES = {
    "confusion: depth is drawn": (
        ("s s d d", failed["confusion, segmentation, depth: depth"]),
        ("s last: d d s s", failed["confusion, depth, segmentation: depth"]),
    ),
    "entanglement: not both are done": (
        ("at once", 1 - failed["entanglement, turned segmentation: both"]),
        ("in steps", 1 - failed["entanglement, turn, then segmentation: both"]),
    ),
    "instance: another's shape": (
        ("likeliest", failed["instance, likeliest: another's"]),
        ("eight votes", failed["instance, voted: another's"]),
    ),
}
# %%
rows = [
    {
        "failure": failure,
        "brought about by": cause,
        "share": f"{share:.0%}",
        "remedy": cure,
        "share then": f"{after:.0%}",
        "of": several if failure.startswith("instance") else 64,
    }
    for failure, ((cause, share), (cure, after)) in FAILURES.items()
]
room.table(rows, "Three failures, how often, and how often after a remedy")

# %%
for failure, ((_, share), (cure, after)) in FAILURES.items():
    n = several if failure.startswith("instance") else 64
    room.reading(
        evidence.shares(round(n * after), n, round(n * share), n) < 0,
        f"{failure.partition(':')[0].capitalize()}: the remedy, {cure}, helps.",
        f"{failure.partition(':')[0].capitalize()}: that the remedy, {cure}, helps is"
        " not shown.",
    )
depth_drawn = round(64 * failed["confusion, segmentation: depth"])
room.reading(
    evidence.shares(depth_drawn, 64) < 0.05,
    "After four examples of segmentation only, depth is hardly ever drawn.",
    "Even after four examples of segmentation only, depth is drawn at times.",
)

# %%
from course_lib.world.annotations import annotate

scene = lvm_tasks.resting_scenes("test", 1, start=9)
shown, titles = [], []
for name in ("segmentation", "edges"):
    small, large = (annotate(scene, size).draw(name) for size in (32, 64))
    coarse = decode(tokenizer, lvm_tasks.encode(small))
    coarse = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)  # twice as large
    shown += [large, coarse, decode(tokenizer, lvm_tasks.encode(large))]
    titles += [f"{name}, true", "8 x 8 codes", "16 x 16 codes"]
room.show_images(
    torch.cat(shown),
    titles,
    columns=3,
    cell=150,
    title="A map and what its codes can say",
    alt="A segmentation and a map of edges: true, in 8 x 8 and in 16 x 16 codes.",
)

# %%
rows = [
    {
        "codes of an image": grid,
        "segmentation, IoU": f"{failed[f'{grid} codes: iou']:.3f}",
        "depth, relative error": f"{failed[f'{grid} codes: depth']:.3f}",
        "normals, degrees": f"{failed[f'{grid} codes: normal']:.1f}",
        "edges, F1": f"{failed[f'{grid} codes: edges']:.2f}",
    }
    for grid in ("8 x 8", "16 x 16")
]
room.table(rows, "True maps of 64 scenes, encoded and decoded")

# %%
coarse, fine = (
    {m: failed[f"{grid} codes: {m}"] for m in ("iou", "depth", "normal", "edges")}
    for grid in ("8 x 8", "16 x 16")
)
room.reading(
    (single(fine["iou"], coarse["iou"]) > 0)
    & (single(fine["depth"], coarse["depth"]) < 0)
    & (single(fine["normal"], coarse["normal"]) < 0)
    & (single(fine["edges"], coarse["edges"]) > 0),
    "With four times the codes all four maps are rebuilt better.",
    "With four times the codes not all four maps are rebuilt better.",
)

# %% [markdown]
# The last remedy treats the tokenizer and not yet the answers: no model was trained on sentences of such images. What
# would you expect of one, at the same cost?

# %% [markdown]
# ## 18 Look inside
#
# Which earlier images does a token look at while it writes the answer? Catch what enters the attention of each layer,
# compute queries and keys, turn them by your `rotary`, and the table of attention is a softmax away.


# %%
@torch.no_grad()
def attention_tables(tokens):
    """softmax(q k) of a row of tokens (n,): (layers heads n n)"""
    seen = []
    hooks = [
        block.norm1.register_forward_hook(lambda norm, given, out: seen.append(out))
        for block in model.blocks
    ]
    model.features(tokens[None])
    for hook in hooks:
        hook.remove()
    tables = []
    for block, x in zip(model.blocks, seen, strict=True):
        heads = 3 * model.config.heads
        qkv = rearrange(block.qkv(x), "b n (heads d) -> b n heads d", heads=heads)
        q, k, _ = qkv.chunk(3, dim=2)
        q, k = rotary(q)[0], rotary(k)[0]  # n heads d
        scores = torch.einsum("nhd, mhd -> hnm", q, k) / q.shape[-1] ** 0.5
        past = torch.ones(scores.shape[1:], dtype=torch.bool).tril()
        tables.append(scores.masked_fill(~past, -torch.inf).softmax(-1))
    return torch.stack(tables)


# %% [markdown]
# Four examples, the query and its true answer are ten images. Click a place: it is the place of the *answer's* code
# that is about to be drawn. The ten images are lit by how much the token before it looks at each of their codes; the
# number is the image's share. (The board shows the query. For *turn* the answer is turned, and so is the place.)

# %%
def ten_images(task, query):
    """Tokens of four examples, a query and its answer (641,), and the codes (10 8 8)"""
    codes = lvm_tasks.queries(task, 8, FEW).codes[query, -5:].long().flatten(0, 1)
    return sequential_prompt(codes, BOS), codes


def look(place, task, layer, head):
    tokens, codes = ten_images(task, 1)
    table = attention_tables(tokens)[layer - 1]  # heads n n
    row = 9 * 64 + 8 * place[0] + place[1]  # the token before the code at that place
    weights = table.mean(0)[row] if head == "all" else table[head - 1, row]
    maps = weights[1:].unflatten(0, (10, 8, 8))
    names = [f"{part} {i}" for i in range(1, 5) for part in ("image", "map")]
    names += ["query", "answer"]
    amounts = zip(names, maps.sum((1, 2)), strict=True)
    titles = [f"{name}: {share:.0%}" for name, share in amounts]
    lit = room.shade_by_map(decode(tokenizer, codes), maps)
    order = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]  # images above, their maps below
    title = f"Layer {layer}, BOS {weights[0]:.0%}"
    return room.image_grid(lit[order], [titles[i] for i in order], 5, title=title)


# %%
board = lvm_tasks.queries("segmentation", 8, FEW).asked[1]
explore(
    look,
    place=room.patches(board, 8, 8, value=(4, 4)),
    task=["segmentation", "depth", "normal", "edges", "turn"],
    layer=slider(1, model.config.depth, 2),
    head=room.choices(["all", *range(1, model.config.heads + 1)]),
    alt="Ten images, bright where the token before a code of the answer looks",
)

# %% [markdown]
# Look for heads that do one thing: look back at the same place of the query; look at the answer so far; look at the
# *maps* of the examples and pass over their images. Is there one that finds, in the examples, things like the one that
# it is about to draw?
#
# Now in numbers. First, where attention goes in each layer, averaged over heads, all 64 codes of the answer, and eight
# queries. The last row is uniform attention.

# %%
PARTS = ("BOS", "examples' images", "examples' maps", "query", "answer so far")


def shares_of_parts(table):
    """Attention (... n n) of rows that draw the answer, summed over parts: (... 5)"""
    drawing = table[..., 9 * 64 : 10 * 64, :].mean(-2)  # ... 641
    images = drawing[..., 1:].unflatten(-1, (10, 64)).sum(-1)  # ... 10
    parts = [
        drawing[..., 0],
        images[..., 0:8:2].sum(-1),
        images[..., 1:8:2].sum(-1),
        images[..., 8],
        images[..., 9],
    ]
    return torch.stack(parts, dim=-1)


of_queries = [attention_tables(ten_images("segmentation", i)[0]) for i in range(8)]
looked = torch.stack([shares_of_parts(table) for table in of_queries]).mean(2)
even = torch.ones(641, 641).tril()
uniform = shares_of_parts(even / even.sum(1, keepdim=True))

# %%
labels = [f"layer {i + 1}" for i in range(model.config.depth)] + ["uniform"]
rows = [
    {"": label, **{p: f"{x:.0%}" for p, x in zip(PARTS, of.tolist(), strict=True)}}
    for label, of in zip(labels, [*looked.mean(0), uniform], strict=True)
]
room.table(rows, "Where the tokens that draw a segmentation look")

# %%
on_query = looked[..., 3].mean(1)  # of each of eight queries
room.reading(
    paired(on_query, uniform[3].expand(8)) > 0,
    "Over all layers the query gets more attention than it would if all tokens were"
    " looked at alike.",
    "That the query gets more attention than it would if all tokens were looked at"
    " alike is not shown.",
)

# %% [markdown]
# Second: does a head look at the *source* of what it draws? For a segmentation the source of a code is the same place
# of the query. For a turned image it is another place, and which one only the examples can tell. Take the attention on
# the source, over the mean attention on a place of the query. The head is chosen on four queries; the number is from
# four others.

# %%
from course_lib.world.annotations import turn


def source_places(task, query):
    """For each of the answer's 64 places, the place of the query that it shows"""
    asked = lvm_tasks.queries(task, 8, FEW)
    grid = torch.arange(64).view(8, 8)
    if task != "turn":
        return grid.flatten()
    pixels, answer = asked.asked[query], asked.answer[query]
    quarters = [k for k in (1, 2, 3) if torch.equal(turn(pixels, k), answer)]
    return torch.rot90(grid, quarters[0]).flatten()


def on_source(task, query):
    """How many times as much as a place of the query its source gets: (layers heads)"""
    table = attention_tables(ten_images(task, query)[0])
    drawing = table[..., 9 * 64 : 10 * 64, :]  # layers heads 64 641
    of_query = drawing[..., 1 + 8 * 64 : 1 + 9 * 64]
    source = source_places(task, query).expand(*of_query.shape[:3])[..., None]
    return (of_query.gather(-1, source)[..., 0] / of_query.mean(-1)).mean(-1)


# %%
TRACED = ("segmentation", "depth", "turn")
traced = {t: torch.stack([on_source(t, i) for i in range(8)]) for t in TRACED}
rows, tested = [], {}
for task, times in traced.items():
    best = int(times[:4].mean(0).flatten().argmax())
    layer, head = divmod(best, model.config.heads)
    tested[task] = times[4:, layer, head]
    rows.append({"task": task, "layer": layer + 1, "head": head + 1})
    rows[-1]["attention on the source"] = f"{tested[task].mean():.1f} times the mean"
room.table(rows, "The head that looks most at the source; four other queries")

# %%
for task in TRACED:
    room.reading(
        paired(tested[task], torch.ones(4), "times the mean") > 0,
        f"{task.capitalize()}: this head looks at the source more than elsewhere in the"
        " query.",
        f"{task.capitalize()}: that any head looks at the source is not shown.",
    )

# %% [markdown]
# Attention shows where information *could* come from. What would you change in the network to show that the answer
# depends on it?

# %% [markdown]
# ## 19 The real thing
#
# The classes of this chapter are the published network, layer for layer. What was released: the code, a model called
# 7B, which is not among the paper's sizes, and the two tokenizers of section 3. Not in it, as far as we could find: the
# data, the paper's own models of 300M to 3B, and the numbers of BOS and EOS.

# %%
rows = []
for name in ("300M", "600M", "1B", "3B", "7B"):
    c = zoo.find(f"lvm/LVM-{name}").config
    counted = room.parameters(f"lvm/LVM-{name}")
    cache = 2 * c.depth * c.context * c.width  # keys and values
    rows.append(
        {
            "model": f"LVM-{name}",
            "width": c.width,
            "layers": c.depth,
            "heads": f"{c.heads} of {c.head_width}",
            "parameters": f"{counted:,}",
            "weights, GB": f"{2 * counted / 1e9:.1f}",
            "cache of 16 images, GB": f"{2 * cache / 1e9:.2f}",
        }
    )
room.table(rows, "In 16 bits")

# %% [markdown]
# Look at the heads. LVM-300M has 8 heads of 128 numbers, where one would guess 16 of 64. The number of heads is in no
# weight's shape: with a wrong one everything loads, and every answer is wrong.
#
# **Pairs.** Another such trap. Our rotation, like that of the code that trained LVM, turns *neighbours* together,
# numbers $2i$ and $2i + 1$ of a head. Transformers' `LlamaForCausalLM`, in whose layout the released model comes, turns
# $i$ and $i + d/2$. The rows of $W_q$ and $W_k$ are stored in the order that makes its rotation right, and have to be
# reordered for ours; those of $W_v$, which is not turned, stay.

# %%
from course_lib.convert.lvm import rows_of_pairs
from course_lib.papers.lvm import LVMConfig

small = LVMConfig(width=8, mlp=8, depth=1, heads=1, image=(2, 2), context=16)
print("rows of q, k and v in our order:", rows_of_pairs(small).tolist())


def turn_halves(x, width=64):
    """transformers' rotation: pairs (i, i + width/2).  x (b n heads d)"""
    a, b = x.chunk(2, dim=-1)
    angles = torch.arange(x.shape[1])[:, None, None] * 10_000 ** (
        -torch.arange(0, width, 2) / width
    )
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


# %%
q, k = torch.randn(2, 1, 20, 1, 64, generator=torch.Generator().manual_seed(0))
pairs = torch.arange(64).view(2, 32).T.flatten()  # 0, 32, 1, 33, ...


def products(q, k, rotation):
    q, k = rotation(q)[0, :, 0], rotation(k)[0, :, 0]
    return q @ k.T


theirs = products(q, k, turn_halves)
reordered = products(q[..., pairs], k[..., pairs], rotary)
unchanged = products(q, k, rotary)
print(f"reordered: products differ by at most {(reordered - theirs).abs().max():.0e}")
print(f"unchanged: products differ by at most {(unchanged - theirs).abs().max():.1f}")
same = (unchanged - theirs).abs().diagonal().max()
print(f"... but at distance 0 by {same:.0e}")

# %% [markdown]
# So a test that looks at one token only would find nothing wrong. With the weights on your disk, as dictionaries of
# tensors,
#
# ```
# from course_lib.convert import load_official
#
# model = load_official("lvm/LVM-7B", transformer_weights)
# tokenizer = load_official("lvm/tokenizer-muse", tokenizer_weights)
# ```
#
# gives what this chapter's functions take: `decode_images(model, prompt)` draws an image of 16 x 16 codes. (The
# released model was prompted without BOS, and its configuration calls code 2 the end: section 8.) It needs the
# tokenizer that it was trained with. The codes of another one are valid numbers too, and mean nothing to it. Our tests
# compare values, gradients and cached generation with `LlamaForCausalLM`, for small random weights; we have not run the
# published ones. `course models` lists all presets of the course with their counts.

# %%
for name in ("tokenizer", "tokenizer-muse"):
    c = zoo.find(f"lvm/{name}").config
    numbers = room.parameters(f"lvm/{name}")
    print(f"{name:14} {numbers:>11,} parameters, {c.num_codes:,} codes of {c.code_dim}")

# %% [markdown]
# ## 20 Study notes and scorecard
#
# Study notes and slides shorten this paper to sentences like those in bold. Each is nearly true. Cover the text below
# it, and first correct it yourself.
#
# **"LVM learns without any supervision."** It reads no word, and its loss needs no label. But 7 % of its data are
# annotated images, whose maps were drawn by people or by networks that were trained on labels, and its photographs,
# those of LAION, were filtered by how well they fit their captions. "Without language" is what the paper says, and that
# is true of the model.
#
# **"It is trained on 1.64 billion images."** Images *and frames* of clips, as UVD v1 counts them. Times 256 codes that
# is 420 billion tokens, seen once.
#
# **"It is trained on annotated images."** On those, too. 88.5 % of the data are single images, 4.24 % sequences, 7.15 %
# annotated images, and 0.06 % annotated sequences.
#
# **"A sentence has 16 images, which fill the context of 4,096 tokens."** With BOS and EOS they are 4,098. Sentences are
# written into one stream that is cut anywhere, and in its rows a token sees whatever comes before it, of other
# sentences too.
#
# **"Special tokens mark images, maps and tasks."** There are two, BOS and EOS, and nothing else that the paper
# describes. What an image is, and which task it belongs to, has to be seen.
#
# **"Its tokenizer is VQGAN."** VQGAN's idea, in a form without attention. The repository has two: one of the paper's
# time, and a later one with which the 7B model was released.
#
# **"It is GPT for images."** In its idea, to predict the next token and to ask by prompts. In its parts it is LLaMA:
# RMSNorm, rotation, SwiGLU, no biases.
#
# **"It learns new tasks from a few examples, without training."** No weight changes, true. Whether a prompt *teaches*
# or only *names* a task is another question (section 12): ask for the score without examples, and for a task that
# cannot be known without them.
#
# **"Larger models, longer contexts and more varied data are better."** They have a lower *perplexity*, in the paper.
# What that means in degrees or metres has to be measured on the answers (section 15).
#
# **"It beats specialists."** On keypoints of Pascal3D+, it is ahead of three of them. That is one task, without error
# bars.

# %%
BIG = {"300M": "300M", "600M": "0.6B", "1B": "1B", "3B": "3B", "7B": "7B"}
exact = [
    room.row(
        f"Parameters, LVM-{name}",
        paper=said,
        code=room.parameters(f"lvm/LVM-{name}"),
        note="released later" if name == "7B" else None,
    )
    for name, said in BIG.items()
]
c = zoo.find("lvm/LVM-3B").config
exact += [
    room.row("Codes of an image", paper="256", code=c.image_tokens),
    room.row("Images in the context of 4,096", paper="16", code=c.images),
    room.row(
        "Tokens of a sentence of 16 images",
        code=16 * c.image_tokens + 2,
        note="two more than the context",
    ),
    room.row("Tokens of UVD v1", paper="420 billion", code=f"{1.64e9 * 256 / 1e9:.1f}"),
    room.row("Vocabulary", code=c.vocabulary, note="8,192 codes and 100 others"),
]

# %%
exact += [
    room.row(
        "Parameters, tokenizer of the paper's time",
        code=room.parameters("lvm/tokenizer"),
    ),
    room.row(
        "Parameters, later tokenizer", code=room.parameters("lvm/tokenizer-muse")
    ),
]
room.scorecard(exact, title="Exact")

# %%
answers_trends = [
    room.row(
        "One model does every task after examples",
        paper="Section 4.3",
        shown=where_better("4 examples", "mean") >= len(TASKS),
    ),
    room.row(
        "It reads the examples: others mislead it",
        shown=where_better("4 examples", "other") >= len(TASKS),
    ),
    room.row(
        "More examples are better: a palette",
        shown=better("palette", "7 examples", "1 examples") > 0,
    ),
]

# %%
answers_trends += [
    room.row(
        "Tasks of no training sentence",
        paper="Section 4.3",
        shown=where_better("4 examples", "mean", UNSEEN) >= len(UNSEEN),
    ),
    room.row(
        "Points where they belong",
        paper="PCK 81.2",
        shown=paired(far["drawn"], far["last"], "pixels") < 0,
    ),
]
room.scorecard(answers_trends, title="Trends: answers")

# %%
perplexity_trends = [
    room.row(
        "Larger models: lower perplexity",
        paper="Section 5.1",
        shown=value(len(in_order), f"of {len(SORTS)} sorts") >= len(SORTS),
    ),
    room.row(
        "More context: lower perplexity, clips and views",
        paper="Section 5.1",
        shown=falls("clip", range(16)) & falls("views", range(16)),
    ),
    room.row(
        "Clips beside images: lower perplexity of maps",
        paper="Section 5.1",
        shown=lower("segmentation", "clips", "images"),
    ),
]

# %%
perplexity_trends += [
    room.row(
        "Annotated images: lower still",
        paper="Section 5.1",
        shown=lower("segmentation", "annotated", "clips"),
    ),
    room.row(
        "Everything: lower still",
        paper="Section 5.1",
        shown=lower("segmentation", "everything", "annotated"),
    ),
]
room.scorecard(perplexity_trends, title="Trends: perplexity")

# %% [markdown]
# The three sizes are one run each; diets have two. Perplexities of our codes cannot be compared with the paper's: a
# guess among 512 is another thing than one among 8,192.

# %% [markdown]
# ## 21 Think further
#
# <details><summary>Is it "in-context learning"? What would convince you that a prompt teaches the model something?</summary>
# That the answer depends on what is only in the examples; that it improves with their number; and that it works for
# rules that no training sentence had. A palette drawn anew has the first by construction; the second is measured in
# section 12. It is weak on the third: palettes as such were trained on. A stronger test is a <em>kind</em> of rule that
# was never posed, such as colours by size instead of by shape. Most tasks of most demonstrations, the paper's included,
# may well be recognized: edges, depth and segmentation are in its data.
# </details>
#
# <details><summary>The loss counts the codes of questions and answers alike. Would it not be better to count answers only, as prompts are scored?</summary>
# Then each row would teach less: half of the tokens or more would have no loss. And questions are data, too. Predicting
# them teaches what scenes look like, which single images teach as well. But weights need not be 0 or 1. For a fixed
# number of steps one could try a larger weight on answers, and judge by answers to prompts, at equal tokens.
# </details>
#
# <details><summary>The stream has no document mask: a token may attend to the end of another sentence. Why does that not spoil prompts, which have nothing before BOS?</summary>
# Rows of training begin anywhere, so that every amount of foreign past is met there, from none to nearly a whole row.
# The model has to learn that what comes before BOS says nothing about what comes after it. That costs some capacity,
# and what it costs here section 5 measures. In return the code is simple, no token is padding, and attention has one
# shape.
# </details>
#
# <details><summary>A map is an image in colours, and its error is counted in codes. What does that make of the metric character of depth?</summary>
# The loss does not know it. A code that is off by a centimetre and one that is off by three metres are equally wrong;
# softmax knows only equal and unequal. What helps is the number of examples of each code, and that similar codes occur
# in similar places. A specialist with a squared error is told how far off it is. The price of one format for everything
# is that nothing is treated as what it is.
# </details>
#
# <details><summary>Depth needs a colour code, and so do normals. Does the choice matter?</summary>
# Yes, in two ways. It bounds what can be read back: a byte of grey has 256 depths, a path along three edges of the
# colour cube three times as many. And the tokenizer rebuilds some colours better than others, above all those of the
# images it was trained on. A code with large jumps for small differences of depth would turn small errors of a code
# into large ones.
# </details>
#
# <details><summary>Colourization has more than one right answer. Is PSNR fair to it?</summary>
# No. If a grey thing may be red or green, the best PSNR has the mean of both, a brownish grey that nobody would call
# right, while a draw from the true distribution loses. In our task the examples give away floor and sky, so that much
# of the image is settled; for the things, one would count how often the drawn colour is a <em>possible</em> one, or
# look at the perplexity of the true image, which allows for several answers.
# </details>
#
# <details><summary>Answers are the most probable code at every place. Is that the most probable image?</summary>
# No. The best first code may lead to images that are all unlikely. It is a greedy search; the most probable image is
# out of reach (512 to the power of 64 candidates). Draws at temperature 1 are fair samples of what the model believes.
# For maps with one right answer greed works, as long as the model is nearly sure. For images with many, it tends to
# draw the same plain thing again and again.
# </details>
#
# <details><summary>Somebody proposes to add the words after all: a text token for each task. What is gained, what lost?</summary>
# Recognition becomes trivial: no example needed, no confusion between tasks that look alike. What is lost is the only
# way to ask for something that has no name, or whose name nobody has annotated. One can have both. Models that came
# later read text and images in one stream; chapter 06 is about one of them.
# </details>
#
# <details><summary>Who made the maps, and whose photographs are they?</summary>
# The photographs are from LAION, collected from the web without asking. Many maps are the outputs of other networks, so
# that their errors, and the choices of those who annotated <em>their</em> data, are copied without a trace. A model
# that imitates a depth estimator cannot be better than it on average, except by chance or by averaging its errors.
# What would you want to know of a data set of 1.64 billion images before you built on it?
# </details>

# %%
room.quiz("lvm")

# %%
room.flashcards("lvm")

# %% [markdown]
# ## 22 Read on
#
# - Bai et al., *Sequential Modeling Enables Scalable Learning for Large Vision Models* (2023), arXiv 2312.00785.
# - Su et al., *RoFormer* (2021), arXiv 2104.09864: rotation.
# - Shazeer, *GLU Variants Improve Transformer* (2020), arXiv 2002.05202: the gate.
# - Holtzman et al., *The Curious Case of Neural Text Degeneration* (2019), arXiv 1904.09751: top-p, and why the most
#   probable text is not the best one.
# - Esser et al., *Taming Transformers for High-Resolution Image Synthesis* (2020), arXiv 2012.09841: VQGAN, chapter 04.
# - Yang and Ramanan, *Articulated Human Detection with Flexible Mixtures of Parts* (2013): PCK.
# - `papers/lvm_sentences.py`, `papers/lvm.py` and `papers/lvm_tokenizer.py` are the paper, to be read in this order.
#
# **Next:** chapter 08 leaves codes for latents without a codebook, and one token after another for noise that is
# removed from all of them at once.

# %%
room.progress()
