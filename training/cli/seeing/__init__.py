"""Commands that show what a bundle or a store holds."""
