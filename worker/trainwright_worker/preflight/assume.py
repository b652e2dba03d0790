"""Facts of data that is not available on this machine: derived from the spec, or assumed and noted."""

from dataclasses import dataclass
from typing import Final

from trainwright.api.spec import TrainingJobSpec
from trainwright.api.spec.dataset import SyntheticKind
from trainwright.api.spec.model import ModelSpec
from trainwright.api.spec.paths import is_uri
from trainwright.api.spec.preparation import TokenizerName, TokenizerSpec
from trainwright.api.spec.source import Modality
from trainwright_worker.data.corpus import takes_tokenizer_of_model
from trainwright_worker.data.table import Split
from trainwright_worker.data.tokens import BYTE_VOCABULARY
from trainwright_worker.facts import Facts
from trainwright_worker.models.huggingface import default_vocabulary
from trainwright_worker.tasks.table import make_task
from trainwright_worker.training.teacher import FIELD, named_model, read_model

GPT2_VOCABULARY: Final = 50_257
IMAGENET_CLASSES: Final = 1_000
FEATURES: Final = 32
FRAMES: Final = (1_000, 80)
"""Ten seconds of speech: 80 mel bands every 10 ms."""
_BUILTIN: Final = {
    "digits": ((1, 8, 8), 10),
    "iris": ((4,), 3),
    "wine": ((13,), 3),
    "breast-cancer": ((30,), 2),
    "diabetes": ((10,), 1),
}


@dataclass(frozen=True)
class Assumed:
    """Facts of data that was not read, with the assumptions behind them.

    Attributes:
        facts: Input shape, number of outputs and vocabulary size.
        notes: The assumptions, each in a few words.
        split: The training split, if the data was available and was read.
    """

    facts: Facts
    notes: tuple[str, ...]
    split: Split | None = None

    @property
    def samples(self) -> int | None:
        """Number of samples of the training split; None if unknown."""
        return None if self.split is None else len(self.split)


def assume(spec: TrainingJobSpec) -> Assumed:
    """Return the facts of a job's data as far as the spec determines them, with assumptions for the rest."""
    data = spec.dataset
    match data.source.modality:
        case Modality.TEXTS:
            return _text(spec)
        case Modality.IMAGES:
            return _images(spec)
        case Modality.FRAMES:
            outputs, note = make_task(spec).assume_outputs(None)
            frames = f"sequences of {FRAMES[0]:,} frames of {FRAMES[1]} features"
            return Assumed(Facts(FRAMES, outputs), (frames, note))
        case _:
            return _rows(spec)


def without_absent_weights(spec: TrainingJobSpec, absent: list[str]) -> tuple[TrainingJobSpec, list[str]]:
    """Return the job without pretrained weights that are not on this machine, and the assumptions in their place.

    Args:
        spec: The job.
        absent: Fields whose paths do not exist on this machine.
    """
    model = spec.model
    if "spec.model.pretrained" not in absent:
        return spec, []
    shape = "with its args" if model.args else "with its default args"
    changed = model.changed(pretrained=None)
    return spec.changed(model=changed), [f"the pretrained model is {model.name} {shape}"]


def has_absent_tokenizer(spec: TrainingJobSpec, absent: list[str]) -> bool:
    """Return whether the job uses the tokenizer of a pretrained folder that is not on this machine.

    Args:
        spec: The job.
        absent: Fields whose paths do not exist on this machine.
    """
    return (
        "spec.model.pretrained" in absent
        and spec.dataset.source.modality == Modality.TEXTS
        and takes_tokenizer_of_model(spec)
    )


def teacher_as_known(spec: TrainingJobSpec, absent: list[str], root: str) -> tuple[ModelSpec | None, list[str]]:
    """Return the teacher model as far as it is known, and the assumptions about it.

    Args:
        spec: The job.
        absent: Fields whose paths do not exist on this machine.
        root: Folder that relative paths are resolved against.

    Raises:
        UserError: The teacher's folder names no model, or its arguments are invalid.
    """
    teacher = spec.distillation
    if teacher is None:
        return None, []
    if FIELD not in absent and not is_uri(teacher.weights):
        return read_model(teacher, root), []
    if teacher.model is None:
        return None, [
            "the estimate omits the teacher: its weights are not here, and spec.distillation.model is not set"
        ]
    shape = "with its args" if teacher.args else "with its default args"
    return named_model(teacher, pretrained=False), [f"the teacher is {teacher.model} {shape}"]


def _text(spec: TrainingJobSpec) -> Assumed:
    tokenizer = spec.dataset.tokenizer or TokenizerSpec()
    own = spec.model.resolved_args()
    notes = []
    vocabulary = getattr(own, "vocabulary", None)
    if vocabulary is None and takes_tokenizer_of_model(spec):
        vocabulary = _usual_vocabulary(spec.model)
        if vocabulary is not None:
            notes.append(f"a vocabulary of {vocabulary:,} tokens, the default of {spec.model.name}")
    elif vocabulary is None and tokenizer.name == TokenizerName.BYTE:
        vocabulary = BYTE_VOCABULARY
    elif vocabulary is None and tokenizer.path is None:
        vocabulary = tokenizer.vocabulary_size
        notes.append(f"the tokenizer learns its maximum of {vocabulary:,} tokens")
    if vocabulary is None:
        vocabulary = GPT2_VOCABULARY
        notes.append(f"a vocabulary of {vocabulary:,} tokens, as in GPT-2")
    outputs, note = make_task(spec).assume_outputs(vocabulary)
    notes += [note] if note else []
    notes.append(f"{tokenizer.max_length:,} tokens per sample")
    return Assumed(Facts((tokenizer.max_length,), outputs, vocabulary, 0), tuple(notes))


def _usual_vocabulary(model: ModelSpec) -> int | None:
    """Return the vocabulary size of a model of transformers: from its args, or the default."""
    known = (model.args or {}).get("vocab_size")
    return known if isinstance(known, int) else default_vocabulary(str(model.name).partition(":")[2])


def _images(spec: TrainingJobSpec) -> Assumed:
    data = spec.dataset
    if data.builtin is not None:
        return _builtin(data.builtin.name)
    if data.idx is not None:
        return Assumed(Facts((1, 28, 28), 10), ("images of 1x28x28 in 10 classes, as in MNIST",))
    if data.cifar10 is not None:
        return Assumed(Facts((3, 32, 32), 10), ())
    pictures = data.image_folder or data.webdataset or data.huggingface
    side, gray = (pictures.size, pictures.grayscale) if pictures is not None else (224, False)
    note = f"{IMAGENET_CLASSES:,} classes, as in ImageNet"
    return Assumed(Facts((1 if gray else 3, side, side), IMAGENET_CLASSES), (note,))


def _rows(spec: TrainingJobSpec) -> Assumed:
    data = spec.dataset
    if data.builtin is not None:
        return _builtin(data.builtin.name)
    if data.synthetic is not None:
        line = data.synthetic.kind == SyntheticKind.LINE
        return Assumed(Facts((data.synthetic.features,), 1 if line else data.synthetic.classes), ())
    table = data.csv or data.parquet
    named = table.features if table is not None else data.huggingface.features if data.huggingface is not None else None
    outputs, note = make_task(spec).assume_outputs(None)
    notes = [] if named else [f"{FEATURES} features"]
    notes += [note] if note else []
    return Assumed(Facts((len(named) if named else FEATURES,), outputs), tuple(notes))


def _builtin(name: str) -> Assumed:
    shape, outputs = _BUILTIN[name]
    return Assumed(Facts(shape, outputs), ())
