"""The recipes of chapter 07: sentences hold what they say, and runs differ in what is compared."""

from dataclasses import replace

import pytest
import torch

from course_lib import zoo
from course_lib.papers.lvm_tokenizer import Tokenizer
from course_lib.training import RandomSource, find_recipe
from course_lib.training.recipes import lvm, lvm_tasks, lvm_tokenizer
from course_lib.training.recipes.lvm import (
    QUERIES,
    answer_scores,
    answers,
    clip_scores,
    confusion,
    entanglement,
    taken_for,
    wrong_instance,
)
from course_lib.training.recipes.lvm_tasks import (
    ALL_TASKS,
    COMBINED,
    GRID,
    IMAGES,
    SHARES,
    TASKS,
    UNSEEN,
    alike,
    bank,
    choose,
    draw_quarters,
    examples,
    first_shape,
    mean_answer,
    queries,
    rows,
    score,
    sentences,
)
from course_lib.training.recipes.lvm_tokenizer import decode, kinds
from course_lib.world.geometry import FIRST_THING
from course_lib.world.map_colours import pixels_to_classes
from tests.training.helpers import differing, train_model

RECIPES = [*lvm_tokenizer.RECIPES, *lvm_tasks.RECIPES, *lvm.RECIPES]
BOS = 512


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module", autouse=True)
def _small_banks():
    """Few scenes, and a small tokenizer before its training: one code differs from another."""
    torch.manual_seed(0)
    config = zoo.find("lvm/tokenizer-tiny").config
    tokenizer = Tokenizer(replace(config, width=8, multipliers=(1, 1, 1))).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lvm_tasks, "SIZES", dict.fromkeys(("train", "test"), (260, 8, 6, 4)))
        for module in (lvm, lvm_tasks):
            patch.setattr(module, "load_checkpoint", lambda name: (tokenizer, {}))
        for kept in (bank, queries):
            kept.cache_clear()
        yield
        for kept in (bank, queries):
            kept.cache_clear()


# ---------------------------------------------------------------- what is compared


def test_compared_runs_differ_only_in_what_is_compared():
    assert differing(["lvm-tiny", "lvm-micro", "lvm-nano"]) == {"preset"}
    for name, field in {
        "images": "groups",
        "clips": "groups",
        "annotated": "groups",
        "apart": "apart",
        "unplaced": "image_places",
    }.items():
        for seed in (0, 1):
            assert differing([f"lvm-everything-{seed}", f"lvm-{name}-{seed}"]) == {field}
    assert differing(["lvm-everything-0", "lvm-everything-1"]) == {"seed"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.name)
def test_a_recipe_warms_up_and_ends_at_zero(recipe):
    assert recipe.lr_scale(0) < 0.1
    assert recipe.lr_scale(recipe.steps) == 0


@pytest.mark.parametrize("size", ["tiny", "micro", "nano"])
def test_every_size_reads_a_hundred_million_tokens(size):
    recipe = find_recipe(f"lvm-{size}")
    assert recipe.steps * recipe.batch_size * recipe.config.context >= 100_000_000


# ---------------------------------------------------------------- the run in the notebook


def test_the_live_run_reads_sentences_of_its_tasks_and_no_others():
    recipe = replace(find_recipe("lvm-live"), steps=6, batch_size=2, pictures=40)
    data = recipe.data()
    assert len(data) == 12
    tokens, places = (data.batch(torch.arange(12))[name] for name in ("tokens", "places"))
    assert tokens.shape == (12, 2 + 4 * 64)  # each row is a sentence of two examples
    assert (tokens[:, 0] == BOS).all() and (tokens[:, -1] == BOS + 1).all()
    of = lvm_tasks.bank_of_stills("train", 40, ("image", "segmentation", "depth"))
    known = {kind: codes.flatten(1).tolist() for kind, codes in of.stills.items()}
    stream, where = tokens.flatten(), places.flatten()
    starts = (stream == BOS).nonzero()[:, 0]
    found = set()
    for start in starts[starts + 129 < len(stream)].tolist():
        assert where[start] == 0 and where[start + 1] == 1 and where[start + 65] == 1
        image, answer = stream[start + 1 : start + 129].view(2, 64).tolist()
        scene = known["image"].index(image)
        found |= {kind for kind in recipe.tasks if known[kind][scene] == answer}
    assert found == set(recipe.tasks)


