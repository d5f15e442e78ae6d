"""Vocabularies of CLIP's and of T5's kind, learnt from a few sentences, in the files of theirs."""

import io
import json

import sentencepiece
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from course_lib.data import captions

WORDS = """A photo of an astronaut riding a horse on the moon, in the style of an old master.
The red sphere rolls behind a blue cube; it's the camera's orbit that we're seeing, isn't it? Cafés
and naïve façades in 1984, 2021 and 2024: we've looked, they'll stay, I'd go, I'm sure. Photographs
of horses, riders and spheres, of cubes and cameras, by masters of photography, riding on."""


def write_tokenizer(folder, pad="<|endoftext|>", length=77, size=600):
    """Write vocab.json, merges.txt and two configs; return the number of tokens.

    As in CLIP, the tokens are the bytes, the bytes at a word's end, what is merged, start and end;
    as in Stable Diffusion 2, the padding of the older config goes before the newer one's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size, end_of_word_suffix="</w>", show_progress=False, min_frequency=1
    )
    learner.train_from_iterator([WORDS], trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    alphabet.sort(key=lambda c: c != "!")  # "!" is token 0, as in CLIP
    tokens = alphabet + [f"{c}</w>" for c in alphabet] + ["".join(pair) for pair in merges]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    text = "#version: 0.2\n" + "".join(f"{one} {other}\n" for one, other in merges)
    added = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    start, end = ({"content": f"<|{name}oftext|>", **added} for name in ("start", "end"))
    config = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": "<|endoftext|>"}
    special = {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": pad}
    config |= {"model_max_length": length, "tokenizer_class": "CLIPTokenizer"}
    files = {"vocab.json": vocabulary, "tokenizer_config.json": config}
    files["special_tokens_map.json"] = special
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text(text, encoding="utf-8")
    return len(tokens)


def write_t5_tokenizer(folder, pieces=85, strips=False, sentinels=100, **options):
    """Write spiece.model and two configs; return the number of tokens, sentinels included.

    strips: let the sentinels swallow the space around them, as those of the published T5 do, which
    the config then describes one by one.  options: of SentencePiece's trainer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    numbers = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*WORDS.splitlines() * 5, *captions("train", 500)]),
        model_writer=model,
        vocab_size=pieces,
        minloglevel=2,
        **numbers,
        **options,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    extra = [f"<extra_id_{i}>" for i in range(sentinels)]
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    special["additional_special_tokens"] = extra
    config = {**special, "extra_ids": sentinels, "tokenizer_class": "T5Tokenizer"}
    if strips:
        flags = {"normalized": False, "single_word": False, "special": True}
        named = {0: "<pad>", 1: "</s>", 2: "<unk>"}
        described = {str(i): {"content": name, **flags} for i, name in named.items()}
        for i, name in enumerate(reversed(extra), start=pieces):
            described[str(i)] = {"content": name, "lstrip": True, "rstrip": True, **flags}
        config["added_tokens_decoder"] = described
    for name, content in {
        "tokenizer_config.json": config,
        "special_tokens_map.json": special,
    }.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return pieces + sentinels
