"""The evidence that a log lacks: which answers to buy for the least money, and what they can be expected to certify."""
