//! Putting the image's files into a copy of the base's root file system, by debugfs: no mount, and only what changes is written.
#![expect(
    clippy::disallowed_methods,
    reason = "lays out the files that debugfs copies, and reads what it complained of"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::compose::{Selection, select};
use super::entry::Content;
use super::{DiskSpec, ListChanged, archive, gpt::Extent};
use crate::tool::Tool;

/// A root file system on a disk, to be completed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inject<'a> {
    /// The disk, and what goes on it.
    pub spec: &'a DiskSpec<'a>,
    /// Where on the disk.
    pub at: Extent,
}

impl Inject<'_> {
    /// A directory beside the disk for the script and for files that are not on the build host as files.
    fn scratch(&self) -> PathBuf {
        self.spec.raw.with_extension("inject")
    }

    /// The debugfs that runs the script.
    pub(super) fn tool(&self) -> Tool {
        let mut device = self.spec.raw.as_os_str().to_owned();
        device.push(format!("?offset={}", self.at.start));
        self.spec
            .tools
            .tool("usr/sbin/debugfs")
            .args(["-w", "-f"])
            .arg(self.scratch().join("script"))
            .arg(device)
            .env("SOURCE_DATE_EPOCH", self.spec.epoch.to_string())
            .env("E2FSPROGS_FAKE_TIME", self.spec.epoch.to_string())
    }

    /// Lays out what puts the spec's entries over what was made of its base and of those `below`. The disk is not touched.
    ///
    /// # Errors
    /// [`ListChanged`] when the base does not list what it should; [`super::compose::ComposeError`]; names debugfs cannot take.
    pub(super) fn lay_out(&self) -> anyhow::Result<()> {
        let spec = self.spec;
        let (_, members) = archive::open(spec.base_tar).map_err(|error| match spec.listed {
            Some(_) => error.context(ListChanged),
            None => error,
        })?;
        if spec.listed.is_some_and(|listed| listed != archive::list_digest(&members)) {
            return Err(ListChanged.into());
        }
        let selection = select(&members, spec.entries)?.without(&select(&members, spec.below)?);
        let scratch = self.scratch();
        fs_err::create_dir(&scratch)?;
        let mut count = 0;
        let script = script(&selection, |bytes| {
            count += 1;
            let path = scratch.join(count.to_string());
            fs_err::write(&path, bytes)?;
            Ok(path)
        })?;
        Ok(fs_err::write(scratch.join("script"), script)?)
    }

    /// Does what [`Inject::lay_out`] laid out.
    ///
    /// # Errors
    /// Whatever debugfs complains of, such as a full file system.
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let scratch = self.scratch();
        let complaints = scratch.join("complaints");
        self.tool().stdout_file(self.spec.log).log(&complaints).run()?;
        // debugfs ends with 0 whatever happened; it only greets and complains on its standard error.
        let text = fs_err::read_to_string(&complaints)?;
        if let Some(complaint) = text.lines().find(|line| !line.starts_with("debugfs 1.") && !line.trim().is_empty()) {
            bail!(
                "putting the image's files into the root: debugfs says: {complaint}\n\
                 hint: if it is full, enlarge root_mib under [disk] in the image definition, or have more removed under [customize]; what was asked of debugfs is in `{}`",
                scratch.join("script").display()
            );
        }
        fs_err::remove_dir_all(&scratch).context("removing what was copied into the root")
    }
}

/// The requests: away with what is replaced, the deepest first, then everything new, parents first.
fn script(selection: &Selection<'_>, mut keep: impl FnMut(&[u8]) -> anyhow::Result<PathBuf>) -> anyhow::Result<String> {
    let mut script = String::new();
    let mut ask = |words: &[&str]| -> anyhow::Result<()> {
        let (verb, rest) = words.split_first().context("a request has a verb")?;
        script.push_str(verb);
        for word in rest {
            if word.contains(['"', '\n']) {
                bail!(
                    "`{}` has a quotation mark or a line break in it, which debugfs cannot take",
                    word.escape_debug()
                );
            }
            write!(script, " \"{word}\"")?;
        }
        script.push('\n');
        Ok(())
    };
    // libext2fs adds up what it writes, which depends on how the copied files lie on the build host's disk; at zero it does not count.
    ask(&["set_super_value", "kbytes_written", "0"])?;
    for member in selection.replaced.iter().rev() {
        ask(&[if member.kind == b'5' { "rmdir" } else { "rm" }, &member.path])?;
    }
    for (path, entry) in &selection.added {
        let mode = entry.map_or(0o755, |e| e.mode);
        let kind = match entry.map(|e| &e.content) {
            None | Some(Content::Directory) => {
                ask(&["mkdir", path])?;
                0o040_000
            }
            Some(Content::Symlink(target)) => {
                ask(&["symlink", path, target])?;
                continue;
            }
            Some(Content::Bytes(bytes)) => {
                ask(&["write", &text(&keep(bytes)?)?, path])?;
                0o100_000
            }
            Some(Content::File(from)) => {
                ask(&["write", &text(from)?, path])?;
                0o100_000
            }
        };
        // `write` takes the mode of the file it copies; a check-out's mode must not matter.
        ask(&["sif", path, "mode", &format!("0{:o}", kind | mode)])?;
        for (field, value) in [("uid", entry.map_or(0, |e| e.uid)), ("gid", entry.map_or(0, |e| e.gid))] {
            if value != 0 {
                ask(&["sif", path, field, &value.to_string()])?;
            }
        }
    }
    Ok(script)
}

