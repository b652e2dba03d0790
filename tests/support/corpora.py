"""Small data that can be learnt, written in the formats in which the world keeps its large data."""

import gzip
import json
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

GOOD = ("wonderful", "moving", "brilliant", "superb", "warm")
BAD = ("dull", "clumsy", "boring", "awful", "cold")
FILLER = ("the", "film", "actors", "story", "was", "and", "with", "a", "plot", "music", "scenes", "very", "quite")


def review(words: random.Random, *, good: bool) -> str:
    """Return a review of a dozen words, four of which say whether it is good."""
    chosen = [words.choice(FILLER) for _ in range(8)] + [words.choice(GOOD if good else BAD) for _ in range(4)]
    words.shuffle(chosen)
    return " ".join(chosen).capitalize() + "."


def write_imdb(folder: Path, samples: int = 160) -> None:
    """Write reviews as IMDB has them: train/pos/*.txt, train/neg/*.txt, test/..."""
    words = random.Random(0)
    for split, count in (("train", samples), ("test", samples // 4)):
        for number in range(count):
            place = folder / split / ("neg", "pos")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}_7.txt").write_text(review(words, good=number % 2 == 1))


def write_reviews(path: Path, samples: int = 160) -> None:
    """Write reviews with labels as JSONL."""
    words = random.Random(0)
    rows = [
        {"text": review(words, good=n % 2 == 1), "label": "positive" if n % 2 else "negative"} for n in range(samples)
    ]
    write_jsonl(path, rows)


def write_jsonl(path: Path, rows: Iterable[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def prose(sentences: int = 400) -> str:
    """Return sentences of one simple grammar."""
    words = random.Random(0)
    subjects, verbs, objects = ("The cat", "A dog", "The bird"), ("sees", "likes", "follows"), ("a ball", "the sun")
    return " ".join(
        f"{words.choice(subjects)} {words.choice(verbs)} {words.choice(objects)}." for _ in range(sentences)
    )


def write_imagenet(folder: Path, classes: int = 4, samples: int = 12, side: int = 40) -> None:
    """Write photographs, one dominant colour per class, as ImageNet has them: train/CLASS/*.jpg, val/CLASS/*.jpg."""
    from PIL import Image  # noqa: PLC0415 - only these tests need it

    noise = np.random.default_rng(0)
    for split, count in (("train", samples), ("val", 3)):
        for label in range(classes):
            place = folder / split / f"n{label:08}"
            place.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = noise.integers(0, 60, (side, side + 8, 3))
                pixels[..., label % 3] += 60 + 60 * (label // 3)
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{number}.jpg", quality=92)


def write_idx(folder: Path, side: int = 28, train: int = 320, test: int = 40) -> None:
    """Write images whose class is the row of their bright bar, under MNIST's own file names."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    for prefix, count in (("train", train), ("t10k", test)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = noise.integers(0, 60, (count, side, side), dtype=np.uint8)
        for row in range(2):
            images[np.arange(count), 2 * labels + 4 + row] = 250
        header = np.array([2051, count, side, side], dtype=">u4").tobytes()
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
        header = np.array([2049, count], dtype=">u4").tobytes()
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))


def write_cifar10(folder: Path, samples: int = 40) -> None:
    """Write images that are the brighter the higher their class, as CIFAR-10's binary files."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        records = noise.integers(0, 256, (samples, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(samples) % 10
        records[:, 1:] //= 4
        records[:, 1:] += 19 * records[:, :1]
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def write_recordings(path: Path, samples: int = 120) -> None:
    """Write sequences in which every character lights up one of the features for three frames, with a pause between."""
    noise = random.Random(0)
    rows = []
    for _ in range(samples):
        text = "".join(noise.choice("abc") for _ in range(noise.randint(2, 4)))
        frames = [
            [
                noise.gauss(0, 0.05) + (1.0 if frame < 3 and feature == "abc".index(character) else 0)
                for feature in range(3)
            ]
            for character in text
            for frame in range(4)
        ]
        rows.append({"frames": frames, "text": text})
    write_jsonl(path, rows)


def write_tokenizer(folder: Path, text: str, size: int = 300) -> int:
    """Write a byte-pair tokenizer as GPT-2 has it, learnt from `text`; return its vocabulary's size."""
    from tokenizers import ByteLevelBPETokenizer  # noqa: PLC0415 - only these tests need it

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([text], vocab_size=size, special_tokens=["<|endoftext|>"], show_progress=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer.get_vocab_size()


def write_gpt2(folder: Path, text: str) -> None:
    """Write a small GPT-2 of random weights with its tokenizer, in Hugging Face's format."""
    from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415 - heavy

    vocabulary = write_tokenizer(folder, text)
    config = GPT2Config(vocab_size=vocabulary, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    GPT2LMHeadModel(config).save_pretrained(folder)


def write_bert(folder: Path, texts: Iterable[str]) -> None:
    """Write a small BERT of random weights with a WordPiece tokenizer, in Hugging Face's format."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers  # noqa: PLC0415
    from transformers import BertConfig, BertModel  # noqa: PLC0415 - heavy

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]", "unk_token": "[UNK]"}))
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(folder)


def write_churn(path: Path, samples: int = 400) -> None:
    """Write customers and whether they have left, which depends on two of three columns, as Parquet."""
    from pyarrow import parquet, table  # noqa: PLC0415 - only these tests need it

    noise = np.random.default_rng(0)
    months, calls, age = noise.uniform(0, 60, samples), noise.poisson(2, samples), noise.uniform(18, 80, samples)
    churned = calls - months / 15 + noise.normal(0, 0.3, samples) > 0
    columns = {"months": months, "calls": calls, "age": age, "churned": np.where(churned, "yes", "no")}
    parquet.write_table(table(columns), path)


@dataclass(frozen=True)
class ObjectStore:
    """A store that serves S3's API on loopback.

    Attributes:
        files: A view of its files.
        env: What the environment of their readers needs.
        stop: Ends it at once.
    """

    files: Any
    env: dict[str, str]
    stop: Callable[[], None]


@contextmanager
def object_store(*buckets: str) -> Iterator[ObjectStore]:
    """Serve an empty store with these buckets."""
    import s3fs  # noqa: PLC0415 - only these tests need it
    from moto.moto_api._internal.models import moto_api_backend  # noqa: PLC0415 - the same
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - the same

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    # All stores of a process share what they hold.
    moto_api_backend.reset()
    env = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
    }
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        files = s3fs.S3FileSystem(
            key="test", secret="test", endpoint_url=url, skip_instance_cache=True, use_listings_cache=False
        )
        for bucket in buckets:
            files.mkdir(bucket)
        yield ObjectStore(files, env, server.stop)
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()
