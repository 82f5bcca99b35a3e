"""The inputs of every request, by the encoder that is set or, of the two, by the one that is worth its price."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from training.config import Params
from training.dataset.encoders import EncoderFiles
from training.dataset.inputs import Inputs, Progress, encode_with, silent
from training.dataset.kinds import Kinds, find_kinds
from training.engine.engine import Engine
from training.engine.local import HERE
from training.learn.estimators.linear import LowRankResidual
from training.learn.heads.chosen import Choices
from training.learn.heads.out_of_fold import out_of_fold
from training.learn.heads.select import out_of_fold_aiq
from training.learn.prepare import Prepared
from training.learn.training_data import propensities, training_data


def encode(
    prepared: Prepared,
    params: Params,
    cache: Path,
    progress: Progress = silent,
    choices: Choices | None = None,
    engine: Engine = HERE,
) -> tuple[Inputs, EncoderFiles]:
    """The head's inputs for every request, and the encoder that made them.

    For "auto" both encoders are tried: the transformer is used only if it earns its price out of fold. With `choices` of an
    earlier run it is the one of these.
    """
    log = prepared.matrix, prepared.workflows, params.embed, cache, progress, engine
    kind = params.embed.encoder if choices is None else choices.encoder
    if kind != "auto":
        return encode_with(kind, *log)
    static, transformer = encode_with("static", *log), encode_with("transformer", *log)
    progress("compare encoders", None, None)
    lead = encoder_lead(prepared, static[0], transformer[0], params)
    return transformer if lead is not None and lead[0] > lead[1] else static


def with_kinds(
    prepared: Prepared, inputs: Inputs, params: Params, choices: Choices | None = None
) -> tuple[Prepared, Inputs]:
    """The log with kinds of work, found on its training part, for workflows; as it is where it names any, or is too small.

    With `choices` of an earlier run, its kinds."""
    if prepared.workflows:
        return prepared, inputs
    kinds = _found(prepared, inputs, params) if choices is None else choices.kinds
    if kinds is None:
        return prepared, inputs
    names = np.array(kinds.names, dtype=object)[kinds.of(inputs.embedding)]
    features = np.hstack([inputs.features, kinds.one_hot(inputs.embedding)])
    named = replace(prepared, matrix=replace(prepared.matrix, workflow=names), kinds=kinds)
    return named, replace(inputs, features=features, derived=True)


def _found(prepared: Prepared, inputs: Inputs, params: Params) -> Kinds | None:
    train = prepared.split.train
    texts = prepared.matrix.texts[train].tolist()
    return find_kinds(
        inputs.embedding[train],
        texts,
        prepared.groups[train],
        params.fit.most_kinds,
        params.fit.seed,
        named=params.fit.name_kinds,
    )


def encoder_lead(prepared: Prepared, static: Inputs, transformer: Inputs, params: Params) -> tuple[float, float] | None:
    """The transformer's out-of-fold AIQ minus the static encoder's, and its standard error; None if not measurable.

    Both are scored with the low-rank residual, which is quick and uses the embedding alone beside the table; the rule is
    that of `select.select`: the simpler one unless it falls behind by more than one standard error.
    """
    propensity, _ = propensities(prepared, static, params)
    found = []
    for inputs in (static, transformer):
        data = training_data(prepared, inputs, propensity, params)
        predictions = out_of_fold(lambda: LowRankResidual(params.fit.low_rank_penalty[0], params.fit.low_rank[0]), data)
        found.append(out_of_fold_aiq(predictions, data, params.policy.knob_steps, params.fit.seed))
    (simple, simple_resampled), (dear, dear_resampled) = found
    if np.isnan(simple) or np.isnan(dear):
        return None
    return dear - simple, float(np.std(dear_resampled - simple_resampled))
