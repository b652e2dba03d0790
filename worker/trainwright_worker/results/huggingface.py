"""Writes a model of transformers as a folder that the library reads: config.json, model.safetensors, tokenizer.json."""

import tempfile
from pathlib import Path
from typing import Final

from trainwright.api.status import Export
from trainwright_worker.data.tokens import Tokenizer
from trainwright_worker.models.huggingface import HuggingFaceModel
from trainwright_worker.results.folder import ResultsFolder

FOLDER: Final = "huggingface"


def write_pretrained(
    model: HuggingFaceModel, classes: tuple[str, ...] | None, tokenizer: Tokenizer | None, folder: ResultsFolder
) -> Export:
    """Write the folder.

    Args:
        model: The trained model, on the CPU.
        classes: Names of the classes, which become the labels in config.json.
        tokenizer: The tokenizer of the data.
        folder: The results folder.
    """
    if classes is not None:
        model.network.config.id2label = dict(enumerate(classes))
        model.network.config.label2id = {name: number for number, name in enumerate(classes)}
    with tempfile.TemporaryDirectory(prefix="trainwright-export-") as scratch:
        model.network.save_pretrained(scratch, max_shard_size="5GB")
        place = Path(scratch)
        if tokenizer is not None:
            for name, content in tokenizer.files().items():
                (place / name).write_text(content, encoding="utf-8")
        files = sorted(file for file in place.rglob("*") if file.is_file())
        size = sum(file.stat().st_size for file in files)
        for file in files:
            folder.publish(f"{FOLDER}/{file.relative_to(place)}", file)
    return Export(format="huggingface", path=f"{folder.path}/{FOLDER}", bytes=size)
