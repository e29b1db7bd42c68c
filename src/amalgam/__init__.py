"""Amalgam: merge specialist image classifiers with different label sets into one small student."""
