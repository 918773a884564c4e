//! B. Clock and certificates.
