"""Words of the command line as values, and what commands share of sampling's options."""

import pytest

from convflow.cli import options
from convflow.cli.main import Parser
from convflow.settings.read import unannotated
from convflow.settings.words import help_of
from convflow.types import InputError


def options_of(words):
    parser = Parser()
    options.add_sampling_options(parser)
    return options.sampling_options(parser.parse(words.split()))


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ([], None),
        (["--labels", "a,b"], ["a", "b"]),
        (["--labels", "a, b"], ["a", "b"]),
        (["--labels", "1,,2"], ["1", "", "2"]),
        (["--labels", ""], [""]),
        (["--labels", "salt, pepper"], ["salt, pepper"]),
        (["--labels", 'a,"b, or not",\u732b'], ["a", "b, or not", "\u732b"]),
        (["--label", "b, or not", "--label", "a"], ["b, or not", "a"]),
        (["--labels", "a", "--label", "b, or not"], ["a", "b, or not"]),
        (["--labels", "cafe\u0301, noir"], ["cafe\u0301, noir"]),
    ],
)
def test_names_with_commas_can_be_asked_for(words, labels):
    parser = Parser()
    options.add_sampling_options(parser)
    known = ("a", "b, or not", "salt, pepper", "caf\u00e9, noir", "\u732b")
    assert options.chosen_labels(parser.parse(words), known) == labels


def test_a_quote_that_does_not_close_is_refused():
    parser = Parser()
    options.add_sampling_options(parser)
    with pytest.raises(InputError, match=r'--labels: expected names .*"b, or not"'):
        options.chosen_labels(parser.parse(["--labels", 'a,"b']), ())


@pytest.mark.parametrize(("text", "size"), [("48x32", (48, 32)), ("64", (64, 64))])
def test_sizes(text, size):
    assert options.size(text) == size


def test_the_nearest_size():
    assert options.fit_sizes([(1, 1), (3, 5), (2, 6)], 4) == [(4, 4), (4, 8)]
    with pytest.raises(
        InputError, match="at least 1 pixel, got 8x0; the smallest that works is 4x4"
    ):
        options.fit_sizes([(8, 0)], 4)


def test_help_without_torch_says_what_the_settings_say():
    found, declared = options.usual_settings(), options.sampling_settings()[0]
    assert list(found) == list(declared)
    assert [help_of(hint) for hint in found.values()] == list(map(help_of, declared.values()))
    assert bool not in map(unannotated, declared.values())  # whose options take no value


def test_a_reach_is_a_number_two_or_a_schedule():
    from convflow.nn.reach import ReachSchedule

    assert options_of("--reach 4") == {"reach": 4.0}
    assert options_of("--reach 4,6.5") == {"reach": (4.0, 6.5)}
    assert options_of("--reach auto") == {"reach": ReachSchedule()}
    assert options_of("--reach none") == {"reach": "none"}
    words = "--reach-times 0.1,0.5 --reach-blocks 1,2 --reach-form constant --reach-peak 3"
    schedule = ReachSchedule(3.0, (0.1, 0.5), (1, 2), "constant")
    assert options_of(f"--reach auto {words}") == {"reach": schedule}
    for reach, got in (("", "none"), ("--reach 4", "4.0")):
        with pytest.raises(InputError, match=f"--reach-peak: expected --reach auto .*got {got};"):
            options_of(f"{reach} --reach-peak 3")


def test_a_shift_is_a_number_or_follows_the_size():
    assert options_of("--shift 3 --position-scaling ntk") == {
        "shift": 3.0,
        "position_scaling": "ntk",
    }
    assert options_of("--shift auto") == {"shift": "auto"}


def test_a_stored_setting_can_be_taken_back():
    from convflow.cli.main import Parser

    parser = Parser()
    options.add_sampling_options(parser)
    parser.add_argument("--size")
    parser.add_argument("--seed", type=int)
    given = "--last-step none --channels-guided all --no-clip".split()
    wanted = {"last_step": None, "channels_guided": "all", "clip": False}
    assert options.sampling_options(parser.parse(given)) == wanted
    given = "--last-step 0.04 --channels-guided 3 --clip".split()
    wanted = {"last_step": 0.04, "channels_guided": 3, "clip": True}
    assert options.sampling_options(parser.parse(given)) == wanted


def test_an_option_given_twice_counts_as_it_is_given_last():
    words = "--solver euler --solver=heun --steps 3 --steps 4 --solver ab2".split()
    assert options.word_after("--solver", words) == "ab2"
    assert options.word_after("--solver", [*words, "--solver=ab4"]) == "ab4"
    assert options.word_after("--init", words) is None
    assert options_of(" ".join(words)) == {"solver": "ab2", "steps": 4}
