"""Our reading of T5's published tokenizer against transformers' and SentencePiece itself."""

import json

import pytest
import sentencepiece
import torch
from transformers import T5Tokenizer as TheirTokenizer

from course_lib.pipelines.t5_tokenizer import T5Tokenizer, read_fields, read_spiece
from tests.pipelines.test_tokenizer import TEXTS as CLIP_TEXTS
from tests.pipelines.tokenizers_of import write_t5_tokenizer

TEXTS = [
    *CLIP_TEXTS,
    "a <extra_id_0> sphere <extra_id_1>rolls<extra_id_99>",
    "the end</s> and after, <pad> and <unk>, < /s>",
    "▁a▁b and ▁▁ c",
    "tabs\tand\r\nlines\x0band\x0cpages\u2028or\u2029more\u200b",
    "½ ① ㎏ ﬁ Å ｆｕｌｌ ｗｉｄｔｈ",
]


@pytest.fixture(scope="module", params=[False, True], ids=["as it was", "sentinels strip"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_t5_tokenizer(folder, strips=request.param)
    return folder


@pytest.fixture(scope="module")
def peer(folder):
    return TheirTokenizer.from_pretrained(folder)


def expected(peer, text, length=226):
    options = dict(padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return peer(text, **options).input_ids


def any_texts(n, seed=0):
    """Texts of near and far characters, white space and special tokens."""
    generator = torch.Generator().manual_seed(seed)
    others = [" ", "  ", "\n", "</s>", "<extra_id_7>", "horse", " the", "▁", "<pad>"]
    for _ in range(n):
        parts = []
        for _ in range(int(torch.randint(40, (), generator=generator))):
            kind, pick = torch.rand(2, generator=generator).tolist()
            if kind < 0.3:
                parts.append(others[int(pick * len(others))])
                continue
            code = int(pick * (0x250 if kind < 0.9 else 0x2FFFF))
            parts.append("" if 0xD800 <= code < 0xE000 else chr(code))
        yield "".join(parts)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_tokens_equal_transformers(text, folder, peer):
    for length in (226, 9):
        assert torch.equal(T5Tokenizer(folder, length)(text), expected(peer, text, length))


def test_any_text_at_all(folder, peer):
    ours = T5Tokenizer(folder, 20)
    for text in any_texts(1000):
        assert torch.equal(ours(text), expected(peer, text, 20)), repr(text)


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nmt_nfkc_cf"])
def test_tokens_equal_sentencepiece_itself(rule, tmp_path):
    """The library that wrote the file, where no special token is in a text; T5's rule first."""
    write_t5_tokenizer(tmp_path, normalization_rule_name=rule)
    file = str(tmp_path / "spiece.model")
    theirs = sentencepiece.SentencePieceProcessor(model_file=file)
    ours = T5Tokenizer(tmp_path, 1000)
    for text in [*TEXTS, *any_texts(300)]:
        if "<" in text:
            continue
        tokens = ours(text)[0]
        ids = theirs.encode(text)
        assert tokens[: len(ids) + 1].tolist() == [*ids, 1], repr(text)
        assert not tokens[len(ids) + 1 :].any()


def test_a_folder_that_transformers_saved_is_read_too(folder, peer, tmp_path):
    peer.save_pretrained(tmp_path)
    assert not (tmp_path / "spiece.model").exists()
    ours = T5Tokenizer(tmp_path, 226)
    for text in [*TEXTS, *any_texts(100, seed=1)]:
        assert torch.equal(ours(text), expected(peer, text)), repr(text)


def test_the_end_comes_after_the_text_and_padding_after_the_end(folder):
    tokens = T5Tokenizer(folder, 226)("a horse")[0]
    end = int((tokens == 1).nonzero())
    assert tokens.shape == (226,) and end > 0
    assert not tokens[end + 1 :].any() and tokens[:end].all()
    assert T5Tokenizer(folder, 226)("")[0, :2].tolist() == [1, 0]
    assert T5Tokenizer(folder, 4)("a horse in a house")[0, -1] == 1


def test_what_is_cut_off_is_told(folder):
    ours = T5Tokenizer(folder, 9)
    text = " ".join(["the camera"] * 30)  # each of the two words is a piece
    assert ours.beyond(" ".join(["the camera"] * 4)) == ""
    assert ours.beyond(text) == " ".join(["the camera"] * 26)
    assert torch.equal(ours(text), ours(" ".join(["the camera"] * 4)))


def test_pieces_and_their_scores_are_those_of_the_library(folder):
    spiece = read_spiece(folder / "spiece.model")
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    assert [text for text, _ in spiece.pieces] == [theirs.id_to_piece(i) for i in range(85)]
    assert [score for _, score in spiece.pieces] == [theirs.get_score(i) for i in range(85)]
    assert spiece.unknown == theirs.unk_id() == 2
    assert len(spiece.characters) > 100_000


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer_config.json"])
def test_a_missing_file_is_named(name, tmp_path):
    write_t5_tokenizer(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"expected a file {name} in .*, got none"):
        T5Tokenizer(tmp_path, 226)


@pytest.mark.parametrize("cut", [1, 50, 1000, 100_000])
def test_a_file_that_is_cut_off_is_a_value_error(cut, tmp_path):
    write_t5_tokenizer(tmp_path)
    path = tmp_path / "spiece.model"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match=str(path)):
        T5Tokenizer(tmp_path, 226)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\x01", b"not a message", b"\xff" * 30, b"PK\x03\x04"]
)
def test_other_files_are_refused(content, tmp_path):
    write_t5_tokenizer(tmp_path)
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(ValueError, match=r"spiece\.model: expected a whole file"):
        T5Tokenizer(tmp_path, 226)


def test_a_model_of_another_kind_is_refused(tmp_path):
    write_t5_tokenizer(tmp_path, model_type="bpe")
    with pytest.raises(ValueError, match="a unigram model, got one of type 2, 85 pieces"):
        T5Tokenizer(tmp_path, 226)


def test_configs_that_contradict_the_pieces(tmp_path):
    write_t5_tokenizer(tmp_path, strips=True)
    path = tmp_path / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"extra_ids": 99}))
    with pytest.raises(ValueError, match=r"expected <extra_id_.*> to be token"):
        T5Tokenizer(tmp_path, 226)
    path.write_text(json.dumps(config | {"extra_ids": "many"}))
    with pytest.raises(ValueError, match="extra_ids: expected a whole number, got 'many'"):
        T5Tokenizer(tmp_path, 226)
    with pytest.raises(ValueError, match="length: expected at least 1"):
        T5Tokenizer(tmp_path, 0)


def test_every_kind_of_field_is_read():
    message = b"\x08\x96\x01" + b"\x12\x03abc" + b"\x1d\x00\x00\x80\x3f" + b"\x21" + bytes(8)
    assert list(read_fields(message)) == [
        (1, 150),
        (2, b"abc"),
        (3, b"\x00\x00\x80\x3f"),
        (4, bytes(8)),
    ]
    for broken in (b"\x08", b"\x08\x80", b"\x12\x04abc", b"\x0b", b"\x02\x00", "text", 3):
        with pytest.raises(ValueError, match="expected"):
            list(read_fields(broken))
