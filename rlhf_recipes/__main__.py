"""`python -m rlhf_recipes stage=sft …`: from the shell to a composed config to its stage. No torch, no TRL here."""

import os
import re
import sys
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from rlhf_recipes import __version__, stages
from rlhf_recipes.config.paths import CONF, HOUSE, RECIPES, headline, options
from rlhf_recipes.config.stage import pipeline, prerequisites
from rlhf_recipes.errors import Stopped, UserError, one_line, suggest

FIRST_COMMANDS = """\
  rlhf-recipes stage=pretrain recipes=embedded/pretrain       the embedded model, from scratch
  rlhf-recipes stage=sft recipes=embedded/sft                 then sft, reward, ppo, evaluate alike
  rlhf-recipes stage=sft model=qwen0.5b data=hh_rlhf          a hub model on a hub dataset
  rlhf-recipes stage=sft data=local data.demos.path=my.jsonl  your own file
  rlhf-recipes stage=sft preview=true                         rows as the trainer will see them
  rlhf-recipes stage=ppo trainer.kl_coef=0.05                 any field of TRL's config class
  rlhf-recipes stage=ppo --cfg job                            the composed config, nothing run
  rlhf-recipes -m stage=ppo seed=0,1,2                        a sweep, one run directory a job"""


def main() -> None:
    """The console script. Exit codes: 0 done, 1 a failure inside a stage, 2 bad input, 128 + n signal n."""
    if any(a in ("--help", "-h") for a in sys.argv[1:]):
        print(help_text())
        return
    if "--stages" in sys.argv[1:]:
        print(stage_graph())
        return
    if "--version" in sys.argv[1:]:
        print(f"rlhf-recipes {__version__}")
        return
    if find_spec("hydra") is None:
        print(
            f"error: {sys.executable} has none of the packages this needs; enter their environment first: "
            "source .venv/bin/activate (make setup makes it)",
            file=sys.stderr,
        )
        sys.exit(2)
    full = os.environ.get("HYDRA_FULL_ERROR", "0") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing, and we print one line
    with _one_line_errors(full):
        _compose_and_run(full)


@contextmanager
def _one_line_errors(full: bool):
    """An error that the user can mend becomes one line and exit code 2; others keep their traceback and exit code 1."""
    try:
        yield
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(128 + stop.number)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if full or not _is_users(error):
            raise
        print(f"error: {_message(error)}", file=sys.stderr)
        sys.exit(2)


def _compose_and_run(full: bool) -> None:
    import hydra

    def job(cfg) -> object:
        sweep = import_module("rlhf_recipes.config.sweeps")
        with _one_line_errors(full or sweep.tolerant()):  # Hydra would announce the exception before it lets it through
            if not cfg.get("stage"):  # stagee=sft
                import_module("rlhf_recipes.config.settings").names(cfg)
            stages.run(cfg)
            return stages.objective(cfg)

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # TRL's warning that PPO lies among its experiments
    register_recipes()
    _check_words(sys.argv[1:])
    sys.argv[1:] = rewrite(sys.argv[1:])
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(job)()
    except BaseException:
        import_module("rlhf_recipes.config.sweeps").clear_up()
        raise


