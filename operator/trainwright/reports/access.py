"""Authentication of reports: maps tokens to pods by TokenReview and caches the answers for a short time."""

import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from trainwright.cluster.port import PodIdentity
from trainwright.reports.limits import RateLimits

_VALID_FOR = 60.0
_INVALID_FOR = 10.0
_CAPACITY = 4096


class TooManyReviewsError(Exception):
    """Too many unknown tokens at once; the sender may try again in a second."""


class Access:
    """Finds the pod that a token belongs to.

    Tokens are remembered by their hash only. A pod's deletion is not awaited here: that the pod still is one of the
    job's is checked for every report.

    Args:
        review: Asks the cluster.
        clock: A monotonic clock, in seconds.
        per_sender: Reviews per second that one address may cause.
        overall: Reviews per second in all. Half of them are kept for addresses from which a valid token has come before.
    """

    def __init__(
        self,
        review: Callable[[str, str], Awaitable[PodIdentity | None]],
        clock: Callable[[], float],
        *,
        per_sender: float = 2.0,
        overall: float = 50.0,
    ) -> None:
        self._review = review
        self._clock = clock
        self._senders = RateLimits(per_sender, 5 * per_sender, clock)
        self._overall = RateLimits(overall / 2, overall, clock, capacity=2)
        self._proven: OrderedDict[str, None] = OrderedDict()
        self._known: OrderedDict[bytes, tuple[float, PodIdentity | None]] = OrderedDict()

    async def identify(self, token: str, audience: str, sender: str) -> PodIdentity | None:
        """Return the pod that the token was issued to for this audience, or None if it is not valid.

        Raises:
            TooManyReviewsError: The token is not known, and the limits do not allow to ask now.
        """
        digest = hashlib.sha256(f"{audience}\0{token}".encode()).digest()
        until, identity = self._known.get(digest, (0.0, None))
        if self._clock() < until:
            return identity
        # The limit per sender is checked first, so that a flooding sender cannot use up the shared limit.
        if not self._senders.allow(sender) or not self._overall.allow(sender in self._proven):
            raise TooManyReviewsError
        identity = await self._review(token, audience)
        if identity is not None:
            self._remember(sender)
        self._known.pop(digest, None)
        self._known[digest] = (self._clock() + (_VALID_FOR if identity else _INVALID_FOR), identity)
        if len(self._known) > _CAPACITY:
            self._known.popitem(last=False)
        return identity

    def _remember(self, sender: str) -> None:
        self._proven.pop(sender, None)
        self._proven[sender] = None
        if len(self._proven) > _CAPACITY:
            self._proven.popitem(last=False)
