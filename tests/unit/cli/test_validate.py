"""What a person reads when a manifest is wrong."""

from textwrap import dedent

import pytest
from typer.testing import CliRunner

from trainwright.cli.app import app

VALID = """\
apiVersion: trainwright.dev/v1alpha1
kind: TrainingJob
metadata:
  name: digits
spec:
  model:
    name: cnn
  dataset:
    builtin:
      name: digits
  optimizer:
    name: adam
    learningRate: 1e-3
  training:
    epochs: 2
"""


@pytest.fixture
def validate(tmp_path, monkeypatch):
    """Return a function that validates manifests by file name and returns (exit code, all output)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_text(text)
        result = CliRunner().invoke(app, ["validate", *(f"{name}.yaml" for name in texts)])
        return result.exit_code, result.output

    return run


def test_a_valid_manifest(validate):
    assert validate(digits=VALID) == (0, "digits.yaml: valid\n")


def test_every_mistake_is_told_with_its_line_and_what_was_meant(validate):
    text = (
        VALID.replace("name: cnn", "name: cn")
        .replace("learningRate", "learning_rate")
        .replace("epochs: 2", "epoch: 2")
        .replace("kind: TrainingJob", "kind: TrainJob")
    )
    assert validate(digits=text) == (
        64,
        dedent("""\
            digits.yaml: 4 mistakes
              kind  line 2
                must be 'TrainingJob', found 'TrainJob'
              spec.model.name  line 7
                must be linear, mlp, cnn, lenet, rnn, lstm, gru, transformer, gpt, torchvision:NAME, timm:NAME or hf:TYPE (did you mean cnn?), found 'cn'
              spec.optimizer.learning_rate  line 13
                unknown field, found 0.001; did you mean learningRate?
              spec.training.epoch  line 15
                unknown field, found 2; did you mean epochs?
        """),
    )


def test_a_rule_between_fields_is_told_at_its_field(validate):
    text = VALID + "    globalBatchSize: 1\n  workers: {count: 2}\n"
    code, output = validate(digits=text)
    assert code == 64
    assert output.startswith("digits.yaml: 1 mistake\n  spec.training.globalBatchSize  line 16\n    must be at least")


def test_one_wrong_file_does_not_hide_another(validate):
    code, output = validate(right=VALID, wrong="a: 1\na: 2\n", missing_kind="spec: 1")
    assert code == 64
    assert output.splitlines()[:4] == [
        "right.yaml: valid",
        "wrong.yaml: 1 mistake",
        "  line 2",
        "    key 'a' occurs twice",
    ]
    assert "missing_kind.yaml: " in output


def test_a_job_among_other_documents_is_found(validate):
    claim = "kind: PersistentVolumeClaim\nmetadata: {name: data}\n---\n"
    assert validate(digits=claim + VALID) == (0, "digits.yaml: valid\n")
    assert validate(digits=VALID + "---\n" + VALID)[0] == 64


def test_lines_are_counted_over_all_documents(validate):
    claim = "kind: PersistentVolumeClaim\nmetadata: {name: data}\n---\n"
    _, output = validate(digits=claim + VALID.replace("name: adam", "name: adamm"))
    assert "spec.optimizer.name  line 15" in output


@pytest.mark.parametrize("text", ["", "a: [1\n", "- 1\n", "just text\n", "spec: \x00\n"])
def test_what_is_no_manifest_is_a_mistake_and_no_crash(validate, text):
    code, output = validate(digits=text)
    assert code == 64
    assert "digits.yaml: " in output


def test_a_missing_file_is_named():
    result = CliRunner().invoke(app, ["validate", "no-such-file.yaml"])
    assert result.exit_code == 64
    assert "No such file or directory" in result.output


def test_standard_input_is_a_manifest_too():
    result = CliRunner().invoke(app, ["validate", "-"], input=VALID)
    assert (result.exit_code, result.output) == (0, "-: valid\n")
