"""What the node shows of itself: status server, page, metrics, and messages to systemd."""
