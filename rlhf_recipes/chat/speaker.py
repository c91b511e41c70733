"""One model in a talk: its template, its stop tokens, and its answers as transformers streams them."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from transformers import GenerationConfig, TextStreamer

from rlhf_recipes import models
from rlhf_recipes.data.chat_template import choose
from rlhf_recipes.engine.prompts import prompt_ids
from rlhf_recipes.engine.stops import stop_ids
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs import resolve


@dataclass(frozen=True)
class Reply:
    """An answer. `finished`: by a stop token or string, not by the length limit; `stopped`: by Ctrl-C."""

    text: str
    tokens: int
    seconds: float
    finished: bool
    stopped: bool


class Speaker:
    """A causal language model and its talk: an adapter merged into its base, on the GPU where there is one.

    Args:
        source: where the model lies; its stage's config names the template, system prompt and stops of its training.
        name: what the screen calls it.

    Raises:
        UserError: the model cannot be loaded, or it is a classifier.
    """

    def __init__(self, cfg: DictConfig, source: resolve.ModelSource, name: str):
        node = resolve.model_node(cfg, source)
        self.name, self.source = name, source
        self.tokenizer = models.load_tokenizer(node, source.path)
        self.template = choose(cfg.chat.template, source, bool(self.tokenizer.chat_template), cfg.data)
        self.jinja = None if self.template.jinja is None else self.template.with_bos(self.tokenizer)
        self.model = models.load_policy(node, source.path, self.tokenizer, frozen=True).eval()
        if any("SequenceClassification" in head for head in self.model.config.architectures or []):
            raise UserError(f"{source.name} is a reward model or classifier: it scores, it does not write")
        self.stop_ids = stop_ids(self.tokenizer, self.model, source.stops, serving=True)
        self.stop_strings = list(source.stops.stop_strings or [])
        self.model.generation_config = GenerationConfig()  # no penalty hidden in it changes what the settings say
        self.system = (source.config.get("data") or {}).get("system")
        self.context = getattr(self.model.config, "max_position_embeddings", None) or 10**9
        self.turns: list[dict] = []  # {"role", "content"}, user and assistant in turn
        self.prompt: list[int] = []  # token ids of the last one

    def prompt_ids(self, turns: list[dict], chat: DictConfig) -> list[int]:
        """Tokens of the talk up to the answer: the system prompt and as many exchanges as settings and context allow.

        Raises UserError where the last turn alone does not fit, or the chat template refuses the talk.
        """
        system = self.system if chat.system is None else chat.system
        before = [{"role": "system", "content": system}] if system not in (None, "", "none") else []
        history = chat.history if chat.history is not None else 0 if self.template.single_turn else "all"
        kept = turns if history == "all" else turns[-1 - 2 * int(history) :]
        while True:
            [ids] = prompt_ids([before + kept], self.tokenizer, chat_template=self.jinja)
            if len(kept) == 1 or len(ids) + min(chat.max_new_tokens, self.context // 2) <= self.context:
                break
            kept = kept[2:]  # the oldest exchange is left out
        if len(ids) >= self.context:
            raise UserError(
                f"{self.name} reads {self.context} tokens at once and this turn alone has {len(ids)}: say it shorter"
            )
        return ids

    def answer(self, text: str, cfg: DictConfig, emit: Callable[[str], None] = lambda text: None) -> Reply:
        """Answers a line, handing the answer to `emit` word by word. Both join the talk, even if Ctrl-C cuts it short.

        The talk stays as it was where prompt_ids raises its UserError.
        """
        chat, turns = cfg.chat, [*self.turns, {"role": "user", "content": text}]
        self.prompt = self.prompt_ids(turns, chat)
        prompt = torch.tensor([self.prompt], device=self.model.device)  # (1, P)
        drawn = {"do_sample": True, "temperature": chat.temperature, "top_p": chat.top_p, "top_k": chat.top_k}
        pieces, output, stopped, began = [], [], False, time.time()

        def hand_on(piece: str, stream_end: bool = False) -> None:
            pieces.append(piece)
            if piece:
                emit(piece)

        streamer = TextStreamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True)
        streamer.on_finalized_text = hand_on
        torch.manual_seed(cfg.seed + len(turns))  # the same talk gets the same answer, another turn another one
        try:
            output = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=min(chat.max_new_tokens, self.context - len(self.prompt)),
                repetition_penalty=chat.repetition_penalty,
                eos_token_id=self.stop_ids or None,
                pad_token_id=self.tokenizer.pad_token_id,
                stop_strings=self.stop_strings or None,
                tokenizer=self.tokenizer,
                streamer=streamer,
                **(drawn if chat.temperature > 0 else {"do_sample": False}),
            )[0, len(self.prompt) :].tolist()
        except KeyboardInterrupt:
            streamer.end()
            stopped, output = True, self.tokenizer("".join(pieces), add_special_tokens=False)["input_ids"]
        answer = "".join(pieces)
        self.turns = [*turns, {"role": "assistant", "content": answer}]
        finished = not stopped and (output[-1] in self.stop_ids or any(s in answer for s in self.stop_strings))
        return Reply(answer, len(output), time.time() - began, finished, stopped)
