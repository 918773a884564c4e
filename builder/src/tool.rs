//! Running other programs: the one place where a process is started.
//!
//! `Tool::new("mke2fs").args(["-t", "ext4"]).log(path).run()?`. Standard input is empty unless given. All output goes to a log; an error
//! carries the command as a line that can be pasted into a shell, how it ended, and its last 20 lines. A missing program names the
//! Debian package that brings it. What is interrupted: see [`crate::interrupt`].
#![expect(clippy::disallowed_methods, reason = "the one place where processes are started")]

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

/// How many of a program's last lines an error quotes: enough for a dpkg or etcd failure, little enough for a terminal.
const TAIL_LINES: usize = 20;
/// How much of a log is read to find them.
const TAIL_BYTES: u64 = 16 * 1024;

/// Programs that run now, for [`terminate_all`].
static RUNNING: Mutex<Vec<Weak<duct::Handle>>> = Mutex::new(Vec::new());

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not installed.
    #[error("running `{program}`: no such program{}", install_hint(.program))]
    Missing {
        /// The program.
        program: String,
    },
    /// It ran and said no.
    #[error("running `{line}`: {ended}{}{}", quoted_tail(.tail), log_hint(.log))]
    Failed {
        /// The command, quoted for a shell.
        line: String,
        /// "exit code 1", "killed by signal 9".
        ended: String,
        /// Exit code, when it had one.
        code: Option<i32>,
        /// Its last lines of output.
        tail: String,
        /// Where all of its output is.
        log: Option<PathBuf>,
    },
    /// It could not be started, or its output not be kept.
    #[error("running `{line}`")]
    Io {
        /// The command, quoted for a shell.
        line: String,
        /// What the system said.
        source: io::Error,
    },
}

/// What a program reads.
#[derive(Clone, Debug, Default)]
enum Stdin {
    #[default]
    Null,
    File(PathBuf),
    Bytes(Vec<u8>),
    Pipe(Arc<io::PipeReader>),
}

/// Where a program's standard output goes.
#[derive(Clone, Debug, Default)]
enum Stdout {
    #[default]
    Log,
    File(PathBuf),
    Pipe(Arc<io::PipeWriter>),
}

/// A command about to be run.
#[derive(Clone, Debug)]
pub struct Tool {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    env_remove: Vec<OsString>,
    dir: Option<PathBuf>,
    stdin: Stdin,
    stdout: Stdout,
    log: Option<PathBuf>,
}

/// A program running in the background.
#[derive(Debug)]
pub struct Running {
    handle: Arc<duct::Handle>,
    line: String,
    log: Option<PathBuf>,
}

