import math

import pytest
import scipy.fft
import torch

from convflow.processes.decomposition import DECOMPOSITIONS, Decomposition, pack, unpack
from convflow.types import InputError

FACTORS = [(2,), (4,), (3,), (2, 2), (2, 3), (2, 2, 2)]


def random_images(*leading, height=96, width=192):
    return torch.randn(*leading, height, width, dtype=torch.float64)


@pytest.mark.parametrize("name", DECOMPOSITIONS)
@pytest.mark.parametrize("factors", FACTORS)
def test_the_scales_sum_up_to_the_picture(name, factors):
    decomposition = Decomposition(name, factors)
    for leading in ((2, 3), (0, 3), ()) + ((2, 3, 5),) * (factors == (2, 3)):
        x = random_images(*leading)
        parts = decomposition.split(x)
        assert [part.shape[-2:] for part in parts] == [*decomposition.sizes((96, 192))]
        assert all(part.shape[:-2] == leading for part in parts)
        torch.testing.assert_close(decomposition.join(parts), x, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", DECOMPOSITIONS)
@pytest.mark.parametrize("factor", [2, 3, 4, 8])
def test_going_up_and_down_again_keeps_what_both_hold(name, factor):
    down, up, _ = DECOMPOSITIONS[name]
    flat = torch.full((1, 4, 8), 0.7, dtype=torch.float64)
    torch.testing.assert_close(up(flat, factor), flat.new_full((1, 4 * factor, 8 * factor), 0.7))
    torch.testing.assert_close(down(up(flat, factor), factor), flat)
    if name != "laplacian":
        x = random_images(1, height=4, width=8)
        torch.testing.assert_close(down(up(x, factor), factor), x)


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_the_first_scales_are_the_picture_at_their_resolution(name):
    decomposition = Decomposition(name, (2, 3))
    x = random_images(2)
    parts = decomposition.split(x)
    down = decomposition.resampling.down
    torch.testing.assert_close(decomposition.join(parts[:2]), down(x, 3))
    torch.testing.assert_close(decomposition.join(parts[:1]), down(down(x, 3), 2))


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_growing_a_coarse_picture_adds_nothing_to_it(name):
    decomposition = Decomposition(name, (2, 3))
    parts = decomposition.split(random_images(2))
    alone = decomposition.join([parts[0], *(torch.zeros_like(part) for part in parts[1:])])
    torch.testing.assert_close(decomposition.grow(parts[0], 0), alone)
    assert decomposition.grow(parts[2], 2) is parts[2]
    alone = decomposition.join([parts[0], torch.zeros_like(parts[1])])
    torch.testing.assert_close(decomposition.grow(parts[0], 0, 1), alone)


def test_means_and_interpolation_are_those_of_torch():
    x = torch.randn(2, 3, 8, 12, dtype=torch.float64)
    down, up, _ = DECOMPOSITIONS["laplacian"]
    torch.testing.assert_close(down(x, 2), torch.nn.functional.avg_pool2d(x, 2))
    for factor in (2, 4):
        half = torch.nn.functional.interpolate(
            x, scale_factor=1 / factor, mode="bilinear", antialias=False
        )
        if factor == 2:  # only there does bilinear downsampling average all cells
            torch.testing.assert_close(down(x, factor), half)
        grown = torch.nn.functional.interpolate(x, scale_factor=factor, mode="bilinear")
        torch.testing.assert_close(up(x, factor), grown)


def test_haar_details_have_no_mean_and_are_orthogonal_to_the_coarse_scale():
    x = random_images(2)
    coarse, fine = Decomposition("haar", (2,)).split(x)
    blocks = torch.nn.functional.avg_pool2d(fine, 2)
    torch.testing.assert_close(blocks, torch.zeros_like(blocks))
    energy = 4 * coarse.square().sum() + fine.square().sum()
    torch.testing.assert_close(energy, x.square().sum())


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_cosine_parts_are_those_of_scipy(factor):
    x = torch.randn(8, 8, dtype=torch.float64)
    low = scipy.fft.dctn(x.numpy(), norm="ortho")
    keep = 8 // factor
    small = scipy.fft.idctn(low[:keep, :keep] / factor, norm="ortho")
    down, up, _ = DECOMPOSITIONS["dct"]
    torch.testing.assert_close(down(x, factor), torch.from_numpy(small))
    low[keep:], low[:, keep:] = 0, 0
    whole = scipy.fft.idctn(low, norm="ortho")
    torch.testing.assert_close(up(down(x, factor), factor), torch.from_numpy(whole))


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_parts_keep_the_dtype_and_pass_gradients(name):
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    parts = Decomposition(name, (2,)).split(x)
    assert {part.dtype for part in parts} == {torch.float32}
    parts[1].sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", DECOMPOSITIONS)
def test_parts_are_as_exact_beside_a_network_in_half_precision(name):
    decomposition, x = Decomposition(name, (2,)), torch.randn(2, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        parts = decomposition.split(x)
        again = decomposition.join(parts)
    for part, expected in zip(parts, decomposition.split(x), strict=True):
        assert part.equal(expected)
    torch.testing.assert_close(again, x)


def test_half_pictures_are_multiplied_by_cosines_that_are_not_rounded():
    x = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    for resample in (DECOMPOSITIONS["dct"].down, DECOMPOSITIONS["dct"].up):
        assert resample(x, 2).equal(resample(x.double(), 2).bfloat16())


@pytest.mark.parametrize("leading", [(), (2,)])
@pytest.mark.parametrize("held", [1, 2, 3])
def test_packing_is_undone_for_any_number_of_first_scales(leading, held):
    sizes = Decomposition(factors=(2, 3)).sizes((12, 18))
    parts = [torch.randn(*leading, 3, *size) for size in sizes[:held]]
    x = pack(parts)
    assert x.shape == (*leading, 3, 1, sum(height * width for height, width in sizes[:held]))
    again = unpack(x, sizes)
    assert len(again) == held
    assert all(a.equal(b) for a, b in zip(again, parts, strict=True))
    assert x[..., 0, :6].equal(parts[0].flatten(-2))


def test_what_was_not_packed_is_refused():
    with pytest.raises(InputError, match=r"expected 6 or 30 numbers per channel.*got 24"):
        unpack(torch.zeros(2, 3, 1, 24), [(2, 3), (4, 6)])


def test_shrinkage_multiplies_the_factors_from_the_fine_end():
    assert Decomposition(factors=(2, 3)).downsampling == (6, 3, 1)
    assert Decomposition(factors=(4,)).num_scales == 2
    assert math.prod(Decomposition(factors=(2, 2)).sizes((32, 64))[0]) == 8 * 16


@pytest.mark.parametrize(
    ("name", "factors", "message"),
    [
        ("laplace", (2,), "did you mean 'laplacian'"),
        ("haar", (), "one or more factors of at least 2"),
        ("haar", (2, 1), "factors: expected a whole number of at least 2, got '2,1'"),
        ("haar", (2.5,), r"factors: expected a whole number, got '2\.5'"),
        ("haar", ("2",), "factors: expected a whole number, got '2'"),
        ("haar", "22", "factors: expected several numbers such as 2,2, got '22'"),
        ("haar", 2, "factors: expected several numbers such as 2,2, got '2'"),
    ],
)
def test_settings_that_cannot_be_are_refused(name, factors, message, unchecked):
    with pytest.raises(InputError, match=message):
        Decomposition(name, factors)


@pytest.mark.parametrize("size", [(9, 8), (8, 6), (0, 4)])
def test_sizes_that_do_not_divide_are_refused(size):
    with pytest.raises(InputError, match="that 4 divides"):
        Decomposition(factors=(2, 2)).split(torch.zeros(1, 1, *size))


@pytest.mark.parametrize(
    ("factors", "multiple"),
    [((2,), 8), ((3,), 6), ((4,), 8), ((8,), 8), ((10,), 10), ((2, 2), 16), ((3, 2), 24)],
)
def test_cosine_blocks_do_not_depend_on_the_size(factors, multiple):
    """A part of an image along whole blocks has the parts of the whole one there."""
    decomposition = Decomposition("dct", factors)
    assert decomposition.multiple == multiple
    assert Decomposition("haar", factors).multiple == math.prod(factors)
    if min(factors) < 8:  # blocks of one cell below are means
        haar = Decomposition("haar", factors).split(x := random_images(1, height=48, width=48))
        assert (haar[0] - decomposition.split(x)[0]).abs().max() > 0.01
    x = random_images(1, height=multiple, width=3 * multiple)
    whole, one = decomposition.split(x), decomposition.split(x[..., :multiple])
    for part, piece in zip(whole, one, strict=True):
        torch.testing.assert_close(part[..., : piece.shape[-1]], piece)


def test_a_size_without_whole_blocks_is_refused_with_the_nearest():
    message = r"that 8 divides, for scales of dct with the factors \[2\], got 34x45; .* is 32x48,"
    with pytest.raises(InputError, match=message):
        Decomposition("dct").sizes((34, 45))
    assert Decomposition("dct").sizes((64, 128), cell=8) == ((4, 8), (8, 16))
    with pytest.raises(InputError, match=r"that 64 divides, .* got 96x128; .* is 128x128"):
        Decomposition("dct").sizes((96, 128), cell=8)


def test_frames_of_a_cell_are_counted_as_autoencoders_join_them():
    scales = Decomposition(axes=("both",))
    assert scales.sizes((13, 64, 32), 8, 4) == ((2, 4, 2), (4, 8, 4))
    message = r"and 4 \(2 k - 1\) \+ 1 frames, .* got 17x64x32; the nearest that works is 13x64x32"
    with pytest.raises(InputError, match=message):
        scales.sizes((17, 64, 32), 8, 4)
