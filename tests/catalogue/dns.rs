//! A. DNS and identity.
