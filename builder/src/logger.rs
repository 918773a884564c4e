//! The log: plain lines on standard error. Progress belongs here; data belongs on standard output.

use std::io::Write as _;

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Writes records of this workspace as they are, and of other crates only from `warn` up.
#[derive(Debug)]
struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Warn || metadata.target().starts_with("kiln")
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let prefix = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug | Level::Trace => "  ",
        };
        // Standard error that is gone is no reason to stop, and there is nowhere left to say so.
        let _ = writeln!(std::io::stderr().lock(), "{prefix}{}", record.args());
    }

    fn flush(&self) {}
}

/// Installs the log; each `-v` shows one level more than `info`.
pub fn install(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::Info,
        1 => LevelFilter::Debug,
        2.. => LevelFilter::Trace,
    };
    // A second call finds the first one's logger, which is the same.
    let _ = log::set_logger(&Stderr);
    log::set_max_level(level);
}
