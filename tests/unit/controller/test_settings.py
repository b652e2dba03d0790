"""Settings from the environment."""

import pytest
from pydantic import ValidationError

from trainwright.controller.settings import OperatorSettings


def test_reads_lists_and_numbers(monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_NAMESPACES", "team-a, team-b")
    monkeypatch.setenv("TRAINWRIGHT_STATUS_INTERVAL", "5")
    monkeypatch.setenv("TRAINWRIGHT_LEASE", "false")
    settings = OperatorSettings()
    assert settings.namespaces == ("team-a", "team-b")
    assert settings.tuning().status_interval == 5
    assert settings.lease is False


def test_says_where_workers_report(monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_OPERATOR_NAMESPACE", "system")
    monkeypatch.setenv("TRAINWRIGHT_WORKER_IMAGE", "worker:1")
    plan = OperatorSettings().for_plan("CA")
    assert plan.reports_url == "https://trainwright-reports.system.svc:8443"
    assert (plan.reports_ca, plan.worker_image, plan.operator_namespace) == ("CA", "worker:1", "system")
    assert OperatorSettings().for_plan(None).reports_url is None


def test_whoever_reports_seldom_is_not_stale_between_two_reports(monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_REPORT_INTERVAL", "120")
    assert OperatorSettings().for_plan("CA").stale_after == 360
    monkeypatch.setenv("TRAINWRIGHT_REPORT_INTERVAL", "2")
    assert OperatorSettings().for_plan("CA").stale_after == 60


def test_refuses_nonsense(monkeypatch):
    monkeypatch.setenv("TRAINWRIGHT_STATUS_RATE", "0")
    with pytest.raises(ValidationError):
        OperatorSettings()
