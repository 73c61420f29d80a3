"""One's own pictures: a plan, a run of it, the same run again, and more minutes."""

import json
import shlex

import pytest

from benchmarks.reliability import kills
from convflow.cli.main import main
from convflow.plans import pictures
from convflow.plans.pictures import PLAN_FILE, begin
from convflow.training import checkpoint, launch
from convflow.types import InputError

TINY = shlex.split(
    "--model.width 16 --model.depth 1 --model.num-groups 2 --data.size 8x8 --device cpu "
    "--monitor.num-samples 2 --sampling.steps 1 --monitor.tensorboard false --precision float32"
)
RATE = 5.0
MINUTES = 2.0


@pytest.fixture
def words(tmp_path):
    return ["--data", str(kills.make_pictures(tmp_path / "data")), *TINY]


@pytest.fixture
def known_speed(monkeypatch):
    asked = []
    monkeypatch.setattr(pictures, "measure_rate", lambda *given: asked.append(given) or RATE)
    return asked


@pytest.fixture
def run(tmp_path, words, known_speed):
    """A finished run of a plan, that was not kept to its time."""
    run = tmp_path / "run"
    config, minutes, pace = begin(words, run, MINUTES)
    assert not run.exists()
    assert 0 < minutes <= MINUTES
    pace.most = 0  # the tiny network is faster than it says
    assert launch.train(config, run, pace=pace)
    return run


def test_the_plan_fits_images_and_time(run):
    config = launch.read_run_config(run)
    assert config.data.channels == 1  # the images are grey
    assert config.data.size == (8, 8)
    assert config.model["width"] == 16
    assert 0.3 * RATE * 60 * MINUTES < config.images < RATE * 60 * MINUTES
    assert config.batch_size <= 22
    assert config.optim.decay_images == config.images // 2
    record = json.loads((run / PLAN_FILE).read_text())
    assert record["minutes"] == MINUTES
    assert {"data.size", "model.width"} <= set(record["given"])


@pytest.mark.slow
def test_the_same_command_finds_the_run_done_and_more_minutes_go_on(run, words):
    before = launch.read_run_config(run)
    config, _, pace = begin(words, run, MINUTES)
    assert config == before
    assert launch.train(config, run, pace=pace)
    again, minutes, pace = begin(words, run, None)
    assert (again, minutes < 0.1) == (before, True)

    config, minutes, pace = begin(words, run, 3 * MINUTES)
    assert config.images == 3 * before.images
    assert config.optim.decay_images == config.images // 2
    assert config.ema.decay > before.ema.decay
    assert minutes == pytest.approx(2 * MINUTES + pictures.START_SECONDS / 60, rel=0.02)
    pace.most = 0
    assert launch.train(config, run, pace=pace)
    newest = checkpoint.folder_of(run, checkpoint.list_steps(run)[-1])
    seen = checkpoint.read_state(newest)["images_seen"]
    assert config.images <= seen < config.images + config.batch_size
    assert json.loads((run / PLAN_FILE).read_text())["minutes"] == 3 * MINUTES


def test_a_run_that_ends_before_its_first_step_goes_on(words, tmp_path, known_speed):
    run = tmp_path / "run"
    config, _, pace = begin(words, run, MINUTES)
    assert launch.train(config, run, minutes=1e-9, pace=pace)
    assert checkpoint.list_steps(run) == [0]
    again, minutes, _ = begin(words, run, MINUTES)
    assert again.images == config.images
    assert minutes == pytest.approx(MINUTES + pictures.START_SECONDS / 60, rel=0.02)


def test_images_may_be_given_in_place_of_minutes(run, words, tmp_path):
    config, minutes, pace = begin([*words, "--images", "1000"], tmp_path / "other", None)
    assert (config.images, minutes, pace.most) == (1000, None, 0)
    config, minutes, pace = begin([*words, "--images", "2000"], run, None)
    assert (config.images, minutes, pace.most) == (2000, None, 0)


def test_another_schedule_may_be_given(words, tmp_path, known_speed):
    config, _, pace = begin([*words, "--optim.schedule", "constant"], tmp_path / "new", MINUTES)
    assert (config.optim.schedule, config.optim.decay_images) == ("constant", 0)
    assert pace.most > 0


