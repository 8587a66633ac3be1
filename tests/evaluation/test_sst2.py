from __future__ import annotations

import pickle

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from evaluation.digits import Digits
from evaluation.samples import Samples
from evaluation.sentences import read_tsv
from evaluation.sst2 import Sst2, Tokens, evaluation_file

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "film"]


def config(max_length=6):
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return {"tokenizer": tokenizer.to_str(), "max_length": max_length, "pad": 0}


def write(path, *rows, header="sentence\tlabel"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "train.tsv", *(f"a good film {i} \t1" for i in range(8)))
    write(tmp_path / "dev.tsv", "a bad film \t0", "good\t1", "a good bad film\t1")
    return tmp_path


def sst2(root, **settings):
    given = {"calibration_root": None, "batch_size": 2, "workers": 0, "skip_bad": False}
    return Sst2(root and str(root), **{**given, "images": None, "classes": 2, **settings})


def prepared(root, count=4, max_length=6, **settings):
    data = sst2(root, **settings)
    data.prepare(config(max_length), count, 0, 2)
    return data


def test_a_sample_is_its_token_ids_padded_to_max_length_and_its_label(root):
    (x, y), (last, _) = prepared(root).test_dataloader()
    assert x.tolist() == [[2, 4, 6, 7, 3, 0], [2, 5, 3, 0, 0, 0]] and y.tolist() == [0, 1]
    assert x.dtype == y.dtype == torch.int64
    assert last.tolist() == [[2, 4, 5, 6, 7, 3]]


def test_calibration_comes_from_train_and_no_sentence_is_in_both(root):
    write(root / "dev.tsv", "a bad film \t0", "good\t1", "a good film 3\t1")
    data = prepared(root, count=8)
    assert set(data.calibration.ids) == {f"train.tsv:{i}" for i in range(2, 10)}
    kept = [data.evaluation.decode(data.evaluation.blob(i)) for i in data.evaluation.ids]
    assert kept == ["a bad film", "good"], "the third one is train.tsv's fourth"


@pytest.mark.filterwarnings("ignore:1 of 3 evaluation")
def test_cut_sentences_keep_their_last_token_are_counted_and_told(root):
    with pytest.warns(UserWarning, match="4 of 4 calibration sentences have more than 5 tokens"):
        data = prepared(root, max_length=5)
    assert data.truncated == {"calibration": 4, "evaluation": 1}
    assert data.details({}) == {"Sentences cut to 5 tokens": data.truncated}
    *_, (last, _) = data.test_dataloader()
    assert last.tolist() == [[2, 4, 5, 6, 3]]
    assert prepared(root).truncated == {"calibration": 0, "evaluation": 0}


def test_keys_follow_sentences_and_tokenizer_but_not_the_folders_place(root, tmp_path):
    data = prepared(root)
    write(tmp_path / "other" / "train.tsv", *(f"a good film {i} \t1" for i in range(8)))
    write(tmp_path / "other" / "dev.tsv", "a bad film \t0", "good\t1", "a good bad film\t1")
    same = prepared(tmp_path / "other")
    assert data.evaluation_key == same.evaluation_key
    assert data.calibration_key == same.calibration_key
    assert prepared(root, max_length=7).evaluation_key != data.evaluation_key
    write(tmp_path / "other" / "dev.tsv", "a sad film \t0", "good\t1", "a good film 3\t1")
    assert prepared(tmp_path / "other").evaluation_key != data.evaluation_key


def test_tokens_travel_to_loader_processes():
    tokens = Tokens.of(config())
    again = pickle.loads(pickle.dumps(tokens))
    assert torch.equal(again("a film", 1)[0], tokens("a film", 1)[0])


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["dev.tsv", "dev9.tsv", "test.tsv"], "dev.tsv"),
        (["dev9.tsv", "test.tsv", "train.tsv"], "dev9.tsv"),
        (["test.tsv", "train.tsv"], "test.tsv"),
        (["sst2/dev.tsv"], "sst2/dev.tsv"),
    ],
)
def test_what_is_evaluated_on_is_found_by_its_name(tmp_path, names, chosen):
    for name in names:
        write(tmp_path / name, "good\t1")
    assert evaluation_file(tmp_path) == tmp_path / chosen


def test_a_file_of_its_own_and_without_train_the_same_sentences(tmp_path):
    mine = write(tmp_path / "mine.tsv", "good\t1", "bad\t0", "a film\t1")
    data = prepared(mine, count=1)
    assert len(data.evaluation) == 2
    assert not set(data.calibration.ids) & set(data.evaluation.ids)


