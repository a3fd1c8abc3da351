"""Looking inside a model that others use at the same time: each record is of its own pass, and nobody notices."""

from __future__ import annotations

import asyncio
import copy
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import swindow
from helpers import definition
from swindow import explain
from swindow.models import SwinTransformer
from swindow.models.recording import is_recording

FIELDS = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 5, "patch_size": 2, "window_size": 4}
THREADS, ROUNDS = 8, 40


def model_of(**fields):
    return definition.randomise(swindow.create("swin_nano", **{**FIELDS, **fields}).eval())


def snapshot(model):
    """Everything about a model that somebody who looks inside could leave changed."""
    hooks = [name for name in vars(torch.nn.Module()) if name.endswith("_hooks")]
    state = {}
    for name, module in model.named_modules():
        flags = (module.training, tuple(sorted(vars(module))), type(module).__call__, type(module).forward)
        state[name] = (*flags, *(dict(vars(module)[kind]) for kind in hooks))
    state["gradients"] = [(p.requires_grad, p.grad) for p in model.parameters()]
    return state


def recorded(seen):
    """All that a capture holds, as tensors that can be compared."""
    blocks = {f"{b.name} tokens": b.tokens for b in seen.blocks}
    attention = {f"{b.name} attention": b.attention() for b in seen.blocks}
    return {"image": seen.image, **{name: seen[name] for name in seen.names}, **blocks, **attention}


def same(ours, theirs):
    assert list(ours) == list(theirs)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@torch.no_grad()
def look(model, x):
    with explain.capture(model) as seen:
        model(x)
    return recorded(seen)


@torch.no_grad()
def predict(model, x):
    return {"logits": model(x)}


@torch.no_grad()
def deploy(model, x):
    twin = model.deploy()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.modules())
    return {"logits": twin(x)}


def explained(model, x):
    heat = {"grad_cam": explain.grad_cam(model, x[0], target=1), **explain.receptive_field(model, x[0], (3, 4))}
    return {name: torch.from_numpy(values) for name, values in heat.items()}


@pytest.mark.slow
def test_eight_threads_that_load_predict_deploy_and_look_equal_one(tmp_path):
    model = model_of(drop_path_rate=0.5, drop_rate=0.5)
    path = tmp_path / "model.safetensors"
    swindow.save(model, path)
    images = [torch.randn(1, 3, 8 + 4 * i, 12) for i in range(THREADS)]

    def load(_, x):
        return look(swindow.load(path), x)

    works = [look, predict, deploy, load, explained]
    expected = [[work(model, x) for work in works] for x in images]
    before = snapshot(model)
    start = threading.Barrier(THREADS)

    def one(i):
        start.wait(timeout=60)
        for turn in range(ROUNDS):
            which = (turn + i) % len(works)
            same(works[which](model, images[i]), expected[i][which])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(one, range(THREADS)))
    assert snapshot(model) == before
    same(look(model, images[0]), expected[0][0])


def test_a_record_is_of_its_own_thread():
    """Step by step: another thread's pass, before and after one's own, changes nothing."""
    model, x, other = model_of(), torch.randn(1, 3, 16, 16), torch.randn(1, 3, 12, 20)

    def elsewhere(work):
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(work, model, other).result()

    expected, beside = look(model, x), look(model, other)
    with torch.no_grad(), explain.capture(model) as seen:
        elsewhere(predict)
        assert seen.names == []
        model(x)
        same(elsewhere(look), beside)
        elsewhere(deploy)
    same(recorded(seen), expected)


@pytest.mark.parametrize("first", [0, 1])
def test_records_that_overlap_may_end_in_either_order(first):
    model, x, other = model_of(), torch.randn(1, 3, 16, 16), torch.randn(1, 3, 12, 20)
    before = snapshot(model)
    both = [explain.capture(model), explain.capture(model)]
    with torch.no_grad():
        seen = [both[0].__enter__()]
        model(x)
        seen.append(both[1].__enter__())
        assert seen[1].names == []
        model(x)
        both[first].__exit__(None, None, None)
        model(other)
        both[1 - first].__exit__(None, None, None)
        model(torch.randn(1, 3, 8, 8))
    same(recorded(seen[first]), look(model, x))
    same(recorded(seen[1 - first]), look(model, other))
    assert snapshot(model) == before


