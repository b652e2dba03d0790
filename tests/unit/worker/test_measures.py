import math
import threading
from types import SimpleNamespace

import pytest
import torch

from trainwright.api.figures import Evaluation
from trainwright.api.job import read_spec
from trainwright.api.spec import EarlyStoppingSpec
from trainwright.api.spec.evaluation import MetricName
from trainwright_worker.batch import IGNORED, Batch
from trainwright_worker.checkpoint.state import Patience
from trainwright_worker.data.samples import Samples
from trainwright_worker.errors import UserError
from trainwright_worker.facts import Facts
from trainwright_worker.tasks.measures import LossSum
from trainwright_worker.tasks.table import make_task
from trainwright_worker.training.evaluate import evaluate
from trainwright_worker.training.patience import is_better, should_stop_early

CPU = torch.device("cpu")


class Threads:
    """Ranks as threads, with what evaluations need of a group."""

    def __init__(self, size):
        self._barrier, self._slots = threading.Barrier(size, timeout=10), [None] * size
        self.ranks = [SimpleNamespace(rank=rank, size=size, device=CPU) for rank in range(size)]
        for rank in self.ranks:
            rank.sum = lambda values, rank=rank: [
                sum(column) for column in zip(*self._share(rank, values), strict=True)
            ]
            rank.broadcast_tensors = lambda _: None
            rank.concatenate = lambda rows, rank=rank: torch.cat(self._share(rank, rows))

    def _share(self, rank, value):
        self._slots[rank.rank] = value
        self._barrier.wait()
        found = list(self._slots)
        self._barrier.wait()
        return found

    def run(self, work):
        results = [None] * len(self.ranks)

        def call(rank):
            results[rank.rank] = work(rank)

        threads = [threading.Thread(target=call, args=(rank,)) for rank in self.ranks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


def spec_of(**changes):
    return read_spec(
        {"model": {"name": "mlp"}, "dataset": {"builtin": {"name": "iris"}}, "training": {"epochs": 1}, **changes}
    )


def figures_of(spec, samples, outputs, size, classes=3, deviation=(1.0,), batch=2):
    model = torch.nn.Identity()

    def measure(rank):
        task, facts = make_task(spec), Facts((1,), classes)
        measures = [LossSum(task.evaluation_loss(facts), CPU), *task.measures(facts, deviation, CPU)]
        return task.report(
            evaluate(model, lambda part: outputs[part.input[:, 0].long()], samples, rank, measures, batch)
        )

    results = Threads(size).run(measure)
    assert all(str(result) == str(results[0]) for result in results)
    return results[0]


@pytest.mark.parametrize("size", [1, 3, 4])
def test_figures_of_a_regression_over_uneven_shards(size):
    spec = spec_of(
        dataset={"builtin": {"name": "diabetes"}},
        task="regression",
        evaluation={"metrics": ["rmse"]},
        loss={"name": "l1"},
    )
    targets = torch.tensor([[1.0], [2.0], [4.0], [3.0], [0.0]])
    outputs = torch.tensor([[1.5], [2.0], [2.0], [3.0], [1.0]])
    samples = Samples(torch.arange(5.0)[:, None], targets)
    found = figures_of(spec, samples, outputs, size, 1, (10.0,))
    assert found == pytest.approx(
        {"loss": 0.7, "mae": 7.0, "rmse": 10 * math.sqrt(5.25 / 5), "r2": 1 - 5.25 / 10}, rel=1e-6
    )
    assert "rmse" not in figures_of(
        spec_of(dataset={"builtin": {"name": "diabetes"}}, task="regression"), samples, outputs, size, 1
    )


@pytest.mark.parametrize("count", [7, 11, 13, 22, 26])
def test_targets_that_are_all_equal_have_nothing_to_explain(count):
    spec = spec_of(dataset={"builtin": {"name": "diabetes"}}, task="regression")
    samples = Samples(torch.arange(float(count))[:, None], torch.full((count, 1), 1.1))
    assert math.isnan(figures_of(spec, samples, torch.rand(count, 1), 2, 1)["r2"])


def test_targets_of_different_units_count_alike_in_the_explained_variance():
    spec = spec_of(dataset={"builtin": {"name": "diabetes"}}, task="regression", evaluation={"metrics": ["rmse"]})
    targets = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 4.0]])
    outputs = torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]])
    found = figures_of(spec, Samples(torch.arange(3.0)[:, None], targets), outputs, 2, 2, (10.0, 0.5))
    mae, rmse = (2 + 2) / 3 * 0.5 / 2, math.sqrt((4 + 4) / 3 * 0.25 / 2)
    assert found == pytest.approx({"loss": 8 / 6, "mae": mae, "rmse": rmse, "r2": 0.5}, rel=1e-6)


