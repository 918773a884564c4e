//! The protocol between agents, port 2382: one request and one answer per connection, both a big-endian `u32` length and JSON.

pub mod client;
pub mod desk;
pub mod findings;
pub mod frame;
pub mod grantor;
pub mod metrics;
pub mod pace;
pub mod reach;
pub mod server;
mod shared;
pub mod snapshot;
pub mod voters;
