"""Streams that go on: when upstream breaks off in the middle of an answer, another call continues its text. Pure.

docs/decisions/0012-resume.md says which streams go on, and why.
"""

from workernode.resume.continuation import continued_request
from workernode.resume.eligibility import can_be_continued
from workernode.resume.transcript import MOST_RESUMES, Opening, Transcript

__all__ = ["MOST_RESUMES", "Opening", "Transcript", "can_be_continued", "continued_request"]
