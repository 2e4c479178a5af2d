"""The typed schema of a cell's configuration: frozen values, registered with Hydra by ``store``.

Types are checked by OmegaConf while composing; ranges and cross-field rules by
``fedprivacy.config.validation.validate``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

# --------------------------------------------------------------------------- algorithm


@dataclass(frozen=True)
class AlgorithmConf:
    """Where and how DP acts. ``name`` selects the mechanism."""

    name: str = MISSING


@dataclass(frozen=True)
class NoneConf(AlgorithmConf):
    """No protection: the twin that prices are measured against."""

    name: str = "none"


@dataclass(frozen=True)
class DpsgdConf(AlgorithmConf):
    """DP-SGD at each site (Abadi et al. 2016).

    Attributes:
        noise_multiplier: sigma / C of each step; null: what target_epsilon asks for, or the
            dataset's default where there is no target.
        target_epsilon: the noise is calibrated so that all protected rounds together cost at most
            this; exclusive with a noise_multiplier.
        max_grad_norm: clip norm C of one record's gradient.
        sampling: poisson, or shuffle: batches without amplification by sampling.
        sampling_rate: probability q with which each record enters a step; a declared public
            constant, never computed from the number of records.
        divisor: declared public constant L by which the noisy sum of clipped gradients is
            divided; null means sampling_rate * dataset.declared_records.
        clipping: flat; normalized (the update is divided by C); automatic (AUTO-S: C is not used);
            per_layer (C / sqrt(layers) each); adaptive (C follows a quantile of the norms).
        clip_quantile: adaptive only: share of gradients that the clip norm should not cut.
        clip_rate: adaptive only: step of the logarithm of the clip norm.
        count_noise: adaptive only: noise of the count of uncut gradients; null: max(L / 20, 1.5
            noise multipliers).
        ema: decay of the average of the weights over a round's steps; 0 takes the last weights.
        augmentations: views of a record whose gradients are averaged before clipping; 1: none.
        jitter: of views of table rows: standard deviation of Gaussian noise on scaled features.
        shift: of views of images and volumes: largest move along each axis, in pixels.
        grad_engine: how per-sample gradients are computed.
        physical_batch: records that are in memory at a time; null: what suits the engine.
    """

    name: str = "dpsgd"
    noise_multiplier: float | None = 1.0
    target_epsilon: float | None = None
    max_grad_norm: float = 1.0
    sampling: str = "poisson"
    sampling_rate: float = 0.1
    divisor: float | None = None
    clipping: str = "flat"
    clip_quantile: float = 0.5
    clip_rate: float = 0.2
    count_noise: float | None = None
    ema: float = 0.0
    augmentations: int = 1
    jitter: float = 0.05
    shift: int = 2
    grad_engine: str = "auto"
    physical_batch: int | None = None


@dataclass(frozen=True)
class SvtConf(AlgorithmConf):
    """Sparse-vector update filter with the semantics of NVIDIA FLARE <= 2.7."""

    name: str = "svt"
    fraction: float = 0.1
    epsilon: float = 0.1
    noise_var: float = 0.1
    gamma: float = 1e-5
    tau: float = 1e-6
    replace: bool = True


@dataclass(frozen=True)
class SvtFlare28Conf(SvtConf):
    """Sparse-vector update filter with the semantics of NVIDIA FLARE >= 2.8.

    Attributes:
        epsilon: pure epsilon of the selection alone.
        epsilon_threshold: what of it the threshold gets; null: the split of Lyu, Su & Li 2017.
        epsilon_release: pure epsilon of all released values; null: noise_var for each of them.
    """

    name: str = "svt_flare28"
    epsilon_threshold: float | None = None
    epsilon_release: float | None = None


@dataclass(frozen=True)
class SvtExactConf(AlgorithmConf):
    """Sparse-vector update filter with a proved price: that of gaussian_clipped at the same noise.

    Attributes:
        fraction: share of the coordinates that is uploaded.
        clip: norm C of the uploaded values; L2 with noise=gaussian, L1 with noise=laplace.
        gamma: magnitudes are cut here when coordinates are chosen; over the whole round.
        noise_multiplier: z: choosing and releasing together are 2/z-GDP (gaussian) or cost pure
            epsilon 2/z (laplace).
        target_epsilon: z is calibrated so that all protected rounds together cost at most this;
            gaussian only.
        selection_share: share of the budget that goes into choosing; 0 draws them uniformly.
        noise: gaussian or laplace.
    """

    name: str = "svt_exact"
    fraction: float = 0.1
    clip: float = 1.0
    gamma: float = 0.05
    noise_multiplier: float = 1.0
    target_epsilon: float | None = None
    selection_share: float = 0.5
    noise: str = "gaussian"


@dataclass(frozen=True)
class GaussianConf(AlgorithmConf):
    """Gaussian update filter scaled to a percentile of the update (NVIDIA FLARE research)."""

    name: str = "gaussian"
    sigma0: float = 0.1
    percentile: float = 95.0


@dataclass(frozen=True)
class GaussianClippedConf(AlgorithmConf):
    """Update clipped to a public norm, with noise in proportion to it.

    Attributes:
        clip: C, norm of the update over the whole round; L2 (gaussian) or L1 (laplace).
        noise_multiplier: z: standard deviation (gaussian) or scale (laplace) of the noise over C.
        target_epsilon: z is calibrated so that all protected rounds together cost at most this.
        noise: gaussian (2/z-GDP a round) or laplace (pure epsilon 2/z a round).
        clipping: fixed, or adaptive: the server moves C towards a quantile of the update norms, by
            noisy indicators that the sites send along.
        clip_quantile: adaptive only: share of the updates that C should not cut.
        clip_rate: adaptive only: step of the logarithm of C in one round.
        indicator_noise: adaptive only: standard deviation of the noise of one indicator; null: 1.5
            noise multipliers.
    """

    name: str = "gaussian_clipped"
    clip: float = 1.0
    noise_multiplier: float = 1.0
    target_epsilon: float | None = None
    noise: str = "gaussian"
    clipping: str = "fixed"
    clip_quantile: float = 0.5
    clip_rate: float = 0.2
    indicator_noise: float | None = None


@dataclass(frozen=True)
class PercentileConf(AlgorithmConf):
    """Sparsified and clipped update without noise, as NVIDIA FLARE's percentile filter."""

    name: str = "percentile"
    percentile: float = 10.0
    gamma: float = 0.01


