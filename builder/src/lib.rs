//! The operator's side of kiln: lock inputs, build images, mint identities, run clusters.
//!
//! `cli` and `cmd` are the command line. Pure: `problem`, `toml_reader`, `subnet`, `mac`, `profile`.
//! `authority` makes certificates and `seed_archive` seeds, both without a clock or a file.
//! Edges: `tool` starts programs, `interrupt` hears Ctrl-C, `profile_file` reads profiles, `pki` keeps keys, `clock` reads
//! the time, `disk` makes the disk image, `logger` writes the log. `exit` turns errors into exit codes.

pub mod authority;
pub mod cli;
pub mod clock;
pub mod cmd;
pub mod disk;
pub mod exit;
pub mod interrupt;
pub mod logger;
pub mod mac;
pub mod pki;
pub mod problem;
pub mod profile;
pub mod profile_file;
pub mod seed_archive;
pub mod subnet;
pub mod toml_reader;
pub mod tool;
