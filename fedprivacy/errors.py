"""Errors that a user can act on: each names what was given, what is allowed, and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class FedPrivacyError(Exception):
    """Base of every error that fedprivacy raises on purpose."""


class ConfigError(FedPrivacyError, ValueError):
    """A configuration value that cannot be run.

    Args:
        key: dotted configuration key, for example ``algorithm.noise_multiplier``.
        value: what was given.
        allowed: what is allowed, in words.
        fix: what to type instead.
    """

    def __init__(self, key: str, value: object, allowed: str, fix: str) -> None:
        self.key, self.value, self.allowed, self.fix = key, value, allowed, fix
        super().__init__(f"{key}={value!r} is not allowed: {allowed}. Fix: {fix}")

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, object, str, str]]:
        return type(self), (self.key, self.value, self.allowed, self.fix)


class DataError(FedPrivacyError):
    """Files of a dataset that are missing, damaged or not in the owner's format."""


class ProtectionError(FedPrivacyError):
    """A mechanism could not protect what it was given; nothing leaves the site."""


class AccountingError(FedPrivacyError, ValueError):
    """An event, unit or combination that has no sound accounting; it is refused, never guessed."""


class ClientFailure(FedPrivacyError):
    """A site raised, died, sent a malformed reply or did not answer in time.

    Attributes:
        site: name of the site, or its node if it never told its name.
        traceback_text: the site's own traceback, empty if it left none.
        released: ledger events, as JSON values, of what had reached the server by then; of one
            exchange where a grid raises, of the whole run where ``run_federation`` does.
    """

    released: tuple[Mapping[str, Any], ...] = ()

    def __init__(self, message: str, site: str = "", traceback_text: str = "") -> None:
        self.site, self.traceback_text = site, traceback_text
        self.message = message
        super().__init__(message + (f"\n{traceback_text}" if traceback_text else ""))

    def __reduce__(self) -> tuple[type[ClientFailure], tuple[str, str, str], dict[str, Any]]:
        fields = (self.message, self.site, self.traceback_text)
        return type(self), fields, {"released": self.released}


class TrainingCollapsed(FedPrivacyError):
    """Training became non-finite at a site; nothing of that round was sent or averaged."""

    def __init__(self, reason: str, round_number: int, site: str) -> None:
        self.reason, self.round_number, self.site = reason, round_number, site
        super().__init__(f"round {round_number}, site {site}: {reason}")

    def __reduce__(self) -> tuple[type[TrainingCollapsed], tuple[str, int, str]]:
        return type(self), (self.reason, self.round_number, self.site)


class CellPruned(FedPrivacyError):
    """A listener ended a cell early, because going on would be a waste.

    Args:
        reason: why, in words, for the result.
        rule: which rule ended it, in one word, for counting.
    """

    def __init__(self, reason: str, rule: str) -> None:
        self.reason, self.rule = reason, rule
        super().__init__(reason)

    def __reduce__(self) -> tuple[type[CellPruned], tuple[str, str]]:
        return type(self), (self.reason, self.rule)