@pytest.mark.parametrize("size", [1, 3, 7])
def test_figures_of_classes_with_more_ranks_than_samples(size):
    outputs = torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [0, 2.0, 0], [0, 0, 2.0]])
    samples = Samples(torch.arange(4.0)[:, None], torch.tensor([0, 1, 2, 2]))
    found = figures_of(spec_of(), samples, outputs, size)
    loss = math.log(math.exp(2) + 2)
    assert found == pytest.approx({"loss": (3 * (loss - 2) + loss) / 4, "accuracy": 0.75}, rel=1e-6)


@pytest.mark.parametrize(("loss", "auroc"), [("cross-entropy", 1.0), ("bce", 0.625)])
def test_the_probabilities_behind_a_curve_are_those_that_the_loss_means(loss, auroc):
    # The difference of the outputs tells the classes apart; the first of them by itself does not.
    outputs = torch.tensor([[2.0, 2.0], [0.0, -3.0], [1.0, 4.0], [3.0, 4.0]])
    samples = Samples(torch.arange(4.0)[:, None], torch.tensor([0, 0, 1, 1]))
    spec = spec_of(evaluation={"metrics": ["auroc"]}, loss={"name": loss})
    assert figures_of(spec, samples, outputs, 2, classes=2)["auroc"] == pytest.approx(auroc)


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize(
    ("targets", "auroc"),
    [
        ([0, 1, 0, 1], (0.75 + 1) / 2),  # of the first class, one pair of four is in the wrong order
        ([0, 0, 0, 0], math.nan),
    ],
)
def test_classes_of_which_a_split_has_no_sample_or_nothing_else_have_no_curve(size, targets, auroc, recwarn):
    outputs = torch.tensor([[0.7, 0.1, 0.2], [0.3, 0.6, 0.1], [0.2, 0.2, 0.6], [0.1, 0.3, 0.6]]).log()
    samples = Samples(torch.arange(4.0)[:, None], torch.tensor(targets))
    found = figures_of(spec_of(evaluation={"metrics": ["auroc"]}), samples, outputs, size)["auroc"]
    assert found == pytest.approx(auroc, nan_ok=True)
    # Several ranks are threads here, whose filters of warnings get in each other's way.
    assert size > 1 or not recwarn.list, "torchmetrics would warn of it after every evaluation"


def test_figures_of_a_language_model_count_tokens():
    spec = spec_of(task="language-modeling", dataset={"text": {"path": "a"}})
    outputs = torch.zeros(3, 2, 4)
    outputs[0, :, 1] = 3.0
    targets = torch.tensor([[1, 2], [1, IGNORED], [IGNORED, IGNORED]])
    samples = SimpleNamespace(
        reading=Samples(torch.zeros(1, 1), torch.zeros(1)).reading,
        take=lambda indices, _epoch: Batch.of(indices[:, None].repeat(1, 2), targets[indices]),
        __len__=None,
    )

    class Three(SimpleNamespace):
        def __len__(self):
            return 3

    three = Three(**{key: value for key, value in vars(samples).items() if key != "__len__"})
    found = figures_of(spec, three, outputs, 2, classes=4, batch=1)
    right = math.log(math.exp(3) + 3) - 3
    loss = (right + right + 3 + math.log(4)) / 3
    assert found == pytest.approx({"loss": loss, "perplexity": math.exp(loss), "token-accuracy": 1 / 3}, rel=1e-6)


