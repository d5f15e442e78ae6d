"""CLIP's tokenizer, from the files that are published with a text tower.

The merging of byte pairs is done by the `tokenizers` library.  What the files leave open is as in
transformers' CLIPTokenizer: text is brought to Unicode's form NFC, white space becomes single
spaces, and capitals small letters.  A special token is recognized in a text, too: in Stable
Diffusion 2, which pads with "!", an exclamation mark is its token 0.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, normalizers, pre_tokenizers
from tokenizers import Tokenizer as BytePairs
from tokenizers.models import BPE

from course_lib.pipelines.folder import read_json, read_with, require_file
from course_lib.shapes import Int, Tensor

SPECIAL = {
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
# Of CLIP: the special tokens, English endings, words, single digits, runs of anything else.
PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class Tokenizer:
    """Texts to the tokens that a text tower reads, always `length` of them."""

    def __init__(self, folder: Path, length: int):
        """Read `tokenizer/`: vocab.json and merges.txt, or tokenizer.json.  Raises ValueError."""
        self.length = length
        special = special_tokens(folder, SPECIAL)
        is_complete = (folder / "tokenizer.json").is_file()
        if is_complete:
            self.pairs = read_with(folder / "tokenizer.json", _from_file)
        else:
            self.pairs = _from_vocabulary(folder, special["unk_token"].content)
        self.pairs.no_padding()
        self.pairs.no_truncation()
        self.start, self.end, self.pad = (
            self.pairs.token_to_id(special[f"{name}_token"].content)
            for name in ("bos", "eos", "pad")
        )
        if None in (self.start, self.end, self.pad):
            raise ValueError(f"{folder}: expected the special tokens to be in the vocabulary")
        if not is_complete:
            self.pairs.add_special_tokens(list(special.values()))

    def __call__(self, text: str) -> Int[Tensor, "1 n"]:
        """Return the tokens of start, text and end, and padding; too long a text is cut."""
        tokens = self.pairs.encode(text, add_special_tokens=False).ids[: self.length - 2]
        tokens = [self.start, *tokens, self.end]
        return torch.tensor([tokens + [self.pad] * (self.length - len(tokens))])

    def beyond(self, text: str) -> str:
        """Return what is cut off of a text, "" if nothing is."""
        places = self.pairs.encode(text, add_special_tokens=False).offsets[self.length - 2 :]
        return text[places[0][0] :] if places else ""


def special_tokens(folder: Path, defaults: Mapping[str, str]) -> dict[str, AddedToken]:
    """Return the special tokens by their names in the files.

    defaults: the names that are asked for, with what stands for one that no file gives.  The older
    special_tokens_map.json goes before tokenizer_config.json, as in transformers.  Raises
    ValueError for a file that is missing or holds something else.
    """
    config = read_json(require_file(folder / "tokenizer_config.json"))
    older = folder / "special_tokens_map.json"
    if "added_tokens_decoder" not in config and older.is_file():
        config |= read_json(older)
    return {name: added_token(config.get(name) or default) for name, default in defaults.items()}


def added_token(token: str | dict[str, Any]) -> AddedToken:
    """Return a special token from its text or from the JSON object that describes it."""
    if isinstance(token, str):
        return AddedToken(token, special=True, normalized=False)
    flags = ("lstrip", "rstrip", "single_word", "normalized")
    chosen = {name: bool(token[name]) for name in flags if name in token}
    return AddedToken(token["content"], special=True, **chosen)


def _from_file(path: Path) -> BytePairs:
    return BytePairs.from_file(str(path))


def _from_vocabulary(folder: Path, unknown: str) -> BytePairs:
    """Return the tokenizer of vocab.json and merges.txt."""
    files = [str(require_file(folder / name)) for name in ("vocab.json", "merges.txt")]
    options = {"continuing_subword_prefix": "", "end_of_word_suffix": "</w>", "fuse_unk": False}
    try:
        model = BPE.from_file(*files, unk_token=unknown, **options)
    except Exception as error:  # the library raises nothing more exact
        raise ValueError(f"{folder}: expected a vocabulary and its merges ({error})") from error
    pairs = BytePairs(model)
    pairs.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pairs.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return pairs
