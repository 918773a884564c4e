//! The command line: flags that every command has, and where they say things are.
#![expect(clippy::disallowed_methods, reason = "the one place the environment is read")]

use std::io::Write as _;

use anyhow::Context as _;
use camino::Utf8PathBuf;
use clap::Parser;
use serde::Serialize;

use crate::closure::aws_files;
use crate::closure::remote::{Credentials, S3Access};
use crate::cmd::Command;
use crate::profile::Profile;
use crate::profile_file;

/// Bakes immutable etcd node images and runs clusters of them
///
/// A PROFILE is the path of a .toml file, or the bare name of one in profiles/.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 75 try again later, 78 refused.
#[derive(Debug, Parser)]
#[command(name = "kiln", version, help_expected = true, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// Flags that every command has
    #[command(flatten)]
    pub places: Places,
    /// Say more; twice, say everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// Where things are, and how data is printed.
#[derive(Clone, Debug, clap::Args)]
pub struct Places {
    /// Project directory, with images/ and profiles/
    #[arg(short = 'C', value_name = "DIR", global = true, default_value = ".")]
    pub project: Utf8PathBuf,
    /// Where kiln keeps its own: the store, keys, labs [default: /var/lib/kiln for root, else kiln in XDG_DATA_HOME]
    #[arg(long, value_name = "DIR", global = true, env = "KILN_HOME")]
    home: Option<Utf8PathBuf>,
    /// Store of fetched inputs and built images [default: store in the home]
    #[arg(long, value_name = "DIR", global = true)]
    store: Option<Utf8PathBuf>,
    /// Keys and seeds, a directory per profile [default: pki in the home]
    #[arg(long, value_name = "DIR", global = true)]
    pki: Option<Utf8PathBuf>,
    /// Print data as JSON
    #[arg(long, global = true)]
    pub json: bool,
}

impl Places {
    /// The home.
    ///
    /// # Errors
    /// When neither a flag nor the environment says where it is.
    pub fn home(&self) -> anyhow::Result<Utf8PathBuf> {
        if let Some(home) = &self.home {
            return Ok(home.clone());
        }
        if nix::unistd::geteuid().is_root() {
            return Ok("/var/lib/kiln".into());
        }
        // The XDG specification says to ignore a relative path here.
        let xdg = std::env::var_os("XDG_DATA_HOME").map(std::path::PathBuf::from).filter(|p| p.is_absolute());
        let data = xdg.or_else(|| std::env::home_dir().map(|home| home.join(".local/share")));
        let data = data.context("there is no home directory\n  hint: say where kiln may keep its own: --home DIR")?;
        Ok(Utf8PathBuf::try_from(data).context("reading the path of the home directory")?.join("kiln"))
    }

    /// The store.
    ///
    /// # Errors
    /// As [`Places::home`].
    pub fn store(&self) -> anyhow::Result<Utf8PathBuf> {
        self.store.clone().map_or_else(|| Ok(self.home()?.join("store")), Ok)
    }

    /// Keys and seeds of one profile.
    ///
    /// # Errors
    /// As [`Places::home`].
    pub fn pki(&self, profile: &Profile) -> anyhow::Result<Utf8PathBuf> {
        let all = self.pki.clone().map_or_else(|| Ok(self.home()?.join("pki")), anyhow::Ok)?;
        Ok(all.join(&profile.name))
    }

    /// The key that images are signed with, and those that are trusted.
    ///
    /// # Errors
    /// As [`Places::home`].
    pub fn signing(&self) -> anyhow::Result<Utf8PathBuf> {
        Ok(self.home()?.join("signing"))
    }

    /// How an S3-compatible storage is asked: by the environment and the files that all tools of AWS read, the environment first.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn s3(&self) -> anyhow::Result<S3Access> {
        let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let profile = var("AWS_PROFILE").unwrap_or_else(|| "default".into());
        let mut files = std::collections::BTreeMap::new();
        for (name, file) in [("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")] {
            let usual = || std::env::home_dir().map(|home| home.join(".aws").join(file));
            let Some(path) = var(name).map(std::path::PathBuf::from).or_else(usual) else { continue };
            match fs_err::read_to_string(&path) {
                Ok(text) => files.extend(aws_files::section(&text, &profile)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        let given = |variables: &[&str], setting: &str| {
            variables.iter().find_map(|name| var(name)).or_else(|| files.get(setting).cloned())
        };
        let id = given(&["AWS_ACCESS_KEY_ID"], "aws_access_key_id");
        let secret = given(&["AWS_SECRET_ACCESS_KEY"], "aws_secret_access_key");
        let credentials = id.zip(secret).map(|(id, secret)| Credentials {
            id,
            secret: secret.into(),
            token: given(&["AWS_SESSION_TOKEN"], "aws_session_token").map(Into::into),
        });
        Ok(S3Access {
            endpoint: given(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"], "endpoint_url"),
            region: given(&["AWS_REGION", "AWS_DEFAULT_REGION"], "region"),
            credentials,
        })
    }

    /// State of the lab of one profile.
    ///
    /// # Errors
    /// As [`Places::home`].
    pub fn lab(&self, profile: &Profile) -> anyhow::Result<Utf8PathBuf> {
        Ok(self.home()?.join("lab").join(&profile.name))
    }

    /// Reads and checks the profile that PROFILE names.
    ///
    /// # Errors
    /// As [`profile_file::read`].
    pub fn profile(&self, profile: &str) -> anyhow::Result<Profile> {
        profile_file::read(&self.project, profile)
    }

    /// Prints what a command has to tell: `value` as JSON if that was asked for, else `text`.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub fn print(&self, value: &impl Serialize, text: &str) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, value)
                .map_err(std::io::Error::from)
                .context("writing the output")?;
            writeln!(out).context("writing the output")
        } else {
            write!(out, "{text}{}", if text.is_empty() || text.ends_with('\n') { "" } else { "\n" })
                .context("writing the output")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn every_flag_has_help_and_no_two_clash() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            for sub in command.get_subcommands() {
                check(sub, &path);
            }
            if !command.has_subcommands() {
                let help = command.get_long_about().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("Example"), "`{path}` has no example in its long help");
            }
        }
        Cli::command().get_subcommands().for_each(|sub| check(sub, "kiln"));
    }

    #[test]
    fn flags_may_follow_the_command() {
        let cli = Cli::try_parse_from(["kiln", "pki", "init", "lab", "--json", "--home", "/h", "-C", "/p"]).unwrap();
        assert_eq!((cli.places.project.as_str(), cli.places.json), ("/p", true));
        assert_eq!(cli.places.store().unwrap(), "/h/store");
    }
}