def test_the_live_run_is_measured_by_its_own_tasks(monkeypatch):
    asked = []

    def note(model, shown, tasks):
        asked.append((shown, tasks))
        return {}

    monkeypatch.setattr(lvm, "answer_scores", note)
    recipe = find_recipe("lvm-live")
    recipe.measure(recipe.untrained())
    assert asked == [((0, 1), ("segmentation", "depth"))]


# ---------------------------------------------------------------- the tasks


def test_no_sentence_for_training_poses_an_unseen_task():
    posed = {name for group in SHARES.values() for name in group}
    assert set(TASKS) | set(COMBINED) <= posed
    assert not posed & set(UNSEEN)
    seen = [ALL_TASKS[name] for name in posed if name in ALL_TASKS]
    assert not [kinds for kinds in UNSEEN.values() if kinds in seen]
    assert not any("turned segmentation" in kinds for kinds in seen)


def test_chosen_scenes_are_different_ones_that_have_a_label_in_common():
    labels = torch.tensor([0] * 5 + [1] * 9 + [2] * 2 + [3] * 7)
    chosen = alike(labels, n=400, p=5, generator=seeded())
    assert chosen.shape == (400, 5)
    assert all(len(row.unique()) == 5 for row in chosen)
    found = labels[chosen]
    assert (found == found[:, :1]).all()
    assert set(found.unique().tolist()) == {0, 1, 3}  # of label 2 there are too few
    assert set(chosen.unique().tolist()) == {i for i in range(23) if labels[i] != 2}
    first = chosen[found[:, 0] == 1, 0].bincount(minlength=14)[5:]
    assert first.min() > 0  # any of them comes first


def test_colours_are_learnt_from_scenes_of_one_place():
    of = bank("train")
    scene = choose(of, "colour", 20, 4, seeded())
    assert (of.place[scene] == of.place[scene][:, :1]).all()
    everywhere = of.place[choose(of, "depth", 20, 4, seeded())]
    assert (everywhere != everywhere[:, :1]).any()


