"""The benchmark of stores makes one and reads it."""

from benchmarks.data import latents


def test_a_store_is_made_and_read(tmp_path):
    latents.make(tmp_path / "store", 300)
    row = latents.read(tmp_path / "store", 0.01)
    assert row["records"] == 300
    assert float(row["records_per_cpu_s"]) > 0