@dataclass(frozen=True)
class CentralGaussianConf(AlgorithmConf):
    """DP-FedAvg at a trusted server: clipped updates, equal weights, noise on the average.

    Attributes:
        clip: C, L2 norm that each site's update is clipped to; where it starts, if adaptive.
        noise_multiplier: z: standard deviation of the noise on the sum of the updates over C.
        n_sites: declared public number of sites; null: those of the federation, which are public.
        clipping: fixed or adaptive (C follows a quantile of the update norms).
        clip_quantile: adaptive only: share of the updates that C should not cut.
        clip_rate: adaptive only: step of the logarithm of C in one round.
        count_noise: adaptive only: standard deviation of the noise of the count; null: the larger
            of n/20 and 1.5 noise multipliers.
    """

    name: str = "central_gaussian"
    clip: float = 1.0
    noise_multiplier: float = 1.0
    n_sites: int | None = None
    clipping: str = "fixed"
    clip_quantile: float = 0.5
    clip_rate: float = 0.2
    count_noise: float | None = None


@dataclass(frozen=True)
class LocalSourceConf(AlgorithmConf):
    """Local DP: noise on the records, drawn once and kept for all rounds.

    Attributes:
        noise_multiplier: z: standard deviation of the noise over half the diameter of the
            features' declared range.
        bounds: lower and upper bound that every feature is clipped to; declared, public.
        radius: L2 bound of the features around the middle of their range; null: none.
        label_keep: probability with which a label is kept; otherwise it is another one, uniformly.
    """

    name: str = "local_source"
    noise_multiplier: float = 1.0
    bounds: list[float] = field(default_factory=lambda: [-3.0, 3.0])
    radius: float | None = None
    label_keep: float = 0.9