impl Tool {
    /// A command that runs `program`: a path, or a name looked up in `PATH`.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            env_remove: Vec::new(),
            dir: None,
            stdin: Stdin::Null,
            stdout: Stdout::Log,
            log: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable for the program.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Hides an environment variable from the program.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env_remove.push(name.as_ref().to_owned());
        self
    }

    /// Runs it in this directory.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Lets it read a file.
    #[must_use]
    pub fn stdin_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.stdin = Stdin::File(path.into());
        self
    }

    /// Lets it read these bytes.
    #[must_use]
    pub fn stdin_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// Lets it read what is written into the other end of this pipe, by another thread. The reader is dropped when the program ends.
    #[must_use]
    pub fn stdin_pipe(mut self, reader: io::PipeReader) -> Self {
        self.stdin = Stdin::Pipe(Arc::new(reader));
        self
    }

    /// Writes its standard output to a file instead of the log.
    #[must_use]
    pub fn stdout_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.stdout = Stdout::File(path.into());
        self
    }

    /// Writes its standard output into this pipe, whose other end another thread reads. The writer is dropped when the program ends.
    #[must_use]
    pub fn stdout_pipe(mut self, writer: io::PipeWriter) -> Self {
        self.stdout = Stdout::Pipe(Arc::new(writer));
        self
    }

    /// Appends its output to this file; the error names it. Without a log the output is kept only until the program ends.
    #[must_use]
    pub fn log(mut self, path: impl Into<PathBuf>) -> Self {
        self.log = Some(path.into());
        self
    }

    /// The command as a line that can be pasted into a shell.
    pub fn line(&self) -> String {
        let words = self
            .env
            .iter()
            .map(|(name, value)| format!("{}={}", name.to_string_lossy(), shell_quote(&value.to_string_lossy())));
        let argv = std::iter::once(&self.program).chain(&self.args).map(|w| shell_quote(&w.to_string_lossy()));
        let line = words.chain(argv).collect::<Vec<_>>().join(" ");
        match &self.stdout {
            Stdout::File(path) => format!("{line} > {}", shell_quote(&path.to_string_lossy())),
            Stdout::Log | Stdout::Pipe(_) => line,
        }
    }

    /// Runs it to its end and demands success.
    ///
    /// # Errors
    /// [`ToolError`]: missing, not started, or ended with anything but 0.
    pub fn run(self) -> Result<(), ToolError> {
        self.finish(false).map(drop)
    }

    /// Runs it to its end, demands success and returns what it wrote to standard output.
    ///
    /// # Errors
    /// [`ToolError`]; output that is not UTF-8 is an [`ToolError::Io`].
    pub fn read(self) -> Result<String, ToolError> {
        let line = self.line();
        String::from_utf8(self.read_bytes()?)
            .map_err(|e| ToolError::Io { line, source: io::Error::new(io::ErrorKind::InvalidData, e) })
    }

    /// Like [`Tool::read`], for output that is not text.
    ///
    /// # Errors
    /// [`ToolError`].
    pub fn read_bytes(self) -> Result<Vec<u8>, ToolError> {
        self.finish(true)
    }

    /// Runs it to its end and tells whether it succeeded. Being killed by a signal is an error, not a no.
    ///
    /// # Errors
    /// [`ToolError`], except for an exit code.
    pub fn succeeds(self) -> Result<bool, ToolError> {
        match self.finish(false) {
            Ok(_) => Ok(true),
            Err(ToolError::Failed { code: Some(_), .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Starts it and returns at once. It outlives this program unless it is ended; an interrupt does not end it.
    ///
    /// # Errors
    /// [`ToolError`]: missing or not started.
    pub fn start(self) -> Result<Running, ToolError> {
        let line = self.line();
        log::debug!("starting {line}");
        let io_error = |source| ToolError::Io { line: line.clone(), source };
        let mut expression = self.expression().map_err(io_error)?;
        match &self.log {
            Some(path) => {
                let file = open_log(path).map_err(io_error)?;
                expression = expression.stderr_file(file.try_clone().map_err(io_error)?);
                if matches!(self.stdout, Stdout::Log) {
                    expression = expression.stdout_file(file);
                }
            }
            None => {
                expression = expression.stderr_null();
                if matches!(self.stdout, Stdout::Log) {
                    expression = expression.stdout_null();
                }
            }
        }
        let handle = Arc::new(expression.start().map_err(|e| self.start_error(e))?);
        Ok(Running { handle, line, log: self.log })
    }

    fn expression(&self) -> io::Result<duct::Expression> {
        let program = self.program.to_str().and_then(find).map_or_else(|| self.program.clone(), Into::into);
        // A process group of its own: a Ctrl-C of the terminal reaches kiln alone, which then ends the whole group. Otherwise a program that
        // the same Ctrl-C killed would look like one that failed, and its own children would go on.
        let own_group = |command: &mut std::process::Command| {
            command.process_group(0);
            Ok(())
        };
        let mut expression = duct::cmd(program, &self.args).unchecked().before_spawn(own_group);
        for (name, value) in &self.env {
            expression = expression.env(name, value);
        }
        for name in &self.env_remove {
            expression = expression.env_remove(name);
        }
        if let Some(dir) = &self.dir {
            expression = expression.dir(dir);
        }
        expression = match &self.stdout {
            Stdout::Log => expression,
            Stdout::File(path) => expression.stdout_path(path),
            Stdout::Pipe(writer) => expression.stdout_file(writer.try_clone()?),
        };
        Ok(match &self.stdin {
            Stdin::Null => expression.stdin_null(),
            Stdin::File(path) => expression.stdin_path(path),
            Stdin::Bytes(bytes) => expression.stdin_bytes(bytes.clone()),
            Stdin::Pipe(reader) => expression.stdin_file(reader.try_clone()?),
        })
    }

    fn finish(self, capture: bool) -> Result<Vec<u8>, ToolError> {
        let line = self.line();
        log::debug!("running {line}");
        let began = Instant::now();
        let io_error = |source| ToolError::Io { line: line.clone(), source };
        let mut log = match &self.log {
            Some(path) => open_log(path),
            None => tempfile::tempfile(),
        }
        .map_err(io_error)?;
        let mut expression = self.expression().map_err(io_error)?.stderr_file(log.try_clone().map_err(io_error)?);
        if capture {
            expression = expression.stdout_capture();
        } else if matches!(self.stdout, Stdout::Log) {
            expression = expression.stdout_file(log.try_clone().map_err(io_error)?);
        }
        stay_if_ending();
        let handle = Arc::new(expression.start().map_err(|e| self.start_error(e))?);
        remember(&handle);
        if ENDING.load(Ordering::SeqCst) {
            // It slipped in between the last look and the end.
            handle.kill().map_err(io_error)?;
        }
        let output = handle.wait().map_err(io_error)?;
        stay_if_ending();
        log::debug!(
            "{} ended after {:.2} s: {}",
            self.program.to_string_lossy(),
            began.elapsed().as_secs_f64(),
            output.status
        );
        if output.status.success() {
            return Ok(output.stdout.clone());
        }
        let mut tail = last_lines(&mut log).map_err(io_error)?;
        if tail.is_empty() {
            tail = tail_of(&String::from_utf8_lossy(&output.stdout));
        }
        Err(ToolError::Failed { line, ended: ended(output.status), code: output.status.code(), tail, log: self.log })
    }

    fn start_error(&self, source: io::Error) -> ToolError {
        let program = self.program.to_string_lossy().into_owned();
        // The system says "not found" for a missing working directory or input file too; only a program that is really not there is `Missing`.
        if source.kind() == io::ErrorKind::NotFound && find(&program).is_none() {
            return ToolError::Missing { program };
        }
        ToolError::Io { line: self.line(), source }
    }
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> Option<u32> {
        self.handle.pids().first().copied()
    }

    /// How it ended, or nothing while it runs.
    ///
    /// # Errors
    /// When the system cannot tell.
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, ToolError> {
        let found = self.handle.try_wait().map_err(|source| ToolError::Io { line: self.line.clone(), source })?;
        Ok(found.map(|output| output.status))
    }

    /// Kills it and waits for its end.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&self) -> Result<(), ToolError> {
        let io_error = |source| ToolError::Io { line: self.line.clone(), source };
        self.handle.kill().map_err(io_error)?;
        self.handle.wait().map_err(io_error).map(drop)
    }

    /// The last lines it left in its log; empty without one.
    pub fn last_words(&self) -> String {
        let Some(path) = &self.log else { return String::new() };
        // Only decorates another error: a log that cannot be read has nothing to add.
        fs_err::File::open(path).ok().and_then(|f| last_lines(&mut f.into_file()).ok()).unwrap_or_default()
    }
}

/// Set by [`terminate_all`]: from then on programs do not fail, they were ended.
static ENDING: AtomicBool = AtomicBool::new(false);

/// Waits for the end of this process if it has begun: what was interrupted must not be reported as a failure of its own, and nothing new may
/// be started.
fn stay_if_ending() {
    while ENDING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Asks every program that [`Tool::run`] and its like wait for to end; returns how many were asked. Whoever waits for one does not go on:
/// the caller is about to end this process.
pub fn terminate_all() -> usize {
    ENDING.store(true, Ordering::SeqCst);
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    let pids = running.iter().filter_map(Weak::upgrade).filter(|h| matches!(h.try_wait(), Ok(None)));
    let mut asked = 0;
    for pid in pids.flat_map(|h| h.pids()).filter_map(|p| i32::try_from(p).ok()) {
        // One that has just ended needs no asking.
        if nix::sys::signal::killpg(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).is_ok() {
            asked += 1;
        }
    }
    asked
}

/// Whether programs asked by [`terminate_all`] are still there.
pub fn any_running() -> bool {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    running.iter().filter_map(Weak::upgrade).any(|h| matches!(h.try_wait(), Ok(None)))
}

/// Where a program is: itself when it is a path, else the first hit in `PATH` and the system directories an ordinary user's `PATH` lacks.
pub fn find(program: &str) -> Option<PathBuf> {
    let is_program = |p: &Path| p.is_file() && nix::unistd::access(p, nix::unistd::AccessFlags::X_OK).is_ok();
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|p| is_program(p));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|p| is_program(p))
}

/// The Debian and Ubuntu package that brings a program kiln runs.
pub fn package_of(program: &str) -> Option<&'static str> {
    let name = Path::new(program).file_name().and_then(OsStr::to_str).unwrap_or(program);
    Some(match name {
        "mmdebstrap" => "mmdebstrap",
        "apt-get" | "apt-cache" | "apt-config" => "apt",
        "dpkg-deb" | "dpkg" => "dpkg",
        "gpgv" => "gpgv",
        "mke2fs" | "mkfs.ext4" | "debugfs" | "dumpe2fs" | "e2fsck" => "e2fsprogs",
        "sgdisk" => "gdisk",
        "mformat" | "mcopy" | "mmd" | "mtools" => "mtools",
        "virt-customize" | "virt-filesystems" => "guestfs-tools",
        "timeout" => "coreutils",
        "qemu-img" => "qemu-utils",
        "qemu-system-x86_64" => "qemu-system-x86",
        "virsh" => "libvirt-clients",
        "ssh" => "openssh-client",
        "libvirtd" | "virtlogd" => "libvirt-daemon-system",
        "dnsmasq" => "dnsmasq-base",
        "ip" | "bridge" | "ss" => "iproute2",
        "nft" => "nftables",
        "systemd-nspawn" | "machinectl" => "systemd-container",
        "systemd-run" | "systemctl" | "journalctl" => "systemd",
        "unshare" | "nsenter" | "setpriv" | "mount" | "umount" => "util-linux",
        "setsid" | "flock" => "util-linux",
        "tar" => "tar",
        "zstd" => "zstd",
        "xz" => "xz-utils",
        "dig" => "bind9-dnsutils",
        "newuidmap" | "newgidmap" => "uidmap",
        "cp" | "sha256sum" | "stat" => "coreutils",
        _ => return None,
    })
}

