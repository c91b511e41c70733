"""`preview=true`: rows as the trainer will see them: what is trained, what is masked, where EOS stands."""

from itertools import groupby

from rlhf_recipes.engine.prompts import prompt_ids

TRAINED, MASKED, END = "bold green", "dim", "bold white on red"


def show(rows: list[dict], tokenizer, n: int, console=None) -> None:
    """Print n rows of `rows_of`, trained tokens in one colour and masked ones in another (in ⟦ ⟧ without colours)."""
    from rich.console import Console
    from rich.rule import Rule
    from rich.text import Text

    console = console or Console()
    marks = console.no_color or not console.is_terminal
    legend = Text.assemble(
        ("trained", TRAINED), " · ", ("masked", MASKED), " · ", (str(tokenizer.eos_token), END), " EOS"
    )
    console.print(legend.append(" · ↵ a line break" + (" · ⟦ trained ⟧" if marks else "")))
    for row in rows[:n]:
        ids, trained = row["input_ids"], row["trained"]
        ends = sum(token == tokenizer.eos_token_id for token in ids)
        figures = f"{len(ids)} tokens, {sum(trained)} trained, {ends} EOS"
        console.print(Rule(f"{row['title']} · {figures}", align="left"))
        console.print(coloured(ids, trained, tokenizer, marks), soft_wrap=True)
    console.print(Rule())


def coloured(ids: list[int], trained: list[bool], tokenizer, marks: bool = False):
    """The tokens (T,) as rich.text.Text. Neighbours of one colour are decoded together: a letter may be several tokens.

    Args:
        marks: put ⟦ ⟧ around what is trained.
    """
    from rich.text import Text

    text, place, before, inside = Text(), 0, "", False
    looks = zip(trained, (token == tokenizer.eos_token_id for token in ids), strict=True)
    for (is_trained, is_end), run in groupby(looks):
        place += len(list(run))
        so_far = tokenizer.decode(ids[:place], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        words, before = so_far[len(before) :], so_far  # a run decoded alone would lose SentencePiece's leading space
        if marks and is_trained != inside:
            text.append("⟦" if is_trained else "⟧")
            inside = is_trained
        text.append(words.replace("\n", "↵\n"), END if is_end else TRAINED if is_trained else MASKED)
    return text.append("⟧") if inside else text


def rows_of(trainer, kind: str, n: int) -> list[dict]:
    """The first rows of a trainer's own dataset, through its own collator, without padding.

    Args:
        trainer: one of TRL's, or PPOTrainer.
        kind: corpus, demos, preferences, unpaired or prompts.
        n: rows of the dataset; a preference gives two, its chosen and its rejected answer.

    Returns:
        {"title", "input_ids" (T,), "trained" (T,)}. Of a reward model's row the last token is marked, where the score
        is read; of a prompt none, since the model answers it.
    """
    dataset, tokenizer = trainer.train_dataset, trainer.processing_class
    if kind == "prompts":
        return prompt_rows(dataset, tokenizer, n)
    result = []
    for number in range(min(n, len(dataset))):
        row = {name: value for name, value in dataset[number].items() if name in _READ}
        batch = {name: value.tolist() for name, value in trainer.data_collator([row]).items()}
        titles = ["chosen", "rejected"] if kind == "preferences" else [kind]
        if kind == "unpaired":
            titles = ["desirable" if row["label"] else "undesirable"]
        for i, title in enumerate(titles):
            ids = batch["input_ids"][i]
            real = batch["attention_mask"][i] if "attention_mask" in batch else [1] * len(ids)
            if "labels" in batch:
                trained = [label != -100 for label in batch["labels"][i]]
            elif "completion_mask" in batch:
                trained = [bool(mask) for mask in batch["completion_mask"][i]]
            else:
                last = max(position for position, is_real in enumerate(real) if is_real)
                trained = [position == last for position in range(len(ids))]
                title += " (the score is read at the marked token)"
            kept = [(token, mark) for token, mark, is_real in zip(ids, trained, real, strict=True) if is_real]
            result.append(_row(number, title, *map(list, zip(*kept, strict=True))))
    return result


def prompt_rows(dataset, tokenizer, n: int) -> list[dict]:
    """The first prompts as they are sampled from: turns with the generation prompt at their end."""
    ids = prompt_ids([dataset[number]["prompt"] for number in range(min(n, len(dataset)))], tokenizer)
    return [_row(number, "prompt", row, [False] * len(row)) for number, row in enumerate(ids)]


def _row(number: int, title: str, ids: list[int], trained: list[bool]) -> dict:
    return {"title": f"{number + 1} {title}", "input_ids": ids, "trained": trained}


def show_prompts(dataset, tokenizer, n: int) -> dict:
    """`preview=true` of a stage that has no trainer. Returns no metrics."""
    show(prompt_rows(dataset, tokenizer, n), tokenizer, n)
    return {}


# Columns that TRL 1.12's collators read: of language, of preference pairs, of unpaired preferences.
_READ = ("input_ids", "labels", "seq_lengths", "prompt_ids", "chosen_ids", "rejected_ids", "margin")
_READ += ("completion_ids", "label")
