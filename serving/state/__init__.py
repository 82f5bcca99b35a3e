"""What is remembered from one request to the next: sessions, budgets, rates, drift; and the rules of the rule file."""
