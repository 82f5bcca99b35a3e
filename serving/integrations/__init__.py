<<<<<<< HEAD
"""Plug-ins that put the router into the gateways teams already run, and bring the outcomes of its decisions back."""
=======
"""What other programs load to be routed and to tell what came of it."""
>>>>>>> signals
