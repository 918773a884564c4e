//! G. Versions.
