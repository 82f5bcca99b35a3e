"""What goes on now: who watches, where the figures are from, and the documents and events that they are sent as."""
