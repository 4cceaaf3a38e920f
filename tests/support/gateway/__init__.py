"""The platform's gateway as the node meets it: takes answers on /res and /res/ws, and keeps everything that came.

Like the platform's gateway (spec 1.2) it answers 404 to a POST for an unknown id, and drops the frames of such an id
without a word. Unlike it, it survives a frame after the end, counts it, and misbehaves when a test asks for it.
"""

from tests.support.gateway.answers import Answer, Frame, Post, raw_data
from tests.support.gateway.behaviour import Behaviour
from tests.support.gateway.server import FakeGateway

__all__ = ["Answer", "Behaviour", "FakeGateway", "Frame", "Post", "raw_data"]
