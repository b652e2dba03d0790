"""What a person reads when a manifest is wrong."""

from textwrap import dedent

import pytest
from typer.testing import CliRunner

from trainwright.api.job import NAME_RULE_MESSAGE
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


def test_a_valid_manifest_that_will_probably_not_work_is_warned_of(validate):
    text = VALID + "  workers:\n    processesPerWorker: 4\n    resources: {limits: {nvidia.com/gpu: 2}}\n"
    code, output = validate(digits=text)
    assert code == 0
    assert output.startswith(
        "digits.yaml: valid\n  warning: spec.workers.processesPerWorker  line 17\n    4, but each worker asks for only 2 GPU(s)"
    )


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
        "  line 2, column 1",
        "    key 'a' occurs twice",
    ]
    assert "missing_kind.yaml: " in output


def test_a_job_among_other_documents_is_found(validate):
    claim = "kind: PersistentVolumeClaim\nmetadata: {name: data}\n---\n"
    assert validate(digits=claim + VALID) == (0, "digits.yaml: valid\n")


@pytest.mark.parametrize(
    "meant",
    [
        "apiVersion: trainwright.dev/v1alpha1\nkind: Training\n",
        "apiVersion: trainwright.dev/v1alpha1\nmetadata: {name: other}\n",
        "apiVersion: tranwright.dev/v1alpha1\nkind: TraningJob\n",
    ],
)
def test_a_document_that_was_meant_to_be_a_job_is_not_left_aside(validate, meant):
    code, output = validate(digits=f"{meant}---\n{VALID}")
    assert code == 64
    assert "\n  kind" in output
    assert "digits.yaml, job 2: valid" in output


def test_kubeflows_train_job_beside_ours_is_left_aside(validate):
    theirs = "apiVersion: trainer.kubeflow.org/v1alpha1\nkind: TrainJob\n---\n"
    assert validate(digits=theirs + VALID) == (0, "digits.yaml: valid\n")


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


def one(validate, text):
    """Return what is said below the name of the one field that is wrong."""
    code, output = validate(digits=text)
    assert code == 64
    head, *said = output.splitlines()
    assert head == "digits.yaml: 1 mistake"
    return said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [b\nc: 2\n", ["  line 2, column 2", "    expected ',' or ']', but got ':'", "    c: 2", "     ^"]),
        ("a:\n  b\t: [\n", ["  line 2, column 4", "    found character '\\t' that cannot", "      b : [", "       ^"]),
        ("a: [1\n", ["  line 2, column 1", "    expected ',' or ']', but got '<stream end>'"]),
    ],
)
def test_a_syntax_error_is_shown_where_it_is(validate, text, said):
    shown = one(validate, text)
    assert [line.partition(" that cannot")[0] for line in shown] == [line.partition(" that cannot")[0] for line in said]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:\n\tb: 1\n", "found character '\\t' that cannot start any token: indent with spaces, not tabs"),
        ("a:\n  b\n  c: 1\n", "mapping values are not allowed here (or the line before lacks a colon)"),
        ("a: 1\nb\nc: 2\n", "could not find expected ':' (or the line before lacks a colon)"),
        ("a: 1\nb: c: 2\n", "mapping values are not allowed here"),
    ],
)
def test_what_to_do_about_a_syntax_error_is_said(validate, text, said):
    assert one(validate, text)[1].strip() == said


def test_an_empty_file_is_called_empty(validate):
    assert one(validate, "# nothing\n") == ["  (manifest)", "    the file is empty"]


def test_what_is_left_out_is_required(validate):
    _, output = validate(digits="metadata: {name: digits}\n")
    assert output.splitlines()[1:] == [
        "  apiVersion", "    is required", "  kind", "    is required", "  spec", "    is required",
    ]  # fmt: skip


