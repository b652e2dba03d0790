"""Outputs of training: predictions, generated text, exported models, explanations, and experiment tracking."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from trainwright.api.base import Model, Rule, one_of


class Split(StrEnum):
    """A part of the data."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class PredictionFormat(StrEnum):
    """How predictions are written."""

    CSV = "csv"
    JSONL = "jsonl"


Row = Annotated[list[float], Field(min_length=1, max_length=65_536)]
Text = Annotated[str, Field(min_length=1, max_length=16_384)]


class PredictionSpec(Model):
    """Predictions to write after training, as a file beside the weights."""

    split: Split | None = Field(None, description="Predict every sample of this split.")
    inputs: list[Row] | None = Field(
        None, min_length=1, max_length=1_000, description="Predict these rows of features (tabular data)."
    )
    texts: list[Text] | None = Field(
        None, min_length=1, max_length=1_000, description="Predict these texts (labelled text)."
    )
    format: PredictionFormat = Field(
        PredictionFormat.CSV,
        description="csv: a line per sample with the prediction and the probability of each class. jsonl: an object per "
        "sample, which suits long texts.",
    )

    rules = (one_of("split", "inputs", "texts", what="prediction"),)


class GenerationSpec(Model):
    """Texts to generate after training a language model, written to generated.jsonl and shown in the status."""

    prompts: list[Text] = Field(min_length=1, max_length=100, description="Texts to continue.")
    max_tokens: int = Field(50, ge=1, le=8_192, description="Tokens to generate per prompt, at most.")
    temperature: float = Field(
        1, ge=0, le=100, description="Divides the logits before sampling; 0 always takes the likeliest token."
    )
    top_k: int | None = Field(None, ge=1, le=1_000_000, description="Sample among the k likeliest tokens.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Sample among the likeliest tokens that together have this probability."
    )
    seed: int = Field(0, ge=0, le=4_294_967_295, description="Seed of the sampling.")


class ExportFormat(StrEnum):
    """Formats besides safetensors, which is always written."""

    ONNX = "onnx"
    INT8 = "int8"


class ExportSpec(Model):
    """Formats in which the trained model is written for use elsewhere.

    An export that fails never costs the trained model: the job succeeds, and status.results.problems says what failed.
    """

    formats: list[ExportFormat] = Field(
        min_length=1,
        max_length=2,
        description="onnx: model.onnx, whose outputs are compared with the trained model's on real samples. int8: "
        "model-int8.onnx, weights and arithmetic in 8 bits (calibrated on the training split for convolutions); its "
        "metrics and size are reported beside those of the full model.",
    )

    rules = (
        Rule(
            field="formats",
            message="name each format once",
            cel="self.formats.all(format, self.formats.exists_one(other, other == format))",
            holds=lambda self: len(set(self.formats)) == len(self.formats),
        ),
    )


class ExplanationMethod(StrEnum):
    """How a prediction is traced back to the inputs."""

    SALIENCY = "saliency"
    LIME = "lime"
    SHAP = "shap"


class ExplanationSpec(Model):
    """Explanations of single predictions, each written as JSON and as a picture."""

    methods: list[ExplanationMethod] = Field(
        [ExplanationMethod.SALIENCY],
        min_length=1,
        max_length=3,
        description="saliency: size of the gradient. lime: weights of a linear model fitted around the sample. shap: "
        "Shapley values, estimated by Kernel SHAP.",
    )
    samples: int = Field(4, ge=1, le=100, description="Number of samples to explain, spread evenly over the split.")
    split: Split = Field(Split.TEST, description="Where the samples come from.")

    rules = (
        Rule(
            field="methods",
            message="name each method once",
            cel="self.methods.all(method, self.methods.exists_one(other, other == method))",
            holds=lambda self: len(set(self.methods)) == len(self.methods),
        ),
    )


class MlflowSpec(Model):
    """A run in MLflow. Credentials come from the environment (MLFLOW_TRACKING_USERNAME and so on)."""

    uri: str = Field(
        min_length=1,
        max_length=2_048,
        pattern=r"^[^\s]+$",
        description="Tracking server, for example http://mlflow:5000, or a folder such as file:///data/mlruns.",
    )
    experiment: str = Field("trainwright", min_length=1, max_length=256, description="Experiment that holds the run.")


class WandbMode(StrEnum):
    """Whether Weights & Biases uploads the run."""

    ONLINE = "online"
    OFFLINE = "offline"


class WandbSpec(Model):
    """A run in Weights & Biases. The key comes from the environment (WANDB_API_KEY)."""

    project: str = Field(
        "trainwright", min_length=1, max_length=128, pattern=r"^[-A-Za-z0-9_.]+$", description="Project of the run."
    )
    mode: WandbMode = Field(
        WandbMode.ONLINE,
        description="online, or offline: stored in the job's folder and uploaded later with `wandb sync`.",
    )


class TrackingSpec(Model):
    """Where training metrics are recorded. If a tracker fails, that is logged and training continues without it."""

    tensorboard: bool = Field(True, description="Write TensorBoard event files into the job's folder.")
    mlflow: MlflowSpec | None = Field(None, description="Record a run in MLflow.")
    wandb: WandbSpec | None = Field(None, description="Record a run in Weights & Biases.")
