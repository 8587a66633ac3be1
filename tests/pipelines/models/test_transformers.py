from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from evaluation.sst2 import Sst2, Tokens
from pipelines.models.network import Network
from pipelines.models.transformers import TransformersModel


def load(folder, max_length=12):
    return TransformersModel("bert", str(folder), max_length).load(None)


def sentences(folder, network, count=24):
    data = Sst2(str(folder), None, 64, 0, False, None, 2)
    data.prepare(network.data_config, count, 0, count)
    (batch,) = data.calibration_loader()
    texts = [data.calibration.decode(data.calibration.blob(i)) for i in data.calibration.ids]
    return batch[0], texts


def assert_like_transformers(folder, network, count):
    """transformers' own tokenizer, and its model one sentence at a time and with a mask."""
    x, texts = sentences(folder, network, count)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).float().eval()
    together = tokenizer(texts, padding=True, return_tensors="pt")
    width = together["input_ids"].shape[1]
    assert torch.equal(x[:, :width], together["input_ids"]) and not x[:, width:].any()
    assert len(set(together["attention_mask"].sum(1).tolist())) > 4
    with torch.inference_mode():
        found = network.module(x)
        alone = [model(**tokenizer(text, return_tensors="pt")).logits for text in texts]
        masked = model(**together).logits
        batches = torch.cat([network.module(part) for part in x.split(5)])
        shorter = network.module(x[:, :width])
        padded = network.module(torch.cat([x, torch.zeros(count, 7, dtype=torch.int64)], 1))
    for expected in (torch.cat(alone), masked, batches, shorter, padded):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_neither_padding_nor_the_batch_moves_a_logit(tiny_bert):
    assert_like_transformers(tiny_bert, load(tiny_bert), 24)


def test_the_real_network_is_as_accurate_as_it_was_when_trained(data_root):
    folder = data_root / "sst2"
    network = load(folder, 128)
    assert_like_transformers(folder, network, 32)
    data = Sst2(str(folder), None, 2048, 0, False, None, 2)
    data.prepare(network.data_config, 1, 0, 1)
    with torch.inference_mode():
        parts = [(network.module(x), y) for x, y in data.test_dataloader()]
    logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    assert len(labels) >= 6734
    assert data.metrics({"logits": logits, "labels": labels})["top1"] == pytest.approx(
        91.66, abs=0.1
    )


def test_the_key_is_that_of_content_not_of_the_place(tiny_bert, tmp_path):
    moved = Path(shutil.copytree(tiny_bert, tmp_path / "elsewhere" / Path(tiny_bert).name))
    key = load(tiny_bert).key
    assert load(moved).key == key and load(moved, 11).key != key
    words = (moved / "vocab.txt").read_text()
    (moved / "vocab.txt").write_text(words.replace("bad", "dab"))
    assert load(moved).key != key
    (moved / "vocab.txt").write_text(words)
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps({**config, "num_attention_heads": 4}))
    assert load(moved).key != key, "no tensor and no module shows the number of heads"


def test_the_tokenizer_travels_with_the_network(tiny_bert):
    network = load(tiny_bert)
    shutil.rmtree(tiny_bert)
    tokens, _ = Tokens.of(network.data_config)("a good film", 1)
    assert tokens.tolist() == [2, 5, 6, 8, 3] + [0] * 7


def test_weights_that_would_be_random_are_refused(tiny_bert):
    state = load_file(tiny_bert / "model.safetensors")
    kept = {k: v for k, v in state.items() if not k.startswith("classifier")}
    save_file(kept, tiny_bert / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"no weights for classifier\.bias, classifier\.weight"):
        load(tiny_bert)


def test_more_tokens_than_the_network_has_places_for_are_refused(tiny_bert):
    with pytest.raises(ValueError, match=r"13 tokens .*max_position_embeddings=12.*max_length"):
        load(tiny_bert, 13)
    with pytest.raises(ValueError, match=r"model\.max_length=2"):
        load(tiny_bert, 2)


def test_pickled_weights_are_not_read(tiny_bert):
    torch.save(load_file(tiny_bert / "model.safetensors"), tiny_bert / "pytorch_model.bin")
    (tiny_bert / "model.safetensors").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"\*\.safetensors; it holds: config\.json.*convert"
    ):
        TransformersModel("bert", str(tiny_bert), 12).check()
    with pytest.raises(FileNotFoundError, match="convert"):
        TransformersModel(str(tiny_bert), None, 12).load(None)


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("/no/such", "does not exist"),
        ("OBLIQ_DATA/sst2", "\\$OBLIQ_DATA, but that environment variable is not set"),
    ],
)
def test_a_missing_folder_is_named_before_anything_is_read(checkpoint, message):
    with pytest.raises(FileNotFoundError, match=message):
        TransformersModel("bert", checkpoint, 12).check()


def test_a_damaged_config_is_told_with_its_folder(tiny_bert):
    (tiny_bert / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"tiny cannot be loaded by transformers"):
        load(tiny_bert)


def test_a_text_config_without_pad_is_refused(tiny_bert):
    network = load(tiny_bert)
    config = {k: v for k, v in network.data_config.items() if k != "pad"}
    with pytest.raises(ValueError, match=r"missing \['pad'\], unknown nothing.*of a text model"):
        Network.of(network.module, "bert", config)