def test_each_job_of_a_file_is_checked_as_kubectl_would(validate):
    second = VALID.replace("epochs: 2", "epochs: 0").replace("name: digits\nspec", "name: other\nspec")
    code, output = validate(digits=f"{VALID}---\n{second}")
    assert code == 64
    assert output.splitlines() == [
        "digits.yaml, job 1: valid",
        "digits.yaml, job 2: 1 mistake",
        "  spec.training.epochs  line 31",
        "    must be at least 1, found 0",
    ]


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ("epochs: 2", "epochs: two", "must be a whole number, found 'two'"),
        (
            "builtin:\n      name: digits",
            "builtin:{name: digits}",
            "unknown field, found 'digits}'; a space is missing after the colon",
        ),
        ("name: digits\nspec", "name: digits\n  lables: {a: b}\nspec", "unknown field; did you mean labels?"),
        ("metadata:\n  name: digits", "metadata: digits", "must be a mapping, found 'digits'"),
        (
            "name: digits\nspec",
            "name: 123\nspec",
            f"must be a string (put the number in quotes), found 123; it {NAME_RULE_MESSAGE}",
        ),
        (
            "epochs: 2",
            "epochs: 2\n  workers: {imagePullSecrets: [{name: registry}]}",
            "must be the name itself, 'registry', not a mapping",
        ),
        (
            "epochs: 2",
            "epochs: 2\n  workers: {resources: {limits: {gpu: 1}}}",
            "must name cpu, memory, ephemeral-storage, hugepages-SIZE, or a device with its domain: nvidia.com/gpu, not gpu",
        ),
        (
            "epochs: 2",
            "epochs: 2\n  workers: {resources: {requests: {nvidia.com/gpu: 1}}}",
            "devices such as nvidia.com/gpu, and huge pages, need the same amount in limits; a limit without a request is enough",
        ),
        (
            "epochs: 2",
            "epochs: 2\n  workers: {resources: {requests: {nvidia.com/gpu: 1}, limits: {nvidia.com/gpu: 2}}}",
            "must equal its limit, 2, found 1",
        ),
        (
            "epochs: 2",
            "epochs: 2\n  workers: {resources: {requests: {memory: 4Gi}, limits: {memory: 2Gi}}}",
            "must be at most its limit, 2Gi, found 4Gi",
        ),
        ("epochs: 2", "epochs: 2.5", "must be a whole number, found 2.5"),
        ("learningRate: 1e-3", "learningRate: fast", "must be a number, found 'fast'"),
        ("learningRate: 1e-3", "learningRate: 1e-3\n    nesterov: 1", "must be true or false, found 1"),
        (
            "builtin:\n      name: digits",
            "imageFolder: {path: ../x}",
            "must not contain ..: write an absolute path instead, found '../x'",
        ),
        ("builtin:\n      name: digits", "imageFolder: {path: ''}", "must not be empty, found ''"),
        ("builtin:\n      name: digits", "imageFolder: x", "must be a mapping, found 'x'"),
        (
            "builtin:\n      name: digits",
            "csv: {path: a.csv, target: y}",
            (
                "must be a string (YAML reads y, yes and on as true: put it in quotes), found true; "
                "target takes: Column to predict"
            ),
        ),
        (
            "epochs: 2",
            "epochs: 2\n  workers: {volumes: [{name: v, mountPath: /v, hostPath: {path: /}}]}",
            "unknown field; a job has no hostPath: workers have no access to their node and no privileges",
        ),
        (
            "epochs: 2",
            "epochs: 2\n  workers: {privileged: true}",
            "unknown field, found true; a job has no privileged: workers have no access to their node and no privileges",
        ),
        (
            "epochs: 2",
            "epochs: 2\n  workers: {command: [python]}",
            "unknown field; a job has no command: the image's entrypoint starts the worker; build workers.image on the worker image",
        ),
        ("learningRate: 1e-3", "lr: 1e-3", "unknown field, found 0.001; did you mean learningRate?"),
        ("learningRate: 1e-3", "wd: 0.1", "unknown field, found 0.1; did you mean weightDecay?"),
        ("epochs: 2", "epochs: 2\n    batchSize: 8", "unknown field, found 8; did you mean globalBatchSize?"),
        (
            "epochs: 2",
            "epochs: 2\n  checkpoint: {pvc: x}",
            "unknown field, found 'x'; did you mean persistentVolumeClaim?",
        ),
        (
            "name: cnn",
            "name: cnn\n    args: {kernel: 5}",
            "unknown field; did you mean kernelSize? (model cnn takes: channels, kernelSize, padding, hidden, activation)",
        ),
    ],
)
def test_mistakes_are_told_in_one_voice(validate, right, wrong, said):
    assert one(validate, VALID.replace(right, wrong))[-1].strip() == said


def test_fields_are_listed_where_there_are_few_and_none_comes_close(validate):
    said = one(validate, VALID + "  checkpoint: {zzz: 1}\n")
    assert said[-1].endswith("; known here: persistentVolumeClaim, uri, everySteps, everySeconds, keep, keepBest")


def test_all_mistakes_in_the_arguments_of_a_model_are_told_at_once(validate):
    _, output = validate(digits=VALID.replace("name: cnn", "name: cnn\n    args: {kernelSize: 0, paddding: 1}"))
    assert "spec.model.args.kernelSize  line 8\n    must be at least 1 (model cnn" in output
    assert "spec.model.args.paddding  line 8\n    unknown field; did you mean padding? (model cnn" in output