def test_a_record_ends_also_where_its_block_is_left_in_another_thread():
    model, x = model_of(), torch.randn(1, 3, 16, 16)
    block = explain.capture(model)
    with torch.no_grad():
        seen = block.__enter__()
        model(x)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(block.__exit__, None, None, None).result()
        model(torch.randn(1, 3, 12, 20))
    assert seen.pixels == (16, 16)
    assert not is_recording()  # which would compute dropped branches of stochastic depth


def test_a_task_that_goes_on_after_the_block_is_not_recorded():
    model, x = model_of(), torch.randn(1, 3, 16, 16)

    async def later():
        await asyncio.sleep(0)
        predict(model, torch.randn(1, 3, 12, 20))
        return is_recording()

    async def main():
        with explain.capture(model) as seen:
            task = asyncio.create_task(later())
            predict(model, x)
        return seen, await task

    seen, recording = asyncio.run(main())
    assert seen.pixels == (16, 16)
    assert not recording


def test_tasks_of_one_thread_do_not_see_each_other():
    model, images = model_of(), [torch.randn(1, 3, 8 + 4 * i, 12) for i in range(4)]
    expected = [look(model, x) for x in images]

    async def one(x):
        with explain.capture(model) as seen:
            await asyncio.sleep(0)
            predict(model, x)  # whether gradients are on is a thread's, not a task's
            await asyncio.sleep(0)
        return recorded(seen)

    async def every():
        return await asyncio.gather(*map(one, images))

    for found, wanted in zip(asyncio.run(every()), expected, strict=True):
        same(found, wanted)


def test_copies_are_not_looked_at():
    """Also those made inside the block: deployed, copied, or a predictor's."""
    model, x, other = model_of(), torch.randn(1, 3, 16, 16), torch.randn(1, 3, 12, 20)
    expected = look(model, x)
    with torch.no_grad(), explain.capture(model) as seen:
        model(x)
        copies = [model.deploy(), copy.deepcopy(model)]
        for twin in copies:
            twin(other)
        explain.grad_cam(model, other[0], target=1)
    same(recorded(seen), expected)
    for twin in copies:
        twin(other)
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.modules())
    same(recorded(seen), expected)


def test_what_is_recorded_is_freed_with_the_record():
    model = model_of()
    with torch.no_grad(), explain.capture(model) as seen:
        model(torch.randn(1, 3, 16, 16))
    block = weakref.ref(seen["stages.0.blocks.0"])
    del seen
    gc.collect()
    assert block() is None


def test_a_failed_pass_leaves_nothing_behind():
    model, x = model_of(), torch.randn(1, 3, 16, 16)
    before = snapshot(model)
    with pytest.raises(swindow.SwindowError), explain.capture(model):
        model(x[:, :2])
    assert snapshot(model) == before
    model(x)


@pytest.mark.parametrize("fields", [{}, {"frozen_stages": 1}])
def test_explaining_switches_no_flag_of_the_model(fields):
    """Other threads train or use it meanwhile, so its flags are not touched even for a moment."""
    model, x = SwinTransformer(model_of(drop_path_rate=0.9, **fields).config).train(), torch.randn(3, 16, 16)
    model.load_state_dict(definition.randomise(model_of(**fields)).state_dict())
    model.requires_grad_(True)  # what frozen_stages has frozen, too
    before, stop, flags = snapshot(model), threading.Event(), set()

    def watch():
        while not stop.is_set():
            flags.add(tuple(m.training for m in model.modules()))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        for _ in range(5):
            reached = explain.receptive_field(model, x, (3, 4))["patch_embed"]
            heat = explain.grad_cam(model, x, target=1)
            explain.record(model, x)
    finally:
        stop.set()
        watching.join()
    assert flags == {tuple(m.training for m in model.modules())}
    assert snapshot(model) == before
    model.eval()
    np.testing.assert_array_equal(heat, explain.grad_cam(model, x, target=1))
    np.testing.assert_array_equal(reached, explain.receptive_field(model, x, (3, 4))["patch_embed"])
