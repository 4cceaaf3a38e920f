"""Whether this node may serve tasks: rate-limit holds, pacing, half-open probing, and what people are told."""