def test_columns_may_stand_in_any_order_with_others_windows_ends_and_a_mark(tmp_path):
    text = "﻿id\tlabel\tsentence\r\n7\t1\tgood\u2028film\r\n8\t0\tbad\r\n\r\n"
    (tmp_path / "x.tsv").write_bytes(text.encode())
    found = read_tsv(tmp_path / "x.tsv")
    assert isinstance(found, Samples) and found.ids == ("x.tsv:2", "x.tsv:3")
    assert found.labels == (1, 0)
    assert found.decode(found.blob("x.tsv:2")) == "good\u2028film"


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["good\t1", "bad"], "sentence\tlabel", r"dev\.tsv: line 3 has 1 columns instead of 2"),
        (["good\tyes"], "sentence\tlabel", r"line 2 has the label 'yes', which is not an integer"),
        (["good\t1"], "index\tsentence", r"must name the columns sentence and label.*index"),
        (["good\t1", "bad\t2"], "sentence\tlabel", r"outside 0\.\.1: dev\.tsv:3 has 2"),
        (["good\t1", "bad\t-1"], "sentence\tlabel", r"1 of 2 evaluation sentences .*has -1"),
    ],
)
def test_a_bad_table_is_refused_with_file_and_line(root, rows, header, message):
    write(root / "dev.tsv", *rows, header=header)
    with pytest.raises(ValueError, match=message):
        prepared(root)


def test_empty_and_undecodable_sentences_are_named_or_left_out(root):
    (root / "dev.tsv").write_bytes(b"sentence\tlabel\n \t1\ncaf\xe9\t0\ngood\t1\n")
    with pytest.raises(ValueError, match=r"2 of 7 sentences cannot be read:") as caught:
        prepared(root).check()
    assert "dev.tsv:2: ValueError: the sentence is empty" in str(caught.value)
    assert "dev.tsv:3: UnicodeDecodeError" in str(caught.value)
    data = prepared(root, skip_bad=True)
    data.check()
    assert data.evaluation.ids == ("dev.tsv:4",) and set(data.skipped) == {"dev.tsv:2", "dev.tsv:3"}


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"data\.root is not set"):
        prepared(None)
    with pytest.raises(ValueError, match="is not a folder"):
        prepared(tmp_path / "nowhere")
    write(tmp_path / "train.tsv", "good\t1")
    with pytest.raises(ValueError, match=r"holds none of dev\.tsv.*it holds: train\.tsv"):
        prepared(tmp_path)
    for name in ("dev1.tsv", "dev2.tsv"):
        write(tmp_path / name, "good\t1")
    with pytest.raises(ValueError, match=r"dev1\.tsv, dev2\.tsv: which one"):
        prepared(tmp_path)


def test_an_image_network_is_refused_and_a_text_network_for_images_too(root):
    with pytest.raises(ValueError, match="takes images, but the data set holds sentences"):
        sst2(root).prepare({"input_size": (3, 8, 8)}, 2, 0, 2)
    digits = Digits(None, None, 10, 0, False, None)
    with pytest.raises(ValueError, match="takes sentences, but the data set holds images"):
        digits.prepare(config(), 2, 0, 2)


def test_altered_copies_of_sentences_are_refused(root):
    with pytest.raises(ValueError, match=r"calibrate\.augmented_copies=2"):
        sst2(root).prepare(config(), 2, 0, 2, copies=2)


def test_labels_may_be_the_names_of_the_networks_classes(root):
    write(root / "dev.tsv", "a bad film\tnegative", "good\tPositive", "a good film\t1")
    data = sst2(root)
    data.network_names = ("POSITIVE", "NEGATIVE")
    assert data.pools()[1].labels == (1, 0, 1)
    with pytest.raises(ValueError, match="'negative', which is not an integer"):
        sst2(root).pools()
    write(root / "dev.tsv", "a bad film\tneutral")
    with pytest.raises(ValueError, match="'neutral', which is not an integer nor one of POSITIVE"):
        data.pools()


def test_another_encoding_says_which(tmp_path):
    (tmp_path / "dev.tsv").write_bytes("sentence\tlabel\nx\t1\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"dev\.tsv is UTF-16: save it as UTF-8"):
        read_tsv(tmp_path / "dev.tsv")
