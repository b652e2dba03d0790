"""Images of 16 bits per channel, which Pillow cannot write in colour."""

import struct
import zlib

PNG_KINDS = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's number for gray, gray and alpha, RGB, RGBA, by the number of channels."""


def png(values, transparent=b""):
    """Return [height, width, channels] of 16 bits as a PNG file."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_KINDS[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
        if data or kind == b"IEND"
    )
    return b"\x89PNG\r\n\x1a\n" + body


def tiff(values, order="<", *, photometric=2, extra=None, compression=1, planes=1):
    """Return [height, width, channels] of 16 bits as a TIFF file of one strip, or one per channel.

    Args:
        values: The image.
        order: Order of the bytes: < or >.
        photometric: 0 for gray whose white is 0, 1 for gray, 2 for RGB, 5 for CMYK.
        extra: What the fourth channel is: 1 for an alpha that colours are multiplied with, 2 for another alpha.
        compression: 1 for none, 8 for deflate.
        planes: 2 to write one channel after the other.
    """
    height, width, channels = values.shape
    parts = [values] if planes == 1 else [values[..., channel] for channel in range(channels)]
    strips = [part.astype(f"{order}u2").tobytes() for part in parts]
    if compression != 1:
        strips = [zlib.compress(strip) for strip in strips]
    tags = {256: [width], 257: [height], 258: [16] * channels, 259: [compression], 262: [photometric], 273: []}
    tags |= {277: [channels], 278: [height], 279: [len(strip) for strip in strips], 284: [planes]}
    if extra is not None:
        tags[338] = [extra]
    begin = 8 + 2 + 12 * len(tags) + 4
    after = b""
    for strip in strips:
        tags[273].append(begin + len(after))
        after += strip + b"\0" * (len(strip) % 2)
    entries = b""
    for tag, numbers in tags.items():
        data = struct.pack(f"{order}{len(numbers)}I", *numbers)
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers))
        entries += data if len(numbers) == 1 else struct.pack(f"{order}I", begin + len(after))
        after += data if len(numbers) > 1 else b""
    start = b"II*\0" if order == "<" else b"MM\0*"
    return start + struct.pack(f"{order}IH", 8, len(tags)) + entries + b"\0" * 4 + after
