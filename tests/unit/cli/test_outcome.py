"""What results.json says in words."""

import pytest

from trainwright.cli.local.outcome import doubts, equation_text


def measured(**metrics):
    return {"test": {"split": "test", "step": 9, "metrics": metrics}}


def rare(most_frequent, accuracy, samples):
    baselines = {"test": {"accuracy": most_frequent, "samples": samples}}
    return measured(accuracy=accuracy) | {"data": {"classes": ["no", "yes"]}, "baselines": baselines}


@pytest.mark.parametrize(
    ("summary", "said"),
    [
        ({}, []),
        ({"history": [{"loss": 2.0}, {"loss": 0.5}]}, []),
        ({"history": [{"loss": 2.0}, {"loss": 5.0}]}, ["the training loss rose from 2.0000 to 5.0000"]),
        ({"history": [{"loss": None}, {"loss": 5.0}]}, []),
        (measured(accuracy=0.25) | {"data": {"classes": list("abcd")}}, ["accuracy 0.2500 on test"]),
        (rare(0.9, 0.91, 100), ["accuracy 0.9100 on test is no better than always predicting the most frequent class"]),
        (rare(0.9, 0.94, 100), []),
        (measured(accuracy=0.5) | {"data": {"classes": list("abcd")}}, []),
        (measured(r2=-0.3), ["r2 -0.3000 on test"]),
        (measured(r2=0.3), []),
    ],
)
def test_a_run_that_learnt_nothing_is_doubted(summary, said):
    found = doubts(summary)
    assert len(found) == len(said)
    assert all(text.startswith(begin) and "nothing was learnt" in text for text, begin in zip(found, said, strict=True))


def test_a_linear_model_is_an_equation_with_the_names_of_its_table():
    equation = {"coefficients": {"area": 2.0, "age": -0.5}, "intercept": 40.0}
    table = {"spec": {"dataset": {"csv": {"target": "price"}}}}
    assert equation_text({"equation": equation, **table}) == "price = 2.0000 area - 0.5000 age + 40.0000"
    assert equation_text({}) is None
