"""Members of a tar file: the ustar header of POSIX.1-1988 with fixed times and owners, so that the same content is the same
bytes. Written and read here; any tar program reads them, too.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from episodes.errors import ShardCorrupt, StoreError

BLOCK: Final = 512
END: Final = bytes(2 * BLOCK)
_NAME, _LARGEST = 100, 8**11 - 1  # bytes of a name; of a member


def padding(size: int) -> bytes:
    """What fills a member of `size` bytes up to a whole block."""
    return bytes(-size % BLOCK)


def header(name: str, size: int) -> bytes:
    """The block before a member of `size` bytes.

    Raises:
        StoreError: a name longer than 100 bytes, or more than 8 GiB.
    """
    encoded = name.encode()
    if len(encoded) > _NAME or size > _LARGEST:
        raise StoreError(f"member '{name}' of {size} bytes does not fit in a tar file (100 bytes of name, 8 GiB)")
    digits = b"%011o" % size
    checksum = _SUM + sum(encoded) + sum(digits)  # of all bytes of the block, the checksum's own counted as spaces
    return b"".join((encoded.ljust(_NAME, b"\0"), _OWNER, digits, _TIME, b"%06o\0 " % checksum, _REST))


_OWNER: Final = b"0000644\0" + b"0000000\0" * 2
_TIME: Final = b"\0" + b"%011o\0" % 0
_REST: Final = (b"0" + bytes(100) + b"ustar\x0000").ljust(BLOCK - 156, b"\0")
_SUM: Final = sum(_OWNER + _TIME + b" " * 8 + _REST)


class Member(NamedTuple):
    """A member of a tar file: its name, and where its bytes are."""

    name: str
    start: int
    size: int

    @property
    def end(self) -> int:
        """Where the next header is."""
        return self.start + self.size + -self.size % BLOCK


def read_header(data: memoryview | bytes, at: int, where: str) -> Member | None:
    """The member whose header is at byte `at`; None at the end of the archive.

    Raises:
        ShardCorrupt: no header is there; `where` names the file.
    """
    block = bytes(data[at : at + BLOCK])
    if len(block) < BLOCK:
        raise ShardCorrupt(f"{where} ends at byte {len(data)}, within a header")
    if not any(block):
        return None
    try:
        size, checksum = int(block[124:136].rstrip(b"\0 ") or b"0", 8), int(block[148:156].rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        size, checksum = 0, -1
    if checksum != sum(block[:148]) + 8 * 32 + sum(block[156:]):
        raise ShardCorrupt(f"{where} has no header of a tar member at byte {at}")
    return Member(block[:_NAME].rstrip(b"\0").decode(errors="replace"), at + BLOCK, size)
