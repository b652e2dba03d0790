"""A language model, sharded over two pods: text from a volume, a pod lost on the way, and a text written at the end."""

import json

import corpora
import jobs
import kube
import pytest

pytestmark = pytest.mark.timeout(600, func_only=True)

STEPS = 600
"""Enough that some are left when a checkpoint is known of and a pod is lost."""


def text_volume(namespace: str) -> None:
    """Make the ConfigMap that holds the text."""
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "text"},
            "data": {"stories.txt": corpora.prose(800)},
        },
        namespace,
    )


def language_model(name: str) -> dict:
    return jobs.manifest(
        name,
        task="language-modeling",
        model={"name": "gpt", "args": {"layers": 2, "heads": 2, "dimension": 32}},
        dataset={"text": {"path": "stories.txt"}, "tokenizer": {"name": "bpe", "vocabularySize": 300, "maxLength": 32}},
        optimizer={"name": "adamw", "learningRate": 0.01},
        parallelism="fsdp",
        training={"steps": STEPS, "globalBatchSize": 8, "microBatchSize": 2, "gradientClipping": 1.0},
        checkpoint={"everySteps": 25},
        generation={"prompts": ["The cat"], "maxTokens": 8, "temperature": 0},
        workers={
            "resources": {"requests": {"cpu": "100m", "memory": "400Mi"}},
            "volumes": [{"name": "text", "mountPath": "/data", "readOnly": True, "configMap": {"name": "text"}}],
        },
    )


def test_a_sharded_language_model_outlives_a_lost_pod_and_writes_a_text(operator, namespace):
    text_volume(namespace)
    kube.apply(language_model("writer"), namespace)
    before = jobs.wait_for(namespace, "writer", lambda now: len(now.get("checkpoints", [])) >= 1, timeout=180)
    assert before["metrics"]["tokensPerSecond"] > 0
    assert before["preflight"]["parameters"] > 10_000
    kube.kubectl("delete", "pod", "writer-1-1", f"--namespace={namespace}", "--wait=false")

    final = jobs.wait_for(namespace, "writer", jobs.succeeded, timeout=280)
    assert final["restarts"] >= 1
    assert final["progress"]["resumedFromStep"] >= 25
    assert final["metrics"]["evaluation"]["metrics"]["perplexity"] < 12
    folder = kube.shared_folder() / namespace / final["results"]["folder"].removeprefix("/checkpoints/")
    (line,) = (folder / "generated.jsonl").read_text().splitlines()
    assert json.loads(line)["text"]
