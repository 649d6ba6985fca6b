"""Solvers against exact answers, and the judge against renders: orders, cases, choosing, judge."""
