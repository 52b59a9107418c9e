"""Notification: writes to the customer when an order is confirmed or cancelled."""
