"""A month of a bundle's traffic, by the figures of its manifest alone."""

from __future__ import annotations

from dataclasses import dataclass

from serving.bundle.manifest import Manifest

# Of what the dearer one costs: about twice the error of two means of some hundred requests of very unequal size.
_HARDLY_CHANCE = 0.4


@dataclass(frozen=True)
class Month:
    """A month by the manifest's figures; None where the log does not tell."""

    requests: float | None
    reference_usd: float | None
    logged_usd: float | None
    saved_usd: float | None
    against_log_usd: float | None
    against_log_low: float | None
    against_log_high: float | None

    @staticmethod
    def of(manifest: Manifest) -> Month:
        known = manifest.metrics
        requests, base = known.get("requests_a_month"), known.get("reference_cost_usd_per_request")
        everything = None if requests is None or base is None else requests * base
        logged = known.get("log_cost_usd_per_request")
        return Month(
            requests,
            everything,
            None if requests is None or logged is None else requests * logged,
            known.get("month_saved_usd"),
            known.get("month_saved_against_log_usd"),
            known.get("month_saved_against_log_low"),
            known.get("month_saved_against_log_high"),
        )

    @property
    def routed_usd(self) -> float | None:
        return None if self.reference_usd is None or self.saved_usd is None else self.reference_usd - self.saved_usd

    @property
    def dearer(self) -> bool:
        """Whether routing costs more than the log did, beyond chance; without an interval, by more than chance is likely to."""
        saved, high = self.against_log_usd or 0.0, self.against_log_high
        return saved < 0 and (saved < -_HARDLY_CHANCE * (self.routed_usd or 0.0) if high is None else high < 0)

    @property
    def cheaper(self) -> bool:
        """Whether routing costs less than the log did, in the same way."""
        saved, low = self.against_log_usd or 0.0, self.against_log_low
        return saved > 0 and (saved > _HARDLY_CHANCE * (self.logged_usd or 0.0) if low is None else low > 0)

    def share(self, saving: float | None) -> float | None:
        """What saving such a share of what all to the reference costs is in USD."""
        return None if self.reference_usd is None or saving is None else self.reference_usd * saving