@pytest.mark.parametrize("task", ALL_TASKS)
def test_an_example_shows_its_scene_in_the_order_of_the_kinds(task):
    of = bank("train")
    scene = choose(of, task, 3, 4, seeded(1))
    quarters = draw_quarters(task, 3, seeded(2))
    drawn = examples(of, task, scene, quarters)
    kinds = ALL_TASKS[task]
    assert drawn.shape == (3, 4, len(kinds), GRID, GRID)
    if task == "palette":
        assert torch.equal(drawn, of.palettes.flatten(0, 1)[scene])
        assert (scene // 8 == scene[:, :1] // 8).all()
        return
    for i, kind in enumerate(kinds):
        for row in range(3):
            name = f"turned image {quarters[row]}" if kind == "turned image" else kind
            assert torch.equal(drawn[row, :, i], of.stills[name][scene[row]])
    assert task == "turn" or (quarters == 1).all()


def test_turns_by_all_quarters_are_asked_for():
    assert set(draw_quarters("turn", 50, seeded()).tolist()) == {1, 2, 3}


def test_the_codes_of_a_kind_are_those_of_its_images():
    some = lvm_tasks.stills("train", 12)
    for kind in lvm_tasks.STILL_KINDS:
        assert torch.equal(bank("train").stills[kind][:12], lvm_tasks.encode(some.draw(kind)))


def test_scenes_from_the_middle_on_are_the_same_scenes():
    all_of_them, some = lvm_tasks.stills("test", 9), lvm_tasks.stills("test", 4, 5)
    assert torch.equal(all_of_them.images.rgb[5:], some.images.rgb)
    assert torch.equal(all_of_them.place[5:], some.place)
    images, palettes = lvm_tasks.with_palettes("test", 3)
    later, theirs = lvm_tasks.with_palettes("test", 1, 2)
    assert torch.equal(images.rgb[16:], later.rgb) and torch.equal(palettes[16:], theirs)
    assert torch.equal(lvm_tasks.moving("test", 3).rgb[2:], lvm_tasks.moving("test", 1, 2).rgb)
    assert torch.equal(lvm_tasks.around("test", 3)[2:], lvm_tasks.around("test", 1, 2))


# ---------------------------------------------------------------- sentences


@pytest.mark.parametrize("name", [name for group in SHARES.values() for name in group])
def test_a_sentence_has_sixteen_images_or_is_a_single_one(name):
    drawn = sentences(bank("train"), name, 5, seeded())
    q = len(ALL_TASKS.get(name, (1, 2)))
    images = 1 if name == "single" else IMAGES // q * q
    if name == "category":
        pytest.skip("too few scenes of a category")
    assert drawn.shape == (5, images, GRID, GRID)


def test_frames_come_before_their_maps_or_between_them():
    of = bank("train")
    between = sentences(of, "annotated clip, interleaved", 6, seeded())
    before = sentences(of, "annotated clip, frames first", 6, seeded())
    frames = of.clips["image"][:, ::2]
    for drawn in (between[:, ::2], before[:, :8]):
        assert all((frames == clip).flatten(1).all(1).any() for clip in drawn)


def test_views_go_around_from_any_side():
    drawn = sentences(bank("train"), "views", 12, seeded())
    views = bank("train").views
    starts = set()
    for row in drawn:
        start = [(v, s) for v in range(4) for s in range(16) if (views[v].roll(-s, 0) == row).all()]
        starts.add(start[0][1])
    assert len(starts) > 4


@pytest.fixture(scope="module")
def some_rows():
    with pytest.MonkeyPatch.context() as patch:
        shares = {"images": {"single": 3}, "annotated": {"depth": 8, "palette": 4}}
        patch.setattr(lvm_tasks, "SHARES", shares)
        return rows(bank("train"), 40, 1024, BOS, ("images", "annotated"), seed=3)


def test_rows_are_whole_sentences_in_one_stream(some_rows):
    tokens = some_rows["tokens"]
    assert tokens.shape == some_rows["places"].shape == (40, 1024)
    stream = tokens.flatten().tolist()
    assert stream[0] == BOS and max(stream) == BOS + 1
    for i, token in enumerate(stream[:-1]):
        assert (token == BOS + 1) == (stream[i + 1] == BOS)  # after EOS comes BOS, and only there


def test_places_are_those_in_an_image(some_rows):
    stream, places = (some_rows[name].flatten().tolist() for name in ("tokens", "places"))
    expected = 0
    for token, place in zip(stream, places, strict=True):
        expected = 0 if token >= BOS else expected % GRID**2 + 1
        assert place == expected


def test_the_shares_are_of_tokens(some_rows):
    stream = some_rows["tokens"].flatten()
    starts = (stream == BOS).nonzero().flatten()
    lengths = starts.diff()
    assert set(lengths.tolist()) == {66, 1026}
    share = lengths[lengths == 66].sum() / lengths.sum()
    assert 0.15 < share < 0.26  # 3 of 15


def test_other_seeds_write_other_sentences(some_rows):
    again = rows(bank("train"), 4, 1024, BOS, ("clips",), seed=3)
    assert torch.equal(again["tokens"], rows(bank("train"), 4, 1024, BOS, ("clips",), 3)["tokens"])
    other = rows(bank("train"), 4, 1024, BOS, ("clips",), seed=4)
    assert not torch.equal(again["tokens"], other["tokens"])


# ---------------------------------------------------------------- questions and scores


def test_a_part_of_a_split_is_its_beginning():
    some, all_of_it = bank("test", (40, 2, 3, 2)), bank("test")
    for kind, codes in some.stills.items():
        assert torch.equal(codes, all_of_it.stills[kind][:40])
    assert torch.equal(some.palettes, all_of_it.palettes[:2])
    assert torch.equal(some.clips["image"], all_of_it.clips["image"][:3])
    assert torch.equal(some.views, all_of_it.views[:2])


@pytest.mark.parametrize("task", ["palette", "turn", "depth and segmentation"])
def test_questions_can_be_of_a_part_of_the_split_and_chosen(task):
    asked = queries(task, 5, (40, 2, 3, 2))
    right = score(asked, asked.answer)
    one = asked[3:4]
    assert torch.equal(score(one, one.answer), right[3:4])
    assert torch.equal(one.codes, asked.codes[3:4])
    assert torch.equal(one.codes[:, -1, 0], lvm_tasks.encode(one.asked))
    assert one.task == task


@pytest.mark.parametrize("task", [*TASKS, *UNSEEN])
def test_the_truth_scores_best(task):
    asked = queries(task, 6)
    assert asked.answer.shape == asked.asked.shape == (6, 32, 32, 3)
    right, wrong = score(asked, asked.answer), score(asked, asked.answer.roll(1, 0))
    assert right.shape == (6,)
    perfect = {"segmentation": 1.0, "edges": 1.0, "image": torch.inf}
    if asked.kind in perfect:
        assert (right == perfect[asked.kind]).all()
        assert (wrong < right).all()
    else:
        assert (right < {"depth": 0.002, "normal": 0.6}[asked.kind]).all()
        assert (wrong > right).all()
    if asked.kind == "segmentation":
        read = pixels_to_classes(asked.answer, asked.palettes)
        assert torch.equal(read, asked.truth.classes)
        shown = asked.truth.classes == first_shape(asked, read)[:, None, None]
        assert (shown >= (asked.truth.things == FIRST_THING)).all()
    assert mean_answer(asked).shape == asked.answer.shape


@pytest.mark.parametrize("task", [*TASKS, *UNSEEN])
def test_a_question_is_none_of_its_examples_and_has_its_own_truth(task):
    asked = queries(task, 6)
    codes = asked.codes
    assert codes.shape[1] == IMAGES // len(ALL_TASKS[task])
    for row in codes:
        assert not (row[:-1, 0] == row[-1, 0]).flatten(1).all(1).any()
    assert torch.equal(codes[:, -1, 0], lvm_tasks.encode(asked.asked))
    assert torch.equal(codes[:, -1, -1], lvm_tasks.encode(asked.answer))


def test_an_inpainting_is_scored_in_its_hole_only():
    asked = queries("inpainting", 6)
    spoilt = torch.where(asked.holes[..., None], asked.answer, 0)
    assert (score(asked, spoilt) == torch.inf).all()
    assert (score(asked, asked.asked) < 20).all()


def test_answers_are_drawn_from_the_examples_before_the_question():
    torch.manual_seed(0)
    model = zoo.build("lvm/LVM-nano").eval()
    asked = queries("turn, then segmentation", 6)
    for p in (0, 1, 4):
        maps = answers(model, asked.codes[:3], p)
        assert maps.shape == (3, 32, 32, 3) and maps.dtype == torch.uint8
    scores = answer_scores(model, (0, 7), ["depth"])
    assert set(scores) == {
        f"{each}depth, {p} examples" for p in (0, 7) for each in ("", "each of ")
    }
    assert len(scores["each of depth, 7 examples"]) == QUERIES


def test_true_frames_are_where_they_are(monkeypatch):
    """If the model continues a clip rightly, only the tokenizer is left to be wrong."""
    clips = bank("test").clips["image"][:6].long()

    def right(model, prompt, count, **options):
        assert prompt.shape[1] == 1 + 8 * GRID**2
        return clips[: len(prompt), 8 : 8 + count]

    monkeypatch.setattr(lvm, "decode_images", right)
    model = zoo.build("lvm/LVM-nano")
    scores = clip_scores(model, n=6)
    assert scores["clip, drawn"] == scores["clip, codes"]
    assert scores["clip, last"] > 0 and 0 <= scores["pck of clip, last"] <= 1


# ---------------------------------------------------------------- failures


def test_an_answer_is_taken_for_what_it_is_nearest_to():
    first, second = queries("depth", 6).answer, queries("normal", 6).answer
    mixed = torch.cat([first[:2], second[2:]])
    assert taken_for(mixed, depth=first, normal=second) == pytest.approx(
        {"depth": 2 / 6, "normal": 4 / 6}
    )


def test_several_things_have_several_shapes():
    asked = queries("segmentation", 40)
    several = asked.several()
    assert 0 < len(several.codes) < 40
    for scene in several.truth.classes:
        assert len(scene.unique()) >= 4  # backdrop, floor and two shapes


@pytest.mark.parametrize("failure", [confusion, entanglement, wrong_instance])
def test_right_answers_are_no_failures(monkeypatch, failure):
    """What a model that is always right would be found to do."""

    def right(model, codes, p, **options):
        return decode_true(codes)

    monkeypatch.setattr(lvm, "answers", right)
    monkeypatch.setattr(lvm, "QUERIES", 12)
    decode_true = _true_answers({"segmentation", "turned segmentation", "turn, then segmentation"})
    found = failure(zoo.build("lvm/LVM-nano"))
    good = [
        value
        for name, value in found.items()
        if name.endswith((": segmentation", ": both", ": its own"))
    ]
    assert good == [1.0] * len(good) and good


def _true_answers(tasks):
    """Return a function from examples' codes to the true images of the last of them."""
    known = [queries(task, n) for task in tasks for n in (QUERIES, 4 * 12)]

    def find(codes):
        for asked in known:
            last = asked.codes[:, -1]
            if last.shape[1:] == codes.shape[2:]:
                same = (last[:, None] == codes[None, :, -1]).flatten(2).all(2)
                if same.any(0).all():
                    return asked.answer[same.byte().argmax(0)]
        raise AssertionError("expected a known question")

    return find


# ---------------------------------------------------------------- training


def _batch(n=2):
    drawn = rows(bank("train"), n, 200, BOS, ("clips",), seed=0)
    return {name: x[:n] for name, x in drawn.items()}


def test_a_model_learns_a_few_rows():
    torch.manual_seed(0)
    trainable = find_recipe("lvm-nano").build()
    batch = _batch()
    losses = train_model(trainable, batch, 40)
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(("name", "is_apart"), [("everything", False), ("apart", True)])
def test_kept_apart_a_sentence_does_not_see_the_one_before(name, is_apart):
    """What a second sentence adds to the loss depends on the first one, unless there is a mask."""
    torch.manual_seed(0)
    trainable = find_recipe(f"lvm-{name}-0").build()
    for parameter in trainable.model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    singles = sentences(bank("train"), "single", 3, seeded())
    first, second, other = (lvm_tasks.visual_sentence(x, BOS, BOS + 1) for x in singles)
    places = lvm_tasks.places_of(66).repeat(2)

    def total(*parts):
        tokens = torch.cat(parts)[None]
        batch = {"tokens": tokens, "places": places[None, : tokens.shape[1]]}
        with torch.no_grad():
            return trainable.loss("model", batch, RandomSource(0)) * (tokens.shape[1] - 1)

    added = [total(x, second) - total(x, second[:1]) for x in (first, other)]
    assert torch.isclose(*added, rtol=1e-5) == is_apart


# ---------------------------------------------------------------- the tokenizer and the specialists


def test_all_kinds_are_drawn_of_the_same_scenes():
    drawn = kinds(lvm_tokenizer.annotated_images("train", 5))
    assert {x.shape for x in drawn.values()} == {(5, 32, 32, 3)}
    assert torch.equal(drawn["turned"], torch.rot90(drawn["image"], 1, (1, 2)))
    changed = (drawn["holes"] != drawn["image"]).any(-1)
    assert (drawn["holes"][changed] == 0).all()


def test_codes_are_read_in_any_integer_type():
    torch.manual_seed(0)
    model = zoo.build("lvm/tokenizer-tiny").eval()
    codes = torch.randint(0, 512, (3, 8, 8))
    assert torch.equal(decode(model, codes), decode(model, codes.to(torch.int16)))


@pytest.mark.parametrize("recipe", lvm_tasks.RECIPES, ids=lambda r: r.task)
def test_a_specialist_learns_its_task(recipe):
    some = lvm_tasks.stills("train", 4)
    asked, answer = (some.draw(kind) for kind in TASKS[recipe.task])
    batch = {"asked": asked, "answer": answer}
    torch.manual_seed(0)
    trainable = recipe.build()
    losses = train_model(trainable, batch, 10)
    assert losses[-1] < 0.8 * losses[0]
