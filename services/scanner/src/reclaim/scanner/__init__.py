"""Decides who is asked: connections, reclamation rules, scans, and the seats they flag."""
