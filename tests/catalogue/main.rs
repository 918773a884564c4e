//! The catalogue of faults, each scenario by its id, against the real agent, a real etcd and a real network.
#![expect(clippy::tests_outside_test_module, reason = "an integration test is nothing but tests")]

mod adversary;
mod clock;
mod custodian;
mod cut;
mod disk;
mod dns;
mod formation;
mod join;
mod leaf;
mod partition;
mod replace;
mod version;
