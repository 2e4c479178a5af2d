"""DP events as values: one canonical form that can be hashed, compared and written as JSON.

``dp_accounting`` describes a mechanism by an attrs class. Its sequences may be lists or tuples
and its numbers NumPy scalars; here they become tuples and plain numbers, so that equal mechanisms
compare equal and a ledger read back is the ledger that was written.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any
from weakref import WeakValueDictionary

import attr
import numpy as np
from dp_accounting import dp_event as dp

from fedprivacy.errors import AccountingError

SUPPORTED: dict[str, type[dp.DpEvent]] = {
    event_type.__name__: event_type
    for event_type in (
        dp.NoOpDpEvent,
        dp.NonPrivateDpEvent,
        dp.GaussianDpEvent,
        dp.LaplaceDpEvent,
        dp.RandomizedResponseDpEvent,
        dp.MixtureOfGaussiansDpEvent,
        dp.TruncatedSubsampledGaussianDpEvent,
        dp.PoissonSampledDpEvent,
        dp.ComposedDpEvent,
        dp.SelfComposedDpEvent,
    )
}
"""The events that can be entered in a ledger, by class name."""

_SHARES = {"sampling_probability", "noise_parameter", "sampling_probs"}
_COUNTS = {"count", "num_buckets", "dataset_size", "truncated_batch_size"}


_MOST_READ = 1024
_checked: WeakValueDictionary[int, dp.DpEvent] = WeakValueDictionary()
"""Events that ``canonical`` returned, by identity, so that none is checked twice."""
_read: dict[str, dp.DpEvent] = {}
"""Events by their JSON values as ``repr`` writes them, which tells 1 from 1.0 and True."""


def canonical(event: dp.DpEvent) -> dp.DpEvent:
    """The same event with tuples for sequences and plain Python numbers.

    Raises:
        AccountingError: the event, or one inside it, is of no supported type, or one of its
            numbers is not finite or out of range.
    """
    if _checked.get(id(event)) is event:
        return event
    found = _canonical(event)
    _checked[id(found)] = found
    return found


def _canonical(event: dp.DpEvent) -> dp.DpEvent:
    name = type(event).__name__
    if SUPPORTED.get(name) is not type(event):
        raise AccountingError(
            f"{name} cannot be entered in a ledger: supported are {', '.join(sorted(SUPPORTED))}"
        )
    return SUPPORTED[name](
        **{
            field.name: _value(name, field.name, getattr(event, field.name))
            for field in attr.fields(type(event))
        }
    )


def _value(event: str, field: str, value: Any) -> Any:
    if isinstance(value, dp.DpEvent):
        return canonical(value)
    if isinstance(value, (list, tuple, range, np.ndarray)):
        return tuple(_value(event, field, item) for item in value)
    if isinstance(value, np.generic):
        value = value.item()
    _check_number(event, field, value)
    return value


def _check_number(event: str, field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise AccountingError(f"{event}.{field}={value!r} is not a number")
    largest = 1.0 if field in _SHARES else sys.float_info.max
    if not 0 <= value <= largest:
        allowed = "a share between 0 and 1" if field in _SHARES else "a finite number from 0 up"
        raise AccountingError(f"{event}.{field}={value!r}: allowed is {allowed}")
    if field in _COUNTS and not isinstance(value, int):
        raise AccountingError(f"{event}.{field}={value!r} is not a whole number")


def to_json(event: dp.DpEvent) -> dict[str, Any]:
    """The event as JSON values, without loss: ``{"type": class name, field: value, ...}``.

    Raises:
        AccountingError: as ``canonical``.
    """
    event = canonical(event)
    fields = {field.name: getattr(event, field.name) for field in attr.fields(type(event))}
    return {"type": type(event).__name__, **{key: _encode(item) for key, item in fields.items()}}


def _encode(value: Any) -> Any:
    if isinstance(value, dp.DpEvent):
        return to_json(value)
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return value


def from_json(data: Mapping[str, Any]) -> dp.DpEvent:
    """The event that ``to_json`` wrote.

    Raises:
        AccountingError: unknown type, or fields that do not belong to it.
    """
    key = repr(data)
    found = _read.get(key)
    if found is None:
        found = canonical(_built(data))
        if len(_read) >= _MOST_READ:
            _read.clear()
        _read[key] = found
    return found


def _built(data: Mapping[str, Any]) -> dp.DpEvent:
    """The event, its numbers unchecked."""
    fields = dict(data)
    name = fields.pop("type", None)
    if not isinstance(name, str) or name not in SUPPORTED:
        raise AccountingError(f"{name!r} is no supported DP event")
    try:
        return SUPPORTED[name](**{key: _decode(item) for key, item in fields.items()})
    except TypeError as error:
        raise AccountingError(f"{name} was not written by this package: {error}") from error


def _decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _built(value)
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    return value
