//! Files that are whole or not there at all, whatever happens while they are written.
#![expect(clippy::disallowed_methods, reason = "an edge: creates, syncs and renames files")]

use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;

use camino::Utf8Path;
use fs_err::os::unix::fs::OpenOptionsExt as _;

/// Mode of files and directories only their owner may look into.
pub const PRIVATE_FILE: u32 = 0o600;
/// Mode of files anyone may read.
pub const PUBLIC_FILE: u32 = 0o644;
/// Mode of directories only their owner may enter.
pub const PRIVATE_DIR: u32 = 0o700;

/// Writes `bytes` under another name, syncs them, renames, and syncs the directory: after a crash the file is the old one or the
/// new one. It has `mode` from its first moment, so a secret is never readable by others, not even for an instant.
///
/// # Errors
/// The half-written file is removed again where that can be done.
pub fn write(path: &Utf8Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (dir, name) = path.parent().zip(path.file_name()).ok_or(io::ErrorKind::InvalidFilename)?;
    let partial = dir.join(format!(".{name}.partial"));
    let written = write_partial(&partial, bytes, mode).and_then(|()| fs_err::rename(&partial, path));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs_err::remove_file(&partial);
    }
    written.and_then(|()| sync_dir(dir))
}

fn write_partial(partial: &Utf8Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // One left by a crash may have another mode, which opening it would keep.
    match fs_err::remove_file(partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs_err::OpenOptions::new().write(true).create_new(true).mode(mode).open(partial)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Creates a directory that must not exist yet.
///
/// # Errors
/// When it exists or cannot be created.
pub fn create_dir(path: &Utf8Path, mode: u32) -> io::Result<()> {
    let created = std::fs::DirBuilder::new().mode(mode).create(path);
    created.map_err(|error| io::Error::new(error.kind(), format!("failed to create directory `{path}`: {error}")))
}

/// Makes the names in a directory durable.
///
/// # Errors
/// When the directory cannot be opened or synced.
pub fn sync_dir(path: &Utf8Path) -> io::Result<()> {
    fs_err::File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn replaces_a_file_and_what_a_crash_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("key");
        fs_err::write(path.with_file_name(".key.partial"), "half").unwrap();
        write(&path, b"one", PRIVATE_FILE).unwrap();
        write(&path, b"two", PRIVATE_FILE).unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"two");
        assert_eq!(fs_err::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn leaves_nothing_behind_when_it_fails() {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(dir.path()).unwrap().join("key");
        create_dir(&path, PRIVATE_DIR).unwrap();
        assert_eq!(write(&path, b"one", PRIVATE_FILE).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1);
    }
}
