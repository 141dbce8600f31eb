"""Checks of a machine or a cluster: is here what the pipeline needs, and what if not?"""
