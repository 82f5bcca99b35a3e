"""Plug-ins that put the router into the gateways teams already run, and bring the outcomes of its decisions back."""
