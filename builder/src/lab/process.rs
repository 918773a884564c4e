//! Processes of the lab, read from `/proc`: what is running is seen there, never remembered in a file that may be stale.
//!
//! A process belongs to a lab when it lives in the pid namespace of that lab's holder, so nothing of the machine can be mistaken for it.
#![expect(clippy::disallowed_methods, reason = "an edge: reads /proc, sends signals, waits for processes to end")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long a killed process may take to be gone. It has no say in the matter, but its file systems have to be synced.
const GONE_WITHIN: Duration = Duration::from_secs(20);
/// How often a process is looked at that is about to end: there is no event for one that is not our child.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One process, told apart from a later one of the same number by when it started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Number on the machine.
    pub pid: i32,
    /// Parent's number on the machine.
    pub parent: i32,
    /// Start time in clock ticks after boot.
    pub started: u64,
    /// Its number in the innermost pid namespace.
    pub inner_pid: i32,
    /// Inode of its pid namespace.
    pub namespace: u64,
    /// Command line.
    pub argv: Vec<String>,
}

impl Process {
    /// Whether the very same process is still there and not just a zombie.
    pub fn is_alive(&self) -> bool {
        matches!(read(self.pid), Some(now) if now.started == self.started)
    }

    /// Ends it without asking, and waits until it is gone.
    ///
    /// # Errors
    /// When the signal may not be sent or the process outlasts 20 s.
    pub fn kill(&self) -> anyhow::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), Signal::SIGKILL) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => self.wait_gone(),
            Err(errno) => Err(errno).with_context(|| format!("killing process {}", self.pid)),
        }
    }

    /// Waits until it is gone.
    ///
    /// # Errors
    /// When it is still there after 20 s.
    pub fn wait_gone(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        while self.is_alive() {
            if began.elapsed() > GONE_WITHIN {
                bail!("process {} (`{}`) does not end", self.pid, self.argv.join(" "));
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Whether its arguments contain these, one after the other.
    pub fn has_args(&self, args: &[&str]) -> bool {
        self.argv.windows(args.len()).any(|w| w.iter().zip(args).all(|(have, want)| have == want))
    }

    /// Whether it runs this program, by the last part of its path.
    pub fn runs(&self, program: &str) -> bool {
        self.argv.first().is_some_and(|a| Path::new(a).file_name().is_some_and(|n| n == program))
    }
}

/// All processes of the machine; those that end while they are read are left out, as are zombies.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn all() -> anyhow::Result<Vec<Process>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir("/proc").context("listing processes")? {
        if let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) {
            found.extend(read(pid));
        }
    }
    Ok(found)
}

/// All processes whose pid namespace is this one.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn in_namespace(namespace: u64) -> anyhow::Result<Vec<Process>> {
    Ok(all()?.into_iter().filter(|p| p.namespace == namespace).collect())
}

fn read(pid: i32) -> Option<Process> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let stat = fs_err::read_to_string(dir.join("stat")).ok()?;
    let status = fs_err::read_to_string(dir.join("status")).ok()?;
    let link = fs_err::read_link(dir.join("ns/pid")).ok()?;
    let cmdline = fs_err::read(dir.join("cmdline")).ok()?;
    let (state, parent, started) = parse_stat(&stat)?;
    if matches!(state, 'Z' | 'X') {
        return None;
    }
    let argv = cmdline.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned());
    let mut argv: Vec<String> = argv.collect();
    if argv.last().is_some_and(String::is_empty) {
        argv.pop();
    }
    Some(Process {
        pid,
        parent,
        started,
        inner_pid: parse_inner_pid(&status)?,
        namespace: parse_namespace(link.to_str()?)?,
        argv,
    })
}

/// State, parent and start time of `/proc/PID/stat`. The name in parentheses may itself contain parentheses and spaces.
fn parse_stat(stat: &str) -> Option<(char, i32, u64)> {
    let mut rest = stat.rsplit_once(") ")?.1.split_ascii_whitespace();
    let state = rest.next()?.chars().next()?;
    let parent = rest.next()?.parse().ok()?;
    // Field 22 of the line is the start time; state was field 3 and parent field 4.
    let started = rest.nth(17)?.parse().ok()?;
    Some((state, parent, started))
}

/// The last number of `NSpid:` in `/proc/PID/status`.
fn parse_inner_pid(status: &str) -> Option<i32> {
    status.lines().find_map(|l| l.strip_prefix("NSpid:"))?.split_ascii_whitespace().last()?.parse().ok()
}

/// The inode in `pid:[4026531836]`.
fn parse_namespace(link: &str) -> Option<u64> {
    link.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stat_of_a_process_with_a_hostile_name() {
        let stat = "42 (a) S 1 (x) R 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2 3";
        assert_eq!(parse_stat(stat), Some(('R', 7, 987_654)));
        assert_eq!(parse_stat("42 (a"), None);
    }

    #[test]
    fn reads_the_innermost_pid_and_the_namespace() {
        assert_eq!(parse_inner_pid("Name:\tx\nNSpid:\t32263\t131\t1\n"), Some(1));
        assert_eq!(parse_namespace("pid:[4026531836]"), Some(4_026_531_836));
        assert_eq!(parse_namespace("net:[1]"), None);
    }

    #[test]
    fn finds_itself() {
        let own = i32::try_from(std::process::id()).unwrap();
        let me = all().unwrap().into_iter().find(|p| p.pid == own).unwrap();
        assert!(me.is_alive());
        assert!(in_namespace(me.namespace).unwrap().contains(&me));
        let earlier = Process { started: me.started - 1, ..me };
        assert!(!earlier.is_alive(), "a process of the same number and another start is not the same");
    }
}
