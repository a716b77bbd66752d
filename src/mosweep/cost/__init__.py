"""Money and time: prices, estimates, budgets and what was spent."""
