//! The operator's side of kiln: lock inputs, build images, mint identities, run clusters.
//!
//! `cli` and `cmd` are the command line, `exit` turns errors into exit codes.
//!
//! Pure:
//! - what operators write: `profile`, `image_definition`, `customize`, by `toml_reader`; `problem`, `subnet`, `mac`
//! - what a build is: `lock`, `recipe`, `key`, `cluster_files`, `hygiene`; `lock_diff`, `recipe_diff`, `debian_version`
//! - which etcd: `etcd_release`, `release_list`, `hazard`
//! - DNS: `dns_records`, `dns_format`, `dns_key`, `dns_update`, `base64`; `host_network` is what hosts are wired with
//! - machines: `placement`, `machine_plan`
//! - `authority` makes certificates and `seed_archive` seeds, both without a clock or a file
//!
//! Edges:
//! - `tool` starts programs, `interrupt` hears Ctrl-C, `clock` reads the time, `logger` writes the log
//! - `profile_file` and `image_file` read definitions; `archive`, `resolve` and `package_move` ask package archives
//! - `store` keeps, `fetch` brings and `digesting` hashes inputs; `plan` looks at what is there, `build` and `layer` make what is not, `disk` makes
//!   disks, `disk_diff` and `verify` compare them, `trust` says whose they are, `closure` moves them between stores
//! - `host` asks hypervisors (`host::libvirt` by virsh, `host::proxmox` by its API), `fleet` acts on a cluster's machines on all of them, `generations`
//!   numbers what a cluster ran, `reach` says where hosts and nodes are found
//! - `agents` asks nodes where they stand, `cluster_client` asks a cluster's etcd, `rollout` takes a generation through its nodes
//! - `dns_check` and `dns_apply` ask and tell DNS servers, by `dns_exchange`; `pki` keeps keys; `lab` runs a cluster on this machine

pub mod agents;
pub mod archive;
pub mod authority;
pub(crate) mod base64;
pub mod build;
pub mod cli;
pub mod clock;
pub mod closure;
pub mod cluster_client;
pub mod cluster_files;
pub mod cmd;
pub mod customize;
pub mod debian_version;
pub mod digesting;
pub mod disk;
pub mod disk_diff;
pub mod dns_apply;
pub mod dns_check;
pub(crate) mod dns_exchange;
pub mod dns_format;
pub mod dns_key;
pub mod dns_records;
pub mod dns_update;
pub mod etcd_release;
pub mod exit;
pub mod fetch;
pub mod fleet;
pub mod generations;
pub mod hazard;
pub mod host;
pub mod host_network;
pub mod hygiene;
pub mod image_definition;
pub mod image_file;
pub mod interrupt;
pub mod key;
pub mod lab;
pub mod layer;
pub mod lock;
pub mod lock_diff;
pub mod logger;
pub mod mac;
pub mod machine_plan;
pub mod package_move;
pub mod pki;
pub mod placement;
pub mod plan;
pub mod problem;
pub mod profile;
pub mod profile_file;
pub mod reach;
pub mod recipe;
pub mod recipe_diff;
pub mod release_list;
pub mod resolve;
pub mod rollout;
pub mod seed_archive;
pub mod store;
pub mod subnet;
pub mod toml_reader;
pub mod tool;
pub mod trust;
pub mod verify;
