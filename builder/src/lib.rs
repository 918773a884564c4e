//! The operator's side of kiln: lock inputs, build images, mint identities, run clusters.
//!
//! `cli` and `cmd` are the command line. Pure: `problem`, `toml_reader`, `subnet`, `mac`, `profile`.
//! Edges: `tool` starts programs, `interrupt` hears Ctrl-C, `profile_file` reads profiles, `logger` writes the log; `exit`
//! turns errors into exit codes.

pub mod cli;
pub mod cmd;
pub mod exit;
pub mod interrupt;
pub mod logger;
pub mod mac;
pub mod problem;
pub mod profile;
pub mod profile_file;
pub mod subnet;
pub mod tool;
pub mod toml_reader;
