//! An ext4 file system filled from a tar, without mounting anything.

use std::io::{PipeWriter, pipe};
use std::path::Path;

use anyhow::Context as _;
use kiln_firstboot::digest::Sha256Digest;

use super::gpt::Extent;
use super::ident::Uuid;
use super::tool_tree::ToolTree;
use crate::tool::Tool;

/// A file system to be made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ext4<'a> {
    /// Its label.
    pub label: &'a str,
    /// Its identifiers are those of this key and the label.
    pub key: Sha256Digest,
    /// The file it is made in.
    pub file: &'a Path,
    /// Where in that file.
    pub at: Extent,
    /// The time of everything in it that the tar does not name, Unix seconds.
    pub epoch: u64,
}

impl Ext4<'_> {
    /// Its UUID.
    pub(super) fn uuid(&self) -> Uuid {
        Uuid::derive(self.key, self.label)
    }

    /// The mke2fs that reads the tar from its standard input.
    pub(super) fn tool(&self, tools: &ToolTree) -> Tool {
        let hash_seed = Uuid::derive(self.key, &format!("{} hash seed", self.label));
        // Never written to on a node: no journal, nothing reserved for root or for growing. The inode tables of a sparse file are zero already.
        tools
            .tool("usr/sbin/mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-L", self.label])
            // Grub reads /boot: no feature that a grub of 2.06 does not know.
            .args(["-O", "^has_journal,^resize_inode,^orphan_file,^metadata_csum_seed"])
            .args(["-U", &self.uuid().to_string(), "-d", "-"])
            .args([
                "-E",
                &format!("offset={},hash_seed={hash_seed},root_owner=0:0,lazy_itable_init=1,nodiscard", self.at.start),
            ])
            .arg(self.file)
            .arg(format!("{}k", self.at.length / 1024))
            // Its defaults come with it, not from the host.
            .env("MKE2FS_CONFIG", tools.path("etc/mke2fs.conf"))
            .env("SOURCE_DATE_EPOCH", self.epoch.to_string())
            .env("E2FSPROGS_FAKE_TIME", self.epoch.to_string())
    }

    /// Makes it, filled with the tar that `write` writes.
    ///
    /// # Errors
    /// mke2fs's, which explains a broken pipe, before `write`'s.
    pub(super) fn fill(
        &self,
        tools: &ToolTree,
        log: &Path,
        write: impl FnOnce(PipeWriter) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (reader, writer) = pipe().context("making a pipe to mke2fs")?;
        let tool = self.tool(tools).stdin_pipe(reader).log(log);
        let (made, written) = std::thread::scope(|scope| {
            // When mke2fs ends, `run` drops the reader, so that the writing side ends too; when writing ends, mke2fs sees the end of its input.
            let made = scope.spawn(|| tool.run());
            let written = write(writer);
            (made.join(), written)
        });
        let made = made.map_err(|_| anyhow::anyhow!("the thread that ran mke2fs panicked"))?;
        let full = format!(
            "making file system `{}` of {} MiB\nhint: if it is full, enlarge it under [disk] in the image definition",
            self.label,
            self.at.length >> 20
        );
        match (made, written) {
            // A write that failed for its own reason made mke2fs see a cut archive: then that reason is the news.
            (Err(_), Err(error)) if !is_broken_pipe(&error) => Err(error),
            (Err(error), _) => Err(error).context(full),
            (Ok(()), Err(error)) => Err(error),
            (Ok(()), Ok(())) => Ok(()),
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|e| e.downcast_ref::<std::io::Error>()).any(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
}
