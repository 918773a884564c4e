//! `firstboot`: parses the command line, runs it, prints the chain of an error once, and chooses the exit code.

fn main() {}