@dataclass(frozen=True)
class ReleaseGaussianConf(AlgorithmConf):
    """Noise on the final model alone, clipped around its public start.

    Attributes:
        clip: C, largest L2 distance of the final weights from the initial ones.
        noise_multiplier: z: standard deviation of the noise over C; one event, 2/z-GDP.
    """

    name: str = "release_gaussian"
    clip: float = 1.0
    noise_multiplier: float = 1.0


@dataclass(frozen=True)
class StackedConf(AlgorithmConf):
    """Several mechanisms, each in its place.

    Attributes:
        mechanisms: names, or the settings of an algorithm with its name; those not given are the
            algorithm's and the dataset's defaults. Update filters act in the order given.
    """

    name: str = "stacked"
    mechanisms: list[Any] = field(default_factory=list)


# --------------------------------------------------------------------------- schedule


@dataclass(frozen=True)
class ScheduleConf:
    """In which rounds the protection acts, and how strongly.

    Attributes:
        name: every_round, first_round, every_nth or last_round.
        decay: the k-th protected round (k = 0, 1, ...) has strength decay ** k.
        n: every_nth only: every n-th round is protected.
        offset: every_nth only: n=2, offset=0 protects rounds 1, 3, 5, ...
    """

    name: str = MISSING
    decay: float = 1.0
    n: int = 1
    offset: int = 0


# --------------------------------------------------------------------------- dataset


@dataclass(frozen=True)
class TrainingDefaults:
    """Hyperparameters that suit a dataset; federation.* and algorithm.* refer to them."""

    rounds: int = MISSING
    local_epochs: float = 1.0
    batch_size: int = MISSING
    lr: float = MISSING
    optimizer: str = "sgd"
    momentum: float = 0.0
    sampling_rate: float = MISSING
    noise_multiplier: float = 1.0
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class DatasetConf:
    """Where records come from and how they are divided over sites.

    Attributes:
        name: the dataset.
        source: synthetic or real; never falls back from one to the other.
        root: folder that holds one folder per dataset and source.
        size: demo (small, for a first look) or full.
        partition: natural (the owner's sites), uniform, linear, square, exponential or dirichlet.
        n_sites: number of sites for partitions other than natural.
        dirichlet_alpha: concentration of the Dirichlet label skew.
        split_seed: seeds the held-out split and the partition; apart from the training seed.
        test_fraction: share of patients held out.
        train_share: share of each site's training patients that is kept; smaller shares are subsets
            of larger ones. For learning curves: what a score costs in records.
        max_records_per_patient: cap; further records of a patient are dropped; null keeps all.
        declared_by_size: declared public constants: the typical number of training records of a
            site at each size; read by declared_records alone.
        declared_records: the one of them that holds: the constant of this size unless it is given;
            used for the DP-SGD divisor, never measured.
        feature_bounds: declared public range of every feature; local_source clips to it.
        metric: the score.
    """

    name: str = MISSING
    source: str = "synthetic"
    root: str = "data"
    size: str = "full"
    partition: str = "natural"
    n_sites: int = 3
    dirichlet_alpha: float = 0.5
    split_seed: int = 0
    test_fraction: float = 0.2
    train_share: float = 1.0
    max_records_per_patient: int | None = None
    declared_by_size: dict[str, int] = field(default_factory=dict)
    declared_records: int = MISSING
    feature_bounds: list[float] = field(default_factory=lambda: [-3.0, 3.0])
    metric: str = MISSING
    training: TrainingDefaults = field(default_factory=TrainingDefaults)


@dataclass(frozen=True)
class WisconsinConf(DatasetConf):
    """Breast cancer Wisconsin (diagnostic): real records that ship with scikit-learn."""

    name: str = "wisconsin"
    source: str = "real"


