"""Privacy accounting, usable on its own: no Flower, Hydra, MLflow or torch is imported.

Write down what was released, then ask what it proves. Two rounds of DP-SGD at one hospital
(20 steps each, every record in a step with probability 0.2, noise twice the clip norm):

>>> from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
>>> from fedprivacy.accounting import Event, epsilon
>>> dp = SelfComposedDpEvent(PoissonSampledDpEvent(0.2, GaussianDpEvent(2.0)), 20)
>>> run = [Event(r, "A", "dpsgd", "record", "zero_out", "server_updates", dp, True) for r in (1, 2)]
>>> round(epsilon(run, delta=1e-5, neighbouring="zero_out"), 3)
3.114

``privacy_statement`` says the same for several sites, units and views, with reasons where nothing
is proved.
"""

from fedprivacy.accounting.accountant import Bound, bound, epsilon, per_round
from fedprivacy.accounting.calibration import Calibration, calibrate_noise
from fedprivacy.accounting.caps import Caps, caps
from fedprivacy.accounting.central import central_events, mean_noise
from fedprivacy.accounting.claims import Claim, SiteBound, claim
from fedprivacy.accounting.delta import default_delta, resolve_delta
from fedprivacy.accounting.events import Event
from fedprivacy.accounting.explanation import explain
from fedprivacy.accounting.gaussian import gaussian_delta, gaussian_tpr, gdp_mu, gdp_regret
from fedprivacy.accounting.ledger import Ledger
from fedprivacy.accounting.patients import patient_event
from fedprivacy.accounting.profile import Profile, privacy_profile
from fedprivacy.accounting.pure import laplace_renyi, pure_event, pure_renyi
from fedprivacy.accounting.reasons import exposed
from fedprivacy.accounting.renyi import epsilon_rdp
from fedprivacy.accounting.shuffling import (
    shuffle_delta_floor,
    shuffle_epsilon_floor,
    shuffled_event,
)
from fedprivacy.accounting.sparse_vector import (
    SparseVectorPrice,
    epsilon_of_rounds,
    selection_epsilon,
)
from fedprivacy.accounting.statement import PrivacyStatement, privacy_statement
from fedprivacy.accounting.units import NEIGHBOURING, UNITS, VIEWS, Neighbouring, Unit, View
from fedprivacy.accounting.what_if import WhatIf, what_if

__all__ = [
    "NEIGHBOURING",
    "UNITS",
    "VIEWS",
    "Bound",
    "Calibration",
    "Caps",
    "Claim",
    "Event",
    "Ledger",
    "Neighbouring",
    "PrivacyStatement",
    "Profile",
    "SiteBound",
    "SparseVectorPrice",
    "Unit",
    "View",
    "WhatIf",
    "bound",
    "calibrate_noise",
    "caps",
    "central_events",
    "claim",
    "default_delta",
    "epsilon",
    "epsilon_of_rounds",
    "epsilon_rdp",
    "explain",
    "exposed",
    "gaussian_delta",
    "gaussian_tpr",
    "gdp_mu",
    "gdp_regret",
    "laplace_renyi",
    "mean_noise",
    "patient_event",
    "per_round",
    "privacy_profile",
    "privacy_statement",
    "pure_event",
    "pure_renyi",
    "resolve_delta",
    "selection_epsilon",
    "shuffle_delta_floor",
    "shuffle_epsilon_floor",
    "shuffled_event",
    "what_if",
]
