"""A sleep that ends early when the process has to stop."""

import asyncio


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for this many seconds or until `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
