"""The settings of a talk: from the config and from `/set`, with the same limits."""

import pytest

from rlhf_recipes.chat.sampling import NUMBERS, Sampling, changed, of_config
from rlhf_recipes.errors import UserError

BAD = {
    "temperature": ["-0.1", "hot", "nan", "inf"],
    "top_p": ["0", "1.5"],
    "top_k": ["-1", "2.5"],
    "repetition_penalty": ["0"],
    "max_new_tokens": ["0", "many"],
    "seed": ["-1"],
    "history": ["-1", "some"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_a_value_out_of_range_is_refused_with_what_is_expected(name, text):
    with pytest.raises(UserError, match=f"{name}={text}: expected"):
        changed(Sampling(), name, text)


def test_every_number_has_a_bad_value_here():
    assert set(BAD) == set(NUMBERS)


def test_a_misspelt_setting_is_told():
    with pytest.raises(UserError, match="no setting temprature; did you mean temperature"):
        changed(Sampling(), "temprature", "1")


def test_words_for_the_system_prompt_and_how_to_leave_it_out():
    own = Sampling()
    assert own.system is None
    assert changed(own, "system", "Be brief, please.").system == "Be brief, please."
    assert changed(own, "system", "none").system == ""
    assert changed(Sampling(system="x"), "system", "own").system is None
    assert changed(own, "history", "all").history > 10_000


def test_the_config_gives_every_setting(composed):
    values = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "repetition_penalty": 1.2, "max_new_tokens": 9}
    cfg = composed(*(f"chat.{k}={v}" for k, v in values.items()), "chat.history=3", "seed=5", "chat.system=Hi")
    assert of_config(cfg) == Sampling(**values, history=3, seed=5, system="Hi")
    with pytest.raises(UserError, match=r"chat\.top_p=2.0: expected"):
        of_config(composed("chat.top_p=2"))


def test_the_config_takes_the_words_that_set_takes(composed):
    assert of_config(composed()).system is None
    assert of_config(composed("chat.system=none")).system == ""
    assert of_config(composed("chat.history=all")).history == changed(Sampling(), "history", "all").history
    assert of_config(composed("chat.history=own", "chat.system=own")) == of_config(composed())
    with pytest.raises(UserError, match=r"chat\.history=some: expected a whole number, 0 or more, all or own"):
        of_config(composed("chat.history=some"))
