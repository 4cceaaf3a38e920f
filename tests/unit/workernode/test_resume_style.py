"""The forms in which upstream takes a text that it is to continue."""

from __future__ import annotations

from workernode.resume_style import ResumeStyle


def test_the_values_are_those_of_the_variable() -> None:
    assert [style.value for style in ResumeStyle] == ["off", "llamacpp", "vllm", "prefix"]
