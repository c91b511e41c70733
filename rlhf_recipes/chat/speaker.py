"""One model that answers: its template, its stop tokens, its answers piece by piece as transformers streams them."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jinja2 import TemplateError
from omegaconf import DictConfig
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from rlhf_recipes import models
from rlhf_recipes.chat.sampling import ALL, Sampling
from rlhf_recipes.data.chat_template import ChatTemplate, choose
from rlhf_recipes.engine.stops import stop_ids
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs import resolve
from rlhf_recipes.runs.resolve import Found

Turns = list[dict]  # {"role", "content"}, user and assistant in turn


@dataclass(frozen=True)
class Reply:
    """An answer. `finished`: by a stop token or string, not by the length limit; `stopped`: by Ctrl-C."""

    text: str
    tokens: int
    seconds: float
    finished: bool
    stopped: bool = False


class Speaker:
    """A model with its tokenizer and template.

    Args:
        name: what it is called on the screen.
        model: a causal language model, on any device. Its own generation_config gives the stop tokens and nothing else,
            so that no penalty hidden in it changes what the settings say.
        tokenizer: of that model.
        template: how a talk becomes its prompt.
        found: where it came from: the system prompt and stop strings it was trained with are read there.
    """

    def __init__(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        template: ChatTemplate,
        found: Found,
    ):
        self.name, self.model, self.tokenizer, self.template, self.found = name, model, tokenizer, template, found
        self.system = (found.config.get("data") or {}).get("system")
        self.stop_strings = found.stops.stop_strings
        self.stops = stop_ids(tokenizer, model, found.stops, serving=True)
        self.jinja = None if template.jinja is None else template.with_bos(tokenizer)
        self.context = getattr(model.config, "max_position_embeddings", None)
        model.eval()
        model.generation_config = GenerationConfig()

    def prompt_ids(self, turns: Turns, sampling: Sampling) -> list[int]:
        """Tokens of the talk up to the answer: the system prompt and as many exchanges as settings and context allow.

        Args:
            turns: the last one is the user's.

        Raises:
            UserError: not even the last turn fits, or the tokenizer's template refuses the talk.
        """
        history = (0 if self.template.single_turn else ALL) if sampling.history is None else sampling.history
        first = max(0, len(turns) - 1 - 2 * history)
        answer = sampling.max_new_tokens if self.context is None else min(sampling.max_new_tokens, self.context // 2)
        while True:
            ids = self._encode(turns[first:], sampling)
            if self.context is None or len(ids) + answer <= self.context or first == len(turns) - 1:
                break
            first += 2  # the oldest exchange goes
        if self.context is not None and len(ids) >= self.context:
            raise UserError(
                f"{self.name} reads {self.context} tokens at once and this turn alone has {len(ids)}: say it shorter"
            )
        return ids

    def _encode(self, turns: Turns, sampling: Sampling) -> list[int]:
        system = self.system if sampling.system is None else sampling.system
        told = [{"role": "system", "content": system}, *turns] if system else turns
        try:
            ids = self.tokenizer.apply_chat_template(
                told, chat_template=self.jinja, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except (TemplateError, ValueError) as error:
            raise UserError(f"the chat template of {self.name} refuses the talk: {error}; try system=none") from error
        return list(ids)

    def answer(self, turns: Turns, sampling: Sampling, emit: Callable[[str], None] = lambda text: None) -> Reply:
        """Answers the last turn.

        Args:
            turns: the talk so far, the user's turn last.
            emit: gets the answer piece by piece, whole words at a time.

        Returns:
            The reply; what was said until then where Ctrl-C stopped it.

        Raises:
            UserError: as prompt_ids.
        """
        ids = self.prompt_ids(turns, sampling)
        room = sampling.max_new_tokens if self.context is None else self.context - len(ids)
        streamer, began = _Pieces(self.tokenizer, emit), time.time()
        torch.manual_seed(sampling.seed + len(turns))  # the same talk is answered alike, another turn is not
        output = []
        try:
            prompt = torch.tensor([ids], device=self.model.device)
            output = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=self._generation(sampling, min(room, sampling.max_new_tokens)),
                streamer=streamer,
                **({"tokenizer": self.tokenizer} if self.stop_strings else {}),
            )[0, len(ids) :].tolist()
        except KeyboardInterrupt:
            streamer.end()
            said = "".join(streamer.pieces)
            return Reply(said, streamer.count, time.time() - began, finished=False, stopped=True)
        text = self.tokenizer.decode(output, skip_special_tokens=True)
        by_string = any(s in text for s in self.stop_strings or ())
        finished = bool(output) and (output[-1] in self.stops or by_string)
        return Reply(text, len(output), time.time() - began, finished)

    def _generation(self, sampling: Sampling, room: int) -> GenerationConfig:
        drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
        return GenerationConfig(
            max_new_tokens=room,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=self.stops or None,
            pad_token_id=self.tokenizer.pad_token_id,
            stop_strings=self.stop_strings,
            **(drawn | {"do_sample": True} if sampling.temperature > 0 else {"do_sample": False}),
        )


class _Pieces(TextStreamer):
    """Hands on what TextStreamer would print, and keeps it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, emit: Callable[[str], None]):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.emit, self.pieces, self.count = emit, [], -1  # the prompt is put first

    def put(self, value):
        self.count += 1
        super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False):
        if text:
            self.pieces.append(text)
            self.emit(text)


def load(cfg: DictConfig, found: Found, name: str) -> Speaker:
    """A model as a speaker: an adapter merged into its base, on the GPU where there is one.

    Raises:
        UserError: it cannot be loaded, or does not write but score.
    """
    node = resolve.model_node(cfg, found)
    tokenizer = models.load_tokenizer(node, found.path)
    template = choose(cfg.chat.template, found, bool(tokenizer.chat_template), cfg.data)
    model = models.load_policy(node, found.path, tokenizer, frozen=True)
    if any("SequenceClassification" in head for head in model.config.architectures or []):
        raise UserError(f"{found.name} is a reward model or classifier: it scores, it does not write")
    return Speaker(name, model, tokenizer, template, found)
