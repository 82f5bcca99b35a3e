"""Endpoints that show: what a decision rests on, savings, live traffic, bundles and the frontier."""

from serving.api.views import bundles, frontier, me, savings
from serving.api.views.live import events
from serving.api.views.table import View

# Each module of a view has its `VIEW`, which is listed here; that of live figures has two.
VIEWS: tuple[View, ...] = (me.VIEW, savings.VIEW, events.STREAM, events.SNAPSHOT, bundles.VIEW, frontier.VIEW)
