//! The Proxmox driver against a server that holds it to the official schema of the API. No real Proxmox VE has a part in this.
//!
//! Every request of every test passes the checks of [`calls`]: path, verb and parameters as the schema has them, the privileges of the token, the
//! parser of uploads, locks and digests. What that server does otherwise is written from the source of Proxmox VE and is ours.
#![expect(
    clippy::tests_outside_test_module,
    clippy::unwrap_used,
    clippy::type_complexity,
    clippy::disallowed_methods,
    reason = "an integration test and the server it is held to: to panic is how they fail"
)]

mod bad_worlds;
mod calls;
mod cuts;
mod disks;
mod hands;
mod life;
mod multipart;
mod permission;
mod schema;
mod server;
mod strict;
mod world;
