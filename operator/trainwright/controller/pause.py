"""Waiting that ends early when the process is to stop."""

import asyncio


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """Wait for that long, or until `stop` is set."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