fn remember(handle: &Arc<duct::Handle>) {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    running.retain(|h| h.strong_count() > 0);
    running.push(Arc::downgrade(handle));
}

fn open_log(path: &Path) -> io::Result<std::fs::File> {
    Ok(fs_err::OpenOptions::new().create(true).append(true).read(true).open(path)?.into_file())
}

fn last_lines(log: &mut std::fs::File) -> io::Result<String> {
    let length = log.seek(SeekFrom::End(0))?;
    log.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    log.read_to_end(&mut bytes)?;
    Ok(tail_of(&String::from_utf8_lossy(&bytes)))
}

fn tail_of(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|l| !l.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended without a status".into(),
    }
}

fn install_hint(program: &str) -> String {
    match package_of(program) {
        Some(package) => format!("\nhint: install it: apt-get install {package}"),
        None => String::new(),
    }
}

fn quoted_tail(tail: &str) -> String {
    if tail.is_empty() {
        return String::new();
    }
    format!("; its last words:\n{}", tail.lines().map(|l| format!("  | {l}")).collect::<Vec<_>>().join("\n"))
}

fn log_hint(log: &Option<PathBuf>) -> String {
    log.as_ref().map(|p| format!("\nhint: all of its output is in `{}`", p.display())).unwrap_or_default()
}

