"""Models without numbers, counted; and settings that make a run smaller."""

import copy
from types import SimpleNamespace

import torch
from omegaconf import OmegaConf
from torch import nn
from transformers import AutoModel, LlamaConfig

from rlhf_recipes.preflight import rehearsal, remedies
from rlhf_recipes.preflight.ghosts import Ledger, haunted


def test_weights_gradients_and_what_backward_needs_are_counted():
    ledger = Ledger("cuda")  # no allocator's habits, and what is made on a CPU does not count
    with haunted(ledger):
        nn.Linear(64, 64)
    assert ledger.peak == 0
    ledger = Ledger("cpu")
    ledger.cut_up = 0.0
    with haunted(ledger) as ghosts:
        with ghosts.fake:
            model = nn.Sequential(nn.Linear(512, 512, bias=False), nn.Tanh())
        assert sum(ledger.live.values()) == 4 * 512 * 512
        x = torch.zeros(1024, 512)  # 2 MiB: a ghost
        y = model(x)
        assert sum(ledger.live.values()) == 4 * (512 * 512 + 3 * 1024 * 512 - 1024 * 512)  # x, tanh; not its input
        y.sum().backward()
        del y
        assert sum(ledger.live.values()) == 4 * (2 * 512 * 512 + 1024 * 512)


def test_a_ghost_answers_plainly_and_leaves_real_tensors_as_they_are():
    with haunted(Ledger("cpu")):
        ghost = torch.empty(4, 10)
        assert ghost.sum().item() == 0.0 and bool(ghost.isfinite().all()) and ghost.numpy().shape == (4, 10)
        assert ghost.argmax(-1).tolist() == [5] * 4  # a token in the middle of the vocabulary
        real, mask = torch.zeros(4), torch.tensor([True, False, True, True])
        real[mask] = ghost[mask].sum(1)
        assert real.tolist() == [0.0] * 4 and ghost[mask].shape == (3, 10)
        model = nn.Linear(3, 3)
        assert copy.deepcopy(model).weight is not model.weight
        assert model.to(torch.bfloat16).weight.dtype == torch.bfloat16


def test_small_blocks_stay_with_the_process_and_large_ones_do_not():
    ledger = Ledger("cpu")
    ledger.cut_up = 0.5
    with haunted(ledger):
        small = torch.empty(2**20)
        del small
        large = torch.empty(2**24)
    assert ledger.parts["kept by malloc"] == 1.5 * 2**22 and ledger.peak == 2**26 + 1.5 * 2**22
    assert large.nbytes == 2**26


def test_a_packed_layer_holds_bytes_and_a_matrix_only_while_it_multiplies():
    ledger = Ledger("cpu")
    ledger.cut_up = 0.0
    config = LlamaConfig(vocab_size=8, hidden_size=512, intermediate_size=2048, num_hidden_layers=1, head_dim=64)
    with haunted(ledger) as ghosts:
        with ghosts.fake:
            model = AutoModel.from_config(config)
        rehearsal.pack(model, SimpleNamespace(load_in_4bit=True), ghosts)
        gate = model.layers[0].mlp.gate_proj  # 512 x 2048 numbers: 4 MiB in float32
        assert gate.weight.nbytes == 512 * 2048 * 9 // 16
        x = torch.zeros(1024, 512).requires_grad_()
        before = sum(ledger.live.values())
        y = gate(x)
        assert sum(ledger.live.values()) - before == y.nbytes
        y.sum().backward()
        assert x.grad.shape == x.shape and gate.weight.grad is None


def test_ways_that_fit_come_in_their_order_and_else_those_that_help_most():
    sizes = {"a=1": 60.0, "b=2": 95.0, "c=3": 40.0, "d=4": None, "e=5": 50.0, "f=6": 10.0, "g=7": 101.0}
    assert remedies.ways(list(sizes), sizes.get, 100.0, 70.0) == [("a=1", 60.0), ("c=3", 40.0), ("e=5", 50.0)]
    assert remedies.ways(list(sizes), sizes.get, 100.0, 1.0) == [("f=6", 10.0), ("c=3", 40.0), ("e=5", 50.0)]
    assert remedies.ways(["b=2", "d=4", "g=7"], sizes.get, 90.0, 1.0) == []


def test_a_smaller_batch_keeps_what_an_optimizer_step_sees():
    trainer = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "max_length": 64}
    cfg = OmegaConf.create({"stage": "sft", "trainer": trainer, "inputs": {}, "peft": None, "model": {}})
    half = "trainer.per_device_train_batch_size=4 trainer.gradient_accumulation_steps=4"
    found = remedies.candidates(cfg, "cpu")
    assert half in found and "peft=lora" in found and "trainer.max_length=16" in found
    assert remedies.changed(cfg, half).trainer == trainer | {
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 4,
    }
    assert "load_in_4bit" in remedies.changed(cfg, "peft=qlora").model.quantization and not cfg.peft
