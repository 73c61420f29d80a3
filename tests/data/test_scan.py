"""What was seen of each image, remembered: read back as it was, or thrown away."""

import json
import zipfile

import numpy as np
import pytest

from convflow.data.scan import Scan, Seen


def marks(*numbers):
    return np.array(numbers or range(5), np.uint64)


def scan_of():
    scan = Scan(marks())
    for index in range(4):
        scan.note(index, Seen("LI"[index % 2], (index + 1, 7), 3 * index, index == 2, index > 2))
    return scan


def same(one, other):
    arrays = ("sides", "modes", "bits", "transparent", "decoded")
    return one.names == other.names and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays
    )


def test_it_comes_back(tmp_path):
    scan, path = scan_of(), tmp_path / "deep/x.npz"
    scan.write(path)
    assert same(Scan.read(path, marks()), scan)


def test_what_is_known_is_found_by_its_mark(tmp_path):
    scan_of().write(path := tmp_path / "x.npz")
    other = Scan.read(path, marks(9, 3, 1))
    assert other.modes.tolist() == [-1, 1, 1]
    assert other.sides.tolist() == [[0, 0], [4, 7], [2, 7]]
    other.note(0, Seen("RGB", (5, 5)))
    other.write(path)
    whole = Scan.read(path, marks(9, *range(5)))  # what was not asked for is there still
    assert [whole.names[mode] for mode in whole.modes[:5]] == ["RGB", "L", "I", "L", "I"]
    assert whole.decoded.tolist() == [False, False, False, False, True, False]


def npy(shape, data=b"", descr="<i8"):
    """An array as numpy writes it, whatever its header promises."""
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def rewrite(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path) as archive:
        old = {entry: archive.read(entry) for entry in archive.namelist()}
    new = old | {f"{name}.npy": data for name, data in members.items()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in new.items():
            archive.writestr(name, data)


def text(value):
    value = np.array(value)
    return npy((), value.tobytes(), value.dtype.str)


SPOILT = {
    "negative": {"sides": npy((-5, 2), bytes(80))},
    "huge": {"sides": npy((10**13, 2), bytes(80))},
    "more than there is": {"sides": npy((5, 2), bytes(9))},
    "long": {"modes": npy((5,), bytes(2**22))},
    "another type": {"modes": npy((5,), bytes(40))},
    "no side": {"sides": npy((5, 2), bytes(80))},
    "no such mode": {"names": text(json.dumps(["L"]))},
    "no names": {"names": text(json.dumps({"L": 1}))},
    "brackets": {"names": text("[" * 100_000)},
    "no array": {"bits": b"text"},
    "a pickle": {"bits": npy((5,), b"cos\nsystem\n", "|O")},
}


@pytest.mark.parametrize("members", SPOILT.values(), ids=SPOILT)
def test_what_is_of_no_use_is_thrown_away(tmp_path, members):
    path = tmp_path / "x.npz"
    scan_of().write(path)
    rewrite(path)
    assert same(Scan.read(path, marks()), scan_of())
    rewrite(path, **members)
    assert same(Scan.read(path, marks()), Scan(marks()))


def test_any_damaged_byte_is_no_error(tmp_path):
    path = tmp_path / "x.npz"
    scan_of().write(path)
    whole = path.read_bytes()
    for at in range(0, len(whole), 9):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        path.write_bytes(damaged)
        Scan.read(path, marks())
        path.write_bytes(whole[:at])
        assert same(Scan.read(path, marks()), Scan(marks()))
