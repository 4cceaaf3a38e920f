"""The worker processes: start, hand tasks over, collect outcomes, replace the dead, end their streams."""
