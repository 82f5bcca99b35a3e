"""A month of a bundle's traffic, by the figures of its manifest alone."""

from __future__ import annotations

from dataclasses import dataclass

from serving.bundle.manifest import Manifest


@dataclass(frozen=True)
class Month:
    """A month by the manifest's figures; None where the log does not tell."""

    requests: float | None
    reference_usd: float | None
    logged_usd: float | None
    saved_usd: float | None
    against_log_usd: float | None

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
        )

    @property
    def routed_usd(self) -> float | None:
        return None if self.reference_usd is None or self.saved_usd is None else self.reference_usd - self.saved_usd

    def share(self, saving: float | None) -> float | None:
        """What saving such a share of what all to the reference costs is in USD."""
        return None if self.reference_usd is None or saving is None else self.reference_usd * saving
