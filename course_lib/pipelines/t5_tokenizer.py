"""T5's tokenizer, from the files that are published with its encoder.

The pieces of a vocabulary have log probabilities; of all ways to cut a text into pieces, the most
probable one is taken (Kudo, 2018, arXiv 1804.10959).  That search is done by the `tokenizers`
library.  It does not read `spiece.model`, the file of the SentencePiece library, which is a
protocol buffer: the few fields that count are read here.  As in transformers' T5Tokenizer, 100
sentinels follow the pieces, <extra_id_99> to <extra_id_0>, and a special token is recognized in a
text, too.  Capitals stay capitals.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Pieces
from tokenizers.models import Unigram

from course_lib.pipelines.folder import read_json, read_with, require_file
from course_lib.pipelines.tokenizer import added_token, special_tokens
from course_lib.shapes import Int, Tensor

SPECIAL = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
SENTINELS = 100


class T5Tokenizer:
    """Texts to the tokens that T5's encoder reads, always `length` of them."""

    def __init__(self, folder: Path, length: int):
        """Read `tokenizer/`: tokenizer.json, or spiece.model.  Raises ValueError."""
        if length < 1:
            raise ValueError(f"length: expected at least 1, for the end's token, got {length}")
        self.length = length
        special = special_tokens(folder, SPECIAL)
        if (folder / "tokenizer.json").is_file():
            self.pieces = read_with(folder / "tokenizer.json", _from_file)
        else:
            self.pieces = _from_spiece(folder, special)
        self.pieces.no_padding()
        self.pieces.no_truncation()
        self.end, self.pad = (
            self.pieces.token_to_id(special[f"{name}_token"].content) for name in ("eos", "pad")
        )
        if None in (self.end, self.pad):
            raise ValueError(f"{folder}: expected the special tokens to be in the vocabulary")

    def __call__(self, text: str) -> Int[Tensor, "1 n"]:
        """Return the tokens of a text and its end, and padding; too long a text is cut."""
        tokens = self.pieces.encode(text, add_special_tokens=False).ids[: self.length - 1]
        tokens = [*tokens, self.end]
        return torch.tensor([tokens + [self.pad] * (self.length - len(tokens))])

    def beyond(self, text: str) -> str:
        """Return what is cut off of a text, "" if nothing is."""
        places = self.pieces.encode(text, add_special_tokens=False).offsets[self.length - 1 :]
        return text[places[0][0] :].lstrip() if places else ""


def _from_file(path: Path) -> Pieces:
    return Pieces.from_file(str(path))


def _from_spiece(folder: Path, special: dict[str, AddedToken]) -> Pieces:
    """Return the tokenizer of spiece.model and what tokenizer_config.json adds to it."""
    spiece = read_with(require_file(folder / "spiece.model"), read_spiece)
    config = read_json(folder / "tokenizer_config.json")
    number = config.get("extra_ids", SENTINELS)
    if not isinstance(number, int) or number < 0:
        raise ValueError(f"{folder}: extra_ids: expected a whole number, got {number!r}")
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(number))]
    pieces = Pieces(Unigram([*spiece.pieces, *((s, 0.0) for s in sentinels)], spiece.unknown))
    if spiece.characters:
        pieces.normalizer = normalizers.Precompiled(spiece.characters)
    words = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)
    pieces.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), words])

    added = {s: AddedToken(s, special=True, normalized=False) for s in sentinels}
    added |= {token.content: token for token in special.values()}
    described: dict[str, Any] = config.get("added_tokens_decoder", {})
    added |= {token["content"]: added_token(token) for token in described.values()}
    pieces.add_special_tokens(list(added.values()))
    for name, token in described.items():
        found = pieces.token_to_id(token["content"])
        if str(found) != name:
            raise ValueError(
                f"{folder}: expected {token['content']} to be token {name}, as the config says,"
                f" got {found}"
            )
    return pieces


# ---------------------------------------------------------------- SentencePiece's file


@dataclass(frozen=True)
class Spiece:
    """What counts of a spiece.model."""

    pieces: list[tuple[str, float]]  # and their log probabilities
    unknown: int  # the piece that stands for what has none
    characters: bytes  # how characters are replaced before, in SentencePiece's own coding


# Fields of SentencePiece's ModelProto, and of the messages in it, by their numbers.
PIECES, TRAINER, NORMALIZER = 1, 2, 3
TEXT, SCORE = 1, 2
MODEL_TYPE, UNKNOWN = 3, 40
CHARACTERS = 2
UNIGRAM = 1


def read_spiece(path: Path) -> Spiece:
    """Read a spiece.model.  Raises ValueError for another file, or one of another model."""
    pieces = []
    kind = UNIGRAM
    unknown = 0
    characters = b""
    for field, content in read_fields(path.read_bytes()):
        if field == PIECES:
            piece = dict(read_fields(content))
            pieces.append((_text(piece.get(TEXT)), _score(piece.get(SCORE))))
        elif field == TRAINER:
            trainer = dict(read_fields(content))
            kind = trainer.get(MODEL_TYPE, UNIGRAM)
            unknown = trainer.get(UNKNOWN, 0)
        elif field == NORMALIZER:
            characters = bytes(dict(read_fields(content)).get(CHARACTERS, b""))
    if not pieces or kind != UNIGRAM:
        raise ValueError(f"expected a unigram model, got one of type {kind}, {len(pieces)} pieces")
    if not isinstance(unknown, int) or unknown >= len(pieces):
        raise ValueError(f"expected an unknown piece below {len(pieces)}, got {unknown}")
    return Spiece(pieces, unknown, characters)


def _text(content: Any) -> str:
    if not isinstance(content, bytes):
        raise ValueError(f"expected a piece's text, got {content!r}")
    return content.decode("utf-8")


def _score(content: Any) -> float:
    if content is None:
        return 0.0
    if not isinstance(content, bytes) or len(content) != 4:
        raise ValueError(f"expected a piece's score, got {content!r}")
    return struct.unpack("<f", content)[0]


def read_fields(message: Any) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protocol buffer's message: their numbers and contents.

    A whole number is an int; a text, a message or a float is the bytes that it is stored in.
    Raises ValueError for bytes that are no message.
    """
    if not isinstance(message, bytes):
        raise ValueError(f"expected a message, got {message!r}")
    place = 0
    while place < len(message):
        key, place = _whole_number(message, place)
        field, wire = divmod(key, 8)
        if wire == 0:
            content, place = _whole_number(message, place)
            yield field, content
            continue
        if wire == 2:
            size, place = _whole_number(message, place)
        else:
            size = {1: 8, 5: 4}.get(wire, len(message))
        end = place + size
        if not field or end > len(message):
            raise ValueError(f"expected a field of a message at byte {place}, got none")
        yield field, message[place:end]
        place = end


def _whole_number(message: bytes, place: int) -> tuple[int, int]:
    """Return the number that begins at a place, seven bits a byte, and the place after it."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            break
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError(f"expected a whole number before byte {place}, got no end of it")
