"""Why an order waits, or how it ended: one sentence and its evidence, told by what all services know of it.

Reading order: ``gather`` asks the services through a fetcher of the caller's and returns a ``Case``; ``explain`` makes
of a case the ``Answer``: the sentence, the lines of evidence, what to do now. Both the command line and the console
tell it by these two, so it is the same sentence in both.
"""

from quadrille_why.answer import Answer, Line
from quadrille_why.asking import AwayError, Fetch, gather
from quadrille_why.case import Case
from quadrille_why.http_fetch import over_http
from quadrille_why.sentences import explain, in_the_way

__all__ = ["Answer", "AwayError", "Case", "Fetch", "Line", "explain", "gather", "in_the_way", "over_http"]
