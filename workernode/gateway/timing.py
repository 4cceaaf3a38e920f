"""How long the gateway is waited for, and why. All in seconds."""

POST_TIME = 10.0  # the gateway's POST can hang where its client has just left
BODY_TIME = 1.0  # for the body of the gateway's answer to a POST, whose status has come
# The gateway publishes a request first and registers it after that (spec 1.2). Until it has, it answers 404 to a POST,
# and drops the frames of a stream.
REGISTERING_TIME = 1.2  # a 404, or a refused handshake, may mean "not registered yet" for this long
FRAME_AFTER = 0.1  # after the task was received; no frame leaves before that
SHORTEST_OFFER = 3.0  # even an answer that is late is offered for this long
PING_EVERY = 20.0  # during a stream
GONE_AFTER = 60.0  # without a pong: the client is gone; it can leave the gateway's reader blocked for ever
RECONNECT_TIME = 5.0  # for telling a client that the connection broke in the middle of its stream
# A worker offers an answer for so long. Then the supervisor keeps it, and the slot is free for another task.
OFFER_TIME = 1.0
KEPT_IDLE = 50.0  # an idle WebSocket is kept for another stream


def offered_until(deadline: float, now: float) -> float:
    """Return until when an answer is offered that is there now; all are monotonic seconds.

    Args:
        deadline: when the task's time is over.
    """
    return max(deadline, now + SHORTEST_OFFER)
