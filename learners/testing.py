"""Conformance suite of meta-learners, for the tests of methods. Raises AssertionError with the law that is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from episodes.adapters.pytorch import to_torch
from episodes.rng import stream_key
from episodes.sampling.uniform import UniformSampler
from episodes.spec import EpisodeSpec
from episodes.store.memory import MemoryStore
from episodes.stream.series import SampledEpisodes
from learners.origin import inputs_of
from learners.protocol import Inputs, adapted, task_of
from learners.report import evaluate


def separable_world(classes: int = 12, rows: int = 20, size: int = 16) -> MemoryStore:
    """Noisy copies of one random picture a class, uint8 [1, size, size]: easy to learn, impossible by chance."""
    bits = np.random.Generator(np.random.Philox(key=stream_key("separable world", classes, rows, size)))
    means = np.repeat(bits.integers(0, 2, (classes, 1, size // 4, size // 4)), 4, axis=2).repeat(4, axis=3) * 150
    noise = bits.integers(0, 105, (classes, rows, 1, size, size))
    images = (means[:, None] + noise).astype(np.uint8).reshape(classes * rows, 1, size, size)
    names = [f"class{c:02d}" for c in range(classes)]
    splits = {"world": {"train": names[: classes // 2], "test": names[classes // 2 :]}}
    return MemoryStore({"image": images}, dict.fromkeys(names, rows), splits=splits)


def check_learner(make: Callable[[Inputs], Any], *, steps: int = 40, equivariant: bool = True) -> None:
    """A method learns a separable world, is at chance when labels are shuffled, survives a state round trip, and predicts
    a query the same alone as with the others unless it is declared transductive.

    Args:
        make: inputs -> a fresh learner.
        steps: outer steps within which the separable world must be learned.
        equivariant: renaming the labels of the support renames the logits; False for methods with a fixed head.
    """
    torch.manual_seed(0)
    store, spec = separable_world(), EpisodeSpec(ways=3, shots=2, queries=4)
    train = SampledEpisodes(store=store, classes=store.split("train"), spec=spec, sampler=UniformSampler())
    test = SampledEpisodes(store=store, classes=store.split("test"), spec=spec, sampler=UniformSampler(), seed=1, length=40)
    ways = spec.ways.low
    learner = make(inputs_of(train))
    learner.train()
    optimizer = torch.optim.Adam(learner.parameters(), lr=1e-3)
    for i in range(steps):
        optimizer.zero_grad()
        learner.meta_loss(to_torch(train[i])).loss.backward()
        optimizer.step()
    report = evaluate(learner, test, method="checked")
    assert report.mean > 0.9, f"learns a separable world; accuracy is {report.mean:.2f}"
    assert report.audit.passed, f"predictions do not depend on other queries: {report.audit}"

    learner.eval()
    episode = to_torch(test[0])
    with torch.no_grad():
        logits = adapted(learner, episode)(episode.query.fields)
        assert logits.shape == (1, ways * spec.queries.low, ways), "logits are [B, n, W]"

        twin = make(inputs_of(train))
        twin.load_state_dict(learner.state_dict())
        twin.eval()
        assert torch.equal(adapted(twin, episode)(episode.query.fields), logits), "state round trip"

        if equivariant:
            renamed = replace(episode.support, labels=(episode.support.labels + 1) % ways)
            turned = learner.adapt(replace(task_of(episode), support=renamed))(episode.query.fields)
            assert torch.allclose(turned, logits.roll(1, dims=-1), atol=1e-4), "renaming labels permutes logits"

        hits = []
        for i in range(40):
            one = to_torch(test[i])
            # Each shot of a class gets another label: the support no longer says which class is which.
            shuffled = replace(one.support, labels=torch.arange(ways * spec.shots.low)[None] % ways)
            wrong = learner.adapt(replace(task_of(one), support=shuffled))(one.query.fields).argmax(-1)
            hits.append(float((wrong == one.query.labels).float().mean()))
    assert abs(float(np.mean(hits)) - 1 / ways) < 0.15, "shuffled labels score chance"
