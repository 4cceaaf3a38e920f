"""Reports failures that need a person, as Kubernetes Events or in the log (spec 1.3)."""

from supervisor.report.reporter import SERVICE_ACCOUNT, Cluster, Reporter, report_once

__all__ = ["SERVICE_ACCOUNT", "Cluster", "Reporter", "report_once"]
