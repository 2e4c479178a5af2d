"""What a cell's privacy statement takes for granted, in words."""

from __future__ import annotations

from fedprivacy.config.schema import (
    CellConfig,
    CentralGaussianConf,
    DpsgdConf,
    GaussianConf,
    LocalSourceConf,
    ReleaseGaussianConf,
    SvtFlare28Conf,
)
from fedprivacy.config.stack import algorithms_of
from fedprivacy.data.base import FederatedData
from fedprivacy.federation.site import weighs_by_size


def assumptions(config: CellConfig, data: FederatedData) -> tuple[str, ...]:
    """Everything that is declared public or lies outside the claim, one sentence each."""
    said = [
        *data.assumptions,
        "Held-out records and what is scored on them (per-record evidence, labels, scores) are "
        "published to the experimenter; the claim covers training records only.",
        "Which sites take part is public; all take part in every round.",
        "Hyperparameters were chosen without looking at these records; a search on them costs "
        "privacy that is not in this number.",
    ]
    said.append(_sizes(config))
    said.append(
        "A site that fails sends its error and traceback, which may depend on its records; that "
        "a site failed, and with what words, is outside the claim."
    )
    if (most := data.records_per_patient) > 1:
        said.append(
            f"No patient has more than {most} training records at a site, a number taken as public."
        )
    if config.federation.name == "central":
        said.append(
            "All sites' raw records are pooled at one trusted node; that transfer is outside the "
            "claim. The unit site means the whole pool, and no patient is at two sites."
        )
    if config.privacy.diagnostics and not publishes_final_model_alone(config):
        said.append(
            "Mean training losses and the expected norm of the noise are reported to the "
            "experimenter as diagnostics of this simulation, without noise and outside the claim; "
            "a deployment sets privacy.diagnostics=false."
        )
    if config.privacy.randomness == "seeded":
        said.append(
            "Noise and sampling are seeded so that the run can be repeated: whoever knows the "
            "seed can subtract the noise, so this certificate is a simulation."
        )
    for conf in algorithms_of(config.algorithm, config.dataset):
        if isinstance(conf, DpsgdConf):
            said += _of_dpsgd(conf)
        said += [words for kind, words in _OF_ALGORITHM.items() if type(conf) is kind]
    if config.privacy.diagnostics and isinstance(config.algorithm, GaussianConf):
        said.append("The what-if figure is computed from the raw updates' norms, without noise.")
    return tuple(said)


def publishes_final_model_alone(config: CellConfig) -> bool:
    """Whether nothing of a round may be told: the claim is about who sees the final model only."""
    parts = algorithms_of(config.algorithm, config.dataset)
    return any(isinstance(conf, ReleaseGaussianConf) for conf in parts)


def _of_dpsgd(conf: DpsgdConf) -> list[str]:
    said = [_SAMPLING[conf.sampling]]
    if conf.target_epsilon is not None:
        said.append(
            f"The noise multiplier {conf.noise_multiplier:g} was calibrated before training so "
            "that all protected rounds of the run together cost at most epsilon "
            f"{conf.target_epsilon:g}; rounds without protection are not in that figure, and with "
            "any of them the epsilon of the run is infinite."
        )
    return said


_OF_ALGORITHM: dict[type, str] = {
    SvtFlare28Conf: (
        "The number of local steps of each site is public: it scales the update that leaves."
    ),
    CentralGaussianConf: (
        "The server is trusted: it sees every raw update, clips, averages with equal weights and "
        "adds the noise. The number of sites is public. Nothing is proved against the server."
    ),
    LocalSourceConf: (
        "The range of the features is declared and public, the noise on a site's records is drawn "
        "once and kept for all rounds, and the number of records is public. Held-out records stay "
        "raw and are outside the claim."
    ),
    ReleaseGaussianConf: (
        "Only the final model is published, and its score on held-out records: no update, average, "
        "norm, score or loss of any round. The initial weights, around which it is clipped, are "
        "public."
    ),
}


_DECLARED = (
    "rate and divisor are declared constants, and the number of records of a site is public "
    "(zero_out)."
)
_SAMPLING = {
    "poisson": "Each record enters each step independently with the declared sampling rate "
    f"(Poisson sampling); {_DECLARED}",
    "shuffle": f"Batches are shuffled and billed without amplification; {_DECLARED}",
}


def _sizes(config: CellConfig) -> str:
    """What is known of how many records a site has."""
    public = "Each site's numbers of optimiser steps and of held-out records are public"
    if weighs_by_size(config):
        return f"{public}, and its number of training records: it weighs the average."
    return (
        f"{public}. Sites are weighed equally and do not send their number of training records, "
        "but where the steps follow from it, as in plain training, it is public too."
    )
