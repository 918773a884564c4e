//! Running a command inside a node.
#![expect(clippy::disallowed_methods, reason = "an edge: waits for a command in a guest, becomes another program")]

use std::convert::Infallible;
use std::ffi::CString;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::host::Host;
use super::machine::Machine;
use super::record::Driver;
use super::{Live, Run, vm};
use crate::base64;
use crate::exit::Refusal;
use crate::tool::{self, Tool, ToolError};

/// Where a node's programs are; the operator's own `PATH` says nothing about a node.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How often the guest agent is asked whether the command has ended; it has no way to say so by itself.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// What a command in a guest left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code; 128 and the signal when a signal ended it.
    pub code: i64,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
}

/// Becomes a command inside a container node: terminal, signals and exit code are its own.
///
/// # Errors
/// When the node is off or `nsenter` cannot be started; it does not return otherwise.
pub fn become_in_container(live: &Live<'_>, machine: Machine<'_>, command: &[String]) -> anyhow::Result<Infallible> {
    let init = live.with_parts(machine, |run| match run {
        Run::Container(container) => container.init(&live.host),
        Run::Vm(_) | Run::Hosted(_) => Ok(None),
    })??;
    let Some(init) = init else {
        let hint = format!("kiln lab start {} {}", live.lab.profile.name, machine.name());
        return Err(Refusal::new(format!("node `{}` is off", machine.name()), hint).into());
    };
    // `--wd=/` would be the / of the caller, which is not there inside; alone it is where the first process of the node is.
    let enter = ["--target".to_owned(), init.pid.to_string(), "--all".into(), "--wd".into(), "--".into()];
    become_program(enter.into_iter().chain(["/usr/bin/env".into(), PATH.into()]).chain(command.iter().cloned()))
}

/// Becomes a command on the lab host.
///
/// # Errors
/// When `nsenter` cannot be started; it does not return otherwise.
pub fn become_on_host(host: &Host, command: &[String]) -> anyhow::Result<Infallible> {
    become_program(host.enter().into_iter().chain(command.iter().cloned()))
}

/// Becomes a command of the machine that sees the lab's network.
///
/// # Errors
/// As [`become_on_host`].
pub fn become_on_network(host: &Host, command: &[String]) -> anyhow::Result<Infallible> {
    become_program(host.enter_network().into_iter().chain(command.iter().cloned()))
}

fn become_program(arguments: impl Iterator<Item = String>) -> anyhow::Result<Infallible> {
    let program = tool::find("nsenter").ok_or_else(|| ToolError::Missing { program: "nsenter".into() })?;
    let text = |s: String| CString::new(s).context("a command line cannot contain a zero byte");
    let argv = std::iter::once(Ok(c"nsenter".to_owned())).chain(arguments.map(text)).collect::<Result<Vec<_>, _>>()?;
    let program = text(program.to_string_lossy().into_owned())?;
    nix::unistd::execv(&program, &argv).context("starting `nsenter`")
}

/// Runs a command in a VM by its guest agent and waits for its end.
///
/// # Errors
/// When the agent does not answer; a command that fails is an outcome.
pub fn run_in_vm(live: &Live<'_>, machine: Machine<'_>, command: &[String]) -> anyhow::Result<Outcome> {
    let name = machine.name();
    let ask = |virsh: Tool, domain: &str, command: &serde_json::Value| {
        let text = virsh
            .args(["qemu-agent-command", domain, &command.to_string(), "--timeout", "10"])
            .read()
            .with_context(|| format!("asking the guest agent of `{name}`"))?;
        let answer: serde_json::Value = serde_json::from_str(&text).context("reading the guest agent's answer")?;
        Ok(answer["return"].clone())
    };
    live.with_parts(machine, |run| match run {
        Run::Vm(_) => run_by_agent(|c| ask(vm::virsh(&live.host)?, &name, c), command),
        Run::Hosted(hosted) => run_by_agent(|c| ask(hosted.virsh()?, hosted.uuid, c), command),
        Run::Container(_) => bail!("`{name}` is no VM"),
    })?
}

fn run_by_agent(
    ask: impl Fn(&serde_json::Value) -> anyhow::Result<serde_json::Value>,
    command: &[String],
) -> anyhow::Result<Outcome> {
    let Some((program, arguments)) = command.split_first() else { bail!("there is no command to run") };
    let start = json!({ "execute": "guest-exec",
        "arguments": { "path": program, "arg": arguments, "capture-output": true, "env": [PATH] } });
    let pid = ask(&start)?["pid"].clone();
    loop {
        let answer = ask(&json!({ "execute": "guest-exec-status", "arguments": { "pid": pid } }))?;
        if answer["exited"] == true {
            let code = answer["exitcode"].as_i64();
            let signal = answer["signal"].as_i64().map(|s| 128 + s);
            let data = |key: &str| base64::decode(answer[key].as_str().unwrap_or_default());
            return Ok(Outcome {
                code: code.or(signal).unwrap_or(-1),
                stdout: data("out-data").context("reading its output")?,
                stderr: data("err-data").context("reading its output")?,
            });
        }
        std::thread::sleep(ASK_EVERY);
    }
}

impl Live<'_> {
    /// The driver that runs the nodes.
    pub fn driver(&self) -> Driver {
        self.record.driver
    }
}
