//! The lab's two dnsmasq processes: one hands out addresses, one answers DNS, so that DNS can fail alone.
#![expect(clippy::disallowed_methods, reason = "an edge: writes the configuration, waits for the port")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use camino::{Utf8Path, Utf8PathBuf};

use super::host::Host;

/// How long dnsmasq may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// How often its log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One dnsmasq, by what it does.
#[derive(Clone, Debug)]
pub struct Dnsmasq {
    config: Utf8PathBuf,
    log: Utf8PathBuf,
    role: &'static str,
}

impl Dnsmasq {
    /// The one that answers DNS.
    pub fn dns(dir: &Utf8Path) -> Self {
        Self { config: dir.join("dns.conf"), log: dir.join("dns.log"), role: "dns" }
    }

    /// The one that hands out addresses.
    pub fn dhcp(dir: &Utf8Path) -> Self {
        Self { config: dir.join("dhcp.conf"), log: dir.join("dhcp.log"), role: "dhcp" }
    }

    /// Makes it run with this configuration; restarts it if it ran with another.
    ///
    /// # Errors
    /// When it does not start; its log says why.
    pub fn ensure(&self, host: &Host, config: &str) -> anyhow::Result<()> {
        let same = self.config.exists() && fs_err::read_to_string(&self.config)? == config;
        if same && self.is_running(host)? {
            return Ok(());
        }
        self.stop(host)?;
        fs_err::write(&self.config, config)?;
        // Its log starts anew: the line that says it is ready must be this one's.
        fs_err::write(&self.log, "")?;
        let running = host
            .daemon(self.role, "dnsmasq")?
            .args(["--keep-in-foreground", "--user=root", "--group=root", "--pid-file"])
            .args([self.argument(), "--log-facility=-".into()])
            .log(&self.log)
            .start()?;
        let began = Instant::now();
        while !fs_err::read_to_string(&self.log)?.contains(": started, version") {
            if running.try_wait()?.is_some() || began.elapsed() > READY_WITHIN {
                bail!("the lab's {} server did not start; its last words: {}", self.role, running.last_words());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Ends it. Does nothing when it does not run.
    ///
    /// # Errors
    /// When it cannot be ended.
    pub fn stop(&self, host: &Host) -> anyhow::Result<()> {
        match host.running("dnsmasq", &[&self.argument()])? {
            Some(process) => process.kill().with_context(|| format!("stopping the lab's {} server", self.role)),
            None => Ok(()),
        }
    }

    /// Whether it runs.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn is_running(&self, host: &Host) -> anyhow::Result<bool> {
        Ok(host.running("dnsmasq", &[&self.argument()])?.is_some())
    }

    fn argument(&self) -> String {
        format!("--conf-file={}", self.config)
    }
}