@dataclass(frozen=True)
class HiggsConf(DatasetConf):
    """HIGGS (UCI 280).

    Attributes:
        max_rows: read at most this many rows, from the first; null means all of the size chosen.
        test_convention: fraction (the last test_fraction of the rows are held out; the only one
            for synthetic or cut-off tables), baldi (the last 500,000; the 500,000 before them,
            the authors' validation set, are not used) or nvflare (the first 1,000,000).
        standardize: move the positive features, which the owners only divided by their means, to
            about zero mean and unit spread, by fixed constants; false keeps the owners' values.
    """

    name: str = "higgs"
    max_rows: int | None = None
    test_convention: str = "fraction"
    standardize: bool = True


@dataclass(frozen=True)
class IxiConf(DatasetConf):
    """Fed-IXI Tiny: T1 brain MRI with brain masks, three hospitals.

    Attributes:
        shape: spatial shape that volumes are resized to.
        label_resize: flamby (area average then truncation: erodes), nearest or threshold.
        split_file: FLamby's metadata_tiny.csv for its exact split; null: our seeded split.
    """

    name: str = "ixi_tiny"
    shape: list[int] = field(default_factory=lambda: [48, 60, 48])
    label_resize: str = "flamby"
    split_file: str | None = None


@dataclass(frozen=True)
class BreastDensityConf(DatasetConf):
    """Breast density A-D from mammograms.

    Attributes:
        layout: datalist (ACR-NVIDIA-NCI challenge: json + npy) or rsna (csv + png).
        image_size: images are resized to image_size x image_size, one channel.
    """

    name: str = "breast_density"
    layout: str = "datalist"
    image_size: int = 64


# --------------------------------------------------------------------------- the rest


@dataclass(frozen=True)
class FederationConf:
    """How the sites train together.

    Attributes:
        name: fedavg, local (each site alone) or central (all records pooled).
        lr_decay: the learning rate of round r = 1, 2, ... is lr * lr_decay ** (r - 1).
        weighting: examples (by the declared public numbers of records), uniform, or auto:
            examples, but uniform where the server's noise asks for equal weights.
        evaluate_every: held-out scores after every so many rounds and after the last; 0: the last
            round only.
    """

    name: str = MISSING
    rounds: int = MISSING
    local_epochs: float = MISSING
    batch_size: int = MISSING
    lr: float = MISSING
    optimizer: str = MISSING
    momentum: float = MISSING
    lr_decay: float = 1.0
    weighting: str = "auto"
    evaluate_every: int = 1


@dataclass(frozen=True)
class EngineConf:
    """What runs the Flower apps.

    Attributes:
        name: inprocess, stacked, processes or ray.
        timeout_s: a site that has not answered after this time fails the cell.
        torch_threads: CPU threads of one site's training, or of a stack of sites.
        precision: of forward and backward passes in a stack: float32 or bf16. Clipping, noise and
            weights are float32 in any case, and so are sites that train one by one.
        workers: of engine=processes; 0: as many as there are cores.
    """

    name: str = MISSING
    timeout_s: float = 3600.0
    torch_threads: int = 1
    workers: int = 0
    precision: str = "float32"


@dataclass(frozen=True)
class ModelConf:
    """Which network is trained. Fields that a model does not use are ignored by it."""

    name: str = MISSING


@dataclass(frozen=True)
class MlpConf(ModelConf):
    """Multi-layer perceptron for tables."""

    name: str = "mlp"
    hidden: list[int] = field(default_factory=lambda: [64, 64])


@dataclass(frozen=True)
class DensityCnnConf(ModelConf):
    """Small convolutional network with GroupNorm for 2-D images."""

    name: str = "density_cnn"
    channels: list[int] = field(default_factory=lambda: [16, 32, 64])
    groups: int = 4


@dataclass(frozen=True)
class UNet3dConf(ModelConf):
    """3-D U-Net for volumes (after Perez-Garcia's, as FLamby's baseline).

    Attributes:
        first_channels: channels of the first convolution.
        levels: encoding blocks, the bottom one included.
        norm: group or none.
    """

    name: str = "unet3d"
    first_channels: int = 8
    levels: int = 3
    norm: str = "group"
    groups: int = 4


