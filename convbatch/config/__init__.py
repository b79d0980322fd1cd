"""Configuration: gateways, targets, prices, credentials."""
