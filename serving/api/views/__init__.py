"""Endpoints that show: what a decision rests on, savings, live traffic, bundles and the frontier."""

from serving.api.views import savings
from serving.api.views.table import View

# Each module of a view has its `VIEW`, which is listed here.
VIEWS: tuple[View, ...] = (savings.VIEW,)