@dataclass(frozen=True)
class PrivacyConf:
    """What the certificate is about.

    Attributes:
        delta: null means min(1e-5, 1 / (10 n)) with n the records of the largest site.
        unit: auto (record for dpsgd, site for update filters), record, patient or site.
        view: what the adversary sees: server_updates, aggregate or final_model.
        randomness: secret (noise and sampling masks from the operating system) or seeded
            (reproducible; the certificate is then a simulation).
        diagnostics: whether sites report training loss to the experimenter; outside every
            guarantee, so a deployment sets it to false.
    """

    delta: float | None = None
    unit: str = "auto"
    view: str = "server_updates"
    randomness: str = "secret"
    diagnostics: bool = True


@dataclass(frozen=True)
class TrackingConf:
    """Where results are recorded besides result.json.

    Attributes:
        enabled: whether to write to MLflow.
        uri: MLflow tracking URI.
        experiment: name of the MLflow experiment; null means the sweep's name.
    """

    enabled: bool = True
    uri: str = "sqlite:///mlflow.db"
    experiment: str | None = None


@dataclass(frozen=True)
class AuditConf:
    """What an attacker is let loose on, and may guess. It changes which records are trained on.

    Attributes:
        name: none, fast (membership) or full (reconstruction as well).
        kind: natural (records of the site, about half of them left out of training) or
            random_label (made-up records with random labels, about half of them added).
        canaries: records at each audited site whose training is decided by a coin.
        sites: all, or first: the first site alone.
        seed: of the candidates, which are the same for every training seed; the coins are not.
        confidence: of the lower bounds.
        guesses: shares of the canaries that are guessed, fixed beforehand; each is one bound.
        victims: full only: records whose reconstruction is tried.
        attack_steps: full only: steps of an attack by optimisation.
    """

    name: str = "none"
    kind: str = "natural"
    canaries: int = 100
    sites: str = "all"
    seed: int = 0
    confidence: float = 0.95
    guesses: list[float] = field(default_factory=lambda: [0.01, 0.03, 0.1, 0.3])
    victims: int = 4
    attack_steps: int = 800


@dataclass(frozen=True)
class CollapseConf:
    """When a score counts as collapsed relative to its twin.

    Attributes:
        fraction: score <= chance + fraction * (twin - chance) is a collapse.
    """

    fraction: float = 0.2


@dataclass(frozen=True)
class SweepConf:
    """How a sweep is run; none of it changes a result.

    Attributes:
        name: name of the sweep: its folder under outputs/ and its MLflow experiment.
        workers: worker processes.
        twins: whether the twin without protection of a cell is run too where no grid has it;
            without one a cell has no price.
    """

    name: str = "default"
    workers: int = 1
    twins: bool = True


@dataclass(frozen=True)
class PruningConf:
    """When a trial is ended early; every rule leaves its reason in the trial.

    Attributes:
        median: budget only: end trials whose score lags behind the median of earlier ones.
        startup_trials: trials that no median is taken before.
        warmup_rounds: rounds that no trial is compared in.
        patience: rounds that a lagging trial is given to recover: scores under noise jump.
        chance_rounds: end a trial whose score has not been above chance in any of so many first
            rounds; 0: never.
        min_snr: end a trial whose averaged update is this much smaller than the noise in it ...
        snr_rounds: ... in so many rounds in a row; 0: never. One round says little of it: what the
            rounds share adds up, noise does not.
        reach: refuse, before training, settings that can move the weights so many times further
            than the defaults, or less far by that factor (see ``tuning.reach``); 0: never.
        between: budget only: refuse, before training, settings that reach further than all that
            survived, or less far, if so many trials between them and the nearest survivor
            collapsed; 0: never.
    """

    median: bool = True
    startup_trials: int = 6
    warmup_rounds: int = 1
    patience: int = 1
    chance_rounds: int = 3
    min_snr: float = 0.02
    snr_rounds: int = 0
    reach: float = 30.0
    between: int = 1


@dataclass(frozen=True)
class WarmStartConf:
    """Where the first trials come from.

    Attributes:
        rules: start with the defaults and with rules of thumb.
        spread: random settings that reach a few times as far as the defaults do, or less far.
        studies: folders of earlier studies or sweeps of the same dataset.
        mlflow: look for earlier runs of the same dataset in ``tracking.uri``.
        most: settings taken over from earlier results, the best first.
    """

    rules: bool = True
    spread: int = 6
    studies: list[str] = field(default_factory=list)
    mlflow: bool = False
    most: int = 5


