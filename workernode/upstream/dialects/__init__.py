"""What other providers call things: error bodies of any shape → OpenAI's shape, names of errors → a kind of fault.

Only names are read (codes, types, status words, numbers in the members that hold codes), never the words of a message
(spec 5).
"""

from workernode.upstream.dialects.bodies import ErrorBody, error_in_answer, read_error
from workernode.upstream.dialects.names import is_about_content

__all__ = ["ErrorBody", "error_in_answer", "is_about_content", "read_error"]