fn text(path: &Path) -> anyhow::Result<String> {
    path.to_str().map(ToOwned::to_owned).with_context(|| format!("`{}` is not UTF-8", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::archive::Member;
    use crate::disk::{ToolTree, TreeEntry};
    use kiln_firstboot::digest::Sha256Digest;

    #[test]
    fn replaces_the_deepest_first_and_adds_parents_first() {
        let member =
            |path: &str, kind| Member { path: path.into(), kind, link: String::new(), bytes: 0..512, data: 512..512 };
        let members =
            [member("etc", b'5'), member("etc/old", b'5'), member("etc/old/x", b'0'), member("etc/fstab", b'0')];
        let entries = [
            TreeEntry { path: "etc/old".into(), mode: 0o777, uid: 0, gid: 0, content: Content::Symlink("new".into()) },
            TreeEntry { uid: 7, ..TreeEntry::file("etc/fstab", "#") },
            TreeEntry::program("opt/bin/etcd", "/host/etcd"),
        ];
        let selection = select(&members, &entries).unwrap();
        let script = script(&selection, |_| Ok("/scratch/1".into())).unwrap();
        assert_eq!(
            script,
            "set_super_value \"kbytes_written\" \"0\"\nrm \"etc/fstab\"\nrm \"etc/old/x\"\nrmdir \"etc/old\"\n\
             write \"/scratch/1\" \"etc/fstab\"\nsif \"etc/fstab\" \"mode\" \"0100644\"\nsif \"etc/fstab\" \"uid\" \"7\"\n\
             symlink \"etc/old\" \"new\"\n\
             mkdir \"opt\"\nsif \"opt\" \"mode\" \"040755\"\nmkdir \"opt/bin\"\nsif \"opt/bin\" \"mode\" \"040755\"\n\
             write \"/host/etcd\" \"opt/bin/etcd\"\nsif \"opt/bin/etcd\" \"mode\" \"0100755\"\n"
        );
    }

    #[test]
    fn a_base_that_lists_something_else_is_not_built_upon() {
        let dir = tempfile::tempdir().unwrap();
        let tar = |name: &str, inside: &str| {
            let path = dir.path().join(name);
            let mut builder = tar::Builder::new(std::fs::File::create(&path).unwrap());
            builder.append_data(&mut tar::Header::new_gnu(), inside, std::io::empty()).unwrap();
            builder.finish().unwrap();
            path
        };
        let (base, other) = (tar("base.tar", "etc/a"), tar("other.tar", "etc/b"));
        std::fs::write(dir.path().join("cut.tar"), [b'x'; 512]).unwrap();
        let listed = archive::digest_of_list(&base).unwrap();
        let (tools, key) = (ToolTree::new(dir.path()), Sha256Digest::of(b""));
        let lay_out = |base: &Path, name: &str| {
            let (at, raw) = (Extent { start: 0, length: 0 }, dir.path().join(name));
            let spec = DiskSpec {
                key,
                boot_key: key,
                epoch: 0,
                base_tar: base,
                listed: Some(listed),
                boot_dir: dir.path(),
                cloud: None,
                entries: &[],
                below: &[],
                tools: &tools,
                raw: &raw,
                log: &raw,
            };
            Inject { spec: &spec, at }.lay_out()
        };
        lay_out(&base, "a").unwrap();
        assert!(lay_out(&other, "b").unwrap_err().is::<ListChanged>());
        assert!(lay_out(&dir.path().join("cut.tar"), "c").unwrap_err().is::<ListChanged>());
    }

    #[test]
    fn refuses_names_that_would_end_a_request() {
        let entries = [TreeEntry::file("a\nrm etc", "")];
        let selection = select(&[], &entries).unwrap();
        let error = script(&selection, |_| Ok("/x".into())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`a\\nrm etc` has a quotation mark or a line break in it, which debugfs cannot take"
        );
    }
}