@dataclass(frozen=True)
class SearchPriceConf:
    """What the search itself costs in privacy.

    Attributes:
        scheme: public_data (nobody's records: the search costs nothing), random_best_only
            (Papernot & Steinke 2022), adaptive (all trials composed), or auto: public_data for
            synthetic records, else adaptive.
        shape: random_best_only: of the number of trials, a truncated negative binomial; 0:
            logarithmic (the cheapest), 1: geometric.
    """

    scheme: str = "auto"
    shape: float = 0.0


@dataclass(frozen=True)
class TuningConf:
    """A search for settings that do not collapse; ``fedprivacy tune`` alone reads it.

    Attributes:
        name: of the study; its folder, its MLflow experiment.
        dir: folder of the study, shared by its workers.
        storage: Optuna storage; null: a journal file in ``dir``; or a database URL.
        mode: budget (best score at an epsilon), floor (least epsilon whose score does not
            collapse) or front (score against epsilon).
        budget: budget only: total epsilon.
        budgets: front only: the budgets whose best settings are joined.
        front: front only: union (of the budgets) or multi (one study with two objectives).
        epsilon_range: floor, and front=multi: lower and upper end of the budgets tried.
        n_trials: finished and pruned trials, over all restarts and workers.
        space: keys to search: {low, high, log, step} or {choices}, with ``when`` for those that
            exist under a choice alone.
        sampler: tpe, gp or random.
        sampler_seed: null: another one for each worker.
        seeds: cells that a trial's score is the mean of: seed, seed + 1, ...
        floor: score below which a setting has collapsed; null: chance + collapse.fraction *
            (twin - chance).
        twin: whether the twin is run for it; without floor and twin, a setting has collapsed
            where its score is not above chance by one standard error.
        confirm: best settings that are run again before one is recommended; 0: none.
        confirm_seeds: fresh seeds; of a budget, half of the settings drop out after each.
        publish: all, or best_only: only the recommended trial outlives the study.
        max_failed: failed trials that end the search.
        lease_s: a worker elsewhere that has not been heard of for so long is given up.
    """

    name: str = "study"
    dir: str = MISSING
    storage: str | None = None
    mode: str = "budget"
    budget: float | None = 3.0
    budgets: list[float] = field(default_factory=lambda: [1.0, 3.0, 8.0])
    front: str = "union"
    epsilon_range: list[float] = field(default_factory=lambda: [0.3, 30.0])
    n_trials: int = 40
    space: dict[str, Any] = field(default_factory=dict)
    sampler: str = "tpe"
    sampler_seed: int | None = None
    seeds: int = 1
    floor: float | None = None
    twin: bool = True
    confirm: int = 5
    confirm_seeds: int = 3
    publish: str = "all"
    max_failed: int = 5
    lease_s: float = 120.0
    pruning: PruningConf = field(default_factory=PruningConf)
    warm_start: WarmStartConf = field(default_factory=WarmStartConf)
    search_price: SearchPriceConf = field(default_factory=SearchPriceConf)


@dataclass(frozen=True)
class CellConfig:
    """Everything about one cell; ``OmegaConf.to_object`` of a composed configuration."""

    seed: int = 0
    device: str = "auto"
    algorithm: AlgorithmConf = MISSING
    schedule: ScheduleConf = MISSING
    dataset: DatasetConf = MISSING
    federation: FederationConf = MISSING
    engine: EngineConf = MISSING
    model: ModelConf = MISSING
    privacy: PrivacyConf = field(default_factory=PrivacyConf)
    audit: AuditConf = field(default_factory=AuditConf)
    tracking: TrackingConf = field(default_factory=TrackingConf)
    collapse: CollapseConf = field(default_factory=CollapseConf)
    sweep: SweepConf = field(default_factory=SweepConf)
    tuning: TuningConf = field(default_factory=TuningConf)
    grids: list[Any] = field(default_factory=list)
