"""The parts of four custom resources that deploy/ uses, as JSON Schemas. Any other field is refused.

No package carries their CRDs. Written by hand from, and the manifests checked against all of:
kedacore/keda v2.21.0 config/crd/bases/keda.sh_scaledobjects.yaml, and the trigger's metadata from
pkg/scalers/pulsar_scaler.go; prometheus-operator v0.85.0
example/prometheus-operator-crd/monitoring.coreos.com_{podmonitors,prometheusrules}.yaml;
uplion/ai-model-operator 1ca3fed config/crd/bases/model.youxam.com_aimodels.yaml.
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
TIMES = {"type": "string", "pattern": "^[0-9]+(ms|s|m)$"}


def fields(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    """An object with these fields, all but the optional ones required, and no others."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def resource(api_version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A whole resource with this spec."""
    labels = {"type": "object", "additionalProperties": TEXT}
    metadata = fields({"name": TEXT, "labels": labels}, "labels")
    head = {"apiVersion": {"const": api_version}, "kind": {"const": kind}, "metadata": metadata}
    return fields({**head, "spec": spec})


PULSAR_TRIGGER = fields(
    {
        "type": {"const": "pulsar"},
        # KEDA takes texts only, numbers too.
        "metadata": fields(
            {
                "adminURL": {"type": "string", "pattern": "^https?://[^/]+$"},
                "topic": {"type": "string", "pattern": "^persistent://[^/]+/[^/]+/[^/]+$"},
                "subscription": TEXT,
                "msgBacklogThreshold": {"type": "string", "pattern": "^[1-9][0-9]*$"},
                "authModes": {"enum": ["bearer"]},
            },
            "authModes",
        ),
        "authenticationRef": fields({"name": TEXT}),
    },
    "authenticationRef",
)

ALERT_FIELDS = fields(
    {
        "alert": {"type": "string", "pattern": "^[A-Za-z]+$"},
        "expr": TEXT,
        "for": TIMES,
        "labels": {"type": "object", "additionalProperties": TEXT},
        "annotations": {"type": "object", "additionalProperties": TEXT},
    },
    "for",
)
ALERTS = fields({"name": TEXT, "rules": {"type": "array", "items": ALERT_FIELDS}})

CRDS = {
    "ScaledObject": resource(
        "keda.sh/v1alpha1",
        "ScaledObject",
        fields(
            {
                "scaleTargetRef": fields({"name": TEXT}),
                "minReplicaCount": COUNT,
                "maxReplicaCount": {"type": "integer", "minimum": 1},
                "pollingInterval": {"type": "integer", "minimum": 1},
                "cooldownPeriod": COUNT,
                "triggers": {"type": "array", "minItems": 1, "items": PULSAR_TRIGGER},
            },
            "cooldownPeriod",
        ),
    ),
    "PrometheusRule": resource(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        fields({"groups": {"type": "array", "items": ALERTS}}),
    ),
    "PodMonitor": resource(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        fields(
            {
                "selector": fields({"matchLabels": {"type": "object", "additionalProperties": TEXT}}),
                "podMetricsEndpoints": {
                    "type": "array",
                    "items": fields({"port": TEXT, "path": TEXT, "interval": TIMES}),
                },
            }
        ),
    ),
    "AIModel": resource(
        "model.youxam.com/v1alpha1",
        "AIModel",
        fields(
            {
                "type": {"enum": ["remote", "local"]},
                "model": TEXT,
                "baseURL": TEXT,
                "apiKey": TEXT,
                "image": TEXT,
                "replicas": COUNT,  # optional in the CRD, but the operator's code fails without it
                "maxProcessNum": COUNT,
                "msgBacklogThreshold": COUNT,
            },
            "baseURL",  # for remote only
            "apiKey",
        ),
    ),
}
