"""Alerts to webhooks: signing, the retry schedule, the guard against private addresses, delivery, the dispatcher."""