def test_a_length_that_was_given_goes_on_for_a_time_at_the_measured_speed(
    words, tmp_path, known_speed
):
    run = tmp_path / "run"
    config, _, pace = begin([*words, "--images", "64"], run, None)
    assert launch.train(config, run, pace=pace)
    same, minutes, pace = begin(words, run, None)
    assert (same.images, minutes, pace.most) == (64, None, 0)
    longer, minutes, pace = begin(words, run, 20)  # of which 64 images took a few seconds
    assert longer.images == pytest.approx(RATE * 60 * 20, rel=0.1)
    assert minutes == pytest.approx(20 - 64 / RATE / 60, rel=0.02)
    assert pace.most > 0
    assert "images" not in json.loads(pace.files[PLAN_FILE])["given"]
    _, minutes, pace = begin([*words, "--images", "640"], run, 20)
    assert minutes == pytest.approx(20 - 64 / RATE / 60, rel=0.02)
    assert pace.most == 0
    with pytest.raises(InputError, match=r"more than the 0\.2\d* minutes"):
        begin(words, run, 0.1)


def test_more_minutes_do_not_show_images_too_often(words, tmp_path, monkeypatch):
    speed = 5000.0
    monkeypatch.setattr(pictures, "measure_rate", lambda *given: speed)
    run = tmp_path / "run"
    config, _, pace = begin(words, run, 20)
    assert launch.train(config, run, minutes=1e-9, pace=pace)
    most = json.loads((run / PLAN_FILE).read_text())["most_images"]
    assert 0 <= most - config.images < config.batch_size
    assert most < 0.1 * speed * 60 * 20
    longer, minutes, pace = begin(words, run, 60)
    assert (longer.images, pace.most) == (config.images, most)
    assert minutes == pytest.approx(60, rel=0.01)
    shorter, _, _ = begin(words, run, 0.1)
    assert shorter.images == pytest.approx(speed * 6, rel=0.1)


def test_a_length_between_two_batches_is_found_done(run, words):
    longer, _, pace = begin(words, run, 1.37 * MINUTES)
    pace.most = 0
    assert launch.train(longer, run, pace=pace)
    assert begin(words, run, 1.37 * MINUTES)[0] == longer


@pytest.mark.parametrize(
    ("more", "fixed"),
    [
        ([], False),
        (["--optim.decay-images", "300"], True),
        (["--optim.schedule", "cosine"], True),
        (["--optim.schedule", "constant"], False),
    ],
    ids=str,
)
def test_the_length_stays_where_the_fall_was_given(more, fixed, words, tmp_path, known_speed):
    run = tmp_path / "run"
    config, _, pace = begin([*words, *more], run, MINUTES)
    assert (pace.most == 0) == fixed
    assert launch.train(config, run, minutes=1e-9, pace=pace)
    again, _, pace = begin(words, run, MINUTES)  # it is known from the first command
    assert again.optim == config.optim
    assert (pace.most == 0) == fixed


def test_the_speed_is_measured_with_what_was_given(words, tmp_path, known_speed):
    begin([*words, "--batch-size", "1000"], tmp_path / "new", MINUTES)
    configs = [given[0] for given in known_speed]
    assert {config.model["width"] for config in configs} == {16}
    assert {config.data.size for config in configs} == {(8, 8)}
    assert {config.batch_size for config in configs} == {pictures.CPU_BATCH}


def test_fewer_minutes_than_it_took_are_refused(run, words):
    with pytest.raises(InputError, match=r"--minutes: expected more than the 2[.\d]* minutes"):
        begin(words, run, MINUTES / 4)


@pytest.mark.parametrize(
    "change",
    [lambda p: p.unlink(), lambda p: p.write_text("{}"),
     lambda p: p.write_text('{"minutes": 0}'),
     lambda p: p.write_text(p.read_text().replace("images_per_second", "speed"))],
)  # fmt: skip
def test_a_run_without_a_plan_is_refused(run, words, change):
    change(run / PLAN_FILE)
    with pytest.raises(InputError, match=r"plan\.json.*--resume"):
        begin(words, run, None)


def test_several_processes_are_refused(words, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="expected one process for the recipe pictures"):
        begin(words, tmp_path / "run", None)


def test_the_command_trains_and_ends_in_time(words, tmp_path, caplog):
    caplog.set_level("INFO", "convflow")
    run = tmp_path / "run"
    assert main(["train", "pictures", *words, "--minutes", "0.1", "--run", str(run)]) == 0
    assert checkpoint.list_steps(run)
    said = "\n".join(caplog.messages)
    assert "22 grey images of" in said
    assert "6.0 s of time" in said
    assert "images/s here" in said


def test_help_shows_the_settings_and_says_that_a_plan_chooses(capsys):
    assert main(["train", "pictures", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--optim.decay-images" in out
    assert out.rstrip().endswith("a plan chooses those that are not given")
