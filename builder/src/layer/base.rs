//! The base: exactly the pinned packages, installed offline by mmdebstrap into a tar.
//!
//! mmdebstrap gets a flat archive of its own with nothing in it but the pinned files, so apt has no choice. As root it works directly, else
//! in a user namespace; both give the same bytes.
#![expect(clippy::disallowed_methods, reason = "writes the private archive")]

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use kiln_firstboot::digest::Sha256Digest;

use crate::disk::{self, TreeEntry};
use crate::fetch::{self, Input};
use crate::lock::LockedPackage;
use crate::store::Store;
use crate::tool::{Tool, shell_quote};

/// The tar in the entry.
pub const TAR: &str = "rootfs.tar";

/// What is left behind by installing, and differs from run to run or names this machine: lists and caches, logs, seeds, the host's names.
/// `/etc/machine-id` stays as an empty file: without it the system would count as booted for the first time and ask questions.
pub(super) const CLEAN: &str = r#"set -e; cd "$1"
rm -rf etc/apt var/lib/apt var/cache/apt var/log/apt etc/hostname var/lib/systemd/random-seed var/lib/dbus/machine-id etc/ssh/ssh_host_*
rm -f var/cache/debconf/*-old var/lib/dpkg/*-old var/cache/ldconfig/aux-cache boot/*.old etc/.pwd.lock etc/passwd- etc/group- etc/shadow- etc/gshadow-
find var/log -type f -delete
: > etc/machine-id"#;

/// One run of mmdebstrap.
#[derive(Clone, Debug)]
pub struct BaseSpec<'a> {
    /// Names of all packages, sorted.
    pub names: Vec<&'a str>,
    /// Paths dpkg leaves out.
    pub exclude: &'a [String],
    /// Paths dpkg keeps all the same.
    pub include: &'a [String],
    /// The time of everything, Unix seconds.
    pub epoch: i64,
    /// Where the private archive is and the tree grows; it must be within reach of whoever mmdebstrap becomes.
    pub work: PathBuf,
    /// The tar to make.
    pub tar: PathBuf,
    /// Whether this process is root.
    pub root: bool,
}

impl BaseSpec<'_> {
    /// The private archive.
    fn repository(&self) -> PathBuf {
        self.work.join("repository")
    }

    /// Files put in before packages are configured, as a tar.
    fn files(&self) -> PathBuf {
        self.work.join("files.tar")
    }

    /// Where mmdebstrap keeps the tree while it grows.
    fn temp(&self) -> PathBuf {
        self.work.join("tmp")
    }

    /// The command.
    pub fn tool(&self) -> Tool {
        let path = |path: &Path| shell_quote(&path.to_string_lossy());
        let dpkg = |option: &str, patterns: &[String]| {
            patterns.iter().map(|p| format!("--dpkgopt={option}={p}")).collect::<Vec<_>>()
        };
        Tool::new("mmdebstrap")
            .env("SOURCE_DATE_EPOCH", self.epoch.to_string())
            .env("TMPDIR", self.temp())
            .env("LC_ALL", "C.UTF-8")
            .arg(if self.root { "--mode=root" } else { "--mode=unshare" })
            .args(["--variant=essential", "--architectures=amd64", "--format=tar"])
            .arg(format!("--include={}", self.names.join(",")))
            .args(dpkg("path-exclude", self.exclude))
            .args(dpkg("path-include", self.include))
            .arg(format!("--extract-hook=tar-in {} /", path(&self.files())))
            // Ours removes more, and must run while the tree is still there to be changed.
            .args(["--skip=cleanup/apt,cleanup/mmdebstrap", &format!("--customize-hook={CLEAN}")])
            .arg("")
            .arg(&self.tar)
            .arg(format!("deb [trusted=yes] copy://{} ./", self.repository().display()))
    }
}

/// Makes the base in `dir`.
///
/// # Errors
/// When a package cannot be fetched, or mmdebstrap fails; its output is in `log`.
pub fn make(
    store: &Store,
    packages: &[(LockedPackage, Input)],
    files: &[TreeEntry],
    spec: &BaseSpec<'_>,
    log: &Path,
) -> Result<Vec<String>> {
    let inputs: Vec<Input> = packages.iter().map(|(_, input)| input.clone()).collect();
    let fetched = fetch::ensure(store, &inputs)?;
    if fetched.count > 0 {
        log::info!("base: fetched {} packages, {} MB", fetched.count, fetched.bytes.div_ceil(1_000_000));
    }
    let (repository, temp) = (spec.repository(), spec.temp());
    fs_err::create_dir(&repository)?;
    fs_err::create_dir(&temp)?;
    // In a user namespace mmdebstrap is somebody else, who must be able to make its directory here.
    if !spec.root {
        fs_err::set_permissions(&temp, PermissionsExt::from_mode(0o1777))?;
    }
    write_repository(store, packages, &repository)?;
    // An archive without members to put the files on top of.
    let nothing = temp.join("nothing.tar");
    fs_err::write(&nothing, [0; 1024])?;
    let epoch = u64::try_from(spec.epoch).context("the lock's time is before 1970")?;
    disk::compose(&nothing, files, epoch, fs_err::File::create(spec.files())?.into_file())?;
    spec.tool().log(log).run().context("installing the base")?;
    fs_err::remove_dir_all(&repository)?;
    fs_err::remove_dir_all(&temp)?;
    fs_err::remove_file(spec.files())?;
    Ok(Vec::new())
}

/// A directory to work in that is not `dir`, if an ordinary user's `dir` is in a private place: in its user namespace mmdebstrap is nobody who
/// may enter it.
///
/// # Errors
/// When a directory cannot be looked at or made.
pub fn work_elsewhere(dir: &Path, root: bool) -> Result<Option<tempfile::TempDir>> {
    let absolute = fs_err::canonicalize(dir)?;
    let mut open = true;
    for ancestor in absolute.ancestors() {
        open &= fs_err::metadata(ancestor)?.permissions().mode() & 0o001 != 0;
    }
    if root || open {
        return Ok(None);
    }
    // Not /tmp: a base needs half a GB, and /tmp is often memory.
    let work = tempfile::Builder::new()
        .prefix("kiln-base-")
        .tempdir_in("/var/tmp")
        .context("making a directory in /var/tmp")?;
    fs_err::set_permissions(work.path(), PermissionsExt::from_mode(0o755))?;
    Ok(Some(work))
}

/// A flat archive: the packages, hard-linked, a `Packages` with their own control data, and a `Release` over it.
fn write_repository(store: &Store, packages: &[(LockedPackage, Input)], repository: &Path) -> Result<()> {
    let mut index = String::new();
    for (package, input) in packages {
        let blob = store.blob_path(&package.sha256);
        let name = format!("{}_{}.deb", package.name, package.sha256);
        let place = repository.join(&name);
        // Another file system, or a directory out of reach, takes a copy.
        if fs_err::hard_link(&blob, &place).is_err() {
            fs_err::copy(&blob, &place)?;
        }
        let control = Tool::new("dpkg-deb")
            .arg("--field")
            .arg(&blob)
            .read()
            .with_context(|| format!("reading `{}`", input.what))?;
        // Writing to a string cannot fail.
        let _ = write!(
            index,
            "{}\nFilename: ./{name}\nSize: {}\nSHA256: {}\n\n",
            control.trim_end(),
            package.bytes,
            package.sha256
        );
    }
    let release = format!(
        "Origin: kiln\nSuite: kiln\nCodename: kiln\nArchitectures: amd64\nSHA256:\n {} {} Packages\n",
        Sha256Digest::of(index.as_bytes()),
        index.len()
    );
    fs_err::write(repository.join("Packages"), index)?;
    fs_err::write(repository.join("Release"), release)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_names_every_package_and_nothing_of_the_host() {
        let spec = BaseSpec {
            names: vec!["systemd", "udev"],
            exclude: &["/usr/share/man/*".to_owned()],
            include: &["/usr/share/doc/*/copyright".to_owned()],
            epoch: 1_700_000_000,
            work: "/store/tmp/w".into(),
            tar: "/store/tmp/e/rootfs.tar".into(),
            root: false,
        };
        let clean = shell_quote(&format!("--customize-hook={CLEAN}"));
        assert_eq!(
            spec.tool().line(),
            format!(
                "SOURCE_DATE_EPOCH=1700000000 TMPDIR=/store/tmp/w/tmp LC_ALL=C.UTF-8 mmdebstrap --mode=unshare --variant=essential \
                 --architectures=amd64 --format=tar --include=systemd,udev '--dpkgopt=path-exclude=/usr/share/man/*' \
                 '--dpkgopt=path-include=/usr/share/doc/*/copyright' '--extract-hook=tar-in /store/tmp/w/files.tar /' \
                 --skip=cleanup/apt,cleanup/mmdebstrap {clean} '' /store/tmp/e/rootfs.tar \
                 'deb [trusted=yes] copy:///store/tmp/w/repository ./'"
            )
        );
    }

    #[test]
    fn a_private_place_is_not_worked_in_without_root() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let work = work_elsewhere(dir.path(), false).unwrap().unwrap();
        assert!(work.path().starts_with("/var/tmp"));
        assert_eq!(fs_err::metadata(work.path()).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(work_elsewhere(dir.path(), true).unwrap().is_none());
    }
}
