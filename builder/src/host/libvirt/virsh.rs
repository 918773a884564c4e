//! Calls of `virsh`, and what it prints.
//!
//! Over ssh every call is a login, so questions are asked many at once. `virsh` goes on after a command that failed and tells only how the
//! last one ended: each answer is therefore parted from the next by a mark, and an empty one is a failure.

use std::io;

use anyhow::{Context as _, bail};
use kiln_firstboot::digest::Sha256Digest;

use crate::digesting;
use crate::tool::{Tool, shell_quote};

/// How many commands go into one call. A command line's longest argument is 128 KiB; these are some hundred bytes each.
const AT_ONCE: usize = 200;
/// Seconds of silence after which the other side is asked whether it is there, and how often until the connection is given up: half a
/// minute, after which a host that went down in the middle is an error and no wait for ever.
const KEEPALIVE: [&str; 4] = ["--keepalive-interval", "5", "--keepalive-count", "6"];

/// One libvirt.
#[derive(Clone, Debug)]
pub(super) struct Virsh {
    uri: String,
}

/// A command and its arguments; after a word `;` another one, whose answer belongs to the first's.
pub(super) type Words = Vec<String>;

/// Puts a command together.
pub(super) fn words(words: &[&str]) -> Words {
    words.iter().map(|w| (*w).to_owned()).collect()
}

impl Virsh {
    /// The libvirt at `uri`. ssh must not ask for passwords: nobody would see it.
    pub(super) fn new(uri: &str) -> Self {
        let scheme = uri.split_once("://").map_or("", |(scheme, _)| scheme);
        let quiet = if !scheme.ends_with("+ssh") || uri.contains("no_tty=") {
            ""
        } else if uri.contains('?') {
            "&no_tty=1"
        } else {
            "?no_tty=1"
        };
        Self { uri: format!("{uri}{quiet}") }
    }

    fn tool(&self) -> Tool {
        Tool::new("virsh").env("LC_ALL", "C").args(KEEPALIVE).args(["--connect", &self.uri])
    }

    /// Runs one command.
    pub(super) fn run(&self, command: &[&str]) -> anyhow::Result<()> {
        Ok(self.tool().args(command).run()?)
    }

    /// Runs one command and returns what it printed.
    pub(super) fn read(&self, command: &[&str]) -> anyhow::Result<String> {
        Ok(self.tool().args(command).read()?)
    }

    /// Whether one command succeeds.
    pub(super) fn succeeds(&self, command: &[&str]) -> anyhow::Result<bool> {
        Ok(self.tool().args(command).succeeds()?)
    }

    /// Runs one command that reads `input` from the file `/dev/stdin`.
    pub(super) fn run_with(&self, command: &[&str], input: &str) -> anyhow::Result<()> {
        Ok(self.tool().args(command).stdin_bytes(input).run()?)
    }

    /// Runs commands that do not depend on each other and returns what each printed; each must print something, as all do that ask for
    /// tables or XML and all that change something. One that fails is run again alone, which tells why.
    pub(super) fn batch(&self, commands: &[Words]) -> anyhow::Result<Vec<String>> {
        let mut answers = Vec::with_capacity(commands.len());
        for some in commands.chunks(AT_ONCE) {
            let lines = some.iter().enumerate().map(|(i, command)| format!("echo {}; {}", mark(i), line(command)));
            // The last word is ours, so that the exit code says only whether virsh ran.
            let script = lines.collect::<Vec<_>>().join("; ") + "; echo " + &mark(some.len());
            let printed = self.tool().arg(&script).read()?;
            for (i, command) in some.iter().enumerate() {
                match answer(&printed, i) {
                    Some(text) if !text.trim().is_empty() => answers.push(text.to_owned()),
                    Some(_) | None => {
                        let again = self.read(&command.iter().map(String::as_str).collect::<Vec<_>>())?;
                        if again.trim().is_empty() {
                            bail!("`virsh {}` says nothing", line(command));
                        }
                        answers.push(again);
                    }
                }
            }
        }
        Ok(answers)
    }

    /// Fills a volume with what `feed` writes.
    pub(super) fn upload(
        &self,
        pool: &str,
        volume: &str,
        feed: impl FnOnce(&mut io::PipeWriter) -> anyhow::Result<()> + Send,
    ) -> anyhow::Result<()> {
        let (reader, mut writer) = io::pipe().context("making a pipe")?;
        let tool = self.tool().args(["vol-upload", "--pool", pool, "--vol", volume, "--file", "/dev/stdin"]);
        let tool = tool.stdin_pipe(reader);
        std::thread::scope(|scope| {
            let feeding = scope.spawn(move || feed(&mut writer));
            let ran = tool.run();
            let fed = feeding.join().expect("what feeds an upload does not panic");
            // When virsh stops reading, both fail, and virsh knows why.
            ran?;
            fed
        })
    }

    /// Hands the bytes of a volume to `take`, until their end.
    pub(super) fn download<T: Send>(
        &self,
        pool: &str,
        volume: &str,
        take: impl FnOnce(io::PipeReader) -> io::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let (reader, writer) = io::pipe().context("making a pipe")?;
        // Else virsh ends with a newline, as after every command.
        let tool =
            self.tool().arg("--quiet").args(["vol-download", "--pool", pool, "--vol", volume, "--file", "/dev/stdout"]);
        let tool = tool.stdout_pipe(writer);
        std::thread::scope(|scope| {
            let taking = scope.spawn(move || take(reader));
            tool.run()?;
            let taken = taking.join().expect("what takes a download does not panic");
            taken.with_context(|| format!("reading the volume `{volume}`"))
        })
    }

    /// Digest and length of a volume's bytes, read over the wire.
    pub(super) fn digest(&self, pool: &str, volume: &str) -> anyhow::Result<(Sha256Digest, u64)> {
        self.download(pool, volume, digesting::digest_of)
    }
}

fn mark(i: usize) -> String {
    format!("@kiln-{i}@")
}

/// A command as virsh reads it: quotes and backslashes mean to it what they mean to a shell.
fn line(command: &[String]) -> String {
    command.iter().map(|w| if w == ";" { w.clone() } else { shell_quote(w) }).collect::<Vec<_>>().join(" ")
}

fn answer(printed: &str, i: usize) -> Option<&str> {
    let (_, after) = printed.split_once(&mark(i))?;
    after.split_once(&mark(i + 1)).map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_is_never_left_to_ask() {
        let uri = |text| Virsh::new(text).uri;
        assert_eq!(uri("qemu+ssh://root@pve1/system"), "qemu+ssh://root@pve1/system?no_tty=1");
        assert_eq!(uri("qemu+ssh://pve1/system?keyfile=/k"), "qemu+ssh://pve1/system?keyfile=/k&no_tty=1");
        assert_eq!(uri("qemu+ssh://pve1/system?no_tty=0"), "qemu+ssh://pve1/system?no_tty=0");
        assert_eq!(uri("qemu+unix:///system?socket=/s"), "qemu+unix:///system?socket=/s");
        assert_eq!(uri("qemu:///system"), "qemu:///system");
    }

    #[test]
    fn answers_are_parted_by_their_marks() {
        let printed = "@kiln-0@\n a\n\n@kiln-1@\n\n@kiln-2@\nb\n@kiln-3@\n";
        assert_eq!(answer(printed, 0), Some("\n a\n\n"));
        assert_eq!(answer(printed, 1), Some("\n\n"));
        assert_eq!(answer(printed, 2), Some("\nb\n"));
        assert_eq!(answer(printed, 3), None);
    }
}
