"""Our reading of CLIP's published tokenizer against transformers', on texts of every kind."""

import pytest
import torch
from transformers import CLIPTokenizer

from course_lib.pipelines.tokenizer import Tokenizer
from tests.pipelines.tokenizers_of import write_tokenizer

TEXTS = [
    "",
    "a photo of an astronaut riding a horse",
    "A Photo Of AN Astronaut!!! Riding... a HORSE?!",
    "  white \t space,\n\n a lot\u00a0of\u3000it   ",
    "it's we're they'll I'd I'm we've IT'S don't 'tis",
    "café naïve façade CAFÉ; cafe\u0301, nai\u0308ve: two ways to write it",
    "an emoji 🐴🌕 and a family 👩‍👩‍👧, flags 🇫🇷",
    "日本語 한국어 العربية हिन्दी ไทย Ελληνικά Русский",
    "1984 and 3.14159, 50% of ½ or ①, x²",
    "<|startoftext|>in the text<|endoftext|> and after, <|ENDOFTEXT|>",
    "under_scores-and-hyphens/slashes\\and#hash @at ~tilde `tick` {brace}",
    "İstanbul ﬁne ligatures ﬀ, ß, ſ, Å, µ and zero\u200bwidth",
    "!",
    "wow! what a horse!",
    "\x00\x01 control \x7f and \ufeff marks",
    " ".join(["astronaut"] * 90),
    "x" * 400,
    " ".join(["word"] * 40) + " the end of a text that is too long " * 4,
]


@pytest.fixture(scope="module", params=["<|endoftext|>", "!"], ids=["SD 1.5", "SD 2.1"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, pad=request.param)
    return folder


@pytest.fixture(scope="module")
def peer(folder):
    return CLIPTokenizer.from_pretrained(folder)


def expected(peer, text, length=77):
    options = dict(padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return peer(text, **options).input_ids


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_tokens_equal_transformers(text, folder, peer):
    assert torch.equal(Tokenizer(folder, 77)(text), expected(peer, text))


def test_any_text_at_all(folder, peer):
    generator = torch.Generator().manual_seed(0)
    ours = Tokenizer(folder, 20)
    for _ in range(300):
        length = int(torch.randint(40, (), generator=generator))
        near = torch.randint(0x250, (length,), generator=generator)
        far = torch.randint(0x2FFFF, (length,), generator=generator)
        pick = torch.rand(length, generator=generator) < 0.1
        codes = torch.where(pick, far, near).tolist()
        text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
        assert torch.equal(ours(text), expected(peer, text, 20)), repr(text)


def test_a_folder_that_transformers_saved_is_read_too(folder, peer, tmp_path):
    peer.save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.json").exists()
    ours = Tokenizer(tmp_path, 77)
    for text in TEXTS:
        assert torch.equal(ours(text), expected(peer, text))


def test_what_pads_is_read_from_the_folder(folder, peer):
    tokens = Tokenizer(folder, 9)("a horse")
    assert tokens.shape == (1, 9) and tokens[0, -1] == peer.pad_token_id
    assert (int(tokens[0, -1]) == 0) == (peer.pad_token == "!")


def test_what_is_cut_off_is_told(folder):
    ours = Tokenizer(folder, 77)
    assert ours.beyond("a photo of a horse") == ""
    assert ours.beyond("horse " * 75) == ""
    assert ours.beyond("horse " * 75 + "and the Moon") == "and the Moon"


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer_config.json"])
def test_a_missing_file_is_named(name, tmp_path):
    write_tokenizer(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"expected a file {name} in .*, got none"):
        Tokenizer(tmp_path, 77)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", "{"),
        ("vocab.json", "[1]"),
        ("merges.txt", "a b c\n"),
        ("tokenizer.json", "{}"),
    ],
)
def test_a_damaged_file_is_a_value_error(name, content, tmp_path):
    write_tokenizer(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=str(tmp_path)):
        Tokenizer(tmp_path, 77)


def test_special_tokens_have_to_be_known(tmp_path):
    write_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(ValueError, match="special tokens to be in the vocabulary"):
        Tokenizer(tmp_path, 77)