/// Quotes one word for a POSIX shell, if it needs it.
pub fn shell_quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Tool {
        Tool::new("sh").args(["-c", script])
    }

    #[test]
    fn the_error_has_the_pasteable_line_the_code_and_the_last_twenty_lines() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("step.log");
        let error = sh("seq 1 30; echo 'it is full' >&2; exit 3").log(&log).run().unwrap_err();
        let ToolError::Failed { line, ended, code, tail, log: at } = &error else { panic!("{error:?}") };
        assert_eq!(line, "sh -c 'seq 1 30; echo '\\''it is full'\\'' >&2; exit 3'");
        assert_eq!((ended.as_str(), *code, at.as_deref()), ("exit code 3", Some(3), Some(log.as_path())));
        assert_eq!(tail.lines().count(), 20);
        assert!(tail.starts_with("12\n") && tail.ends_with("30\nit is full"), "{tail}");
        assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 31);
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = Tool::new("/nonexistent/sgdisk").run().unwrap_err();
        assert_eq!(
            error.to_string(),
            "running `/nonexistent/sgdisk`: no such program\nhint: install it: apt-get install gdisk"
        );
    }

    #[test]
    fn a_missing_directory_is_not_a_missing_program() {
        let error = sh("true").dir("/nonexistent").run().unwrap_err();
        assert!(matches!(error, ToolError::Io { .. }), "{error:?}");
    }

    #[test]
    fn reads_output_input_and_environment() {
        assert_eq!(sh("cat; echo $A").stdin_bytes("in\n").env("A", "b c").read().unwrap(), "in\nb c\n");
        assert_eq!(sh("cat").read().unwrap(), "");
        assert!(!sh("exit 1").succeeds().unwrap());
        let killed = sh("kill -9 $$").succeeds().unwrap_err();
        assert!(matches!(killed, ToolError::Failed { code: None, ref ended, .. } if ended == "killed by signal 9"));
    }

    #[test]
    fn a_pipe_takes_its_output_and_ends_with_it() {
        let (mut reader, writer) = io::pipe().unwrap();
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        sh("echo out; echo err >&2").stdout_pipe(writer).run().unwrap();
        assert_eq!(reading.join().unwrap().unwrap(), "out\n");
    }

    #[test]
    fn quotes_only_what_needs_it() {
        assert_eq!(shell_quote("a/b-c_d.e:f=g"), "a/b-c_d.e:f=g");
        assert_eq!(shell_quote(""), "''");
        assert_eq!(shell_quote("a b"), "'a b'");
        assert_eq!(shell_quote("it's"), r"'it'\''s'");
    }

    #[test]
    fn a_background_program_can_be_asked_and_killed() {
        let running = sh("exec sleep 100").start().unwrap();
        assert!(running.try_wait().unwrap().is_none());
        running.kill().unwrap();
        assert!(running.try_wait().unwrap().is_some_and(|s| s.signal() == Some(9)));
    }
}
