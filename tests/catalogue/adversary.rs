//! H. Adversaries.
