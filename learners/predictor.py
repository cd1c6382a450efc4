"""ImagePredictor: a learner adapted to pictures of one's own, which tells the classes of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from episodes.adapters._torch_transform import normalise
from episodes.episode import Part
from episodes.errors import ConfigError, SpecError
from episodes.spec import EpisodeSpec
from learners.pictures import Picture, PictureForm
from learners.protocol import Predictor, Task
from learners.run import Trained, open_run

NONE: Final = "(none of them)"
_TOGETHER: Final = 256  # pictures of a pass


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePredictor:
    """See the module's docstring. Made by `adapt_images`, or by `learners.predictor_files.open_predictor`.

    Raises:
        SpecError: one class only; a class without pictures; a method that cannot adapt to such a task.
        ConfigError: the run is none of pictures.
    """

    trained: Trained
    names: tuple[str, ...]
    counts: tuple[int, ...]
    """Pictures of each class."""
    support: NDArray[np.uint8]
    """[sum of counts, channels, height, width], class by class."""
    unlabeled: NDArray[np.uint8]
    """[n, channels, height, width], n may be 0."""
    device: torch.device

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise SpecError(f"a predictor tells classes apart and needs 2 or more, got {', '.join(self.names) or 'none'}")
        for name, count in zip(self.names, self.counts, strict=True):
            if not count:
                raise SpecError(f"class '{name}' has no pictures; give it one or more")
        ways, each = len(self.names), -(-len(self.unlabeled) // len(self.names))
        try:
            self.trained.learner.require(EpisodeSpec(ways=ways, shots=_shots(self.counts), queries=1, unlabeled=each))
        except SpecError as error:
            raise SpecError(f"the run cannot learn these {ways} classes: {error}; options are those of `train`") from error

    @torch.no_grad()
    def predict(self, pictures: Sequence[Picture]) -> tuple[list[str], NDArray[np.float64]]:
        """The most probable class of each picture, and the probabilities of all, [n, classes] in order of `names`.

        Of a method with a cluster for what is of no class they have one column more, and such a picture's name is `NONE`.
        They do not depend on which other pictures are asked for, unless the method is transductive. Probabilities are the
        softmax of the method's logits: comparable within a picture; how well they are calibrated is the method's affair.

        Raises:
            ReaderError: a picture cannot be read; it is named.
        """
        trained, form = self.trained, picture_form(self.trained)
        parts = [np.empty((0, len(self.names)))]
        size = max(1, len(pictures)) if trained.learner.transductive else _TOGETHER
        for start in range(0, len(pictures), size):
            rows = form.rows(pictures[start : start + size])
            logits = self._adapted({trained.image: self._delivered(rows)})[0]
            parts.append(logits.double().softmax(-1).cpu().numpy())
        probabilities = np.concatenate(parts[1:] or parts)
        return [(*self.names, NONE)[k] for k in probabilities.argmax(-1)], probabilities

    @cached_property
    @torch.no_grad()
    def _adapted(self) -> Predictor:
        """The learner, adapted to the pictures as a task, B = 1."""
        labels = torch.arange(len(self.names)).repeat_interleave(torch.tensor(self.counts))[None].to(self.device)
        fields = {self.trained.image: self._delivered(self.support)}
        unlabeled = {self.trained.image: self._delivered(self.unlabeled)} if len(self.unlabeled) else None
        rows = torch.arange(len(self.support), device=self.device)[None]
        support = Part(fields=fields, labels=labels, rows=rows)
        return self.trained.learner.adapt(Task(support=support, ways=len(self.names), unlabeled=unlabeled))

    def _delivered(self, rows: NDArray[np.uint8]) -> Tensor:
        """Rows as the learner was trained to get them, [1, n, ...]."""
        images, how = torch.from_numpy(rows).to(self.device), self.trained.delivery
        if how is not None:
            images = normalise(images if how.layout == "chw" else images.permute(0, 2, 3, 1), how)
        return images[None]


def adapt_images(
    run: Trained | Path | str,
    classes: Mapping[str, Sequence[Picture]],
    unlabeled: Sequence[Picture] = (),
    *,
    device: torch.device | str = "cpu",
) -> ImagePredictor:
    """A predictor for classes of one's own.

    Args:
        run: a run directory, or what `learners.run.open_run` made of it.
        classes: name -> pictures, one or more.
        unlabeled: pictures of these classes, or of none, for the methods that learn from such.
        device: where it predicts.

    Raises:
        ConfigError: no run, or none of pictures.
        ReaderError: a picture cannot be read; it is named.
        SpecError: one class only; a class without pictures; a method that cannot adapt to such a task.
    """
    trained = run if isinstance(run, Trained) else open_run(Path(run))
    form = picture_form(trained)
    trained.module.to(device)
    names = tuple(sorted(classes))
    return ImagePredictor(
        trained=trained,
        names=names,
        counts=tuple(len(classes[name]) for name in names),
        support=form.rows([picture for name in names for picture in classes[name]]),
        unlabeled=form.rows(unlabeled),
        device=torch.device(device),
    )


def picture_form(trained: Trained) -> PictureForm:
    """The form of its pictures.

    Raises:
        ConfigError: it was trained on something else.
    """
    if trained.form is None:
        seen = ", ".join(f"'{name}' ({spec.dtype} {spec.shape})" for name, spec in trained.inputs.fields.items())
        raise ConfigError(
            f"image: {trained.method} was trained on {seen}, which holds no pictures; adapt a run that was trained on "
            "images of 1 or 3 channels"
        )
    return trained.form


def _shots(counts: Sequence[int]) -> int | list[int]:
    """One number for all classes, or that of each."""
    return counts[0] if len(set(counts)) == 1 else list(counts)
