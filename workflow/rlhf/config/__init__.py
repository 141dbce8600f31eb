"""The configuration: declared once, validated with suggestions."""
