"""Open-Assistant's training configurations, turned into ours; see docs/open-assistant.md."""
