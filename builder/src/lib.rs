//! The operator's side of kiln: lock inputs, build images, mint identities, run clusters.

pub mod interrupt;
pub mod tool;