def test_a_loss_that_is_not_finite_is_all_that_is_told():
    samples = Samples(torch.arange(2.0)[:, None], torch.tensor([0, 1]))
    outputs = torch.full((2, 3), math.nan)
    assert list(figures_of(spec_of(), samples, outputs, 2)) == ["loss"]


def test_a_top_five_of_five_is_refused():
    spec = spec_of(evaluation={"metrics": ["top5-accuracy"]})
    make_task(spec).check(Facts((4,), 6))
    with pytest.raises(UserError, match=r"spec.evaluation.metrics: top5-accuracy, but the data has only 5 classes"):
        make_task(spec).check(Facts((4,), 5))
    spec = spec_of(training={"epochs": 1, "earlyStopping": {"metric": "top5-accuracy"}})
    with pytest.raises(UserError, match=r"spec.training.earlyStopping.metric: top5-accuracy, but the data has only 5"):
        make_task(spec).check(Facts((4,), 5))


def waits(metric, values, **settings):
    spec, patience = EarlyStoppingSpec(metric=metric, **settings), Patience()
    return [should_stop_early(patience, spec, {metric: value}) for value in values]


def test_patience_ends_after_so_many_evaluations_without_progress():
    assert waits(MetricName.LOSS, [3, 2, 2, 2.5, 1, 1, 1, 1], patience=3) == [False] * 7 + [True]
    assert waits(MetricName.ACCURACY, [0.5, 0.6, 0.5, 0.6], patience=2) == [False, False, False, True]
    assert waits(MetricName.LOSS, [3, 2.95, 2.8, 2.75], patience=2, min_delta=0.15) == [False, False, False, False]
    assert waits(MetricName.LOSS, [3, 2.95, 2.9], patience=2, min_delta=0.15) == [False, False, True]


def test_the_best_evaluation_is_that_of_the_metric_that_matters():
    def better(now, before, metric=None):
        now, before = (Evaluation(split="validation", step=1, metrics=metrics) for metrics in (now, before))
        stopping = {} if metric is None else {"training": {"epochs": 1, "earlyStopping": {"metric": metric}}}
        return is_better(now, before, spec_of(**stopping).deciding_metrics)

    assert is_better(Evaluation(split="validation", step=1, metrics={"loss": 1.0}), None, (MetricName.LOSS,))
    assert better({"loss": 0.9}, {"loss": 1.0})
    assert not better({"loss": 0.5, "accuracy": 0.7}, {"loss": 0.9, "accuracy": 0.8})
    assert better({"loss": 0.5, "accuracy": 0.8}, {"loss": 0.9, "accuracy": 0.8})
    assert better({"loss": 0.5, "accuracy": 0.7}, {"loss": 0.9, "accuracy": 0.8}, MetricName.LOSS)
    assert not better({"loss": 0.5, "f1": 0.7}, {"loss": 0.9, "f1": 0.8}, MetricName.F1)


def test_a_metric_that_is_undefined_is_neither_better_nor_worse():
    spec, patience = EarlyStoppingSpec(metric=MetricName.AUROC, patience=2), Patience()
    found = [
        should_stop_early(patience, spec, {"auroc": value} if value else {}) for value in (0.6, None, None, 0.5, None)
    ]
    assert found == [False] * 5
    assert should_stop_early(patience, spec, {"auroc": 0.55})
    known, unknown = (Evaluation(split="validation", step=1, metrics=metrics) for metrics in ({"auroc": 0.1}, {}))
    assert not is_better(known, unknown, (MetricName.AUROC,))
    assert not is_better(unknown, known, (MetricName.AUROC,))
