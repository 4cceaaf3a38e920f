"""The number of waiting requests in the metrics of llama.cpp and vLLM."""

from __future__ import annotations

import pytest

from supervisor.readings import waiting_requests

LLAMA_CPP = """# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 4
# HELP llamacpp:requests_deferred Number of requests deferred.
# TYPE llamacpp:requests_deferred gauge
llamacpp:requests_deferred 3
"""
VLLM = """# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="qwen"} 5.0
vllm:num_requests_waiting{engine="1",model_name="qwen"} 2.0
vllm:num_requests_running{engine="0",model_name="qwen"} 256.0
"""


@pytest.mark.parametrize(
    ("metrics", "waiting"),
    [
        pytest.param(LLAMA_CPP, 3, id="llama.cpp"),
        pytest.param(VLLM, 7, id="vLLM, two engines"),
        pytest.param("llamacpp:requests_processing 4\n", 0, id="an older llamafile"),
        pytest.param("llamacpp:requests_deferred NaN\n", 0, id="no number"),
        pytest.param("llamacpp:requests_deferred +Inf\n", 0, id="no count"),
        pytest.param("<html>not found</html>", 0, id="no metrics"),
    ],
)
def test_the_requests_that_wait_are_read(metrics: str, waiting: int) -> None:
    assert waiting_requests(metrics) == waiting