def register_recipes() -> None:
    """Make recipes/ a config group: a search-path plugin of our own, with no `hydra_plugins` namespace."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    class Recipes(SearchPathPlugin):
        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            search_path.append(provider="rlhf_recipes", path=f"file://{HOUSE}")

    Plugins.instance().register(Recipes)
    import_module("rlhf_recipes.config.adapters")  # registers what conf/ and recipes/ interpolate with


def groups(argv: list[str]) -> set[str]:
    """Names that choose a file (`model=tiny`) rather than set a value: folders of conf/ and of --config-dir."""
    folders = [CONF]
    for i, arg in enumerate(argv):
        if arg.startswith("--config-dir="):
            folders.append(Path(arg.partition("=")[2]))
        elif arg in ("--config-dir", "-cd") and i + 1 < len(argv):
            folders.append(Path(argv[i + 1]))
    return {"recipes"} | {d.name for f in folders if f.is_dir() for d in f.iterdir() if d.is_dir()}


def rewrite(argv: list[str]) -> list[str]:
    """`trainer.vf_coef=0.2` becomes `++trainer.vf_coef=0.2`: TRL's fields need not be listed in a YAML to be set.

    Hydra then no longer finds unknown keys; `settings.check` does, with did-you-mean.
    """
    if "-sc" in argv or "--shell-completion" in argv:
        return argv
    choices = groups(argv)

    def one(arg: str) -> str:
        if arg.startswith("="):
            raise UserError(f"{arg}: no key before the equals sign; expected key=value")
        match = re.match(r"([A-Za-z_][\w.]*)=", arg)
        if not match or match[1] in choices or match[1].startswith("hydra."):
            return arg
        if match[1] == "prompt" and not re.match("prompt=['\"]|prompt=null$", arg):
            return f"++prompt={_quoted(arg.removeprefix('prompt='))}"
        return "++" + arg

    return [one(a) for a in argv]


def _quoted(text: str) -> str:
    """Plain words quoted for Hydra's grammar, so that prompt="Hello, you?" needs no second pair of quotes.

    >>> print(_quoted("It's 5, or {6}"))
    'It\\'s 5, or {6}'
    """
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


def _is_users(error: BaseException) -> bool:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    return isinstance(error, UserError | HydraException | OmegaConfBaseException | YAMLError)


def _message(error: BaseException) -> str:
    from hydra.errors import MissingConfigException, OverrideParseException

    if isinstance(error, MissingConfigException) and error.missing_cfg_file and "/" in error.missing_cfg_file:
        group, _, choice = str(error.missing_cfg_file).partition("/")
        if group in ("model", "data", "reward") and re.match(
            r"[./~]|.*\.(jsonl?|csv|tsv|parquet|txt|gz|py)(:|$)", choice
        ):
            return f"{group}={choice}: a path; expected {_setting_of(group, choice)}"
        known = list(error.options or options(RECIPES if group == "recipes" else CONF / group))
        close = suggest(choice, known).partition("; known here")[0]
        return f"{group}={choice}: no such option{close or ';'} known: {', '.join(known)}"
    if isinstance(error, OverrideParseException):
        return f"{error.override.lstrip('+')}: not an override that Hydra can read; quote values, as in 'key=\"a b\"'"
    return one_line(error)


def _setting_of(group: str, path: str) -> str:
    """What to type instead of `model=./folder`, `data=my.json` or `reward=./mine.py`."""
    if group == "model":
        return f"model.path={path}"
    if group == "reward":
        return f"reward.functions.mine.path={path if ':' in path else f'{path}:<function>'}"
    stage = stages.catalogue().get(next((a[6:] for a in sys.argv if a.startswith("stage=")), ""))
    return f"data=local data.{stage.rows[0] if stage and stage.rows else 'demos'}.path={path}"


def _check_words(argv: list[str]) -> None:
    """A stage without `stage=`, and a recipe of another stage than the one that is named.

    Raises:
        UserError: names what is meant.
    """
    for before, word in zip(["", *argv], argv, strict=False):
        if re.fullmatch(r"[a-z]+", word) and not (before.startswith("-") and before not in ("-m", "--multirun")):
            known = stages.catalogue()
            meant = f"; did you mean stage={word}?" if word in known else suggest(word, known, "stage=")
            raise UserError(f"{word}: expected key=value{meant}")
    given = dict(word.split("=", 1) for word in argv if word.startswith(("stage=", "recipes=")))
    recipe, _, of = given.get("recipes", "").rpartition("/")
    if "," not in given.get("stage", ",") and of in stages.catalogue() and of != given["stage"]:
        raise UserError(
            f"recipes={recipe}/{of} is a recipe of stage={of}, and this is stage={given['stage']}; leave stage= out, "
            f"or give recipes=<recipe>/{given['stage']}"
        )


def help_text() -> str:
    """What `--help` prints: the commands people type first, then every stage, model, dataset and recipe."""
    parts = ["usage: rlhf-recipes stage=<stage> [model=… data=… peft=… recipes=<recipe>/<stage>] [key=value …]"]
    parts += ["", "first commands (python -m rlhf_recipes is the same program)", FIRST_COMMANDS]
    for group in ("stage", "model", "data", "reward", "kl", "peft", "logger"):
        parts += ["", f"{group}="]
        parts += [f"  {name:<18} {headline(CONF / group / (name + '.yaml'))}" for name in options(CONF / group)]
    parts += ["", "recipes="]
    parts += [f"  {name:<28} {headline(RECIPES / (name + '.yaml'))}" for name in options(RECIPES)]
    parts += ["", "--cfg job shows the composed config · -m sweeps · --config-dir DIR adds options · see README.md"]
    return "\n".join(parts)


def stage_graph() -> str:
    """What `--stages` prints for make: each stage of a pipeline, and `ppo<sft` where ppo comes after sft."""
    known = stages.catalogue()
    order = pipeline(known)
    return "\n".join([*order, *(f"{s}<{before}" for s in order for before in prerequisites(known[s], known))])


if __name__ == "__main__":
    main()
